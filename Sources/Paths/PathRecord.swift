/// Everything known about one carrier to one peer: what it is, how it stands,
/// its challenges on the way, its estimates. A plain value; the decisions are
/// made by PeerPaths.

#if canImport(Bytes)
  import Bytes
#endif

/// A challenge on its way through one carrier.
struct PathChallenge: Sendable {
  var value: UInt64 = 0
  var sentAt = Instant.distantPast
  var isUsed = false
}

struct PathRecord: Sendable {
  static let challengeCount = 8

  let carrier: Carrier
  var kind: CandidateKind
  var tier: Tier
  var source: CandidateSource
  var state = CandidateState.waiting
  var since: Instant
  var reason = PathReason.candidateAdmitted
  var lane: UInt8?

  // Probing.
  var challenges = InlineArray<8, PathChallenge>(repeating: PathChallenge())
  var nextChallenge = 0
  var wantsPing = true
  /// When `service` must look at this record next.
  var nextAction: Instant
  /// Probes sent in the present round (candidates) or since death (lost).
  var roundProbes = 0
  var roundStart: Instant
  /// No ping before this: openers have to be there first.
  var earliestPing = Instant.distantPast
  var rounds = 0
  var wasProven = false
  /// While unproven: what it sent us, and what it got back for that.
  var unprovenSent = 0
  var unprovenReceived = 0

  // Liveness of a path that is up.
  var lastHeard = Instant.distantPast
  var lastPing = Instant.distantPast
  var lastPong = Instant.distantPast
  /// Last proof that both directions work: a PONG or an acknowledgement.
  var lastAnswered = Instant.distantPast
  var lastActivity = Instant.distantPast
  var unanswered = 0
  var firstUnanswered = Instant.distantPast
  /// The last of them whose time-out has been counted.
  var timeouts = 0
  var isGraced = false
  var quietInterval = PathTunables.lightQuiet
  var burstStart = Instant.distantPast
  var burstBytes = 0
  var isSuspect = false
  var laneTimeouts = 0

  // Pauses (PeerPaths+Keepalive.swift).
  var lastSent = Instant.distantPast
  /// The pause before what left at `gapEnd` and has not been answered; zero: none.
  var gap = TimeAmount.zero
  var gapEnd = Instant.distantPast
  var isGapDoubtful = false
  /// The next idle ping comes by this share sooner.
  var earlyPerMille: Int64 = 0

  // Data that vanishes though pings pass.
  var dropsData = false
  var dropsDataCount = 0
  var dataRetry = Instant.distantFuture
  var dataProbesAnswered = 0
  var dataProbe: PathChallenge = PathChallenge()
  var wantsDataProbe = false

  // Flap damping.
  var failures = 0
  var lastFailure = Instant.distantPast
  var holdUntil = Instant.distantPast

  // Estimates and sizes.
  var roundTrip = PathRoundTrip()
  var datagramSize: PacketSizeSearch
  var streamSize: StreamPacketSize

  /// What it moved last, bytes a second (PathAim.swift); 0: not known.
  var goodput = 0.0
  var goodputAt = Instant.distantPast
  var aim = PathAim.usual

  // For people.
  var bytesSent: UInt64 = 0
  var bytesReceived: UInt64 = 0
  var probesSent: UInt32 = 0
  var probesAnswered: UInt32 = 0

  init(
    carrier: Carrier, kind: CandidateKind, tier: Tier, source: CandidateSource,
    maximumDatagram: Int, packetLimit: Int, now: Instant
  ) {
    self.carrier = carrier
    self.kind = kind
    self.tier = tier
    self.source = source
    since = now
    roundStart = now
    nextAction = now
    datagramSize = PacketSizeSearch(maximumDatagram: maximumDatagram)
    streamSize = StreamPacketSize(isRelay: carrier.kind == .relay, limit: packetLimit)
  }

  /// A NAT of the peer stands before it, which must not hear us before the
  /// peer has sent to us itself: pings wait for the openers of both ends.
  var isBehindNAT: Bool { kind == .serverReflexive && source == .signalled }

  var isUp: Bool { state == .up }
  var isDatagram: Bool { carrier.kind == .udp }

  var maximumPacket: Int { isDatagram ? datagramSize.current : streamSize.current }

  /// Microseconds: what the choice compares.
  var cost: Int64 {
    let quality =
      roundTrip.smallest.nanoseconds / 1_000
      + roundTrip.lossPerMillion * PathTunables.lossCostPerMille / 1_000
    return switch aim {
    case .usual: quality + tier.cost
    case .roundTrip: quality + tier.cost / PathTunables.tierShareForRoundTrip
    case .goodput: quality + tier.cost + bulkCost
    }
  }

  /// The n-th time-out waits longer than the first.
  func pingWait() -> TimeAmount {
    let factor: Int64 = unanswered <= 3 ? 1 : unanswered <= 6 ? 2 : 4
    return roundTrip.timeout * factor
  }

  mutating func addChallenge(_ value: UInt64, now: Instant) {
    challenges[nextChallenge] = PathChallenge(value: value, sentAt: now, isUsed: true)
    nextChallenge = (nextChallenge + 1) % Self.challengeCount
  }

  /// Takes a challenge that has come back; nil when it is not one of ours.
  mutating func takeChallenge(_ value: UInt64) -> Instant? {
    for i in 0..<Self.challengeCount where challenges[i].isUsed && challenges[i].value == value {
      challenges[i].isUsed = false
      return challenges[i].sentAt
    }
    return nil
  }

  func holdsChallenge(_ value: UInt64) -> Bool {
    for i in 0..<Self.challengeCount where challenges[i].isUsed && challenges[i].value == value {
      return true
    }
    return false
  }

  /// Old challenges prove nothing for a path that has just died.
  mutating func forgetChallenges() {
    for i in 0..<Self.challengeCount { challenges[i].isUsed = false }
    dataProbe.isUsed = false
  }

  mutating func noteFailure(_ now: Instant) {
    let memory = PathTunables.failureMemory
    if now - max(lastFailure, holdUntil) > memory { failures = 0 }
    failures += 1
    lastFailure = now
  }

  mutating func startHold(_ now: Instant) {
    guard failures > 0 else { return }
    let steps = PathTunables.holdDown
    holdUntil = now + steps[min(failures, steps.count) - 1]
  }
}

extension Carrier {
  /// The same road: for connections the address is only for display.
  func isSame(as other: Carrier) -> Bool {
    kind == other.kind && socket == other.socket && channel == other.channel
      && (kind != .udp || remote == other.remote)
  }
}
