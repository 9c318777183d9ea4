import Bytes
import Relay
import Testing

/// Many channels over shared legs under a virtual clock.
@Suite struct FairnessTests {
  struct Sender {
    var connection: UInt32
    var number: UInt32
    var size: Int
    var id: ChannelID
  }

  /// `channels` greedy senders towards `sinks` legs in turn.
  static func world(
    channels: Int, sinks: Int, cap: Double?, limits: RelayLimits = RelayLimits(),
    sizes: [Int], random: inout SeededRandom
  ) throws -> (ChannelRouter, [Sender]) {
    let router = ChannelRouter(limits: limits, capMegabits: cap)
    for sink in 0..<sinks {
      _ = router.addLeg(connection: UInt32(sink), kind: .tcp, largestPacket: 65_535, now: at(0))
    }
    var senders: [Sender] = []
    for i in 0..<channels {
      let connection = UInt32(1_000 + i)
      _ = router.addLeg(connection: connection, kind: .tcp, largestPacket: 65_535, now: at(0))
      let opened = try router.open(
        mesh: 0, connectionA: connection, connectionB: UInt32(i % sinks), now: at(0))
      senders.append(
        Sender(
          connection: connection, number: opened.numberA,
          size: sizes.randomElement(using: &random)!,
          id: opened.id))
    }
    return (router, senders)
  }

  /// Keeps every queue filled for `milliseconds`; each sink takes `perMillisecond` bytes.
  static func run(
    _ router: ChannelRouter, _ senders: [Sender], sinks: Int, milliseconds: Int,
    perMillisecond: Int, stalled: Set<UInt32> = [], from start: Int = 0
  ) -> Int {
    let block = [UInt8](repeating: 0x55, count: 65_535)
    var total = 0
    var room = [Int](repeating: 0, count: sinks)
    for ms in start..<(start + milliseconds) {
      let now = at(Int64(ms))
      for sender in senders {
        // Twice what a fair share would be, so that every queue stands.
        let burst = max(1, 2 * perMillisecond * sinks / senders.count / sender.size)
        for _ in 0..<burst {
          router.receive(
            connection: sender.connection, channel: sender.number,
            block.span.bytes.extracting(0..<sender.size), now: now)
        }
      }
      router.advance(to: now)
      for sink in 0..<sinks where !stalled.contains(UInt32(sink)) {
        // A fill goes over its budget by part of a packet; the leg is busy with that.
        room[sink] = min(room[sink], 0) + perMillisecond
        guard room[sink] > 0 else { continue }
        let count = drain(router, UInt32(sink), budget: room[sink], now: now).count
        room[sink] -= count
        total += count
      }
    }
    return total
  }

  @Test func channelsShareALegEquallyWhateverTheirPackets() throws {
    for seed in 0..<8 as Range<UInt64> {
      var random = SeededRandom(testSeed: seed)
      let (router, senders) = try Self.world(
        channels: 20, sinks: 1, cap: nil, sizes: [120, 1_400, 9_000, 40_000], random: &random)
      _ = Self.run(router, senders, sinks: 1, milliseconds: 2_000, perMillisecond: 25_000)
      let shares = senders.map { Double(router.statistics(of: $0.id)!.aToB.bytesOut) }
      #expect(fairness(shares) >= 0.95, "seed \(seed): \(shares)")
    }
  }

  @Test func theCapHoldsWithinFivePercentAndIsSharedEqually() throws {
    for (seed, cap) in [(0, 1.0), (1, 10.0), (2, 10.0), (3, 100.0), (4, 400.0)]
      as [(UInt64, Double)]
    {
      var random = SeededRandom(testSeed: seed)
      let sinks = 4
      let (router, senders) = try Self.world(
        channels: 20, sinks: sinks, cap: cap, sizes: [1_200, 1_400, 4_000], random: &random)
      let milliseconds = 3_000
      let bytes = Self.run(
        router, senders, sinks: sinks, milliseconds: milliseconds, perMillisecond: 60_000)
      let shares = senders.map { Double(router.statistics(of: $0.id)!.aToB.bytesOut) }
      let megabits = Double(bytes) * 8 / Double(milliseconds) / 1_000
      #expect(abs(megabits - cap) <= 0.05 * cap, "seed \(seed): \(megabits) of \(cap)")
      #expect(fairness(shares) >= 0.95, "seed \(seed): \(shares)")
    }
  }

  /// Found through `-bw`: meshes with two busy channels were passed over for ever.
  @Test func meshesShareTheCapHoweverManyChannelsTheyHave() throws {
    for seed in 0..<4 as Range<UInt64> {
      var random = SeededRandom(testSeed: seed)
      let router = ChannelRouter(capMegabits: 10)
      _ = router.addLeg(connection: 0, kind: .tcp, largestPacket: 65_535, now: at(0))
      var senders: [Sender] = []
      var meshOfSender: [Int] = []
      for mesh in 0..<12 {
        for channel in 0..<Int.random(in: 1...3, using: &random) {
          let connection = UInt32(1_000 + mesh * 10 + channel)
          _ = router.addLeg(connection: connection, kind: .tcp, largestPacket: 65_535, now: at(0))
          let opened = try router.open(
            mesh: UInt32(mesh), connectionA: connection, connectionB: 0, now: at(0))
          senders.append(
            Sender(
              connection: connection, number: opened.numberA,
              size: [400, 1_400].randomElement(using: &random) ?? 400, id: opened.id))
          meshOfSender.append(mesh)
        }
      }
      _ = Self.run(router, senders, sinks: 1, milliseconds: 6_000, perMillisecond: 12_500)
      var shares = [Double](repeating: 0, count: 12)
      for (sender, mesh) in zip(senders, meshOfSender) {
        shares[mesh] += Double(router.statistics(of: sender.id)!.aToB.bytesOut)
      }
      #expect(fairness(shares) >= 0.95, "seed \(seed): \(shares)")
    }
  }

  @Test func oneStalledLegKeepsNothingFromTheOthers() throws {
    for cap in [nil, 20.0] as [Double?] {
      var random = SeededRandom(testSeed: 3)
      let (router, senders) = try Self.world(
        channels: 16, sinks: 4, cap: cap, sizes: [1_400], random: &random)
      _ = Self.run(
        router, senders, sinks: 4, milliseconds: 2_000, perMillisecond: 5_000, stalled: [2])
      for (i, sender) in senders.enumerated() {
        let out = Double(router.statistics(of: sender.id)!.aToB.bytesOut) * 8 / 2e6
        if i % 4 == 2 {
          #expect(out == 0)
        } else {
          // Twelve channels share the cap, or four share a leg of 40 Mbit/s.
          let expected = cap.map { $0 / 12 } ?? 10
          #expect(
            abs(out - expected) < 0.07 * expected,
            "cap \(cap ?? 0): \(out) \(router.statistics(of: sender.id)!.aToB)")
        }
      }
      #expect(router.queueMemory <= 16 * router.limits.queueBytes)
    }
  }

  @Test func aSparseChannelDoesNotWaitBehindABulkOne() throws {
    var random = SeededRandom(testSeed: 5)
    var (router, senders) = try Self.world(
      channels: 9, sinks: 1, cap: nil, sizes: [1_400], random: &random)
    let sparse = senders.removeLast()
    var worst = 0
    for ms in 0..<2_000 {
      if ms % 20 == 0 {
        router.receive(
          connection: sparse.connection, channel: sparse.number, bytes([1, 2]).span.bytes,
          now: at(Int64(ms)))
      }
      _ = Self.run(router, senders, sinks: 1, milliseconds: 1, perMillisecond: 12_500, from: ms)
      let waiting = router.statistics(of: sparse.id)!.aToB.queuedBytes
      if waiting > 0 { worst = max(worst, ms % 20 + 1) }
    }
    // One turn of eight others is 33 KB, 2.6 ms at this rate.
    #expect(worst <= 4)
    #expect(router.statistics(of: sparse.id)!.aToB.packetsOut >= 99)
  }

  @Test func delayStaysNearTenMillisecondsForASenderThatBacksOff() throws {
    var random = SeededRandom(testSeed: 6)
    let (router, senders) = try Self.world(
      channels: 1, sinks: 1, cap: nil, sizes: [1_400], random: &random)
    let sender = senders[0]
    let block = [UInt8](repeating: 1, count: 1_400)
    // AIMD over a 12.5 KB/ms leg with 40 ms round trip: halve on loss, once a round trip.
    var window = 20.0
    var credit = 0.0
    var lastBackOff = -1_000
    var seenDrops: UInt64 = 0
    var delays: [Double] = []
    for ms in 0..<20_000 {
      credit += window / 40
      while credit >= 1 {
        router.receive(
          connection: sender.connection, channel: sender.number, block.span.bytes,
          now: at(Int64(ms)))
        credit -= 1
      }
      _ = drain(router, 0, budget: 12_500, now: at(Int64(ms)))
      let statistics = router.statistics(of: sender.id)!.aToB
      let drops = statistics.droppedDelay + statistics.droppedFull
      if drops > seenDrops {
        if ms - lastBackOff > 40 {
          window *= 0.7
          lastBackOff = ms
        }
        seenDrops = drops
      } else {
        window += 1.0 / 40
      }
      if ms > 5_000 { delays.append(Double(statistics.queuedBytes) / 12_500) }
    }
    let mean = delays.reduce(0, +) / Double(delays.count)
    let sorted = delays.sorted()
    #expect(mean < 20, "mean \(mean) ms")
    #expect(sorted[sorted.count * 99 / 100] < 60)
    #expect(router.statistics(of: sender.id)!.aToB.droppedFull == 0)
    #expect(router.statistics(of: sender.id)!.aToB.droppedDelay > 0)
  }

  @Test func memoryStaysWithinItsLimitsUnderAFlood() throws {
    for seed in 0..<4 as Range<UInt64> {
      var random = SeededRandom(testSeed: seed)
      var limits = RelayLimits()
      limits.queueBytes = 64 << 10
      limits.totalQueueBytes = 512 << 10
      let (router, senders) = try Self.world(
        channels: 40, sinks: 2, cap: nil, limits: limits, sizes: [60, 1_400, 30_000],
        random: &random)
      let block = [UInt8](repeating: 1, count: 30_000)
      for round in 0..<3_000 {
        let sender = senders.randomElement(using: &random)!
        for _ in 0..<8 {
          router.receive(
            connection: sender.connection, channel: sender.number,
            block.span.bytes.extracting(0..<sender.size), now: at(Int64(round)))
        }
        #expect(router.queueMemory <= limits.totalQueueBytes, "seed \(seed)")
      }
      for sender in senders {
        #expect(router.statistics(of: sender.id)!.aToB.highestQueuedBytes <= limits.queueBytes)
      }
      #expect(router.statistics.packetsDropped > 0)
    }
  }

  @Test func packetsOlderThanAnybodyWaitsForAreNotSent() throws {
    var random = SeededRandom(testSeed: 1)
    let (router, senders) = try Self.world(
      channels: 1, sinks: 1, cap: nil, sizes: [1_000], random: &random)
    _ = drain(router, 0, now: at(0))
    _ = Self.run(router, senders, sinks: 1, milliseconds: 100, perMillisecond: 1_000, stalled: [0])
    let out = frames(drain(router, 0, now: at(5_000)))
    #expect(out.count == 1)
    #expect(router.statistics(of: senders[0].id)!.aToB.droppedAge > 50)
  }

  @Test func theKernelsQueueShrinksWithTheRate() throws {
    var random = SeededRandom(testSeed: 1)
    let (router, senders) = try Self.world(
      channels: 2, sinks: 1, cap: nil, sizes: [1_000], random: &random)
    #expect(router.notSentLimit(connection: 0) == 65_536)
    _ = Self.run(router, senders, sinks: 1, milliseconds: 4_000, perMillisecond: 2_000)
    #expect((9_000...12_000).contains(router.notSentLimit(connection: 0)))
    #expect(
      router.notSentLimit(connection: 1_000) == 4_096
        || router.notSentLimit(connection: 1_000) == 65_536)
  }

  /// Anything in any order: what went in came out, was dropped, or waits.
  @Test func nothingIsLostFromTheBooks() throws {
    for seed in 0..<60 as Range<UInt64> {
      var random = SeededRandom(testSeed: seed)
      var limits = RelayLimits()
      limits.queueBytes = 16 << 10
      limits.totalQueueBytes = 256 << 10
      let router = ChannelRouter(limits: limits, capMegabits: seed % 2 == 0 ? 5 : nil)
      if seed % 3 == 0 { router.setMesh(1, capMegabits: 2, quotaBytes: 300_000) }
      var connections: [UInt32] = []
      var nextConnection: UInt32 = 0
      var open: [(OpenedChannel, UInt32, UInt32)] = []
      var sent: UInt64 = 0
      var out: UInt64 = 0
      let block = [UInt8](repeating: 1, count: 4_000)
      var now = at(0)
      for _ in 0..<2_000 {
        now += .microseconds(Int64.random(in: 0..<3_000, using: &random))
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<5:
          nextConnection += 1
          _ = router.addLeg(connection: nextConnection, kind: .tcp, largestPacket: 65_535, now: now)
          connections.append(nextConnection)
        case 5..<7:
          guard let gone = connections.randomElement(using: &random) else { continue }
          connections.removeAll { $0 == gone }
          router.removeLeg(connection: gone, now: now)
        case 7..<20:
          guard let a = connections.randomElement(using: &random),
            let b = connections.randomElement(using: &random)
          else { continue }
          let mesh = UInt32.random(in: 0..<3, using: &random)
          if let opened = try? router.open(mesh: mesh, connectionA: a, connectionB: b, now: now) {
            open.append((opened, a, b))
          }
        case 20..<24:
          guard let (channel, _, _) = open.randomElement(using: &random) else { continue }
          router.close(channel.id, now: now)
        case 24..<80:
          guard let (channel, a, _) = open.randomElement(using: &random), router.isOpen(channel.id)
          else { continue }
          for _ in 0..<Int.random(in: 1..<6, using: &random) {
            let size = Int.random(in: 1...4_000, using: &random)
            router.receive(
              connection: a, channel: channel.numberA, block.span.bytes.extracting(0..<size),
              now: now)
            sent += 1
          }
        default:
          guard let connection = connections.randomElement(using: &random) else { continue }
          let bytes = drain(
            router, connection, budget: Int.random(in: 1..<20_000, using: &random), now: now)
          out += UInt64(frames(bytes).count { $0.flags == 4 })
        }
        if now >= router.nextDeadline { router.advance(to: now) }
        open.removeAll { !router.isOpen($0.0.id) }
      }
      var queued: UInt64 = 0
      for connection in connections {
        while true {
          router.advance(to: now)
          let got = UInt64(frames(drain(router, connection, now: now)).count { $0.flags == 4 })
          now += .milliseconds(20)
          queued += got
          let waiting = open.reduce(0) { sum, entry in
            guard entry.1 == connection || entry.2 == connection,
              let statistics = router.statistics(of: entry.0.id)
            else { return sum }
            return sum + (entry.2 == connection ? statistics.aToB.queuedBytes : 0)
              + (entry.1 == connection ? statistics.bToA.queuedBytes : 0)
          }
          if waiting == 0 { break }
        }
      }
      #expect(router.statistics.packetsRelayed == out + queued, "seed \(seed)")
      #expect(
        sent == router.statistics.packetsRelayed + router.statistics.packetsDropped, "seed \(seed)")
      for connection in connections { router.removeLeg(connection: connection, now: now) }
      #expect(router.openChannelCount == 0, "seed \(seed)")
      #expect(router.queueMemory == 0, "seed \(seed)")
    }
  }
}
