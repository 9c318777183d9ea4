/// What is handed in per packet or per batch: what arrived, what left, what a
/// lane reports, and the answers to our challenges.

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  /// An authenticated packet came through `carrier`; call it for every opened
  /// packet (or once per run with the sum), before its content is handled.
  /// `bytes`: as on the carrier. `carriesData`: numbered or IP packets.
  package mutating func received(
    from carrier: Carrier, bytes: Int, carriesData: Bool, now: Instant
  ) {
    guard let i = learn(carrier, bytes: bytes, now: now) else { return }
    records[i].bytesReceived &+= UInt64(bytes)
    records[i].lastHeard = now
    if records[i].isUp {
      if carriesData { noteTraffic(i, bytes: bytes, now: now) }
      return
    }
    records[i].unprovenReceived += bytes
    if isLetGo {
      // The peer has not let go yet; its pings alone are no reason to come back.
      guard carriesData else { return }
      lastActivity = now
      awaken(now: now)
    }
    // It reaches us: a challenge now has the best chance of all.
    guard hasSession else { return }
    let since = now - records[i].lastPing
    switch records[i].state {
    case .resting:
      guard since >= PathTunables.triggeredRound else { return }
      startRound(i, now: now)
    case .waiting, .probing, .lost:
      let gap = max(PathTunables.triggeredGap, (now - records[i].roundStart) / 2)
      guard since >= gap else { return }
      records[i].wantsPing = true
    case .up:
      break
    }
  }

  /// An unnumbered packet of this module came through `carrier`. HELLO is the
  /// owner's business and ignored here.
  package mutating func receive(_ message: PathMessage, from carrier: Carrier, now: Instant) {
    switch message {
    case .ping(let challenge, let size), .sizeProbe(let challenge, let size):
      receivePing(challenge: challenge, size: size, from: carrier)
    case .pong(let challenge, let size, let observed):
      receivePong(
        challenge: challenge, answeredSize: size, observed: observed, from: carrier, now: now)
    case .hello:
      break
    }
  }

  /// Packets of `lane` left. `ackEliciting`: some of them want an answer.
  package mutating func sent(on lane: UInt8, bytes: Int, ackEliciting: Bool, now: Instant) {
    guard let i = index(of: lane) else { return }
    records[i].bytesSent &+= UInt64(bytes)
    noteLeaving(i, now: now)
    if ackEliciting { noteTraffic(i, bytes: bytes, now: now) }
  }

  /// The peer acknowledged something new that left on `lane`.
  package mutating func acked(on lane: UInt8, now: Instant) {
    guard let i = index(of: lane) else { return }
    records[i].lastAnswered = now
    gapAnswered(i)
    if records[i].isSuspect || records[i].laneTimeouts > 0 {
      records[i].timeouts = 0
      records[i].unanswered = 0
      clearSuspicion(i, now: now)
      setPathAction(i, now: now)
      choose(now: now)
    }
  }

  /// The lane's probe time-out fired for the `count`-th time in a row.
  package mutating func laneTimeout(on lane: UInt8, count: Int, now: Instant) {
    guard let i = index(of: lane) else { return }
    records[i].laneTimeouts = count
    if records[i].unanswered == 0 { records[i].wantsPing = true }
    if records[i].isDatagram { records[i].datagramSize.doubt() }
    if count >= PathTunables.suspectLaneTimeouts {
      askOthers(than: i, now: now)
      let silent = records[i].lastHeard < now - records[i].roundTrip.timeout * 2
      let isAlone = records[i].timeouts >= PathTunables.suspectTimeouts
      if silent || isAlone { suspect(i, reason: .laneTimeouts, now: now) }
    }
    if count >= PathTunables.dropsDataTimeouts, !records[i].isDatagram,
      records[i].lastPong > now - records[i].roundTrip.timeout * 4
    {
      leaveData(i, now: now)
    }
    setPathAction(i, now: now)
    choose(now: now)
    refreshDeadline(now)
  }

  /// A round trip measured by the lane, delay of the acknowledgement removed.
  package mutating func rttSample(on lane: UInt8, _ sample: TimeAmount, now: Instant) {
    guard let i = index(of: lane) else { return }
    records[i].roundTrip.add(sample, now: now)
  }

  /// Of `count` packets that left on `lane`, `lost` are declared lost.
  package mutating func lossSample(on lane: UInt8, lost: Int, of count: Int, now: Instant) {
    guard let i = index(of: lane) else { return }
    records[i].roundTrip.addLoss(lost: lost, of: count, now: now)
  }

  /// What `lane` delivers; sizes the packets of TCP and relayed paths.
  package mutating func deliveryRate(on lane: UInt8, bytesPerSecond: Double, now: Instant) {
    guard let i = index(of: lane), !records[i].isDatagram else { return }
    guard records[i].streamSize.deliveryRate(bytesPerSecond) else { return }
    note(
      .deliveryRate, records[i].carrier, lane: lane, Int64(records[i].maximumPacket), 0, now)
    emit(.maximumPacketChanged(lane: lane, maximumPacket: records[i].maximumPacket))
  }

  /// The kernel refused a datagram to `carrier` as too long (EMSGSIZE).
  /// `limit`: the largest UDP payload it would take.
  package mutating func datagramTooLong(on carrier: Carrier, limit: Int, now: Instant) {
    guard let i = index(of: carrier), records[i].isDatagram else { return }
    let outcome = records[i].datagramSize.refused(limit: limit)
    if outcome == .changed {
      note(
        .sizeRefusedLocally, carrier, lane: records[i].lane, Int64(limit), 0, now)
    }
    sizeChanged(i, outcome, now: now)
    if records[i].isUp { setPathAction(i, now: now) }
    refreshDeadline(now)
  }

  // MARK: -

  /// Data moved on path `i`. Called per packet: touches as little as it can.
  private mutating func noteTraffic(_ i: Int, bytes: Int, now: Instant) {
    let wasQuiet = lastActivity.map { now - $0 > PathTunables.activeSpan } ?? true
    lastActivity = now
    records[i].lastActivity = now
    if now - records[i].burstStart > PathTunables.burstSpan {
      records[i].burstStart = now
      records[i].burstBytes = 0
    }
    records[i].burstBytes += bytes
    let isHeavy = records[i].burstBytes >= PathTunables.heavyBytes
    let quiet = isHeavy ? records[i].roundTrip.quiet : PathTunables.lightQuiet
    if isHeavy ? records[i].quietInterval != quiet : records[i].quietInterval > quiet {
      records[i].quietInterval = quiet
      wake(i, at: now + quiet)
    }
    if wasQuiet { awaken(now: now) }
  }

  /// Traffic after a long pause: holes may have closed meanwhile. Ask all.
  mutating func awaken(now: Instant) {
    takeUp(now: now)
    if hasSession, !hasDatagramPath { punchAgainAt = now }
    for i in records.indices {
      if records[i].isUp {
        if records[i].unanswered == 0, now - records[i].lastHeard > .seconds(1) {
          records[i].wantsPing = true
          wake(i, at: now)
        }
      } else if records[i].state == .lost {
        records[i].roundProbes = 1
        wake(i, at: now)
      } else if records[i].state == .resting {
        startRound(i, now: now)
      }
    }
  }

  private mutating func receivePing(challenge: UInt64, size: Int, from carrier: Carrier) {
    guard index(of: carrier) != nil else {
      counters.pingFromRefusedAddress &+= 1
      return
    }
    guard pongs.count < PathLimits.pendingPongs else {
      counters.pongQueueFull &+= 1
      return
    }
    pongs.append(PendingPong(carrier: carrier, challenge: challenge, size: size))
  }

  private mutating func receivePong(
    challenge: UInt64, answeredSize: Int, observed: Endpoint?, from carrier: Carrier, now: Instant
  ) {
    guard let i = index(of: carrier) else {
      counters.pongUnknownChallenge &+= 1
      return
    }
    if let sentAt = records[i].takeChallenge(challenge) {
      guard now - sentAt <= PathLimits.challengeLife else {
        counters.pongTooOld &+= 1
        return
      }
      pingAnswered(i, sentAt: sentAt, observed: observed, now: now)
      return
    }
    if records[i].isUp, records[i].dataProbe.isUsed, records[i].dataProbe.value == challenge {
      records[i].dataProbe.isUsed = false
      records[i].probesAnswered &+= 1
      if answeredSize >= records[i].maximumPacket { dataProbeAnswered(i, now: now) }
    } else if records[i].isUp,
      let answer = records[i].datagramSize.answered(
        challenge: challenge, size: answeredSize, now: now)
    {
      records[i].probesAnswered &+= 1
      records[i].roundTrip.add(now - answer.sentAt, now: now)
      sizeChanged(i, answer.outcome, now: now)
    } else {
      let elsewhere = records.contains { $0.holdsChallenge(challenge) }
      if elsewhere {
        counters.pongThroughOtherCarrier &+= 1
      } else {
        counters.pongUnknownChallenge &+= 1
      }
      return
    }
    setPathAction(i, now: now)
    choose(now: now)
    refreshDeadline(now)
  }

  private mutating func pingAnswered(
    _ i: Int, sentAt: Instant, observed: Endpoint?, now: Instant
  ) {
    records[i].probesAnswered &+= 1
    records[i].roundTrip.add(now - sentAt, now: now)
    // A lost ping or two before this one are loss; more is an outage, which
    // the hold-down remembers.
    let missed = max(0, records[i].timeouts)
    if missed <= PathTunables.suspectTimeouts {
      for _ in 0..<missed { records[i].roundTrip.addPing(isLost: true) }
    }
    records[i].roundTrip.addPing(isLost: false)
    if let observed, records[i].isDatagram {
      emit(.observedAddress(carrier: records[i].carrier, endpoint: observed))
    }
    records[i].lastPong = now
    records[i].lastAnswered = now
    if records[i].isUp {
      gapAnswered(i)
      records[i].earlyPerMille = Int64(
        random.next() % UInt64(KeepaliveTunables.earlyPerMille + 1))
      // Quiet and answering: ask less and less often.
      if records[i].unanswered > 0 {
        records[i].quietInterval = min(
          records[i].quietInterval * 2, max(PathTunables.idleStreamPing, KeepaliveTunables.longest))
      }
      records[i].unanswered = 0
      records[i].timeouts = 0
      records[i].isGraced = false
      if records[i].laneTimeouts < PathTunables.dropsDataTimeouts {
        let kept = records[i].laneTimeouts
        clearSuspicion(i, now: now)
        records[i].laneTimeouts = kept
      } else if records[i].isSuspect, records[i].lane != primary {
        // Traffic has left, so no acknowledgement will ever clear it:
        // full-size probes have to.
        leaveData(i, now: now)
      }
    } else {
      raise(i, reason: .challengeAnswered, now: now)
    }
    if records[i].isUp { setPathAction(i, now: now) }
    choose(now: now)
    refreshDeadline(now)
  }
}
