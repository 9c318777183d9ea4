/// The figures Paths works with: sizes that follow from the wire, limits that
/// keep us from being a weapon (DESIGN §2), and our own tunables, in three
/// separate places.

#if canImport(Bytes)
  package import Bytes
#endif

/// Sizes that follow from the wire formats.
package enum PathSizes {
  /// A sealed packet's head: type 1, reserved 3, receiver 4, counter 8.
  package static let sealHeader = 16
  /// The AEAD tag behind the ciphertext.
  package static let sealTag = 16
  /// WireGuard pads plaintext to this.
  package static let sealPadding = 16
  /// What sealing adds to a padded plaintext.
  package static let sealOverhead = sealHeader + sealTag
  /// On UDP inner sizes are multiples of this (DESIGN §1.2).
  package static let innerStep = 64
  /// UDP payload assumed to pass everywhere (RFC 8899 §5.1.2 BASE_PLPMTU).
  package static let baseDatagram = 1200
  /// UDP payload used when the base fails: 576 less IPv4 and UDP heads.
  package static let minimumDatagram = 548
  /// The largest plaintext of one packet on a stream carrier: 65,535 less the
  /// overhead, down to the padding.
  package static let largestInner = 65_488

  /// Bytes on the carrier of a packet with `inner` plaintext bytes.
  package static func sealed(_ inner: Int) -> Int {
    (inner + sealPadding - 1) / sealPadding * sealPadding + sealOverhead
  }
  /// The largest plaintext, a multiple of 64, in a UDP payload of `datagram`.
  package static func inner(ofDatagram datagram: Int) -> Int {
    max(0, (datagram - sealOverhead) / innerStep * innerStep)
  }
}

/// Hard limits. Going past one is a refusal or a counted drop.
package enum PathLimits {
  /// Probes to one unanswered IP address in `budgetWindow`, whoever asks.
  package static let probesPerAddress = 20
  /// Bytes to one unanswered IP address in `budgetWindow`.
  package static let bytesPerAddress = 3_000
  package static let budgetWindow = TimeAmount.seconds(10)
  /// Addresses the budget remembers at once; more are refused.
  package static let budgetAddresses = 1_024
  /// To a learnt address: this times the bytes it sent us (RFC 9000 §8.1).
  package static let learntFactor = 3
  /// Carriers known per peer, of which signalled and learnt ones.
  package static let candidates = 32
  package static let signalledCandidates = 16
  package static let learntCandidates = 8
  /// Lane numbers of one session.
  package static let lanes = 16
  /// Decisions remembered per peer.
  package static let history = 64
  /// PONGs waiting to be sent; more are dropped and counted.
  package static let pendingPongs = 16
  /// Events waiting to be polled. The driver drains after every mutation.
  package static let pendingEvents = 1_024
  /// A challenge older than this proves nothing any more.
  package static let challengeLife = TimeAmount.seconds(10)
  /// Packets of guessed ports to one address in `guessWindow`, whoever asks:
  /// two rounds of 1,024 at the fixed end, of 256 at the moving one.
  package static let guessesPerAddress = 2_304
  package static let guessWindow = TimeAmount.minutes(10)
  package static let guessAddresses = 64
  /// Pairs that wait for room there, and how long one does that asks no more:
  /// starts are at most 330 s apart.
  package static let guessLine = 16
  package static let guessPatience = TimeAmount.minutes(6)
  /// Ports asked in one round by birthday.
  package static let birthdayPorts = 1_024
  /// Sockets opened for it at the end whose NAT maps at random.
  package static let birthdaySockets = 256
  /// Ports asked in one round where the allocator counts.
  package static let predictedPorts = 128
  /// Of these before the base: the moving end's packets may have left before it
  /// learnt where its allocator stands.
  package static let predictedBefore = 32
  package static let guessRounds = 2
  /// Of `probesPerAddress`, behind a NAT kept for openers: two pairs' at one
  /// moment, or one of each of four.
  package static let openersPerAddress = 4
  /// Openers waiting for their moment.
  package static let pendingOpeners = 64
}

/// Our own choices; none of them is part of the protocol.
package enum PathTunables {
  // Probing of a candidate: offsets from the start of a round.
  package static let volley: [TimeAmount] = [0, 100, 200, 400, 800, 1600, 3200].map {
    TimeAmount.milliseconds($0)
  }
  /// Probes of a later round (the first ones of `volley`).
  package static let laterRoundProbes = 3
  /// Openers leave at these offsets from the agreed start, pings after
  /// `openerLead`: more than two clocks told by one server differ.
  package static let openers: [TimeAmount] = [.zero, .milliseconds(40)]
  package static let openerLead = TimeAmount.milliseconds(80)
  package static let openerBytes = 16
  /// Hops an opener lives when nobody measured: over one router, not two.
  package static let openerTimeToLive: UInt8 = 2
  /// An agreed start further away than this is not believed.
  package static let startHorizon = TimeAmount.seconds(2)
  /// A lost path through the peer's NAT is asked so long after its death or an
  /// agreed start. The pause to the next one outlasts what a router remembers
  /// of packets that were not answered (Linux: 30 s).
  package static let lostSpan = TimeAmount.seconds(5)
  /// After a change of the network an agreed start waits for STUN's answer,
  /// but no longer than this.
  package static let mappingWait = TimeAmount.milliseconds(600)
  /// After an agreed start with nothing to guess, what will come has come.
  package static let tryingSpan = TimeAmount.seconds(4)
  /// Candidates named so long after the agreed start still belong to it.
  package static let punchSpan = TimeAmount.seconds(10)
  // Guessing of ports, offsets from the agreed start.
  package static let predictionDelay = TimeAmount.milliseconds(300)
  package static let birthdayDelay = TimeAmount.milliseconds(700)
  /// The fixed end begins later: the moving end's holes must be open.
  package static let fixedEndDelay = TimeAmount.milliseconds(200)
  /// So long the packets of the moving end die behind its own NAT.
  package static let movingEndHides = TimeAmount.seconds(3)
  package static let guessRoundGap = TimeAmount.milliseconds(3_500)
  package static let guessBurst = 16
  package static let guessPace = TimeAmount.milliseconds(12)
  package static let guessLife = TimeAmount.seconds(10)
  /// Ports that routers give; one that counts begins anew behind the last.
  static let ports = 1024...65_535
  static func port(_ base: UInt16, plus distance: Int) -> UInt16 {
    let moved = (Int(base) - ports.lowerBound + distance) % ports.count
    return UInt16(ports.lowerBound + (moved < 0 ? moved + ports.count : moved))
  }
  /// Waits between rounds while relayed; the last repeats.
  package static let roundWaits: [TimeAmount] = [5, 10, 20, 40, 80, 160, 300].map {
    TimeAmount.seconds($0)
  }
  /// Probing of a lost path: offsets are waits, then `recoverySteady` for
  /// `recoverySteadyProbes`, then doubling up to `recoveryCeiling`.
  package static let recoveryFirst: [TimeAmount] = [250, 250, 500, 500].map {
    TimeAmount.milliseconds($0)
  }
  package static let recoverySteady = TimeAmount.seconds(1)
  package static let recoverySteadyProbes = 60
  package static let recoveryCeiling = TimeAmount.seconds(30)
  /// At least this between two probes that packets from there provoke, and
  /// half the age of the round; between two rounds they provoke.
  package static let triggeredGap = TimeAmount.milliseconds(50)
  package static let triggeredRound = TimeAmount.seconds(1)
  /// A learnt address that is no path is forgotten when silent for so long.
  package static let learntMemory = TimeAmount.seconds(60)

  // Liveness.
  package static let initialRoundTrip = TimeAmount.milliseconds(200)
  package static let shortestTimeout = TimeAmount.milliseconds(50)
  package static let usualTimeoutCeiling = TimeAmount.milliseconds(250)
  package static let quietFloor = TimeAmount.milliseconds(100)
  package static let quietCeiling = TimeAmount.milliseconds(300)
  /// First ping after light traffic falls silent.
  package static let lightQuiet = TimeAmount.seconds(1)
  /// Bytes in `burstSpan` that make traffic heavy.
  package static let heavyBytes = 16_384
  package static let burstSpan = TimeAmount.milliseconds(500)
  /// Time-outs in a row, nothing heard: suspect, dead.
  package static let suspectTimeouts = 2
  package static let deadTimeouts = 6
  /// A suspect path is left at once, but given up no sooner than this.
  package static let deadAfter = TimeAmount.milliseconds(1_500)
  /// The same while other packets still arrive: our direction is broken.
  package static let suspectOneWay = 5
  package static let deadOneWay = 12
  /// A timer served later than this means that *we* stood still.
  package static let lateness = TimeAmount.milliseconds(100)
  /// Later than this: we slept, and everything may have changed.
  package static let sleepLateness = TimeAmount.seconds(10)
  /// Lane probe time-outs in a row that make a lane suspect.
  package static let suspectLaneTimeouts = 2
  /// Lane probe time-outs in a row, pings answered, full size answered.
  package static let dropsDataTimeouts = 4
  package static let dropsDataHold: [TimeAmount] = [2, 4, 8, 16, 32, 60].map {
    TimeAmount.seconds($0)
  }
  /// Full-size probes in a row that must be answered to trust data again.
  package static let dataProbesNeeded = 3

  // Keeping paths warm.
  package static let activeSpan = TimeAmount.seconds(30)
  package static let activePing = TimeAmount.seconds(5)
  package static let idleStreamPing = TimeAmount.seconds(60)
  /// Without traffic for this long a pair that nothing holds lets go: nothing
  /// is sent any more until somebody wants something.
  package static let dormantAfter = TimeAmount.minutes(10)
  /// With a path of that tier or better, other candidates are asked this often.
  package static let contentWait = TimeAmount.minutes(5)

  // Choice. Costs are microseconds.
  package static let lossCostPerMille: Int64 = 1_000
  package static let marginFloor: Int64 = 5_000
  /// A challenger must be cheaper by this share of the present cost.
  package static let marginPerCent: Int64 = 15
  package static let dwell = TimeAmount.seconds(3)
  package static let longDwell = TimeAmount.seconds(30)
  package static let calmSwitches = 4
  package static let switchMemory = TimeAmount.seconds(60)
  /// How long a path must stand after its n-th failure before it is primary.
  package static let holdDown: [TimeAmount] = [250, 1_000, 4_000, 16_000, 60_000].map {
    TimeAmount.milliseconds($0)
  }
  package static let failureMemory = TimeAmount.seconds(60)
  package static let lossWindow = TimeAmount.seconds(1)
  package static let lossCeilingPerMillion: Int64 = 100_000
  /// Samples of the round trip further apart than this are rare.
  package static let rareSample = TimeAmount.seconds(2)
  package static let roundTripWindow = TimeAmount.seconds(30)

  // Packet size.
  package static let sizeTries = 3
  package static let sizeTimeoutFloor = TimeAmount.milliseconds(100)
  package static let sizeRaise = TimeAmount.minutes(10)
  /// Inner size tried first: what an ordinary 1500-byte link carries.
  package static let commonInner = 1_408
  package static let streamStart = 16_384
  package static let streamFloor = 1_200
  package static let streamTime = TimeAmount.milliseconds(2)
  package static let relayStart = 1_408
  package static let relayCeiling = 16_384
}
