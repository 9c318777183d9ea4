/// The sessions of a UDP tunnel: who sent a datagram to which listener, and
/// what carries the answers back. Sessions end after being idle. Oldest first
/// in a list threaded through the slots, so that touching one and finding the
/// next to expire cost the same for ten or ten thousand.

#if canImport(Bytes)
  package import Bytes
#endif

/// Our tunables of UDP sessions.
package enum DatagramTuning {
  /// Idle sessions end after this (settable).
  package static let idleTime = TimeAmount.minutes(5)
  /// Sessions of one listener table.
  package static let maximumSessions = 16_384
}

/// Sessions by (listener, caller), each with a handle of the driver's.
package struct DatagramSessions<Handle: Sendable>: Sendable {
  package struct Key: Hashable, Sendable {
    package var listener: UInt32
    package var caller: Endpoint
    package init(listener: UInt32, caller: Endpoint) {
      self.listener = listener
      self.caller = caller
    }
  }
  private struct Slot {
    var key: Key
    var handle: Handle?
    var lastUsed: Instant
    var previous: Int32
    var next: Int32
  }
  private static var none: Int32 { -1 }

  private let limit: Int
  private let idle: TimeAmount
  private var slots: [Slot] = []
  private var free: [Int32] = []
  private var index: [Key: Int32] = [:]
  private var oldest: Int32 = -1
  private var newest: Int32 = -1
  /// Datagrams for which there was no room.
  package private(set) var refusedCount: UInt64 = 0

  package init(
    limit: Int = DatagramTuning.maximumSessions, idle: TimeAmount = DatagramTuning.idleTime
  ) {
    precondition(limit > 0 && idle > .zero)
    self.limit = limit
    self.idle = idle
  }

  package var count: Int { index.count }

  /// The session's handle; using it keeps it alive.
  package mutating func use(_ key: Key, now: Instant) -> Handle? {
    guard let slot = index[key] else { return nil }
    unlink(slot)
    link(slot, now)
    return slots[Int(slot)].handle
  }

  /// A new session; false (counted) when the table is full. The key must be new.
  package mutating func insert(_ key: Key, _ handle: Handle, now: Instant) -> Bool {
    precondition(index[key] == nil)
    guard index.count < limit else {
      refusedCount += 1
      return false
    }
    let slot: Int32
    if let reused = free.popLast() {
      slot = reused
      slots[Int(slot)].key = key
      slots[Int(slot)].handle = handle
    } else {
      slot = Int32(slots.count)
      slots.append(
        Slot(key: key, handle: handle, lastUsed: now, previous: Self.none, next: Self.none))
    }
    index[key] = slot
    link(slot, now)
    return true
  }

  @discardableResult
  package mutating func remove(_ key: Key) -> Handle? {
    guard let slot = index.removeValue(forKey: key) else { return nil }
    unlink(slot)
    let handle = slots[Int(slot)].handle
    slots[Int(slot)].handle = nil
    free.append(slot)
    return handle
  }

  /// When the next session becomes idle.
  package var nextDeadline: Instant {
    oldest == Self.none ? .distantFuture : slots[Int(oldest)].lastUsed + idle
  }

  /// One session that has been idle for too long; ask until nil.
  package mutating func pollExpired(now: Instant) -> (key: Key, handle: Handle)? {
    guard oldest != Self.none, nextDeadline <= now else { return nil }
    let key = slots[Int(oldest)].key
    guard let handle = remove(key) else { return nil }
    return (key, handle)
  }

  private mutating func link(_ slot: Int32, _ now: Instant) {
    slots[Int(slot)].lastUsed = now
    slots[Int(slot)].previous = newest
    slots[Int(slot)].next = Self.none
    if newest == Self.none { oldest = slot } else { slots[Int(newest)].next = slot }
    newest = slot
  }

  private mutating func unlink(_ slot: Int32) {
    let (previous, next) = (slots[Int(slot)].previous, slots[Int(slot)].next)
    if previous == Self.none { oldest = next } else { slots[Int(previous)].next = next }
    if next == Self.none { newest = previous } else { slots[Int(next)].previous = previous }
  }
}
