/// A growable ring of bytes addressed by absolute stream offset: send buffers
/// (acknowledged bytes leave at the front) and receive buffers (bytes may be
/// put down ahead of the front, out of order). Capacity is a power of two and
/// nothing is allocated before the first byte. Which bytes of the window have
/// been written is the owner's knowledge; memory is zeroed when allocated, so
/// that a mistake there can show stale bytes of this stream and no others.

/// Memory of a ring; freed with its last owner.
@usableFromInline final class RingStorage: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer
  @usableFromInline let capacity: Int

  @usableFromInline init(capacity: Int) {
    unsafe base = .allocate(byteCount: capacity, alignment: 64)
    unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: capacity)
    self.capacity = capacity
  }
  deinit { unsafe base.deallocate() }
}

/// Bytes `start ..< start + capacity` of a stream. A copy of the value shares
/// the bytes: keep one owner.
public struct ByteRing {
  /// The smallest capacity allocated.
  public static let minimumCapacity = 4_096

  @usableFromInline var storage: RingStorage?
  /// Absolute offset of the front of the window.
  public private(set) var start: UInt64
  /// Absolute offset that lies at byte 0 of the memory, modulo capacity.
  @usableFromInline var origin: UInt64

  public init(start: UInt64 = 0) {
    self.start = start
    self.origin = start
  }

  /// Bytes of memory held.
  @inlinable public var capacity: Int { storage?.capacity ?? 0 }

  /// Makes the window reach `end`. The bytes `start..<kept` are carried over.
  public mutating func reserve(through end: UInt64, keeping kept: UInt64) {
    precondition(end >= start)
    let needed = Int(end - start)
    guard needed > capacity else { return }
    var size = max(Self.minimumCapacity, capacity)
    while size < needed { size *= 2 }
    let bigger = RingStorage(capacity: size)
    if let storage, kept > start {
      var from = start
      while from < kept {
        let position = Int((from &- origin) & UInt64(storage.capacity - 1))
        let count = min(Int(kept - from), storage.capacity - position)
        unsafe (bigger.base + Int(from - start)).copyMemory(
          from: storage.base + position, byteCount: count)
        from += UInt64(count)
      }
    }
    storage = bigger
    origin = start
  }

  /// Drops the bytes before `offset`. If the owner says that none are left the
  /// next ones go to the front of the memory, which stays in the cache.
  @inlinable public mutating func discard(before offset: UInt64, isEmpty: Bool) {
    move(to: offset)
    if isEmpty { origin = offset }
  }

  @usableFromInline mutating func move(to offset: UInt64) {
    precondition(offset >= start)
    start = offset
  }

  /// Gives the memory back; the window is empty and begins at `start`.
  public mutating func releaseMemory() {
    storage = nil
    origin = start
  }

  /// Copies bytes to `offset`; the window must reach behind them.
  @inlinable public mutating func store(_ bytes: RawSpan, at offset: UInt64) {
    let count = bytes.byteCount
    if count == 0 { return }
    let storage = storage!
    precondition(offset >= start && Int(offset - start) + count <= storage.capacity)
    let position = Int((offset &- origin) & UInt64(storage.capacity - 1))
    let first = min(count, storage.capacity - position)
    unsafe bytes.withUnsafeBytes { source in
      unsafe (storage.base + position).copyMemory(from: source.baseAddress!, byteCount: first)
      if first < count {
        unsafe storage.base.copyMemory(
          from: source.baseAddress! + first, byteCount: count - first)
      }
    }
  }

  /// Appends the `count` bytes at `offset` to `output`, which must have room.
  @inlinable public func load(_ count: Int, at offset: UInt64, into output: inout OutputRawSpan) {
    if count == 0 { return }
    let storage = storage!
    precondition(offset >= start && Int(offset - start) + count <= storage.capacity)
    precondition(output.freeCapacity >= count)
    let position = Int((offset &- origin) & UInt64(storage.capacity - 1))
    let first = min(count, storage.capacity - position)
    unsafe output.withUnsafeMutableBytes { buffer, initialized in
      let to = unsafe buffer.baseAddress! + initialized
      unsafe to.copyMemory(from: storage.base + position, byteCount: first)
      if first < count {
        unsafe (to + first).copyMemory(from: storage.base, byteCount: count - first)
      }
      initialized += count
    }
  }

  /// Lends the bytes from `offset` up to `end` as far as they lie in one piece.
  @inlinable public func withBytes<R>(
    from offset: UInt64, to end: UInt64, _ body: (RawSpan) -> R
  ) -> R {
    guard let storage, end > offset else { return body(RawSpan()) }
    precondition(offset >= start && Int(end - start) <= storage.capacity)
    let position = Int((offset &- origin) & UInt64(storage.capacity - 1))
    let count = min(Int(end - offset), storage.capacity - position)
    return unsafe body(
      RawSpan(_unsafeStart: UnsafeRawPointer(storage.base + position), byteCount: count))
  }

  /// Lends the room from `offset` up to `end` as far as it lies in one piece;
  /// the bytes that `body` leaves initialised are there afterwards.
  /// - Returns: how many that are.
  @inlinable public mutating func withRoom(
    from offset: UInt64, to end: UInt64, _ body: (inout OutputRawSpan) -> Void
  ) -> Int {
    guard let storage, end > offset else { return 0 }
    precondition(offset >= start && Int(end - start) <= storage.capacity)
    let position = Int((offset &- origin) & UInt64(storage.capacity - 1))
    let count = min(Int(end - offset), storage.capacity - position)
    let room = unsafe UnsafeMutableRawBufferPointer(start: storage.base + position, count: count)
    var output = unsafe OutputRawSpan(buffer: room, initializedCount: 0)
    body(&output)
    return unsafe output.finalize(for: room)
  }
}
