/// TCP between nodes where datagrams do not pass: which tier, one connection of
/// several, strangers at the port, and the way back when datagrams pass again.
import Bytes
import Crypto
import NAT
import NodeCore
import Paths
import Signaling
import Simulation
import Testing

private func pair(_ a: NATKind, _ b: NATKind, seed: UInt64) -> (World, Home, Home) {
  let world = World(seed: seed)
  let homes = (world.addHome(kind: a, nodes: 1), world.addHome(kind: b, nodes: 1))
  world.server.start()
  for node in world.nodes { node.start() }
  return (world, homes.0, homes.1)
}

private func tiers(_ world: World) -> [String] {
  [
    world.nodes[0].tier(to: world.nodes[1]) ?? "none",
    world.nodes[1].tier(to: world.nodes[0]) ?? "none",
  ]
}

private func chatter() -> ApplicationScript {
  var script = ApplicationScript()
  script.bytes = 1_000_000
  script.chunk = 200
  script.pause = .milliseconds(100)
  return script
}

@Test func withoutDatagramsConnectionsCarry() {
  for seed: UInt64 in 1...5 {
    for (a, b, tier) in [
      (NATKind.udpBlocked, NATKind.open, "tcp-direct"),
      (.udpBlocked, .udpBlocked, "tcp-punch"), (.udpBlocked, .portRestricted, "tcp-punch"),
      (.doubleNAT, .udpBlocked, "tcp-punch"),
    ] {
      let (world, _, _) = pair(a, b, seed: seed)
      world.run(for: .seconds(10))
      var bulk = ApplicationScript()
      bulk.bytes = 2_000_000
      let stream = world.converse(near: 0, far: 1, nearScript: bulk, farScript: bulk)
      _ = world.converse(near: 0, far: 1, nearScript: chatter(), farScript: chatter())
      #expect(
        world.run(for: .seconds(15)) { tiers($0) == [tier, tier] },
        "seed \(seed): \(a.name) and \(b.name) on \(tiers(world))")
      #expect(world.run(for: .seconds(30)) { _ in stream.isOver }, "seed \(seed): \(a.name)")
      #expect(
        stream.isInOrder && world.violations == [],
        "seed \(seed): \(a.name) and \(b.name): \(world.violations)")
    }
  }
}

/// Neither end's port could be known, but a router has opened it. The homes have
/// different private networks: no host's address is told to the other.
@Test func aPortThatARouterOpenedIsDialled() {
  for seed: UInt64 in 1...5 {
    let world = World(seed: seed)
    let home = world.addHome(kind: .symmetricRandom, nodes: 1)
    world.addNode(in: world.addSite(kind: .udpBlocked, subnet: IPAddress(10, 7, 0, 0)))
    world.server.start()
    for node in world.nodes { node.start() }
    world.run(for: .seconds(10))
    let stream = world.converse(near: 1, far: 0, nearScript: chatter(), farScript: chatter())
    let isDirect = world.run(for: .seconds(10)) {
      tiers($0).contains { $0.hasPrefix("tcp-") || $0.hasPrefix("udp-") }
    }
    #expect(
      !isDirect && tiers(world) == ["server-relay", "server-relay"],
      "seed \(seed): \(tiers(world))")
    let node = home.nodes[0]
    let inside = Endpoint(node.addresses[0], node.port)
    home.site.streamBox.forward(port: node.port, to: inside)
    node.portOpened(Endpoint(home.site.box.address ?? .anyV4, node.port))
    // The end behind that router may have been dialling as well, and calls it a punch.
    #expect(
      world.run(for: .seconds(5)) {
        tiers($0)[1] == "tcp-direct" && tiers($0)[0].hasPrefix("tcp-")
      }, "seed \(seed): \(tiers(world))")
    #expect(!stream.isOver && world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func theWayBackToDatagrams() {
  for seed: UInt64 in 1...5 {
    let (world, home, _) = pair(.udpBlocked, .portRestricted, seed: seed)
    world.run(for: .seconds(10))
    let stream = world.converse(near: 0, far: 1, nearScript: chatter(), farScript: chatter())
    #expect(
      world.run(for: .seconds(15)) { tiers($0) == ["tcp-punch", "tcp-punch"] }, "seed \(seed)")
    home.site.box = NATBox(
      kind: .portRestricted, address: home.site.box.address, seed: seed)
    #expect(
      world.run(for: .seconds(60)) { tiers($0).allSatisfy { $0.hasPrefix("udp-") } },
      "seed \(seed): \(tiers(world))")
    // The connection is not kept for ever.
    world.run(for: .seconds(70))
    let paths = world.nodes[0].node?.status(of: world.nodes[1].name, now: world.now)?.paths ?? []
    #expect(!paths.contains { $0.carrier.kind == .tcp }, "seed \(seed)")
    #expect(!stream.isOver && world.violations == [], "seed \(seed): \(world.violations)")
  }
}

/// Both dial at once in one network; both ends end up with the same connection.
@Test func ofCrossingConnectionsOneLives() {
  for seed: UInt64 in 1...8 {
    let (world, _, _) = pair(.udpBlocked, .open, seed: seed)
    world.run(for: .seconds(10))
    _ = world.converse(near: 0, far: 1, nearScript: chatter(), farScript: chatter())
    world.run(for: .seconds(20))
    for (a, b) in [(0, 1), (1, 0)] {
      let paths = world.nodes[a].node?.status(of: world.nodes[b].name, now: world.now)?.paths ?? []
      #expect(paths.count { $0.carrier.kind == .tcp } == 1, "seed \(seed), end \(a)")
    }
  }
}

@Test func aRestartedPeerIsDialledAgain() {
  let (world, _, _) = pair(.udpBlocked, .open, seed: 4)
  world.run(for: .seconds(10))
  _ = world.converse(near: 0, far: 1, nearScript: chatter(), farScript: chatter())
  #expect(world.run(for: .seconds(15)) { tiers($0) == ["tcp-direct", "tcp-direct"] })
  world.nodes[1].kill()
  world.run(for: .seconds(2))
  world.nodes[1].start()
  world.run(for: .seconds(10))
  _ = world.converse(near: 0, far: 1, nearScript: chatter(), farScript: chatter())
  #expect(
    world.run(for: .seconds(30)) { tiers($0) == ["tcp-direct", "tcp-direct"] },
    "\(tiers(world))")
  #expect(world.violations == [], "\(world.violations)")
}

// MARK: Strangers

private func node(now: Instant) -> Node {
  var random = SeededRandom(testSeed: 5)
  var settings = NodeSettings(
    name: "one", staticKey: X25519.generate(using: &random), incarnation: 1, version: "", os: "",
    port: 4_000, seed: random.bytes(32), token: 1, loginCost: .cheap)
  settings.listensTCP = true
  return Node(settings: settings, now: now)
}

private func closed(_ node: Node) -> [UInt32] {
  var result: [UInt32] = []
  while let event = node.pollEvent() {
    if case .closeCarrier(let connection) = event { result.append(connection) }
  }
  return result
}

@Test func strangersAreFewAndDoNotStay() {
  let start = Instant(nanoseconds: 1_000_000_000)
  let node = node(now: start)
  let source = IPAddress(203, 0, 113, 5)
  for number in UInt32(1)...6 {
    node.carrierAccepted(connection: number, remote: Endpoint(source, 1_000), now: start)
  }
  #expect(closed(node) == [5, 6])
  #expect(node.nextDeadline <= start + NodeLimits.strangerTime)
  node.advance(to: start + NodeLimits.strangerTime)
  #expect(closed(node).sorted() == [1, 2, 3, 4])
  #expect(node.drops.strangers == 6)
}

/// Many sources fill the table; the oldest gives way, so that a peer gets in.
@Test func theOldestStrangerGivesWay() {
  let start = Instant(nanoseconds: 1_000_000_000)
  let node = node(now: start)
  for number in 0..<UInt32(NodeLimits.strangers + 3) {
    node.carrierAccepted(
      connection: 100 + number, remote: Endpoint(IPAddress(v4: 0xcb00_0000 + number), 1_000),
      now: start + .milliseconds(Int64(number)))
  }
  #expect(closed(node) == [100, 101, 102])
}
