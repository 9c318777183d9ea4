/// Which packet numbers of one lane of the peer arrived: at most 32 ranges,
/// newest first, in place. Older ones fall off the end: such a packet is then
/// sent again for nothing, which only costs bandwidth. RFC 9000 §13.2.3.

/// Received numbers as at most 32 descending ranges.
package struct AckRanges {
  package struct Span: BitwiseCopyable {
    package var lower: UInt64 = 0
    package var upper: UInt64 = 0  // inclusive
  }

  package private(set) var spans = InlineArray<32, Span>(repeating: Span())
  package private(set) var count = 0
  /// Numbers below have fallen off: not known any more.
  package private(set) var floor: UInt64 = 0

  package init() {}

  package enum Arrival {
    /// The next number.
    case inOrder
    /// Ahead of the next: numbers are missing.
    case newGap
    /// Behind the newest: a gap is (partly) filled.
    case late
    case duplicate
    /// Too old to tell.
    case forgotten
  }

  package var largest: UInt64? { count > 0 ? spans[0].upper : nil }

  package mutating func insert(_ number: UInt64) -> Arrival {
    if count == 0 {
      guard number >= floor else { return .forgotten }
      spans[0] = Span(lower: number, upper: number)
      count = 1
      return number == 0 || floor > 0 ? .inOrder : .newGap
    }
    let top = spans[0].upper
    if number == top + 1 {
      spans[0].upper = number
      return .inOrder
    }
    if number > top {
      open(at: 0, number)
      return .newGap
    }
    if number < floor { return .forgotten }
    var at = 0
    while at < count {
      let span = spans[at]
      if number >= span.lower {
        if number <= span.upper { return .duplicate }
        if number == span.upper + 1 {
          spans[at].upper = number
          joinUpwards(at)
          return .late
        }
        open(at: at, number)
        return .late
      }
      if number + 1 == span.lower {
        spans[at].lower = number
        if at + 1 < count, spans[at + 1].upper + 1 == number { joinUpwards(at + 1) }
        return .late
      }
      at += 1
    }
    guard count < 32 else { return .forgotten }
    spans[count] = Span(lower: number, upper: number)
    count += 1
    return .late
  }

  /// Everything up to `number` need not be told again: the peer knows.
  package mutating func forget(through number: UInt64) {
    while count > 1, spans[count - 1].upper <= number { drop() }
    if count == 1, spans[0].lower <= number, spans[0].upper > number {
      spans[0].lower = number + 1
      floor = max(floor, number + 1)
    } else if count > 1, spans[count - 1].lower <= number {
      spans[count - 1].lower = number + 1
      floor = max(floor, number + 1)
    }
  }

  private mutating func drop() {
    count -= 1
    floor = max(floor, spans[count].upper + 1)
  }

  private mutating func open(at index: Int, _ number: UInt64) {
    if count == 32 { drop() }
    var at = count
    while at > index {
      spans[at] = spans[at - 1]
      at -= 1
    }
    spans[index] = Span(lower: number, upper: number)
    count += 1
  }

  /// Joins span `index` with the one above it if they touch.
  private mutating func joinUpwards(_ index: Int) {
    guard index > 0, spans[index].upper + 1 == spans[index - 1].lower else { return }
    spans[index - 1].lower = spans[index].lower
    var at = index
    while at + 1 < count {
      spans[at] = spans[at + 1]
      at += 1
    }
    count -= 1
  }
}
