/// A flood of initiations that cost curve operations: a machine answers with
/// cookies, spends no more than its budget, and lets those in who show one.

import Bytes
import Crypto
import Testing
import WireGuard

/// 148 bytes that pass mac1 and fail at the first curve operation.
private func costly(_ random: inout SeededRandom, for publicKey: [UInt8]) -> [UInt8] {
  var body: [UInt8] = [1, 0, 0, 0] + random.bytes(112)
  body += BLAKE2s.mac(key: MessageMacs.mac1Key(publicKey), body)
  return body + [UInt8](repeating: 0, count: 16)
}

@Test func underLoadACookieLetsTheHonestIn() {
  for lanes in 1...3 as ClosedRange<UInt32> {
    let world = WireWorld(seed: UInt64(lanes))
    world.lanes = lanes
    world.onReady = { world.send($0, [0x02]) }
    var random = SeededRandom(testSeed: 3)
    func flood(_ count: Int) {
      for i in 0..<count {
        var bytes = costly(&random, for: world.b.keys.publicKey)
        let source = Carrier.udp(
          socket: 0, remote: Endpoint(IPAddress(198, 51, 100, UInt8(i & 255)), 1))
        _ = world.inject(&bytes, into: world.b, from: source)
        // What goes to the flood's senders goes nowhere.
        while let reply = world.b.keeper.pollTransmit(now: world.now, wallClock: 0) {
          #expect(reply.bytes.count <= 148)
        }
      }
    }
    flood(300)
    #expect(world.b.keeper.drops[.notAuthentic] == 250)
    #expect(world.b.keeper.drops[.cookieRequired] == 50)
    world.initiate(world.a)
    for _ in 0..<20 {
      flood(40)
      world.run(for: .milliseconds(20))
    }
    #expect(world.a.keeper.canSeal(world.a.peer, now: world.now), "\(lanes) lanes")
    #expect(
      world.a.receipts.contains { if case .handshake(_, .cookie) = $0 { true } else { false } })
    #expect(world.conversationWorks())
    // The budget: no burst of operations beyond the calm bucket while loaded.
    #expect(world.b.keeper.drops[.notAuthentic] == 250)
    for reply in world.nodes.flatMap(\.largestReply) { #expect(reply.reply <= reply.cause) }
  }
}

@Test func aCookieIsGoodForOneCarrierOnly() throws {
  let world = WireWorld(seed: 4)
  var random = SeededRandom(testSeed: 3)
  for _ in 0..<300 {
    var bytes = costly(&random, for: world.b.keys.publicKey)
    _ = world.inject(&bytes, into: world.b, from: world.carrier(from: 0, lane: 7))
    while world.b.keeper.pollTransmit(now: world.now, wallClock: 0) != nil {}
  }
  world.held = []
  world.initiate(world.a)
  let initiation = try #require(world.held?.first)
  world.held = []
  #expect(world.deliver(initiation).dropReason == .cookieRequired)
  let cookie = try #require(world.held?.first)
  #expect(cookie.bytes.count == 64)
  world.deliver(cookie)
  let transmit = HandshakeTransmit(
    kind: .initiation, peer: world.a.peer, bytes: initiation.bytes, route: .everyCarrier)
  let finished = world.a.keeper.finish(
    transmit, for: world.carrier(from: 1, lane: 0), now: world.now)
  let elsewhere = world.a.keeper.finish(
    transmit, for: world.carrier(from: 1, lane: 1), now: world.now)
  #expect(finished != initiation.bytes)
  #expect(elsewhere == initiation.bytes)
  // Shown from another place it is worth nothing.
  #expect(
    world.deliver(WirePacket(from: 0, to: 1, lane: 1, bytes: finished)).dropReason
      == .cookieRequired)
  let receipt = world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: finished))
  #expect(receipt.dropReason == nil)
  // After two minutes it has expired.
  world.now += .seconds(121)
  #expect(
    world.a.keeper.finish(transmit, for: world.carrier(from: 1, lane: 0), now: world.now)
      == initiation.bytes)
}

@Test func onSourceWithACookieIsStillLimited() throws {
  let world = WireWorld(seed: 5)
  var random = SeededRandom(testSeed: 3)
  let carrier = world.carrier(from: 0, lane: 0)
  // Strangers with a cookie: a keeper per stranger, all from one address.
  var strangers: [(SessionKeeper, PeerHandle)] = []
  for i in 0..<40 {
    let keeper = SessionKeeper(
      localKeys: [X25519.generate(using: &random)], random: SeededRandom(testSeed: UInt64(i)))
    let handle = try keeper.addPeer(
      publicKey: world.b.keys.publicKey, kind: .agent, now: world.now)
    keeper.initiate(handle, now: world.now)
    strangers.append((keeper, handle))
  }
  for _ in 0..<300 {
    var bytes = costly(&random, for: world.b.keys.publicKey)
    _ = world.inject(&bytes, into: world.b, from: world.carrier(from: 0, lane: 7))
    while world.b.keeper.pollTransmit(now: world.now, wallClock: 0) != nil {}
  }
  var admitted = 0
  for (keeper, _) in strangers {
    let transmit = try #require(keeper.pollTransmit(now: world.now, wallClock: 1))
    var bytes = transmit.bytes
    _ = world.inject(&bytes, into: world.b, from: carrier)
    var reply = try #require(world.b.keeper.pollTransmit(now: world.now, wallClock: 0)).bytes
    var span = reply.mutableSpan
    var raw = span.mutableBytes
    _ = keeper.receive(&raw, from: carrier, now: world.now)
    var finished = keeper.finish(transmit, for: carrier, now: world.now)
    if world.inject(&finished, into: world.b, from: carrier).dropReason != .overloaded {
      admitted += 1
    }
    while world.b.keeper.pollTransmit(now: world.now, wallClock: 0) != nil {}
  }
  #expect(admitted == 5)
}
