/// Lanes come, go, are suspected and measured; deadlines; and what becomes of
/// the frames of acknowledged and lost packets.

#if canImport(Bytes)
import Bytes
#endif

extension MuxCore {
  func lane(_ id: LaneID) -> Int? {
    let index = Int(laneIndex[Int(id)])
    return index >= 0 ? index : nil
  }

  func hasLane(_ id: LaneID) -> Bool { lane(id) != nil }

  mutating func addLane(
    _ id: LaneID, kind: LaneKind, maximumPacket: Int, roundTrip: TimeAmount?, marks: LaneMarks,
    now: Instant
  ) {
    precondition(lane(id) == nil, "lane in use")
    advanceClock(now)
    laneIndex[Int(id)] = Int16(lanes.count)
    lanes.append(
      SendLane(
        id: id, kind: kind, maximumPacket: bounded(maximumPacket), firstNumber: nextNumbers[Int(id)],
        algorithm: limits.congestion, roundTrip: roundTrip))
    lanes[lanes.count - 1].marks = marks
  }

  mutating func removeLane(_ id: LaneID, now: Instant) {
    guard let at = lane(id) else { return }
    suspectLane(id, now: now)
    nextNumbers[Int(id)] = lanes[at].sent.next
    laneIndex[Int(id)] = -1
    lanes.swapAt(at, lanes.count - 1)
    lanes.removeLast()
    if at < lanes.count { laneIndex[Int(lanes[at].id)] = Int16(at) }
    if primary == id { primary = nil }
  }

  mutating func suspectLane(_ id: LaneID, now: Instant) {
    guard let at = lane(id) else { return }
    advanceClock(now)
    lanes[at].abandon(now: now, lost: &lostFrames)
    applyLost()
    // Acknowledgements are sent once; those that left by it may be lost, and
    // the peer would wait a probe time-out for them.
    for at in receivers.indices where receivers[at].doubtAcknowledged(now) { lanesOwingAck += 1 }
  }

  mutating func setRoundTrip(_ id: LaneID, _ roundTrip: TimeAmount, now: Instant) {
    guard let at = lane(id) else { return }
    lanes[at].learn(roundTrip: roundTrip, now: now)
  }

  mutating func setMaximumPacket(_ id: LaneID, _ bytes: Int) {
    guard let at = lane(id) else { return }
    lanes[at].setMaximumPacket(bounded(bytes))
  }

  private func bounded(_ bytes: Int) -> Int { min(max(bytes, 64), MuxProtocol.maximumPacket) }

  func laneStatistics(_ id: LaneID) -> LaneStatistics? { lane(id).map { lanes[$0].statistics } }

  func peerLaneStatistics(_ id: LaneID) -> PeerLaneStatistics? {
    let index = Int(receiverIndex[Int(id)])
    guard index >= 0 else { return nil }
    var figures = receivers[index].figures
    if let largest = receivers[index].ranges.largest {
      figures.missing = largest + 1 - min(figures.packets, largest + 1)
    }
    return figures
  }

  var pendingLanes: [LaneID] {
    var result: [LaneID] = []
    for at in lanes.indices where lanes[at].probesPending > 0 { result.append(lanes[at].id) }
    return result
  }

  /// The best knowledge of how long the peer takes to answer.
  var roundTrip: TimeAmount {
    if let primary, let at = lane(primary), lanes[at].hasSample { return lanes[at].smoothed }
    var best: TimeAmount?
    for at in lanes.indices where lanes[at].hasSample {
      best = min(best ?? lanes[at].smoothed, lanes[at].smoothed)
    }
    return best ?? MuxTuning.assumedRoundTrip
  }

  // MARK: Deadlines

  var nextDeadline: Instant {
    mutating get {
      guard failure == nil else { return .distantFuture }
      var next = Instant.distantFuture
      for at in lanes.indices {
        next = min(next, lanes[at].deadline)
        if lanes[at].id == primary { next = min(next, lanes[at].blockedUntil) }
      }
      // One that is due already waits for `fill`, not for time: a driver that
      // cannot send at present must not be woken again and again.
      if lanesOwingAck > 0 {
        for at in receivers.indices where receivers[at].deadline > clock {
          next = min(next, receivers[at].deadline)
        }
      }
      if let first = reassemblies.first { next = min(next, first.deadline) }
      return next
    }
  }

  mutating func advance(to now: Instant) {
    guard failure == nil else { return }
    advanceClock(now)
    for at in lanes.indices {
      if lanes[at].blockedUntil <= now { lanes[at].blockedUntil = .distantFuture }
      // Twice at most: a loss timer that is past uncovers a probe timer.
      while lanes[at].deadline <= now {
        let outcome = lanes[at].expire(now: now, lost: &lostFrames)
        if outcome.probeTimeout {
          tell(.laneProbeTimeout(lanes[at].id, count: lanes[at].probeCount))
          // DESIGN §1.3: what an ordered carrier holds is sent again after a
          // switch away from it, once it misses a deadline; never on itself.
          if lanes[at].kind == .ordered, let primary, primary != lanes[at].id {
            lanes[at].abandon(now: now, lost: &lostFrames)
          }
        }
        report(outcome, lanes[at].id)
        applyLost()
      }
    }
    expireReassemblies(now)
  }

  func hasWork(now: Instant) -> Bool { failure == nil && (hasSendable || owesAck(now)) }

  func owesAck(_ now: Instant) -> Bool {
    guard lanesOwingAck > 0 else { return false }
    for at in receivers.indices where receivers[at].deadline <= now { return true }
    return false
  }

  mutating func report(_ outcome: RecoveryOutcome, _ id: LaneID) {
    if outcome.wasSpurious { tell(.laneLossSpurious(id)) }
    if outcome.wasPersistent { tell(.laneCongestionPersistent(id)) }
  }

  // MARK: Fate of frames

  mutating func applyAcknowledged() {
    var index = 0
    while index < ackedFrames.count {
      let frame = ackedFrames[index]
      index += 1
      if frame.flags == FrameFlags.ackRecord {
        receivers[Int(frame.slot)].ranges.forget(through: frame.offset)
        continue
      }
      let slot = Int(frame.slot)
      guard frame.id != 0, streams[slot].id == frame.id else { continue }
      switch frame.flags {
      case FrameFlags.credit: continue
      case FrameFlags.opened: streams[slot].confirmed.insert(.opened)
      case FrameFlags.rst:
        if streams[slot].sendSide == .reset { streams[slot].sendSide = .resetDelivered }
      default: acknowledgeData(slot, frame)
      }
      closeIfOver(slot)
    }
    ackedFrames.removeAll(keepingCapacity: true)
  }

  private mutating func acknowledgeData(_ slot: Int, _ frame: FrameRecord) {
    if frame.flags & FrameFlags.syn != 0 { confirmOpening(slot) }
    if frame.flags & FrameFlags.fin != 0 { streams[slot].confirmed.insert(.fin) }
    if frame.flags & FrameFlags.data != 0, frame.length > 0 {
      streams[slot].acknowledge(frame.offset, frame.offset + UInt64(frame.length))
    }
    let state = streams[slot].sendSide
    guard state == .open || state == .finishing else { return }
    let isEmpty = streams[slot].sendBase == streams[slot].sendEnd
    if state == .finishing, isEmpty, streams[slot].confirmed.contains(.fin) {
      streams[slot].sendSide = .delivered
    }
    if isEmpty, state == .finishing || isSpare(streams[slot].sendRing.capacity) {
      ringMemory -= streams[slot].sendRing.capacity
      streams[slot].sendRing.releaseMemory()
    }
    tellWritable(slot)
  }

  /// The peer knows our SYN.
  mutating func confirmOpening(_ slot: Int) {
    guard streams[slot].isOurs, !streams[slot].confirmed.contains(.syn) else { return }
    streams[slot].confirmed.insert(.syn)
    streams[slot].control.remove(.syn)
    streams[slot].request = []
    if confirmed.find(streams[slot].id) == .new { confirmed.insert(streams[slot].id) }
  }

  /// Queues the newest form of what was in lost packets.
  mutating func applyLost() {
    defer { lostFrames.removeAll(keepingCapacity: true) }
    if limits.mutations.contains(.noRetransmission) { return }
    var index = 0
    while index < lostFrames.count {
      let frame = lostFrames[index]
      index += 1
      if frame.flags == FrameFlags.ackRecord { continue }
      if frame.id == 0 {
        if frame.offset == sessionReceiveLimit { sessionCreditPending = true }
        continue
      }
      let slot = Int(frame.slot)
      guard streams[slot].id == frame.id else { continue }
      requeue(slot, frame)
    }
  }

  private mutating func requeue(_ slot: Int, _ frame: FrameRecord) {
    let state = streams[slot].sendSide
    switch frame.flags {
    case FrameFlags.credit:
      if streams[slot].receiveSide == .open, frame.offset == streams[slot].receiveLimit {
        scheduleControl(slot, .credit)
      }
      return
    case FrameFlags.opened:
      if !streams[slot].confirmed.contains(.opened), state != .reset, state != .resetDelivered {
        scheduleControl(slot, .opened)
      } else if streams[slot].receiveSide == .open, frame.offset == streams[slot].receiveLimit {
        // An earlier OPENED came through, but this one carried the newest limit.
        scheduleControl(slot, .credit)
      }
      return
    case FrameFlags.rst:
      if state == .reset { scheduleControl(slot, .rst) }
      return
    default: break
    }
    guard state != .reset, state != .resetDelivered else { return }
    // Also when all data and the FIN have arrived: they may overtake the SYN.
    if frame.flags & FrameFlags.syn != 0, !streams[slot].confirmed.contains(.syn) {
      scheduleControl(slot, .syn)
    }
    guard state != .delivered else { return }
    if frame.flags & FrameFlags.fin != 0, !streams[slot].confirmed.contains(.fin) {
      scheduleControl(slot, .fin)
    }
    if frame.flags & FrameFlags.data != 0, frame.length > 0 {
      streams[slot].requeue(frame.offset, frame.offset + UInt64(frame.length))
      schedule(slot)
    }
  }
}
