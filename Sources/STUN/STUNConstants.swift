/// What RFC 8489 and RFC 5780 fix, apart from what we chose. docs/protocol/stun.md.

/// Numbers of the specifications.
package enum STUNConstants {
  package static let cookie: UInt32 = 0x2112_a442
  package static let header = 20
  /// The only method there is here.
  package static let binding: UInt16 = 0x001
  package static let fingerprintMask: UInt32 = 0x5354_554e
  /// Bytes of the attribute, head included.
  package static let integrityBytes = 24
  package static let fingerprintBytes = 8
  /// RFC 8489 §14.3, §14.9, §14.10, §14.14.
  package static let usernameBytes = 508
  package static let textBytes = 763
}

/// Attribute types. Below 0x8000 a receiver must understand them.
package enum STUNAttribute {
  package static let mappedAddress: UInt16 = 0x0001
  /// RFC 5780 §7.2.
  package static let changeRequest: UInt16 = 0x0003
  /// RFC 3489's RESPONSE-ADDRESS, SOURCE-ADDRESS, CHANGED-ADDRESS: old servers
  /// still send the last two.
  package static let oldSourceAddress: UInt16 = 0x0004
  package static let oldChangedAddress: UInt16 = 0x0005
  package static let username: UInt16 = 0x0006
  package static let messageIntegrity: UInt16 = 0x0008
  package static let errorCode: UInt16 = 0x0009
  package static let unknownAttributes: UInt16 = 0x000a
  package static let realm: UInt16 = 0x0014
  package static let nonce: UInt16 = 0x0015
  package static let messageIntegritySHA256: UInt16 = 0x001c
  package static let xorMappedAddress: UInt16 = 0x0020
  /// RFC 5780 §7.6.
  package static let padding: UInt16 = 0x0026
  package static let software: UInt16 = 0x8022
  package static let fingerprint: UInt16 = 0x8028
  /// RFC 5780 §7.3, §7.4.
  package static let responseOrigin: UInt16 = 0x802b
  package static let otherAddress: UInt16 = 0x802c

  /// A receiver that does not know `type` must refuse the message.
  static func isRequired(_ type: UInt16) -> Bool { type < 0x8000 }
}

/// Error codes we send (RFC 8489 §14.8).
package enum STUNErrorCode {
  package static let unknownAttribute: UInt16 = 420
}

/// Hard limits. Going past one is a counted drop.
package enum STUNLimits {
  /// Longest answer of the server: it may go to an address that never asked.
  package static let answerBytes = 120
  /// Types listed in one message; more are not noted.
  package static let listedAttributes = 8
  /// Longest message taken from a TCP stream.
  package static let streamMessageBytes = 576
}
