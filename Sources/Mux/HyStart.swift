/// HyStart++ (RFC 9406): leaves slow start when the round trip grows, through a
/// stretch of conservative slow start in case that was a fluke.

#if canImport(Bytes)
package import Bytes
#endif

package struct HyStart {
  // RFC 9406 §4.3, with two adaptations: acknowledgements come at most four
  // times a round trip, so three samples make a round's minimum (not 8), and
  // there is no limit L per acknowledgement because packets are paced.
  package static let minimumThreshold: TimeAmount = .milliseconds(4)
  package static let maximumThreshold: TimeAmount = .milliseconds(16)
  package static let divisor: Int64 = 8
  package static let samples = 3
  package static let growthDivisor = 4.0
  package static let conservativeRounds = 5

  private var lastRoundMinimum: TimeAmount?
  private var roundMinimum: TimeAmount?
  private var sampleCount = 0
  private var conservativeBaseline: TimeAmount?
  private var roundsLeft = 0

  /// True in conservative slow start: grow by a quarter.
  package var isConservative: Bool { conservativeBaseline != nil }

  /// The slow start is over after so many conservative rounds.
  private var isOver = false

  package init() {}

  package mutating func roundEnded() {
    lastRoundMinimum = roundMinimum ?? lastRoundMinimum
    roundMinimum = nil
    sampleCount = 0
    if isConservative {
      roundsLeft -= 1
      if roundsLeft <= 0 { isOver = true }
    }
  }

  /// Takes a round-trip sample; true when slow start must end now.
  package mutating func sampled(_ roundTrip: TimeAmount) -> Bool {
    roundMinimum = roundMinimum.map { min($0, roundTrip) } ?? roundTrip
    sampleCount += 1
    guard !isOver else { return true }
    guard sampleCount >= Self.samples, let current = roundMinimum else { return false }
    if let baseline = conservativeBaseline {
      // The growth was a fluke: back to slow start.
      if current < baseline { conservativeBaseline = nil }
    } else if let last = lastRoundMinimum {
      let threshold = max(Self.minimumThreshold, min(last / Self.divisor, Self.maximumThreshold))
      if current >= last + threshold {
        conservativeBaseline = current
        roundsLeft = Self.conservativeRounds
      }
    }
    return false
  }
}
