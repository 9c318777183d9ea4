import Bytes
import HTTP
import Testing

private let start = Instant(nanoseconds: 0)

/// Feeds text in pieces of `step` bytes and collects what comes out.
private func run(
  _ text: String, step: Int = .max, collects: Bool = true, answer: Bool = true, end: Bool = false,
  limits: HTTPLimits = HTTPLimits()
) -> (events: [HTTPServerEvent], output: String, connection: HTTPServerConnection) {
  var connection = HTTPServerConnection(now: start, collectsBodies: collects, limits: limits)
  var events: [HTTPServerEvent] = []
  var output: [UInt8] = []
  let bytes = Array(text.utf8)
  func poll() {
    while let event = connection.pollEvent() {
      // Body pieces are joined, so that splits make no difference.
      if case .body(let more) = event, case .body(let before)? = events.last {
        events[events.count - 1] = .body(before + more)
      } else {
        events.append(event)
      }
      guard answer else { continue }
      switch event {
      case .request(let request) where collects || request.bodyLength == .none:
        connection.respond(HTTPResponse(200, body: request.body))
      case .end: connection.respond(HTTPResponse(200))
      case .request, .body, .failed: break
      }
    }
    output += connection.takeOutput()
  }
  var position = 0
  while position < bytes.count {
    let next = min(bytes.count, position + min(step, bytes.count))
    connection.receive(bytes[position..<next].span.bytes, now: start)
    position = next
    poll()
  }
  if end {
    connection.receiveEnd(now: start)
    poll()
  }
  return (events, String(decoding: output, as: UTF8.self), connection)
}

private let get =
  "GET /api/v1/health?x=1 HTTP/1.1\r\nHost: localhost:27183\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"

@Test func aPlainGetIsReadAndAnswered() throws {
  let result = run(get)
  guard case .request(let request)? = result.events.first, result.events.count == 1 else {
    Issue.record("\(result.events)")
    return
  }
  #expect(request.method == .get)
  #expect(request.rawPath == "/api/v1/health")
  #expect(request.rawQuery == "x=1")
  #expect(request.headers["host"] == "localhost:27183")
  #expect(request.authority == HTTPAuthority(host: "localhost", port: 27183))
  #expect(result.output == "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
  #expect(!result.connection.isFinished && !result.connection.outputEnds)
}

@Test func healthIsAnsweredToTheByte() {
  var connection = HTTPServerConnection(now: start)
  connection.unixTime = 784_111_777
  connection.receive(Array(get.utf8).span.bytes, now: start)
  _ = connection.pollEvent()
  connection.respond(.json(["status": "ok", "version": "0.1.0", "nodes": 0]))
  #expect(
    String(decoding: connection.takeOutput(), as: UTF8.self)
      == "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 43\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{\"status\":\"ok\",\"version\":\"0.1.0\",\"nodes\":0}"
  )
}

private let conversation =
  get
  + "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"
  + "\r\nPOST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n5;n=v\r\nhello\r\n1 ; x=\"y\"\r\n,\r\n00A\r\n 0123456 \n\r\n0\r\nX-T: 1\r\n\r\n"
  + "OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n"
  + "GET http://h:80/x?y HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\n\r\n"

@Test func everySplitGivesTheSameEvents() {
  for collects in [true, false] {
    let whole = run(conversation, collects: collects)
    #expect(whole.events.count == (collects ? 5 : 9))
    #expect(whole.connection.outputEnds)
    for step in 1..<conversation.utf8.count {
      let split = run(conversation, step: step, collects: collects)
      #expect(split.events == whole.events, "pieces of \(step)")
      #expect(split.output == whole.output, "pieces of \(step)")
    }
  }
  guard case .request(let chunked) = run(conversation).events[2] else {
    Issue.record("not a request")
    return
  }
  #expect(String(decoding: chunked.body, as: UTF8.self) == "hello, 0123456 \n")
}

@Test func everyTruncationIsIncompleteAndNothingElse() {
  let message =
    "POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
  for count in 1..<message.utf8.count {
    let cut = String(decoding: Array(message.utf8)[..<count], as: UTF8.self)
    #expect(run(cut).events.isEmpty, "cut at \(count)")
    #expect(run(cut, end: true).events == [.failed(.truncated)], "cut at \(count)")
    #expect(run(cut, end: true).connection.isFinished)
  }
}

/// Messages that two parsers could read in two ways, and plain nonsense.
private let refused: [(String, HTTPFailure)] = [
  ("GET / HTTP/1.1\nHost: h\n\n", .bareControl),
  ("GET / HTTP/1.1\r\nHost: h\n\r\n", .bareControl),
  ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", .bareControl),
  ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", .bareControl),
  ("GET / HTTP/1.1\r\nHost: h\r\nX: a\u{0}b\r\n\r\n", .bareControl),
  ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", .badField),
  ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", .badField),
  ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", .badField),
  ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", .badField),
  ("GET / HTTP/1.1\r\nHost: h\r\nnocolon\r\n\r\n", .badField),
  ("GET / HTTP/1.1\r\nHost: h\r\nX(y): z\r\n\r\n", .badField),
  ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", .badRequestLine),
  ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", .badRequestLine),
  ("GET /\r\n\r\n", .badRequestLine),
  ("GET / a HTTP/1.1\r\nHost: h\r\n\r\n", .badRequestLine),
  ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", .badRequestLine),
  ("G@T / HTTP/1.1\r\nHost: h\r\n\r\n", .badRequestLine),
  (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", .badRequestLine),
  ("\u{16}\u{3}\u{1}", .badRequestLine),
  ("GET / http/1.1\r\nHost: h\r\n\r\n", .badVersion),
  ("GET / HTTP/1.11\r\nHost: h\r\n\r\n", .badVersion),
  ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", .unsupportedVersion),
  ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .unsupportedVersion),
  ("GET relative HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", .badTarget),
  ("GET / HTTP/1.1\r\n\r\n", .badHost),
  ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", .badHost),
  ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", .badHost),
  ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", .badHost),
  ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", .badHost),
  ("GET / HTTP/1.1\r\nHost: h:99999\r\n\r\n", .badHost),
  ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", .badHost),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    .badContentLength
  ),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx", .badContentLength),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx", .badContentLength),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\nx", .badContentLength),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nx", .badContentLength),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nx", .badContentLength),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nx", .badContentLength
  ),
  ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\nx", .bodyTooLarge),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    .twoLengths
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    .twoLengths
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    .unsupportedTransferEncoding
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n",
    .unsupportedTransferEncoding
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n",
    .unsupportedTransferEncoding
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    .badTransferEncoding
  ),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", .badTransferEncoding),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    .badTransferEncoding
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
    .unsupportedTransferEncoding
  ),
  ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", .badTransferEncoding),
  ("POST / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\n\r\n", .unsupportedExpectation),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1 x\r\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n", .badChunk),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", .badChunk),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
    .badChunk
  ),
  (
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffff\r\n",
    .bodyTooLarge
  ),
  ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", .badField),
]

@Test func whatCouldBeSmuggledIsRefusedAndTheConnectionEnds() {
  for (text, failure) in refused {
    let follower = text + get
    for step in [1, 7, Int.max] {
      let result = run(follower, step: step)
      #expect(result.events == [.failed(failure)], "pieces of \(step): \(text)")
      #expect(result.connection.outputEnds, "\(text)")
      if let status = failure.status {
        #expect(result.output.hasPrefix("HTTP/1.1 \(status) "), "\(text): \(result.output)")
        #expect(result.output.contains("\r\nConnection: close\r\n"), "\(text)")
      }
    }
  }
  #expect(run("GET / HTTP/1.1\r\nHost: h\r\nX: \u{80}\r\n\r\n").events.count == 1)
}

@Test func headsHaveLimits() {
  func failures(_ text: String) -> [HTTPServerEvent] { run(text).events }
  let long = String(repeating: "a", count: 9000)
  #expect(failures("GET /\(long) HTTP/1.1\r\n") == [.failed(.targetTooLong)])
  #expect(failures("GET /\(long)") == [.failed(.targetTooLong)])
  #expect(
    failures("GET / HTTP/1.1\r\nHost: h\r\nX: " + String(repeating: "a", count: 33_000)) == [
      .failed(.headTooLong)
    ])
  #expect(
    failures("GET / HTTP/1.1\r\n" + String(repeating: "X: y\r\n", count: 101)) == [
      .failed(.tooManyFields)
    ])
  #expect(
    failures("GET / HTTP/1.1\r\nHost: h\r\n" + String(repeating: "X: y\r\n", count: 99) + "\r\n")
      .count == 1)
  var limits = HTTPLimits()
  limits.collectedBody = 8
  #expect(
    run(
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n4\r\n",
      limits: limits
    ).events
      == [.failed(.bodyTooLarge)])
  let extensions =
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    + String(repeating: "1;aaaaaaaaaaaaaaaa\r\nx\r\n", count: 1000)
  #expect(run(extensions).events == [.failed(.badChunk)])
}

@Test func headHasNoBodyButItsLength() {
  var connection = HTTPServerConnection(now: start)
  connection.receive(Array("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n".utf8).span.bytes, now: start)
  _ = connection.pollEvent()
  connection.respond(.text("four"))
  let output = String(decoding: connection.takeOutput(), as: UTF8.self)
  #expect(output.contains("Content-Length: 4\r\n") && output.hasSuffix("\r\n\r\n"))
  connection.receive(Array("GET /x HTTP/1.1\r\nHost: h\r\n\r\n".utf8).span.bytes, now: start)
  _ = connection.pollEvent()
  connection.respond(HTTPResponse(204))
  #expect(
    String(decoding: connection.takeOutput(), as: UTF8.self) == "HTTP/1.1 204 No Content\r\n\r\n")
}

@Test func oldClientsAreClosedUnlessTheyAskToStay() {
  let closed = run("GET / HTTP/1.0\r\n\r\n")
  #expect(closed.output.contains("Connection: close\r\n") && closed.connection.outputEnds)
  let kept = run("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
  #expect(kept.output.contains("Connection: keep-alive\r\n") && !kept.connection.outputEnds)
}

@Test func streamedAnswersAreChunkedOrEndWithTheConnection() {
  for (version, expected) in [
    (
      "1.1",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    ),
    ("1.0", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello0123456789abcdef"),
  ] {
    var connection = HTTPServerConnection(now: start)
    connection.receive(
      Array("GET / HTTP/\(version)\r\nHost: h\r\n\r\n".utf8).span.bytes, now: start)
    _ = connection.pollEvent()
    connection.beginResponse(HTTPResponse(200))
    connection.writeBody(Array("hello".utf8).span.bytes)
    connection.writeBody(RawSpan())
    connection.writeBody(Array("0123456789abcdef".utf8).span.bytes)
    connection.finishResponse()
    #expect(String(decoding: connection.takeOutput(), as: UTF8.self) == expected)
    #expect(connection.outputEnds == (version == "1.0"))
  }
}

@Test func aWaitingClientIsToldToContinue() {
  let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
  var connection = HTTPServerConnection(now: start)
  connection.receive(Array(head.utf8).span.bytes, now: start)
  #expect(connection.pollEvent() == nil)
  #expect(
    String(decoding: connection.takeOutput(), as: UTF8.self) == "HTTP/1.1 100 Continue\r\n\r\n")
  connection.receive(Array("ok".utf8).span.bytes, now: start)
  guard case .request(let request)? = connection.pollEvent() else {
    Issue.record("no request")
    return
  }
  #expect(request.body == Array("ok".utf8))

  // A streaming server may refuse before the body is sent; then it closes.
  var streaming = HTTPServerConnection(now: start, collectsBodies: false)
  streaming.receive(Array(head.utf8).span.bytes, now: start)
  _ = streaming.pollEvent()
  streaming.respond(HTTPResponse(403))
  #expect(
    String(decoding: streaming.takeOutput(), as: UTF8.self).hasPrefix(
      "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n"))
  #expect(streaming.outputEnds)
}

@Test func anAnswerCannotBeSplitByAValueFromAUser() {
  var connection = HTTPServerConnection(now: start)
  connection.receive(Array(get.utf8).span.bytes, now: start)
  _ = connection.pollEvent()
  var response = HTTPResponse(302)
  response.headers["Location"] = "/x\r\nSet-Cookie: a=b\u{0}"
  connection.respond(response)
  let output = String(decoding: connection.takeOutput(), as: UTF8.self)
  #expect(output.contains("Location: /x  Set-Cookie: a=b \r\n"))
}

@Test func pipelinedRequestsWaitAndAreBounded() {
  var connection = HTTPServerConnection(now: start)
  let many = Array(String(repeating: get, count: 1000).utf8)
  connection.receive(many.span.bytes, now: start)
  #expect(connection.pollEvent() != nil)
  #expect(connection.pollEvent() == nil)
  for i in 0..<999 {
    connection.respond(HTTPResponse(200))
    #expect(connection.pollEvent() != nil, "request \(i)")
  }
  connection.respond(HTTPResponse(200))
  #expect(connection.pollEvent() == nil)
  // Somebody who never waits for answers is thrown out.
  connection.receive(Array(get.utf8).span.bytes, now: start)
  _ = connection.pollEvent()
  var received = 0
  while connection.wantsInput {
    connection.receive(many.span.bytes, now: start)
    received += many.count
  }
  #expect(received < 512 * 1024)
  for _ in 0..<8 { connection.receive(many.span.bytes, now: start) }
  #expect(connection.pollEvent() == .failed(.pipelineTooLong))
}

@Test func slowClientsMeetTheirDeadlines() {
  let timeouts = HTTPTimeouts()
  // Says nothing at all.
  var silent = HTTPServerConnection(now: start)
  #expect(silent.nextDeadline == start + timeouts.head)
  silent.advance(to: start + timeouts.head)
  #expect(silent.pollEvent() == .failed(.headTimeout))
  #expect(silent.isFinished && !silent.hasOutput)

  // A byte now and then does not help.
  var slow = HTTPServerConnection(now: start)
  for (second, byte) in "GET / HTT".utf8.enumerated() {
    slow.receive([byte].span.bytes, now: start + .seconds(Int64(second)))
    #expect(slow.pollEvent() == nil)
  }
  slow.advance(to: start + timeouts.head)
  #expect(slow.pollEvent() == .failed(.headTimeout))
  #expect(String(decoding: slow.takeOutput(), as: UTF8.self).hasPrefix("HTTP/1.1 408 "))
  #expect(!slow.isFinished && slow.outputEnds)
  slow.advance(to: start + timeouts.head + timeouts.linger)
  #expect(slow.isFinished)

  // A body that trickles.
  var body = HTTPServerConnection(now: start)
  body.receive(
    Array("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n".utf8).span.bytes,
    now: start)
  #expect(body.pollEvent() == nil)
  var now = start
  while now < start + .seconds(60), body.pollEvent() == nil {
    now += .seconds(1)
    body.receive([UInt8](repeating: 0, count: 100).span.bytes, now: now)
    body.advance(to: now)
  }
  #expect(now < start + .seconds(15))

  // Kept alive and idle.
  var idle = HTTPServerConnection(now: start)
  idle.receive(Array(get.utf8).span.bytes, now: start)
  _ = idle.pollEvent()
  #expect(idle.nextDeadline == nil)
  idle.respond(HTTPResponse(200))
  #expect(idle.nextDeadline == start + timeouts.idle)
  idle.advance(to: start + timeouts.idle)
  #expect(idle.pollEvent() == .failed(.idleTimeout))
  #expect(idle.isFinished)
}

@Test func requestsBeforeTheEndOfInputAreStillAnswered() {
  var connection = HTTPServerConnection(now: start)
  connection.receive(Array((get + get).utf8).span.bytes, now: start)
  connection.receiveEnd(now: start)
  var count = 0
  while case .request? = connection.pollEvent() {
    count += 1
    connection.respond(HTTPResponse(200))
  }
  #expect(count == 2)
  #expect(connection.isFinished)
}

@Test func connectMayNameAPathAndSwitches() {
  var connection = HTTPServerConnection(now: start)
  let head =
    "CONNECT /api/meshes/m/apps/ztm/tunnel/cli?argv=%5B%22get%22%5D HTTP/1.1\r\nHost: localhost:7777\r\n\r\n"
  connection.receive(Array((head + "raw").utf8).span.bytes, now: start)
  guard case .request(let request)? = connection.pollEvent() else {
    Issue.record("no request")
    return
  }
  #expect(HTTPTarget(request)?["argv"] == #"["get"]"#)
  let switched = connection.switchProtocols(HTTPResponse(200))
  #expect(switched)
  #expect(connection.takeSwitchedInput() == Array("raw".utf8))
  #expect(String(decoding: connection.takeOutput(), as: UTF8.self) == "HTTP/1.1 200 OK\r\n\r\n")
}

@Test func mutatedRequestsNeverTrap() {
  var random = SeededRandom(testSeed: 7)
  let seed = Array(conversation.utf8)
  for round in 0..<3000 {
    var bytes = seed
    for _ in 0...Int(random.next() % 4) {
      let at = Int(random.next() % UInt64(bytes.count))
      switch random.next() % 3 {
      case 0: bytes[at] = UInt8(truncatingIfNeeded: random.next())
      case 1: bytes.remove(at: at)
      default: bytes.insert(bytes[Int(random.next() % UInt64(bytes.count))], at: at)
      }
    }
    var outcomes: [[HTTPServerEvent]] = []
    for step in [Int.max, 13] {
      var connection = HTTPServerConnection(now: start)
      var events: [HTTPServerEvent] = []
      var position = 0
      while position < bytes.count {
        let next = min(bytes.count, position + min(step, bytes.count))
        connection.receive(bytes[position..<next].span.bytes, now: start)
        position = next
        while let event = connection.pollEvent() {
          events.append(event)
          connection.respond(HTTPResponse(200))
        }
      }
      outcomes.append(events)
    }
    #expect(outcomes[0] == outcomes[1], "round \(round)")
  }
}
