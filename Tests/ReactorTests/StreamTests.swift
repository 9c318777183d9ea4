import Bytes
import Reactor
import Testing

/// Sends back what it reads, slowed by its own backlog; ends when the peer does.
private final class Echo: ConnectionDelegate {
  var ended = 0
  var failures: [SystemError] = []
  var kept: [UInt8] = []

  func connectionReadable(_ connection: StreamConnection) {
    while true {
      guard connection.room > 0 else { return connection.pauseReading() }
      var short = false
      let result = connection.read(limit: min(65_536, connection.room)) { span in
        let taken = connection.write(span.bytes)
        if taken < span.byteCount { short = true }
        precondition(taken == span.byteCount)
      }
      precondition(!short)
      switch result {
      case .bytes: continue
      case .wouldBlock: return
      case .end:
        ended += 1
        connection.closeWhenFlushed()
        return
      case .failed(let error):
        failures.append(error)
        return
      }
    }
  }
  func connectionWritable(_ connection: StreamConnection) { connection.resumeReading() }
  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    failures.append(error)
  }
}

@Suite struct StreamTests {
  @Test func echoesSixtyFourMegabytes() throws {
    for address in [loopback4, loopback6] {
      let loop = try EventLoop()
      let echo = Echo()
      let total = address == loopback4 ? 64 << 20 : 4 << 20
      let listener = try StreamListener(loop, on: address) { connection in
        connection.delegate = echo
        connection.backlogLimit = 256 * 1024
        // The room was used up: have `connectionWritable` called.
        _ = connection.write([UInt8]().span.bytes)
      }
      let block = pattern(65_536)
      var sent = 0
      var received = 0
      var wrong = 0
      var isEnded = false
      let script = StreamScript()
      func pump(_ connection: StreamConnection) {
        while sent < total {
          let offset = sent % block.count
          let span = block.span.bytes
          let taken = connection.write(span.extracting(offset..<block.count))
          sent += taken
          if taken < block.count - offset { return }
        }
        connection.shutdownWrite()
      }
      script.opened = pump
      script.writable = pump
      script.readable = { connection in
        while true {
          let result = connection.read { span in
            // Compare the first and last byte of every read, and all of some.
            let offset = received % block.count
            if span.bytes.byteCount > 0 {
              let bytes = span.bytes
              let step = received % 5 == 0 ? 1 : 997
              var at = 0
              while at < bytes.byteCount {
                if bytes.unsafeLoad(fromByteOffset: at, as: UInt8.self)
                  != block[(offset + at) % block.count]
                {
                  wrong += 1
                }
                at += step
              }
            }
            received += span.byteCount
          }
          switch result {
          case .bytes: continue
          case .wouldBlock: return
          case .end:
            isEnded = true
            connection.close()
            return
          case .failed: return
          }
        }
      }
      var options = StreamOptions()
      options.notSentLowWater = 128 * 1024
      let client = try StreamConnection.connect(
        loop, to: listener.local!, options: options, delegate: script)
      #expect(client.isConnecting)
      #expect(loop.run(within: .seconds(60)) { isEnded || script.failure != nil })
      #expect(received == total)
      #expect(wrong == 0)
      #expect(echo.ended == 1)
      #expect(echo.failures.isEmpty)
      #expect(client.bytesWritten == UInt64(total))
      #expect(client.bytesRead == UInt64(total))
      listener.close()
      #expect(loop.timerCount == 0)
    }
  }

  /// A listener and a client that are connected, both without delegates' work.
  private func connected(
    _ loop: EventLoop, options: StreamOptions = StreamOptions()
  ) throws -> (StreamConnection, StreamConnection, StreamScript, StreamScript) {
    let near = StreamScript()
    let far = StreamScript()
    var accepted: StreamConnection?
    let listener = try StreamListener(loop, on: loopback4, options: options) { connection in
      connection.delegate = far
      accepted = connection
    }
    let client = try StreamConnection.connect(
      loop, to: listener.local!, options: options, delegate: near)
    #expect(loop.run { accepted != nil && client.isOpen })
    listener.close()
    return (client, try #require(accepted), near, far)
  }

  @Test func halfCloseLetsTheOtherDirectionGoOn() throws {
    let loop = try EventLoop()
    let (client, server, near, far) = try connected(loop)
    var serverEnd = false
    var clientGot: [UInt8] = []
    var clientEnd = false
    far.readable = { connection in
      var result = connection.read { _ in }
      while case .bytes = result { result = connection.read { _ in } }
      if result == .end {
        serverEnd = true
        #expect(connection.writeAll(pattern(1000)))
        connection.closeWhenFlushed()
      }
    }
    near.readable = { connection in
      var result = ReadResult.bytes(0)
      while case .bytes = result { result = connection.read { clientGot.append($0.bytes) } }
      if result == .end { clientEnd = true }
    }
    #expect(client.writeAll(pattern(10)))
    client.shutdownWrite()
    #expect(!client.writeAll(pattern(10)))
    #expect(loop.run { clientEnd })
    #expect(serverEnd)
    #expect(clientGot == pattern(1000))
    #expect(server.isClosed)
    client.close()
    // Both ends gone: nothing left registered but the loop's own.
    let bare = try EventLoop()
    #expect(loop.descriptorCount == bare.descriptorCount)
  }

  @Test func resetIsToldAsResetOnce() throws {
    let loop = try EventLoop()
    let (client, server, near, _) = try connected(loop)
    var results: [ReadResult] = []
    near.readable = { connection in results.append(connection.read { _ in }) }
    server.reset()
    #expect(loop.run { !results.isEmpty || near.failure != nil })
    #expect(client.isClosed)
    #expect(results.count == 1)
    if case .failed(let error)? = results.first {
      #expect(error.isConnectionReset)
    } else {
      Issue.record("\(results)")
    }
  }

  @Test func resetWhileNobodyReadsDoesNotSpin() throws {
    let loop = try EventLoop()
    let (client, server, near, _) = try connected(loop)
    var got: [UInt8] = []
    var last = ReadResult.wouldBlock
    near.readable = { connection in
      last = connection.read { got.append($0.bytes) }
    }
    client.pauseReading()
    #expect(server.writeAll(pattern(500)))
    server.reset()
    var timerFired = false
    let events = loop.eventCount
    loop.schedule(after: .milliseconds(30)) { timerFired = true }
    #expect(loop.run { timerFired })
    #expect(loop.eventCount - events < 5, "\(loop.eventCount - events) events")
    #expect(!client.isClosed)
    client.resumeReading()
    #expect(loop.run { client.isClosed })
    // What came before the reset is not lost.
    #expect(got == pattern(500))
    if case .failed(let error) = last {
      #expect(error.isConnectionReset)
    } else {
      Issue.record("\(last)")
    }
  }

  @Test func endWhileNobodyReadsDoesNotSpin() throws {
    let loop = try EventLoop()
    let (client, server, near, _) = try connected(loop)
    var results: [ReadResult] = []
    near.readable = { connection in results.append(connection.read { _ in }) }
    client.pauseReading()
    client.shutdownWrite()
    server.close()
    var timerFired = false
    let events = loop.eventCount
    loop.schedule(after: .milliseconds(30)) { timerFired = true }
    #expect(loop.run { timerFired })
    #expect(loop.eventCount - events < 5)
    client.resumeReading()
    #expect(loop.run { !results.isEmpty })
    #expect(results.first == .end)
    client.close()
  }

  @Test func refusedConnectionIsToldLater() throws {
    let loop = try EventLoop()
    let listener = try StreamListener(loop, on: loopback4) { $0.close() }
    let dead = listener.local!
    listener.close()
    let script = StreamScript()
    let client = try StreamConnection.connect(loop, to: dead, delegate: script)
    #expect(script.failure == nil)
    #expect(loop.run { script.failure != nil })
    #expect(script.failure?.isConnectionRefused == true)
    #expect(!script.isOpened)
    #expect(client.isClosed)
    #expect(client.delegate == nil)
    #expect(loop.timerCount == 0)
  }

  @Test func connectGivesUpAtItsDeadline() throws {
    let loop = try EventLoop()
    // Its loop never runs, so nothing is accepted; beyond the queue the kernel
    // drops what comes.
    let idle = try EventLoop()
    let listener = try StreamListener(idle, on: loopback4, backlog: 1) { $0.close() }
    var options = StreamOptions()
    options.connectTimeout = .milliseconds(50)
    let scripts = (0..<8).map { _ in StreamScript() }
    var clients: [StreamConnection] = []
    for script in scripts {
      clients.append(
        try StreamConnection.connect(loop, to: listener.local!, options: options, delegate: script))
    }
    #expect(loop.run { scripts.allSatisfy { $0.isOpened || $0.failure != nil } })
    let failed = scripts.filter { $0.failure != nil }
    #expect(failed.count >= 4)
    #expect(failed.allSatisfy { $0.failure?.isTimeout == true && !$0.isOpened })
    for client in clients { client.close() }
    listener.close()
    #expect(loop.timerCount == 0)
  }

  @Test func backlogIsBoundedAndWritableIsToldOnce() throws {
    let loop = try EventLoop()
    var options = StreamOptions()
    options.backlogBytes = 100_000
    options.sendBuffer = 32_768
    options.receiveBuffer = 32_768
    let (client, server, near, far) = try connected(loop, options: options)
    var writables = 0
    near.writable = { _ in writables += 1 }
    var total = 0
    let block = pattern(30_000)
    while true {
      let taken = client.write(block.span.bytes)
      total += taken
      #expect(client.backlog <= 100_000)
      if taken < block.count { break }
    }
    #expect(client.backlog == 100_000)
    #expect(client.room == 0)
    // All or nothing while there is no room.
    #expect(!client.writeAll(pattern(10)))
    let one = pattern(1)
    let wasTaken = client.write(one.span.bytes, one.span.bytes)
    #expect(!wasTaken)
    #expect(client.backlog == 100_000)
    var received = 0
    far.readable = { connection in
      var result = ReadResult.bytes(0)
      while case .bytes = result { result = connection.read { received += $0.byteCount } }
    }
    #expect(loop.run { received == total })
    #expect(client.backlog == 0)
    #expect(writables == 1)
    #expect(client.writeAll(block))
    client.close()
    server.close()
  }

  @Test func framesOfTwoRunsStayWholeUnderPressure() throws {
    for seed in 1...5 {
      let loop = try EventLoop()
      var options = StreamOptions()
      options.backlogBytes = 50_000
      options.sendBuffer = 16_384
      options.receiveBuffer = 16_384
      let (client, server, near, far) = try connected(loop, options: options)
      var random = SeededRandom(testSeed: UInt64(seed))
      var expected: [UInt8] = []
      var received: [UInt8] = []
      var frames = 0
      var wasRefused = 0
      func pump(_ connection: StreamConnection) {
        while frames < 400 {
          let head = pattern(7, seed: frames + 1)
          let body = pattern(Int.random(in: 0...9000, using: &random), seed: frames + 1000)
          let isTaken: Bool
          if frames % 3 == 0 {
            isTaken = connection.enqueue((head + body).span.bytes)
            connection.flush()
          } else {
            isTaken = connection.write(head.span.bytes, body.span.bytes)
          }
          guard isTaken else {
            wasRefused += 1
            return
          }
          expected += head + body
          frames += 1
        }
      }
      near.writable = pump
      far.readable = { connection in
        _ = connection.read(limit: 5000) { received.append($0.bytes) }
      }
      pump(client)
      #expect(
        loop.run { frames == 400 && received.count == expected.count }, "seed \(seed)")
      #expect(received == expected, "seed \(seed)")
      #expect(wasRefused > 0, "seed \(seed)")
      client.close()
      server.close()
    }
  }

  @Test func writeAfterResetFailsOnceAndLater() throws {
    let loop = try EventLoop()
    let (client, server, near, _) = try connected(loop)
    client.pauseReading()
    server.reset()
    var timerFired = false
    loop.schedule(after: .milliseconds(5)) { timerFired = true }
    #expect(loop.run { timerFired })
    #expect(!client.writeAll(pattern(10)))
    #expect(near.failure == nil)
    #expect(loop.run { near.failure != nil })
    #expect(near.failure?.isConnectionReset == true)
    #expect(client.isClosed)
  }

  @Test func bytesWrittenWhileConnectingArrive() throws {
    let loop = try EventLoop()
    var received: [UInt8] = []
    let far = StreamScript()
    var isEnded = false
    far.readable = { connection in
      var result = ReadResult.bytes(0)
      while case .bytes = result { result = connection.read { received.append($0.bytes) } }
      if result == .end {
        isEnded = true
        connection.close()
      }
    }
    let listener = try StreamListener(loop, on: loopback6) { $0.delegate = far }
    let near = StreamScript()
    let client = try StreamConnection.connect(loop, to: listener.local!, delegate: near)
    #expect(client.writeAll(pattern(3000)))
    client.closeWhenFlushed()
    #expect(loop.run { isEnded })
    #expect(received == pattern(3000))
    #expect(client.isClosed)
    listener.close()
  }

  @Test func dualStackListenerSeesBothFamilies() throws {
    let loop = try EventLoop()
    var remotes: [Endpoint] = []
    let listener = try StreamListener(loop, on: Endpoint(.anyV6, 0), isDualStack: true) {
      if let remote = $0.remote { remotes.append(remote) }
      $0.close()
    }
    let port = listener.local!.port
    let scripts = [StreamScript(), StreamScript()]
    let a = try StreamConnection.connect(
      loop, to: Endpoint(.loopbackV4, port), delegate: scripts[0])
    let b = try StreamConnection.connect(
      loop, to: Endpoint(.loopbackV6, port), delegate: scripts[1])
    #expect(loop.run { remotes.count == 2 })
    #expect(Set(remotes.map(\.address)) == [.loopbackV4, .loopbackV6])
    a.close()
    b.close()
    listener.close()
  }

  @Test func onePortListensAndDials() throws {
    // TCP punching: the same local port accepts and connects.
    let loop = try EventLoop()
    var options = StreamOptions()
    options.reuseAddress = true
    options.reusePort = true
    let mine = try StreamListener(loop, on: loopback4, options: options) { $0.close() }
    var seen: Endpoint?
    let far = try StreamListener(loop, on: loopback4) {
      seen = $0.remote
      $0.close()
    }
    options.source = mine.local
    let script = StreamScript()
    let client = try StreamConnection.connect(
      loop, to: far.local!, options: options, delegate: script)
    #expect(loop.run { seen != nil })
    #expect(seen == mine.local)
    client.close()
    mine.close()
    far.close()
  }

  @Test func kernelFactsAreThere() throws {
    let loop = try EventLoop()
    var options = StreamOptions()
    options.keepalive = .seconds(30)
    options.userTimeout = .seconds(20)
    options.notSentLowWater = 65_536
    options.congestionControl = "cubic"
    let (client, server, _, far) = try connected(loop, options: options)
    var received = 0
    far.readable = { connection in
      var result = ReadResult.bytes(0)
      while case .bytes = result { result = connection.read { received += $0.byteCount } }
    }
    #expect(client.writeAll(pattern(50_000)))
    #expect(loop.run { received == 50_000 })
    let facts = try #require(client.tcpFacts)
    #expect(facts.roundTrip > .zero)
    #expect(facts.sendBufferBytes > 0)
    #expect(facts.maximumSegment > 500)
    #expect(facts.bytesAcknowledged >= 1)
    client.setNotSentLowWater(16_384)
    client.close()
    #expect(client.tcpFacts == nil)
    server.close()
  }

  @Test func unixSocketsConnectAndReplaceDeadFiles() throws {
    let loop = try EventLoop()
    let directory = "/tmp/martlet-test-\(ProcessSettings.processID)-unix"
    try Files.makeDirectory(directory)
    let path = directory + "/s"
    for name in [path, "@" + directory] {
      var received: [UInt8] = []
      var peer: UInt32?
      let far = StreamScript()
      far.readable = { connection in
        if connection.read({ received.append($0.bytes) }) == .end { connection.close() }
      }
      let listener = try StreamListener(loop, unixPath: name) {
        peer = $0.unixPeerUserID
        $0.delegate = far
      }
      #expect(throws: SystemError.self) { try StreamListener(loop, unixPath: name) { $0.close() } }
      let near = StreamScript()
      let client = try StreamConnection.connect(loop, unixPath: name, delegate: near)
      client.delegate = near
      #expect(client.writeAll(pattern(77)))
      #expect(loop.run { received.count == 77 })
      #expect(received == pattern(77))
      #expect(peer == ProcessSettings.userID)
      #expect(client.remote == nil)
      client.close()
      listener.close()
      #expect(!Files.exists(path))
    }
    // A file that nobody listens on any more is replaced.
    try Files.write(path, [])
    #expect(throws: SystemError.self) {
      try StreamConnection.connect(loop, unixPath: directory + "/none")
    }
    try Files.remove(path)
  }

  @Test func nothingIsLeftAfterClosing() throws {
    weak var weakLoop: EventLoop?
    weak var weakSocket: UDPSocket?
    weak var weakClient: StreamConnection?
    weak var weakServer: StreamConnection?
    do {
      let loop = try EventLoop()
      let (client, server, _, _) = try connected(loop)
      let socket = try UDPSocket(loop, bind: loopback4, number: 1)
      let monitor = try NetworkMonitor(loop) {}
      let timer = LoopTimer(loop) {}
      timer.set(at: EventLoop.clock() + .seconds(9))
      weakLoop = loop
      weakSocket = socket
      weakClient = client
      weakServer = server
      _ = client.write(pattern(10).span.bytes)
      client.close()
      server.reset()
      socket.close()
      monitor.close()
    }
    #expect(weakSocket == nil)
    #expect(weakClient == nil)
    #expect(weakServer == nil)
    #expect(weakLoop == nil)
  }

  @Test func acceptsManyAtOnce() throws {
    let loop = try EventLoop()
    var accepted: [StreamConnection] = []
    let idle = StreamScript()
    let listener = try StreamListener(loop, on: loopback4) {
      $0.delegate = idle
      accepted.append($0)
    }
    var clients: [StreamConnection] = []
    let script = StreamScript()
    for _ in 0..<300 {
      clients.append(try StreamConnection.connect(loop, to: listener.local!, delegate: script))
    }
    #expect(loop.run { accepted.count == 300 && clients.allSatisfy(\.isOpen) })
    #expect(listener.accepted == 300)
    for connection in accepted + clients { connection.close() }
    listener.close()
    #expect(loop.timerCount == 0)
  }
}
