/// The second controller, after BBR (draft-cardwell-iccrg-bbr-congestion-control
/// version 1 with the loss ceiling of version 2 in coarse form): the rate is
/// the best recent delivery rate, the window twice its product with the
/// minimum round trip. Random loss below a few per cent does not slow it.

#if canImport(Bytes)
import Bytes
#endif

struct BottleneckModel {
  enum Phase { case startup, drain, probeBandwidth, probeRoundTrip }

  static let startupGain = 2.885
  static let windowGain = 2.0
  static let cycle: InlineArray<8, Double> = [1.25, 0.75, 1, 1, 1, 1, 1, 1]
  static let roundTripLife: TimeAmount = .seconds(10)
  static let probeRoundTripTime: TimeAmount = .milliseconds(200)
  /// Loss in a round beyond this share ends startup and lowers the ceiling.
  static let lossShare = 0.1

  var packet: Int
  private(set) var phase = Phase.startup
  private(set) var window: Int
  private var rate = RateFilter()
  private var fullRate = 0.0
  private var flatRounds = 0
  private var cycleIndex = 2
  private var cycleStart = Instant.distantPast
  private var minimum: TimeAmount?
  private var minimumAt = Instant.distantPast
  private var probeUntil: Instant?
  /// Given back when the round trip has been measured.
  private var windowBefore = 0
  private var ceiling = Double.infinity
  private var roundLost = 0
  private var roundAcked = 0

  init(packet: Int) {
    self.packet = packet
    window = CongestionTuning.initialWindow(packet)
  }

  var isStartup: Bool { phase == .startup }

  private var gain: Double {
    switch phase {
    case .startup: Self.startupGain
    case .drain: 1 / Self.startupGain
    case .probeBandwidth: Self.cycle[cycleIndex]
    case .probeRoundTrip: 1
    }
  }

  func pacingRate(smoothed: TimeAmount) -> Double {
    guard rate.best > 0 else {
      return Self.startupGain * Double(window) / max(smoothed.inSeconds, 1e-6)
    }
    return gain * rate.best
  }

  private var product: Double { rate.best * (minimum ?? .milliseconds(1)).inSeconds }

  mutating func acknowledged(_ sample: AckSample) {
    rate.add(sample.deliveryRate, isAppLimited: sample.isRateAppLimited, roundEnded: sample.roundEnded)
    let expired = sample.now - minimumAt > Self.roundTripLife
    if let roundTrip = sample.roundTrip, expired || minimum == nil || roundTrip <= minimum! {
      minimum = roundTrip
      minimumAt = sample.now
    }
    roundAcked += sample.bytes
    roundLost += sample.lostBytes
    if sample.roundEnded { endRound(sample) }

    switch phase {
    case .startup: break
    case .drain:
      if Double(sample.inFlight) <= product { enterProbeBandwidth(sample.now) }
    case .probeBandwidth:
      let length = minimum ?? sample.smoothed
      if sample.now - cycleStart > length {
        cycleIndex = (cycleIndex + 1) % 8
        cycleStart = sample.now
      }
      if expired, sample.wasUtilised {
        phase = .probeRoundTrip
        windowBefore = window
        probeUntil = sample.now + Self.probeRoundTripTime + length
      }
    case .probeRoundTrip:
      if let until = probeUntil, sample.now >= until {
        minimumAt = sample.now
        window = max(window, windowBefore)
        enterProbeBandwidth(sample.now)
      }
    }
    updateWindow(sample)
  }

  private mutating func endRound(_ sample: AckSample) {
    let share = Double(roundLost) / Double(max(roundAcked + roundLost, 1))
    let lossy = share > Self.lossShare && roundLost > 4 * packet
    if lossy {
      ceiling = max(0.85 * min(ceiling, Double(window)), Double(4 * packet))
    } else if ceiling.isFinite {
      ceiling *= 1.1
      if ceiling > 4 * Self.windowGain * product { ceiling = .infinity }
    }
    roundLost = 0
    roundAcked = 0
    guard phase == .startup, !sample.isRateAppLimited else { return }
    if rate.best >= fullRate * 1.25, !lossy {
      fullRate = rate.best
      flatRounds = 0
    } else {
      flatRounds += 1
      if flatRounds >= 3 || lossy { phase = .drain }
    }
  }

  private mutating func enterProbeBandwidth(_ now: Instant) {
    phase = .probeBandwidth
    cycleIndex = 2
    cycleStart = now
  }

  private mutating func updateWindow(_ sample: AckSample) {
    let least = 4 * packet
    if phase == .probeRoundTrip {
      window = max(least, Int(product / 2))
      return
    }
    // What arrived and waits for the next of four acknowledgements a round trip;
    // the gain of startup has room for it.
    let wait = min(sample.smoothed / MuxTuning.thinnedAcks, RecoveryConstants.maximumAckDelay)
    let extra = (isStartup ? 0 : rate.best * wait.inSeconds) + Double(2 * packet)
    let target = (isStartup ? Self.startupGain : Self.windowGain) * product + extra
    if isStartup {
      window += sample.wasUtilised ? sample.bytes : 0
      if rate.best > 0, Double(window) > target * 1.5 { window = Int(target * 1.5) }
    } else {
      window = min(window + sample.bytes, Int(target))
    }
    window = min(max(window, least), CongestionTuning.maximumWindow)
    if ceiling.isFinite { window = max(least, min(window, Int(ceiling))) }
  }

  mutating func congested(now: Instant, inFlight: Int) {}
  mutating func undo() { ceiling = .infinity }

  mutating func collapsed() {
    window = 4 * packet
    ceiling = .infinity
  }

  mutating func restartAfterIdle() {
    let packet = packet
    self = BottleneckModel(packet: packet)
  }
}
