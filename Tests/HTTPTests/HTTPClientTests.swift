import Bytes
import HTTP
import Testing

private let start = Instant(nanoseconds: 0)
private let authority = HTTPAuthority(host: "example.net", port: 7777)

private func run(
  _ text: String, to request: HTTPRequest = HTTPRequest(.get, "/"), step: Int = .max,
  collects: Bool = true, end: Bool = false
) -> (events: [HTTPClientEvent], connection: HTTPClientConnection) {
  var connection = HTTPClientConnection(collectsBodies: collects)
  connection.send(request, authority: authority, now: start)
  var events: [HTTPClientEvent] = []
  let bytes = Array(text.utf8)
  var position = 0
  func poll() {
    while let event = connection.pollEvent() {
      if case .body(let more) = event, case .body(let before)? = events.last {
        events[events.count - 1] = .body(before + more)
      } else {
        events.append(event)
      }
    }
  }
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
  return (events, connection)
}

@Test func requestsAreWrittenWhole() {
  var connection = HTTPClientConnection()
  var request = HTTPRequest(.post, "/api/x", body: Array("{}".utf8))
  request.headers["Content-Type"] = "application/json"
  connection.send(request, authority: authority, now: start)
  #expect(
    String(decoding: connection.takeOutput(), as: UTF8.self)
      == "POST /api/x HTTP/1.1\r\nContent-Type: application/json\r\nHost: example.net:7777\r\nContent-Length: 2\r\n\r\n{}"
  )
  #expect(connection.nextDeadline == start + HTTPTimeouts().response)
}

@Test func responsesAreReadHoweverTheyAreSplit() {
  let answers = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nT: x\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200\r\nConnection: close\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\n\r\nhello",
  ]
  for text in answers {
    for step in 1...text.utf8.count {
      for collects in [true, false] {
        let result = run(text, step: step, collects: collects, end: true)
        let body: [UInt8]
        switch result.events.first {
        case .response(let response)?:
          body = response.body
          #expect(response.status == 200)
        default:
          body = []
          Issue.record("\(result.events) for \(text)")
        }
        if collects {
          #expect(body == Array("hello".utf8), "pieces of \(step): \(text)")
        } else {
          #expect(
            Array(result.events.dropFirst()) == [.body(Array("hello".utf8)), .end], "\(text)")
        }
      }
    }
  }
}

@Test func bodilessAnswersEndAtOnce() {
  #expect(run("HTTP/1.1 204 No Content\r\n\r\n").connection.isIdle)
  #expect(run("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n").connection.isIdle)
  #expect(
    run("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", to: HTTPRequest(.head, "/")).connection
      .isIdle)
  #expect(run("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").connection.isIdle)
}

@Test func brokenAnswersAreReported() {
  let cases: [(String, HTTPFailure)] = [
    ("SSH-2.0-OpenSSH_9.2\r\n", .badStatusLine), ("HTTP/1.1 20 OK\r\n\r\n", .badStatusLine),
    ("HTTP/1.1 999 OK\r\n\r\n", .badStatusLine), ("HTTP/2.0 200 OK\r\n\r\n", .unsupportedVersion),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", .twoLengths),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", .badContentLength),
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", .badField),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", .truncated),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", .truncated),
    ("HTTP/1.1 200 OK\r\nContent-Le", .truncated), ("HTT", .truncated),
  ]
  for (text, failure) in cases {
    #expect(run(text, end: true).events == [.failed(failure)], "\(text)")
  }
  let extra = run("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\njunk")
  #expect(extra.events.count == 2 && extra.events.last == .failed(.unexpectedBytes))
}

@Test func aProxyOpensATunnel() {
  let request = HTTPRequest(.connect, "far.example:443")
  let opened = run("HTTP/1.1 200 Connection established\r\n\r\n\u{16}\u{3}", to: request)
  guard case .switched(let response)? = opened.events.first else {
    Issue.record("\(opened.events)")
    return
  }
  var connection = opened.connection
  #expect(response.status == 200 && connection.takeSwitchedInput() == [0x16, 3])
  let refused = run("HTTP/1.1 407 Proxy\r\nContent-Length: 2\r\n\r\nno", to: request)
  guard case .response(let answer)? = refused.events.first else {
    Issue.record("\(refused.events)")
    return
  }
  #expect(answer.status == 407 && answer.body == Array("no".utf8))
}

@Test func aSilentServerMeetsItsDeadline() {
  var connection = HTTPClientConnection()
  connection.send(HTTPRequest(.get, "/"), authority: authority, now: start)
  connection.advance(to: start + .seconds(29))
  #expect(connection.pollEvent() == nil)
  connection.advance(to: start + .seconds(30))
  #expect(connection.pollEvent() == .failed(.responseTimeout))
}

@Test func bothSidesUnderstandEachOther() {
  var client = HTTPClientConnection()
  var server = HTTPServerConnection(now: start, collectsBodies: true)
  for round in 0..<5 {
    let body = [UInt8](repeating: UInt8(round), count: round * 40_000)
    client.begin(
      HTTPRequest(.put, "/x"), authority: authority, bodyLength: round % 2 == 0 ? nil : body.count,
      now: start)
    client.writeBody(body.span.bytes)
    client.finishBody()
    server.receive(client.takeOutput().span.bytes, now: start)
    guard case .request(let request)? = server.pollEvent() else {
      Issue.record("no request in round \(round)")
      return
    }
    #expect(request.body == body)
    server.beginResponse(HTTPResponse(200), bodyLength: round % 2 == 0 ? body.count : nil)
    server.writeBody(request.body.span.bytes)
    server.finishResponse()
    client.receive(server.takeOutput().span.bytes, now: start)
    guard case .response(let response)? = client.pollEvent() else {
      Issue.record("no response in round \(round)")
      return
    }
    #expect(response.body == body)
    #expect(client.isIdle)
  }
}
