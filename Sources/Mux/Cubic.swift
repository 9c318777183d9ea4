/// CUBIC (RFC 9438) with HyStart++ (RFC 9406), in bytes. Section numbers below
/// are RFC 9438's unless said otherwise.

#if canImport(Bytes)
package import Bytes
#endif

/// The constants of RFC 9438 §5.
package enum CubicConstants {
  package static let c = 0.4
  package static let beta = 0.7
  /// §4.3: the slope that is as fast as Reno with our decrease.
  package static let renoAlpha = 3 * (1 - beta) / (1 + beta)
}

package struct Cubic {
  /// The part of the state that an undo brings back (§4.9).
  private struct Curve {
    var window: Double
    var threshold = Double.infinity
    var windowMax = 0.0
    var k = 0.0
    var epochStart: Instant?
    var renoWindow = 0.0
    var windowBefore = 0.0
  }

  package var packet: Int
  private var curve: Curve
  private var saved: Curve?
  private var lastAck: Instant?
  private var hyStart = HyStart()

  package init(packet: Int) {
    self.packet = packet
    curve = Curve(window: Double(CongestionTuning.initialWindow(packet)))
  }

  package var window: Int { Int(curve.window) }
  package var isSlowStart: Bool { curve.window < curve.threshold }
  package var slowStartThreshold: Double { curve.threshold }

  package func pacingRate(smoothed: TimeAmount) -> Double {
    // Twice the window in slow start, which doubles it every round anyway;
    // RFC 9002 §7.7 recommends 1.25 otherwise.
    (isSlowStart ? 2.0 : 1.25) * curve.window / max(smoothed.inSeconds, 1e-6)
  }

  package mutating func acknowledged(_ sample: AckSample) {
    let elapsed = lastAck.map { sample.now - $0 } ?? .zero
    lastAck = sample.now
    if sample.isInRecovery { return }
    if sample.roundEnded { hyStart.roundEnded() }
    if isSlowStart {
      if let roundTrip = sample.roundTrip {
        if hyStart.sampled(roundTrip) { curve.threshold = curve.window }
      }
      // §5.8, RFC 9002 §7.8: a window that is not used does not grow.
      guard sample.wasUtilised, isSlowStart else { return }
      curve.window += Double(sample.bytes) / (hyStart.isConservative ? HyStart.growthDivisor : 1)
      curve.window = min(curve.window, Double(CongestionTuning.maximumWindow))
      return
    }
    guard sample.wasUtilised else {
      // §5.8: time spent limited by the application does not count.
      if let start = curve.epochStart { curve.epochStart = start + elapsed }
      return
    }
    avoidance(sample)
  }

  private mutating func avoidance(_ sample: AckSample) {
    let segment = Double(packet)
    if curve.epochStart == nil {
      curve.epochStart = sample.now
      if curve.window < curve.windowMax {
        // §4.2: K = cbrt((W_max − cwnd_epoch) / C), in segments and seconds.
        curve.k = cubeRoot((curve.windowMax - curve.window) / segment / CubicConstants.c)
      } else {
        curve.k = 0
        curve.windowMax = curve.window
      }
      curve.renoWindow = curve.window
    }
    let t = (sample.now - curve.epochStart!).inSeconds
    let acked = Double(sample.bytes)

    // §4.3: never slower than Reno would be.
    let alpha = curve.renoWindow >= curve.windowBefore ? 1 : CubicConstants.renoAlpha
    curve.renoWindow += alpha * segment * acked / curve.window

    if cubicWindow(t) < curve.renoWindow {
      curve.window = max(curve.window, curve.renoWindow)
    } else {
      // §4.4: aim at where the curve will be one round trip from now.
      let ahead = cubicWindow(t + sample.smoothed.inSeconds)
      let target = min(max(ahead, curve.window), 1.5 * curve.window)
      curve.window += (target - curve.window) * acked / curve.window
    }
    curve.window = min(curve.window, Double(CongestionTuning.maximumWindow))
  }

  /// W_cubic(t) of §4.2, in bytes.
  private func cubicWindow(_ t: Double) -> Double {
    let x = t - curve.k
    return CubicConstants.c * x * x * x * Double(packet) + curve.windowMax
  }

  package mutating func congested(now: Instant) {
    saved = curve
    let before = curve.window
    // §4.7 fast convergence: a flow that lost ground leaves room.
    curve.windowMax =
      before < curve.windowMax ? before * (1 + CubicConstants.beta) / 2 : before
    curve.windowBefore = before
    curve.threshold = max(
      before * CubicConstants.beta, Double(CongestionTuning.minimumWindow(packet)))
    curve.window = curve.threshold
    curve.epochStart = nil
    hyStart = HyStart()
  }

  package mutating func collapsed() {
    // RFC 9002 §7.6.2; §4.8: as after a time-out.
    curve.windowMax = curve.window
    curve.windowBefore = curve.window
    curve.threshold = max(
      curve.window * CubicConstants.beta, Double(CongestionTuning.minimumWindow(packet)))
    curve.window = Double(CongestionTuning.minimumWindow(packet))
    curve.epochStart = nil
    saved = nil
    hyStart = HyStart()
  }

  package mutating func undo() {
    guard let saved else { return }
    let grown = curve.window
    curve = saved
    curve.window = max(saved.window, grown)
    self.saved = nil
  }

  /// As on a new path, the threshold too: it is as old as the window, and a
  /// random loss half a minute ago would cost a short transfer its slow start.
  package mutating func restartAfterIdle() { self = Cubic(packet: packet) }
}

/// The real cube root of a number that is not negative, without a C library:
/// Newton's method from a power of two near it.
package func cubeRoot(_ x: Double) -> Double {
  guard x > 0 else { return 0 }
  var root = Double(sign: .plus, exponent: x.exponent / 3, significand: 1)
  for _ in 0..<8 { root = (2 * root + x / (root * root)) / 3 }
  return root
}
