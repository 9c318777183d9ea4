/// One TLS connection without a socket: ciphertext in and out on one side,
/// plain bytes on the other. Errors end it; there is no half-broken state.
/// Owned by one thread. RFC 8446; RFC 5246 with RFC 7627.
///
/// ```
///   new ── begin ──▶ handshaking ──▶ established ──▶ closing / peer closed
///                         └── failure ─────┴──▶ failed
/// ```
///
/// The driver's loop: `receiveCiphertext`, `read` until 0, write what
/// `withPendingOutput` lends, look at `failure` and `isPeerClosed` (in that
/// order: a failure still has an alert to send).

#if canImport(Bytes)
  internal import Bytes
#endif
internal import COpenSSL

package final class TLSSession {
  private let context: TLSContext
  private let pipe = TLSPipe()
  private let session: OpaquePointer
  private var hasBegun = false
  private var isClosed = false

  /// The handshake is done; bytes may be written.
  package private(set) var isEstablished = false
  /// The peer said that it will send no more (close_notify).
  package private(set) var isPeerClosed = false
  /// Why the session ended, if it did by a fault.
  package private(set) var failure: TLSFailure?

  init(_ context: TLSContext, serverName: String?) throws(TLSFailure) {
    TLSErrors.clear()
    guard let session = SSL_new(context.context) else { throw .library(TLSErrors.take()) }
    guard let bio = pipe.makeBIO() else {
      SSL_free(session)
      throw .library(TLSErrors.take())
    }
    self.context = context
    self.session = session
    // One reference serves both directions.
    SSL_set_bio(session, bio, bio)
    if context.isServer {
      SSL_set_accept_state(session)
    } else {
      SSL_set_connect_state(session)
      if let serverName { try setName(serverName) }
    }
  }

  deinit { SSL_free(session) }

  /// The name to ask for and, where certificates are checked, to insist on.
  private func setName(_ name: String) throws(TLSFailure) {
    let parameters = SSL_get0_param(session)
    if let address = IPAddress(name) {
      // Addresses are no server names (RFC 6066 §3), but certificates have them.
      guard unsafe X509_VERIFY_PARAM_set1_ip_asc(parameters, address.description) == 1 else {
        throw .library(TLSErrors.take())
      }
      return
    }
    guard name.utf8.count <= 253, !name.utf8.contains(0) else {
      throw .handshake("the server's name is malformed")
    }
    SSL_set_hostflags(session, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
    guard martlet_ssl_set_tlsext_host_name(session, name) == 1, SSL_set1_host(session, name) == 1
    else { throw .library(TLSErrors.take()) }
  }

  // MARK: Handshake and ciphertext

  /// Starts: a client's first flight is then pending. Twice does nothing.
  package func begin() {
    guard !hasBegun else { return }
    hasBegun = true
    shakeHands()
  }

  /// Takes a copy of what the peer sent.
  package func receiveCiphertext(_ bytes: RawSpan) {
    guard failure == nil, bytes.byteCount > 0 else { return }
    guard pipe.input.byteCount + bytes.byteCount <= TLSLimits.input else {
      failure = .inputTooLong
      return
    }
    pipe.input.append(bytes)
    if hasBegun { shakeHands() }
  }

  /// The connection ended. Before the handshake that is a failure; afterwards
  /// `isPeerClosed` tells an orderly end from a cut one.
  package func receiveEnd() {
    pipe.inputEnded = true
    if hasBegun { shakeHands() }
  }

  private func shakeHands() {
    guard !isEstablished, failure == nil else { return }
    TLSErrors.clear()
    let result = SSL_do_handshake(session)
    guard result == 1 else {
      check(result)
      return
    }
    // SSL_get_extms_support, which is a macro.
    if SSL_version(session) < TLS1_3_VERSION,
      SSL_ctrl(session, SSL_CTRL_GET_EXTMS_SUPPORT, 0, nil) != 1
    {
      failure = .handshake("the peer lacks the extended master secret (RFC 7627)")
      return
    }
    isEstablished = true
  }

  /// Notes why a call did not do what it should.
  private func check(_ result: Int32) {
    switch SSL_get_error(session, result) {
    case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_NONE: break
    case SSL_ERROR_ZERO_RETURN: isPeerClosed = true
    case SSL_ERROR_SYSCALL: failure = ended
    default:
      let verified = SSL_get_verify_result(session)
      if !context.isServer, !isEstablished, verified != 0, context.verification != .callerDecides {
        TLSErrors.clear()
        failure = .untrusted(unsafe String(cString: X509_verify_cert_error_string(verified)))
      } else if pipe.inputEnded, pipe.input.isEmpty {
        TLSErrors.clear()
        failure = ended
      } else {
        let words = TLSErrors.take()
        failure = isEstablished ? .broken(words) : .handshake(words)
      }
    }
    if failure != nil { pipe.input.removeAll() }
  }

  private var ended: TLSFailure {
    isEstablished
      ? .broken("the connection was cut without a goodbye")
      : .handshake("the connection ended in the middle of the handshake")
  }

  // MARK: Plain bytes

  /// Lends the next plain bytes (at most one record's) to `body`.
  /// - Returns: their number; 0 when there are none now, or no more.
  @discardableResult
  package func read(_ body: (inout MutableRawSpan) -> Void) -> Int {
    guard isEstablished, failure == nil, !isPeerClosed else { return 0 }
    guard !pipe.input.isEmpty || pipe.inputEnded || SSL_has_pending(session) == 1 else { return 0 }
    return unsafe withUnsafeTemporaryAllocation(byteCount: TLSLimits.record, alignment: 16) {
      memory in
      TLSErrors.clear()
      let count = unsafe SSL_read(session, memory.baseAddress, Int32(memory.count))
      guard count > 0 else {
        check(count)
        return 0
      }
      let filled = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[..<Int(count)])
      var span = unsafe filled.mutableBytes
      body(&span)
      return Int(count)
    }
  }

  /// Appends the next plain bytes to `output`: at most its free capacity.
  /// - Returns: their number.
  @discardableResult
  package func read(into output: inout OutputRawSpan) -> Int {
    guard isEstablished, failure == nil, !isPeerClosed, output.freeCapacity > 0 else { return 0 }
    guard !pipe.input.isEmpty || pipe.inputEnded || SSL_has_pending(session) == 1 else { return 0 }
    let limit = Int32(clamping: output.freeCapacity)
    TLSErrors.clear()
    let result = output.withUnsafeMutableBytes { buffer, initialized -> Int32 in
      guard let base = unsafe buffer.baseAddress else { return 0 }
      let count = unsafe SSL_read(session, base + initialized, limit)
      if count > 0 { initialized += Int(count) }
      return count
    }
    guard result > 0 else {
      check(result)
      return 0
    }
    return Int(result)
  }

  /// May `write` be called with a chance of success?
  package var canWrite: Bool {
    isEstablished && failure == nil && !isClosed && pipe.output.byteCount < TLSLimits.output
  }

  /// Seals all of `bytes`, or nothing: false when it is not established, is
  /// closed, or too much waits to leave.
  package func write(_ bytes: RawSpan) -> Bool {
    guard canWrite else { return false }
    guard bytes.byteCount > 0 else { return true }
    TLSErrors.clear()
    let records = bytes.byteCount / TLSLimits.record + 1
    pipe.output.reserve(bytes.byteCount + records * 64)
    var written = 0
    // Our pipe takes everything, so the library always writes it all.
    let result = unsafe bytes.withUnsafeBytes { source in
      unsafe SSL_write_ex(session, source.baseAddress, source.count, &written)
    }
    guard result == 1, written == bytes.byteCount else {
      check(result)
      if failure == nil { failure = .broken("a write was cut short") }
      return false
    }
    return true
  }

  /// Says goodbye (close_notify); nothing can be written afterwards.
  package func close() {
    guard isEstablished, !isClosed else { return }
    isClosed = true
    guard failure == nil else { return }
    TLSErrors.clear()
    SSL_shutdown(session)
    TLSErrors.clear()
  }

  /// Bytes of ciphertext waiting to be sent.
  package var pendingOutput: Int { pipe.output.byteCount }

  /// Lends the ciphertext that waits to be sent; `body` says how much it took.
  /// - Returns: bytes taken.
  @discardableResult
  package func withPendingOutput(_ body: (RawSpan) -> Int) -> Int {
    guard !pipe.output.isEmpty else { return 0 }
    // `body` may fail the connection, and that may write (a close): the queue
    // is set aside so that such bytes just line up behind.
    var leaving = ByteQueue(kept: 0)
    swap(&leaving, &pipe.output)
    let taken = body(leaving.bytes)
    leaving.consume(taken)
    leaving.append(pipe.output)
    swap(&leaving, &pipe.output)
    return taken
  }

  /// A copy of everything that waits to be sent.
  package func takeOutput() -> [UInt8] {
    var bytes: [UInt8] = []
    withPendingOutput {
      bytes.append($0)
      return $0.byteCount
    }
    return bytes
  }

  // MARK: Facts

  /// Keying material that only the two ends of this session know (RFC 8446
  /// §7.5), with an empty context; empty before the handshake is done.
  package func exporter(label: String, count: Int) -> [UInt8] {
    guard isEstablished, count > 0 else { return [] }
    var material = [UInt8](repeating: 0, count: count)
    let done = unsafe SSL_export_keying_material(
      session, &material, count, label, label.utf8.count, [], 0, 1)
    TLSErrors.clear()
    return done == 1 ? material : []
  }

  /// The channel binding of RFC 9266, 32 bytes: equal at both ends exactly when
  /// nobody sits between them. Empty before the handshake is done.
  package var channelBinding: [UInt8] { exporter(label: "EXPORTER-Channel-Binding", count: 32) }

  /// SHA-256 of the peer's leaf certificate; nil when it has shown none.
  package var peerFingerprintSHA256: [UInt8]? {
    guard let certificate = SSL_get1_peer_certificate(session) else { return nil }
    defer { X509_free(certificate) }
    return PEM.fingerprint(certificate)
  }

  /// The peer's certificate leads to an authority this system trusts and bears
  /// the name that was asked for (RFC 6125). False for a server's session.
  package var isAuthorityVerified: Bool {
    isEstablished && !context.isServer && SSL_get0_peer_certificate(session) != nil
      && SSL_get_verify_result(session) == 0
  }

  /// `TLSv1.3`.
  package var version: String {
    unsafe SSL_get_version(session).map { unsafe String(cString: $0) } ?? ""
  }
  /// `TLS_AES_256_GCM_SHA384`.
  package var cipher: String {
    unsafe SSL_CIPHER_get_name(SSL_get_current_cipher(session)).map { unsafe String(cString: $0) }
      ?? ""
  }
}
