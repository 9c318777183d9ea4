/// TAI64N stamps of initiations: 8 bytes of seconds, 4 of nanoseconds, big
/// endian, compared as one number. We send whitened time (2^24 ns steps), never
/// the same stamp twice to one peer; we remember received ones in memory only.

#if canImport(Bytes)
  internal import Bytes
#endif

package struct Stamp: Comparable {
  static let byteCount = 12
  /// TAI64 label of 1970-01-01, with the 10 s that TAI was ahead.
  private static let epoch: UInt64 = 0x4000_0000_0000_000a
  private static let whitening: UInt64 = (1 << 24) - 1

  var seconds: UInt64
  var nanoseconds: UInt32

  /// - Parameter unix: nanoseconds since 1970.
  package init(unix: UInt64) {
    seconds = Self.epoch &+ unix / 1_000_000_000
    nanoseconds = UInt32(unix % 1_000_000_000 & ~Self.whitening)
  }

  package init?(_ bytes: [UInt8]) {
    guard bytes.count == Self.byteCount else { return nil }
    var reader = ByteReader(bytes.span.bytes)
    guard let seconds = reader.uint64(), let nanoseconds = reader.uint32() else { return nil }
    self.seconds = seconds
    self.nanoseconds = nanoseconds
  }

  package var bytes: [UInt8] {
    var result: [UInt8] = []
    result.appendUInt64(seconds)
    result.appendUInt32(nanoseconds)
    return result
  }

  package static func < (a: Stamp, b: Stamp) -> Bool {
    (a.seconds, a.nanoseconds) < (b.seconds, b.nanoseconds)
  }
}
