/// CRC-32 as in Ethernet and zip (ITU-T V.42): STUN's FINGERPRINT tells its
/// messages from others by it (RFC 8489 §14.7). Not a protection against anybody.

#if canImport(Bytes)
  internal import Bytes
#endif

public enum CRC32 {
  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0xedb8_8320 : value >> 1 }
    return value
  }

  /// Reflected polynomial 0xedb88320, init and xorout all ones.
  public static func checksum(_ bytes: RawSpan) -> UInt32 {
    var reader = ByteReader(bytes)
    var crc = UInt32.max
    while let byte = reader.uint8() {
      crc = table[Int(UInt8(truncatingIfNeeded: crc) ^ byte)] ^ crc >> 8
    }
    return ~crc
  }
}
