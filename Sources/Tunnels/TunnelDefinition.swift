/// The two halves of a named tunnel: where it listens (inbound) and what it
/// reaches (outbound). Plain values that have been checked; resolving names
/// and binding sockets are the driver's. Implements docs/protocol/tunnels.md
/// (ZTM's "tunnel" app).

#if canImport(Bytes)
  package import Bytes
#endif

/// An address to listen at.
package struct ListenAddress: Hashable, Sendable, CustomStringConvertible {
  package var endpoint: Endpoint

  package init(_ address: IPAddress, _ port: UInt16) throws(DefinitionError) {
    guard port > 0 else { throw DefinitionError(.listen, .outOfRange, value: "\(address):0") }
    guard !address.isMulticast, !address.isBroadcast else {
      throw DefinitionError(.listen, .malformed, value: "\(address):\(port)")
    }
    endpoint = Endpoint(address, port)
  }

  /// `PORT` (then 127.0.0.1), `IP:PORT`, `[IPv6]:PORT`, `localhost:PORT` or
  /// `*:PORT` (0.0.0.0).
  package init(_ text: some StringProtocol) throws(DefinitionError) {
    let malformed = DefinitionError(.listen, .malformed, value: TunnelNaming.printable(text))
    guard let (host, port) = HostPort.split(text, hostRequired: false) else { throw malformed }
    let address: IPAddress
    switch host.lowercased() {
    case "", "localhost": address = .loopbackV4
    case "*": address = .anyV4
    default:
      guard let literal = IPAddress(host) else { throw malformed }
      address = literal
    }
    try self.init(address, port)
  }

  package var address: IPAddress { endpoint.address }
  package var port: UInt16 { endpoint.port }
  package var description: String { endpoint.description }

  /// Would binding both fail? (The same port, and the same or any address.)
  package func collides(with other: ListenAddress) -> Bool {
    guard port == other.port else { return false }
    if address == other.address { return true }
    // Sockets bound to :: are IPv6 only here, so the families do not meet.
    return address.isV4 == other.address.isV4
      && (address.isUnspecified || other.address.isUnspecified)
  }
}

/// Where an outbound delivers.
package enum TunnelTarget: Hashable, Sendable, CustomStringConvertible {
  /// A name or a literal address, resolved at the exit, and a port.
  case host(String, UInt16)
  /// A Unix stream socket's absolute path.
  case unix(String)

  package init(host: String, port: Int) throws(DefinitionError) {
    let bare = HostPort.unbracketed(host)
    guard TunnelNaming.isHost(bare) else {
      throw DefinitionError(.target, .malformed, value: TunnelNaming.printable(host))
    }
    guard (1...65535).contains(port) else {
      throw DefinitionError(.target, .outOfRange, value: "\(host):\(port)")
    }
    self = .host(bare, UInt16(port))
  }

  /// `HOST:PORT`, `[IPv6]:PORT` or `unix:/path`.
  package init(_ text: some StringProtocol) throws(DefinitionError) {
    let malformed = DefinitionError(.target, .malformed, value: TunnelNaming.printable(text))
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(5))
      guard path.utf8.count <= TunnelLimits.unixPathBytes else {
        throw DefinitionError(.target, .tooLong(limit: TunnelLimits.unixPathBytes))
      }
      guard path.hasPrefix("/"), path.count > 1,
        path.unicodeScalars.allSatisfy({ !TunnelNaming.isControl($0) })
      else { throw malformed }
      self = .unix(path)
      return
    }
    guard let (host, port) = HostPort.split(text, hostRequired: true), TunnelNaming.isHost(host)
    else { throw malformed }
    self = .host(host, port)
  }

  package var description: String {
    switch self {
    case .host(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}

/// `HOST:PORT` taken apart.
package enum HostPort {
  /// The host without brackets and the port (1…65535). With `hostRequired`
  /// false a bare port gives an empty host.
  package static func split(
    _ text: some StringProtocol, hostRequired: Bool
  ) -> (host: String, port: UInt16)? {
    guard let colon = text.lastIndex(of: ":") else {
      guard !hostRequired, let port = TunnelNaming.port(text) else { return nil }
      return ("", port)
    }
    guard let port = TunnelNaming.port(text[text.index(after: colon)...]) else { return nil }
    let host = text[..<colon]
    if host.isEmpty { return hostRequired ? nil : ("", port) }
    if host.hasPrefix("[") || host.hasSuffix("]") {
      let bare = unbracketed(String(host))
      guard bare.contains(":"), !bare.contains("["), !bare.contains("]") else { return nil }
      return (bare, port)
    }
    guard !host.contains(":") else { return nil }
    return (String(host), port)
  }

  static func unbracketed(_ host: String) -> String {
    host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
  }
}

/// The near half of a tunnel: listens here, leaves at an exit.
package struct TunnelInbound: Hashable, Sendable {
  package let key: TunnelKey
  /// At least one.
  package let listens: [ListenAddress]
  /// Empty: every online endpoint that offers the outbound.
  package let exits: [EndpointReference]
  package let relay: RelayPolicy
  package let policy: TrafficPolicy

  package init(
    _ key: TunnelKey, listens: [ListenAddress], exits: [EndpointReference] = [],
    relay: RelayPolicy = RelayPolicy(), policy: TrafficPolicy = .usual
  ) throws(DefinitionError) {
    guard !listens.isEmpty else { throw DefinitionError(.listen, .missing) }
    try DefinitionCheck.list(listens, field: .listen, limit: TunnelLimits.addressesPerTunnel)
    try DefinitionCheck.list(exits, field: .exit, limit: TunnelLimits.referencesPerTunnel)
    self.key = key
    self.listens = listens
    self.exits = exits
    self.relay = relay
    self.policy = policy
  }

  package var terms: StreamTerms { StreamTerms(policy, relays: relay.use) }

  /// From text as typed or as the API gives it.
  package init(
    _ key: TunnelKey, listens: [String], exits: [String], relay: String = "",
    policy: String = ""
  ) throws(DefinitionError) {
    var addresses: [ListenAddress] = []
    for text in listens { addresses.append(try ListenAddress(text)) }
    try self.init(
      key, listens: addresses, exits: try DefinitionCheck.references(exits, .exit),
      relay: try RelayPolicy(relay), policy: try TrafficPolicy(policy))
  }
}

/// The far half of a tunnel: reaches its targets for those it admits.
package struct TunnelOutbound: Hashable, Sendable {
  package let key: TunnelKey
  /// At least one.
  package let targets: [TunnelTarget]
  /// Empty: every endpoint may enter.
  package let entrances: [EndpointReference]
  /// Empty: every user may.
  package let users: [String]

  package init(
    _ key: TunnelKey, targets: [TunnelTarget], entrances: [EndpointReference] = [],
    users: [String] = []
  ) throws(DefinitionError) {
    guard !targets.isEmpty else { throw DefinitionError(.target, .missing) }
    try DefinitionCheck.list(targets, field: .target, limit: TunnelLimits.addressesPerTunnel)
    try DefinitionCheck.list(entrances, field: .entrance, limit: TunnelLimits.referencesPerTunnel)
    try DefinitionCheck.list(users, field: .user, limit: TunnelLimits.referencesPerTunnel)
    for user in users { try TunnelNaming.checkReference(user, field: .user) }
    if key.protocol == .udp {
      for case .unix(let path) in targets {
        throw DefinitionError(.target, .unixNeedsTCP, value: path)
      }
    }
    self.key = key
    self.targets = targets
    self.entrances = entrances
    self.users = users
  }

  /// From text as typed or as the API gives it.
  package init(
    _ key: TunnelKey, targets: [String], entrances: [String], users: [String]
  ) throws(DefinitionError) {
    var parsed: [TunnelTarget] = []
    for text in targets { parsed.append(try TunnelTarget(text)) }
    try self.init(
      key, targets: parsed, entrances: try DefinitionCheck.references(entrances, .entrance),
      users: users)
  }

  /// May this caller come in? The identity is the *certified* one of the
  /// session, never what the open request says.
  package func admits(endpointID: String, endpointName: String, user: String) -> Bool {
    (entrances.isEmpty
      || entrances.contains { $0.matches(id: endpointID, name: endpointName) })
      && (users.isEmpty || users.contains(user))
  }
}

enum DefinitionCheck {
  static func list<T: Hashable & CustomStringConvertible>(
    _ values: [T], field: DefinitionError.Field, limit: Int
  ) throws(DefinitionError) {
    guard values.count <= limit else { throw DefinitionError(field, .tooMany(limit: limit)) }
    var seen: Set<T> = []
    for value in values where !seen.insert(value).inserted {
      throw DefinitionError(field, .duplicate, value: TunnelNaming.printable(value.description))
    }
  }

  static func references(
    _ texts: [String], _ field: DefinitionError.Field
  ) throws(DefinitionError) -> [EndpointReference] {
    var result: [EndpointReference] = []
    for text in texts { result.append(try EndpointReference(text, field: field)) }
    return result
  }
}
