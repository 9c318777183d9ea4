/// Writes packets: acknowledgements first, then states of streams, then
/// datagrams and stream data. Layouts: docs/protocol/mux.md.

#if canImport(Bytes)
import Bytes
#endif

extension MuxCore {
  /// A packet being written.
  struct Draft {
    var record = SentPacket()
    /// Bytes that may still be written.
    var room: Int
    var isEliciting = false

    var isFull: Bool { record.frameCount == SentPacket.frameLimit }
  }

  mutating func fill(
    lane id: LaneID, into output: inout OutputRawSpan, mode: FillMode, now: Instant
  ) -> FillResult {
    guard failure == nil, let at = lane(id) else { return .nothing }
    advanceClock(now)
    let (bytes, number, isProbe) = lanes[at].begin(packets: 2 * limits.packetsInFlight)
    let limit = min(output.freeCapacity, bytes)
    guard limit >= 64 else { return .nothing }
    var answer = FillResult.nothing
    var mayCarryData = isProbe
    switch mode {
    case .probe: break
    case .data:
      primary = id
      turn(to: lanes[at].marks)
      if hasSendable {
        if !isProbe { (mayCarryData, answer) = lanes[at].permission(
          bytes: limit, packets: limits.packetsInFlight, now: now) }
      } else {
        lanes[at].markAppLimited()
      }
    case .warm: (mayCarryData, answer) = lanes[at].permission(
          bytes: limit, packets: limits.packetsInFlight, now: now)
    }
    let owesAck = owesAck(now)
    guard mayCarryData || owesAck else { return answer }

    let start = output.byteCount
    var draft = Draft(room: limit - MuxProtocol.packetHead)
    output.writeUInt8(MuxProtocol.packetType)
    output.writeUInt8(id)
    output.writeUInt48(number)

    if owesAck { writeAcks(&draft, into: &output, now: now) }
    if mayCarryData {
      switch mode {
      case .data: writeWaiting(at, &draft, into: &output, now: now)
      case .warm: writeDuplicates(of: id, &draft, into: &output)
      // What this lane has in flight goes out again on the primary one.
      case .probe: break
      }
      if isProbe, !draft.isEliciting { writeSessionCredit(&draft, into: &output) }
    }
    let written = output.byteCount - start
    guard written > MuxProtocol.packetHead else {
      output.removeLast(written)
      if mode == .data, mayCarryData { lanes[at].markAppLimited() }
      return answer
    }
    if isProbe, draft.isEliciting { lanes[at].probesPending -= 1 }
    lanes[at].recordSent(draft.record, bytes: written, isEliciting: draft.isEliciting, now: now)
    if draft.isEliciting { lanes[at].pacer.spend(written) }
    return .wrote
  }

  // MARK: Acknowledgements

  private mutating func writeAcks(_ draft: inout Draft, into output: inout OutputRawSpan, now: Instant) {
    for at in receivers.indices where receivers[at].deadline <= now {
      guard draft.room >= MuxProtocol.frameHead + FrameLayout.ackHead else { return }
      let most = 1 + (draft.room - MuxProtocol.frameHead - FrameLayout.ackHead) / FrameLayout.ackRange
      let count = FrameLayout.writeAck(
        lane: receivers[at].id, ranges: receivers[at].ranges,
        delay: now - receivers[at].largestAt, limit: most, into: &output)
      draft.room -= count
      if draft.record.frameCount == 0 {
        draft.record.append(
          FrameRecord(
            offset: receivers[at].ranges.largest ?? 0, id: 0, slot: Int32(at), length: 0,
            flags: FrameFlags.ackRecord))
      }
      receivers[at].acknowledgedNow(now)
      lanesOwingAck -= 1
    }
  }

  // MARK: What waits

  private mutating func writeWaiting(
    _ at: Int, _ draft: inout Draft, into output: inout OutputRawSpan, now: Instant
  ) {
    if sessionCreditPending { writeSessionCredit(&draft, into: &output) }
    if !control.isEmpty { writeControl(&draft, into: &output) }
    // Datagrams and streams take turns at the front of a packet.
    if !datagramQueue.isEmpty {
      sendsDatagramNext.toggle()
      if sendsDatagramNext { writeDatagrams(at, &draft, into: &output, now: now) }
    }
    writeData(at, &draft, into: &output)
    if !datagramQueue.isEmpty, !sendsDatagramNext {
      writeDatagrams(at, &draft, into: &output, now: now)
    }
  }

  private mutating func writeSessionCredit(_ draft: inout Draft, into output: inout OutputRawSpan) {
    guard !draft.isFull, draft.room >= FrameLayout.credit else { return }
    sessionCreditPending = false
    FrameLayout.writeLimit(0, FrameFlags.credit, sessionReceiveLimit, into: &output)
    draft.room -= FrameLayout.credit
    draft.isEliciting = true
    draft.record.append(
      FrameRecord(offset: sessionReceiveLimit, id: 0, slot: 0, length: 0, flags: FrameFlags.credit))
  }

  private mutating func writeControl(_ draft: inout Draft, into output: inout OutputRawSpan) {
    while control.head >= 0 {
      let slot = Int(control.head)
      let wanted = streams[slot].control
      if wanted.contains(.rst) {
        guard writeReset(slot, &draft, into: &output) else { return }
        streams[slot].control = []
      }
      if streams[slot].control.contains(.syn) {
        guard writeOpen(slot, &draft, into: &output) else { return }
        streams[slot].control.remove(.syn)
      }
      if streams[slot].control.contains(.opened) {
        guard write(slot, FrameFlags.opened, streams[slot].receiveLimit, &draft, into: &output) else {
          return
        }
        streams[slot].control.subtract([.opened, .credit])
      }
      if streams[slot].control.contains(.credit) {
        guard write(slot, FrameFlags.credit, streams[slot].receiveLimit, &draft, into: &output) else {
          return
        }
        streams[slot].control.remove(.credit)
      }
      if streams[slot].control.contains(.fin) {
        // Unsent data goes first; its last frame carries the FIN.
        if streams[slot].sendNext == streams[slot].sendEnd {
          guard write(slot, FrameFlags.fin, streams[slot].sendEnd, &draft, into: &output) else {
            return
          }
        }
        streams[slot].control.remove(.fin)
      }
      unscheduleControl(slot)
    }
  }

  /// A frame whose body is one 8-byte offset; false if it does not fit.
  private mutating func write(
    _ slot: Int, _ flags: UInt8, _ value: UInt64, _ draft: inout Draft,
    into output: inout OutputRawSpan
  ) -> Bool {
    guard !draft.isFull, draft.room >= FrameLayout.credit else { return false }
    FrameLayout.writeLimit(streams[slot].id, flags, value, into: &output)
    draft.room -= FrameLayout.credit
    note(slot, flags, offset: value, length: 0, &draft)
    return true
  }

  private func note(
    _ slot: Int, _ flags: UInt8, offset: UInt64, length: Int, _ draft: inout Draft
  ) {
    draft.isEliciting = true
    draft.record.append(
      FrameRecord(
        offset: offset, id: streams[slot].id, slot: Int32(slot), length: UInt16(length),
        flags: flags))
  }

  private mutating func writeReset(
    _ slot: Int, _ draft: inout Draft, into output: inout OutputRawSpan
  ) -> Bool {
    let size = FrameLayout.resetHead + streams[slot].resetWords.count
    guard !draft.isFull, draft.room >= size else { return false }
    FrameLayout.writeReset(
      streams[slot].id, isRefusal: streams[slot].isRefusal, finalOffset: streams[slot].sendNext,
      code: streams[slot].resetCode, words: streams[slot].resetWords, into: &output)
    draft.room -= size
    note(slot, FrameFlags.rst, offset: streams[slot].sendNext, length: 0, &draft)
    return true
  }

  /// SYN with the request and, the first time, with the first bytes.
  private mutating func writeOpen(
    _ slot: Int, _ draft: inout Draft, into output: inout OutputRawSpan
  ) -> Bool {
    let words = streams[slot].request
    let request = words.count
    let head = MuxProtocol.frameHead + 2 + request
    guard !draft.isFull, draft.room >= head else { return false }
    var flags = FrameFlags.syn
    var count = 0
    if streams[slot].sendNext == 0, streams[slot].sendEnd > 0, isPermitted(slot) {
      count = min(draft.room - head, freshCount(slot))
      if count > 0 { flags |= FrameFlags.data }
    }
    let isLast =
      count > 0 && UInt64(count) == streams[slot].sendEnd && streams[slot].sendSide == .finishing
    if isLast { flags |= FrameFlags.fin }
    output.writeUInt32(streams[slot].id)
    output.writeUInt8(flags)
    output.writeUInt16(UInt16(2 + request + count))
    output.writeUInt16(UInt16(request))
    output.write(words.span.bytes)
    streams[slot].sendRing.load(count, at: 0, into: &output)
    if count > 0 { advanceSending(slot, count) }
    draft.room -= head + count
    note(slot, flags, offset: 0, length: count, &draft)
    return true
  }

  // MARK: Stream data

  /// New bytes that both credits allow, as a length.
  private func freshCount(_ slot: Int) -> Int {
    let next = streams[slot].sendNext
    let end = min(streams[slot].sendEnd, streams[slot].sendLimit)
    guard end > next else { return 0 }
    return Int(min(end - next, sessionRoom))
  }

  private mutating func advanceSending(_ slot: Int, _ count: Int) {
    streams[slot].sendNext += UInt64(count)
    sessionSent += UInt64(count)
  }

  private mutating func writeData(
    _ at: Int, _ draft: inout Draft, into output: inout OutputRawSpan
  ) {
    let quantum = lanes[at].packetLimit
    while !draft.isFull, draft.room >= MuxTuning.leastRoom, let slot = nextSlot(quantum: quantum) {
      let most = draft.room - FrameLayout.dataHead
      let offset: UInt64
      let count: Int
      if let range = streams[slot].lost.takeFirst(most) {
        offset = range.lower
        count = Int(range.upper - range.lower)
      } else {
        offset = streams[slot].sendNext
        count = min(most, freshCount(slot))
        advanceSending(slot, count)
      }
      writeData(slot, offset: offset, count: count, &draft, into: &output)
      streams[slot].deficit -= count + FrameLayout.dataHead
      urgentRun = streams[slot].priority == .urgent ? urgentRun + count + FrameLayout.dataHead : 0
    }
  }

  private mutating func writeData(
    _ slot: Int, offset: UInt64, count: Int, _ draft: inout Draft, into output: inout OutputRawSpan
  ) {
    var flags = FrameFlags.data
    if streams[slot].sendSide == .finishing, offset + UInt64(count) == streams[slot].sendEnd {
      flags |= FrameFlags.fin
      streams[slot].control.remove(.fin)
    }
    output.writeUInt32(streams[slot].id)
    output.writeUInt8(flags)
    output.writeUInt16(UInt16(8 + count))
    output.writeUInt64(offset)
    streams[slot].sendRing.load(count, at: offset, into: &output)
    draft.room -= FrameLayout.dataHead + count
    note(slot, flags, offset: offset, length: count, &draft)
  }

  /// Copies of data that is in flight on the primary lane, newest first.
  private mutating func writeDuplicates(
    of id: LaneID, _ draft: inout Draft, into output: inout OutputRawSpan
  ) {
    guard let primary, primary != id, let source = lane(primary), let target = lane(id) else {
      return
    }
    let marks = lanes[target].marks
    let sent = lanes[source].sent.next
    if warmCursor > sent || warmCursor < lanes[source].sent.base { warmCursor = sent }
    while !draft.isFull, warmCursor > lanes[source].sent.base {
      let number = warmCursor - 1
      let packet = lanes[source].sent[number]
      if packet.state == .outstanding {
        for index in 0..<Int(packet.frameCount) where !draft.isFull {
          let frame = packet.frames[index]
          guard frame.flags & ~FrameFlags.fin == FrameFlags.data, frame.length > 0,
            streams[Int(frame.slot)].id == frame.id,
            streams[Int(frame.slot)].avoids.isDisjoint(with: marks),
            frame.offset >= streams[Int(frame.slot)].sendBase
          else { continue }
          guard draft.room >= FrameLayout.dataHead + Int(frame.length) else { return }
          writeData(
            Int(frame.slot), offset: frame.offset, count: Int(frame.length), &draft, into: &output)
        }
      }
      warmCursor = number
    }
    if warmCursor <= lanes[source].sent.base { warmCursor = sent }
  }
}
