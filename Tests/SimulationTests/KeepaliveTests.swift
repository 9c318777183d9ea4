/// An idle session behind routers that forget: it stays usable, and how often it
/// must be kept is learnt.
import Bytes
import NAT
import NodeCore
import Simulation
import Testing

@Suite struct KeepaliveWorldTests {
  /// What a quiet pair of homes with an open stream went through.
  private struct Outcome {
    /// Times one of them was not on a direct path.
    var losses = 0
    /// Bytes of UDP an hour, both ends, in the last hour.
    var bytes: UInt64 = 0
    var intervals: [TimeAmount] = []
    /// The longest that a few bytes after a pause took, after the first hour.
    var slowest = TimeAmount.zero
  }

  private func live(_ kind: NATKind, forgetsAfter timeout: TimeAmount, seed: UInt64) -> Outcome {
    let world = World(seed: seed)
    let homes = [world.addHome(kind: kind, nodes: 1), world.addHome(kind: kind, nodes: 1)]
    for home in homes {
      home.site.box.timers.replied = timeout
      home.site.box.timers.unreplied = timeout
    }
    world.server.start()
    for node in world.nodes { node.start() }
    #expect(world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) })
    // Each waits for the other: the stream stays open.
    var patient = bulk(1)
    patient.begin = .afterBytes(1)
    world.converse(near: 0, far: 1, nearScript: patient, farScript: patient)
    let (a, b) = (world.nodes[0], world.nodes[1])
    func isDirect() -> Bool {
      a.tier(to: b)?.hasPrefix("udp") == true && b.tier(to: a)?.hasPrefix("udp") == true
    }
    #expect(world.run(for: .seconds(20)) { _ in isDirect() }, "seed \(seed)")
    var outcome = Outcome()
    var before: UInt64 = 0
    for hour in 0..<4 {
      before = a.datagramBytes(to: b) + b.datagramBytes(to: a)
      let end = world.elapsed + .hours(1)
      while world.elapsed < end {
        if world.run(
          for: end - world.elapsed, checkEvery: .milliseconds(200), isDone: { _ in !isDirect() })
        {
          outcome.losses += 1
          #expect(world.run(for: .seconds(20)) { _ in isDirect() }, "seed \(seed): it comes back")
        }
      }
      guard hour > 0 else { continue }
      // Usable, from either end.
      let stream = world.converse(
        near: hour % 2, far: 1 - hour % 2, nearScript: bulk(300), farScript: bulk(300))
      let began = world.elapsed
      #expect(world.run(for: .seconds(10), checkEvery: .milliseconds(10)) { _ in stream.isOver })
      outcome.slowest = max(outcome.slowest, world.elapsed - began)
    }
    outcome.bytes = (a.datagramBytes(to: b) + b.datagramBytes(to: a)) &- before
    outcome.intervals = world.nodes.compactMap {
      $0.node?.networkReports().first?.idlePing
    }
    #expect(world.violations == [], "seed \(seed): \(world.violations)")
    return outcome
  }

  @Test func itConvergesBelowTheRoutersTimeOut() {
    for kind in [NATKind.portRestricted, .portRestrictedRandomPort, .addressRestricted] {
      for (seconds, seeds) in [(Int64(25), 1...6), (60, 1...6)] as [(Int64, ClosedRange<UInt64>)] {
        for seed in seeds {
          let outcome = live(kind, forgetsAfter: .seconds(seconds), seed: seed)
          let words = "\(kind.name) \(seconds) s, seed \(seed): \(outcome)"
          if environment("KEEPALIVE_PRINT") != nil { print(words) }
          #expect(outcome.losses <= 1, "\(words)")
          #expect(outcome.intervals.min().map { $0 < .seconds(seconds) } == true, "\(words)")
          #expect(outcome.intervals.min().map { $0 > .seconds(seconds / 2) } == true, "\(words)")
          #expect(outcome.slowest < .milliseconds(500), "\(words)")
        }
      }
    }
  }

  @Test func routersThatRememberLongCostLittle() {
    let short = live(.portRestricted, forgetsAfter: .seconds(25), seed: 11)
    let long = live(.portRestricted, forgetsAfter: .seconds(300), seed: 11)
    if environment("KEEPALIVE_PRINT") != nil {
      print("an hour of an idle session: 25 s \(short.bytes) bytes, long \(long.bytes) bytes")
    }
    for seed: UInt64 in 12...17 {
      // Nor do its keys run out between two pings.
      #expect(live(.portRestricted, forgetsAfter: .seconds(300), seed: seed).losses == 0)
    }
    #expect(long.losses == 0)
    #expect(long.intervals.allSatisfy { $0 == .seconds(100) })
    // What is left is mostly WireGuard's new keys every 120 s.
    #expect(long.bytes * 3 < short.bytes * 2, "\(long.bytes) of \(short.bytes)")
  }
}
