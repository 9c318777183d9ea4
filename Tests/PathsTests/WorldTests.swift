import Bytes
import Paths
import Testing

@Test func firstBytesThroughTheRelayThenDirect() {
  let world = World(
    seed: 1, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  let start = world.now
  world.begin()
  #expect(world.primaryTier() == .serverRelay)
  world.run(for: .milliseconds(100))
  #expect(world.primaryTier() == .udpDirect)
  #expect(world.primaryTier(1) == .udpDirect)
  let upgraded = world.firstSwitch(after: start + .nanoseconds(1))
  #expect(upgraded == start + .milliseconds(20), "one round trip")
  #expect(world.nodes[0].history.contains { $0.reason == .betterTier })
  #expect(world.nodes[0].whyNotBetter(now: world.now).isEmpty)
}

@Test func bothEndsLearnWhereTheyAreSeen() {
  let world = World(seed: 1, links: [.udp(1, delay: .milliseconds(10))])
  world.begin()
  world.run(for: .milliseconds(100))
  let expected = world.links[0].ends[1].remote
  let seen = world.events[0].contains {
    if case .observedAddress(_, let endpoint) = $0.event { endpoint == expected } else { false }
  }
  #expect(seen)
}

@Test func sameSeedSameTrace() {
  func trace(_ seed: UInt64) -> UInt64 {
    var relay = TestLink.relay(delay: .milliseconds(20))
    relay.lossPerMille = 20
    var direct = TestLink.udp(1, delay: .milliseconds(10))
    direct.lossPerMille = 50
    let world = World(seed: seed, links: [direct, relay])
    world.begin()
    world.startTraffic(every: .milliseconds(10))
    world.at(.seconds(3)) { $0.links[0].passes = [false, false] }
    world.at(.seconds(6)) { $0.links[0].passes = [true, true] }
    world.run(for: .seconds(20))
    return world.trace
  }
  #expect(trace(7) == trace(7))
  #expect(trace(7) != trace(8))
}

/// Silent death of the path in use, over round trips and loss rates.
@Test func deadPathIsLeftWithinASecond() {
  var times: [Double] = []
  for seed in 0..<200 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed)
    let delay = TimeAmount.milliseconds(Int64(1 + random.next() % 60))
    var direct = TestLink.udp(1, delay: delay)
    direct.lossPerMille = Int(random.next() % 20)
    let world = World(
      seed: seed, links: [direct, .relay(delay: .milliseconds(Int64(5 + random.next() % 80)))])
    world.begin()
    world.run(for: .seconds(1))
    world.startTraffic(every: .milliseconds(5))
    world.run(for: .seconds(4) + .milliseconds(Int64(random.next() % 1000)))
    guard world.primaryTier() == .udpDirect else { continue }
    let cut = world.now
    // Both directions, or one of them.
    let kind = seed % 3
    world.links[0].passes = [kind == 1, kind == 2]
    world.run(for: .seconds(5))
    let left = world.firstSwitch(after: cut)
    #expect(left != nil, "seed \(seed)")
    #expect(world.primaryTier() == .serverRelay, "seed \(seed)")
    if let left { times.append((left - cut).inMilliseconds) }
  }
  times.sort()
  #expect(times.count > 150)
  let p50 = times[times.count / 2]
  let p95 = times[times.count * 95 / 100]
  print("death left after p50 \(p50) ms, p95 \(p95) ms, worst \(times.last ?? 0) ms")
  #expect(p95 < 1_000)
}

/// The end that only receives must notice as well: its answers go that way.
@Test func receiverLeavesADeadPathToo() {
  var times: [Double] = []
  for seed in 0..<100 as Range<UInt64> {
    let world = World(
      seed: seed,
      links: [
        .udp(1, delay: .milliseconds(Int64(1 + seed % 50))), .relay(delay: .milliseconds(30)),
      ])
    world.begin()
    world.run(for: .seconds(1))
    world.startTraffic(every: .milliseconds(5))
    world.run(for: .seconds(4))
    let cut = world.now
    world.links[0].passes = [false, false]
    world.run(for: .seconds(5))
    let left = world.firstSwitch(after: cut, node: 1)
    #expect(left != nil, "seed \(seed)")
    if let left { times.append((left - cut).inMilliseconds) }
  }
  times.sort()
  print("receiver left after p95 \(times[times.count * 95 / 100]) ms")
  #expect(times[times.count * 95 / 100] < 1_000)
}

@Test func returnsToTheBetterPathWhenItAnswersAgain() {
  for seed in 0..<30 as Range<UInt64> {
    let world = World(
      seed: seed, links: [.udp(1, delay: .milliseconds(5)), .relay(delay: .milliseconds(20))])
    world.begin()
    world.startTraffic(every: .milliseconds(5))
    world.run(for: .seconds(5))
    #expect(world.primaryTier() == .udpDirect, "seed \(seed)")
    let lane = world.nodes[0].primary
    world.links[0].passes = [false, false]
    world.run(for: .seconds(4) + .milliseconds(Int64(seed) * 37))
    #expect(world.primaryTier() == .serverRelay, "seed \(seed)")
    let healed = world.now
    world.links[0].passes = [true, true]
    world.run(for: .seconds(4))
    #expect(world.primaryTier() == .udpDirect, "seed \(seed)")
    #expect(world.nodes[0].primary == lane, "the lane is kept, seed \(seed)")
    let back = world.firstSwitch(after: healed)
    #expect(back.map { $0 - healed < .milliseconds(1_800) } == true, "seed \(seed)")
    #expect(world.longestGap < .seconds(1), "seed \(seed)")
  }
}

@Test func allPathsDeadAndBack() {
  let world = World(
    seed: 4, links: [.udp(1, delay: .milliseconds(5)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.startTraffic(every: .milliseconds(5))
  world.run(for: .seconds(3))
  world.links[0].passes = [false, false]
  world.links[1].passes = [false, false]
  world.run(for: .seconds(10))
  #expect(world.events[0].contains { $0.event == .allPathsDead })
  #expect(world.nodes[0].primary == nil)
  world.links[0].passes = [true, true]
  world.run(for: .seconds(2))
  #expect(world.primaryTier() == .udpDirect)
}

@Test func closedRelayIsReplacedAtOnce() {
  let world = World(
    seed: 5,
    links: [.tcp(delay: .milliseconds(15)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.run(for: .seconds(1))
  #expect(world.primaryTier() == .tcpDirect)
  let now = world.now
  world.nodes[0].carrierClosed(world.links[0].ends[0], now: now)
  world.drain()
  #expect(world.primaryTier() == .serverRelay)
  #expect(world.firstSwitch(after: now) == now)
  #expect(world.nodes[0].history.last?.reason == .primaryDown)
}

/// A link that comes and goes every second or two must not drag traffic along.
@Test func flappingLinkIsNotFollowed() {
  var worst = 0
  for seed in 0..<8 as Range<UInt64> {
    let world = World(
      seed: seed, links: [.udp(1, delay: .milliseconds(5)), .relay(delay: .milliseconds(20))])
    world.begin()
    world.startTraffic(every: .milliseconds(10))
    world.run(for: .seconds(2))
    var random = SeededRandom(testSeed: seed)
    var up = true
    let start = world.now
    while world.now - start < .minutes(5) {
      up.toggle()
      world.links[0].passes = [up, up]
      world.run(for: .milliseconds(700 + Int64(random.next() % 2_000)))
    }
    worst = max(worst, world.switches())
    world.links[0].passes = [true, true]
    world.run(for: .seconds(75))
    #expect(world.primaryTier() == .udpDirect, "calm again, seed \(seed)")
  }
  print("switches in 5 min of flapping (about 170 changes): at most \(worst)")
  #expect(worst <= 20)
}

/// Traffic through outages of the direct path, which must be back in use so
/// long after each of them.
private func outages(_ count: Int, back: TimeAmount, healed: (World) -> Void = { _ in }) {
  for seed in 0..<8 as Range<UInt64> {
    let world = World(
      seed: seed, links: [.udp(1, delay: .milliseconds(5)), .relay(delay: .milliseconds(20))])
    world.begin()
    world.startTraffic(every: .milliseconds(10))
    world.run(for: .seconds(2))
    for outage in 1...count {
      world.links[0].passes = [false, false]
      world.run(for: .seconds(3))
      #expect(world.primaryTier() == .serverRelay, "outage \(outage), seed \(seed)")
      world.links[0].passes = [true, true]
      healed(world)
      world.run(for: back)
      #expect(world.primaryTier() == .udpDirect, "outage \(outage), seed \(seed)")
    }
  }
}

/// What failures forced is no restlessness: after the third outage within a
/// minute the direct path is back when its hold-down ends.
@Test func forcedSwitchesDoNotDelayTheReturn() { outages(3, back: .seconds(7)) }

/// A path is not held back for outages of networks that we have left.
@Test func anotherNetworkIsAFreshStart() {
  outages(6, back: .seconds(2)) { world in
    for node in 0..<2 { world.nodes[node].networkChanged(now: world.now) }
    world.drain()
  }
}

/// Two equal paths whose round trips wander must not be played against each other.
@Test func wanderingRoundTripsDoNotFlap() {
  let world = World(
    seed: 6,
    links: [.udp(1, delay: .milliseconds(20)), .udp(2, delay: .milliseconds(21))])
  world.begin()
  world.startTraffic(every: .milliseconds(20))
  var random = SeededRandom(testSeed: 9)
  for _ in 0..<300 {
    for l in 0..<2 { world.links[l].delay = .milliseconds(15 + Int64(random.next() % 10)) }
    world.run(for: .seconds(1))
  }
  #expect(world.switches() <= 3)
}

@Test func muchBetterQualityWins() {
  let world = World(
    seed: 7,
    links: [.udp(1, delay: .milliseconds(100)), .udp(2, delay: .milliseconds(10))])
  world.begin()
  world.startTraffic(every: .milliseconds(20))
  world.run(for: .seconds(10))
  #expect(world.primaryCarrier() == world.links[1].ends[0])
  // A hopeless direct path loses even to the server.
  let far = World(
    seed: 8, links: [.udp(1, delay: .milliseconds(400)), .relay(delay: .milliseconds(10))])
  far.begin()
  far.run(for: .seconds(10))
  #expect(far.primaryTier() == .serverRelay)
  #expect(far.nodes[0].whyNotBetter(now: far.now).first?.reason == .worseQuality)
}

/// Ten minutes without traffic and nobody holding it: nothing is sent any
/// more. The first packet goes by the relay at once and brings all else back.
@Test func idlePairLetsGoAndComesBack() {
  let world = World(
    seed: 9, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.run(for: .hours(1))
  let before = world.sentBytes
  let steps = world.steps
  world.run(for: .hours(24))
  let day = world.sentBytes[0] - before[0] + world.sentBytes[1] - before[1]
  #expect(day == 0)
  #expect(world.steps - steps < 10, "timers do not spin")
  #expect(world.primaryTier() == .serverRelay)
  #expect(world.nodes[0].isLetGo && world.nodes[1].isLetGo)
  world.startTraffic(every: .milliseconds(20))
  world.run(for: .seconds(5))
  #expect(world.primaryTier() == .udpDirect)
  #expect(world.events[0].contains { $0.event == .wantsPunch })
}

/// Open streams hold a silent pair, and keepalives keep its road.
@Test func heldPairKeepsItsPath() {
  let world = World(
    seed: 9, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  for node in 0..<2 { world.nodes[node].setHeld(true, now: world.now) }
  world.run(for: .hours(2))
  #expect(world.primaryTier() == .udpDirect)
  #expect(!world.nodes[0].isLetGo)
}

@Test func pathThatAnswersPingsButSwallowsDataIsLeft() {
  let world = World(
    seed: 10, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.startTraffic(every: .milliseconds(10))
  world.run(for: .seconds(3))
  #expect(world.primaryTier() == .udpDirect)
  let cut = world.now
  world.links[0].swallowsLarge = true
  world.run(for: .seconds(8))
  #expect(world.primaryTier() == .serverRelay)
  let left = world.firstSwitch(after: cut)
  #expect(left.map { $0 - cut < .seconds(4) } == true)
  world.links[0].swallowsLarge = false
  world.run(for: .seconds(90))
  #expect(world.primaryTier() == .udpDirect)
}

/// Per-packet calls are cheap: no allocation, no search beyond the last hit.
/// The time-out of a full-size probe grows while it is on its way: nobody is
/// kept awake until then (World.run stops a machine that spins).
@Test func fullSizeProbesOfAWanderingPathKeepNobodyAwake() {
  for seed in 0..<40 as Range<UInt64> {
    let world = World(
      seed: seed, links: [.udp(1, delay: .milliseconds(2)), .relay(delay: .milliseconds(20))])
    world.begin()
    world.startTraffic(every: .milliseconds(10))
    world.run(for: .seconds(2))
    world.links[0].swallowsLarge = true
    var random = SeededRandom(testSeed: seed)
    for _ in 0..<400 {
      world.links[0].delay = .milliseconds(Int64(random.next() % 200))
      world.run(for: .milliseconds(100 + Int64(random.next() % 400)))
    }
    #expect(world.primaryTier() == .serverRelay, "seed \(seed)")
  }
}

@Test func packetCallsAreCheap() {
  let world = World(
    seed: 11, links: [.udp(1, delay: .milliseconds(1)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.run(for: .seconds(1))
  var paths = world.nodes[0]
  let carrier = world.links[0].ends[0]
  let lane = paths.primary ?? 255
  var now = world.now
  let clock = ContinuousClock()
  let calls = 500_000
  let took = clock.measure {
    for _ in 0..<calls {
      now += .microseconds(2)
      paths.received(from: carrier, bytes: 1440, carriesData: true, now: now)
      paths.sent(on: lane, bytes: 1440, ackEliciting: true, now: now)
    }
  }
  print("received + sent: \(took / calls)")
  #expect(paths.snapshots.contains { $0.bytesReceived > UInt64(calls) * 1_440 })
}

/// The peer's NAT gives it another port in mid-transfer; nobody is told.
@Test func rebindingIsFollowed() {
  var gaps: [TimeAmount] = []
  for seed in 0..<30 as Range<UInt64> {
    // With and without a relay to fall back to.
    let relay = TestLink.relay(delay: .milliseconds(25))
    let direct = TestLink.udp(1, delay: .milliseconds(Int64(2 + seed)))
    let world = World(seed: seed, links: seed % 2 == 0 ? [direct, relay] : [direct])
    world.begin()
    world.startTraffic(every: .milliseconds(5))
    world.run(for: .seconds(3))
    world.longestGap = .zero
    let moved = Endpoint(IPAddress(198, 51, 100, 101), 61_000)
    world.links[0].ends[0] = .udp(socket: 1, remote: moved)
    world.run(for: .seconds(5))
    #expect(world.primaryCarrier()?.remote == moved, "seed \(seed)")
    gaps.append(world.longestGap)
  }
  gaps.sort()
  print("rebinding: longest gap \(gaps.last?.inMilliseconds ?? 0) ms")
  #expect((gaps.last ?? .zero) < .seconds(1))
}

/// Our own stall (a suspended process) is not taken for the peer's death.
@Test func ourOwnStallSwitchesNothing() {
  let world = World(
    seed: 12, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.startTraffic(every: .milliseconds(5))
  world.run(for: .seconds(3))
  let switches = world.switches() + world.switches(1)
  // Nobody runs for 400 ms: what is on its way waits in the sockets.
  for _ in 0..<5 {
    world.now += .milliseconds(400)
    for i in world.flights.indices { world.flights[i].at = max(world.flights[i].at, world.now) }
    for i in 0..<2 { world.nodes[i].advance(to: world.now) }
    world.drain()
    world.run(for: .seconds(2))
  }
  #expect(world.switches() + world.switches(1) == switches)
}

/// The same in the worst moment: one ping lost already, its successor on its way.
@Test func aStallBetweenTwoPingsIsForgiven() {
  let world = World(
    seed: 17, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.startTraffic(every: .milliseconds(5))
  world.run(for: .seconds(3))
  world.traffic = nil
  func pings() -> UInt32 {
    world.nodes[0].snapshots.first { $0.isPrimary }?.probesSent ?? 0
  }
  let before = pings()
  world.links[0].passes = [false, false]
  while pings() == before { world.run(for: .milliseconds(1)) }
  world.links[0].passes = [true, true]
  while pings() == before + 1 { world.run(for: .milliseconds(1)) }
  world.now += .milliseconds(500)
  world.nodes[0].advance(to: world.now)
  world.drain()
  world.run(for: .seconds(2))
  #expect(world.nodes[0].history.allSatisfy { $0.reason != .silence })
}

/// A peer that stands still takes every path with it: nothing is won by going
/// elsewhere, and nothing is lost by staying.
@Test func silenceEverywhereSwitchesNothing() {
  let world = World(
    seed: 18, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.startTraffic(every: .milliseconds(5))
  world.run(for: .seconds(3))
  let switches = world.switches()
  for _ in 0..<5 {
    for l in 0..<2 { world.links[l].passes = [false, false] }
    world.run(for: .milliseconds(600))
    for l in 0..<2 { world.links[l].passes = [true, true] }
    // The path in use is heard first again.
    world.links[1].delay = .milliseconds(400)
    world.run(for: .seconds(3))
    world.links[1].delay = .milliseconds(20)
    world.run(for: .seconds(10))
  }
  #expect(world.switches() == switches)
  #expect(world.nodes[0].history.contains { $0.reason == .recovered })
}

@Test func smallAdvantagesAreNotWorthAChange() {
  let world = World(
    seed: 19,
    links: [.udp(1, delay: .milliseconds(20)), .udp(2, delay: .milliseconds(22))])
  world.begin()
  world.startTraffic(every: .milliseconds(20))
  world.run(for: .seconds(5))
  let carrier = world.links[0].ends[0]
  #expect(world.primaryCarrier() == carrier)
  world.links[1].delay = .milliseconds(18)
  world.run(for: .minutes(3))
  #expect(world.primaryCarrier() == carrier)
  world.links[1].delay = .milliseconds(12)
  world.run(for: .seconds(15))
  #expect(world.primaryCarrier() == world.links[1].ends[0])
  #expect(world.nodes[0].history.contains { $0.reason == .betterQuality })
}

/// A starting flow that overshoots loses a third of a round trip's packets;
/// that is not the path's fault.
@Test func overshootOfAFlowIsNotThePathsLoss() {
  let world = World(
    seed: 13, links: [.udp(1, delay: .milliseconds(20)), .relay(delay: .milliseconds(10))])
  world.begin()
  world.run(for: .seconds(2))
  let lane = world.nodes[0].primary ?? 255
  for second in 0..<20 {
    for _ in 0..<50 {
      world.nodes[0].lossSample(on: lane, lost: second % 5 == 0 ? 25 : 0, of: 30, now: world.now)
      world.run(for: .milliseconds(20))
    }
  }
  #expect(world.primaryTier() == .udpDirect)
  #expect(world.switches() == 1)
}

@Test func sessionComesAndGoes() {
  let world = World(
    seed: 14, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  world.begin()
  world.run(for: .seconds(2))
  for node in 0..<2 { world.nodes[node].sessionLost(now: world.now) }
  world.drain()
  #expect(world.nodes[0].primary == nil)
  #expect(world.nodes[0].nextDeadline == .distantFuture)
  let silent = world.sentBytes
  world.run(for: .minutes(5))
  #expect(world.sentBytes == silent)
  for node in 0..<2 {
    world.nodes[node].sessionEstablished(through: world.links[1].ends[node], now: world.now)
  }
  world.drain()
  #expect(world.primaryTier() == .serverRelay)
  world.run(for: .milliseconds(60))
  #expect(world.primaryTier() == .udpDirect)
}

@Test func initiationsGoWhereTheyMay() {
  let world = World(
    seed: 15, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
  let now = world.now
  for link in world.links {
    if link.ends[0].kind == .udp {
      world.nodes[0].addCandidate(
        link.ends[0], kind: .host, tier: .udpDirect, source: .signalled, now: now)
    } else {
      world.nodes[0].carrierOpened(link.ends[0], tier: .serverRelay, now: now)
    }
  }
  func targets(firstTry: Bool) -> [Carrier] {
    var list: [Carrier] = []
    world.nodes[0].initiationTargets(
      bytes: 148, firstTry: firstTry, isLate: false, budget: &world.budgets[0], now: world.now,
      into: &list)
    return list
  }
  #expect(
    targets(firstTry: true) == world.links.map { $0.ends[0] }, "everywhere while there are no keys")
  for _ in 0..<40 { _ = targets(firstTry: false) }
  #expect(targets(firstTry: false) == [world.links[1].ends[0]], "the budget is used up")
  #expect(world.nodes[0].counters.initiationsWithheld > 0)
}

@Test func policyForbidsTiers() {
  var settings = PathSettings()
  settings.allowedTiers = .relays
  let world = World(
    seed: 16, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))],
    settings: settings)
  world.begin()
  world.run(for: .seconds(5))
  #expect(world.primaryTier() == .serverRelay)
  #expect(world.nodes[0].whyNotBetter(now: world.now).first?.reason == .notAllowed)
  #expect(world.unproven[0].isEmpty)
}
