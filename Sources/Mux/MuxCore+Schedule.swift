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
    let tail: Int32
    switch queue {
    case .none: return
    case .fresh: (tail, fresh.tail) = (fresh.tail, Int32(slot))
    case .old: (tail, old.tail) = (old.tail, Int32(slot))
    case .blocked: (tail, blocked.tail) = (blocked.tail, Int32(slot))
    case .urgent: (tail, urgent.tail) = (urgent.tail, Int32(slot))
    case .parked: (tail, parked.tail) = (parked.tail, Int32(slot))
    }
    streams[slot].queue = queue
    streams[slot].previous = tail
    streams[slot].next = -1
    if tail >= 0 {
      streams[Int(tail)].next = Int32(slot)
    } else {
      switch queue {
      case .none: break
      case .fresh: fresh.head = Int32(slot)
      case .old: old.head = Int32(slot)
      case .blocked: blocked.head = Int32(slot)
      case .urgent: urgent.head = Int32(slot)
      case .parked: parked.head = Int32(slot)
      }
    }
  }

  mutating func unschedule(_ slot: Int) {
    let queue = streams[slot].queue
    guard queue != .none else { return }
    let previous = streams[slot].previous
    let next = streams[slot].next
    if previous >= 0 { streams[Int(previous)].next = next }
    if next >= 0 { streams[Int(next)].previous = previous }
    switch queue {
    case .none: break
    case .fresh:
      if previous < 0 { fresh.head = next }
      if next < 0 { fresh.tail = previous }
    case .old:
      if previous < 0 { old.head = next }
      if next < 0 { old.tail = previous }
    case .blocked:
      if previous < 0 { blocked.head = next }
      if next < 0 { blocked.tail = previous }
    case .urgent:
      if previous < 0 { urgent.head = next }
      if next < 0 { urgent.tail = previous }
    case .parked:
      if previous < 0 { parked.head = next }
      if next < 0 { parked.tail = previous }
    }
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
    while parked.head >= 0 {
      let slot = Int(parked.head)
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
        !urgent.isEmpty
        && (urgentRun < MuxTuning.urgentTurns * quantum || fresh.isEmpty && old.isEmpty)
      let isFresh = !isUrgent && !fresh.isEmpty
      let head = isUrgent ? urgent.head : isFresh ? fresh.head : old.head
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
        streams[slot].deficit += streams[slot].priority == .background
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
    while blocked.head >= 0 {
      let slot = Int(blocked.head)
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
    !control.isEmpty || !urgent.isEmpty || !fresh.isEmpty || !old.isEmpty || sessionCreditPending
      || !datagramQueue.isEmpty
  }
}
