import Bytes
import Paths
import Testing

private func endpoint(_ text: String) -> Endpoint { Endpoint(text) ?? .none }
private func address(_ text: String) -> IPAddress { IPAddress(text) ?? .anyV6 }

@Test func addressesThatAreNeverCandidates() {
  var home = AddressContext()
  home.virtualRanges = [AddressPrefix(address("10.10.0.0"), 24)]
  home.localPrefixes = [
    AddressPrefix(address("192.168.1.0"), 24), AddressPrefix(address("0.0.0.0"), 0),
  ]
  home.serverSeesUs = address("198.51.100.1")
  home.serverSeesPeer = address("203.0.113.1")
  let table: [(String, CandidateRefusal?)] = [
    ("203.0.113.1:4000", nil), ("[2001:db8::1]:4000", nil),
    ("224.0.0.1:4000", .multicast), ("[ff02::1]:4000", .multicast),
    ("255.255.255.255:4000", .multicast), ("0.0.0.0:4000", .unspecified),
    ("[::]:4000", .unspecified), ("203.0.113.1:0", .noPort),
    ("10.10.0.3:4000", .virtualRange), ("127.0.0.1:4000", .loopback),
    ("[::1]:4000", .loopback), ("10.0.0.1:4000", .privateRange),
    ("172.16.3.4:4000", .privateRange), ("100.64.0.1:4000", .privateRange),
    ("[fd00::1]:4000", .privateRange), ("192.168.1.9:4000", nil),
    ("192.168.2.9:4000", .privateRange), ("169.254.3.3:4000", .linkLocal),
    ("[fe80::1]:4000", .linkLocal),
  ]
  for (text, expected) in table {
    let refusal = CandidateRules.refusal(
      of: endpoint(text), source: .signalled, context: home)
    #expect(refusal == expected, "\(text)")
  }
}

@Test func privateAddressesNeedASharedPrefixOrPublicAddress() {
  var context = AddressContext()
  let candidate = endpoint("10.1.2.3:4000")
  func refusal() -> CandidateRefusal? {
    CandidateRules.refusal(of: candidate, source: .signalled, context: context)
  }
  #expect(refusal() == .privateRange)
  context.serverSeesUs = address("198.51.100.1")
  context.serverSeesPeer = address("198.51.100.1")
  #expect(refusal() == nil)
  context.serverSeesPeer = address("198.51.100.2")
  #expect(refusal() == .privateRange)
  // Server and both ends inside one private network.
  context.serverSeesUs = address("10.9.9.9")
  context.serverSeesPeer = address("10.1.2.3")
  #expect(refusal() == nil)
  context.serverSeesUs = address("198.51.100.1")
  #expect(refusal() == .privateRange)
}

@Test func loopbackOnlyWhenTheServerSeesBothThere() {
  var context = AddressContext()
  context.serverSeesUs = .loopbackV4
  let candidate = endpoint("127.0.0.1:4000")
  #expect(CandidateRules.refusal(of: candidate, source: .signalled, context: context) == .loopback)
  context.serverSeesPeer = .loopbackV4
  #expect(CandidateRules.refusal(of: candidate, source: .signalled, context: context) == nil)
}

@Test func tcpOnlyToTheListeningPortOrTheOneJustSeen() {
  var context = AddressContext()
  context.peerListeningPort = 27184
  context.serverSeesPeer = address("203.0.113.1")
  context.peerSeenPort = 51_000
  let start = Instant(nanoseconds: 0)
  context.peerSeenAt = start
  func refusal(_ text: String, _ seconds: Int64) -> CandidateRefusal? {
    CandidateRules.tcpRefusal(
      of: endpoint(text), source: .signalled, context: context, now: start + .seconds(seconds))
  }
  #expect(refusal("203.0.113.1:27184", 0) == nil)
  #expect(refusal("203.0.113.1:51000", 59) == nil)
  #expect(refusal("203.0.113.1:51000", 61) == .tcpPort)
  #expect(refusal("203.0.113.9:51000", 0) == .tcpPort)
  #expect(refusal("203.0.113.1:8080", 0) == .tcpPort)
  context.peerListeningPort = 25
  #expect(refusal("203.0.113.1:25", 0) == .lowPort)
  context.peerListeningPort = 443
  #expect(refusal("203.0.113.1:443", 0) == nil)
}

@Test func aRefusalIsCountedAndRemembered() {
  var paths = PeerPaths(testSeed: 1)
  let now = Instant(nanoseconds: 5)
  let victim = Carrier.udp(socket: 1, remote: endpoint("10.0.0.1:53"))
  for _ in 0..<3 {
    let admission = paths.addCandidate(
      victim, kind: .host, tier: .udpDirect, source: .signalled, now: now)
    #expect(admission == .refused(.privateRange))
  }
  #expect(paths.counters.candidatesRefused == 3)
  #expect(paths.history.count { $0.refusal == .privateRange } == 1)
  #expect(paths.whyNotBetter(now: now).first?.reason == .candidateRefused)
}

@Test func theTableOfCandidatesIsBounded() {
  var paths = PeerPaths(testSeed: 1)
  var now = Instant(nanoseconds: 5)
  for port in 1...200 {
    let carrier = Carrier.udp(
      socket: 1, remote: Endpoint(IPAddress(203, 0, 113, UInt8(port)), 4000))
    paths.addCandidate(carrier, kind: .host, tier: .udpDirect, source: .signalled, now: now)
    now += .milliseconds(1)
  }
  #expect(paths.snapshots.count == PathLimits.signalledCandidates)
  for port in 1...200 {
    let carrier = Carrier.udp(
      socket: 1, remote: Endpoint(IPAddress(198, 51, 100, UInt8(port)), 4000))
    paths.received(from: carrier, bytes: 64, carriesData: false, now: now)
    now += .milliseconds(1)
  }
  #expect(paths.snapshots.count <= PathLimits.candidates)
  #expect(paths.snapshots.count { $0.source == .fromPacket } == PathLimits.learntCandidates)
}

@Test func budgetHoldsInEveryWindow() {
  let random = SeededRandom(testSeed: 3)
  for seed in 0..<20 {
    var random = random
    for _ in 0..<seed { _ = random.next() }
    var budget = ProbeBudget()
    var log: [(Instant, Int)] = []
    var now = Instant(nanoseconds: 0)
    for _ in 0..<2_000 {
      now += .milliseconds(Int64(random.next() % 300))
      let bytes = 64 + Int(random.next() % 3) * 84
      if budget.take(IPAddress(203, 0, 113, 1), bytes: bytes, now: now) {
        log.append((now, bytes))
      } else {
        #expect(budget.nextFree(IPAddress(203, 0, 113, 1), now: now) > now)
      }
    }
    for (i, first) in log.enumerated() {
      let window = log[i...].prefix { $0.0 - first.0 < .seconds(10) }
      #expect(window.count <= 20, "seed \(seed)")
      #expect(window.reduce(0) { $0 + $1.1 } <= 3_000, "seed \(seed)")
    }
    #expect(log.count > 500, "seed \(seed)")
  }
}

@Test func budgetRemembersABoundedNumberOfAddresses() {
  var budget = ProbeBudget()
  var now = Instant(nanoseconds: 0)
  var granted = 0
  for n in 0..<5_000 where budget.take(IPAddress(v4: UInt32(n)), bytes: 64, now: now) {
    granted += 1
  }
  #expect(granted == PathLimits.budgetAddresses)
  now += .seconds(11)
  let again = budget.take(IPAddress(v4: 0xffff), bytes: 64, now: now)
  #expect(again)
  #expect(budget.addressCount == 1)
}

/// Another home has our range by chance: nobody there can answer.
@Test func silenceOfAnotherHomesPrivateAddressIsExplained() {
  let start = Instant(nanoseconds: 1_000_000_000)
  for isSameNetwork in [false, true] {
    var paths = PeerPaths(testSeed: 1)
    var context = AddressContext()
    context.localPrefixes = [AddressPrefix(IPAddress(192, 168, 1, 10), 24)]
    context.serverSeesUs = IPAddress(198, 51, 100, 9)
    context.serverSeesPeer =
      isSameNetwork ? context.serverSeesUs : IPAddress(203, 0, 113, 7)
    paths.setContext(context)
    let relay = Carrier.relay(
      connection: 7, channel: 1, remote: Endpoint(IPAddress(192, 0, 2, 1), 27183))
    paths.carrierOpened(relay, tier: .serverRelay, now: start)
    paths.sessionEstablished(through: relay, now: start)
    let there = Carrier.udp(socket: 1, remote: Endpoint(IPAddress(192, 168, 1, 11), 4000))
    let admission = paths.addCandidate(
      there, kind: .host, tier: .udpDirect, source: .signalled, now: start)
    #expect(admission == .added)
    let expected: PathReason = isSameNetwork ? .noAnswer : .privateElsewhere
    var budget = ProbeBudget()
    var now = start
    while now - start < .seconds(6) {
      while paths.pollProbe(budget: &budget, now: now) != nil {}
      while paths.pollEvent() != nil {}
      now = max(now + .milliseconds(1), min(paths.nextDeadline, start + .seconds(6)))
      paths.advance(to: now)
    }
    let line = paths.whyNotBetterExplained(now: now).first { $0.tier == .udpDirect }
    #expect(line?.reason == expected)
    #expect(paths.snapshots.first { $0.carrier == there }?.reason == expected)
    // Beside one that may answer, silence is silence.
    paths.addCandidate(
      .udp(socket: 1, remote: Endpoint(IPAddress(203, 0, 113, 7), 4000)), kind: .host,
      tier: .udpDirect, source: .signalled, now: now)
    let other = paths.whyNotBetterExplained(now: now).first { $0.tier == .udpDirect }
    #expect(other?.reason != .privateElsewhere)
  }
}
