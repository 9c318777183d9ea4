/// A byte stream to or from the server: a TCP connection, with TLS in it or
/// without. The owner sees plain bytes either way. Used by the agent (wss and
/// ws) and by the server (both on one port). It bounds what it buffers; it
/// verifies nothing by itself (the login does, DESIGN §3).

package import Bytes
package import HTTP
package import Reactor
package import TLS

/// Told by a stream. After `streamFailed` or `close` nothing more.
package protocol SecureStreamDelegate: AnyObject {
  /// Connected, and the TLS handshake, if there is one, is done.
  func streamOpened(_ stream: SecureStream)
  /// Plain bytes; they may be overwritten and are worthless after the call.
  func streamReceived(_ stream: SecureStream, _ bytes: inout MutableRawSpan)
  /// A write was refused before; there is room again.
  func streamWritable(_ stream: SecureStream)
  /// The peer will send no more.
  func streamEnded(_ stream: SecureStream)
  /// It could not connect, or broke; it is closed already.
  func streamFailed(_ stream: SecureStream, _ words: String)
}

package final class SecureStream: ConnectionDelegate {
  package let connection: StreamConnection
  package private(set) var tls: TLSSession?
  package weak var delegate: (any SecureStreamDelegate)?
  /// Makes a TLS session if the peer's first byte begins a TLS record (0x16).
  private var acceptor: (() throws(TLSFailure) -> TLSSession)?
  /// What must be said and heard before anything else.
  private var proxyTunnel: ProxyTunnel?
  private var isOpen = false
  private var isEnded = false
  private var isShort = false
  /// Ends the stream unless it opens in time.
  private var openTimer: TimerToken?

  /// - Parameters:
  ///   - connection: connected or connecting; the stream becomes its delegate.
  ///   - tls: a fresh session, or nil for plain bytes.
  ///   - tunnel: the connection is to a proxy, and goes on to the server.
  ///   - within: the time for connection and handshake.
  package init(
    _ connection: StreamConnection, tls: TLSSession?, through tunnel: ProxyTunnel? = nil,
    within: TimeAmount = .seconds(15), delegate: any SecureStreamDelegate
  ) {
    self.connection = connection
    self.tls = tls
    proxyTunnel = tunnel
    self.delegate = delegate
    connection.delegate = self
    openTimer = connection.loop.schedule(after: within) { [weak self] in
      self?.openTimer = nil
      self?.fail("no connection within \(within.nanoseconds / 1_000_000_000) s")
    }
    if connection.isOpen { begin() }
  }

  /// The serving side of a port that speaks both: the first byte tells whether
  /// the client begins with TLS. It is due within `firstByte`.
  package init(
    accepted connection: StreamConnection, firstByte: TimeAmount = .seconds(5),
    acceptor: @escaping () throws(TLSFailure) -> TLSSession,
    delegate: any SecureStreamDelegate
  ) {
    self.connection = connection
    self.acceptor = acceptor
    self.delegate = delegate
    connection.delegate = self
    openTimer = connection.loop.schedule(after: firstByte) { [weak self] in
      self?.openTimer = nil
      self?.fail("the client says nothing")
    }
  }

  package var remote: Endpoint { connection.remote ?? .none }
  package var local: Endpoint? { connection.local }
  package var isClosed: Bool { connection.isClosed }

  /// Bytes that wait here for the kernel.
  package var backlog: Int { connection.backlog }

  package func close() {
    cancelTimer()
    delegate = nil
    if let tls, isOpen {
      tls.close()
      flushTLS()
      connection.closeWhenFlushed()
    } else {
      connection.closeWhenFlushed()
    }
  }

  /// Takes all of `bytes`, or nothing when the backlog is full (then
  /// `streamWritable` tells).
  package func write(_ bytes: RawSpan) -> Bool {
    guard !connection.isClosed else { return false }
    guard let tls else {
      let taken = connection.writeAll(bytes)
      if !taken { isShort = true }
      return taken
    }
    // The kernel's share of the backlog is not seen through TLS: what waits
    // there is bounded by the same limit.
    guard connection.backlog < connection.backlogLimit / 2 else {
      notify(below: connection.backlogLimit / 4)
      return false
    }
    guard tls.write(bytes) else {
      notify(below: connection.backlogLimit / 4)
      return false
    }
    flushTLS()
    return true
  }

  /// Asks for one `streamWritable` when no more than `bytes` wait here.
  package func notify(below bytes: Int) {
    isShort = true
    connection.notify(below: bytes)
  }

  // MARK: ConnectionDelegate

  package func connectionOpened(_ connection: StreamConnection) { begin() }

  package func connectionReadable(_ connection: StreamConnection) {
    for _ in 0..<4 {
      let result = connection.read { bytes in
        if let acceptor { decide(bytes.bytes, acceptor) }
        if connection.isClosed { return }
        if proxyTunnel != nil {
          receiveTunnel(&bytes)
        } else if let tls {
          tls.receiveCiphertext(bytes.bytes)
        } else {
          delegate?.streamReceived(self, &bytes)
        }
      }
      switch result {
      case .bytes:
        if tls != nil { advanceTLS() }
        if connection.isClosed { return }
      case .wouldBlock:
        return
      case .end:
        end()
        return
      case .failed(let error):
        fail("\(error)")
        return
      }
    }
  }

  package func connectionWritable(_ connection: StreamConnection) {
    flushTLS()
    if isShort {
      isShort = false
      delegate?.streamWritable(self)
    }
  }

  package func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    fail("\(error)")
  }

  // MARK: Parts

  private func decide(_ bytes: RawSpan, _ acceptor: () throws(TLSFailure) -> TLSSession) {
    self.acceptor = nil
    guard bytes.byteCount > 0, bytes.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == 0x16 else {
      opened()
      return
    }
    do throws(TLSFailure) {
      let session = try acceptor()
      tls = session
      cancelTimer()
      openTimer = connection.loop.schedule(after: .seconds(15)) { [weak self] in
        self?.openTimer = nil
        self?.fail("the TLS handshake takes too long")
      }
      session.begin()
    } catch {
      fail("TLS: \(error)")
    }
  }

  private func begin() {
    if let proxyTunnel {
      if !connection.writeAll(proxyTunnel.request.span.bytes) {
        fail("the proxy's connection takes no bytes")
      }
      return
    }
    beginTLS()
  }

  private func receiveTunnel(_ bytes: inout MutableRawSpan) {
    switch proxyTunnel?.receive(bytes.bytes) {
    case .more, nil: break
    case .failed(let words): fail(words)
    case .open(var leftover):
      proxyTunnel = nil
      beginTLS()
      guard !leftover.isEmpty, !connection.isClosed else { return }
      if let tls {
        tls.receiveCiphertext(leftover.span.bytes)
      } else {
        var span = leftover.mutableSpan
        var raw = span.mutableBytes
        delegate?.streamReceived(self, &raw)
      }
    }
  }

  private func beginTLS() {
    guard let tls else {
      opened()
      return
    }
    tls.begin()
    advanceTLS()
  }

  private func opened() {
    guard !isOpen else { return }
    isOpen = true
    cancelTimer()
    delegate?.streamOpened(self)
  }

  private func advanceTLS() {
    guard let tls else { return }
    flushTLS()
    if !isOpen, tls.isEstablished { opened() }
    while !connection.isClosed {
      let count = tls.read { bytes in delegate?.streamReceived(self, &bytes) }
      if count == 0 { break }
    }
    flushTLS()
    if let failure = tls.failure {
      fail("TLS: \(failure)")
    } else if tls.isPeerClosed {
      end()
    }
  }

  private func flushTLS() {
    guard let tls else { return }
    while !connection.isClosed {
      let taken = tls.withPendingOutput { connection.write($0) }
      if taken == 0 { break }
    }
  }

  private func end() {
    guard !isEnded else { return }
    isEnded = true
    guard isOpen else {
      fail("the connection was closed before it was ready")
      return
    }
    delegate?.streamEnded(self)
  }

  private func fail(_ words: String) {
    cancelTimer()
    if !connection.isClosed { connection.close() }
    let delegate = delegate
    self.delegate = nil
    delegate?.streamFailed(self, words)
  }

  private func cancelTimer() {
    if let openTimer { connection.loop.cancel(openTimer) }
    openTimer = nil
  }
}
