/// CoDel, the controlled-delay rule for one queue: RFC 8289 §5 (its pseudocode
/// is followed step by step). It decides which packets at the front of a queue
/// are dropped instead of sent; it never looks into them.
#if canImport(Bytes)
  package import Bytes
#endif

/// The state of RFC 8289 §5.3, one per direction of a channel.
package struct DelayControl: Sendable {
  /// When the delay will have been above target for a whole interval; nil
  /// while it is below.
  package private(set) var firstAbove: Instant?
  /// When to drop next, while dropping.
  package private(set) var dropNext = Instant.distantPast
  /// Drops since dropping began.
  package private(set) var count = 0
  private var lastCount = 0
  package private(set) var isDropping = false

  package init() {}

  /// RFC 8289 §5.5 `dodeque`, for the packet now at the front.
  /// - Parameters:
  ///   - bytesBehind: bytes queued behind it.
  ///   - target: 10 ms, or longer where a packet's turn takes longer.
  /// - Returns: whether it may be dropped.
  private mutating func mayDrop(
    sojourn: TimeAmount, bytesBehind: Int, largest: Int, target: TimeAmount, now: Instant
  ) -> Bool {
    if sojourn < target || bytesBehind <= largest {
      firstAbove = nil
      return false
    }
    guard let above = firstAbove else {
      firstAbove = now + RelaySpecification.interval
      return false
    }
    return now >= above
  }

  /// RFC 8289 §5.4: the nth drop comes interval/√n after the one before.
  package static func next(after instant: Instant, count: Int) -> Instant {
    let interval = Double(RelaySpecification.interval.nanoseconds)
    return instant + .nanoseconds(Int64(interval / Double(max(count, 1)).squareRoot()))
  }

  /// Drops what the rule wants dropped from the front of `queue`.
  /// - Parameter largest: the largest packet this queue has seen: a queue of
  ///   one packet is not a standing queue.
  /// - Returns: packets dropped; the queue may be empty afterwards.
  package mutating func admit(
    _ queue: PacketRing, largest: Int, target: TimeAmount, now: Instant
  ) -> Int {
    var dropped = 0
    var droppable = check(queue, largest: largest, target: target, now: now)
    if isDropping {
      if !droppable { isDropping = false }
      while isDropping, now >= dropNext {
        queue.removeFront()
        dropped += 1
        count += 1
        droppable = check(queue, largest: largest, target: target, now: now)
        if droppable {
          dropNext = Self.next(after: dropNext, count: count)
        } else {
          isDropping = false
        }
      }
    } else if droppable {
      queue.removeFront()
      dropped += 1
      _ = check(queue, largest: largest, target: target, now: now)
      isDropping = true
      // RFC 8289 §5.5: soon after the last time, go on where it stopped.
      let sinceLast = count - lastCount
      let recently = now - dropNext < RelaySpecification.interval * 16
      count = sinceLast > 1 && recently ? sinceLast : 1
      dropNext = Self.next(after: now, count: count)
      lastCount = count
    }
    return dropped
  }

  private mutating func check(
    _ queue: PacketRing, largest: Int, target: TimeAmount, now: Instant
  ) -> Bool {
    guard !queue.isEmpty else {
      firstAbove = nil
      return false
    }
    return mayDrop(
      sojourn: now - queue.frontStamp, bytesBehind: queue.byteCount - queue.frontCount,
      largest: largest, target: target, now: now)
  }
}
