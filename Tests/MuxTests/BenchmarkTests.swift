/// Cost of a packet in and out, without sealing or sockets. Runs only when
/// asked for: MUX_BENCHMARK=1 swift test -c release --filter BenchmarkTests.

import Bytes
import Glibc
import Mux
import Testing

/// CPU time of this thread: other load on the machine does not count.
private struct Stopwatch {
  static func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }
}

@Suite(.serialized) struct BenchmarkTests {
  @Test(
    .enabled(if: getenv("MUX_BENCHMARK") != nil),
    arguments: [(LaneKind.datagram, 1_408), (.ordered, 65_488)])
  func fillAndReceive(kind: LaneKind, packet: Int) throws {
    var limits = MuxLimits()
    // As behind a socket that is read at the speed of the session.
    limits.sendBuffer = 1 << 20
    let a = Multiplexer(role: .odd, limits: limits, random: SeededRandom(testSeed: 1))
    let b = Multiplexer(role: .even, limits: limits, random: SeededRandom(testSeed: 2))
    var now = Instant(nanoseconds: 1_000_000_000)
    for side in [a, b] { side.addLane(0, kind: kind, maximumPacket: packet, now: now) }
    let request: [UInt8] = [1]
    let id = try a.open(request: request.span.bytes, now: now)
    let batch = TransmitBatch(capacity: 1 << 20)
    let carrier = Carrier.udp(socket: 0, remote: .none)
    var fillTime: Int64 = 0
    var receiveTime: Int64 = 0
    var ackTime: Int64 = 0
    var appTime: Int64 = 0
    var packets = 0
    var bytes = 0
    let rounds = packet > 10_000 ? 4_000 : 8_000

    func move(from: Multiplexer, to: Multiplexer, limit: Int) throws -> Int {
      batch.removeAll()
      var count = 0
      while count < limit, batch.freeCapacity >= 65_536 {
        var result = FillResult.nothing
        batch.append(carrier: carrier, limit: packet) {
          result = from.fill(lane: 0, into: &$0, now: now)
        }
        guard result == .wrote else { break }
        count += 1
      }
      return count
    }
    func deliver(to: Multiplexer) throws {
      for segment in batch.segments {
        let failure: MuxFailure? = unsafe batch.withBytes(
          segment.offset..<(segment.offset + segment.count)
        ) {
          do throws(MuxFailure) {
            try unsafe to.receive(RawSpan(_unsafeBytes: $0), now: now)
            return nil
          } catch { return error }
        }
        if let failure { throw failure }
      }
    }
    for round in 0..<rounds {
      let start = Stopwatch.now()
      // The application writes as far as it may, without copying a source.
      while a.withWritable(id, { $0.writeZeros($0.freeCapacity) }) > 0 {}
      let t0 = Stopwatch.now()
      let count = try move(from: a, to: b, limit: (256 << 10) / packet)
      let t1 = Stopwatch.now()
      now += .microseconds(100)
      try deliver(to: b)
      let t2 = Stopwatch.now()
      while b.withReadable(id, { $0.byteCount }) > 0 {}
      while b.pollEvent() != nil {}
      let t3 = Stopwatch.now()
      _ = try move(from: b, to: a, limit: 4)
      now += .microseconds(100)
      try deliver(to: a)
      if a.nextDeadline <= now { a.advance(to: now) }
      if b.nextDeadline <= now { b.advance(to: now) }
      while a.pollEvent() != nil {}
      let t4 = Stopwatch.now()
      guard round > rounds / 4 else { continue }
      packets += count
      bytes += batch.byteCount
      appTime += (t0 - start) + (t3 - t2)
      fillTime += t1 - t0
      receiveTime += t2 - t1
      ackTime += t4 - t3
    }
    func each(_ time: Int64) -> Int64 { time / Int64(max(packets, 1)) }
    print(
      "\(kind) \(packet): \(packets) packets; fill \(each(fillTime)) ns, receive \(each(receiveTime)) ns,",
      "acks \(each(ackTime)) ns, application \(each(appTime)) ns; batch \(packets / (rounds * 3 / 4))")
    #expect(packets > 1_000)
  }
}
