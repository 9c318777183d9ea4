/// Homes in a world: whose address means whom, how far a packet lives, and
/// what a node sees of the router in front of it.
import Bytes
import NAT
import NodeCore
import Simulation
import Testing

@Suite struct HomeTests {
  private let service = Endpoint(IPAddress(198, 51, 100, 1), 7)

  /// A plain host in a new home.
  private func host(
    _ world: World, _ kind: NATKind, behind carrier: Site? = nil
  ) -> (Home, PlainHost) {
    let home = world.addHome(kind: kind, behind: carrier)
    let host = world.addPlainHost(
      addresses: world.freshAddresses(in: home.site, kind: kind), in: home.site)
    return (home, host)
  }

  private func send(
    _ world: World, _ from: PlainHost, port: UInt16 = 5_000, to: Endpoint, timeToLive: UInt8 = 0
  ) {
    world.send(
      from: from, source: Endpoint(from.addresses[0], port), to: to, bytes: [1],
      timeToLive: timeToLive)
    world.run(for: .milliseconds(200))
  }

  @Test func aPrivateAddressMeansNobodyElsewhere() {
    let world = World(seed: 1)
    let (home, a) = host(world, .fullCone)
    let (_, b) = host(world, .fullCone)
    #expect(a.addresses == b.addresses)
    let mate = world.addPlainHost(addresses: [home.site.freshAddress()], in: home.site)
    // To its neighbour, at once and without the router.
    send(world, a, to: Endpoint(mate.addresses[0], 9))
    #expect(mate.received.count == 1)
    #expect(mate.received.first?.source == Endpoint(a.addresses[0], 5_000))
    // The other home has nobody at that address, and no router carries it there.
    send(world, b, to: Endpoint(mate.addresses[0], 9))
    #expect(mate.received.count == 1 && a.received.isEmpty)
    #expect(home.site.box.mappingCount(now: world.now) == 0)
    // Other private addresses leave the home and are lost outside.
    send(world, b, to: Endpoint(IPAddress(10, 1, 2, 3), 9))
    #expect(world.statistics.lost == 2)
  }

  @Test func aLowTimeToLiveOpensTheOwnRouterAndDiesBeforeTheFarOne() {
    // Routers passed: its own, two of the core, the far one.
    for timeToLive: UInt8 in 1...6 {
      let world = World(seed: 2)
      let (home, a) = host(world, .portRestricted)
      let (farHome, b) = host(world, .fullCone)
      send(world, b, port: 6_000, to: service)
      send(
        world, a, to: Endpoint(farHome.routers[0].box.address ?? .anyV4, 6_000),
        timeToLive: timeToLive)
      let opened = home.site.box.mappingCount(now: world.now)
      #expect(opened == (timeToLive >= 2 ? 1 : 0), "\(timeToLive)")
      #expect(b.received.count == (timeToLive >= 5 ? 1 : 0), "\(timeToLive)")
      #expect(world.statistics.expired == (timeToLive >= 5 ? 0 : 1), "\(timeToLive)")
    }
  }

  @Test func anOpenRouterIsTouchedByWhatReachesIt() {
    for timeToLive: UInt8 in 2...5 {
      let world = World(seed: 3)
      let (home, a) = host(world, .portRestricted)
      let (open, b) = host(world, .masqueradeOpen)
      send(world, b, port: 6_000, to: service)
      let near = Endpoint(home.site.box.address ?? .anyV4, 5_000)
      let far = Endpoint(open.site.box.address ?? .anyV4, 6_000)
      send(world, a, to: far, timeToLive: timeToLive)
      send(world, b, port: 6_000, to: near)
      // Two core routers: 4 is one too many, the port is gone and b is not heard.
      #expect((a.received.first?.source == far) == (timeToLive <= 3), "\(timeToLive)")
    }
  }

  @Test func twoRoutersInARowCountTwice() {
    let world = World(seed: 4)
    let (home, a) = host(world, .doubleNAT)
    let listener = world.addPlainHost(addresses: [service.address])
    send(world, a, to: service, timeToLive: 2)
    #expect(home.routers[0].box.mappingCount(now: world.now) == 1)
    #expect(home.routers[1].box.mappingCount(now: world.now) == 0)
    send(world, a, to: service)
    #expect(listener.received.map(\.source.address) == [home.routers[1].box.address])
    world.send(
      from: listener, source: service, to: listener.received[0].source, bytes: [2])
    world.run(for: .milliseconds(100))
    #expect(a.received.map(\.source) == [service])
  }

  @Test func homesBehindOneCarrierMeetOnlyWhereItHairpins() {
    for hairpins in [false, true] {
      var kind = NATKind.fullCone
      kind.hairpins = hairpins
      let world = World(seed: 5)
      let carrier = world.addCarrierNAT(kind: kind)
      let (_, a) = host(world, .fullCone, behind: carrier)
      let (_, b) = host(world, .fullCone, behind: carrier)
      let listener = world.addPlainHost(addresses: [service.address])
      send(world, b, port: 6_000, to: service)
      let outside = listener.received[0].source
      #expect(outside.address == carrier.box.address)
      send(world, a, to: outside)
      #expect(b.received.count == (hairpins ? 1 : 0))
      #expect(hairpins == (b.received.first?.source.address == carrier.box.address))
    }
  }

  @Test func hostsWithIPv6AreReachedThroughTheirFirewallOnly() {
    let world = World(seed: 6)
    let (home, a) = host(world, .onlyIPv6)
    let (_, b) = host(world, .onlyIPv6)
    #expect(home.site.box.address == nil)
    send(world, a, to: Endpoint(b.addresses[0], 6_000))
    #expect(b.received.isEmpty)
    send(world, b, port: 6_000, to: Endpoint(a.addresses[0], 5_000))
    send(world, a, to: Endpoint(b.addresses[0], 6_000))
    #expect(a.received.count == 1 && b.received.count == 1)
  }

  @Test func theServerSeesTheRouterAndAnswersDatagramsThroughIt() {
    let world = World(seed: 7)
    world.server.datagramHandler = { bytes, from, to in
      // As a STUN server: the source in words, from the port asked.
      [(from: to, bytes: Array("\(from)".utf8))]
    }
    let (home, a) = host(world, .symmetricRandom)
    for port in SimulatedServer.datagramPorts {
      send(world, a, to: Endpoint(SimulatedServer.endpoint.address, port))
    }
    // The server is not running: a dead machine answers nothing.
    #expect(a.received.isEmpty)
    world.server.start()
    for port in SimulatedServer.datagramPorts {
      send(world, a, to: Endpoint(SimulatedServer.endpoint.address, port))
    }
    let words = a.received.map { String(decoding: $0.bytes, as: UTF8.self) }
    #expect(words.count == 2 && words[0] != words[1])
    #expect(words.allSatisfy { $0.hasPrefix("\(home.site.box.address ?? .anyV4):") })
  }

  @Test func nodesOfOneHomeMeetOnTheirOwnWire() {
    for seed: UInt64 in 1...5 {
      let world = World(seed: seed)
      let home = world.addHome(kind: .symmetricRandom, nodes: 2)
      world.server.start()
      for node in home.nodes { node.start() }
      #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
      let stream = world.converse(
        near: 0, far: 1, nearScript: bulk(100_000), farScript: bulk(100_000))
      #expect(world.run(for: .seconds(10)) { _ in stream.isOver }, "seed \(seed)")
      #expect(
        world.run(for: .seconds(2)) { $0.nodes[0].tier(to: $0.nodes[1]) == "udp-direct" },
        "seed \(seed)")
      #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  @Test func nodesBehindRoutersAreSeenAtThemAndAlwaysHaveTheRelay() {
    for kind in NATKind.all {
      let world = World(seed: 8)
      let a = world.addHome(kind: kind, nodes: 1)
      let b = world.addHome(kind: .symmetricRandom, nodes: 1)
      world.server.start()
      for node in world.nodes { node.start() }
      #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "\(kind.name)")
      let expected = kind.translates ? a.routers.last?.box.address : a.nodes[0].addresses.first
      #expect(a.nodes[0].node?.seenAt.address == expected, "\(kind.name)")
      #expect(b.nodes[0].node?.seenAt.address == b.site.box.address, "\(kind.name)")
      let stream = world.converse(
        near: 0, far: 1, nearScript: bulk(20_000), farScript: bulk(20_000))
      #expect(world.run(for: .seconds(10)) { _ in stream.isOver }, "\(kind.name)")
      #expect(stream.isInOrder && world.violations == [], "\(kind.name): \(world.violations)")
    }
  }

  @Test func aNodeHasAsManySocketsAsItOpens() {
    let world = World(seed: 9)
    let node = world.addNode(addresses: [IPAddress(203, 0, 113, 1)])
    node.start()
    let one = node.openSocket(number: 10)
    let other = node.openSocket(number: 11, port: 45_000)
    #expect(one != other && other == 45_000)
    #expect(node.port(of: 1) == node.port && node.port(of: 2) == node.port)
    #expect(node.port(of: 10) == one && node.port(of: 11) == 45_000)
    node.closeSocket(number: 11)
    #expect(node.port(of: 11) == nil)
    node.kill()
    #expect(node.port(of: 10) == nil)
  }

  @Test func aRouterWithANewAddressIsFollowed() {
    let world = World(seed: 10)
    let home = world.addHome(kind: .portRestricted, nodes: 1)
    world.addNode(addresses: [IPAddress(203, 0, 113, 9)])
    world.server.start()
    for node in world.nodes { node.start() }
    #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) })
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(300), farScript: bulk(30_000_000))
    world.run(for: .seconds(1))
    world.reboot(home.site, downFor: .seconds(3), address: world.freshPublicAddress())
    #expect(world.run(for: .seconds(120)) { _ in stream.isOver })
    #expect(stream.isInOrder && world.violations == [], "\(world.violations) \(stream.nearState)")
    #expect(
      world.run(for: .seconds(120)) { _ in
        home.nodes[0].isOnline && home.nodes[0].node?.seenAt.address == home.site.box.address
      })
  }

  /// Others behind the router have moved its counter on since the server saw us,
  /// and the mapping that it saw is still there.
  @Test func aCounterThatHasMovedOnIsFoundAgain() {
    for seed: UInt64 in 1...5 {
      let world = World(seed: seed)
      let counting = world.addHome(kind: .symmetricSequential, nodes: 1)
      world.addHome(kind: .portRestricted, nodes: 1)
      counting.site.box.timers.unreplied = .minutes(30)
      counting.site.box.timers.replied = .minutes(30)
      let neighbour = world.addPlainHost(
        addresses: [counting.site.freshAddress()], in: counting.site)
      world.server.start()
      for node in world.nodes { node.start() }
      #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
      world.run(for: .seconds(10))
      for port: UInt16 in 1...1_000 {
        send(world, neighbour, port: port, to: service)
      }
      let stream = world.converse(
        near: Int(seed % 2), far: Int((seed + 1) % 2), nearScript: bulk(10_000),
        farScript: bulk(10_000))
      #expect(world.run(for: .seconds(10)) { _ in stream.isOver }, "seed \(seed)")
      #expect(
        world.run(for: .seconds(20)) { $0.nodes[0].tier(to: $0.nodes[1]) == "udp-punch" },
        "seed \(seed)")
      #expect(world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// A download from one home to another, and something that happens to it in
  /// its second second: the longest time without a byte.
  private func stall(seed: UInt64, _ event: (World, [Home]) -> Void) -> TimeAmount {
    let world = World(seed: seed)
    let homes = (0..<2).map { _ in world.addHome(kind: .portRestricted, nodes: 1) }
    world.server.start()
    for node in world.nodes { node.start() }
    #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
    // Connections that have stood for so long are replaced at once.
    world.run(for: .seconds(6))
    var script = bulk(3_000_000)
    script.chunk = 10_000
    script.pause = .milliseconds(10)
    let stream = world.converse(near: 0, far: 1, nearScript: bulk(300), farScript: script)
    world.run(for: .seconds(1))
    #expect(world.nodes[0].tier(to: world.nodes[1]) == "udp-punch", "seed \(seed)")
    event(world, homes)
    #expect(world.run(for: .seconds(60)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    return stream.longestStall
  }

  private func report(_ what: String, _ event: (World, [Home]) -> Void) -> TimeAmount {
    let stalls = (1...20).map { stall(seed: $0, event) }.sorted()
    print("\(what): no byte for p50 \(stalls[9].inMilliseconds), p95 \(stalls[18].inMilliseconds), worst \(stalls[19].inMilliseconds) ms")
    return stalls[19]
  }

  @Test func routersThatForgetAreFollowedWithinASecond() {
    let worst = report("both routers rebind") { world, homes in
      for home in homes { world.rebind(home.site) }
    }
    #expect(worst < .milliseconds(1_000))
  }

  /// The relay leg falls with the path, and what the server says of the new
  /// channel cannot come in before the node has spoken.
  @Test func aRelayThatFallsWithThePathIsBackWithinASecond() {
    let worst = report("both routers rebind and one relay leg is reset") { world, homes in
      for home in homes { world.rebind(home.site) }
      world.after(.milliseconds(100)) { $0.nodes[1].resetLeg() }
    }
    #expect(worst < .milliseconds(1_000))
  }

  @Test func anotherAddressAtHomeIsFollowedWithinASecond() {
    let worst = report("the near end gets another address") { world, homes in
      world.nodes[0].move(to: [homes[0].site.freshAddress()])
    }
    #expect(worst < .milliseconds(1_000))
  }
}
