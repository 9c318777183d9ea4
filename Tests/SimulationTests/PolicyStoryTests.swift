/// What nodes, apps and tunnels demand of the road to a peer, kept through cuts and
/// returns of direct paths. docs/decisions/0024-policies.md.
import Bytes
import NodeCore
import Paths
import Simulation
import Testing
import Tunnels

private let seeds: ClosedRange<UInt64> = 1...6
private let port: UInt16 = 9_001

/// Nodes 0 and 1 talk; the others are what a story makes them.
private func world(_ seed: UInt64, nodes: Int = 2, isCut: Bool = false) -> World {
  let world = World(seed: seed, server: SimulatedServer.Settings())
  for _ in 0..<nodes { world.addNode(addresses: [world.freshPublicAddress()]) }
  if isCut { world.network.cut(0, 1) }
  world.server.start()
  return world
}

private func begin(_ world: World) {
  for node in [0, 1] { world.nodes[node].start() }
  world.run(for: .seconds(5))
}

private func app(
  _ world: World, forced: Bool = false, relay: String = "", policy: String = ""
) throws {
  try world.nodes[0].setApps([
    try AppDefinition(
      srcPort: Int(port), peerNode: world.nodes[1].name, dstPort: 22, forceRelay: forced,
      relay: relay, policy: policy)
  ])
}

private func converse(
  _ world: World, bytes: UInt64 = 200_000, app: UInt16 = port
) -> Conversation {
  var script = ApplicationScript()
  script.bytes = bytes
  script.chunk = 1_000
  script.pause = .milliseconds(20)
  return world.converse(near: 0, far: 1, nearScript: script, farScript: script, app: app)
}

private func tiers(_ world: World) -> [String] {
  [
    world.nodes[0].tier(to: world.nodes[1]) ?? "none",
    world.nodes[1].tier(to: world.nodes[0]) ?? "none",
  ]
}

private func demands(_ world: World, _ node: Int) -> PeerDemands? {
  world.nodes[node].node?.status(of: world.nodes[1 - node].name, now: world.now)?.demands
}

private func isDirect(_ world: World) -> Bool { tiers(world) == ["udp-direct", "udp-direct"] }

@Suite struct PolicyStories {
  /// A tunnel that goes through no relay is not opened through one; others are.
  @Test func aTunnelThatGoesThroughNoRelayWaitsForADirectRoad() throws {
    for seed in seeds {
      let world = world(seed, isCut: true)
      begin(world)
      try app(world, relay: "never")
      let waiting = converse(world)
      let usual = converse(world, app: 8_080)
      world.run(for: .seconds(10))
      #expect(tiers(world) == ["server-relay", "server-relay"], "seed \(seed)")
      #expect(waiting.farRead == 0 && waiting.farState == .absent, "seed \(seed)")
      #expect(usual.farRead > 0 && demands(world, 0)?.heldOpens == 1, "seed \(seed)")
      // Nobody waits for ever.
      #expect(world.run(for: .seconds(10)) { _ in waiting.isOver }, "seed \(seed)")
      guard case .ended(.refused(let words)) = waiting.nearState else {
        Issue.record("seed \(seed): \(waiting.nearState)")
        continue
      }
      #expect(words.contains("policy"), "seed \(seed): \(words)")
      world.network.heal(0, 1)
      let direct = converse(world)
      #expect(world.run(for: .seconds(200)) { _ in direct.isOver && usual.isOver }, "seed \(seed)")
      #expect(
        direct.isInOrder && direct.farRead == 200_000 && usual.isInOrder && world.violations == [],
        "seed \(seed): \(world.violations)")
    }
  }

  /// The direct path goes away under it: it stands still, the other one moves on.
  @Test func anOpenStreamStopsRatherThanTakeARelay() throws {
    for seed in seeds {
      let world = world(seed)
      begin(world)
      try app(world, relay: "never")
      let picky = converse(world, bytes: 2_000_000)
      let usual = converse(world, bytes: 2_000_000, app: 8_080)
      #expect(world.run(for: .seconds(10)) { isDirect($0) }, "seed \(seed)")
      world.run(for: .seconds(3))
      world.network.cut(0, 1)
      #expect(
        world.run(for: .seconds(10)) { tiers($0) == ["server-relay", "server-relay"] },
        "seed \(seed)")
      world.run(for: .seconds(1))
      let (held, moving) = (picky.farRead + picky.nearRead, usual.farRead)
      world.run(for: .seconds(10))
      #expect(picky.farRead + picky.nearRead == held, "seed \(seed)")
      #expect(usual.farRead > moving && demands(world, 0)?.heldFlows == 1, "seed \(seed)")
      world.network.heal(0, 1)
      #expect(world.run(for: .seconds(300)) { _ in picky.isOver && usual.isOver }, "seed \(seed)")
      #expect(
        picky.isInOrder && picky.farRead == 2_000_000 && usual.isInOrder
          && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// And not for ever.
  @Test func aStreamThatWaitsTooLongIsGivenUp() throws {
    let world = world(2)
    begin(world)
    try app(world, relay: "never")
    let picky = converse(world, bytes: 2_000_000)
    let usual = converse(world, bytes: 20_000_000, app: 8_080)
    #expect(world.run(for: .seconds(10)) { isDirect($0) })
    world.network.cut(0, 1)
    world.run(for: .minutes(4))
    #expect(!picky.isOver && !usual.isOver)
    #expect(world.run(for: .minutes(2)) { _ in picky.isOver })
    #expect(picky.nearState == .ended(.peerLost))
    #expect(!usual.isOver && world.violations == [])
  }

  /// Foreign relays are too dear for it, one of its own mesh is not.
  @Test func aCheapTunnelTakesNoRelayThatOthersPayFor() throws {
    for seed in seeds {
      let world = world(seed, nodes: 3, isCut: true)
      begin(world)
      try app(world, policy: "cheap")
      let usual = converse(world, bytes: 4_000_000, app: 8_080)
      let cheap = converse(world)
      world.run(for: .seconds(10))
      #expect(tiers(world) == ["server-relay", "server-relay"], "seed \(seed)")
      #expect(cheap.farState == .absent && usual.farRead > 0, "seed \(seed)")
      world.nodes[2].relaySettings = SimulatedRelaySettings()
      world.nodes[2].start()
      #expect(
        world.run(for: .seconds(20)) { tiers($0) == ["private-relay", "private-relay"] },
        "seed \(seed): \(tiers(world))")
      let second = converse(world)
      #expect(world.run(for: .seconds(30)) { _ in second.isOver }, "seed \(seed)")
      #expect(second.farRead == 200_000 && second.isInOrder, "seed \(seed)")
      #expect(world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// One end's word is kept by both.
  @Test func aNodeThatAllowsNoRelayHasNone() throws {
    for seed in seeds {
      let world = world(seed, nodes: 3)
      world.nodes[0].relayPolicies = [try PeerRelayPolicy("never")]
      world.nodes[2].relaySettings = SimulatedRelaySettings()
      world.nodes[2].start()
      begin(world)
      let stream = converse(world, bytes: 2_000_000, app: 8_080)
      #expect(world.run(for: .seconds(15)) { isDirect($0) }, "seed \(seed): \(tiers(world))")
      #expect(demands(world, 1)?.told == .never, "seed \(seed)")
      world.network.cut(0, 1)
      world.run(for: .seconds(30))
      #expect(tiers(world) == ["none", "none"], "seed \(seed): \(tiers(world))")
      world.network.heal(0, 1)
      #expect(world.run(for: .seconds(60)) { isDirect($0) }, "seed \(seed): \(tiers(world))")
      #expect(world.run(for: .seconds(200)) { _ in stream.isOver }, "seed \(seed)")
      #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// The word for one peer goes before the word for all.
  @Test func aNodeUsesOnlyRelaysToOnePeer() throws {
    for seed in seeds {
      let world = world(seed, nodes: 4)
      world.nodes[0].relayPolicies = [
        try PeerRelayPolicy("never"),
        try PeerRelayPolicy("to:\(world.nodes[1].name),only,not:\(world.nodes[2].name)"),
      ]
      for relay in 2...3 {
        world.nodes[relay].relaySettings = SimulatedRelaySettings()
        world.nodes[relay].start()
      }
      begin(world)
      let stream = converse(world, bytes: 2_000_000, app: 8_080)
      #expect(
        world.run(for: .seconds(30)) { tiers($0) == ["private-relay", "private-relay"] },
        "seed \(seed): \(tiers(world))")
      world.run(for: .seconds(20))
      for node in [0, 1] {
        let used =
          world.nodes[node].node?.status(of: world.nodes[1 - node].name, now: world.now)?.address
        #expect(used?.address == world.nodes[3].addresses[0], "seed \(seed)")
      }
      #expect(world.run(for: .seconds(200)) { _ in stream.isOver }, "seed \(seed)")
      #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }

  /// What the streams of a pair want is known at both ends, and forgotten.
  @Test func aLatencyTunnelChangesWhatThePairLooksFor() throws {
    let world = world(1)
    begin(world)
    try app(world, policy: "latency")
    let bulk = converse(world, bytes: 2_000_000, app: 8_080)
    let quick = converse(world, bytes: 100_000)
    world.run(for: .seconds(1))
    #expect(demands(world, 0)?.aim == .roundTrip && demands(world, 1)?.aim == .roundTrip)
    #expect(world.run(for: .seconds(60)) { _ in quick.isOver })
    #expect(!bulk.isOver)
    world.run(for: .seconds(12))
    #expect(demands(world, 0)?.aim == .usual && demands(world, 1)?.aim == .usual)
    try app(world, policy: "bulk")
    #expect(world.run(for: .seconds(200)) { _ in bulk.isOver })
    let patient = converse(world, bytes: 300_000)
    world.run(for: .seconds(1))
    #expect(demands(world, 0)?.aim == .goodput && demands(world, 1)?.aim == .goodput)
    #expect(world.run(for: .seconds(60)) { _ in patient.isOver })
    #expect(patient.isInOrder && bulk.isInOrder && world.violations == [])
  }
}
