/// Bytes from strangers: mutated, cut, replayed, forged, plain garbage. All of
/// it is counted and nothing else happens.

import Bytes
import Crypto
import Testing
import WireGuard

/// A world with a finished session, and the first packet each way captured.
private func session(seed: UInt64, cipher: AEADCipher = .chaCha20Poly1305) -> WireWorld {
  let world = WireWorld(seed: seed, cipher: cipher)
  world.onReady = { world.send($0, [0x02]) }
  world.initiate(world.a)
  world.run(for: .milliseconds(200))
  return world
}

/// With a mac1 as anybody could compute it.
private func remac(_ bytes: [UInt8], for publicKey: [UInt8]) -> [UInt8] {
  let body = Array(bytes[..<(bytes.count - 32)])
  return body + BLAKE2s.mac(key: MessageMacs.mac1Key(publicKey), body)
    + [UInt8](repeating: 0, count: 16)
}

@Test func mutatedTransportPacketsAreDroppedAtEveryByte() throws {
  for cipher in AEADCipher.allCases {
    let world = session(seed: 20, cipher: cipher)
    let packet = try #require(world.sealed(world.a, (0..<40).map { UInt8($0) }))
    for i in packet.indices {
      for bit in [0x01, 0x80] as [UInt8] {
        var bytes = packet
        bytes[i] ^= bit
        let receipt = world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: bytes))
        #expect(receipt.dropReason != nil, "byte \(i)")
      }
    }
    for count in 0..<packet.count {
      let receipt = world.deliver(
        WirePacket(from: 0, to: 1, lane: 0, bytes: Array(packet[..<count])))
      #expect(receipt.dropReason != nil, "cut at \(count)")
    }
    #expect(world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: packet)).dropReason == nil)
    #expect(
      world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: packet)).dropReason == .replayed)
  }
}

@Test func mutatedHandshakesAreDroppedAtEveryByte() throws {
  let world = WireWorld(seed: 21)
  world.held = []
  world.initiate(world.a)
  let initiation = try #require(world.held?.first)
  for count in 0..<initiation.bytes.count {
    var cut = initiation
    cut.bytes.removeLast(initiation.bytes.count - count)
    #expect(world.deliver(cut).dropReason != nil, "cut at \(count)")
  }
  // mac2 (the last 16 bytes) means nothing while there is no load.
  for i in 0..<132 {
    var bad = initiation
    bad.bytes[i] ^= 0x40
    #expect(world.deliver(bad).dropReason != nil, "byte \(i)")
  }
  // Even with a correct mac1. The sender index (4…7) is not authenticated in
  // WireGuard; everything behind it is.
  for i in 8..<116 {
    var bad = initiation
    bad.bytes[i] ^= 0x40
    bad.bytes = remac(bad.bytes, for: world.b.keys.publicKey)
    #expect(world.deliver(bad).dropReason == .notAuthentic, "byte \(i)")
  }
  #expect(world.held?.count == 1)
  world.held = []
  world.run(for: .seconds(1))
  world.held = []
  guard case .handshake(_, .answered) = world.deliver(initiation) else {
    Issue.record("the original was refused")
    return
  }
  let response = try #require(world.held?.first)
  for count in 0..<response.bytes.count {
    var cut = response
    cut.bytes.removeLast(response.bytes.count - count)
    #expect(world.deliver(cut).dropReason != nil, "cut at \(count)")
  }
  for i in 0..<76 {
    var bad = response
    bad.bytes[i] ^= 0x40
    #expect(world.deliver(bad).dropReason != nil, "byte \(i)")
  }
  for i in 8..<60 {
    var bad = response
    bad.bytes[i] ^= 0x40
    bad.bytes = remac(bad.bytes, for: world.a.keys.publicKey)
    #expect(world.deliver(bad).dropReason != nil, "byte \(i)")
  }
  guard case .handshake(_, .completed) = world.deliver(response) else {
    Issue.record("the response was refused")
    return
  }
  #expect(world.deliver(response).dropReason == .duplicateResponse)
}

@Test func aHundredThousandPiecesOfGarbageAreOnlyCounted() {
  let world = session(seed: 22)
  var random = SeededRandom(testSeed: 77)
  let node = world.b
  let before = node.keeper.drops.total
  let real = world.sealed(world.a, [1, 2, 3]) ?? []
  let sizes = [0, 1, 15, 31, 32, 48, 64, 92, 96, 148, 200]
  let carrier = world.carrier(from: 0, lane: 0)
  var total: UInt64 = 0
  for round in 0..<100_000 as Range<UInt64> {
    let choice = random.next()
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: sizes[Int(choice % 11)])
    if bytes.count >= 4 { bytes[0...3] = [UInt8(choice >> 8 % 6), 0, 0, 0] }
    // A third of them with an index that exists.
    if bytes.count >= 16, choice >> 16 % 3 == 0 { bytes[4...7] = real[4...7] }
    total += 1
    let receipt = world.inject(&bytes, into: node, from: carrier)
    guard receipt.dropReason != nil else {
      Issue.record("round \(round): \(receipt)")
      return
    }
    node.receipts.removeAll()
  }
  #expect(node.keeper.drops.total - before == total)
  #expect(node.keeper.pollTransmit(now: world.now, wallClock: 0) == nil)
  #expect(node.keeper.pollEvent() == nil)
  #expect(world.conversationWorks())
}

@Test func replayedPacketsNeverOpenTwiceInAnyOrder() throws {
  for wide in [false, true] {
    let world = session(seed: 23)
    if wide {
      world.a.keeper.widenWindow(world.a.peer)
      world.b.keeper.widenWindow(world.b.peer)
    }
    var random = SeededRandom(testSeed: 5)
    var packets: [[UInt8]] = []
    for i in 0..<300 { packets.append(try #require(world.sealed(world.a, [1, UInt8(i & 255)]))) }
    packets.shuffle(using: &random)
    packets += packets.shuffled(using: &random)
    let before = world.b.received.count
    for packet in packets { world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: packet)) }
    #expect(world.b.received.count - before == 300)
    #expect(world.b.keeper.drops[.replayed] == 300)
  }
}

/// The check of the check: with the window out of action the test above would fail.
@Test func withoutTheWindowReplaysWouldOpen() throws {
  let world = session(seed: 24)
  world.b.keeper.acceptsReplaysForTest = true
  let packet = try #require(world.sealed(world.a, [1]))
  for _ in 0..<3 {
    #expect(world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: packet)).dropReason == nil)
  }
}

@Test func latePacketsFitTheWideWindowOnly() throws {
  for wide in [false, true] {
    let world = session(seed: 25)
    if wide { world.b.keeper.widenWindow(world.b.peer) }
    let slow = try #require(world.sealed(world.a, [1]))
    var last: [UInt8] = []
    for _ in 0..<9_000 { last = try #require(world.sealed(world.a, [2])) }
    #expect(world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: last)).dropReason == nil)
    #expect(
      world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: slow)).dropReason
        == (wide ? nil : .replayed))
  }
}

@Test func anOldInitiationMakesUsInitiateSeldom() throws {
  let world = WireWorld(seed: 26)
  world.onReady = { world.send($0, [0x02]) }
  var captured: [[UInt8]] = []
  world.filter = { packet in
    if packet.from == 0, packet.bytes[0] == 1 { captured.append(packet.bytes) }
    return true
  }
  for _ in 0..<3 {
    world.initiate(world.a)
    world.run(for: .seconds(2))
  }
  let before = world.b.keeper.counters(world.b.peer)
  let old = try #require(captured.first)
  for _ in 0..<100 {
    let receipt = world.deliver(WirePacket(from: 0, to: 1, lane: 9, bytes: old))
    #expect(receipt.dropReason == .staleStamp)
    world.run(for: .milliseconds(100))
  }
  let after = world.b.keeper.counters(world.b.peer)
  #expect(after.staleInitiations - before.staleInitiations == 100)
  #expect((1...3).contains(after.initiationsBuilt - before.initiationsBuilt))
  #expect(world.b.events.filter { $0 == .peerStale(world.b.peer) }.count <= 3)
  #expect(world.conversationWorks())
  // The copy of the last but one is told apart from a clock that went back.
  let fresh = WireWorld(seed: 27)
  fresh.onReady = world.onReady
  captured = []
  fresh.filter = world.filter
  fresh.onReady = { fresh.send($0, [0x02]) }
  for _ in 0..<2 {
    fresh.initiate(fresh.a)
    fresh.run(for: .seconds(2))
  }
  let copy = try #require(captured.first)
  #expect(
    fresh.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: copy)).dropReason == .staleRepeat)
}

@Test func noReplyIsLargerThanItsCause() {
  for seed in 0..<30 as Range<UInt64> {
    let world = WireWorld(seed: seed)
    world.link.lossPercent = 20
    world.lanes = 3
    world.onReady = { world.send($0, [0x02]) }
    world.initiate(world.a)
    world.initiate(world.b)
    world.run(for: .seconds(4))
    let replies = world.nodes.flatMap(\.largestReply)
    #expect(!replies.isEmpty)
    for reply in replies { #expect(reply.reply <= reply.cause, "seed \(seed)") }
  }
}

@Test func forgedCookiesAndReflectionsAreDropped() throws {
  let world = WireWorld(seed: 28)
  world.held = []
  world.initiate(world.a)
  let initiation = try #require(world.held?.first)
  // Our own packet sent back to us.
  #expect(
    world.deliver(WirePacket(from: 1, to: 0, lane: 0, bytes: initiation.bytes)).dropReason
      == .badMac1)
  var cookie: [UInt8] = [3, 0, 0, 0] + initiation.bytes[4..<8]
  cookie += [UInt8](repeating: 7, count: 56)
  #expect(
    world.deliver(WirePacket(from: 1, to: 0, lane: 0, bytes: cookie)).dropReason == .badCookie)
  cookie[4] ^= 1
  #expect(
    world.deliver(WirePacket(from: 1, to: 0, lane: 0, bytes: cookie)).dropReason == .unknownIndex)
}
