/// ChaCha20-Poly1305 with a 24-byte nonce (draft-irtf-cfrg-xchacha-03), which
/// libcrypto lacks: a subkey from HChaCha20, then the ordinary cipher. Used for
/// WireGuard cookies and anything else with a random nonce; one-shots only.

#if canImport(Bytes)
  internal import Bytes
#endif

public enum XChaCha20Poly1305 {
  public static let nonceBytes = 24

  /// The ciphertext and its 16-byte tag.
  /// - Parameters:
  ///   - key: 32 bytes.
  ///   - nonce: 24 bytes.
  public static func sealBox(
    key: [UInt8], nonce: [UInt8], _ plaintext: [UInt8], aad: [UInt8] = []
  ) -> [UInt8] {
    let (subkey, counter) = derive(key, nonce)
    return AEADCipher.chaCha20Poly1305.sealBox(key: subkey, counter: counter, plaintext, aad: aad)
  }

  /// The plaintext, or nil when `box` is not authentic.
  public static func openBox(
    key: [UInt8], nonce: [UInt8], _ box: [UInt8], aad: [UInt8] = []
  ) -> [UInt8]? {
    let (subkey, counter) = derive(key, nonce)
    return AEADCipher.chaCha20Poly1305.openBox(key: subkey, counter: counter, box, aad: aad)
  }

  /// The inner nonce is four zero bytes and the last eight of ours: as a little
  /// endian counter exactly what `AEADKey` builds.
  private static func derive(_ key: [UInt8], _ nonce: [UInt8]) -> ([UInt8], UInt64) {
    precondition(nonce.count == nonceBytes)
    var counter: UInt64 = 0
    for i in (16..<24).reversed() { counter = counter << 8 | UInt64(nonce[i]) }
    return (hChaCha20(key: key, nonce: Array(nonce[..<16])), counter)
  }

  /// draft-irtf-cfrg-xchacha-03 §2.2. `key` 32 bytes, `nonce` 16; 32 bytes out.
  static func hChaCha20(key: [UInt8], nonce: [UInt8]) -> [UInt8] {
    precondition(key.count == 32 && nonce.count == 16)
    func word(_ bytes: [UInt8], _ i: Int) -> UInt32 {
      UInt32(bytes[i]) | UInt32(bytes[i + 1]) << 8 | UInt32(bytes[i + 2]) << 16
        | UInt32(bytes[i + 3]) << 24
    }
    var s: [UInt32] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]
    for i in 0..<8 { s.append(word(key, 4 * i)) }
    for i in 0..<4 { s.append(word(nonce, 4 * i)) }
    func rotate(_ x: UInt32, _ n: UInt32) -> UInt32 { x << n | x >> (32 - n) }
    func quarter(_ a: Int, _ b: Int, _ c: Int, _ d: Int) {
      s[a] &+= s[b]
      s[d] = rotate(s[d] ^ s[a], 16)
      s[c] &+= s[d]
      s[b] = rotate(s[b] ^ s[c], 12)
      s[a] &+= s[b]
      s[d] = rotate(s[d] ^ s[a], 8)
      s[c] &+= s[d]
      s[b] = rotate(s[b] ^ s[c], 7)
    }
    for _ in 0..<10 {
      quarter(0, 4, 8, 12)
      quarter(1, 5, 9, 13)
      quarter(2, 6, 10, 14)
      quarter(3, 7, 11, 15)
      quarter(0, 5, 10, 15)
      quarter(1, 6, 11, 12)
      quarter(2, 7, 8, 13)
      quarter(3, 4, 9, 14)
    }
    var output: [UInt8] = []
    for i in [0, 1, 2, 3, 12, 13, 14, 15] { output.appendUInt32(s[i].byteSwapped) }
    return output
  }
}
