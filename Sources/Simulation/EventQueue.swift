/// What happens when: a binary heap of events in virtual time. Events of the
/// same instant come out in the order they went in, so that a run repeats.

#if canImport(Bytes)
  internal import Bytes
#endif

/// Events ordered by time, then by insertion.
struct EventQueue<Event> {
  private struct Entry {
    var at: Int64
    var order: UInt64
    var event: Event
  }
  private var heap: [Entry] = []
  private var inserted: UInt64 = 0

  var count: Int { heap.count }
  var nextAt: Instant? { heap.first.map { Instant(nanoseconds: $0.at) } }

  mutating func insert(_ event: Event, at: Instant) {
    inserted += 1
    heap.append(Entry(at: at.nanoseconds, order: inserted, event: event))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard precedes(child, parent) else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func popFirst() -> (at: Instant, event: Event)? {
    guard !heap.isEmpty else { return nil }
    heap.swapAt(0, heap.count - 1)
    let entry = heap.removeLast()
    var parent = 0
    while true {
      var best = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
        if precedes(child, best) { best = child }
      }
      if best == parent { break }
      heap.swapAt(best, parent)
      parent = best
    }
    return (Instant(nanoseconds: entry.at), entry.event)
  }

  private func precedes(_ a: Int, _ b: Int) -> Bool {
    heap[a].at != heap[b].at ? heap[a].at < heap[b].at : heap[a].order < heap[b].order
  }
}
