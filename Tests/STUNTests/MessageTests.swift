import Bytes
import Crypto
import STUN
import Testing

/// The vectors of RFC 5769, and bytes that are almost STUN.
@Suite struct MessageTests {
  static let password = ascii("VOkJxbRl1RmTxUk/WvJxBt")
  static let request = hex(
    """
    00010058 2112a442 b7e7a701 bc34d686 fa87dfae
    80220010 5354554e 20746573 7420636c 69656e74
    00240004 6e0001ff 80290008 932ff9b1 51263b36
    00060009 6576746a 3a683676 59202020
    00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
    80280004 e57a3bcf
    """)
  static let response4 = hex(
    """
    0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200008 0001a147 e112a643
    00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
    80280004 c07d4c96
    """)
  static let response6 = hex(
    """
    01010048 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
    00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
    80280004 c8fb0b4c
    """)
  static let longTerm = hex(
    """
    00010060 2112a442 78ad3433 c6ad72c0 29da412e
    00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000
    0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341
    0014000b 6578616d 706c652e 6f726700
    00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666
    """)
  static let vectors = [request, response4, response6, longTerm]

  @Test func requestOfRFC5769() throws {
    let message = try #require(STUNMessage.decode(Self.request))
    #expect(message.kind == .request)
    #expect(message.transaction == STUNTransaction(high: 0xb7e7_a701, low: 0xbc34_d686_fa87_dfae))
    #expect(message.software == ascii("STUN test client"))
    #expect(message.username == ascii("evtj:h6vY"))
    #expect(message.notUnderstood == [0x0024], "PRIORITY belongs to ICE")
    #expect(message.hasFingerprint)
    #expect(message.isAuthentic(Self.request, key: Self.password))
    #expect(!message.isAuthentic(Self.request, key: ascii("another")))
  }

  @Test func responsesOfRFC5769() throws {
    for (bytes, mapped) in [
      (Self.response4, "192.0.2.1:32853"),
      (Self.response6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
      let message = try #require(STUNMessage.decode(bytes))
      #expect(message.kind == .success)
      #expect(message.software == ascii("test vector"))
      #expect(message.xorMappedAddress == at(mapped))
      #expect(message.hasFingerprint)
      #expect(message.isAuthentic(bytes, key: Self.password))
    }
  }

  @Test func longTermRequestOfRFC5769() throws {
    let message = try #require(STUNMessage.decode(Self.longTerm))
    let username = Array("\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}".utf8)
    #expect(message.username == username)
    #expect(message.realm == ascii("example.org"))
    #expect(message.nonce == ascii("f//499k954d6OL34oL9FSTvy64sA"))
    #expect(!message.hasFingerprint)
    // The password is prepared already (SASLprep leaves "TheMatrIX").
    let key = STUNMessage.longTermKey(
      username: username, realm: ascii("example.org"), password: ascii("TheMatrIX"))
    #expect(message.isAuthentic(Self.longTerm, key: key))
  }

  /// What is written is what the vectors are, padding apart (theirs is blanks).
  @Test func writingGivesTheVectorsAgain() throws {
    let message = try #require(STUNMessage.decode(Self.longTerm))
    let key = STUNMessage.longTermKey(
      username: try #require(message.username), realm: ascii("example.org"),
      password: ascii("TheMatrIX"))
    var written = message
    // Order: USERNAME, REALM, NONCE here; the vector has NONCE first.
    written.integrityOffset = nil
    let bytes = written.encode(integrityKey: key)
    let again = try #require(STUNMessage.decode(bytes))
    #expect(again.isAuthentic(bytes, key: key))
    #expect(again.nonce == message.nonce && again.username == message.username)
    #expect(bytes.count == Self.longTerm.count)
  }

  @Test func everyAttributeComesBack() throws {
    for mapped in ["192.0.2.1:1", "[2001:db8::1]:65535"] {
      var message = STUNMessage(.failure, STUNTransaction(high: 7, low: 0x0123_4567_89ab_cdef))
      message.mappedAddress = at(mapped)
      message.xorMappedAddress = at(mapped)
      message.responseOrigin = at("10.0.0.1:3478")
      message.otherAddress = at("[fe80::1]:3479")
      message.change = [.address, .port]
      message.refusal = STUNRefusal(code: 699, reason: ascii("no"))
      message.unknownAttributes = [1, 0x7fff, 3]
      message.software = ascii("abcde")
      message.username = []
      message.realm = ascii("r")
      message.nonce = ascii("nonce")
      message.hasFingerprint = true
      let bytes = message.encode()
      #expect(bytes.count.isMultiple(of: 4))
      #expect(STUNMessage.decode(bytes) == message)
    }
  }

  @Test func classesAreTheirBits() {
    for (kind, type) in [
      (STUNClass.request, 0x0001 as UInt16), (.indication, 0x0011), (.success, 0x0101),
      (.failure, 0x0111),
    ] {
      let bytes = STUNMessage(kind, STUNTransaction(high: 0, low: 0)).encode()
      #expect(UInt16(bytes[0]) << 8 | UInt16(bytes[1]) == type)
      #expect(STUNMessage.decode(bytes)?.kind == kind)
    }
  }

  @Test func cutAnywhereItIsRefused() {
    for vector in Self.vectors {
      for count in 0..<vector.count {
        let cut = Array(vector[..<count])
        #expect(STUNMessage.fault(cut) == .notSTUN, "cut to \(count)")
        // The same with a length that agrees.
        guard count >= 20, count.isMultiple(of: 4) else { continue }
        var agreeing = cut
        agreeing[2] = UInt8((count - 20) >> 8)
        agreeing[3] = UInt8(truncatingIfNeeded: count - 20)
        // Between two attributes it is a message, with less in it.
        if let message = STUNMessage.decode(agreeing) { #expect(!message.hasFingerprint) }
      }
      #expect(STUNMessage.fault(vector + [0]) == .notSTUN)
      #expect(STUNMessage.fault(vector + [0, 0, 0, 0]) == .notSTUN)
    }
  }

  @Test func everyFlippedBitIsSeen() throws {
    for vector in Self.vectors.prefix(3) {
      for bit in 0..<(vector.count * 8) {
        var flipped = vector
        flipped[bit / 8] ^= 1 << UInt8(bit % 8)
        // A flip in FINGERPRINT's type leaves a message without one.
        let hasFingerprint = STUNMessage.decode(flipped)?.hasFingerprint ?? false
        #expect(!hasFingerprint, "bit \(bit)")
      }
    }
  }

  @Test func hostileAttributesAreRefused() {
    let table: [(String, [UInt8], STUNFault)] = [
      ("runs past the end", hex("80220005 00000000"), .attribute),
      ("head only", hex("8022ffff"), .attribute),
      ("head cut", hex("802b0000 0000") + hex("0000"), .attribute),
      ("address of family 3", hex("00010008 00030001 01020304"), .attribute),
      ("IPv4 address too short", hex("00200004 00010001"), .attribute),
      ("IPv4 address too long", hex("0020000c 00010001 01020304 05060708"), .attribute),
      ("IPv6 address of 4 bytes", hex("00200008 00020001 01020304"), .attribute),
      ("empty address", hex("00010000"), .attribute),
      (
        "IPv4 inside IPv6",
        hex("00010014 00020001 00000000 00000000 0000ffff 01020304"), .attribute
      ),
      ("CHANGE-REQUEST of 2", hex("00030002 00020000"), .attribute),
      ("CHANGE-REQUEST of 8", hex("00030008 00000002 00000000"), .attribute),
      ("error class 2", hex("00090004 00000200"), .attribute),
      ("error number 100", hex("00090004 00000464"), .attribute),
      ("error cut", hex("00090003 00000400"), .attribute),
      ("odd UNKNOWN-ATTRIBUTES", hex("000a0003 00010000"), .attribute),
      ("MESSAGE-INTEGRITY of 4", hex("00080004 00000000"), .attribute),
      ("FINGERPRINT of 0", hex("80280000"), .fingerprint),
      ("FINGERPRINT wrong", hex("80280004 00000000"), .fingerprint),
      ("USERNAME of 509", hex("000601fd") + [UInt8](repeating: 65, count: 512), .attribute),
      ("SOFTWARE of 764", hex("802202fc") + [UInt8](repeating: 65, count: 764), .attribute),
    ]
    for (name, attributes, fault) in table {
      #expect(STUNMessage.fault(raw(attributes)) == fault, "\(name)")
    }
  }

  @Test func headersThatAreNotSTUN() {
    let good = raw([])
    #expect(STUNMessage.isSTUN(good))
    #expect(STUNMessage.fault(raw(type: 0x4001, [])) == .notSTUN)
    #expect(STUNMessage.fault(raw(type: 0x8001, [])) == .notSTUN)
    #expect(STUNMessage.fault(raw(cookie: 0x2112_a443, [])) == .notSTUN)
    #expect(STUNMessage.fault(raw([0, 0])) == .notSTUN, "not a multiple of 4")
    // TURN's Allocate, and a method with every bit.
    #expect(STUNMessage.fault(raw(type: 0x0003, [])) == .otherMethod)
    #expect(STUNMessage.fault(raw(type: 0x3eef, [])) == .otherMethod)
  }

  /// WireGuard's four messages, whatever the sender's index is.
  @Test func wireGuardPacketsAreNotSTUN() {
    for (type, size) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1_452)] as [(UInt8, Int)] {
      var packet = [type, 0, 0, 0] + hex("2112a442")
      packet += [UInt8](repeating: 0, count: size - packet.count)
      #expect(!STUNMessage.isSTUN(packet), "type \(type)")
    }
  }

  @Test func onlyTheFirstOfTwoCounts() throws {
    let bytes = raw(hex("00010008 00010001 01020304 00010008 00010002 05060708"))
    #expect(try #require(STUNMessage.decode(bytes)).mappedAddress == at("1.2.3.4:1"))
  }

  @Test func whatFollowsMessageIntegrityIsNotLookedAt() throws {
    var message = STUNMessage(.request, STUNTransaction(high: 1, low: 2))
    message.username = ascii("u")
    var bytes = message.encode(integrityKey: ascii("key"))
    bytes += hex("00010008 00010001 01020304 7ffe0000")
    bytes[3] += 16
    let decoded = try #require(STUNMessage.decode(bytes))
    #expect(decoded.mappedAddress == nil && decoded.notUnderstood.isEmpty)
    #expect(decoded.isAuthentic(bytes, key: ascii("key")))
  }

  @Test func fingerprintMustBeLast() {
    var message = STUNMessage(.request, STUNTransaction(high: 1, low: 2))
    message.hasFingerprint = true
    var bytes = message.encode()
    #expect(STUNMessage.decode(bytes) == message)
    bytes += hex("80220000")
    bytes[3] += 4
    #expect(STUNMessage.fault(bytes) == .fingerprint)
    // Also one that is right for the whole length.
    let covered = Array(bytes[..<20])
    var code: [UInt8] = []
    code.appendUInt32(CRC32.checksum(covered.span.bytes) ^ STUNConstants.fingerprintMask)
    bytes.replaceSubrange(24..<28, with: code)
    #expect(STUNMessage.fault(bytes) == .fingerprint)
  }

  @Test func listsAreBounded() throws {
    var attributes: [UInt8] = []
    for type in 0x7000..<0x7064 as Range<UInt16> {
      attributes.appendUInt16(type)
      attributes.appendUInt16(0)
    }
    let message = try #require(STUNMessage.decode(raw(attributes)))
    #expect(message.notUnderstood == Array(0x7000..<0x7008))
  }
}

/// Messages on a TCP stream.
@Suite struct StreamTests {
  @Test func cutAnywhereTheSameMessagesComeOut() {
    let stream = MessageTests.vectors.flatMap { $0 }
    for size in 1...stream.count {
      var decoder = STUNStream()
      var found: [[UInt8]] = []
      for start in stride(from: 0, to: stream.count, by: size) {
        let step = decoder.receive(Array(stream[start..<min(start + size, stream.count)]))
        #expect(step.goesOn)
        found += step.found
        #expect(decoder.byteCount < STUNLimits.streamMessageBytes)
      }
      #expect(found == MessageTests.vectors, "pieces of \(size)")
    }
  }

  @Test func whatIsNotSTUNEndsTheStream() {
    let tables: [(String, [UInt8])] = [
      ("HTTP", ascii("GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
      ("TLS", hex("16030102000100010001fc0303") + [UInt8](repeating: 0, count: 40)),
      ("TLS with a likely length", hex("16030100") + [UInt8](repeating: 0, count: 16)),
      ("no cookie", raw(cookie: 1, [])),
      ("too long", raw([UInt8](repeating: 0, count: 560))),
      ("odd length", raw([0])),
    ]
    for (name, bytes) in tables {
      var decoder = STUNStream()
      let step = decoder.receive(bytes)
      #expect(step.found.isEmpty && !step.goesOn && decoder.isBroken, "\(name)")
      #expect(!decoder.receive(raw([])).goesOn, "\(name): it stays so")
      #expect(decoder.byteCount <= STUNLimits.streamMessageBytes)
    }
  }

  @Test func theReaderMayStopIt() {
    var decoder = STUNStream()
    let step = decoder.receive(raw([]) + raw([]), limit: 1)
    #expect(step.found.count == 1 && !step.goesOn)
  }
}
