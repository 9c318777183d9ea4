/// The server's side of one HTTP/1.1 connection as a plain machine: bytes in,
/// events out; answers in, bytes out. One request is open at a time; what a
/// client pipelines waits, bounded, in the input. A malformed request is
/// answered and ends the connection without any help. RFC 9112.
///
/// ```
///            request            respond / finishResponse
///   idle ───────────▶ answering ───────────▶ idle        (kept alive)
///    │                   │  └─ switchProtocols ▶ switched (raw bytes)
///    │ failure, time-out │ close
///    ▼                   ▼
///   lingering ─────────────▶ finished
/// ```
///
/// The driver's loop: `receive`, then `pollEvent` until nil, then write
/// `takeOutput`, then look at `isFinished`; re-arm a timer for `nextDeadline`.

#if canImport(Bytes)
  package import Bytes
#endif

/// What a server learns from its connection.
package enum HTTPServerEvent: Sendable, Equatable {
  /// A request. When the connection collects bodies it is whole, with `body`.
  /// Otherwise body pieces follow, and `.end` when `bodyLength` is not `.none`.
  case request(HTTPRequest)
  case body([UInt8])
  case end
  /// The connection was given up; where possible it has been answered.
  case failed(HTTPFailure)
}

package struct HTTPServerConnection: Sendable {
  private enum State: Sendable {
    /// Between requests or in the middle of a head.
    case idle
    /// A request was announced and its response has not ended.
    case answering
    /// A 101 or a CONNECT was answered: the bytes belong to someone else.
    case switched
    /// Output must still leave; input is thrown away.
    case lingering
    case finished
  }

  private enum Response: Sendable {
    case none
    /// Content-Length: bytes still owed.
    case fixed(Int)
    case chunked
    case untilClose
    /// HEAD, 204, 304: body bytes are swallowed.
    case bodiless
  }

  package let limits: HTTPLimits
  package let timeouts: HTTPTimeouts
  /// Bodies are gathered into `HTTPRequest.body`.
  package let collectsBodies: Bool
  /// Seconds since 1970 for the Date field (RFC 9110 §6.6.1); nil leaves it out.
  package var unixTime: Int64?

  private var state = State.idle
  private var input = HTTPInput()
  private var output: [UInt8] = []
  private var scanner = HTTPHeadScanner()
  private var skippedEmptyLine = false
  /// Set while a request body is being read.
  private var decoder: HTTPBodyDecoder?
  private var request: HTTPRequest?
  private var response = Response.none
  private var isLastResponse = false
  private var continueIsOwed = false
  private var inputEnded = false
  private var failure: HTTPFailure?

  /// A head has begun (or must, as the connection is new).
  private var headDue: Instant?
  private var idleSince: Instant
  private var bodyStarted: Instant?
  private var bodyReceived = 0
  private var lingerUntil: Instant?
  private var now: Instant

  package init(
    now: Instant, collectsBodies: Bool = true, limits: HTTPLimits = HTTPLimits(),
    timeouts: HTTPTimeouts = HTTPTimeouts()
  ) {
    self.limits = limits
    self.timeouts = timeouts
    self.collectsBodies = collectsBodies
    self.now = now
    idleSince = now
    headDue = now + timeouts.head
  }

  // MARK: Input

  /// False while enough is waiting: leave the rest in the socket.
  package var wantsInput: Bool {
    switch state {
    case .idle: !inputEnded
    case .answering: !inputEnded && input.count < limits.readAhead
    case .switched, .lingering: true
    case .finished: false
    }
  }

  /// Takes bytes from the peer. More than the read-ahead limit in spite of
  /// `wantsInput` (one read's worth is forgiven) ends the connection.
  package mutating func receive(_ bytes: RawSpan, now: Instant) {
    self.now = now
    switch state {
    case .lingering, .finished: return
    case .idle, .answering, .switched: break
    }
    if bytes.byteCount == 0 { return }
    if state == .idle, input.isEmpty {
      headDue = min(headDue ?? .distantFuture, now + timeouts.head)
    }
    input.append([UInt8](bytes))
    if decoder != nil { bodyReceived += bytes.byteCount }
    if state == .answering, decoder == nil, input.count > limits.readAhead * 2 {
      fail(.pipelineTooLong)
    }
  }

  /// The peer will send no more. What it sent before is still answered.
  package mutating func receiveEnd(now: Instant) {
    self.now = now
    inputEnded = true
    if state == .lingering { state = .finished }
  }

  /// The next thing that happened; nil when more bytes, an answer or time is needed.
  package mutating func pollEvent() -> HTTPServerEvent? {
    if let failure {
      self.failure = nil
      return .failed(failure)
    }
    do throws(HTTPFailure) {
      switch state {
      case .idle: return try pollHead()
      case .answering: return try pollBody()
      case .switched, .lingering, .finished: return nil
      }
    } catch {
      fail(error)
      failure = nil
      return .failed(error)
    }
  }

  private mutating func pollHead() throws(HTTPFailure) -> HTTPServerEvent? {
    // One empty line ahead of a request is forgiven (RFC 9112 §2.2).
    if !skippedEmptyLine, input.count >= 2, input[0] == 0x0d, input[1] == 0x0a {
      input.drop(2)
      skippedEmptyLine = true
    }
    if !input.isEmpty, input[0] != 0x0d, !HTTPSyntax.isTokenByte(input[0]) { throw .badRequestLine }
    if input.count >= 2, input[0] == 0x0d, input[1] == 0x0a { throw .badRequestLine }
    guard let length = try scanner.scan(input.slice, limits: limits) else {
      guard inputEnded else { return nil }
      if !input.isEmpty { throw .truncated }
      state = .finished
      return nil
    }
    let head = try HTTPHead.request(input.slice.prefix(length), limits: limits)
    // From here on a failure is answered in the middle of a request.
    request = head
    input.drop(length)
    skippedEmptyLine = false
    headDue = nil
    state = .answering
    isLastResponse = !keepsAlive(head)
    continueIsOwed = head.expectsContinue
    guard head.bodyLength != .none else { return .request(head) }
    decoder = try HTTPBodyDecoder(
      head.bodyLength, limit: collectsBodies ? limits.collectedBody : limits.streamedBody,
      limits: limits)
    bodyStarted = now
    bodyReceived = input.count
    if collectsBodies {
      sendContinue()
      return try pollBody()
    }
    return .request(head)
  }

  private mutating func pollBody() throws(HTTPFailure) -> HTTPServerEvent? {
    while var decoder {
      let step = try decoder.step(&input)
      self.decoder = decoder
      switch step {
      case .needMore:
        if inputEnded { throw .truncated }
        return nil
      case .data(let bytes):
        guard collectsBodies else { return .body(bytes) }
        request?.body += bytes
      case .end:
        self.decoder = nil
        bodyStarted = nil
        guard collectsBodies else { return .end }
        guard let request else { return nil }
        return .request(request)
      }
    }
    return nil
  }

  private func keepsAlive(_ request: HTTPRequest) -> Bool {
    if request.headers.lists("close", in: "Connection") { return false }
    return request.version == .http11 || request.headers.lists("keep-alive", in: "Connection")
  }

  // MARK: Answers

  /// The request being answered; nil between requests.
  package var currentRequest: HTTPRequest? { request }

  /// Tells a client that waits with its body to send it. Collecting
  /// connections do so by themselves; otherwise once the request is accepted.
  package mutating func sendContinue() {
    guard continueIsOwed, state == .answering else { return }
    continueIsOwed = false
    output += Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)
  }

  /// Answers the open request with a whole response. Without one (it failed
  /// meanwhile) nothing happens: the client already has its answer.
  /// - Parameter close: end the connection afterwards.
  package mutating func respond(_ response: HTTPResponse, close: Bool = false) {
    guard state == .answering else { return }
    if close { isLastResponse = true }
    begin(response, length: response.body.count)
    if case .fixed = self.response { write(response.body) }
    finishResponse()
  }

  /// Begins a response whose body is written piece by piece.
  /// - Parameter bodyLength: bytes of the body; nil when not known yet
  ///   (chunked, or ended by closing for HTTP/1.0).
  package mutating func beginResponse(_ response: HTTPResponse, bodyLength: Int? = nil) {
    guard state == .answering else { return }
    begin(response, length: bodyLength)
  }

  /// Body bytes of a response that was begun. More than was promised is a bug.
  package mutating func writeBody(_ bytes: RawSpan) {
    guard state == .answering else { return }
    write([UInt8](bytes))
  }

  /// Ends the response; the next request may follow.
  package mutating func finishResponse() {
    guard state == .answering else { return }
    switch response {
    case .fixed(let left): precondition(left == 0, "a response is shorter than promised")
    case .chunked: output += HTTPChunkWriter.last
    case .untilClose: isLastResponse = true
    case .none: preconditionFailure("no response was begun")
    case .bodiless: break
    }
    response = .none
    request = nil
    if decoder != nil || isLastResponse { return linger() }
    state = .idle
    idleSince = now
    if !input.isEmpty { headDue = now + timeouts.head }
  }

  private mutating func begin(_ response: HTTPResponse, length: Int?) {
    guard case .none = self.response else { preconditionFailure("a response was already begun") }
    precondition(response.status >= 200, "use sendContinue or switchProtocols")
    // An unread body cannot be told from the next request: the connection ends.
    if decoder != nil { isLastResponse = true }
    var head = response
    let hasBody = response.status != 204 && response.status != 304
    head.headers["Transfer-Encoding"] = nil
    if !hasBody {
      head.headers["Content-Length"] = nil
      self.response = .bodiless
    } else if let length {
      head.headers["Content-Length"] = String(length)
      self.response = .fixed(length)
    } else {
      head.headers["Content-Length"] = nil
      if request?.version == .http11 {
        head.headers["Transfer-Encoding"] = "chunked"
        self.response = .chunked
      } else {
        isLastResponse = true
        self.response = .untilClose
      }
    }
    if request?.method == .head { self.response = .bodiless }
    if head.headers.lists("close", in: "Connection") { isLastResponse = true }
    head.headers["Connection"] =
      isLastResponse ? "close" : request?.version == .http10 ? "keep-alive" : nil
    if head.headers["Date"] == nil, let unixTime {
      head.headers["Date"] = HTTPDate.text(unixTime: unixTime)
    }
    output += HTTPHeadWriter.response(head)
  }

  private mutating func write(_ bytes: [UInt8]) {
    if bytes.isEmpty { return }
    switch response {
    case .fixed(let left):
      precondition(bytes.count <= left, "a response is longer than promised")
      response = .fixed(left - bytes.count)
      output += bytes
    case .chunked:
      output += HTTPChunkWriter.head(bytes.count)
      output += bytes
      output += [0x0d, 0x0a]
    case .untilClose: output += bytes
    case .bodiless: break
    case .none: preconditionFailure("no response was begun")
    }
  }

  /// Answers with 101 (WebSocket) or 2xx (CONNECT) and leaves HTTP: from here on
  /// bytes come out of `takeSwitchedInput` and go to the socket by other hands.
  /// - Returns: false when there is no request to answer any more.
  @discardableResult
  package mutating func switchProtocols(_ response: HTTPResponse) -> Bool {
    guard state == .answering, decoder == nil else { return false }
    precondition(
      response.status == 101
        || (request?.method == .connect && (200...299).contains(response.status)))
    output += HTTPHeadWriter.response(response)
    state = .switched
    request = nil
    return true
  }

  /// Bytes that came after the request that switched.
  package mutating func takeSwitchedInput() -> [UInt8] {
    precondition(state == .switched)
    return input.take(input.count)
  }

  // MARK: Output and end

  package var hasOutput: Bool { !output.isEmpty }
  /// Bytes waiting to be taken: a streaming driver pauses its source by it.
  package var outputCount: Int { output.count }

  /// Everything to be written to the peer, in order.
  package mutating func takeOutput() -> [UInt8] {
    defer { output = [] }
    return output
  }

  /// No more output follows what was taken: shut down the sending side, keep
  /// reading (and dropping) until `isFinished`, so that the peer can read the
  /// answer before unread input turns the close into a reset (RFC 9112 §9.6).
  package var outputEnds: Bool { state == .lingering || state == .finished }
  /// Close the socket, once the output is written.
  package var isFinished: Bool { state == .finished }
  package var isSwitched: Bool { state == .switched }

  /// Ends the connection after the answer that is being given (server stops).
  package mutating func close(now: Instant) {
    self.now = now
    switch state {
    case .idle: linger()
    case .answering: isLastResponse = true
    case .switched: state = .finished
    case .lingering, .finished: break
    }
  }

  private mutating func linger() {
    state = inputEnded ? .finished : .lingering
    decoder = nil
    headDue = nil
    bodyStarted = nil
    lingerUntil = now + timeouts.linger
    input.drop(input.count)
  }

  /// Answers where that is possible, and ends.
  private mutating func fail(_ reason: HTTPFailure) {
    failure = reason
    if let status = reason.status, case .none = response {
      var answer = HTTPResponse.problem(status, HTTPResponse.phrase(status), detail: reason.words)
      answer.headers["Content-Length"] = String(answer.body.count)
      answer.headers["Connection"] = "close"
      output += HTTPHeadWriter.response(answer)
      if request?.method != .head { output += answer.body }
    }
    request = nil
    response = .none
    linger()
  }

  // MARK: Time

  /// When `advance` must be called at the latest; nil when nothing is due.
  package var nextDeadline: Instant? {
    switch state {
    case .idle: headDue ?? idleSince + timeouts.idle
    // A streamed body waits for its consumer as often as for its sender: only
    // the driver can tell which, so only collected bodies have a pace.
    case .answering: collectsBodies ? bodyStarted.map { bodyDue($0) } : nil
    case .lingering: lingerUntil
    case .switched, .finished: nil
    }
  }

  package mutating func advance(to now: Instant) {
    self.now = now
    guard let deadline = nextDeadline, now >= deadline else { return }
    switch state {
    case .idle:
      if input.isEmpty {
        // Nothing was asked, so there is nothing to answer.
        failure = headDue == nil ? .idleTimeout : .headTimeout
        state = .finished
      } else {
        fail(.headTimeout)
      }
    case .answering: fail(.bodyTimeout)
    case .lingering: state = .finished
    case .switched, .finished: break
    }
  }

  private func bodyDue(_ started: Instant) -> Instant {
    let earned = Double(bodyReceived) / Double(max(timeouts.bodyRate, 1))
    return started + timeouts.bodyGrace + .milliseconds(Int64(min(earned, 1e9) * 1000))
  }
}
