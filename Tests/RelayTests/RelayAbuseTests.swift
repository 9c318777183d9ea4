import Bytes
import Crypto
import Mux
import Relay
import Testing

/// Issue 4, acceptance 4: what others may not do to a relay, and what it does
/// not do to others.
@Suite struct RelayAbuseTests {
  @Test func tenThousandGarbageConnectionsCostNothingThatStays() {
    let world = RelayWorld()
    let (a, b) = world.pair(session: 1)
    var random = SeededRandom(testSeed: 3)
    var turnedAway = 0
    for number in 0..<10_000 {
      let address = Endpoint(
        IPAddress(v4: 0x0a00_0000 + UInt32(number / 8)), UInt16(number % 8 + 1))
      let bytes: [UInt8] =
        switch number % 5 {
        case 0: random.bytes(Int.random(in: 0..<3_000, using: &random))
        case 1: Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8)
        case 2:  // looks right, is not
          CarrierFrame.bytes(channel: 0, kind: .open, body: [1] + random.bytes(16 + 266))
        case 3: []  // says nothing
        default:  // half a frame
          Array(CarrierFrame.bytes(channel: 0, kind: .open, body: random.bytes(900)).prefix(500))
        }
      if world.strangerConnects(bytes, from: address) == nil { turnedAway += 1 }
      world.streams.removeAll()
      #expect(world.relay.connectionCount <= 2 + 256)
      if number % 100 == 0 { world.run(.milliseconds(100)) }
    }
    #expect(world.relay.rememberedCount == 2 && world.relay.sessionCount == 1)
    #expect(world.relay.queueMemory <= 64 << 10)
    #expect(turnedAway > 0 && turnedAway == Int(world.relay.statistics.turnedAway))
    // Those inside notice nothing, and others may come again.
    #expect(a.isOpen && b.isOpen)
    world.send([1], from: a)
    world.run(.seconds(6))
    #expect(b.packets == [[1]] && world.relay.connectionCount == 2)
    let (c, d) = world.pair(session: 2)
    #expect(c.isOpen && d.isOpen)
  }

  @Test func oneAddressMayNotTakeAllPlaces() {
    let world = RelayWorld()
    var taken = 0
    for _ in 0..<100 {
      if world.strangerConnects([], from: Endpoint(IPAddress(10, 0, 0, 1), 5)) != nil { taken += 1 }
    }
    #expect(taken == world.relay.settings.limits.pendingPerAddress)
    let (a, b) = world.pair(session: 1)
    #expect(a.isOpen && b.isOpen)
  }

  /// No datagram to an address is larger than the one it sent, before it has
  /// shown that it hears us.
  @Test func fakedSourcesGetNothingLargerThanTheySent() {
    for seed in 0..<20 as Range<UInt64> {
      let world = RelayWorld(seed: seed)
      var random = SeededRandom(testSeed: seed)
      let key = X25519.generate(using: &random)
      var guest = RelayGuest(
        world.invitation(session: 5, leg: 0, peer: random.bytes(32)), key: key,
        unixTime: world.unixTime, using: &random)!
      guest.connected(over: .udp, now: world.now)
      let join = guest.pollMessage()!
      for number in 0..<400 {
        let victim = Endpoint(IPAddress(v4: 0xc633_6400 + UInt32(number % 50)), 9)
        var datagram: [UInt8] =
          switch Int.random(in: 0..<4, using: &random) {
          case 0: join
          case 1:
            CarrierFrame.bytes(
              channel: 0x8000_0000, kind: .ping,
              body: random.bytes(Int.random(in: 0...64, using: &random)))
          case 2: [0x80] + random.bytes(Int.random(in: 0..<200, using: &random))
          default:
            CarrierFrame.bytes(channel: 0x8000_0000, kind: .open, body: [2] + random.bytes(64))
          }
        if number % 3 == 0 { datagram[datagram.count - 1] ^= 1 }
        world.relay.receive(
          datagram.span.bytes, from: .udp(socket: 1, remote: victim), now: world.now)
        world.datagrams.removeAll()
        world.pump()
        let answered = world.datagrams.reduce(0) { $0 + $1.bytes.count }
        #expect(answered <= datagram.count, "seed \(seed): \(answered) for \(datagram.count)")
        #expect(world.datagrams.allSatisfy { $0.to == victim }, "seed \(seed)")
      }
      #expect(world.relay.connectionCount == 0 && world.relay.sessionCount == 0, "seed \(seed)")
      // Not one curve operation either: nobody had a cookie.
      #expect(world.relay.statistics.refused.allSatisfy { $0 == 0 }, "seed \(seed)")
    }
  }

  @Test func strangersAreAnsweredOnlySoOften() {
    let world = RelayWorld()
    var answers = 0
    for number in 0..<20_000 {
      let ping = CarrierFrame.bytes(channel: 0x8000_0000, kind: .ping, body: [1])
      world.relay.receive(
        ping.span.bytes,
        from: .udp(socket: 1, remote: Endpoint(IPAddress(v4: UInt32(number)), 9)), now: world.now)
      world.pump()
      answers += world.datagrams.count
      world.datagrams.removeAll()
      world.now += .microseconds(50)
    }
    // One second: the burst and as much again.
    #expect((1_900...2_100).contains(answers))
  }

  @Test func aFloodOfRequestsWithACookieIsBounded() {
    let world = RelayWorld()
    let attacker = Endpoint(IPAddress(203, 0, 113, 1), 1)
    let ask = RelayRequest.join(
      cookie: [UInt8](repeating: 0, count: 16), sealed: [UInt8](repeating: 1, count: 266))
    world.relay.receive(
      ask.frame(over: .udp).span.bytes, from: .udp(socket: 1, remote: attacker), now: world.now)
    world.pump()
    guard case .cookie(let cookie)? = reply(frames(world.datagrams[0].bytes)[0].data) else {
      Issue.record("no cookie")
      return
    }
    for number in 0..<5_000 {
      let join = RelayRequest.join(
        cookie: cookie, sealed: [UInt8](repeating: UInt8(number & 255), count: 266))
      world.relay.receive(
        join.frame(over: .udp).span.bytes, from: .udp(socket: 1, remote: attacker), now: world.now)
      world.pump()
    }
    let opened = world.relay.statistics.refused[Int(RelayRefusal.unreadable.rawValue)]
    #expect(opened == UInt64(world.relay.settings.limits.requestsPerAddress))
    // Others are served meanwhile.
    let (a, b) = world.pair(session: 1, over: (.udp, .udp))
    #expect(a.isOpen && b.isOpen)
  }

  @Test func sessionsAreLimitedInAllAndPerNode() {
    let world = RelayWorld {
      $0.limits.sessions = 4
      $0.limits.requestsPerAddress = 1_000
    }
    var guests: [TestGuest] = []
    for session in 1...6 as ClosedRange<UInt64> {
      let (a, b) = world.pair(session: session)
      guests += [a, b]
    }
    #expect(guests.count { $0.isOpen } == 8)
    #expect(guests[8...].allSatisfy { $0.refusal == .full })
    #expect(world.relay.load == 1_000)
    // Room again when one leaves.
    guests[0].guest.leave()
    world.pump()
    let (c, d) = world.pair(session: 9)
    #expect(c.isOpen && d.isOpen)

    let narrow = RelayWorld { $0.limits.sessionsPerNode = 2 }
    let key = X25519.generate(using: &narrow.random)
    var own: [TestGuest] = []
    for session in 1...3 as ClosedRange<UInt64> {
      let guest = narrow.guest(
        "n\(session)", key: key,
        narrow.invitation(session: session, leg: 0, peer: narrow.random.bytes(32)), over: .tcp)
      narrow.connect(guest)
      own.append(guest)
    }
    #expect(own.map(\.refusal) == [nil, nil, .full])
    // Being named as a peer costs nobody a place, and what is given back can be had again.
    let victim = X25519.generate(using: &narrow.random)
    for session in 11...14 as ClosedRange<UInt64> {
      narrow.connect(
        narrow.guest(
          "e\(session)", key: X25519.generate(using: &narrow.random),
          narrow.invitation(session: session, leg: 0, peer: victim.publicKey), over: .tcp))
    }
    own[0].guest.leave()
    narrow.pump()
    for (key, session) in [(victim, 21), (key, 22)] as [(KeyPair, UInt64)] {
      let late = narrow.guest(
        "l\(session)", key: key,
        narrow.invitation(session: session, leg: 0, peer: narrow.random.bytes(32)), over: .tcp)
      narrow.connect(late)
      #expect(late.refusal == nil)
    }
  }

  @Test func aRelayThatMayCarryNothingSaysSo() {
    let world = RelayWorld(megabits: 0)
    let (a, b) = world.pair(session: 1)
    #expect(a.refusal == .notServed && b.refusal == .notServed)
  }

  // MARK: -bw

  /// Keeps every session's queues filled, both ways if asked, for some seconds.
  /// - Returns: bytes that each session got.
  private func saturate(
    _ world: RelayWorld, _ pairs: [(TestGuest, TestGuest)],
    bothWays: (Int) -> Bool = { _ in false },
    size: (Int) -> Int = { _ in 1_200 }, seconds: Int, stalled: Set<String> = []
  ) -> [Double] {
    let before = pairs.map { $0.0.bytesIn + $0.1.bytesIn }
    let packet = [UInt8](repeating: 7, count: 16_000)
    for _ in 0..<(seconds * 200) {
      for (number, pair) in pairs.enumerated() {
        // Twice a fair share of 10 Mbit/s: 6250 bytes come in 5 ms.
        let count = max(1, 12_500 / pairs.count / size(number))
        for _ in 0..<count {
          world.send(Array(packet.prefix(size(number))), from: pair.0)
          if bothWays(number) { world.send(Array(packet.prefix(size(number))), from: pair.1) }
        }
      }
      world.run(.milliseconds(5), stalled: stalled)
    }
    return pairs.indices.map { Double(pairs[$0].0.bytesIn + pairs[$0].1.bytesIn - before[$0]) }
  }

  @Test func tenMegabitsAreTenMegabits() {
    for (count, kinds) in [(1, (.tcp, .tcp)), (3, (.udp, .udp)), (5, (.udp, .tcp))]
      as [(Int, (LegKind, LegKind))]
    {
      let world = RelayWorld(megabits: 10) { $0.limits.requestsPerAddress = 1_000 }
      let pairs = (0..<count).map { world.pair(session: UInt64($0 + 1), over: kinds) }
      #expect(pairs.allSatisfy { $0.0.isOpen && $0.1.isOpen })
      let got = saturate(world, pairs, seconds: 5)
      let megabits = got.reduce(0, +) * 8 / 5 / 1e6
      #expect((9.0...11.0).contains(megabits), "\(count) over \(kinds): \(megabits)")
      #expect(world.relay.load > 700)
    }
  }

  @Test func twentySessionsShareItFairly() {
    for seed in 0..<3 as Range<UInt64> {
      let world = RelayWorld(seed: seed, megabits: 10) { $0.limits.requestsPerAddress = 1_000 }
      let pairs = (0..<20).map {
        world.pair(session: UInt64($0 + 1), over: $0 % 2 == 0 ? (.tcp, .tcp) : (.udp, .udp))
      }
      // A session is no more for sending both ways, or larger packets.
      let got = saturate(
        world, pairs, bothWays: { $0 % 3 == 0 }, size: { [400, 1_200, 1_400][$0 % 3] }, seconds: 8)
      let megabits = got.reduce(0, +) * 8 / 8 / 1e6
      #expect(fairness(got) >= 0.95, "seed \(seed): \(fairness(got)) \(got)")
      #expect((9.0...11.0).contains(megabits), "seed \(seed): \(megabits)")
    }
  }

  @Test func aStalledLegKeepsNothingFromTheOthers() {
    let world = RelayWorld(megabits: 10) { $0.limits.requestsPerAddress = 1_000 }
    let pairs = (0..<5).map { world.pair(session: UInt64($0 + 1)) }
    let got = saturate(world, pairs, seconds: 4, stalled: ["b3"])
    let megabits = got.reduce(0, +) * 8 / 4 / 1e6
    #expect(got[2] == 0)
    #expect((9.0...11.0).contains(megabits), "\(megabits)")
    let rest = [got[0], got[1], got[3], got[4]]
    #expect(fairness(rest) >= 0.99, "\(rest)")
    #expect(world.relay.queueMemory <= 10 * (512 << 10))
    // When it goes, what was kept for it goes too.
    let before = world.relay.queueMemory
    world.cut(pairs[2].1)
    #expect(world.relay.queueMemory < before)
  }

  @Test func anythingInAnyOrderLeavesNothingBehind() {
    for seed in 0..<60 as Range<UInt64> {
      let world = RelayWorld(seed: seed, megabits: seed % 2 == 0 ? 10 : nil) {
        $0.limits.sessions = 6
        $0.limits.requestsPerAddress = 1_000
      }
      world.loss = seed % 3 == 0 ? 10 : 0
      var random = SeededRandom(testSeed: seed &+ 1_000)
      var session: UInt64 = 1
      for _ in 0..<300 {
        let guest = world.guests.randomElement(using: &random)
        switch Int.random(in: 0..<20, using: &random) {
        case 0..<3:
          let kinds: (LegKind, LegKind) =
            [(.tcp, .tcp), (.udp, .udp), (.udp, .tcp)].randomElement(using: &random) ?? (.tcp, .tcp)
          _ = world.pair(session: session, over: kinds)
          session += 1
        case 3: if let guest { world.cut(guest) }
        case 4..<6:
          if let guest, guest.connection == nil {
            world.connect(guest, over: [.tcp, .udp].randomElement(using: &random))
          }
        case 6:
          guest?.guest.leave()
          world.pump()
        case 7:
          if let guest, guest.kind == .udp {
            guest.address = Endpoint(
              IPAddress(192, 0, 2, UInt8.random(in: 1...250, using: &random)),
              UInt16.random(in: 1...9_999, using: &random))
            guest.guest.connected(over: .udp, now: world.now)
            world.pump()
          }
        case 8: world.run(.seconds(Int64.random(in: 1..<40, using: &random)))
        case 9:
          if let guest { world.deliver(random.bytes(40), from: guest) }
          world.pump()
        default:
          if let guest {
            world.send(random.bytes(Int.random(in: 1...1_400, using: &random)), from: guest)
          }
          world.run(.milliseconds(Int64.random(in: 0..<20, using: &random)))
        }
        #expect(world.relay.sessionCount <= 6, "seed \(seed)")
        #expect(world.relay.channelCount <= world.relay.sessionCount, "seed \(seed)")
        // Who believes to have a channel has one: both ends agree when nothing got lost.
        if world.guests.count > 60 { world.guests.removeFirst(30) }
      }
      // All go silent: nothing stays.
      for guest in world.guests where guest.connection != nil { world.cut(guest) }
      world.guests = []
      world.run(.minutes(15))
      #expect(world.relay.sessionCount == 0, "seed \(seed)")
      #expect(world.relay.connectionCount == 0, "seed \(seed)")
      #expect(world.relay.queueMemory == 0, "seed \(seed)")
      #expect(world.relay.nextDeadline == .distantFuture, "seed \(seed)")
    }
  }
}
