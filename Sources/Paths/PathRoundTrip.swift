/// Round-trip and loss estimates of one path, as RFC 6298 §2 has them, plus a
/// windowed minimum: the choice compares what a path could do, not what our
/// own bulk traffic makes of it.

#if canImport(Bytes)
  import Bytes
#endif

struct PathRoundTrip: Sendable {
  private(set) var hasSample = false
  private(set) var smoothed = PathTunables.initialRoundTrip
  private(set) var variation = PathTunables.initialRoundTrip / 2
  private(set) var lastSample = Instant.distantPast
  // The minimum over the last one to two windows.
  private var older = TimeAmount(nanoseconds: .max)
  private var newer = TimeAmount(nanoseconds: .max)
  private var windowStart = Instant.distantPast
  /// Lost per million, an exponential mean.
  private(set) var lossPerMillion: Int64 = 0

  var smallest: TimeAmount { hasSample ? min(older, newer) : smoothed }
  var lossPerMille: Int { Int((lossPerMillion + 500) / 1000) }

  mutating func add(_ sample: TimeAmount, now: Instant) {
    let sample = max(sample, .microseconds(1))
    if now - windowStart >= PathTunables.roundTripWindow {
      older = now - windowStart >= PathTunables.roundTripWindow * 2 ? sample : newer
      newer = sample
      windowStart = now
    } else {
      newer = min(newer, sample)
    }
    lastSample = now
    guard hasSample else {
      hasSample = true
      smoothed = sample
      variation = sample / 2
      return
    }
    let difference = sample > smoothed ? sample - smoothed : smoothed - sample
    variation = (variation * 3 + difference) / 4
    smoothed = (smoothed * 7 + sample) / 8
  }

  /// Loss observed: `lost` of `count` packets. A single ping weighs 1/16, a
  /// report of many packets up to 1/4.
  mutating func addLoss(lost: Int, of count: Int) {
    guard count > 0 else { return }
    let share = Int64(min(lost, count)) * 1_000_000 / Int64(count)
    let weight: Int64 = count >= 64 ? 4 : count >= 8 ? 8 : 16
    lossPerMillion += (share - lossPerMillion) / weight
  }

  mutating func forgetLoss() { lossPerMillion = 0 }

  /// How long a ping may take before it counts as lost.
  var timeout: TimeAmount {
    let wanted = smoothed + max(variation * 4, .milliseconds(10))
    let ceiling = max(PathTunables.usualTimeoutCeiling, smoothed + smoothed / 2)
    return max(PathTunables.shortestTimeout, min(wanted, ceiling))
  }

  /// How long a busy path may be silent before it is asked.
  var quiet: TimeAmount {
    max(PathTunables.quietFloor, min(timeout * 2, PathTunables.quietCeiling))
  }
}
