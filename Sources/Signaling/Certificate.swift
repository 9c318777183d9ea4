/// A member's certificate: the mesh's authority says that a static key belongs to
/// a node of a user. Fixed layout under an Ed25519 signature with a context
/// string. Judging time is `AuthorityClock`'s business, eviction `EvictionList`'s.
/// Byte table: docs/protocol/login.md "Certificate".

#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Crypto)
  package import Crypto
#endif

package enum CertificateLimits {
  /// Of an encoded certificate.
  package static let byteCount = 1024
  package static let name = 255
  package static let labels = 16
  package static let label = 64
  /// What `CertificateAuthority` issues: a year, so that a mesh outlives its
  /// server's absence.
  package static let validitySeconds: UInt64 = 365 * 86_400
  /// No signed time is later (about the year 9999); keeps all sums far from overflow.
  package static let latestSecond: UInt64 = 253_402_300_799
}

/// Constants of the layout, apart from our tunables.
enum CertificateWire {
  static let version: UInt8 = 1
  static let context = Array("martlet certificate v1\0".utf8)
}

/// The ciphers a node will use with one static key, for as long as that key lives.
package struct CipherSet: OptionSet, Hashable, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  package static let chaCha20Poly1305 = CipherSet(rawValue: 1)
  package static let aes256GCM = CipherSet(rawValue: 2)

  /// What two members use with each other: AES-256-GCM when both state it.
  package func common(with other: CipherSet) -> AEADCipher {
    intersection(other).contains(.aes256GCM) ? .aes256GCM : .chaCha20Poly1305
  }
}

/// Why bytes are no certificate, or a certificate cannot be made.
package enum CertificateFault: Error, Equatable, Sendable {
  case malformed
  /// Not signed by the authority in question.
  case badSignature
  /// A field, or the whole, is beyond its limit.
  case tooLong
}

package struct Certificate: Hashable, Sendable {
  package let serial: UInt64
  /// Seconds since 1970, authority time.
  package let issuedAt: UInt64
  /// Not valid from this second on.
  package let expiresAt: UInt64
  package let ciphers: CipherSet
  /// X25519, 32 bytes.
  package let staticKey: [UInt8]
  package let mesh: String
  package let node: String
  package let user: String
  package let labels: [String]
  /// 64 bytes. Present says nothing about good: see `isSigned(by:)`.
  package let signature: [UInt8]

  /// Reads a layout; does not look at the signature.
  package init(decoding bytes: [UInt8]) throws(CertificateFault) {
    guard bytes.count <= CertificateLimits.byteCount else { throw .tooLong }
    var reader = ByteReader(bytes.span.bytes)
    guard let version = reader.uint8(), version == CertificateWire.version,
      let serial = reader.uint64(), let issuedAt = reader.uint64(),
      let expiresAt = reader.uint64(), issuedAt < expiresAt,
      issuedAt <= CertificateLimits.latestSecond,
      let ciphers = reader.uint8(),
      CipherSet(rawValue: ciphers).contains(.chaCha20Poly1305), let staticKey = reader.array(32),
      let mesh = reader.certificateText(limit: CertificateLimits.name),
      let node = reader.certificateText(limit: CertificateLimits.name),
      let user = reader.certificateText(limit: CertificateLimits.name),
      let labelCount = reader.uint8(), Int(labelCount) <= CertificateLimits.labels
    else { throw .malformed }
    var labels: [String] = []
    for _ in 0..<labelCount {
      guard let label = reader.certificateText(limit: CertificateLimits.label) else {
        throw .malformed
      }
      labels.append(label)
    }
    guard let signature = reader.array(Ed25519.signatureBytes), reader.isAtEnd else {
      throw .malformed
    }
    self.serial = serial
    self.issuedAt = issuedAt
    self.expiresAt = expiresAt
    self.ciphers = CipherSet(rawValue: ciphers)
    self.staticKey = staticKey
    self.mesh = mesh
    self.node = node
    self.user = user
    self.labels = labels
    self.signature = signature
  }

  /// Reads a certificate and checks that `authority` signed it: the one to use
  /// on bytes from others.
  /// - Parameter authority: Ed25519 public key, 32 bytes.
  package init(verifying bytes: [UInt8], authority: [UInt8]) throws(CertificateFault) {
    try self.init(decoding: bytes)
    guard isSigned(by: authority) else { throw .badSignature }
  }

  /// A new one, signed. Used by `CertificateAuthority`.
  init(
    serial: UInt64, issuedAt: UInt64, expiresAt: UInt64, subject: CertificateSubject,
    authoritySecret: [UInt8]
  ) throws(CertificateFault) {
    guard issuedAt < expiresAt, subject.isWithinLimits else { throw .tooLong }
    self.serial = serial
    self.issuedAt = issuedAt
    self.expiresAt = expiresAt
    ciphers = subject.ciphers.union(.chaCha20Poly1305)
    staticKey = subject.staticKey
    mesh = subject.mesh
    node = subject.node
    user = subject.user
    labels = subject.labels
    let body = Self.body(
      serial: serial, issuedAt: issuedAt, expiresAt: expiresAt, subject: subject, ciphers: ciphers)
    guard body.count + Ed25519.signatureBytes <= CertificateLimits.byteCount else {
      throw .tooLong
    }
    signature = Ed25519.sign(CertificateWire.context + body, secret: authoritySecret)
  }

  package var subject: CertificateSubject {
    CertificateSubject(
      mesh: mesh, node: node, user: user, staticKey: staticKey, labels: labels, ciphers: ciphers)
  }

  package func encoded() -> [UInt8] { body + signature }

  package func isSigned(by authority: [UInt8]) -> Bool {
    Ed25519.verify(signature, CertificateWire.context + body, publicKey: authority)
  }

  /// What the signature is over, without the context.
  private var body: [UInt8] {
    Self.body(
      serial: serial, issuedAt: issuedAt, expiresAt: expiresAt, subject: subject, ciphers: ciphers)
  }

  private static func body(
    serial: UInt64, issuedAt: UInt64, expiresAt: UInt64, subject: CertificateSubject,
    ciphers: CipherSet
  ) -> [UInt8] {
    var out = [CertificateWire.version]
    out.appendUInt64(serial)
    out.appendUInt64(issuedAt)
    out.appendUInt64(expiresAt)
    out.append(ciphers.rawValue)
    out += subject.staticKey
    out.appendString16(subject.mesh)
    out.appendString16(subject.node)
    out.appendString16(subject.user)
    out.append(UInt8(subject.labels.count))
    for label in subject.labels { out.appendString16(label) }
    return out
  }
}

/// Whom a certificate is about.
package struct CertificateSubject: Hashable, Sendable {
  package var mesh: String
  package var node: String
  package var user: String
  /// 32 bytes.
  package var staticKey: [UInt8]
  package var labels: [String]
  package var ciphers: CipherSet

  /// - Parameter staticKey: 32 bytes, proven by its owner (`LoginVerified`).
  package init(
    mesh: String, node: String, user: String, staticKey: [UInt8], labels: [String] = [],
    ciphers: CipherSet = .chaCha20Poly1305
  ) {
    precondition(staticKey.count == 32)
    self.mesh = mesh
    self.node = node
    self.user = user
    self.staticKey = staticKey
    self.labels = labels
    self.ciphers = ciphers
  }

  fileprivate var isWithinLimits: Bool {
    [mesh, node, user].allSatisfy { (1...CertificateLimits.name).contains($0.utf8.count) }
      && labels.count <= CertificateLimits.labels
      && labels.allSatisfy { (1...CertificateLimits.label).contains($0.utf8.count) }
  }
}

extension ByteReader {
  /// Text of 1 to `limit` bytes.
  mutating func certificateText(limit: Int) -> String? {
    guard let text = string16(limit: limit), !text.isEmpty else { return nil }
    return text
  }
}
