import Bytes
import Crypto
import NAT
import ServerCore
import Signaling
import Testing

@Suite struct RegistryTests {
  @Test("F1: every request gets an answer or a typed error")
  func F1everyRequestGetsAnAnswerOrATypedError() {
    let world = World()
    let node = TestNode("nodeA", random: &world.random)
    world.bringUp(node)
    let requests: [ClientMessage] = [
      .heartbeat, .offers([]), .ticket,
      .candidates(MeetingUpdate(session: 1, candidates: [], nat: .unknown)),
      .forward(to: "nobody", kind: 1, payload: []), .login([1, 2]),
      .connect(ConnectRequest(peer: "nobody", candidates: [], nat: .unknown, initiation: [])),
      .connect(ConnectRequest(peer: "nodeA", candidates: [], nat: .unknown, initiation: [])),
      .report(
        ReportBasic(
          os: "", version: "", incarnation: 0, nat: .unknown, port: 0, interfaces: [], offers: [])),
    ]
    for message in requests {
      let request = world.ask(message, from: node)
      #expect(node.answer(request) != nil, "\(message)")
    }
    // A type that does not exist, and each known type with a broken body.
    for type: UInt16 in [0, 0x01, 0x10, 0x12, 0x13, 0x14, 0x16, 0x7f, 0xffff] {
      var bytes: [UInt8] = []
      bytes.appendUInt16(type)
      bytes.appendUInt32(0x5000 + UInt32(type))
      bytes += [1]
      world.raw(bytes, from: node)
      let code = errorCode(node.answer(0x5000 + UInt32(type)))
      let isKnown = (0x01...0x17).contains(type)
      #expect(code == (isKnown ? .malformed : .unknownType), "type \(type)")
    }
    #expect(node.connection != nil)
  }

  @Test("F2: every push is forwarded, or refused to its sender")
  func F2everyPushIsForwardedOrRefusedToItsSender() {
    let world = World()
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.bringUp(a)
    world.bringUp(b)
    for kind: UInt16 in 0...24 {
      let request = world.ask(.forward(to: "b", kind: kind, payload: [UInt8(kind)]), from: a)
      #expect(a.answer(request) == .ok)
      #expect(b.pushes.last == .forwarded(from: "a", kind: kind, payload: [UInt8(kind)]))
    }
    world.breakConnection(b)
    #expect(
      errorCode(a.answer(world.ask(.forward(to: "b", kind: 1, payload: []), from: a)))
        == .peerOffline)
    #expect(
      errorCode(a.answer(world.ask(.forward(to: "x", kind: 1, payload: []), from: a)))
        == .peerUnknown)
  }

  @Test("F3: heartbeats carry server time whatever the clock does")
  func F3heartbeatsCarryServerTimeWhateverTheClockDoes() {
    let world = World()
    let node = TestNode("a", random: &world.random)
    world.bringUp(node)
    world.run(.seconds(30))
    let request = world.ask(.heartbeat, from: node)
    #expect(
      node.answer(request) == .heartbeat(serverTimeNanoseconds: (someDay + 30) * 1_000_000_000))
    world.server.setClock(unixNanoseconds: 1_000_000_000, now: world.now)
    world.run(.seconds(1))
    let second = world.ask(.heartbeat, from: node)
    #expect(node.answer(second) == .heartbeat(serverTimeNanoseconds: 2_000_000_000))
    // Certificates issued by a clock far back are not born before their elders.
    let late = TestNode("b", random: &world.random)
    world.connect(late)
    let certificate = try? Certificate(decoding: late.welcome?.certificate ?? [])
    #expect((certificate?.issuedAt ?? 0) >= someDay)
  }

  @Test func aSilentNodeIsOfflineWithin75SecondsAndOneThatSpeaksStays() {
    let world = World()
    let quiet = TestNode("quiet", random: &world.random)
    let alive = TestNode("alive", random: &world.random)
    world.bringUp(quiet, leg: false)
    world.bringUp(alive, leg: false)
    var offlineAt: Instant?
    for _ in 0..<20 {
      world.run(.seconds(5))
      world.ask(.heartbeat, from: alive)
      if quiet.closed == [.silent], offlineAt == nil { offlineAt = world.now }
    }
    #expect(alive.connection != nil)
    #expect(offlineAt.map { $0 <= at(75_000) && $0 >= at(65_000) } == true)
    #expect(alive.members.last?.isOnline == false)
    #expect(world.server.onlineCount == 1)
  }

  @Test func aClosedConnectionIsAnnouncedAtOnce() {
    let world = World()
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.bringUp(a)
    world.bringUp(b)
    a.inbox = []
    world.breakConnection(b)
    #expect(a.members.map(\.isOnline) == [false])
    b.incarnation = 77
    world.bringUp(b)
    #expect(a.members.map(\.isOnline) == [false, true])
    #expect(a.members.last?.incarnation == 77)
  }

  @Test func changedOffersAreAnnouncedOnce() {
    let world = World()
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.bringUp(a)
    world.bringUp(b)
    a.inbox = []
    let offers = [SignalledOffer(tunnel: "tcp/web", isInbound: false)]
    world.ask(.offers(offers), from: b)
    world.ask(.offers(offers), from: b)
    #expect(a.members.count == 1 && a.members.last?.offers == offers)
  }

  @Test func kickEndsASessionThatMayComeBack() {
    let world = World()
    let a = TestNode("a", random: &world.random)
    world.bringUp(a)
    let kicked = world.server.kick(node: "a", now: world.now)
    let again = world.server.kick(node: "a", now: world.now)
    world.pump()
    #expect(kicked && !again)
    #expect(a.closed == [.kicked] && a.legClosed == [.kicked])
    world.bringUp(a)
    #expect(world.server.onlineCount == 1)
  }

  @Test func aConnectionThatNeverLogsInIsClosed() {
    let world = World()
    world.server.connectionOpened(
      900, kind: .signalling, address: Endpoint(.loopbackV4, 1), exporter: [], seals: true,
      now: world.now)
    world.server.connectionOpened(
      901, kind: .relayLeg, address: Endpoint(.loopbackV4, 1), exporter: [], seals: true,
      now: world.now)
    let probe = TestNode("probe", random: &world.random)
    world.nodes[900] = probe
    world.legs[901] = probe
    world.run(.seconds(7))
    #expect(probe.legClosed == [.loginLate] && probe.closed.isEmpty)
    world.run(.seconds(10))
    #expect(probe.closed == [.loginLate])
    #expect(world.server.connectionCount == 0)
    #expect(world.server.nextDeadline == .distantFuture)
  }

  @Test func pendingConnectionsOfOneAddressAreLimited() {
    let world = World()
    for id in 0..<UInt32(ServerLimits.pendingPerAddress + 5) {
      world.server.connectionOpened(
        10_000 + id, kind: .signalling, address: Endpoint(IPAddress(192, 0, 2, 1), UInt16(id)),
        exporter: [], seals: true, now: world.now)
    }
    #expect(world.server.connectionCount == ServerLimits.pendingPerAddress)
    let other = TestNode("a", random: &world.random)
    world.connect(other)
    #expect(other.welcome != nil)
  }

  @Test func nonsenseNeverCrashesAndEndsTheConnection() {
    for seed in 0..<40 as Range<UInt64> {
      let world = World(seed: seed)
      let stranger = TestNode("stranger", random: &world.random)
      world.connect(stranger)
      let node = TestNode("node", random: &world.random)
      world.bringUp(node)
      for _ in 0..<600 {
        let bytes = world.random.bytes(Int.random(in: 0..<60, using: &world.random))
        world.raw(bytes, from: node)
        guard let connection = node.connection else { break }
        if Int.random(in: 0..<50, using: &world.random) == 0 {
          world.server.receive(bytes, connection: connection, now: world.now)
          world.pump()
        }
      }
      #expect(node.connection == nil, "seed \(seed)")
      #expect(node.closed == [.faults] || node.closed == [.notAuthentic], "seed \(seed)")
      #expect(stranger.connection != nil, "seed \(seed)")
      #expect(world.server.onlineCount == 1, "seed \(seed)")
    }
  }

  @Test func everyMessageCutAtEveryByteIsAnsweredOrEndsTheLogin() {
    let world = World()
    let node = TestNode("node", random: &world.random)
    var login = LoginClient(
      node: "node", staticKey: node.key, verifier: LoginVerifier(token: 7, cost: .cheap),
      nodeSecret: nil, exporter: [])
    let hello = ClientEnvelope(request: 1, message: .login(login.start(using: &world.random)))
      .encoded()
    for cut in 0..<hello.count {
      let id = UInt32(5_000 + cut)
      world.server.connectionOpened(
        id, kind: .signalling, address: Endpoint(.loopbackV4, 1), exporter: [], seals: true,
        now: world.now)
      world.server.receive(Array(hello[..<cut]), connection: id, now: world.now)
      world.pump()
    }
    #expect(world.server.connectionCount == 0)
    world.bringUp(node)
    let connect = ClientEnvelope(
      request: 99,
      message: .connect(
        ConnectRequest(
          peer: "b",
          candidates: [
            SignalledCandidate(
              kind: .host, transport: .udp, endpoint: Endpoint(IPAddress(10, 0, 0, 1), 5))
          ], nat: .unknown, initiation: [1]))
    ).encoded()
    for cut in 6..<connect.count {
      world.ask(.heartbeat, from: node)
      world.raw(Array(connect[..<cut]), from: node)
      if node.connection == nil { world.bringUp(node) }
      #expect(node.inbox.contains { errorCode($0.message) == .malformed || $0.request == 99 })
    }
  }

  @Test func aFloodOfMessagesEndsTheConnection() {
    let world = World()
    let node = TestNode("node", random: &world.random)
    world.bringUp(node)
    for _ in 0..<2_000 { world.ask(.heartbeat, from: node) }
    #expect(node.closed == [.flood])
    #expect(world.server.onlineCount == 0)
  }
}
