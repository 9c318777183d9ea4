/// When each record is looked at, and what silence means: rounds of probes at
/// candidates, pings on paths, suspect, dead, return.

#if canImport(Bytes)
  import Bytes
#endif

extension PeerPaths {
  /// Looks at record `i`, sets its next action. False when it was removed.
  mutating func service(_ i: Int, now: Instant) -> Bool {
    guard hasSession, !isLetGo else {
      records[i].nextAction = .distantFuture
      return true
    }
    switch records[i].state {
    case .up: servicePath(i, now: now)
    case .lost: return serviceLost(i, now: now)
    case .waiting, .probing, .resting: return serviceCandidate(i, now: now)
    }
    return true
  }

  // MARK: Candidates

  private mutating func serviceCandidate(_ i: Int, now: Instant) -> Bool {
    let isFirst = records[i].rounds == 0
    let volley = settings.volley
    let count = isFirst ? volley.count : min(PathTunables.laterRoundProbes, volley.count)
    if records[i].state == .resting { records[i].state = .waiting }
    if records[i].roundProbes < count {
      let due = records[i].roundStart + volley[records[i].roundProbes]
      if now >= due {
        if records[i].state == .waiting {
          records[i].state = .probing
          records[i].since = now
        }
        records[i].wantsPing = true
        records[i].roundProbes += 1
        // A late start does not squeeze the rest of the volley together.
        if now - due > .milliseconds(20) {
          records[i].roundStart = records[i].roundStart + (now - due)
        }
      }
      if records[i].roundProbes < count {
        records[i].nextAction = records[i].roundStart + volley[records[i].roundProbes]
      } else {
        records[i].nextAction = now + .seconds(1)
      }
      return true
    }
    // The round is over and nothing came back.
    records[i].rounds += 1
    if records[i].source == .fromPacket, !records[i].wasProven,
      now - records[i].lastHeard > PathTunables.learntMemory
    {
      remove(i, reason: .candidateForgotten, now: now)
      return false
    }
    records[i].state = .resting
    records[i].since = now
    let reason: PathReason = isElsewhere(i) ? .privateElsewhere : .noAnswer
    if records[i].reason != reason {
      records[i].reason = reason
      note(
        reason, records[i].carrier, lane: nil, Int64(records[i].probesSent),
        Int64(records[i].rounds), now)
    }
    let waits = PathTunables.roundWaits
    if waitsForAgreement(i) {
      // The next agreed start asks it again.
      records[i].nextAction = .distantFuture
      return true
    }
    var wait = waits[min(records[i].rounds, waits.count) - 1]
    // With a direct UDP path there is little to win.
    if let primary, let tier = tier(of: primary), tier <= records[i].tier {
      wait = max(wait, PathTunables.contentWait)
    }
    startAgain(i, at: now + jittered(wait))
    return true
  }

  private mutating func startAgain(_ i: Int, at: Instant) {
    records[i].roundProbes = 0
    records[i].roundStart = at
    records[i].nextAction = at
  }

  /// A path that was: asked quickly at first, so that its return is seen.
  /// False when it was removed.
  private mutating func serviceLost(_ i: Int, now: Instant) -> Bool {
    if records[i].source == .fromPacket, now >= forgetsAt(i) {
      remove(i, reason: .candidateForgotten, now: now)
      return false
    }
    if waitsForAgreement(i),
      now - max(records[i].since, punchStart) > PathTunables.lostSpan
    {
      records[i].nextAction = restsUntil(i)
      return true
    }
    let sent = records[i].roundProbes
    records[i].roundProbes += 1
    if sent > 0 { records[i].wantsPing = true }
    let first = PathTunables.recoveryFirst
    var wait: TimeAmount
    if sent < first.count {
      wait = first[sent]
    } else if sent < first.count + PathTunables.recoverySteadyProbes {
      wait = PathTunables.recoverySteady
    } else {
      let doublings = min(sent - first.count - PathTunables.recoverySteadyProbes + 1, 10)
      wait = min(
        PathTunables.recoverySteady * Int64(1 << doublings), PathTunables.recoveryCeiling)
    }
    // A connection that does not answer is not dialled anew by pings; spare it.
    records[i].nextAction = now + jittered(wait)
    return true
  }

  /// When a lost path that was learnt from a packet is forgotten: the peer has
  /// sent from elsewhere or not at all since then, and where it is to be found
  /// is named in each meeting.
  private func forgetsAt(_ i: Int) -> Instant {
    max(records[i].since, records[i].lastHeard) + PathTunables.learntMemory
  }

  /// A record that waits for an agreed start need not be looked at before.
  func restsUntil(_ i: Int) -> Instant {
    records[i].source == .fromPacket && records[i].state == .lost ? forgetsAt(i) : .distantFuture
  }

  /// ±10 %, so that two ends and many peers do not move in step.
  private mutating func jittered(_ wait: TimeAmount) -> TimeAmount {
    guard wait > .milliseconds(500) else { return wait }
    let share = Int64(random.next() % 201) - 100
    return wait + .nanoseconds(wait.nanoseconds / 1_000 * share)
  }

  // MARK: Paths

  private mutating func servicePath(_ i: Int, now: Instant) {
    // Packet size first: it may ask for a small ping.
    if records[i].isDatagram { serviceSize(i, now: now) }
    if records[i].dropsData { serviceDropsData(i, now: now) }

    if records[i].unanswered > 0 {
      let due = records[i].lastPing + records[i].pingWait()
      if now >= due, records[i].timeouts < records[i].unanswered {
        records[i].timeouts = records[i].unanswered
        guard pingTimedOut(i, now: now) else { return }
      }
    } else if now >= pingDue(i, now: now) {
      records[i].wantsPing = true
    }
    setPathAction(i, now: now)
  }

  /// One more ping went unanswered. False when that was the end.
  private mutating func pingTimedOut(_ i: Int, now: Instant) -> Bool {
    let count = records[i].unanswered
    let silent = records[i].lastHeard < records[i].firstUnanswered
    if count == 1, records[i].lane == primary { askOthers(than: i, now: now) }
    // Neither pings nor data are answered: what still arrives is no comfort.
    let isPlain = silent || records[i].laneTimeouts >= PathTunables.suspectLaneTimeouts
    let suspectAt = isPlain ? PathTunables.suspectTimeouts : PathTunables.suspectOneWay
    let deadAt = silent ? PathTunables.deadTimeouts : PathTunables.deadOneWay
    if count >= deadAt, now - records[i].firstUnanswered >= PathTunables.deadAfter {
      lower(i, reason: silent ? .unanswered : .oneWay, now: now)
      return false
    }
    if count >= suspectAt { suspect(i, reason: silent ? .silence : .oneWay, now: now) }
    records[i].wantsPing = true
    return true
  }

  mutating func suspect(_ i: Int, reason: PathReason, now: Instant) {
    guard records[i].isUp, !records[i].isSuspect, let lane = records[i].lane else { return }
    records[i].isSuspect = true
    records[i].reason = reason
    doubtGap(i)
    records[i].noteFailure(now)
    note(
      reason, records[i].carrier, lane: lane, Int64(records[i].unanswered),
      (now - max(records[i].lastHeard, records[i].since)).nanoseconds, now)
    emit(.suspect(lane: lane, reason: reason))
    if lane == primary { askOthers(than: i, now: now) }
  }

  mutating func clearSuspicion(_ i: Int, now: Instant) {
    records[i].laneTimeouts = 0
    guard records[i].isSuspect, let lane = records[i].lane else { return }
    records[i].isSuspect = false
    gapReopened(i)
    records[i].reason = .recovered
    records[i].roundTrip.forgetLoss()
    records[i].startHold(now)
    note(.recovered, records[i].carrier, lane: lane, 0, 0, now)
    emit(.recovered(lane: lane))
  }

  /// Finds out now which other paths stand, so that the switch need not wait.
  mutating func askOthers(than i: Int, now: Instant) {
    emit(.doubted)
    for other in records.indices where other != i && records[other].isUp {
      guard records[other].unanswered == 0, now - records[other].lastPong > .milliseconds(50)
      else { continue }
      records[other].wantsPing = true
    }
  }

  /// When the next ping is due on a path with none on its way.
  private func pingDue(_ i: Int, now: Instant) -> Instant {
    let record = records[i]
    let heard = max(record.lastHeard, record.since)
    if isLetGo { return .distantFuture }
    let active = isActive(now)
    let keep: TimeAmount =
      active
      ? PathTunables.activePing
      : idlePing(of: record)
    var due = heard + min(record.quietInterval, keep)
    if active {
      due = min(due, max(record.roundTrip.lastSample, record.since) + PathTunables.activePing)
    }
    return due
  }

  mutating func setPathAction(_ i: Int, now: Instant) {
    var next: Instant
    if records[i].unanswered > 0 {
      next = records[i].lastPing + records[i].pingWait()
      // Counted already, its successor waits to be sent.
      if records[i].timeouts == records[i].unanswered {
        next = now + records[i].roundTrip.timeout
      }
    } else if records[i].wantsPing {
      next = now + records[i].roundTrip.timeout
    } else {
      next = pingDue(i, now: now)
    }
    if records[i].isDatagram {
      next = min(next, records[i].datagramSize.nextDeadline(mayRaise: isActive(now), now: now))
    }
    if records[i].dropsData { next = min(next, records[i].dataRetry) }
    if records[i].holdUntil > now { next = min(next, records[i].holdUntil) }
    records[i].nextAction = next
    if hasSession, next < deadline { deadline = next }
  }

  // MARK: Packet size

  private mutating func serviceSize(_ i: Int, now: Instant) {
    let outcome = records[i].datagramSize.expire(small: records[i].lastPong, now: now)
    sizeChanged(i, outcome, now: now)
    if records[i].datagramSize.needsSmallPing(lastAnswered: records[i].lastPong),
      records[i].unanswered == 0
    {
      records[i].wantsPing = true
    }
  }

  mutating func sizeChanged(_ i: Int, _ outcome: PacketSizeSearch.Outcome, now: Instant) {
    guard let lane = records[i].lane, records[i].isUp else { return }
    switch outcome {
    case .nothing: return
    case .verified:
      // The size is right and pings pass: it is data that vanishes.
      if records[i].laneTimeouts >= PathTunables.dropsDataTimeouts { leaveData(i, now: now) }
    case .exhausted:
      if records[i].laneTimeouts > 0 { leaveData(i, now: now) }
    case .changed, .blackHole:
      let size = records[i].maximumPacket
      note(
        outcome == .blackHole ? .sizeBlackHole : .sizeConfirmed, records[i].carrier, lane: lane,
        Int64(size), 0, now)
      emit(.maximumPacketChanged(lane: lane, maximumPacket: size))
    }
  }

  // MARK: Data that vanishes

  mutating func leaveData(_ i: Int, now: Instant) {
    guard records[i].isUp, !records[i].dropsData, let lane = records[i].lane else { return }
    records[i].dropsData = true
    records[i].dropsDataCount += 1
    records[i].dataProbesAnswered = 0
    records[i].reason = .dropsData
    records[i].noteFailure(now)
    let holds = PathTunables.dropsDataHold
    records[i].dataRetry = now + holds[min(records[i].dropsDataCount, holds.count) - 1]
    note(
      .dropsData, records[i].carrier, lane: lane, Int64(records[i].laneTimeouts),
      Int64(records[i].maximumPacket), now)
    emit(.suspect(lane: lane, reason: .dropsData))
    if lane == primary { askOthers(than: i, now: now) }
  }

  private mutating func serviceDropsData(_ i: Int, now: Instant) {
    if records[i].dataProbe.isUsed {
      let due = records[i].dataProbe.sentAt + records[i].roundTrip.timeout
      guard now >= due else {
        // The time-out has grown since it was sent.
        records[i].dataRetry = max(records[i].dataRetry, due)
        return
      }
      // Another full-size probe vanished: wait longer.
      records[i].dataProbe.isUsed = false
      records[i].dataProbesAnswered = 0
      records[i].dropsDataCount += 1
      let holds = PathTunables.dropsDataHold
      records[i].dataRetry = now + holds[min(records[i].dropsDataCount, holds.count) - 1]
    } else if now >= records[i].dataRetry {
      records[i].wantsDataProbe = true
      records[i].dataRetry = now + max(records[i].roundTrip.timeout, .milliseconds(100))
    }
  }

  mutating func dataProbeAnswered(_ i: Int, now: Instant) {
    records[i].dataProbesAnswered += 1
    records[i].dataRetry = now + .milliseconds(50)
    guard records[i].dataProbesAnswered >= PathTunables.dataProbesNeeded,
      let lane = records[i].lane
    else { return }
    records[i].dropsData = false
    records[i].dataRetry = .distantFuture
    records[i].laneTimeouts = 0
    records[i].reason = .dataPasses
    records[i].roundTrip.forgetLoss()
    records[i].startHold(now)
    note(.dataPasses, records[i].carrier, lane: lane, 0, 0, now)
    emit(.recovered(lane: lane))
  }
}
