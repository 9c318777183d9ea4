/// The serving side of one connection: HTTP/1.1 requests, and after an upgrade
/// WebSocket messages, over plain TCP or TLS. Used by the server's one port and
/// by the agent's local API. One request is open at a time; its answer may come
/// later. Slow clients run into the machine's time-outs.

package import Bytes
package import HTTP
package import Reactor
package import TLS

package protocol WebChannelDelegate: AnyObject {
  /// Answer with `respond` or `upgrade`, now or later.
  func channel(_ channel: WebChannel, request: HTTPRequest)
  /// One binary message; the bytes are lent and may be changed.
  func channel(_ channel: WebChannel, message: inout MutableRawSpan)
  /// Output was refused or large before; there is room again.
  func channelWritable(_ channel: WebChannel)
  /// Over; told once. Nothing can be sent any more.
  func channelClosed(_ channel: WebChannel)
}

package final class WebChannel: SecureStreamDelegate {
  package let stream: SecureStream
  /// The driver's number for it.
  package let number: UInt32
  package let remote: Endpoint
  package let local: Endpoint?
  private weak var delegate: (any WebChannelDelegate)?
  private let loop: EventLoop
  private var http: HTTPServerConnection
  private var socket: WebSocketConnection?
  private let timer: LoopTimer
  private var isOver = false
  private var isClosing = false
  private var wasShort = false
  private var isDrainingHTTP = false
  private var notifyMark = 65_536

  /// - Parameters:
  ///   - connection: accepted and open.
  ///   - acceptor: makes a TLS session for a client that begins with TLS; nil
  ///     for a port that speaks plain HTTP only.
  package init(
    number: UInt32, connection: StreamConnection,
    acceptor: (() throws(TLSFailure) -> TLSSession)? = nil,
    limits: HTTPLimits = HTTPLimits(), delegate: any WebChannelDelegate
  ) {
    self.number = number
    self.delegate = delegate
    loop = connection.loop
    remote = connection.remote ?? .none
    local = connection.local
    http = HTTPServerConnection(now: connection.loop.now, limits: limits)
    weak var me: WebChannel?
    timer = LoopTimer(connection.loop) { me?.tick() }
    let box = DelegateBox()
    if let acceptor {
      stream = SecureStream(accepted: connection, acceptor: acceptor, delegate: box)
    } else {
      stream = SecureStream(connection, tls: nil, delegate: box)
    }
    me = self
    stream.delegate = self
    if box.isOpened { streamOpened(stream) }
  }

  /// Stands in while the channel is being made.
  private final class DelegateBox: SecureStreamDelegate {
    var isOpened = false
    func streamOpened(_ stream: SecureStream) { isOpened = true }
    func streamReceived(_ stream: SecureStream, _ bytes: inout MutableRawSpan) {}
    func streamWritable(_ stream: SecureStream) {}
    func streamEnded(_ stream: SecureStream) {}
    func streamFailed(_ stream: SecureStream, _ words: String) {}
  }

  package var isWebSocket: Bool { socket != nil }
  package var isClosed: Bool { isOver }

  /// Bytes that wait for the kernel.
  package var backlog: Int { stream.backlog + (socket?.outputCount ?? 0) }

  // MARK: HTTP

  package func respond(_ response: HTTPResponse, close: Bool = false) {
    guard !isOver, socket == nil else { return }
    http.unixTime = EventLoop.wallClockNanoseconds / 1_000_000_000
    http.respond(response, close: close)
    flushHTTP()
    drainHTTP()
  }

  /// Answers the open request with 101 and goes on as WebSocket; a request that
  /// is none is answered with what is wrong.
  /// - Returns: whether it is a WebSocket now.
  package func upgrade(
    _ request: HTTPRequest, seed: [UInt8], limits: WebSocketLimits
  ) -> Bool {
    switch WebSocketHandshake.answer(request) {
    case .refused(let response):
      respond(response)
      return false
    case .accepted(let response):
      guard http.switchProtocols(response) else { return false }
      flushHTTP()
      socket = WebSocketConnection(
        role: .server, seed: seed, leftover: http.takeSwitchedInput(), limits: limits,
        now: loop.now)
      return true
    }
  }

  // MARK: WebSocket

  /// Bytes of one message from now on: more once the peer has proven itself.
  package func setMessageLimit(_ bytes: Int) { socket?.limits.message = bytes }

  /// Sends one binary message; false when too much waits already.
  package func send(_ bytes: [UInt8]) -> Bool {
    guard let socket, !isOver, socket.send(binary: bytes.span.bytes) else { return false }
    flush()
    return !isOver
  }

  /// Appends one message of at most `limit` bytes; `flush` sends. Nothing is
  /// appended when `body` writes nothing.
  /// - Returns: bytes of payload; nil when too much waits already.
  package func append(limit: Int, _ body: (inout OutputRawSpan) -> Void) -> Int? {
    guard let socket, !isOver else { return nil }
    return socket.send(binaryLimit: limit, body)
  }

  package func flush() {
    guard let socket, !isOver else { return }
    while socket.outputCount > 0 {
      var isTaken = false
      socket.withOutput { bytes in
        let piece = bytes.extracting(0..<min(bytes.byteCount, 65_536))
        isTaken = stream.write(piece)
        return isTaken ? piece.byteCount : 0
      }
      if !isTaken {
        wasShort = true
        break
      }
    }
    if isClosing, socket.outputCount == 0 { finish() }
    arm()
  }

  /// Asks for one `channelWritable` when no more than half of `bytes` wait here:
  /// for an owner that stops before its writes are refused.
  package func notify(below bytes: Int) {
    wasShort = true
    notifyMark = bytes
    stream.notify(below: bytes / 2)
  }

  /// Ends it when what was sent before has left.
  package func close(code: UInt16 = 1000, reason: String = "") {
    guard !isOver, !isClosing else { return }
    isClosing = true
    if let socket {
      socket.sendClose(code: code, reason: reason, now: loop.now)
      flush()
      // A peer that does not read must not keep it open.
      loop.schedule(after: .seconds(5)) { [weak self] in self?.finish() }
    } else {
      http.close(now: loop.now)
      flushHTTP()
      finish()
    }
  }

  /// Ends it now; the delegate is told.
  package func abort() { finish() }

  // MARK: SecureStreamDelegate

  package func streamOpened(_ stream: SecureStream) { arm() }

  package func streamReceived(_ stream: SecureStream, _ bytes: inout MutableRawSpan) {
    guard !isOver else { return }
    if let socket {
      socket.receive(bytes.bytes, now: loop.now)
      drainSocket(socket)
    } else {
      http.receive(bytes.bytes, now: loop.now)
      drainHTTP()
      if let socket { drainSocket(socket) }
    }
  }

  package func streamWritable(_ stream: SecureStream) {
    if socket == nil { flushHTTP() } else { flush() }
    guard !isOver, wasShort else { return }
    guard backlog <= notifyMark else {
      stream.notify(below: notifyMark / 2)
      return
    }
    wasShort = false
    delegate?.channelWritable(self)
  }

  package func streamEnded(_ stream: SecureStream) {
    if let socket {
      socket.receiveEnd(now: loop.now)
      drainSocket(socket)
      finish()
    } else {
      http.receiveEnd(now: loop.now)
      drainHTTP()
      if http.isFinished || !hasOpenRequest { finish() }
    }
  }

  package func streamFailed(_ stream: SecureStream, _ words: String) { finish() }

  // MARK: Parts

  private var hasOpenRequest: Bool { http.currentRequest != nil }

  private func drainHTTP() {
    // An answer given at once comes back here: the outer loop goes on, or
    // pipelined requests would pile up on the stack.
    guard !isDrainingHTTP else { return }
    isDrainingHTTP = true
    defer { isDrainingHTTP = false }
    while !isOver, socket == nil, let event = http.pollEvent() {
      switch event {
      case .request(let request): delegate?.channel(self, request: request)
      case .body, .end, .failed: break
      }
    }
    if socket == nil { flushHTTP() }
  }

  private func flushHTTP() {
    guard !isOver else { return }
    if http.hasOutput {
      let output = http.takeOutput()
      // Answers are bounded by what the API says; one that finds no room at all
      // belongs to a client that does not read.
      stream.connection.backlogLimit = max(stream.connection.backlogLimit, output.count + 65_536)
      if !stream.write(output.span.bytes) {
        finish()
        return
      }
    }
    if http.outputEnds, !http.isSwitched {
      stream.connection.shutdownWrite()
      if http.isFinished { finish() }
    }
    arm()
  }

  private func drainSocket(_ socket: WebSocketConnection) {
    while !isOver, let event = socket.pollEvent() {
      switch event {
      case .binary:
        socket.withMutableMessage { delegate?.channel(self, message: &$0) }
      case .text, .pong:
        break
      case .closed, .failed:
        isClosing = true
      }
    }
    flush()
  }

  private func tick() {
    if let socket {
      socket.advance(to: loop.now)
      drainSocket(socket)
    } else {
      http.advance(to: loop.now)
      drainHTTP()
      if http.isFinished { finish() }
    }
    arm()
  }

  private func arm() {
    guard !isOver else { return }
    timer.set(at: (socket?.nextDeadline ?? http.nextDeadline) ?? .distantFuture)
  }

  private func finish() {
    guard !isOver else { return }
    isOver = true
    timer.cancel()
    stream.close()
    let delegate = delegate
    self.delegate = nil
    delegate?.channelClosed(self)
  }
}
