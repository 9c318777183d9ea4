/// The words of Paths as values: tiers, kinds of candidate, what may be
/// refused and why, events, reasons. Every reason is a code for machines; the
/// words for people are made at the edge (DESIGN §2, "why").

#if canImport(Bytes)
  package import Bytes
#endif

/// The seven kinds of path, best first (DESIGN §2).
package enum Tier: UInt8, Comparable, Sendable, CaseIterable {
  case udpDirect = 1
  case udpPunch
  case tcpDirect
  case tcpPunch
  case privateRelay
  case superRelay
  case serverRelay

  package static func < (a: Tier, b: Tier) -> Bool { a.rawValue < b.rawValue }

  package var isRelay: Bool { self >= .privateRelay }

  /// What the tier costs in the choice, in microseconds of round trip.
  var cost: Int64 {
    switch self {
    case .udpDirect: 0
    case .udpPunch: 2_000
    case .tcpDirect: 30_000
    case .tcpPunch: 32_000
    case .privateRelay: 80_000
    case .superRelay: 100_000
    case .serverRelay: 140_000
    }
  }

  /// Stable name for status and JSON.
  package var code: String {
    switch self {
    case .udpDirect: "udp-direct"
    case .udpPunch: "udp-punch"
    case .tcpDirect: "tcp-direct"
    case .tcpPunch: "tcp-punch"
    case .privateRelay: "private-relay"
    case .superRelay: "super-relay"
    case .serverRelay: "server-relay"
    }
  }
}

/// A set of tiers, for policies (never relay, only relay).
package struct TierSet: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  package init(_ tier: Tier) { rawValue = 1 << tier.rawValue }

  package static let all = TierSet(rawValue: 0xfe)
  package static let direct = TierSet(rawValue: 0b0001_1110)
  package static let relays = TierSet(rawValue: 0b1110_0000)

  package func allows(_ tier: Tier) -> Bool { contains(TierSet(tier)) }
}

/// What kind of address a candidate is.
package enum CandidateKind: String, Sendable {
  /// An address of the peer's own interface.
  case host
  /// The peer's address as a STUN server saw it.
  case serverReflexive = "server-reflexive"
  /// An address an authenticated packet of the peer came from.
  case peerReflexive = "peer-reflexive"
  /// A port the peer's router opened on request.
  case portMapped = "port-mapped"
  /// A channel through a relay.
  case relay
}

/// How we came to know a candidate; decides which rules bind it.
package enum CandidateSource: String, Sendable {
  /// The peer or the server named it: probe budget, address rules.
  case signalled
  /// An authenticated packet came from it: three times what it sent.
  case fromPacket = "from-packet"
  /// We dialled or accepted the connection: points at no third party.
  case dialled
  /// The user wrote it down.
  case configured
}

/// Why a candidate is refused (DESIGN §2, "We must not be a weapon").
package enum CandidateRefusal: String, Sendable {
  case multicast
  case unspecified
  case noPort = "no-port"
  /// Inside a range of our own virtual network.
  case virtualRange = "virtual-range"
  /// Loopback, and the server does not see both of us there.
  case loopback
  /// Private, with neither a shared prefix nor a shared public address.
  case privateRange = "private-range"
  /// Link-local without a shared prefix.
  case linkLocal = "link-local"
  /// TCP, and neither the listening port nor the one the server just saw.
  case tcpPort = "tcp-port"
  /// TCP below 1024 and not 443.
  case lowPort = "low-port"
  /// The tables are full of better ones.
  case full
  /// The policy of this peer forbids the tier.
  case policy
}

package enum CandidateAdmission: Equatable, Sendable {
  case added
  case known
  case refused(CandidateRefusal)
}

/// Why something was decided. The raw value is the stable code.
package enum PathReason: String, Sendable {
  // Candidates.
  case candidateAdmitted = "candidate-admitted"
  case candidateRefused = "candidate-refused"
  case candidateForgotten = "candidate-forgotten"
  case noCandidate = "no-candidate"
  case notProbedYet = "not-probed-yet"
  case noAnswer = "no-answer"
  /// Nobody answered, and nobody can: an address of another private network.
  case privateElsewhere = "private"
  case notAllowed = "not-allowed"
  case noLaneLeft = "no-lane-left"
  // Paths.
  case challengeAnswered = "challenge-answered"
  case handshakeCompleted = "handshake-completed"
  case silence = "silence"
  case laneTimeouts = "lane-timeouts"
  case oneWay = "one-way"
  case dropsData = "drops-data"
  case dataPasses = "data-passes"
  case recovered = "recovered"
  case unanswered = "unanswered"
  case carrierClosed = "carrier-closed"
  case carrierFailed = "carrier-failed"
  case carrierReplaced = "carrier-replaced"
  case socketClosed = "socket-closed"
  case peerRestarted = "peer-restarted"
  case sessionLost = "session-lost"
  // Choice.
  case firstPath = "first-path"
  case betterTier = "better-tier"
  case betterQuality = "better-quality"
  case primarySuspect = "primary-suspect"
  case primaryDropsData = "primary-drops-data"
  case primaryDown = "primary-down"
  case worseQuality = "worse-quality"
  case holdDown = "hold-down"
  case suspect = "suspect"
  case noPathLeft = "no-path-left"
  // Packet size.
  case sizeConfirmed = "size-confirmed"
  case sizeBlackHole = "size-black-hole"
  case sizeRefusedLocally = "size-refused-locally"
  case deliveryRate = "delivery-rate"
  // Punching.
  case punchStarted = "punch-started"
  case guessStarted = "guess-started"
  case guessFailed = "guess-failed"
  case guessLimited = "guess-limited"
  case letGo = "let-go"
  // Causes from outside.
  case networkChanged = "network-changed"
  case peerReturned = "peer-returned"
}

/// One decision with its numbers; what they mean depends on the reason (see
/// docs/protocol/paths.md, "Reasons").
package struct PathDecision: Sendable {
  package var at: Instant
  package var reason: PathReason
  package var carrier: Carrier
  package var lane: UInt8?
  package var first: Int64
  package var second: Int64
  package var refusal: CandidateRefusal?
}

/// What the owner must hear about. Lanes are ours, in sending direction.
package enum PathEvent: Equatable, Sendable {
  /// A carrier is proven. `maximumPacket` is the largest plaintext of one
  /// packet, its 8-byte head included, before padding and sealing.
  case pathUp(lane: UInt8, carrier: Carrier, tier: Tier, maximumPacket: Int)
  /// The path is gone; what was in flight on it is lost.
  case pathDown(lane: UInt8, reason: PathReason)
  /// Doubtful: send in-flight data elsewhere too, keep the numbering.
  case suspect(lane: UInt8, reason: PathReason)
  /// A suspect path has answered.
  case recovered(lane: UInt8)
  /// The path in use does not answer as it should; the others are being asked.
  case doubted
  case primaryChanged(from: UInt8?, to: UInt8?, reason: PathReason)
  case maximumPacketChanged(lane: UInt8, maximumPacket: Int)
  case allPathsDead
  /// A hole was still open after a pause in both directions of at least the
  /// idle interval.
  case gapPassed(TimeAmount, isV4: Bool)
  /// It was shut after such a pause, though the peer was there.
  case gapShut(TimeAmount, isV4: Bool)
  /// A PONG told where the peer sees this socket of ours.
  case observedAddress(carrier: Carrier, endpoint: Endpoint)
  /// Relayed, and time to try again: bring the pair together anew.
  case wantsPunch
  /// Our NAT's ports cannot be known: open this many UDP sockets of the
  /// family and hand them in with `guess(from:)`.
  case wantsSockets(count: Int, isV4: Bool)
  /// Those of them that carry no path are of no use any more.
  case guessEnded
}

/// A packet Paths wants sent.
package struct PathProbe: Equatable, Sendable {
  package var carrier: Carrier
  /// To be sealed. nil: an opener, `size` zero bytes as they are; it dies
  /// behind our own NAT, so its content means nothing to anybody.
  package var message: PathMessage?
  /// Plaintext bytes to write, zero padding included.
  package var size: Int
  /// IP time to live; 0 = the usual one.
  package var timeToLive: UInt8 = 0

  /// Writes `size` bytes. The span must have room for them.
  package func write(into output: inout OutputRawSpan) {
    if let message {
      message.write(into: &output, size: size)
    } else {
      output.append(repeating: 0, count: size, as: UInt8.self)
    }
  }
}

/// How a candidate stands.
package enum CandidateState: String, Sendable {
  /// Known, its round of probes has not begun.
  case waiting
  case probing
  /// Its last round went unanswered; another comes.
  case resting
  /// Proven both ways.
  case up
  /// Proven once, then dead; probed for its return.
  case lost
}

/// One carrier as status and `why` show it.
package struct PathSnapshot: Sendable {
  package var carrier: Carrier
  package var kind: CandidateKind
  package var tier: Tier
  package var source: CandidateSource
  package var state: CandidateState
  package var lane: UInt8?
  package var isPrimary: Bool
  package var isSuspect: Bool
  package var dropsData: Bool
  /// Smoothed, nil before the first sample.
  package var roundTrip: TimeAmount?
  package var smallestRoundTrip: TimeAmount?
  /// Lost per thousand, from pings and data.
  package var lossPerMille: Int
  package var maximumPacket: Int
  package var bytesSent: UInt64
  package var bytesReceived: UInt64
  package var probesSent: UInt32
  package var probesAnswered: UInt32
  package var lastHeard: Instant?
  /// Since when it is in `state`.
  package var since: Instant
  /// The last thing decided about it.
  package var reason: PathReason
  /// What the choice compares, in microseconds.
  package var cost: Int64
}

/// Counted drops and deferrals.
package struct PathCounters: Sendable {
  package var pongUnknownChallenge: UInt64 = 0
  package var pongThroughOtherCarrier: UInt64 = 0
  package var pongTooOld: UInt64 = 0
  package var pingFromRefusedAddress: UInt64 = 0
  package var pongQueueFull: UInt64 = 0
  package var probesDeferredByBudget: UInt64 = 0
  package var probesDeferredByFactor: UInt64 = 0
  package var pongsWithheld: UInt64 = 0
  package var candidatesRefused: UInt64 = 0
  package var initiationsWithheld: UInt64 = 0
  package var openersWithheld: UInt64 = 0
  package var guessesSent: UInt64 = 0
}

/// What the owner decides once per peer.
package struct PathSettings: Sendable {
  /// The largest UDP payload worth probing for (interface MTU less heads).
  package var maximumDatagram = 8_952
  /// Tiers this peer may use.
  package var allowedTiers = TierSet.all
  /// Offsets of the probes of a round.
  package var volley = PathTunables.volley
  /// Off: ports of NATs that map anew for every address are not guessed.
  package var guessesPorts = true

  package init() {}
}
