/// libcrypto's algorithm objects, fetched once: a fetch by name costs more than
/// most operations. Nothing else in this folder may fetch.

internal import COpenSSL

/// The objects of the default library context. They are never changed or freed
/// after `init`, and libcrypto allows their use from any thread: therefore
/// `@unchecked Sendable`.
final class Algorithms: @unchecked Sendable {
  static let shared = Algorithms()

  let chaCha20Poly1305: OpaquePointer
  let aes256GCM: OpaquePointer
  let blake2s: OpaquePointer
  let blake2sMAC: OpaquePointer
  let sha256: OpaquePointer

  private init() {
    func found(_ pointer: OpaquePointer?, _ name: String) -> OpaquePointer {
      guard let pointer else { preconditionFailure("libcrypto has no \(name)") }
      return pointer
    }
    chaCha20Poly1305 = found(
      unsafe EVP_CIPHER_fetch(nil, "ChaCha20-Poly1305", nil), "ChaCha20-Poly1305")
    aes256GCM = found(unsafe EVP_CIPHER_fetch(nil, "AES-256-GCM", nil), "AES-256-GCM")
    blake2s = found(unsafe EVP_MD_fetch(nil, "BLAKE2S-256", nil), "BLAKE2s")
    blake2sMAC = found(unsafe EVP_MAC_fetch(nil, "BLAKE2SMAC", nil), "BLAKE2s-MAC")
    sha256 = found(unsafe EVP_MD_fetch(nil, "SHA2-256", nil), "SHA-256")
  }
}

/// What a call into libcrypto that cannot fail on any input returned. Only
/// exhausted memory makes it fail, and then there is nothing left to do.
@inline(__always)
func mustSucceed(_ result: CInt) {
  precondition(result == 1, "libcrypto failed on a call that cannot fail")
}

/// Empties this thread's error queue after an expected failure; TLS on the same
/// thread would otherwise read our refusal as its own error.
func forgetErrors() { ERR_clear_error() }

/// The digests that only STUN still asks for. Fetched when first used: a
/// libcrypto that refuses them (FIPS) must not stop anything else.
final class OldAlgorithms: @unchecked Sendable {
  static let shared = OldAlgorithms()

  let sha1: OpaquePointer
  let md5: OpaquePointer

  private init() {
    guard let sha1 = unsafe EVP_MD_fetch(nil, "SHA1", nil),
      let md5 = unsafe EVP_MD_fetch(nil, "MD5", nil)
    else { preconditionFailure("libcrypto has no SHA-1 or MD5") }
    self.sha1 = sha1
    self.md5 = md5
  }
}

/// HMAC (RFC 2104) with one of the digests above, which gives `size` bytes.
func keyedHash(
  _ digest: OpaquePointer, size wanted: Int = 32, key: [UInt8], _ data: [UInt8]
) -> [UInt8] {
  var output = [UInt8](repeating: 0, count: wanted)
  var size: CUnsignedInt = 0
  let done = unsafe HMAC(digest, key, CInt(key.count), data, data.count, &output, &size)
  precondition(done != nil && size == wanted, "libcrypto failed on a call that cannot fail")
  return output
}

/// One-shot digest of `size` bytes.
func digest(_ digest: OpaquePointer, size: Int = 32, _ data: [UInt8]) -> [UInt8] {
  var output = [UInt8](repeating: 0, count: size)
  mustSucceed(unsafe EVP_Digest(data, data.count, &output, nil, digest, nil))
  return output
}

/// Compares without telling by its time where the first difference is. The
/// lengths are not secret.
public func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
  guard a.count == b.count else { return false }
  return unsafe CRYPTO_memcmp(a, b, a.count) == 0
}

/// Compares borrowed bytes with an array in constant time.
public func constantTimeEqual(_ a: RawSpan, _ b: [UInt8]) -> Bool {
  guard a.byteCount == b.count else { return false }
  return unsafe a.withUnsafeBytes { unsafe CRYPTO_memcmp($0.baseAddress, b, b.count) == 0 }
}
