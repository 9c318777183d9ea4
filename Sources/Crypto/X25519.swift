/// Diffie-Hellman on Curve25519 (RFC 7748). Secrets are 32 random bytes of the
/// caller's generator; libcrypto's own generator is never asked.

#if canImport(Bytes)
  public import Bytes
#endif
internal import COpenSSL

/// A secret and what belongs to it in public; 32 bytes each.
public struct KeyPair: Sendable {
  public let secret: [UInt8]
  public let publicKey: [UInt8]

  public init(secret: [UInt8], publicKey: [UInt8]) {
    self.secret = secret
    self.publicKey = publicKey
  }
}

public enum X25519 {
  public static func generate(using random: inout SeededRandom) -> KeyPair {
    var secret = random.bytes(32)
    // Clamped as wg(8) stores keys; every use clamps again.
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    return KeyPair(secret: secret, publicKey: publicKey(of: secret))
  }

  /// - Parameter secret: 32 bytes.
  public static func publicKey(of secret: [UInt8]) -> [UInt8] {
    precondition(secret.count == 32)
    return rawPublicKey(EVP_PKEY_X25519, secret)
  }

  /// The 32-byte shared secret; nil when it is all zeros, which is when the
  /// peer's point has low order (RFC 7748 §6.1), or when `publicKey` is not 32 bytes.
  public static func shared(secret: [UInt8], publicKey: [UInt8]) -> [UInt8]? {
    precondition(secret.count == 32)
    guard publicKey.count == 32,
      let own = unsafe EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nil, secret, 32)
    else { return nil }
    defer { unsafe EVP_PKEY_free(own) }
    guard let peer = unsafe EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nil, publicKey, 32) else {
      return nil
    }
    defer { unsafe EVP_PKEY_free(peer) }
    guard let context = unsafe EVP_PKEY_CTX_new(own, nil) else { return nil }
    defer { unsafe EVP_PKEY_CTX_free(context) }
    var output = [UInt8](repeating: 0, count: 32)
    var size = 32
    guard unsafe EVP_PKEY_derive_init(context) == 1,
      unsafe EVP_PKEY_derive_set_peer_ex(context, peer, 0) == 1,
      unsafe EVP_PKEY_derive(context, &output, &size) == 1, size == 32
    else {
      forgetErrors()
      return nil
    }
    return output
  }
}

/// The public half of an X25519 or Ed25519 secret of 32 bytes.
func rawPublicKey(_ kind: CInt, _ secret: [UInt8]) -> [UInt8] {
  guard let key = unsafe EVP_PKEY_new_raw_private_key(kind, nil, secret, 32) else {
    preconditionFailure("out of memory")
  }
  defer { unsafe EVP_PKEY_free(key) }
  var output = [UInt8](repeating: 0, count: 32)
  var size = 32
  mustSucceed(unsafe EVP_PKEY_get_raw_public_key(key, &output, &size))
  return output
}
