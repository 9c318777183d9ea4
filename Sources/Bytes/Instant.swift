/// A point on a monotonic clock and a length of time, both in whole
/// nanoseconds. Machines receive `Instant`s; they never ask a clock. Swift's
/// own `Duration` is 128 bits of attoseconds, which costs too much per packet.

/// A length of time in nanoseconds; may be negative.
public struct TimeAmount: Hashable, Comparable, Sendable, AdditiveArithmetic, BitwiseCopyable {
  public var nanoseconds: Int64

  @inlinable public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  @inlinable public static func nanoseconds(_ n: Int64) -> TimeAmount { TimeAmount(nanoseconds: n) }
  @inlinable public static func microseconds(_ n: Int64) -> TimeAmount {
    TimeAmount(nanoseconds: n * 1_000)
  }
  @inlinable public static func milliseconds(_ n: Int64) -> TimeAmount {
    TimeAmount(nanoseconds: n * 1_000_000)
  }
  @inlinable public static func seconds(_ n: Int64) -> TimeAmount {
    TimeAmount(nanoseconds: n * 1_000_000_000)
  }
  @inlinable public static func minutes(_ n: Int64) -> TimeAmount { seconds(n * 60) }
  @inlinable public static func hours(_ n: Int64) -> TimeAmount { seconds(n * 3600) }
  @inlinable public static var zero: TimeAmount { TimeAmount(nanoseconds: 0) }

  /// Seconds as a floating-point number, for rates and display.
  @inlinable public var inSeconds: Double { Double(nanoseconds) / 1e9 }
  /// Milliseconds as a floating-point number, for display.
  @inlinable public var inMilliseconds: Double { Double(nanoseconds) / 1e6 }

  @inlinable public static func < (a: TimeAmount, b: TimeAmount) -> Bool {
    a.nanoseconds < b.nanoseconds
  }
  @inlinable public static func + (a: TimeAmount, b: TimeAmount) -> TimeAmount {
    TimeAmount(nanoseconds: a.nanoseconds + b.nanoseconds)
  }
  @inlinable public static func - (a: TimeAmount, b: TimeAmount) -> TimeAmount {
    TimeAmount(nanoseconds: a.nanoseconds - b.nanoseconds)
  }
  @inlinable public static func * (a: TimeAmount, b: Int64) -> TimeAmount {
    TimeAmount(nanoseconds: a.nanoseconds * b)
  }
  @inlinable public static func / (a: TimeAmount, b: Int64) -> TimeAmount {
    TimeAmount(nanoseconds: a.nanoseconds / b)
  }
}

/// Nanoseconds since an arbitrary origin of a clock that never goes back.
public struct Instant: Hashable, Comparable, Sendable, BitwiseCopyable {
  public var nanoseconds: Int64

  @inlinable public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  /// Before every instant a clock can show.
  @inlinable public static var distantPast: Instant { Instant(nanoseconds: .min / 2) }
  /// After every instant a clock can show: "no deadline".
  @inlinable public static var distantFuture: Instant { Instant(nanoseconds: .max / 2) }

  @inlinable public static func < (a: Instant, b: Instant) -> Bool {
    a.nanoseconds < b.nanoseconds
  }
  @inlinable public static func + (a: Instant, b: TimeAmount) -> Instant {
    Instant(nanoseconds: a.nanoseconds + b.nanoseconds)
  }
  @inlinable public static func - (a: Instant, b: TimeAmount) -> Instant {
    Instant(nanoseconds: a.nanoseconds - b.nanoseconds)
  }
  @inlinable public static func - (a: Instant, b: Instant) -> TimeAmount {
    TimeAmount(nanoseconds: a.nanoseconds - b.nanoseconds)
  }
  @inlinable public static func += (a: inout Instant, b: TimeAmount) { a = a + b }
}
