/// Hosts that are reached without a proxy: the variable `no_proxy` as curl and
/// others read it, and this machine itself.

#if canImport(Bytes)
  internal import HTTP
#endif

struct ProxyExceptions {
  private let isAll: Bool
  private let suffixes: [String]

  /// - Parameter text: names, addresses, "*", parted by commas; a name also
  ///   stands for everything below it, with or without a dot before it.
  init(_ text: String) {
    let words = text.lowercased().split(separator: ",").map {
      String($0.drop { $0 == " " || $0 == "." }.prefix { $0 != " " })
    }
    isAll = words.contains("*")
    suffixes = words.filter { !$0.isEmpty }
  }

  func names(host: String) -> Bool {
    let authority = HTTPAuthority(host: host, port: nil)
    return isAll || authority.isLoopback
      || suffixes.contains { authority.host == $0 || authority.host.hasSuffix("." + $0) }
  }
}
