/// Signatures (RFC 8032, pure Ed25519) of certificates and eviction lists.
/// Signing is deterministic: no randomness is used.

#if canImport(Bytes)
  public import Bytes
#endif
internal import COpenSSL

public enum Ed25519 {
  public static let signatureBytes = 64

  public static func generate(using random: inout SeededRandom) -> KeyPair {
    let secret = random.bytes(32)
    return KeyPair(secret: secret, publicKey: publicKey(of: secret))
  }

  /// - Parameter secret: the 32-byte seed.
  public static func publicKey(of secret: [UInt8]) -> [UInt8] {
    precondition(secret.count == 32)
    return rawPublicKey(EVP_PKEY_ED25519, secret)
  }

  /// 64 bytes.
  public static func sign(_ message: [UInt8], secret: [UInt8]) -> [UInt8] {
    precondition(secret.count == 32)
    guard let key = unsafe EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nil, secret, 32),
      let context = unsafe EVP_MD_CTX_new()
    else { preconditionFailure("out of memory") }
    defer {
      unsafe EVP_MD_CTX_free(context)
      unsafe EVP_PKEY_free(key)
    }
    var signature = [UInt8](repeating: 0, count: signatureBytes)
    var size = signatureBytes
    mustSucceed(unsafe EVP_DigestSignInit(context, nil, nil, nil, key))
    mustSucceed(unsafe EVP_DigestSign(context, &signature, &size, message, message.count))
    return signature
  }

  /// Whether `signature` is `publicKey`'s over `message`. Wrong lengths are false.
  public static func verify(_ signature: [UInt8], _ message: [UInt8], publicKey: [UInt8]) -> Bool {
    guard signature.count == signatureBytes, publicKey.count == 32,
      let key = unsafe EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nil, publicKey, 32)
    else { return false }
    defer { unsafe EVP_PKEY_free(key) }
    guard let context = unsafe EVP_MD_CTX_new() else { return false }
    defer { unsafe EVP_MD_CTX_free(context) }
    guard unsafe EVP_DigestVerifyInit(context, nil, nil, nil, key) == 1,
      unsafe EVP_DigestVerify(context, signature, signature.count, message, message.count) == 1
    else {
      forgetErrors()
      return false
    }
    return true
  }
}
