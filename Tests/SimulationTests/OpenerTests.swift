/// How far openers go: over all routers of our own and no further.
import Bytes
import NAT
import NodeCore
import Simulation
import Testing

@Suite struct OpenerTests {
  private static let core = IPAddress(192, 0, 2, 1)

  /// Two homes whose nodes have met and talked.
  private func meet(
    _ kind: NATKind, seed: UInt64, prepare: (World, Home) -> Void = { _, _ in }
  ) -> (world: World, home: Home, far: Home, own: SimulatedNode) {
    let world = World(seed: seed)
    let home = world.addHome(kind: kind, nodes: 1)
    let far = world.addHome(kind: .portRestricted, nodes: 1)
    prepare(world, home)
    world.server.start()
    for node in world.nodes { node.start() }
    world.run(for: .seconds(10))
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(20_000), farScript: bulk(20_000))
    #expect(world.run(for: .seconds(10)) { _ in stream.isOver }, "\(kind.name) seed \(seed)")
    world.run(for: .seconds(3))
    #expect(world.violations == [], "\(kind.name) seed \(seed): \(world.violations)")
    return (world, home, far, world.nodes[0])
  }

  private func hops(_ node: SimulatedNode, isV4: Bool = true) -> UInt8? {
    node.node?.networkReports().first { $0.isV4 == isV4 }?.openerHops
  }

  /// Where what was sent to the other home died.
  private func deaths(_ node: SimulatedNode, towards far: Home) -> Set<IPAddress> {
    Set(
      node.deaths.filter { $0.destination.address == far.site.box.address }.map(\.router))
  }

  @Test func openersPassAllOurRoutersAndDieBeforeThePeers() {
    for (kind, expected) in [(NATKind.portRestricted, UInt8(2)), (.doubleNAT, 3)] {
      for seed: UInt64 in 1...5 {
        let (world, home, far, node) = meet(kind, seed: seed)
        defer { withExtendedLifetime(world) {} }
        #expect(hops(node) == expected, "\(kind.name) seed \(seed)")
        // Past the outermost of ours, at the first router of the core, no further.
        #expect(deaths(node, towards: far) == [Self.core], "\(kind.name) seed \(seed)")
        #expect(home.routers.count == Int(expected) - 1)
        #expect(
          node.tier(to: far.nodes[0])?.hasPrefix("udp") == true, "\(kind.name) seed \(seed)")
      }
    }
  }

  @Test func silentRoutersLeaveTheUsualTwo() {
    for seed: UInt64 in 1...3 {
      let (world, _, far, node) = meet(.portRestricted, seed: seed) { world, home in
        world.network.coreIsSilent = true
        home.site.isSilent = true
      }
      #expect(hops(node) == nil, "seed \(seed)")
      #expect(deaths(node, towards: far) == [], "seed \(seed)")
      withExtendedLifetime(world) {}
    }
    // Ours alone answer: one further than the last of them.
    let (world, _, _, node) = meet(.doubleNAT, seed: 4) { world, _ in
      world.network.coreIsSilent = true
    }
    #expect(hops(node) == 3)
    withExtendedLifetime(world) {}
  }

  @Test func inIPv6TheRouterOfTheSiteIsOurs() {
    let (world, _, _, node) = meet(.onlyIPv6, seed: 5)
    #expect(hops(node, isV4: true) == nil)
    #expect(hops(node, isV4: false) == 2)
    withExtendedLifetime(world) {}
  }

  @Test func anotherNetworkIsMeasuredAnew() {
    let (world, _, _, node) = meet(.doubleNAT, seed: 6)
    #expect(hops(node) == 3)
    let next = world.addHome(kind: .portRestricted)
    // Another address than in the former home.
    _ = next.site.freshAddress()
    node.move(into: next.site)
    world.run(for: .milliseconds(30))
    #expect(hops(node) == nil, "what was known of the old one is void")
    world.run(for: .seconds(10))
    #expect(hops(node) == 2)
  }
}
