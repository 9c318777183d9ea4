import Bytes
import Relay
import Testing

@Suite struct ChannelRouterTests {
  static func pair(
    limits: RelayLimits = RelayLimits(), cap: Double? = nil
  ) throws -> (ChannelRouter, OpenedChannel) {
    let router = ChannelRouter(limits: limits, capMegabits: cap)
    #expect(router.addLeg(connection: 1, kind: .tcp, largestPacket: 65_535, now: at(0)))
    #expect(router.addLeg(connection: 2, kind: .udp, largestPacket: 1_400, now: at(0)))
    let channel = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
    return (router, channel)
  }

  @Test func bothLegsHearOfAChannelAndWhatTheOtherCarries() throws {
    let (router, channel) = try Self.pair()
    let first = router.pollReady()
    let second = router.pollReady()
    let third = router.pollReady()
    #expect(Set([first, second]) == [1, 2])
    #expect(third == nil)
    let toA = frames(drain(router, 1, now: at(0)))
    let toB = frames(drain(router, 2, now: at(0)))
    #expect(toA == [OutFrame(number: channel.numberA, flags: 1, data: [2, 0x05, 0x78])])
    #expect(toB == [OutFrame(number: channel.numberB, flags: 1, data: [1, 0x05, 0x78])])
    #expect(channel.largestPacket == 1_400)
    #expect(channel.numberA & 0x8000_0000 == 0 && channel.numberA != 0)
  }

  @Test func aPacketLeavesUnderTheNumberOfTheOtherLeg() throws {
    let (router, channel) = try Self.pair()
    while router.pollReady() != nil {}
    _ = drain(router, 1, now: at(0))
    _ = drain(router, 2, now: at(0))
    router.receiveFrames(
      connection: 1,
      (frame(channel.numberA, 4, [1, 2, 3]) + frame(channel.numberA, 4, [4])).span.bytes,
      now: at(1))
    router.receive(connection: 2, channel: channel.numberB, bytes([9, 9]).span.bytes, now: at(1))
    let ready = [router.pollReady(), router.pollReady(), router.pollReady()]
    #expect(ready == [2, 1, nil])
    let toB = frames(drain(router, 2, now: at(2)))
    let toA = frames(drain(router, 1, now: at(2)))
    #expect(
      toB == [
        OutFrame(number: channel.numberB, flags: 4, data: [1, 2, 3]),
        OutFrame(number: channel.numberB, flags: 4, data: [4]),
      ])
    #expect(toA == [OutFrame(number: channel.numberA, flags: 4, data: [9, 9])])
    let statistics = try #require(router.statistics(of: channel.id))
    #expect(statistics.aToB.packetsOut == 2 && statistics.aToB.bytesOut == 4)
    #expect(statistics.bToA.packetsIn == 1 && statistics.bToA.bytesOut == 2)
  }

  @Test func packetsLargerThanTheOtherLegCarriesAreDropped() throws {
    let (router, channel) = try Self.pair()
    router.receive(
      connection: 1, channel: channel.numberA, [UInt8](repeating: 0, count: 1_401).span.bytes,
      now: at(1))
    router.receive(connection: 1, channel: channel.numberA, [UInt8]().span.bytes, now: at(1))
    let statistics = try #require(router.statistics(of: channel.id))
    #expect(statistics.aToB.droppedSize == 2 && statistics.aToB.queuedBytes == 0)
  }

  @Test func pingIsAnsweredWithItsOwnBytes() throws {
    let (router, _) = try Self.pair()
    _ = drain(router, 1, now: at(0))
    router.receiveFrames(connection: 1, frame(0, 8, [1, 2, 3]).span.bytes, now: at(1))
    let out = frames(drain(router, 1, now: at(1)))
    #expect(out == [OutFrame(number: 0, flags: 0x10, data: [1, 2, 3])])
  }

  @Test func closingFlushesBothQueuesAndTellsTheOtherLeg() throws {
    for ending: UInt8 in [0x02, 0x20] {
      let (router, channel) = try Self.pair()
      _ = drain(router, 1, now: at(0))
      _ = drain(router, 2, now: at(0))
      for _ in 0..<10 {
        router.receive(
          connection: 1, channel: channel.numberA, bytes([1, 2]).span.bytes, now: at(1))
        router.receive(connection: 2, channel: channel.numberB, bytes([3]).span.bytes, now: at(1))
      }
      let words: [UInt8] = ending == 0x20 ? [0, 7, 0x6e, 0x6f] : []
      router.receiveFrames(
        connection: 1, frame(channel.numberA, ending, words).span.bytes, now: at(2))
      let toB = frames(drain(router, 2, now: at(2)))
      let toA = frames(drain(router, 1, now: at(2)))
      #expect(toB == [OutFrame(number: channel.numberB, flags: ending, data: words)])
      #expect(toA.isEmpty)
      #expect(router.queueMemory == 0)
      #expect(router.openChannelCount == 0)
      #expect(router.statistics.packetsDropped == 20)
      guard case .channelEnded(let id, _) = router.pollEvent() else {
        Issue.record("no event")
        return
      }
      #expect(id == channel.id)
      // Packets that were under way meet nobody, not even the next channel.
      let next = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(3))
      #expect(next.numberA != channel.numberA)
      router.receive(connection: 1, channel: channel.numberA, bytes([1]).span.bytes, now: at(3))
      #expect(router.statistics.unknownChannel == 1)
      #expect(!router.isOpen(channel.id) && router.isOpen(next.id))
    }
  }

  @Test func aLostLegEndsItsChannelsAndOnlyThose() throws {
    let (router, first) = try Self.pair()
    #expect(router.addLeg(connection: 3, kind: .tcp, largestPacket: 9_000, now: at(0)))
    let second = try router.open(mesh: 0, connectionA: 2, connectionB: 3, now: at(0))
    for connection: UInt32 in 1...3 { _ = drain(router, connection, now: at(0)) }
    router.removeLeg(connection: 1, now: at(1))
    #expect(!router.isOpen(first.id) && router.isOpen(second.id))
    let toB = frames(drain(router, 2, now: at(1)))
    #expect(toB == [OutFrame(number: first.numberB, flags: 0x02, data: [])])
    router.receive(connection: 1, channel: first.numberA, bytes([1]).span.bytes, now: at(1))
    #expect(router.statistics.unknownLeg == 1)
    #expect(throws: OpenChannelFailure.self) {
      try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(1))
    }
  }

  @Test func idleChannelsEndAndIdleQueuesHoldNoMemory() throws {
    let (router, channel) = try Self.pair()
    router.receive(connection: 1, channel: channel.numberA, bytes([1]).span.bytes, now: at(0))
    _ = drain(router, 2, now: at(1))
    #expect(router.queueMemory > 0)
    router.advance(to: router.nextDeadline)
    router.advance(to: router.nextDeadline)
    #expect(router.queueMemory == 0)
    var now = at(2_000)
    while router.isOpen(channel.id), now < at(700_000) {
      now = max(now, router.nextDeadline)
      router.advance(to: now)
    }
    #expect(now >= at(600_000) && now < at(603_000))
    #expect(router.nextDeadline == .distantFuture)
  }

  @Test func framesCutAtEveryByteNeverTrapAndAreCounted() throws {
    let whole = frame(1, 4, [1, 2, 3, 4]) + frame(0, 8, [1])
    for cut in 0...whole.count {
      let (router, channel) = try Self.pair()
      var bytes = frame(channel.numberA, 4, [1, 2, 3, 4]) + frame(0, 8, [1])
      bytes.removeLast(whole.count - cut)
      router.receiveFrames(connection: 1, bytes.span.bytes, now: at(0))
      let isWhole = cut == 0 || cut == 11 || cut == whole.count
      #expect(router.statistics.malformed == (isWhole ? 0 : 1), "cut \(cut)")
    }
  }

  @Test func hostileFramesAreCountedAndThenTheLegIsGivenUp() throws {
    var random = SeededRandom(testSeed: 7)
    for bad: [UInt8] in [
      frame(0, 0), frame(0, 1), frame(1, 0xff), frame(1, 4), frame(1, 2, [1]), frame(1, 0x20, [1]),
      frame(0, 8, [UInt8](repeating: 0, count: 65)),
      frame(0, 0x10, [UInt8](repeating: 0, count: 65)), frame(1, 6), [1], frame(0, 0x40),
      frame(0, 0x80),
    ] {
      let (router, _) = try Self.pair()
      for _ in 0...router.limits.violationsPerLeg {
        router.receiveFrames(connection: 1, bad.span.bytes, now: at(0))
      }
      guard case .legMisbehaves(1) = router.pollEvent() else {
        Issue.record("not given up: \(bad)")
        continue
      }
      let again = router.pollEvent()
      #expect(again == nil)
    }
    let (router, _) = try Self.pair()
    for _ in 0..<20_000 {
      let count = Int.random(in: 0..<40, using: &random)
      router.receiveFrames(connection: 1, random.bytes(count).span.bytes, now: at(0))
      router.receiveFrames(
        connection: 1,
        frame(UInt32.random(in: 0...3, using: &random), UInt8.random(in: 0...255, using: &random))
          .span.bytes, now: at(0))
    }
    #expect(router.queueMemory <= 8_192)
  }

  @Test func aLegThatReadsNothingWhileChannelsComeAndGoIsGivenUp() throws {
    var limits = RelayLimits()
    limits.controlFrames = 32
    let (router, _) = try Self.pair(limits: limits)
    for _ in 0..<100 {
      let channel = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
      router.close(channel.id, now: at(0))
      _ = drain(router, 2, now: at(0))
    }
    var misbehaving: [UInt32] = []
    while let event = router.pollEvent() {
      if case .legMisbehaves(let connection) = event { misbehaving.append(connection) }
    }
    #expect(misbehaving == [1])
    #expect(drain(router, 1, now: at(0)).count <= 32 * 10)
  }

  @Test func aLegJoinedToItselfWorks() throws {
    let router = ChannelRouter()
    #expect(router.addLeg(connection: 1, kind: .tcp, largestPacket: 9_000, now: at(0)))
    let channel = try router.open(mesh: 0, connectionA: 1, connectionB: 1, now: at(0))
    _ = drain(router, 1, now: at(0))
    router.receive(connection: 1, channel: channel.numberA, bytes([5]).span.bytes, now: at(0))
    let out = frames(drain(router, 1, now: at(0)))
    #expect(out == [OutFrame(number: channel.numberB, flags: 4, data: [5])])
    router.receiveFrames(connection: 1, frame(channel.numberB, 2).span.bytes, now: at(0))
    #expect(router.openChannelCount == 0)
  }

  @Test func channelsPerLegAreLimitedAndNumbersComeBack() throws {
    var limits = RelayLimits()
    limits.channelsPerLeg = 3
    let (router, first) = try Self.pair(limits: limits)
    _ = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
    _ = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
    #expect(throws: OpenChannelFailure.tooManyChannels) {
      try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
    }
    router.close(first.id, now: at(0))
    let next = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(0))
    #expect(next.numberA & 0xffff == first.numberA & 0xffff && next.numberA != first.numberA)
  }

  @Test func aMeshOverItsQuotaIsRefusedAndOthersAreNot() throws {
    let (router, channel) = try Self.pair()
    router.setMesh(0, capMegabits: nil, quotaBytes: 1_000)
    let other = try router.open(mesh: 1, connectionA: 1, connectionB: 2, now: at(0))
    let packet = [UInt8](repeating: 7, count: 493)
    for step in 0..<4 {
      for number in [channel.numberA, other.numberA] {
        router.receive(connection: 1, channel: number, packet.span.bytes, now: at(Int64(step)))
        _ = drain(router, 2, now: at(Int64(step)))
      }
    }
    let used = try #require(router.statistics(of: channel.id))
    let free = try #require(router.statistics(of: other.id))
    #expect(used.aToB.packetsOut == 2 && used.aToB.droppedQuota == 2)
    #expect(free.aToB.packetsOut == 4)
    #expect(router.bytesUsed(mesh: 0) == 1_000)
    #expect(throws: OpenChannelFailure.meshQuotaUsed) {
      try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(9))
    }
    router.resetQuotas()
    _ = try router.open(mesh: 0, connectionA: 1, connectionB: 2, now: at(9))
  }
}
