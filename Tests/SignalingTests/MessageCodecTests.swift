import Bytes
import NAT
import Signaling
import Testing

/// Every message, once, with every field away from its default.
enum SampleMessages {
  static let candidate = SignalledCandidate(
    kind: .serverReflexive, transport: .tcp, endpoint: Endpoint("[2001:db8::7]:4711")!)
  static let nat = NATFacts(
    mapping: .addressDependent, filtering: .addressAndPortDependent, preservesPort: false,
    allocatorStep: -2, hairpins: true, isUDPBlocked: true)
  static let offer = SignalledOffer(tunnel: "tcp/web", isInbound: true)
  static let member = SignalledMember(
    certificate: [1, 2, 3], isOnline: true, incarnation: 0x1122_3344_5566_7788,
    seenAt: Endpoint("10.0.0.1:99")!, version: "0.1.0", offers: [offer, offer])
  static let update = MeetingUpdate(
    session: 5, candidates: [candidate], nat: nat, isDialling: true)
  static let ticket = RelayTicket(id: 9, secret: [UInt8](0..<32))

  static let key = [UInt8](32..<64)
  static let grant = RelayGrant(
    peer: "nodeB", session: 0x0102_0304_0506_0708, leg: 1, expiry: 1_795_219_260,
    offers: [
      RelayOffer(relay: key, isSuper: false, load: 3, endpoints: [candidate], admission: .code),
      RelayOffer(
        relay: key, isSuper: true, load: 999, endpoints: [candidate, candidate],
        admission: .oneTime(secretNumber: 7, code: key)),
    ])
  static let secrets = [
    SignalledRelaySecret(number: 7, key: key), SignalledRelaySecret(number: 6, key: key),
  ]

  static let client: [ClientMessage] = [
    .login([1, 2, 3]),
    .report(
      ReportBasic(
        os: "linux", version: "0.1.0", incarnation: 77, nat: nat, port: 4001,
        interfaces: [IPAddress("10.1.2.3")!, IPAddress("fe80::1")!], candidates: [candidate],
        offers: [offer],
        relay: RelayReport(
          isSuper: true, tcpPort: 27185, udpPort: 27186, kilobits: 10_000, load: 250))),
    .heartbeat,
    .connect(
      ConnectRequest(
        peer: "nodeB", candidates: [candidate, candidate], nat: nat,
        initiation: [UInt8](repeating: 7, count: 148))),
    .candidates(update), .offers([offer]), .ticket,
    .forward(to: "nodeC", kind: 24, payload: [9, 8]), .answer(ok: false, words: "no"),
    .report(
      ReportBasic(
        os: "", version: "", incarnation: 1, nat: .unknown, port: 1, interfaces: [], offers: [],
        relay: RelayReport(isSuper: false, tcpPort: 1, udpPort: 0, kilobits: 0, load: 1_000))),
    .report(
      ReportBasic(
        os: "", version: "", incarnation: 1, nat: .unknown, port: 1, interfaces: [], offers: [])),
    .relayNodeRequest(
      RelayNodeRequest(
        peer: "nodeB", only: "relayX", exclusions: [key, key],
        measured: [RelayMeasurement(relay: key, microseconds: 12_345)])),
    .relayMeasured([]), .relayMeasured([RelayMeasurement(relay: key, microseconds: .max)]),
  ]

  static let server: [ServerMessage] = [
    .login([4, 5]),
    .welcome(
      Welcome(
        serverTimeNanoseconds: 1 << 60, version: "0.1.0", certificate: [1, 1],
        seenAt: Endpoint("1.2.3.4:5")!, ticket: ticket, evictions: [3], members: [member, member],
        relaySecrets: secrets)),
    .ok, .error(.peerOffline, "nodeB is offline"), .heartbeat(serverTimeNanoseconds: 3),
    .punchStart(
      PunchStart(
        session: 8, channel: 2, certificate: [1], incarnation: 6, candidates: [candidate], nat: nat,
        delayMilliseconds: 50, isNamedInitiator: true, initiation: [1, 2])),
    .candidates(update), .memberChanged(member), .memberRemoved(node: "x"),
    .evictions([1]), .ticket(ticket), .forwarded(from: "a", kind: 1, payload: []),
    .notice(.replaced, "replaced"), .relayNodeResponse(grant), .pushRelayOffer(grant),
    .relayNodeResponse(RelayGrant(peer: "x", session: 1, leg: 0, expiry: 2, offers: [])),
    .relaySecrets(secrets),
    .relayAnnounced(RelayAnnouncement(relay: key, isSuper: true, isPresent: false)),
  ]
}

@Suite struct MessageCodecTests {
  @Test func everyMessageRoundTrips() throws {
    for message in SampleMessages.client {
      let envelope = ClientEnvelope(request: 0xdead_beef, message: message)
      #expect(try ClientEnvelope(decoding: envelope.encoded()) == envelope, "\(message)")
    }
    for message in SampleMessages.server {
      let envelope = ServerEnvelope(request: 3, message: message)
      #expect(try ServerEnvelope(decoding: envelope.encoded()) == envelope, "\(message)")
    }
  }

  @Test func everyTruncationAndExtraByteIsRefused() {
    for message in SampleMessages.client {
      let bytes = ClientEnvelope(request: 1, message: message).encoded()
      for count in 0..<bytes.count {
        #expect(throws: MessageFault.self, "\(message) cut to \(count)") {
          try ClientEnvelope(decoding: Array(bytes[..<count]))
        }
      }
      #expect(throws: MessageFault.self) { try ClientEnvelope(decoding: bytes + [0]) }
    }
    for message in SampleMessages.server {
      let bytes = ServerEnvelope(request: 1, message: message).encoded()
      for count in 0..<bytes.count {
        #expect(throws: MessageFault.self, "\(message) cut to \(count)") {
          try ServerEnvelope(decoding: Array(bytes[..<count]))
        }
      }
      #expect(throws: MessageFault.self) { try ServerEnvelope(decoding: bytes + [0]) }
    }
  }

  @Test func unknownTypesKeepTheirRequestForTheAnswer() {
    #expect(throws: MessageFault.unknownType(0x7777, request: 9)) {
      try ClientEnvelope(decoding: [0x77, 0x77, 0, 0, 0, 9])
    }
    // A server message sent by a node is unknown, not obeyed.
    let welcome = ServerEnvelope(request: 2, message: .ok).encoded()
    #expect(throws: MessageFault.unknownType(0x83, request: 2)) {
      try ClientEnvelope(decoding: welcome)
    }
  }

  @Test func listsBeyondTheirLimitAreRefused() {
    let many = [SignalledCandidate](
      repeating: SampleMessages.candidate, count: SignalLimits.candidates + 1)
    var update = SampleMessages.update
    update.candidates = many
    let bytes = ClientEnvelope(request: 1, message: .candidates(update)).encoded()
    #expect(throws: MessageFault.malformed(type: 0x13, request: 1)) {
      try ClientEnvelope(decoding: bytes)
    }
  }

  @Test func relayListsBeyondTheirLimitsAndLoadsOverAThousandAreRefused() {
    let keys = [[UInt8]](repeating: SampleMessages.key, count: RelaySignalLimits.exclusions + 1)
    let wanted = RelayNodeRequest(peer: "b", exclusions: keys)
    let many = ClientEnvelope(request: 1, message: .relayNodeRequest(wanted)).encoded()
    #expect(throws: MessageFault.malformed(type: 0x18, request: 1)) {
      try ClientEnvelope(decoding: many)
    }
    var grant = SampleMessages.grant
    grant.offers = [RelayOffer](
      repeating: SampleMessages.grant.offers[0], count: RelaySignalLimits.offers + 1)
    let offered = ServerEnvelope(request: 1, message: .relayNodeResponse(grant)).encoded()
    #expect(throws: MessageFault.malformed(type: 0x8e, request: 1)) {
      try ServerEnvelope(decoding: offered)
    }
    let report = ReportBasic(
      os: "", version: "", incarnation: 1, nat: .unknown, port: 1, interfaces: [], offers: [],
      relay: RelayReport(isSuper: false, tcpPort: 1, udpPort: 1, kilobits: 0, load: 1_001))
    let bytes = ClientEnvelope(request: 1, message: .report(report)).encoded()
    #expect(throws: MessageFault.malformed(type: 0x10, request: 1)) {
      try ClientEnvelope(decoding: bytes)
    }
  }

  @Test func legHelloIsExactlyItsBytes() {
    let hello = LegHello(id: 1, counter: 2, proof: [UInt8](repeating: 3, count: 32))
    #expect(LegHello(decoding: hello.encoded()) == hello)
    #expect(LegHello(decoding: Array(hello.encoded().dropLast())) == nil)
    #expect(LegHello(decoding: hello.encoded() + [0]) == nil)
  }
}
