/// Both halves of a tunnel on one endpoint, spec/ztm.md.
import Bytes
import NodeCore
import Simulation
import Testing

@Test func aTunnelToOneselfNeedsNobody() {
  for seed: UInt64 in 1...5 {
    let world = World(seed: seed)
    world.addNode(addresses: [IPAddress(203, 0, 113, 1)])
    // No server runs.
    world.nodes[0].start()
    var late = bulk(500_000)
    late.begin = .afterEnd
    var slow = bulk(100)
    slow.readRate = 200_000
    let streams = [
      world.converse(near: 0, far: 0, nearScript: bulk(30_000_000), farScript: bulk(20_000_000)),
      world.converse(near: 0, far: 0, nearScript: bulk(70_000), farScript: late),
      world.converse(near: 0, far: 0, nearScript: bulk(2_000_000), farScript: slow),
    ]
    let refused = world.converse(
      near: 0, far: 0, nearScript: bulk(100), farScript: bulk(100), dial: .refuse)
    #expect(world.run(for: .seconds(30)) { $0.isAllOver }, "seed \(seed)")
    for stream in streams { #expect(stream.isInOrder, "seed \(seed): \(stream.nearState)") }
    if case .ended(.refused(words: _)) = refused.nearState {
    } else {
      Issue.record("seed \(seed): \(refused.nearState)")
    }
    // Questions to the STUN ports of the server that is not there, nothing else.
    #expect(world.statistics.packets < 64, "\(world.statistics.packets) packets left the machine")
    let events = world.statistics.events
    world.run(for: .minutes(10))
    #expect(world.statistics.events - events < 1_000, "nothing stays awake")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func bothHalvesOnOneEndpointWithASessionBeside() {
  let world = pair(seed: 2)
  #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) })
  for _ in 0..<3 {
    world.converse(near: 0, far: 0, nearScript: bulk(300_000), farScript: bulk(300_000))
    world.converse(near: 0, far: 1, nearScript: bulk(300_000), farScript: bulk(300_000))
    world.run(for: .milliseconds(200))
  }
  #expect(world.run(for: .seconds(10)) { $0.isAllOver })
  #expect(world.isAllInOrder && world.violations == [], "\(world.violations)")
}
