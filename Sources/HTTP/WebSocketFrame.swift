/// Heads of WebSocket frames: read and written in place, nothing else. The
/// rules that need no memory of earlier frames are enforced here (RFC 6455 §5).
///
/// ```
/// byte 0      byte 1          2 or 8 bytes            4 bytes   n bytes
/// F RSV OPC   M length(7)     length, when 126/127    key       payload
/// 1  3   4    1               big endian, shortest    when M
/// ```

#if canImport(Bytes)
  public import Bytes
#endif

/// What a frame carries (RFC 6455 §11.8).
public enum WebSocketOpcode: UInt8, Sendable {
  case continuation = 0
  case text = 1
  case binary = 2
  case close = 8
  case ping = 9
  case pong = 10

  @inlinable public var isControl: Bool { rawValue & 8 != 0 }
}

/// Which end of the connection this is: a client masks, a server must not (§5.1).
public enum WebSocketRole: Sendable {
  case client
  case server
}

/// Why a connection is failed; each has its close code (§7.4.1).
public enum WebSocketFailure: Error, Sendable, Hashable {
  case reservedBits
  case unknownOpcode
  /// A client that did not mask or a server that did.
  case wrongMasking
  /// A length in more bytes than needed, or beyond 2^63.
  case badLength
  /// A control frame that is fragmented or longer than 125 bytes.
  case badControl
  /// A continuation of nothing, or a new message inside another.
  case badSequence
  case tooManyFragments
  case messageTooLarge
  case notUTF8
  case badCloseCode
  /// No pong within the time-out.
  case pongTimeout
  /// The peer did not answer our close in time.
  case closeTimeout
  /// The connection ended without a close frame.
  case connectionLost
  /// The peer does not read what it is sent.
  case outputTooLong

  /// The code to close with; 1006 (never sent) where the peer is gone.
  public var code: UInt16 {
    switch self {
    case .reservedBits, .unknownOpcode, .wrongMasking, .badLength, .badControl, .badSequence,
      .badCloseCode:
      1002
    case .notUTF8: 1007
    case .tooManyFragments, .outputTooLong: 1008
    case .messageTooLarge: 1009
    case .pongTimeout, .closeTimeout, .connectionLost: 1006
    }
  }

  /// For messages and log lines.
  public var words: String {
    switch self {
    case .reservedBits: "reserved bits are set in a frame"
    case .unknownOpcode: "a frame is of an unknown kind"
    case .wrongMasking: "a frame is masked that must not be, or the reverse"
    case .badLength: "a frame's length is malformed"
    case .badControl: "a control frame is fragmented or too long"
    case .badSequence: "a fragment does not follow its message"
    case .tooManyFragments: "a message comes in too many fragments"
    case .messageTooLarge: "a message is too large"
    case .notUTF8: "a text message is not UTF-8"
    case .badCloseCode: "a close frame holds no valid code"
    case .pongTimeout: "the peer no longer answers"
    case .closeTimeout: "the peer did not confirm the close"
    case .connectionLost: "the connection was lost"
    case .outputTooLong: "the peer does not read what it is sent"
    }
  }
}

/// A frame's head.
public struct WebSocketFrameHead: Sendable, Equatable {
  public var isFinal: Bool
  public var opcode: WebSocketOpcode
  /// Masking key; nil = unmasked.
  public var key: UInt32?
  public var payloadCount: Int

  /// The longest head.
  public static var largest: Int { 14 }

  @inlinable
  public init(isFinal: Bool = true, opcode: WebSocketOpcode, key: UInt32?, payloadCount: Int) {
    self.isFinal = isFinal
    self.opcode = opcode
    self.key = key
    self.payloadCount = payloadCount
  }

  /// Bytes of this head on the wire.
  @inlinable public var byteCount: Int {
    2 + (payloadCount < 126 ? 0 : payloadCount < 65_536 ? 2 : 8) + (key == nil ? 0 : 4)
  }

  /// Reads the head at the front of `bytes`; nil when it is not whole yet.
  /// - Parameter role: who reads.
  @inlinable public static func read(
    _ bytes: RawSpan, role: WebSocketRole
  ) throws(WebSocketFailure) -> WebSocketFrameHead? {
    var reader = ByteReader(bytes)
    guard let first = reader.uint8() else { return nil }
    guard first & 0x70 == 0 else { throw .reservedBits }
    guard let opcode = WebSocketOpcode(rawValue: first & 15) else { throw .unknownOpcode }
    guard let second = reader.uint8() else { return nil }
    guard (second & 0x80 != 0) == (role == .server) else { throw .wrongMasking }
    var count = Int(second & 0x7f)
    if opcode.isControl {
      guard count <= 125, first & 0x80 != 0 else { throw .badControl }
    }
    if count == 126 {
      guard let length = reader.uint16() else { return nil }
      guard length >= 126 else { throw .badLength }
      count = Int(length)
    } else if count == 127 {
      guard let length = reader.uint64() else { return nil }
      guard length >= 65_536, length >> 63 == 0 else { throw .badLength }
      count = Int(length)
    }
    var key: UInt32?
    if role == .server {
      guard let value = reader.uint32() else { return nil }
      key = value
    }
    return WebSocketFrameHead(
      isFinal: first & 0x80 != 0, opcode: opcode, key: key, payloadCount: count)
  }

  /// Writes the head; `output` must have `byteCount` bytes free.
  @inlinable public func write(to output: inout OutputRawSpan) {
    output.writeUInt8((isFinal ? 0x80 : 0) | opcode.rawValue)
    let mask: UInt8 = key == nil ? 0 : 0x80
    if payloadCount < 126 {
      output.writeUInt8(mask | UInt8(payloadCount))
    } else if payloadCount < 65_536 {
      output.writeUInt8(mask | 126)
      output.writeUInt16(UInt16(payloadCount))
    } else {
      output.writeUInt8(mask | 127)
      output.writeUInt64(UInt64(payloadCount))
    }
    if let key { output.writeUInt32(key) }
  }

  /// Writes the head over bytes that are already there.
  func overwrite(_ queue: inout ByteQueue, at offset: Int) {
    var position = offset
    func put(_ byte: UInt8, _ queue: inout ByteQueue) {
      queue.overwrite(at: position, with: byte)
      position += 1
    }
    put((isFinal ? 0x80 : 0) | opcode.rawValue, &queue)
    let mask: UInt8 = key == nil ? 0 : 0x80
    if payloadCount < 126 {
      put(mask | UInt8(payloadCount), &queue)
    } else {
      let wide = payloadCount >= 65_536
      put(mask | (wide ? 127 : 126), &queue)
      for shift in stride(from: wide ? 56 : 8, through: 0, by: -8) {
        put(UInt8(truncatingIfNeeded: payloadCount >> shift), &queue)
      }
    }
    guard let key else { return }
    for shift: UInt32 in [24, 16, 8, 0] { put(UInt8(truncatingIfNeeded: key >> shift), &queue) }
  }
}
