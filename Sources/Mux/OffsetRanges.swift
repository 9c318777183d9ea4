/// A sorted set of stream offsets as disjoint ranges: what was acknowledged
/// out of order, what must be sent again, what arrived ahead of a gap. Tuned
/// for sets that are nearly always empty or touched at one end.

/// The offsets `lower..<upper`; never empty inside a set.
package struct OffsetRange: Equatable {
  package var lower: UInt64
  package var upper: UInt64

  package init(lower: UInt64, upper: UInt64) {
    self.lower = lower
    self.upper = upper
  }
}

package struct OffsetRanges {
  package private(set) var ranges: [OffsetRange] = []

  package init() {}

  package var isEmpty: Bool { ranges.isEmpty }
  package var count: Int { ranges.count }
  package var first: OffsetRange? { ranges.first }

  package mutating func removeAll() { if !ranges.isEmpty { ranges.removeAll() } }

  /// Index of the first range that ends at or behind `offset`.
  private func index(endingAtOrBehind offset: UInt64) -> Int {
    var low = 0
    var high = ranges.count
    while low < high {
      let middle = (low + high) / 2
      if ranges[middle].upper < offset { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Adds `lower..<upper`, joining what it touches.
  package mutating func insert(_ lower: UInt64, _ upper: UInt64) {
    guard lower < upper else { return }
    guard let last = ranges.last, last.upper >= lower else {
      ranges.append(OffsetRange(lower: lower, upper: upper))
      return
    }
    if last.lower <= lower {
      if upper > last.upper { ranges[ranges.count - 1].upper = upper }
      return
    }
    let from = index(endingAtOrBehind: lower)
    var to = from
    var joined = OffsetRange(lower: lower, upper: upper)
    while to < ranges.count, ranges[to].lower <= upper {
      joined.lower = min(joined.lower, ranges[to].lower)
      joined.upper = max(joined.upper, ranges[to].upper)
      to += 1
    }
    if to == from {
      ranges.insert(joined, at: from)
    } else {
      ranges[from] = joined
      if to > from + 1 { ranges.removeSubrange((from + 1)..<to) }
    }
  }

  /// Takes `lower..<upper` out.
  package mutating func remove(_ lower: UInt64, _ upper: UInt64) {
    guard lower < upper, !ranges.isEmpty else { return }
    var at = index(endingAtOrBehind: lower)
    while at < ranges.count, ranges[at].lower < upper {
      let range = ranges[at]
      if range.upper <= lower {
        at += 1
      } else if range.lower < lower, range.upper > upper {
        ranges[at].upper = lower
        ranges.insert(OffsetRange(lower: upper, upper: range.upper), at: at + 1)
        return
      } else if range.lower < lower {
        ranges[at].upper = lower
        at += 1
      } else if range.upper > upper {
        ranges[at].lower = upper
        return
      } else {
        ranges.remove(at: at)
      }
    }
  }

  /// Takes at most `limit` offsets from the front.
  package mutating func takeFirst(_ limit: Int) -> OffsetRange? {
    guard let first = ranges.first, limit > 0 else { return nil }
    if first.upper - first.lower <= UInt64(limit) {
      ranges.removeFirst()
      return first
    }
    ranges[0].lower = first.lower + UInt64(limit)
    return OffsetRange(lower: first.lower, upper: first.lower + UInt64(limit))
  }

  /// Removes ranges that begin at or before `end` and says how far they reach.
  package mutating func join(_ end: UInt64) -> UInt64 {
    var end = end
    var joined = 0
    while joined < ranges.count, ranges[joined].lower <= end {
      end = max(end, ranges[joined].upper)
      joined += 1
    }
    if joined > 0 { ranges.removeFirst(joined) }
    return end
  }

  /// Calls `body` with the parts of `lower..<upper` that are not in the set.
  package func forEachGap(_ lower: UInt64, _ upper: UInt64, _ body: (UInt64, UInt64) -> Void) {
    var from = lower
    var at = index(endingAtOrBehind: lower)
    while from < upper {
      guard at < ranges.count, ranges[at].lower < upper else {
        body(from, upper)
        return
      }
      if ranges[at].lower > from { body(from, ranges[at].lower) }
      from = max(from, ranges[at].upper)
      at += 1
    }
  }
}
