/// How long a quiet hole through the routers of one network may be left alone:
/// learnt from pairs that were quiet and then were, or were not, heard. One
/// value per address family of a node, kept while the network stays the same.
/// It never goes beyond `KeepaliveTunables.longest`, and after a hole was found
/// shut it does not try again for hours. docs/protocol/punching.md "Keepalive".

#if canImport(Bytes)
  package import Bytes
#endif

/// Our own choices.
package enum KeepaliveTunables {
  /// Most home routers: 30 s and more. RFC 4787 §4.3 wants 2 min and more.
  package static let initial = TimeAmount.seconds(20)
  package static let shortest = TimeAmount.seconds(10)
  /// Under the 2 min of RFC 4787 and Linux. Longer would save nothing: a ping
  /// past WireGuard's 120 s is a handshake.
  package static let longest = TimeAmount.seconds(100)
  /// Shorter pauses say nothing about a router.
  package static let shortestGap = TimeAmount.seconds(8)
  /// Pings come up to this share (per mille) sooner, so that two ends and many
  /// pairs do not move in step.
  package static let earlyPerMille: Int64 = 125
  /// A gap of this share of the interval is one that was meant.
  package static let meantPerCent: Int64 = 85
  /// Gaps in a row that must pass before a longer one is tried.
  package static let passes = 3
  package static let growthPerCent: Int64 = 130
  /// Of the gap that was too long, where less is not known.
  package static let retreatPerCent: Int64 = 75
  /// Longer ones are tried again after this, doubled each time: routers and
  /// coincidences change.
  package static let rest = TimeAmount.hours(6)
  package static let longestRest = TimeAmount.hours(48)
  /// A direct path must be back so soon after a hole was found shut: otherwise
  /// something else was wrong.
  package static let confirmation = TimeAmount.seconds(20)
}

package struct KeepaliveInterval: Equatable, Sendable {
  /// What is used now.
  package private(set) var current = KeepaliveTunables.initial
  /// The shortest pause after which a hole was shut; nil: none was.
  package private(set) var shutAfter: TimeAmount?
  /// The longest pause that a hole outlived.
  private var survived: TimeAmount?
  private var passes = 0
  private var rest = KeepaliveTunables.rest
  private var restUntil = Instant.distantPast

  package init() {}

  /// A hole was still open after `gap` of silence in both directions.
  /// - Returns: whether `current` is another.
  package mutating func passed(_ gap: TimeAmount, now: Instant) -> Bool {
    guard gap.nanoseconds >= current.nanoseconds / 100 * KeepaliveTunables.meantPerCent else {
      return false
    }
    survived = max(survived ?? gap, gap)
    passes += 1
    guard passes >= KeepaliveTunables.passes else { return false }
    passes = 0
    guard current < KeepaliveTunables.longest, now >= restUntil else { return false }
    current = min(
      .nanoseconds(current.nanoseconds / 100 * KeepaliveTunables.growthPerCent),
      KeepaliveTunables.longest)
    return true
  }

  /// A hole was shut after `gap`, and a new one was made soon.
  /// - Returns: whether `current` is another.
  package mutating func shut(_ gap: TimeAmount, now: Instant) -> Bool {
    guard gap >= KeepaliveTunables.shortestGap else { return false }
    passes = 0
    let safe = TimeAmount.nanoseconds(gap.nanoseconds / 100 * KeepaliveTunables.retreatPerCent)
    shutAfter = min(shutAfter ?? gap, gap)
    let held = min(survived ?? safe, safe)
    survived = held
    // Several pairs find out about one trial.
    if now >= restUntil {
      restUntil = now + rest
      rest = min(rest * 2, KeepaliveTunables.longestRest)
    }
    let before = current
    current = max(min(current, held), KeepaliveTunables.shortest)
    return current != before
  }
}
