/// IP addresses and transport endpoints as plain values: parsing, printing and
/// the classes of address the anti-abuse rules of DESIGN §2 speak of.
/// Text forms: RFC 4291 §2.2, RFC 5952 (canonical IPv6), RFC 6761.

/// An IPv4 or IPv6 address in 16 bytes; IPv4 is kept in its mapped form.
public struct IPAddress: Hashable, Sendable, BitwiseCopyable {
  /// The 128 bits, most significant first. IPv4 is ::ffff:a.b.c.d.
  public var high: UInt64
  public var low: UInt64

  @inlinable public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
  @inlinable public init(v4 value: UInt32) {
    self.init(high: 0, low: 0xffff_0000_0000 | UInt64(value))
  }
  @inlinable public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
    self.init(v4: UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d))
  }

  @inlinable public static var anyV4: IPAddress { IPAddress(v4: 0) }
  @inlinable public static var anyV6: IPAddress { IPAddress(high: 0, low: 0) }
  @inlinable public static var loopbackV4: IPAddress { IPAddress(127, 0, 0, 1) }
  @inlinable public static var loopbackV6: IPAddress { IPAddress(high: 0, low: 1) }

  @inlinable public var isV4: Bool { high == 0 && low >> 32 == 0xffff }
  /// The IPv4 value; meaningful only when `isV4`.
  @inlinable public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }

  @inlinable public var isUnspecified: Bool { self == .anyV6 || self == .anyV4 }
  public var isLoopback: Bool { isV4 ? v4 >> 24 == 127 : self == .loopbackV6 }
  public var isMulticast: Bool { isV4 ? v4 >> 28 == 0xe : high >> 56 == 0xff }
  public var isLinkLocal: Bool { isV4 ? v4 >> 16 == 0xa9fe : high >> 54 == 0x3fa }
  /// RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193.
  public var isPrivate: Bool {
    guard isV4 else { return high >> 57 == 0x7e }
    return v4 >> 24 == 10 || v4 >> 20 == 0xac1 || v4 >> 16 == 0xc0a8 || v4 >> 22 == 0x191
  }
  public var isBroadcast: Bool { isV4 && v4 == 0xffff_ffff }

  /// True when the first `prefix` bits agree (0…32 for IPv4, 0…128 for IPv6).
  public func matches(_ other: IPAddress, prefix: Int) -> Bool {
    guard isV4 == other.isV4 else { return false }
    let bits = isV4 ? prefix + 96 : prefix
    if bits <= 0 { return true }
    if bits <= 64 { return (high ^ other.high) >> UInt64(64 - bits) == 0 }
    return high == other.high && (bits >= 128 ? low == other.low : (low ^ other.low) >> UInt64(128 - bits) == 0)
  }

  /// Parses dotted IPv4 or IPv6 text (no brackets, no zone); nil otherwise.
  public init?(_ text: some StringProtocol) {
    let utf8 = Array(text.utf8)
    if utf8.contains(UInt8(ascii: ":")) {
      guard let value = Self.parseV6(utf8[...]) else { return nil }
      self = value
    } else {
      guard let value = Self.parseV4(utf8[...]) else { return nil }
      self.init(v4: value)
    }
  }

  private static func parseV4(_ text: ArraySlice<UInt8>) -> UInt32? {
    let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard parts.count == 4 else { return nil }
    var value: UInt32 = 0
    for part in parts {
      guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else {
        return nil
      }
      var octet: UInt32 = 0
      for byte in part {
        guard byte >= 48, byte <= 57 else { return nil }
        octet = octet * 10 + UInt32(byte - 48)
      }
      guard octet <= 255 else { return nil }
      value = value << 8 | octet
    }
    return value
  }

  private static func parseV6(_ text: ArraySlice<UInt8>) -> IPAddress? {
    var head: [UInt16] = []
    var tail: [UInt16] = []
    var seenGap = false
    var groups = text.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
    guard groups.count >= 3, groups.count <= 9 else { return nil }
    if groups.first!.isEmpty {
      guard groups[1].isEmpty else { return nil }
      groups.removeFirst()
    }
    if groups.last!.isEmpty {
      guard groups.count >= 2, groups[groups.count - 2].isEmpty else { return nil }
      groups.removeLast()
    }
    for (index, group) in groups.enumerated() {
      if group.isEmpty {
        guard !seenGap else { return nil }
        seenGap = true
        continue
      }
      var values: [UInt16] = []
      if group.contains(UInt8(ascii: ".")) {
        guard index == groups.count - 1, let v4 = parseV4(group) else { return nil }
        values = [UInt16(v4 >> 16), UInt16(truncatingIfNeeded: v4)]
      } else {
        guard group.count <= 4, let value = UInt16(String(decoding: group, as: UTF8.self), radix: 16),
          group.first != UInt8(ascii: "+")
        else { return nil }
        values = [value]
      }
      if seenGap { tail += values } else { head += values }
    }
    let count = head.count + tail.count
    guard seenGap ? count <= 7 : count == 8 else { return nil }
    let words = head + [UInt16](repeating: 0, count: 8 - count) + tail
    var high: UInt64 = 0
    var low: UInt64 = 0
    for i in 0..<4 { high = high << 16 | UInt64(words[i]) }
    for i in 4..<8 { low = low << 16 | UInt64(words[i]) }
    return IPAddress(high: high, low: low)
  }

  /// The 4 or 16 bytes in network order.
  public var octets: [UInt8] {
    var bytes: [UInt8] = []
    if isV4 {
      bytes.appendUInt32(v4)
    } else {
      bytes.appendUInt64(high)
      bytes.appendUInt64(low)
    }
    return bytes
  }

  /// From 4 or 16 bytes in network order.
  public init?(octets: [UInt8]) {
    switch octets.count {
    case 4: self.init(octets[0], octets[1], octets[2], octets[3])
    case 16:
      var high: UInt64 = 0
      var low: UInt64 = 0
      for i in 0..<8 { high = high << 8 | UInt64(octets[i]) }
      for i in 8..<16 { low = low << 8 | UInt64(octets[i]) }
      self.init(high: high, low: low)
    default: return nil
    }
  }
}

extension IPAddress: CustomStringConvertible {
  /// Dotted IPv4, or IPv6 as RFC 5952 §4 wants it.
  public var description: String {
    if isV4 { return "\(v4 >> 24).\(v4 >> 16 & 255).\(v4 >> 8 & 255).\(v4 & 255)" }
    var words: [UInt16] = []
    for shift in [48, 32, 16, 0] { words.append(UInt16(truncatingIfNeeded: high >> UInt64(shift))) }
    for shift in [48, 32, 16, 0] { words.append(UInt16(truncatingIfNeeded: low >> UInt64(shift))) }
    var best = 0..<0
    var start = 0
    while start < 8 {
      var end = start
      while end < 8, words[end] == 0 { end += 1 }
      if end - start > 1, end - start > best.count { best = start..<end }
      start = max(end, start + 1)
    }
    func join(_ range: Range<Int>) -> String {
      words[range].map { String($0, radix: 16) }.joined(separator: ":")
    }
    return best.isEmpty ? join(0..<8) : join(0..<best.lowerBound) + "::" + join(best.upperBound..<8)
  }
}

/// An address and a port.
public struct Endpoint: Hashable, Sendable, BitwiseCopyable {
  public var address: IPAddress
  public var port: UInt16

  @inlinable public init(_ address: IPAddress, _ port: UInt16) {
    self.address = address
    self.port = port
  }

  @inlinable public static var none: Endpoint { Endpoint(.anyV6, 0) }

  /// Parses `1.2.3.4:5` or `[::1]:5`.
  public init?(_ text: some StringProtocol) {
    guard let colon = text.lastIndex(of: ":") else { return nil }
    var host = text[..<colon]
    let digits = text[text.index(after: colon)...]
    guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }), let port = UInt16(digits)
    else { return nil }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
      guard host.contains(":") else { return nil }
    } else if host.contains(":") {
      return nil
    }
    guard let address = IPAddress(host) else { return nil }
    self.init(address, port)
  }
}

extension Endpoint: CustomStringConvertible {
  public var description: String {
    address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
  }
}
