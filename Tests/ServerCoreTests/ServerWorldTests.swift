import Bytes
import Crypto
import Relay
import ServerCore
import Signaling
import Testing

/// Random joins, leaves, kills and meetings; the power may go between any two effects.
@Suite struct ServerWorldTests {
  @Test func killedBetweenAnyTwoEffectsItComesBackWhole() throws {
    // How many effects the whole story has.
    let whole = Self.story(diesAfter: .max)
    for cut in 0...whole.carried {
      let world = Self.story(diesAfter: cut)
      let before = Self.serials(world)
      world.restart()
      let a = try #require(world.keep.first)
      let b = try #require(world.keep.last)
      for node in [a, b] {
        world.bringUp(node)
        #expect(node.welcome != nil, "cut \(cut): \(node.name) \(String(describing: node.failure))")
      }
      let request = world.meet(a, "b")
      guard case .punchStart(let punch) = a.answer(request) else {
        Issue.record("cut \(cut): no meeting")
        continue
      }
      #expect(punch.channel != 0, "cut \(cut)")
      // No serial that anybody saw is given to another certificate.
      for (serial, bytes) in Self.serials(world) {
        #expect(before[serial] == nil || before[serial] == bytes, "cut \(cut) serial \(serial)")
      }
    }
  }

  /// Two nodes log in, meet, one is replaced, one forgotten and back.
  static func story(diesAfter: Int) -> KeepingWorld {
    let world = KeepingWorld(seed: 3)
    world.diesAfter = diesAfter == .max ? .max : world.carried + diesAfter
    let start = world.carried
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.keep = [a, b]
    world.bringUp(a)
    world.bringUp(b)
    _ = world.meet(a, "b")
    world.breakConnection(a)
    world.bringUp(a)
    _ = world.server.forget(node: "b", now: world.now)
    world.pump()
    world.bringUp(b)
    world.carried -= start
    return world
  }

  final class KeepingWorld: World {
    var keep: [TestNode] = []
  }

  /// Every certificate anybody was told of.
  static func serials(_ world: KeepingWorld) -> [UInt64: [UInt8]] {
    var result: [UInt64: [UInt8]] = [:]
    for node in world.keep {
      for envelope in node.inbox {
        var found: [[UInt8]] = []
        switch envelope.message {
        case .welcome(let welcome):
          found = [welcome.certificate] + welcome.members.map(\.certificate)
        case .memberChanged(let member): found = [member.certificate]
        case .punchStart(let punch): found = [punch.certificate]
        default: break
        }
        for bytes in found {
          guard let certificate = try? Certificate(decoding: bytes) else { continue }
          result[certificate.serial] = bytes
        }
      }
    }
    return result
  }

  /// The disk may be behind what nodes were sent when the power goes.
  @Test func noSerialIsUsedTwiceThoughTheNewestWritesAreLost() throws {
    let world = World()
    let first = TestNode("first", random: &world.random)
    world.bringUp(first)
    let behind = world.disk
    var seen: Set<UInt64> = []
    for i in 0..<20 {
      let node = TestNode("n\(i)", random: &world.random)
      world.bringUp(node)
      seen.insert(try Certificate(decoding: try #require(node.welcome).certificate).serial)
    }
    world.disk = behind
    world.restart()
    for i in 0..<20 {
      let node = TestNode("m\(i)", random: &world.random)
      world.bringUp(node)
      let serial = try Certificate(decoding: try #require(node.welcome).certificate).serial
      #expect(!seen.contains(serial))
    }
  }

  @Test func randomJoinsLeavesAndKillsKeepTheRegistryWhole() {
    for seed in 0..<25 as Range<UInt64> {
      let world = World(seed: seed, tokens: seed % 2 == 0 ? [7] : [7, 8])
      var nodes: [TestNode] = []
      for i in 0..<8 {
        let token: UInt64 = seed % 2 == 1 && i % 2 == 1 ? 8 : 7
        nodes.append(
          TestNode(
            "n\(i)", token: token, seals: i % 3 == 0,
            address: Endpoint(IPAddress(203, 0, 113, UInt8(i)), 1_000), random: &world.random))
      }
      for _ in 0..<300 {
        let node = nodes.randomElement(using: &world.random)!
        switch Int.random(in: 0..<100, using: &world.random) {
        case 0..<30:
          if node.connection == nil { world.bringUp(node) }
        case 30..<38: world.breakConnection(node)
        case 38..<44: world.breakLeg(node)
        case 44..<48: if node.connection != nil, node.leg == nil { world.openLeg(node) }
        case 48..<75:
          let peer = nodes.randomElement(using: &world.random)!
          if node.connection != nil {
            let request = world.meet(node, peer.name)
            world.run(.milliseconds(1_600))
            #expect(node.connection == nil || node.answer(request) != nil, "seed \(seed)")
          }
        case 75..<77:
          _ = world.server.forget(node: node.name, now: world.now)
          world.pump()
        case 77..<79:
          _ = world.server.kick(node: node.name, now: world.now)
          world.pump()
        case 79: world.restart()
        default:
          world.run(.seconds(Int64.random(in: 1...25, using: &world.random)))
          for node in nodes { world.ask(.heartbeat, from: node) }
        }
        // The server's idea of who is online is the nodes' own.
        let online = nodes.count { $0.connection != nil && $0.welcome != nil }
        #expect(world.server.onlineCount == online, "seed \(seed)")
        #expect(
          world.server.connectionCount == world.nodes.count + world.legs.count, "seed \(seed)")
      }
      // Everybody leaves: nothing stays behind.
      for node in nodes {
        world.breakConnection(node)
        world.breakLeg(node)
      }
      world.run(.minutes(12))
      #expect(world.server.onlineCount == 0 && world.server.connectionCount == 0, "seed \(seed)")
      #expect(world.server.meetingCount == 0, "seed \(seed)")
      #expect(world.server.router.openChannelCount == 0, "seed \(seed)")
      #expect(world.server.router.queueMemory == 0, "seed \(seed)")
      #expect(world.server.nextDeadline == .distantFuture, "seed \(seed)")
    }
  }

  @Test func theSameSeedGivesTheSameTrace() {
    func trace() -> [UInt8] {
      let world = World(seed: 11)
      let a = TestNode("a", random: &world.random)
      let b = TestNode("b", random: &world.random)
      world.bringUp(a)
      world.bringUp(b)
      _ = world.meet(a, "b")
      return (a.inbox + b.inbox).flatMap { $0.encoded() }
    }
    #expect(trace() == trace())
  }

  @Test func brokenRecordsAreNamedAndTheRestIsKept() throws {
    let world = World()
    let a = TestNode("a", random: &world.random)
    let b = TestNode("b", random: &world.random)
    world.bringUp(a)
    world.bringUp(b)
    for i in world.disk.indices where world.disk[i].kind == .node {
      let node = world.disk[i].key
      if String(decoding: node, as: UTF8.self).hasSuffix("b") { world.disk[i].value?.removeLast() }
    }
    world.disk.append(StoreRecord(kind: .usage, key: [0xff], value: [1]))
    world.restart()
    #expect(world.logged.contains(.badRecord(kind: .node)))
    #expect(world.logged.contains(.badRecord(kind: .usage)))
    #expect(world.server.nodes().map(\.node) == ["a"])
    // The one that was lost comes back by its token.
    world.bringUp(b)
    #expect(b.result?.mode == .token && b.welcome != nil)
  }

  @Test func aQuotaSurvivesARestartAndEndsWithTheDay() throws {
    let world = World { $0.meshes[0].relayQuotaBytes = 100_000 }
    let (a, b) = MeetingTests.two(world)
    _ = world.meet(a, "b")
    let channel = try #require(a.punches.last).channel
    var frame: [UInt8] = []
    frame.appendUInt32(channel)
    frame += [0x04, 0x40, 0x00]
    frame += [UInt8](repeating: 1, count: 0x4000)
    for _ in 0..<10 {
      world.server.receiveLeg(frame.span.bytes, connection: try #require(a.leg), now: world.now)
      _ = world.legFrames(b)
    }
    world.run(.seconds(2))
    #expect(world.server.router.bytesUsed(mesh: 0) > 90_000)
    #expect(world.logged.contains(.relayQuotaUsed(mesh: "default")))
    world.restart()
    #expect(world.server.router.bytesUsed(mesh: 0) > 90_000)
    world.bringUp(a)
    world.bringUp(b)
    let request = world.meet(a, "b")
    guard case .punchStart(let refused) = a.answer(request) else {
      Issue.record("no answer")
      return
    }
    #expect(refused.channel == 0)
    world.wall += 86_400 * 1_000_000_000
    world.server.setClock(unixNanoseconds: world.wall, now: world.now)
    world.run(.seconds(3))
    _ = world.meet(a, "b")
    #expect(a.punches.last?.channel != 0)
  }
}
