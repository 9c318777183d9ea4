/// The seam behind which the controllers sit: what a lane tells them and what
/// they answer (a window, a pacing rate). One struct with a switch instead of
/// a protocol value: no existential on the packet path. RFC 9002 §7.

#if canImport(Bytes)
package import Bytes
#endif

/// What an acknowledgement told about a lane.
package struct AckSample {
  package var now: Instant
  /// Bytes newly acknowledged, and those still in flight after it.
  package var bytes: Int
  package var inFlight: Int
  /// The newest was sent before the last reaction to congestion.
  package var isInRecovery: Bool
  /// When the newest of the acknowledged packets was sent.
  package var newestSentAt: Instant
  /// A round-trip sample, if this acknowledgement gave one.
  package var roundTrip: TimeAmount?
  package var smoothed: TimeAmount
  package var minimum: TimeAmount
  /// Bytes a second; 0 if this acknowledgement gave no sample.
  package var deliveryRate: Double
  package var isRateAppLimited: Bool
  /// The lane was held back by its window or pacer, not by the application.
  package var wasUtilised: Bool
  /// True once per round trip.
  package var roundEnded: Bool
  /// Bytes found lost by the same acknowledgement.
  package var lostBytes: Int
  /// Bytes a packet may have at present.
  package var packet = 1_200

  package init(
    now: Instant, bytes: Int, inFlight: Int, isInRecovery: Bool, newestSentAt: Instant,
    roundTrip: TimeAmount?, smoothed: TimeAmount, minimum: TimeAmount, deliveryRate: Double,
    isRateAppLimited: Bool, wasUtilised: Bool, roundEnded: Bool, lostBytes: Int
  ) {
    self.now = now
    self.bytes = bytes
    self.inFlight = inFlight
    self.isInRecovery = isInRecovery
    self.newestSentAt = newestSentAt
    self.roundTrip = roundTrip
    self.smoothed = smoothed
    self.minimum = minimum
    self.deliveryRate = deliveryRate
    self.isRateAppLimited = isRateAppLimited
    self.wasUtilised = wasUtilised
    self.roundEnded = roundEnded
    self.lostBytes = lostBytes
  }
}

package enum CongestionTuning {
  /// RFC 9002 §7.2: ten packets, but at most the larger of 14,720 bytes and two.
  package static func initialWindow(_ packet: Int) -> Int { min(10 * packet, max(14_720, 2 * packet)) }
  package static func minimumWindow(_ packet: Int) -> Int { 2 * packet }
  /// A window unused for so long says nothing about the path any more.
  package static let idle: TimeAmount = .seconds(30)
  /// Windows stop here whatever is measured.
  package static let maximumWindow = 256 << 20
}

struct Congestion {
  enum Algorithm { case cubic, bbr, ordered }

  let algorithm: Algorithm
  var cubic: Cubic
  var bbr: BottleneckModel
  var ordered: OrderedWindow

  init(kind: LaneKind, algorithm: CongestionAlgorithm, packet: Int) {
    switch kind {
    case .ordered: self.algorithm = .ordered
    case .datagram: self.algorithm = algorithm == .cubic ? .cubic : .bbr
    }
    cubic = Cubic(packet: packet)
    bbr = BottleneckModel(packet: packet)
    ordered = OrderedWindow()
  }

  /// Bytes that may be in flight.
  var window: Int {
    switch algorithm {
    case .cubic: cubic.window
    case .bbr: bbr.window
    case .ordered: ordered.window
    }
  }

  var isSlowStart: Bool {
    switch algorithm {
    case .cubic: cubic.isSlowStart
    case .bbr: bbr.isStartup
    case .ordered: ordered.isStartup
    }
  }

  /// Bytes a second; infinite where nothing is paced.
  func pacingRate(smoothed: TimeAmount) -> Double {
    switch algorithm {
    case .cubic: cubic.pacingRate(smoothed: smoothed)
    case .bbr: bbr.pacingRate(smoothed: smoothed)
    case .ordered: .infinity
    }
  }

  mutating func acknowledged(_ sample: AckSample) {
    switch algorithm {
    case .cubic: cubic.acknowledged(sample)
    case .bbr: bbr.acknowledged(sample)
    case .ordered: ordered.acknowledged(sample)
    }
  }

  /// Packets were lost, the first of them outside the present recovery.
  mutating func congested(now: Instant, inFlight: Int) {
    switch algorithm {
    case .cubic: cubic.congested(now: now)
    case .bbr: bbr.congested(now: now, inFlight: inFlight)
    case .ordered: break
    }
  }

  /// RFC 9002 §7.6: nothing got through for several probe time-outs.
  mutating func collapsed() {
    switch algorithm {
    case .cubic: cubic.collapsed()
    case .bbr: bbr.collapsed()
    case .ordered: ordered.collapsed()
    }
  }

  /// The last congestion event had been reordering.
  mutating func undo() {
    switch algorithm {
    case .cubic: cubic.undo()
    case .bbr: bbr.undo()
    case .ordered: break
    }
  }

  /// The lane sends again after `CongestionTuning.idle`.
  mutating func restartAfterIdle() {
    switch algorithm {
    case .cubic: cubic.restartAfterIdle()
    case .bbr: bbr.restartAfterIdle()
    case .ordered: ordered.restartAfterIdle()
    }
  }

  mutating func setPacket(_ bytes: Int) {
    cubic.packet = bytes
    bbr.packet = bytes
  }
}
