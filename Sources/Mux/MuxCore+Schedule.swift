/// Which stream sends next: deficit round robin in O(1), with streams that
/// were idle served once ahead of the rest (as FQ-CoDel, RFC 8290 §4.2, does),
/// so that a keystroke does not wait for a thousand bulk streams. Urgent streams
/// have a line of their own before both, and leave the others a share; streams
/// that avoid the lane in use are parked until another is.

#if canImport(Bytes)
  import Bytes
#endif

extension MuxCore {
  // MARK: Data

  private mutating func append(_ slot: Int, to queue: MuxStream.Queue) {
    let tail = lines[queue].tail
    streams[slot].queue = queue
    streams[slot].previous = tail
    streams[slot].next = -1
    if tail >= 0 {
      streams[Int(tail)].next = Int32(slot)
    } else {
      lines[queue].head = Int32(slot)
    }
    lines[queue].tail = Int32(slot)
  }

  mutating func unschedule(_ slot: Int) {
    let queue = streams[slot].queue
    guard queue != .none else { return }
    let previous = streams[slot].previous
    let next = streams[slot].next
    if previous >= 0 { streams[Int(previous)].next = next } else { lines[queue].head = next }
    if next >= 0 { streams[Int(next)].previous = previous } else { lines[queue].tail = previous }
    streams[slot].queue = .none
  }

  /// Puts a stream in line if it has data to send.
  mutating func schedule(_ slot: Int) {
    guard streams[slot].hasData else { return }
    switch streams[slot].queue {
    case .fresh, .old, .urgent, .parked: return
    case .blocked:
      guard !streams[slot].lost.isEmpty || sessionRoom > 0 else { return }
      unschedule(slot)
    case .none: break
    }
    switch streams[slot].priority {
    case .urgent:
      streams[slot].deficit = MuxTuning.headStart
      append(slot, to: .urgent)
    case .usual:
      streams[slot].deficit = MuxTuning.headStart
      append(slot, to: .fresh)
    case .background:
      streams[slot].deficit = 0
      append(slot, to: .old)
    }
  }

  /// Where a stream waits that has had its head start.
  private func line(_ slot: Int) -> MuxStream.Queue {
    streams[slot].priority == .urgent ? .urgent : .old
  }

  mutating func setTerms(_ slot: Int, priority: StreamPriority, avoids: LaneMarks) {
    streams[slot].priority = priority
    streams[slot].avoids = avoids
    unschedule(slot)
    schedule(slot)
  }

  /// Data leaves on a lane with these marks from now on.
  mutating func turn(to marks: LaneMarks) {
    guard marks != marksInUse else { return }
    marksInUse = marks
    while lines[.parked].head >= 0 {
      let slot = Int(lines[.parked].head)
      unschedule(slot)
      append(slot, to: line(slot))
    }
  }

  func isPermitted(_ slot: Int) -> Bool { streams[slot].avoids.isDisjoint(with: marksInUse) }

  /// The slot whose turn it is, or nil. Streams that have nothing leave the
  /// line; one whose deficit is used up goes to the end of it.
  mutating func nextSlot(quantum: Int) -> Int? {
    while true {
      let isUrgent =
        !lines[.urgent].isEmpty
        && (urgentRun < MuxTuning.urgentTurns * quantum
          || lines[.fresh].isEmpty && lines[.old].isEmpty)
      let isFresh = !isUrgent && !lines[.fresh].isEmpty
      let head = isUrgent ? lines[.urgent].head : isFresh ? lines[.fresh].head : lines[.old].head
      guard head >= 0 else { return nil }
      let slot = Int(head)
      guard streams[slot].hasData else {
        unschedule(slot)
        // A fresh stream that ran dry waits in the old line, or it could come
        // back at the front for ever.
        if isFresh { append(slot, to: .old) }
        continue
      }
      guard isPermitted(slot) else {
        unschedule(slot)
        append(slot, to: .parked)
        continue
      }
      if streams[slot].lost.isEmpty, sessionRoom == 0 {
        unschedule(slot)
        append(slot, to: .blocked)
        continue
      }
      if streams[slot].deficit <= 0 {
        streams[slot].deficit +=
          streams[slot].priority == .background
          ? max(1, quantum / MuxTuning.backgroundPart) : quantum
        unschedule(slot)
        append(slot, to: line(slot))
        continue
      }
      return slot
    }
  }

  /// The session has credit again.
  mutating func unblockAll() {
    while lines[.blocked].head >= 0 {
      let slot = Int(lines[.blocked].head)
      unschedule(slot)
      append(slot, to: line(slot))
    }
  }

  var sessionRoom: UInt64 {
    if limits.mutations.contains(.ignorePeerCredit) { return .max / 2 }
    return sessionSendLimit - min(sessionSent, sessionSendLimit)
  }

  // MARK: Control

  mutating func scheduleControl(_ slot: Int, _ frames: ControlFrames) {
    streams[slot].control.formUnion(frames)
    guard !streams[slot].isInControl else { return }
    streams[slot].isInControl = true
    streams[slot].controlPrevious = control.tail
    streams[slot].controlNext = -1
    if control.tail >= 0 {
      streams[Int(control.tail)].controlNext = Int32(slot)
    } else {
      control.head = Int32(slot)
    }
    control.tail = Int32(slot)
  }

  mutating func unscheduleControl(_ slot: Int) {
    guard streams[slot].isInControl else { return }
    let previous = streams[slot].controlPrevious
    let next = streams[slot].controlNext
    if previous >= 0 { streams[Int(previous)].controlNext = next } else { control.head = next }
    if next >= 0 { streams[Int(next)].controlPrevious = previous } else { control.tail = previous }
    streams[slot].isInControl = false
  }

  /// Something besides acknowledgements could be written.
  var hasSendable: Bool {
    !control.isEmpty || !lines[.urgent].isEmpty || !lines[.fresh].isEmpty || !lines[.old].isEmpty
      || sessionCreditPending
      || !datagramQueue.isEmpty
  }
}
