/// One STUN message of the method Binding: what is in it, and how its bytes are
/// read. Nothing that is not exactly well formed is accepted. RFC 8489 §5, §14;
/// RFC 5780 §7; docs/protocol/stun.md.
///
/// ```
///  0  type (2): two zero bits, method and class interleaved
///  2  length of what follows the header (2), a multiple of 4
///  4  0x2112a442 (4)
///  8  transaction id (12)
/// 20  attributes: type (2), length (2), value, 0 to 3 bytes of padding
/// ```

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

/// 96 random bits that an answer must bring back.
package struct STUNTransaction: Hashable, Sendable {
  package var high: UInt32
  package var low: UInt64

  package init(high: UInt32, low: UInt64) {
    self.high = high
    self.low = low
  }

  package init(_ random: inout SeededRandom) {
    high = UInt32(truncatingIfNeeded: random.next())
    low = random.next()
  }
}

/// The four classes; raw values are the class bits C1 C0.
package enum STUNClass: UInt8, Sendable, CaseIterable {
  case request = 0
  /// Not answered.
  case indication = 1
  case success = 2
  case failure = 3
}

/// Where a request wants its answer from (RFC 5780 §7.2).
package struct STUNChange: OptionSet, Hashable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package static let address = STUNChange(rawValue: 4)
  package static let port = STUNChange(rawValue: 2)
}

/// ERROR-CODE.
package struct STUNRefusal: Hashable, Sendable {
  /// 300…699.
  package var code: UInt16
  /// As sent; not necessarily UTF-8.
  package var reason: [UInt8]

  package init(code: UInt16, reason: [UInt8]) {
    self.code = code
    self.reason = reason
  }
}

/// Why bytes are not a message.
package enum STUNFault: Error, Hashable, Sendable, CaseIterable {
  /// Not a STUN header with this cookie and exactly this length.
  case notSTUN
  case otherMethod
  /// An attribute runs past the end, or its value cannot be.
  case attribute
  /// FINGERPRINT is there and wrong, or not the last.
  case fingerprint
}

/// A message as values. Attributes that occur twice count once, the first time;
/// what follows MESSAGE-INTEGRITY is not looked at, FINGERPRINT excepted.
package struct STUNMessage: Hashable, Sendable {
  package var kind: STUNClass
  package var transaction: STUNTransaction
  package var mappedAddress: Endpoint?
  package var xorMappedAddress: Endpoint?
  package var responseOrigin: Endpoint?
  package var otherAddress: Endpoint?
  package var change: STUNChange?
  package var refusal: STUNRefusal?
  /// UNKNOWN-ATTRIBUTES, the first `STUNLimits.listedAttributes`.
  package var unknownAttributes: [UInt16]?
  package var software: [UInt8]?
  package var username: [UInt8]?
  package var realm: [UInt8]?
  package var nonce: [UInt8]?
  /// It ends with a FINGERPRINT (a right one, when decoded).
  package var hasFingerprint = false
  /// Types in it that must be understood and are not; bounded like the above.
  package var notUnderstood: [UInt16] = []
  /// Where MESSAGE-INTEGRITY begins in the decoded bytes.
  package var integrityOffset: Int?

  package init(_ kind: STUNClass, _ transaction: STUNTransaction) {
    self.kind = kind
    self.transaction = transaction
  }

  /// The address the sender saw, from whichever attribute tells it.
  package var reflexive: Endpoint? { xorMappedAddress ?? mappedAddress }

  // MARK: Telling

  /// Whether a datagram is STUN beside other protocols of a socket: a WireGuard
  /// packet is 32 bytes or more and begins with 1…4 and three zeros, which here
  /// would be a message without attributes, of 20 bytes.
  package static func isSTUN(_ bytes: RawSpan) -> Bool {
    var reader = ByteReader(bytes)
    guard isSTUNHead(bytes), reader.skip(2), let length = reader.uint16() else { return false }
    return length & 3 == 0 && Int(length) + STUNConstants.header == bytes.byteCount
  }

  /// The two zero bits and the cookie, whatever the length.
  static func isSTUNHead(_ bytes: RawSpan) -> Bool {
    var reader = ByteReader(bytes)
    guard let type = reader.uint16(), type < 0x4000, reader.skip(2) else { return false }
    return reader.uint32() == STUNConstants.cookie
  }

  /// The transaction of a STUN message, without looking further; nil when it is
  /// none.
  package static func transaction(of bytes: RawSpan) -> STUNTransaction? {
    guard isSTUN(bytes) else { return nil }
    var reader = ByteReader(bytes)
    guard reader.skip(8), let high = reader.uint32(), let low = reader.uint64() else { return nil }
    return STUNTransaction(high: high, low: low)
  }

  // MARK: Reading

  package static func decode(_ bytes: RawSpan) -> Result<STUNMessage, STUNFault> {
    guard isSTUN(bytes) else { return .failure(.notSTUN) }
    var reader = ByteReader(bytes)
    guard let type = reader.uint16(), reader.skip(6), let high = reader.uint32(),
      let low = reader.uint64(), let (method, kind) = split(type)
    else { return .failure(.notSTUN) }
    guard method == STUNConstants.binding else { return .failure(.otherMethod) }
    var message = STUNMessage(kind, STUNTransaction(high: high, low: low))
    while !reader.isAtEnd {
      let start = reader.offset
      guard let type = reader.uint16(), let length = reader.uint16(),
        let value = reader.bytes(Int(length)), reader.skip(-Int(length) & 3)
      else { return .failure(.attribute) }
      if type == STUNAttribute.fingerprint {
        guard reader.isAtEnd, isFingerprint(value, of: bytes.extracting(0..<start)) else {
          return .failure(.fingerprint)
        }
        message.hasFingerprint = true
      } else if message.integrityOffset == nil {
        guard message.take(type, value, at: start) else { return .failure(.attribute) }
      }
    }
    return .success(message)
  }

  private static func split(_ type: UInt16) -> (method: UInt16, STUNClass)? {
    let method = type & 0xf | type >> 1 & 0x70 | type >> 2 & 0xf80
    let bits = UInt8(type >> 7 & 2 | type >> 4 & 1)
    return STUNClass(rawValue: bits).map { (method, $0) }
  }

  private static func isFingerprint(_ value: RawSpan, of bytes: RawSpan) -> Bool {
    var reader = ByteReader(value)
    guard let sent = reader.uint32(), reader.isAtEnd else { return false }
    return sent == CRC32.checksum(bytes) ^ STUNConstants.fingerprintMask
  }

  /// Takes one attribute; false when its value cannot be.
  private mutating func take(_ type: UInt16, _ value: RawSpan, at offset: Int) -> Bool {
    switch type {
    case STUNAttribute.mappedAddress: return Self.take(&mappedAddress, value)
    case STUNAttribute.responseOrigin: return Self.take(&responseOrigin, value)
    case STUNAttribute.otherAddress: return Self.take(&otherAddress, value)
    case STUNAttribute.xorMappedAddress:
      return Self.take(&xorMappedAddress, value, mask: transaction)
    case STUNAttribute.changeRequest:
      var reader = ByteReader(value)
      guard let flags = reader.uint32(), reader.isAtEnd else { return false }
      if change == nil { change = STUNChange(rawValue: flags & 6) }
    case STUNAttribute.errorCode:
      guard let read = Self.refusal(value) else { return false }
      if refusal == nil { refusal = read }
    case STUNAttribute.unknownAttributes:
      guard value.byteCount & 1 == 0 else { return false }
      if unknownAttributes == nil { unknownAttributes = Self.types(value) }
    case STUNAttribute.username:
      return Self.take(&username, value, limit: STUNConstants.usernameBytes)
    case STUNAttribute.realm: return Self.take(&realm, value, limit: STUNConstants.textBytes)
    case STUNAttribute.nonce: return Self.take(&nonce, value, limit: STUNConstants.textBytes)
    case STUNAttribute.software:
      return Self.take(&software, value, limit: STUNConstants.textBytes)
    case STUNAttribute.messageIntegrity:
      guard value.byteCount == STUNConstants.integrityBytes - 4 else { return false }
      integrityOffset = offset
    case STUNAttribute.messageIntegritySHA256, STUNAttribute.padding,
      STUNAttribute.oldSourceAddress, STUNAttribute.oldChangedAddress:
      break
    default:
      if STUNAttribute.isRequired(type), !notUnderstood.contains(type),
        notUnderstood.count < STUNLimits.listedAttributes
      {
        notUnderstood.append(type)
      }
    }
    return true
  }

  private static func take(_ field: inout [UInt8]?, _ value: RawSpan, limit: Int) -> Bool {
    guard value.byteCount <= limit else { return false }
    if field == nil { field = [UInt8](value) }
    return true
  }

  /// - Parameter mask: of XOR-MAPPED-ADDRESS (RFC 8489 §14.2).
  private static func take(
    _ field: inout Endpoint?, _ value: RawSpan, mask: STUNTransaction? = nil
  ) -> Bool {
    var reader = ByteReader(value)
    guard reader.skip(1), let family = reader.uint8(), var port = reader.uint16() else {
      return false
    }
    if mask != nil { port ^= UInt16(STUNConstants.cookie >> 16) }
    var address: IPAddress
    switch family {
    case 1:
      guard let v4 = reader.uint32() else { return false }
      address = IPAddress(v4: mask == nil ? v4 : v4 ^ STUNConstants.cookie)
    case 2:
      guard let high = reader.uint64(), let low = reader.uint64() else { return false }
      address = IPAddress(high: high, low: low)
      if let mask { address = masked(address, mask) }
      // An IPv4 address has a family of its own.
      guard !address.isV4 else { return false }
    default:
      return false
    }
    guard reader.isAtEnd else { return false }
    if field == nil { field = Endpoint(address, port) }
    return true
  }

  static func masked(_ address: IPAddress, _ mask: STUNTransaction) -> IPAddress {
    IPAddress(
      high: address.high ^ (UInt64(STUNConstants.cookie) << 32 | UInt64(mask.high)),
      low: address.low ^ mask.low)
  }

  private static func refusal(_ value: RawSpan) -> STUNRefusal? {
    var reader = ByteReader(value)
    guard reader.skip(2), let hundreds = reader.uint8(), let rest = reader.uint8(),
      (3...6).contains(hundreds & 7), rest < 100, reader.remaining <= STUNConstants.textBytes
    else { return nil }
    return STUNRefusal(
      code: UInt16(hundreds & 7) * 100 + UInt16(rest), reason: [UInt8](reader.rest()))
  }

  private static func types(_ value: RawSpan) -> [UInt16] {
    var reader = ByteReader(value)
    var types: [UInt16] = []
    while types.count < STUNLimits.listedAttributes, let type = reader.uint16() {
      types.append(type)
    }
    return types
  }

  // MARK: Integrity

  /// Whether `bytes`, from which this message was decoded, carry a right
  /// MESSAGE-INTEGRITY (RFC 8489 §14.5).
  /// - Parameter key: the password (short-term), or `longTermKey`.
  package func isAuthentic(_ bytes: RawSpan, key: [UInt8]) -> Bool {
    guard let start = integrityOffset,
      start + STUNConstants.integrityBytes <= bytes.byteCount
    else { return false }
    var covered = [UInt8](bytes.extracting(0..<start))
    Self.setLength(&covered, to: start + STUNConstants.integrityBytes)
    let sent = bytes.extracting((start + 4)..<(start + STUNConstants.integrityBytes))
    return constantTimeEqual(sent, HMACSHA1.authenticate(key: key, covered))
  }

  /// The key of long-term credentials (RFC 8489 §9.2.2): MD5 of
  /// "username:realm:password", each prepared already.
  package static func longTermKey(
    username: [UInt8], realm: [UInt8], password: [UInt8]
  ) -> [UInt8] {
    let colon = [UInt8(ascii: ":")]
    return MD5.hash(username + colon + realm + colon + password)
  }

  static func setLength(_ bytes: inout [UInt8], to whole: Int) {
    let length = UInt16(whole - STUNConstants.header)
    bytes[2] = UInt8(length >> 8)
    bytes[3] = UInt8(truncatingIfNeeded: length)
  }
}
