/// The smallest whole worlds: a server, two nodes, a stream. When one of these
/// fails, nothing else is worth looking at.
import Bytes
import Simulation
import Testing

/// Two nodes and a server, all running.
func pair(seed: UInt64, _ change: (World) -> Void = { _ in }) -> World {
  let world = World(seed: seed)
  world.addNode(addresses: [IPAddress(203, 0, 113, 1)])
  world.addNode(addresses: [IPAddress(203, 0, 113, 2)])
  change(world)
  world.server.start()
  for node in world.nodes { node.start() }
  return world
}

func bulk(_ bytes: UInt64) -> ApplicationScript {
  var script = ApplicationScript()
  script.bytes = bytes
  return script
}

@Test func aStreamPassesThroughTheRelayAndThenDirectly() {
  let world = pair(seed: 1)
  if environment("MARTLET_TRACE") != nil { world.print = { print($0) } }
  #expect(world.run(for: .seconds(5)) { $0.nodes.allSatisfy { $0.isOnline } })
  // Only the relay works.
  world.network.cut(0, 1)
  let first = world.converse(near: 0, far: 1, nearScript: bulk(100_000), farScript: bulk(200_000))
  #expect(world.run(for: .seconds(10)) { _ in first.isOver })
  #expect(first.isInOrder, "\(world.violations)")
  #expect(world.nodes[0].tier(to: world.nodes[1]) == "server-relay")
  // The direct road opens; the session finds it and leaves the relay.
  world.network.heal(0, 1)
  #expect(
    world.run(for: .seconds(330)) {
      $0.nodes[0].tier(to: $0.nodes[1]) == "udp-direct"
    })
  let second = world.converse(
    near: 1, far: 0, nearScript: bulk(1_000_000), farScript: bulk(1_000_000))
  #expect(world.run(for: .seconds(20)) { _ in second.isOver })
  #expect(second.isInOrder)
  #expect(world.violations == [])
}
