/// Who is a member changes while sessions live, and the server cannot always
/// say so: evictions go from peer to peer, certificates end by authority time.
import Bytes
import NodeCore
import ServerCore
import Simulation
import Testing

private func trio(seed: UInt64) -> World {
  let world = pair(seed: seed) {
    $0.addNode(addresses: [IPAddress(203, 0, 113, 3)])
  }
  #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
  return world
}

private func meet(_ a: Int, _ b: Int, in world: World) {
  world.converse(near: a, far: b, nearScript: bulk(10_000), farScript: bulk(10_000))
  #expect(
    world.run(for: .seconds(10)) { $0.nodes[a].tier(to: $0.nodes[b]) == "udp-direct" },
    "seed \(world.seed)")
}

private func knows(_ world: World, _ a: Int, _ b: Int) -> Bool {
  world.nodes[a].node?.status(of: world.nodes[b].name, now: world.now) != nil
}

@Test func anEvictionReachesANodeThatTheServerCannot() {
  for seed: UInt64 in 1...12 {
    let world = trio(seed: seed)
    meet(0, 1, in: world)
    meet(1, 2, in: world)
    if seed % 3 == 0 { world.network.change(0, 1) { $0.loss = 0.3 } }
    world.setUplinkCut(1, true)
    world.run(for: .seconds(1))
    // It would pass on its own eviction.
    world.nodes[2].kill()
    world.server.with { core, now in _ = core.forget(node: "node2", now: now) }
    #expect(
      world.run(for: .seconds(30)) { !knows($0, 1, 2) }, "seed \(seed): told by node 0")
    #expect(knows(world, 1, 0), "seed \(seed)")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func aMissedStatementIsMadeUpForByTheNextHello() {
  for seed: UInt64 in 1...12 {
    let world = trio(seed: seed)
    meet(0, 1, in: world)
    meet(1, 2, in: world)
    world.converse(near: 0, far: 1, nearScript: bulk(100), farScript: slow(8_000_000))
    world.setUplinkCut(1, true)
    world.run(for: .seconds(1))
    world.network.cut(0, 1)
    // It would pass on its own eviction.
    world.nodes[2].kill()
    world.server.with { core, now in _ = core.forget(node: "node2", now: now) }
    world.run(for: .milliseconds(900))
    #expect(knows(world, 1, 2), "seed \(seed)")
    world.network.heal(0, 1)
    #expect(world.run(for: .seconds(150)) { !knows($0, 1, 2) }, "seed \(seed)")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

/// Authority time a year later: node 2 logs in under a certificate of then.
private func aYearPasses(in world: World) {
  world.server.setWallClock(offset: 366 * 86_400 * 1_000_000_000)
  world.nodes[2].kill()
  world.run(for: .seconds(1))
  world.nodes[2].start()
}

@Test func certificatesAreRenewedWhileSessionsLive() {
  for seed: UInt64 in 1...8 {
    let world = trio(seed: seed)
    meet(0, 1, in: world)
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(100), farScript: slow(4_000_000))
    world.run(for: .seconds(1))
    aYearPasses(in: world)
    #expect(world.run(for: .minutes(6)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder, "seed \(seed): \(stream.nearState)")
    #expect(knows(world, 0, 1) && knows(world, 1, 0), "seed \(seed)")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func aSessionEndsWithItsCertificate() {
  for seed: UInt64 in 1...8 {
    let world = trio(seed: seed)
    meet(0, 1, in: world)
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(100), farScript: slow(8_000_000))
    world.run(for: .seconds(1))
    // Node 1 cannot have a new one, and its peer hears that the year is over.
    world.setUplinkCut(1, true)
    world.run(for: .seconds(1))
    aYearPasses(in: world)
    world.run(for: .seconds(60))
    #expect(knows(world, 0, 1) && stream.nearState == .open, "seed \(seed): the grace")
    #expect(world.run(for: .seconds(90)) { !knows($0, 0, 1) }, "seed \(seed)")
    #expect(
      world.run(for: .seconds(5)) { _ in
        if case .ended = stream.nearState { true } else { false }
      }, "seed \(seed): \(stream.nearState)")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

/// A stream that takes some minutes.
private func slow(_ bytes: UInt64) -> ApplicationScript {
  var script = bulk(bytes)
  script.pause = .milliseconds(800)
  return script
}

@Test func machinesThatSleepThroughTheNightKeepTheirStreams() {
  for seed: UInt64 in 1...6 {
    let world = pair(seed: seed)
    #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) })
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(20_000_000), farScript: bulk(20_000_000))
    world.run(for: .milliseconds(700))
    world.nodes[1].suspend()
    world.run(for: .seconds(20 + Int64(seed)))
    #expect(world.nodes[0].tier(to: world.nodes[1]) == nil, "seed \(seed)")
    world.nodes[0].suspend()
    world.run(for: .hours(8))
    world.nodes[0].resume()
    world.run(for: .minutes(7))
    #expect(stream.nearState == .open, "seed \(seed): waits 12 h after a sleep")
    world.nodes[1].resume()
    #expect(world.run(for: .minutes(2)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder, "seed \(seed): \(stream.nearState) \(stream.farState)")
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func aMachineThatDidNotSleepWaitsFiveMinutes() {
  let world = pair(seed: 3)
  #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) })
  let stream = world.converse(
    near: 0, far: 1, nearScript: bulk(20_000_000), farScript: bulk(20_000_000))
  world.run(for: .milliseconds(700))
  world.nodes[1].suspend()
  world.run(for: .minutes(4))
  #expect(stream.nearState == .open)
  world.run(for: .minutes(2))
  #expect(stream.nearState == .ended(.peerLost), "\(stream.nearState)")
  #expect(world.violations == [])
}
