/// One promise per test, each in a world made for it.
import Bytes
import NodeCore
import Simulation
import Testing

/// Runs until both have a path to each other; when that was.
private func sessionTime(of world: World) -> TimeAmount {
  world.run(for: .seconds(20), checkEvery: .milliseconds(1)) {
    $0.nodes[0].tier(to: $0.nodes[1]) != nil && $0.nodes[1].tier(to: $0.nodes[0]) != nil
  }
  return world.elapsed
}

private func online(_ world: World, within limit: TimeAmount = .seconds(10)) -> Bool {
  world.run(for: limit) { $0.nodes.allSatisfy(\.isOnline) }
}

private func small(_ bytes: UInt64 = 300) -> ApplicationScript { bulk(bytes) }

@Test func crossingInitiationsGiveASessionWithinTwoRoundTrips() {
  for seed: UInt64 in 1...40 {
    let world = pair(seed: seed)
    for node in world.nodes { node.uplinkSettings.jitter = .zero }
    let delay = TimeAmount.milliseconds(20 + Int64(seed))
    world.network.change(0, 1) {
      $0.delay = delay
      $0.rate = 0
    }
    #expect(online(world), "seed \(seed)")
    world.run(for: .seconds(1))
    let began = world.elapsed
    // The second open comes before the first can have arrived.
    world.converse(near: 0, far: 1, nearScript: small(), farScript: small())
    world.after(.milliseconds(Int64(seed % 25))) {
      $0.converse(near: 1, far: 0, nearScript: small(), farScript: small())
    }
    let done = sessionTime(of: world)
    // Through the server one way is both its halves; slowest of the roads counts.
    let roundTrip = (world.nodes[0].uplinkSettings.delay + world.nodes[1].uplinkSettings.delay) * 2
    let limit = max(roundTrip, delay * 2) * 2 + .milliseconds(30)
    #expect(done - began <= limit, "seed \(seed): \((done - began).inMilliseconds) ms")
    #expect(world.run(for: .seconds(5)) { $0.isAllOver }, "seed \(seed)")
    #expect(world.isAllInOrder, "seed \(seed)")
    #expect(world.violations == [], "seed \(seed)")
  }
}

@Test func aCutDirectPathIsLeftAndFoundAgain() {
  for seed: UInt64 in 1...10 {
    let world = pair(seed: seed)
    #expect(online(world))
    let stream = world.converse(
      near: 0, far: 1, nearScript: small(), farScript: bulk(40_000_000))
    world.run(for: .seconds(1)) { _ in stream.nearRead > 1_000_000 }
    world.network.cut(0, 1)
    let atCut = stream.nearRead
    #expect(
      world.run(for: .seconds(4)) { _ in stream.nearRead > atCut + 2_000_000 },
      "seed \(seed): \(stream.nearRead - atCut) bytes in 4 s after the cut")
    #expect(world.nodes[1].tier(to: world.nodes[0]) == "server-relay", "seed \(seed)")
    world.network.heal(0, 1)
    #expect(
      world.run(for: .seconds(10)) { $0.nodes[1].tier(to: $0.nodes[0]) == "udp-direct" },
      "seed \(seed)")
    #expect(world.run(for: .seconds(60)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    #expect(stream.longestStall < .seconds(3), "seed \(seed): \(stream.longestStall)")
  }
}

@Test func aKilledServerIsNotNoticedByADirectStream() {
  for seed: UInt64 in 1...10 {
    let world = pair(seed: seed)
    #expect(online(world))
    let stream = world.converse(
      near: 0, far: 1, nearScript: small(), farScript: bulk(100_000_000))
    #expect(
      world.run(for: .seconds(5)) { $0.nodes[0].tier(to: $0.nodes[1]) == "udp-direct" })
    world.run(for: .seconds(1))
    world.server.kill()
    let before = stream.longestStall
    world.run(for: .seconds(2))
    world.server.start()
    #expect(
      world.run(for: .seconds(10)) { $0.nodes.allSatisfy(\.isOnline) },
      "seed \(seed): back within 10 s")
    #expect(world.run(for: .seconds(60)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    #expect(
      stream.longestStall <= max(before, .milliseconds(100)), "seed \(seed): \(stream.longestStall)"
    )
  }
}

@Test func aKilledAgentsStreamsAreResetWhenItsNextProcessIsHeard() {
  for seed: UInt64 in 1...20 {
    let world = pair(seed: seed)
    #expect(online(world))
    let stream = world.converse(
      near: 0, far: 1, nearScript: bulk(50_000_000), farScript: bulk(50_000_000))
    world.run(for: .milliseconds(300 + Int64(seed) * 37))
    world.nodes[1].kill(silently: seed % 2 == 0)
    world.run(for: .seconds(4))
    #expect(stream.nearState == .open, "seed \(seed): waits")
    world.nodes[1].start()
    #expect(world.run(for: .seconds(15)) { $0.nodes[1].isOnline }, "seed \(seed)")
    #expect(
      world.run(for: .seconds(3)) { _ in stream.nearState == .ended(.peerRestarted) },
      "seed \(seed): \(stream.nearState)")
    let next = world.converse(
      near: 0, far: 1, nearScript: bulk(10_000), farScript: bulk(10_000))
    #expect(world.run(for: .seconds(5)) { _ in next.isOver }, "seed \(seed)")
    #expect(next.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
  }
}

@Test func restartsUnderLossNeverMixProcesses() {
  for seed: UInt64 in 1...25 {
    let world = pair(seed: seed)
    world.network.change(0, 1) {
      $0.loss = 0.1
      $0.reorder = 0.1
      $0.duplication = 0.05
      $0.reorderDelay = .milliseconds(200)
    }
    #expect(online(world))
    for round in 0..<8 {
      for _ in 0..<3 {
        world.converse(
          near: 0, far: 1, nearScript: bulk(60_000), farScript: bulk(60_000))
        world.converse(
          near: 1, far: 0, nearScript: bulk(60_000), farScript: bulk(60_000))
      }
      world.run(for: world.seed % 2 == 0 ? .milliseconds(400) : .seconds(2))
      let node = world.nodes[(round + Int(seed)) % 2]
      node.kill()
      world.run(for: .milliseconds(100 + Int64(round) * 50))
      node.start()
      world.run(for: .seconds(2))
    }
    #expect(world.run(for: .seconds(30)) { $0.isAllOver }, "seed \(seed)")
    #expect(world.violations == [], "seed \(seed)")
  }
}

@Test func rekeysUnderLossLoseNothing() {
  // Every two minutes new keys, every HELLO may be lost; 17 minutes.
  for seed: UInt64 in 1...8 {
    let world = pair(seed: seed)
    world.network.change(0, 1) {
      $0.loss = 0.15
      $0.jitter = .milliseconds(15)
    }
    #expect(online(world))
    for minute in 0..<34 {
      let near = minute % 2
      let last = world.converse(
        near: near, far: 1 - near, nearScript: small(2_000), farScript: small(2_000))
      #expect(world.run(for: .seconds(15)) { _ in last.isOver }, "seed \(seed), round \(minute)")
      world.run(for: .seconds(28))
    }
    #expect(world.isAllInOrder, "seed \(seed)")
    #expect(world.violations == [], "seed \(seed)")
  }
}

@Test func wrongClocksLockNobodyOut() {
  let year: Int64 = 31_557_600_000_000_000
  for (index, offsets) in [
    [-10 * year], [70 * year], [70 * year, 0], [0, -10 * year, 70 * year, 0],
  ]
  .enumerated() {
    let world = pair(seed: UInt64(index + 1))
    #expect(online(world))
    let first = world.converse(near: 0, far: 1, nearScript: small(), farScript: small())
    world.run(for: .seconds(3)) { _ in first.isOver }
    for offset in offsets {
      // The agent restarts with the wrong clock: its stamps are all it has.
      world.nodes[0].kill()
      world.nodes[0].wallOffset = offset
      world.run(for: .milliseconds(500))
      world.nodes[0].start()
      #expect(online(world), "offset \(offset)")
      let began = world.elapsed
      let next = world.converse(near: 0, far: 1, nearScript: small(), farScript: small())
      #expect(world.run(for: .seconds(10)) { _ in next.isOver }, "offset \(offset)")
      #expect(next.isInOrder, "offset \(offset), after \((world.elapsed - began).inSeconds) s")
      // And from the side that has seen the greater stamps.
      let back = world.converse(near: 1, far: 0, nearScript: small(), farScript: small())
      #expect(world.run(for: .seconds(10)) { _ in back.isInOrder }, "offset \(offset)")
    }
    #expect(world.violations == [])
  }
}

@Test func aPathThatShrinksSilentlyCarriesOn() {
  for (index, mtu) in [1_280, 1_000, 576].enumerated() {
    let world = pair(seed: UInt64(index + 1))
    #expect(online(world))
    let stream = world.converse(
      near: 0, far: 1, nearScript: small(), farScript: bulk(30_000_000))
    world.run(for: .seconds(2))
    world.network.change(0, 1) { $0.mtu = mtu }
    #expect(world.run(for: .seconds(120)) { _ in stream.isOver }, "mtu \(mtu)")
    #expect(stream.isInOrder && world.violations == [], "mtu \(mtu): \(world.violations)")
    #expect(stream.longestStall < .seconds(6), "mtu \(mtu): \(stream.longestStall.inSeconds) s")
  }
}

@Test func aSleepingMachineIsWaitedFor() {
  let world = pair(seed: 7)
  #expect(online(world))
  let stream = world.converse(
    near: 0, far: 1, nearScript: bulk(3_000_000), farScript: bulk(3_000_000))
  world.run(for: .milliseconds(350))
  world.nodes[1].suspend()
  world.run(for: .seconds(90))
  world.nodes[1].resume()
  #expect(world.run(for: .seconds(60)) { _ in stream.isOver })
  #expect(stream.isInOrder && world.violations == [], "\(world.violations) \(stream.nearState)")
}

@Test func aMovedNodeKeepsItsStreams() {
  for seed: UInt64 in 1...10 {
    let world = pair(seed: seed)
    #expect(online(world))
    let stream = world.converse(
      near: 0, far: 1, nearScript: small(), farScript: bulk(20_000_000))
    world.run(for: .seconds(1))
    world.nodes[Int(seed % 2)].move(to: [IPAddress(203, 0, 113, 77)])
    #expect(world.run(for: .seconds(60)) { _ in stream.isOver }, "seed \(seed)")
    #expect(stream.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
    #expect(stream.longestStall < .seconds(8), "seed \(seed): \(stream.longestStall.inSeconds) s")
  }
}

@Test func victimsNamedByALiarAreBarelyTouched() {
  let world = pair(seed: 5) { world in
    for last: UInt8 in 1...6 { world.nodes[0].lies.append(IPAddress(198, 51, 101, last)) }
    world.network.cut(0, 1)
  }
  #expect(online(world))
  for _ in 0..<20 {
    world.converse(near: 1, far: 0, nearScript: small(), farScript: small())
    world.run(for: .seconds(10))
  }
  // The watch at the wire holds the budget against every packet.
  #expect(world.violations == [])
}

@Test func aSlowReaderHindersNobody() {
  let world = pair(seed: 9)
  #expect(online(world))
  var slow = bulk(0)
  slow.readRate = 20_000
  let crawling = world.converse(near: 0, far: 1, nearScript: bulk(2_000_000), farScript: slow)
  world.run(for: .seconds(3))
  let fast = world.converse(near: 0, far: 1, nearScript: bulk(20_000_000), farScript: bulk(0))
  #expect(world.run(for: .seconds(20)) { _ in fast.isOver })
  #expect(fast.isInOrder && !crawling.isOver)
  #expect(world.run(for: .seconds(200)) { _ in crawling.isOver })
  #expect(crawling.isInOrder && world.violations == [])
}

@Test func aThousandStreamsAtOnce() {
  let world = pair(seed: 11)
  #expect(online(world))
  for index in 0..<1_000 {
    var script = bulk(2_000)
    script.begin = index % 3 == 0 ? .afterBytes(1) : .atOnce
    world.converse(near: index % 2, far: 1 - index % 2, nearScript: script, farScript: bulk(1_500))
  }
  #expect(world.run(for: .seconds(60)) { $0.isAllOver })
  #expect(world.isAllInOrder && world.violations == [])
}

@Test func targetsThatRefuseHangResetAndHalfClose() {
  let world = pair(seed: 13)
  #expect(online(world))
  let refused = world.converse(
    near: 0, far: 1, nearScript: small(), farScript: small(), dial: .refuse)
  let hanging = world.converse(
    near: 0, far: 1, nearScript: small(), farScript: small(), dial: .hang)
  var resets = bulk(100_000)
  resets.resetAfter = 20_000
  let reset = world.converse(near: 0, far: 1, nearScript: bulk(50_000), farScript: resets)
  var late = bulk(500_000)
  late.begin = .afterEnd
  let half = world.converse(near: 0, far: 1, nearScript: bulk(70_000), farScript: late)
  var first = bulk(5_000)
  first.begin = .afterBytes(1)
  let server = world.converse(near: 0, far: 1, nearScript: first, farScript: bulk(5_000))
  #expect(world.run(for: .seconds(30)) { $0.isAllOver })
  if case .ended(.refused(words: _)) = refused.nearState {
  } else {
    Issue.record("\(refused.nearState)")
  }
  if case .ended(.refused(words: _)) = hanging.nearState {
  } else {
    Issue.record("\(hanging.nearState)")
  }
  if case .ended(.reset(code: _, words: _)) = reset.nearState {
  } else {
    Issue.record("\(reset.nearState)")
  }
  #expect(half.isInOrder && half.nearRead == 500_000)
  #expect(server.isInOrder)
  #expect(world.violations == [])
}

@Test func nothingStaysAwakeWhenAllIsDone() {
  let world = pair(seed: 17)
  #expect(online(world))
  let last = world.converse(near: 0, far: 1, nearScript: bulk(500_000), farScript: bulk(500_000))
  #expect(world.run(for: .seconds(20)) { _ in last.isInOrder })
  world.run(for: .minutes(15))
  // Dormant: heartbeats each 30 s and a ping now and then.
  let events = world.statistics.events
  let packets = world.statistics.packets
  world.run(for: .minutes(10))
  #expect(world.statistics.packets - packets < 60, "\(world.statistics.packets - packets)")
  #expect(world.statistics.events - events < 2_500, "\(world.statistics.events - events)")
  #expect(world.violations == [])
}

@Test func theRelaysQueuesStayBounded() {
  let world = World(seed: 19)
  for last: UInt8 in 1...4 { world.addNode(addresses: [IPAddress(203, 0, 113, last)]) }
  for a in 0..<4 { for b in 0..<a { world.network.cut(a, b) } }
  // Node 3 takes little; 0 → 1 must not wait for it.
  world.nodes[3].uplinkSettings.rate = 60_000
  world.server.start()
  for node in world.nodes { node.start() }
  #expect(online(world))
  world.converse(near: 2, far: 3, nearScript: bulk(3_000_000), farScript: bulk(0))
  let fast = world.converse(near: 0, far: 1, nearScript: bulk(8_000_000), farScript: bulk(0))
  #expect(world.run(for: .seconds(30)) { _ in fast.isOver })
  #expect(fast.isInOrder && world.violations == [])
  #expect(world.server.highestQueue <= 4 << 20, "\(world.server.highestQueue) bytes")
}

@Test func keysOfAPeerThatDiedAtOnceAreNoSession() {
  // The other side dies while, or right after, the handshake completes.
  for seed: UInt64 in 1...60 {
    let world = pair(seed: seed)
    #expect(online(world))
    world.run(for: .milliseconds(500))
    world.converse(near: 0, far: 1, nearScript: small(), farScript: small())
    world.run(for: .milliseconds(Int64(seed) * 4))
    world.nodes[1].kill(silently: seed % 2 == 0)
    world.run(for: .seconds(3))
    world.nodes[1].start()
    #expect(world.run(for: .seconds(12)) { $0.nodes[1].isOnline }, "seed \(seed)")
    // What was opened while the old process was believed to be there may be reset.
    world.run(for: .seconds(2))
    let next = world.converse(near: 0, far: 1, nearScript: small(), farScript: small())
    #expect(world.run(for: .seconds(2)) { _ in next.isOver }, "seed \(seed)")
    #expect(next.isInOrder && world.violations == [], "seed \(seed): \(world.violations)")
  }
}
