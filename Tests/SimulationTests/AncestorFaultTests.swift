/// The five faults of the ancestor that must never appear (docs/spec/inp2p.md
/// "Why its author built it"), each as a story of whole nodes and a whole server.
/// What the server alone promises is in ServerCoreTests.
import Bytes
import NAT
import NodeCore
import Simulation
import Testing

private let year: Int64 = 31_557_600_000_000_000
private let seeds: ClosedRange<UInt64> = 1...5

/// How often each node came online, from the trace.
private final class Logins {
  private(set) var counts: [String: Int] = [:]

  func watch(_ world: World) {
    world.print = { [self] line in
      let words = line.split(separator: " ")
      guard words.count == 3, words[2] == "online" else { return }
      counts[String(words[1].dropLast()), default: 0] += 1
    }
  }
}

private func tiers(_ world: World) -> [String] {
  [
    world.nodes[0].tier(to: world.nodes[1]) ?? "none",
    world.nodes[1].tier(to: world.nodes[0]) ?? "none",
  ]
}

private func long(_ seconds: Int64) -> ApplicationScript {
  var script = ApplicationScript()
  script.chunk = 100
  script.pause = .milliseconds(100)
  script.bytes = UInt64(seconds * 1_000)
  return script
}

/// Nodes 0 and 1 without a road between them, the others relays.
private func apart(_ seed: UInt64, relays: [SimulatedRelaySettings]) -> World {
  let world = World(seed: seed)
  for _ in 0..<(2 + relays.count) { world.addNode(addresses: [world.freshPublicAddress()]) }
  for (index, relay) in relays.enumerated() { world.nodes[2 + index].relaySettings = relay }
  world.network.cut(0, 1)
  return world
}

@Suite struct AncestorFaults {
  @Test("F1: a node that is answered logs in once, and a silent server makes it give up nothing")
  func F1() {
    for seed in seeds {
      let logins = Logins()
      let world = pair(seed: seed) { logins.watch($0) }
      #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
      let stream = world.converse(near: 0, far: 1, nearScript: long(900), farScript: long(900))
      world.run(for: .minutes(5))
      #expect(logins.counts == ["node0": 1, "node1": 1], "seed \(seed)")
      // Its machine is gone: nobody says a word, for five minutes.
      world.server.kill(silently: true)
      world.run(for: .minutes(5))
      #expect(world.nodes.allSatisfy { $0.isRunning && !$0.isOnline }, "seed \(seed)")
      #expect(!stream.isOver, "seed \(seed)")
      world.server.start()
      #expect(world.run(for: .seconds(90)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
      #expect(world.run(for: .minutes(10)) { _ in stream.isOver }, "seed \(seed)")
      #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
      #expect(logins.counts == ["node0": 2, "node1": 2], "seed \(seed)")
    }
  }

  @Test("F3: relays let in nodes whose clocks are years off, and are let in themselves")
  func F3() {
    for (index, years) in [(-10, 70, 0), (70, -10, 0), (0, 0, -10), (0, 0, 70), (70, 70, -10)]
      .enumerated()
    {
      let seed = UInt64(index + 1)
      let world = apart(seed, relays: [SimulatedRelaySettings(isSuper: index % 2 == 1)])
      world.nodes[0].wallOffset = Int64(years.0) * year
      world.nodes[1].wallOffset = Int64(years.1) * year
      world.nodes[2].wallOffset = Int64(years.2) * year
      world.server.start()
      for node in world.nodes { node.start() }
      world.run(for: .seconds(5))
      let stream = world.converse(near: 0, far: 1, nearScript: long(60), farScript: long(60))
      let tier = index % 2 == 1 ? "super-relay" : "private-relay"
      #expect(
        world.run(for: .seconds(20)) { tiers($0) == [tier, tier] },
        "clocks off by \(years) years: \(tiers(world))")
      #expect(world.run(for: .minutes(2)) { _ in stream.isOver }, "\(years)")
      #expect(stream.isInOrder && world.violations == [], "\(years): \(world.violations)")
    }
  }

  /// Only the first STUN port answers: where the NAT puts them is known, of what
  /// kind it is nobody can say.
  @Test("F4: a NAT of unknown type (314) is punched like any other")
  func F4() {
    for seed in seeds {
      for (near, far) in [
        (NATKind.portRestricted, NATKind.portRestricted), (.portRestricted, .fullCone),
        (.symmetricRandom, .addressRestricted),
      ] {
        let world = World(seed: seed)
        for kind in [near, far] { world.addHome(kind: kind, nodes: 1) }
        world.server.answersDatagram = { $0.port == SimulatedServer.datagramPorts[0] }
        world.server.start()
        for node in world.nodes { node.start() }
        #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) }, "seed \(seed)")
        world.run(for: .seconds(8))
        for node in world.nodes {
          let type = node.node?.networkReports().first?.facts.type
          #expect(type == 314, "seed \(seed): \(type ?? 0)")
        }
        let stream = world.converse(near: 0, far: 1, nearScript: long(30), farScript: long(30))
        #expect(
          world.run(for: .seconds(20)) { tiers($0).allSatisfy { $0.hasPrefix("udp-") } },
          "seed \(seed), \(near.name) and \(far.name): \(tiers(world))")
        #expect(world.run(for: .minutes(1)) { _ in stream.isOver }, "seed \(seed)")
        #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
      }
    }
  }

  @Test("F5: relays in layers, private before super before the server's, the dead left out")
  func F5() {
    for seed in seeds {
      let world = apart(
        seed, relays: [SimulatedRelaySettings(isSuper: true), SimulatedRelaySettings()])
      world.server.start()
      world.nodes[0].start()
      world.nodes[1].start()
      world.run(for: .seconds(5))
      let stream = world.converse(near: 0, far: 1, nearScript: long(150), farScript: long(150))
      func expect(_ tier: String, within limit: TimeAmount) {
        #expect(
          world.run(for: limit) { tiers($0) == [tier, tier] },
          "seed \(seed): \(tiers(world)) instead of \(tier)")
      }
      expect("server-relay", within: .seconds(10))
      world.nodes[2].start()
      expect("super-relay", within: .seconds(20))
      world.nodes[3].start()
      expect("private-relay", within: .seconds(20))
      // It vanishes and is still offered for a while.
      world.nodes[3].kill(silently: true)
      expect("super-relay", within: .seconds(30))
      world.nodes[2].kill(silently: true)
      expect("server-relay", within: .seconds(10))
      #expect(world.run(for: .minutes(5)) { _ in stream.isOver }, "seed \(seed)")
      #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    }
  }
}
