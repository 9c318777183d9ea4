import Bytes
import Crypto
import NAT
import Relay
import ServerCore
import Signaling
import Testing

/// Which relays a pair is offered, in which order, and what lets it in.
@Suite struct RelayDirectoryTests {
  final class Setup {
    var directory = RelayDirectory(seed: [UInt8](repeating: 3, count: 32), unixSeconds: someDay)
    var number: UInt32 = 100
    let a = Setup.node(1, "a")
    let b = Setup.node(2, "b")
    var now = at(0)

    static func key(_ number: UInt32) -> [UInt8] {
      SHA256.hash([UInt8(truncatingIfNeeded: number), UInt8(truncatingIfNeeded: number >> 8)])
    }

    static func node(_ number: UInt32, _ name: String) -> DirectoryNode {
      DirectoryNode(
        member: number, name: name, key: key(number),
        facts: CandidateFacts(
          seenAt: IPAddress(203, 0, 113, UInt8(number)), interfaces: [], port: 4_000),
        roundTrip: .milliseconds(20))
    }

    @discardableResult
    func relay(
      _ name: String, mesh: Int = 0, isSuper: Bool = false, load: UInt16 = 0,
      roundTrip: TimeAmount = .milliseconds(20), member: UInt32? = nil
    ) -> [UInt8] {
      number += 1
      let member = member ?? number
      let relay = DirectoryRelay(
        member: member, mesh: mesh, name: name, key: Self.key(member),
        report: RelayReport(
          isSuper: isSuper, tcpPort: 27_185, udpPort: 27_185, kilobits: 10_000, load: load),
        facts: CandidateFacts(
          seenAt: IPAddress(v4: 0xc612_0000 + member), interfaces: [IPAddress(192, 168, 1, 4)],
          port: 4_000), roundTrip: roundTrip)
      _ = directory.announce(relay)
      return relay.key
    }

    func ask(
      only: String = "", exclusions: [[UInt8]] = [], hasToken: Bool = true, swapped: Bool = false
    ) -> (asker: RelayGrant, peer: RelayGrant) {
      directory.offer(
        to: swapped ? b : a, and: swapped ? a : b, mesh: 0, hasToken: hasToken, only: only,
        exclusions: exclusions, unixSeconds: someDay, now: now)
    }

    /// Keys offered, and both sides see the same.
    func offered(only: String = "", exclusions: [[UInt8]] = []) -> [[UInt8]] {
      now += .seconds(10)
      let grants = ask(only: only, exclusions: exclusions)
      #expect(grants.asker.offers.map(\.relay) == grants.peer.offers.map(\.relay))
      return grants.asker.offers.map(\.relay)
    }
  }

  @Test func ownRelaysComeBeforeSuperOnesAndThoseOfOthersNever() {
    let s = Setup()
    let stranger = s.relay("stranger", mesh: 1)
    let far = s.relay("far", mesh: 1, isSuper: true)
    let own = s.relay("own", load: 700, roundTrip: .milliseconds(300))
    let ownSuper = s.relay("ownSuper", isSuper: true, roundTrip: .milliseconds(10))
    let offered = s.offered()
    #expect(offered == [own, ownSuper, far])
    #expect(!offered.contains(stranger))
  }

  @Test func aRelayIsNeverOfferedToItself() {
    let s = Setup()
    s.relay("a", member: 1)
    s.relay("b", member: 2)
    #expect(s.offered().isEmpty)
    let other = s.relay("c")
    #expect(s.offered() == [other])
  }

  @Test func exclusionsAndTheOneWantedAreKept() {
    let s = Setup()
    let first = s.relay("r1")
    let second = s.relay("r2", load: 300)
    let elsewhere = s.relay("r2", mesh: 1, isSuper: true)
    #expect(s.offered() == [first, second, elsewhere])
    #expect(s.offered(exclusions: [first]) == [second, elsewhere])
    #expect(s.offered(only: "r2") == [second], "names are of the own mesh")
    #expect(s.offered(only: "r2", exclusions: [second]).isEmpty)
    #expect(s.offered(only: "nobody").isEmpty)
  }

  @Test func loadFirstThenTheMeasuredRoundTrip() {
    let s = Setup()
    let near = s.relay("near", load: 600, roundTrip: .milliseconds(1))
    let idle = s.relay("idle", load: 100, roundTrip: .milliseconds(90))
    let alike = s.relay("alike", load: 200, roundTrip: .milliseconds(30))
    #expect(s.offered() == [alike, idle, near])
    // What the ends measured themselves counts more than the way by the server.
    s.directory.learn([RelayMeasurement(relay: idle, microseconds: 2_000)], from: 1)
    s.directory.learn([RelayMeasurement(relay: idle, microseconds: 3_000)], from: 2)
    #expect(s.offered() == [idle, alike, near])
    s.directory.forget(member: 1)
    s.directory.forget(member: 2)
    #expect(s.offered() == [alike, idle, near])
  }

  @Test func crowdedRelaysComeLastAndFullOnesNot() {
    let s = Setup()
    let crowded = s.relay("crowded", load: 960)
    s.relay("full", load: 1_000)
    let shared = s.relay("super", mesh: 1, isSuper: true, load: 200)
    #expect(s.offered() == [shared, crowded])
  }

  @Test func atMostFourAndTheSameForTheSameSeed() {
    let s = Setup()
    for number in 0..<9 { s.relay("r\(number)") }
    let offered = s.offered()
    #expect(offered.count == 4 && Set(offered).count == 4)
    #expect(s.offered() == offered)
  }

  @Test func onlyReachableAddressesAreTold() {
    let s = Setup()
    s.relay("r")
    let offer = s.ask().asker.offers[0]
    #expect(offer.endpoints.map(\.transport) == [.tcp, .udp])
    #expect(offer.endpoints.allSatisfy { $0.endpoint.port == 27_185 })
    #expect(!offer.endpoints.contains { $0.endpoint.address.isPrivate })
  }

  @Test func theTwoLegsAgreeAndCrossingRequestsAreOneSession() {
    let s = Setup()
    let relay = s.relay("r")
    let first = s.ask()
    #expect(first.asker.session == first.peer.session && first.asker.session != 0)
    #expect(first.asker.leg == 0 && first.peer.leg == 1)
    #expect(first.asker.peer == "b" && first.peer.peer == "a")
    s.now += .seconds(1)
    let crossing = s.ask(swapped: true)
    #expect(crossing.asker == first.peer && crossing.peer == first.asker)
    // One that failed is not given again.
    #expect(s.ask(exclusions: [relay]).asker.offers.isEmpty)
    s.now += .seconds(6)
    #expect(s.ask().asker.session != first.asker.session)
  }

  @Test func ownRelaysNeedNoTokenOthersAndPermitMeshesDo() {
    let s = Setup()
    let own = s.relay("own")
    let shared = s.relay("super", mesh: 1, isSuper: true)
    let grants = s.ask()
    #expect(grants.asker.offers.map(\.relay) == [own, shared])
    #expect(grants.asker.offers[0].admission == .code)
    guard case .oneTime = grants.asker.offers[1].admission else {
      Issue.record("no token")
      return
    }
    s.now += .seconds(10)
    for offer in s.ask(hasToken: false).asker.offers {
      #expect(offer.admission != .code)
    }
  }

  /// The whole way: directory → grant → guest → relay.
  @Test func theTokenIssuedIsTheOneARelayAccepts() throws {
    let s = Setup()
    var random = SeededRandom(testSeed: 8)
    let keys = (0..<3).map { _ in X25519.generate(using: &random) }
    func node(_ number: UInt32, _ key: KeyPair) -> DirectoryNode {
      var node = Setup.node(number, "n\(number)")
      node.key = key.publicKey
      return node
    }
    var relay = DirectoryRelay(
      member: 9, mesh: 1, name: "s", key: keys[2].publicKey,
      report: RelayReport(isSuper: true, tcpPort: 1_025, udpPort: 0, kilobits: 0, load: 0),
      facts: CandidateFacts(seenAt: IPAddress(198, 18, 0, 1), interfaces: [], port: 1),
      roundTrip: .zero)
    relay.report.load = 1
    _ = s.directory.announce(relay)
    var admission = RelayAdmission(key: keys[2], token: 99, acceptsTokens: true)
    admission.setServerTime(unixNanoseconds: someDay * 1_000_000_000, now: at(0))
    func takeSecrets() {
      admission.setSecrets(
        s.directory.secrets(of: relay.key).map { RelaySecret(number: $0.number, key: $0.key) })
    }
    takeSecrets()

    func handshake(_ grant: RelayGrant, from: KeyPair, to: KeyPair) throws -> [UInt8] {
      let offer = try #require(grant.offers.first)
      guard case .oneTime(let number, let code) = offer.admission else {
        Issue.record("no token")
        return []
      }
      let request = RelayHandshake(
        session: grant.session, leg: grant.leg, from: from.publicKey, to: to.publicKey,
        relay: offer.relay, expiry: grant.expiry, nonce: random.bytes(16),
        admission: .token(RelayToken(secretNumber: number, code: code)))
      let ephemeral = X25519.generate(using: &random)
      return try #require(request.sealed(from: from, ephemeral: ephemeral)).message
    }
    let grants = s.directory.offer(
      to: node(1, keys[0]), and: node(2, keys[1]), mesh: 0, hasToken: true, only: "",
      exclusions: [], unixSeconds: someDay, now: at(0))
    for (grant, from, to) in [
      (grants.asker, keys[0], keys[1]), (grants.peer, keys[1], keys[0]),
    ] {
      let admitted = try admission.admit(try handshake(grant, from: from, to: to), now: at(1))
      #expect(admitted.isOneTime && admitted.handshake.leg == grant.leg)
      #expect(throws: RelayRefused.self) {
        try admission.admit(try handshake(grant, from: from, to: to), now: at(2))
      }
    }
    // The next day: tokens of today hold at who has heard of it, and only there.
    let isNewDay = [1, 86_400].map { s.directory.rotate(unixSeconds: someDay + $0) }
    #expect(isNewDay == [false, true])
    let tomorrow = someDay + 86_400
    admission.setServerTime(unixNanoseconds: tomorrow * 1_000_000_000, now: at(10_000))
    let later = s.directory.offer(
      to: node(1, keys[0]), and: node(2, keys[1]), mesh: 0, hasToken: true, only: "",
      exclusions: [], unixSeconds: tomorrow, now: at(10_000))
    #expect(throws: RelayRefused.self) {
      try admission.admit(
        try handshake(later.asker, from: keys[0], to: keys[1]), now: at(10_000))
    }
    takeSecrets()
    _ = try admission.admit(
      try handshake(later.peer, from: keys[1], to: keys[0]), now: at(10_000))
  }

  // MARK: In the server

  private func report(_ node: TestNode, relay: RelayReport?) -> ClientMessage {
    .report(
      ReportBasic(
        os: "linux", version: "0.1.0", incarnation: node.incarnation, nat: .unknown, port: 30_000,
        interfaces: [node.address.address], offers: [], relay: relay))
  }

  private func announcements(_ node: TestNode) -> [RelayAnnouncement] {
    node.pushes.compactMap {
      if case .relayAnnounced(let announcement) = $0 { announcement } else { nil }
    }
  }

  static let relayReport = RelayReport(
    isSuper: false, tcpPort: 27_185, udpPort: 27_185, kilobits: 10_000, load: 0)

  @Test func relaysAreAnnouncedOfferedAndWithdrawnLive() throws {
    let world = World(tokens: [7, 8])
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    let r = TestNode(
      "r", address: Endpoint(IPAddress(198, 51, 100, 9), 1), random: &world.random)
    let other = TestNode("x", token: 8, random: &world.random)
    for node in [a, b, r, other] { world.bringUp(node) }
    #expect(r.welcome?.relaySecrets.count == 2)
    #expect(r.welcome?.relaySecrets != a.welcome?.relaySecrets)

    world.ask(report(r, relay: Self.relayReport), from: r)
    let arrival = RelayAnnouncement(relay: r.key.publicKey, isSuper: false, isPresent: true)
    #expect(announcements(a) == [arrival] && announcements(b) == [arrival])
    #expect(announcements(r).isEmpty && announcements(other).isEmpty)
    // The load alone is no news.
    var busier = Self.relayReport
    busier.load = 400
    world.ask(report(r, relay: busier), from: r)
    #expect(announcements(a).count == 1)

    let request = world.ask(.relayNodeRequest(RelayNodeRequest(peer: "b")), from: a)
    guard case .relayNodeResponse(let grant)? = a.answer(request) else {
      Issue.record("no answer")
      return
    }
    #expect(grant.offers.map(\.relay) == [r.key.publicKey] && grant.offers[0].load == 400)
    #expect(grant.leg == 0 && grant.expiry > world.wall / 1_000_000_000)
    let pushed = b.pushes.compactMap {
      if case .pushRelayOffer(let grant) = $0 { grant } else { nil }
    }
    #expect(pushed.count == 1 && pushed.first?.session == grant.session && pushed.first?.leg == 1)

    world.breakConnection(r)
    #expect(announcements(a).last?.isPresent == false)
    let again = world.ask(.relayNodeRequest(RelayNodeRequest(peer: "b")), from: a)
    guard case .relayNodeResponse(let empty)? = a.answer(again) else {
      Issue.record("no answer")
      return
    }
    #expect(empty.offers.isEmpty, "none is an answer too")
    #expect(b.pushes.count { if case .pushRelayOffer = $0 { true } else { false } } == 1)
  }

  /// What both ends measured, added up, orders relays of one layer and load.
  @Test func measuredRoundTripsOrderTheOffers() {
    let world = World(tokens: [7])
    let nodes = ["a", "b", "far", "near"].enumerated().map { index, name in
      TestNode(
        name, address: Endpoint(IPAddress(198, 51, 100, UInt8(20 + index)), 1),
        random: &world.random)
    }
    for node in nodes { world.bringUp(node) }
    let (a, b, far, near) = (nodes[0], nodes[1], nodes[2], nodes[3])
    for relay in [far, near] { world.ask(report(relay, relay: Self.relayReport), from: relay) }
    for node in [a, b] { world.ask(report(node, relay: nil), from: node) }
    func told(_ relay: TestNode, _ microseconds: UInt32) -> RelayMeasurement {
      RelayMeasurement(relay: relay.key.publicKey, microseconds: microseconds)
    }
    // Near to one of them is not enough.
    world.ask(.relayMeasured([told(far, 1_000), told(near, 9_000)]), from: a)
    world.ask(.relayMeasured([told(far, 30_000), told(near, 9_000)]), from: b)
    let request = world.ask(.relayNodeRequest(RelayNodeRequest(peer: "b")), from: a)
    guard case .relayNodeResponse(let grant)? = a.answer(request) else {
      Issue.record("no answer")
      return
    }
    #expect(grant.offers.map(\.relay) == [near.key.publicKey, far.key.publicKey])
  }

  @Test func aSuperRelayServesBothMeshesAndNeitherSeesTheOther() {
    let world = World(tokens: [7, 8])
    let a = TestNode("a", token: 8, random: &world.random)
    let b = TestNode("b", token: 8, random: &world.random)
    let r = TestNode(
      "r", address: Endpoint(IPAddress(198, 51, 100, 9), 1), random: &world.random)
    for node in [a, b, r] { world.bringUp(node) }
    var shared = Self.relayReport
    shared.isSuper = true
    world.ask(report(r, relay: shared), from: r)
    #expect(announcements(a).map(\.isSuper) == [true])
    let request = world.ask(.relayNodeRequest(RelayNodeRequest(peer: "b")), from: a)
    guard case .relayNodeResponse(let grant)? = a.answer(request), let offer = grant.offers.first
    else {
      Issue.record("no answer")
      return
    }
    #expect(offer.isSuper && offer.admission != .code)
    // By name it cannot be had from there: names are of a mesh.
    let named = world.ask(
      .relayNodeRequest(RelayNodeRequest(peer: "b", only: "r")), from: a)
    guard case .relayNodeResponse(let none)? = a.answer(named) else {
      Issue.record("no answer")
      return
    }
    #expect(none.offers.isEmpty)
    // No more a super one: that mesh hears that it is gone.
    world.ask(report(r, relay: Self.relayReport), from: r)
    #expect(announcements(a).last?.isPresent == false)
  }

  @Test func relaysGetNewSecretsEveryDay() {
    let world = World()
    let r = TestNode(
      "r", address: Endpoint(IPAddress(198, 51, 100, 9), 1), random: &world.random)
    let a = TestNode("a", random: &world.random)
    world.bringUp(r)
    world.bringUp(a)
    world.ask(report(r, relay: Self.relayReport), from: r)
    world.server.setClock(
      unixNanoseconds: (someDay + 86_400) * 1_000_000_000, now: world.now)
    world.run(.seconds(2))
    let pushed = r.pushes.compactMap {
      if case .relaySecrets(let secrets) = $0 { secrets } else { nil }
    }
    #expect(pushed.count == 1)
    #expect(pushed.first?.last == r.welcome?.relaySecrets.first, "yesterday's is the older now")
    #expect(!a.pushes.contains { if case .relaySecrets = $0 { true } else { false } })
  }

  @Test func questionsThatCannotBeAnsweredGetATypedError() {
    let world = World()
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.bringUp(a)
    world.bringUp(b)
    world.breakConnection(b)
    func code(_ peer: String) -> SignalErrorCode? {
      errorCode(
        a.answer(world.ask(.relayNodeRequest(RelayNodeRequest(peer: peer)), from: a)))
    }
    #expect(code("a") == .notPermitted)
    #expect(code("b") == .peerOffline)
    #expect(code("nobody") == .peerUnknown)
  }
}
