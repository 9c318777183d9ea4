/// Streams that have a turn of their own, and streams that do not go by every lane.

import Bytes
import Mux
import Testing

private func busy(_ world: World, _ priorities: [StreamPriority]) throws -> [StreamID] {
  var ids: [StreamID] = []
  for priority in priorities {
    let id = try world.a.open(now: world.now)
    world.a.mux.setTerms(id, priority: priority, avoids: [])
    world.a.send(id, total: 100_000_000)
    ids.append(id)
  }
  return ids
}

/// Of what arrived in `span`, the share of each, per cent.
private func shares(
  _ priorities: [StreamPriority], kind: LaneKind = .datagram, _ seed: UInt64
) throws -> [Int] {
  let world = World(seed: seed)
  var link = Link()
  link.rate = 2_000_000
  link.queue = 60_000
  world.addLane(0, kind: kind, link)
  let ids = try busy(world, priorities)
  world.run(for: .seconds(3))
  let before = ids.map { world.b.received[$0] ?? 0 }
  world.run(for: .seconds(10))
  let counts = zip(ids, before).map { (world.b.received[$0] ?? 0) - $1 }
  #expect(world.b.wrongBytes == 0 && world.b.failure == nil && world.a.failure == nil)
  let sum = counts.reduce(0, +)
  return counts.map { ($0 * 100 + sum / 2) / max(1, sum) }
}

@Suite struct TermsTests {
  /// An urgent stream goes first, and yet starves nobody; a background one takes
  /// a quarter of a usual one's part.
  @Test func everyOneHasItsShare() throws {
    for kind in [LaneKind.datagram, .ordered] {
      let usual = try shares([.usual, .usual], kind: kind, 1)
      #expect(usual.allSatisfy { (47...53).contains($0) }, "\(kind) \(usual)")
      let urgent = try shares([.urgent, .usual], kind: kind, 2)
      #expect((80...92).contains(urgent[0]), "\(kind) \(urgent)")
      let bulk = try shares([.background, .usual], kind: kind, 3)
      #expect((15...25).contains(bulk[0]), "\(kind) \(bulk)")
      let alone = try shares([.background], kind: kind, 4)
      #expect(alone == [100])
    }
  }

  /// Small requests on an urgent stream are not behind ten that always have data.
  @Test func anUrgentStreamIsAheadOfTheCrowd() throws {
    func worst(_ priority: StreamPriority) throws -> TimeAmount {
      let world = World(seed: 5)
      var link = Link()
      link.rate = 1_000_000
      link.queue = 30_000
      world.addLane(0, link)
      _ = try busy(world, Array(repeating: .usual, count: 10))
      let quick = try world.a.open(now: world.now)
      world.a.mux.setTerms(quick, priority: priority, avoids: [])
      world.run(for: .seconds(2))
      var worst = TimeAmount.zero
      for round in 1...20 {
        // More than the head start of a stream that was idle.
        world.a.send(quick, total: 20_000, finishes: false)
        let start = world.now
        let wanted = 20_000 * round
        #expect(world.run(for: .seconds(30)) { world.b.received[quick] ?? 0 >= wanted })
        worst = max(worst, world.now - start)
        world.run(for: .milliseconds(100))
      }
      return worst
    }
    let (urgent, usual) = (try worst(.urgent), try worst(.usual))
    #expect(urgent * 2 < usual, "\(urgent) against \(usual)")
  }

  /// Nothing of a stream goes by a lane it avoids, neither new bytes nor those
  /// lost on another; other streams do not wait for it.
  @Test func aStreamWaitsForALaneItMayTake() throws {
    for seed in UInt64(1)...10 {
      let world = World(seed: seed)
      var link = Link()
      link.loss = 20_000
      world.addLane(0, link, marks: .direct)
      world.addLane(1, link, marks: [.relayed, .costly])
      let picky = try world.a.open(now: world.now)
      world.a.mux.setTerms(picky, priority: .usual, avoids: .costly)
      let other = try world.a.open(now: world.now)
      world.a.send(picky, total: 3_000_000)
      world.run(for: .milliseconds(300))
      let before = world.b.received[picky] ?? 0
      #expect(before > 0, "seed \(seed)")
      world.setPrimary(1)
      world.a.mux.removeLane(0, now: world.now)
      world.b.mux.removeLane(0, now: world.now)
      // What was under way arrives, and then nothing.
      world.run(for: .seconds(1))
      let held = world.b.received[picky] ?? 0
      world.a.send(other, total: 500_000)
      #expect(
        world.run(for: .seconds(30)) { world.b.finished.contains(other) }, "seed \(seed)")
      #expect(world.b.received[picky] ?? 0 == held, "seed \(seed)")
      world.addLane(2, link, marks: .direct)
      world.setPrimary(2)
      #expect(
        world.run(for: .seconds(60)) { world.b.finished.contains(picky) }, "seed \(seed)")
      #expect(world.b.wrongBytes == 0 && world.b.failure == nil, "seed \(seed)")
    }
  }

  /// A request may be known before its bytes may travel.
  @Test func firstBytesDoNotTravelWithTheRequestOnALaneTheyAvoid() throws {
    let world = World(seed: 3)
    world.addLane(0, marks: .relayed)
    let id = try world.a.open("who", now: world.now)
    world.a.mux.setTerms(id, priority: .urgent, avoids: .relayed)
    world.a.send(id, total: 500)
    world.run(for: .seconds(2))
    #expect(world.b.openedRequests[id.number] == Array("who".utf8))
    #expect(world.b.received[id] ?? 0 == 0)
    world.addLane(1, marks: .direct)
    world.setPrimary(1)
    #expect(world.run(for: .seconds(2)) { world.b.received[id] ?? 0 == 500 })
  }
}
