/// A first-in first-out queue of packets in one block of memory that wraps
/// round: what a relay keeps between two legs. Grows by doubling up to a limit
/// and gives the block back on demand, so that a steady flow allocates nothing
/// and an idle one holds nothing. Never holds more than its limit.
///
///     record (16-byte aligned):  stamp(8) | length(4) | unused(4) | bytes | padding

/// Packets with the instant each came in.
public final class PacketRing {
  @usableFromInline static let headSize = 16
  @usableFromInline static let smallestBlock = 4_096

  /// The greatest size of the block, bytes: a power of two.
  public let limit: Int
  @usableFromInline @exclusivity(unchecked) var memory: UnsafeMutableRawPointer?
  @usableFromInline @exclusivity(unchecked) var size = 0
  /// Positions only grow; the low bits are offsets into the block.
  @usableFromInline @exclusivity(unchecked) var head = 0
  @usableFromInline @exclusivity(unchecked) var tail = 0
  @usableFromInline @exclusivity(unchecked) var packets = 0
  @usableFromInline @exclusivity(unchecked) var bytes = 0

  /// - Parameter limit: bytes of memory at most, heads and padding included;
  ///   rounded up to a power of two, at least 4 KB.
  public init(limit: Int) {
    var rounded = Self.smallestBlock
    while rounded < limit { rounded *= 2 }
    self.limit = rounded
    unsafe memory = nil
  }

  deinit { unsafe memory?.deallocate() }

  /// Packets held.
  @inlinable public var count: Int { packets }
  @inlinable public var isEmpty: Bool { packets == 0 }
  /// Bytes of the packets held, without heads.
  @inlinable public var byteCount: Int { bytes }
  /// Bytes of memory held.
  @inlinable public var capacity: Int { size }

  /// Bytes of memory `append` would add for a packet of `length`; nil when
  /// the packet does not fit within the limit.
  @inlinable public func growth(for length: Int) -> Int? {
    let needed = tail - head + Self.recordSize(length)
    if needed <= size { return 0 }
    guard needed <= limit else { return nil }
    var grown = Swift.max(size, Self.smallestBlock)
    while grown < needed { grown *= 2 }
    return grown - size
  }

  /// Copies a packet to the back. The caller has asked `growth`: a packet
  /// that does not fit is a bug.
  @inlinable public func append(_ packet: RawSpan, stamp: Instant) {
    let length = packet.byteCount
    let record = Self.recordSize(length)
    if tail - head + record > size { grow(to: tail - head + record) }
    guard let memory = unsafe memory else { preconditionFailure("no block") }
    let offset = tail & (size - 1)
    unsafe memory.storeBytes(of: stamp.nanoseconds, toByteOffset: offset, as: Int64.self)
    unsafe memory.storeBytes(of: UInt32(length), toByteOffset: offset + 8, as: UInt32.self)
    let start = (offset + Self.headSize) & (size - 1)
    let first = Swift.min(length, size - start)
    unsafe packet.withUnsafeBytes { source in
      guard let base = source.baseAddress, length > 0 else { return }
      unsafe (memory + start).copyMemory(from: base, byteCount: first)
      if first < length {
        unsafe memory.copyMemory(from: base + first, byteCount: length - first)
      }
    }
    tail += record
    packets += 1
    bytes += length
  }

  /// Bytes of the front packet. The ring must not be empty.
  @inlinable public var frontCount: Int {
    precondition(packets > 0)
    guard let memory = unsafe memory else { preconditionFailure("no block") }
    let offset = (head & (size - 1)) + 8
    return Int(unsafe memory.load(fromByteOffset: offset, as: UInt32.self))
  }

  /// When the front packet came in. The ring must not be empty.
  @inlinable public var frontStamp: Instant {
    precondition(packets > 0)
    guard let memory = unsafe memory else { preconditionFailure("no block") }
    let offset = head & (size - 1)
    return Instant(nanoseconds: unsafe memory.load(fromByteOffset: offset, as: Int64.self))
  }

  /// Throws the front packet away.
  @inlinable public func removeFront() {
    let length = frontCount
    head += Self.recordSize(length)
    packets -= 1
    bytes -= length
  }

  /// Moves the front packet to the end of `output`, which has room for it.
  @inlinable public func removeFront(into output: inout OutputRawSpan) {
    let length = frontCount
    precondition(output.freeCapacity >= length)
    guard let memory = unsafe memory else { preconditionFailure("no block") }
    let start = ((head & (size - 1)) + Self.headSize) & (size - 1)
    let first = Swift.min(length, size - start)
    unsafe output.withUnsafeMutableBytes { buffer, initialized in
      guard let base = buffer.baseAddress else { return }
      unsafe (base + initialized).copyMemory(from: memory + start, byteCount: first)
      if first < length {
        unsafe (base + initialized + first).copyMemory(from: memory, byteCount: length - first)
      }
      initialized += length
    }
    removeFront()
  }

  /// Throws everything away and gives the block back.
  public func removeAll() {
    unsafe memory?.deallocate()
    unsafe memory = nil
    size = 0
    head = 0
    tail = 0
    packets = 0
    bytes = 0
  }

  @inlinable static func recordSize(_ length: Int) -> Int {
    (headSize + length + 15) & ~15
  }

  /// Moves everything to a larger block, the front packet first.
  @usableFromInline func grow(to needed: Int) {
    precondition(needed <= limit, "packet ring over its limit")
    var grown = Swift.max(size, Self.smallestBlock)
    while grown < needed { grown *= 2 }
    let block = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: 16)
    let used = tail - head
    if let old = unsafe memory {
      let start = head & (size - 1)
      let first = Swift.min(used, size - start)
      unsafe block.copyMemory(from: old + start, byteCount: first)
      if first < used { unsafe (block + first).copyMemory(from: old, byteCount: used - first) }
      unsafe old.deallocate()
    }
    unsafe memory = block
    size = grown
    head = 0
    tail = used
  }
}
