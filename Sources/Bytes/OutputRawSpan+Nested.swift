/// Writing a part whose size is bounded by what must follow it (padding, a tag):
/// the writer gets an output span of its own that ends before the reserve, so
/// it cannot run into it. Little-endian writers for WireGuard's headers.

extension OutputRawSpan {
  /// Lets `body` append at most `limit` bytes after those already here.
  /// The caller checks `freeCapacity` first; a larger limit is a bug.
  /// - Returns: bytes written.
  @inlinable @_lifetime(self: copy self)
  public mutating func appendNested(limit: Int, _ body: (inout OutputRawSpan) -> Void) -> Int {
    precondition(limit >= 0 && limit <= freeCapacity)
    return unsafe self.withUnsafeMutableBytes { buffer, initialized in
      let slice = unsafe UnsafeMutableRawBufferPointer(
        rebasing: buffer[initialized..<(initialized + limit)])
      var output = unsafe OutputRawSpan(buffer: slice, initializedCount: 0)
      body(&output)
      let count = unsafe output.finalize(for: slice)
      initialized += count
      return count
    }
  }

  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt32LittleEndian(_ value: UInt32) {
    append(value.littleEndian, as: UInt32.self)
  }
  @inlinable @_lifetime(self: copy self)
  public mutating func writeUInt64LittleEndian(_ value: UInt64) {
    append(value.littleEndian, as: UInt64.self)
  }
}
