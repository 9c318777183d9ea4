import Bytes
import HTTP
import Testing

private let start = Instant(nanoseconds: 0)
private func seed(_ value: UInt8) -> [UInt8] { [UInt8](repeating: value, count: 32) }

private func connection(
  _ role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits()
) -> WebSocketConnection {
  WebSocketConnection(role: role, seed: seed(1), limits: limits, now: start)
}

/// What a connection reports, with the messages' bytes.
private enum Seen: Equatable {
  case text(String)
  case binary([UInt8])
  case other(WebSocketEvent)
}

private func poll(_ connection: WebSocketConnection) -> [Seen] {
  var seen: [Seen] = []
  while let event = connection.pollEvent() {
    switch event {
    case .text: seen.append(.text(connection.text()))
    case .binary: seen.append(.binary(connection.message()))
    case .pong, .closed, .failed: seen.append(.other(event))
    }
  }
  return seen
}

private func feed(_ connection: WebSocketConnection, _ bytes: [UInt8], step: Int = .max) -> [Seen] {
  var seen: [Seen] = []
  var position = 0
  while position < bytes.count {
    let next = min(bytes.count, position + min(step, bytes.count))
    connection.receive(bytes[position..<next].span.bytes, now: start)
    position = next
    seen += poll(connection)
  }
  return seen
}

/// A frame by hand; masked with a fixed key unless told otherwise.
private func frame(_ first: UInt8, _ payload: [UInt8], masked: Bool = true) -> [UInt8] {
  var bytes: [UInt8] = [first]
  let mask: UInt8 = masked ? 0x80 : 0
  switch payload.count {
  case ..<126: bytes.append(mask | UInt8(payload.count))
  case ..<65_536:
    bytes.append(mask | 126)
    bytes.appendUInt16(UInt16(payload.count))
  default:
    bytes.append(mask | 127)
    bytes.appendUInt64(UInt64(payload.count))
  }
  guard masked else { return bytes + payload }
  let key: [UInt8] = [0x37, 0xfa, 0x21, 0x3d]
  return bytes + key + payload.enumerated().map { $1 ^ key[$0 % 4] }
}

@Test func theRFCsHandshakeExample() {
  #expect(
    WebSocketHandshake.accept(forKey: "dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
}

@Test func handshakeOfBothSides() throws {
  let nonce = [UInt8](0..<16)
  let request = WebSocketHandshake.request(target: "/ws", nonce: nonce, subprotocols: ["b", "a"])
  var client = HTTPClientConnection()
  var server = HTTPServerConnection(now: start)
  client.send(request, authority: HTTPAuthority(host: "h", port: 1), now: start)
  server.receive(client.takeOutput().span.bytes, now: start)
  guard case .request(let received)? = server.pollEvent() else {
    Issue.record("no request")
    return
  }
  #expect(received.isWebSocketUpgrade)
  guard case .accepted(let answer) = WebSocketHandshake.answer(received, subprotocols: ["a", "b"])
  else {
    Issue.record("refused")
    return
  }
  let switched = server.switchProtocols(answer)
  #expect(switched)
  // A message in the same segment as the answer is not lost.
  client.receive(
    (server.takeOutput() + frame(0x81, Array("hi".utf8), masked: false)).span.bytes, now: start)
  guard case .switched(let response)? = client.pollEvent() else {
    Issue.record("not switched")
    return
  }
  #expect(response.headers["Sec-WebSocket-Protocol"] == "a")
  #expect(WebSocketHandshake.isAccepted(response, nonce: nonce, subprotocols: ["a", "b"]))
  #expect(!WebSocketHandshake.isAccepted(response, nonce: nonce))
  #expect(!WebSocketHandshake.isAccepted(response, nonce: [UInt8](1..<17), subprotocols: ["a"]))
  let socket = WebSocketConnection(
    role: .client, seed: seed(2), leftover: client.takeSwitchedInput(), now: start)
  #expect(poll(socket) == [.text("hi")])
}

@Test func badHandshakesAreRefusedWithTheRightStatus() {
  let good = WebSocketHandshake.request(target: "/", nonce: [UInt8](0..<16))
  func status(_ change: (inout HTTPRequest) -> Void) -> Int {
    var request = good
    change(&request)
    switch WebSocketHandshake.answer(request) {
    case .accepted: return 101
    case .refused(let response): return response.status
    }
  }
  #expect(status { _ in } == 101)
  #expect(status { $0.method = .post } == 426)
  #expect(status { $0.version = .http10 } == 426)
  #expect(status { $0.headers["Upgrade"] = "h2c" } == 426)
  #expect(status { $0.headers["Connection"] = "keep-alive" } == 426)
  #expect(status { $0.headers["Sec-WebSocket-Version"] = "8" } == 426)
  #expect(status { $0.headers["Sec-WebSocket-Key"] = nil } == 400)
  #expect(status { $0.headers["Sec-WebSocket-Key"] = "c2hvcnQ=" } == 400)
  #expect(status { $0.headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ" } == 400)
  #expect(status { $0.headers.add("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==") } == 400)
}

@Test func theRFCsFrameExamples() {
  let hello = Array("Hello".utf8)
  #expect(
    feed(connection(.client), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]) == [.text("Hello")])
  #expect(
    feed(connection(.server), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58])
      == [.text("Hello")])
  #expect(
    feed(connection(.client), [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f]) == [
      .text("Hello")
    ])
  let pinged = connection(.client)
  #expect(feed(pinged, [0x89, 0x05] + hello) == [])
  let pong = pinged.takeOutput()
  #expect(pong.prefix(2) == [0x8a, 0x85] && pong.count == 11)
  #expect(feed(connection(.server), pong) == [.other(.pong)])
  let answered = connection(.server)
  _ = feed(answered, frame(0x89, hello))
  #expect(answered.takeOutput() == [0x8a, 0x05] + hello)
  for count in [256, 65_536] {
    let payload = [UInt8](repeating: 7, count: count)
    let head: [UInt8] =
      count == 256 ? [0x82, 0x7e, 0x01, 0x00] : [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
    let sender = connection(.server)
    sender.send(binary: payload.span.bytes)
    #expect(sender.takeOutput() == head + payload)
    #expect(feed(connection(.client), head + payload) == [.binary(payload)])
  }
}

@Test func everySplitGivesTheSameMessages() {
  let long = [UInt8]((0..<300).map { UInt8(truncatingIfNeeded: $0) })
  let stream =
    frame(0x81, Array("é".utf8)) + frame(0x02, long) + frame(0x89, [1]) + frame(0x00, [])
    + frame(0x8a, [])
    + frame(0x80, [9]) + frame(0x82, []) + frame(0x82, long)
    + frame(0x88, [0x03, 0xe8] + Array("bye".utf8))
  let expected: [Seen] = [
    .text("é"), .other(.pong), .binary(long + [9]), .binary([]), .binary(long),
    .other(.closed(code: 1000, reason: "bye")),
  ]
  for step in 1...stream.count {
    let server = connection(.server)
    #expect(feed(server, stream, step: step) == expected, "pieces of \(step)")
    #expect(server.isFinished)
    #expect(server.takeOutput() == [0x8a, 1, 1, 0x88, 2, 0x03, 0xe8], "pieces of \(step)")
  }
  for count in 0..<frame(0x82, long).count {
    #expect(feed(connection(.server), Array(frame(0x82, long)[..<count])).isEmpty)
  }
}

@Test func whatBreaksTheRulesEndsWithItsCode() {
  let k = 200
  let cases: [(String, [UInt8], WebSocketFailure)] = [
    ("unmasked", frame(0x81, [65], masked: false), .wrongMasking),
    ("rsv1", frame(0xc1, [65]), .reservedBits), ("rsv2", frame(0xa1, [65]), .reservedBits),
    ("rsv3", frame(0x91, [65]), .reservedBits), ("opcode 3", frame(0x83, []), .unknownOpcode),
    ("opcode 11", frame(0x8b, []), .unknownOpcode),
    ("long ping", frame(0x89, [UInt8](repeating: 0, count: 126)), .badControl),
    ("fragmented ping", frame(0x09, []), .badControl),
    ("fragmented close", frame(0x08, []), .badControl),
    ("continuation of nothing", frame(0x80, [1]), .badSequence),
    ("text inside text", frame(0x01, [65]) + frame(0x81, [66]), .badSequence),
    ("16-bit length not needed", [0x82, 0xfe, 0, 125], .badLength),
    ("64-bit length not needed", [0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], .badLength),
    ("negative length", [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], .badLength),
    ("too large", [0x82, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 1, 2, 3, 4], .messageTooLarge),
    (
      "all but 2^63", [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
      .messageTooLarge
    ),
    ("not UTF-8", frame(0x81, [0xff]), .notUTF8),
    ("surrogate", frame(0x81, [0xed, 0xa0, 0x80]), .notUTF8),
    ("overlong", frame(0x81, [0xc0, 0xaf]), .notUTF8),
    ("cut character", frame(0x81, [0xe2, 0x82]), .notUTF8),
    ("cut over fragments", frame(0x01, [0xe2]) + frame(0x80, [0x82]), .notUTF8),
    ("half a close code", frame(0x88, [3]), .badCloseCode),
    ("close 1005", frame(0x88, [0x03, 0xed]), .badCloseCode),
    ("close 1006", frame(0x88, [0x03, 0xee]), .badCloseCode),
    ("close 999", frame(0x88, [0x03, 0xe7]), .badCloseCode),
    ("close 5000", frame(0x88, [0x13, 0x88]), .badCloseCode),
    ("close reason", frame(0x88, [0x03, 0xe8, 0xff]), .notUTF8),
  ]
  for (name, bytes, failure) in cases {
    for step in [1, k] {
      let server = connection(.server)
      let seen = feed(server, bytes + frame(0x81, Array("after".utf8)), step: step)
      #expect(seen == [.other(.failed(failure))], "\(name)")
      #expect(server.isFinished, "\(name)")
      let output = server.takeOutput()
      #expect(output.count > 4 && output[0] == 0x88, "\(name)")
      #expect(UInt16(output[2]) << 8 | UInt16(output[3]) == failure.code, "\(name)")
    }
  }
  #expect(feed(connection(.client), frame(0x81, [65])) == [.other(.failed(.wrongMasking))])
  // UTF-8 may be cut between fragments as long as it ends whole.
  #expect(
    feed(connection(.server), frame(0x01, [0xe2]) + frame(0x80, [0x82, 0xac])) == [.text("€")])
}

@Test func fragmentsAreBounded() {
  var limits = WebSocketLimits()
  limits.fragments = 10
  limits.message = 100
  let flood = frame(0x02, []) + (0..<20).flatMap { _ in frame(0x00, []) }
  #expect(feed(connection(.server, limits: limits), flood) == [.other(.failed(.tooManyFragments))])
  let large =
    frame(0x02, [UInt8](repeating: 0, count: 60)) + frame(0x80, [UInt8](repeating: 0, count: 41))
  #expect(feed(connection(.server, limits: limits), large) == [.other(.failed(.messageTooLarge))])
  let fits =
    frame(0x02, [UInt8](repeating: 0, count: 60)) + frame(0x80, [UInt8](repeating: 0, count: 40))
  #expect(
    feed(connection(.server, limits: limits), fits) == [.binary([UInt8](repeating: 0, count: 100))])
}

@Test func maskingIsUndoneAtEveryLengthAndPlace() {
  var random = SeededRandom(testSeed: 3)
  let client = connection(.client)
  let server = connection(.server)
  for count in Array(0...40) + [125, 126, 127, 1000, 65_535, 65_536, 100_001] {
    let payload = random.bytes(count)
    client.send(binary: payload.span.bytes)
    let wire = client.takeOutput()
    if count > 20 { #expect(Array(wire.suffix(count)) != payload) }
    #expect(feed(server, wire) == [.binary(payload)], "\(count) bytes")
    // Written in place with too much room, so that the head shrinks.
    for room in [count, count + 1, count + 200, count + 70_000] {
      let sent = client.send(binaryLimit: room) { $0.write(payload.span.bytes) }
      #expect(sent == count)
      let expected: [Seen] = count == 0 ? [] : [.binary(payload)]
      #expect(feed(server, client.takeOutput()) == expected, "\(count) bytes in room for \(room)")
    }
  }
  for phase in 0..<8 {
    var bytes = random.bytes(50)
    let plain = bytes
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    raw.xor(key: 0x0102_0304, phase: phase)
    for i in 0..<50 { #expect(bytes[i] == plain[i] ^ UInt8((i + phase) % 4 + 1)) }
  }
}

@Test func bytesMayBeReadStraightIn() {
  let server = connection(.server, limits: .bulk)
  let wire = frame(0x82, [UInt8](repeating: 5, count: 70_000))
  var position = 0
  var messages: [Seen] = []
  while position < wire.count {
    position += server.fill(limit: 16_384, now: start) { output in
      let count = min(output.freeCapacity, wire.count - position)
      output.write(wire[position..<(position + count)].span.bytes)
    }
    messages += poll(server)
  }
  #expect(messages == [.binary([UInt8](repeating: 5, count: 70_000))])
}

@Test func closeIsAgreedByBothSides() {
  let client = connection(.client)
  let server = connection(.server)
  server.sendClose(code: 1001, reason: String(repeating: "é", count: 100), now: start)
  #expect(!server.canSend && !server.isFinished)
  // What the client still says is dropped, not an error.
  client.send(text: "late")
  #expect(feed(server, client.takeOutput()) == [])
  let seen = feed(client, server.takeOutput())
  #expect(seen == [.other(.closed(code: 1001, reason: String(repeating: "é", count: 61)))])
  #expect(client.isFinished)
  #expect(feed(server, client.takeOutput()) == [.other(.closed(code: 1001, reason: ""))])
  #expect(server.isFinished && !server.hasOutput)

  let alone = connection(.server)
  alone.sendClose(now: start)
  #expect(alone.nextDeadline == start + .seconds(5))
  alone.advance(to: start + .seconds(5))
  #expect(poll(alone) == [.other(.failed(.closeTimeout))])

  let empty = connection(.server)
  #expect(feed(empty, frame(0x88, [])) == [.other(.closed(code: 1005, reason: ""))])
  #expect(empty.takeOutput() == [0x88, 0])

  let lost = connection(.server)
  lost.receiveEnd(now: start)
  #expect(poll(lost) == [.other(.failed(.connectionLost))])
}

@Test func aSilentPeerIsPingedThenGivenUp() {
  let server = connection(.server)
  #expect(server.nextDeadline == start + .seconds(30))
  server.advance(to: start + .seconds(30))
  #expect(server.takeOutput() == [0x89, 0])
  server.receive(frame(0x8a, []).span.bytes, now: start + .seconds(40))
  #expect(poll(server) == [.other(.pong)])
  #expect(server.nextDeadline == start + .seconds(70))
  server.advance(to: start + .seconds(70))
  server.advance(to: start + .seconds(85))
  #expect(poll(server) == [.other(.failed(.pongTimeout))])
}

@Test func aPeerThatNeverReadsIsNotBufferedForEver() {
  var limits = WebSocketLimits()
  limits.output = 10_000
  let server = connection(.server, limits: limits)
  let ping = frame(0x89, [UInt8](repeating: 0, count: 125))
  for _ in 0..<1000 { _ = feed(server, ping) }
  #expect(server.outputCount < 10_200)
  #expect(!server.canSend)
  let sent = server.send(text: "x")
  #expect(!sent)
}

@Test func mutatedFramesNeverTrap() {
  var random = SeededRandom(testSeed: 5)
  let stream =
    frame(0x81, Array("héllo".utf8)) + frame(0x02, [1, 2, 3]) + frame(0x89, [])
    + frame(0x80, [UInt8](repeating: 4, count: 200))
    + frame(0x88, [0x03, 0xe8])
  for round in 0..<5000 {
    var bytes = stream
    for _ in 0...Int(random.next() % 3) {
      bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.next())
    }
    let whole = feed(connection(.server), bytes)
    let split = feed(connection(.server), bytes, step: 1 + Int(random.next() % 20))
    #expect(whole == split, "round \(round)")
  }
}
