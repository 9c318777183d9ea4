/// Writing STUN messages. RFC 8489 §5, §14; byte tables in docs/protocol/stun.md.

#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

extension STUNMessage {
  /// The message as bytes: its attributes in the order below, MESSAGE-INTEGRITY
  /// when there is a key, FINGERPRINT when `hasFingerprint`. What it does not
  /// understand is not written.
  package func encode(integrityKey key: [UInt8]? = nil) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(STUNLimits.answerBytes)
    bytes.appendUInt16(Self.type(kind))
    bytes.appendUInt16(0)
    bytes.appendUInt32(STUNConstants.cookie)
    bytes.appendUInt32(transaction.high)
    bytes.appendUInt64(transaction.low)
    if let change {
      Self.append(STUNAttribute.changeRequest, [0, 0, 0, UInt8(change.rawValue & 6)], to: &bytes)
    }
    if let username { Self.append(STUNAttribute.username, username, to: &bytes) }
    if let realm { Self.append(STUNAttribute.realm, realm, to: &bytes) }
    if let nonce { Self.append(STUNAttribute.nonce, nonce, to: &bytes) }
    if let refusal { append(refusal, to: &bytes) }
    if let unknownAttributes {
      var value: [UInt8] = []
      for type in unknownAttributes { value.appendUInt16(type) }
      Self.append(STUNAttribute.unknownAttributes, value, to: &bytes)
    }
    append(STUNAttribute.xorMappedAddress, xorMappedAddress, masked: true, to: &bytes)
    append(STUNAttribute.responseOrigin, responseOrigin, to: &bytes)
    append(STUNAttribute.otherAddress, otherAddress, to: &bytes)
    append(STUNAttribute.mappedAddress, mappedAddress, to: &bytes)
    if let software { Self.append(STUNAttribute.software, software, to: &bytes) }
    if let key {
      Self.setLength(&bytes, to: bytes.count + STUNConstants.integrityBytes)
      let code = HMACSHA1.authenticate(key: key, bytes)
      Self.append(STUNAttribute.messageIntegrity, code, to: &bytes)
    }
    if hasFingerprint {
      Self.setLength(&bytes, to: bytes.count + STUNConstants.fingerprintBytes)
      var value: [UInt8] = []
      value.appendUInt32(CRC32.checksum(bytes.span.bytes) ^ STUNConstants.fingerprintMask)
      Self.append(STUNAttribute.fingerprint, value, to: &bytes)
    }
    Self.setLength(&bytes, to: bytes.count)
    return bytes
  }

  /// Bytes of an address attribute, head included.
  static func size(of endpoint: Endpoint) -> Int { endpoint.address.isV4 ? 12 : 24 }

  private static func type(_ kind: STUNClass) -> UInt16 {
    let bits = UInt16(kind.rawValue)
    return STUNConstants.binding | (bits & 2) << 7 | (bits & 1) << 4
  }

  private static func append(_ type: UInt16, _ value: [UInt8], to bytes: inout [UInt8]) {
    bytes.appendUInt16(type)
    bytes.appendArray16(value)
    for _ in 0..<(-value.count & 3) { bytes.append(0) }
  }

  private func append(
    _ type: UInt16, _ endpoint: Endpoint?, masked: Bool = false, to bytes: inout [UInt8]
  ) {
    guard let endpoint else { return }
    let address = endpoint.address
    var value: [UInt8] = [0, address.isV4 ? 1 : 2]
    value.appendUInt16(masked ? endpoint.port ^ UInt16(STUNConstants.cookie >> 16) : endpoint.port)
    if address.isV4 {
      value.appendUInt32(masked ? address.v4 ^ STUNConstants.cookie : address.v4)
    } else {
      let shown = masked ? Self.masked(address, transaction) : address
      value.appendUInt64(shown.high)
      value.appendUInt64(shown.low)
    }
    Self.append(type, value, to: &bytes)
  }

  private func append(_ refusal: STUNRefusal, to bytes: inout [UInt8]) {
    let value = [0, 0, UInt8(refusal.code / 100), UInt8(refusal.code % 100)] + refusal.reason
    Self.append(STUNAttribute.errorCode, value, to: &bytes)
  }
}
