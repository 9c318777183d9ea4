// sources: Bytes HTTP
// Arbitrary bytes as requests, responses, JSON and targets. A connection must
// come to the same events however its bytes are split, and what a JSON text
// says must survive being written.
#if canImport(Bytes)
  import Bytes
#endif
#if canImport(HTTP)
  import HTTP
#endif

private let start = Instant(nanoseconds: 0)

private func serve(_ bytes: [UInt8], step: Int, collects: Bool) -> [HTTPServerEvent] {
  var connection = HTTPServerConnection(now: start, collectsBodies: collects)
  var events: [HTTPServerEvent] = []
  func poll() {
    while let event = connection.pollEvent() {
      if case .body(let more) = event, case .body(let before)? = events.last {
        events[events.count - 1] = .body(before + more)
      } else {
        events.append(event)
      }
      switch event {
      case .request(let request) where collects || request.bodyLength == .none:
        _ = HTTPTarget(request)
        _ = request.authority
        _ = request.isSameOrigin(isSecure: false)
        _ = request.headers["Content-Type"].flatMap { HTTPMediaType($0) }
        switch WebSocketHandshake.answer(request, subprotocols: ["a"]) {
        case .accepted(let response):
          if request.bodyLength == .none { connection.switchProtocols(response) }
        case .refused:
          connection.respond(HTTPResponse(200))
        }
        if !connection.isSwitched { connection.respond(HTTPResponse(200)) }
      case .end: connection.respond(HTTPResponse(200))
      case .request, .body, .failed: break
      }
    }
  }
  var position = 0
  while position < bytes.count {
    let next = min(bytes.count, position + step)
    connection.receive(bytes[position..<next].span.bytes, now: start)
    position = next
    poll()
  }
  connection.receiveEnd(now: start)
  poll()
  return events
}

private func ask(_ bytes: [UInt8], step: Int, _ method: HTTPMethod) -> [HTTPClientEvent] {
  var connection = HTTPClientConnection()
  connection.send(
    HTTPRequest(method, "/"), authority: HTTPAuthority(host: "h", port: 1), now: start)
  var events: [HTTPClientEvent] = []
  var position = 0
  while position < bytes.count {
    let next = min(bytes.count, position + step)
    connection.receive(bytes[position..<next].span.bytes, now: start)
    position = next
    while let event = connection.pollEvent() { events.append(event) }
  }
  connection.receiveEnd(now: start)
  while let event = connection.pollEvent() { events.append(event) }
  return events
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard let first = input.first, input.count < 20_000 else { return 0 }
  let bytes = Array(input.dropFirst())
  let step = 1 + Int(first >> 3)
  switch first & 7 {
  case 0, 1, 2:
    let collects = first & 1 == 0
    let whole = serve(bytes, step: max(bytes.count, 1), collects: collects)
    precondition(whole == serve(bytes, step: step, collects: collects), "splits matter")
  case 3, 4:
    let method: HTTPMethod = first & 1 == 0 ? .connect : .get
    let whole = ask(bytes, step: max(bytes.count, 1), method)
    precondition(whole == ask(bytes, step: step, method), "splits matter")
  default:
    for dialect in [JSONValue.Dialect.strict, .relaxed] {
      guard let value = try? JSONValue.parse(bytes, dialect: dialect) else { continue }
      let again = try? JSONValue.parse(value.bytes(first & 1 == 0 ? .compact : .pretty))
      precondition(again == value, "a value reads differently when written")
    }
    let text = String(decoding: bytes, as: UTF8.self)
    if let target = HTTPTarget(path: text, query: nil as String?) {
      let built = HTTPTarget.build(target.segments)
      precondition(HTTPTarget(path: built, query: nil as String?) == target, "a path changes")
    }
    if let decoded = Base64.decode(text) { precondition(Base64.encode(decoded) == text) }
    _ = HTTPOrigin(text)
    _ = HTTPMediaType(text)
    _ = HTTPTarget.parseQuery(text)
  }
  return 0
}
