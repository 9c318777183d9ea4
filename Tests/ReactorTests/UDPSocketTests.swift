import Bytes
import Reactor
import Testing

@Suite struct UDPSocketTests {
  private func pair(
    _ loop: EventLoop, _ address: Endpoint, offload: Bool = true, local: Bool = false
  ) throws -> (UDPSocket, UDPSocket, UDPCollector) {
    var options = UDPOptions()
    options.usesOffload = offload
    options.wantsLocalAddress = local
    let a = try UDPSocket(loop, bind: address, number: 7, options: options)
    let b = try UDPSocket(loop, bind: address, number: 8, options: options)
    let collector = UDPCollector()
    b.delegate = collector
    return (a, b, collector)
  }

  @Test func offloadedRunsArriveWholeWithOddTails() throws {
    // v4 and v6, with and without offload; sizes that do and do not merge.
    for address in [loopback4, loopback6] {
      for offload in [true, false] {
        let loop = try EventLoop()
        let (a, b, collector) = try pair(loop, address, offload: offload)
        let batch = TransmitBatch()
        var sent: [[UInt8]] = []
        let to = Carrier.udp(socket: 7, remote: b.local)
        for (size, count) in [
          (1200, 70), (1199, 1), (1452, 45), (1, 3), (1452, 1), (9000, 3), (700, 1), (701, 1),
        ] {
          for index in 0..<count {
            let bytes = pattern(size, seed: sent.count + index + 1)
            batch.append(carrier: to, limit: 65_000) { $0.write(bytes.span.bytes) }
            sent.append(bytes)
          }
        }
        #expect(a.send(batch) == batch.segments.count)
        #expect(loop.run { collector.count == sent.count }, "\(address) \(offload)")
        #expect(collector.packets == sent, "\(address) \(offload)")
        #expect(collector.infos.allSatisfy { $0.remote == a.local })
        #expect(a.counters.datagramsSent == UInt64(sent.count))
        #expect(b.counters.datagramsReceived == UInt64(sent.count))
        if offload { #expect(a.counters.sendCalls < 10) }
        #expect(a.counters.offloadRefused == 0)
        a.close()
        b.close()
      }
    }
  }

  @Test func runEndsAtAnotherSocketsSegment() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback4)
    let batch = TransmitBatch()
    let mine = Carrier.udp(socket: 7, remote: b.local)
    let bytes = pattern(100)
    func add(_ carrier: Carrier) {
      batch.append(carrier: carrier, limit: 200) { $0.write(bytes.span.bytes) }
    }
    add(.tcp(connection: 7, remote: b.local))
    add(mine)
    add(mine)
    add(.udp(socket: 9, remote: b.local))
    add(mine)
    #expect(a.send(batch, from: 0) == 0)
    #expect(a.send(batch, from: 1) == 3)
    #expect(a.send(batch, from: 3) == 3)
    #expect(a.send(batch, from: 4) == 5)
    #expect(loop.run { collector.count == 3 })
    #expect(collector.packets == [bytes, bytes, bytes])
    a.close()
    b.close()
  }

  @Test func everyBatchShapeArrivesInOrder() throws {
    for seed in 1...40 {
      let loop = try EventLoop()
      let (a, b, collector) = try pair(loop, seed % 2 == 0 ? loopback4 : loopback6)
      let c = try UDPSocket(loop, bind: seed % 2 == 0 ? loopback4 : loopback6, number: 9)
      let other = UDPCollector()
      c.delegate = other
      var random = SeededRandom(testSeed: UInt64(seed))
      var sentB: [[UInt8]] = []
      var sentC: [[UInt8]] = []
      let batch = TransmitBatch()
      var size = 500
      for index in 0..<Int.random(in: 1...200, using: &random) {
        if Int.random(in: 0..<5, using: &random) == 0 {
          size = Int.random(in: 1...2500, using: &random)
        }
        let toB = Int.random(in: 0..<6, using: &random) != 0
        let bytes = pattern(size, seed: index + 1)
        batch.append(carrier: .udp(socket: 7, remote: toB ? b.local : c.local), limit: 2500) {
          $0.write(bytes.span.bytes)
        }
        if toB { sentB.append(bytes) } else { sentC.append(bytes) }
      }
      #expect(a.send(batch) == batch.segments.count, "seed \(seed)")
      #expect(
        loop.run { collector.count == sentB.count && other.count == sentC.count }, "seed \(seed)")
      #expect(collector.packets == sentB, "seed \(seed)")
      #expect(other.packets == sentC, "seed \(seed)")
      for socket in [a, b, c] { socket.close() }
    }
  }

  @Test func tenThousandDatagramsWithoutGrowth() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback4)
    collector.keeps = false
    let batch = TransmitBatch()
    let bytes = pattern(1200)
    let to = Carrier.udp(socket: 7, remote: b.local)
    var sent = 0
    func fill() {
      batch.removeAll()
      for _ in 0..<200 where sent < 10_000 {
        batch.append(carrier: to, limit: 1200) { $0.write(bytes.span.bytes) }
        sent += 1
      }
      if !batch.isEmpty { _ = a.send(batch) }
    }
    // The next batch only when the last has arrived: nothing may be lost.
    loop.afterEachBatch { if collector.count == sent { fill() } }
    fill()
    #expect(loop.run { collector.count == 10_000 })
    #expect(collector.bytes == 12_000_000)
    #expect(b.counters.truncated == 0)
    #expect(a.counters.droppedBacklog + a.counters.droppedOther == 0)
    a.close()
    b.close()
  }

  @Test func replyLeavesFromTheAddressOfArrival() throws {
    let loop = try EventLoop()
    var options = UDPOptions()
    options.wantsLocalAddress = true
    let server = try UDPSocket(loop, bind: Endpoint(.anyV4, 0), number: 1, options: options)
    let answers = UDPCollector()
    let requests = UDPCollector()
    server.delegate = requests
    requests.onPacket = { socket, bytes, info in
      socket.send(bytes, to: info.remote, from: info.local)
    }
    let client = try UDPSocket(loop, bind: loopback4, number: 2)
    client.delegate = answers
    let odd = Endpoint(IPAddress(127, 0, 0, 77), server.local.port)
    client.send(pattern(33).span.bytes, to: odd)
    #expect(loop.run { answers.count == 1 })
    #expect(requests.infos.first?.local == odd.address)
    #expect(answers.infos.first?.remote == odd)

    let server6 = try UDPSocket(loop, bind: Endpoint(.anyV6, 0), number: 3, options: options)
    server6.delegate = requests
    let client6 = try UDPSocket(loop, bind: loopback6, number: 4)
    client6.delegate = answers
    client6.send(pattern(34).span.bytes, to: Endpoint(.loopbackV6, server6.local.port), hopLimit: 9)
    #expect(loop.run { answers.count == 2 })
    #expect(requests.infos.last?.local == .loopbackV6)
    for socket in [server, client, server6, client6] { socket.close() }
  }

  @Test func refusalIsToldPerDestination() throws {
    let loop = try EventLoop()
    for address in [loopback4, loopback6] {
      let (a, b, collector) = try pair(loop, address)
      let gone = try UDPSocket(loop, bind: address, number: 9)
      let dead = gone.local
      gone.close()
      let told = UDPCollector()
      a.delegate = told
      a.send(pattern(20).span.bytes, to: dead)
      #expect(loop.run { !told.failures.isEmpty })
      #expect(told.failures.first?.remote == dead)
      #expect(told.failures.first?.error.isConnectionRefused == true)
      // And others are still served.
      a.send(pattern(20).span.bytes, to: dead)
      a.send(pattern(21).span.bytes, to: b.local)
      #expect(loop.run { collector.count == 1 })
      a.close()
      b.close()
    }
  }

  @Test func tooLargeIsCountedAndTold() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback4)
    let told = UDPCollector()
    a.delegate = told
    a.send([UInt8](repeating: 0, count: 65_508).span.bytes, to: b.local)
    #expect(told.failures.first?.error.isMessageTooLarge == true)
    #expect(a.counters.droppedTooLarge == 1)
    // The largest there is.
    a.send([UInt8](repeating: 7, count: 65_507).span.bytes, to: b.local)
    #expect(loop.run { collector.count == 1 })
    #expect(collector.bytes == 65_507)
    a.close()
    b.close()
  }

  @Test func unreachableIsCountedAndLeavesTheRestAlone() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback4)
    let told = UDPCollector()
    a.delegate = told
    let batch = TransmitBatch()
    let bytes = pattern(64)
    // A socket bound to 127.0.0.1 cannot reach a broadcast address.
    let nowhere = Endpoint(IPAddress(255, 255, 255, 255), 9)
    for remote in [b.local, nowhere, nowhere, b.local] {
      batch.append(carrier: .udp(socket: 7, remote: remote), limit: 64) {
        $0.write(bytes.span.bytes)
      }
    }
    #expect(a.send(batch) == 4)
    #expect(loop.run { collector.count == 2 })
    #expect(told.failures.count >= 1)
    #expect(told.failures.allSatisfy { $0.remote == nowhere })
    #expect(a.counters.droppedOther + a.counters.droppedUnreachable == 2)
    a.close()
    b.close()
  }

  @Test func whatTheKernelRefusesIsKeptInOrderWithinALimit() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback4)
    let told = UDPCollector()
    a.delegate = told
    let batch = TransmitBatch(capacity: 1 << 20)
    var sent: [[UInt8]] = []
    for index in 0..<400 {
      let bytes = pattern(1000, seed: index + 1)
      batch.append(carrier: .udp(socket: 7, remote: b.local), limit: 1000) {
        $0.write(bytes.span.bytes)
      }
      sent.append(bytes)
    }
    a.isHeld = true
    #expect(a.send(batch) == 400)
    #expect(a.isBlocked)
    // Four messages of 64 segments fit in 256 KB; the rest is dropped, except
    // that a shorter one may still fit.
    #expect(a.counters.delayed == 256)
    #expect(a.counters.droppedBacklog == 144)
    batch.removeAll()
    a.send(pattern(60).span.bytes, to: b.local)
    #expect(a.counters.delayed == 257)
    a.isHeld = false
    // What comes now stays behind what waits.
    a.send(pattern(61).span.bytes, to: b.local)
    #expect(loop.run { told.writables == 1 && collector.count == 258 })
    #expect(!a.isBlocked)
    #expect(collector.packets == Array(sent[0..<256]) + [pattern(60), pattern(61)])
    // And it can be used again from the start.
    a.send(pattern(62).span.bytes, to: b.local)
    #expect(loop.run { collector.count == 259 })
    #expect(a.counters.delayed == 258)
    a.close()
    b.close()
  }

  @Test func emptyDatagramArrives() throws {
    let loop = try EventLoop()
    let (a, b, collector) = try pair(loop, loopback6)
    a.send([UInt8]().span.bytes, to: b.local)
    #expect(loop.run { collector.count == 1 })
    #expect(collector.packets == [[]])
    a.close()
    b.close()
  }

  @Test func busyPortIsRefused() throws {
    let loop = try EventLoop()
    let a = try UDPSocket(loop, bind: loopback4, number: 1)
    #expect(throws: SystemError.self) { try UDPSocket(loop, bind: a.local, number: 2) }
    do throws(SystemError) {
      _ = try UDPSocket(loop, bind: a.local, number: 2)
    } catch {
      #expect(error.isAddressInUse)
      #expect("\(error)" == "bind: Address already in use (EADDRINUSE)")
    }
    let before = loop.descriptorCount
    a.close()
    a.close()
    #expect(loop.descriptorCount == before - 1)
  }
}
