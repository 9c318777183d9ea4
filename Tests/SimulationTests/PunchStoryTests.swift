/// Agreed starts among neighbours: who shares an address with others still gets
/// through, and both ends begin once.
import Bytes
import NAT
import NodeCore
import Paths
import Simulation
import Testing

@Suite struct PunchStoryTests {
  private func isDirect(_ world: World, _ a: Int, _ b: Int) -> Bool {
    let (one, other) = (world.nodes[a], world.nodes[b])
    return one.tier(to: other)?.hasPrefix("udp") == true
      && other.tier(to: one)?.hasPrefix("udp") == true
  }

  /// Somebody wants the pair every few seconds.
  private func keepAsking(_ world: World, _ a: Int, _ b: Int) {
    world.after(.seconds(3)) { [self] world in
      world.converse(near: a, far: b, nearScript: bulk(100), farScript: bulk(100))
      keepAsking(world, a, b)
    }
  }

  /// A neighbour at the same carrier's address is lost again and again, each time
  /// at another port that must be guessed.
  @Test func aNeighbourThatIsLostAgainAndAgainLeavesTheOpenersTheirRoom() {
    for seed: UInt64 in 1...4 {
      let world = World(seed: seed)
      if environment("MARTLET_TRACE") != nil { world.print = { print($0) } }
      let near = world.addHome(kind: .masqueradeOpen, nodes: 1)
      let carrier = world.addCarrierNAT()
      let restless = world.addHome(kind: .symmetricRandom, nodes: 1, behind: carrier)
      let quiet = world.addHome(kind: .masqueradeOpen, nodes: 1, behind: carrier)
      world.server.start()
      for node in [near, restless].flatMap(\.nodes) { node.start() }
      world.run(for: .seconds(10))
      keepAsking(world, 0, 1)
      for _ in 0..<6 {
        world.run(for: .seconds(20)) { [self] in isDirect($0, 0, 1) }
        world.run(for: .seconds(2))
        world.rebind(restless.site)
        world.run(for: .seconds(3))
      }
      quiet.nodes[0].start()
      world.run(for: .seconds(5))
      keepAsking(world, 2, 0)
      let isFound = world.run(for: .seconds(70)) { [self] in isDirect($0, 0, 2) }
      let roads = isFound ? [] : world.nodes[0].roads(to: world.nodes[2])
      #expect(isFound, "seed \(seed): \(roads)")
      #expect(world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// Both wait equally long for the next start, so their requests cross.
  @Test func bothEndsBeginOnceThoughTheirRequestsCross() {
    for seed: UInt64 in 1...6 {
      let world = World(seed: seed)
      _ = world.addHome(kind: .symmetricRandom, nodes: 1)
      _ = world.addHome(kind: .symmetricRandom, nodes: 1)
      world.nodes[0].uplinkSettings.delay = .milliseconds(20)
      world.nodes[1].uplinkSettings.delay = .milliseconds(70)
      world.server.start()
      for node in world.nodes { node.start() }
      world.run(for: .seconds(10))
      keepAsking(world, 0, 1)
      world.run(for: .minutes(3))
      let starts = (0..<2).map { index in
        let node = world.nodes[index]
        return (node.node?.status(of: world.nodes[1 - index].name, now: world.now)?.history ?? [])
          .filter { $0.reason == .punchStarted }.map(\.at)
      }
      #expect(starts[0].count >= 4, "seed \(seed)")
      #expect(starts[0].count == starts[1].count, "seed \(seed): \(starts.map(\.count))")
      for (one, other) in zip(starts[0], starts[1]) {
        #expect(
          max(one, other) - min(one, other) < .milliseconds(200), "seed \(seed): \(starts)")
      }
      #expect(world.violations == [], "seed \(seed): \(world.violations)")
    }
  }
}
