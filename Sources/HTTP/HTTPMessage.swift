/// Requests and responses as values, the same for both sides of a connection.
/// Nothing here parses or writes bytes. RFC 9110.

/// A request method; compared case-sensitively (RFC 9110 §9.1).
package struct HTTPMethod: RawRepresentable, Hashable, Sendable, ExpressibleByStringLiteral {
  package let rawValue: String
  package init(rawValue: String) { self.rawValue = rawValue }
  package init(stringLiteral value: String) { rawValue = value }

  package static let get: HTTPMethod = "GET"
  package static let head: HTTPMethod = "HEAD"
  package static let post: HTTPMethod = "POST"
  package static let put: HTTPMethod = "PUT"
  package static let patch: HTTPMethod = "PATCH"
  package static let delete: HTTPMethod = "DELETE"
  package static let options: HTTPMethod = "OPTIONS"
  package static let connect: HTTPMethod = "CONNECT"
}

/// Field lines in the order they came; names compare without regard to case.
package struct HTTPHeaders: Sendable, Equatable {
  package struct Field: Sendable, Equatable {
    package var name: String
    package var value: String
  }

  package private(set) var fields: [Field] = []

  package init() {}
  package init(_ fields: KeyValuePairs<String, String>) {
    for (name, value) in fields { add(name, value) }
  }

  package var count: Int { fields.count }

  /// The first field of that name. Setting replaces all of them; nil removes.
  package subscript(name: String) -> String? {
    get { fields.first { $0.name.equalsIgnoringASCIICase(name) }?.value }
    set {
      guard let newValue else {
        fields.removeAll { $0.name.equalsIgnoringASCIICase(name) }
        return
      }
      guard let first = fields.firstIndex(where: { $0.name.equalsIgnoringASCIICase(name) }) else {
        return add(name, newValue)
      }
      fields[first].value = newValue
      var position = 0
      fields.removeAll {
        defer { position += 1 }
        return position > first && $0.name.equalsIgnoringASCIICase(name)
      }
    }
  }

  /// Every field of that name.
  package func values(_ name: String) -> [String] {
    fields.filter { $0.name.equalsIgnoringASCIICase(name) }.map(\.value)
  }

  package mutating func add(_ name: String, _ value: String) {
    fields.append(Field(name: name, value: value))
  }

  /// Removes every field whose name `condition` holds for (proxies strip so).
  package mutating func removeAll(where condition: (String) -> Bool) {
    fields.removeAll { condition($0.name) }
  }

  /// The elements of a comma-separated list over all fields of that name, in
  /// lower case, without parameters' quoting (RFC 9110 §5.6.1): for Connection,
  /// Upgrade and the like, never for fields with quoted strings.
  package func listed(_ name: String) -> [String] {
    values(name).flatMap { $0.split(separator: ",") }
      .map { String(decoding: HTTPSyntax.trimmed(Array($0.utf8)[...]), as: UTF8.self).lowercased() }
      .filter { !$0.isEmpty }
  }

  package func lists(_ token: String, in name: String) -> Bool {
    listed(name).contains(token.lowercased())
  }
}

/// HTTP/1.0 or HTTP/1.1; a higher minor number is treated as 1.1 (RFC 9110 §2.5).
package enum HTTPVersion: Sendable, Hashable {
  case http10
  case http11
}

/// How the end of a body is found.
package enum HTTPBodyLength: Sendable, Hashable {
  case none
  /// Content-Length.
  case fixed(Int)
  /// Transfer-Encoding: chunked.
  case chunked
  /// The end of the connection; responses only.
  case untilClose
}

/// A request.
package struct HTTPRequest: Sendable, Equatable {
  package var method: HTTPMethod
  /// As sent: a path with query, an absolute URL, `host:port` or `*`.
  package var target: String
  package var version: HTTPVersion
  package var headers: HTTPHeaders
  /// How long the body on the wire is; `.none` when there is none.
  package var bodyLength: HTTPBodyLength
  /// The body, where the connection collects it.
  package var body: [UInt8]

  package init(
    _ method: HTTPMethod, _ target: String, headers: HTTPHeaders = HTTPHeaders(), body: [UInt8] = []
  ) {
    self.method = method
    self.target = target
    self.version = .http11
    self.headers = headers
    self.bodyLength = body.isEmpty ? .none : .fixed(body.count)
    self.body = body
  }

  /// The target's path, still encoded; `*` and CONNECT's `host:port` as they are.
  package var rawPath: String { String(originForm.prefix { $0 != "?" }) }
  /// What follows the first `?`, still encoded; nil without one.
  package var rawQuery: String? {
    originForm.firstIndex(of: "?").map { String(originForm[originForm.index(after: $0)...]) }
  }

  /// The target without scheme and authority.
  private var originForm: Substring {
    guard !target.hasPrefix("/"), let scheme = target.range(of: "://") else { return target[...] }
    let rest = target[scheme...].dropFirst(3)
    guard let slash = rest.firstIndex(where: { $0 == "/" || $0 == "?" }) else { return "/" }
    return rest[slash...]
  }

  /// Asks for a protocol change to WebSocket (RFC 6455 §4.1).
  package var isWebSocketUpgrade: Bool {
    headers.lists("upgrade", in: "Connection") && headers.lists("websocket", in: "Upgrade")
  }
  /// The client waits for `100 Continue` before it sends the body.
  package var expectsContinue: Bool {
    version == .http11 && bodyLength != .none && headers.lists("100-continue", in: "Expect")
  }
}

/// A response.
package struct HTTPResponse: Sendable, Equatable {
  /// 100…599.
  package var status: Int
  package var reason: String
  package var version: HTTPVersion = .http11
  package var headers: HTTPHeaders
  package var bodyLength: HTTPBodyLength = .none
  package var body: [UInt8]

  /// - Parameter reason: nil takes the registered phrase.
  package init(
    _ status: Int, reason: String? = nil, headers: HTTPHeaders = HTTPHeaders(), body: [UInt8] = []
  ) {
    precondition((100...599).contains(status))
    self.status = status
    self.reason = reason ?? HTTPResponse.phrase(status)
    self.headers = headers
    self.body = body
  }

  /// `application/json` of exactly these bytes.
  package static func json(_ value: JSONValue, status: Int = 200) -> HTTPResponse {
    HTTPResponse(
      status, headers: HTTPHeaders(["Content-Type": "application/json"]), body: value.bytes())
  }

  /// Plain text in UTF-8.
  package static func text(_ text: String, status: Int = 200) -> HTTPResponse {
    HTTPResponse(
      status, headers: HTTPHeaders(["Content-Type": "text/plain; charset=utf-8"]),
      body: Array(text.utf8))
  }

  /// A problem document (RFC 9457): what happened and what to do next.
  package static func problem(
    _ status: Int, _ title: String, detail: String? = nil, type: String = "about:blank"
  ) -> HTTPResponse {
    var document: JSONValue = [
      "type": .string(type), "title": .string(title), "status": JSONValue(status),
    ]
    if let detail { document["detail"] = .string(detail) }
    return HTTPResponse(
      status, headers: HTTPHeaders(["Content-Type": "application/problem+json"]),
      body: document.bytes())
  }

  /// RFC 9110 §15 and the few registered elsewhere that we send.
  package static func phrase(_ status: Int) -> String {
    switch status {
    case 100: "Continue"
    case 101: "Switching Protocols"
    case 200: "OK"
    case 201: "Created"
    case 202: "Accepted"
    case 204: "No Content"
    case 206: "Partial Content"
    case 301: "Moved Permanently"
    case 302: "Found"
    case 303: "See Other"
    case 304: "Not Modified"
    case 307: "Temporary Redirect"
    case 308: "Permanent Redirect"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 406: "Not Acceptable"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 410: "Gone"
    case 411: "Length Required"
    case 412: "Precondition Failed"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 415: "Unsupported Media Type"
    case 417: "Expectation Failed"
    case 421: "Misdirected Request"
    case 422: "Unprocessable Content"
    case 426: "Upgrade Required"
    case 428: "Precondition Required"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 500: "Internal Server Error"
    case 501: "Not Implemented"
    case 502: "Bad Gateway"
    case 503: "Service Unavailable"
    case 504: "Gateway Timeout"
    case 505: "HTTP Version Not Supported"
    case 507: "Insufficient Storage"
    default: "Status"
    }
  }
}

extension StringProtocol {
  /// Where `text` begins, searched by bytes; nil when it does not occur.
  fileprivate func range(of text: String) -> Index? {
    let needle = Array(text.utf8)
    var position = startIndex
    while position < endIndex {
      if self[position...].utf8.starts(with: needle) { return position }
      position = index(after: position)
    }
    return nil
  }
}
