import Bytes
import Reactor
import Testing

private actor Counter {
  let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
  var value = 0
  init(_ loop: EventLoop) { self.loop = loop }
  func add(_ n: Int) -> Bool {
    value += n
    return loop.isCurrent
  }
  nonisolated func addNow(_ n: Int) -> Int {
    assumeIsolated { actor in
      actor.value += n
      return actor.value
    }
  }
}

/// Shared between a test and its loop's thread, one after the other.
private final class Box<T>: @unchecked Sendable {
  var value: T
  init(_ value: T) { self.value = value }
}

@Suite struct EventLoopTests {
  @Test func timersFireInOrderAndNeverEarly() throws {
    let loop = try EventLoop()
    var fired: [Int] = []
    let start = EventLoop.clock()
    var early = 0
    for (name, delay) in [(3, 3_000), (1, 700), (2, 1_500), (11, 700), (0, 0)] {
      let deadline = start + .microseconds(Int64(delay))
      loop.schedule(at: deadline) {
        if loop.now < deadline { early += 1 }
        fired.append(name)
      }
    }
    let cancelled = loop.schedule(at: start + .microseconds(900)) { fired.append(99) }
    loop.cancel(cancelled)
    loop.cancel(cancelled)
    #expect(loop.run { fired.count == 5 })
    #expect(fired == [0, 1, 11, 2, 3])
    #expect(early == 0)
    #expect(loop.timerCount == 0)
  }

  @Test func deadlinesAreFinerThanAMillisecond() throws {
    let loop = try EventLoop()
    var best = TimeAmount.seconds(1)
    // On a starved machine nearly every wake-up is late; one in time is proof.
    var left = 2_000
    let enough = TimeAmount.microseconds(700)
    var timer: LoopTimer?
    var asked = Instant.distantPast
    timer = LoopTimer(loop) {
      best = min(best, EventLoop.clock() - asked)
      left = best < enough ? 0 : left - 1
      asked = EventLoop.clock() + .microseconds(200)
      if left > 0 { timer?.set(at: asked) }
    }
    asked = EventLoop.clock() + .microseconds(200)
    timer?.set(at: asked)
    #expect(loop.run { left == 0 })
    #expect(best < enough, "best lateness \(best.nanoseconds) ns")
    timer = nil
  }

  @Test func movedTimerFiresOnceAtItsLastDeadline() throws {
    let loop = try EventLoop()
    var fired = 0
    let timer = LoopTimer(loop) { fired += 1 }
    timer.set(at: EventLoop.clock() + .seconds(100))
    timer.set(at: .distantFuture)
    #expect(loop.timerCount == 0)
    timer.set(at: EventLoop.clock() + .seconds(50))
    timer.set(at: EventLoop.clock())
    #expect(loop.run { fired > 0 })
    #expect(fired == 1)
  }

  @Test func timerHeapAgreesWithSorting() throws {
    for seed in 1...20 {
      let loop = try EventLoop()
      var random = SeededRandom(testSeed: UInt64(seed))
      var fired: [Int] = []
      var expected: [(Instant, Int)] = []
      var tokens: [TimerToken] = []
      // All due already: they come out sorted within one round.
      for index in 0..<300 {
        let at = Instant(nanoseconds: Int64.random(in: 0..<40, using: &random))
        tokens.append(loop.schedule(at: at) { fired.append(index) })
        expected.append((at, index))
      }
      for index in stride(from: 0, to: 300, by: 3) { loop.cancel(tokens[index]) }
      expected = expected.filter { $0.1 % 3 != 0 }
      expected.sort { $0.0 != $1.0 ? $0.0 < $1.0 : $0.1 < $1.1 }
      #expect(loop.run { fired.count == expected.count }, "seed \(seed)")
      #expect(fired == expected.map(\.1), "seed \(seed)")
    }
  }

  @Test func ownerOfTimerMayDieInsideItsCancel() throws {
    // The closure holds the last reference to something whose deinit cancels.
    final class Owner {
      var timer: LoopTimer?
      deinit { timer?.cancel() }
    }
    let loop = try EventLoop()
    var owner: Owner? = Owner()
    owner?.timer = LoopTimer(loop) {}
    owner?.timer?.set(at: EventLoop.clock() + .seconds(60))
    let held = owner!
    owner = nil
    let token = loop.schedule(after: .seconds(60)) { withExtendedLifetime(held) {} }
    loop.cancel(token)
    #expect(loop.timerCount <= 1)
  }

  @Test func postedJobsKeepTheirOrderAcrossThreads() throws {
    let (loop, thread) = try LoopThread.running(name: "test loop")
    let seen = Box<[Int]>([])
    let wasCurrent = Box(true)
    for index in 0..<10_000 {
      loop.post {
        seen.value.append(index)
        wasCurrent.value = wasCurrent.value && loop.isCurrent
      }
    }
    loop.post { loop.stop() }
    thread.join()
    #expect(seen.value == Array(0..<10_000))
    #expect(wasCurrent.value)
    #expect(!loop.isCurrent)
  }

  @Test func manyThreadsPostWithoutLoss() throws {
    let loop = try EventLoop()
    let count = Box(0)
    let threads = try (0..<4).map { _ in
      try LoopThread(name: "poster") {
        for _ in 0..<5_000 { loop.post { count.value += 1 } }
      }
    }
    #expect(loop.run { count.value == 20_000 })
    for thread in threads { thread.join() }
  }

  @Test func actorAndTaskRunOnTheLoopOnly() throws {
    let loop = try EventLoop()
    let result = Box<(allOnLoop: Bool, value: Int)>((true, 0))
    let isDone = Box(false)
    loop.spawn {
      let counter = Counter(loop)
      var all = loop.isCurrent
      for index in 1...1000 { all = await counter.add(index) && all }
      let value = counter.addNow(1)
      result.value = (all && loop.isCurrent, value)
      isDone.value = true
    }
    #expect(loop.run { isDone.value })
    #expect(result.value.allOnLoop)
    #expect(result.value.value == 500_501)
  }

  @Test func observersRunOncePerBatchAndMayLeave() throws {
    let loop = try EventLoop()
    var order: [String] = []
    var token: ObserverToken?
    token = loop.afterEachBatch {
      order.append("a")
      if let token { loop.removeObserver(token) }
    }
    loop.afterEachBatch { order.append("b") }
    loop.post { loop.requestAnotherBatch() }
    let before = loop.batchCount
    #expect(loop.run { order.count >= 3 })
    #expect(order.first == "a")
    #expect(order.dropFirst().allSatisfy { $0 == "b" })
    #expect(UInt64(order.filter { $0 == "b" }.count) <= loop.batchCount - before)
  }

  @Test func handlerClosedInTheSameBatchIsNotCalled() throws {
    let loop = try EventLoop()
    // Two sockets become readable in one batch; whichever is told first closes
    // the other.
    let a = try UDPSocket(loop, bind: loopback4, number: 1)
    let b = try UDPSocket(loop, bind: loopback4, number: 2)
    final class Killer: UDPSocketDelegate {
      var other: UDPSocket?
      var told = 0
      func socketReadable(_ socket: UDPSocket) {
        told += 1
        other?.close()
        socket.receive { _, _ in }
      }
    }
    let killer = Killer()
    let second = Killer()
    killer.other = b
    second.other = a
    a.delegate = killer
    b.delegate = second
    let sender = try UDPSocket(loop, bind: loopback4, number: 3)
    sender.send([1, 2, 3].span.bytes, to: a.local)
    sender.send([1, 2, 3].span.bytes, to: b.local)
    #expect(loop.run { killer.told + second.told >= 1 })
    #expect(killer.told + second.told == 1)
    #expect(a.isClosed != b.isClosed)
    (a.isClosed ? b : a).close()
    sender.close()
  }

  @Test func signalsArriveAsEvents() throws {
    let seen = Box<[ProcessSignal]>([])
    // A thread of its own: the signals stay blocked in it only.
    let thread = try LoopThread(name: "signals") {
      do {
        let loop = try EventLoop()
        let source = try SignalSource(loop, [.user1, .user2]) { signal in
          seen.value.append(signal)
          if seen.value.count == 2 { loop.stop() }
        }
        loop.schedule(after: .seconds(20)) { loop.stop() }
        loop.post {
          ProcessSettings.raiseInThread(.user1)
          ProcessSettings.raiseInThread(.user2)
        }
        loop.run()
        source.close()
      } catch {}
    }
    thread.join()
    #expect(seen.value == [.user1, .user2])
  }

  @Test func loopRunsAgainAfterStop() throws {
    let loop = try EventLoop()
    var rounds = 0
    for round in 1...3 {
      loop.schedule(after: .zero) { rounds += 1 }
      #expect(loop.run { rounds == round })
    }
  }

  @Test func clocksAgree() throws {
    let loop = try EventLoop()
    let a = EventLoop.clock()
    #expect(loop.refreshNow() >= a)
    let awake = EventLoop.awakeClock()
    let all = EventLoop.clock()
    #expect(all >= awake)
    #expect(EventLoop.wallClockNanoseconds != 0)
  }
}
