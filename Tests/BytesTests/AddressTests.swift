import Bytes
import Testing

@Suite struct AddressTests {
  @Test func textRoundTrips() {
    let table = [
      ("1.2.3.4", "1.2.3.4"), ("::", "::"), ("::1", "::1"), ("2001:DB8::1", "2001:db8::1"),
      ("1:0:0:2:0:0:0:3", "1:0:0:2::3"), ("fe80::", "fe80::"), ("::ffff:1.2.3.4", "1.2.3.4"),
      ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"), ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
    ]
    for (text, canonical) in table {
      #expect(IPAddress(text).map { "\($0)" } == canonical, "\(text)")
    }
  }

  @Test func badTextIsRefused() {
    for text in [
      "", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", ":", ":::", "1::2::3", "12345::", "g::",
      "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7", "::1.2.3", "1.2.3.4::", ":1:2:3:4:5:6:7:8", "+1::",
    ] {
      #expect(IPAddress(text) == nil, "\(text)")
    }
    for text in ["1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "::1:80", "[1.2.3.4]:80", "[::1]", "1.2.3.4:+8"] {
      #expect(Endpoint(text) == nil, "\(text)")
    }
    #expect(Endpoint("[::1]:80").map { "\($0)" } == "[::1]:80")
    #expect(Endpoint("1.2.3.4:80").map { "\($0)" } == "1.2.3.4:80")
  }

  @Test func classes() {
    #expect(IPAddress("100.64.0.1")!.isPrivate)
    #expect(IPAddress("fd00::1")!.isPrivate)
    #expect(!IPAddress("8.8.8.8")!.isPrivate)
    #expect(IPAddress("169.254.1.1")!.isLinkLocal)
    #expect(IPAddress("fe80::1")!.isLinkLocal)
    #expect(IPAddress("ff02::1")!.isMulticast)
    #expect(IPAddress("10.1.2.3")!.matches(IPAddress("10.1.9.9")!, prefix: 16))
    #expect(!IPAddress("10.1.2.3")!.matches(IPAddress("10.2.9.9")!, prefix: 16))
    #expect(IPAddress("2001:db8::1")!.matches(IPAddress("2001:db8::2")!, prefix: 64))
    #expect(!IPAddress("2001:db8::1")!.matches(IPAddress("2001:db8::2")!, prefix: 127))
  }

  /// RFC 8439 appendix A.1, test vector 1: zero key, zero nonce, block 0.
  /// Words 0…7 become the next key, so the output starts at word 8.
  @Test func randomIsChaCha20() {
    var random = SeededRandom(seed: [UInt8](repeating: 0, count: 32))
    #expect(random.next() == 0x8d48_5751_7c59_41da)
    var again = SeededRandom(testSeed: 7)
    var other = SeededRandom(testSeed: 7)
    #expect(again.bytes(100) == other.bytes(100))
    #expect(again.next() != again.next())
  }
}
