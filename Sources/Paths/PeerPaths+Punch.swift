/// Through NATs: the agreed start, openers that open our own hole before the
/// other side's NAT can hear us, guesses at ports nobody can know, when to ask
/// for another meeting, and when a pair lets go. It never sends more to an
/// unanswered address than the budgets allow. DESIGN §2; docs/protocol/punching.md.

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// One attempt at the port of a NAT that maps anew for every address
/// (Ford, Srisuresh, Kegel 2005, §5.1; Takeda 2003).
struct PortGuess: Sendable {
  enum Role: Sendable {
    /// Our port is known; the peer's is guessed.
    case fixed
    /// Our ports cannot be known: many of them, so that one is hit.
    case moving
  }
  let role: Role
  /// The peer's public address, as the server sees it.
  let address: IPAddress
  /// Moving: where the peer's known port is. Fixed: its last known mapping.
  var target: Endpoint
  /// Fixed: ports still to be asked. Moving: sockets still to be asked from.
  var ports: [UInt16] = []
  var sockets: [UInt32] = []
  var openSockets: [UInt32] = []
  var roundsLeft = PathLimits.guessRounds
  var isWaitingForSockets = false
  /// Packets that may leave now.
  var burst = 0
  /// The next burst, the next round, or the end.
  var nextAction: Instant
  var endsAt: Instant
  /// When room for the round that runs was taken from the budget.
  var paidAt = Instant.distantPast
}

/// Guesses that room was taken for and that nobody needs any more.
struct UnusedGuesses: Sendable {
  var address: IPAddress
  var packets: Int
  var paidAt: Instant
}

extension PeerPaths {
  /// A path without a relay is up.
  package var hasDirectPath: Bool { records.contains { $0.isUp && !$0.tier.isRelay } }

  /// One of datagrams: there is nothing better to look for.
  package var hasDatagramPath: Bool { records.contains { $0.isUp && $0.isDatagram } }

  /// Something came through a carrier that is up, not long ago.
  package func hasHeard(_ carrier: Carrier, within span: TimeAmount, now: Instant) -> Bool {
    records.contains {
      $0.carrier.isSame(as: carrier) && $0.isUp && !$0.isSuspect && now - $0.lastHeard <= span
    }
  }

  package var isGuessing: Bool { guess != nil }

  /// An agreed start is so recent that its answers may still come.
  package func isTrying(now: Instant) -> Bool {
    now - punchStart < PathTunables.tryingSpan
  }

  /// A path through this UDP socket of ours is up.
  package func hasPath(socket: UInt32) -> Bool {
    records.contains { $0.isUp && $0.isDatagram && $0.carrier.socket == socket }
  }

  // MARK: Facts and the agreed start

  package mutating func setNAT(local: NATFacts, peer: NATFacts) {
    localNAT = local
    peerNAT = peer
  }

  /// - Parameter hops: routers up to the first that is not ours; nil: not known.
  package mutating func setOpenerHops(_ hops: UInt8?, isV4: Bool) {
    let hops = hops ?? PathTunables.openerTimeToLive
    if isV4 { openerTimeToLiveV4 = hops } else { openerTimeToLiveV6 = hops }
  }

  /// Of a packet to `address` that is to die behind our own NATs.
  func openerTimeToLive(to address: IPAddress) -> UInt8 {
    address.isV4 ? openerTimeToLiveV4 : openerTimeToLiveV6
  }

  /// Open streams keep the pair although nothing is said.
  package mutating func setHeld(_ isHeld: Bool, now: Instant) {
    guard isHeld != self.isHeld else { return }
    self.isHeld = isHeld
    if !isHeld { lastActivity = now }
    refreshDeadline(now)
  }

  /// PunchStart: both ends begin at `start`. Every candidate that is no path
  /// is asked anew, those behind a NAT after openers.
  package mutating func punch(at start: Instant, now: Instant) {
    noteTime(now)
    if isLetGo {
      // The peer wants something.
      lastActivity = now
      awaken(now: now)
    }
    let last = punchStart
    punchStart = min(max(start, now), now + PathTunables.startHorizon)
    if punchStart - last >= PathTunables.punchSpan { seriesStart = punchStart }
    punchAgainAt = hasDatagramPath ? .distantFuture : punchStart + nextPunchWait
    note(.punchStarted, .udp(socket: 0, remote: .none), lane: nil, Int64(punchTries), 0, now)
    for i in records.indices where records[i].isDatagram {
      if records[i].isUp { reopen(i, now: now) } else { begin(i, now: now) }
    }
    refreshDeadline(now)
  }

  /// Starts a round at a candidate, with openers for our own NAT; where one of
  /// the peer's stands before it, pings wait for them.
  mutating func begin(_ i: Int, now: Instant) {
    guard !records[i].isUp else { return }
    if records[i].isDatagram, records[i].source == .signalled,
      now - punchStart < PathTunables.punchSpan, !localNAT.isOpen,
      !isOnOurLink(records[i].carrier.remote.address)
    {
      let start = max(now, punchStart)
      planOpeners(i, at: start)
      if records[i].isBehindNAT { records[i].earliestPing = start + PathTunables.openerLead }
      if hasSession, !hasDatagramPath { planGuess(i, now: now) }
    }
    startRound(i, now: now)
  }

  private mutating func planOpeners(_ i: Int, at start: Instant) {
    guard !openers.contains(where: { $0.carrier == records[i].carrier }),
      openers.count + PathTunables.openers.count <= PathLimits.pendingOpeners
    else { return }
    for offset in PathTunables.openers {
      openers.append(
        PendingOpener(carrier: records[i].carrier, at: start + offset, isOfPath: records[i].isUp))
    }
  }

  /// A path that we think is up, silent for a while: the peer may have lost it,
  /// because our router has shut the hole behind us. Its pings must find it open.
  private mutating func reopen(_ i: Int, now: Instant) {
    guard now - records[i].lastHeard >= PathTunables.lightQuiet, !localNAT.isOpen,
      !isOnOurLink(records[i].carrier.remote.address)
    else { return }
    planOpeners(i, at: max(now, punchStart))
  }

  /// Asked between agreed starts, a NAT would be spoilt for the next one: the
  /// peer's would not give its port to it again, and ours would keep a mapping
  /// that the peer cannot guess: a symmetric one, or the way round a port that
  /// a firewalled peer took by knocking first (RECIPES R10, "masq-open").
  func waitsForAgreement(_ i: Int) -> Bool {
    if records[i].isBehindNAT || isFormerMapping(i) { return true }
    guard localNAT.isSymmetric || localNAT.mapping != .none && peerNAT.isFiltering,
      records[i].isDatagram, records[i].source == .signalled
    else { return false }
    return !isOnOurLink(records[i].carrier.remote.address)
  }

  /// Where a packet of the peer came from once: a mapping of its NAT, which may
  /// have ended with the path. One that maps anew for every address leaves
  /// another behind with each loss, and all of them share the budget of its
  /// address with the neighbours there.
  func isFormerMapping(_ i: Int) -> Bool {
    records[i].state == .lost && records[i].source == .fromPacket
      && peerNAT.isTranslating && records[i].carrier.remote.address.isV4
      && !isOnOurLink(records[i].carrier.remote.address)
  }

  /// No router of ours stands before it.
  func isOnOurLink(_ address: IPAddress) -> Bool {
    address.isLoopback || context.localPrefixes.contains { $0.contains(address) }
  }

  /// What a punch needs is known now: ask for it without waiting longer.
  package mutating func hastenPunch(now: Instant) {
    guard hasSession, punchAgainAt < .distantFuture else { return }
    punchAgainAt = now
    refreshDeadline(now)
  }

  private var nextPunchWait: TimeAmount {
    let waits = PathTunables.roundWaits
    return waits[min(punchTries, waits.count - 1)]
  }

  var nextOpening: Instant {
    var next = Instant.distantFuture
    for opener in openers { next = min(next, opener.at) }
    return next
  }

  /// An opener that is due; it needs no keys. Where the peer will come from
  /// another port it takes the room of others, if there is some.
  package mutating func pollOpener(budget: inout ProbeBudget, now: Instant) -> PathProbe? {
    while let position = openers.firstIndex(where: { $0.at <= now }) {
      let opener = openers.remove(at: position)
      guard let i = index(of: opener.carrier), opener.isOfPath || !records[i].isUp else {
        continue
      }
      guard
        maySend(
          i, bytes: PathTunables.openerBytes, isOpener: !peerNAT.isSymmetric, budget: &budget,
          now: now) == .yes
      else {
        counters.openersWithheld &+= 1
        continue
      }
      records[i].bytesSent &+= UInt64(PathTunables.openerBytes)
      refreshDeadline(now)
      return PathProbe(
        carrier: opener.carrier, message: nil, size: PathTunables.openerBytes,
        timeToLive: openerTimeToLive(to: opener.carrier.remote.address))
    }
    return nil
  }

  /// A direct path came up: nothing more to punch.
  mutating func punched(now: Instant) {
    punchTries = 0
    punchAgainAt = .distantFuture
    endGuess(failed: false, now: now)
  }

  mutating func servicePunch(now: Instant) {
    guard hasSession, !isLetGo else { return }
    if now >= punchAgainAt {
      punchTries += 1
      punchAgainAt = now + nextPunchWait
      emit(.wantsPunch)
    }
    serviceGuess(now: now)
  }

  // MARK: Guessing ports

  /// Which end of a guess we are, by what is known of both NATs; nil: there is
  /// nothing to guess, or no hope.
  private var guessRole: PortGuess.Role? {
    guard settings.guessesPorts else { return nil }
    if peerNAT.isSymmetric, localNAT.mapping.isStable, isStrict(localNAT) { return .fixed }
    if localNAT.isSymmetric, peerNAT.mapping.isStable, isStrict(peerNAT) { return .moving }
    return nil
  }

  /// Our outside port cannot be known, so the peer has to hit it: what we send
  /// first only opens it and must not reach the peer's NAT, which would take
  /// its own port away from the answer (RECIPES R10, "masq-open").
  func staysAtHome(_ i: Int, now: Instant) -> Bool {
    guard !records[i].isUp, records[i].source == .signalled, guessRole == .moving,
      records[i].lastHeard < seriesStart
    else { return false }
    return now - seriesStart < PathTunables.movingEndHides
  }

  /// Lets nobody in from a port it has not sent to, as far as we know.
  private func isStrict(_ nat: NATFacts) -> Bool {
    nat.filtering == .addressAndPortDependent || nat.filtering == .unknown
  }

  /// Plans a guess beside the round at a candidate with the address at which
  /// the server sees the peer.
  mutating func planGuess(_ i: Int, now: Instant) {
    let reflexive = records[i].carrier.remote
    guard let role = guessRole, records[i].isDatagram, records[i].source == .signalled,
      reflexive.address == context.serverSeesPeer
    else { return }
    if var running = guess {
      guard running.target != reflexive, running.address == reflexive.address else { return }
      if running.role == .moving {
        // The peer's NAT has put it elsewhere since the last start.
        running.target = reflexive
        guess = running
        return
      }
      // A newer mapping of an allocator that counts: begin again from there.
      guard peerNAT.allocatorStep != 0 else { return }
      running.target = reflexive
      if running.ports.isEmpty, running.roundsLeft < PathLimits.guessRounds {
        running.nextAction = now
      }
      // No more of them than room was taken for: from the end, which comes first.
      running.ports = predictedPorts(from: reflexive.port).suffix(running.ports.count)
      guess = running
      return
    }
    let isCounted = role == .fixed && peerNAT.allocatorStep != 0
    // Where our own allocator counts, our ordinary pings are all it needs.
    if role == .moving, localNAT.allocatorStep != 0 { return }
    let delay =
      isCounted
      ? PathTunables.predictionDelay
      : PathTunables.birthdayDelay + (role == .fixed ? PathTunables.fixedEndDelay : .zero)
    let start = max(now, punchStart) + delay
    guess = PortGuess(
      role: role, address: reflexive.address, target: reflexive, nextAction: start,
      endsAt: start + PathTunables.guessLife)
  }

  private func predictedPorts(from base: UInt16) -> [UInt16] {
    let step = Int(peerNAT.allocatorStep)
    let before = PathLimits.predictedBefore
    var result: [UInt16] = []
    // Last first: they are taken from the end.
    let behind = stride(from: PathLimits.predictedPorts - before, through: 1, by: -1)
    for k in Array(-before...(-1)) + Array(behind) {
      result.append(PathTunables.port(base, plus: k * step))
    }
    return result
  }

  private mutating func randomPorts() -> [UInt16] {
    var chosen = Set<UInt16>()
    var result: [UInt16] = []
    while result.count < PathLimits.birthdayPorts {
      let port = UInt16.random(in: 1024...65535, using: &random)
      if chosen.insert(port).inserted { result.append(port) }
    }
    return result
  }

  private mutating func serviceGuess(now: Instant) {
    guard var running = guess, now >= running.nextAction else { return }
    if now >= running.endsAt {
      endGuess(failed: true, now: now)
      return
    }
    if running.role == .moving, running.openSockets.isEmpty {
      if !running.isWaitingForSockets {
        running.isWaitingForSockets = true
        emit(
          .wantsSockets(count: PathLimits.birthdaySockets, isV4: running.address.isV4))
      }
      running.nextAction = running.endsAt
    } else {
      // What `nextGuess` cannot send now (no keys) must not keep us awake.
      running.burst = PathTunables.guessBurst
      running.nextAction = min(now + PathTunables.guessPace, running.endsAt)
    }
    guess = running
  }

  /// The sockets asked for with `wantsSockets`; fewer are fine, none ends it.
  package mutating func guess(from sockets: [UInt32], now: Instant) {
    guard var running = guess, running.role == .moving else { return }
    guard !sockets.isEmpty else {
      endGuess(failed: true, now: now)
      refreshDeadline(now)
      return
    }
    running.openSockets = sockets
    running.isWaitingForSockets = false
    running.nextAction = now
    guess = running
    refreshDeadline(now)
  }

  /// The next ping of a guess. Its answer is not waited for: whoever it
  /// reaches asks back, and that is a candidate like any other.
  mutating func nextGuess(budget: inout ProbeBudget, now: Instant) -> PathProbe? {
    guard var running = guess, running.burst > 0 else { return nil }
    let isMoving = running.role == .moving
    if running.ports.isEmpty, running.sockets.isEmpty {
      guard startGuessRound(&running, budget: &budget, now: now) else {
        guess = running
        refreshDeadline(now)
        return nil
      }
    }
    let carrier: Carrier
    let left: Int
    if isMoving {
      carrier = .udp(socket: running.sockets.removeLast(), remote: running.target)
      left = running.sockets.count
    } else {
      let port = running.ports.removeLast()
      let socket = reflexiveSocket ?? 1
      carrier = .udp(socket: socket, remote: Endpoint(running.address, port))
      left = running.ports.count
    }
    running.burst -= 1
    if left == 0 {
      running.burst = 0
      running.nextAction =
        running.roundsLeft > 0
        ? min(now + PathTunables.guessRoundGap, running.endsAt) : running.endsAt
    }
    counters.guessesSent &+= 1
    guess = running
    refreshDeadline(now)
    return PathProbe(
      carrier: carrier, message: .ping(challenge: random.next(), size: PathMessage.shortestPing),
      size: PathMessage.shortestPing,
      timeToLive: isMoving && running.roundsLeft == PathLimits.guessRounds - 1
        ? openerTimeToLive(to: carrier.remote.address) : 0)
  }

  /// - Returns: false when this address has had enough, or the rounds are over.
  private mutating func startGuessRound(
    _ running: inout PortGuess, budget: inout ProbeBudget, now: Instant
  ) -> Bool {
    guard running.roundsLeft > 0 else {
      running.burst = 0
      running.nextAction = running.endsAt
      return false
    }
    let isCounted = running.role == .fixed && peerNAT.allocatorStep != 0
    let ports: [UInt16] =
      running.role == .moving
      ? [] : isCounted ? predictedPorts(from: running.target.port) : randomPorts()
    let count = running.role == .moving ? running.openSockets.count : ports.count
    guard count > 0,
      budget.takeGuesses(running.address, packets: count, pair: pairMark, now: now)
    else {
      note(
        .guessLimited, .udp(socket: 0, remote: running.target), lane: nil, Int64(count), 0, now)
      running.roundsLeft = 0
      running.burst = 0
      running.nextAction = running.endsAt
      return false
    }
    note(
      .guessStarted, .udp(socket: 0, remote: running.target), lane: nil, Int64(count),
      Int64(running.roundsLeft), now)
    running.roundsLeft -= 1
    running.paidAt = now
    running.ports = ports
    running.sockets = running.role == .moving ? running.openSockets.reversed() : []
    return true
  }

  /// The socket of ours that the peer's reflexive candidates are asked from.
  private var reflexiveSocket: UInt32? {
    records.first { $0.isBehindNAT }?.carrier.socket
  }

  mutating func endGuess(failed: Bool, now: Instant) {
    guard let ended = guess else { return }
    guess = nil
    let unused = ended.ports.count + ended.sockets.count
    if unused > 0 {
      unusedGuesses = UnusedGuesses(
        address: ended.address, packets: unused, paidAt: ended.paidAt)
    }
    if failed {
      note(.guessFailed, .udp(socket: 0, remote: ended.target), lane: nil, 0, 0, now)
    }
    if ended.role == .moving { emit(.guessEnded) }
  }

  // MARK: Letting go

  /// Nobody has said anything for long: direct paths are given up, nothing is
  /// sent any more. A relay that is there anyway stays the path for the first
  /// bytes of whatever comes next.
  mutating func letGo(now: Instant) {
    isLetGo = true
    openers.removeAll()
    punchTries = 0
    punchAgainAt = .distantFuture
    endGuess(failed: false, now: now)
    note(.letGo, .udp(socket: 0, remote: .none), lane: nil, 0, 0, now)
    for i in records.indices where records[i].isUp && records[i].isDatagram {
      lower(i, reason: .letGo, now: now)
    }
    for i in records.indices { records[i].nextAction = .distantFuture }
  }

  /// The pair is wanted again. A learnt address that it let go of may still be
  /// right: it is lost from now on, not since then.
  mutating func takeUp(now: Instant) {
    guard isLetGo else { return }
    isLetGo = false
    for i in records.indices
    where records[i].state == .lost && records[i].source == .fromPacket {
      records[i].since = now
    }
  }
}
