import Bytes
import STUN
import Testing

/// Spans are not for the test macros: bytes as an array.
final class ResponderBox {
  private var responder: STUNResponder
  init(_ responder: STUNResponder) { self.responder = responder }

  var counters: STUNResponderCounters { responder.counters }

  func ask(
    _ bytes: [UInt8], from remote: Endpoint, at local: Endpoint, over transport: STUNTransport,
    now: Instant
  ) -> STUNAnswer? {
    responder.receive(bytes.span.bytes, from: remote, at: local, over: transport, now: now)
  }
}

/// What the server answers, from where, and what it keeps to itself.
@Suite struct ResponderTests {
  static let first = address("198.51.100.1")
  static let second = address("198.51.100.2")
  static let client = at("203.0.113.7:40000")
  static let begin = Instant(nanoseconds: 5_000_000_000)

  /// One address, or the pair; ports 3478 and 3479.
  static func server(
    _ addresses: Int, limits: STUNResponderLimits = STUNResponderLimits()
  ) -> ResponderBox {
    let pairs = [
      STUNServerSettings.AddressPair(first: first, second: second),
      STUNServerSettings.AddressPair(
        first: address("2001:db8::1"), second: address("2001:db8::2")),
    ]
    return ResponderBox(
      STUNResponder(
        settings: STUNServerSettings(
          udp1: 3_478, udp2: 3_479, pairs: addresses == 2 ? pairs : []), limits: limits,
        random: SeededRandom(testSeed: 1)))
  }

  static func request(
    _ change: STUNChange? = nil, fingerprint: Bool = false, kind: STUNClass = .request
  ) -> STUNMessage {
    var message = STUNMessage(kind, STUNTransaction(high: 0xaabb_ccdd, low: 0x1122_3344_5566_7788))
    message.change = change
    message.hasFingerprint = fingerprint
    return message
  }

  @Test func aPlainRequestIsAnsweredFromWhereItCame() throws {
    for local in ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3479", "10.9.9.9:3478"] {
      for addresses in [1, 2] {
        let server = Self.server(addresses)
        let bytes = Self.request().encode()
        let answer = try #require(
          server.ask(bytes, from: Self.client, at: at(local), over: .udp, now: Self.begin))
        #expect(answer.source == at(local))
        let message = try #require(STUNMessage.decode(answer.bytes))
        #expect(message.kind == .success)
        #expect(message.transaction == Self.request().transaction)
        #expect(message.xorMappedAddress == Self.client && message.mappedAddress == Self.client)
        #expect(message.responseOrigin == at(local))
        let other = addresses == 1 ? nil : otherThan(at(local))
        #expect(message.otherAddress == other, "\(local)")
        #expect(!message.hasFingerprint && message.software == nil)
      }
    }
  }

  private func otherThan(_ local: Endpoint) -> Endpoint {
    Endpoint(
      local.address == Self.second ? Self.first : Self.second, local.port == 3_478 ? 3_479 : 3_478)
  }

  @Test func changeRequestsAreAnsweredFromThere() throws {
    for local in [at("198.51.100.1:3478"), at("198.51.100.2:3479")] {
      let other = otherThan(local)
      for (change, source) in [
        (STUNChange(), local), (.port, Endpoint(local.address, other.port)),
        (.address, Endpoint(other.address, local.port)), (STUNChange([.address, .port]), other),
      ] as [(STUNChange, Endpoint)] {
        let server = Self.server(2)
        let bytes = Self.request(change).encode()
        let answer = try #require(
          server.ask(bytes, from: Self.client, at: local, over: .udp, now: Self.begin))
        #expect(answer.source == source, "\(change)")
        let message = try #require(STUNMessage.decode(answer.bytes))
        #expect(message.responseOrigin == source && message.otherAddress == other)
      }
    }
  }

  @Test func withOneAddressOnlyThePortChanges() throws {
    let local = at("198.51.100.1:3479")
    let server = Self.server(1)
    var bytes = Self.request(.port).encode()
    let answer = server.ask(bytes, from: Self.client, at: local, over: .udp, now: Self.begin)
    #expect(answer?.source == at("198.51.100.1:3478"))
    for change in [STUNChange.address, STUNChange([.address, .port])] {
      bytes = Self.request(change).encode()
      let answer = try #require(
        server.ask(bytes, from: Self.client, at: local, over: .udp, now: Self.begin))
      let message = try #require(STUNMessage.decode(answer.bytes))
      #expect(message.kind == .failure && message.refusal?.code == 420)
      #expect(message.unknownAttributes == [0x0003])
      #expect(answer.source == local, "a refusal comes from where it was asked")
    }
    #expect(server.counters.answered == 1 && server.counters.refused == 2)
  }

  /// A pair of another family is no pair.
  @Test func familiesAreTheirOwn() throws {
    let server = ResponderBox(
      STUNResponder(
        settings: STUNServerSettings(
          udp1: 3_478, udp2: 3_479, pairs: [.init(first: Self.first, second: Self.second)]),
        random: SeededRandom(testSeed: 1)))
    let bytes = Self.request().encode()
    let answer = try #require(
      server.ask(
        bytes, from: at("[2001:db8:9::9]:5"), at: at("[2001:db8::1]:3478"), over: .udp,
        now: Self.begin))
    #expect(try #require(STUNMessage.decode(answer.bytes)).otherAddress == nil)
  }

  @Test func overTCPNothingChanges() throws {
    let server = Self.server(2)
    var bytes = Self.request().encode()
    let answer = try #require(
      server.ask(
        bytes, from: Self.client, at: at("198.51.100.1:3480"), over: .tcp,
        now: Self.begin))
    let message = try #require(STUNMessage.decode(answer.bytes))
    #expect(message.xorMappedAddress == Self.client && message.otherAddress == nil)
    #expect(message.responseOrigin == at("198.51.100.1:3480"))
    bytes = Self.request(.port).encode()
    let refusal = try #require(
      server.ask(
        bytes, from: Self.client, at: at("198.51.100.1:3480"), over: .tcp,
        now: Self.begin))
    #expect(try #require(STUNMessage.decode(refusal.bytes)).refusal?.code == 420)
  }

  @Test func whatMustBeUnderstoodIsRefusedByName() throws {
    let server = Self.server(1)
    var attributes: [UInt8] = []
    for type in [0x7001, 0x0027, 0x8aaa, 0x7001, 0x0024] as [UInt16] {
      attributes.appendUInt16(type)
      attributes.appendUInt16(1)
      attributes += [9, 0, 0, 0]
    }
    let answer = try #require(
      server.ask(
        raw(attributes), from: Self.client, at: at("198.51.100.1:3478"), over: .udp,
        now: Self.begin))
    let message = try #require(STUNMessage.decode(answer.bytes))
    #expect(message.refusal?.code == 420)
    #expect(message.unknownAttributes == [0x7001, 0x0027, 0x0024])
    #expect(message.xorMappedAddress == nil && message.otherAddress == nil)
  }

  /// Credentials and padding change nothing.
  @Test func whatNeedsNoAnswerIsLeftOut() throws {
    let server = Self.server(1)
    var request = Self.request()
    request.username = ascii("user")
    request.software = ascii("client")
    var bytes = request.encode(integrityKey: ascii("key"))
    bytes.insert(contentsOf: hex("002604b0") + [UInt8](repeating: 0, count: 1_200), at: 20)
    let length = UInt16(bytes.count - 20)
    bytes[2] = UInt8(length >> 8)
    bytes[3] = UInt8(truncatingIfNeeded: length)
    let answer = try #require(
      server.ask(
        bytes, from: Self.client, at: at("198.51.100.1:3478"), over: .udp,
        now: Self.begin))
    #expect(try #require(STUNMessage.decode(answer.bytes)).kind == .success)
    #expect(answer.bytes.count == 20 + 36)
  }

  @Test func noAnswerIsLongerThan120Bytes() throws {
    var longest = 0
    for (remote, local) in [
      (Self.client, at("198.51.100.1:3478")), (at("[2001:db8:9::9]:5"), at("[2001:db8::2]:3479")),
    ] {
      for addresses in [1, 2] {
        for fingerprint in [false, true] {
          for change in [nil, .port, STUNChange([.address, .port])] as [STUNChange?] {
            let server = Self.server(addresses)
            let bytes = Self.request(change, fingerprint: fingerprint).encode()
            let answer = try #require(
              server.ask(bytes, from: remote, at: local, over: .udp, now: Self.begin)
            )
            longest = max(longest, answer.bytes.count)
            let message = try #require(STUNMessage.decode(answer.bytes))
            #expect(message.hasFingerprint == fingerprint)
            if message.kind == .success { #expect(message.xorMappedAddress == remote) }
          }
        }
      }
    }
    // A refusal of everything there is.
    var attributes: [UInt8] = []
    for type in 0x7000..<0x7100 as Range<UInt16> {
      attributes.appendUInt16(type)
      attributes.appendUInt16(0)
    }
    let server = Self.server(2)
    let answer = try #require(
      server.ask(
        raw(attributes), from: Self.client, at: at("198.51.100.1:3478"), over: .udp,
        now: Self.begin))
    longest = max(longest, answer.bytes.count)
    #expect(longest <= 120 && longest == 116)
  }

  @Test func whatIsNoRequestGetsNoAnswer() {
    let count = { (counters: STUNResponderCounters) in
      [
        counters.notSTUN, counters.malformed, counters.otherMethod, counters.notRequest,
        counters.badSource,
      ]
    }
    let good = Self.request().encode()
    let table: [(String, [UInt8], Endpoint, [UInt64])] = [
      ("nothing", [], Self.client, [1, 0, 0, 0, 0]),
      ("garbage", hex("0102030405060708090a0b0c0d0e0f10"), Self.client, [1, 0, 0, 0, 0]),
      ("cut", Array(good.dropLast()), Self.client, [1, 0, 0, 0, 0]),
      ("longer", good + [0, 0, 0, 0], Self.client, [1, 0, 0, 0, 0]),
      ("without the cookie", raw(cookie: 0, []), Self.client, [1, 0, 0, 0, 0]),
      (
        "WireGuard", [1, 0, 0, 0] + hex("2112a442") + [UInt8](repeating: 0, count: 140),
        Self.client, [1, 0, 0, 0, 0]
      ),
      ("bad attribute", raw(hex("80220005 00000000")), Self.client, [0, 1, 0, 0, 0]),
      ("bad fingerprint", raw(hex("80280004 00000000")), Self.client, [0, 1, 0, 0, 0]),
      ("TURN", raw(type: 0x0003, []), Self.client, [0, 0, 1, 0, 0]),
      ("indication", Self.request(kind: .indication).encode(), Self.client, [0, 0, 0, 1, 0]),
      ("success", Self.request(kind: .success).encode(), Self.client, [0, 0, 0, 1, 0]),
      ("failure", Self.request(kind: .failure).encode(), Self.client, [0, 0, 0, 1, 0]),
      ("from port 0", good, at("203.0.113.7:0"), [0, 0, 0, 0, 1]),
      ("from multicast", good, at("224.0.0.1:5"), [0, 0, 0, 0, 1]),
      ("from everybody", good, at("255.255.255.255:5"), [0, 0, 0, 0, 1]),
      ("from nowhere", good, at("0.0.0.0:5"), [0, 0, 0, 0, 1]),
    ]
    for (name, bytes, source, counts) in table {
      let server = Self.server(2)
      let answer = server.ask(
        bytes, from: source, at: at("198.51.100.1:3478"), over: .udp, now: Self.begin)
      #expect(answer == nil, "\(name)")
      #expect(count(server.counters) == counts, "\(name)")
      #expect(server.counters.answered == 0 && server.counters.refused == 0)
    }
  }

  // MARK: Rates

  private static func limits(source: (Int, Int), total: (Int, Int)) -> STUNResponderLimits {
    var limits = STUNResponderLimits()
    (limits.sourceRate, limits.sourceBurst) = source
    (limits.totalRate, limits.totalBurst) = total
    limits.sources = 1_024
    return limits
  }

  /// How many of `count` requests are answered.
  private static func ask(
    _ server: ResponderBox, _ remote: Endpoint, _ count: Int, _ now: Instant
  ) -> Int {
    let bytes = request().encode()
    return (0..<count).count { _ in
      server.ask(bytes, from: remote, at: at("198.51.100.1:3478"), over: .udp, now: now) != nil
    }
  }

  @Test func oneSourceGetsItsShare() {
    let server = Self.server(1, limits: Self.limits(source: (10, 20), total: (1_000, 1_000)))
    #expect(Self.ask(server, Self.client, 100, Self.begin) == 20, "at once")
    // From another port is the same source; another address is not.
    #expect(Self.ask(server, at("203.0.113.7:1"), 5, Self.begin) == 0)
    #expect(Self.ask(server, at("203.0.113.8:40000"), 5, Self.begin) == 5)
    #expect(Self.ask(server, Self.client, 100, Self.begin + .seconds(1)) == 10, "a second")
    #expect(Self.ask(server, Self.client, 100, Self.begin + .seconds(60)) == 20, "a minute")
    #expect(server.counters.sourceLimit == 80 + 5 + 90 + 80)
    #expect(server.counters.totalLimit == 0)
  }

  @Test func anIPv6NetworkIsOneSource() {
    let server = Self.server(1, limits: Self.limits(source: (10, 20), total: (1_000, 1_000)))
    var answered = 0
    for host in 1...100 {
      answered += Self.ask(server, at("[2001:db8:7:7::\(host)]:5"), 1, Self.begin)
    }
    #expect(answered == 20)
    #expect(Self.ask(server, at("[2001:db8:7:8::1]:5"), 30, Self.begin) == 20)
  }

  /// A flood from made-up sources is answered at the total rate and no faster,
  /// and with the memory there was.
  @Test func allTogetherGetTheTotal() {
    let server = Self.server(1, limits: Self.limits(source: (50, 300), total: (100, 200)))
    var random = SeededRandom(testSeed: 9)
    var answered = 0
    for millisecond in 0..<2_000 as Range<Int64> {
      for _ in 0..<20 {
        let source = IPAddress(v4: 0x0100_0000 | UInt32(random.next() & 0x7fff_ffff))
        answered += Self.ask(
          server, Endpoint(source, 5), 1, Self.begin + .milliseconds(millisecond))
      }
    }
    // The burst, and two seconds of the rate.
    #expect((395...401).contains(answered), "\(answered)")
    #expect(server.counters.answered == UInt64(answered))
    #expect(server.counters.totalLimit > 39_000)
  }

  /// A source over its limit does not use up what others share.
  @Test func oneFloodLeavesRoomForOthers() {
    let server = Self.server(1, limits: Self.limits(source: (10, 20), total: (100, 100)))
    #expect(Self.ask(server, Self.client, 10_000, Self.begin) == 20)
    #expect(Self.ask(server, at("192.0.2.1:7"), 20, Self.begin) == 20)
  }

  /// A clock that stands still or jumps far gives nobody more than a burst.
  @Test func timeMayDoWhatItLikes() {
    let server = Self.server(1, limits: Self.limits(source: (10, 20), total: (1_000, 1_000)))
    #expect(Self.ask(server, Self.client, 50, Self.begin) == 20)
    #expect(Self.ask(server, Self.client, 50, Self.begin - .seconds(3)) == 0)
    #expect(Self.ask(server, Self.client, 50, Self.begin + .hours(24 * 365 * 50)) == 20)
  }
}
