/// Both ends initiate at once: whatever order the packets arrive in, both
/// handshakes complete, no data is lost, and both ends end on one keypair.

import Bytes
import Crypto
import Testing
import WireGuard

/// Plays one order of delivery. `choices` says which of the held packets goes
/// next; returns how many there were to choose from at each step.
private func play(_ choices: [Int], seed: UInt64, secondAfter: Int) -> (WireWorld, [Int]) {
  let world = WireWorld(seed: seed)
  world.held = []
  // HELLO: each end speaks on every keypair as soon as it can.
  world.onReady = { world.send($0, [0x02, 0x07]) }
  world.initiate(world.a)
  var widths: [Int] = []
  var begun = false
  var step = 0
  while true {
    if !begun, step == secondAfter || world.held!.isEmpty {
      begun = true
      world.initiate(world.b)
    }
    let width = world.held!.count
    if width == 0 { break }
    widths.append(width)
    let choice = step < choices.count ? choices[step] : 0
    let packet = world.held!.remove(at: choice)
    world.now += .milliseconds(2)
    world.deliver(packet)
    step += 1
  }
  return (world, widths)
}

@Test func crossingInitiationsAgreeInEveryOrder() {
  var orders = 0
  for seed in [1, 2] as [UInt64] {
    for secondAfter in 0...1 {
      // Depth first over all choices, replaying from the start each time.
      var pending: [[Int]] = [[]]
      while let choices = pending.popLast() {
        let (world, widths) = play(choices, seed: seed, secondAfter: secondAfter)
        orders += 1
        for step in choices.count..<widths.count {
          for other in 1..<max(widths[step], 1) {
            pending.append(choices + [Int](repeating: 0, count: step - choices.count) + [other])
          }
        }
        let helloes = world.nodes.map { node in
          node.events.filter { if case .keypairReady = $0 { true } else { false } }.count
        }
        world.held = nil
        let moved = (0..<3).allSatisfy { _ in world.conversationWorks() }
        let favourites = world.nodes.map { world.onFavourite($0) }
        guard moved, helloes.allSatisfy({ $0 >= 1 }), favourites[0] == favourites[1] else {
          Issue.record(
            "seed \(seed) second \(secondAfter) order \(choices): \(moved) \(helloes) \(favourites)"
          )
          return
        }
        // When the initiations really met (each sent before the other's arrived),
        // the keypair of the smaller key carries the data.
        if secondAfter == 0 {
          #expect(favourites[0] == true, "seed \(seed) order \(choices)")
          #expect(
            world.nodes.allSatisfy { $0.keeper.counters($0.peer).initiationsBuilt == 1 },
            "order \(choices)")
        }
      }
    }
  }
  #expect(orders > 200, "\(orders)")
}

@Test func crossingOverALossyJitteryWireGivesOneSession() {
  for seed in 0..<150 as Range<UInt64> {
    let world = WireWorld(seed: seed)
    world.lanes = 1 + UInt32(seed % 3)
    world.link = WireLink(
      delay: .milliseconds(Int64(5 + seed % 60)), jitter: .milliseconds(Int64(1 + seed % 90)),
      lossPercent: seed % 4 * 10)
    world.onReady = { world.send($0, [0x02, 0x07]) }
    world.initiate(world.a)
    world.run(for: .milliseconds(Int64(seed % 50)))
    world.initiate(world.b)
    for _ in 0..<60 {
      world.run(for: .milliseconds(100))
      for node in world.nodes { world.send(node, [0x01, 1]) }
    }
    let works = world.conversationWorks() && world.conversationWorks()
    #expect(works, "seed \(seed)")
    #expect(world.onFavourite(world.a) == world.onFavourite(world.b), "seed \(seed)")
  }
}

@Test func crossingNeedsTwoRoundTripsAtMost() {
  for seed in 0..<20 as Range<UInt64> {
    let world = WireWorld(seed: seed)
    world.onReady = { world.send($0, [0x02, 0x07]) }
    world.initiate(world.a)
    world.initiate(world.b)
    let start = world.now
    world.run(for: .seconds(1)) { world.nodes.allSatisfy { !$0.received.isEmpty } }
    #expect(world.now - start <= .milliseconds(80), "seed \(seed)")
  }
}

@Test func aPeerThatRestartsMidCrossingIsHeardAgain() throws {
  for seed in 0..<20 as Range<UInt64> {
    let world = WireWorld(seed: seed)
    world.onReady = { world.send($0, [0x02, 0x07]) }
    world.initiate(world.a)
    world.initiate(world.b)
    world.run(for: .milliseconds(Int64(10 + seed * 5)))
    // A loses everything and begins anew.
    let fresh = WireNode(name: 0, keys: world.a.keys, seed: seed + 500)
    world.nodes[0] = fresh
    fresh.peer = try fresh.keeper.addPeer(
      publicKey: world.b.keys.publicKey, kind: .agent, now: world.now)
    world.initiate(fresh)
    let restarted = world.now
    var worked = false
    while !worked, world.now - restarted < .seconds(10) {
      world.run(for: .milliseconds(100))
      worked = world.conversationWorks()
    }
    #expect(worked, "seed \(seed)")
    #expect(world.now - restarted < .seconds(6), "seed \(seed)")
  }
}
