// sources: Bytes HTTP
// Arbitrary bytes as WebSocket frames to both roles, whole and split, with time
// passing; whatever a client sends, a server must receive.
#if canImport(Bytes)
  import Bytes
#endif
#if canImport(HTTP)
  import HTTP
#endif

private let start = Instant(nanoseconds: 0)
private let seed = [UInt8](repeating: 1, count: 32)

private struct Outcome: Equatable {
  var events: [WebSocketEvent] = []
  var messages: [[UInt8]] = []
  var output: [UInt8] = []
}

private func run(_ bytes: [UInt8], step: Int, role: WebSocketRole) -> Outcome {
  var limits = WebSocketLimits()
  limits.message = 4096
  limits.fragments = 16
  let connection = WebSocketConnection(role: role, seed: seed, limits: limits, now: start)
  var outcome = Outcome()
  var position = 0
  while position < bytes.count {
    let next = min(bytes.count, position + step)
    connection.receive(bytes[position..<next].span.bytes, now: start)
    position = next
    while let event = connection.pollEvent() {
      outcome.events.append(event)
      if event == .text || event == .binary { outcome.messages.append(connection.message()) }
      if event == .text {
        precondition(String(validating: connection.message(), as: UTF8.self) != nil)
      }
    }
    outcome.output += connection.takeOutput()
  }
  precondition(!connection.isFinished || !connection.canSend)
  return outcome
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard let first = input.first, input.count < 20_000 else { return 0 }
  let bytes = Array(input.dropFirst())
  let role: WebSocketRole = first & 1 == 0 ? .server : .client
  let whole = run(bytes, step: max(bytes.count, 1), role: role)
  let split = run(bytes, step: 1 + Int(first >> 2), role: role)
  precondition(whole == split, "splits matter")

  // The same bytes as payload, written in place, through a pair.
  let sender = WebSocketConnection(role: role, seed: seed, now: start)
  let receiver = WebSocketConnection(
    role: role == .server ? .client : .server, seed: seed, now: start)
  let room = bytes.count + Int(first >> 2) * 1000
  sender.send(binaryLimit: room) { $0.write(bytes.span.bytes) }
  receiver.receive(sender.takeOutput().span.bytes, now: start)
  if bytes.isEmpty {
    precondition(receiver.pollEvent() == nil)
  } else {
    precondition(receiver.pollEvent() == .binary && receiver.message() == bytes)
  }
  return 0
}
