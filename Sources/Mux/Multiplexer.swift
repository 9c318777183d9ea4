/// One session's frames, streams, credit, loss recovery and congestion
/// control: bytes and time in, values out. It knows keys, sockets and paths
/// not at all: a packet goes in as opened by the session, and comes out to be
/// sealed for the lane it was asked for. DESIGN §1.2, §1.3;
/// docs/protocol/mux.md; RFC 9000 §§2–4, 13; RFC 9002.
///
/// After any call that changes something the driver drains: events until nil;
/// `fill` on the primary lane until it does not answer `.wrote`; `fill` with
/// `.probe` on every other lane in `pendingLanes`; then waits for
/// `nextDeadline` and calls `advance`.

#if canImport(Bytes)
package import Bytes
#endif

/// The face of a session's multiplexer. Not thread-safe: one loop owns it.
package final class Multiplexer {
  var core: MuxCore

  /// - Parameters:
  ///   - role: which ids this side opens; the peer has the other.
  ///   - random: drives pacing jitter and skipped numbers; fixed by tests.
  package init(role: MuxRole, limits: MuxLimits = MuxLimits(), random: SeededRandom) {
    core = MuxCore(role: role, limits: limits, random: random)
  }
}

// MARK: Lanes

extension Multiplexer {
  /// Adds a path. The id must not be in use; a closed id may come back and its
  /// numbers go on where they ended.
  /// - Parameters:
  ///   - maximumPacket: bytes of one 0x01 packet with its 8-byte head, before
  ///     padding and sealing: 64…65,488.
  ///   - roundTrip: what Paths measured, if it did; else 333 ms until known.
  package func addLane(
    _ id: LaneID, kind: LaneKind, maximumPacket: Int, roundTrip: TimeAmount? = nil,
    marks: LaneMarks = [], now: Instant
  ) {
    core.addLane(
      id, kind: kind, maximumPacket: maximumPacket, roundTrip: roundTrip, marks: marks, now: now)
  }

  /// The carrier is gone: all in flight on it is lost now.
  package func removeLane(_ id: LaneID, now: Instant) { core.removeLane(id, now: now) }

  /// The path may be dead: what is in flight is sent again elsewhere; the lane
  /// stays, late acknowledgements of it still count.
  package func suspectLane(_ id: LaneID, now: Instant) { core.suspectLane(id, now: now) }

  /// A round trip measured by other means, for a lane without samples of its
  /// own in the last seconds.
  package func setRoundTrip(_ id: LaneID, _ roundTrip: TimeAmount, now: Instant) {
    core.setRoundTrip(id, roundTrip, now: now)
  }

  package func setMaximumPacket(_ id: LaneID, _ bytes: Int) {
    core.setMaximumPacket(id, bytes)
  }

  package func hasLane(_ id: LaneID) -> Bool { core.hasLane(id) }

  /// What the lane measured; nil for a lane that is not there.
  package func laneStatistics(_ id: LaneID) -> LaneStatistics? { core.laneStatistics(id) }

  /// What came in on the peer's lane of that name; nil if nothing ever did.
  package func peerLaneStatistics(_ id: LaneID) -> PeerLaneStatistics? {
    core.peerLaneStatistics(id)
  }
}

// MARK: Wire

extension Multiplexer {
  /// Takes one opened packet that begins with 0x01. Zero padding behind the
  /// last frame is fine. Stale and duplicate things are counted and dropped.
  /// - Throws: the peer broke the protocol; close the session with the code.
  package func receive(_ packet: RawSpan, now: Instant) throws(MuxFailure) {
    try core.receive(packet, now: now)
  }

  /// Writes at most one packet (type, lane, number, frames) for the lane.
  /// - Parameter output: free capacity bounds the packet, as does the lane's
  ///   `maximumPacket`; below 64 bytes nothing is written.
  package func fill(
    lane: LaneID, into output: inout OutputRawSpan, mode: FillMode = .data, now: Instant
  ) -> FillResult {
    core.fill(lane: lane, into: &output, mode: mode, now: now)
  }

  /// Lanes that owe a probe or were asked to be filled whatever the choice of
  /// Paths: bit n of word n/64 stands for lane n. Call `fill(mode: .probe)`.
  package var pendingLanes: [LaneID] { core.pendingLanes }

  /// True when `fill(mode: .data)` on some lane would write an acknowledgement
  /// or data now (congestion and pacing aside).
  package func hasWork(now: Instant) -> Bool { core.hasWork(now: now) }

  /// When `advance` must be called at the latest; `.distantFuture` if never.
  /// What is due already waits for `fill` and is not counted (see `hasWork`).
  package var nextDeadline: Instant { core.nextDeadline }

  /// Lets time-outs happen: losses, probes, late acknowledgements, expiry.
  package func advance(to now: Instant) { core.advance(to: now) }

  /// The next event, or nil. O(1).
  package func pollEvent() -> MuxEvent? { core.pollEvent() }

  /// The peer is another incarnation: every stream is reset (event `.reset`
  /// with `code`), numbers, ids and credit start anew, lanes stay.
  package func restart(code: UInt16 = ResetCode.peerRestarted, now: Instant) {
    core.restart(code: code, now: now)
  }

  /// Resets every open stream, both sides told; lanes and session stay.
  package func resetAll(code: UInt16, words: String = "") { core.resetAll(code: code, words: words) }

  /// Set after `receive` threw: everything is ignored from then on.
  package var failure: MuxFailure? { core.failure }
}

// MARK: Streams

extension Multiplexer {
  /// Opens a stream. Bytes written before the next `fill` travel with the
  /// request (0-RTT), as long as they fit its packet.
  /// - Parameter request: at most 480 bytes (it must fit one packet
  ///   of the smallest path), told to the peer as they are.
  package func open(request: RawSpan, now: Instant) throws(OpenFailure) -> StreamID {
    try core.open(request: request, now: now)
  }

  /// Its turn among others, and lanes whose marks it does not go by: its data
  /// waits while such a lane carries the session's. Streams begin with the
  /// usual turn and avoid none.
  package func setTerms(_ id: StreamID, priority: StreamPriority, avoids: LaneMarks) {
    guard let slot = core.slot(of: id) else { return }
    core.setTerms(slot, priority: priority, avoids: avoids)
  }

  /// Answers `.opened`: the peer gets `.accepted`.
  package func accept(_ id: StreamID) { core.accept(id) }

  /// Answers `.opened`: nothing was delivered, the peer may try another exit.
  /// - Parameter words: at most 256 bytes of UTF-8; longer is cut.
  package func refuse(_ id: StreamID, code: UInt16, words: String = "") {
    core.reset(id, code: code, words: words, refused: true)
  }

  /// Copies bytes into the send buffer.
  /// - Returns: how many were taken; fewer than given: wait for `.writable`.
  package func write(_ id: StreamID, _ bytes: RawSpan) -> Int { core.write(id, bytes) }

  /// Bytes `write` would take now. 0 asks for a `.writable` later.
  package func writeCapacity(_ id: StreamID) -> Int { core.writeCapacity(id) }

  /// Lets `body` put bytes straight into the send buffer, in one piece of at
  /// most `limit` bytes; what it leaves initialised counts as written.
  /// - Returns: bytes written; 0 without a call of `body` if there is no room
  ///   (then `.writable` comes).
  package func withWritable(
    _ id: StreamID, limit: Int = 65_536, _ body: (inout OutputRawSpan) -> Void
  ) -> Int {
    core.withWritable(id, limit: limit, body)
  }

  /// Written bytes the peer has not acknowledged.
  package func unacknowledgedCount(_ id: StreamID) -> Int { core.unacknowledgedCount(id) }

  /// No more will be written (half close); what was written is delivered.
  package func finish(_ id: StreamID) { core.finish(id) }

  /// Ends both directions now; buffers are dropped, the peer is told.
  package func reset(_ id: StreamID, code: UInt16, words: String = "") {
    core.reset(id, code: code, words: words, refused: false)
  }

  /// Lends the readable bytes that lie in one piece (there may be more: call
  /// again); `body` says how many it took. Credit follows what is taken.
  /// - Returns: what `body` returned; 0 without a call of it if none is there.
  @discardableResult
  package func withReadable(_ id: StreamID, _ body: (RawSpan) -> Int) -> Int {
    core.withReadable(id, body)
  }

  /// Bytes that can be read now.
  package func readableCount(_ id: StreamID) -> Int { core.readableCount(id) }

  /// True when the peer finished and every byte has been taken.
  package func isFinished(_ id: StreamID) -> Bool { core.isFinished(id) }

  /// False for a name whose stream is over.
  package func isOpen(_ id: StreamID) -> Bool { core.slot(of: id) != nil }

  /// Queues a datagram of at most 65,507 bytes beside the stream's bytes.
  /// - Returns: false if it was dropped (queue full, too long, stream over).
  package func sendDatagram(_ id: StreamID, _ bytes: RawSpan, now: Instant) -> Bool {
    core.sendDatagram(id, bytes, now: now)
  }

  /// Lends the oldest datagram and removes it.
  /// - Returns: false if there is none.
  package func receiveDatagram(_ id: StreamID, _ body: (RawSpan) -> Void) -> Bool {
    core.receiveDatagram(id, body)
  }
}

// MARK: Figures

extension Multiplexer {
  package var openStreamCount: Int { core.openStreamCount }
  /// Bytes of send, receive and datagram buffers allocated.
  package var memoryInUse: Int { core.memoryInUse }
  package var drops: MuxDrops { core.drops }
}
