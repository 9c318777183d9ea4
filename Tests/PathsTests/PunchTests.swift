import Bytes
import NAT
import Paths
import Testing

private let start = Instant(nanoseconds: 1_000_000_000)
private let publicPeer = IPAddress(203, 0, 113, 7)
private let reflexive = Carrier.udp(socket: 1, remote: Endpoint(publicPeer, 4000))
private let relay = Carrier.relay(
  connection: 7, channel: 1, remote: Endpoint(IPAddress(192, 0, 2, 1), 27183))

private let portRestricted = NATFacts(
  mapping: .endpointIndependent, filtering: .addressAndPortDependent)
private let symmetric = NATFacts(
  mapping: .addressAndPortDependent, filtering: .addressAndPortDependent)

/// One end, driven by hand: everything it sends, with its time.
private struct End {
  var paths: PeerPaths
  var budget = ProbeBudget()
  var now = start
  var sent: [(at: Instant, probe: PathProbe)] = []
  var events: [PathEvent] = []

  init(seed: UInt64, local: NATFacts = portRestricted, peer: NATFacts = portRestricted) {
    paths = PeerPaths(testSeed: seed)
    var context = AddressContext()
    context.serverSeesUs = IPAddress(198, 51, 100, 9)
    context.serverSeesPeer = publicPeer
    paths.setContext(context)
    paths.setNAT(local: local, peer: peer)
    paths.carrierOpened(relay, tier: .serverRelay, now: start)
  }

  mutating func meet(in delay: TimeAmount = .zero, at endpoint: Carrier = reflexive) {
    paths.punch(at: now + delay, now: now)
    paths.addCandidate(
      endpoint, kind: .serverReflexive, tier: .udpPunch, source: .signalled, now: now)
    drain()
  }

  mutating func drain() {
    while let probe = paths.pollProbe(budget: &budget, now: now) { sent.append((now, probe)) }
    while let event = paths.pollEvent() { events.append(event) }
  }

  mutating func run(for amount: TimeAmount) {
    let end = now + amount
    while paths.nextDeadline <= end {
      now = max(now, paths.nextDeadline)
      paths.advance(to: now)
      drain()
    }
    now = end
  }

  mutating func answerLastPing(through carrier: Carrier) {
    drain()
    for one in sent.reversed() where one.probe.carrier == carrier {
      guard case .ping(let challenge, let size)? = one.probe.message else { continue }
      paths.receive(
        .pong(challenge: challenge, answeredSize: size, observed: nil), from: carrier, now: now)
      break
    }
    drain()
  }

  func pings(to address: IPAddress) -> [(at: Instant, probe: PathProbe)] {
    sent.filter { $0.probe.message != nil && $0.probe.carrier.remote.address == address }
  }
}

@Test func openersLeaveFirstAndNeedNoKeys() {
  var end = End(seed: 1)
  end.meet(in: .milliseconds(30))
  end.run(for: .seconds(1))
  #expect(end.sent.allSatisfy { $0.probe.message == nil }, "nothing can be sealed yet")
  #expect(end.sent.map { $0.at - start } == [.milliseconds(30), .milliseconds(70)])
  #expect(end.sent.allSatisfy { $0.probe.timeToLive == 2 && $0.probe.carrier == reflexive })
  end.paths.sessionEstablished(through: relay, now: end.now)
  end.run(for: .seconds(1))
  let first = end.pings(to: publicPeer).first
  #expect(first.map { $0.at - start } == .seconds(1), "the openers are there: ask at once")
  #expect(first?.probe.timeToLive == 0)
}

@Test func openersLiveAsLongAsWasMeasured() {
  let sixth = Carrier.udp(
    socket: 2, remote: Endpoint(IPAddress(high: 0x2001_0db8_0007_0000, low: 7), 4000))
  var end = End(seed: 1)
  end.paths.setOpenerHops(3, isV4: true)
  end.meet()
  end.meet(at: sixth)
  end.run(for: .seconds(1))
  func lives(_ carrier: Carrier) -> [UInt8] {
    end.sent.filter { $0.probe.carrier == carrier }.map(\.probe.timeToLive)
  }
  #expect(lives(reflexive) == [3, 3])
  #expect(lives(sixth) == [2, 2], "nothing is known of that family")
  // Another network, whose routers are silent.
  end.paths.setOpenerHops(nil, isV4: true)
  end.sent.removeAll()
  end.meet()
  end.run(for: .seconds(1))
  #expect(lives(reflexive) == [2, 2])
}

@Test func pingsWaitForOpenersAlsoWithKeys() {
  var end = End(seed: 2)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet(in: .milliseconds(20))
  end.run(for: .seconds(5))
  let first = end.pings(to: publicPeer).first
  #expect(first.map { $0.at - start } == .milliseconds(100))
  #expect(end.sent.filter { $0.probe.carrier == reflexive && $0.probe.message == nil }.count == 2)
}

@Test func hostCandidatesAreAskedAtOnce() {
  var end = End(seed: 3)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.punch(at: start + .milliseconds(50), now: start)
  end.paths.addCandidate(
    reflexive, kind: .host, tier: .udpDirect, source: .signalled, now: start)
  end.run(for: .milliseconds(10))
  #expect(end.pings(to: publicPeer).first?.at == start)
}

@Test func initiationsStayAwayFromUnopenedHoles() {
  var end = End(seed: 4)
  end.meet()
  func targets(isLate: Bool) -> [Carrier] {
    var list: [Carrier] = []
    end.paths.initiationTargets(
      bytes: 148, firstTry: false, isLate: isLate, budget: &end.budget, now: end.now, into: &list)
    return list
  }
  #expect(targets(isLate: false) == [relay])
  #expect(targets(isLate: true) == [relay, reflexive])
}

/// The peer has lost a path that we believe in: our router has shut our hole.
@Test func anAgreedStartReopensAPathThatWentSilent() {
  var end = End(seed: 16)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .milliseconds(200))
  end.paths.received(from: reflexive, bytes: 64, carriesData: false, now: end.now)
  end.answerLastPing(through: reflexive)
  #expect(end.paths.hasDatagramPath)
  // Heard a moment ago, it needs nothing.
  end.sent.removeAll()
  end.paths.punch(at: end.now, now: end.now)
  end.drain()
  #expect(end.sent.allSatisfy { $0.probe.message != nil })
  // An idle path is asked every second or later.
  end.now += .milliseconds(1_500)
  end.sent.removeAll()
  let agreed = end.now + .milliseconds(20)
  end.paths.punch(at: agreed, now: end.now)
  end.run(for: .milliseconds(100))
  let opened = end.sent.filter { $0.probe.carrier == reflexive && $0.probe.message == nil }
  #expect(opened.map { $0.at - agreed } == [.zero, .milliseconds(40)])
  #expect(opened.allSatisfy { $0.probe.timeToLive == 2 })
}

/// A rekeying every two minutes would keep a mapping of ours open, and its port
/// away from what the peer predicts.
@Test func initiationsKeepNoMappingOpenThatNobodyCanGuess() {
  for local in [symmetric, portRestricted] {
    let open = NATFacts(mapping: .endpointIndependent, filtering: .endpointIndependent)
    var end = End(seed: 15, local: local, peer: open)
    end.paths.sessionEstablished(through: relay, now: start)
    end.paths.punch(at: start, now: start)
    end.paths.addCandidate(
      reflexive, kind: .host, tier: .udpDirect, source: .signalled, now: start)
    end.run(for: .minutes(2))
    var list: [Carrier] = []
    end.paths.initiationTargets(
      bytes: 148, firstTry: false, isLate: false, budget: &end.budget, now: end.now, into: &list)
    #expect(list == (local == symmetric ? [relay] : [relay, reflexive]))
  }
}

@Test func relayedPairAsksToBeBroughtTogetherAgain() {
  var end = End(seed: 5)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.setHeld(true, now: start)
  end.meet()
  end.run(for: .minutes(20))
  let wishes = end.events.count { $0 == .wantsPunch }
  #expect((5...12).contains(wishes), "\(wishes) in twenty minutes")
}

@Test func fixedEndAsksManyPortsAndThenRests() {
  for seed in 0..<20 as Range<UInt64> {
    var end = End(seed: seed, peer: symmetric)
    end.paths.sessionEstablished(through: relay, now: start)
    end.paths.setHeld(true, now: start)
    end.meet()
    end.run(for: .seconds(11))
    let guessed = end.pings(to: publicPeer).filter { $0.probe.carrier != reflexive }
    // The known port may be among them, and is not counted here.
    #expect((2046...2048).contains(guessed.count), "seed \(seed)")
    let firstRound = Set(guessed.prefix(1000).map(\.probe.carrier.remote.port))
    #expect(firstRound.count == 1000, "seed \(seed): no port twice in a round")
    // Bursts, not all at once: at most 64 packets in any 20 ms.
    for (index, one) in guessed.enumerated() where index + 64 < guessed.count {
      #expect(guessed[index + 64].at - one.at >= .milliseconds(20), "seed \(seed)")
    }
    // Asked to meet again and again, it sends no third round in ten minutes.
    for _ in 0..<20 {
      end.meet()
      end.run(for: .seconds(20))
    }
    let all = end.pings(to: publicPeer).filter { $0.probe.carrier != reflexive }
    #expect(all.count <= PathLimits.guessesPerAddress, "seed \(seed)")
  }
}

@Test func nobodyIsGuessedAtWhereTheServerDoesNotSeeThePeer() {
  var end = End(seed: 6, peer: symmetric)
  let victim = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(198, 51, 100, 66), 53))
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet(at: victim)
  end.run(for: .seconds(30))
  #expect(end.sent.allSatisfy { $0.probe.carrier == victim || $0.probe.carrier == relay })
  let before = end.sent.filter { $0.probe.carrier == victim && $0.at - start < .seconds(10) }
  #expect(before.count <= 20)
}

@Test func movingEndAsksForSocketsAndUsesEach() {
  var end = End(seed: 7, local: symmetric)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .seconds(1))
  #expect(end.events.contains(.wantsSockets(count: 256, isV4: true)))
  end.paths.guess(from: (16..<272 as Range<UInt32>).map { $0 }, now: end.now)
  end.drain()
  end.run(for: .seconds(2))
  let used = Set(end.sent.map(\.probe.carrier).filter { $0.socket >= 16 && $0.kind == .udp })
  #expect(used.count == 256)
  #expect(used.allSatisfy { $0.remote == reflexive.remote })
  // Another agreed start in between changes nothing: the second round goes all
  // the way, through a second NAT of ours that the first did not reach.
  end.run(for: .milliseconds(500))
  end.paths.punch(at: end.now, now: end.now)
  end.run(for: .seconds(4))
  let lives = end.sent.filter { $0.probe.carrier.socket >= 16 && $0.probe.carrier.kind == .udp }
    .map(\.probe.timeToLive)
  #expect(lives.count == 512 && lives.prefix(256).allSatisfy { $0 == 2 })
  #expect(lives.suffix(256).allSatisfy { $0 == 0 })
  end.run(for: .seconds(10))
  #expect(end.events.contains(.guessEnded))
}

@Test func movingEndsPingsComeOutOfHidingThoughStartsAreAgreedAgain() {
  // Its allocator counts: pings are all it sends, and behind two NATs of its
  // own those that stay at home open only the first.
  var counting = symmetric
  counting.allocatorStep = 1
  var end = End(seed: 12, local: counting)
  end.paths.sessionEstablished(through: relay, now: start)
  for _ in 0..<4 {
    end.meet()
    end.run(for: .seconds(2))
  }
  let pings = end.pings(to: publicPeer)
  let early = pings.filter { $0.at - start < .seconds(3) }
  let late = pings.filter { $0.at - start >= .seconds(3) }
  #expect(!early.isEmpty && early.allSatisfy { $0.probe.timeToLive == 2 })
  #expect(!late.isEmpty && late.allSatisfy { $0.probe.timeToLive == 0 })
}

@Test func whatWasHeardFromIsBehindANATOnceTheServerNamesIt() {
  var end = End(seed: 13)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.received(from: reflexive, bytes: 64, carriesData: false, now: start)
  end.drain()
  end.run(for: .minutes(2))
  end.sent.removeAll()
  let agreed = end.now
  end.meet(in: .milliseconds(50))
  end.run(for: .seconds(1))
  let toPeer = end.sent.filter { $0.probe.carrier == reflexive }
  #expect(toPeer.first.map { $0.at - agreed } == .milliseconds(50))
  #expect(toPeer.first?.probe.timeToLive == 2, "an opener first")
  #expect(
    toPeer.first { $0.probe.message != nil }.map { $0.at - agreed } == .milliseconds(130),
    "no ping before the openers of both ends")
}

@Test func countedPortsArePredicted() {
  var end = End(
    seed: 8,
    peer: NATFacts(
      mapping: .addressAndPortDependent, filtering: .addressAndPortDependent, allocatorStep: 2))
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .seconds(2))
  let guessed = end.pings(to: publicPeer).filter { $0.probe.carrier != reflexive }
  #expect(
    guessed.map(\.probe.carrier.remote.port)
      == (1...96 as ClosedRange<UInt16>).map { 4000 + 2 * $0 }
      + (1...32 as ClosedRange<UInt16>).map { 4000 - 2 * $0 })
}

@Test func aCounterBeginsAnewBehindTheLastPort() {
  var counting = symmetric
  counting.allocatorStep = 1
  let last = Carrier.udp(socket: 1, remote: Endpoint(publicPeer, 65_500))
  var end = End(seed: 14, peer: counting)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet(at: last)
  end.run(for: .seconds(2))
  let guessed = end.pings(to: publicPeer).map(\.probe.carrier).filter { $0 != last }
  #expect(guessed.map(\.remote.port) == Array(65_501...65_535) + Array(1024...1084) + Array((65_468...65_499).reversed()))
}

/// Several of one home are looked for at one address: who is found early leaves
/// the room that was taken for it to the others.
@Test func whoIsFoundLeavesRoomForItsNeighbours() {
  var budget = ProbeBudget()
  for seed: UInt64 in 1...6 {
    var end = End(seed: seed, peer: symmetric)
    end.budget = budget
    end.now = start + .seconds(Int64(20 * seed))
    end.paths.sessionEstablished(through: relay, now: end.now)
    end.meet()
    end.run(for: .seconds(1))
    let guessed = end.pings(to: publicPeer).map(\.probe.carrier).filter { $0 != reflexive }
    #expect(guessed.count > 50, "neighbour \(seed)")
    guard let hit = guessed.last else { return }
    end.paths.received(from: hit, bytes: 64, carriesData: false, now: end.now)
    end.answerLastPing(through: hit)
    #expect(end.paths.hasDatagramPath, "neighbour \(seed)")
    budget = end.budget
  }
}

@Test func guessesAtOneAddressAreBoundedInAnyTenMinutes() {
  var random = SeededRandom(testSeed: 3)
  var budget = ProbeBudget()
  var sent: [(at: Instant, packets: Int)] = []
  var now = start
  while now < start + .hours(3) {
    now += .milliseconds(Int64(random.next() % 60_000))
    let packets = [1024, 256, 128][Int(random.next() % 3)]
    guard budget.takeGuesses(publicPeer, packets: packets, pair: 1, now: now) else { continue }
    let unused = random.next() % 2 == 0 ? Int(random.next() % UInt64(packets)) : 0
    budget.returnGuesses(publicPeer, packets: unused, takenAt: now)
    sent.append((now, packets - unused))
    // What was taken long ago is not given back to others.
    budget.returnGuesses(publicPeer, packets: 1024, takenAt: start)
    let last = sent.filter { now - $0.at < PathLimits.guessWindow }.reduce(0) { $0 + $1.packets }
    #expect(last <= PathLimits.guessesPerAddress)
  }
  #expect(sent.count > 50)
}

/// Three pairs look for neighbours at one address, where there is room for two rounds
/// in ten minutes. Who asks more often must not get it all (seed 374 of the home storms:
/// one pair of three was refused for 35 minutes).
@Test func roomForGuessesGoesToWhoWaitsLongest() {
  var budget = ProbeBudget()
  let gaps: [TimeAmount] = [.seconds(25), .seconds(40), .seconds(300)]
  var asksAt = [start, start + .seconds(1), start + .seconds(2)]
  var served: [[Instant]] = [[], [], []]
  while let pair = (0..<3).min(by: { asksAt[$0] < asksAt[$1] }), asksAt[pair] < start + .hours(3) {
    let now = asksAt[pair]
    if budget.takeGuesses(publicPeer, packets: 1_024, pair: UInt64(pair), now: now) {
      served[pair].append(now)
    }
    asksAt[pair] = now + gaps[pair]
  }
  for pair in 0..<3 {
    let times = [start] + served[pair] + [start + .hours(3)]
    let longest = zip(times, times.dropFirst()).map { $1 - $0 }.max()!
    #expect(longest < .minutes(31), "pair \(pair): \(longest)")
  }
  // Whoever asks no more keeps nobody waiting for long.
  let later = start + .hours(4)
  func take(_ pair: UInt64, _ now: Instant) -> Bool {
    budget.takeGuesses(publicPeer, packets: 1_024, pair: pair, now: now)
  }
  let first = [0, 1, 2, 3].map { take($0, later) }
  #expect(first == [true, true, false, false])
  let second = [3, 3].map { take($0, later + PathLimits.guessWindow) }
  #expect(second == [true, true])
}

/// Pairs that were refused and never came back leave nothing behind.
@Test func linesForGuessesAreBounded() {
  var budget = ProbeBudget()
  var now = start
  for number in 0..<UInt32(4 * PathLimits.guessAddresses) {
    now += PathLimits.guessWindow / 16
    let address = IPAddress(198, 51, UInt8(number >> 8), UInt8(truncatingIfNeeded: number))
    for pair: UInt64 in 0..<32 {
      _ = budget.takeGuesses(address, packets: 1_024, pair: pair, now: now)
    }
    #expect(budget.guessLineCount > 0 && budget.guessLineCount <= PathLimits.guessAddresses)
  }
}

@Test func filtersThatKnowAddressesOnlyNeedNoGuess() {
  let open = NATFacts(mapping: .endpointIndependent, filtering: .addressDependent)
  var end = End(seed: 9, local: open, peer: symmetric)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .seconds(5))
  #expect(end.pings(to: publicPeer).allSatisfy { $0.probe.carrier == reflexive })
}

@Test func portsAreNotGuessedWhenSwitchedOff() {
  var end = End(seed: 10, peer: symmetric)
  end.paths.settings.guessesPorts = false
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .seconds(5))
  #expect(end.pings(to: publicPeer).allSatisfy { $0.probe.carrier == reflexive })
}

/// The peer's NAT has given it another port: the guess aims at that one.
@Test func formerReflexiveEndpointsAreForgotten() {
  var end = End(seed: 11, local: symmetric)
  end.paths.sessionEstablished(through: relay, now: start)
  end.meet()
  end.run(for: .minutes(11))
  let moved = Carrier.udp(socket: 1, remote: Endpoint(publicPeer, 5000))
  end.paths.keepReflexive([moved.remote], now: end.now)
  end.meet(at: moved)
  end.run(for: .seconds(1))
  end.paths.guess(from: [16, 17], now: end.now)
  end.run(for: .seconds(1))
  let late = end.sent.filter { $0.at - start > .minutes(11) && $0.probe.carrier != relay }
  #expect(late.contains { $0.probe.carrier.socket == 17 })
  #expect(late.allSatisfy { $0.probe.carrier.remote == moved.remote })
}

/// A probe without room comes later. An opener that does is of no use: the other
/// end's pings have taken our router's port away by then.
@Test func openersHaveRoomThoughNeighboursUseUpTheBudget() {
  var end = End(seed: 17)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.setHeld(true, now: start)
  var all: [Instant] = []
  func neighbours(for amount: TimeAmount) {
    let until = end.now + amount
    while end.now < until {
      while end.budget.take(publicPeer, bytes: 64, now: end.now) { all.append(end.now) }
      end.run(for: .milliseconds(10))
    }
  }
  end.budget.keepsOpenerRoom = true
  neighbours(for: .seconds(15))
  #expect(all.count > 2 * (PathLimits.probesPerAddress - PathLimits.openersPerAddress) - 1)
  for _ in 0..<3 {
    end.sent.removeAll { $0.probe.carrier == reflexive && $0.probe.message == nil }
    let agreed = end.now + .milliseconds(20)
    end.meet(in: .milliseconds(20))
    neighbours(for: .seconds(1))
    let opened = end.sent.filter { $0.probe.carrier == reflexive && $0.probe.message == nil }
    #expect(opened.map { $0.at - agreed } == [.zero, .milliseconds(40)])
    all += opened.map(\.at)
    neighbours(for: .seconds(19))
  }
  all += end.pings(to: publicPeer).map(\.at)
  all.sort()
  for first in all.indices {
    let count = all[first...].prefix { $0 - all[first] < PathLimits.budgetWindow }.count
    #expect(count <= PathLimits.probesPerAddress)
  }
}

private let formerPort = Carrier.udp(socket: 1, remote: Endpoint(publicPeer, 5000))

extension End {
  /// A path from a port that a packet of the peer came from; then silence.
  /// - Returns: when it was lost.
  fileprivate mutating func loseLearntPath() -> Instant {
    paths.sessionEstablished(through: relay, now: now)
    paths.setHeld(true, now: now)
    paths.received(from: formerPort, bytes: 64, carriesData: false, now: now)
    answerLastPing(through: formerPort)
    #expect(paths.hasDatagramPath)
    while paths.hasDatagramPath { run(for: .milliseconds(10)) }
    sent.removeAll()
    return now
  }

  fileprivate var knowsFormerPort: Bool {
    paths.snapshots.contains { $0.carrier == formerPort }
  }
}

/// Each loss leaves another port behind that nobody answers at.
@Test func formerMappingsAreAskedAtAgreedStartsAndThenForgotten() {
  for peer in [symmetric, portRestricted] {
    var end = End(seed: 18, peer: peer)
    let lost = end.loseLearntPath()
    end.run(for: .seconds(20))
    func askedAfter(_ from: Instant) -> [TimeAmount] {
      end.sent.filter { $0.probe.carrier == formerPort && $0.at >= from }.map { $0.at - from }
    }
    #expect(askedAfter(lost).contains { $0 < .seconds(1) }, "it may be a short outage")
    #expect(askedAfter(lost).allSatisfy { $0 <= .seconds(6) })
    let agreed = end.now
    end.meet()
    end.run(for: .seconds(20))
    #expect(!askedAfter(agreed).isEmpty)
    #expect(askedAfter(agreed).allSatisfy { $0 <= .seconds(6) })
    end.run(for: .seconds(30))
    #expect(!end.knowsFormerPort)
  }
}

/// Where no NAT stands before the peer the address may come back at any time.
@Test func learntAddressesWithoutANATAreAskedForAMinuteAndThenForgotten() {
  let firewalled = NATFacts(mapping: .none, filtering: .addressAndPortDependent)
  var end = End(seed: 19, peer: firewalled)
  let lost = end.loseLearntPath()
  end.run(for: .seconds(58))
  let asked = end.pings(to: publicPeer)
  #expect((asked.last?.at ?? start) - lost > .seconds(55))
  end.run(for: .seconds(10))
  #expect(!end.knowsFormerPort)
}

@Test func learntAddressesThatWereLetGoAreAskedOnceMore() {
  var end = End(seed: 20, peer: .unknown)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.received(from: formerPort, bytes: 64, carriesData: false, now: start)
  end.answerLastPing(through: formerPort)
  while !end.paths.isLetGo {
    end.run(for: .milliseconds(100))
    end.answerLastPing(through: formerPort)
  }
  end.run(for: .minutes(30))
  #expect(end.knowsFormerPort)
  end.sent.removeAll()
  end.paths.punch(at: end.now, now: end.now)
  end.run(for: .seconds(1))
  #expect(!end.pings(to: publicPeer).isEmpty)
  end.answerLastPing(through: formerPort)
  #expect(end.paths.hasDatagramPath)
}

/// The fixed end asks STUN when it hears of a start, and may find that its router
/// has forgotten it meanwhile.
@Test func movingEndAimsWhereThePeerIsNow() {
  var end = End(seed: 21, local: symmetric)
  end.paths.sessionEstablished(through: relay, now: start)
  end.paths.setHeld(true, now: start)
  end.meet()
  end.run(for: .milliseconds(200))
  let moved = Carrier.udp(socket: 1, remote: Endpoint(publicPeer, 4321))
  end.paths.keepReflexive([moved.remote], now: end.now)
  end.paths.addCandidate(
    moved, kind: .serverReflexive, tier: .udpPunch, source: .signalled, now: end.now)
  end.run(for: .milliseconds(600))
  let sockets = (100..<100 + UInt32(PathLimits.birthdaySockets)).map { $0 }
  end.paths.guess(from: sockets, now: end.now)
  end.run(for: .seconds(9))
  let guesses = end.sent.filter { $0.probe.carrier.socket >= 100 }
  #expect(guesses.count == PathLimits.guessRounds * PathLimits.birthdaySockets)
  #expect(guesses.allSatisfy { $0.probe.carrier.remote == moved.remote })
}
