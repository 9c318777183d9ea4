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
  private(set) var latest = PathTunables.initialRoundTrip
  private(set) var lastSample = Instant.distantPast
  // The minimum over the last one to two windows.
  private var older = TimeAmount(nanoseconds: .max)
  private var newer = TimeAmount(nanoseconds: .max)
  private var windowStart = Instant.distantPast
  // Packets reported since `lossStart`, not yet in the mean.
  private var pendingLost = 0
  private var pendingCount = 0
  private var lossStart = Instant.distantPast
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
    // RFC 6298's shares are meant for samples every round trip or so. One that
    // comes alone after a pause counts as much as all before it.
    let isRare = now - lastSample > PathTunables.rareSample
    latest = sample
    lastSample = now
    guard hasSample else {
      hasSample = true
      smoothed = sample
      variation = sample / 2
      return
    }
    let difference = sample > smoothed ? sample - smoothed : smoothed - sample
    if isRare {
      variation = difference / 2
      smoothed = (smoothed + sample) / 2
      return
    }
    variation = (variation * 3 + difference) / 4
    smoothed = (smoothed * 7 + sample) / 8
  }

  /// One ping was answered or lost.
  mutating func addPing(isLost: Bool) {
    lossPerMillion += ((isLost ? 1_000_000 : 0) - lossPerMillion) / 16
  }

  /// Of `count` packets of traffic `lost` were lost. Summed over a second and
  /// capped, so that the overshoot of a starting flow is not taken for the path.
  mutating func addLoss(lost: Int, of count: Int, now: Instant) {
    guard count > 0, lost >= 0 else { return }
    if now - lossStart > PathTunables.lossWindow {
      if pendingCount > 0 {
        let share = Int64(min(pendingLost, pendingCount)) * 1_000_000 / Int64(pendingCount)
        let capped = min(share, PathTunables.lossCeilingPerMillion)
        lossPerMillion += (capped - lossPerMillion) / (pendingCount >= 64 ? 4 : 16)
      }
      pendingLost = 0
      pendingCount = 0
      lossStart = now
    }
    pendingLost += lost
    pendingCount += count
  }

  mutating func forgetLoss() {
    lossPerMillion = 0
    pendingLost = 0
    pendingCount = 0
  }

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
