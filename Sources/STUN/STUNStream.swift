/// STUN on a byte stream: a message is its own frame (RFC 8489 §6.2.2). Holds at
/// most one incomplete message; a stream that is not STUN ends at once.

#if canImport(Bytes)
  internal import Bytes
#endif

/// Cuts a TCP stream into messages.
package struct STUNStream: Sendable {
  private var pending: [UInt8] = []
  /// Not STUN, or a longer message than we take. Nothing more comes out.
  package private(set) var isBroken = false

  package init() {}

  /// Bytes of an incomplete message held.
  package var byteCount: Int { pending.count }

  /// Takes what the stream brought, which may be of any size, and calls `body`
  /// with each whole message; stops when it returns false.
  /// - Returns: false when the stream is broken.
  package mutating func receive(_ bytes: RawSpan, _ body: (RawSpan) -> Bool) -> Bool {
    var reader = ByteReader(bytes)
    while !isBroken {
      while pending.count < STUNConstants.header, let byte = reader.uint8() {
        pending.append(byte)
      }
      guard pending.count >= STUNConstants.header else { break }
      let whole = STUNConstants.header + Int(UInt16(pending[2]) << 8 | UInt16(pending[3]))
      // What is not STUN ends now, not when all that its length promises has come.
      guard whole <= STUNLimits.streamMessageBytes, pending[3] & 3 == 0,
        STUNMessage.isSTUNHead(pending.span.bytes)
      else {
        isBroken = true
        break
      }
      let missing = min(whole - pending.count, reader.remaining)
      if let more = reader.bytes(missing) { pending.append(more) }
      guard pending.count == whole else { break }
      let goesOn = body(pending.span.bytes)
      pending.removeAll(keepingCapacity: true)
      if !goesOn { isBroken = true }
    }
    return !isBroken
  }
}
