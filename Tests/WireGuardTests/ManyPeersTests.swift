/// A hub with many peers that come and go: indices of one never lead to another.

import Bytes
import Crypto
import Testing
import WireGuard

private func pass(_ bytes: [UInt8], to keeper: SessionKeeper, from carrier: Carrier, now: Instant)
  -> Receipt
{
  var bytes = bytes
  var span = bytes.mutableSpan
  var raw = span.mutableBytes
  return keeper.receive(&raw, from: carrier, now: now)
}

private func sealed(_ keeper: SessionKeeper, _ peer: PeerHandle, now: Instant) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 64)
  let count = bytes.withUnsafeMutableBytes { buffer in
    var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
    _ = keeper.seal(peer, into: &output, now: now) { $0.writeUInt8(0x45) }
    return output.finalize(for: buffer)
  }
  return Array(bytes[..<count])
}

@Test func aHubKeepsItsPeersApartWhileTheyComeAndGo() throws {
  var random = SeededRandom(testSeed: 8)
  let hubKeys = X25519.generate(using: &random)
  let hub = SessionKeeper(localKeys: [hubKeys], random: SeededRandom(testSeed: 9))
  var now = Instant(nanoseconds: 0)
  var wall: UInt64 = 1_780_000_000_000_000_000
  struct Spoke {
    var keeper: SessionKeeper
    var keys: KeyPair
    var hub: PeerHandle
    var atHub: PeerHandle
    var carrier: Carrier
  }
  /// Initiations of the hub's own get lost on the way to `kind`.
  func next(_ kind: HandshakeTransmit.Kind, of keeper: SessionKeeper) -> HandshakeTransmit? {
    while let transmit = keeper.pollTransmit(now: now, wallClock: wall) {
      if transmit.kind == kind { return transmit }
    }
    return nil
  }
  func connect(_ spoke: Spoke) throws {
    now += .milliseconds(1_500)
    wall += 1_500_000_000
    spoke.keeper.initiate(spoke.hub, now: now)
    let initiation = try #require(next(.initiation, of: spoke.keeper))
    _ = pass(initiation.bytes, to: hub, from: spoke.carrier, now: now)
    let response = try #require(next(.response, of: hub))
    #expect(response.peer == spoke.atHub && response.route == .reply(spoke.carrier))
    _ = pass(response.bytes, to: spoke.keeper, from: spoke.carrier, now: now)
  }
  var spokes: [Spoke] = []
  for i in 0..<120 {
    let keys = X25519.generate(using: &random)
    let keeper = SessionKeeper(localKeys: [keys], random: SeededRandom(testSeed: UInt64(100 + i)))
    let spoke = Spoke(
      keeper: keeper, keys: keys,
      hub: try keeper.addPeer(publicKey: hubKeys.publicKey, kind: .agent, now: now),
      atHub: try hub.addPeer(publicKey: keys.publicKey, kind: .agent, now: now),
      carrier: .tcp(connection: UInt32(i), remote: .none))
    spokes.append(spoke)
  }
  for round in 0..<6 {
    // The keypairs of a round live 180 s; a round of 120 takes as long.
    for spoke in spokes.shuffled(using: &random).prefix(60) {
      try connect(spoke)
      guard
        case .data(spoke.atHub, _, _, _, true) = pass(
          sealed(spoke.keeper, spoke.hub, now: now), to: hub, from: spoke.carrier, now: now)
      else {
        Issue.record("round \(round): the hub takes a spoke for another")
        return
      }
    }
    // One in ten leaves and comes back under a new handle.
    for i in spokes.indices where i % 10 == round {
      hub.removePeer(spokes[i].atHub)
      #expect(hub.handle(publicKey: spokes[i].keys.publicKey) == nil)
      spokes[i].atHub = try hub.addPeer(
        publicKey: spokes[i].keys.publicKey, kind: .agent, now: now)
    }
    hub.advance(to: now)
    for spoke in spokes where hub.canSeal(spoke.atHub, now: now) {
      let receipt = pass(
        sealed(hub, spoke.atHub, now: now), to: spoke.keeper, from: spoke.carrier, now: now)
      guard case .data(spoke.hub, _, _, _, _) = receipt else {
        Issue.record("round \(round): \(receipt)")
        return
      }
      let answer = pass(
        sealed(spoke.keeper, spoke.hub, now: now), to: hub, from: spoke.carrier, now: now)
      guard case .data(spoke.atHub, _, _, _, _) = answer else {
        Issue.record("round \(round): \(answer)")
        return
      }
    }
  }
  #expect(hub.drops.total == 0)
  #expect(spokes.contains { hub.canSeal($0.atHub, now: now) })
}
