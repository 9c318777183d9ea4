// sources: Bytes Crypto NAT STUN
/// Arbitrary bytes as messages, as a TCP stream, to the responder and to a probe
/// in all its phases: nothing may trap, what decodes comes back equal after being
/// written, no answer is over its limit, and a probe sends so much and no more.

#if canImport(Bytes)
  import Bytes
  import NAT
  import STUN
#endif

private func fuzzMessage(_ bytes: [UInt8]) {
  guard case .success(var message) = STUNMessage.decode(bytes.span.bytes) else { return }
  _ = message.isAuthentic(bytes.span.bytes, key: [1])
  message.integrityOffset = nil
  message.notUnderstood = []
  let again = message.encode()
  // A list of thousands of types, or texts of kilobytes, is cut or fits: both decode.
  guard case .success(let decoded) = STUNMessage.decode(again.span.bytes), decoded == message
  else { fatalError("round trip") }
}

private func fuzzStream(_ bytes: [UInt8]) {
  func cut(_ size: Int) -> (messages: [[UInt8]], isBroken: Bool) {
    var stream = STUNStream()
    var messages: [[UInt8]] = []
    for start in stride(from: 0, to: bytes.count, by: size) {
      let part = Array(bytes[start..<min(start + size, bytes.count)])
      let goesOn = stream.receive(part.span.bytes) { message in
        messages.append([UInt8](message))
        return true
      }
      precondition(goesOn != stream.isBroken)
      precondition(stream.byteCount <= STUNLimits.streamMessageBytes, "memory")
    }
    return (messages, stream.isBroken)
  }
  let whole = cut(max(1, bytes.count))
  let pieces = cut(3)
  precondition(whole.messages == pieces.messages && whole.isBroken == pieces.isBroken, "cuts")
}

private func fuzzResponder(_ reader: inout ByteReader) {
  let pair = STUNServerSettings.AddressPair(
    first: IPAddress(198, 51, 100, 1), second: IPAddress(198, 51, 100, 2))
  var limits = STUNResponderLimits()
  limits.sources = 16
  limits.sourceRate = 5
  limits.sourceBurst = 5
  var responder = STUNResponder(
    settings: STUNServerSettings(udp1: 3478, udp2: 3479, pairs: [pair]), limits: limits,
    random: SeededRandom(testSeed: 1))
  var now = Instant(nanoseconds: 0)
  while let op = reader.uint8() {
    now += .milliseconds(Int64(op) * 10)
    let size = Int(reader.uint8() ?? 0)
    let bytes = reader.array(min(size, reader.remaining)) ?? []
    let remote = Endpoint(
      op & 1 == 0 ? IPAddress(203, 0, 113, op) : IPAddress(high: UInt64(op) << 40, low: 9),
      UInt16(size))
    let local = Endpoint(op & 2 == 0 ? pair.first : pair.second, op & 4 == 0 ? 3478 : 3479)
    guard
      let answer = responder.receive(
        bytes.span.bytes, from: remote, at: local, over: op & 8 == 0 ? .udp : .tcp, now: now)
    else { continue }
    precondition(answer.bytes.count <= STUNLimits.answerBytes, "too long")
    precondition(
      [pair.first, pair.second].contains(answer.source.address)
        && [3478, 3479].contains(answer.source.port), "not our endpoint")
    guard case .success(let message) = STUNMessage.decode(answer.bytes.span.bytes),
      message.kind == .success || message.kind == .failure
    else { fatalError("not an answer") }
  }
}

private struct ProbeScript {
  var probe: NATProbe
  var now = Instant(nanoseconds: 1_000_000_000)
  var sent: [NATProbeTransmit] = []
  var connections: [UInt32] = []
  let server = IPAddress(198, 51, 100, 1)

  init() {
    probe = NATProbe(
      settings: NATProbeSettings(
        server: NATProbeServer(server, udp1: 3478, udp2: 3479, tcp: [3480, 3481]),
        main: NATProbeSocket(number: 1, localPort: 4000),
        auxiliary: [
          NATProbeSocket(number: 2, localPort: 4001), NATProbeSocket(number: 3, localPort: 4002),
        ], localAddresses: [IPAddress(192, 168, 1, 2)]), random: SeededRandom(testSeed: 7))
  }

  mutating func drain() {
    while let transmit = probe.pollTransmit() {
      precondition(transmit.bytes.count <= 28)
      sent.append(transmit)
    }
    while let event = probe.pollEvent() {
      if case .dial(let connection, _) = event { connections.append(connection) }
    }
    precondition(sent.count <= 60, "too much is sent")
  }

  /// An answer to one of the latest questions, with a body of the fuzzer's.
  mutating func answer(_ op: UInt8, _ reader: inout ByteReader) {
    guard !sent.isEmpty else { return }
    let question = sent[sent.count - 1 - Int(op >> 4) % sent.count]
    let body = reader.array(min(Int(reader.uint8() ?? 0) & ~3, reader.remaining & ~3)) ?? []
    var bytes = Array(question.bytes[..<20]) + body
    bytes[0] = op & 4 == 0 ? 0x01 : 0
    bytes[1] = op & 8 == 0 ? 0x01 : 0x11
    bytes[2] = UInt8(body.count >> 8)
    bytes[3] = UInt8(truncatingIfNeeded: body.count)
    let from = op & 8 == 0 ? question.destination : Endpoint(server, 3479)
    probe.receive(bytes.span.bytes, from: from, socket: question.socket, now: now)
  }

  mutating func step(_ op: UInt8, _ reader: inout ByteReader) {
    switch op & 3 {
    case 0: answer(op, &reader)
    case 1:
      now += .milliseconds(Int64(op) * 8)
      probe.advance(to: now)
    case 2:
      let bytes = reader.array(min(Int(reader.uint8() ?? 0), reader.remaining)) ?? []
      if op & 4 == 0 {
        probe.receive(bytes.span.bytes, from: Endpoint(server, 3478), socket: 1, now: now)
      } else if let connection = connections.last {
        probe.received(bytes.span.bytes, on: connection, now: now)
      }
    default:
      switch op >> 2 & 7 {
      case 0: restart { $0.probe.start(now: $0.now) }
      case 1: restart { $0.probe.refresh(now: $0.now) }
      case 2: if let connection = connections.last { probe.connected(connection, now: now) }
      case 3: if let connection = connections.last { probe.failed(connection, now: now) }
      case 4: restart { $0.probe.stop() }
      default: break
      }
    }
    drain()
  }

  mutating func restart(_ body: (inout ProbeScript) -> Void) {
    body(&self)
    sent.removeAll()
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard let kind = bytes.first else { return 0 }
  let rest = Array(bytes.dropFirst())
  var reader = ByteReader(rest.span.bytes)
  switch kind & 3 {
  case 0: fuzzMessage(rest)
  case 1: fuzzStream(rest)
  case 2: fuzzResponder(&reader)
  default:
    var script = ProbeScript()
    script.probe.start(now: script.now)
    script.drain()
    while let op = reader.uint8() { script.step(op, &reader) }
    script.probe.advance(to: script.now + .seconds(60))
    script.drain()
    precondition(!script.probe.isRunning && script.probe.nextDeadline == .distantFuture)
  }
  return 0
}
