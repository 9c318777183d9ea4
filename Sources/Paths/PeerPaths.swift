/// All roads to one peer: which carriers may work (candidates), which do
/// (paths), which one carries the traffic (primary), and why. One value per
/// peer, owned by NodeCore, which seals what `pollProbe` gives and hands in
/// what was opened. It never touches a socket, a key or a clock, never sends
/// bulk data to an address that has not answered, and never decides anything
/// without writing the reason down. DESIGN §1, §2; docs/protocol/paths.md.
///
/// ```
///            addCandidate, packet from a new address, carrierOpened
///                                  │
///   waiting ──► probing ──round over──► resting ──next round──► probing
///                  │ PONG of a fresh challenge, same carrier        │
///                  ▼                                                │
///                  up ──time-outs──► lost ──PONG──► up ◄────────────┘
/// ```

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

package struct PeerPaths: Sendable {
  package var settings: PathSettings
  package private(set) var context = AddressContext()
  package internal(set) var counters = PathCounters()

  var random: SeededRandom
  /// Tells this pair from the node's others where they share a budget.
  let pairMark: UInt64
  var records: [PathRecord] = []
  /// Record of the last carrier looked up: packets come in runs.
  var lastIndex = 0
  var hasSession = false

  struct LaneSlot: Sendable {
    var carrier: Carrier?
    var isUp = false
    var lastUsed = Instant.distantPast
  }
  var lanes = [LaneSlot](repeating: LaneSlot(), count: PathLimits.lanes)
  /// Record index of each lane, −1 = none.
  var laneRecords = [Int](repeating: -1, count: PathLimits.lanes)

  /// The lane that carries the traffic.
  package internal(set) var primary: UInt8?
  /// Since when.
  package internal(set) var primarySince = Instant.distantPast
  /// What the choice looks for (PathAim.swift).
  package internal(set) var aim = PathAim.usual
  /// Switches that nothing but a better figure asked for.
  var recentSwitches = 0
  /// The present path was taken because another one failed.
  var wasForced = true
  var lastSwitch = Instant.distantPast
  /// When the choice wants to be made again though nothing happens.
  var choiceAt = Instant.distantFuture

  // Punching (PeerPaths+Punch.swift).
  /// What is known of the NATs at both ends; orders attempts, forbids none.
  package internal(set) var localNAT = NATFacts.unknown
  package internal(set) var peerNAT = NATFacts.unknown
  /// Hops an opener lives: over our own NATs and no further.
  var openerTimeToLiveV4 = PathTunables.openerTimeToLive
  var openerTimeToLiveV6 = PathTunables.openerTimeToLive
  /// How often idle UDP paths are pinged.
  var idlePingV4 = KeepaliveTunables.initial
  var idlePingV6 = KeepaliveTunables.initial
  var shutGap: ShutGap?
  struct PendingOpener: Sendable {
    var carrier: Carrier
    var at: Instant
    var isOfPath: Bool
  }
  var openers: [PendingOpener] = []
  /// The start both ends agreed on.
  var punchStart = Instant.distantPast
  /// The first of agreed starts that follow each other closely: what is timed
  /// against the peer's NAT must not begin anew with each of them.
  var seriesStart = Instant.distantPast
  var punchTries = 0
  var punchAgainAt = Instant.distantFuture
  var guess: PortGuess?
  var unusedGuesses: UnusedGuesses?

  /// Somebody uses the pair though nothing may be said (open streams).
  var isHeld = false
  /// Nothing is sent until there is traffic again.
  package internal(set) var isLetGo = false
  var lastActivity: Instant?
  var createdAt: Instant?
  var deadline = Instant.distantFuture

  struct PendingPong: Sendable {
    var carrier: Carrier
    var challenge: UInt64
    var size: Int
  }
  var pongs: [PendingPong] = []
  var events: [PathEvent] = []
  var nextEvent = 0
  var decisions: [PathDecision] = []
  var nextDecision = 0

  package init(settings: PathSettings, random: SeededRandom) {
    self.settings = settings
    self.random = random
    var copy = random
    pairMark = copy.next()
  }

  // MARK: Facts from outside

  /// What the address rules know. Give it before candidates, and again when it changes.
  package mutating func setContext(_ context: AddressContext) { self.context = context }

  /// A keypair is ready, its handshake went through `carrier`. A TCP or relay
  /// carrier is a path by that; a UDP one is asked at once.
  package mutating func sessionEstablished(through carrier: Carrier?, now: Instant) {
    let isNew = !hasSession
    hasSession = true
    noteTime(now)
    if isNew {
      lastActivity = now
      takeUp(now: now)
      if !hasDatagramPath { punchAgainAt = min(punchAgainAt, now + PathTunables.roundWaits[0]) }
      for i in records.indices where !records[i].isUp {
        startRound(i, now: now)
        planGuess(i, now: now)
      }
    }
    if let carrier {
      if let i = learn(carrier, bytes: 0, now: now) {
        records[i].lastHeard = now
        if !records[i].isUp {
          if records[i].isDatagram {
            records[i].wantsPing = true
          } else {
            raise(i, reason: .handshakeCompleted, now: now)
            records[i].wantsPing = true
          }
        }
      }
    }
    choose(now: now)
    refreshDeadline(now)
  }

  /// No keypair is left: nothing can be sealed. Paths stay known, unproven.
  package mutating func sessionLost(now: Instant) {
    guard hasSession else { return }
    hasSession = false
    pongs.removeAll(keepingCapacity: true)
    punchAgainAt = .distantFuture
    endGuess(failed: false, now: now)
    for i in records.indices where records[i].isUp { lower(i, reason: .sessionLost, now: now) }
    choose(now: now)
    refreshDeadline(now)
  }

  /// Another incarnation of the peer: its numbering starts anew, every UDP
  /// path must prove itself again. Lanes may be given out from the start.
  package mutating func peerRestarted(now: Instant) {
    for i in records.indices {
      if records[i].isUp { lower(i, reason: .peerRestarted, now: now) }
      records[i].failures = 0
      records[i].holdUntil = .distantPast
      startRound(i, now: now)
    }
    for i in lanes.indices { lanes[i] = LaneSlot() }
    choose(now: now)
    refreshDeadline(now)
  }

  /// Our interfaces or addresses changed, or we woke from sleep: every path is
  /// asked now, every candidate tried anew.
  package mutating func networkChanged(now: Instant) { startAll(.networkChanged, now: now) }

  /// The server announced the peer's return: try everything at once.
  package mutating func peerReturned(now: Instant) { startAll(.peerReturned, now: now) }

  private mutating func startAll(_ reason: PathReason, now: Instant) {
    noteTime(now)
    note(reason, .udp(socket: 0, remote: .none), lane: nil, Int64(records.count), 0, now)
    takeUp(now: now)
    punchTries = 0
    forgetGaps(now: now)
    // Our own new mapping has to be found out first.
    if hasSession { punchAgainAt = now + PathTunables.mappingWait }
    for i in records.indices {
      // What failed was the network of before: nothing to hold against the path.
      records[i].failures = 0
      records[i].holdUntil = .distantPast
      if records[i].isUp {
        records[i].wantsPing = records[i].unanswered == 0
        records[i].quietInterval = records[i].roundTrip.quiet
      } else {
        records[i].rounds = 0
        startRound(i, now: now)
      }
    }
    refreshDeadline(now)
  }

  // MARK: Out

  /// The earliest instant at which `advance` has something to do.
  package var nextDeadline: Instant { deadline }

  /// Handles every timer due.
  package mutating func advance(to now: Instant) {
    guard now >= deadline else { return }
    let late = now - deadline
    noteTime(now)
    if late > PathTunables.sleepLateness { startAll(.networkChanged, now: now) }
    if late > PathTunables.lateness {
      forgetGaps(now: now)
      // We stood still, not the peer: give what is on its way one more time-out.
      for i in records.indices where records[i].unanswered > 0 && !records[i].isGraced {
        records[i].isGraced = true
        records[i].lastPing = now
      }
    }
    if isDormant(now), !isLetGo, hasSession { letGo(now: now) }
    var i = 0
    while i < records.count {
      if now >= records[i].nextAction, !service(i, now: now) { continue }
      i += 1
    }
    servicePunch(now: now)
    choose(now: now)
    refreshDeadline(now)
  }

  package mutating func pollEvent() -> PathEvent? {
    guard nextEvent < events.count else { return nil }
    let event = events[nextEvent]
    nextEvent += 1
    if nextEvent == events.count {
      events.removeAll(keepingCapacity: true)
      nextEvent = 0
    }
    return event
  }

  package func carrier(of lane: UInt8) -> Carrier? { index(of: lane).map { records[$0].carrier } }
  /// What its last ping measured; nil before one was answered.
  package func latestRoundTrip(of lane: UInt8) -> TimeAmount? {
    guard let i = index(of: lane), records[i].roundTrip.hasSample else { return nil }
    return records[i].roundTrip.latest
  }
  package func tier(of lane: UInt8) -> Tier? { index(of: lane).map { records[$0].tier } }
  /// The largest plaintext of one packet on `lane`, its head included.
  package func maximumPacket(of lane: UInt8) -> Int? {
    index(of: lane).map { records[$0].maximumPacket }
  }
  /// The lane of a carrier that is up.
  package func lane(of carrier: Carrier) -> UInt8? {
    for record in records where record.isUp && record.carrier.isSame(as: carrier) {
      return record.lane
    }
    return nil
  }
  /// Lanes that are up, the primary first, then by what they cost.
  package var lanesByPreference: [UInt8] {
    records.filter(\.isUp)
      .sorted { a, b in
        if a.lane == primary || b.lane == primary { return a.lane == primary }
        if a.isSuspect != b.isSuspect { return b.isSuspect }
        return a.cost < b.cost
      }
      .compactMap(\.lane)
  }

  // MARK: Shared by the aspects

  func index(of lane: UInt8) -> Int? {
    guard Int(lane) < laneRecords.count, laneRecords[Int(lane)] >= 0 else { return nil }
    return laneRecords[Int(lane)]
  }

  mutating func index(of carrier: Carrier) -> Int? {
    if lastIndex < records.count, records[lastIndex].carrier.isSame(as: carrier) {
      return lastIndex
    }
    for i in records.indices where records[i].carrier.isSame(as: carrier) {
      lastIndex = i
      return i
    }
    return nil
  }

  mutating func emit(_ event: PathEvent) {
    precondition(events.count < PathLimits.pendingEvents, "events are not drained")
    events.append(event)
  }

  mutating func note(
    _ reason: PathReason, _ carrier: Carrier, lane: UInt8?, _ first: Int64 = 0,
    _ second: Int64 = 0, refusal: CandidateRefusal? = nil, _ now: Instant
  ) {
    let decision = PathDecision(
      at: now, reason: reason, carrier: carrier, lane: lane, first: first, second: second,
      refusal: refusal)
    // A rate that wanders must not push everything else out of the history.
    if reason == .deliveryRate, !decisions.isEmpty {
      let last = (nextDecision + decisions.count - 1) % decisions.count
      if decisions[last].reason == reason, decisions[last].lane == lane {
        decisions[last] = decision
        return
      }
    }
    if decisions.count < PathLimits.history {
      decisions.append(decision)
    } else {
      decisions[nextDecision] = decision
      nextDecision = (nextDecision + 1) % PathLimits.history
    }
  }

  mutating func noteTime(_ now: Instant) { if createdAt == nil { createdAt = now } }

  /// No traffic for so long that the pair lets go.
  func isDormant(_ now: Instant) -> Bool { now >= dormantAt }
  var dormantAt: Instant {
    guard !isHeld, let last = lastActivity ?? createdAt else { return .distantFuture }
    return last + PathTunables.dormantAfter
  }
  func isActive(_ now: Instant) -> Bool {
    guard let lastActivity else { return false }
    return now - lastActivity <= PathTunables.activeSpan
  }

  mutating func refreshDeadline(_ now: Instant) {
    // Openers need no keys.
    var next = nextOpening
    if hasSession {
      next = min(next, choiceAt)
      if !isLetGo {
        next = min(next, min(dormantAt, punchAgainAt))
        if let guess { next = min(next, guess.nextAction) }
      }
      for record in records { next = min(next, record.nextAction) }
    }
    deadline = next
  }

  /// Looks at record `i` no later than `at`.
  mutating func wake(_ i: Int, at: Instant) {
    if at < records[i].nextAction { records[i].nextAction = at }
    if hasSession, at < deadline { deadline = at }
  }

  mutating func rebuildLanes() {
    for i in laneRecords.indices { laneRecords[i] = -1 }
    for (i, record) in records.enumerated() where record.isUp {
      if let lane = record.lane { laneRecords[Int(lane)] = i }
    }
    lastIndex = 0
  }
}
