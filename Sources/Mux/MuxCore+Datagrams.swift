/// Datagrams beside the streams: queued, cut to the path, put together again,
/// never re-sent. RFC 9221 in spirit; DESIGN §1.2 for the limits.

#if canImport(Bytes)
import Bytes
#endif

/// A datagram of which pieces have come.
struct Reassembly {
  var slot: Int
  var id: UInt32
  var number: UInt32
  var total: Int
  var deadline: Instant
  var pieces = OffsetRanges()
  var ring = ByteRing()
}

extension MuxCore {
  /// Entry of the send queue: stream(4) | length(4) | queued at(8) | bytes.
  private static let entryHead = 16

  mutating func sendDatagram(_ id: StreamID, _ bytes: RawSpan, now: Instant) -> Bool {
    advanceClock(now)
    guard let slot = slot(of: id), failure == nil, !streams[slot].isDiscarding,
      streams[slot].sendSide == .open || streams[slot].sendSide == .finishing,
      streams[slot].receiveSide != .reset,
      bytes.byteCount <= MuxProtocol.datagramBytes
    else { return false }
    let size = Self.entryHead + bytes.byteCount
    guard datagramQueue.count + size <= limits.datagramSendQueue else {
      drops.datagramQueueFull += 1
      return false
    }
    let number = streams[slot].id
    datagramQueue.reserve(size)
    datagramQueue.append(minimum: size) { output in
      output.writeUInt32(number)
      output.writeUInt32(UInt32(bytes.byteCount))
      output.writeUInt64(UInt64(bitPattern: now.nanoseconds))
      output.write(bytes)
    }
    return true
  }

  /// Writes waiting datagrams, the first perhaps in pieces.
  mutating func writeDatagrams(
    _ at: Int, _ draft: inout Draft, into output: inout OutputRawSpan, now: Instant
  ) {
    var written = 0
    while datagramQueue.count >= Self.entryHead {
      let (id, count, queuedAt) = datagramQueue.withBytes(0..<Self.entryHead) { head in
        var reader = ByteReader(head)
        return (
          reader.uint32() ?? 0, Int(reader.uint32() ?? 0),
          Instant(nanoseconds: Int64(bitPattern: reader.uint64() ?? 0))
        )
      }
      let slot = table.find(id)
      let isStale = datagramProgress == 0 && now - queuedAt > limits.datagramAge
      let hasNoRoad = slot.map { !isPermitted($0) } ?? false
      if slot == nil || isStale || hasNoRoad || streams[slot!].sendSide == .reset {
        if isStale { drops.datagramTooOld += 1 } else if hasNoRoad { drops.datagramNoRoad += 1 }
        endDatagram(count)
        continue
      }
      // Half a packet at a time when streams wait too: they take turns.
      let room = draft.room - FrameLayout.datagramHead
      let left = count - datagramProgress
      if left > room {
        let fitsAlone =
          count + FrameLayout.datagramHead + MuxProtocol.packetHead <= lanes[at].packetLimit
        if room < 128 || (fitsAlone && (written > 0 || draft.isEliciting)) { return }
      }
      let piece = min(left, room)
      guard piece > 0 || count == 0, room >= 0 else { return }
      output.writeUInt32(id)
      output.writeUInt8(FrameFlags.datagram)
      output.writeUInt16(UInt16(8 + piece))
      output.writeUInt32(datagramNumber)
      output.writeUInt16(UInt16(datagramProgress))
      output.writeUInt16(UInt16(count))
      let from = Self.entryHead + datagramProgress
      datagramQueue.load(from..<(from + piece), into: &output)
      draft.room -= FrameLayout.datagramHead + piece
      draft.isEliciting = true
      written += 1
      datagramProgress += piece
      if datagramProgress == count { endDatagram(count) }
    }
  }

  private mutating func endDatagram(_ count: Int) {
    datagramQueue.removeFirst(Self.entryHead + count)
    datagramProgress = 0
    datagramNumber &+= 1
  }

  // MARK: Receiving

  mutating func receiveDatagram(
    _ slot: Int, number: UInt32, offset: Int, total: Int, _ bytes: RawSpan, now: Instant
  ) {
    guard !streams[slot].isDiscarding, streams[slot].receiveSide != .reset,
      total <= MuxProtocol.datagramBytes
    else {
      drops.staleFrames += 1
      return
    }
    if offset == 0, bytes.byteCount == total {
      deliver(slot, bytes)
      return
    }
    var at = 0
    while at < reassemblies.count {
      if reassemblies[at].number == number, reassemblies[at].id == streams[slot].id { break }
      at += 1
    }
    if at == reassemblies.count {
      guard at < limits.reassemblies, reassemblyBytes + total <= limits.reassemblyBytes else {
        drops.datagramQueueFull += 1
        return
      }
      var new = Reassembly(
        slot: slot, id: streams[slot].id, number: number, total: total,
        deadline: now + limits.reassemblyAge)
      new.ring.reserve(through: UInt64(total), keeping: 0)
      reassemblyBytes += total
      reassemblies.append(new)
    }
    let lower = UInt64(offset)
    let upper = lower + UInt64(bytes.byteCount)
    let known = reassemblies[at].pieces
    var covered: UInt64 = 0
    known.forEachGap(lower, upper) { covered += $1 - $0 }
    guard reassemblies[at].total == total, covered == upper - lower else {
      // Overlap or contradiction: the whole datagram goes.
      drops.datagramBadFragment += 1
      dropReassembly(at)
      return
    }
    reassemblies[at].ring.store(bytes, at: lower)
    reassemblies[at].pieces.insert(lower, upper)
    if reassemblies[at].pieces.first == OffsetRange(lower: 0, upper: UInt64(total)) {
      let whole = reassemblies[at].ring
      dropReassembly(at)
      whole.withBytes(from: 0, to: UInt64(total)) { deliver(slot, $0) }
    }
  }

  private mutating func deliver(_ slot: Int, _ bytes: RawSpan) {
    let size = 4 + bytes.byteCount
    guard streams[slot].datagrams.count + size <= limits.datagramQueue,
      datagramBytesUnread + size <= limits.sessionDatagramQueue
    else {
      drops.datagramQueueFull += 1
      return
    }
    streams[slot].datagrams.append(minimum: size) { output in
      output.writeUInt32(UInt32(bytes.byteCount))
      output.write(bytes)
    }
    datagramBytesUnread += size
    tellDatagram(slot)
  }

  mutating func tellDatagram(_ slot: Int) {
    guard streams[slot].isOurs || streams[slot].isAnnounced, !streams[slot].toldDatagram,
      !streams[slot].datagrams.isEmpty
    else { return }
    streams[slot].toldDatagram = true
    tell(.datagram(name(slot)))
  }

  mutating func receiveDatagram(_ id: StreamID, _ body: (RawSpan) -> Void) -> Bool {
    guard let slot = slot(of: id), !streams[slot].datagrams.isEmpty else { return false }
    let count = streams[slot].datagrams.withBytes(0..<4) { head in
      var reader = ByteReader(head)
      return Int(reader.uint32() ?? 0)
    }
    streams[slot].datagrams.withBytes(4..<(4 + count), body)
    streams[slot].datagrams.removeFirst(4 + count)
    datagramBytesUnread -= 4 + count
    if streams[slot].datagrams.isEmpty { streams[slot].toldDatagram = false }
    return true
  }

  mutating func dropDatagrams(_ slot: Int) {
    datagramBytesUnread -= streams[slot].datagrams.count
    streams[slot].datagrams = ContiguousQueue()
    var at = 0
    while at < reassemblies.count {
      if reassemblies[at].slot == slot { dropReassembly(at) } else { at += 1 }
    }
  }

  private mutating func dropReassembly(_ at: Int) {
    reassemblyBytes -= reassemblies[at].total
    reassemblies.remove(at: at)
  }

  mutating func expireReassemblies(_ now: Instant) {
    while let first = reassemblies.first, first.deadline <= now {
      drops.datagramReassemblyExpired += 1
      dropReassembly(0)
    }
  }
}
