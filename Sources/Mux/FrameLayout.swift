/// Sizes, writers and readers of the frames inside a sealed packet. Tables:
/// docs/protocol/mux.md.
///
///     frame     0        4      5        7
///               +--------+------+--------+------------------------------+
///               | stream | flags| length | body                         |
///               +--------+------+--------+------------------------------+
///     SYN       requestLength(2) | request | first bytes (if DATA)
///     DATA      offset(8) | bytes
///     FIN       finalOffset(8)
///     CREDIT    limit(8)            SYN|CREDIT (OPENED) the same
///     RST       kind(1: 0 reset, 1 refused) | finalOffset(8) | code(2) | words
///     DATAGRAM  number(4) | offset(2) | total(2) | bytes
///     ACK       lane(1) | delay µs(3) | largest(6) | count(1) | first(4)
///               | { gap(4) | length(4) } × (count − 1)
///               in DATA on stream 0; first, gap, length are one less than the
///               number of packets they stand for

#if canImport(Bytes)
import Bytes
#endif

enum FrameLayout {
  /// Whole frame of FIN, CREDIT, OPENED.
  static let credit = MuxProtocol.frameHead + 8
  static let dataHead = MuxProtocol.frameHead + 8
  static let resetHead = MuxProtocol.frameHead + 11
  static let datagramHead = MuxProtocol.frameHead + 8
  static let ackHead = 15
  static let ackRange = 8

  static func writeLimit(
    _ id: UInt32, _ flags: UInt8, _ value: UInt64, into output: inout OutputRawSpan
  ) {
    output.writeUInt32(id)
    output.writeUInt8(flags)
    output.writeUInt16(8)
    output.writeUInt64(value)
  }

  static func writeReset(
    _ id: UInt32, isRefusal: Bool, finalOffset: UInt64, code: UInt16, words: [UInt8],
    into output: inout OutputRawSpan
  ) {
    output.writeUInt32(id)
    output.writeUInt8(FrameFlags.rst)
    output.writeUInt16(UInt16(11 + words.count))
    output.writeUInt8(isRefusal ? 1 : 0)
    output.writeUInt64(finalOffset)
    output.writeUInt16(code)
    output.write(words.span.bytes)
  }

  /// - Returns: bytes of the whole frame.
  static func writeAck(
    lane: LaneID, ranges: borrowing AckRanges, delay: TimeAmount, limit: Int,
    into output: inout OutputRawSpan
  ) -> Int {
    let most = min(ranges.count, limit)
    var count = 1
    while count < most {
      let gap = ranges.spans[count - 1].lower - ranges.spans[count].upper - 2
      let length = ranges.spans[count].upper - ranges.spans[count].lower
      guard gap <= UInt64(UInt32.max), length <= UInt64(UInt32.max) else { break }
      count += 1
    }
    let body = ackHead + ackRange * (count - 1)
    output.writeUInt32(0)
    output.writeUInt8(FrameFlags.data)
    output.writeUInt16(UInt16(body))
    output.writeUInt8(lane)
    let microseconds = UInt32(min(max(delay.nanoseconds / 1_000, 0), 0xff_ffff))
    output.writeUInt8(UInt8(microseconds >> 16))
    output.writeUInt16(UInt16(microseconds & 0xffff))
    output.writeUInt48(ranges.spans[0].upper)
    output.writeUInt8(UInt8(count))
    output.writeUInt32(
      UInt32(min(ranges.spans[0].upper - ranges.spans[0].lower, UInt64(UInt32.max))))
    for index in 1..<max(count, 1) {
      let above = ranges.spans[index - 1].lower
      let span = ranges.spans[index]
      output.writeUInt32(UInt32(above - span.upper - 2))
      output.writeUInt32(UInt32(span.upper - span.lower))
    }
    return MuxProtocol.frameHead + body
  }

  /// Reads one ACK; nil if it is malformed.
  static func readAck(_ reader: inout ByteReader, into block: inout AckBlock) -> Bool {
    guard let lane = reader.uint8(), let high = reader.uint8(), let low = reader.uint16(),
      let largest = reader.uint48(), let count = reader.uint8(), let first = reader.uint32(),
      count >= 1, Int(count) <= MuxProtocol.ackRanges, UInt64(first) <= largest
    else { return false }
    block.lane = lane
    block.delay = .microseconds(Int64(high) << 16 | Int64(low))
    block.spans[0] = AckRanges.Span(lower: largest - UInt64(first), upper: largest)
    var below = largest - UInt64(first)
    for index in 1..<max(Int(count), 1) {
      guard let gap = reader.uint32(), let length = reader.uint32() else { return false }
      let skip = UInt64(gap) + 2
      guard below >= skip, below - skip >= UInt64(length) else { return false }
      let upper = below - skip
      block.spans[index] = AckRanges.Span(lower: upper - UInt64(length), upper: upper)
      below = upper - UInt64(length)
    }
    block.count = Int(count)
    return true
  }
}
