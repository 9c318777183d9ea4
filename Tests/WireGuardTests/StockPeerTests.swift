/// Stock peers get WireGuard's own timers (whitepaper §6): one initiation per
/// five seconds, passive and persistent keepalives, the initiator alone rekeys.

import Bytes
import Testing
import WireGuard

private func keepalives(_ node: WireNode) -> Int {
  node.receipts.filter { if case .keepalive = $0 { true } else { false } }.count
}

private func stockSession(seed: UInt64) -> WireWorld {
  let world = WireWorld(seed: seed, kind: .stock)
  #expect(world.sealed(world.a, [1]) == nil)
  world.drain(world.a)
  world.run(for: .seconds(1))
  return world
}

@Test func sealingWithoutKeysStartsAHandshakeThatAKeepaliveConfirms() {
  let world = stockSession(seed: 40)
  for node in world.nodes { #expect(node.keeper.canSeal(node.peer, now: world.now)) }
  #expect(keepalives(world.b) == 1)
  #expect(world.conversationWorks())
}

@Test func anUnansweredHandshakeIsRetriedEveryFiveSecondsForNinety() {
  let world = WireWorld(seed: 41, kind: .stock)
  var times: [Instant] = []
  world.filter = { _ in
    times.append(world.now)
    return false
  }
  world.initiate(world.a)
  world.run(for: .seconds(200))
  #expect((16...18).contains(times.count), "\(times.count)")
  for (first, second) in zip(times, times.dropFirst()) {
    #expect(second - first >= .seconds(5) && second - first <= .milliseconds(5_334))
  }
  #expect(world.a.events.contains(.handshakeGaveUp(world.a.peer)))
}

@Test func whoHasNothingToSayAnswersDataAfterTenSeconds() {
  let world = stockSession(seed: 42)
  let before = keepalives(world.a)
  world.send(world.a, [0x45])
  world.run(for: .milliseconds(9_900))
  #expect(keepalives(world.a) == before)
  world.run(for: .milliseconds(200))
  #expect(keepalives(world.a) == before + 1)
  // That answer is enough: no new handshake, and no answer to the answer.
  world.run(for: .seconds(60))
  #expect(keepalives(world.a) == before + 1)
  #expect(world.a.keeper.counters(world.a.peer).initiationsBuilt == 1)
}

@Test func silenceAfterDataBringsANewHandshakeInFifteenSeconds() {
  let world = stockSession(seed: 43)
  world.filter = { _ in false }
  let start = world.now
  world.send(world.a, [0x45])
  world.run(for: .seconds(30)) {
    world.a.keeper.counters(world.a.peer).initiationsBuilt > 1
  }
  let waited = world.now - start
  #expect(waited >= .seconds(15) && waited <= .milliseconds(15_334))
}

@Test func persistentKeepalivesComeEveryInterval() {
  let world = WireWorld(seed: 44, kind: .stock)
  world.a.keeper.setPersistentKeepalive(world.a.peer, .seconds(25), now: world.now)
  world.run(for: .seconds(100))
  // The first one asked for the session.
  #expect(world.a.keeper.counters(world.a.peer).handshakesCompleted == 1)
  #expect((4...5).contains(keepalives(world.b)), "\(keepalives(world.b))")
  world.a.keeper.setPersistentKeepalive(world.a.peer, nil, now: world.now)
  let before = keepalives(world.b)
  world.run(for: .seconds(60))
  #expect(keepalives(world.b) == before)
}

@Test func onlyTheInitiatorRekeys() {
  let world = stockSession(seed: 45)
  for second in 1...135 {
    world.run(for: .seconds(1))
    world.send(world.b, [0x45])
    if second < 118 { #expect(world.a.keeper.counters(world.a.peer).initiationsBuilt == 1) }
  }
  // Its passive keepalives are sending enough.
  #expect(world.a.keeper.counters(world.a.peer).handshakesCompleted == 2)
  #expect(world.b.keeper.counters(world.b.peer).initiationsBuilt == 0)
  #expect(world.conversationWorks())
}

@Test func anInitiatorThatOnlyReceivesRenewsAtHundredSixtyFiveSeconds() {
  let world = stockSession(seed: 46)
  world.b.keeper.setPersistentKeepalive(world.b.peer, .seconds(5), now: world.now)
  world.run(for: .seconds(160))
  #expect(world.a.keeper.counters(world.a.peer).initiationsBuilt == 1)
  world.run(for: .seconds(12))
  #expect(world.a.keeper.counters(world.a.peer).initiationsBuilt == 2)
  #expect(world.b.keeper.counters(world.b.peer).initiationsBuilt == 0)
  #expect(world.conversationWorks())
}

@Test func stockSessionsLiveForTenMinutesOverLoss() {
  for seed in 0..<10 as Range<UInt64> {
    let world = WireWorld(seed: seed, kind: .stock)
    world.link.lossPercent = 5
    var failures = 0
    for _ in 0..<600 {
      world.run(for: .seconds(1))
      for node in world.nodes where !world.send(node, [0x45]) { failures += 1 }
    }
    #expect(failures < 60, "seed \(seed): \(failures)")
    #expect(world.b.received.count > 500 && world.a.received.count > 500, "seed \(seed)")
  }
}
