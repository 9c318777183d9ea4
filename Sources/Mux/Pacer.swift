/// Spreads packets over the round trip (RFC 9002 §7.7). Timers are never finer
/// than a millisecond: tokens pile up meanwhile, so that at high rates packets
/// leave in trains that one system call can take.

#if canImport(Bytes)
package import Bytes
#endif

enum PacerTuning {
  /// Smallest burst, in packets (RFC 9002 §7.7: the initial window).
  static let packets = 10.0
  /// Trains up to this size leave at once when the rate fills them in 4 ms.
  static let train = 65_536.0
  static let timer: TimeAmount = .milliseconds(1)
}

package struct Pacer {
  private var tokens = 0.0
  private var updated: Instant?
  private var capacity = 0.0

  package init() {}

  /// Refills at `rate` bytes a second.
  package mutating func refill(rate: Double, packet: Int, now: Instant) {
    capacity = max(
      PacerTuning.packets * Double(min(packet, 1_500)), Double(packet),
      min(PacerTuning.train, rate * 0.004), rate * 0.00125)
    guard let last = updated else {
      tokens = capacity
      updated = now
      return
    }
    if now > last {
      tokens = min(capacity, tokens + rate * (now - last).inSeconds)
      updated = now
    } else if tokens > capacity {
      tokens = capacity
    }
  }

  /// Nil when a packet may go now, else when the next train may.
  package func wait(rate: Double, packet: Int, now: Instant) -> Instant? {
    if tokens >= min(Double(packet), capacity) { return nil }
    let train = min(capacity, max(Double(packet), rate * PacerTuning.timer.inSeconds))
    let seconds = (train - tokens) / max(rate, 1)
    return now + max(PacerTuning.timer, .nanoseconds(Int64(seconds * 1e9)))
  }

  package mutating func spend(_ bytes: Int) { tokens -= Double(bytes) }
}
