import Bytes
import Paths
import Testing

private let here = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(203, 0, 113, 7), 4000))
private let there = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(198, 51, 100, 7), 4000))
private let start = Instant(nanoseconds: 1_000_000_000)

private func probes(_ paths: inout PeerPaths, _ budget: inout ProbeBudget, _ now: Instant)
  -> [PathProbe]
{
  var all: [PathProbe] = []
  while let probe = paths.pollProbe(budget: &budget, now: now) { all.append(probe) }
  return all
}

private func ready(_ seed: UInt64 = 1) -> PeerPaths {
  var paths = PeerPaths(testSeed: seed)
  paths.sessionEstablished(through: nil, now: start)
  return paths
}

/// Peers that list a victim, on many ports, again and again, from several
/// peers of one node: the node as a whole stays inside the budget.
@Test func aVictimGetsNoMoreThanTheBudgetWhoeverAsks() {
  for seed in 0..<10 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed)
    var budget = ProbeBudget()
    var peers = (0..<5).map { ready(seed * 10 + UInt64($0)) }
    let victim = IPAddress(203, 0, 113, 66)
    var log: [(Instant, Int)] = []
    var now = start
    while now - start < .minutes(3) {
      for p in peers.indices {
        if random.next() % 40 == 0 {
          let port = UInt16(1_024 + random.next() % 3_000)
          peers[p].addCandidate(
            .udp(socket: 1, remote: Endpoint(victim, port)), kind: .host, tier: .udpDirect,
            source: .signalled, now: now)
        }
        if random.next() % 200 == 0 { peers[p].peerReturned(now: now) }
        if random.next() % 200 == 0 { peers[p].networkChanged(now: now) }
        if random.next() % 100 == 0 {
          var targets: [Carrier] = []
          peers[p].initiationTargets(
            bytes: 148, firstTry: random.next() % 2 == 0, isLate: random.next() % 2 == 0,
            budget: &budget, now: now, into: &targets)
          for target in targets {
            #expect(target.remote.address == victim)
            log.append((now, 148))
          }
        }
        peers[p].advance(to: now)
        for probe in probes(&peers[p], &budget, now) {
          #expect(probe.size <= 64, "no full-size probe before proof")
          log.append((now, PathSizes.sealed(probe.size)))
        }
      }
      now += .milliseconds(Int64(5 + random.next() % 20))
    }
    #expect(log.count > 200, "seed \(seed)")
    for (i, first) in log.enumerated() {
      let window = log[i...].prefix { $0.0 - first.0 < .seconds(10) }
      #expect(window.count <= 20, "seed \(seed)")
      #expect(window.reduce(0) { $0 + $1.1 } <= 3_000, "seed \(seed)")
    }
  }
}

/// Packets relayed from a victim's forged address: never three times as much.
@Test func aLearntAddressGetsAtMostThreeTimesWhatItSent() {
  for seed in 0..<50 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed)
    var paths = ready(seed)
    var budget = ProbeBudget()
    var now = start
    var received = 0
    var sent = 0
    for _ in 0..<2_000 {
      if random.next() % 10 == 0 {
        let bytes = 32 + Int(random.next() % 6) * 16
        received += bytes
        paths.received(from: there, bytes: bytes, carriesData: random.next() % 2 == 0, now: now)
        if bytes >= 64 {
          paths.receive(.ping(challenge: random.next(), size: bytes - 32), from: there, now: now)
        }
      }
      paths.advance(to: now)
      for probe in probes(&paths, &budget, now) { sent += PathSizes.sealed(probe.size) }
      #expect(sent <= 3 * received, "seed \(seed)")
      now += .milliseconds(Int64(random.next() % 50))
    }
    #expect(sent > 0, "seed \(seed)")
    #expect(paths.primary == nil, "one-way packets prove nothing, seed \(seed)")
  }
}

@Test func aChallengeThroughAnotherCarrierProvesNothing() {
  var paths = ready()
  var budget = ProbeBudget()
  for carrier in [here, there] {
    paths.addCandidate(carrier, kind: .host, tier: .udpDirect, source: .signalled, now: start)
  }
  paths.advance(to: start)
  let sent = probes(&paths, &budget, start)
  #expect(sent.count == 2)
  let later = start + .milliseconds(20)
  for probe in sent {
    guard case .ping(let challenge, let size) = probe.message else { continue }
    let wrong = probe.carrier == here ? there : here
    paths.received(from: wrong, bytes: 64, carriesData: false, now: later)
    paths.receive(
      .pong(challenge: challenge, answeredSize: size, observed: nil), from: wrong, now: later)
  }
  #expect(paths.primary == nil)
  #expect(paths.counters.pongThroughOtherCarrier == 2)
  // The right one still proves it, once.
  guard case .ping(let challenge, let size) = sent[0].message else { return }
  let pong = PathMessage.pong(challenge: challenge, answeredSize: size, observed: nil)
  paths.receive(pong, from: sent[0].carrier, now: later)
  #expect(paths.primary != nil)
  let unknown = paths.counters.pongUnknownChallenge
  paths.receive(pong, from: sent[0].carrier, now: later)
  #expect(paths.counters.pongUnknownChallenge == unknown + 1)
}

@Test func guessedAndOldChallengesProveNothing() {
  var paths = ready()
  var budget = ProbeBudget()
  paths.addCandidate(here, kind: .host, tier: .udpDirect, source: .signalled, now: start)
  paths.advance(to: start)
  let sent = probes(&paths, &budget, start)
  var random = SeededRandom(testSeed: 77)
  for _ in 0..<10_000 {
    paths.receive(
      .pong(challenge: random.next(), answeredSize: 32, observed: nil), from: here, now: start)
  }
  #expect(paths.primary == nil)
  #expect(paths.counters.pongUnknownChallenge == 10_000)
  guard case .ping(let challenge, let size) = sent[0].message else { return }
  paths.receive(
    .pong(challenge: challenge, answeredSize: size, observed: nil), from: here,
    now: start + .seconds(11))
  #expect(paths.primary == nil)
  #expect(paths.counters.pongTooOld == 1)
}

/// A copy of the peer's packets from another address: learnt, asked, not used.
@Test func copiesFromAnotherAddressAreNotFollowed() {
  let world = World(seed: 3, links: [.udp(1, delay: .milliseconds(10))])
  world.begin()
  world.startTraffic(every: .milliseconds(10))
  world.run(for: .seconds(1))
  let before = world.primaryCarrier(1)
  for _ in 0..<200 {
    world.nodes[1].received(from: there, bytes: 1440, carriesData: true, now: world.now)
    world.drain()
    world.run(for: .milliseconds(10))
  }
  #expect(world.primaryCarrier(1) == before)
  #expect(world.nodes[1].snapshots.contains { $0.carrier == there && $0.state != .up })
  #expect(world.worstWindow(1).packets <= 20)
}

/// HELLO to an address not proven yet counts like every other packet.
@Test func theOwnersPacketsAreBudgetedToo() {
  var paths = ready()
  var budget = ProbeBudget()
  paths.addCandidate(here, kind: .host, tier: .udpDirect, source: .signalled, now: start)
  var sent = 0
  for _ in 0..<100 where paths.permits(here, bytes: 80, budget: &budget, now: start) { sent += 1 }
  #expect(sent == PathLimits.probesPerAddress)
  let unknown = paths.permits(there, bytes: 80, budget: &budget, now: start)
  #expect(!unknown)
  let relay = Carrier.relay(connection: 1, channel: 1, remote: .none)
  paths.carrierOpened(relay, tier: .serverRelay, now: start)
  let relayed = (0..<100).allSatisfy { _ in
    paths.permits(relay, bytes: 80, budget: &budget, now: start)
  }
  #expect(relayed)
}

@Test func nothingIsSentWithoutASession() {
  var paths = PeerPaths(testSeed: 1)
  var budget = ProbeBudget()
  paths.addCandidate(here, kind: .host, tier: .udpDirect, source: .signalled, now: start)
  paths.received(from: there, bytes: 100, carriesData: true, now: start)
  paths.receive(.ping(challenge: 1, size: 32), from: there, now: start)
  #expect(paths.nextDeadline == .distantFuture)
  #expect(probes(&paths, &budget, start).isEmpty)
}

@Test func pingsFromRefusedAddressesAreNotAnswered() {
  var paths = ready()
  var budget = ProbeBudget()
  var context = AddressContext()
  context.virtualRanges = [AddressPrefix(IPAddress(10, 10, 0, 0), 24)]
  paths.setContext(context)
  let inside = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(10, 10, 0, 5), 4000))
  paths.received(from: inside, bytes: 64, carriesData: false, now: start)
  paths.receive(.ping(challenge: 1, size: 32), from: inside, now: start)
  #expect(probes(&paths, &budget, start).isEmpty)
  #expect(paths.counters.pingFromRefusedAddress == 1)
}

/// Worlds with loss, cuts, returns, restarts: the invariants hold in all.
@Test func seededWorldsKeepTheInvariants() {
  var probesToUnproven = 0
  for seed in 0..<40 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed &+ 1000)
    var links = [
      TestLink.udp(1, delay: .milliseconds(Int64(1 + random.next() % 40))),
      TestLink.udp(2, delay: .milliseconds(Int64(1 + random.next() % 40)), tier: .udpPunch),
      TestLink.relay(delay: .milliseconds(Int64(5 + random.next() % 80))),
    ]
    for l in links.indices {
      links[l].lossPerMille = Int(random.next() % 60)
      links[l].mtu = [576, 1280, 1400, 1500, 9000][Int(random.next() % 5)]
    }
    let world = World(seed: seed, links: links)
    world.begin()
    world.startTraffic(every: .milliseconds(20))
    for _ in 0..<40 {
      let l = Int(random.next() % 3)
      switch random.next() % 8 {
      case 0: world.links[l].passes = [false, false]
      case 1: world.links[l].passes = [false, true]
      case 2: world.nodes[0].networkChanged(now: world.now)
      case 3: world.nodes[1].peerReturned(now: world.now)
      case 4: world.links[l].mtu = [576, 1280, 1500][Int(random.next() % 3)]
      case 5:
        if random.next() % 3 == 0 {
          for node in 0..<2 {
            world.nodes[node].peerRestarted(now: world.now)
            world.nodes[node].sessionEstablished(through: world.links[2].ends[node], now: world.now)
          }
        }
      default:
        for k in 0..<3 { world.links[k].passes = [true, true] }
      }
      world.drain()
      world.run(for: .milliseconds(Int64(100 + random.next() % 3_000)))
    }
    for k in 0..<3 {
      world.links[k].passes = [true, true]
      world.links[k].lossPerMille = 0
    }
    for node in 0..<2 {
      let worst = world.worstWindow(node)
      #expect(worst.packets <= 20 && worst.bytes <= 3_000, "seed \(seed)")
      probesToUnproven += world.unproven[node].count
      // Every lane that went down had come up, and none is up twice.
      var up: Set<UInt8> = []
      for (_, event) in world.events[node] {
        switch event {
        case .pathUp(let lane, _, _, _):
          let isNew = up.insert(lane).inserted
          #expect(isNew, "seed \(seed)")
        case .pathDown(let lane, _):
          let wasUp = up.remove(lane) != nil
          #expect(wasUp, "seed \(seed)")
        case .suspect(let lane, _), .recovered(let lane), .maximumPacketChanged(let lane, _):
          #expect(up.contains(lane), "seed \(seed)")
        case .primaryChanged(_, let to, _):
          #expect(to.map { up.contains($0) } ?? true, "seed \(seed)")
        case .allPathsDead: #expect(up.isEmpty, "seed \(seed)")
        case .observedAddress, .doubted, .wantsPunch, .wantsSockets, .guessEnded, .gapPassed,
          .gapShut:
          break
        }
      }
      #expect(world.nodes[node].history.count <= PathLimits.history)
    }
    // In calm a direct path is found again.
    world.run(for: .seconds(100))
    #expect((world.primaryTier() ?? .serverRelay) <= .udpPunch, "seed \(seed)")
    #expect((world.primaryTier(1) ?? .serverRelay) <= .udpPunch, "seed \(seed)")
  }
  #expect(probesToUnproven > 500)
}

@Test func lanesAreBoundedAndReused() {
  var paths = ready()
  var budget = ProbeBudget()
  var now = start
  var seen: Set<UInt8> = []
  // A roaming peer: a hundred addresses one after another.
  for n in 0..<100 as Range<UInt8> {
    let carrier = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(203, 0, 113, n), 4000))
    paths.received(from: carrier, bytes: 64, carriesData: true, now: now)
    for probe in probes(&paths, &budget, now) {
      if case .ping(let challenge, let size) = probe.message, probe.carrier == carrier {
        paths.receive(
          .pong(challenge: challenge, answeredSize: size, observed: nil), from: carrier,
          now: now + .milliseconds(1))
      }
    }
    let lane = paths.lane(of: carrier)
    #expect(lane != nil, "address \(n)")
    if let lane { seen.insert(lane) }
    var end = now + .seconds(20)
    if n % 10 == 0 { end += .seconds(5) }
    while now < end {
      now = min(end, max(now + .milliseconds(1), paths.nextDeadline))
      paths.advance(to: now)
      _ = probes(&paths, &budget, now)
    }
    while paths.pollEvent() != nil {}
  }
  #expect(seen.count <= PathLimits.lanes)
  #expect(paths.snapshots.count <= PathLimits.candidates)
}
