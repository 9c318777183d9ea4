/// An agent's identity vouching for one mesh's static key: what a login carries
/// in its attachment. It proves that one identity chose that key; who the
/// identity is, the server core knows. docs/protocol/login.md "Identity proof".

#if canImport(Crypto)
  internal import Crypto
#endif

package struct IdentityProof: Hashable, Sendable {
  package static let byteCount = 96
  private static let context = Array("martlet identity v1\0".utf8)

  /// Ed25519, 32 bytes.
  package let identity: [UInt8]
  private let signature: [UInt8]

  /// - Parameters:
  ///   - identitySecret: Ed25519 seed, 32 bytes.
  ///   - staticKey: 32 bytes.
  package init(identitySecret: [UInt8], staticKey: [UInt8]) {
    identity = Ed25519.publicKey(of: identitySecret)
    signature = Ed25519.sign(Self.context + staticKey, secret: identitySecret)
  }

  /// nil when the layout is wrong or the identity did not sign `staticKey`.
  package init?(verifying bytes: [UInt8], staticKey: [UInt8]) {
    guard bytes.count == Self.byteCount else { return nil }
    identity = Array(bytes[..<32])
    signature = Array(bytes[32...])
    guard Ed25519.verify(signature, Self.context + staticKey, publicKey: identity) else {
      return nil
    }
  }

  package func encoded() -> [UInt8] { identity + signature }
}
