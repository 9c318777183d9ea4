/// Host and Origin: who is being talked to, and which page talks. A service on
/// loopback is reachable by every page of the user's browser; checking both
/// fields is what keeps a foreign page (or a rebound DNS name) out.
/// RFC 9110 §7.2, RFC 6454 §6.1, RFC 3986 §3.2.

#if canImport(Bytes)
  package import Bytes
#endif

/// `host[:port]` of a Host field, a CONNECT target or a URL.
package struct HTTPAuthority: Sendable, Hashable {
  /// Lower case; IPv6 without brackets.
  package let host: String
  package let port: UInt16?

  package init(host: String, port: UInt16?) {
    self.host = host.lowercased()
    self.port = port
  }

  /// nil unless it is a name, an IPv4 or a bracketed IPv6 address, with an
  /// optional decimal port. No user information.
  package init?(_ text: some StringProtocol) {
    var host = Array(text.utf8)[...]
    var port: UInt16?
    if let colon = host.lastIndex(of: UInt8(ascii: ":")),
      host.last != UInt8(ascii: "]")
    {
      let digits = host[host.index(after: colon)...]
      if !digits.isEmpty {
        guard digits.allSatisfy(HTTPSyntax.isDigit), digits.count <= 5,
          let value = UInt16(String(decoding: digits, as: UTF8.self))
        else { return nil }
        port = value
      }
      host = host[..<colon]
    }
    if host.first == UInt8(ascii: "[") {
      guard host.last == UInt8(ascii: "]"), host.count > 2 else { return nil }
      let inner = String(decoding: host.dropFirst().dropLast(), as: UTF8.self)
      guard inner.utf8.contains(UInt8(ascii: ":")), IPAddress(inner) != nil else { return nil }
      self.init(host: inner, port: port)
      return
    }
    guard !host.isEmpty, host.count <= 253,
      host.allSatisfy({ HTTPSyntax.isUnreserved($0) })
    else { return nil }
    self.init(host: String(decoding: host, as: UTF8.self), port: port)
  }

  /// The address when the host is one.
  package var address: IPAddress? { IPAddress(host) }

  /// `localhost`, 127.0.0.0/8 or ::1.
  package var isLoopback: Bool {
    host == "localhost" || host.hasSuffix(".localhost") || address?.isLoopback == true
  }
}

extension HTTPAuthority: CustomStringConvertible {
  package var description: String {
    let name = host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host
    return port.map { "\(name):\($0)" } ?? name
  }
}

/// The Origin field.
package enum HTTPOrigin: Sendable, Hashable {
  /// `null`: a sandboxed page, a file, a redirect. Trust it with nothing.
  case opaque
  case page(scheme: String, authority: HTTPAuthority)

  package init?(_ text: some StringProtocol) {
    if text == "null" {
      self = .opaque
      return
    }
    for scheme in ["https", "http"] where text.hasPrefix(scheme + "://") {
      guard let authority = HTTPAuthority(text.dropFirst(scheme.count + 3)) else { return nil }
      self = .page(scheme: scheme, authority: authority)
      return
    }
    // Browser extensions and apps: a scheme and an opaque host.
    let parts = text.split(separator: ":", maxSplits: 1)
    guard parts.count == 2, parts[1].hasPrefix("//"),
      parts[0].utf8.allSatisfy(HTTPSyntax.isTokenByte)
    else { return nil }
    self = .opaque
  }
}

extension HTTPRequest {
  /// Whom the request is for: the target's authority, else the Host field.
  package var authority: HTTPAuthority? {
    for scheme in ["http://", "https://"] where target.lowercased().hasPrefix(scheme) {
      return HTTPAuthority(
        target.dropFirst(scheme.count).prefix { $0 != "/" && $0 != "?" })
    }
    if method == .connect, let authority = HTTPAuthority(target) { return authority }
    return headers["Host"].flatMap { HTTPAuthority($0) }
  }

  /// May a service that trusts its callers answer? No page at all (no Origin),
  /// or a page that this very service gave out.
  /// - Parameter isSecure: the request came through TLS.
  package func isSameOrigin(isSecure: Bool) -> Bool {
    if headers["Sec-Fetch-Site"].map({ $0 == "cross-site" || $0 == "same-site" }) == true {
      return false
    }
    let origins = headers.values("Origin")
    guard !origins.isEmpty else { return true }
    guard origins.count == 1, case .page(let scheme, let page)? = HTTPOrigin(origins[0]),
      let authority
    else { return false }
    let normal: UInt16 = scheme == "https" ? 443 : 80
    let ours: UInt16 = isSecure ? 443 : 80
    return scheme == (isSecure ? "https" : "http") && page.host == authority.host
      && (page.port ?? normal) == (authority.port ?? ours)
  }
}

/// `type/subtype; name=value` (RFC 9110 §8.3.1).
package struct HTTPMediaType: Sendable, Hashable {
  /// Lower case.
  package let type: String
  package let subtype: String
  /// Names in lower case, values unquoted.
  package let parameters: [String: String]

  package init?(_ text: some StringProtocol) {
    let bytes = Array(text.utf8)
    let end = bytes.firstIndex(of: UInt8(ascii: ";")) ?? bytes.endIndex
    let essence = HTTPSyntax.trimmed(bytes[..<end])
    let parts = essence.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    guard parts.count == 2, HTTPSyntax.isToken(parts[0]), HTTPSyntax.isToken(parts[1]) else {
      return nil
    }
    type = String(decoding: parts[0], as: UTF8.self).lowercased()
    subtype = String(decoding: parts[1], as: UTF8.self).lowercased()
    guard let parameters = HTTPMediaType.parameters(bytes[end...]) else { return nil }
    self.parameters = parameters
  }

  /// JSON in any of its names (`application/json`, `application/problem+json`).
  package var isJSON: Bool {
    type == "application" && (subtype == "json" || subtype.hasSuffix("+json"))
  }

  private static func parameters(_ bytes: ArraySlice<UInt8>) -> [String: String]? {
    var result: [String: String] = [:]
    var rest = bytes
    while let first = rest.first {
      guard first == UInt8(ascii: ";") else { return nil }
      rest = rest.dropFirst().drop { $0 == 0x20 || $0 == 0x09 }
      if rest.isEmpty || rest.first == UInt8(ascii: ";") { continue }
      let name = rest.prefix { HTTPSyntax.isTokenByte($0) }
      rest = rest[name.endIndex...]
      guard !name.isEmpty, rest.first == UInt8(ascii: "=") else { return nil }
      rest = rest.dropFirst()
      var value: [UInt8] = []
      if rest.first == UInt8(ascii: "\"") {
        rest = rest.dropFirst()
        while let byte = rest.first, byte != UInt8(ascii: "\"") {
          rest = rest.dropFirst()
          guard byte == UInt8(ascii: "\\") else {
            value.append(byte)
            continue
          }
          guard let escaped = rest.popFirst() else { return nil }
          value.append(escaped)
        }
        guard rest.popFirst() == UInt8(ascii: "\"") else { return nil }
      } else {
        value = Array(rest.prefix { HTTPSyntax.isTokenByte($0) })
        guard !value.isEmpty else { return nil }
        rest = rest.dropFirst(value.count)
      }
      rest = rest.drop { $0 == 0x20 || $0 == 0x09 }
      result[String(decoding: name, as: UTF8.self).lowercased()] = String(
        decoding: value, as: UTF8.self)
    }
    return result
  }
}
