/// The values that cross the face of the multiplexer: names of streams and
/// lanes, events, outcomes, failures and statistics. No behaviour lives here.
/// Protocol: docs/protocol/mux.md.

#if canImport(Bytes)
package import Bytes
#endif

/// The name of one stream of one session incarnation. A name outlives its
/// stream: using a stale one does nothing and reads as empty.
package struct StreamID: Hashable, Sendable {
  /// The number on the wire.
  package let number: UInt32
  /// Which incarnation of the session it belongs to (`Multiplexer.restart`).
  package let epoch: UInt32

  package init(number: UInt32, epoch: UInt32) {
    self.number = number
    self.epoch = epoch
  }
}

/// The sender's name for one of its paths; numbers packets (DESIGN §1.2).
package typealias LaneID = UInt8

/// Which stream ids this side opens: the one whose static key is smaller, odd.
package enum MuxRole: UInt8, Sendable {
  case even = 0
  case odd = 1

  package var other: MuxRole { self == .odd ? .even : .odd }
}

/// Who controls the rate of a lane.
package enum LaneKind: UInt8, Sendable {
  /// UDP or relayed: our congestion control, pacing and loss recovery.
  case datagram
  /// A direct TCP connection: the kernel controls the rate, ours is a limit of
  /// bytes in flight; nothing is re-sent on it while it is open.
  case ordered
}

/// Which controller new datagram lanes get.
package enum CongestionAlgorithm: String, Sendable {
  /// CUBIC with HyStart++ (RFC 9438, RFC 9406).
  case cubic
  /// Rate from a model of bottleneck bandwidth and minimum round trip.
  case bbr
}

/// What a call of `fill` is for.
package enum FillMode: UInt8, Sendable {
  /// Acknowledgements, probes, control frames, data: the primary lane.
  case data
  /// Acknowledgements, and a probe if this lane owes one: every other lane.
  case probe
  /// As `probe`, plus duplicates of data in flight elsewhere: warms a lane
  /// ahead of a planned switch. The receiver ignores what it has.
  case warm
}

/// What a call of `fill` did.
package enum FillResult: Equatable, Sendable {
  /// Nothing written and nothing waiting.
  case nothing
  /// One packet was written; call again for more.
  case wrote
  /// Nothing written: data waits for acknowledgements on this lane.
  case blockedByCongestion
  /// Nothing written: data waits for the pacer; `nextDeadline` covers it.
  case blockedByPacing(until: Instant)
}

/// What happened; taken with `Multiplexer.pollEvent()`. Edge-triggered: the
/// same thing is told again only after the stream was drained (readable,
/// datagram) or found full (writable).
package enum MuxEvent: Equatable, Sendable {
  /// The peer opened a stream: answer with `accept` or `refuse`.
  case opened(StreamID, request: [UInt8])
  /// Our open was accepted.
  case accepted(StreamID)
  /// Our open was refused; nothing was delivered, another exit may be tried.
  case refused(StreamID, code: UInt16, words: String)
  /// Bytes can be read; read until `readableCount` is 0.
  case readable(StreamID)
  /// A write that found the buffer full can go on.
  case writable(StreamID)
  /// The peer's last byte has arrived; told after its `readable`. What is left
  /// in the buffer can still be read.
  case finished(StreamID)
  /// The peer ended both directions; unread bytes are gone.
  case reset(StreamID, code: UInt16, words: String)
  /// A datagram can be taken; take until there is none.
  case datagram(StreamID)
  /// Both directions are over and the peer knows; the name is dead.
  case closed(StreamID)
  /// No acknowledgement came in time, `count` times in a row (1, 2, …).
  case laneProbeTimeout(LaneID, count: Int)
  /// Packets believed lost on the lane had only been late.
  case laneLossSpurious(LaneID)
  /// Nothing got through on the lane for so long that its window collapsed.
  case laneCongestionPersistent(LaneID)
}

/// The peer broke the protocol: the session must close with this code.
package enum MuxFailure: UInt16, Error, Equatable, Sendable {
  /// A packet or frame that cannot be read.
  case malformed = 1
  /// Flags that do not go together, or do not belong here.
  case badFlags = 2
  /// DATA outside the credit given.
  case creditExceeded = 3
  /// Two different final offsets, or data behind one.
  case finalOffset = 4
  /// An id more than 65,536 above the watermark.
  case streamTooFar = 5
  /// A frame for a stream of ours that was never opened.
  case streamNeverOpened = 6
  /// SYN or OPENED from the wrong side.
  case wrongSide = 7
  /// More streams than the limit, refusals not yet acknowledged included.
  case tooManyStreams = 8
  /// An acknowledgement of a packet that was never sent.
  case acknowledgedUnsent = 9
}

/// Why a stream cannot be opened.
package enum OpenFailure: Error, Equatable, Sendable {
  /// The request is longer than `MuxProtocol.requestBytes` (480).
  case requestTooLong
  /// As many streams as the limits allow, or ids too far ahead of the peer.
  case tooManyStreams
  /// The session has failed or was closed.
  case sessionClosed
}

/// Codes that a RST carries. Others are the application's.
package enum ResetCode {
  package static let cancelled: UInt16 = 0
  package static let peerRestarted: UInt16 = 1
  package static let peerLost: UInt16 = 2
  package static let tooManyStreams: UInt16 = 3
  package static let sessionClosed: UInt16 = 4
  package static let protocolError: UInt16 = 5
  /// The first code for applications.
  package static let application: UInt16 = 256
}

/// What a lane measured since it was added.
package struct LaneStatistics: Equatable, Sendable {
  package var smoothedRoundTrip: TimeAmount = .zero
  package var latestRoundTrip: TimeAmount = .zero
  package var minimumRoundTrip: TimeAmount = .zero
  package var roundTripVariation: TimeAmount = .zero
  /// False until the first acknowledgement: the times above are guesses.
  package var hasRoundTrip = false
  package var packetsSent: UInt64 = 0
  package var bytesSent: UInt64 = 0
  package var packetsLost: UInt64 = 0
  /// Of those, found to have been only late.
  package var packetsLostSpuriously: UInt64 = 0
  package var packetsAcknowledged: UInt64 = 0
  package var bytesAcknowledged: UInt64 = 0
  /// Bytes a second that the peer acknowledged, the recent best.
  package var deliveryRate: UInt64 = 0
  package var congestionWindow = 0
  package var bytesInFlight = 0
  /// Probe time-outs in a row.
  package var probeTimeouts = 0
  /// When the newest acknowledgement of this lane came; nil before the first.
  package var lastAcknowledged: Instant?
  package var isSlowStart = true
  /// The newest measurement says what there was to send, not what the path moves.
  package var isAppLimited = true
  package var congestionEvents: UInt64 = 0
}

/// What the owner says of a lane; the multiplexer does not know what it means.
package struct LaneMarks: OptionSet, Sendable, Hashable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  package static let direct = LaneMarks(rawValue: 1)
  package static let relayed = LaneMarks(rawValue: 2)
  /// Others pay for what goes by it.
  package static let costly = LaneMarks(rawValue: 4)
}

/// Whose turn it is when several streams have data.
package enum StreamPriority: UInt8, Sendable {
  /// Before all others, who keep a ninth of what leaves.
  case urgent
  case usual
  /// A quarter of a usual one's share, and never ahead because it was idle.
  case background
}

/// What a lane of the peer brought.
package struct PeerLaneStatistics: Equatable, Sendable {
  package var packets: UInt64 = 0
  package var bytes: UInt64 = 0
  /// Numbers skipped so far: packets lost or late on the peer's path to us.
  package var missing: UInt64 = 0
}

/// Bytes and frames dropped or ignored, by reason.
package struct MuxDrops: Equatable, Sendable {
  package var duplicatePackets: UInt64 = 0
  package var staleFrames: UInt64 = 0
  package var datagramQueueFull: UInt64 = 0
  package var datagramTooOld: UInt64 = 0
  /// The stream avoids the lane in use.
  package var datagramNoRoad: UInt64 = 0
  package var datagramBadFragment: UInt64 = 0
  package var datagramReassemblyExpired: UInt64 = 0
  package var closedSession: UInt64 = 0
}

/// Protections switched off one at a time, so that a mutation check can show
/// that the tests notice. Empty in every program.
package struct MuxMutations: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  package static let noRetransmission = MuxMutations(rawValue: 1)
  package static let noCreditCheck = MuxMutations(rawValue: 2)
  package static let ignorePeerCredit = MuxMutations(rawValue: 4)
  package static let noSeenSet = MuxMutations(rawValue: 8)
}
