/// Messages that are opened where they lie: sealed packets of a relay leg.

#if canImport(Bytes)
  internal import Bytes
#endif

extension WebSocketConnection {
  /// Lends the message that `pollEvent` announced last, to be changed in place.
  public func withMutableMessage(_ body: (inout MutableRawSpan) -> Void) {
    if lendsFragments {
      fragments.withMutableBytes(lent, body)
    } else {
      input.withMutableBytes(lent, body)
    }
  }
}
