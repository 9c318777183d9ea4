/// A queue of bytes in one piece: filled at the back (by a read from a socket,
/// or by copying), taken from the front, moved down only when the room behind
/// runs out. For stream framings and datagram queues: whatever lies in it can
/// be lent as one span. It keeps its memory until told otherwise.

/// A contiguous byte queue. A copy of the value shares the bytes: keep one owner.
public struct ContiguousQueue {
  @usableFromInline var storage: RingStorage?
  @usableFromInline var head = 0
  @usableFromInline var tail = 0

  public init() {}

  @inlinable public var count: Int { tail - head }
  @inlinable public var isEmpty: Bool { head == tail }
  /// Bytes of memory held.
  @inlinable public var capacity: Int { storage?.capacity ?? 0 }

  /// Makes room for `more` bytes in one piece behind the last.
  public mutating func reserve(_ more: Int) {
    if let storage, storage.capacity - tail >= more { return }
    let used = count
    if let storage, storage.capacity - used >= more, head >= storage.capacity / 2 {
      unsafe storage.base.copyMemory(from: storage.base + head, byteCount: used)
    } else {
      var size = max(4_096, capacity)
      while size < used + more { size *= 2 }
      let bigger = RingStorage(capacity: size)
      if let storage, used > 0 {
        unsafe bigger.base.copyMemory(from: storage.base + head, byteCount: used)
      }
      storage = bigger
    }
    head = 0
    tail = used
  }

  /// Appends a copy.
  @inlinable public mutating func append(_ bytes: RawSpan) {
    if bytes.byteCount == 0 { return }
    reserve(bytes.byteCount)
    let storage = storage!
    unsafe bytes.withUnsafeBytes {
      unsafe (storage.base + tail).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
    }
    tail += bytes.byteCount
  }

  /// Lends room for at least `minimum` bytes behind the last; what `body`
  /// leaves initialised is appended.
  /// - Returns: bytes appended.
  @inlinable @discardableResult
  public mutating func append(minimum: Int, _ body: (inout OutputRawSpan) -> Void) -> Int {
    reserve(minimum)
    guard let storage else { return 0 }
    let room = unsafe UnsafeMutableRawBufferPointer(
      start: storage.base + tail, count: storage.capacity - tail)
    var output = unsafe OutputRawSpan(buffer: room, initializedCount: 0)
    body(&output)
    let added = unsafe output.finalize(for: room)
    tail += added
    return added
  }

  /// Lends the `range`, counted from the front.
  @inlinable public func withBytes<R>(_ range: Range<Int>, _ body: (RawSpan) -> R) -> R {
    precondition(range.lowerBound >= 0 && range.upperBound <= count)
    guard let storage, !range.isEmpty else { return body(RawSpan()) }
    return unsafe body(
      RawSpan(
        _unsafeStart: UnsafeRawPointer(storage.base + head + range.lowerBound),
        byteCount: range.count))
  }

  /// Appends the `range`, counted from the front, to `output`, which has room.
  @inlinable public func load(_ range: Range<Int>, into output: inout OutputRawSpan) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count)
    guard let storage, !range.isEmpty else { return }
    unsafe output.write(
      RawSpan(
        _unsafeStart: UnsafeRawPointer(storage.base + head + range.lowerBound),
        byteCount: range.count))
  }

  /// Lends the `range`, counted from the front, to be changed in place.
  @inlinable public mutating func withMutableBytes<R>(
    _ range: Range<Int>, _ body: (inout MutableRawSpan) -> R
  ) -> R {
    precondition(range.lowerBound >= 0 && range.upperBound <= count)
    let start = head + range.lowerBound
    let memory = unsafe UnsafeMutableRawBufferPointer(
      start: storage.map { unsafe $0.base + start }, count: storage == nil ? 0 : range.count)
    var span = unsafe MutableRawSpan(_unsafeBytes: memory)
    return body(&span)
  }

  /// Removes `count` bytes from the front.
  @inlinable public mutating func removeFirst(_ count: Int) {
    precondition(count >= 0 && count <= self.count)
    head += count
    if head == tail {
      head = 0
      tail = 0
    }
  }

  /// Empties it; `keepingCapacity` false gives the memory back.
  public mutating func removeAll(keepingCapacity: Bool = true) {
    head = 0
    tail = 0
    if !keepingCapacity { storage = nil }
  }
}
