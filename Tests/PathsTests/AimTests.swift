import Bytes
import NAT
import Paths
import Testing

/// A relay that is quicker than the direct road by less than its tier costs.
private func quickRelay() -> World {
  World(
    seed: 3, links: [.udp(1, delay: .milliseconds(40)), .relay(delay: .milliseconds(10))])
}

@Test func whoWaitsForAnswersTakesTheQuickerRoad() {
  let world = quickRelay()
  world.begin()
  world.startTraffic(every: .milliseconds(20))
  world.run(for: .seconds(10))
  #expect(world.primaryTier() == .udpDirect)
  for node in 0...1 { world.nodes[node].setAim(.roundTrip, now: world.now) }
  world.run(for: .seconds(10))
  #expect(world.primaryTier() == .serverRelay)
  for node in 0...1 { world.nodes[node].setAim(.usual, now: world.now) }
  world.run(for: .seconds(10))
  #expect(world.primaryTier() == .udpDirect)
}

@Test func bulkTakesTheRoadThatMovesMost() throws {
  let world = quickRelay()
  world.begin()
  world.startTraffic(every: .milliseconds(20))
  world.run(for: .seconds(10))
  func move(_ rate: Double) throws {
    for node in 0...1 {
      let lane = try #require(world.nodes[node].primary)
      world.nodes[node].goodput(on: lane, bytesPerSecond: rate, now: world.now)
    }
  }
  // A slow direct road is nothing to leave it for, unless the traffic is bulk.
  try move(300_000)
  world.run(for: .seconds(10))
  #expect(world.primaryTier() == .udpDirect)
  for node in 0...1 { world.nodes[node].setAim(.goodput, now: world.now) }
  world.run(for: .seconds(10))
  #expect(world.primaryTier() == .serverRelay)
  // It turns out that the relay moves less.
  try move(100_000)
  world.run(for: .seconds(40))
  #expect(world.primaryTier() == .udpDirect)
  let switches = world.switches()
  try move(300_000)
  world.run(for: .seconds(60))
  #expect(world.switches() == switches, "both are known: there is nothing to try")
}
