/// A rate limit with a burst, driven by the instants it is given.

/// Refills `rate` units a second up to `burst`.
public struct TokenBucket: Sendable {
  public let ratePerSecond: Double
  public let burst: Double
  private var level: Double
  private var updated: Instant?

  /// Starts full.
  public init(ratePerSecond: Double, burst: Double) {
    self.ratePerSecond = ratePerSecond
    self.burst = burst
    self.level = burst
  }

  /// Takes `amount` when there is that much; says whether it did.
  public mutating func take(_ amount: Double = 1, now: Instant) -> Bool {
    refill(now)
    guard level >= amount else { return false }
    level -= amount
    return true
  }

  /// How long until `amount` is there (zero when it is).
  public mutating func wait(for amount: Double, now: Instant) -> TimeAmount {
    refill(now)
    guard level < amount else { return .zero }
    guard ratePerSecond > 0 else { return .hours(24 * 365) }
    return .nanoseconds(Int64(((amount - level) / ratePerSecond * 1e9).rounded(.up)))
  }

  private mutating func refill(_ now: Instant) {
    if let updated, now > updated {
      level = min(burst, level + (now - updated).inSeconds * ratePerSecond)
    }
    if updated == nil || now > updated! { updated = now }
  }
}
