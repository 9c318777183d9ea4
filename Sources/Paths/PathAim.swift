/// What the traffic of a pair wants of its road. It changes what paths cost in the
/// choice, nothing else. docs/protocol/paths.md "Choice".

#if canImport(Bytes)
  package import Bytes
#endif

package enum PathAim: String, Sendable {
  /// Round trip, loss and tier.
  case usual
  /// The shortest round trip: the tier counts a quarter.
  case roundTrip = "round-trip"
  /// The road that moves most: also what it takes to move `bulkBytes` there.
  case goodput
}

extension PathTunables {
  static let tierShareForRoundTrip: Int64 = 4
  static let bulkBytes = 262_144.0
  static let bulkCostCeiling: Int64 = 10_000_000
  /// What a path moved is believed so long; then it may be tried again.
  static let goodputMemory = TimeAmount.seconds(120)
}

extension PeerPaths {
  /// What the streams of now want.
  package mutating func setAim(_ new: PathAim, now: Instant) {
    guard new != aim else { return }
    aim = new
    for i in records.indices { records[i].aim = new }
    choose(now: now)
    refreshDeadline(now)
  }

  /// What `lane` moved while there was enough to send.
  package mutating func goodput(on lane: UInt8, bytesPerSecond: Double, now: Instant) {
    guard bytesPerSecond > 0, let i = index(of: lane) else { return }
    records[i].goodput = bytesPerSecond
    records[i].goodputAt = now
    guard aim == .goodput else { return }
    choose(now: now)
    refreshDeadline(now)
  }

  mutating func forgetGoodput(now: Instant) {
    for i in records.indices
    where records[i].goodput > 0 && now - records[i].goodputAt > PathTunables.goodputMemory {
      records[i].goodput = 0
    }
  }
}

extension PathRecord {
  /// Microseconds to move what bulk is measured by; nothing while unknown, so
  /// that a road which may be better gets tried.
  var bulkCost: Int64 {
    guard goodput > 0 else { return 0 }
    return min(
      PathTunables.bulkCostCeiling, Int64(PathTunables.bulkBytes / goodput * 1_000_000))
  }
}
