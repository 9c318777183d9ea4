/// The application's side of a stream: opening, writing, reading, ending, and
/// the credit that follows what is read.

#if canImport(Bytes)
import Bytes
#endif

extension MuxCore {
  // MARK: Opening

  mutating func open(request: RawSpan, now: Instant) throws(OpenFailure) -> StreamID {
    guard failure == nil else { throw .sessionClosed }
    guard request.byteCount <= MuxProtocol.requestBytes else { throw .requestTooLong }
    advanceClock(now)
    // Half the distance the peer accepts, so that reordering cannot break it.
    guard openStreamCount - peerStreamCount < limits.streams,
      confirmed.distance(nextIndex) < MuxProtocol.streamDistance / 4
    else { throw .tooManyStreams }
    var id = confirmed.id(nextIndex)
    if id == 0 {
      nextIndex = 0
      id = confirmed.id(0)
    }
    guard table.find(id) == nil else { throw .tooManyStreams }
    nextIndex = (nextIndex &+ 1) & SeenStreams.indexMask
    let slot = addStream(id, isOurs: true)
    streams[slot].request = [UInt8](request)
    scheduleControl(slot, .syn)
    return name(slot)
  }

  mutating func accept(_ id: StreamID) {
    guard let slot = slot(of: id), !streams[slot].isOurs, !streams[slot].isAccepted,
      streams[slot].sendSide == .open || streams[slot].sendSide == .finishing
    else { return }
    streams[slot].isAccepted = true
    scheduleControl(slot, .opened)
  }

  // MARK: Writing

  private func sendCapacity(_ slot: Int) -> Int {
    guard streams[slot].sendSide == .open else { return 0 }
    var window = 0
    if let primary, let at = lane(primary) { window = lanes[at].congestion.window }
    let target = min(max(2 * window, MuxTuning.minimumSendBuffer), limits.sendBuffer)
    let buffered = streams[slot].buffered
    if ringMemory > limits.memory { return max(0, MuxTuning.scarceSendBuffer - buffered) }
    return max(0, target - buffered)
  }

  mutating func writeCapacity(_ id: StreamID) -> Int {
    guard let slot = slot(of: id) else { return 0 }
    let capacity = sendCapacity(slot)
    if capacity == 0, streams[slot].sendSide == .open { streams[slot].wantsWritable = true }
    return capacity
  }

  mutating func write(_ id: StreamID, _ bytes: RawSpan) -> Int {
    guard let slot = slot(of: id), failure == nil else { return 0 }
    let count = min(bytes.byteCount, sendCapacity(slot))
    if count < bytes.byteCount, streams[slot].sendSide == .open {
      streams[slot].wantsWritable = true
    }
    guard count > 0 else { return 0 }
    reserveSending(slot, count)
    let end = streams[slot].sendEnd
    streams[slot].sendRing.store(bytes.extracting(0..<count), at: end)
    streams[slot].sendEnd = end + UInt64(count)
    schedule(slot)
    return count
  }

  mutating func withWritable(
    _ id: StreamID, limit: Int, _ body: (inout OutputRawSpan) -> Void
  ) -> Int {
    guard let slot = slot(of: id), failure == nil else { return 0 }
    let count = min(limit, sendCapacity(slot))
    guard count > 0 else {
      if limit > 0, streams[slot].sendSide == .open { streams[slot].wantsWritable = true }
      return 0
    }
    reserveSending(slot, count)
    let end = streams[slot].sendEnd
    let written = streams[slot].sendRing.withRoom(from: end, to: end + UInt64(count), body)
    streams[slot].sendEnd = end + UInt64(written)
    if written > 0 { schedule(slot) }
    return written
  }

  private mutating func reserveSending(_ slot: Int, _ count: Int) {
    let before = streams[slot].sendRing.capacity
    let end = streams[slot].sendEnd
    streams[slot].sendRing.reserve(through: end + UInt64(count), keeping: end)
    ringMemory += streams[slot].sendRing.capacity - before
  }

  /// Tells a writer that was turned away, once a quarter is free again.
  mutating func tellWritable(_ slot: Int) {
    guard streams[slot].wantsWritable, streams[slot].sendSide == .open else { return }
    let capacity = sendCapacity(slot)
    guard capacity > 0, capacity >= streams[slot].buffered / 3 else { return }
    streams[slot].wantsWritable = false
    tell(.writable(name(slot)))
  }

  func unacknowledgedCount(_ id: StreamID) -> Int { slot(of: id).map { streams[$0].buffered } ?? 0 }

  mutating func finish(_ id: StreamID) {
    guard let slot = slot(of: id), streams[slot].sendSide == .open else { return }
    streams[slot].sendSide = .finishing
    streams[slot].wantsWritable = false
    if streams[slot].sendNext == streams[slot].sendEnd { scheduleControl(slot, .fin) }
  }

  // MARK: Ending

  mutating func reset(_ id: StreamID, code: UInt16, words: String, refused: Bool) {
    guard let slot = slot(of: id), !streams[slot].isDiscarding else { return }
    streams[slot].isDiscarding = true
    streams[slot].isRefusal = refused && !streams[slot].isOurs && !streams[slot].isAccepted
    if streams[slot].sendSide != .reset, streams[slot].sendSide != .resetDelivered {
      abandonSending(slot, code: code, words: cutWords(words, limit: MuxProtocol.wordsBytes))
    }
    dropReceived(slot)
    discardReceived(slot)
  }

  mutating func resetAll(code: UInt16, words: String) {
    for slot in streams.indices where streams[slot].id != 0 {
      let id = name(slot)
      let wasTold = streams[slot].isDiscarding || streams[slot].receiveSide == .reset
      let isVisible = streams[slot].isOurs || streams[slot].isAnnounced
      if isVisible, !wasTold { tell(.reset(id, code: code, words: words)) }
      reset(id, code: code, words: words, refused: false)
    }
  }

  /// Turns the sending side into a RST that waits to be sent.
  mutating func abandonSending(_ slot: Int, code: UInt16, words: [UInt8]) {
    streams[slot].sendSide = .reset
    streams[slot].resetCode = code
    streams[slot].resetWords = words
    streams[slot].lost.removeAll()
    streams[slot].acknowledged.removeAll()
    streams[slot].sendBase = streams[slot].sendNext
    streams[slot].sendEnd = streams[slot].sendNext
    streams[slot].wantsWritable = false
    ringMemory -= streams[slot].sendRing.capacity
    streams[slot].sendRing = ByteRing(start: streams[slot].sendNext)
    unschedule(slot)
    streams[slot].control = []
    scheduleControl(slot, .rst)
  }

  mutating func dropReceived(_ slot: Int) {
    streams[slot].arrived.removeAll()
    ringMemory -= streams[slot].receiveRing.capacity
    streams[slot].receiveRing = ByteRing(start: streams[slot].highest)
    dropDatagrams(slot)
  }

  // MARK: Reading

  func readableCount(_ id: StreamID) -> Int { slot(of: id).map { streams[$0].readable } ?? 0 }

  func isFinished(_ id: StreamID) -> Bool {
    guard let slot = slot(of: id) else { return true }
    return streams[slot].receiveSide == .drained || streams[slot].receiveSide == .reset
  }

  mutating func withReadable(_ id: StreamID, _ body: (RawSpan) -> Int) -> Int {
    guard let slot = slot(of: id), streams[slot].readable > 0 else { return 0 }
    let offset = streams[slot].readOffset
    let contiguous = streams[slot].contiguous
    let taken = streams[slot].receiveRing.withBytes(from: offset, to: contiguous, body)
    precondition(taken >= 0 && taken <= Int(contiguous - offset))
    guard taken > 0 else { return 0 }
    let now = offset + UInt64(taken)
    streams[slot].readOffset = now
    sessionConsumed += UInt64(taken)
    let isEmpty = now == contiguous && streams[slot].arrived.isEmpty
    streams[slot].receiveRing.discard(before: now, isEmpty: isEmpty)
    if now == contiguous { streams[slot].toldReadable = false }
    if isEmpty, isSpare(streams[slot].receiveRing.capacity) {
      ringMemory -= streams[slot].receiveRing.capacity
      streams[slot].receiveRing.releaseMemory()
    }
    grant(slot)
    grantSession()
    finishReading(slot)
    return taken
  }

  /// An empty ring gives its memory back if it is large and memory is in use
  /// elsewhere; a bulk stream that is read as fast as it comes keeps its own.
  func isSpare(_ capacity: Int) -> Bool {
    capacity > MuxTuning.keptRing && ringMemory > limits.memory / 8
  }

  /// Tells of bytes and of the end, each once.
  mutating func tellArrived(_ slot: Int) {
    guard streams[slot].isOurs || streams[slot].isAnnounced else { return }
    if streams[slot].readable > 0, !streams[slot].toldReadable {
      streams[slot].toldReadable = true
      tell(.readable(name(slot)))
    }
    if let final = streams[slot].finalOffset, streams[slot].contiguous == final,
      !streams[slot].toldFinished
    {
      streams[slot].toldFinished = true
      tell(.finished(name(slot)))
    }
  }

  mutating func finishReading(_ slot: Int) {
    guard streams[slot].receiveSide == .finalKnown, streams[slot].isOurs || streams[slot].isAnnounced,
      streams[slot].readOffset == streams[slot].finalOffset
    else { return }
    streams[slot].receiveSide = .drained
    closeIfOver(slot)
  }

  // MARK: Credit

  /// The round trip that windows are tuned by.
  private var tuningRoundTrip: TimeAmount { max(roundTrip, MuxTuning.minimumTuningRoundTrip) }

  /// Grants what was read, when half the window is used; a window used up
  /// within two round trips was too small for the path and doubles.
  private mutating func grant(_ slot: Int) {
    guard streams[slot].receiveSide == .open else { return }
    let left = Int(streams[slot].receiveLimit - streams[slot].readOffset)
    guard left <= streams[slot].window / 2 else { return }
    if clock - streams[slot].lastGrant < tuningRoundTrip * 2,
      streams[slot].window < limits.streamWindow, ringMemory < limits.memory / 2
    {
      streams[slot].window = min(streams[slot].window * 2, limits.streamWindow)
    }
    streams[slot].lastGrant = clock
    streams[slot].receiveLimit = streams[slot].readOffset + UInt64(streams[slot].window)
    scheduleControl(slot, .credit)
  }

  /// The session's credit follows what *arrives*, so that streams nobody reads
  /// do not starve the others; what is unread is bounded by `sessionWindow` of
  /// the limits, and by each stream's own credit.
  mutating func grantSession() {
    let ceiling = sessionConsumed + UInt64(limits.sessionWindow)
    let wanted = min(sessionReceived + UInt64(sessionWindow), ceiling)
    guard wanted > sessionReceiveLimit else { return }
    let left = sessionReceiveLimit - min(sessionReceived, sessionReceiveLimit)
    guard left <= UInt64(sessionWindow / 2) else { return }
    if clock - sessionLastGrant < tuningRoundTrip * 2, sessionWindow < limits.sessionWindow,
      ringMemory < limits.memory / 2
    {
      sessionWindow = min(sessionWindow * 2, limits.sessionWindow)
    }
    sessionLastGrant = clock
    sessionReceiveLimit = max(
      sessionReceiveLimit, min(sessionReceived + UInt64(sessionWindow), ceiling))
    sessionCreditPending = true
  }
}
