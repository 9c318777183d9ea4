import Bytes
import Paths
import Testing

/// The largest multiple of 64 whose sealed packet fits an IPv4 link.
private func best(_ mtu: Int) -> Int { (mtu - 28 - 32) / 64 * 64 }

private func directWorld(_ seed: UInt64, mtu: Int, loss: Int = 0) -> World {
  var link = TestLink.udp(1, delay: .milliseconds(10))
  link.mtu = mtu
  link.lossPerMille = loss
  return World(seed: seed, links: [link])
}

@Test func sizesOfTheWire() {
  #expect(PathSizes.inner(ofDatagram: 1200) == 1152)
  #expect(PathSizes.inner(ofDatagram: 548) == 512)
  #expect(PathSizes.inner(ofDatagram: 1472) == 1408)
  #expect(PathSizes.inner(ofDatagram: 1452) == 1408)
  #expect(PathSizes.sealed(1408) == 1440)
  #expect(PathSizes.sealed(PathSizes.largestInner) <= 0xffff)
}

@Test func searchConvergesOnEveryLink() {
  for mtu in [1280, 1300, 1400, 1452, 1492, 1500, 2000, 4352, 9000] {
    let world = directWorld(UInt64(mtu), mtu: mtu)
    world.begin()
    world.run(for: .seconds(15))
    for node in 0..<2 {
      let size = world.nodes[node].primary.flatMap { world.nodes[node].maximumPacket(of: $0) }
      #expect(size == min(best(mtu), 8896), "mtu \(mtu)")
    }
  }
}

@Test func anOrdinaryLinkIsKnownAfterTwoRoundTrips() {
  let world = directWorld(1, mtu: 1500)
  world.begin()
  world.run(for: .milliseconds(45))
  #expect(world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) } == 1408)
}

@Test func aNarrowLinkFallsToTheFloorAndClimbs() {
  let world = directWorld(2, mtu: 576)
  world.begin()
  world.startTraffic(every: .milliseconds(50))
  world.run(for: .seconds(5))
  #expect(world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) } == 512)
  #expect(world.longestGap < .seconds(2))
}

@Test func searchSurvivesLoss() {
  for seed in 0..<40 as Range<UInt64> {
    let world = directWorld(seed, mtu: 1500, loss: 20)
    world.begin()
    world.run(for: .seconds(15))
    let size = world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) }
    #expect(size == 1408, "seed \(seed)")
  }
}

@Test func blackHoleInMidTransferIsLeft() {
  for (mtu, expected) in [(1280, best(1280)), (576, 512)] {
    for seed in 0..<10 as Range<UInt64> {
      let world = directWorld(seed, mtu: 1500)
      world.begin()
      world.startTraffic(every: .milliseconds(10))
      world.run(for: .seconds(3))
      world.longestGap = .zero
      world.links[0].mtu = mtu
      world.run(for: .seconds(15))
      let size = world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) }
      #expect(size == expected, "mtu \(mtu) seed \(seed)")
      #expect(
        world.longestGap < .milliseconds(mtu == 576 ? 2_500 : 1_200), "mtu \(mtu) seed \(seed)")
      #expect(world.nodes[0].history.contains { $0.reason == .sizeBlackHole })
      #expect(world.events[0].allSatisfy { if case .pathDown = $0.event { false } else { true } })
    }
  }
}

@Test func aWiderLinkIsFoundAgain() {
  let world = directWorld(3, mtu: 1280)
  world.begin()
  world.run(for: .seconds(10))
  world.links[0].mtu = 1500
  world.startTraffic(every: .seconds(1))
  world.run(for: .minutes(12))
  #expect(world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) } == 1408)
}

@Test func theKernelsRefusalBoundsTheSearch() {
  let world = directWorld(4, mtu: 1500)
  world.begin()
  world.run(for: .seconds(1))
  world.nodes[0].datagramTooLong(on: world.links[0].ends[0], limit: 1372, now: world.now)
  world.drain()
  world.run(for: .seconds(5))
  #expect(world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) } == 1280)
}

@Test func aRefusalWithoutASizeDoubtsOnlyTheProbe() {
  let world = directWorld(4, mtu: 1500)
  world.begin()
  world.run(for: .seconds(1))
  // The kernel refuses the reach for more and does not say how much it takes.
  world.nodes[0].datagramTooLong(on: world.links[0].ends[0], limit: 0, now: world.now)
  world.drain()
  world.run(for: .seconds(5))
  #expect(world.nodes[0].primary.flatMap { world.nodes[0].maximumPacket(of: $0) } == 1408)
}

@Test func streamPacketsFollowTheDeliveryRate() {
  let world = World(seed: 5, links: [.tcp(delay: .milliseconds(5))])
  world.begin()
  world.run(for: .seconds(1))
  let lane = world.nodes[0].primary ?? 255
  #expect(world.nodes[0].maximumPacket(of: lane) == 16_384)
  let table: [(Double, Int)] = [
    (125e6, PathSizes.largestInner), (1e12, PathSizes.largestInner), (10e6, 20_000), (100, 1_200),
    (0, 1_200), (.infinity, 1_200), (.nan, 1_200), (8e6, 16_000),
  ]
  for (rate, expected) in table {
    world.nodes[0].deliveryRate(on: lane, bytesPerSecond: rate, now: world.now)
    #expect(world.nodes[0].maximumPacket(of: lane) == expected, "\(rate)")
  }
  // Small changes are not worth an event.
  world.drain()
  let count = world.events[0].count
  world.nodes[0].deliveryRate(on: lane, bytesPerSecond: 8.5e6, now: world.now)
  world.drain()
  #expect(world.events[0].count == count)
}
