/// What leaves: PONGs, PINGs and size probes, each past the rules that keep us
/// from being a weapon.

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  enum Permission: Equatable {
    case yes
    /// Too much was sent to that address; there is room again at this instant.
    case budget(Instant)
    /// It is learnt and has not sent us enough.
    case factor
  }

  /// The next packet to seal and send, or nil. `budget` is the one of the
  /// whole node. Call until nil after every mutation.
  package mutating func pollProbe(budget: inout ProbeBudget, now: Instant) -> PathProbe? {
    if let unused = unusedGuesses {
      unusedGuesses = nil
      budget.returnGuesses(unused.address, packets: unused.packets, takenAt: unused.paidAt)
    }
    if let opener = pollOpener(budget: &budget, now: now) { return opener }
    guard hasSession else { return nil }
    if let pong = nextPong(budget: &budget, now: now) { return pong }
    for i in records.indices {
      if records[i].wantsPing {
        if let ping = nextPing(i, budget: &budget, now: now) { return ping }
      }
      if records[i].isUp {
        if let probe = nextSizeProbe(i, now: now) { return probe }
      }
    }
    return nextGuess(budget: &budget, now: now)
  }

  /// Whether the owner may send a packet of `bytes` (as on the carrier) of its
  /// own, such as HELLO, through `carrier` now. Always on a path; to a UDP
  /// address that has not answered it is taken from the budget. Unknown: no.
  package mutating func permits(
    _ carrier: Carrier, bytes: Int, budget: inout ProbeBudget, now: Instant
  ) -> Bool {
    guard let i = index(of: carrier),
      maySend(i, bytes: bytes, budget: &budget, now: now) == .yes
    else { return false }
    records[i].bytesSent &+= UInt64(bytes)
    noteLeaving(i, now: now)
    return true
  }

  /// Whether a packet of `bytes` may go to record `i` now; takes it from the
  /// allowances when it may.
  mutating func maySend(
    _ i: Int, bytes: Int, isOpener: Bool = false, budget: inout ProbeBudget, now: Instant
  ) -> Permission {
    guard records[i].isDatagram, !records[i].isUp else { return .yes }
    // What it sent us itself, three times over, it may get back; to one that
    // was named the probe budget besides (DESIGN §1, §2).
    if records[i].unprovenSent + bytes <= records[i].unprovenReceived * PathLimits.learntFactor {
      records[i].unprovenSent += bytes
      return .yes
    }
    if records[i].source == .fromPacket && !records[i].wasProven { return .factor }
    let address = records[i].carrier.remote.address
    guard budget.take(address, bytes: bytes, isOpener: isOpener, now: now) else {
      return .budget(budget.nextFree(address, now: now))
    }
    return .yes
  }

  private mutating func nextPong(budget: inout ProbeBudget, now: Instant) -> PathProbe? {
    while !pongs.isEmpty {
      let pong = pongs.removeFirst()
      guard let i = index(of: pong.carrier) else { continue }
      let message = PathMessage.pong(
        challenge: pong.challenge, answeredSize: pong.size,
        observed: pong.carrier.kind == .udp ? pong.carrier.remote : nil)
      let size = message.fieldBytes
      guard maySend(i, bytes: PathSizes.sealed(size), budget: &budget, now: now) == .yes else {
        counters.pongsWithheld &+= 1
        continue
      }
      records[i].bytesSent &+= UInt64(PathSizes.sealed(size))
      noteLeaving(i, now: now)
      return PathProbe(carrier: pong.carrier, message: message, size: size)
    }
    return nil
  }

  private mutating func nextPing(
    _ i: Int, budget: inout ProbeBudget, now: Instant
  ) -> PathProbe? {
    records[i].wantsPing = false
    // Two causes at one moment are one ping.
    if !records[i].isUp, now - records[i].lastPing < PathTunables.triggeredGap { return nil }
    let size = PathMessage.shortestPing
    switch maySend(i, bytes: PathSizes.sealed(size), budget: &budget, now: now) {
    case .yes:
      break
    case .budget(let free):
      counters.probesDeferredByBudget &+= 1
      records[i].nextAction = max(records[i].nextAction, free)
      // The round goes on where it stopped.
      if records[i].roundProbes > 0, records[i].state != .lost { records[i].roundProbes -= 1 }
      refreshDeadline(now)
      return nil
    case .factor:
      counters.probesDeferredByFactor &+= 1
      return nil
    }
    let challenge = random.next()
    records[i].addChallenge(challenge, now: now)
    records[i].lastPing = now
    noteLeaving(i, now: now)
    records[i].probesSent &+= 1
    records[i].bytesSent &+= UInt64(PathSizes.sealed(size))
    if records[i].isUp {
      if records[i].unanswered == 0 { records[i].firstUnanswered = now }
      records[i].unanswered += 1
      setPathAction(i, now: now)
    }
    return PathProbe(
      carrier: records[i].carrier, message: .ping(challenge: challenge, size: size), size: size,
      timeToLive: staysAtHome(i, now: now)
        ? openerTimeToLive(to: records[i].carrier.remote.address) : 0)
  }

  /// Full-size probes: only on proven paths.
  private mutating func nextSizeProbe(_ i: Int, now: Instant) -> PathProbe? {
    let size: Int
    let challenge: UInt64
    if records[i].wantsDataProbe {
      records[i].wantsDataProbe = false
      size = records[i].maximumPacket
      challenge = random.next()
      records[i].dataProbe = PathChallenge(value: challenge, sentAt: now, isUsed: true)
    } else if records[i].isDatagram,
      let wanted = records[i].datagramSize.nextProbe(
        mayRaise: isActive(now), now: now)
    {
      size = wanted
      challenge = random.next()
      records[i].datagramSize.sent(
        size: size, challenge: challenge, timeout: records[i].roundTrip.timeout, now: now)
    } else {
      return nil
    }
    noteLeaving(i, now: now)
    records[i].probesSent &+= 1
    records[i].bytesSent &+= UInt64(PathSizes.sealed(size))
    setPathAction(i, now: now)
    return PathProbe(
      carrier: records[i].carrier, message: .sizeProbe(challenge: challenge, size: size),
      size: size)
  }
}
