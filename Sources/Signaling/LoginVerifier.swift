/// What a token becomes before it may be used, and how a login's keys follow
/// from its transcript. Never sends, never stores; the slow hash runs here, once
/// per mesh at start. docs/protocol/login.md "Password scalar", "Transcript".

#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

/// How dear the hash of a token is. Both ends must use the same.
package enum LoginCost: Sendable {
  /// scrypt with N = 32768: about 80 ms and 32 MB, once at start.
  case full
  /// For tests and simulations only.
  case cheap

  fileprivate var n: UInt64 {
    switch self {
    case .full: 32_768
    case .cheap: 2
    }
  }
}

/// A mesh's token, ready for logins.
package struct LoginVerifier: Sendable {
  /// The token as 8 bytes little endian.
  fileprivate let token: [UInt8]
  let password: SPAKE2Password

  package init(token: UInt64, cost: LoginCost = .full) {
    var bytes: [UInt8] = []
    bytes.appendUInt64LittleEndian(token)
    self.token = bytes
    password = SPAKE2Password(
      reducing: Scrypt.derive(
        password: bytes, salt: LoginWire.context, n: cost.n, r: 8, p: 1, length: 48))
  }

  /// The password of a node that was given a secret before.
  /// - Parameter secret: 32 bytes.
  func password(nodeSecret secret: [UInt8]) -> SPAKE2Password {
    SPAKE2Password(
      reducing: HKDFSHA256.expand(
        HMACSHA256.authenticate(key: secret, token), info: LoginWire.context + Array(" node".utf8),
        count: 48))
  }
}

/// The keys of one connection without TLS. The node seals with the first.
package struct SignalKeys: Equatable, Sendable {
  package let fromNode: [UInt8]
  package let fromServer: [UInt8]
}

/// What both sides agree on beside the password.
struct LoginTranscript: Sendable {
  let exporter: [UInt8]
  let helloHash: [UInt8]
  let sharesHash: [UInt8]
  /// X25519(node static, server ephemeral).
  let dh: [UInt8]
  let proof: [UInt8]

  init(exporter: [UInt8], hello: [UInt8], shares: [UInt8], dh: [UInt8]) {
    self.exporter = exporter
    helloHash = SHA256.hash(hello)
    sharesHash = SHA256.hash(shares)
    self.dh = dh
    let key = HKDFSHA256.derive(dh, info: LoginWire.context + Array(" key".utf8), count: 32)
    var seen: [UInt8] = []
    seen.appendArray16(exporter)
    proof = HMACSHA256.authenticate(key: key, seen + helloHash + sharesHash)
  }

  /// SPAKE2's additional data for the share at `index`.
  func additional(index: Int, authority: [UInt8]) -> [UInt8] {
    var out = LoginWire.context
    out.appendArray16(exporter)
    out += helloHash + sharesHash
    out.append(UInt8(index))
    return out + authority + proof
  }

  /// The signalling keys, and the one that seals the accept's box.
  func keys(_ key: [UInt8], additional: [UInt8]) -> (signal: SignalKeys, box: [UInt8]) {
    let bytes = HKDFSHA256.derive(
      key + dh, salt: SHA256.hash(additional), info: Array("martlet signal v1".utf8), count: 96)
    return (
      SignalKeys(fromNode: Array(bytes[..<32]), fromServer: Array(bytes[32..<64])),
      Array(bytes[64...])
    )
  }
}
