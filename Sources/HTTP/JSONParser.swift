/// Text to JSON value. Strict (RFC 8259): no comments, no trailing commas, no
/// control characters in strings, no unpaired surrogates, valid UTF-8 only, and
/// a name twice in an object is an error (receivers disagree about which counts).
/// One leading byte order mark is skipped (§8.1): editors put it into config
/// files. `relaxed` reads JSON5 for files people write by hand.

#if canImport(Bytes)
  import Bytes
#endif

/// Limits of what is read from a stranger.
public struct JSONLimits: Sendable {
  /// Bytes of the whole text.
  public var byteCount = 1 << 20
  /// Arrays and objects inside each other.
  public var depth = 64
  /// Values in the whole text (a value costs far more memory than a comma).
  public var valueCount = 200_000

  public init() {}
  /// - Parameters: bytes of the whole text; nesting.
  public init(byteCount: Int, depth: Int = 64) {
    self.byteCount = byteCount
    self.depth = depth
  }
}

/// Why a text is not JSON, and where.
public struct JSONError: Error, Sendable, Equatable {
  public enum Reason: Sendable, Equatable {
    case tooLong
    case tooDeep
    case tooManyValues
    case unexpectedEnd
    case unexpectedByte(UInt8)
    case textAfterValue
    case badNumber
    case badEscape
    case unpairedSurrogate
    case controlCharacter
    case notUTF8
    case duplicateName(String)
  }

  public let reason: Reason
  /// Bytes from the start of the text.
  public let offset: Int
  /// From 1; the column counts bytes.
  public let line: Int
  public let column: Int
}

extension JSONError: CustomStringConvertible {
  public var description: String { "line \(line), column \(column): \(reason.words)" }
}

extension JSONError.Reason {
  public var words: String {
    switch self {
    case .tooLong: "the text is too long"
    case .tooDeep: "arrays and objects are nested too deeply"
    case .tooManyValues: "too many values"
    case .unexpectedEnd: "the text ends in the middle of a value"
    case .unexpectedByte(let byte):
      (0x21...0x7e).contains(byte)
        ? "unexpected “\(Character(UnicodeScalar(byte)))”"
        : "unexpected byte 0x\(String(byte, radix: 16))"
    case .textAfterValue: "something follows the value"
    case .badNumber: "not a number as JSON writes them"
    case .badEscape: "unknown escape after a backslash"
    case .unpairedSurrogate: "half of a surrogate pair"
    case .controlCharacter: "a control character inside a string must be escaped"
    case .notUTF8: "not UTF-8"
    case .duplicateName(let name): "“\(name)” is given twice in one object"
    }
  }
}

extension JSONValue {
  /// What counts as JSON.
  public enum Dialect: Sendable {
    /// RFC 8259.
    case strict
    /// JSON5 (json5.org), without Infinity and NaN.
    case relaxed
  }

  /// Reads one value; only white space may surround it.
  public static func parse(
    _ bytes: [UInt8], dialect: Dialect = .strict, limits: JSONLimits = JSONLimits()
  ) throws(JSONError) -> JSONValue {
    var parser = JSONParser(bytes: bytes, dialect: dialect, limits: limits)
    return try parser.document()
  }

  public static func parse(
    _ span: RawSpan, dialect: Dialect = .strict, limits: JSONLimits = JSONLimits()
  ) throws(JSONError) -> JSONValue {
    // A text over the limit is refused before it is copied.
    guard span.byteCount <= limits.byteCount else {
      throw JSONError(reason: .tooLong, offset: limits.byteCount, line: 1, column: 1)
    }
    return try parse([UInt8](span), dialect: dialect, limits: limits)
  }

  public static func parse(
    _ text: String, dialect: Dialect = .strict, limits: JSONLimits = JSONLimits()
  ) throws(JSONError) -> JSONValue {
    try parse(Array(text.utf8), dialect: dialect, limits: limits)
  }
}

struct JSONParser {
  let bytes: [UInt8]
  let dialect: JSONValue.Dialect
  let limits: JSONLimits
  var position = 0
  private var depth = 0
  private var values = 0

  init(bytes: [UInt8], dialect: JSONValue.Dialect, limits: JSONLimits) {
    self.bytes = bytes
    self.dialect = dialect
    self.limits = limits
  }

  mutating func document() throws(JSONError) -> JSONValue {
    guard bytes.count <= limits.byteCount else { throw error(.tooLong, at: limits.byteCount) }
    if bytes.starts(with: [0xef, 0xbb, 0xbf]) { position = 3 }
    try skipSpace()
    let value = try value()
    try skipSpace()
    guard position == bytes.count else { throw error(.textAfterValue) }
    return value
  }

  private mutating func value() throws(JSONError) -> JSONValue {
    values += 1
    guard values <= limits.valueCount else { throw error(.tooManyValues) }
    switch try peek() {
    case UInt8(ascii: "{"): return try .object(object())
    case UInt8(ascii: "["): return try .array(array())
    case UInt8(ascii: "\""): return try .string(string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
      return try .number(dialect == .strict ? number() : relaxedNumber())
    case UInt8(ascii: "'") where dialect == .relaxed: return try .string(string())
    case UInt8(ascii: "+") where dialect == .relaxed,
      UInt8(ascii: ".") where dialect == .relaxed:
      return try .number(relaxedNumber())
    case let byte: throw error(.unexpectedByte(byte))
    }
  }

  private mutating func object() throws(JSONError) -> JSONObject {
    try enter()
    var object = JSONObject()
    if try closes(with: "}", first: true) { return object }
    while true {
      let start = position
      let name: String
      switch try peek() {
      case UInt8(ascii: "\""): name = try string()
      case UInt8(ascii: "'") where dialect == .relaxed: name = try string()
      case let byte where dialect == .relaxed && Self.isIdentifierByte(byte):
        name = try identifier()
      case let byte: throw error(.unexpectedByte(byte))
      }
      guard object.position(of: name) == nil else { throw error(.duplicateName(name), at: start) }
      try skipSpace()
      try expect(":")
      try skipSpace()
      object[name] = try value()
      if try closes(with: "}", first: false) { return object }
    }
  }

  private mutating func array() throws(JSONError) -> [JSONValue] {
    try enter()
    var array: [JSONValue] = []
    if try closes(with: "]", first: true) { return array }
    while true {
      array.append(try value())
      if try closes(with: "]", first: false) { return array }
    }
  }

  private mutating func enter() throws(JSONError) {
    depth += 1
    guard depth <= limits.depth else { throw error(.tooDeep) }
    position += 1
  }

  /// After an opening bracket or an element: the end, or the start of the next.
  private mutating func closes(with bracket: Unicode.Scalar, first: Bool) throws(JSONError) -> Bool
  {
    try skipSpace()
    if !first {
      if try peek() == UInt8(ascii: ",") {
        position += 1
        try skipSpace()
        guard dialect == .relaxed, try peek() == UInt8(ascii: bracket) else { return false }
      } else if try peek() != UInt8(ascii: bracket) {
        throw error(.unexpectedByte(bytes[position]))
      }
    }
    guard try peek() == UInt8(ascii: bracket) else { return false }
    position += 1
    depth -= 1
    return true
  }

  private mutating func word(_ word: StaticString, _ value: JSONValue) throws(JSONError)
    -> JSONValue
  {
    for expected in word.description.utf8 {
      guard try peek() == expected else { throw error(.unexpectedByte(bytes[position])) }
      position += 1
    }
    return value
  }

  private mutating func number() throws(JSONError) -> JSONNumber {
    let start = position
    if bytes[position] == UInt8(ascii: "-") { position += 1 }
    let integerStart = position
    try digits()
    if bytes[integerStart] == UInt8(ascii: "0"), position > integerStart + 1 {
      throw error(.badNumber, at: start)
    }
    if at(UInt8(ascii: ".")) {
      position += 1
      try digits()
    }
    if at(UInt8(ascii: "e")) || at(UInt8(ascii: "E")) {
      position += 1
      if at(UInt8(ascii: "+")) || at(UInt8(ascii: "-")) { position += 1 }
      try digits()
    }
    return JSONNumber(grammatical: String(decoding: bytes[start..<position], as: UTF8.self))
  }

  private mutating func digits() throws(JSONError) {
    let start = position
    while position < bytes.count, (0x30...0x39).contains(bytes[position]) { position += 1 }
    guard position > start else {
      throw error(position == bytes.count ? .unexpectedEnd : .badNumber)
    }
  }

  private mutating func string() throws(JSONError) -> String {
    let quote = bytes[position]
    position += 1
    let start = position
    // Most strings have no escape: they are taken whole.
    while position < bytes.count {
      let byte = bytes[position]
      if byte == quote {
        guard let text = String(validating: bytes[start..<position], as: UTF8.self) else {
          throw error(.notUTF8, at: start)
        }
        position += 1
        return text
      }
      if byte == UInt8(ascii: "\\") { break }
      if byte < 0x20 { throw error(.controlCharacter) }
      position += 1
    }
    var buffer = Array(bytes[start..<position])
    while true {
      let byte = try peek()
      if byte == quote { break }
      if byte < 0x20 { throw error(.controlCharacter) }
      if byte == UInt8(ascii: "\\") {
        try escape(into: &buffer)
      } else {
        buffer.append(byte)
        position += 1
      }
    }
    position += 1
    guard let text = String(validating: buffer, as: UTF8.self) else {
      throw error(.notUTF8, at: start)
    }
    return text
  }

  private mutating func escape(into buffer: inout [UInt8]) throws(JSONError) {
    let start = position
    position += 1
    let byte = try peek()
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): buffer.append(byte)
    case UInt8(ascii: "b"): buffer.append(8)
    case UInt8(ascii: "t"): buffer.append(9)
    case UInt8(ascii: "n"): buffer.append(10)
    case UInt8(ascii: "f"): buffer.append(12)
    case UInt8(ascii: "r"): buffer.append(13)
    case UInt8(ascii: "u"):
      var value = UInt32(try hexadecimal(4, start))
      if (0xd800..<0xdc00).contains(value) {
        guard at(UInt8(ascii: "\\")), position + 1 < bytes.count,
          bytes[position + 1] == UInt8(ascii: "u")
        else { throw error(.unpairedSurrogate, at: start) }
        position += 2
        let low = UInt32(try hexadecimal(4, start))
        guard (0xdc00..<0xe000).contains(low) else { throw error(.unpairedSurrogate, at: start) }
        value = 0x10000 + (value - 0xd800) << 10 + (low - 0xdc00)
      }
      guard let scalar = Unicode.Scalar(value) else { throw error(.unpairedSurrogate, at: start) }
      buffer.append(contentsOf: UTF8.encode(scalar)!)
    default:
      guard dialect == .relaxed else { throw error(.badEscape, at: start) }
      try relaxedEscape(byte, start, into: &buffer)
    }
  }

  mutating func hexadecimal(_ count: Int, _ start: Int) throws(JSONError) -> UInt16 {
    var value: UInt16 = 0
    for _ in 0..<count {
      guard let digit = HTTPSyntax.hexadecimalValue(try peek()) else {
        throw error(.badEscape, at: start)
      }
      value = value << 4 | UInt16(digit)
      position += 1
    }
    return value
  }

  mutating func skipSpace() throws(JSONError) {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x09, 0x0a, 0x0d: position += 1
      default:
        guard dialect == .relaxed, try skipRelaxedSpace() else { return }
      }
    }
  }

  func peek() throws(JSONError) -> UInt8 {
    guard position < bytes.count else { throw error(.unexpectedEnd) }
    return bytes[position]
  }

  func at(_ byte: UInt8) -> Bool { position < bytes.count && bytes[position] == byte }

  private mutating func expect(_ scalar: Unicode.Scalar) throws(JSONError) {
    let byte = try peek()
    guard byte == UInt8(ascii: scalar) else { throw error(.unexpectedByte(byte)) }
    position += 1
  }

  func error(_ reason: JSONError.Reason, at offset: Int? = nil) -> JSONError {
    let offset = min(offset ?? position, bytes.count)
    var line = 1
    var lineStart = 0
    for i in 0..<offset where bytes[i] == 0x0a {
      line += 1
      lineStart = i + 1
    }
    return JSONError(reason: reason, offset: offset, line: line, column: offset - lineStart + 1)
  }
}
