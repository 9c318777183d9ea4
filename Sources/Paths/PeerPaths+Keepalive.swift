/// What quiet pairs tell about the routers between them: a packet that comes
/// through after a pause, or a path that is dead after one although the peer is
/// there and a new hole is made at once. Only facts; what follows is the node's
/// (`KeepaliveInterval`). docs/protocol/punching.md "Keepalive".

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  /// How often an idle UDP path is pinged.
  package mutating func setIdlePing(_ interval: TimeAmount, isV4: Bool, now: Instant) {
    guard interval != (isV4 ? idlePingV4 : idlePingV6) else { return }
    if isV4 { idlePingV4 = interval } else { idlePingV6 = interval }
    for i in records.indices
    where records[i].isUp && records[i].isDatagram && records[i].unanswered == 0
      && records[i].carrier.remote.address.isV4 == isV4
    {
      setPathAction(i, now: now)
    }
    refreshDeadline(now)
  }

  /// On our own link no router forgets anything.
  func idlePing(of record: PathRecord) -> TimeAmount {
    guard record.isDatagram else { return PathTunables.idleStreamPing }
    let interval = record.carrier.remote.address.isV4 ? idlePingV4 : idlePingV6
    return interval - .nanoseconds(interval.nanoseconds / 1_000 * record.earlyPerMille)
  }

  /// Something leaves through path `i`. Called per packet.
  mutating func noteLeaving(_ i: Int, now: Instant) {
    if now - records[i].lastSent >= KeepaliveTunables.shortestGap {
      let gap = now - max(records[i].lastHeard, max(records[i].lastSent, records[i].since))
      if gap >= KeepaliveTunables.shortestGap, records[i].isUp, records[i].isDatagram {
        records[i].gap = gap
        records[i].gapEnd = now
      }
    }
    records[i].lastSent = now
  }

  /// The peer has answered what we sent. That it sent something itself proves
  /// nothing: it may be its second packet.
  mutating func gapAnswered(_ i: Int) {
    guard records[i].gap != .zero, !records[i].isGapDoubtful else { return }
    let gap = records[i].gap
    records[i].gap = .zero
    // A lost ping says neither this nor that.
    guard records[i].timeouts == 0, records[i].laneTimeouts == 0 else { return }
    let address = records[i].carrier.remote.address
    let interval = address.isV4 ? idlePingV4 : idlePingV6
    guard gap.nanoseconds >= interval.nanoseconds / 100 * KeepaliveTunables.meantPerCent,
      !isOnOurLink(address)
    else { return }
    emit(.gapPassed(gap, isV4: address.isV4))
  }

  /// Nothing came back in time after a pause.
  mutating func doubtGap(_ i: Int) {
    if records[i].gap != .zero { records[i].isGapDoubtful = true }
  }

  /// A doubtful path answers again: the hole was shut and a second packet of
  /// either end has opened it.
  mutating func gapReopened(_ i: Int) {
    guard records[i].isGapDoubtful else { return }
    let gap = records[i].gap
    forgetGap(i)
    let address = records[i].carrier.remote.address
    guard !isOnOurLink(address) else { return }
    emit(.gapShut(gap, isV4: address.isV4))
  }

  /// A path died. When it was after a pause and the peer is there, a new hole
  /// will show that it was the router.
  mutating func gapEnded(_ i: Int, now: Instant) {
    guard records[i].isGapDoubtful else {
      forgetGap(i)
      return
    }
    let address = records[i].carrier.remote.address
    if !isOnOurLink(address), isPeerThere(since: records[i].gapEnd) {
      shutGap = ShutGap(gap: records[i].gap, isV4: address.isV4, at: now)
    }
    forgetGap(i)
  }

  /// A path came up.
  mutating func confirmGap(_ i: Int, now: Instant) {
    guard let shut = shutGap, records[i].isDatagram,
      records[i].carrier.remote.address.isV4 == shut.isV4
    else { return }
    shutGap = nil
    guard now - shut.at <= KeepaliveTunables.confirmation else { return }
    emit(.gapShut(shut.gap, isV4: shut.isV4))
  }

  /// We stood still, or are elsewhere: pauses mean nothing.
  mutating func forgetGaps(now: Instant) {
    shutGap = nil
    for i in records.indices {
      forgetGap(i)
      records[i].lastSent = now
    }
  }

  private mutating func forgetGap(_ i: Int) {
    records[i].gap = .zero
    records[i].isGapDoubtful = false
  }

  /// The road by way of a relay answered meanwhile; without one nobody can say.
  private func isPeerThere(since: Instant) -> Bool {
    let others = records.filter { !$0.isDatagram }
    return others.isEmpty || others.contains { $0.isUp && $0.lastPong >= since }
  }
}

/// A hole that was shut after a pause; a new one has not been made yet.
struct ShutGap: Sendable {
  var gap: TimeAmount
  var isV4: Bool
  var at: Instant
}
