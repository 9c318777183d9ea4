import Bytes
import Paths
import Testing

/// What is learnt from pauses, alone.
@Suite struct KeepaliveTests {
  private static let start = Instant(nanoseconds: 1_000_000_000)

  /// A router that forgets after `timeout`; `count` pauses of the interval used.
  private func live(
    _ timeout: TimeAmount, pauses count: Int, seed: UInt64
  ) -> (interval: KeepaliveInterval, shuts: Int, longest: TimeAmount) {
    var interval = KeepaliveInterval()
    var random = SeededRandom(testSeed: seed)
    var now = Self.start
    var shuts = 0
    var longest = TimeAmount.zero
    for _ in 0..<count {
      let early = Int64(random.next() % 126)
      let gap = TimeAmount.nanoseconds(
        interval.current.nanoseconds - interval.current.nanoseconds / 1_000 * early)
      now += gap
      longest = max(longest, interval.current)
      if gap < timeout {
        _ = interval.passed(gap, now: now)
      } else {
        shuts += 1
        _ = interval.shut(gap, now: now)
      }
    }
    return (interval, shuts, longest)
  }

  @Test func itSettlesBelowWhatRoutersAllow() {
    for seconds: Int64 in [25, 30, 40, 60, 90, 120, 300] {
      for seed in 1...50 as ClosedRange<UInt64> {
        let (interval, shuts, _) = live(.seconds(seconds), pauses: 200, seed: seed)
        #expect(interval.current < .seconds(seconds), "\(seconds) s, seed \(seed)")
        #expect(shuts == (seconds < 100 ? 1 : 0), "\(seconds) s, seed \(seed)")
        // Not more often than half the time allowed, when that can be learnt.
        let fair = min(TimeAmount.seconds(seconds) / 2, KeepaliveTunables.longest)
        #expect(interval.current >= min(fair, .seconds(50)), "\(seconds) s, seed \(seed)")
      }
    }
  }

  @Test func routersWithLessThanTheFirstIntervalAreFollowedDown() {
    for seed in 1...50 as ClosedRange<UInt64> {
      let (interval, _, _) = live(.seconds(13), pauses: 100, seed: seed)
      #expect(interval.current < .seconds(13), "seed \(seed)")
      #expect(interval.current >= KeepaliveTunables.shortest, "seed \(seed)")
    }
    // Whatever is said, it stays within its bounds.
    for seconds: Int64 in [1, 5, 9] {
      let (interval, _, _) = live(.seconds(seconds), pauses: 100, seed: 1)
      #expect(interval.current == KeepaliveTunables.shortest)
    }
  }

  @Test func aCoincidenceIsForgottenAfterHours() {
    var interval = KeepaliveInterval()
    var now = Self.start
    // The line broke at the wrong moment.
    let isLower = interval.shut(.seconds(20), now: now)
    #expect(isLower)
    let low = interval.current
    #expect(low < .seconds(20))
    func pass() {
      for _ in 0..<10 {
        now += interval.current
        _ = interval.passed(interval.current, now: now)
      }
    }
    pass()
    #expect(interval.current == low, "not at once")
    now += KeepaliveTunables.rest
    for _ in 0..<20 { pass() }
    #expect(interval.current == KeepaliveTunables.longest)
    #expect(interval.shutAfter == .seconds(20))
  }

  @Test func shorterPausesProveNothing() {
    var interval = KeepaliveInterval()
    for _ in 0..<1_000 { _ = interval.passed(.seconds(10), now: Self.start) }
    #expect(interval.current == KeepaliveTunables.initial)
    for _ in 0..<1_000 { _ = interval.shut(.seconds(2), now: Self.start) }
    #expect(interval.current == KeepaliveTunables.initial)
  }
}

/// What a pair tells of pauses, over a link that forgets.
@Suite struct GapTests {
  private func world(seed: UInt64) -> World {
    let world = World(
      seed: seed, links: [.udp(1, delay: .milliseconds(10)), .relay(delay: .milliseconds(20))])
    world.begin()
    for node in 0..<2 { world.nodes[node].setHeld(true, now: world.now) }
    return world
  }

  private func passed(_ world: World, _ node: Int) -> [TimeAmount] {
    world.events[node].compactMap {
      if case .gapPassed(let gap, isV4: true) = $0.event { gap } else { nil }
    }
  }
  private func shut(_ world: World, _ node: Int) -> [TimeAmount] {
    world.events[node].compactMap {
      if case .gapShut(let gap, isV4: true) = $0.event { gap } else { nil }
    }
  }

  @Test func pausesThatPassAreTold() {
    let world = world(seed: 1)
    world.run(for: .minutes(10))
    for node in 0..<2 {
      #expect(passed(world, node).count > 5, "node \(node)")
      #expect(passed(world, node).allSatisfy { $0 >= .seconds(17) && $0 <= .seconds(21) })
      #expect(shut(world, node) == [], "node \(node)")
    }
  }

  @Test func aLongerIntervalIsKept() {
    let world = world(seed: 2)
    world.run(for: .minutes(2))
    for node in 0..<2 { world.nodes[node].setIdlePing(.seconds(60), isV4: true, now: world.now) }
    let before = world.sentBytes[0] + world.sentBytes[1]
    world.run(for: .minutes(60))
    let bytes = world.sentBytes[0] + world.sentBytes[1] - before
    // A PING and a PONG of 64 bytes sealed every 52 to 60 s, now and then of both
    // ends, and those of the relay every 60 s. Every 20 s it would be 31,000.
    #expect(bytes < 24_000, "\(bytes)")
    let told = passed(world, 0) + passed(world, 1)
    #expect(told.count > 20 && told.allSatisfy { $0 > .seconds(50) || $0 < .seconds(21) })
  }

  /// The hole is shut while nobody speaks, and opens again when both have spoken.
  @Test func aHoleThatWasShutIsToldOnceANewOneIsThere() {
    let world = world(seed: 3)
    world.run(for: .minutes(5))
    world.links[0].passes = [false, false]
    // A minute after the death of the path would be something else.
    world.run(for: .seconds(25))
    #expect(shut(world, 0) == [] && shut(world, 1) == [], "nothing proves it yet")
    world.links[0].passes = [true, true]
    world.run(for: .seconds(10))
    #expect(shut(world, 0).count + shut(world, 1).count >= 1)
    for node in 0..<2 { #expect(shut(world, node).allSatisfy { $0 > .seconds(15) }) }
  }

  @Test func anOutageOfEverythingIsNoRouter() {
    for seed in 4...24 as ClosedRange<UInt64> {
      let world = world(seed: seed)
      world.run(for: .minutes(5) + .seconds(Int64(seed)))
      for link in world.links.indices { world.links[link].passes = [false, false] }
      world.run(for: .seconds(40))
      for link in world.links.indices { world.links[link].passes = [true, true] }
      world.run(for: .minutes(2))
      #expect(shut(world, 0) == [] && shut(world, 1) == [], "seed \(seed)")
    }
  }

  @Test func onOneLinkNothingIsLearnt() {
    var context = AddressContext()
    context.localPrefixes = [AddressPrefix(IPAddress(198, 51, 100, 9), 24)]
    let world = world(seed: 25)
    world.nodes[0].setContext(context)
    world.run(for: .minutes(10))
    #expect(passed(world, 0) == [])
  }
}
