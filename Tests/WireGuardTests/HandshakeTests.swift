/// Plain handshakes: known bytes, both directions, repeats, parking, psk.

import Bytes
import Crypto
import Testing
import WireGuard

func hexBytes(_ text: String) -> [UInt8] {
  var bytes: [UInt8] = []
  var rest = Substring(text)
  while !rest.isEmpty {
    bytes.append(UInt8(rest.prefix(2), radix: 16)!)
    rest = rest.dropFirst(2)
  }
  return bytes
}

private func vectorKey(_ i: Int) -> KeyPair {
  var secret = (0..<32).map { UInt8(truncatingIfNeeded: i * 17 + $0 * 3) }
  secret[0] &= 248
  secret[31] = secret[31] & 127 | 64
  return KeyPair(secret: secret, publicKey: X25519.publicKey(of: secret))
}

/// The expected bytes were computed by an independent program (Python's hashlib
/// and cryptography) from the whitepaper.
@Test func handshakeMatchesKnownBytes() throws {
  let (initiator, responder) = (vectorKey(1), vectorKey(2))
  let (initiatorEphemeral, responderEphemeral) = (vectorKey(3), vectorKey(4))
  let psk = (0..<32).map { UInt8($0) }
  let shared = try #require(
    X25519.shared(secret: initiator.secret, publicKey: responder.publicKey))
  let near = Handshake.Identity(
    local: initiator, peerPublicKey: responder.publicKey, staticShared: shared, presharedKey: psk)
  let far = Handshake.Identity(
    local: responder, peerPublicKey: initiator.publicKey, staticShared: shared, presharedKey: psk)
  let (message, state) = try #require(
    Handshake.initiate(
      near, ephemeral: initiatorEphemeral, sender: 0x1122_3344,
      stamp: Stamp(unix: 1_700_000_000_123_456_789)))
  let initiation = message.encoded(mac1Key: MessageMacs.mac1Key(responder.publicKey))
  #expect(
    initiation
      == hexBytes(
        "010000004433221125cf9a27ac3ffc63d900dd37038f2553f4a2847d8c7fcdef2009e20d590fa130f9d819014d"
          + "eb1077a59244c89160a939db3fee4a30dbb3cb35c41b17527d01c07b43a948196276f5d82939603a43a321"
          + "39f168448895dcdcd7ae704206902384836abf00c98723569a9460f5c6d7ae467c27f045d61a604a735a7f"
          + "c700000000000000000000000000000000"))
  let parsed = try #require(InitiationMessage(initiation))
  var (publicKey, farState) = try #require(Handshake.readInitiator(parsed, local: responder))
  #expect(publicKey == initiator.publicKey)
  let stamp = try #require(Handshake.readStamp(parsed, far, state: &farState))
  #expect(stamp == Stamp(unix: 1_700_000_000_123_456_789))
  let answer = try #require(
    Handshake.respond(
      to: parsed, far, ephemeral: responderEphemeral, sender: 0x5566_7788, state: &farState))
  let response = answer.encoded(mac1Key: MessageMacs.mac1Key(initiator.publicKey))
  #expect(
    response
      == hexBytes(
        "020000008877665544332211ae36c157e8fbf840bdac6c2a4d32df4c5220b363f8bf9a308c7f388d8f35d02907"
          + "a1038307d9bf02edbe46e6ba18b5255589253ec770d601e95710acbf1886ac00000000000000000000000000000000"
      ))
  let parsedResponse = try #require(ResponseMessage(response))
  let final = try #require(
    Handshake.finish(
      parsedResponse, near, ephemeralSecret: initiatorEphemeral.secret,
      state: state))
  let keys = final.transportKeys
  #expect(keys.0 == hexBytes("ecad51613694d259843803ac5e5d805241e9164cd6f1b858ec2dfb4e2070a50a"))
  #expect(keys.1 == hexBytes("246845fd2ceac622f52f0b8cc3b63f6bb673e8fa601b0b5f45878ac2b6a69b82"))
  #expect(farState.transportKeys == keys)
  let plaintext = Array("hello, martlet".utf8) + [0, 0]
  #expect(
    AEADCipher.chaCha20Poly1305.sealBox(
      key: Handshake.packetKey(keys.0, cipher: .chaCha20Poly1305), counter: 5, plaintext)
      == hexBytes("a46664a4c4c702c36c8d23ccdd32e305bf731bfb11ce8ea76f0fdaf812e967cd"))
  #expect(
    AEADCipher.aes256GCM.sealBox(
      key: Handshake.packetKey(keys.0, cipher: .aes256GCM), counter: 5, plaintext)
      == hexBytes("0eab921cf9b3982553a2688f896c307da4f0da7cffa78d1bd9d034e7f5463f7f"))
}

@Test func oneInitiationGivesASessionInOneRoundTrip() {
  for cipher in AEADCipher.allCases {
    for starter in 0..<2 {
      let world = WireWorld(seed: 7, cipher: cipher)
      let (near, far) = (world.nodes[starter], world.nodes[1 - starter])
      world.onReady = { if $0 === near { world.send(near, [0x45, 1, 2, 3]) } }
      world.initiate(near)
      world.run(for: .milliseconds(41))
      #expect(near.keeper.canSeal(near.peer, now: world.now))
      #expect(!far.keeper.canSeal(far.peer, now: world.now))
      world.run(for: .milliseconds(20))
      #expect(far.keeper.canSeal(far.peer, now: world.now))
      #expect(far.received == [[0x45, 1, 2, 3] + [UInt8](repeating: 0, count: 12)])
      #expect(world.conversationWorks())
      #expect(near.keeper.counters(near.peer).handshakesCompleted == 1)
      #expect(far.keeper.counters(far.peer).handshakesCompleted == 1)
      #expect(near.keeper.drops.total == 0)
      #expect(far.keeper.drops.total == 0)
    }
  }
}

@Test func packetSizesAreHeaderPaddingTag() {
  let world = WireWorld(seed: 1)
  world.initiate(world.a)
  world.run(for: .milliseconds(50))
  for count in 1...70 {
    let packet = world.sealed(world.a, [UInt8](repeating: 9, count: count))
    #expect(packet?.count == 16 + (count + 15) / 16 * 16 + 16)
  }
  for size in 0...200 {
    let fits = SessionKeeper.largestPlaintext(packetSize: size)
    #expect(fits == 0 || 16 + fits + 16 <= size && fits % 16 == 0)
    #expect(size < 48 || 16 + fits + 16 + 16 > size)
  }
}

@Test func writingNothingConsumesNothing() throws {
  let world = WireWorld(seed: 2)
  world.initiate(world.a)
  world.run(for: .milliseconds(50))
  let first = try #require(world.sealed(world.a, [1]))
  let keeper = world.a.keeper
  let peer = world.a.peer
  var memory = [UInt8](repeating: 0, count: 1500)
  let now = world.now
  memory.withUnsafeMutableBytes { buffer in
    var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
    output.writeUInt32(0xdead_beef)
    #expect(keeper.seal(peer, into: &output, now: now) { _ in } == .nothing)
    #expect(output.byteCount == 4)
    var small = OutputRawSpan(
      buffer: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<47]), initializedCount: 0)
    #expect(keeper.seal(peer, into: &small, now: now) { _ in Issue.record("called") } == .nothing)
    // The writer's room is exactly what fits.
    let outcome = keeper.seal(peer, into: &output, now: now) {
      #expect($0.freeCapacity == 1456)
      $0.writeZeros(1456)
    }
    #expect(outcome != .nothing && outcome != .noKeys)
    #expect(output.byteCount == 4 + 16 + 1456 + 16)
  }
  let third = try #require(world.sealed(world.a, [1]))
  #expect(first[8] == 0 && third[8] == 2)
}

@Test func repeatsGoOutInDoublingStepsAndAreAnsweredIdentically() {
  let world = WireWorld(seed: 3)
  var times: [Int64] = []
  var bytes: Set<[UInt8]> = []
  let start = world.now
  world.filter = { packet in
    times.append((world.now - start).nanoseconds / 1_000_000)
    bytes.insert(packet.bytes)
    return false
  }
  world.initiate(world.a)
  world.run(for: .milliseconds(4_999))
  #expect(times == [0, 100, 200, 400, 800, 1600, 3200])
  #expect(bytes.count == 1)
  world.run(for: .seconds(1))
  #expect(bytes.count == 2)

  var responses: Set<[UInt8]> = []
  let initiation = WirePacket(from: 0, to: 1, lane: 0, bytes: bytes.first { $0 != [] }!)
  world.filter = { responses.insert($0.bytes).inserted && false }
  for copy in 0..<14 {
    let receipt = world.deliver(
      WirePacket(from: 0, to: 1, lane: UInt32(copy % 3), bytes: initiation.bytes))
    switch (copy, receipt) {
    case (0, .handshake(_, .answered)), (1...10, .handshake(_, .repeated)): break
    default: #expect(copy > 10 && receipt.dropReason == .repeatLimit, "copy \(copy)")
    }
  }
  #expect(responses.count == 1)
  #expect(world.b.keeper.counters(world.b.peer).initiationsAnswered == 1)
}

@Test func anInitiationIsGivenUpAfterNinetySecondsAndCanBeStartedAgain() {
  let world = WireWorld(seed: 4)
  world.filter = { _ in false }
  world.initiate(world.a)
  world.run(for: .seconds(100))
  #expect(world.a.events.contains(.handshakeGaveUp(world.a.peer)))
  #expect(!world.a.keeper.isInitiating(world.a.peer))
  #expect(world.a.keeper.counters(world.a.peer).initiationsBuilt == 18)
  world.filter = nil
  world.onReady = { world.send($0, [0x02]) }
  world.initiate(world.a)
  world.run(for: .seconds(1))
  #expect(world.conversationWorks())
  // No timer is left that would wake us without end.
  #expect(world.a.keeper.nextDeadline > world.now + .seconds(100))
}

@Test func initiationsAreAtLeastASecondApart() {
  let world = WireWorld(seed: 5)
  var initiations: [Instant] = []
  world.filter = { packet in
    if packet.from == 0, packet.bytes[0] == 1 { initiations.append(world.now) }
    return true
  }
  for _ in 0..<50 {
    world.initiate(world.a)
    world.run(for: .milliseconds(100))
  }
  #expect(initiations.count >= 4)
  for (first, second) in zip(initiations, initiations.dropFirst()) {
    #expect(second - first >= .seconds(1))
  }
}

@Test func anUnknownInitiatorWaitsTwoSecondsForItsCertificate() throws {
  for delay in [0, 1_000, 1_999, 2_000, 5_000] as [Int64] {
    let world = WireWorld(seed: 6)
    world.b.keeper.removePeer(world.b.peer)
    world.initiate(world.a)
    // One copy only.
    world.filter = { $0.from != 0 || $0.bytes[0] != 1 }
    world.run(for: .milliseconds(20))
    guard case .unknownInitiator(let key, 0) = try #require(world.b.receipts.last) else {
      Issue.record("not parked")
      return
    }
    #expect(key == world.a.keys.publicKey)
    world.run(for: .milliseconds(delay))
    world.b.peer = try world.b.keeper.addPeer(publicKey: key, kind: .agent, now: world.now)
    world.drain(world.b)
    world.run(for: .milliseconds(30))
    let expected = delay < 2_000
    #expect(world.a.keeper.canSeal(world.a.peer, now: world.now) == expected, "\(delay) ms")
    #expect(world.b.keeper.drops[.parkedExpired] == (expected ? 0 : 1))
  }
}

@Test func parkingIsBoundedAndPerSource() {
  let world = WireWorld(seed: 8)
  var random = SeededRandom(testSeed: 99)
  var verdicts: [Bool] = []
  for i in 0..<40 {
    let stranger = SessionKeeper(
      localKeys: [X25519.generate(using: &random)], random: SeededRandom(testSeed: UInt64(i)))
    guard
      let handle = try? stranger.addPeer(
        publicKey: world.b.keys.publicKey, kind: .agent, now: world.now)
    else { return }
    stranger.initiate(handle, now: world.now)
    var bytes =
      stranger.pollTransmit(now: world.now, wallClock: 1_780_000_000_000_000_000)?.bytes ?? []
    let source = Carrier.udp(
      socket: 0, remote: Endpoint(IPAddress(192, 0, 2, UInt8(i / 8)), UInt16(1000 + i)))
    let receipt = world.inject(&bytes, into: world.b, from: source)
    if case .unknownInitiator = receipt {
      verdicts.append(true)
    } else {
      #expect(receipt.dropReason == .parkingFull)
      verdicts.append(false)
    }
  }
  #expect(verdicts.filter { $0 }.count == 16)
  #expect(verdicts.prefix(8).filter { $0 }.count == 4)
}

@Test func sixteenLocalKeysAndNoMore() throws {
  var random = SeededRandom(testSeed: 5)
  let keys = (0..<16).map { _ in X25519.generate(using: &random) }
  let keeper = SessionKeeper(localKeys: keys, random: SeededRandom(testSeed: 1))
  #expect(keeper.addLocalKey(X25519.generate(using: &random)) == nil)
  let now = Instant(nanoseconds: 0)
  let other = X25519.generate(using: &random)
  let far = SessionKeeper(localKeys: [other], random: SeededRandom(testSeed: 2))
  for (i, key) in keys.enumerated() {
    let handle = try far.addPeer(publicKey: key.publicKey, kind: .agent, now: now)
    far.initiate(handle, now: now)
    var bytes = try #require(far.pollTransmit(now: now, wallClock: UInt64(i))).bytes
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    let receipt = keeper.receive(
      &raw, from: .tcp(connection: UInt32(i), remote: .none), now: now)
    guard case .unknownInitiator(other.publicKey, i) = receipt else {
      Issue.record("key \(i): \(receipt)")
      return
    }
  }
}

@Test func badPeersAreRefused() {
  let world = WireWorld(seed: 9)
  let keeper = world.a.keeper
  func refusal(_ key: [UInt8], localKey: Int = 0, psk: [UInt8]? = nil) -> PeerRefusal? {
    do {
      _ = try keeper.addPeer(
        publicKey: key, presharedKey: psk, kind: .agent, localKey: localKey, now: world.now)
      return nil
    } catch { return error }
  }
  #expect(refusal([]) == .badKey)
  #expect(refusal([UInt8](repeating: 0, count: 32)) == .badKey)
  #expect(refusal(world.a.keys.publicKey) == .badKey)
  #expect(refusal(world.b.keys.publicKey) == .alreadyKnown)
  #expect(refusal(world.b.keys.publicKey, localKey: 1) == .badLocalKey)
  #expect(refusal([9] + [UInt8](repeating: 0, count: 31), psk: [1]) == .badKey)
  #expect(refusal([9] + [UInt8](repeating: 0, count: 31)) == nil)
}

@Test func differentPresharedKeysNeverMeet() throws {
  for (near, far, meets) in [(1, 1, true), (1, 2, false), (1, nil, false)]
    as [(UInt8, UInt8?, Bool)]
  {
    let world = WireWorld(seed: 10)
    for (node, other, psk) in [
      (world.a, world.b, UInt8?.some(near)), (world.b, world.a, far),
    ] {
      node.keeper.removePeer(node.peer)
      node.peer = try node.keeper.addPeer(
        publicKey: other.keys.publicKey,
        presharedKey: psk.map { [UInt8](repeating: $0, count: 32) }, kind: .agent, now: world.now)
    }
    world.initiate(world.a)
    world.run(for: .milliseconds(60))
    #expect(world.a.keeper.canSeal(world.a.peer, now: world.now) == meets)
    #expect(meets || world.a.keeper.drops[.notAuthentic] > 0)
  }
}

@Test func aRemovedPeerLeavesNothingBehind() throws {
  let world = WireWorld(seed: 11)
  world.initiate(world.a)
  world.run(for: .milliseconds(60))
  let packet = try #require(world.sealed(world.a, [1, 2, 3]))
  world.b.keeper.removePeer(world.b.peer)
  #expect(
    world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: packet)).dropReason == .unknownIndex)
  #expect(world.b.keeper.lastReceived(world.b.peer) == nil)
  let old = world.b.peer
  world.b.peer = try world.b.keeper.addPeer(
    publicKey: world.a.keys.publicKey, kind: .agent, now: world.now)
  #expect(world.b.peer != old)
  #expect(!world.b.keeper.canSeal(old, now: world.now))
  world.run(for: .seconds(2))
  world.onReady = { world.send($0, [0x02]) }
  world.initiate(world.b)
  world.run(for: .milliseconds(100))
  #expect(world.conversationWorks())
}
