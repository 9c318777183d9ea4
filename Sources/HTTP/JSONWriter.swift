/// JSON value to text, compact or for reading. Members keep their order.
/// Output is ASCII-safe in the places where it matters: control characters,
/// quote and backslash are escaped; `<`, U+2028 and U+2029 too, so that a value
/// may stand inside an HTML script element of the console.

/// How the text is laid out.
public enum JSONLayout: Sendable {
  /// No white space at all.
  case compact
  /// Two spaces a level, one member a line; empty containers stay closed.
  case pretty
}

extension JSONValue {
  /// UTF-8 text.
  public func bytes(_ layout: JSONLayout = .compact) -> [UInt8] {
    var writer = JSONWriter(layout: layout)
    writer.write(self)
    if layout == .pretty { writer.output.append(0x0a) }
    return writer.output
  }

  public func text(_ layout: JSONLayout = .compact) -> String {
    String(decoding: bytes(layout), as: UTF8.self)
  }
}

extension JSONValue: CustomStringConvertible {
  public var description: String { text() }
}

struct JSONWriter {
  let layout: JSONLayout
  var output: [UInt8] = []
  private var level = 0

  init(layout: JSONLayout) { self.layout = layout }

  mutating func write(_ value: JSONValue) {
    switch value {
    case .null: output += Array("null".utf8)
    case .bool(let value): output += Array((value ? "true" : "false").utf8)
    case .number(let number): output += Array(number.text.utf8)
    case .string(let text): write(text)
    case .array(let elements):
      container("[", "]", elements) { writer, element in writer.write(element) }
    case .object(let object):
      container("{", "}", object.members) { writer, member in
        writer.write(member.name)
        writer.output.append(UInt8(ascii: ":"))
        if writer.layout == .pretty { writer.output.append(0x20) }
        writer.write(member.value)
      }
    }
  }

  private mutating func container<Element>(
    _ open: Unicode.Scalar, _ close: Unicode.Scalar, _ elements: [Element],
    _ body: (inout JSONWriter, Element) -> Void
  ) {
    output.append(UInt8(ascii: open))
    level += 1
    for (position, element) in elements.enumerated() {
      if position > 0 { output.append(UInt8(ascii: ",")) }
      newLine()
      body(&self, element)
    }
    level -= 1
    if !elements.isEmpty { newLine() }
    output.append(UInt8(ascii: close))
  }

  private mutating func newLine() {
    guard layout == .pretty else { return }
    output.append(0x0a)
    for _ in 0..<level { output += [0x20, 0x20] }
  }

  private mutating func write(_ text: String) {
    output.append(UInt8(ascii: "\""))
    var pending: UInt32 = 0  // the last two bytes, to see U+2028 and U+2029
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""): output += [UInt8(ascii: "\\"), byte]
      case UInt8(ascii: "\\"): output += [byte, byte]
      case 8: escape("b")
      case 9: escape("t")
      case 10: escape("n")
      case 12: escape("f")
      case 13: escape("r")
      case 0..<0x20, UInt8(ascii: "<"), 0x7f: escape(unit: UInt16(byte))
      case 0xa8 where pending == 0xe280, 0xa9 where pending == 0xe280:
        output.removeLast(2)
        escape(unit: byte == 0xa8 ? 0x2028 : 0x2029)
      default: output.append(byte)
      }
      pending = (pending << 8 | UInt32(byte)) & 0xffff
    }
    output.append(UInt8(ascii: "\""))
  }

  private mutating func escape(_ letter: Unicode.Scalar) {
    output += [UInt8(ascii: "\\"), UInt8(ascii: letter)]
  }

  private mutating func escape(unit: UInt16) {
    output += [UInt8(ascii: "\\"), UInt8(ascii: "u")]
    for shift in [12, 8, 4, 0] {
      output.append(HTTPSyntax.hexadecimalDigits[Int(unit >> UInt16(shift) & 15)])
    }
  }
}
