/// What JSON5 adds to JSON, for files that people write by hand (json5.org):
/// comments, trailing commas, bare names, single quotes, hexadecimal numbers.
/// Never used on the wire. Infinity and NaN are refused: nothing here wants them.

extension JSONParser {
  /// One comment or one space outside JSON's four; says whether there was one.
  mutating func skipRelaxedSpace() throws(JSONError) -> Bool {
    switch bytes[position] {
    case 0x0b, 0x0c:
      position += 1
      return true
    case 0xc2 where position + 1 < bytes.count && bytes[position + 1] == 0xa0:
      position += 2
      return true
    case 0xe2, 0xef:
      // U+2028, U+2029 and the byte order mark.
      guard position + 2 < bytes.count else { return false }
      let triple = (bytes[position], bytes[position + 1], bytes[position + 2])
      guard
        triple == (0xe2, 0x80, 0xa8) || triple == (0xe2, 0x80, 0xa9)
          || triple == (0xef, 0xbb, 0xbf)
      else { return false }
      position += 3
      return true
    case UInt8(ascii: "/"):
      return try skipComment()
    default:
      return false
    }
  }

  private mutating func skipComment() throws(JSONError) -> Bool {
    let start = position
    guard position + 1 < bytes.count else { return false }
    switch bytes[position + 1] {
    case UInt8(ascii: "/"):
      while position < bytes.count, bytes[position] != 0x0a, bytes[position] != 0x0d {
        position += 1
      }
      return true
    case UInt8(ascii: "*"):
      position += 2
      while position + 1 < bytes.count {
        if bytes[position] == UInt8(ascii: "*"), bytes[position + 1] == UInt8(ascii: "/") {
          position += 2
          return true
        }
        position += 1
      }
      throw error(.unexpectedEnd, at: start)
    default:
      return false
    }
  }

  static func isIdentifierByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "_"), UInt8(ascii: "$"), 0x80...:
      true
    default:
      false
    }
  }

  /// A bare member name: letters, digits, `_`, `$`, and what is not ASCII.
  mutating func identifier() throws(JSONError) -> String {
    let start = position
    while position < bytes.count,
      Self.isIdentifierByte(bytes[position]) || (0x30...0x39).contains(bytes[position])
    {
      position += 1
    }
    guard let text = String(validating: bytes[start..<position], as: UTF8.self) else {
      throw error(.notUTF8, at: start)
    }
    return text
  }

  /// `+1`, `.5`, `5.`, `0x1F`: kept in the spelling JSON would use.
  mutating func relaxedNumber() throws(JSONError) -> JSONNumber {
    let start = position
    var text: [UInt8] = []
    if at(UInt8(ascii: "-")) { text.append(UInt8(ascii: "-")) }
    if at(UInt8(ascii: "-")) || at(UInt8(ascii: "+")) { position += 1 }
    if at(UInt8(ascii: "0")), position + 1 < bytes.count,
      bytes[position + 1] | 0x20 == UInt8(ascii: "x")
    {
      position += 2
      let digits = take { HTTPSyntax.hexadecimalValue($0) != nil }
      guard let value = UInt64(String(decoding: digits, as: UTF8.self), radix: 16) else {
        throw error(.badNumber, at: start)
      }
      text += Array(String(value).utf8)
      return JSONNumber(grammatical: String(decoding: text, as: UTF8.self))
    }
    let whole = take { (0x30...0x39).contains($0) }
    guard whole.count <= 1 || whole.first != UInt8(ascii: "0") else {
      throw error(.badNumber, at: start)
    }
    text += whole.isEmpty ? [UInt8(ascii: "0")] : whole
    if at(UInt8(ascii: ".")) {
      position += 1
      let fraction = take { (0x30...0x39).contains($0) }
      guard !(whole.isEmpty && fraction.isEmpty) else { throw error(.badNumber, at: start) }
      if !fraction.isEmpty { text += [UInt8(ascii: ".")] + fraction }
    } else if whole.isEmpty {
      throw error(.badNumber, at: start)
    }
    if at(UInt8(ascii: "e")) || at(UInt8(ascii: "E")) {
      text.append(bytes[position])
      position += 1
      if at(UInt8(ascii: "+")) || at(UInt8(ascii: "-")) {
        text.append(bytes[position])
        position += 1
      }
      let exponent = take { (0x30...0x39).contains($0) }
      guard !exponent.isEmpty else { throw error(.badNumber, at: start) }
      text += exponent
    }
    return JSONNumber(grammatical: String(decoding: text, as: UTF8.self))
  }

  private mutating func take(while accepted: (UInt8) -> Bool) -> [UInt8] {
    let start = position
    while position < bytes.count, accepted(bytes[position]) { position += 1 }
    return Array(bytes[start..<position])
  }

  /// Escapes JSON does not have; `position` is past `byte`.
  mutating func relaxedEscape(
    _ byte: UInt8, _ start: Int, into buffer: inout [UInt8]
  ) throws(JSONError) {
    switch byte {
    case UInt8(ascii: "v"): buffer.append(0x0b)
    case UInt8(ascii: "0"):
      guard position == bytes.count || !(0x30...0x39).contains(bytes[position]) else {
        throw error(.badEscape, at: start)
      }
      buffer.append(0)
    case UInt8(ascii: "x"):
      let value = try hexadecimal(2, start)
      if value < 0x80 {
        buffer.append(UInt8(value))
      } else {
        buffer.append(0xc0 | UInt8(value >> 6))
        buffer.append(0x80 | UInt8(value & 0x3f))
      }
    case 0x0d:
      if at(0x0a) { position += 1 }  // a line continued
    case 0x0a:
      break
    case UInt8(ascii: "1")...UInt8(ascii: "9"):
      throw error(.badEscape, at: start)
    default:
      buffer.append(byte)
    }
  }
}
