/// Acknowledgements and losses of one lane: RFC 9002 §5, §6, §7.6, with RACK's
/// adaptive reordering window (RFC 8985 §6.2, §7) and detection of losses that
/// were none (RFC 9438 §4.9).

#if canImport(Bytes)
import Bytes
#endif

/// One acknowledgement as read from the wire: ranges, newest first, inclusive.
struct AckBlock {
  var lane: LaneID = 0
  var delay: TimeAmount = .zero
  var spans = InlineArray<32, AckRanges.Span>(repeating: AckRanges.Span())
  var count = 0

  var largest: UInt64 { spans[0].upper }
}

/// What an acknowledgement or a deadline did to a lane.
struct RecoveryOutcome {
  var acknowledgedPackets = 0
  var lostPackets = 0
  var wasSpurious = false
  var wasPersistent = false
  var probeTimeout = false
}

extension SendLane {
  /// Takes an acknowledgement of packets that were all sent (checked before).
  mutating func acknowledge(
    _ block: borrowing AckBlock, now: Instant, acked: inout [FrameRecord],
    lost: inout [FrameRecord]
  ) -> RecoveryOutcome {
    var outcome = RecoveryOutcome()
    var newest: UInt64?
    var bytes = 0
    var ended = false
    let previousLargest = largestAcked
    for index in 0..<block.count {
      let span = block.spans[index]
      guard span.upper >= sent.base else { break }
      var at = sent.nextTracked(from: span.lower, through: span.upper)
      while let number = at {
        let size = Int(sent[number].size)
        if sent[number].state == .lost {
          noteSpurious(number, &outcome)
        } else {
          inFlight -= size
          outstanding -= 1
          if let previousLargest, number < previousLargest { reorderingSeen = true }
        }
        bytes += size
        outcome.acknowledgedPackets += 1
        appendFrames(number, to: &acked)
        sent[number].state = .acknowledged
        sent.untrack(number)
        if newest == nil || number > newest! { newest = number }
        at = sent.nextTracked(from: number + 1, through: span.upper)
      }
    }
    figures.lastAcknowledged = now
    guard let newest else { return outcome }
    largestAcked = max(largestAcked ?? 0, newest)
    delivered += UInt64(bytes)
    figures.packetsAcknowledged += UInt64(outcome.acknowledgedPackets)
    figures.bytesAcknowledged += UInt64(bytes)

    // RFC 9002 §5.1: a sample only from the largest, and only when it is new.
    var roundTrip: TimeAmount?
    if newest == block.largest {
      roundTrip = now - sent[newest].sentAt
      addSample(roundTrip!, delay: block.delay, now: now)
    }
    if newest >= roundEnd {
      roundEnd = sent.next
      ended = true
    }
    let (deliveryRate, isAppLimited) = rateSample(newest, now: now)
    rate.add(deliveryRate, isAppLimited: isAppLimited, roundEnded: ended)
    figures.isAppLimited = isAppLimited

    if ended, !isAppLimited { sizePackets() }

    let newestSentAt = sent[newest].sentAt
    let lostBefore = inFlight
    probeCount = 0
    probesPending = 0
    detectLosses(now: now, lost: &lost, &outcome)
    if outcome.wasSpurious, epochLost == 0, lossEpoch > 0, outcome.lostPackets == 0 {
      congestion.undo()
      recoveryStart = .distantPast
    }
    var sample = AckSample(
      now: now, bytes: outcome.wasPersistent ? 0 : bytes, inFlight: inFlight,
      isInRecovery: newestSentAt <= recoveryStart, newestSentAt: newestSentAt,
      roundTrip: roundTrip, smoothed: smoothed, minimum: minimum, deliveryRate: deliveryRate,
      isRateAppLimited: isAppLimited, wasUtilised: isUtilised, roundEnded: ended,
      lostBytes: lostBefore - inFlight)
    sample.packet = packetLimit
    congestion.acknowledged(sample)
    settle(now)
    return outcome
  }

  /// Frees the records of packets whose fate is settled.
  mutating func settle(_ now: Instant) {
    sent.settle(lostBefore: now - probeInterval * RecoveryConstants.lostMemory)
  }

  /// A deadline of this lane has passed.
  mutating func expire(now: Instant, lost: inout [FrameRecord]) -> RecoveryOutcome {
    var outcome = RecoveryOutcome()
    if lossTime <= now {
      detectLosses(now: now, lost: &lost, &outcome)
      settle(now)
      return outcome
    }
    if probeDeadline <= now {
      probeCount += 1
      outcome.probeTimeout = true
      // Counts from now, or an ordered lane (which sends no probe) would spin.
      lastElicitingAt = now
      if kind == .datagram {
        probesPending = 2
        if requeueOldest(2, again: &lost) == 0, probeCount > 1 {
          // Everything was queued once already: start over with the oldest.
          forgetRequeued()
          _ = requeueOldest(2, again: &lost)
        }
      }
    }
    return outcome
  }

  private mutating func forgetRequeued() {
    var at = sent.nextTracked(from: sent.base, through: .max)
    while let number = at {
      if sent[number].state == .outstanding { sent[number].isRequeued = false }
      at = sent.nextTracked(from: number + 1, through: .max)
    }
  }

  // MARK: Round trip

  /// What a ping measured; its own samples of the last seconds know better.
  mutating func learn(roundTrip: TimeAmount, now: Instant) {
    guard now - lastSampleAt > MuxTuning.roundTripMemory else { return }
    smoothed = roundTrip
    variation = roundTrip / 2
  }

  private mutating func addSample(_ sample: TimeAmount, delay: TimeAmount, now: Instant) {
    latest = sample
    lastSampleAt = now
    if !hasSample {
      hasSample = true
      firstSampleAt = now
      minimum = sample
      smoothed = sample
      variation = sample / 2
      return
    }
    if minimumReset {
      minimum = sample
      minimumReset = false
    }
    minimum = min(minimum, sample)
    let delay = min(delay, RecoveryConstants.maximumAckDelay)
    let adjusted = sample >= minimum + delay ? sample - delay : sample
    let difference = smoothed > adjusted ? smoothed - adjusted : adjusted - smoothed
    variation = (variation * 3 + difference) / 4
    smoothed = (smoothed * 7 + adjusted) / 8
  }

  // MARK: Delivery rate

  private mutating func rateSample(_ newest: UInt64, now: Instant) -> (Double, Bool) {
    let sentAt = sent[newest].sentAt
    let isAppLimited = sent[newest].isAppLimited
    let sendTime = sentAt - sent[newest].firstSentAt
    let ackTime = now - sent[newest].deliveredAt
    let bytes = delivered - sent[newest].delivered
    firstSentAt = sentAt
    deliveredAt = now
    if appLimitedUntil > 0, delivered > appLimitedUntil { appLimitedUntil = 0 }
    let interval = max(sendTime, ackTime)
    // Shorter than a round trip: compressed acknowledgements, no measure.
    guard interval > .zero, interval >= minimum else { return (0, isAppLimited) }
    return (Double(bytes) / interval.inSeconds, isAppLimited)
  }

  // MARK: Loss

  /// How long after a later packet's round trip an earlier one is lost.
  private var timeThreshold: TimeAmount {
    let base = max(smoothed, latest)
    guard reorderingSeen else { return max(base * 9 / 8, RecoveryConstants.granularity) }
    // RFC 8985 §6.2: a share of the minimum round trip, at most a smoothed one.
    let window = min(minimum * reorderMultiplier / 4, smoothed)
    return max(base + max(window, base / 8), RecoveryConstants.granularity)
  }

  mutating func detectLosses(
    now: Instant, lost: inout [FrameRecord], _ outcome: inout RecoveryOutcome
  ) {
    lossTime = .distantFuture
    guard let largestAcked, largestAcked > sent.base else { return }
    let threshold = timeThreshold
    let usePackets = !reorderingSeen
    var newestLostSentAt = Instant.distantPast
    var runStart: Instant?
    var previous: UInt64 = 0
    var longestRun: TimeAmount = .zero

    var at = sent.nextTracked(from: sent.base, through: largestAcked - 1)
    while let number = at {
      at = sent.nextTracked(from: number + 1, through: largestAcked - 1)
      let sentAt = sent[number].sentAt
      if sent[number].state == .outstanding {
        let isLost =
          sentAt + threshold <= now
          || (usePackets && largestAcked - number >= RecoveryConstants.packetThreshold)
        guard isLost else {
          lossTime = min(lossTime, sentAt + threshold)
          runStart = nil
          continue
        }
        if sentAt > recoveryStart { beginEpoch(now) }
        markLost(number, now: now, lost: &lost)
        epochLost += 1
        outcome.lostPackets += 1
        newestLostSentAt = max(newestLostSentAt, sentAt)
      }
      // RFC 9002 §7.6.2: the longest stretch with nothing delivered within.
      if let start = runStart, !hasAcknowledged(between: previous, and: number) {
        longestRun = max(longestRun, sentAt - start)
      } else {
        runStart = sentAt
      }
      previous = number
    }
    guard outcome.lostPackets > 0, let firstSampleAt else { return }
    let period = probeInterval * RecoveryConstants.persistentPeriods
    if longestRun >= period, newestLostSentAt - longestRun >= firstSampleAt {
      congestion.collapsed()
      minimumReset = true
      recoveryStart = .distantPast
      outcome.wasPersistent = true
    }
  }

  private func hasAcknowledged(between low: UInt64, and high: UInt64) -> Bool {
    var number = low + 1
    while number < high {
      if sent[number].state == .acknowledged { return true }
      number += 1
    }
    return false
  }

  /// A loss of a packet sent after the last reaction: react once (RFC 9002 §7.3.2).
  private mutating func beginEpoch(_ now: Instant) {
    recoveryStart = now
    lossEpoch &+= 1
    epochLost = 0
    figures.congestionEvents += 1
    congestion.congested(now: now, inFlight: inFlight)
    if reorderLife > 0 {
      reorderLife -= 1
      if reorderLife == 0 { reorderMultiplier = 1 }
    }
  }

  private mutating func noteSpurious(_ number: UInt64, _ outcome: inout RecoveryOutcome) {
    figures.packetsLostSpuriously += 1
    reorderingSeen = true
    reorderLife = RecoveryConstants.reorderPersistence
    // RFC 8985 §6.2: one step per round trip.
    if number >= reorderRaisedAt {
      reorderRaisedAt = sent.next
      reorderMultiplier = min(reorderMultiplier + 1, 64)
    }
    if sent[number].lossEpoch == lossEpoch, lossEpoch > 0 {
      epochLost -= 1
      outcome.wasSpurious = true
    }
  }
}
