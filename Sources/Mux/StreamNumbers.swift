/// Stream ids: which ones were ever seen (a watermark and a bounded set, so
/// that no SYN is ever taken for new twice), and where a live one is kept.
/// Ids wrap; comparisons are RFC 1982's on the 31 bits above the parity.

/// The ids of one parity that were seen.
package struct SeenStreams {
  /// Parity bit of the ids: 1 odd, 0 even.
  package let parity: UInt32
  /// Every index before it was seen.
  package private(set) var watermark: UInt32 = 0
  /// One bit per index, modulo 65,536; allocated when ids come out of order.
  private var bits: [UInt64] = []
  private var ahead = 0

  package static let indexMask: UInt32 = 0x7fff_ffff

  package enum Finding { case seen, new, tooFar }

  package init(role: MuxRole) { parity = role == .odd ? 1 : 0 }

  /// For tests: begins at another id.
  package init(role: MuxRole, startingAt id: UInt32) {
    self.init(role: role)
    watermark = index(id)
  }

  /// The position of an id in the order of opening: 1, 3, 5, … or 2, 4, 6, …
  package func index(_ id: UInt32) -> UInt32 { (id &- (2 - parity)) >> 1 }
  package func id(_ index: UInt32) -> UInt32 { (index << 1) &+ (2 - parity) }

  package func find(_ id: UInt32) -> Finding {
    let index = index(id)
    let distance = (index &- watermark) & Self.indexMask
    if distance >= 1 << 30 { return .seen }
    if distance > MuxProtocol.streamDistance / 2 { return .tooFar }
    if ahead == 0 { return .new }
    let bit = Int(index & 0xffff)
    return bits[bit >> 6] >> UInt64(bit & 63) & 1 == 1 ? .seen : .new
  }

  /// Marks a `.new` id as seen.
  package mutating func insert(_ id: UInt32) {
    let index = index(id)
    if index == watermark, ahead == 0 {
      step()
      return
    }
    if bits.isEmpty { bits = [UInt64](repeating: 0, count: 1024) }
    let bit = Int(index & 0xffff)
    bits[bit >> 6] |= 1 << UInt64(bit & 63)
    ahead += 1
    while ahead > 0 {
      let bit = Int(watermark & 0xffff)
      guard bits[bit >> 6] >> UInt64(bit & 63) & 1 == 1 else { break }
      bits[bit >> 6] &= ~(1 << UInt64(bit & 63))
      ahead -= 1
      step()
    }
  }

  private mutating func step() {
    watermark = (watermark &+ 1) & Self.indexMask
    // Id 0 is the session: the even side has no such stream.
    if id(watermark) == 0 { watermark = 0 }
  }

  /// How many ids `index` lies above the watermark.
  package func distance(_ index: UInt32) -> UInt32 { (index &- watermark) & Self.indexMask }
}

/// Live streams by id: open addressing with linear probing. 0 is no id.
package struct StreamTable {
  private var keys: [UInt32] = [UInt32](repeating: 0, count: 16)
  private var slots: [Int32] = [Int32](repeating: 0, count: 16)
  package private(set) var count = 0

  package init() {}

  private func home(_ id: UInt32) -> Int {
    Int(truncatingIfNeeded: (id &* 0x9e37_79b1) >> 7) & (keys.count - 1)
  }

  package func find(_ id: UInt32) -> Int? {
    var at = home(id)
    while keys[at] != 0 {
      if keys[at] == id { return Int(slots[at]) }
      at = (at + 1) & (keys.count - 1)
    }
    return nil
  }

  package mutating func insert(_ id: UInt32, _ slot: Int) {
    if (count + 1) * 2 > keys.count { grow() }
    var at = home(id)
    while keys[at] != 0 { at = (at + 1) & (keys.count - 1) }
    keys[at] = id
    slots[at] = Int32(slot)
    count += 1
  }

  package mutating func remove(_ id: UInt32) {
    let mask = keys.count - 1
    var at = home(id)
    while keys[at] != id {
      if keys[at] == 0 { return }
      at = (at + 1) & mask
    }
    // Close the hole by moving back whatever may stand there.
    var hole = at
    var next = (at + 1) & mask
    while keys[next] != 0 {
      let wanted = home(keys[next])
      if (next &- wanted) & mask >= (next &- hole) & mask {
        keys[hole] = keys[next]
        slots[hole] = slots[next]
        hole = next
      }
      next = (next + 1) & mask
    }
    keys[hole] = 0
    count -= 1
  }

  private mutating func grow() {
    let oldKeys = keys
    let oldSlots = slots
    keys = [UInt32](repeating: 0, count: oldKeys.count * 2)
    slots = [Int32](repeating: 0, count: oldKeys.count * 2)
    count = 0
    for (at, key) in oldKeys.enumerated() where key != 0 { insert(key, Int(oldSlots[at])) }
  }
}
