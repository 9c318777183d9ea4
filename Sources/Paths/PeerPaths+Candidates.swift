/// How carriers become known, proven, lost and forgotten.

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  /// A UDP carrier that may work. TCP endpoints are checked with
  /// `CandidateRules.tcpRefusal` before they are dialled and come in through
  /// `carrierOpened`.
  @discardableResult
  package mutating func addCandidate(
    _ carrier: Carrier, kind: CandidateKind, tier: Tier, source: CandidateSource, now: Instant
  ) -> CandidateAdmission {
    noteTime(now)
    if let i = index(of: carrier) {
      // Named again: a fresh round (the budget still holds), and the better name.
      if records[i].source == .fromPacket, source != .fromPacket, !records[i].isUp {
        records[i].source = source
      }
      if kind == .serverReflexive, source == .signalled, records[i].kind == .peerReflexive {
        // What we heard from is behind the peer's NAT: without a path it must
        // not be asked before the agreed start.
        records[i].kind = kind
        records[i].source = source
      }
      if kind == .host, records[i].kind != .host {
        records[i].kind = kind
        records[i].tier = min(records[i].tier, tier)
      }
      if !records[i].isUp { begin(i, now: now) }
      refreshDeadline(now)
      return .known
    }
    guard settings.allowedTiers.allows(tier) else { return refuse(carrier, .policy, now) }
    if carrier.kind == .udp,
      let refusal = CandidateRules.refusal(of: carrier.remote, source: source, context: context)
    {
      return refuse(carrier, refusal, now)
    }
    guard makeRoom(for: source, now: now) else { return refuse(carrier, .full, now) }
    append(
      PathRecord(
        carrier: carrier, kind: kind, tier: tier, source: source,
        maximumDatagram: settings.maximumDatagram, packetLimit: 0xffff, now: now))
    note(.candidateAdmitted, carrier, lane: nil, Int64(tier.rawValue), 0, now)
    if source == .signalled { begin(records.count - 1, now: now) }
    refreshDeadline(now)
    return .added
  }

  /// The peer is behind its NAT at these endpoints and no others: former ones
  /// that carry no path are forgotten, so that nobody aims at a closed hole.
  package mutating func keepReflexive(_ endpoints: [Endpoint], now: Instant) {
    for i in records.indices.reversed()
    where records[i].isBehindNAT && !records[i].isUp
      && !endpoints.contains(records[i].carrier.remote)
    {
      remove(i, reason: .candidateForgotten, now: now)
    }
    refreshDeadline(now)
  }

  /// A connection we dialled or accepted, or a relay channel, is open. It
  /// points at no third party: no budget binds it. `packetLimit`: the largest
  /// sealed packet it takes.
  @discardableResult
  package mutating func carrierOpened(
    _ carrier: Carrier, tier: Tier, packetLimit: Int = 0xffff, now: Instant
  ) -> CandidateAdmission {
    noteTime(now)
    if index(of: carrier) != nil { return .known }
    guard settings.allowedTiers.allows(tier) else { return refuse(carrier, .policy, now) }
    guard makeRoom(for: .dialled, now: now) else { return refuse(carrier, .full, now) }
    append(
      PathRecord(
        carrier: carrier, kind: carrier.kind == .relay ? .relay : .host, tier: tier,
        source: .dialled, maximumDatagram: settings.maximumDatagram, packetLimit: packetLimit,
        now: now))
    note(.candidateAdmitted, carrier, lane: nil, Int64(tier.rawValue), 0, now)
    refreshDeadline(now)
    return .added
  }

  /// The carrier is gone for good (connection closed, channel ended, address withdrawn).
  package mutating func carrierClosed(
    _ carrier: Carrier, reason: PathReason = .carrierClosed, now: Instant
  ) {
    guard let i = index(of: carrier) else { return }
    remove(i, reason: reason, now: now)
    choose(now: now)
    refreshDeadline(now)
  }

  /// The tiers this peer may use from now on; carriers of others are forgotten.
  package mutating func allow(_ tiers: TierSet, now: Instant) {
    guard tiers != settings.allowedTiers else { return }
    settings.allowedTiers = tiers
    for i in records.indices.reversed() where !tiers.allows(records[i].tier) {
      remove(i, reason: .notAllowed, now: now)
    }
    openers.removeAll()
    choose(now: now)
    refreshDeadline(now)
  }

  /// A local UDP socket is gone, and every carrier of it.
  package mutating func socketClosed(_ socket: UInt32, now: Instant) {
    var i = 0
    while i < records.count {
      if records[i].isDatagram, records[i].carrier.socket == socket {
        remove(i, reason: .socketClosed, now: now)
      } else {
        i += 1
      }
    }
    choose(now: now)
    refreshDeadline(now)
  }

  /// Where an initiation goes: with `firstTry` and a living path to the
  /// primary and the relays; otherwise to everything known that the rules
  /// allow. A NAT of the peer must not hear it before the peer has opened its
  /// hole, and a mapping of ours that nobody can guess must not be kept open by
  /// it: where a relay can carry it, candidates that wait for an agreed start are
  /// left out until `isLate` (it has been repeated for a while). Counts the bytes
  /// against the budget.
  package mutating func initiationTargets(
    bytes: Int, firstTry: Bool, isLate: Bool, budget: inout ProbeBudget, now: Instant,
    into targets: inout [Carrier]
  ) {
    noteTime(now)
    let hasRelay = records.contains { $0.carrier.kind == .relay }
    for i in records.indices {
      let record = records[i]
      if record.isUp || !record.isDatagram {
        let skip = firstTry && primary != nil && record.lane != primary && record.isDatagram
        if !skip {
          targets.append(record.carrier)
          records[i].bytesSent &+= UInt64(bytes)
        }
      } else if primary == nil || !firstTry {
        if waitsForAgreement(i), hasRelay, !isLate { continue }
        guard maySend(i, bytes: bytes, budget: &budget, now: now) == .yes else {
          counters.initiationsWithheld &+= 1
          continue
        }
        targets.append(record.carrier)
        records[i].bytesSent &+= UInt64(bytes)
        records[i].probesSent &+= 1
      }
    }
  }

  // MARK: -

  /// The record of a carrier an authenticated packet came through; learns it
  /// when it is new. Nil when the rules forbid it.
  mutating func learn(_ carrier: Carrier, bytes: Int, now: Instant) -> Int? {
    if let i = index(of: carrier) { return i }
    switch carrier.kind {
    case .tcp, .relay:
      // The owner opens those; a packet through one it has not announced, or
      // has closed already, teaches nothing.
      return nil
    case .udp:
      // Whoever reaches us before we ever sent to that address needs no hole.
      let weProbed = records.contains {
        $0.isDatagram && $0.carrier.remote.address == carrier.remote.address && $0.probesSent > 0
      }
      let known = records.contains {
        $0.isDatagram && $0.carrier.remote == carrier.remote && $0.tier == .udpDirect
      }
      let tier: Tier = weProbed && !known ? .udpPunch : .udpDirect
      guard
        case .added = addCandidate(
          carrier, kind: .peerReflexive, tier: tier, source: .fromPacket, now: now)
      else { return nil }
      let i = records.count - 1
      // A new address may mean that the old one is gone: ask it now.
      if let primary, let p = index(of: primary), records[p].unanswered == 0 {
        records[p].wantsPing = true
      }
      return i
    }
  }

  private mutating func append(_ record: PathRecord) {
    records.append(record)
    records[records.count - 1].aim = aim
    lastIndex = records.count - 1
  }

  private mutating func refuse(
    _ carrier: Carrier, _ refusal: CandidateRefusal, _ now: Instant
  ) -> CandidateAdmission {
    counters.candidatesRefused &+= 1
    // The same refusal again is no news.
    let last = history.last
    if last?.refusal != refusal || last?.carrier != carrier {
      note(.candidateRefused, carrier, lane: nil, 0, 0, refusal: refusal, now)
    }
    return .refused(refusal)
  }

  /// Makes sure that one more record of this source fits; may forget the
  /// oldest one of the same source that never answered.
  private mutating func makeRoom(for source: CandidateSource, now: Instant) -> Bool {
    let limit: Int
    switch source {
    case .signalled: limit = PathLimits.signalledCandidates
    case .fromPacket: limit = PathLimits.learntCandidates
    case .dialled, .configured: limit = PathLimits.candidates
    }
    let same = records.count { $0.source == source }
    if same < limit, records.count < PathLimits.candidates { return true }
    var victim: Int?
    for i in records.indices where !records[i].isUp {
      let record = records[i]
      guard same < limit ? record.source != .configured : record.source == source else { continue }
      // A carrier that is open, or a fresh one still being probed, is kept.
      if record.source == .dialled { continue }
      if record.state == .waiting || record.state == .probing, record.source != .fromPacket {
        continue
      }
      if let v = victim {
        let better = (record.wasProven ? 1 : 0, record.since)
        let held = (records[v].wasProven ? 1 : 0, records[v].since)
        if better >= held { continue }
      }
      victim = i
    }
    guard let victim else { return false }
    remove(victim, reason: .candidateForgotten, now: now)
    return true
  }

  mutating func remove(_ i: Int, reason: PathReason, now: Instant) {
    let record = records[i]
    if record.isUp { lower(i, reason: reason, now: now) }
    if record.isDatagram == false || reason != .candidateForgotten {
      // A closed connection never comes back: its lane may serve another.
      for l in lanes.indices where lanes[l].carrier?.isSame(as: record.carrier) == true {
        lanes[l].carrier = nil
      }
    }
    pongs.removeAll { $0.carrier.isSame(as: record.carrier) }
    note(reason, record.carrier, lane: record.lane, 0, 0, now)
    records.remove(at: i)
    rebuildLanes()
  }

  /// Starts a round of probes at a carrier that is not up.
  mutating func startRound(_ i: Int, now: Instant) {
    guard !records[i].isUp else { return }
    // A lost path is asked now, not after its first wait.
    if waitsForAgreement(i), now - punchStart >= PathTunables.punchSpan {
      records[i].wantsPing = false
      records[i].nextAction = restsUntil(i)
      // A former mapping is still on its way to be forgotten.
      if records[i].nextAction == .distantFuture { records[i].state = .resting }
      return
    }
    let start = max(now, records[i].earliestPing)
    records[i].roundProbes = records[i].state == .lost ? 1 : 0
    records[i].roundStart = start
    records[i].wantsPing = false
    if records[i].state != .lost {
      records[i].state = .waiting
      records[i].since = now
    }
    records[i].nextAction = start
    if hasSession { deadline = min(deadline, start) }
  }

  /// Carrier `i` is proven: it is a path now.
  mutating func raise(_ i: Int, reason: PathReason, now: Instant) {
    guard !records[i].isUp else { return }
    guard let lane = assignLane(records[i].carrier, now: now) else {
      records[i].reason = .noLaneLeft
      note(.noLaneLeft, records[i].carrier, lane: nil, 0, 0, now)
      return
    }
    let isReturn = records[i].wasProven
    records[i].state = .up
    records[i].since = now
    records[i].lane = lane
    records[i].reason = reason
    records[i].wasProven = true
    records[i].unanswered = 0
    records[i].timeouts = 0
    records[i].isGraced = false
    records[i].isSuspect = false
    records[i].laneTimeouts = 0
    records[i].dropsData = false
    records[i].dataRetry = .distantFuture
    records[i].rounds = 0
    records[i].unprovenSent = 0
    records[i].unprovenReceived = 0
    records[i].quietInterval = PathTunables.lightQuiet
    if isReturn {
      records[i].datagramSize.restart()
      records[i].roundTrip.forgetLoss()
    }
    records[i].startHold(now)
    records[i].nextAction = now
    laneRecords[Int(lane)] = i
    note(
      reason, records[i].carrier, lane: lane, records[i].roundTrip.smoothed.nanoseconds,
      Int64(records[i].maximumPacket), now)
    emit(
      .pathUp(
        lane: lane, carrier: records[i].carrier, tier: records[i].tier,
        maximumPacket: records[i].maximumPacket))
    records[i].lastSent = now
    if records[i].isDatagram { punched(now: now) }
    confirmGap(i, now: now)
  }

  /// Path `i` is one no longer. The choice is the caller's next step.
  mutating func lower(_ i: Int, reason: PathReason, now: Instant) {
    guard records[i].isUp, let lane = records[i].lane else { return }
    note(
      reason, records[i].carrier, lane: lane, Int64(records[i].unanswered),
      (now - max(records[i].lastHeard, records[i].since)).nanoseconds, now)
    if !records[i].isSuspect, reason == .unanswered || reason == .oneWay {
      records[i].noteFailure(now)
    }
    gapEnded(i, now: now)
    records[i].state = .lost
    records[i].since = now
    records[i].reason = reason
    records[i].isSuspect = false
    records[i].roundProbes = 0
    records[i].roundStart = now
    records[i].wantsPing = false
    records[i].nextAction = now
    records[i].forgetChallenges()
    lanes[Int(lane)].isUp = false
    lanes[Int(lane)].lastUsed = now
    laneRecords[Int(lane)] = -1
    emit(.pathDown(lane: lane, reason: reason))
    if !records[i].tier.isRelay, reason != .letGo, hasSession, !hasDatagramPath {
      punchAgainAt = now
    }
    if !records.contains(where: \.isUp) {
      note(.noPathLeft, records[i].carrier, lane: lane, 0, 0, now)
      emit(.allPathsDead)
    }
  }

  /// The carrier's own lane, else one never used, else the one left longest.
  private mutating func assignLane(_ carrier: Carrier, now: Instant) -> UInt8? {
    var best: Int?
    for l in lanes.indices where !lanes[l].isUp {
      if lanes[l].carrier?.isSame(as: carrier) == true {
        best = l
        break
      }
      guard let b = best else {
        best = l
        continue
      }
      let free = lanes[l].carrier == nil
      let bestFree = lanes[b].carrier == nil
      if free != bestFree ? free : lanes[l].lastUsed < lanes[b].lastUsed { best = l }
    }
    guard let best else { return nil }
    lanes[best].carrier = carrier
    lanes[best].isUp = true
    lanes[best].lastUsed = now
    return UInt8(best)
  }
}
