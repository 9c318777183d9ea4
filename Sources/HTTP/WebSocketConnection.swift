/// One WebSocket connection after its handshake, either side, as a machine:
/// bytes in, messages out; messages in, bytes out. Answers pings, closes
/// politely, notices a dead peer. A whole unfragmented message is unmasked
/// where it lies and lent out from there; on the way out the payload is written
/// straight behind its head. RFC 6455 §5–§7.
///
/// ```
///   open ── close from peer ──▶ answered ───────────▶ finished
///    │ └─── sendClose ────────▶ closing ─ peer's close ─▶ finished
///    └───── protocol error ───▶ close sent ──────────▶ finished
/// ```
///
/// The driver's loop: `receive` (or `fill`), then `pollEvent` until nil, then
/// write what `withOutput` lends, then look at `isFinished`; re-arm a timer for
/// `nextDeadline`.

#if canImport(Bytes)
  public import Bytes
#endif

/// What a WebSocket connection reports.
public enum WebSocketEvent: Sendable, Equatable {
  /// A message; its bytes are lent by `withMessage` until the next call of
  /// `pollEvent`. Text has been checked to be UTF-8.
  case text
  case binary
  /// An answer to `sendPing`.
  case pong
  /// The peer closed; answered already. 1005 when it gave no code.
  case closed(code: UInt16, reason: String)
  /// The connection broke a rule or died; a close frame is on its way when
  /// there is somebody to read it.
  case failed(WebSocketFailure)
}

/// Limits of one connection.
public struct WebSocketLimits: Sendable {
  /// Bytes of a message, all fragments together.
  public var message = 1 << 20
  /// Fragments of one message.
  public var fragments = 1024
  /// Bytes waiting to leave; beyond, `send` refuses.
  public var output = 4 << 20
  /// Bytes of memory kept by each direction when nothing is under way.
  public var keptMemory = 4096
  /// Silence from the peer after which it is pinged; nil never pings.
  public var pingAfter: TimeAmount? = .seconds(30)
  /// Then it must say something within this.
  public var pongWithin = TimeAmount.seconds(15)
  /// A close must be confirmed within this.
  public var closeWithin = TimeAmount.seconds(5)

  public init() {}

  /// For bulk: memory stays allocated between bursts.
  public static var bulk: WebSocketLimits {
    var limits = WebSocketLimits()
    limits.keptMemory = 512 * 1024
    return limits
  }
}

public final class WebSocketConnection {
  private enum State {
    case open
    /// Our close left, the peer's is due.
    case closing
    /// Nothing more comes in; what waits still leaves.
    case finished
  }

  public let role: WebSocketRole
  /// May be raised when the peer has proven who it is.
  public var limits: WebSocketLimits

  private var state = State.open
  @usableFromInline var input: ByteQueue
  @usableFromInline var output: ByteQueue
  /// The message lent out: where it lies in the input, and how much of the
  /// input goes with it.
  @usableFromInline var lent = 0..<0
  @usableFromInline var lentEnd = 0
  /// Payloads of the fragments so far; a whole message when `lendsFragments`.
  @usableFromInline var fragments: ByteQueue
  @usableFromInline var lendsFragments = false
  private var fragmentKind: WebSocketOpcode?
  private var fragmentCount = 0
  private var masks: SeededRandom
  private var heard: Instant
  private var pongDue: Instant?
  private var closeDue: Instant?
  private var failure: WebSocketFailure?

  /// - Parameters:
  ///   - seed: 32 bytes for the masking keys of a client (§10.3 wants them
  ///     unpredictable).
  ///   - leftover: bytes that followed the handshake.
  public init(
    role: WebSocketRole, seed: [UInt8], leftover: [UInt8] = [],
    limits: WebSocketLimits = WebSocketLimits(), now: Instant
  ) {
    self.role = role
    self.limits = limits
    masks = SeededRandom(seed: seed)
    input = ByteQueue(kept: limits.keptMemory)
    output = ByteQueue(kept: limits.keptMemory)
    fragments = ByteQueue(kept: 0)
    heard = now
    if !leftover.isEmpty { receive(leftover.span.bytes, now: now) }
  }

  // MARK: Input

  /// Takes a copy of bytes from the peer.
  public func receive(_ bytes: RawSpan, now: Instant) {
    guard bytes.byteCount > 0, state != .finished else { return }
    hear(now)
    input.append(bytes)
  }

  /// Lets `body` write bytes from the peer straight into the input (a read of
  /// the socket or of TLS): up to `limit` bytes.
  /// - Returns: bytes written.
  @inlinable @discardableResult
  public func fill(limit: Int, now: Instant, _ body: (inout OutputRawSpan) -> Void) -> Int {
    let count = input.append(limit: limit, body)
    if count > 0 { hear(now) }
    return count
  }

  /// The peer will send no more.
  public func receiveEnd(now: Instant) {
    guard state != .finished else { return }
    if state == .open { failure = .connectionLost }
    state = .finished
  }

  @usableFromInline func hear(_ now: Instant) {
    heard = now
    pongDue = nil
  }

  /// The next thing that happened. Ends the loan of the message before.
  public func pollEvent() -> WebSocketEvent? {
    returnLoan()
    if let failure {
      self.failure = nil
      return .failed(failure)
    }
    do throws(WebSocketFailure) {
      while state != .finished {
        guard let head = try WebSocketFrameHead.read(input.bytes, role: role) else { return nil }
        // First: a length may be all but 2^63, and then there is no sum.
        try check(head)
        let total = head.byteCount + head.payloadCount
        guard input.byteCount >= total else {
          // Room ahead, so that bytes are not moved again and again; not all of
          // it, as a head alone costs its sender nothing.
          input.reserve(min(total - input.byteCount, 128 * 1024))
          return nil
        }
        let payload = head.byteCount..<total
        if let key = head.key { input.xor(payload, key: key) }
        if let event = try take(head, payload) { return event }
      }
    } catch {
      fail(error)
      failure = nil
      return .failed(error)
    }
    return nil
  }

  /// Limits and order, as soon as the head is there: before memory is spent.
  private func check(_ head: WebSocketFrameHead) throws(WebSocketFailure) {
    if head.opcode.isControl { return }
    guard (head.opcode == .continuation) == (fragmentKind != nil) else { throw .badSequence }
    guard head.payloadCount <= limits.message - fragments.byteCount else { throw .messageTooLarge }
    guard fragmentCount < limits.fragments else { throw .tooManyFragments }
  }

  /// A whole frame, unmasked. nil: nothing to report, go on.
  private func take(
    _ head: WebSocketFrameHead, _ payload: Range<Int>
  ) throws(WebSocketFailure) -> WebSocketEvent? {
    switch head.opcode {
    case .ping:
      // A peer that floods us with pings and never reads gets no more pongs.
      if state == .open, output.byteCount < limits.output {
        let bytes = [UInt8](input.bytes(payload))
        write(.pong, bytes.span.bytes)
      }
      input.consume(payload.upperBound)
      return nil
    case .pong:
      input.consume(payload.upperBound)
      return .pong
    case .close:
      return try takeClose(payload)
    case .text, .binary, .continuation:
      return try takeData(head, payload)
    }
  }

  private func takeData(
    _ head: WebSocketFrameHead, _ payload: Range<Int>
  ) throws(WebSocketFailure) -> WebSocketEvent? {
    // After our close the peer may still finish what it was saying (§5.5.1);
    // it is read, checked and dropped.
    let isWhole = head.isFinal && fragmentKind == nil
    let kind = fragmentKind ?? head.opcode
    if isWhole {
      if kind == .text, !input.bytes(payload).isUTF8 { throw .notUTF8 }
      guard state == .open else {
        input.consume(payload.upperBound)
        return nil
      }
      lent = payload
      lentEnd = payload.upperBound
      return kind == .text ? .text : .binary
    }
    fragments.append(input.bytes(payload))
    input.consume(payload.upperBound)
    fragmentKind = kind
    fragmentCount += 1
    guard head.isFinal else { return nil }
    fragmentKind = nil
    fragmentCount = 0
    if kind == .text, !fragments.bytes.isUTF8 { throw .notUTF8 }
    guard state == .open else {
      fragments.removeAll()
      return nil
    }
    lendsFragments = true
    lent = 0..<fragments.byteCount
    return kind == .text ? .text : .binary
  }

  private func takeClose(_ payload: Range<Int>) throws(WebSocketFailure) -> WebSocketEvent? {
    var code: UInt16 = 1005
    var reason = ""
    if payload.count > 0 {
      var reader = ByteReader(input.bytes(payload))
      guard let value = reader.uint16(), Self.isValidCloseCode(value) else { throw .badCloseCode }
      code = value
      let rest = [UInt8](reader.rest())
      guard let text = String(validating: rest, as: UTF8.self) else { throw .notUTF8 }
      reason = text
    }
    if state == .open { writeClose(code == 1005 ? nil : code, "") }
    finish()
    return .closed(code: code, reason: reason)
  }

  /// Codes that may stand in a frame (§7.4, and the registry up to 1014).
  public static func isValidCloseCode(_ code: UInt16) -> Bool {
    switch code {
    case 1000...1003, 1007...1014, 3000...4999: true
    default: false
    }
  }

  /// Lends the message that `pollEvent` announced last. `body` may send, but
  /// must not receive or poll.
  @inlinable public func withMessage<R>(_ body: (RawSpan) -> R) -> R {
    lendsFragments ? fragments.withBytes(lent, body) : input.withBytes(lent, body)
  }

  /// A copy of the message that `pollEvent` announced last.
  public func message() -> [UInt8] { withMessage { [UInt8]($0) } }
  /// The text message that `pollEvent` announced last.
  public func text() -> String { String(decoding: message(), as: UTF8.self) }

  private func returnLoan() {
    if lendsFragments {
      fragments.removeAll()
      lendsFragments = false
    } else if lentEnd > 0 {
      input.consume(lentEnd)
      lentEnd = 0
    }
    lent = 0..<0
  }

  // MARK: Output

  /// Messages may be sent: open, and the output is not over its limit.
  public var canSend: Bool { state == .open && output.byteCount < limits.output }

  /// Sends one message; false when `canSend` is false.
  @discardableResult
  public func send(binary bytes: RawSpan) -> Bool {
    guard canSend else { return false }
    write(.binary, bytes)
    return true
  }

  @discardableResult
  public func send(text: String) -> Bool {
    guard canSend else { return false }
    var text = text
    text.makeContiguousUTF8()
    write(.text, text.utf8Span.span.bytes)
    return true
  }

  /// Sends a binary message of at most `limit` bytes that `body` writes in
  /// place, behind its head; nothing is sent when it writes nothing.
  /// - Returns: bytes of payload; nil when `canSend` is false.
  @discardableResult
  public func send(binaryLimit limit: Int, _ body: (inout OutputRawSpan) -> Void) -> Int? {
    guard canSend else { return nil }
    var head = newHead(.binary, limit)
    let assumed = head.byteCount
    let start = output.byteCount
    output.append(limit: assumed) { head.write(to: &$0) }
    let count = output.append(limit: limit, body)
    guard count > 0 else {
      output.truncate(assumed)
      return 0
    }
    head.payloadCount = count
    let actual = head.byteCount
    if count < limit {
      // The length in the head was a guess, and a short one has a shorter head.
      // (Seldom more than a few bytes to move.)
      let payload = (start + assumed)..<(start + assumed + count)
      output.slide(payload, by: assumed - actual)
      output.truncate(assumed - actual)
      head.overwrite(&output, at: start)
    }
    if let key = head.key { output.xor((start + actual)..<(start + actual + count), key: key) }
    return count
  }

  /// Asks the peer for a pong; at most 125 bytes.
  public func sendPing(_ bytes: [UInt8] = []) {
    precondition(bytes.count <= 125)
    guard state == .open else { return }
    write(.ping, bytes.span.bytes)
  }

  /// Begins the end. The reason is cut to 123 bytes at a character boundary.
  public func sendClose(code: UInt16 = 1000, reason: String = "", now: Instant) {
    guard state == .open else { return }
    writeClose(code, reason)
    state = .closing
    closeDue = now + limits.closeWithin
  }

  private func writeClose(_ code: UInt16?, _ reason: String) {
    var payload: [UInt8] = []
    if let code {
      precondition(Self.isValidCloseCode(code))
      payload.appendUInt16(code)
      for character in reason where payload.count + character.utf8.count <= 125 {
        payload += Array(character.utf8)
      }
    }
    write(.close, payload.span.bytes)
  }

  private func newHead(_ opcode: WebSocketOpcode, _ count: Int) -> WebSocketFrameHead {
    let key = role == .client ? UInt32(truncatingIfNeeded: masks.next()) : nil
    return WebSocketFrameHead(opcode: opcode, key: key, payloadCount: count)
  }

  private func write(_ opcode: WebSocketOpcode, _ payload: RawSpan) {
    let head = newHead(opcode, payload.byteCount)
    let total = head.byteCount + payload.byteCount
    let start = output.byteCount
    output.append(limit: total) {
      head.write(to: &$0)
      $0.write(payload)
    }
    if let key = head.key { output.xor((start + head.byteCount)..<(start + total), key: key) }
  }

  public var hasOutput: Bool { !output.isEmpty }
  public var outputCount: Int { output.byteCount }

  /// Lends everything that waits to be written; `body` says how much it took.
  /// - Returns: bytes taken.
  @inlinable @discardableResult
  public func withOutput(_ body: (RawSpan) -> Int) -> Int {
    guard !output.isEmpty else { return 0 }
    // `body` may fail the connection, and that may send a close: the queue is
    // set aside so that such bytes just line up behind.
    var leaving = ByteQueue(kept: limits.keptMemory)
    swap(&leaving, &output)
    let taken = body(leaving.bytes)
    leaving.consume(taken)
    leaving.append(output)
    swap(&leaving, &output)
    return taken
  }

  /// A copy of everything that waits to be written.
  public func takeOutput() -> [UInt8] {
    let bytes = [UInt8](output.bytes)
    output.removeAll()
    return bytes
  }

  // MARK: End and time

  /// Nothing more comes in. Write what waits, then close the socket.
  public var isFinished: Bool { state == .finished }
  /// Neither side has begun to close.
  public var isOpen: Bool { state == .open }

  private func finish() {
    state = .finished
    closeDue = nil
    pongDue = nil
    input.removeAll()
    fragments.removeAll()
  }

  private func fail(_ reason: WebSocketFailure) {
    if state == .open, reason.code != 1006 { writeClose(reason.code, reason.words) }
    finish()
    failure = reason
  }

  /// When `advance` must be called at the latest; nil when nothing is due.
  public var nextDeadline: Instant? {
    switch state {
    case .open: pongDue ?? limits.pingAfter.map { heard + $0 }
    case .closing: closeDue
    case .finished: nil
    }
  }

  public func advance(to now: Instant) {
    guard let deadline = nextDeadline, now >= deadline else { return }
    if state == .closing { return fail(.closeTimeout) }
    if pongDue != nil { return fail(.pongTimeout) }
    write(.ping, RawSpan())
    pongDue = now + limits.pongWithin
  }
}
