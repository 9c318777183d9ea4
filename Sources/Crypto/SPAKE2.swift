/// SPAKE2 with P256-SHA256-HKDF-HMAC (RFC 9382): two sides that know the same
/// password get a common key; anyone else learns one guess per run and nothing
/// off line. It keeps no secret longer than its value lives and never decides
/// what a failed confirmation means: the login does.
///
/// ```
///  A                                     B
///  share = wM + xP          ──────────►
///                           ◄──────────  share = wN + yP
///  K = x(shareB − wN)                    K = y(shareA − wM)
///  confirmation A           ──────────►  verified
///  verified                 ◄──────────  confirmation B
/// ```

#if canImport(Bytes)
  public import Bytes
#endif

public enum SPAKE2Limits {
  /// An uncompressed point.
  public static let shareBytes = 65
  public static let confirmationBytes = 32
  /// Ke, half of the transcript's hash.
  public static let keyBytes = 16
  public static let scalarBytes = 32
}

public enum SPAKE2Role: Sendable { case a, b }

/// A password as the group sees it: w and its two blinding points. Making one
/// costs two point multiplications; a server makes one per mesh.
public struct SPAKE2Password: Sendable {
  let w: [UInt8]
  let wM: P256Point
  let wN: P256Point

  /// Reduces `bytes` modulo the order of the group.
  /// - Parameter bytes: output of a password hash, at least 40 bytes, so that the
  ///   result is uniform (RFC 9382 §3.2).
  public init(reducing bytes: [UInt8]) {
    precondition(bytes.count >= 40)
    self.init(scalar: P256.reduce(bytes))
  }

  /// - Parameter scalar: 32 bytes below the order, not zero.
  public init(scalar: [UInt8]) {
    precondition(scalar.count == SPAKE2Limits.scalarBytes)
    guard let wM = P256.multiply(P256.m, by: scalar), let wN = P256.multiply(P256.n, by: scalar)
    else { preconditionFailure("a password scalar must not be zero") }
    w = scalar
    self.wM = wM
    self.wN = wN
  }
}

/// One side of one run.
public struct SPAKE2: Sendable {
  public let role: SPAKE2Role
  /// What to send: 65 bytes.
  public let share: [UInt8]
  private let identityA: [UInt8]
  private let identityB: [UInt8]
  private let password: SPAKE2Password
  private let secret: [UInt8]

  public init(
    role: SPAKE2Role, identityA: [UInt8], identityB: [UInt8], password: SPAKE2Password,
    using random: inout SeededRandom
  ) {
    self.init(
      role: role, identityA: identityA, identityB: identityB, password: password,
      scalar: P256.reduce(random.bytes(48)))
  }

  /// For a password used once: makes its points on the way.
  /// - Parameter w: 32 bytes below the order of the group, not zero.
  public init(
    role: SPAKE2Role, identityA: [UInt8], identityB: [UInt8], w: [UInt8],
    using random: inout SeededRandom
  ) {
    self.init(
      role: role, identityA: identityA, identityB: identityB, password: SPAKE2Password(scalar: w),
      using: &random)
  }

  /// With a given secret scalar: for the RFC's vectors.
  public init(
    role: SPAKE2Role, identityA: [UInt8], identityB: [UInt8], password: SPAKE2Password,
    scalar: [UInt8]
  ) {
    precondition(scalar.count == SPAKE2Limits.scalarBytes)
    guard let point = P256.multiplyBase(by: scalar),
      let sum = P256.add(point, role == .a ? password.wM : password.wN)
    else { preconditionFailure("a secret scalar of zero, or the password's own") }
    self.role = role
    self.identityA = identityA
    self.identityB = identityB
    self.password = password
    secret = scalar
    share = sum.bytes
  }

  /// What both sides know once the peer's share is here.
  /// - Parameters:
  ///   - peerShare: 65 bytes from the wire.
  ///   - additional: what both sides must agree on besides (the RFC's AAD); part
  ///     of the confirmation keys.
  /// - Returns: nil when the share is no point of the curve, or gives no secret.
  public func finish(peerShare: [UInt8], additional: [UInt8] = []) -> SPAKE2Outcome? {
    guard let peer = P256Point(decoding: peerShare),
      let unblinded = P256.subtract(peer, role == .a ? password.wN : password.wM),
      let shared = P256.multiply(unblinded, by: secret)
    else { return nil }
    var transcript: [UInt8] = []
    let shareA = role == .a ? share : peerShare
    let shareB = role == .a ? peerShare : share
    for part in [identityA, identityB, shareA, shareB, shared.bytes, password.w] {
      transcript.appendUInt64LittleEndian(UInt64(part.count))
      transcript += part
    }
    let hash = SHA256.hash(transcript)
    let confirmationKeys = HKDFSHA256.derive(
      Array(hash[16...]), info: Array("ConfirmationKeys".utf8) + additional, count: 32)
    let codeA = HMACSHA256.authenticate(key: Array(confirmationKeys[..<16]), transcript)
    let codeB = HMACSHA256.authenticate(key: Array(confirmationKeys[16...]), transcript)
    return SPAKE2Outcome(
      key: Array(hash[..<16]), confirmation: role == .a ? codeA : codeB,
      expected: role == .a ? codeB : codeA)
  }
}

/// What a run gives. `key` is worth nothing before the peer's confirmation
/// verified.
public struct SPAKE2Outcome: Sendable {
  /// Ke: 16 bytes.
  public let key: [UInt8]
  /// To send: 32 bytes.
  public let confirmation: [UInt8]
  private let expected: [UInt8]

  init(key: [UInt8], confirmation: [UInt8], expected: [UInt8]) {
    self.key = key
    self.confirmation = confirmation
    self.expected = expected
  }

  /// Whether the peer confirmed; constant time.
  public func verify(_ confirmation: [UInt8]) -> Bool {
    constantTimeEqual(confirmation, expected)
  }
}
