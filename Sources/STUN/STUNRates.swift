/// How often whom: a fixed table of slots, so that a flood of made-up sources
/// costs no memory and can push nobody out. Sources that share a slot share its
/// rate; which do follows from a random key. One number per slot, the time at
/// which it will be empty again (the generic cell rate algorithm).

#if canImport(Bytes)
  package import Bytes
#endif

package struct STUNRates: Sendable {
  package enum Verdict: Sendable { case allowed, sourceLimit, totalLimit }

  private struct Rate: Sendable {
    var interval: Int64
    var room: Int64

    init(perSecond: Int, burst: Int) {
      precondition(perSecond > 0 && burst > 0)
      interval = 1_000_000_000 / Int64(perSecond)
      room = interval * Int64(burst)
    }

    /// Takes one at `now` from a slot that is empty at `empty`.
    func take(_ empty: inout Int64, _ now: Int64) -> Bool {
      let next = max(empty, now) + interval
      guard next - now <= room else { return false }
      empty = next
      return true
    }
  }

  private let source: Rate
  private let total: Rate
  private let keys: (UInt64, UInt64)
  private var slots: [Int64]
  private var all = Int64.min / 2

  package init(_ limits: STUNResponderLimits, _ random: SeededRandom) {
    precondition(limits.sources > 0 && limits.sources & (limits.sources - 1) == 0)
    var random = random
    source = Rate(perSecond: limits.sourceRate, burst: limits.sourceBurst)
    total = Rate(perSecond: limits.totalRate, burst: limits.totalBurst)
    keys = (random.next(), random.next() | 1)
    slots = [Int64](repeating: .min / 2, count: limits.sources)
  }

  package mutating func take(_ address: IPAddress, now: Instant) -> Verdict {
    let slot = slot(of: address)
    // A source that has had enough must not use up what all share.
    var empty = slots[slot]
    guard source.take(&empty, now.nanoseconds) else { return .sourceLimit }
    guard total.take(&all, now.nanoseconds) else { return .totalLimit }
    slots[slot] = empty
    return .allowed
  }

  private func slot(of address: IPAddress) -> Int {
    // The whole of an IPv4 address; of IPv6 the network, which is one owner's.
    var word = (address.isV4 ? address.low : address.high) ^ keys.0
    word = (word ^ word >> 32) &* keys.1
    word = (word ^ word >> 29) &* 0x9e37_79b9_7f4a_7c15
    return Int(word >> 40) & (slots.count - 1)
  }
}
