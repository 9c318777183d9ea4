import Bytes
import Crypto
import Mux
import Relay
import Testing

/// A client as a relay: joining, resuming, leaving, over TCP and UDP.
@Suite struct RelayNodeTests {
  @Test func twoLegsOfASessionAreJoinedWhateverTheyRunOver() {
    for kinds in [(.tcp, .tcp), (.tcp, .udp), (.udp, .udp)] as [(LegKind, LegKind)] {
      let world = RelayWorld()
      let (a, b) = world.pair(session: 1, over: kinds)
      #expect(a.isOpen && b.isOpen, "\(kinds): \(a.news) \(b.news)")
      #expect(a.news.first == .waiting)
      guard case .open(_, let otherOfA, let largest)? = a.news.last,
        case .open(_, let otherOfB, _)? = b.news.last
      else {
        Issue.record("\(kinds): \(a.news) \(b.news)")
        continue
      }
      #expect(otherOfA == kinds.1 && otherOfB == kinds.0)
      #expect(largest == (kinds == (.tcp, .tcp) ? 65_535 : 1_445))
      world.send([1, 2, 3], from: a)
      world.send([4, 5], from: b)
      world.pump()
      #expect(b.packets == [[1, 2, 3]] && a.packets == [[4, 5]], "\(kinds)")
      #expect(world.events.contains(.joined(session: 1)))
      #expect(world.relay.sessionCount == 1 && world.relay.channelCount == 1)
    }
  }

  @Test func udpChannelNumbersHaveTheTopBitAndOthersNot() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1, over: (.udp, .tcp))
    #expect(a.guest.channel & 0x8000_0000 != 0)
    #expect(b.guest.channel & 0x8000_0000 == 0)
    #expect(RelayNode.isRelayDatagram(firstByte: UInt8(a.guest.channel >> 24)))
    for other: UInt8 in [0, 1, 2, 3, 4, 0x3f, 0x7f] {
      #expect(!RelayNode.isRelayDatagram(firstByte: other))
    }
  }

  @Test func aMegabyteBothWaysThroughEachKindOfLeg() {
    for kinds in [(.tcp, .tcp), (.udp, .tcp), (.udp, .udp)] as [(LegKind, LegKind)] {
      let world = RelayWorld()
      let (a, b) = world.pair(session: 1, over: kinds)
      var random = SeededRandom(testSeed: 2)
      let packet = random.bytes(1_400)
      for _ in 0..<750 {
        world.send(packet, from: a)
        world.send(packet, from: b)
        world.run(.milliseconds(1))
      }
      #expect(a.bytesIn == 750 * 1_400 && b.bytesIn == 750 * 1_400, "\(kinds)")
      #expect(a.packets.allSatisfy { $0 == packet } && b.packets.allSatisfy { $0 == packet })
    }
  }

  @Test func severalSessionsOfANodeShareItsConnection() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    let c = X25519.generate(using: &world.random)
    let again = world.guest(
      "a2", key: a.key, world.invitation(session: 2, leg: 0, peer: c.publicKey), over: .tcp)
    let third = world.guest(
      "c2", key: c, world.invitation(session: 2, leg: 1, peer: a.key.publicKey), over: .tcp)
    // The second guest of the node speaks on the first one's connection.
    world.guests.removeAll { $0 === again }
    again.guest.connected(over: .tcp, now: world.now)
    while let message = again.guest.pollMessage() { world.deliver(message, from: a) }
    world.connect(third)
    #expect(third.isOpen && a.isOpen && b.isOpen)
    #expect(world.relay.connectionCount == 3 && world.relay.sessionCount == 2)
    // Another node's request on it is refused, and the rest goes on.
    let stranger = X25519.generate(using: &world.random)
    let intruder = world.guest(
      "x", key: stranger, world.invitation(session: 3, leg: 0, peer: c.publicKey), over: .tcp)
    world.guests.removeAll { $0 === intruder }
    intruder.guest.connected(over: .tcp, now: world.now)
    while let message = intruder.guest.pollMessage() { world.deliver(message, from: a) }
    world.pump()
    #expect(world.events.contains(.refused(.wrongSender, a.address)))
    #expect(a.isOpen && world.relay.sessionCount == 2)
  }

  @Test func whoIsRefusedIsToldWhyAndClosed() {
    for kind in [LegKind.tcp, .udp] {
      let world = RelayWorld()
      let a = X25519.generate(using: &world.random)
      let wrong = world.guest(
        "w", key: a, world.invitation(session: 1, leg: 0, peer: world.random.bytes(32), token: 1),
        over: kind)
      world.connect(wrong)
      #expect(wrong.refusal == .wrong, "\(kind)")
      #expect(world.relay.sessionCount == 0 && world.relay.connectionCount == 0)
      #expect(world.closed.count == (kind == .tcp ? 1 : 0))
    }
  }

  @Test func aSessionOfAnotherPairIsNotJoined() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    let thief = X25519.generate(using: &world.random)
    let guest = world.guest(
      "t", key: thief, world.invitation(session: 1, leg: 1, peer: a.key.publicKey), over: .tcp)
    world.connect(guest)
    #expect(guest.refusal == .otherSession)
    #expect(a.isOpen && b.isOpen)
  }

  @Test func aLostConnectionIsResumedWithoutTheServerAndWithoutTheToken() {
    for kinds in [(.tcp, .tcp), (.tcp, .udp), (.udp, .tcp)] as [(LegKind, LegKind)] {
      let world = RelayWorld()
      let (a, b) = world.pair(session: 1, over: (.tcp, .tcp))
      world.run(.seconds(10))
      world.cut(a)
      #expect(!a.isOpen && !b.isOpen, "the other end hears at once")
      #expect(b.news.last == .waiting)
      // Codes of that time are long too old: only the secret counts.
      world.run(.seconds(60))
      a.address = Endpoint(IPAddress(192, 0, 2, 9), 9)
      world.connect(a, over: kinds.0)
      #expect(a.isOpen && b.isOpen, "\(kinds)")
      world.cut(b)
      world.connect(b, over: kinds.1)
      #expect(a.isOpen && b.isOpen, "\(kinds)")
      world.send([7], from: a)
      world.pump()
      #expect(b.packets == [[7]])
      #expect(world.relay.sessionCount == 1 && world.relay.statistics.accepted == 2)
      #expect(world.relay.statistics.resumed == 2)
    }
  }

  @Test func aResumeThatArrivesBeforeTheLossTakesTheLegOver() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    let old = a.connection
    // The node has noticed, the relay has not.
    a.connection = nil
    a.guest.connectionLost(now: world.now)
    world.connect(a)
    #expect(a.isOpen && b.isOpen)
    #expect(world.closed == Set([old].compactMap { $0 }))
    #expect(world.relay.connectionCount == 2)
  }

  @Test func anotherAddressOnUDPIsProvenAndNothingElseChanges() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1, over: (.udp, .tcp))
    let channel = a.guest.channel
    a.address = Endpoint(IPAddress(192, 0, 2, 1), 77)
    // Packets from there are a stranger's until it has proven itself.
    world.send([1], from: a)
    #expect(b.packets.isEmpty && world.relay.statistics.strangers == 1)
    a.guest.connected(over: .udp, now: world.now)
    world.pump()
    #expect(a.guest.channel == channel && a.isOpen && b.isOpen)
    world.send([2], from: a)
    world.send([3], from: b)
    world.pump()
    #expect(b.packets == [[2]] && a.packets == [[3]])
    #expect(world.relay.connectionCount == 2)
  }

  @Test func anOldOrForeignProofResumesNothing() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    world.cut(a)
    var captured: [[UInt8]] = []
    let id = world.nextConnection
    world.nextConnection += 1
    #expect(world.relay.connectionOpened(id, from: a.address, now: world.now))
    a.connection = id
    a.guest.connected(over: .tcp, now: world.now)
    while let message = a.guest.pollMessage() {
      captured.append(message)
      world.deliver(message, from: a)
    }
    world.pump()
    #expect(a.isOpen && b.isOpen && captured.count == 1)
    let thief = Endpoint(IPAddress(203, 0, 113, 66), 1)
    let replay = world.strangerConnects(captured[0], from: thief)
    #expect(replay.map(world.refusals) == [.replayed])
    var forged = captured[0]
    forged[7 + 1 + 16 + 8 + 7] += 1
    let forgery = world.strangerConnects(forged, from: thief)
    #expect(forgery.map(world.refusals) == [.wrong])
    let unknown = RelayRequest.resume(
      RelayLegProof(
        cookie: [UInt8](repeating: 0, count: 16), leg: 99, counter: 9,
        proof: [UInt8](repeating: 0, count: 32)))
    let nobody = world.strangerConnects(unknown.frame(over: .tcp), from: thief)
    #expect(nobody.map(world.refusals) == [.unknownLeg])
    #expect(a.isOpen && b.isOpen)
  }

  @Test func whoLeavesEndsTheSessionForBoth() {
    for kind in [LegKind.tcp, .udp] {
      let world = RelayWorld()
      let (a, b) = world.pair(session: 1, over: (kind, kind))
      a.guest.leave()
      world.pump()
      #expect(b.refusal == .ended && b.guest.isOver, "\(kind) \(b.news)")
      #expect(world.relay.sessionCount == 0 && world.relay.channelCount == 0)
      #expect(world.events.contains(.ended(session: 1, .left)))
      // Idle connections go too.
      world.run(.seconds(120))
      #expect(world.relay.connectionCount == 0)
      #expect(world.relay.nextDeadline == .distantFuture, "no timer is left behind")
    }
  }

  @Test func aLegAloneWaitsAndIsSentAway() {
    let world = RelayWorld()
    let a = X25519.generate(using: &world.random)
    let guest = world.guest(
      "a", key: a, world.invitation(session: 1, leg: 0, peer: world.random.bytes(32)), over: .tcp)
    world.connect(guest)
    #expect(guest.news == [.waiting])
    world.run(.seconds(40))
    #expect(guest.refusal == .ended)
    #expect(world.events.contains(.ended(session: 1, .otherLegMissing)))
  }

  @Test func aSessionWaitsForALostLegAndThenEnds() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    world.cut(a)
    world.run(.seconds(85))
    #expect(world.relay.sessionCount == 1 && b.guest.isOver == false)
    world.run(.seconds(10))
    #expect(world.relay.sessionCount == 0 && b.refusal == .ended)
    world.connect(a)
    #expect(a.refusal == .unknownLeg)
  }

  @Test func lostDatagramsDelayAJoinAndDoNotBreakIt() {
    for seed in 0..<40 as Range<UInt64> {
      let world = RelayWorld(seed: seed)
      world.loss = 30
      let (a, b) = world.pair(session: 1, over: (.udp, .udp))
      world.run(.seconds(8))
      let gaveUp = a.news.contains(.silent) || b.news.contains(.silent)
      #expect(a.isOpen && b.isOpen || gaveUp, "seed \(seed): \(a.news) \(b.news)")
      #expect(world.relay.statistics.refused.allSatisfy { $0 == 0 }, "seed \(seed)")
    }
  }

  @Test func aFinishedChannelOnTCPEndsTheSession() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    world.deliver(CarrierFrame.bytes(channel: a.guest.channel, kind: .end), from: a)
    world.pump()
    #expect(b.refusal == .ended && world.relay.sessionCount == 0)
  }

  @Test func aFakedEndOnUDPEndsNothing() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1, over: (.udp, .udp))
    for kind in [CarrierFrame.Kind.end, .refuse] {
      world.deliver(
        CarrierFrame.bytes(
          channel: a.guest.channel, kind: kind, body: kind == .refuse ? [0, 1] : []), from: a)
    }
    world.pump()
    #expect(a.isOpen && b.isOpen && world.relay.statistics.strangers == 2)
  }

  @Test func silentLegsAreAskedAndLetGo() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1, over: (.tcp, .udp))
    // They answer PINGs: nothing happens.
    world.run(.minutes(5))
    #expect(a.isOpen && b.isOpen && world.relay.sessionCount == 1)
    // One falls silent: its connection goes, then the session.
    world.guests.removeAll { $0 === b }
    world.run(.seconds(60))
    #expect(!a.isOpen && world.relay.connectionCount == 1)
    world.run(.seconds(100))
    #expect(world.relay.sessionCount == 0)
  }

  @Test func aSessionThatCarriesNothingForTenMinutesEnds() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    world.run(.minutes(11))
    #expect(a.refusal == .ended && b.refusal == .ended)
    #expect(world.events.contains(.ended(session: 1, .idle)))
  }
}
