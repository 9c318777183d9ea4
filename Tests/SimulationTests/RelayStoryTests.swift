/// Pairs without a direct road, and relays that other nodes are: up from the
/// server's relay, down again when a relay dies, up when it comes back, with
/// streams that never notice. docs/protocol/relay.md "How the ends use it".
import Bytes
import NodeCore
import Paths
import Simulation
import Testing
import Tunnels

/// Nodes 0 and 1 cannot reach each other; the others are what a story makes them.
private func apart(_ seed: UInt64, nodes: Int, otherMesh: Bool = false) -> World {
  let world = World(
    seed: seed, server: SimulatedServer.Settings(hasOtherMesh: otherMesh))
  for _ in 0..<nodes { world.addNode(addresses: [world.freshPublicAddress()]) }
  world.network.cut(0, 1)
  world.server.start()
  world.nodes[0].start()
  world.nodes[1].start()
  return world
}

private func tiers(_ world: World) -> [String] {
  [
    world.nodes[0].tier(to: world.nodes[1]) ?? "none",
    world.nodes[1].tier(to: world.nodes[0]) ?? "none",
  ]
}

private func wait(
  _ world: World, for tier: String, within: TimeAmount, _ seed: UInt64,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  #expect(
    world.run(for: within) { tiers($0) == [tier, tier] },
    "seed \(seed): \(tiers(world)) instead of \(tier)", sourceLocation: sourceLocation)
}

private func stream(_ world: World) -> Conversation {
  var script = ApplicationScript()
  script.bytes = 4_000_000
  script.chunk = 1_000
  script.pause = .milliseconds(20)
  return world.converse(near: 0, far: 1, nearScript: script, farScript: script)
}

private let seeds: ClosedRange<UInt64> = 1...10

/// Half of them answer by UDP.
private func kindOfRelay(_ seed: UInt64, isSuper: Bool = false) -> SimulatedRelaySettings {
  SimulatedRelaySettings(isSuper: isSuper, takesDatagrams: seed % 2 == 0)
}

private func startRelays(_ nodes: Int..., of world: World, _ seed: UInt64) {
  for index in nodes {
    world.nodes[index].relaySettings = kindOfRelay(seed)
    world.nodes[index].start()
  }
}

/// To its last byte, in order, and nothing forbidden happened meanwhile.
private func endsWell(
  _ stream: Conversation, in world: World, within: TimeAmount, _ seed: UInt64,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  #expect(
    world.run(for: within) { _ in stream.isOver }, "seed \(seed)", sourceLocation: sourceLocation)
  #expect(
    stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)",
    sourceLocation: sourceLocation)
}

/// Addresses of the relays that carry a path between the two, the one in use first.
private func relays(_ world: World, _ node: Int = 0) -> [IPAddress] {
  let paths =
    world.nodes[node].node?.status(of: world.nodes[1 - node].name, now: world.now)?.paths ?? []
  return paths.filter { $0.tier.isRelay && $0.tier != .serverRelay && $0.state == .up }
    .sorted { $0.isPrimary && !$1.isPrimary }.map(\.carrier.remote.address)
}

@Suite struct RelayStories {
  @Test func aRelayComesDiesAndReturnsUnderAStream() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "server-relay", within: .seconds(10), seed)
      startRelays(2, of: world, seed)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      world.run(for: .seconds(5))
      world.nodes[2].kill()
      wait(world, for: "server-relay", within: .seconds(2), seed)
      world.run(for: .seconds(3))
      world.nodes[2].start()
      wait(world, for: "private-relay", within: .seconds(20), seed)
      #expect(!stream.isOver, "seed \(seed)")
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// It is back before anybody has noticed that it was gone: its announcement says
  /// that places at the former process are void.
  @Test func aRelayThatIsStartedAnewAtOnceIsUsedAgain() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      startRelays(2, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      for _ in 0..<2 {
        world.run(for: .seconds(7))
        world.nodes[2].kill()
        world.run(for: .milliseconds(400))
        world.nodes[2].start()
        world.run(for: .seconds(3))
        wait(world, for: "private-relay", within: .seconds(10), seed)
      }
      endsWell(stream, in: world, within: .seconds(150), seed)
    }
  }

  /// Its machine vanishes: nobody's kernel says a word.
  @Test func aRelayVanishesSilently() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      startRelays(2, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      world.nodes[2].kill(silently: true)
      wait(world, for: "server-relay", within: .seconds(5), seed)
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// A super relay of another mesh serves the pair and stays unknown to it; a
  /// relay of its own is better.
  @Test func aSuperRelayServesAnotherMesh() {
    for seed in seeds {
      let world = apart(seed, nodes: 4, otherMesh: true)
      world.nodes[2].token = SimulatedServer.otherToken
      world.nodes[2].relaySettings = kindOfRelay(seed, isSuper: true)
      world.nodes[2].start()
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "super-relay", within: .seconds(15), seed)
      #expect(
        world.nodes[0].node?.status(of: world.nodes[2].name, now: world.now) == nil,
        "seed \(seed): the meshes see each other")
      startRelays(3, of: world, seed)
      wait(world, for: "private-relay", within: .seconds(20), seed)
      world.nodes[3].kill()
      wait(world, for: "super-relay", within: .seconds(20), seed)
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// A private relay is for its own mesh.
  @Test func aPrivateRelayServesNoOtherMesh() {
    for seed in seeds {
      let world = apart(seed, nodes: 3, otherMesh: true)
      world.nodes[2].token = SimulatedServer.otherToken
      startRelays(2, of: world, seed)
      world.run(for: .seconds(5))
      _ = stream(world)
      world.run(for: .seconds(20))
      #expect(tiers(world) == ["server-relay", "server-relay"], "seed \(seed)")
    }
  }

  /// One end cannot reach the first relay: both use the other one.
  @Test func aRelayThatOneEndCannotReachIsLeftOut() {
    for seed in seeds {
      let world = apart(seed, nodes: 4)
      world.network.cut(0, 2)
      startRelays(2, 3, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "private-relay", within: .seconds(60), seed)
      let used = world.nodes[0].node?.status(of: world.nodes[1].name, now: world.now)?.address
      #expect(used?.address == world.nodes[3].addresses[0], "seed \(seed)")
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// The peer's end finds out that a relay cannot be used; ours is told nothing and
  /// goes to the next one by itself, though the server is away.
  @Test func theNextRelayOfAGrantNeedsNoServer() {
    for seed in seeds {
      let world = apart(seed, nodes: 4)
      world.network.cut(0, 2)
      startRelays(2, 3, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      // Asked for, and then nobody answers any more.
      world.run(for: .milliseconds(1_500))
      world.server.kill()
      wait(world, for: "private-relay", within: .seconds(12), seed)
      #expect(relays(world).first == world.nodes[3].addresses[0], "seed \(seed)")
      world.server.start()
      endsWell(stream, in: world, within: .seconds(150), seed)
    }
  }

  /// Of two relays the nearer one carries, the other one is warm and takes over at
  /// once; the server's relay is not needed for it.
  @Test func theNearerRelayCarriesAndTheOtherIsWarm() {
    for seed in seeds {
      let world = apart(seed, nodes: 4)
      for end in 0...1 {
        world.network.change(end, 2) { $0.delay = .milliseconds(20) }
        world.network.change(end, 3) { $0.delay = .milliseconds(5) }
      }
      startRelays(2, 3, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      let (far, near) = (world.nodes[2].addresses[0], world.nodes[3].addresses[0])
      for node in 0...1 {
        #expect(
          world.run(for: .seconds(40)) { relays($0, node) == [near, far] },
          "seed \(seed): \(relays(world, node))")
      }
      world.run(for: .seconds(5))
      world.nodes[3].kill(silently: true)
      #expect(
        world.run(for: .seconds(3)) { w in
          tiers(w) == ["private-relay", "private-relay"]
            && relays(w, 0).first == far && relays(w, 1).first == far
        }, "seed \(seed): \(tiers(world)) \(relays(world))")
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// Five relays: the server's guess is blind to how far they are from the nodes;
  /// what both ends measured makes it offer the nearest.
  @Test func measuredRoundTripsChooseTheRelay() {
    for seed in seeds {
      let world = apart(seed, nodes: 6)
      for index in 2...5 {
        for end in 0...1 {
          world.network.change(end, index) {
            $0.delay = .milliseconds(index == Int(2 + seed % 4) ? 4 : 60)
          }
        }
        world.nodes[index].relaySettings = kindOfRelay(seed)
        world.nodes[index].start()
      }
      world.run(for: .seconds(5))
      let stream = stream(world)
      let nearest = world.nodes[Int(2 + seed % 4)].addresses[0]
      #expect(
        world.run(for: .seconds(40)) {
          relays($0).first == nearest && relays($0, 1).first == nearest
        },
        "seed \(seed): \(relays(world))")
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// A node with a leg by UDP wakes up at another address: the leg proves itself
  /// from there.
  @Test func aLegByDatagramsMovesWithItsNode() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      world.nodes[2].relaySettings = SimulatedRelaySettings()
      world.nodes[2].start()
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      world.run(for: .seconds(5))
      world.nodes[0].move(to: [world.freshPublicAddress()])
      wait(world, for: "private-relay", within: .seconds(10), seed)
      endsWell(stream, in: world, within: .seconds(120), seed)
    }
  }

  /// One super relay, pairs of two meshes, and no word of one to the other.
  @Test func twoMeshesShareASuperRelay() {
    for seed in seeds {
      let world = apart(seed, nodes: 5, otherMesh: true)
      for index in 2...4 { world.nodes[index].token = SimulatedServer.otherToken }
      world.network.cut(3, 4)
      world.nodes[2].relaySettings = kindOfRelay(seed, isSuper: true)
      for index in 2...4 { world.nodes[index].start() }
      world.run(for: .seconds(5))
      let first = stream(world)
      var script = ApplicationScript()
      script.bytes = 400_000
      script.chunk = 1_000
      script.pause = .milliseconds(20)
      let second = world.converse(near: 3, far: 4, nearScript: script, farScript: script)
      wait(world, for: "super-relay", within: .seconds(15), seed)
      #expect(
        world.run(for: .seconds(15)) { $0.nodes[3].tier(to: $0.nodes[4]) == "super-relay" },
        "seed \(seed)")
      for (own, others) in [([0, 1], [2, 3, 4]), ([2, 3, 4], [0, 1])] {
        for node in own {
          for other in others {
            #expect(
              world.nodes[node].node?.status(of: world.nodes[other].name, now: world.now) == nil,
              "seed \(seed): \(node) sees \(other)")
          }
        }
      }
      #expect(
        world.run(for: .seconds(150)) { _ in first.isOver && second.isOver }, "seed \(seed)")
      #expect(
        first.isInOrder && second.isInOrder && world.violations == [],
        "seed \(seed): \(world.violations)")
    }
  }

  /// The server is away: the legs stay, and the stream with them.
  @Test func theServerIsNotNeededByLegsThatStand() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      startRelays(2, of: world, seed)
      world.run(for: .seconds(5))
      let stream = stream(world)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      world.server.kill()
      world.run(for: .seconds(20))
      #expect(tiers(world) == ["private-relay", "private-relay"], "seed \(seed)")
      world.server.start()
      endsWell(stream, in: world, within: .seconds(150), seed)
    }
  }

  /// An app that demands a relay gets one though a direct path would stand, and
  /// the one it names; without the app the pair goes back.
  @Test func anAppDemandsARelayAndWhichOne() throws {
    for seed in seeds {
      let world = apart(seed, nodes: 4)
      world.network.heal(0, 1)
      startRelays(2, 3, of: world, seed)
      world.run(for: .seconds(5))
      var script = ApplicationScript()
      script.bytes = 2_000_000
      script.chunk = 500
      script.pause = .milliseconds(50)
      let stream = world.converse(near: 0, far: 1, nearScript: script, farScript: script)
      wait(world, for: "udp-direct", within: .seconds(10), seed)
      let app = try AppDefinition(
        srcPort: 9_000, peerNode: world.nodes[1].name, dstPort: 22, forceRelay: true,
        relayNode: world.nodes[3].name)
      try world.nodes[0].setApps([app])
      wait(world, for: "private-relay", within: .seconds(30), seed)
      for node in [0, 1] {
        let used =
          world.nodes[node].node?.status(of: world.nodes[1 - node].name, now: world.now)?.address
        #expect(used?.address == world.nodes[3].addresses[0], "seed \(seed)")
      }
      world.run(for: .seconds(30))
      #expect(tiers(world) == ["private-relay", "private-relay"], "seed \(seed)")
      try world.nodes[0].setApps([])
      wait(world, for: "udp-direct", within: .seconds(60), seed)
      endsWell(stream, in: world, within: .seconds(200), seed)
    }
  }

  /// A direct path that stands needs no leg: it is left after a minute.
  @Test func aDirectPathEndsTheLegs() {
    for seed in seeds {
      let world = apart(seed, nodes: 3)
      startRelays(2, of: world, seed)
      world.run(for: .seconds(5))
      var script = ApplicationScript()
      script.bytes = 1_000_000
      script.chunk = 200
      script.pause = .milliseconds(100)
      let stream = world.converse(near: 0, far: 1, nearScript: script, farScript: script)
      wait(world, for: "private-relay", within: .seconds(15), seed)
      world.network.heal(0, 1)
      #expect(
        world.run(for: .seconds(120)) { tiers($0).allSatisfy { $0.hasPrefix("udp-") } },
        "seed \(seed): \(tiers(world))")
      world.run(for: .seconds(70))
      for (a, b) in [(0, 1), (1, 0)] {
        let paths =
          world.nodes[a].node?.status(of: world.nodes[b].name, now: world.now)?.paths ?? []
        #expect(!paths.contains { $0.tier == .privateRelay }, "seed \(seed)")
      }
      #expect(!stream.isOver && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }
}
