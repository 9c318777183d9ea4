// Deadlines in order: a binary heap whose entries know their place, so that
// moving or cancelling one costs a logarithm and allocates nothing. Equal
// instants come out in the order they were set. Pure: asks no clock.

internal import Bytes

/// A heap of timers; a timer is named by its slot and the slot's generation.
struct DeadlineHeap {
  struct Token: Hashable {
    var slot: Int32
    var generation: UInt32
  }

  private struct Slot {
    var body: (() -> Void)?
    var deadline = Instant.distantFuture
    var order: UInt64 = 0
    var generation: UInt32 = 0
    /// Where in `heap`; -1 = not set.
    var position: Int32 = -1
    /// Freed after it fired.
    var isOneShot = false
  }

  private var slots: [Slot] = []
  private var free: [Int32] = []
  private var heap: [Int32] = []
  private var order: UInt64 = 0

  /// Timers that are set.
  var count: Int { heap.count }
  /// Timers that exist.
  var slotsInUse: Int { slots.count - free.count }

  var next: Instant { heap.isEmpty ? .distantFuture : slots[Int(heap[0])].deadline }

  mutating func make(isOneShot: Bool, _ body: @escaping () -> Void) -> Token {
    let slot: Int32
    if let reused = free.popLast() {
      slot = reused
    } else {
      slot = Int32(slots.count)
      slots.append(Slot())
    }
    let index = Int(slot)
    slots[index].body = body
    slots[index].isOneShot = isOneShot
    return Token(slot: slot, generation: slots[index].generation)
  }

  func contains(_ token: Token) -> Bool {
    let index = Int(token.slot)
    return index < slots.count && slots[index].generation == token.generation
      && slots[index].body != nil
  }

  /// Sets or moves a deadline; `distantFuture` unsets it.
  mutating func set(_ token: Token, to deadline: Instant) {
    guard contains(token) else { return }
    let index = Int(token.slot)
    if slots[index].position >= 0 {
      if slots[index].deadline == deadline { return }
      if deadline == .distantFuture {
        unlink(index)
        return
      }
      slots[index].deadline = deadline
      stamp(index)
      let position = Int(slots[index].position)
      if !siftUp(position) { siftDown(position) }
    } else if deadline != .distantFuture {
      slots[index].deadline = deadline
      stamp(index)
      slots[index].position = Int32(heap.count)
      heap.append(token.slot)
      _ = siftUp(heap.count - 1)
    }
  }

  /// Returns the body, so that what it holds is released only after this call:
  /// a deinit may come back here.
  @discardableResult
  mutating func remove(_ token: Token) -> (() -> Void)? {
    guard contains(token) else { return nil }
    let index = Int(token.slot)
    let body = slots[index].body
    if slots[index].position >= 0 { unlink(index) }
    release(index)
    return body
  }

  /// The body of the first timer due at `now`, which is thereby unset.
  mutating func popDue(_ now: Instant) -> (() -> Void)? {
    guard let first = heap.first, slots[Int(first)].deadline <= now else { return nil }
    let index = Int(first)
    let body = slots[index].body
    unlink(index)
    if slots[index].isOneShot { release(index) }
    return body
  }

  private mutating func stamp(_ index: Int) {
    order += 1
    slots[index].order = order
  }

  private mutating func release(_ index: Int) {
    slots[index].body = nil
    slots[index].generation &+= 1
    free.append(Int32(index))
  }

  private mutating func unlink(_ index: Int) {
    let position = Int(slots[index].position)
    slots[index].position = -1
    slots[index].deadline = .distantFuture
    let last = heap.removeLast()
    guard position < heap.count else { return }
    heap[position] = last
    slots[Int(last)].position = Int32(position)
    if !siftUp(position) { siftDown(position) }
  }

  private func isBefore(_ a: Int32, _ b: Int32) -> Bool {
    let x = slots[Int(a)].deadline
    let y = slots[Int(b)].deadline
    return x != y ? x < y : slots[Int(a)].order < slots[Int(b)].order
  }

  private mutating func exchange(_ a: Int, _ b: Int) {
    heap.swapAt(a, b)
    slots[Int(heap[a])].position = Int32(a)
    slots[Int(heap[b])].position = Int32(b)
  }

  private mutating func siftUp(_ start: Int) -> Bool {
    var at = start
    while at > 0 {
      let parent = (at - 1) / 2
      guard isBefore(heap[at], heap[parent]) else { break }
      exchange(at, parent)
      at = parent
    }
    return at != start
  }

  private mutating func siftDown(_ start: Int) {
    var at = start
    while true {
      var least = at
      let left = 2 * at + 1
      if left < heap.count, isBefore(heap[left], heap[least]) { least = left }
      if left + 1 < heap.count, isBefore(heap[left + 1], heap[least]) { least = left + 1 }
      guard least != at else { return }
      exchange(at, least)
      at = least
    }
  }
}
