/// Loss recovery and the controllers, up close: RFC 9002, 9438, 9406, 8985.

import Bytes
import Mux
import Testing

@Suite struct RecoveryTests {
  private func sample(
    _ now: Instant, bytes: Int, roundTrip: TimeAmount = .milliseconds(50), inFlight: Int = 0,
    utilised: Bool = true, roundEnded: Bool = false
  ) -> AckSample {
    AckSample(
      now: now, bytes: bytes, inFlight: inFlight, isInRecovery: false, newestSentAt: now - roundTrip,
      roundTrip: roundTrip, smoothed: roundTrip, minimum: roundTrip, deliveryRate: 0,
      isRateAppLimited: false, wasUtilised: utilised, roundEnded: roundEnded, lostBytes: 0)
  }

  @Test func cubicGrowsAlongTheCurveOfTheRFC() {
    // 1,000 segments, one loss, 50 ms: W(t) = C (t − K)³ + W_max.
    let segment = 1_000.0
    var cubic = Cubic(packet: 1_000)
    var now = start
    while cubic.window < 1_000_000 {
      cubic.acknowledged(sample(now, bytes: 10_000))
      now += .microseconds(100)
    }
    let windowMax = Double(cubic.window)
    cubic.congested(now: now)
    #expect(abs(Double(cubic.window) - 0.7 * windowMax) < 2)
    let k = cubeRoot(windowMax / segment * 0.3 / 0.4)
    #expect(abs(k * k * k - windowMax / segment * 0.75) < 0.01)
    let epoch = now
    for step in 1...400 {
      // One acknowledged window per 50 ms, in ten pieces.
      for _ in 0..<10 {
        now += .milliseconds(5)
        cubic.acknowledged(sample(now, bytes: cubic.window / 10))
      }
      let t = (now - epoch).inSeconds
      let expected = 0.4 * (t - k) * (t - k) * (t - k) * segment + windowMax
      let ratio = Double(cubic.window) / expected
      #expect(ratio > 0.97 && ratio < 1.05, "step \(step): \(cubic.window) against \(expected)")
      if expected > 3 * windowMax { break }
    }
  }

  @Test func cubicIsAsFastAsRenoOnShortPaths() {
    // §4.3: one round trip adds 3(1−β)/(1+β) segments.
    var cubic = Cubic(packet: 1_000)
    var now = start
    cubic.acknowledged(sample(now, bytes: 10_000))
    cubic.congested(now: now)
    let before = cubic.window
    for _ in 0..<20 {
      now += .milliseconds(1)
      cubic.acknowledged(sample(now, bytes: cubic.window, roundTrip: .milliseconds(1)))
    }
    let grown = Double(cubic.window - before) / 1_000
    // Reno's slope until the former window is reached, then one segment each.
    #expect(grown > 20 * CubicConstants.renoAlpha - 1 && grown < 20, "\(grown)")
  }

  @Test func unusedWindowDoesNotGrow() {
    var cubic = Cubic(packet: 1_000)
    let before = cubic.window
    var now = start
    for _ in 0..<100 {
      now += .milliseconds(10)
      cubic.acknowledged(sample(now, bytes: 5_000, utilised: false))
    }
    #expect(cubic.window == before)
    cubic.congested(now: now)
    let low = cubic.window
    for _ in 0..<500 {
      now += .milliseconds(10)
      cubic.acknowledged(sample(now, bytes: 1_000, utilised: false))
    }
    #expect(cubic.window == low)
    // §5.8: the idle five seconds are not on the curve.
    now += .milliseconds(10)
    cubic.acknowledged(sample(now, bytes: 1_000))
    #expect(cubic.window < low + 1_000)
  }

  @Test func spuriousLossIsUndone() {
    var cubic = Cubic(packet: 1_000)
    var now = start
    for _ in 0..<20 {
      now += .milliseconds(10)
      cubic.acknowledged(sample(now, bytes: 10_000))
    }
    let before = cubic.window
    cubic.congested(now: now)
    #expect(cubic.window < before && !cubic.isSlowStart)
    cubic.undo()
    #expect(cubic.window == before && cubic.isSlowStart)
    cubic.undo()
    #expect(cubic.window == before)
  }

  @Test func hyStartLeavesSlowStartWhenTheRoundTripGrows() {
    var growth = HyStart()
    var over = false
    // 20 ms, then 30: conservative, over after five more rounds.
    for round in 0..<3 {
      growth.roundEnded()
      for _ in 0..<4 { over = growth.sampled(.milliseconds(20)) || over }
      #expect(!over && !growth.isConservative, "round \(round)")
    }
    growth.roundEnded()
    for _ in 0..<4 { over = growth.sampled(.milliseconds(30)) || over }
    #expect(growth.isConservative && !over)
    for round in 0..<5 {
      growth.roundEnded()
      for _ in 0..<4 { over = growth.sampled(.milliseconds(31)) || over }
      #expect(over == (round == 4), "round \(round)")
    }
    // A fluke: back to slow start.
    var fluke = HyStart()
    for milliseconds in [20, 20, 30] as [Int64] {
      fluke.roundEnded()
      for _ in 0..<4 { _ = fluke.sampled(.milliseconds(milliseconds)) }
    }
    #expect(fluke.isConservative)
    fluke.roundEnded()
    for _ in 0..<4 { _ = fluke.sampled(.milliseconds(21)) }
    #expect(!fluke.isConservative)
  }

  @Test func pacerLetsTrainsGoAndKeepsTheRate() {
    for rate in [100_000.0, 5_000_000, 125_000_000, 1_250_000_000] {
      var pacer = Pacer()
      var now = start
      var sent = 0
      var longest = 0
      let end = start + .seconds(2)
      while now < end {
        var train = 0
        while true {
          pacer.refill(rate: rate, packet: 1_400, now: now)
          if let until = pacer.wait(rate: rate, packet: 1_400, now: now) {
            #expect(until - now >= .milliseconds(1), "never a finer timer")
            now = until
            break
          }
          pacer.spend(1_400)
          train += 1_400
        }
        sent += train
        longest = max(longest, train)
      }
      let share = Double(sent) / (rate * 2)
      #expect(share > 0.98 && share < 1.1, "rate \(rate): \(share)")
      #expect(Double(longest) <= max(67_000, rate * 0.0013 + 1_400), "rate \(rate): \(longest)")
    }
  }

  @Test func probeResendsTheTail() throws {
    // The last packets are lost and nothing follows to reveal it.
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 5_000, finishes: false)
    world.run(for: .milliseconds(100))
    world.toB[0]!.isDown = true
    world.a.send(id, total: 0, finishes: true)
    _ = world.a.mux.write(id, pattern(id.number, 5_000..<5_000))
    world.run(for: .milliseconds(5))
    world.toB[0]!.isDown = false
    let before = world.now
    #expect(world.run(for: .seconds(2)) { world.b.finished.contains(id) })
    #expect(world.now - before < .milliseconds(150), "\((world.now - before).inMilliseconds)")
  }

  @Test func spuriousLossesRestoreTheWindowAndWidenThePatience() throws {
    // 3 ‰ of the packets come 15 ms late on a 20 ms path: more than the RFC's
    // threshold tolerates, until RACK has learnt it.
    let world = World(seed: 7)
    var link = Link()
    link.delay = .milliseconds(10)
    link.rate = 12_500_000
    link.reorder = 3_000
    link.lateness = .milliseconds(15)
    link.queue = 4_000_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 60_000_000)
    world.run(for: .seconds(1))
    let first = world.a.mux.laneStatistics(0)!
    world.run(for: .seconds(3))
    let last = world.a.mux.laneStatistics(0)!
    let dropped = UInt64(world.toB[0]!.dropped)
    #expect(first.packetsLostSpuriously > 0)
    #expect(last.packetsLost - last.packetsLostSpuriously <= dropped)
    #expect(
      last.packetsLostSpuriously - first.packetsLostSpuriously < 20,
      "patience was learnt: \(first.packetsLostSpuriously) \(last.packetsLostSpuriously)")
    #expect((world.b.received[id] ?? 0) > 40_000_000, "\(world.b.received[id] ?? 0)")
    #expect(world.a.count { $0 == .laneLossSpurious(0) } > 0)
  }

  @Test func longBlackoutCollapsesTheWindow() throws {
    let world = World()
    var link = Link()
    link.rate = 5_000_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 20_000_000)
    world.run(for: .seconds(1))
    let before = world.a.mux.laneStatistics(0)!.congestionWindow
    world.toB[0]!.isDown = true
    world.toA[0]!.isDown = true
    world.run(for: .seconds(5))
    world.toB[0]!.isDown = false
    world.toA[0]!.isDown = false
    let told = world.run(for: .seconds(10)) { world.a.log.contains(.laneCongestionPersistent(0)) }
    #expect(told)
    #expect(world.a.mux.laneStatistics(0)!.congestionWindow < before / 4)
    #expect(world.run(for: .seconds(20)) { world.b.received[id] == 20_000_000 })
  }

  @Test func idleLaneBeginsAnew() throws {
    let world = World()
    var link = Link()
    link.rate = 12_500_000
    link.queue = 4_000_000
    world.addLane(0, link)
    world.a.send(try world.a.open(now: world.now), total: 3_000_000)
    world.run(for: .seconds(5))
    let grown = world.a.mux.laneStatistics(0)!.congestionWindow
    world.run(for: .seconds(20))
    world.a.send(try world.a.open(now: world.now), total: 1)
    world.run(for: .seconds(1))
    #expect(world.a.mux.laneStatistics(0)!.congestionWindow == grown, "kept for 30 s")
    world.run(for: .seconds(40))
    world.a.send(try world.a.open(now: world.now), total: 1)
    world.run(for: .seconds(1))
    #expect(world.a.mux.laneStatistics(0)!.congestionWindow < grown / 2)
  }

  @Test func anIdleLaneForgetsItsLosses() throws {
    // Losses keep the window small; what comes 40 s later on the mended path has
    // its slow start, as the first transfer of a new connection would.
    for seed: UInt64 in 1...5 {
      let world = World(seed: seed)
      var link = Link()
      link.rate = 25_000_000
      link.delay = .milliseconds(25)
      link.queue = 1_250_000
      link.loss = 10_000
      world.addLane(0, link)
      let first = try world.a.open(now: world.now)
      world.a.send(first, total: 5_000_000)
      #expect(world.run(for: .seconds(60)) { world.b.finished.contains(first) }, "seed \(seed)")
      world.run(for: .seconds(40))
      world.toB[0]!.loss = 0
      world.toA[0]!.loss = 0
      let second = try world.a.open(now: world.now)
      world.a.send(second, total: 20_000_000)
      #expect(world.run(for: .seconds(3)) { world.b.finished.contains(second) }, "seed \(seed)")
    }
  }

  @Test func acknowledgementsAreFewAndNeverLate() throws {
    let world = World()
    var link = Link()
    link.rate = 25_000_000
    link.delay = .milliseconds(25)
    link.queue = 4_000_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 1 << 30)
    world.run(for: .seconds(2))
    let before = (world.toA[0]!.sent, world.b.received[id] ?? 0, world.toB[0]!.dropped)
    world.run(for: .seconds(2))
    let answers = world.toA[0]!.sent - before.0
    let rounds = 2_000 / 50
    #expect(world.toB[0]!.dropped == before.2)
    #expect(answers <= rounds * 6, "\(answers) packets back in \(rounds) round trips")
    #expect((world.b.received[id] ?? 0) - before.1 > 45_000_000)
    // One small packet on an idle lane is answered at once.
    let quiet = World()
    quiet.addLane(0)
    let single = try quiet.a.open(now: quiet.now)
    quiet.a.send(single, total: 1, finishes: false)
    quiet.run(for: .milliseconds(100))
    #expect(quiet.a.mux.laneStatistics(0)!.smoothedRoundTrip < .milliseconds(21))
    #expect(quiet.a.mux.laneStatistics(0)!.bytesInFlight == 0)
  }
}

@Suite struct MutationTests {
  /// Runs a small transfer with a protection switched off.
  private func survives(_ mutations: MuxMutations) throws -> Bool {
    var limits = MuxLimits()
    limits.mutations = mutations
    for seed in UInt64(1)...3 {
      let world = World(seed: seed, limits: limits)
      var link = Link()
      link.loss = 30_000
      world.addLane(0, link)
      let id = try world.a.open(now: world.now)
      let idle = try world.a.open(now: world.now)
      world.b.unread.insert(idle.number)
      world.a.send(id, total: 300_000)
      world.a.send(idle, total: 300_000)
      world.run(for: .seconds(20))
      if world.b.received[id] != 300_000 || world.b.failure != nil { return false }
      if world.b.mux.readableCount(idle) > 65_536 { return false }
    }
    return true
  }

  @Test func eachProtectionIsMissedWhenItIsOff() throws {
    #expect(try survives([]))
    #expect(try !survives(.noRetransmission))
    #expect(try !survives(.ignorePeerCredit))
    #expect(try !survives([.ignorePeerCredit, .noCreditCheck]))
    // Without the seen set a repeated SYN is dialled again.
    var limits = MuxLimits()
    limits.mutations = .noSeenSet
    let mux = victim(limits: limits)
    #expect(feed(mux, [PacketBuilder(number: 0).syn(1).rst(1)]) == nil)
    while takePacket(mux) != nil {}
    #expect(feed(mux, [PacketBuilder(number: 1).ack(largest: 0), PacketBuilder(number: 2).syn(1)]) == nil)
    let opened = events(mux).filter { if case .opened = $0 { true } else { false } }
    #expect(opened.count == 2)
  }
}
