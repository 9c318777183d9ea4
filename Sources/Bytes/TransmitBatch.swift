/// Packets on their way out: one block of memory, filled from the front,
/// packets back to back so that equal neighbours to one carrier leave in one
/// system call (UDP_SEGMENT) without a copy. Reused for ever; no allocation
/// per packet.

/// A block of sealed packets and where each of them goes.
public final class TransmitBatch {
  /// One packet: `bytes` of the block, for `carrier`.
  public struct Segment: Sendable {
    public var carrier: Carrier
    public var offset: Int
    public var count: Int
    /// IP time to live (IPv6: hop limit) on a UDP carrier; 0 = the usual one.
    public var timeToLive: UInt8

    @inlinable init(carrier: Carrier, offset: Int, count: Int, timeToLive: UInt8) {
      self.carrier = carrier
      self.offset = offset
      self.count = count
      self.timeToLive = timeToLive
    }
  }

  @usableFromInline let memory: UnsafeMutableRawBufferPointer
  @usableFromInline var used = 0
  public private(set) var segments: [Segment] = []

  /// - Parameter capacity: bytes of the block; at least one packet (64 KB).
  public init(capacity: Int = 512 * 1024) {
    precondition(capacity >= 65_536)
    unsafe memory = .allocate(byteCount: capacity, alignment: 64)
    segments.reserveCapacity(1024)
  }

  deinit { unsafe memory.deallocate() }

  /// Bytes still free.
  @inlinable public var freeCapacity: Int { memory.count - used }
  @inlinable public var isEmpty: Bool { segments.isEmpty }
  /// Bytes of all segments.
  @inlinable public var byteCount: Int { used }

  @inlinable public func removeAll() {
    used = 0
    clearSegments()
  }

  @usableFromInline func clearSegments() { segments.removeAll(keepingCapacity: true) }
  @usableFromInline func record(_ segment: Segment) { segments.append(segment) }

  /// Appends one packet of at most `limit` bytes written by `body`, which gets
  /// an empty output span of that capacity. Nothing is appended when it writes
  /// nothing. The caller checks `freeCapacity` first.
  /// - Parameter timeToLive: of this packet only; 0 = the usual one.
  /// - Returns: bytes written.
  @inlinable @discardableResult
  public func append(
    carrier: Carrier, limit: Int, timeToLive: UInt8 = 0, _ body: (inout OutputRawSpan) -> Void
  ) -> Int {
    precondition(limit <= freeCapacity)
    let slice = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[used..<(used + limit)])
    var output = unsafe OutputRawSpan(buffer: slice, initializedCount: 0)
    body(&output)
    let count = unsafe output.finalize(for: slice)
    if count > 0 {
      record(Segment(carrier: carrier, offset: used, count: count, timeToLive: timeToLive))
      used += count
    }
    return count
  }

  /// One packet, borrowed for the duration of `body`.
  @inlinable public func withSegment<R>(_ segment: Segment, _ body: (RawSpan) -> R) -> R {
    let slice = unsafe UnsafeRawBufferPointer(
      rebasing: memory[segment.offset..<(segment.offset + segment.count)])
    return unsafe body(RawSpan(_unsafeBytes: slice))
  }

  /// The bytes of `range`, borrowed for the duration of `body`.
  @inlinable public func withBytes<R>(
    _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) -> R
  ) -> R {
    unsafe body(UnsafeRawBufferPointer(rebasing: memory[range]))
  }
}
