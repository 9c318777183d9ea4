/// The packet that carries eviction lists: parts, their bounds, hostile ones.
import Bytes
import Paths
import Testing

private func encode(_ message: EvictionsMessage) -> [UInt8] {
  let batch = TransmitBatch(capacity: 65_536)
  batch.append(carrier: .udp(socket: 0, remote: .none), limit: 1_024) { message.write(into: &$0) }
  return batch.withBytes(0..<batch.byteCount) { [UInt8]($0) }
}

private func decode(_ bytes: [UInt8]) -> EvictionsMessage? {
  EvictionsMessage(decoding: bytes.span.bytes)
}

@Test func aListComesBackFromItsParts() {
  for count in [1, 479, 480, 481, 5_000, EvictionsMessage.listLimit] {
    let list = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    var whole: [UInt8] = []
    for offset in stride(from: 0, to: count, by: EvictionsMessage.partBytes) {
      let message = EvictionsMessage(number: 9, list: list, offset: offset)
      let bytes = encode(message)
      #expect(bytes.count == message.byteCount)
      #expect(PathSizes.sealed(bytes.count) <= 548, "fits the smallest path")
      #expect(decode(bytes) == message)
      #expect(decode(bytes + [0, 9]) == message, "padding changes nothing")
      whole += message.part
    }
    #expect(whole == list)
  }
}

@Test func aStatementIsFourteenBytes() {
  let bytes = encode(EvictionsMessage(stating: 0x0102_0304_0506_0708))
  #expect(bytes == [2, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0])
  #expect(decode(bytes) == EvictionsMessage(stating: 0x0102_0304_0506_0708))
  #expect(PathMessage.decode(bytes.span.bytes) == nil, "none of the four others")
}

@Test func brokenPartsAreRefused() {
  let list = [UInt8](repeating: 1, count: 1_000)
  let bytes = encode(EvictionsMessage(number: 3, list: list, offset: 480))
  for count in 0..<bytes.count { #expect(decode(Array(bytes[..<count])) == nil, "cut to \(count)") }
  func changed(_ at: Int, _ values: UInt8...) -> [UInt8] {
    var bytes = bytes
    bytes.replaceSubrange(at..<at + values.count, with: values)
    return bytes
  }
  #expect(decode(changed(0, 1)) == nil && decode(changed(1, 3)) == nil, "type")
  #expect(decode(changed(2, 0, 0, 0, 0, 0, 0, 0, 0)) == nil, "a list without a number")
  #expect(decode(changed(10, 0x40, 1)) == nil, "longer than any list")
  #expect(decode(changed(10, 0, 0)) == nil, "a statement with an offset")
  #expect(decode(changed(12, 1, 0xe1)) == nil, "an offset between parts")
  #expect(decode(Array(changed(10, 0x10, 0).dropLast())) == nil, "less than the part says")
  #expect(decode(changed(12, 5, 0xa0)) == nil, "behind the end")
}
