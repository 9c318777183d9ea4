import Bytes
import Crypto
import Testing

@Suite struct PrimitiveTests {
  @Test func checksumVectors() {
    let table: [(String, UInt64)] = [
      ("", 0), ("123456789", 13_333_283_586_479_230_977),
      ("admin123456", 10_200_698_124_330_278_281), ("userpassword", 14_716_095_881_315_906_574),
    ]
    for (text, value) in table { #expect(CRC64ISO.checksum(text.utf8) == value, "\(text)") }
  }

  @Test func totpVectorsAndWindow() {
    let table: [(UInt64, Int64, UInt64)] = [
      (12_345_678, 0, 15_025_188_192_002_693_687),
      (12_345_678, 1_700_000_000, 10_381_672_512_918_072_871),
      (13_666_999_958_022_769_123, 1_700_000_000, 252_104_841_428_208_378),
    ]
    for (token, time, code) in table {
      #expect(TOTP.code(token: token, unixTime: time) == code)
      #expect(TOTP.verify(code, token: token, unixTime: time + 30))
      #expect(!TOTP.verify(code, token: token, unixTime: time + 90))
      #expect(!TOTP.verify(code, token: token ^ 1, unixTime: time))
    }
    #expect(TOTP.verify(table[1].2, token: 12_345_678, unixTime: 1_700_000_000 - 30))
    #expect(!TOTP.verify(table[1].2, token: 12_345_678, unixTime: 1_700_000_000 - 90))
  }

  @Test func curve25519OfRFC7748() {
    let scalar = hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    let point = hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    #expect(
      X25519.shared(secret: scalar, publicKey: point).map(hex(_:))
        == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    // §6.1: both halves agree.
    var random = SeededRandom(testSeed: 1)
    let a = X25519.generate(using: &random)
    let b = X25519.generate(using: &random)
    let shared = X25519.shared(secret: a.secret, publicKey: b.publicKey)
    #expect(shared != nil && shared == X25519.shared(secret: b.secret, publicKey: a.publicKey))
    #expect(a.publicKey != b.publicKey)
  }

  @Test func lowOrderPointsGiveNoSecret() {
    let secret = [UInt8](repeating: 7, count: 32)
    let one = [1] + [UInt8](repeating: 0, count: 31)
    let minusOne =
      hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
    for point in [[UInt8](repeating: 0, count: 32), one, minusOne] {
      #expect(X25519.shared(secret: secret, publicKey: point) == nil)
    }
    #expect(X25519.shared(secret: secret, publicKey: [9]) == nil)
  }

  @Test func signaturesOfRFC8032() {
    // §7.1, tests 1 and 2.
    let table = [
      (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
      ),
      (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
      ),
    ]
    for (secret, publicKey, message, signature) in table {
      #expect(hex(Ed25519.publicKey(of: hex(secret))) == publicKey)
      #expect(hex(Ed25519.sign(hex(message), secret: hex(secret))) == signature)
      let good = hex(signature)
      #expect(Ed25519.verify(good, hex(message), publicKey: hex(publicKey)))
      #expect(!Ed25519.verify(good, hex(message) + [0], publicKey: hex(publicKey)))
      for i in 0..<64 {
        var bad = good
        bad[i] ^= 1
        #expect(!Ed25519.verify(bad, hex(message), publicKey: hex(publicKey)), "byte \(i)")
      }
      #expect(!Ed25519.verify([], hex(message), publicKey: hex(publicKey)))
    }
  }

  @Test func blake2sVectors() {
    // RFC 7693 appendix B.
    #expect(
      hex(BLAKE2s.hash(ascii("abc")))
        == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")
    #expect(BLAKE2s.hash(ascii("a"), ascii("bc")) == BLAKE2s.hash(ascii("abc")))
    let key = [UInt8](0..<32)
    let first = BLAKE2s.mac(key: key, ascii("abc"))
    #expect(first.count == 16)
    let text = ascii("abc")
    let borrowed = BLAKE2s.mac(key: key, text.span.bytes)
    #expect(first == borrowed)
    #expect(first != BLAKE2s.mac(key: Array(key[..<16]), ascii("abc")))
    // Computed with Python's hashlib.blake2s(b"abc", key=bytes(range(32)), digest_size=16).
    #expect(hex(first) == "61ba5f165c194692e09d12520cc4c74a")
    #expect(hex(BLAKE2s.mac(key: Array(key[..<16]), [])) == "af4e5d3bb230e9ff9096ca6f7c501f76")
    // hmac.new(bytes(range(32)), b"abc", hashlib.blake2s)
    #expect(
      hex(BLAKE2s.hmac(key: key, ascii("abc")))
        == "82623be5bc0a391b24dce53e67d028eff92d586de0485ac37822e597d049c74f")
    let outputs = BLAKE2s.kdf(n: 3, key: key, ascii("abc"))
    #expect(outputs.count == 3)
    #expect(outputs[0] == BLAKE2s.hmac(key: BLAKE2s.hmac(key: key, ascii("abc")), [1]))
    #expect(
      outputs[2] == BLAKE2s.hmac(key: BLAKE2s.hmac(key: key, ascii("abc")), outputs[1] + [3]))
    #expect(BLAKE2s.kdf(n: 1, key: key, []).count == 1)
  }

  @Test func sha256AndItsHMAC() {
    #expect(
      hex(SHA256.hash(ascii("abc")))
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    // RFC 4231 test case 2.
    let code = HMACSHA256.authenticate(key: ascii("Jefe"), ascii("what do ya want for nothing?"))
    #expect(hex(code) == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    #expect(HMACSHA256.verify(code, key: ascii("Jefe"), ascii("what do ya want for nothing?")))
    #expect(!HMACSHA256.verify(code, key: ascii("Jeff"), ascii("what do ya want for nothing?")))
    #expect(HMACSHA256.authenticate(key: [], []).count == 32)
  }

  @Test func theOldHashesOfSTUN() {
    #expect(hex(MD5.hash([])) == "d41d8cd98f00b204e9800998ecf8427e")
    #expect(hex(MD5.hash(ascii("message digest"))) == "f96b697d7cb7938d525a2f31aaf161d0")
    // RFC 2202, cases 1 and 6.
    #expect(
      hex(HMACSHA1.authenticate(key: [UInt8](repeating: 0x0b, count: 20), ascii("Hi There")))
        == "b617318655057264e28bc0b6fb378c8ef146be00")
    let key = [UInt8](repeating: 0xaa, count: 80)
    let text = ascii("Test Using Larger Than Block-Size Key - Hash Key First")
    #expect(
      hex(HMACSHA1.authenticate(key: key, text)) == "aa4ae5e15272d00e95705637ce8a3b55ed402112")
    let digits = ascii("123456789")
    let crc = CRC32.checksum(digits.span.bytes)
    #expect(crc == 0xcbf4_3926)
  }

  @Test func hkdfOfRFC5869() {
    // Appendix A.1.
    let key = HKDFSHA256.extract(
      salt: [UInt8](0...12), [UInt8](repeating: 0x0b, count: 22))
    #expect(hex(key) == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    #expect(
      hex(HKDFSHA256.expand(key, info: [UInt8](0xf0...0xf9), count: 42))
        == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
  }

  @Test func scryptOfRFC7914() {
    // §12, vectors 1 and 2.
    #expect(
      hex(Scrypt.derive(password: [], salt: [], n: 16, r: 1, p: 1, length: 64))
        == "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906"
    )
    #expect(
      hex(
        Scrypt.derive(
          password: ascii("password"), salt: ascii("NaCl"), n: 1024, r: 8, p: 16, length: 64))
        == "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
  }

  @Test func constantTimeComparisonIsAComparison() {
    #expect(constantTimeEqual([], []))
    #expect(constantTimeEqual([1, 2], [1, 2]))
    #expect(!constantTimeEqual([1, 2], [1, 3]))
    #expect(!constantTimeEqual([1, 2], [1]))
    let bytes: [UInt8] = [1, 2]
    let equal = constantTimeEqual(bytes.span.bytes, [1, 2])
    #expect(equal)
  }
}
