/// Lending queued bytes to be changed where they lie: for queues held by
/// classes, whose properties cannot be borrowed through a computed span.

extension ByteQueue {
  /// Lends the bytes of `range`.
  @inlinable public mutating func withMutableBytes(
    _ range: Range<Int>, _ body: (inout MutableRawSpan) -> Void
  ) {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
    var bytes = mutableBytes
    var part = bytes._mutatingExtracting(range)
    body(&part)
  }
}
