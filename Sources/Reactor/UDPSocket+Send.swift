// Sending: equal neighbours to one destination leave as one message that the
// kernel cuts (UDP_SEGMENT: at most 64 segments and 65,507 bytes, only the
// last may be shorter); many messages leave by one sendmmsg. What the kernel
// does not take now is kept, within a limit, and leaves first when it can.

package import Bytes
internal import CLinux
internal import Glibc

/// Datagrams the kernel had no room for: copies, in order, bounded.
struct DatagramBacklog {
  private var memory: [UInt8] = []
  private var used = 0
  /// Offsets instead of pointers; bytes belong to `memory`.
  private var items: [(offset: Int, send: martlet_send)] = []
  private(set) var head = 0

  var isEmpty: Bool { head == items.count }
  var count: Int { items.count - head }

  /// False when there is no room.
  mutating func append(_ send: martlet_send) -> Bool {
    let count = Int(send.count)
    guard items.count < ReactorLimits.datagramBacklogCount,
      used + count <= ReactorLimits.datagramBacklogBytes
    else { return false }
    if memory.isEmpty {
      memory = [UInt8](repeating: 0, count: ReactorLimits.datagramBacklogBytes)
    }
    let offset = used
    unsafe memory.withUnsafeMutableBytes { buffer in
      unsafe (buffer.baseAddress! + offset).copyMemory(from: send.bytes, byteCount: count)
    }
    used += count
    var copy = send
    unsafe copy.bytes = nil
    items.append((offset, copy))
    return true
  }

  /// Calls `body` with the sends from `head` on, as many as fit; it returns how
  /// many were dealt with.
  mutating func drain(
    _ body: (UnsafeMutablePointer<martlet_send>, Int) -> Int,
    _ table: UnsafeMutablePointer<martlet_send>
  ) {
    while !isEmpty {
      let batch = min(count, Int(MARTLET_SEND_LIMIT))
      let first = head
      let dealt = unsafe memory.withUnsafeBytes { buffer in
        for index in 0..<batch {
          unsafe table[index] = items[first + index].send
          unsafe table[index].bytes =
            (buffer.baseAddress! + items[first + index].offset)
            .assumingMemoryBound(to: UInt8.self)
        }
        return unsafe body(table, batch)
      }
      head += dealt
      if dealt < batch { return }
    }
    items.removeAll(keepingCapacity: true)
    head = 0
    used = 0
  }
}

extension UDPSocket {
  /// True while the kernel takes no more; sends are kept or dropped then.
  package var isBlocked: Bool { !backlog.isEmpty }

  /// Sends the run of consecutive segments from `start` on that are for this
  /// socket (`carrier.kind == .udp && carrier.socket == number`).
  /// - Returns: the index after the run; equal to `start` when the segment there
  ///   is not ours. Everything in the run has been sent, kept, or dropped and
  ///   counted.
  package func send(_ batch: TransmitBatch, from start: Int = 0) -> Int {
    let segments = batch.segments
    let table = unsafe loop.datagrams.sends
    let limit = Int(MARTLET_SEND_LIMIT)
    let segmentLimit = sendsSegments ? ReactorLimits.segmentsPerSend : 1
    defer { tellFailures() }
    return unsafe batch.withBytes(0..<batch.byteCount) { bytes in
      guard let base = bytes.baseAddress else { return start }
      var index = start
      var filled = 0
      while index < segments.count {
        let first = segments[index]
        guard first.carrier.kind == .udp, first.carrier.socket == number else { break }
        // The longest run of equal segments, the last of which may be shorter.
        var total = first.count
        var next = index + 1
        while next < segments.count, next - index < segmentLimit {
          let segment = segments[next]
          guard segment.count <= first.count, segment.carrier == first.carrier,
            segment.timeToLive == first.timeToLive,
            total + segment.count <= ReactorLimits.bytesPerDatagram,
            segment.offset == first.offset + total
          else { break }
          total += segment.count
          next += 1
          if segment.count < first.count { break }
        }
        var send = martlet_send()
        unsafe send.bytes = (base + first.offset).assumingMemoryBound(to: UInt8.self)
        send.count = UInt32(total)
        send.segment = next - index > 1 ? UInt16(first.count) : 0
        send.hop_limit = first.timeToLive
        send.remote = martlet_endpoint(first.carrier.remote)
        unsafe table[filled] = send
        filled += 1
        index = next
        if filled == limit {
          unsafe submit(table, filled)
          filled = 0
        }
      }
      if filled > 0 { unsafe submit(table, filled) }
      return index
    }
  }

  /// Sends one datagram.
  /// - Parameters:
  ///   - hopLimit: TTL of this datagram only; nil = the system's.
  ///   - source: the local address it leaves from (what `DatagramInfo.local`
  ///     said); nil = as routed.
  package func send(
    _ bytes: RawSpan, to remote: Endpoint, hopLimit: UInt8? = nil, from source: IPAddress? = nil
  ) {
    guard bytes.byteCount <= ReactorLimits.bytesPerDatagram else {
      fail(martlet_endpoint(remote), EMSGSIZE, 1)
      tellFailures()
      return
    }
    let table = unsafe loop.datagrams.sends
    unsafe bytes.withUnsafeBytes { buffer in
      var send = martlet_send()
      unsafe send.bytes = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
      send.count = UInt32(buffer.count)
      send.remote = martlet_endpoint(remote)
      send.hop_limit = hopLimit ?? 0
      if let source, !source.isUnspecified {
        send.has_source = 1
        send.source = martlet_endpoint(source)
      }
      unsafe table[0] = send
      unsafe submit(table, 1)
    }
    tellFailures()
  }

  private func submit(_ table: UnsafeMutablePointer<martlet_send>, _ count: Int) {
    guard !isClosed else { return }
    var dealt = 0
    // What was kept leaves first.
    if backlog.isEmpty { dealt = unsafe transmit(table, count) }
    guard dealt < count else { return }
    if backlog.isEmpty { loop.modify(fd, for: [.readable, .writable]) }
    for index in dealt..<count {
      let send = unsafe table[index]
      if backlog.append(send) {
        counters.delayed &+= packets(send)
      } else {
        counters.droppedBacklog &+= packets(send)
      }
    }
    // Nothing fitted: there is nothing to wait for.
    if backlog.isEmpty { loop.modify(fd, for: .readable) }
  }

  /// Sends what the kernel takes; how many messages were dealt with. Less than
  /// `count` only when it takes no more now.
  private func transmit(_ table: UnsafeMutablePointer<martlet_send>, _ count: Int) -> Int {
    var index = 0
    var isSecondTry = false
    if isHeld { return 0 }
    while index < count {
      let result = unsafe martlet_send_batch(fd, isV6 ? 1 : 0, table + index, Int32(count - index))
      counters.sendCalls &+= 1
      if result > 0 {
        for sent in index..<(index + Int(result)) {
          let send = unsafe table[sent]
          counters.datagramsSent &+= packets(send)
          counters.bytesSent &+= UInt64(send.count)
        }
        index += Int(result)
        isSecondTry = false
        continue
      }
      let error = -result
      if error == EINTR { continue }
      if error == EAGAIN { return index }
      if !isSecondTry {
        // It may be the late error of an earlier datagram, told only once.
        isSecondTry = true
        continue
      }
      isSecondTry = false
      let send = unsafe table[index]
      if send.segment != 0, error == EINVAL || error == EIO || error == EMSGSIZE {
        guard unsafe transmitSingly(send, error) else { return index }
      } else {
        fail(send.remote, error, packets(send))
      }
      index += 1
    }
    return index
  }

  /// Repeats a refused offloaded message segment by segment. When all of them
  /// leave, the offload itself is at fault and is not tried again.
  /// - Returns: false when the kernel took none of it (EAGAIN).
  private func transmitSingly(_ group: martlet_send, _ reason: Int32) -> Bool {
    counters.offloadRefused &+= 1
    var single = group
    single.segment = 0
    var offset = 0
    var failed: Int32 = 0
    while offset < Int(group.count) {
      let count = min(Int(group.segment), Int(group.count) - offset)
      single.count = UInt32(count)
      unsafe single.bytes = group.bytes + offset
      let result = unsafe martlet_send_batch(fd, isV6 ? 1 : 0, &single, 1)
      counters.sendCalls &+= 1
      if result > 0 {
        counters.datagramsSent &+= 1
        counters.bytesSent &+= UInt64(count)
      } else if result == -EAGAIN {
        if offset == 0 { return false }
        counters.droppedBacklog &+= 1
      } else {
        failed = -result
        fail(group.remote, failed, 1)
      }
      offset += count
    }
    if failed == 0, reason != EMSGSIZE { sendsSegments = false }
    return true
  }

  func flushBacklog() {
    unsafe backlog.drain({ unsafe transmit($0, $1) }, loop.datagrams.sends)
    let isFlushed = backlog.isEmpty
    if isFlushed { loop.modify(fd, for: .readable) }
    tellFailures()
    if isFlushed { delegate?.socketWritable(self) }
  }

  /// Only after a send is done: the delegate may send again.
  func tellFailures() {
    guard !failures.isEmpty else { return }
    var told: [DatagramFailure] = []
    swap(&told, &failures)
    for failure in told where !isClosed { delegate?.socket(self, failed: failure) }
  }

  private func fail(_ remote: martlet_endpoint, _ code: Int32, _ datagrams: UInt64) {
    let error = SystemError(code, "send")
    if error.isMessageTooLarge {
      counters.droppedTooLarge &+= datagrams
    } else if error.isUnreachable || error.isConnectionRefused {
      counters.droppedUnreachable &+= datagrams
    } else {
      counters.droppedOther &+= datagrams
    }
    guard failures.count < ReactorLimits.errorsPerEvent else { return }
    failures.append(DatagramFailure(remote: remote.endpoint, error: error, maximumSize: 0))
  }

  private func packets(_ send: martlet_send) -> UInt64 {
    send.segment == 0 ? 1 : UInt64((Int(send.count) + Int(send.segment) - 1) / Int(send.segment))
  }
}
