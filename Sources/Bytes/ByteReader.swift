/// A cursor over borrowed bytes: every codec reads through it. One bounds
/// check per field; a short read returns nil and leaves the cursor where it
/// was. Integers are big endian unless the name says otherwise.

/// Reads fields from the front of a span; never copies, never traps on input.
public struct ByteReader: ~Escapable {
  @usableFromInline let span: RawSpan
  @usableFromInline var position: Int

  @_lifetime(copy span)
  @inlinable public init(_ span: RawSpan) {
    self.span = span
    self.position = 0
  }

  /// Bytes already read.
  @inlinable public var offset: Int { position }
  /// Bytes not yet read.
  @inlinable public var remaining: Int { span.byteCount - offset }
  @inlinable public var isAtEnd: Bool { offset == span.byteCount }

  @inlinable @_lifetime(self: copy self)
  public mutating func skip(_ count: Int) -> Bool {
    guard count >= 0, count <= remaining else { return false }
    move(by: count)
    return true
  }

  @inlinable @_lifetime(self: copy self)
  public mutating func uint8() -> UInt8? { load(as: UInt8.self) }
  @inlinable @_lifetime(self: copy self)
  public mutating func uint16() -> UInt16? { load(as: UInt16.self).map(UInt16.init(bigEndian:)) }
  @inlinable @_lifetime(self: copy self)
  public mutating func uint32() -> UInt32? { load(as: UInt32.self).map(UInt32.init(bigEndian:)) }
  @inlinable @_lifetime(self: copy self)
  public mutating func uint64() -> UInt64? { load(as: UInt64.self).map(UInt64.init(bigEndian:)) }
  @inlinable @_lifetime(self: copy self)
  public mutating func uint32LittleEndian() -> UInt32? {
    load(as: UInt32.self).map(UInt32.init(littleEndian:))
  }
  @inlinable @_lifetime(self: copy self)
  public mutating func uint64LittleEndian() -> UInt64? {
    load(as: UInt64.self).map(UInt64.init(littleEndian:))
  }
  /// A 48-bit big-endian number (packet numbers).
  @inlinable @_lifetime(self: copy self)
  public mutating func uint48() -> UInt64? {
    guard remaining >= 6 else { return nil }
    guard let high = uint16(), let low = uint32() else { return nil }
    return UInt64(high) << 32 | UInt64(low)
  }

  /// The next `count` bytes, borrowed.
  @inlinable @_lifetime(copy self)
  public mutating func bytes(_ count: Int) -> RawSpan? {
    guard count >= 0, count <= remaining else { return nil }
    let slice = span.extracting(offset..<(offset + count))
    move(by: count)
    return slice
  }

  /// Everything not yet read, borrowed.
  @inlinable @_lifetime(copy self)
  public mutating func rest() -> RawSpan {
    let slice = span.extracting(offset..<span.byteCount)
    move(by: remaining)
    return slice
  }

  /// The next `count` bytes as an array (copies; not for the packet path).
  @inlinable @_lifetime(self: copy self)
  public mutating func array(_ count: Int) -> [UInt8]? {
    guard let slice = bytes(count) else { return nil }
    return [UInt8](slice)
  }

  /// A string preceded by its 16-bit length; nil when short, longer than
  /// `limit` bytes, or not UTF-8.
  @inlinable @_lifetime(self: copy self)
  public mutating func string16(limit: Int) -> String? {
    let start = offset
    guard let count = uint16(), Int(count) <= limit, let slice = array(Int(count)),
      let text = String(validating: slice, as: UTF8.self)
    else {
      position = start
      return nil
    }
    return text
  }

  /// Bytes preceded by their 16-bit length; nil when short or longer than `limit`.
  @inlinable @_lifetime(self: copy self)
  public mutating func array16(limit: Int) -> [UInt8]? {
    let start = offset
    guard let count = uint16(), Int(count) <= limit, let slice = array(Int(count)) else {
      position = start
      return nil
    }
    return slice
  }

  @inlinable @_lifetime(self: copy self)
  mutating func load<T: BitwiseCopyable & FixedWidthInteger>(as type: T.Type) -> T? {
    guard MemoryLayout<T>.size <= remaining else { return nil }
    let value = unsafe span.unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: type)
    move(by: MemoryLayout<T>.size)
    return value
  }

  @inlinable @_lifetime(self: copy self)
  mutating func move(by count: Int) { position += count }
}

extension Array where Element == UInt8 {
  /// Copies borrowed bytes.
  @inlinable public init(_ span: RawSpan) {
    self = unsafe span.withUnsafeBytes { unsafe [UInt8]($0) }
  }

  // Writers for control messages; the packet path writes into spans.
  @inlinable public mutating func appendUInt16(_ value: UInt16) { appendInteger(value.bigEndian) }
  @inlinable public mutating func appendUInt32(_ value: UInt32) { appendInteger(value.bigEndian) }
  @inlinable public mutating func appendUInt64(_ value: UInt64) { appendInteger(value.bigEndian) }
  @inlinable public mutating func appendUInt64LittleEndian(_ value: UInt64) {
    appendInteger(value.littleEndian)
  }
  @inlinable public mutating func append(_ span: RawSpan) {
    unsafe span.withUnsafeBytes { unsafe self.append(contentsOf: $0) }
  }
  /// Appends UTF-8 preceded by its 16-bit length. At most 65,535 bytes.
  @inlinable public mutating func appendString16(_ text: String) {
    appendArray16(Array(text.utf8))
  }
  /// Appends bytes preceded by their 16-bit length. At most 65,535 bytes.
  @inlinable public mutating func appendArray16(_ bytes: [UInt8]) {
    precondition(bytes.count <= 0xffff)
    appendUInt16(UInt16(bytes.count))
    append(contentsOf: bytes)
  }
  @inlinable mutating func appendInteger<T: FixedWidthInteger>(_ value: T) {
    unsafe Swift.withUnsafeBytes(of: value) { unsafe self.append(contentsOf: $0) }
  }
}

extension OutputRawSpan {
  /// Big-endian writers. The caller checks `freeCapacity` first: writing past
  /// the end is a bug and traps.
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt8(_ value: UInt8) { append(value, as: UInt8.self) }
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt16(_ value: UInt16) { append(value.bigEndian, as: UInt16.self) }
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt32(_ value: UInt32) { append(value.bigEndian, as: UInt32.self) }
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt64(_ value: UInt64) { append(value.bigEndian, as: UInt64.self) }
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt48(_ value: UInt64) {
    writeUInt16(UInt16(truncatingIfNeeded: value >> 32))
    writeUInt32(UInt32(truncatingIfNeeded: value))
  }
  /// Appends a copy of borrowed bytes.
  @inlinable @_lifetime(self: copy self)
  public mutating func write(_ source: RawSpan) {
    let count = source.byteCount
    precondition(count <= freeCapacity)
    if count == 0 { return }
    unsafe source.withUnsafeBytes { from in
      unsafe self.withUnsafeMutableBytes { buffer, initialized in
        unsafe (buffer.baseAddress! + initialized).copyMemory(
          from: from.baseAddress!, byteCount: count)
        initialized += count
      }
    }
  }
  /// Appends `count` zero bytes.
  @inlinable @_lifetime(self: copy self)
  public mutating func writeZeros(_ count: Int) {
    precondition(count <= freeCapacity)
    unsafe self.withUnsafeMutableBytes { buffer, initialized in
      unsafe (buffer.baseAddress! + initialized).initializeMemory(
        as: UInt8.self, repeating: 0, count: count)
      initialized += count
    }
  }
}
