/// The 7-byte framing of sealed packets on a TCP carrier or a relay leg: which
/// channel a packet belongs to, and opening, ending, refusing and keeping
/// channels alive. It is not authenticated: it may end a carrier, never a
/// session or a stream. Not to be mixed up with the frames inside a sealed
/// packet. docs/protocol/carrier.md.
///
///     0        4      5        7
///     +--------+------+--------+----------------+
///     | channel| flags| length | body           |   big endian
///     +--------+------+--------+----------------+
///     flags: exactly one of
///       0x01 SYN   open a channel; body: what the relay leg defines
///       0x02 FIN   end it; no body
///       0x04 DATA  body: one sealed packet, 1…65,535 bytes
///       0x08 PING  keep alive; body up to 64 bytes comes back in a PONG
///       0x10 PONG
///       0x20 RST   refuse or break it; body: code(2) | words (UTF-8, ≤ 256)

#if canImport(Bytes)
public import Bytes
#endif

/// The head of one carrier frame.
public struct CarrierFrame: Hashable, Sendable {
  public enum Kind: UInt8, Sendable {
    case open = 0x01
    case end = 0x02
    case data = 0x04
    case ping = 0x08
    case pong = 0x10
    case refuse = 0x20

    /// The most bytes a body of this kind may have.
    @inlinable public var maximumLength: Int {
      switch self {
      case .data: 65_535
      case .open: 1_024
      case .refuse: 258
      case .ping, .pong: 64
      case .end: 0
      }
    }
    @inlinable public var minimumLength: Int {
      switch self {
      case .data: 1
      case .refuse: 2
      case .open, .ping, .pong, .end: 0
      }
    }
  }

  public var channel: UInt32
  public var kind: Kind
  /// Bytes of body behind the head.
  public var length: Int

  public static let headBytes = 7

  @inlinable public init(channel: UInt32, kind: Kind, length: Int) {
    self.channel = channel
    self.kind = kind
    self.length = length
  }

  /// Reads the head at the front of `bytes`; nil if fewer than 7 are there.
  @inlinable public init?(headOf bytes: RawSpan) throws(CarrierFailure) {
    var reader = ByteReader(bytes)
    guard bytes.byteCount >= Self.headBytes, let channel = reader.uint32(),
      let flags = reader.uint8(), let length = reader.uint16()
    else { return nil }
    guard let kind = Kind(rawValue: flags) else { throw .badFlags }
    guard Int(length) >= kind.minimumLength, Int(length) <= kind.maximumLength else {
      throw .badLength
    }
    self.init(channel: channel, kind: kind, length: Int(length))
  }

  /// Writes the 7 bytes; the caller checked the room.
  @inlinable public func write(into output: inout OutputRawSpan) {
    precondition(length <= kind.maximumLength && length >= kind.minimumLength)
    output.writeUInt32(channel)
    output.writeUInt8(kind.rawValue)
    output.writeUInt16(UInt16(length))
  }

  /// A whole frame as an array (for control frames; not the packet path).
  /// - Parameter body: within the bounds of its kind.
  public static func bytes(channel: UInt32, kind: Kind, body: [UInt8] = []) -> [UInt8] {
    precondition(body.count <= kind.maximumLength && body.count >= kind.minimumLength)
    var result: [UInt8] = []
    result.appendUInt32(channel)
    result.append(kind.rawValue)
    result.appendUInt16(UInt16(body.count))
    return result + body
  }

  /// A refusal. Words beyond 256 bytes are cut at a character.
  public static func refusal(channel: UInt32, code: UInt16, words: String) -> [UInt8] {
    var body: [UInt8] = []
    body.appendUInt16(code)
    body += cutWords(words, limit: 256)
    return bytes(channel: channel, kind: .refuse, body: body)
  }

  /// The code and words of a refusal's body; broken UTF-8 is repaired.
  public static func refusal(_ body: RawSpan) -> (code: UInt16, words: String)? {
    var reader = ByteReader(body)
    guard let code = reader.uint16() else { return nil }
    return (code, String(decoding: [UInt8](reader.rest()), as: UTF8.self))
  }
}

/// Why a byte stream is not a sequence of carrier frames: close the connection.
public enum CarrierFailure: Error, Equatable, Sendable {
  case badFlags
  case badLength
}

/// Cuts a carrier's byte stream into frames. Bytes are put behind the last
/// ones and lent where they lie; nothing is copied except the incomplete frame
/// at the end of a full buffer. At most one frame more than the owner appended
/// at a time is held (64 KB).
public struct CarrierDecoder {
  @usableFromInline var buffer = ContiguousQueue()
  @usableFromInline var failure: CarrierFailure?

  public init() {}

  /// Bytes received and not yet yielded.
  @inlinable public var bufferedCount: Int { buffer.count }
  /// Memory held, in bytes.
  @inlinable public var capacity: Int { buffer.capacity }

  /// Lends room of at least `minimum` bytes, for a read(2).
  /// - Returns: bytes that `body` left initialised.
  @inlinable @discardableResult
  public mutating func append(minimum: Int, _ body: (inout OutputRawSpan) -> Void) -> Int {
    buffer.append(minimum: minimum, body)
  }

  /// Appends a copy.
  @inlinable public mutating func append(_ bytes: RawSpan) { buffer.append(bytes) }

  /// Yields the next whole frame: its head, and its body to be read or opened
  /// in place. Call until it answers false.
  /// - Throws: the stream is broken; every later call throws the same.
  @inlinable public mutating func next(
    _ body: (CarrierFrame, inout MutableRawSpan) -> Void
  ) throws(CarrierFailure) -> Bool {
    if let failure { throw failure }
    guard buffer.count >= CarrierFrame.headBytes else { return false }
    let head: Result<CarrierFrame?, CarrierFailure> = buffer.withBytes(0..<CarrierFrame.headBytes) { bytes in
      do throws(CarrierFailure) {
        return .success(try CarrierFrame(headOf: bytes))
      } catch {
        return .failure(error)
      }
    }
    switch head {
    case .failure(let reason):
      failure = reason
      throw reason
    case .success(let frame):
      guard let frame else { return false }
      let total = CarrierFrame.headBytes + frame.length
      guard buffer.count >= total else { return false }
      buffer.withMutableBytes(CarrierFrame.headBytes..<total) { body(frame, &$0) }
      buffer.removeFirst(total)
      return true
    }
  }

  /// Gives memory back if nothing is buffered (an idle connection).
  public mutating func releaseMemory() {
    if buffer.isEmpty { buffer.removeAll(keepingCapacity: false) }
  }
}

/// The UTF-8 of `words`, cut at a character boundary to `limit` bytes.
func cutWords(_ words: String, limit: Int) -> [UInt8] {
  let utf8 = Array(words.utf8)
  guard utf8.count > limit else { return utf8 }
  var end = limit
  while end > 0, utf8[end] & 0xc0 == 0x80 { end -= 1 }
  return Array(utf8[..<end])
}
