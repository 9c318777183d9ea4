/// Our end of one path: its packet numbers, round trip, what is in flight,
/// delivery rate, window and pacer. What frames mean is not known here: those
/// of acknowledged and lost packets are handed back as records. RFC 9002.

#if canImport(Bytes)
import Bytes
#endif

/// The constants of RFC 9002 and RFC 8985, and our limits beside them.
enum RecoveryConstants {
  // RFC 9002 §6.1.1, §6.1.2, §6.2.2, §7.6.1.
  static let packetThreshold: UInt64 = 3
  static let granularity: TimeAmount = .milliseconds(1)
  static let initialRoundTrip: TimeAmount = .milliseconds(333)
  static let persistentPeriods: Int64 = 3
  /// DESIGN §1.3: no acknowledgement is later than this.
  static let maximumAckDelay: TimeAmount = .milliseconds(25)
  /// RFC 8985 §7.1: a widened window is kept for so many recoveries.
  static let reorderPersistence = 16
  /// The back-off of probes ends here.
  static let maximumProbeInterval: TimeAmount = .seconds(8)
  /// Lost packets are remembered this many probe time-outs for the undo.
  static let lostMemory: Int64 = 3
  static let maximumNumber: UInt64 = (1 << 48) - 1
}

struct SendLane {
  let id: LaneID
  let kind: LaneKind
  var marks: LaneMarks = []
  var maximumPacket: Int
  /// What a packet may have now: on TCP what the path moves in 2 ms.
  var packetLimit: Int
  var sent: SentPackets
  var congestion: Congestion
  var pacer = Pacer()
  var figures = LaneStatistics()

  // Round trip (RFC 9002 §5).
  var smoothed: TimeAmount
  var variation: TimeAmount
  var minimum: TimeAmount = .zero
  var latest: TimeAmount = .zero
  var hasSample = false
  var minimumReset = false

  // In flight and timers.
  var inFlight = 0
  var outstanding = 0
  var lastElicitingAt = Instant.distantPast
  var lossTime = Instant.distantFuture
  var probeCount = 0
  var probesPending = 0
  var largestAcked: UInt64?
  var blockedUntil = Instant.distantFuture

  // Losses.
  var recoveryStart = Instant.distantPast
  var lossEpoch: UInt32 = 0
  var epochLost = 0
  var reorderingSeen = false
  var reorderMultiplier: Int64 = 1
  var reorderLife = 0
  var reorderRaisedAt: UInt64 = 0
  var firstSampleAt: Instant?
  var lastSampleAt = Instant.distantPast

  // Delivery rate (draft-cheng-iccrg-delivery-rate-estimation).
  var delivered: UInt64 = 0
  var deliveredAt = Instant(nanoseconds: 0)
  var firstSentAt = Instant(nanoseconds: 0)
  var appLimitedUntil: UInt64 = 0
  var rate = RateFilter()
  var roundEnd: UInt64
  var isUtilised = false

  // DESIGN §1.2: packets on TCP.
  static let orderedStart = 16_384
  static let orderedFloor = 1_200
  static let orderedTime: TimeAmount = .milliseconds(2)

  init(
    id: LaneID, kind: LaneKind, maximumPacket: Int, firstNumber: UInt64,
    algorithm: CongestionAlgorithm, roundTrip: TimeAmount?
  ) {
    self.id = id
    self.kind = kind
    self.maximumPacket = maximumPacket
    packetLimit = kind == .ordered ? min(maximumPacket, Self.orderedStart) : maximumPacket
    sent = SentPackets(next: firstNumber)
    congestion = Congestion(kind: kind, algorithm: algorithm, packet: maximumPacket)
    let guess = roundTrip ?? RecoveryConstants.initialRoundTrip
    smoothed = guess
    variation = guess / 2
    roundEnd = firstNumber
  }

  /// RFC 9002 §6.2.1, with the peer's acknowledgement delay.
  var probeInterval: TimeAmount {
    smoothed + max(variation * 4, RecoveryConstants.granularity)
      + RecoveryConstants.maximumAckDelay
  }

  var probeDeadline: Instant {
    guard outstanding > 0 else { return .distantFuture }
    let wait = min(
      probeInterval * (1 << Int64(min(probeCount, 10))), RecoveryConstants.maximumProbeInterval)
    return lastElicitingAt + max(wait, probeInterval)
  }

  var deadline: Instant {
    mutating get { lossTime < .distantFuture ? lossTime : probeDeadline }
  }

  // Mutating though they change nothing or little: called on an element of an
  // array, anything else copies the whole lane.

  /// What a packet may have (0: none may be sent), its number, and whether the
  /// lane owes a probe.
  mutating func begin(packets: Int) -> (bytes: Int, number: UInt64, isProbe: Bool) {
    let number = sent.next
    let mayRecord = sent.count < packets && number < RecoveryConstants.maximumNumber
    return (mayRecord ? packetLimit : 0, number, probesPending > 0)
  }

  /// Whether window and pacer let a packet of `bytes` go, and if not, why.
  mutating func permission(bytes: Int, packets: Int, now: Instant) -> (Bool, FillResult) {
    guard inFlight + bytes <= congestion.window || inFlight == 0, sent.count < packets else {
      isUtilised = true
      return (false, .blockedByCongestion)
    }
    let rate = congestion.pacingRate(smoothed: smoothed)
    guard rate < .infinity else { return (true, .nothing) }
    pacer.refill(rate: rate, packet: bytes, now: now)
    if let until = pacer.wait(rate: rate, packet: bytes, now: now) {
      isUtilised = true
      blockedUntil = until
      return (false, .blockedByPacing(until: until))
    }
    return (true, .nothing)
  }

  var statistics: LaneStatistics {
    var result = figures
    result.smoothedRoundTrip = smoothed
    result.latestRoundTrip = latest
    result.minimumRoundTrip = minimum
    result.roundTripVariation = variation
    result.hasRoundTrip = hasSample
    result.deliveryRate = UInt64(rate.best)
    result.congestionWindow = congestion.window
    result.bytesInFlight = inFlight
    result.probeTimeouts = probeCount
    result.isSlowStart = congestion.isSlowStart
    return result
  }

  // MARK: Sending

  /// Completes the record of a packet that was written and keeps it.
  mutating func recordSent(_ packet: SentPacket, bytes: Int, isEliciting: Bool, now: Instant) {
    var packet = packet
    packet.sentAt = now
    packet.size = Int32(bytes)
    if isEliciting {
      if inFlight == 0 {
        if lastElicitingAt > .distantPast, now - lastElicitingAt > CongestionTuning.idle {
          congestion.restartAfterIdle()
        }
        firstSentAt = now
        deliveredAt = now
      }
      packet.state = .outstanding
      packet.delivered = delivered
      packet.deliveredAt = deliveredAt
      packet.firstSentAt = firstSentAt
      packet.isAppLimited = appLimitedUntil > delivered
      inFlight += bytes
      outstanding += 1
      lastElicitingAt = now
    } else {
      packet.state = .notEliciting
    }
    sent.append(packet)
    figures.packetsSent += 1
    figures.bytesSent += UInt64(bytes)
  }

  mutating func setMaximumPacket(_ bytes: Int) {
    maximumPacket = bytes
    packetLimit = kind == .ordered ? min(packetLimit, bytes) : bytes
    congestion.setPacket(bytes)
  }

  /// A packet on TCP holds the line no longer than 2 ms.
  mutating func sizePackets() {
    guard kind == .ordered, rate.best > 0 else { return }
    let bytes = Int(rate.best * Self.orderedTime.inSeconds)
    packetLimit = min(maximumPacket, max(Self.orderedFloor, bytes))
  }

  /// The application has no more to send though there is room.
  mutating func markAppLimited() {
    isUtilised = false
    appLimitedUntil = max(delivered + UInt64(inFlight), 1)
  }

  /// Takes everything outstanding out of flight (the lane died or may be
  /// dead); its frames go to `lost`. No sign of congestion.
  mutating func abandon(now: Instant, lost: inout [FrameRecord]) {
    var at = sent.nextTracked(from: sent.base, through: .max)
    while let number = at {
      if sent[number].state == .outstanding {
        markLost(number, now: now, lost: &lost)
        sent[number].lossEpoch = 0
      }
      at = sent.nextTracked(from: number + 1, through: .max)
    }
    lossTime = .distantFuture
    probesPending = 0
  }

  /// Hands the frames of the oldest packets of unknown fate to `again`.
  /// - Returns: how many packets that were.
  mutating func requeueOldest(_ limit: Int, again: inout [FrameRecord]) -> Int {
    var found = 0
    var at = sent.nextTracked(from: sent.base, through: .max)
    while let number = at, found < limit {
      if sent[number].state == .outstanding, !sent[number].isRequeued {
        sent[number].isRequeued = true
        appendFrames(number, to: &again)
        found += 1
      }
      at = sent.nextTracked(from: number + 1, through: .max)
    }
    return found
  }

  mutating func markLost(_ number: UInt64, now: Instant, lost: inout [FrameRecord]) {
    let bytes = Int(sent[number].size)
    sent[number].state = .lost
    sent[number].lostAt = now
    sent[number].lossEpoch = lossEpoch
    inFlight -= bytes
    outstanding -= 1
    figures.packetsLost += 1
    if !sent[number].isRequeued { appendFrames(number, to: &lost) }
  }

  func appendFrames(_ number: UInt64, to records: inout [FrameRecord]) {
    for at in 0..<Int(sent[number].frameCount) { records.append(sent[number].frames[at]) }
  }
}
