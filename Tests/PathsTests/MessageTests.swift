import Bytes
import Paths
import Testing

private func encode(_ message: PathMessage, size: Int) -> [UInt8] {
  let capacity = max(size, 64)
  let batch = TransmitBatch(capacity: 65_536 + 64)
  batch.append(carrier: .udp(socket: 0, remote: .none), limit: capacity) { output in
    message.write(into: &output, size: size)
  }
  return batch.withBytes(0..<batch.byteCount) { [UInt8]($0) }
}

private let samples: [(PathMessage, Int)] = [
  (.ping(challenge: 0x0102_0304_0506_0708, size: 32), 32),
  (.sizeProbe(challenge: .max, size: 1408), 1408),
  (.pong(challenge: 5, answeredSize: 1408, observed: nil), 0),
  (.pong(challenge: 5, answeredSize: 32, observed: Endpoint("192.0.2.7:5000")), 0),
  (.pong(challenge: 5, answeredSize: 32, observed: Endpoint("[2001:db8::7]:5000")), 0),
  (
    .hello(
      HelloMessage(
        features: 0x8000_0001, incarnation: 0x1122_3344_5566_7788, seen: 9,
        certificateSerial: 10, revocationNumber: 11)), 0
  ),
]

@Test func everyMessageComesBackAsItWent() {
  for (message, size) in samples {
    let bytes = encode(message, size: size)
    #expect(PathMessage.decode(bytes.span.bytes) == message)
    #expect(bytes.count == max(size, message.fieldBytes))
    if case .ping = message { continue }
    if case .sizeProbe = message { continue }
    // Padding behind the fields changes nothing.
    #expect(PathMessage.decode((bytes + [0, 0, 0]).span.bytes) == message)
    #expect(PathMessage.decode((bytes + [9, 9, 9]).span.bytes) == message)
  }
}

@Test func theBytesAreAsDrawn() {
  let pong = encode(samples[3].0, size: 0)
  #expect(
    pong == [2, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 32, 4, 0x13, 0x88, 192, 0, 2, 7])
  let ping = encode(samples[0].0, size: 32)
  #expect(ping == [2, 1, 1, 2, 3, 4, 5, 6, 7, 8] + [UInt8](repeating: 0, count: 22))
  let hello = encode(samples[5].0, size: 0)
  #expect(hello.count == 40)
  #expect(
    Array(hello[0..<16]) == [
      2, 3, 1, 0, 0x80, 0, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
    ])
}

@Test func truncationAtEveryByteIsRefused() {
  for (message, size) in samples {
    let bytes = encode(message, size: size)
    let least: Int
    switch message {
    case .ping, .sizeProbe: least = PathMessage.shortestPing
    case .pong, .hello: least = message.fieldBytes
    }
    for count in 0..<least {
      #expect(PathMessage.decode(Array(bytes[..<count]).span.bytes) == nil, "\(message) \(count)")
    }
  }
}

@Test func hostileMessagesAreRefused() {
  let zeros = [UInt8](repeating: 0, count: 60)
  let table: [[UInt8]] = [
    [], [2], [1, 1] + zeros, [2, 0] + zeros, [2, 5] + zeros, [2, 255] + zeros,
    // PONG: unknown family, family without an address, mapped IPv4 as IPv6, port without family.
    [2, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 32, 5, 0, 1] + zeros,
    [2, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 32, 4, 0, 1, 1, 1],
    [2, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 32, 6, 0, 1] + [UInt8](repeating: 0, count: 10)
      + [255, 255, 1, 2, 3, 4],
    [2, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 32, 0, 0, 1],
    // HELLO: version 0, incarnation 0.
    [2, 3, 0, 0] + [UInt8](repeating: 1, count: 36),
    [2, 3, 1, 0, 0, 0, 0, 0] + zeros,
  ]
  for bytes in table { #expect(PathMessage.decode(bytes.span.bytes) == nil, "\(bytes)") }
  let huge = [2, 1] + [UInt8](repeating: 0, count: 65_600)
  #expect(PathMessage.decode(huge.span.bytes) == nil)
}

@Test func noAnswerIsLargerThanWhatCausedIt() {
  let pong = PathMessage.pong(
    challenge: 1, answeredSize: 32, observed: Endpoint(IPAddress(high: 1, low: 1), 9))
  #expect(pong.fieldBytes == PathMessage.longestPong)
  #expect(PathSizes.sealed(pong.fieldBytes) <= PathSizes.sealed(PathMessage.shortestPing))
}
