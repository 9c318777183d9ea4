/// Paths and queries: percent-decoding, splitting into segments *before*
/// decoding (so that a name with a slash stays one segment), and the reverse
/// for clients. RFC 3986 §3.3, §3.4.

/// A request target taken apart.
package struct HTTPTarget: Sendable, Equatable {
  /// Decoded segments: `/api/meshes/a%2Fb` is ["api", "meshes", "a/b"]. A
  /// trailing slash is forgotten, an empty segment elsewhere is kept.
  package let segments: [String]
  /// Decoded pairs in order; a name without `=` has the empty value.
  package let query: [(name: String, value: String)]

  /// nil for a broken escape, bytes that are not UTF-8, NUL, or a `.` or `..`
  /// segment, plain or encoded.
  package init?(path: some StringProtocol, query: (some StringProtocol)? = Optional<String>.none) {
    guard path.utf8.first == UInt8(ascii: "/") else { return nil }
    var parts = path.utf8.dropFirst().split(
      separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    if parts.last?.isEmpty == true { parts.removeLast() }
    var segments: [String] = []
    for part in parts {
      guard let text = HTTPTarget.decode(part, plusIsSpace: false), text != ".", text != "..",
        !text.utf8.contains(0)
      else { return nil }
      segments.append(text)
    }
    self.segments = segments
    guard let query else {
      self.query = []
      return
    }
    guard let pairs = HTTPTarget.parseQuery(query) else { return nil }
    self.query = pairs
  }

  package init?(_ request: HTTPRequest) {
    self.init(path: request.rawPath, query: request.rawQuery)
  }

  /// The first value of that name.
  package subscript(name: String) -> String? { query.first { $0.name == name }?.value }

  package static func == (a: HTTPTarget, b: HTTPTarget) -> Bool {
    a.segments == b.segments && a.query.elementsEqual(b.query) { $0 == $1 }
  }

  /// `a=1&b=x+y` (application/x-www-form-urlencoded); nil for a broken escape.
  package static func parseQuery(_ text: some StringProtocol) -> [(name: String, value: String)]? {
    var pairs: [(name: String, value: String)] = []
    for part in text.utf8.split(separator: UInt8(ascii: "&")) {
      let equals = part.firstIndex(of: UInt8(ascii: "="))
      guard let name = decode(part[..<(equals ?? part.endIndex)], plusIsSpace: true),
        let value = decode(
          equals.map { part[part.index(after: $0)...] } ?? part[part.endIndex...], plusIsSpace: true
        )
      else { return nil }
      pairs.append((name, value))
    }
    return pairs
  }

  /// Percent-decodes to UTF-8 text; nil when that is impossible.
  package static func decode(_ bytes: some Sequence<UInt8>, plusIsSpace: Bool) -> String? {
    var result: [UInt8] = []
    var iterator = bytes.makeIterator()
    while let byte = iterator.next() {
      switch byte {
      case UInt8(ascii: "%"):
        guard let high = iterator.next().flatMap(HTTPSyntax.hexadecimalValue),
          let low = iterator.next().flatMap(HTTPSyntax.hexadecimalValue)
        else { return nil }
        result.append(high << 4 | low)
      case UInt8(ascii: "+") where plusIsSpace: result.append(0x20)
      default: result.append(byte)
      }
    }
    return String(validating: result, as: UTF8.self)
  }

  /// Escapes everything but the unreserved characters: right in a segment, a
  /// query name and a query value.
  package static func encode(_ text: some StringProtocol) -> String {
    var result: [UInt8] = []
    for byte in text.utf8 {
      if HTTPSyntax.isUnreserved(byte) {
        result.append(byte)
      } else {
        result.append(UInt8(ascii: "%"))
        for digit in [byte >> 4, byte & 15] {
          let letter = HTTPSyntax.hexadecimalDigits[Int(digit)]
          result.append(letter >= 0x61 ? letter - 0x20 : letter)
        }
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// `/a/b%2Fc?x=1` from decoded parts.
  package static func build(
    _ segments: [String], query: KeyValuePairs<String, String> = [:]
  ) -> String {
    var text = segments.map { "/" + encode($0) }.joined()
    // A trailing slash is forgotten when read, so an empty last segment needs one more.
    if segments.last?.isEmpty ?? true { text += "/" }
    for (position, pair) in query.enumerated() {
      text += (position == 0 ? "?" : "&") + encode(pair.key) + "=" + encode(pair.value)
    }
    return text
  }
}
