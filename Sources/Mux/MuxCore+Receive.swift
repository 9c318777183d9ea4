/// Reads packets. A frame that contradicts the protocol fails the session; one
/// that is only late or repeated is counted and passed over.

#if canImport(Bytes)
import Bytes
#endif

extension MuxCore {
  mutating func receive(_ packet: RawSpan, now: Instant) throws(MuxFailure) {
    guard failure == nil else {
      drops.closedSession += 1
      return
    }
    advanceClock(now)
    do throws(MuxFailure) {
      try process(packet, now: now)
    } catch {
      failure = error
      throw error
    }
  }

  private mutating func process(_ packet: RawSpan, now: Instant) throws(MuxFailure) {
    var reader = ByteReader(packet)
    guard reader.uint8() == MuxProtocol.packetType, let lane = reader.uint8(),
      let number = reader.uint48()
    else { throw .malformed }
    let at = receiver(lane)
    let arrival = receivers[at].ranges.insert(number)
    if arrival == .duplicate {
      drops.duplicatePackets += 1
      return
    }
    var isEliciting = false
    while reader.remaining >= MuxProtocol.frameHead {
      guard let id = reader.uint32(), let flags = reader.uint8(), let length = reader.uint16()
      else { throw .malformed }
      if id == 0, flags == 0 {
        guard length == 0 else { throw .malformed }
        break
      }
      guard let body = reader.bytes(Int(length)) else { throw .malformed }
      if id == 0 {
        if try receiveSession(flags, body, now: now) { isEliciting = true }
      } else {
        isEliciting = true
        try receiveFrame(id, flags, body, now: now)
      }
    }
    // Padding: nothing but zeros.
    while let byte = reader.uint8() {
      guard byte == 0 else { throw .malformed }
    }
    let owed = receivers[at].pending > 0
    receivers[at].note(
      arrival, bytes: packet.byteCount, isEliciting: isEliciting, roundTrip: roundTrip, now: now)
    if !owed, receivers[at].pending > 0 { lanesOwingAck += 1 }
  }

  private mutating func receiver(_ lane: LaneID) -> Int {
    let index = Int(receiverIndex[Int(lane)])
    if index >= 0 { return index }
    receiverIndex[Int(lane)] = Int16(receivers.count)
    receivers.append(ReceiveLane(id: lane))
    return receivers.count - 1
  }

  // MARK: Stream 0

  /// - Returns: whether the frame asks for an acknowledgement.
  private mutating func receiveSession(
    _ flags: UInt8, _ body: RawSpan, now: Instant
  ) throws(MuxFailure) -> Bool {
    var reader = ByteReader(body)
    switch flags {
    case FrameFlags.credit:
      guard body.byteCount == 8, let limit = reader.uint64() else { throw .malformed }
      if limit > sessionSendLimit {
        sessionSendLimit = limit
        unblockAll()
      }
      return true
    case FrameFlags.data:
      guard !reader.isAtEnd else { throw .malformed }
      while !reader.isAtEnd {
        var block = AckBlock()
        guard FrameLayout.readAck(&reader, into: &block) else { throw .malformed }
        try receiveAck(block, now: now)
      }
      return false
    default: throw .badFlags
    }
  }

  private mutating func receiveAck(
    _ block: borrowing AckBlock, now: Instant
  ) throws(MuxFailure) {
    guard let at = lane(block.lane) else {
      guard block.largest < nextNumbers[Int(block.lane)] else { throw .acknowledgedUnsent }
      return
    }
    guard block.largest < lanes[at].sent.next else { throw .acknowledgedUnsent }
    let outcome = lanes[at].acknowledge(block, now: now, acked: &ackedFrames, lost: &lostFrames)
    report(outcome, lanes[at].id)
    if !ackedFrames.isEmpty { applyAcknowledged() }
    if !lostFrames.isEmpty { applyLost() }
  }

  // MARK: Streams

  private func opensIDs(_ id: UInt32) -> Bool { (id & 1 == 1) == (role == .odd) }

  /// The slot of a stream named by a frame; nil if it is over.
  private mutating func target(
    _ id: UInt32, mayCreate: Bool
  ) throws(MuxFailure) -> Int? {
    if let slot = table.find(id) { return slot }
    if opensIDs(id) {
      let ahead = (confirmed.index(id) &- nextIndex) & SeenStreams.indexMask
      guard ahead >= 1 << 30 else { throw .streamNeverOpened }
      drops.staleFrames += 1
      return nil
    }
    switch seen.find(id) {
    case .tooFar: throw .streamTooFar
    case .seen:
      if !limits.mutations.contains(.noSeenSet) {
        drops.staleFrames += 1
        return nil
      }
    case .new:
      guard mayCreate else { throw .streamNeverOpened }
      seen.insert(id)
    }
    guard peerStreamCount < 2 * limits.streams else { throw .tooManyStreams }
    return addStream(id, isOurs: false)
  }

  private mutating func receiveFrame(
    _ id: UInt32, _ flags: UInt8, _ body: RawSpan, now: Instant
  ) throws(MuxFailure) {
    var reader = ByteReader(body)
    switch flags {
    case FrameFlags.data, FrameFlags.data | FrameFlags.fin:
      guard let offset = reader.uint64(), !reader.isAtEnd else { throw .malformed }
      guard let slot = try target(id, mayCreate: true) else { return }
      try receiveData(slot, reader.rest(), at: offset, isLast: flags & FrameFlags.fin != 0)

    case FrameFlags.fin:
      guard body.byteCount == 8, let offset = reader.uint64() else { throw .malformed }
      guard let slot = try target(id, mayCreate: true) else { return }
      try receiveData(slot, RawSpan(), at: offset, isLast: true)

    case FrameFlags.syn, FrameFlags.syn | FrameFlags.data,
      FrameFlags.syn | FrameFlags.data | FrameFlags.fin:
      guard !opensIDs(id) else { throw .wrongSide }
      guard let count = reader.uint16(), Int(count) <= MuxProtocol.requestBytes,
        let request = reader.bytes(Int(count))
      else { throw .malformed }
      let first = reader.rest()
      guard (flags & FrameFlags.data != 0) == (first.byteCount > 0) else { throw .malformed }
      guard let slot = try target(id, mayCreate: true) else { return }
      announce(slot, request)
      if first.byteCount > 0 {
        try receiveData(slot, first, at: 0, isLast: flags & FrameFlags.fin != 0)
      }

    case FrameFlags.opened:
      guard body.byteCount == 8, let limit = reader.uint64() else { throw .malformed }
      guard opensIDs(id) else { throw .wrongSide }
      guard let slot = try target(id, mayCreate: false) else { return }
      confirmOpening(slot)
      if !streams[slot].isAccepted, streams[slot].sendSide != .reset,
        streams[slot].sendSide != .resetDelivered
      {
        streams[slot].isAccepted = true
        tell(.accepted(name(slot)))
      }
      raiseLimit(slot, limit)

    case FrameFlags.credit:
      guard body.byteCount == 8, let limit = reader.uint64() else { throw .malformed }
      guard let slot = try target(id, mayCreate: false) else { return }
      raiseLimit(slot, limit)

    case FrameFlags.rst:
      guard let kind = reader.uint8(), kind <= 1, let offset = reader.uint64(),
        let code = reader.uint16(), reader.remaining <= MuxProtocol.wordsBytes
      else { throw .malformed }
      guard let slot = try target(id, mayCreate: true) else { return }
      try receiveReset(
        slot, isRefusal: kind == 1, finalOffset: offset, code: code, words: reader.rest())

    case FrameFlags.datagram:
      guard let number = reader.uint32(), let offset = reader.uint16(), let total = reader.uint16(),
        reader.remaining + Int(offset) <= Int(total), !reader.isAtEnd || total == 0
      else { throw .malformed }
      guard let slot = try target(id, mayCreate: true) else { return }
      receiveDatagram(
        slot, number: number, offset: Int(offset), total: Int(total), reader.rest(), now: now)

    default: throw .badFlags
    }
  }

  /// The SYN of a peer's stream: told once.
  private mutating func announce(_ slot: Int, _ request: RawSpan) {
    guard !streams[slot].isAnnounced, streams[slot].receiveSide != .reset else { return }
    streams[slot].isAnnounced = true
    guard peerStreamCount <= limits.streams else {
      reset(
        name(slot), code: ResetCode.tooManyStreams, words: "", refused: true)
      return
    }
    tell(.opened(name(slot), request: [UInt8](request)))
    tellArrived(slot)
    tellDatagram(slot)
    finishReading(slot)
  }

  private mutating func raiseLimit(_ slot: Int, _ limit: UInt64) {
    guard limit > streams[slot].sendLimit else { return }
    streams[slot].sendLimit = limit
    schedule(slot)
  }

  private mutating func receiveData(
    _ slot: Int, _ bytes: RawSpan, at offset: UInt64, isLast: Bool
  ) throws(MuxFailure) {
    guard offset < 1 << 62 else { throw .malformed }
    let end = offset + UInt64(bytes.byteCount)
    let checksCredit = !limits.mutations.contains(.noCreditCheck)
    if checksCredit, end > streams[slot].receiveLimit { throw .creditExceeded }
    if let final = streams[slot].finalOffset, end > final { throw .finalOffset }
    if isLast {
      guard streams[slot].setFinal(end) else { throw .finalOffset }
    }
    if end > streams[slot].highest {
      sessionReceived += end - streams[slot].highest
      streams[slot].highest = end
      if checksCredit, sessionReceived > sessionReceiveLimit { throw .creditExceeded }
    }
    if streams[slot].isDiscarding {
      discardReceived(slot)
      return
    }
    guard streams[slot].receiveSide == .open || streams[slot].receiveSide == .finalKnown else {
      return
    }
    if bytes.byteCount > 0 {
      let before = streams[slot].receiveRing.capacity
      let placed = streams[slot].place(bytes, at: offset)
      ringMemory += streams[slot].receiveRing.capacity - before
      guard placed else { throw .malformed }
      grantSession()
    }
    if streams[slot].finalOffset != nil { streams[slot].receiveSide = .finalKnown }
    tellArrived(slot)
    finishReading(slot)
  }

  /// What arrives for a stream we reset is taken off the credit at once.
  mutating func discardReceived(_ slot: Int) {
    let upper = max(streams[slot].highest, streams[slot].finalOffset ?? 0)
    if upper > streams[slot].highest {
      sessionReceived += upper - streams[slot].highest
      streams[slot].highest = upper
    }
    sessionConsumed += upper - streams[slot].readOffset
    streams[slot].readOffset = upper
    streams[slot].contiguous = upper
    if streams[slot].finalOffset != nil, streams[slot].receiveSide != .reset {
      streams[slot].receiveSide = .drained
    }
    grantSession()
    closeIfOver(slot)
  }

  private mutating func receiveReset(
    _ slot: Int, isRefusal: Bool, finalOffset: UInt64, code: UInt16, words: RawSpan
  ) throws(MuxFailure) {
    guard finalOffset < 1 << 62, streams[slot].setFinal(finalOffset) else { throw .finalOffset }
    if !limits.mutations.contains(.noCreditCheck), finalOffset > streams[slot].receiveLimit {
      throw .creditExceeded
    }
    guard streams[slot].receiveSide != .reset else { return }
    let isKnown = streams[slot].isOurs || streams[slot].isAnnounced
    // A finished, drained stream has nothing left that a RST could end.
    let isNews = isKnown && !streams[slot].isDiscarding
    let wasDrained = streams[slot].receiveSide == .drained
    streams[slot].receiveSide = .reset
    if streams[slot].isOurs { confirmOpening(slot) }
    if isNews, !(wasDrained && streams[slot].sendSide == .delivered) {
      let text = String(decoding: [UInt8](words), as: UTF8.self)
      if isRefusal, streams[slot].isOurs, !streams[slot].isAccepted {
        tell(.refused(name(slot), code: code, words: text))
      } else {
        tell(.reset(name(slot), code: code, words: text))
      }
    }
    switch streams[slot].sendSide {
    case .open, .finishing: abandonSending(slot, code: ResetCode.cancelled, words: [])
    case .delivered, .reset, .resetDelivered: break
    }
    dropReceived(slot)
    discardReceived(slot)
    if !limits.mutations.contains(.noCreditCheck), sessionReceived > sessionReceiveLimit {
      throw .creditExceeded
    }
  }
}
