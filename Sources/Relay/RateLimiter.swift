/// A byte rate as a level that fills with time and that grants empty. Unlike a
/// token bucket it hands out what is there, so that the router can share the
/// last bytes among channels; it may be overdrawn and then owes.
#if canImport(Bytes)
  internal import Bytes
#endif

/// Bytes per second with a short burst; nil rate = no limit.
struct RateLimiter {
  private(set) var bytesPerSecond: Double?
  private var burst = 0.0
  private(set) var level = 0.0
  private var updated = Instant.distantPast

  /// A burst covers this much time: a late timer loses nothing.
  static let burstTime = 0.020
  /// Bytes come at most this often.
  static let tick = TimeAmount.milliseconds(1)
  static let smallestBurst = 3_000.0

  init(bytesPerSecond: Double?) { setRate(bytesPerSecond) }

  var isLimited: Bool { bytesPerSecond != nil }

  mutating func setRate(_ rate: Double?) {
    bytesPerSecond = rate
    burst = max(Self.smallestBurst, (rate ?? 0) * Self.burstTime)
    level = min(level, burst)
  }

  mutating func refill(_ now: Instant) {
    guard let rate = bytesPerSecond else { return }
    if updated == .distantPast {
      level = burst
      updated = now
    } else if now - updated >= Self.tick {
      level = min(burst, level + (now - updated).inSeconds * rate)
      updated = now
    }
  }

  func holds(_ bytes: Int) -> Bool { bytesPerSecond == nil || level >= Double(bytes) }

  /// May overdraw: the next ones wait longer.
  mutating func take(_ bytes: Int) {
    guard bytesPerSecond != nil else { return }
    level -= Double(bytes)
  }

  /// Returns what was granted and not used.
  mutating func giveBack(_ bytes: Int) {
    guard bytesPerSecond != nil else { return }
    level = min(burst, level + Double(bytes))
  }

  /// When `bytes` (or a whole burst, if less) will be there.
  func ready(for bytes: Int, now: Instant) -> Instant {
    guard let rate = bytesPerSecond else { return now }
    let missing = min(Double(bytes), burst) - level
    guard missing > 0 else { return now }
    guard rate > 0 else { return .distantFuture }
    return max(
      updated + Self.tick, updated + .nanoseconds(Int64(min(missing / rate, 3_600) * 1e9) + 1))
  }
}
