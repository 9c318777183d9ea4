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

  /// A new keypair: everything has to be said again.
  mutating func restart(keypair: UInt64, now: Instant) {
    self = Hello()
    self.keypair = keypair
    sendAt = now
  }

  /// One was sent.
  mutating func sent(roundTrip: TimeAmount, now: Instant) {
    sendAt = isSeen ? nil : now + max(interval, roundTrip * 2)
    interval = min(interval * 2, .seconds(2))
  }

  mutating func seen() {
    isSeen = true
    if isHeard { sendAt = nil }
  }

  /// The peer's HELLO came; it wants an answer unless it has seen ours.
  mutating func heard(peerHasSeenUs: Bool, now: Instant) {
    isHeard = true
    if peerHasSeenUs {
      isSeen = true
      sendAt = nil
    } else {
      sendAt = now
    }
  }
}
