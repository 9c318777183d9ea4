/// The peer's end of one path: which of its numbers came, and when it must be
/// told. RFC 9000 §13.2; DESIGN §1.3 (one acknowledgement per batch, at most
/// four per round trip above 100 packets per round trip, 25 ms, at once on a
/// gap).

#if canImport(Bytes)
import Bytes
#endif

struct ReceiveLane {
  let id: LaneID
  var ranges = AckRanges()
  /// Packets that ask for an acknowledgement and have none yet.
  private(set) var pending = 0
  /// When they must have one.
  private(set) var deadline = Instant.distantFuture
  private(set) var largestAt = Instant.distantPast
  private var lastAckAt = Instant.distantPast
  private var roundStart = Instant.distantPast
  private var roundPackets = 0
  private var isBusy = false
  var figures = PeerLaneStatistics()

  init(id: LaneID) { self.id = id }

  mutating func note(
    _ arrival: AckRanges.Arrival, bytes: Int, isEliciting: Bool, roundTrip: TimeAmount, now: Instant
  ) {
    figures.packets += 1
    figures.bytes += UInt64(bytes)
    if arrival == .inOrder || arrival == .newGap { largestAt = now }
    guard isEliciting else { return }
    if now - roundStart >= roundTrip {
      // Two rounds of silence are no busy round.
      isBusy = roundPackets > MuxTuning.thinningPackets && now - roundStart < roundTrip * 2
      roundStart = now
      roundPackets = 0
    }
    roundPackets += 1
    if roundPackets > MuxTuning.thinningPackets { isBusy = true }
    pending += 1
    if arrival != .inOrder || !isBusy {
      deadline = now
    } else if pending == 1 {
      let pause = min(roundTrip / MuxTuning.thinnedAcks, RecoveryConstants.maximumAckDelay)
      deadline = max(now, lastAckAt + pause)
    }
  }

  /// What was said of it a moment ago may have been lost.
  /// - Returns: whether an acknowledgement is owed that was not owed before.
  mutating func doubtAcknowledged(_ now: Instant) -> Bool {
    guard now - lastAckAt <= MuxTuning.doubtedAcks else { return false }
    let isNew = pending == 0
    pending = max(pending, 1)
    deadline = now
    return isNew
  }

  mutating func acknowledgedNow(_ now: Instant) {
    pending = 0
    deadline = .distantFuture
    lastAckAt = now
  }
}
