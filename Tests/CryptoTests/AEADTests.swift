import Bytes
import Crypto
import Testing

@Suite struct AEADTests {
  @Test func chaChaOfRFC8439AppendixA5() {
    // Appendix A.5 with its nonce 00000000 0102030405060708, which has our shape.
    let key = hex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    let box = hex(
      """
      64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2
      4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf
      332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855
      9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4
      b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e
      af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a
      0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10
      49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29
      a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38
      """)
    let aad = hex("f33388860000000000004e91")
    let text = openBox(key: key, counter: 0x0807_0605_0403_0201, box, aad: aad)
    #expect(
      text.map { String(decoding: $0.prefix(27), as: UTF8.self) } == "Internet-Drafts are draft d")
    #expect(
      text.map { sealBox(key: key, counter: 0x0807_0605_0403_0201, $0, aad: aad) } == box)
  }

  @Test func aesGCMKnownAnswer() {
    // NIST GCM test case 14: zero key, zero nonce, one zero block.
    let box = AEADCipher.aes256GCM.sealBox(
      key: [UInt8](repeating: 0, count: 32), counter: 0, [UInt8](repeating: 0, count: 16))
    #expect(hex(box) == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
  }

  @Test(arguments: AEADCipher.allCases)
  func oneContextManyCounters(cipher: AEADCipher) {
    var random = SeededRandom(testSeed: 3)
    let key = random.bytes(32)
    let sealing = AEADKey(cipher, key: key, direction: .seal)
    let opening = AEADKey(cipher, key: key, direction: .open)
    for length in [0, 1, 15, 16, 17, 64, 1408, 65_000] {
      let text = random.bytes(length)
      let counter = random.next()
      var bytes = text + [UInt8](repeating: 0, count: 16)
      withRaw(&bytes) { sealing.seal(counter: counter, &$0) }
      #expect(bytes == cipher.sealBox(key: key, counter: counter, text))
      if length > 15 { #expect(Array(bytes.prefix(length)) != text) }
      var wrong = bytes
      #expect(!withRaw(&wrong) { opening.open(counter: counter &+ 1, &$0) })
      #expect(withRaw(&bytes) { opening.open(counter: counter, &$0) }, "length \(length)")
      #expect(Array(bytes.prefix(length)) == text)
    }
  }

  @Test(arguments: AEADCipher.allCases)
  func everyBitIsCovered(cipher: AEADCipher) {
    let key = [UInt8](repeating: 9, count: 32)
    let box = cipher.sealBox(key: key, counter: 5, ascii("hello, martlet"), aad: [1, 2, 3])
    #expect(cipher.openBox(key: key, counter: 5, box, aad: [1, 2, 3]) == ascii("hello, martlet"))
    #expect(cipher.openBox(key: key, counter: 5, box, aad: [1, 2, 4]) == nil)
    #expect(cipher.openBox(key: key, counter: 5, box) == nil)
    for i in box.indices {
      var bad = box
      bad[i] ^= 0x80
      #expect(cipher.openBox(key: key, counter: 5, bad, aad: [1, 2, 3]) == nil, "byte \(i)")
      #expect(cipher.openBox(key: key, counter: 5, Array(box[..<i]), aad: [1, 2, 3]) == nil)
    }
  }

  @Test func xChaChaOfTheDraft() {
    // draft-irtf-cfrg-xchacha-03 appendix A.3.1.
    let text = ascii(
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        + "sunscreen would be it.")
    let key = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f")
    let nonce = hex("404142434445464748494a4b4c4d4e4f5051525354555657")
    let aad = hex("50515253c0c1c2c3c4c5c6c7")
    let box = hex(
      """
      bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
      731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
      2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
      21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780a
      cf49
      """)
    #expect(XChaCha20Poly1305.sealBox(key: key, nonce: nonce, text, aad: aad) == box)
    #expect(XChaCha20Poly1305.openBox(key: key, nonce: nonce, box, aad: aad) == text)
    var bad = box
    bad[0] ^= 1
    #expect(XChaCha20Poly1305.openBox(key: key, nonce: nonce, bad, aad: aad) == nil)
    #expect(XChaCha20Poly1305.openBox(key: key, nonce: nonce, [], aad: aad) == nil)
  }
}

/// The bytes of `array` as the mutable span that packets are.
private func withRaw<R>(_ array: inout [UInt8], _ body: (inout MutableRawSpan) -> R) -> R {
  var span = array.mutableSpan
  var raw = span.mutableBytes
  return body(&raw)
}
