/// One stream: both its directions, its credit, what must still be said about
/// it. A plain struct in the slab of `MuxCore`; it knows no lanes and no
/// packets. RFC 9000 §§2–4 (with RST ending both directions at once).

#if canImport(Bytes)
import Bytes
#endif

/// Flags of the wire, and the combinations that are allowed.
enum FrameFlags {
  static let syn: UInt8 = 0x01
  static let fin: UInt8 = 0x02
  static let data: UInt8 = 0x04
  /// Not on the wire inside a session: marks an ACK in a `FrameRecord`.
  static let ackRecord: UInt8 = 0x10
  static let rst: UInt8 = 0x20
  static let credit: UInt8 = 0x40
  static let datagram: UInt8 = 0x80
  static let opened = syn | credit
}

/// States of a stream that wait to be sent in their newest form.
struct ControlFrames: OptionSet {
  let rawValue: UInt8
  static let syn = ControlFrames(rawValue: 1)
  static let opened = ControlFrames(rawValue: 2)
  static let credit = ControlFrames(rawValue: 4)
  static let fin = ControlFrames(rawValue: 8)
  static let rst = ControlFrames(rawValue: 16)
}

struct MuxStream {
  ///     open ──finish──▶ finishing ──all acknowledged──▶ delivered
  ///       └──────reset────────┴──────▶ reset ──acknowledged──▶ resetDelivered
  enum SendSide { case open, finishing, delivered, reset, resetDelivered }
  ///     open ──FIN──▶ finalKnown ──all read──▶ drained
  ///       └────────RST────┴──────▶ reset
  enum ReceiveSide { case open, finalKnown, drained, reset }
  /// Which list of the scheduler it stands in.
  enum Queue: UInt8 { case none, fresh, old, blocked, urgent, parked }

  var id: UInt32 = 0
  var isOurs = false

  // Scheduling (intrusive lists, -1 = none).
  var queue = Queue.none
  var priority = StreamPriority.usual
  /// Lanes it does not go by.
  var avoids: LaneMarks = []
  var next: Int32 = -1
  var previous: Int32 = -1
  var deficit = 0
  var isInControl = false
  var controlNext: Int32 = -1
  var controlPrevious: Int32 = -1
  var control: ControlFrames = []
  /// Of SYN, OPENED, FIN: what the peer has acknowledged.
  var confirmed: ControlFrames = []

  // Opening and ending.
  var request: [UInt8] = []
  /// Peer's stream: its SYN has come (DATA may overtake it).
  var isAnnounced = false
  /// Peer's stream: accepted. Ours: OPENED has come.
  var isAccepted = false
  var isRefusal = false
  /// We reset it: what comes is counted and thrown away.
  var isDiscarding = false
  var resetCode: UInt16 = 0
  var resetWords: [UInt8] = []

  // Sending: acknowledged up to `sendBase`, sent up to `sendNext`.
  var sendSide = SendSide.open
  var sendRing = ByteRing()
  var sendBase: UInt64 = 0
  var sendNext: UInt64 = 0
  var sendEnd: UInt64 = 0
  var sendLimit = UInt64(MuxProtocol.initialStreamCredit)
  var acknowledged = OffsetRanges()
  var lost = OffsetRanges()
  var wantsWritable = false

  // Receiving: read up to `readOffset`, in order up to `contiguous`.
  var receiveSide = ReceiveSide.open
  var receiveRing = ByteRing()
  var readOffset: UInt64 = 0
  var contiguous: UInt64 = 0
  var highest: UInt64 = 0
  var finalOffset: UInt64?
  var receiveLimit = UInt64(MuxProtocol.initialStreamCredit)
  var window = MuxProtocol.initialStreamCredit
  var lastGrant = Instant.distantPast
  var arrived = OffsetRanges()
  var datagrams = ContiguousQueue()

  // Events told and not yet used up.
  var toldReadable = false
  var toldFinished = false
  var toldDatagram = false

  var buffered: Int { Int(sendEnd - sendBase) }
  var readable: Int { Int(contiguous - readOffset) }

  var isOver: Bool {
    let sent = sendSide == .delivered || sendSide == .resetDelivered
    return sent && (receiveSide == .drained || receiveSide == .reset)
  }

  /// Data that may be sent, the session's credit apart.
  var hasData: Bool { !lost.isEmpty || (sendNext < sendEnd && sendNext < sendLimit) }

  // MARK: Sending

  /// The peer has `lower..<upper`.
  mutating func acknowledge(_ lower: UInt64, _ upper: UInt64) {
    guard upper > sendBase else { return }
    if !lost.isEmpty { lost.remove(lower, upper) }
    if lower <= sendBase {
      sendBase = acknowledged.isEmpty ? upper : acknowledged.join(upper)
      sendRing.discard(before: sendBase, isEmpty: sendBase == sendEnd)
    } else {
      acknowledged.insert(lower, upper)
    }
  }

  /// `lower..<upper` may not have arrived: what is not known to have is queued.
  mutating func requeue(_ lower: UInt64, _ upper: UInt64) {
    let lower = max(lower, sendBase)
    guard lower < upper else { return }
    if acknowledged.isEmpty {
      lost.insert(lower, upper)
    } else {
      let known = acknowledged
      known.forEachGap(lower, upper) { lost.insert($0, $1) }
    }
  }

  // MARK: Receiving

  /// A final offset has come; false if it contradicts what is known.
  mutating func setFinal(_ offset: UInt64) -> Bool {
    if let finalOffset { return finalOffset == offset }
    guard offset >= highest else { return false }
    finalOffset = offset
    return true
  }

  /// Puts bytes down that lie within the credit (checked before).
  /// - Returns: false when there are too many pieces.
  mutating func place(_ bytes: RawSpan, at offset: UInt64) -> Bool {
    let end = offset + UInt64(bytes.byteCount)
    guard end > contiguous else { return true }
    let stored = max(contiguous, arrived.ranges.last?.upper ?? 0)
    receiveRing.reserve(through: end, keeping: stored)
    if offset <= contiguous {
      let skip = Int(contiguous - offset)
      receiveRing.store(bytes.extracting(skip..<bytes.byteCount), at: contiguous)
      contiguous = arrived.isEmpty ? end : arrived.join(end)
      return true
    }
    receiveRing.store(bytes, at: offset)
    arrived.insert(offset, end)
    return arrived.count <= MuxTuning.receivePieces
  }
}

/// Tunables of the streams, none of them seen on the wire.
enum MuxTuning {
  /// Pieces ahead of a gap: more than any lane has packets in flight.
  static let receivePieces = 65_536
  /// Send buffer of a stream before the window is known.
  static let minimumSendBuffer = 128 << 10
  /// What a stream may buffer though the memory limit is reached.
  static let scarceSendBuffer = 16 << 10
  /// An empty ring larger than this gives its memory back.
  static let keptRing = 64 << 10
  /// Round trip assumed for the tuning of windows while none is known.
  static let assumedRoundTrip: TimeAmount = .milliseconds(100)
  /// Below this a round trip says more about scheduling than about the path.
  static let minimumTuningRoundTrip: TimeAmount = .milliseconds(2)
  /// Packets per round trip above which acknowledgements are thinned.
  static let thinningPackets = 100
  /// Acknowledgements per round trip then.
  static let thinnedAcks: Int64 = 4
  /// Acknowledgements so recent may have been lost with a path that is suspect.
  static let doubtedAcks: TimeAmount = .seconds(2)
  /// A lane that has not been used for so long no longer knows its round trip.
  static let roundTripMemory: TimeAmount = .seconds(5)
  /// What a stream that was idle may send ahead of the others.
  static let headStart = 4_096
  /// Urgent streams may send so many full packets while another one waits.
  static let urgentTurns = 8
  /// What a background stream gets of a turn.
  static let backgroundPart = 4
  /// A packet with less room than this takes no more stream data.
  static let leastRoom = 24
}
