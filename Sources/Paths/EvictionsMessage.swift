/// The unnumbered packet that carries a mesh's eviction list from peer to peer,
/// cut into parts that fit the smallest path. Never acknowledged: who holds the
/// lower number asks again. What is in the list is not known here, its signature
/// is judged elsewhere. DESIGN §3; docs/protocol/paths.md "EVICTIONS".
///
/// ```
///  0  0x02                        10  bytes of the whole list, 0 = none here (2)
///  1  0x10                        12  offset of this part, a multiple of 480 (2)
///  2  number of the list (8)      14  the part: 480 bytes, or what is left
/// ```

#if canImport(Bytes)
  package import Bytes
#endif

package struct EvictionsMessage: Equatable, Sendable {
  package static let code: UInt8 = 0x10
  package static let headBytes = 14
  /// With its head and sealed it fits the 548 bytes of the smallest path.
  package static let partBytes = 480
  /// A list of the most entries is 15,509 bytes.
  package static let listLimit = 16_384

  /// The sender's list has this number; 0 = it has none.
  package let number: UInt64
  /// 0: says only which number the sender has.
  package let total: Int
  package let offset: Int
  package let part: [UInt8]

  /// "I have number `number`."
  package init(stating number: UInt64) {
    self.number = number
    total = 0
    offset = 0
    part = []
  }

  /// The part of `list` that begins at `offset`, a multiple of `partBytes`.
  package init(number: UInt64, list: [UInt8], offset: Int) {
    precondition(list.count <= Self.listLimit && offset % Self.partBytes == 0)
    self.number = number
    total = list.count
    self.offset = offset
    part = Array(list[offset..<min(list.count, offset + Self.partBytes)])
  }

  package static func isOne(_ packet: RawSpan) -> Bool {
    packet.byteCount >= 2
      && packet.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == PathMessage.type
      && packet.unsafeLoad(fromByteOffset: 1, as: UInt8.self) == code
  }

  /// Nil for anything that is not exactly one: a counted drop of the caller.
  package init?(decoding packet: RawSpan) {
    var reader = ByteReader(packet)
    guard reader.uint8() == PathMessage.type, reader.uint8() == Self.code,
      let number = reader.uint64(), let total = reader.uint16(), let offset = reader.uint16()
    else { return nil }
    self.number = number
    self.total = Int(total)
    self.offset = Int(offset)
    guard total > 0 else {
      guard offset == 0 else { return nil }
      part = []
      return
    }
    guard number > 0, self.total <= Self.listLimit, self.offset < self.total,
      self.offset % Self.partBytes == 0,
      let part = reader.bytes(min(Self.partBytes, self.total - self.offset))
    else { return nil }
    self.part = [UInt8](part)
  }

  package var byteCount: Int { Self.headBytes + part.count }

  package func write(into output: inout OutputRawSpan) {
    output.writeUInt8(PathMessage.type)
    output.writeUInt8(Self.code)
    output.writeUInt64(number)
    output.writeUInt16(UInt16(total))
    output.writeUInt16(UInt16(offset))
    output.write(part.span.bytes)
  }
}
