/// Finds and reads the head of a message. Strict where leniency lets two
/// parsers disagree about where a message ends (RFC 9112 §11.2): no line feed
/// alone, no folded lines, no space before the colon, one Content-Length, no
/// Content-Length beside Transfer-Encoding, only `chunked`.
///
/// ```
/// request-line = method SP request-target SP HTTP-version CRLF
/// status-line  = HTTP-version SP status-code SP [ reason ] CRLF
/// field-line   = field-name ":" OWS field-value OWS CRLF
/// head         = ( request-line / status-line ) *field-line CRLF
/// ```

/// Looks for the end of a head as bytes come in; every byte is seen once.
struct HTTPHeadScanner: Sendable {
  private var position = 0
  private var lineStart = 0
  private var lines = 0

  init() {}

  /// - Parameter bytes: everything since the start of the head.
  /// - Returns: bytes of the head with its empty line; nil when it is not whole yet.
  mutating func scan(
    _ bytes: ArraySlice<UInt8>, limits: HTTPLimits
  ) throws(HTTPFailure) -> Int? {
    let base = bytes.startIndex
    while base + position < bytes.endIndex {
      let byte = bytes[base + position]
      position += 1
      // A target of the full length, the longest method and the version.
      if lines == 0, position > limits.target + 48 { throw .targetTooLong }
      if position > limits.head { throw .headTooLong }
      if byte >= 0x20 || byte == 0x09 {
        if byte == 0x7f { throw .bareControl }
        if position >= 2, bytes[base + position - 2] == 0x0d { throw .bareControl }
        continue
      }
      if byte == 0x0d {
        if position >= 2, bytes[base + position - 2] == 0x0d { throw .bareControl }
        continue
      }
      guard byte == 0x0a, position >= 2, bytes[base + position - 2] == 0x0d else {
        throw .bareControl
      }
      if position - lineStart == 2 {
        let length = position
        self = HTTPHeadScanner()
        return length
      }
      lines += 1
      lineStart = position
      if lines > limits.fields + 1 { throw .tooManyFields }
    }
    return nil
  }
}

enum HTTPHead {
  /// - Parameter bytes: a whole head as the scanner found it.
  static func request(
    _ bytes: ArraySlice<UInt8>, limits: HTTPLimits
  ) throws(HTTPFailure) -> HTTPRequest {
    var rest = bytes
    let line = takeLine(&rest)
    let parts = line.split(separator: 0x20, omittingEmptySubsequences: false)
    guard parts.count == 3, HTTPSyntax.isToken(parts[0]), parts[0].count <= 24 else {
      throw .badRequestLine
    }
    let version = try version(parts[2])
    guard parts[1].count <= limits.target else { throw .targetTooLong }
    let method = HTTPMethod(rawValue: String(decoding: parts[0], as: UTF8.self))
    let target = try target(parts[1], method)
    var request = HTTPRequest(method, target, headers: try fields(rest))
    request.version = version
    request.bodyLength = try bodyLength(request.headers, version) ?? .none
    try checkHost(request)
    let expectations = request.headers.listed("Expect")
    guard expectations.isEmpty || expectations == ["100-continue"] else {
      throw .unsupportedExpectation
    }
    return request
  }

  /// - Parameter method: of the request this answers; it decides about the body.
  static func response(
    _ bytes: ArraySlice<UInt8>, to method: HTTPMethod
  ) throws(HTTPFailure) -> HTTPResponse {
    var rest = bytes
    let line = takeLine(&rest)
    let parts = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: false)
    guard parts.count >= 2, parts[0].starts(with: Array("HTTP/".utf8)) else { throw .badStatusLine }
    let version = try version(parts[0])
    guard parts[1].count == 3, parts[1].allSatisfy(HTTPSyntax.isDigit),
      let status = Int(String(decoding: parts[1], as: UTF8.self)), (100...599).contains(status)
    else { throw .badStatusLine }
    // The reason has no meaning and may be in any old encoding.
    let reason = parts.count == 3 ? String(decoding: parts[2], as: UTF8.self) : ""
    var response = HTTPResponse(status, reason: reason, headers: try fields(rest))
    response.version = version
    let stated = try bodyLength(response.headers, version)
    let bodiless = method == .head || status < 200 || status == 204 || status == 304
    let isTunnel = method == .connect && (200...299).contains(status)
    response.bodyLength = bodiless || isTunnel ? .none : stated ?? .untilClose
    return response
  }

  /// Field lines up to and including the empty line; also reads trailers.
  static func fields(_ bytes: ArraySlice<UInt8>) throws(HTTPFailure) -> HTTPHeaders {
    var headers = HTTPHeaders()
    var rest = bytes
    while true {
      let line = takeLine(&rest)
      if line.isEmpty { return headers }
      // A line that begins with white space continues the last one: refused,
      // as its name is not a token.
      guard let colon = line.firstIndex(of: UInt8(ascii: ":")),
        HTTPSyntax.isToken(line[..<colon])
      else { throw .badField }
      let value = HTTPSyntax.trimmed(line[(colon + 1)...])
      guard value.allSatisfy(HTTPSyntax.isFieldByte),
        let text = String(validating: value, as: UTF8.self)
      else { throw .badField }
      headers.add(String(decoding: line[..<colon], as: UTF8.self), text)
    }
  }

  /// Up to the next CRLF, which the scanner has seen.
  private static func takeLine(_ bytes: inout ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    guard let end = bytes.firstIndex(of: 0x0a) else {
      defer { bytes = bytes[bytes.endIndex...] }
      return bytes
    }
    defer { bytes = bytes[(end + 1)...] }
    return bytes[..<end].last == 0x0d ? bytes[..<(end - 1)] : bytes[..<end]
  }

  private static func version(_ bytes: ArraySlice<UInt8>) throws(HTTPFailure) -> HTTPVersion {
    let bytes = Array(bytes)
    guard bytes.count == 8, bytes.starts(with: Array("HTTP/".utf8)), bytes[6] == UInt8(ascii: "."),
      HTTPSyntax.isDigit(bytes[5]), HTTPSyntax.isDigit(bytes[7])
    else { throw .badVersion }
    guard bytes[5] == UInt8(ascii: "1") else { throw .unsupportedVersion }
    return bytes[7] == UInt8(ascii: "0") ? .http10 : .http11
  }

  /// RFC 9112 §3.2. CONNECT may also name a path: the command of the ZTM
  /// program opens its application streams so (spec: agent HTTP API).
  private static func target(
    _ bytes: ArraySlice<UInt8>, _ method: HTTPMethod
  ) throws(HTTPFailure) -> String {
    guard !bytes.isEmpty,
      bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "#") })
    else { throw .badTarget }
    let text = String(decoding: bytes, as: UTF8.self)
    if text.hasPrefix("/") { return text }
    if text == "*" {
      guard method == .options else { throw .badTarget }
      return text
    }
    if method == .connect {
      guard HTTPAuthority(text)?.port != nil else { throw .badTarget }
      return text
    }
    let lower = text.lowercased()
    for scheme in ["http://", "https://"] where lower.hasPrefix(scheme) {
      guard HTTPAuthority(text.dropFirst(scheme.count).prefix { $0 != "/" && $0 != "?" }) != nil
      else {
        break
      }
      return text
    }
    throw .badTarget
  }

  /// RFC 9112 §6.3. nil when the head names no length.
  private static func bodyLength(
    _ headers: HTTPHeaders, _ version: HTTPVersion
  ) throws(HTTPFailure) -> HTTPBodyLength? {
    let lengths = headers.values("Content-Length")
    let codings = headers.values("Transfer-Encoding")
    if !codings.isEmpty {
      guard lengths.isEmpty else { throw .twoLengths }
      guard version == .http11, codings.count == 1 else { throw .badTransferEncoding }
      if codings[0].equalsIgnoringASCIICase("chunked") { return .chunked }
      let list = headers.listed("Transfer-Encoding")
      guard list.count > 1, list.last == "chunked", list.dropLast().allSatisfy({ $0 != "chunked" })
      else {
        throw list.count == 1 && list != ["chunked"]
          ? .unsupportedTransferEncoding : .badTransferEncoding
      }
      throw .unsupportedTransferEncoding
    }
    guard !lengths.isEmpty else { return nil }
    let digits = lengths[0].utf8
    guard lengths.count == 1, (1...18).contains(digits.count),
      digits.allSatisfy(HTTPSyntax.isDigit),
      let length = Int(lengths[0])
    else { throw .badContentLength }
    return .fixed(length)
  }

  /// RFC 9112 §3.2: exactly one Host, and the target agrees with it.
  private static func checkHost(_ request: HTTPRequest) throws(HTTPFailure) {
    let hosts = request.headers.values("Host")
    guard hosts.count == 1 || (hosts.isEmpty && request.version == .http10) else { throw .badHost }
    guard let text = hosts.first else { return }
    guard let host = HTTPAuthority(text) else {
      // An authority-form target may come with an empty Host.
      guard text.isEmpty, request.method == .connect else { throw .badHost }
      return
    }
    if !request.target.hasPrefix("/"), request.target != "*", request.method != .connect,
      request.authority != host
    {
      throw .badHost
    }
  }
}

/// Heads on their way out. Names and values of our own making; what could
/// split a line is replaced by a space, so that a value taken from a user can
/// never become a second field.
enum HTTPHeadWriter {
  static func request(_ request: HTTPRequest) -> [UInt8] {
    var output = Array(request.method.rawValue.utf8)
    output.append(0x20)
    for byte in request.target.utf8 {
      output.append(byte > 0x20 && byte != 0x7f ? byte : UInt8(ascii: "_"))
    }
    output += Array(" HTTP/1.1\r\n".utf8)
    write(request.headers, to: &output)
    return output
  }

  static func response(_ response: HTTPResponse) -> [UInt8] {
    var output = Array("HTTP/1.1 \(response.status) ".utf8)
    appendSafe(response.reason, to: &output)
    output += [0x0d, 0x0a]
    write(response.headers, to: &output)
    return output
  }

  private static func write(_ headers: HTTPHeaders, to output: inout [UInt8]) {
    for field in headers.fields where HTTPSyntax.isToken(field.name.utf8) {
      output += Array(field.name.utf8)
      output += [UInt8(ascii: ":"), 0x20]
      appendSafe(field.value, to: &output)
      output += [0x0d, 0x0a]
    }
    output += [0x0d, 0x0a]
  }

  private static func appendSafe(_ text: String, to output: inout [UInt8]) {
    for byte in text.utf8 { output.append(HTTPSyntax.isFieldByte(byte) ? byte : 0x20) }
  }
}
