/// Several lanes: switches, deaths, suspicion, warming, TCP carriers.

import Bytes
import Mux
import Testing

@Suite struct LaneTests {
  @Test func switchMidTransferLosesNothingAndRepeatsNothing() throws {
    for seed in UInt64(1)...6 {
      let world = World(seed: seed)
      var slow = Link()
      slow.delay = .milliseconds(80)
      slow.rate = 2_000_000
      world.addLane(1, slow)
      var fast = Link()
      fast.delay = .milliseconds(10)
      fast.rate = 5_000_000
      world.addLane(2, fast)
      world.setPrimary(1)
      let total = 2_000_000
      world.b.echoTotal = total
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: total)
      world.run(for: .milliseconds(Int64(300 + seed * 37)))
      let sent = world.toB[1]!.bytes + world.toB[2]!.bytes
      #expect(sent > 0)
      // Back and forth; the slow path stays alive, so what is in flight there
      // arrives and is acknowledged over the other path.
      for round in 0..<6 {
        world.setPrimary(round % 2 == 0 ? 2 : 1)
        world.run(for: .milliseconds(97))
      }
      world.setPrimary(2)
      #expect(world.run(for: .seconds(30)) { world.a.closed.contains(id) }, "seed \(seed)")
      #expect(world.b.received[id] == total && world.a.received[id] == total, "seed \(seed)")
      #expect(world.a.wrongBytes + world.b.wrongBytes == 0)
      let lost = [1, 2].map { world.a.mux.laneStatistics($0)?.packetsLost ?? 0 }
      let dropped = UInt64(world.toB[1]!.dropped + world.toB[2]!.dropped)
      #expect(lost[0] + lost[1] <= dropped, "a switch alone re-sends nothing: \(lost) \(dropped)")
    }
  }

  @Test func deadLaneIsFollowedByTheNextAtOnce() throws {
    let world = World()
    var link = Link()
    link.rate = 5_000_000
    world.addLane(1, link)
    world.addLane(2, link)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 3_000_000)
    world.run(for: .milliseconds(300))
    let before = world.b.received[id] ?? 0
    world.toB[1]!.isDown = true
    world.toA[1]!.isDown = true
    world.run(for: .milliseconds(150))
    #expect(world.a.count { if case .laneProbeTimeout(1, _) = $0 { true } else { false } } > 0)
    // The driver removes it on one side and suspects it on the other.
    world.setPrimary(2)
    world.a.mux.removeLane(1, now: world.now)
    world.b.mux.suspectLane(1, now: world.now)
    #expect(world.run(for: .seconds(5)) { world.b.received[id] == 3_000_000 })
    #expect(before < 3_000_000)
    #expect(world.b.wrongBytes == 0)
    #expect(world.a.mux.laneStatistics(1) == nil)
    world.b.mux.removeLane(1, now: world.now)
    world.run(for: .seconds(20))
    #expect(world.isQuiet)
  }

  @Test func everyLaneDeadThenOneReturns() throws {
    let world = World()
    world.addLane(1)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 500_000)
    world.run(for: .milliseconds(50))
    world.toB[1]!.isDown = true
    world.toA[1]!.isDown = true
    world.run(for: .seconds(100))
    let counts = world.a.log.compactMap { event -> Int? in
      if case .laneProbeTimeout(1, let count) = event { count } else { nil }
    }
    #expect(counts == Array(1...counts.count), "told each time, counting up")
    #expect(counts.count > 8 && counts.count < 30, "backed off: \(counts.count)")
    world.a.mux.removeLane(1, now: world.now)
    world.b.mux.removeLane(1, now: world.now)
    world.run(for: .seconds(100))
    world.addLane(3)
    world.setPrimary(3)
    #expect(world.run(for: .seconds(5)) { world.b.received[id] == 500_000 })
    #expect(world.b.wrongBytes == 0)
  }

  @Test func closedLaneNumbersNeverGoBack() throws {
    let world = World()
    world.addLane(1)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 100_000)
    world.run(for: .milliseconds(200))
    let sent = world.a.mux.laneStatistics(1)!.packetsSent
    world.a.mux.removeLane(1, now: world.now)
    world.a.mux.addLane(1, kind: .datagram, maximumPacket: 1_200, now: world.now)
    world.a.send(try world.a.open(now: world.now), total: 1)
    let packet = try #require(takePacket(world.a.mux, lane: 1, now: world.now))
    var number: UInt64 = 0
    for byte in packet[2..<8] { number = number << 8 | UInt64(byte) }
    #expect(number == sent)
  }

  @Test func suspectLaneSendsAgainElsewhereAndStillCounts() throws {
    let world = World()
    var link = Link()
    link.delay = .milliseconds(200)
    world.addLane(1, link)
    world.addLane(2)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 10_000)
    world.run(for: .milliseconds(20))
    #expect(world.a.mux.laneStatistics(1)!.bytesInFlight > 0)
    world.a.mux.suspectLane(1, now: world.now)
    world.setPrimary(2)
    #expect(world.a.mux.laneStatistics(1)!.bytesInFlight == 0)
    #expect(world.run(for: .milliseconds(40)) { world.b.received[id] == 10_000 })
    world.run(for: .seconds(2))
    let statistics = world.a.mux.laneStatistics(1)!
    #expect(statistics.packetsLostSpuriously > 0, "late acknowledgements are still understood")
    #expect(statistics.congestionEvents == 0)
    #expect(world.b.wrongBytes == 0)
  }

  /// The receiver's acknowledgements of lane 2 left by lane 1, which is dead:
  /// when it hears of that it says them again, and nobody waits for a probe.
  @Test func acknowledgementsLostWithAPathAreSaidAgain() throws {
    let world = World()
    world.addLane(1)
    var link = Link()
    link.delay = .milliseconds(10)
    world.addLane(2, link)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 200_000)
    world.run(for: .milliseconds(20))
    world.toB[1]!.isDown = true
    world.toA[1]!.isDown = true
    // The sender changes first, and has never measured the new lane.
    world.a.primary = 2
    world.a.mux.suspectLane(1, now: world.now)
    world.run(for: .milliseconds(15))
    world.b.primary = 2
    world.b.mux.suspectLane(1, now: world.now)
    world.run(for: .milliseconds(12))
    let statistics = world.a.mux.laneStatistics(2)!
    #expect(statistics.packetsSent > 0 && statistics.hasRoundTrip, "acknowledged at once")
    #expect(world.run(for: .milliseconds(300)) { world.b.received[id] == 200_000 })
    #expect(world.b.wrongBytes == 0)
  }

  @Test func aRoundTripFromElsewhereCountsUntilTheLaneKnowsBetter() throws {
    let world = World()
    var link = Link()
    link.delay = .milliseconds(10)
    world.addLane(1, link)
    world.a.mux.setRoundTrip(1, .milliseconds(70), now: world.now)
    #expect(world.a.mux.laneStatistics(1)!.smoothedRoundTrip == .milliseconds(70))
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 10_000)
    world.run(for: .milliseconds(200))
    world.a.mux.setRoundTrip(1, .milliseconds(70), now: world.now)
    #expect(world.a.mux.laneStatistics(1)!.smoothedRoundTrip < .milliseconds(50))
  }

  @Test func warmedLaneHasWindowBeforeTheSwitch() throws {
    let world = World()
    var link = Link()
    link.rate = 12_500_000
    link.delay = .milliseconds(25)
    world.addLane(1, link)
    world.addLane(2, link)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 40_000_000)
    world.run(for: .milliseconds(800))
    let cold = world.a.mux.laneStatistics(2)!.congestionWindow
    for _ in 0..<400 {
      for _ in 0..<4 { world.fill(world.a, 2, .warm) }
      world.run(for: .milliseconds(1))
    }
    let warm = world.a.mux.laneStatistics(2)!
    #expect(warm.congestionWindow > 4 * cold, "\(cold) → \(warm.congestionWindow)")
    #expect(warm.hasRoundTrip)
    world.setPrimary(2)
    #expect(world.run(for: .seconds(20)) { world.b.received[id] == 40_000_000 })
    #expect(world.b.wrongBytes == 0, "duplicates are not delivered twice")
    #expect(world.a.failure == nil)
  }

  @Test func otherLaneProbesButCarriesNoNewData() throws {
    let world = World()
    world.addLane(1)
    world.addLane(2)
    world.setPrimary(1)
    world.a.send(try world.a.open(now: world.now), total: 300_000)
    world.run(for: .milliseconds(100))
    #expect(world.toB[2]!.sent == 0)
    #expect(takePacket(world.a.mux, lane: 2, mode: .probe, now: world.now) == nil)
  }

  @Test func nothingIsSentAgainOnAnOpenTCPCarrier() throws {
    let world = World()
    var tcp = Link()
    tcp.rate = 500_000
    tcp.delay = .milliseconds(20)
    world.addLane(1, kind: .ordered, maximumPacket: 65_488, tcp)
    world.addLane(2)
    world.setPrimary(1)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 2_000_000)
    world.run(for: .seconds(1))
    // The connection stalls for four seconds, then goes on.
    world.toB[1]!.delay = .seconds(4)
    world.run(for: .seconds(3))
    #expect(world.a.count { if case .laneProbeTimeout(1, _) = $0 { true } else { false } } > 0)
    #expect(world.a.mux.laneStatistics(1)!.packetsLost == 0)
    world.toB[1]!.delay = .milliseconds(20)
    #expect(world.run(for: .seconds(60)) { world.b.received[id] == 2_000_000 })
    let carried = world.toB[1]!.bytes
    #expect(carried < 2_000_000 * 102 / 100, "every byte went once: \(carried)")
  }

  @Test func queuedOnTCPIsSentAgainAfterTheSwitch() throws {
    // Three ways: a probe time-out after the switch, removal, suspicion.
    for way in 0..<3 {
      let world = World()
      var tcp = Link()
      tcp.delay = .milliseconds(20)
      world.addLane(1, kind: .ordered, maximumPacket: 65_488, tcp)
      world.addLane(2)
      world.setPrimary(1)
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: 400_000)
      world.run(for: .milliseconds(60))
      world.toB[1]!.isDown = true
      world.toA[1]!.isDown = true
      world.run(for: .milliseconds(10))
      world.setPrimary(2)
      if way == 1 { world.a.mux.removeLane(1, now: world.now) }
      if way == 2 { world.a.mux.suspectLane(1, now: world.now) }
      let before = world.now
      #expect(world.run(for: .seconds(10)) { world.b.received[id] == 400_000 }, "way \(way)")
      if way > 0 { #expect(world.now - before < .milliseconds(400), "way \(way)") }
      #expect(world.b.wrongBytes == 0)
    }
  }

  @Test func packetsOnTCPHoldTheLineTwoMilliseconds() throws {
    for (rate, most) in [(500_000, 1_400), (10_000_000, 21_000), (200_000_000, 65_488)] {
      let world = World()
      var tcp = Link()
      tcp.rate = rate
      tcp.delay = .milliseconds(2)
      world.addLane(1, kind: .ordered, maximumPacket: 65_488, tcp)
      world.setPrimary(1)
      world.a.send(try world.a.open(now: world.now), total: 1 << 30)
      world.run(for: .milliseconds(500))
      let before = (world.toB[1]!.bytes, world.toB[1]!.sent)
      world.run(for: .milliseconds(500))
      let size = (world.toB[1]!.bytes - before.0) / max(1, world.toB[1]!.sent - before.1)
      #expect(size <= most && size > most / 3, "rate \(rate): \(size)")
      let queued = world.a.mux.laneStatistics(1)!.smoothedRoundTrip
      #expect(queued < .milliseconds(160), "rate \(rate): \(queued.inMilliseconds) ms")
    }
  }

  @Test func smallestPathCarriesEverything() throws {
    // 548 bytes of UDP payload: 512 inside.
    let world = World()
    world.addLane(0, maximumPacket: 512)
    let id = try world.a.open(String(repeating: "r", count: 480), now: world.now)
    world.a.send(id, total: 100_000, finishes: false)
    #expect(world.a.mux.sendDatagram(id, pattern(1, 0..<5_000), now: world.now))
    #expect(world.run(for: .seconds(5)) { world.b.received[id] == 100_000 })
    #expect(world.b.datagrams[id] == [pattern(1, 0..<5_000)])
    let words = String(repeating: "w", count: 256)
    world.a.mux.reset(id, code: 256, words: words)
    world.run(for: .seconds(5))
    #expect(world.b.log.contains(.reset(id, code: 256, words: words)))
    world.a.mux.setMaximumPacket(0, 1_400)
    world.a.send(try world.a.open(now: world.now), total: 100_000)
    world.run(for: .seconds(1))
    #expect(world.toB[0]!.sent < 300 + 100 + 60)
  }
}
