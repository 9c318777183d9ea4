// A TCP or Unix stream of a loop: connecting, reading into the caller's
// memory, writing with a bounded backlog, half close, reset. Never blocks,
// never reads ahead on its own, and holds no more unsent bytes than it was
// allowed.
//
//   connecting ──→ open ──→ (read end | write end) ──→ closed
//        └───────────┴── failed: told once, closed already ──┘

package import Bytes
internal import CLinux
internal import Glibc

/// How a stream socket is made. Nil and zero leave the system's setting.
package struct StreamOptions: Sendable {
  /// Send small writes at once (TCP_NODELAY).
  package var noDelay = true
  /// Report writable only below this many unsent bytes (TCP_NOTSENT_LOWAT).
  package var notSentLowWater: Int? = nil
  /// Give up when sent bytes stay unacknowledged this long (TCP_USER_TIMEOUT).
  package var userTimeout: TimeAmount? = nil
  /// First keepalive probe after this much silence; then `keepaliveCount`
  /// probes `keepaliveInterval` apart.
  package var keepalive: TimeAmount? = nil
  package var keepaliveInterval = TimeAmount.seconds(15)
  package var keepaliveCount = 4
  /// "cubic", "bbr"; nil = the system's.
  package var congestionControl: String? = nil
  package var sendBuffer: Int32 = 0
  package var receiveBuffer: Int32 = 0
  package var mark: UInt32 = 0
  package var interface = ""
  /// SO_REUSEADDR; listeners have it always.
  package var reuseAddress = false
  /// SO_REUSEPORT: a listener and outgoing connections on one port (punching).
  package var reusePort = false
  /// Where an outgoing connection comes from; port 0 = any.
  package var source: Endpoint? = nil
  package var connectTimeout = ReactorLimits.connectTimeout
  /// Unsent bytes kept beside the kernel's.
  package var backlogBytes = ReactorLimits.streamBacklogBytes

  package init() {}
}

/// Told by a connection. After `connectionFailed` or `close` nothing more.
package protocol ConnectionDelegate: AnyObject {
  /// An outgoing connection is there.
  func connectionOpened(_ connection: StreamConnection)
  /// Bytes or the end wait: `read` until it blocks, or `pauseReading`. Called
  /// again while they do.
  func connectionReadable(_ connection: StreamConnection)
  /// A write was short before; the backlog is below half its limit again.
  func connectionWritable(_ connection: StreamConnection)
  /// It could not connect, was reset, or timed out; it is closed already.
  func connectionFailed(_ connection: StreamConnection, _ error: SystemError)
}

extension ConnectionDelegate {
  package func connectionOpened(_ connection: StreamConnection) {}
  package func connectionWritable(_ connection: StreamConnection) {}
}

/// What a read gave.
package enum ReadResult: Equatable, Sendable {
  /// So many bytes, at least one.
  case bytes(Int)
  /// Nothing now; `connectionReadable` will tell.
  case wouldBlock
  /// The peer has ended its direction. Ours may go on.
  case end
  /// The connection is closed now; the delegate is not told again.
  case failed(SystemError)
}

/// A stream connection.
package final class StreamConnection: ReadinessHandler {
  enum State {
    /// Waiting for the kernel to connect.
    case connecting
    case open
    case closed
  }

  package let loop: EventLoop
  /// The far end; nil for a Unix stream.
  package let remote: Endpoint?
  /// Kept by the connection until it is closed.
  package var delegate: (any ConnectionDelegate)?
  /// Bytes taken for writing beside the kernel's; may be changed.
  package var backlogLimit: Int
  package internal(set) var bytesRead: UInt64 = 0
  package internal(set) var bytesWritten: UInt64 = 0

  let fd: Int32
  var state: State
  var buffer = WriteBuffer()
  var isReadEnded = false
  var isWriteEnding = false
  var isWriteEnded = false
  var wantsRoom = false
  /// Set by `notify(below:)`.
  var drainMark: Int?
  var closesWhenFlushed = false
  private var isReadPaused = false
  /// Taken out of epoll: the kernel had something to tell that nobody wants yet.
  private var isParked = false
  private var connectTimer: TimerToken?
  private var brokenTimer: TimerToken?

  // MARK: Making

  /// Starts a connection. The delegate hears of success or failure later, never
  /// inside this call.
  /// - Throws: when it fails at once (no route, no descriptors).
  package static func connect(
    _ loop: EventLoop, to remote: Endpoint, options: StreamOptions = StreamOptions(),
    delegate: (any ConnectionDelegate)? = nil
  ) throws(SystemError) -> StreamConnection {
    var address = martlet_endpoint(remote)
    var raw = options.raw
    var inProgress: Int32 = 0
    let fd: Int32
    if let source = options.source {
      var local = martlet_endpoint(source)
      fd = try check(unsafe martlet_connect(&address, &local, &raw, &inProgress), "connect")
    } else {
      fd = try check(unsafe martlet_connect(&address, nil, &raw, &inProgress), "connect")
    }
    return try StreamConnection(
      loop, adopting: fd, remote: remote, isConnecting: true, options: options, delegate: delegate)
  }

  /// Connects to a Unix socket; a path that starts with `@` is abstract.
  package static func connect(
    _ loop: EventLoop, unixPath path: String, options: StreamOptions = StreamOptions(),
    delegate: (any ConnectionDelegate)? = nil
  ) throws(SystemError) -> StreamConnection {
    var inProgress: Int32 = 0
    let fd = try check(unsafe martlet_connect_unix(path, &inProgress), "connect")
    return try StreamConnection(
      loop, adopting: fd, remote: nil, isConnecting: true, options: options, delegate: delegate)
  }

  /// Takes a connected, nonblocking descriptor over.
  init(
    _ loop: EventLoop, adopting fd: Int32, remote: Endpoint?, isConnecting: Bool,
    options: StreamOptions, delegate: (any ConnectionDelegate)? = nil
  ) throws(SystemError) {
    self.loop = loop
    self.fd = fd
    self.remote = remote
    self.delegate = delegate
    state = isConnecting ? .connecting : .open
    backlogLimit = options.backlogBytes
    if remote != nil { options.apply(to: fd) }
    // A throw from here on closes it in the deinit.
    try loop.register(fd, self, for: isConnecting ? .writable : .readable)
    if isConnecting {
      connectTimer = loop.schedule(after: options.connectTimeout) { [unowned self] in
        connectTimer = nil
        fail(.timedOut)
      }
    }
  }

  deinit { if state != .closed { _ = martlet_close(fd) } }

  // MARK: Facts

  package var isOpen: Bool { state == .open }
  package var isClosed: Bool { state == .closed }
  package var isConnecting: Bool { state == .connecting }
  /// Our end; nil for a Unix stream.
  package var local: Endpoint? {
    state == .closed || remote == nil ? nil : localEndpoint(of: fd)
  }
  /// The peer's user, for a Unix stream.
  package var unixPeerUserID: UInt32? {
    var uid: UInt32 = 0
    guard state != .closed, unsafe martlet_unix_peer_uid(fd, &uid) >= 0 else { return nil }
    return uid
  }

  // MARK: Closing

  /// Closes now. The kernel still delivers what it has taken; our own backlog
  /// is lost. The delegate hears nothing.
  package func close() {
    guard state != .closed else { return }
    leave()
    _ = martlet_close(fd)
  }

  /// Closes so that the peer sees a reset (SO_LINGER 0).
  package func reset() {
    guard state != .closed else { return }
    leave()
    _ = martlet_close_reset(fd)
  }

  /// Closes once the backlog has gone to the kernel. Nothing is read any more.
  package func closeWhenFlushed() {
    guard state != .closed else { return }
    if buffer.count == 0 && state == .open { return close() }
    closesWhenFlushed = true
    isReadPaused = true
    updateInterest()
  }

  /// Ends our direction after the backlog; reading goes on.
  package func shutdownWrite() {
    guard state != .closed, !isWriteEnding else { return }
    isWriteEnding = true
    if state == .open, buffer.count == 0 { endWriting() }
  }

  func endWriting() {
    guard !isWriteEnded else { return }
    isWriteEnded = true
    _ = martlet_shutdown_write(fd)
  }

  private func leave() {
    state = .closed
    if let connectTimer { loop.cancel(connectTimer) }
    connectTimer = nil
    if let brokenTimer { loop.cancel(brokenTimer) }
    brokenTimer = nil
    if !isParked { loop.deregister(fd) }
    delegate = nil
    buffer.removeAll()
  }

  /// Closes and tells the delegate.
  func fail(_ error: SystemError) {
    guard state != .closed else { return }
    let delegate = delegate
    close()
    delegate?.connectionFailed(self, error)
  }

  // MARK: Readiness

  /// Asks for no more `connectionReadable`. The kernel's buffer fills and the
  /// peer is slowed down.
  package func pauseReading() {
    guard !isReadPaused else { return }
    isReadPaused = true
    updateInterest()
  }

  package func resumeReading() {
    guard isReadPaused, !closesWhenFlushed else { return }
    isReadPaused = false
    updateInterest()
  }

  func updateInterest() {
    guard state != .closed else { return }
    var interest: Readiness = []
    if state == .connecting || buffer.count > 0 { interest.insert(.writable) }
    if state == .open && !isReadPaused && !isReadEnded { interest.insert(.readable) }
    if isParked {
      guard !interest.isEmpty else { return }
      isParked = false
      if let brokenTimer { loop.cancel(brokenTimer) }
      brokenTimer = nil
      do throws(SystemError) { try loop.register(fd, self, for: interest) } catch {
        isParked = true
        fail(error)
      }
    } else {
      loop.modify(fd, for: interest)
    }
  }

  package func ready(_ events: Readiness) {
    if state == .connecting { return finishConnecting() }
    let isBroken = !events.isDisjoint(with: [.error, .hangUp])
    if buffer.count > 0 && (isBroken || events.contains(.writable)) {
      flush()
      guard state == .open else { return }
    }
    guard isBroken || events.contains(.readable) else { return }
    if !isReadPaused && !isReadEnded {
      delegate?.connectionReadable(self)
    } else if isBroken {
      parkOrFail(hasError: events.contains(.error))
    }
  }

  /// The kernel insists on an error or on the end of both directions while
  /// nobody reads: stop listening, or the loop would spin.
  private func parkOrFail(hasError: Bool) {
    if isReadEnded {
      let error = martlet_socket_error(fd)
      if error > 0 { return fail(SystemError(error, "read")) }
    }
    // What was received before a reset can still be read after `resumeReading`,
    // but whoever reads no more must not keep a broken connection for ever.
    isParked = true
    loop.deregister(fd)
    guard hasError else { return }
    brokenTimer = loop.schedule(after: ReactorLimits.brokenUnread) { [weak self] in
      guard let self else { return }
      brokenTimer = nil
      let error = martlet_socket_error(fd)
      fail(SystemError(error > 0 ? error : ECONNRESET, "read"))
    }
  }

  private func finishConnecting() {
    let error = martlet_socket_error(fd)
    guard error == 0 else { return fail(SystemError(abs(error), "connect")) }
    // A dial of a closed local port may meet itself.
    if let remote, localEndpoint(of: fd) == remote {
      return fail(SystemError(ECONNREFUSED, "connect"))
    }
    if let connectTimer { loop.cancel(connectTimer) }
    connectTimer = nil
    state = .open
    delegate?.connectionOpened(self)
    guard state == .open else { return }
    flush()
  }
}

extension StreamOptions {
  var raw: martlet_socket_options {
    var raw = martlet_socket_options(receiveBuffer, sendBuffer, interface)
    raw.mark = mark
    raw.reuse_address = reuseAddress ? 1 : 0
    raw.reuse_port = reusePort ? 1 : 0
    return raw
  }

  /// Options of a TCP connection that exists. What the kernel refuses is left.
  func apply(to fd: Int32) {
    _ = martlet_tcp_option(fd, Int32(MARTLET_TCP_NODELAY), noDelay ? 1 : 0)
    if let notSentLowWater {
      _ = martlet_tcp_option(
        fd, Int32(MARTLET_TCP_NOTSENT_LOWAT), Int32(clamping: notSentLowWater))
    }
    if let userTimeout {
      _ = martlet_tcp_option(
        fd, Int32(MARTLET_TCP_USER_TIMEOUT), Int32(clamping: userTimeout.nanoseconds / 1_000_000))
    }
    if let keepalive {
      func seconds(_ amount: TimeAmount) -> Int32 {
        max(1, Int32(clamping: amount.nanoseconds / 1_000_000_000))
      }
      _ = martlet_tcp_option(fd, Int32(MARTLET_TCP_KEEPALIVE_IDLE), seconds(keepalive))
      _ = martlet_tcp_option(fd, Int32(MARTLET_TCP_KEEPALIVE_INTERVAL), seconds(keepaliveInterval))
      _ = martlet_tcp_option(
        fd, Int32(MARTLET_TCP_KEEPALIVE_COUNT), Int32(clamping: keepaliveCount))
    }
    if let congestionControl { _ = unsafe martlet_tcp_congestion(fd, congestionControl) }
  }
}
