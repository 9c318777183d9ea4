/// The in-flight limit of a direct TCP carrier: the kernel controls the rate,
/// we only keep its queue short: delivery rate × (minimum round trip + 5 ms)
/// (DESIGN §1.3). At the start the limit doubles per round while the rate
/// still grows, as in BBR's startup.

#if canImport(Bytes)
package import Bytes
#endif

package struct OrderedWindow {
  package static let queueTime: TimeAmount = .milliseconds(5)
  package static let initial = 64 << 10
  package static let minimumPackets = 4
  package static let minimum = 16 << 10

  package private(set) var window = OrderedWindow.initial
  package private(set) var isStartup = true
  private var rate = RateFilter()
  private var fullRate = 0.0
  private var flatRounds = 0

  package init() {}

  package mutating func acknowledged(_ sample: AckSample) {
    rate.add(sample.deliveryRate, isAppLimited: sample.isRateAppLimited, roundEnded: sample.roundEnded)
    // What one acknowledgement covers has been waiting for it: it is not queue.
    let target =
      rate.best * (sample.minimum + Self.queueTime).inSeconds + Double(min(sample.bytes, window))
    if isStartup {
      // Twice what the path was seen to move: enough to double every round.
      if sample.wasUtilised { window = max(window, min(window + sample.bytes, Int(2 * target))) }
      if sample.roundEnded, !sample.isRateAppLimited {
        if rate.best >= fullRate * 1.25 {
          fullRate = rate.best
          flatRounds = 0
        } else {
          flatRounds += 1
          if flatRounds >= 3 { isStartup = false }
        }
      }
    } else if rate.best > 0 {
      window = Int(target)
    }
    let floor = max(Self.minimumPackets * sample.packet, Self.minimum)
    window = min(max(window, floor), CongestionTuning.maximumWindow)
  }

  package mutating func collapsed() { restartAfterIdle() }

  package mutating func restartAfterIdle() {
    window = Self.initial
    isStartup = true
    fullRate = 0
    flatRounds = 0
  }
}

/// The best delivery rate of the last five to ten rounds. Rounds in which the
/// application was the limit say nothing about the path and do not age it.
package struct RateFilter {
  package static let rounds = 5
  private var current = 0.0
  private var previous = 0.0
  private var fullRounds = 0
  private var sawFullSample = false

  package init() {}

  package var best: Double { max(current, previous) }

  package mutating func add(_ rate: Double, isAppLimited: Bool, roundEnded: Bool) {
    if rate > 0 {
      if !isAppLimited {
        sawFullSample = true
        current = max(current, rate)
      } else if rate > best {
        current = rate
      }
    }
    guard roundEnded, sawFullSample else { return }
    sawFullSample = false
    fullRounds += 1
    if fullRounds >= Self.rounds {
      fullRounds = 0
      previous = current
      current = 0
    }
  }

  package mutating func reset() { self = RateFilter() }
}
