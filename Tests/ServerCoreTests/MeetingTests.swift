import Bytes
import Crypto
import NAT
import Relay
import ServerCore
import Signaling
import Testing

@Suite struct MeetingTests {
  static func two(_ world: World, legs: Bool = true) -> (TestNode, TestNode) {
    let a = TestNode(
      "a", address: Endpoint(IPAddress(203, 0, 113, 1), 1_000), random: &world.random)
    let b = TestNode(
      "b", address: Endpoint(IPAddress(203, 0, 113, 2), 2_000), random: &world.random)
    world.bringUp(a, leg: legs)
    world.bringUp(b, leg: legs)
    return (a, b)
  }

  @Test func bothSidesGetAPunchStartAndAChannelThatCarries() throws {
    let world = World()
    let (a, b) = Self.two(world)
    let request = world.meet(a, "b", initiation: [9, 8, 7])
    guard case .punchStart(let toA) = a.answer(request) else {
      Issue.record("no answer")
      return
    }
    let toB = try #require(b.punches.last)
    #expect(toA.session == toB.session && toA.session != 0)
    #expect(toA.isNamedInitiator && !toB.isNamedInitiator)
    #expect(toA.initiation.isEmpty && toB.initiation == [9, 8, 7])
    #expect(toA.certificate == b.welcome?.certificate && toB.certificate == a.welcome?.certificate)
    #expect(toA.incarnation == b.incarnation)
    #expect(
      toA.candidates.contains(
        SignalledCandidate(
          kind: .host, transport: .udp, endpoint: Endpoint(b.address.address, 30_000))))
    #expect(toA.channel != 0 && toB.channel != 0)
    // Through the relay leg and out at the other side.
    var frame: [UInt8] = []
    frame.appendUInt32(toA.channel)
    frame += [0x04, 0, 3, 5, 5, 5]
    world.server.receiveLeg(frame.span.bytes, connection: try #require(a.leg), now: world.now)
    let out = world.legFrames(b)
    #expect(out.last?.number == toB.channel && out.last?.data == [5, 5, 5])
  }

  @Test func anOfflineOrUnknownPeerIsAnImmediateError() {
    let world = World()
    let (a, b) = Self.two(world)
    world.breakConnection(b)
    #expect(errorCode(a.answer(world.meet(a, "b"))) == .peerOffline)
    #expect(errorCode(a.answer(world.meet(a, "nobody"))) == .peerUnknown)
    #expect(errorCode(a.answer(world.meet(a, "a"))) == .notPermitted)
  }

  @Test func crossingRequestsAreOneMeetingWithOneNamedInitiator() throws {
    let world = World()
    let (a, b) = Self.two(world)
    let first = world.meet(a, "b", initiation: [1])
    world.now = world.now + .milliseconds(40)
    let second = world.meet(b, "a", initiation: [2])
    guard case .punchStart(let toA) = a.answer(first), case .punchStart(let toB) = b.answer(second)
    else {
      Issue.record("no answer")
      return
    }
    #expect(toA.session == toB.session && toA.isNamedInitiator && !toB.isNamedInitiator)
    // The crossing initiation is not forwarded; the first one is.
    #expect(toB.initiation == [1])
    #expect(!a.punches.contains { $0.initiation == [2] })
    #expect(a.punches.count == 1)
    #expect(world.server.statistics.meetings == 1 && world.server.statistics.crossings == 1)
    #expect(world.server.router.openChannelCount == 1)
    // Long after, it is a new meeting on the same channel.
    world.now = world.now + .seconds(3)
    let third = world.meet(b, "a")
    guard case .punchStart(let again) = b.answer(third) else {
      Issue.record("no answer")
      return
    }
    #expect(again.session != toB.session && again.isNamedInitiator)
    #expect(again.channel == toB.channel)
    #expect(a.punches.last?.channel == toA.channel)
    #expect(world.server.router.openChannelCount == 1)
  }

  /// Whoever is told the same again would begin its volley again.
  @Test func aCrossingRequestIsToldOnlyWhenItSaysSomethingNew() throws {
    let world = World()
    let (a, b) = Self.two(world)
    func updates() -> [MeetingUpdate] {
      a.pushes.compactMap { if case .candidates(let update) = $0 { update } else { nil } }
    }
    _ = world.meet(a, "b")
    guard case .punchStart = b.answer(world.meet(b, "a")) else {
      Issue.record("no answer")
      return
    }
    #expect(world.server.statistics.crossings == 1 && updates().isEmpty)
    world.now = world.now + .seconds(3)
    _ = world.meet(a, "b")
    let found = SignalledCandidate(
      kind: .serverReflexive, transport: .udp, endpoint: Endpoint(IPAddress(203, 0, 113, 2), 777))
    _ = world.ask(
      .connect(ConnectRequest(peer: "a", candidates: [found], nat: .unknown, initiation: [])),
      from: b)
    #expect(world.server.statistics.crossings == 2)
    #expect(updates().count == 1 && updates().first?.candidates.contains(found) == true)
  }

  @Test func aMeetingWaitsForTheOthersLegButNotForEver() throws {
    let world = World()
    let (a, b) = Self.two(world, legs: false)
    world.openLeg(a)
    let request = world.meet(a, "b")
    #expect(a.answer(request) == nil)
    // Crossing while it waits.
    let crossing = world.meet(b, "a")
    world.run(.milliseconds(100))
    world.openLeg(b)
    guard case .punchStart(let toA) = a.answer(request),
      case .punchStart(let toB) = b.answer(crossing)
    else {
      Issue.record("no answer")
      return
    }
    #expect(toA.channel != 0 && toB.channel != 0 && toA.session == toB.session)
    #expect(toA.isNamedInitiator && !toB.isNamedInitiator)

    let other = World()
    let (c, d) = Self.two(other, legs: false)
    let alone = other.meet(c, "b")
    other.run(.milliseconds(1_499))
    #expect(c.answer(alone) == nil && d.punches.isEmpty)
    other.run(.milliseconds(2))
    guard case .punchStart(let bare) = c.answer(alone) else {
      Issue.record("no answer")
      return
    }
    #expect(bare.channel == 0 && d.punches.count == 1)
  }

  @Test func aPeerThatLeavesWhileAMeetingWaitsIsReportedAtOnce() {
    let world = World()
    let (a, b) = Self.two(world, legs: false)
    let request = world.meet(a, "b")
    world.breakConnection(b)
    #expect(errorCode(a.answer(request)) == .peerOffline)
    #expect(world.server.meetingCount == 0)
  }

  @Test func newCandidatesGoToTheOtherSide() throws {
    let world = World()
    let (a, b) = Self.two(world)
    _ = world.meet(a, "b")
    let session = try #require(b.punches.last).session
    let found = SignalledCandidate(
      kind: .serverReflexive, transport: .udp, endpoint: Endpoint(IPAddress(203, 0, 113, 2), 777))
    var update = MeetingUpdate(
      session: session, candidates: [found], nat: NATFacts(mapping: .none, filtering: .unknown),
      isDialling: true)
    let request = world.ask(.candidates(update), from: b)
    #expect(b.answer(request) == .ok)
    guard case .candidates(let news) = a.pushes.last else {
      Issue.record("nothing pushed")
      return
    }
    #expect(news.session == session && news.candidates.contains(found))
    #expect(news.nat == update.nat && news.isDialling)
    let c = TestNode("c", random: &world.random)
    world.bringUp(c)
    #expect(
      errorCode(c.answer(world.ask(.candidates(update), from: c)))
        == .peerUnknown)
    world.breakConnection(a)
    update.candidates = []
    #expect(errorCode(b.answer(world.ask(.candidates(update), from: b))) == .peerOffline)
  }

  @Test func theDelayLetsBothBeginTogether() throws {
    let world = World()
    let near = TestNode("near", random: &world.random)
    let far = TestNode("far", random: &world.random)
    world.bringUp(near)
    // A login whose confirm comes 200 ms after the shares.
    let id = world.nextConnection
    world.nextConnection += 1
    far.connection = id
    world.server.connectionOpened(
      id, kind: .signalling, address: far.address, exporter: [], seals: true, now: world.now)
    var login = LoginClient(
      node: "far", staticKey: far.key, verifier: LoginVerifier(token: 7, cost: .cheap),
      nodeSecret: nil, exporter: [])
    let hello = login.start(using: &world.random)
    far.login = login
    world.server.receive(
      ClientEnvelope(request: 0, message: .login(hello)).encoded(), connection: id, now: world.now)
    world.now = world.now + .milliseconds(200)
    world.nodes[id] = far
    world.pump()
    world.report(far)
    world.openLeg(far)
    _ = world.meet(near, "far")
    #expect(near.punches.last?.delayMilliseconds == 100)
    #expect(far.punches.last?.delayMilliseconds == 0)
    // The login was held up by a lost segment: the way is known better after a
    // question that was not.
    _ = world.ask(.heartbeat, from: far)
    let question = try #require(far.inbox.last { $0.request >= 1 << 31 })
    #expect(question.message == .candidates(.none))
    world.now = world.now + .milliseconds(40)
    world.send(.answer(ok: true, words: ""), request: question.request, from: far)
    world.send(.answer(ok: true, words: ""), request: question.request, from: far)
    world.run(.seconds(3))
    _ = world.meet(near, "far")
    #expect(near.punches.last?.delayMilliseconds == 20)
  }

  @Test func theOperatorMayBringTwoTogether() {
    let world = World()
    let (a, b) = Self.two(world)
    let done = world.server.introduce(from: "a", to: "b", now: world.now)
    let not = world.server.introduce(from: "a", to: "x", now: world.now)
    world.pump()
    #expect(done && !not)
    #expect(a.punches.last?.isNamedInitiator == true && b.punches.last?.isNamedInitiator == false)
  }

  @Test func aNewLoginIsNotToldOfAChannelOnTheFormerLeg() throws {
    let world = World()
    let (a, b) = Self.two(world)
    _ = world.meet(a, "b")
    let old = try #require(a.leg)
    world.now = world.now + .seconds(3)
    // It comes back from elsewhere; the server has not heard that its leg is dead.
    let again = TestNode(
      "a", key: a.key, address: Endpoint(IPAddress(198, 51, 100, 7), 5), random: &world.random)
    again.secret = a.secret
    world.bringUp(again, leg: false)
    #expect(!world.server.router.hasLeg(old))
    _ = world.meet(again, "b")
    #expect(b.punches.count == 1, "the meeting waits for the new leg")
    world.openLeg(again)
    #expect(b.punches.count == 2 && again.punches.last?.channel != 0)
    #expect(world.server.router.openChannelCount == 1)
  }

  @Test func legsNeedAFreshProofAndANewOneReplacesTheOld() throws {
    let world = World()
    let (a, b) = Self.two(world)
    _ = world.meet(a, "b")
    let old = try #require(a.leg)
    let ticket = try #require(a.ticket)
    // Replayed counter, wrong proof, unknown ticket, wrong length: closed.
    world.openLeg(a, counter: 1)
    #expect(a.legClosed == [.badLegTicket])
    world.openLeg(a, proof: [UInt8](repeating: 0, count: 32))
    a.ticket = RelayTicket(id: ticket.id &+ 1, secret: ticket.secret)
    world.openLeg(a)
    a.ticket = ticket
    #expect(a.legClosed == [.badLegTicket, .badLegTicket, .badLegTicket])
    #expect(world.server.router.hasLeg(old) && world.server.router.openChannelCount == 1)
    world.openLeg(a)
    #expect(a.legClosed.last == .legReplaced && !world.server.router.hasLeg(old))
    #expect(world.server.router.openChannelCount == 0)
    #expect(a.legMessages.last == [])
    // Meeting again gives a new channel.
    world.now = world.now + .seconds(3)
    _ = world.meet(a, "b")
    #expect(b.punches.last?.channel != 0 && world.server.router.openChannelCount == 1)
    // A new ticket ends the old one.
    world.ask(.ticket, from: a)
    let fresh = try #require(a.ticket)
    a.ticket = ticket
    a.legCounter = 50
    world.openLeg(a)
    #expect(a.legClosed.last == .badLegTicket)
    a.ticket = fresh
    a.legCounter = 0
    world.openLeg(a)
    #expect(a.leg != nil)
  }

  @Test func aLegOutlivesItsSignallingConnectionForAWhile() throws {
    let world = World()
    let (a, b) = Self.two(world)
    _ = world.meet(a, "b")
    let leg = try #require(a.leg)
    world.breakConnection(a)
    var ping: [UInt8] = []
    ping.appendUInt32(0)
    ping += [0x08, 0, 0]
    for _ in 0..<9 {
      world.run(.minutes(1))
      world.server.receiveLeg(ping.span.bytes, connection: leg, now: world.now)
    }
    #expect(world.server.router.hasLeg(leg))
    for _ in 0..<3 {
      world.server.receiveLeg(ping.span.bytes, connection: leg, now: world.now)
      world.run(.minutes(1))
    }
    #expect(!world.server.router.hasLeg(leg))
    #expect(b.connection == nil)
  }

  @Test func anIdleLegIsAskedAndKeptWhileItAnswers() throws {
    let world = World()
    let (a, b) = Self.two(world)
    let leg = try #require(a.leg)
    _ = world.legFrames(a)
    var asked = 0
    for _ in 0..<30 {
      world.run(.seconds(10))
      for node in [a, b] { world.ask(.heartbeat, from: node) }
      for frame in world.legFrames(a) where frame.flags == 0x08 {
        asked += 1
        var pong: [UInt8] = []
        pong.appendUInt32(frame.number)
        pong += [0x10, 0, 0]
        world.server.receiveLeg(pong.span.bytes, connection: leg, now: world.now)
      }
    }
    #expect((8...10).contains(asked))
    #expect(a.leg == leg && a.legClosed.isEmpty)
    // The one that does not answer is gone.
    #expect(b.legClosed == [.silent])
  }

  @Test func aLegThatSendsNonsenseIsClosed() throws {
    let world = World()
    let (a, _) = Self.two(world)
    for _ in 0..<80 {
      guard let leg = a.leg else { break }
      world.server.receiveLeg([1, 2, 3].span.bytes, connection: leg, now: world.now)
      world.pump()
    }
    #expect(a.legClosed == [.relayMisuse] && a.connection != nil)
  }

  @Test func connectRequestsAreLimited() {
    let world = World()
    let (a, _) = Self.two(world)
    var limited = false
    for _ in 0..<400 where errorCode(a.answer(world.meet(a, "b"))) == .limit { limited = true }
    #expect(limited)
  }

  @Test func meetingsAreForgotten() {
    let world = World()
    let (a, b) = Self.two(world)
    _ = world.meet(a, "b")
    #expect(world.server.meetingCount == 1)
    world.breakLeg(a)
    for _ in 0..<4 {
      world.run(.seconds(20))
      world.ask(.heartbeat, from: a)
      world.ask(.heartbeat, from: b)
    }
    #expect(world.server.meetingCount == 0)
  }

  @Test func candidateRules() {
    let publicA = CandidateFacts(
      seenAt: IPAddress(203, 0, 113, 1), interfaces: [IPAddress(192, 168, 1, 5)], port: 5_000)
    let publicB = CandidateFacts(
      seenAt: IPAddress(203, 0, 113, 2), interfaces: [IPAddress(192, 168, 2, 5)], port: 5_000)
    let sameLAN = CandidateFacts(
      seenAt: IPAddress(203, 0, 113, 3), interfaces: [IPAddress(192, 168, 1, 9)], port: 5_000)
    let sameNAT = CandidateFacts(
      seenAt: IPAddress(203, 0, 113, 1), interfaces: [IPAddress(10, 0, 0, 1)], port: 5_000)
    let local = CandidateFacts(seenAt: .loopbackV4, interfaces: [], port: 5_000)
    let inner = CandidateFacts(
      seenAt: IPAddress(10, 1, 1, 1), interfaces: [IPAddress(10, 1, 1, 1)], port: 5_000)
    let inner2 = CandidateFacts(
      seenAt: IPAddress(10, 1, 2, 1), interfaces: [IPAddress(10, 1, 2, 1)], port: 5_000)
    let table: [(String, SignalledCandidate.Transport, CandidateFacts, CandidateFacts, Bool)] = [
      ("203.0.113.1:5000", .udp, publicA, publicB, true),
      ("192.168.1.5:5000", .udp, publicA, publicB, false),
      ("192.168.1.5:5000", .udp, publicA, sameLAN, true),
      ("192.168.1.5:5000", .udp, publicA, sameNAT, true),
      ("10.1.1.1:5000", .udp, inner, inner2, true),
      ("10.1.1.1:5000", .udp, inner, publicB, false),
      ("127.0.0.1:5000", .udp, local, local, true),
      ("127.0.0.1:5000", .udp, publicA, local, false),
      ("127.0.0.1:5000", .udp, local, publicA, false),
      ("10.9.9.9:5000", .udp, local, local, true),
      ("224.0.0.1:5000", .udp, publicA, publicB, false),
      ("255.255.255.255:5000", .udp, publicA, publicB, false),
      ("0.0.0.0:5000", .udp, publicA, publicB, false),
      ("203.0.113.1:0", .udp, publicA, publicB, false),
      ("[fe80::1]:5000", .udp, publicA, sameNAT, false),
      ("[ff02::1]:5000", .udp, publicA, publicB, false),
      ("[2001:db8::1]:5000", .udp, publicA, publicB, true),
      ("203.0.113.1:5000", .tcp, publicA, publicB, true),
      ("203.0.113.1:5001", .tcp, publicA, publicB, false),
      (
        "203.0.113.1:22", .tcp, CandidateFacts(seenAt: publicA.seenAt, interfaces: [], port: 22),
        publicB, false
      ),
      (
        "203.0.113.1:443", .tcp, CandidateFacts(seenAt: publicA.seenAt, interfaces: [], port: 443),
        publicB, true
      ),
    ]
    for (text, transport, owner, receiver, expected) in table {
      let candidate = SignalledCandidate(
        kind: .host, transport: transport, endpoint: Endpoint(text) ?? .none)
      #expect(
        CandidateRule.allows(candidate, of: owner, to: receiver) == expected,
        "\(text) \(transport)")
    }
  }
}
