/// A way to a server through an HTTP proxy: one CONNECT, and what follows its
/// 2xx answer belongs to whoever asked. RFC 9110 §9.3.6; Basic credentials,
/// RFC 7617. Pure; it never sees what is sent through.

#if canImport(Bytes)
  package import Bytes
#endif

/// Where a proxy is, and what it wants to hear of us.
package struct HTTPProxy: Sendable, Equatable {
  package let host: String
  package let port: UInt16
  /// Value of Proxy-Authorization; nil: no name was given.
  let authorization: String?

  static let scheme = "http://"
  /// Of a URL that names none (RFC 9110 §4.2.1).
  static let usualPort: UInt16 = 80

  /// `http://[USER[:PASSWORD]@]HOST[:PORT][/]`, user and password
  /// percent-encoded where they must be; nil when it is something else.
  package init?(_ text: String) {
    guard text.hasPrefix(Self.scheme) else { return nil }
    var rest = text.dropFirst(Self.scheme.count)
    if rest.hasSuffix("/") { rest = rest.dropLast() }
    var authorization: String?
    if let at = rest.lastIndex(of: "@") {
      guard let user = HTTPTarget.decode(rest[..<at].utf8, plusIsSpace: false) else { return nil }
      authorization = "Basic " + Base64.encode(Array((user.contains(":") ? user : user + ":").utf8))
      rest = rest[rest.index(after: at)...]
    }
    guard let authority = HTTPAuthority(rest) else { return nil }
    host = authority.host
    port = authority.port ?? Self.usualPort
    self.authorization = authorization
  }
}

package struct ProxyTunnel: Sendable {
  package enum Progress: Equatable, Sendable {
    case more
    /// The way is free. What came behind the answer is already of the server.
    case open(leftover: [UInt8])
    case failed(String)
  }

  /// Longest answer read, up to its empty line.
  static let longestAnswer = 16_384

  /// To be sent first.
  package let request: [UInt8]
  private var answer: [UInt8] = []

  package init(through proxy: HTTPProxy, to server: HTTPAuthority) {
    var head = "CONNECT \(server) HTTP/1.1\r\nHost: \(server)\r\n"
    if let authorization = proxy.authorization {
      head += "Proxy-Authorization: \(authorization)\r\n"
    }
    request = Array((head + "\r\n").utf8)
  }

  package mutating func receive(_ bytes: RawSpan) -> Progress {
    answer.append(bytes)
    let end: [UInt8] = [13, 10, 13, 10]
    var at = 0
    while at + end.count <= answer.count, Array(answer[at..<at + end.count]) != end { at += 1 }
    guard at + end.count <= answer.count else {
      return answer.count > Self.longestAnswer ? .failed("the proxy's answer is too long") : .more
    }
    let line = answer[..<(answer.firstIndex(of: 13) ?? 0)]
    let leftover = Array(answer[(at + end.count)...])
    answer = []
    let words = line.split(separator: 32, maxSplits: 2, omittingEmptySubsequences: false)
    guard words.count >= 2, words[0].starts(with: Array("HTTP/1.".utf8)), words[1].count == 3,
      let status = Int(String(decoding: words[1], as: UTF8.self))
    else { return .failed("the proxy's answer is not HTTP") }
    switch status {
    case 200...299: return .open(leftover: leftover)
    case 407: return .failed("the proxy wants a name and a password (407)")
    default: return .failed("the proxy refused the way to the server (\(status))")
    }
  }
}
