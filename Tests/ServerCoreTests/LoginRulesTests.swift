import Bytes
import Crypto
import ServerCore
import Signaling
import Testing

@Suite struct LoginRulesTests {
  @Test func aNodeLogsInReportsAndIsAnswered() throws {
    for seals in [true, false] {
      let world = World()
      let node = TestNode("nodeA", seals: seals, random: &world.random)
      world.connect(node)
      let result = try #require(node.result)
      let welcome = try #require(node.welcome)
      #expect(result.mesh == "default" && result.mode == .token && result.nodeSecretIsNew)
      #expect(welcome.serverTimeNanoseconds == someDay * 1_000_000_000)
      #expect(welcome.version == "0.1.0" && welcome.seenAt == node.address)
      let certificate = try Certificate(verifying: welcome.certificate, authority: result.authority)
      #expect(certificate.node == "nodeA" && certificate.staticKey == node.key.publicKey)
      #expect(certificate.mesh == "default" && certificate.user == "default")
      let evictions = try EvictionList(verifying: welcome.evictions, authority: result.authority)
      #expect(evictions.entries.isEmpty)
      let request = world.report(node)
      #expect(node.answer(request) == .ok)
      #expect(world.server.onlineCount == 1)
      let facts = try #require(world.server.nodes().first)
      #expect(facts.node == "nodeA" && facts.isOnline && facts.os == "linux")
    }
  }

  @Test func theSecondLoginUsesTheNodeSecretAndKeepsTheCertificate() throws {
    let world = World()
    let node = TestNode("nodeA", random: &world.random)
    world.bringUp(node)
    let first = try #require(node.welcome?.certificate)
    world.breakConnection(node)
    world.now = world.now + .minutes(5)
    world.connect(node)
    #expect(node.result?.mode == .nodeSecret && node.result?.nodeSecretIsNew == false)
    #expect(node.welcome?.certificate == first)
  }

  @Test func aWrongTokenIsRefusedAndAfterFiveTriesMustWait() {
    let world = World()
    for attempt in 1...6 {
      let node = TestNode("nodeA", token: 8, random: &world.random)
      world.connect(node)
      guard case .refused(let refusal) = node.failure else {
        // The server cannot confirm, so the node cannot tell who is wrong.
        Issue.record("attempt \(attempt): \(String(describing: node.failure))")
        continue
      }
      #expect(refusal.reason == (attempt <= 5 ? .wrongToken : .throttled), "attempt \(attempt)")
      #expect(node.closed == [.loginRefused])
    }
    let other = TestNode(
      "nodeB", address: Endpoint(IPAddress(198, 51, 100, 1), 9), random: &world.random)
    world.connect(other)
    #expect(other.result != nil)
    #expect(world.server.onlineCount == 1)
  }

  @Test func theSameKeyReplacesItsOldSessionWhoseLateCloseRemovesNothing() throws {
    let world = World()
    let watcher = TestNode("watcher", random: &world.random)
    world.bringUp(watcher)
    let old = TestNode("nodeA", random: &world.random)
    world.bringUp(old)
    let oldConnection = try #require(old.connection)
    watcher.inbox = []
    let new = TestNode(
      "nodeA", key: old.key, address: Endpoint(IPAddress(198, 51, 100, 7), 5),
      random: &world.random)
    new.secret = old.secret
    new.incarnation = 2
    world.bringUp(new)
    #expect(old.notices == [.replaced] && old.closed == [.replaced])
    // The driver's late word of the old connection's end.
    world.server.connectionClosed(oldConnection, now: world.now)
    world.pump()
    #expect(world.server.onlineCount == 2)
    #expect(world.server.nodes().first { $0.node == "nodeA" }?.seenAt == new.address)
    // Nobody heard that it was ever away.
    #expect(watcher.members.allSatisfy { $0.isOnline })
    #expect(watcher.members.last?.incarnation == 2)
    #expect(world.ask(.heartbeat, from: new) == new.request)
    #expect(new.answer(new.request) != nil)
  }

  @Test func theSameKeyOnTwoMachinesIsRefusedAfterThreeTimesAMinute() {
    let world = World()
    let first = TestNode("nodeA", random: &world.random)
    world.bringUp(first)
    var live = first
    for round in 1...3 {
      world.now = world.now + .seconds(5)
      let next = TestNode("nodeA", key: first.key, random: &world.random)
      next.secret = first.secret
      world.bringUp(next)
      #expect(next.welcome != nil, "round \(round)")
      #expect(live.closed == [.replaced])
      live = next
    }
    world.now = world.now + .seconds(5)
    let fourth = TestNode("nodeA", key: first.key, random: &world.random)
    fourth.secret = first.secret
    world.connect(fourth)
    #expect(fourth.failure == .refused(LoginRefusal(.duplicateKey, retryAfterSeconds: 60)))
    #expect(live.notices.contains(.duplicateKey) && live.closed.isEmpty)
    #expect(world.server.onlineCount == 1)
    // A minute later it may again.
    world.ask(.heartbeat, from: live)
    world.now = world.now + .seconds(60)
    world.connect(fourth)
    #expect(fourth.welcome != nil)
  }

  @Test func anotherKeyIsRefusedUntilTheNameIsForgotten() throws {
    let world = World()
    let owner = TestNode("nodeA", random: &world.random)
    let watcher = TestNode("watcher", random: &world.random)
    world.bringUp(owner)
    world.bringUp(watcher)
    let thief = TestNode("nodeA", random: &world.random)
    world.connect(thief)
    #expect(thief.failure == .refused(LoginRefusal(.nameTaken, retryAfterSeconds: 60)))
    #expect(
      world.logged.contains { if case .nameTaken(_, "nodeA", _) = $0 { true } else { false } })
    #expect(owner.closed.isEmpty)
    let old = try Certificate(decoding: try #require(owner.welcome).certificate)

    let forgotten = world.server.forget(node: "nodeA", now: world.now)
    let unknown = world.server.forget(node: "nobody", now: world.now)
    world.pump()
    #expect(forgotten && !unknown)
    #expect(owner.closed == [.forgotten])
    #expect(watcher.pushes.contains(.memberRemoved(node: "nodeA")))
    let bytes = try #require(
      watcher.pushes.compactMap { if case .evictions(let b) = $0 { b } else { nil } }.last)
    let list = try EvictionList(verifying: bytes, authority: try #require(watcher.result).authority)
    #expect(list.evicts(old))
    world.connect(thief)
    let certificate = try Certificate(decoding: try #require(thief.welcome).certificate)
    #expect(certificate.serial > old.serial && !list.evicts(certificate))
    // The former owner is the stranger now.
    world.connect(owner)
    #expect(owner.failure == .refused(LoginRefusal(.nameTaken, retryAfterSeconds: 60)))
    world.restart()
    world.connect(owner)
    #expect(owner.failure == .refused(LoginRefusal(.nameTaken, retryAfterSeconds: 60)))
  }

  @Test func aKeyThatComesUnderAnotherNameTakesItsPlaceAlong() {
    let world = World()
    let node = TestNode("old", random: &world.random)
    let watcher = TestNode("watcher", random: &world.random)
    world.bringUp(node)
    world.bringUp(watcher)
    let renamed = TestNode("new", key: node.key, random: &world.random)
    renamed.secret = node.secret
    world.bringUp(renamed)
    #expect(renamed.welcome != nil && node.closed == [.replaced])
    #expect(watcher.pushes.contains(.memberRemoved(node: "old")))
    #expect(world.server.nodes().map(\.node).sorted() == ["new", "watcher"])
    #expect(world.disk.count { $0.kind == .node } == 2)
  }

  @Test func meshesSeeNothingOfEachOther() throws {
    let world = World(tokens: [7, 8])
    let a = TestNode("node", token: 7, random: &world.random)
    let b = TestNode("node", token: 8, random: &world.random)
    let c = TestNode("other", token: 8, random: &world.random)
    for node in [a, b, c] { world.bringUp(node) }
    #expect(a.result?.mesh == "default" && b.result?.mesh == "mesh1")
    #expect(a.result?.authority != b.result?.authority)
    #expect(try #require(c.welcome).members.count == 1)
    #expect(a.members.isEmpty && b.members.count == 1)
    #expect(errorCode(a.answer(world.meet(a, "other"))) == .peerUnknown)
    #expect(world.server.onlineCount == 3)
    // Later logins find their mesh by the key.
    world.breakConnection(b)
    world.connect(b)
    #expect(b.result?.mode == .nodeSecret && b.result?.mesh == "mesh1")
  }

  @Test func allMembersComeWithTheWelcome() throws {
    let world = World()
    let first = TestNode("first", random: &world.random)
    let gone = TestNode("gone", random: &world.random)
    world.bringUp(first, offers: [SignalledOffer(tunnel: "tcp/web", isInbound: false)])
    world.bringUp(gone)
    world.breakConnection(gone)
    let late = TestNode("late", random: &world.random)
    world.connect(late)
    let members = try #require(late.welcome).members
    #expect(members.map(\.isOnline) == [true, false])
    #expect(members[0].offers == [SignalledOffer(tunnel: "tcp/web", isInbound: false)])
    for member in members {
      _ = try Certificate(
        verifying: member.certificate, authority: try #require(late.result).authority)
    }
    // Its certificate is told once it has reported.
    #expect(first.members.last?.certificate != late.welcome?.certificate)
    world.report(late)
    #expect(first.members.last?.certificate == late.welcome?.certificate)
  }
}
