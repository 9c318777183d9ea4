/// Which of an outbound's targets gets the next connection: round robin over
/// the healthy ones; one that refuses is skipped for a while and retried.

#if canImport(Bytes)
  package import Bytes
#endif

/// Our tunables of target choice.
package enum TargetTuning {
  /// First time a refusing target is skipped for; doubles with each failure.
  package static let firstSkip = TimeAmount.seconds(5)
  package static let longestSkip = TimeAmount.seconds(60)
  /// A dial that has not answered by then has failed.
  package static let dialTimeout = TimeAmount.seconds(10)
}

/// The health of one outbound's targets; positions are those of its list.
package struct TargetChooser: Sendable {
  private struct Health {
    var failures = 0
    var skippedUntil = Instant.distantPast
  }
  private var health: [Health]
  private var cursor = 0

  /// - Parameter count: targets, 1…64.
  package init(count: Int) {
    precondition((1...TunnelLimits.addressesPerTunnel).contains(count))
    health = [Health](repeating: Health(), count: count)
  }

  /// The targets already tried for one connection.
  package struct Tried: Sendable, Hashable {
    var bits: UInt64 = 0
    package init() {}
    func contains(_ index: Int) -> Bool { bits >> UInt64(index) & 1 == 1 }
  }

  /// The target for a connection that has tried `tried`, which it joins; nil
  /// when all were tried. With no healthy one left, the one whose skip ends
  /// first is tried anyway.
  package mutating func pick(_ tried: inout Tried, now: Instant) -> Int? {
    var best: Int?
    for step in 0..<health.count {
      let index = (cursor + step) % health.count
      if tried.contains(index) { continue }
      if health[index].skippedUntil <= now {
        best = index
        break
      }
      if best.map({ health[index].skippedUntil < health[$0].skippedUntil }) ?? true { best = index }
    }
    guard let best else { return nil }
    cursor = (best + 1) % health.count
    tried.bits |= 1 << UInt64(best)
    return best
  }

  /// The target refused, timed out or could not be resolved.
  package mutating func failed(_ index: Int, now: Instant) {
    // Of a former definition.
    guard health.indices.contains(index) else { return }
    var entry = health[index]
    let shift = min(entry.failures, 8)
    entry.failures += 1
    entry.skippedUntil =
      now + min(TargetTuning.firstSkip * (1 << Int64(shift)), TargetTuning.longestSkip)
    health[index] = entry
  }

  package mutating func succeeded(_ index: Int) {
    if health.indices.contains(index) { health[index] = Health() }
  }

  package var count: Int { health.count }

  package func isHealthy(_ index: Int, now: Instant) -> Bool { health[index].skippedUntil <= now }
}
