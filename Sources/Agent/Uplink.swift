/// One WebSocket from the agent to the server: `/signal` for the login and all
/// messages, `/relay` for sealed packets. It connects, upgrades, and passes
/// whole messages; it neither retries nor knows what they mean.

internal import Bytes
internal import HTTP
internal import Reactor
internal import Signaling
internal import TLS
internal import Transport

protocol UplinkDelegate: AnyObject {
  func uplinkOpened(_ uplink: Uplink)
  /// One whole message; the bytes are lent.
  func uplinkReceived(_ uplink: Uplink, _ message: inout MutableRawSpan)
  func uplinkWritable(_ uplink: Uplink)
  /// Over; told once.
  func uplinkClosed(_ uplink: Uplink, _ words: String)
}

final class Uplink: SecureStreamDelegate {
  enum Purpose: String {
    case signal = "/signal"
    case relay = "/relay"
  }

  let purpose: Purpose
  let number: UInt32
  private(set) var stream: SecureStream?
  private weak var delegate: (any UplinkDelegate)?
  private let loop: EventLoop
  private let authority: HTTPAuthority
  private let nonce: [UInt8]
  private let seed: [UInt8]
  private var http = HTTPClientConnection()
  private var socket: WebSocketConnection?
  private let timer: LoopTimer
  private var isOver = false

  /// - Parameters:
  ///   - number: as in `Carrier.socket`.
  ///   - random: 48 bytes for the WebSocket.
  init(
    _ purpose: Purpose, number: UInt32, connection: StreamConnection, tls: TLSSession?,
    through proxy: HTTPProxy?, host: String, port: UInt16, random: [UInt8], delegate: any UplinkDelegate
  ) {
    precondition(random.count == 48)
    self.purpose = purpose
    self.number = number
    self.delegate = delegate
    loop = connection.loop
    authority = HTTPAuthority(host: host, port: port)
    nonce = Array(random[..<16])
    seed = Array(random[16...])
    weak var me: Uplink?
    timer = LoopTimer(connection.loop) { me?.tick() }
    me = self
    stream = SecureStream(
      connection, tls: tls, through: proxy.map { ProxyTunnel(through: $0, to: authority) },
      delegate: self)
  }

  var remote: Endpoint { stream?.remote ?? .none }
  /// Our end's address; nil while it is not connected.
  var localAddress: IPAddress? { stream?.local?.address }
  var tls: TLSSession? { stream?.tls }
  var isOpen: Bool { socket != nil && !isOver }
  /// The WebSocket was there, whatever became of it.
  var wasUpgraded: Bool { socket != nil }

  /// Bytes that wait for the kernel.
  var backlog: Int { (stream?.backlog ?? 0) + (socket?.outputCount ?? 0) }

  /// Sends one message; false when there is no room (`uplinkWritable` tells).
  func send(_ bytes: [UInt8]) -> Bool {
    guard let socket, !isOver, socket.send(binary: bytes.span.bytes) else { return false }
    flush()
    return !isOver
  }

  /// Appends one message of at most `limit` bytes written by `body`; `flush`
  /// sends what was appended.
  func append(limit: Int, _ body: (inout OutputRawSpan) -> Void) -> Bool {
    guard let socket, !isOver else { return false }
    return socket.send(binaryLimit: limit, body) != nil
  }

  /// Asks for one `uplinkWritable` when no more than `bytes` wait here.
  func notify(below bytes: Int) { stream?.notify(below: bytes) }

  func flush() {
    guard let socket, let stream, !isOver else { return }
    while socket.outputCount > 0 {
      var isTaken = false
      socket.withOutput { bytes in
        let piece = bytes.extracting(0..<min(bytes.byteCount, 65_536))
        isTaken = stream.write(piece)
        return isTaken ? piece.byteCount : 0
      }
      if !isTaken { break }
    }
    arm()
  }

  func close() {
    guard !isOver else { return }
    isOver = true
    delegate = nil
    if let socket {
      socket.sendClose(now: loop.now)
      socket.withOutput { bytes in stream?.write(bytes) == true ? bytes.byteCount : 0 }
    }
    stream?.close()
    timer.cancel()
  }

  // MARK: SecureStreamDelegate

  func streamOpened(_ stream: SecureStream) {
    http.send(
      WebSocketHandshake.request(target: purpose.rawValue, nonce: nonce), authority: authority,
      now: loop.now)
    let request = http.takeOutput()
    if !stream.write(request.span.bytes) { finish("the server's connection takes no bytes") }
    arm()
  }

  func streamReceived(_ stream: SecureStream, _ bytes: inout MutableRawSpan) {
    if let socket {
      socket.receive(bytes.bytes, now: loop.now)
      drain(socket)
      return
    }
    http.receive(bytes.bytes, now: loop.now)
    while let event = http.pollEvent() {
      switch event {
      case .switched(let response):
        guard WebSocketHandshake.isAccepted(response, nonce: nonce) else {
          finish("the server's WebSocket answer is not valid")
          return
        }
        var limits = purpose == .relay ? .bulk : WebSocketLimits()
        limits.message = max(limits.message, SignalLimits.message)
        let socket = WebSocketConnection(
          role: .client, seed: seed, leftover: http.takeSwitchedInput(),
          limits: limits, now: loop.now)
        self.socket = socket
        delegate?.uplinkOpened(self)
        drain(socket)
        return
      case .response(let response):
        finish("the server answered \(response.status) instead of WebSocket")
        return
      case .failed(let failure):
        finish("the server's answer is not HTTP (\(failure))")
        return
      case .body, .end:
        break
      }
    }
  }

  func streamWritable(_ stream: SecureStream) {
    flush()
    if !isOver { delegate?.uplinkWritable(self) }
  }

  func streamEnded(_ stream: SecureStream) {
    if let socket {
      socket.receiveEnd(now: loop.now)
      drain(socket)
    }
    finish("the server closed the connection")
  }

  func streamFailed(_ stream: SecureStream, _ words: String) { finish(words) }

  // MARK: Parts

  private func drain(_ socket: WebSocketConnection) {
    while !isOver, let event = socket.pollEvent() {
      switch event {
      case .binary:
        socket.withMutableMessage { delegate?.uplinkReceived(self, &$0) }
      case .text, .pong:
        break
      case .closed(let code, let reason):
        finish(reason.isEmpty ? "the server closed the connection (\(code))" : reason)
      case .failed(let failure):
        finish("WebSocket: \(failure)")
      }
    }
    flush()
  }

  private func tick() {
    if let socket {
      socket.advance(to: loop.now)
      drain(socket)
    } else {
      http.advance(to: loop.now)
      while let event = http.pollEvent() {
        if case .failed(let failure) = event { finish("the server does not answer (\(failure))") }
      }
    }
    arm()
  }

  private func arm() {
    guard !isOver else { return }
    timer.set(at: (socket?.nextDeadline ?? http.nextDeadline) ?? .distantFuture)
  }

  private func finish(_ words: String) {
    guard !isOver else { return }
    isOver = true
    timer.cancel()
    stream?.close()
    let delegate = delegate
    self.delegate = nil
    delegate?.uplinkClosed(self, words)
  }
}
