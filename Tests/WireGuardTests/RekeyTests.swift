/// Keypairs come and go under traffic, loss and wrong clocks.

import Bytes
import Crypto
import Testing
import WireGuard

@Test func tenMinutesOfTrafficOverALossyWireNeverStopSealing() {
  for seed in 0..<50 as Range<UInt64> {
    let world = WireWorld(seed: seed, cipher: seed % 2 == 0 ? .chaCha20Poly1305 : .aes256GCM)
    world.lanes = 1 + UInt32(seed % 2)
    world.link = WireLink(
      delay: .milliseconds(Int64(10 + seed * 3)), jitter: .milliseconds(30),
      lossPercent: seed % 4 * 8)
    world.onReady = { world.send($0, [0x02]) }
    for node in world.nodes {
      node.keeper.setPathDelay(node.peer, world.link.delay + .milliseconds(30))
    }
    world.initiate(world.a)
    // As HELLO is repeated until it is answered.
    for _ in 0..<50 where !world.b.keeper.canSeal(world.b.peer, now: world.now) {
      world.run(for: .milliseconds(200))
      world.send(world.a, [0x02])
    }
    var silence = [0, 0]
    var seen = [0, 0]
    let quiet = seed % 3 == 0
    for step in 0..<2_400 {
      world.run(for: .milliseconds(250))
      for node in world.nodes {
        // In a third of the runs one end does nothing but answer now and then.
        if quiet, node === world.a, step % 20 != 0 { continue }
        guard world.send(node, [0x01, UInt8(truncatingIfNeeded: step)]) else {
          Issue.record("seed \(seed): node \(node.name) cannot seal at step \(step)")
          return
        }
      }
      for node in world.nodes where !(quiet && node === world.b) {
        silence[node.name] = node.received.count == seen[node.name] ? silence[node.name] + 1 : 0
        seen[node.name] = node.received.count
        #expect(silence[node.name] < 20, "seed \(seed): node \(node.name) deaf at step \(step)")
      }
    }
    for node in world.nodes {
      #expect(node.keeper.counters(node.peer).handshakesCompleted >= 4, "seed \(seed)")
      #expect(node.keeper.counters(node.peer).handshakesCompleted <= 12, "seed \(seed)")
      #expect(node.keeper.drops[.expired] == 0, "seed \(seed)")
      #expect(node.keeper.drops[.unknownIndex] == 0, "seed \(seed)")
      #expect(node.keeper.drops[.notAuthentic] == 0, "seed \(seed)")
      #expect(node.keeper.drops[.replayed] == 0, "seed \(seed)")
      #expect(!node.events.contains(.sessionDead(node.peer)), "seed \(seed)")
    }
  }
}

@Test func theResponderRekeysTenSecondsAfterTheInitiatorWould() {
  for sender in 0..<2 {
    let world = WireWorld(seed: 30)
    world.onReady = { world.send($0, [0x02]) }
    world.initiate(world.a)
    world.run(for: .seconds(1))
    let node = world.nodes[sender]
    let begun = node.keeper.counters(node.peer).initiationsBuilt
    var at: Int64 = 0
    for second in 1...150 as ClosedRange<Int64> {
      world.run(for: .seconds(1))
      world.send(node, [1])
      if node.keeper.counters(node.peer).initiationsBuilt > begun {
        at = second + 1
        break
      }
    }
    #expect(sender == 0 ? (120...122).contains(at) : (130...132).contains(at), "\(at)")
  }
}

@Test func aDyingKeypairStopsSealingBeforeItStopsOpening() throws {
  let world = WireWorld(seed: 31)
  world.onReady = { world.send($0, [0x02]) }
  world.initiate(world.a)
  world.run(for: .seconds(1))
  world.a.keeper.setPathDelay(world.a.peer, .seconds(3))
  // No handshake gets through any more.
  world.filter = { $0.bytes[0] == 4 }
  world.run(for: .milliseconds(160_500))
  #expect(world.a.keeper.canSeal(world.a.peer, now: world.now))
  let last = try #require(world.sealed(world.a, [1]))
  world.run(for: .seconds(1))
  #expect(!world.a.keeper.canSeal(world.a.peer, now: world.now))
  #expect(world.sealed(world.a, [1]) == nil)
  #expect(world.b.keeper.canSeal(world.b.peer, now: world.now))
  world.run(for: .seconds(14))
  #expect(world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: last)).dropReason == nil)
  world.run(for: .seconds(10))
  #expect(world.a.events.contains(.sessionDead(world.a.peer)))
  #expect(world.b.events.contains(.sessionDead(world.b.peer)))
  #expect(
    world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: last)).dropReason == .unknownIndex)
}

@Test func packetsOfTwoFormerKeypairsStillOpen() throws {
  let world = WireWorld(seed: 32)
  world.onReady = { world.send($0, [0x02]) }
  var kept: [[UInt8]] = []
  for _ in 0..<4 {
    world.initiate(world.a)
    world.run(for: .seconds(2))
    kept.append(try #require(world.sealed(world.a, [1])))
  }
  let verdicts = kept.map {
    world.deliver(WirePacket(from: 0, to: 1, lane: 0, bytes: $0)).dropReason
  }
  #expect(verdicts == [.unknownIndex, nil, nil, nil])
  // And none of them took sending back to an old keypair.
  #expect(world.b.keeper.counters(world.b.peer).handshakesCompleted == 4)
  guard case .data(_, _, _, _, current: true)? = world.b.receipts.last else {
    Issue.record("the last keypair is not the current one")
    return
  }
}

@Test func wrongClocksLockNobodyOut() throws {
  let year: Int64 = 365 * 86_400 * 1_000_000_000
  let errors: [Int64] = [0, -10 * year, 70 * year]
  var seed: UInt64 = 0
  for first in errors {
    for second in errors {
      for other in errors {
        for memory in 0..<3 {
          seed += 1
          let world = WireWorld(seed: seed)
          world.onReady = { world.send($0, [0x02]) }
          world.a.clockError = first
          world.b.clockError = other
          world.initiate(world.a)
          world.run(for: .seconds(3))
          #expect(world.conversationWorks(), "seed \(seed)")
          world.b.clockError = second
          switch memory {
          case 0:
            // The clock jumps while running.
            world.a.clockError = second
          default:
            // Restart: without (1) and with (2) the ceiling from disk.
            var ceiling: UInt64 = 0
            for case .storeStampCeiling(let stored) in world.a.events { ceiling = stored }
            let fresh = WireNode(
              name: 0, keys: world.a.keys, seed: seed + 900, ceiling: memory == 2 ? ceiling : 0)
            fresh.clockError = second
            fresh.peer = try fresh.keeper.addPeer(
              publicKey: world.b.keys.publicKey, kind: .agent, now: world.now)
            world.nodes[0] = fresh
          }
          let before = world.a.keeper.counters(world.a.peer).handshakesCompleted
          world.initiate(world.a)
          let start = world.now
          world.run(for: .seconds(10)) {
            world.a.keeper.counters(world.a.peer).handshakesCompleted > before
          }
          #expect(world.now - start < .seconds(10), "seed \(seed) memory \(memory)")
          world.run(for: .milliseconds(200))
          #expect(world.conversationWorks(), "seed \(seed) memory \(memory)")
          // With the ceiling kept, no stamp is ever old.
          if memory != 1 {
            #expect(world.b.keeper.counters(world.b.peer).staleInitiations == 0, "seed \(seed)")
          }
        }
      }
    }
  }
}

@Test func stampsNeverRepeatAndStayBelowTheStoredCeiling() {
  let world = WireWorld(seed: 33)
  var ceiling: UInt64 = 0
  var last: UInt64 = 0
  for step in 0..<200 {
    world.a.clockError = step % 7 == 0 ? -1_000_000_000_000 * Int64(step) : Int64(step)
    world.initiate(world.a)
    for case .storeStampCeiling(let stored) in world.a.events {
      #expect(stored > ceiling)
      ceiling = max(ceiling, stored)
    }
    world.a.events.removeAll()
    world.run(for: .milliseconds(1_100))
    #expect(ceiling > last)
    last = max(last, UInt64(world.wallBase))
  }
  #expect(world.b.keeper.drops[.staleStamp] == 0)
  #expect(world.a.keeper.counters(world.a.peer).handshakesCompleted > 150)
}
