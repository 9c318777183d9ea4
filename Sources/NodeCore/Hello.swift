/// The HELLO of one keypair: who still has to hear whose incarnation. DESIGN
/// §1.1 "Incarnation". HELLO leaves with the first packet and is repeated each
/// probe time-out until a HELLO that has seen ours, or an acknowledgement,
/// arrives; numbered packets wait (bounded) until the peer's HELLO has come.

#if canImport(Bytes)
  internal import Bytes
#endif

struct Hello {
  /// The keypair it speaks of; nil before the first.
  var keypair: UInt64?
  /// The peer's HELLO came on this keypair.
  var isHeard = false
  /// The peer has shown that it knows our incarnation.
  var isSeen = false
  var sendAt: Instant?
  private var interval = NodeLimits.helloRetryFloor

  /// Answers to repeats of a HELLO that knows us already.
  private var answers = 0
  static let answerLimit = 8

  /// A new keypair: everything has to be said again.
  /// - Parameter isHeard: the peer's HELLO came on it before we turned to it.
  mutating func restart(keypair: UInt64, isHeard: Bool, now: Instant) {
    self = Hello()
    self.keypair = keypair
    self.isHeard = isHeard
    sendAt = now
  }

  /// It says something new: until the peer answers it is repeated.
  mutating func restate(now: Instant) {
    isSeen = false
    interval = NodeLimits.helloRetryFloor
    sendAt = now
  }

  /// One was sent.
  mutating func sent(roundTrip: TimeAmount, now: Instant) {
    sendAt = isSeen ? nil : now + max(interval, roundTrip * 2)
    interval = min(interval * 2, .seconds(2))
  }

  /// The peer's HELLO came on this keypair. `seen` speaks of this keypair
  /// alone: one that has not heard us on it wants an answer; so does one that
  /// was the first, and one that is repeated because our answer was lost
  /// (a few times only, or two copies in the network would be answered for ever).
  mutating func heard(peerHasSeenUs: Bool, now: Instant) {
    let isFirst = !isHeard
    isHeard = true
    guard peerHasSeenUs else {
      sendAt = now
      return
    }
    let isRepeat = isSeen
    isSeen = true
    sendAt = nil
    if isFirst || isRepeat, answers < Self.answerLimit {
      answers += 1
      sendAt = now
    }
  }
}
