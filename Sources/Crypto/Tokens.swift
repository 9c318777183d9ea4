/// The arithmetic of mesh tokens: CRC-64/ISO makes one from a user and a
/// password, TOTP turns one into a relay admission code (docs: inp2p).

#if canImport(Bytes)
  internal import Bytes
#endif

public enum CRC64ISO {
  private static let table: [UInt64] = (0..<256).map { index in
    var value = UInt64(index)
    for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0xD800_0000_0000_0000 : value >> 1 }
    return value
  }

  /// Reflected polynomial 0xD800000000000000, init and xorout all ones.
  public static func checksum(_ bytes: some Sequence<UInt8>) -> UInt64 {
    var crc = UInt64.max
    for byte in bytes { crc = table[Int(UInt8(truncatingIfNeeded: crc) ^ byte)] ^ crc >> 8 }
    return ~crc
  }
}

/// Time-based codes under a mesh token: HMAC-SHA256(token as 8 bytes little
/// endian, step as 8 bytes little endian), its first 8 bytes little endian.
public enum TOTP {
  public static let stepSeconds: Int64 = 30
  /// Steps before and after the present one that are accepted.
  public static let allowedSteps: Int64 = 1

  /// - Parameter unixTime: seconds, server time. Times before 1970 count as 1970.
  public static func code(token: UInt64, unixTime: Int64) -> UInt64 {
    code(token: token, step: max(0, unixTime) / stepSeconds)
  }

  /// Whether `code` is right now or one step off. Constant time per step.
  public static func verify(_ code: UInt64, token: UInt64, unixTime: Int64) -> Bool {
    let step = max(0, unixTime) / stepSeconds
    var found = false
    for near in max(0, step - allowedSteps)...(step + allowedSteps) {
      let difference = Self.code(token: token, step: near) ^ code
      found = (difference == 0) || found
    }
    return found
  }

  private static func code(token: UInt64, step: Int64) -> UInt64 {
    var key: [UInt8] = []
    key.appendUInt64LittleEndian(token)
    var message: [UInt8] = []
    message.appendUInt64LittleEndian(UInt64(step))
    let mac = HMACSHA256.authenticate(key: key, message)
    var value: UInt64 = 0
    for i in (0..<8).reversed() { value = value << 8 | UInt64(mac[i]) }
    return value
  }
}
