/// What a node shows a relay to be let in, and how it is sealed to that relay
/// alone (Noise_X_25519_ChaChaPoly_BLAKE2s), so that neither codes nor names
/// cross in clear. spec/inp2p.md "Relay"; docs/protocol/relay.md. A codec: what
/// is true of it decides RelayAdmission.
///
///       0      1     2         10     42    74      106      114     130
///     +------+-----+---------+------+------+-------+--------+-------+-----------+-----+
///     | kind | leg | session | from | to   | relay | expiry | nonce | admission | mac |
///     +------+-----+---------+------+------+-------+--------+-------+-----------+-----+
///     kind 1: same token, admission 8 (TOTP code), mac 32
///     kind 2: one-time,   admission 36 (secret's number 4, token 32), no mac

#if canImport(Bytes)
  internal import Bytes
  package import Crypto
#endif

/// Sizes and contexts of a relay's admission; nothing here may be tuned.
package enum RelayWire {
  static let prologue = Array("martlet relay v1".utf8)
  static let macContext = Array("martlet relay v1".utf8)
  static let tokenContext = Array("martlet relay token v1".utf8)
  static let resumeContext = Array("martlet relay resume v1".utf8)
  static let leaveContext = Array("martlet relay leave v1".utf8)
  static let stateContext = Array("martlet relay state v1".utf8)
  static let refusedContext = Array("martlet relay refused v1".utf8)
  package static let keyBytes = 32
  package static let nonceBytes = 16
  package static let cookieBytes = 16
  package static let proofBytes = 16
  static let fixedBytes = 130
  /// The channel number of a leg's own messages: no channel has it.
  package static let controlChannel: UInt32 = 0
  /// Set in every channel number on UDP, so that the first byte tells a relay
  /// frame from WireGuard (1…4) and STUN (top bits 00).
  package static let udpMark: UInt32 = 0x8000_0000
}

/// A secret that the server gave one relay: keys one-time tokens.
package struct RelaySecret: Hashable, Sendable {
  package var number: UInt32
  /// 32 bytes.
  package var key: [UInt8]

  package init(number: UInt32, key: [UInt8]) {
    precondition(key.count == RelayWire.keyBytes)
    self.number = number
    self.key = key
  }
}

/// A one-time token: lets one node into one leg of one session at one relay.
package struct RelayToken: Hashable, Sendable {
  /// Which of the relay's secrets keys it.
  package var secretNumber: UInt32
  /// 32 bytes.
  package var code: [UInt8]

  package init(secretNumber: UInt32, code: [UInt8]) {
    precondition(code.count == RelayWire.keyBytes)
    self.secretNumber = secretNumber
    self.code = code
  }

  /// Issues one: the server's part.
  /// - Parameter expiry: seconds since 1970, server time.
  package init(
    secret: RelaySecret, session: UInt64, leg: UInt8, relay: [UInt8], from: [UInt8], to: [UInt8],
    expiry: UInt64
  ) {
    self.init(
      secretNumber: secret.number,
      code: HMACSHA256.authenticate(
        key: secret.key,
        Self.signed(
          session: session, leg: leg, relay: relay, from: from, to: to, expiry: expiry)))
  }

  static func signed(
    session: UInt64, leg: UInt8, relay: [UInt8], from: [UInt8], to: [UInt8], expiry: UInt64
  ) -> [UInt8] {
    var bytes = RelayWire.tokenContext
    bytes.appendUInt64(session)
    bytes.append(leg)
    bytes += relay + from + to
    bytes.appendUInt64(expiry)
    return bytes
  }
}

/// The opened request of one node for one leg of one session.
package struct RelayHandshake: Hashable, Sendable {
  package enum Admission: Hashable, Sendable {
    /// Same token: the code of the time.
    case code(UInt64)
    /// From the server, for this leg only.
    case token(RelayToken)
  }

  package var session: UInt64
  /// 0 or 1: which end of the session.
  package var leg: UInt8
  /// Static keys, 32 bytes each: who asks, whom it wants to talk to, through whom.
  package var from: [UInt8]
  package var to: [UInt8]
  package var relay: [UInt8]
  /// Seconds since 1970, server time.
  package var expiry: UInt64
  /// 16 random bytes, fresh for every request.
  package var nonce: [UInt8]
  package var admission: Admission
  /// 32 bytes with a code, none with a token.
  package var mac: [UInt8] = []

  package init(
    session: UInt64, leg: UInt8, from: [UInt8], to: [UInt8], relay: [UInt8], expiry: UInt64,
    nonce: [UInt8], admission: Admission
  ) {
    self.session = session
    self.leg = leg
    self.from = from
    self.to = to
    self.relay = relay
    self.expiry = expiry
    self.nonce = nonce
    self.admission = admission
  }

  private var isOneTime: Bool {
    if case .token = admission { return true }
    return false
  }

  /// All fields but the mac.
  private var fields: [UInt8] {
    var bytes: [UInt8] = [isOneTime ? 2 : 1, leg]
    bytes.appendUInt64(session)
    bytes += from + to + relay
    bytes.appendUInt64(expiry)
    bytes += nonce
    switch admission {
    case .code(let code): bytes.appendUInt64(code)
    case .token(let token):
      bytes.appendUInt32(token.secretNumber)
      bytes += token.code
    }
    return bytes
  }

  package func encoded() -> [UInt8] { fields + mac }

  /// Nil unless it is exactly such a request.
  package init?(decoding bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    guard let kind = reader.uint8(), let leg = reader.uint8(), leg <= 1,
      let session = reader.uint64(), session != 0, let from = reader.array(RelayWire.keyBytes),
      let to = reader.array(RelayWire.keyBytes), let relay = reader.array(RelayWire.keyBytes),
      let expiry = reader.uint64(), let nonce = reader.array(RelayWire.nonceBytes)
    else { return nil }
    var mac: [UInt8] = []
    let admission: Admission
    switch kind {
    case 1:
      guard let code = reader.uint64(), let bytes = reader.array(32) else { return nil }
      admission = .code(code)
      mac = bytes
    case 2:
      guard let number = reader.uint32(), let code = reader.array(32) else { return nil }
      admission = .token(RelayToken(secretNumber: number, code: code))
    default: return nil
    }
    guard reader.isAtEnd else { return nil }
    self.init(
      session: session, leg: leg, from: from, to: to, relay: relay, expiry: expiry, nonce: nonce,
      admission: admission)
    self.mac = mac
  }

  /// The key of macs under a mesh token.
  package static func macKey(token: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendUInt64LittleEndian(token)
    return HKDFSHA256.derive(bytes, info: RelayWire.macContext, count: 32)
  }

  package mutating func sign(macKey: [UInt8]) {
    mac = HMACSHA256.authenticate(key: macKey, fields)
  }

  func isSigned(macKey: [UInt8]) -> Bool { HMACSHA256.verify(mac, key: macKey, fields) }

  /// Seals it to its relay.
  /// - Returns: the message and the secret of the leg it may become; nil when
  ///   the relay's key is of low order.
  package func sealed(
    from sender: KeyPair, ephemeral: KeyPair
  ) -> (message: [UInt8], legSecret: [UInt8])? {
    NoiseX.seal(
      encoded(), from: sender, to: relay, ephemeral: ephemeral, prologue: RelayWire.prologue
    ).map { ($0.message, $0.secret) }
  }
}
