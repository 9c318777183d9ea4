/// Bytes waiting between a socket and a codec: filled at the back, read and
/// changed in place at the front, without an array copy on either side. Grows
/// on demand and gives its memory back when it runs empty, so that thousands
/// of idle connections cost nothing. The user bounds it; it has no limit itself.

/// A first-in first-out run of bytes that is always contiguous.
public struct ByteQueue: ~Copyable {
  @usableFromInline var memory: UnsafeMutableRawBufferPointer
  @usableFromInline var start = 0
  @usableFromInline var end = 0
  /// Memory up to this size is kept when the queue runs empty.
  @usableFromInline let kept: Int

  /// - Parameter kept: bytes of memory an empty queue may hold on to.
  @inlinable public init(kept: Int = 4096) {
    unsafe memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    self.kept = kept
  }

  deinit { unsafe memory.deallocate() }

  @inlinable public var byteCount: Int { end - start }
  @inlinable public var isEmpty: Bool { start == end }
  /// Bytes of memory held.
  @inlinable public var capacity: Int { memory.count }

  /// Everything queued, borrowed.
  @inlinable public var bytes: RawSpan {
    @_lifetime(borrow self)
    borrowing get {
      let slice = unsafe UnsafeRawBufferPointer(rebasing: memory[start..<end])
      let span = unsafe RawSpan(_unsafeBytes: slice)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// The bytes of `range` (offsets from the front), borrowed.
  @inlinable @_lifetime(borrow self)
  public borrowing func bytes(_ range: Range<Int>) -> RawSpan {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
    let slice = unsafe UnsafeRawBufferPointer(
      rebasing: memory[(start + range.lowerBound)..<(start + range.upperBound)])
    let span = unsafe RawSpan(_unsafeBytes: slice)
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// Lends the bytes of `range`: for queues held by classes, whose properties
  /// cannot be borrowed through a computed span.
  @inlinable public borrowing func withBytes<R>(
    _ range: Range<Int>, _ body: (RawSpan) -> R
  ) -> R {
    body(bytes(range))
  }

  /// XORs the bytes of `range` with a repeated four-byte key.
  @inlinable public mutating func xor(_ range: Range<Int>, key: UInt32) {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
    var bytes = mutableBytes
    var part = bytes._mutatingExtracting(range)
    part.xor(key: key)
  }

  /// Writes over a byte that is there already.
  @inlinable public mutating func overwrite(at offset: Int, with byte: UInt8) {
    precondition(offset >= 0 && offset < byteCount)
    unsafe memory[start + offset] = byte
  }

  /// Everything queued, to be changed in place.
  @inlinable public var mutableBytes: MutableRawSpan {
    @_lifetime(&self)
    mutating get {
      let slice = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<end])
      let span = unsafe MutableRawSpan(_unsafeBytes: slice)
      return unsafe _overrideLifetime(span, mutating: &self)
    }
  }

  /// Appends what `body` writes into an empty span of `limit` bytes.
  /// - Returns: bytes written.
  @inlinable @discardableResult
  public mutating func append<E: Error>(
    limit: Int, _ body: (inout OutputRawSpan) throws(E) -> Void
  ) throws(E) -> Int {
    reserve(limit)
    let slice = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[end..<(end + limit)])
    var output = unsafe OutputRawSpan(buffer: slice, initializedCount: 0)
    try body(&output)
    let count = unsafe output.finalize(for: slice)
    end += count
    return count
  }

  /// Appends a copy of borrowed bytes.
  @inlinable public mutating func append(_ source: RawSpan) {
    let count = source.byteCount
    if count == 0 { return }
    append(limit: count) { $0.write(source) }
  }

  /// Appends a copy of another queue's bytes.
  @inlinable public mutating func append(_ other: borrowing ByteQueue) {
    if !other.isEmpty { append(other.bytes) }
  }

  /// Drops the first `count` bytes.
  @inlinable public mutating func consume(_ count: Int) {
    precondition(count >= 0 && count <= byteCount)
    start += count
    if start == end { rewind() }
  }

  /// Drops the last `count` bytes.
  @inlinable public mutating func truncate(_ count: Int) {
    precondition(count >= 0 && count <= byteCount)
    end -= count
    if start == end { rewind() }
  }

  /// Moves the bytes `range` (offsets from the front) by `distance` towards
  /// the front, over what stood there.
  @inlinable public mutating func slide(_ range: Range<Int>, by distance: Int) {
    precondition(range.upperBound <= byteCount && distance >= 0 && distance <= range.lowerBound)
    guard !range.isEmpty, distance > 0, let base = memory.baseAddress else { return }
    let from = unsafe base + start + range.lowerBound
    unsafe (from - distance).copyMemory(from: from, byteCount: range.count)
  }

  public mutating func removeAll() {
    start = 0
    end = 0
    rewind()
  }

  @usableFromInline mutating func rewind() {
    start = 0
    end = 0
    guard memory.count > kept else { return }
    unsafe memory.deallocate()
    unsafe memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  }

  /// Makes room for `count` more bytes at the back.
  @inlinable public mutating func reserve(_ count: Int) {
    precondition(count >= 0)
    if memory.count - end < count { grow(count) }
  }

  @usableFromInline mutating func grow(_ count: Int) {
    let used = byteCount
    if memory.count - used >= count, start >= used || start >= memory.count / 2,
      let base = memory.baseAddress
    {
      unsafe base.copyMemory(from: base + start, byteCount: used)
    } else {
      let size = max(used + count, min(memory.count * 2, memory.count + 1 << 20), 512)
      let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
      if used > 0, let to = larger.baseAddress, let from = memory.baseAddress {
        unsafe to.copyMemory(from: from + start, byteCount: used)
      }
      unsafe memory.deallocate()
      unsafe memory = larger
    }
    start = 0
    end = used
  }
}

extension MutableRawSpan {
  /// XORs every byte with the four bytes of `key` in turn, most significant
  /// first, beginning with byte `phase` of the key (RFC 6455 §5.3).
  @inlinable public mutating func xor(key: UInt32, phase: Int = 0) {
    let count = byteCount
    let turned =
      phase & 3 == 0 ? key : key << UInt32(8 * (phase & 3)) | key >> UInt32(32 - 8 * (phase & 3))
    let word = UInt64(turned.bigEndian) | UInt64(turned.bigEndian) << 32
    unsafe withUnsafeMutableBytes { buffer in
      var i = 0
      while i + 8 <= count {
        let value = unsafe buffer.loadUnaligned(fromByteOffset: i, as: UInt64.self)
        unsafe buffer.storeBytes(of: value ^ word, toByteOffset: i, as: UInt64.self)
        i += 8
      }
      while i < count {
        unsafe buffer[i] ^= UInt8(truncatingIfNeeded: word >> UInt64(8 * (i & 7)))
        i += 1
      }
    }
  }
}

extension RawSpan {
  /// Whether the bytes are UTF-8 (RFC 3629): no surrogates, nothing overlong.
  public var isUTF8: Bool {
    unsafe withUnsafeBytes { buffer in
      var i = 0
      let count = buffer.count
      while i < count {
        if i + 8 <= count,
          unsafe buffer.loadUnaligned(fromByteOffset: i, as: UInt64.self) & 0x8080_8080_8080_8080
            == 0
        {
          i += 8
          continue
        }
        let byte = unsafe buffer[i]
        i += 1
        if byte < 0x80 { continue }
        let more: Int
        var low: UInt8 = 0x80
        var high: UInt8 = 0xbf
        switch byte {
        case 0xc2...0xdf: more = 1
        case 0xe0...0xef:
          more = 2
          if byte == 0xe0 { low = 0xa0 }
          if byte == 0xed { high = 0x9f }
        case 0xf0...0xf4:
          more = 3
          if byte == 0xf0 { low = 0x90 }
          if byte == 0xf4 { high = 0x8f }
        default: return false
        }
        guard i + more <= count, unsafe buffer[i] >= low, unsafe buffer[i] <= high else {
          return false
        }
        for k in 1..<max(more, 1) where unsafe buffer[i + k] & 0xc0 != 0x80 { return false }
        i += more
      }
      return true
    }
  }
}
