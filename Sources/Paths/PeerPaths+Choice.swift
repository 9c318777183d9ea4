/// Which path carries the traffic. Tier and quality are one cost (round trip,
/// loss, tier); health comes before cost; hysteresis before both unless the
/// present path fails. Every change is a decision with its reason.

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  /// How much a path may be trusted; smaller is better.
  enum Standing: Int, Comparable {
    case good
    /// Stands again after failures, but not for long enough yet.
    case held
    /// Suspect, or loses data.
    case doubtful

    static func < (a: Standing, b: Standing) -> Bool { a.rawValue < b.rawValue }
  }

  func standing(_ record: PathRecord, now: Instant) -> Standing {
    if record.isSuspect || record.dropsData { return .doubtful }
    return now < record.holdUntil ? .held : .good
  }

  /// Makes the choice anew.
  mutating func choose(now: Instant) {
    choiceAt = .distantFuture
    forgetGoodput(now: now)
    var best: Int?
    for i in records.indices where records[i].isUp {
      guard let b = best else {
        best = i
        continue
      }
      let mine = (standing(records[i], now: now), records[i].cost)
      let its = (standing(records[b], now: now), records[b].cost)
      if mine < its { best = i }
    }
    guard let best else {
      if primary != nil { setPrimary(nil, reason: .primaryDown, now: now) }
      return
    }
    guard let primary, let current = index(of: primary) else {
      let reason: PathReason = self.primary == nil ? .firstPath : .primaryDown
      setPrimary(best, reason: reason, now: now)
      return
    }
    guard best != current else { return }
    let challenger = records[best]
    let holder = records[current]
    if standing(holder, now: now) == .doubtful {
      // Only for a path that has answered since: all may be silent at once.
      var doubtSince = holder.lastAnswered
      if holder.unanswered > 0 { doubtSince = max(doubtSince, holder.firstUnanswered) }
      let isFresh =
        challenger.lastPong > doubtSince || (!holder.isSuspect && holder.dropsData)
      if standing(challenger, now: now) < .doubtful, isFresh {
        setPrimary(
          best, reason: holder.isSuspect ? .primarySuspect : .primaryDropsData, now: now)
      }
      return
    }
    guard standing(challenger, now: now) <= standing(holder, now: now) else { return }
    let margin = max(
      PathTunables.marginFloor, holder.cost * PathTunables.marginPerCent / 100)
    guard challenger.cost + margin < holder.cost else { return }
    let isUpgrade = challenger.tier < holder.tier
    if now - lastSwitch > PathTunables.switchMemory { recentSwitches = 0 }
    let isRestless = recentSwitches >= PathTunables.calmSwitches
    // Back from where a failure drove us: how long a path that failed has to
    // stand first is its hold-down's business.
    if !isUpgrade || isRestless && !wasForced {
      let dwell = isRestless ? PathTunables.longDwell : PathTunables.dwell
      let free = lastSwitch + dwell
      guard now >= free else {
        choiceAt = free
        return
      }
    }
    setPrimary(best, reason: isUpgrade ? .betterTier : .betterQuality, now: now)
  }

  private mutating func setPrimary(_ i: Int?, reason: PathReason, now: Instant) {
    let old = primary
    let new = i.flatMap { records[$0].lane }
    guard old != new else { return }
    if now - lastSwitch > PathTunables.switchMemory { recentSwitches = 0 }
    let isForced = reason != .betterTier && reason != .betterQuality
    if !isForced, !wasForced { recentSwitches += 1 }
    wasForced = isForced
    primary = new
    primarySince = now
    lastSwitch = now
    let oldCost = old.flatMap { index(of: $0) }.map { records[$0].cost } ?? -1
    let carrier = i.map { records[$0].carrier } ?? .udp(socket: 0, remote: .none)
    note(reason, carrier, lane: new, oldCost, i.map { records[$0].cost } ?? -1, now)
    emit(.primaryChanged(from: old, to: new, reason: reason))
    if let i {
      // Traffic moves there: take its pulse from now on.
      records[i].quietInterval = min(records[i].quietInterval, PathTunables.lightQuiet)
      wake(i, at: now)
    }
  }

  // MARK: Explanations

  /// Decisions, oldest first; at most 64.
  package var history: [PathDecision] {
    Array(decisions[nextDecision...] + decisions[..<nextDecision])
  }

  /// Every carrier known, for status and `why`.
  package var snapshots: [PathSnapshot] {
    records.map { record in
      PathSnapshot(
        carrier: record.carrier, kind: record.kind, tier: record.tier, source: record.source,
        state: record.state, lane: record.isUp ? record.lane : nil,
        isPrimary: record.isUp && record.lane == primary, isSuspect: record.isSuspect,
        dropsData: record.dropsData,
        roundTrip: record.roundTrip.hasSample ? record.roundTrip.smoothed : nil,
        smallestRoundTrip: record.roundTrip.hasSample ? record.roundTrip.smallest : nil,
        lossPerMille: record.roundTrip.lossPerMille, maximumPacket: record.maximumPacket,
        bytesSent: record.bytesSent, bytesReceived: record.bytesReceived,
        probesSent: record.probesSent, probesAnswered: record.probesAnswered,
        lastHeard: record.lastHeard == .distantPast ? nil : record.lastHeard,
        since: record.since, reason: record.reason, cost: record.cost)
    }
  }

  /// Why no better tier than the present one is used: one line per better tier.
  package func whyNotBetter(now: Instant) -> [(tier: Tier, reason: PathReason)] {
    let present = primary.flatMap { tier(of: $0) }
    var lines: [(tier: Tier, reason: PathReason)] = []
    for tier in Tier.allCases {
      if let present, tier >= present { break }
      lines.append((tier, verdict(tier, now: now)))
    }
    return lines
  }

  private func verdict(_ tier: Tier, now: Instant) -> PathReason {
    guard settings.allowedTiers.allows(tier) else { return .notAllowed }
    var verdict = PathReason.noCandidate
    for record in records where record.tier == tier {
      switch record.state {
      case .up:
        if record.dropsData { return .dropsData }
        if record.isSuspect { return .suspect }
        return now < record.holdUntil ? .holdDown : .worseQuality
      case .lost: verdict = record.reason
      case .probing, .resting:
        if verdict == .noCandidate || verdict == .notProbedYet { verdict = .noAnswer }
      case .waiting:
        if verdict == .noCandidate { verdict = .notProbedYet }
      }
    }
    if verdict == .noCandidate,
      history.contains(where: {
        $0.refusal != nil && ($0.carrier.kind == .udp) == (tier <= .udpPunch)
      })
    {
      verdict = .candidateRefused
    }
    return verdict
  }
}
