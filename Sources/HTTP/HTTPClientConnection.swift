/// The client's side of one HTTP/1.1 connection: writes a request, reads its
/// response, one after the other (no pipelining). For the command line against
/// the local API, health checks, proxies (CONNECT) and the WebSocket upgrade.
/// Opens no socket, follows no redirect, keeps no cookies. RFC 9112.

#if canImport(Bytes)
  package import Bytes
#endif

/// What a client learns from its connection.
package enum HTTPClientEvent: Sendable, Equatable {
  /// A final response; whole with `body` when the connection collects bodies,
  /// otherwise pieces and `.end` follow.
  case response(HTTPResponse)
  case body([UInt8])
  case end
  /// 101, or 2xx to CONNECT: what follows is not HTTP, see `takeSwitchedInput`.
  case switched(HTTPResponse)
  case failed(HTTPFailure)
}

package struct HTTPClientConnection: Sendable {
  private enum State: Sendable {
    /// Ready for a request.
    case idle
    /// A request was sent, its response head is due.
    case awaiting
    /// In the body of a response.
    case body
    case switched
    /// No further request: the response said so, or something failed.
    case finished
  }

  package let limits: HTTPLimits
  package let timeouts: HTTPTimeouts
  package let collectsBodies: Bool

  private var state = State.idle
  private var input = HTTPInput()
  private var output: [UInt8] = []
  private var scanner = HTTPHeadScanner()
  private var decoder: HTTPBodyDecoder?
  private var method = HTTPMethod.get
  private var response: HTTPResponse?
  private var sendsChunks = false
  private var owedBody = 0
  private var asksToClose = false
  private var failure: HTTPFailure?
  private var inputEnded = false
  private var responseDue: Instant?

  package init(
    collectsBodies: Bool = true, limits: HTTPLimits = HTTPLimits(),
    timeouts: HTTPTimeouts = HTTPTimeouts()
  ) {
    self.collectsBodies = collectsBodies
    self.limits = limits
    self.timeouts = timeouts
  }

  /// A request may be sent.
  package var isIdle: Bool { state == .idle && !inputEnded }
  package var isFinished: Bool { state == .finished }
  package var isSwitched: Bool { state == .switched }

  // MARK: Requests

  /// Sends a whole request. Host is set from `authority` when it is missing.
  /// - Parameter authority: of the server, not of a proxy in between.
  package mutating func send(_ request: HTTPRequest, authority: HTTPAuthority, now: Instant) {
    begin(request, authority: authority, bodyLength: request.body.count, now: now)
    output += request.body
    owedBody = 0
  }

  /// Sends a head; the body follows by `writeBody` and `finishBody`.
  /// - Parameter bodyLength: nil sends chunks.
  package mutating func begin(
    _ request: HTTPRequest, authority: HTTPAuthority, bodyLength: Int?, now: Instant
  ) {
    precondition(isIdle, "one request at a time")
    var head = request
    if head.headers["Host"] == nil { head.headers["Host"] = authority.description }
    head.headers["Transfer-Encoding"] = nil
    head.headers["Content-Length"] = nil
    sendsChunks = bodyLength == nil
    owedBody = bodyLength ?? 0
    if let bodyLength {
      let expected: [HTTPMethod] = [.post, .put, .patch]
      if bodyLength > 0 || expected.contains(request.method) {
        head.headers["Content-Length"] = String(bodyLength)
      }
    } else {
      head.headers["Transfer-Encoding"] = "chunked"
    }
    method = request.method
    asksToClose = head.headers.lists("close", in: "Connection")
    output += HTTPHeadWriter.request(head)
    state = .awaiting
    responseDue = now + timeouts.response
  }

  package mutating func writeBody(_ bytes: RawSpan) {
    guard bytes.byteCount > 0, state == .awaiting || state == .body else { return }
    if sendsChunks {
      output += HTTPChunkWriter.head(bytes.byteCount)
      output.append(bytes)
      output += [0x0d, 0x0a]
    } else {
      precondition(bytes.byteCount <= owedBody, "a request body is longer than promised")
      owedBody -= bytes.byteCount
      output.append(bytes)
    }
  }

  package mutating func finishBody() {
    if sendsChunks { output += HTTPChunkWriter.last }
    sendsChunks = false
  }

  // MARK: Responses

  package mutating func receive(_ bytes: RawSpan, now: Instant) {
    guard state != .finished else { return }
    input.append([UInt8](bytes))
    if state == .idle, !input.isEmpty { fail(.unexpectedBytes) }
  }

  /// The server will send no more.
  package mutating func receiveEnd(now: Instant) {
    inputEnded = true
  }

  /// The next thing that happened; nil when more bytes or time is needed.
  package mutating func pollEvent() -> HTTPClientEvent? {
    if let failure {
      self.failure = nil
      return .failed(failure)
    }
    do throws(HTTPFailure) {
      switch state {
      case .awaiting: return try pollHead()
      case .body: return try pollBody()
      case .idle:
        if inputEnded { state = .finished }
        return nil
      case .switched, .finished: return nil
      }
    } catch {
      fail(error)
      failure = nil
      return .failed(error)
    }
  }

  private mutating func pollHead() throws(HTTPFailure) -> HTTPClientEvent? {
    while true {
      let prefix = Array("HTTP/".utf8)
      guard input.slice.prefix(5).elementsEqual(prefix.prefix(input.count)) else {
        throw .badStatusLine
      }
      guard let length = try scanner.scan(input.slice, limits: limits) else {
        if inputEnded { throw .truncated }
        return nil
      }
      let head = try HTTPHead.response(input.slice.prefix(length), to: method)
      input.drop(length)
      if head.status == 101 || (method == .connect && (200...299).contains(head.status)) {
        state = .switched
        responseDue = nil
        return .switched(head)
      }
      // 100 and 103 come ahead of the answer that counts (RFC 9110 §15.2).
      if head.status < 200 { continue }
      if head.headers.lists("close", in: "Connection")
        || (head.version == .http10 && !head.headers.lists("keep-alive", in: "Connection"))
      {
        asksToClose = true
      }
      response = head
      responseDue = nil
      decoder = try HTTPBodyDecoder(
        head.bodyLength, limit: collectsBodies ? limits.collectedBody : limits.streamedBody,
        limits: limits)
      state = .body
      return collectsBodies ? try pollBody() : .response(head)
    }
  }

  private mutating func pollBody() throws(HTTPFailure) -> HTTPClientEvent? {
    while var decoder {
      var step = try decoder.step(&input)
      if case .needMore = step, inputEnded {
        guard decoder.end() else { throw .truncated }
        asksToClose = true
        step = .end
      }
      self.decoder = decoder
      switch step {
      case .needMore: return nil
      case .data(let bytes):
        guard collectsBodies else { return .body(bytes) }
        response?.body += bytes
      case .end:
        let whole = response
        finishResponse()
        guard collectsBodies else { return .end }
        return whole.map { .response($0) }
      }
    }
    return nil
  }

  private mutating func finishResponse() {
    decoder = nil
    response = nil
    if asksToClose || inputEnded || sendsChunks || owedBody > 0 {
      state = .finished
      return
    }
    state = .idle
    if !input.isEmpty { fail(.unexpectedBytes) }
  }

  /// Bytes that came after the response that switched.
  package mutating func takeSwitchedInput() -> [UInt8] {
    precondition(state == .switched)
    return input.take(input.count)
  }

  package var hasOutput: Bool { !output.isEmpty }

  /// Everything to be written to the server, in order.
  package mutating func takeOutput() -> [UInt8] {
    defer { output = [] }
    return output
  }

  private mutating func fail(_ reason: HTTPFailure) {
    failure = reason
    state = .finished
    decoder = nil
    responseDue = nil
  }

  // MARK: Time

  /// When the response must have begun. A body's pace is the caller's matter.
  package var nextDeadline: Instant? { responseDue }

  package mutating func advance(to now: Instant) {
    guard let responseDue, now >= responseDue else { return }
    fail(.responseTimeout)
  }
}
