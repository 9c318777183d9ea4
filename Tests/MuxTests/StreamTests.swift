/// Streams from the application's side: opening, refusing, half close, reset,
/// many at once, slow readers, wrapped ids, other incarnations.

import Bytes
import Mux
import Testing

private func stream(_ number: UInt32) -> StreamID { StreamID(number: number, epoch: 0) }

@Suite struct StreamTests {
  @Test func thousandStreamsShareTheLineFairly() throws {
    let world = World()
    var link = Link()
    link.rate = 5_000_000
    world.addLane(0, link)
    var ids: [StreamID] = []
    for _ in 0..<1_000 {
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: 8_000)
      ids.append(id)
    }
    // Half way every stream has moved, none is done long before the others.
    world.run(for: .milliseconds(1_000))
    let counts = ids.map { world.b.received[$0] ?? 0 }
    #expect(counts.min()! > 0)
    #expect(counts.max()! - counts.min()! < 6_000)
    let done = world.run(for: .seconds(30)) {
      world.a.closed.count == 1_000 && world.b.closed.count == 1_000
    }
    #expect(done)
    #expect(ids.allSatisfy { world.b.received[$0] == 8_000 })
    #expect(world.a.wrongBytes + world.b.wrongBytes == 0)
    #expect(world.a.mux.openStreamCount == 0 && world.b.mux.openStreamCount == 0)
    #expect(world.b.mux.memoryInUse < 8 << 20, "closed streams give their memory back")
  }

  @Test func keystrokeDoesNotWaitBehindBulk() throws {
    let world = World()
    var link = Link()
    link.rate = 2_000_000
    link.queue = 60_000
    world.addLane(0, link)
    for _ in 0..<50 { world.a.send(try world.a.open(now: world.now), total: 10_000_000) }
    world.run(for: .seconds(2))
    let key = try world.a.open("key", now: world.now)
    world.a.send(key, total: 1, finishes: false)
    let before = world.now
    #expect(world.run(for: .seconds(1)) { world.b.received[key] == 1 })
    #expect(world.now - before < .milliseconds(60), "\((world.now - before).inMilliseconds) ms")
  }

  @Test func slowReaderDoesNotStopTheFastOne() throws {
    let world = World()
    var link = Link()
    link.rate = 12_500_000
    world.addLane(0, link)
    var slow: [StreamID] = []
    for _ in 0..<40 {
      let id = try world.a.open(now: world.now)
      world.b.unread.insert(id.number)
      world.a.send(id, total: 10_000_000)
      slow.append(id)
    }
    let fast = try world.a.open(now: world.now)
    world.a.send(fast, total: 4_000_000)
    #expect(world.run(for: .seconds(3)) { world.b.received[fast] == 4_000_000 })
    for id in slow {
      #expect(world.b.mux.readableCount(id) <= 65_536, "credit bounds what nobody reads")
    }
    // Read at last, the slow ones go on.
    world.b.unread = []
    for id in slow { world.b.read(id) }
    #expect(world.run(for: .seconds(60)) { slow.allSatisfy { world.b.received[$0] == 10_000_000 } })
    #expect(world.b.wrongBytes == 0)
  }

  @Test func halfCloseLeavesTheOtherDirectionOpen() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    world.b.sending[id] = nil
    world.b.echoTotal = 300_000
    world.a.send(id, total: 10)
    #expect(world.run(for: .seconds(5)) { world.a.finished.contains(id) })
    #expect(world.b.finished.contains(id))
    #expect(world.a.received[id] == 300_000)
    #expect(world.a.mux.isFinished(id))
  }

  @Test func refusalReachesTheCallerWithItsWords() throws {
    let world = World()
    world.addLane(0)
    world.b.accepts = false
    let id = try world.a.open("tcp 10.0.0.1:1", now: world.now)
    world.a.send(id, total: 500, finishes: false)
    world.run(for: .milliseconds(15))
    let long = String(repeating: "é", count: 200)
    world.b.mux.refuse(stream(id.number), code: 300, words: long)
    world.run(for: .seconds(2))
    let told = world.a.log.contains { event in
      if case .refused(id, code: 300, words: let words) = event {
        return words.utf8.count == 256 && words.allSatisfy { $0 == "é" }
      }
      return false
    }
    #expect(told)
    #expect(world.a.closed == [id] && world.b.closed == [id])
    #expect(world.a.mux.openStreamCount == 0 && world.b.mux.openStreamCount == 0)
    #expect(world.a.mux.write(id, [1]) == 0, "a dead name takes nothing")
    world.run(for: .seconds(30))
    #expect(world.isQuiet)
  }

  @Test func resetEndsBothDirectionsUnderLoss() throws {
    for seed in UInt64(1)...8 {
      let world = World(seed: seed)
      var link = Link()
      link.loss = 200_000
      world.addLane(0, link)
      world.b.echoTotal = 1_000_000
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: 1_000_000)
      world.run(for: .milliseconds(200))
      if seed % 2 == 0 {
        world.a.mux.reset(id, code: 400, words: "enough")
      } else {
        world.b.mux.reset(id, code: 400, words: "enough")
      }
      let other = seed % 2 == 0 ? world.b : world.a
      world.run(for: .seconds(60))
      #expect(other.log.contains(.reset(id, code: 400, words: "enough")), "seed \(seed)")
      #expect(world.a.closed.contains(id) && world.b.closed.contains(id), "seed \(seed)")
      #expect(world.a.failure == nil && world.b.failure == nil, "seed \(seed)")
      #expect(world.isQuiet, "seed \(seed)")
      // The credit of what was thrown away is not lost to the session.
      let next = try world.a.open(now: world.now)
      world.a.send(next, total: 2_000_000)
      #expect(world.run(for: .seconds(300)) { world.b.received[next] == 2_000_000 }, "seed \(seed)")
    }
  }

  @Test func crossingResetsCloseCleanly() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 100_000)
    world.run(for: .milliseconds(30))
    world.a.mux.reset(id, code: 1_000)
    world.b.mux.reset(id, code: 2_000)
    world.run(for: .seconds(10))
    #expect(world.a.closed == [id] && world.b.closed == [id])
    #expect(world.a.failure == nil && world.b.failure == nil)
    #expect(world.isQuiet)
  }

  @Test func cancelledOpenBeforeAnythingWasSent() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    world.a.mux.reset(id, code: 256)
    world.run(for: .seconds(5))
    #expect(world.b.openedCount == 0, "nothing to dial")
    #expect(world.a.mux.openStreamCount == 0 && world.b.mux.openStreamCount == 0)
    #expect(world.isQuiet)
  }

  @Test func noTargetIsDialledTwice() {
    let mux = victim()
    #expect(feed(mux, [PacketBuilder(number: 0).syn(1)]) == nil)
    #expect(feed(mux, [PacketBuilder(number: 1).syn(1)]) == nil)
    mux.reset(stream(1), code: 256)
    while takePacket(mux) != nil {}
    // Our RST is acknowledged, theirs has come: the stream is forgotten.
    #expect(feed(mux, [PacketBuilder(number: 2).rst(1).ack(largest: 0)]) == nil)
    #expect(mux.openStreamCount == 0)
    for number in UInt64(3)...20 {
      #expect(feed(mux, [PacketBuilder(number: number).syn(1, data: [1])]) == nil)
    }
    let opened = events(mux).filter { if case .opened = $0 { true } else { false } }
    #expect(opened.count == 1)
    #expect(mux.drops.staleFrames == 18)
    #expect(takePacket(mux) != nil, "a stale SYN is acknowledged all the same")
  }

  @Test func dataThatOvertakesItsSYNIsKept() {
    let mux = victim()
    #expect(feed(mux, [PacketBuilder(number: 1).data(1, 5, 10, fin: true)]) == nil)
    #expect(feed(mux, [PacketBuilder(number: 2).datagram(1, 0, 0, 2, [8, 9])]) == nil)
    #expect(events(mux).isEmpty, "nothing is told before the request is known")
    #expect(feed(mux, [PacketBuilder(number: 0).syn(1, [7], data: pattern(1, 0..<5))]) == nil)
    let list = events(mux)
    #expect(list.first == .opened(stream(1), request: [7]))
    #expect(list.contains(.readable(stream(1))))
    #expect(list.contains(.finished(stream(1))))
    #expect(list.contains(.datagram(stream(1))))
    #expect(mux.readableCount(stream(1)) == 15)
  }

  @Test func tooManyStreamsAreRefusedThenFatal() throws {
    var limits = MuxLimits()
    limits.streams = 10
    let mux = victim(limits: limits)
    var result: MuxFailure?
    for index in 0..<UInt32(20) {
      result = feed(mux, [PacketBuilder(number: UInt64(index)).syn(1 + 2 * index)])
      #expect(result == nil)
    }
    let opened = events(mux).filter { if case .opened = $0 { true } else { false } }
    #expect(opened.count == 10)
    #expect(feed(mux, [PacketBuilder(number: 30).syn(41)]) == .tooManyStreams)

    let opener = Multiplexer(role: .odd, limits: limits, random: SeededRandom(testSeed: 1))
    for _ in 0..<10 { _ = try opener.open([1], now: start) }
    #expect(throws: OpenFailure.tooManyStreams) {
      try opener.open([1], now: start)
    }
    let long = [UInt8](repeating: 1, count: 481)
    #expect(throws: OpenFailure.requestTooLong) {
      try victim().open(long, now: start)
    }
  }

  @Test func manyShortStreamsInSequence() throws {
    // Enough to go round the seen set's bitmap.
    let world = World()
    var link = Link()
    link.delay = .microseconds(50)
    world.addLane(0, link)
    for round in 0..<700 {
      var ids: [StreamID] = []
      for _ in 0..<100 {
        let id = try world.a.open(now: world.now)
        world.a.send(id, total: 1)
        ids.append(id)
      }
      let done = world.run(for: .seconds(5)) { ids.allSatisfy { world.a.closed.contains($0) } }
      #expect(done, "round \(round)")
      if !done { return }
      world.a.log.removeAll()
      world.b.log.removeAll()
    }
    #expect(world.b.openedCount == 70_000)
    #expect(world.b.failure == nil)
  }

  @Test func idsWrapUnderLossAndReordering() throws {
    var limits = MuxLimits()
    limits.firstStream = 0xffff_fe00
    let world = World(seed: 11, limits: limits)
    var link = Link()
    link.loss = 20_000
    link.reorder = 100_000
    link.delay = .milliseconds(1)
    world.addLane(0, link)
    var ids: Set<StreamID> = []
    for round in 0..<30 {
      for side in [world.a, world.b] {
        for _ in 0..<20 {
          let id = try side.open(now: world.now)
          #expect(id.number != 0 && ids.insert(id).inserted)
          side.send(id, total: 100)
        }
      }
      let done = world.run(for: .seconds(20)) {
        world.a.mux.openStreamCount + world.b.mux.openStreamCount == 0
      }
      #expect(done, "round \(round)")
    }
    #expect(world.a.failure == nil && world.b.failure == nil)
    #expect(world.a.openedCount == 600 && world.b.openedCount == 600, "each dialled once")
    #expect(ids.contains { $0.number < 1_000 } && ids.contains { $0.number > 0xffff_0000 })
  }

  @Test func otherIncarnationResetsEverything() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 100_000, finishes: false)
    world.run(for: .milliseconds(100))
    world.a.mux.restart(now: world.now)
    world.b.mux.restart(now: world.now)
    let list = events(world.a.mux)
    #expect(list.contains(.reset(id, code: ResetCode.peerRestarted, words: "")))
    #expect(events(world.b.mux).contains(.reset(id, code: ResetCode.peerRestarted, words: "")))
    #expect(world.a.mux.openStreamCount == 0)
    #expect(!world.a.mux.isOpen(id))
    world.a.sending = [:]
    world.b.received = [:]
    let next = try world.a.open(now: world.now)
    #expect(next.number == id.number && next != id, "same number, another name")
    #expect(world.a.mux.write(id, [1]) == 0)
  }

  @Test func resetAllTellsBothSides() throws {
    let world = World()
    world.addLane(0)
    var ids: Set<StreamID> = []
    for _ in 0..<20 {
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: 10_000_000)
      ids.insert(id)
    }
    world.run(for: .milliseconds(300))
    world.a.mux.resetAll(code: ResetCode.peerLost, words: "all paths dead")
    world.run(for: .seconds(10))
    for id in ids {
      let event = MuxEvent.reset(id, code: ResetCode.peerLost, words: "all paths dead")
      #expect(world.a.log.contains(event) && world.b.log.contains(event))
    }
    #expect(world.a.closed == ids && world.b.closed == ids)
    #expect(world.isQuiet)
  }

  @Test func writerIsTurnedAwayAndCalledBack() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open(now: world.now)
    var written = 0
    let block = pattern(id.number, 0..<1_000_000)
    written += world.a.mux.write(id, block)
    #expect(written < block.count, "the send buffer is bounded")
    #expect(world.a.mux.write(id, block) == 0)
    #expect(world.a.mux.writeCapacity(id) == 0)
    #expect(world.a.mux.unacknowledgedCount(id) == written)
    #expect(world.run(for: .seconds(5)) { world.a.log.contains(.writable(id)) })
    #expect(world.a.mux.writeCapacity(id) > 0)
    let direct = world.a.mux.withWritable(id, limit: 100) { output in
      for offset in written..<(written + 60) { output.writeUInt8(patternByte(id.number, offset)) }
    }
    #expect(direct == 60)
    world.a.mux.finish(id)
    #expect(world.a.mux.write(id, [1]) == 0)
    world.run(for: .seconds(5))
    #expect(world.b.received[id] == written + 60)
    #expect(world.b.wrongBytes == 0)
  }

  @Test func windowsGrowToThePathAndNoFurther() throws {
    var limits = MuxLimits()
    limits.streamWindow = 2 << 20
    let world = World(limits: limits)
    var link = Link()
    link.rate = 12_500_000
    link.delay = .milliseconds(50)
    link.queue = 2_000_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 30_000_000)
    world.run(for: .seconds(2))
    let before = world.b.received[id] ?? 0
    world.run(for: .seconds(1))
    // 64 KB a round trip would be 0.65 MB/s.
    #expect((world.b.received[id] ?? 0) - before > 9_000_000)
    world.b.unread.insert(id.number)
    world.run(for: .seconds(1))
    #expect(world.b.mux.readableCount(id) <= 2 << 20)
  }
}
