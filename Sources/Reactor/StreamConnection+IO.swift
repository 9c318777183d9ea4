// Reading and writing. Writes go straight to the kernel while it takes them;
// the rest waits in the connection's own bounded buffer. A frame is written
// whole or not at all.

internal import Bytes
internal import CLinux
internal import Glibc

extension StreamConnection {
  // MARK: Reading

  /// Reads into the caller's memory, at most its length.
  package func read(into bytes: inout MutableRawSpan) -> ReadResult {
    guard state == .open else { return state == .closed ? .end : .wouldBlock }
    let result = unsafe bytes.withUnsafeMutableBytes { buffer in
      unsafe martlet_read(fd, buffer.baseAddress, buffer.count)
    }
    return finishRead(result, bytes.byteCount)
  }

  /// Reads once into the loop's shared block and shows the bytes to `body`,
  /// which may overwrite them; they are worthless afterwards.
  /// - Parameter limit: at most so many bytes (and at most 256 KB).
  package func read(
    limit: Int = ReactorLimits.readBufferBytes, _ body: (inout MutableRawSpan) -> Void
  ) -> ReadResult {
    guard state == .open else { return state == .closed ? .end : .wouldBlock }
    let block = loop.readBuffer
    precondition(!block.isInUse, "a read inside a read")
    let size = min(limit, block.memory.count)
    let count = unsafe martlet_read(fd, block.memory.baseAddress, size)
    let result = finishRead(count, size)
    if count > 0 {
      block.isInUse = true
      var span = unsafe UnsafeMutableRawBufferPointer(rebasing: block.memory[0..<Int(count)])
        .mutableBytes
      body(&span)
      block.isInUse = false
    }
    return result
  }

  func finishRead(_ result: Int64, _ asked: Int) -> ReadResult {
    if result > 0 {
      bytesRead &+= UInt64(result)
      return .bytes(Int(result))
    }
    if result == 0 {
      if asked == 0 { return .wouldBlock }
      isReadEnded = true
      updateInterest()
      return .end
    }
    if result == -Int64(EAGAIN) { return .wouldBlock }
    close()
    return .failed(SystemError(Int32(-result), "read"))
  }

  // MARK: Writing

  /// Bytes waiting here for the kernel.
  package var backlog: Int { buffer.count }
  /// Bytes a write would take now beside what the kernel takes.
  package var room: Int { max(0, backlogLimit - buffer.count) }

  /// Takes as much of `bytes` as the kernel and the backlog hold. When that is
  /// less than all, `connectionWritable` tells when there is room again.
  /// - Returns: bytes taken; 0 after `shutdownWrite` or `close`.
  package func write(_ bytes: RawSpan) -> Int {
    guard state != .closed, !isWriteEnding else { return 0 }
    return unsafe bytes.withUnsafeBytes { buffer in unsafe writePart(buffer) }
  }

  /// Takes all of a frame given in two runs, or nothing of it. One system call
  /// when the kernel has room.
  /// - Returns: whether it was taken. When not, `connectionWritable` tells when
  ///   to try again, unless the connection was closed meanwhile.
  package func write(_ head: RawSpan, _ body: RawSpan) -> Bool {
    guard state != .closed, !isWriteEnding else { return false }
    return unsafe head.withUnsafeBytes { a in
      unsafe body.withUnsafeBytes { b in unsafe writeWhole(a, b) }
    }
  }

  /// Takes a frame whole, or nothing of it.
  package func writeAll(_ bytes: RawSpan) -> Bool {
    write(bytes, bytes.extracting(0..<0))
  }

  /// The same for a control message.
  package func writeAll(_ bytes: [UInt8]) -> Bool { writeAll(bytes.span.bytes) }

  /// Puts bytes behind the backlog without a system call; `flush` sends them.
  /// For many small frames in one batch. All or nothing.
  package func enqueue(_ bytes: RawSpan) -> Bool {
    guard state != .closed, !isWriteEnding else { return false }
    guard bytes.byteCount <= room else {
      wantsRoom = true
      updateInterest()
      return false
    }
    unsafe bytes.withUnsafeBytes { unsafe buffer.append($0) }
    return true
  }

  /// Asks for one `connectionWritable` when no more than `bytes` wait here, for
  /// an owner that stops before its writes are refused.
  package func notify(below bytes: Int) {
    drainMark = bytes
    if buffer.count <= bytes {
      loop.schedule(at: loop.now) { [weak self] in self?.flush() }
    }
  }

  /// Sends what the kernel takes of the backlog. May call `connectionWritable`
  /// or `connectionFailed` before it returns, unlike the writes.
  package func flush() {
    guard state == .open else { return }
    while buffer.count > 0 {
      let wanted = buffer.count
      let result = unsafe buffer.withRuns { a, b in
        unsafe martlet_write2(fd, a.baseAddress, a.count, b.baseAddress, b.count)
      }
      if result < 0 {
        if result == -Int64(EAGAIN) { break }
        return fail(SystemError(Int32(-result), "write"))
      }
      bytesWritten &+= UInt64(result)
      buffer.removeFirst(Int(result))
      if result < wanted { break }
    }
    if buffer.count == 0 {
      if closesWhenFlushed { return close() }
      if isWriteEnding { endWriting() }
    }
    updateInterest()
    let isDrained = drainMark.map { buffer.count <= $0 } ?? false
    if isDrained || (wantsRoom && buffer.count <= backlogLimit / 2) {
      wantsRoom = false
      drainMark = nil
      delegate?.connectionWritable(self)
    }
  }

  private func writePart(_ bytes: UnsafeRawBufferPointer) -> Int {
    var taken = 0
    if state == .open, buffer.count == 0 {
      guard let sent = unsafe writeNow(bytes, UnsafeRawBufferPointer(start: nil, count: 0)) else {
        return 0
      }
      taken = sent
    }
    let kept = min(bytes.count - taken, room)
    if kept > 0 {
      unsafe buffer.append(UnsafeRawBufferPointer(rebasing: bytes[taken..<(taken + kept)]))
      updateInterest()
    }
    taken += kept
    if taken < bytes.count { wantsRoom = true }
    return taken
  }

  private func writeWhole(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
    let total = a.count + b.count
    // Also when the kernel might take it: it may take only a part.
    guard total <= room || buffer.count == 0 && total <= ReactorLimits.streamBacklogBytes else {
      wantsRoom = true
      return false
    }
    var taken = 0
    if state == .open, buffer.count == 0 {
      guard let sent = unsafe writeNow(a, b) else { return false }
      taken = sent
    }
    guard taken < total else { return true }
    if taken < a.count {
      unsafe buffer.append(UnsafeRawBufferPointer(rebasing: a[taken...]))
      unsafe buffer.append(b)
    } else {
      unsafe buffer.append(UnsafeRawBufferPointer(rebasing: b[(taken - a.count)...]))
    }
    updateInterest()
    return true
  }

  /// Bytes the kernel took; nil when the connection broke.
  private func writeNow(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int? {
    let result = unsafe martlet_write2(fd, a.baseAddress, a.count, b.baseAddress, b.count)
    if result >= 0 {
      bytesWritten &+= UInt64(result)
      return Int(result)
    }
    if result == -Int64(EAGAIN) { return 0 }
    // Told in the next round, not inside the caller's write.
    breakLater(SystemError(Int32(-result), "write"))
    return nil
  }

  private func breakLater(_ error: SystemError) {
    isWriteEnding = true
    loop.schedule(at: loop.now) { [weak self] in self?.fail(error) }
  }
}
