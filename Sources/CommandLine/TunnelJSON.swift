/// Tunnels as the agent's HTTP API writes them: definitions in, definitions and
/// counters out. One place for agent and command line, so that they cannot
/// disagree. Also the looking up of endpoints by id or name.

#if canImport(Bytes)
  import Bytes
  package import HTTP
  package import Tunnels
#endif

package enum TunnelJSON {
  // MARK: Reading (bodies of POST)

  /// `{"listens":[{"ip":"0.0.0.0","port":9000}],"exits":["id or name"],
  /// "relay":"never","policy":"bulk"}`, the last two optional. An element of
  /// `listens` may also be text as on the command line.
  package static func inbound(
    _ key: TunnelKey, from body: JSONValue
  ) throws(ConfigError) -> TunnelInbound {
    guard body.object != nil else { throw wrong("body", "an object", body) }
    var listens: [ListenAddress] = []
    for (index, element) in try array(body, "listens").enumerated() {
      let place = "listens[\(index)]"
      try checked(place) { () throws(DefinitionError) in
        if let text = element.string { listens.append(try ListenAddress(text)) }
      }
      if element.string != nil { continue }
      guard element.object != nil else { throw wrong(place, "an object", element) }
      let ip = element["ip"]
      guard ip == nil || ip?.isNull == true || ip?.string != nil else {
        throw wrong(place + ".ip", "a string", ip ?? .null)
      }
      guard let port = element["port"]?.lenientInteger(as: Int.self), (1...65535).contains(port)
      else { throw ConfigError(field: place + ".port", words: "expected a port from 1 to 65535") }
      let host = ip?.string ?? ""
      let text =
        host.contains(":") && !host.hasPrefix("[") ? "[\(host)]:\(port)" : "\(host):\(port)"
      try checked(place) { () throws(DefinitionError) in listens.append(try ListenAddress(text)) }
    }
    let exits = try strings(body, "exits")
    let (relay, policy) = (try text(body, "relay"), try text(body, "policy"))
    var result: TunnelInbound?
    try checked("inbound") { () throws(DefinitionError) in
      var references: [EndpointReference] = []
      for text in exits { references.append(try EndpointReference(text, field: .exit)) }
      result = try TunnelInbound(
        key, listens: listens, exits: references, relay: try RelayPolicy(relay),
        policy: try TrafficPolicy(policy))
    }
    guard let result else { preconditionFailure("checked throws or sets") }
    return result
  }

  /// `{"targets":[{"host","port"}],"entrances":[],"users":[]}`. An element of
  /// `targets` may also be text, as it must for `unix:/path`.
  package static func outbound(
    _ key: TunnelKey, from body: JSONValue
  ) throws(ConfigError) -> TunnelOutbound {
    guard body.object != nil else { throw wrong("body", "an object", body) }
    var targets: [TunnelTarget] = []
    for (index, element) in try array(body, "targets").enumerated() {
      let place = "targets[\(index)]"
      if let text = element.string {
        try checked(place) { () throws(DefinitionError) in targets.append(try TunnelTarget(text)) }
        continue
      }
      guard element.object != nil else { throw wrong(place, "an object", element) }
      if let path = element["unix"]?.string {
        try checked(place) { () throws(DefinitionError) in
          targets.append(try TunnelTarget("unix:" + path))
        }
        continue
      }
      guard let host = element["host"]?.string else {
        throw ConfigError(field: place + ".host", words: "expected a string")
      }
      guard let port = element["port"]?.lenientInteger(as: Int.self) else {
        throw ConfigError(field: place + ".port", words: "expected a port from 1 to 65535")
      }
      try checked(place) { () throws(DefinitionError) in
        targets.append(try TunnelTarget(host: host, port: port))
      }
    }
    let (entrances, users) = (try strings(body, "entrances"), try strings(body, "users"))
    var result: TunnelOutbound?
    try checked("outbound") { () throws(DefinitionError) in
      var references: [EndpointReference] = []
      for text in entrances { references.append(try EndpointReference(text, field: .entrance)) }
      result = try TunnelOutbound(key, targets: targets, entrances: references, users: users)
    }
    guard let result else { preconditionFailure("checked throws or sets") }
    return result
  }

  // MARK: Writing

  /// `{"protocol","name","listens":[{"ip","port","open","error"?}],"exits":[…]}`
  /// - Parameter failure: why a listen is not open; nil: it is.
  package static func object(
    _ inbound: TunnelInbound, failure: (ListenAddress) -> String? = { _ in nil },
    counters: TunnelCounters? = nil
  ) -> JSONValue {
    var object: JSONObject = [
      "protocol": .string(inbound.key.protocol.text), "name": .string(inbound.key.name),
      "listens": .array(
        inbound.listens.map { listen in
          var entry: JSONObject = [
            "ip": .string(listen.address.description), "port": JSONValue(listen.port),
          ]
          let error = failure(listen)
          entry["open"] = .bool(error == nil)
          if let error { entry["error"] = .string(error) }
          return .object(entry)
        }),
      "exits": JSONValue(inbound.exits.map(\.text)),
    ]
    if !inbound.relay.isPlain { object["relay"] = .string(inbound.relay.description) }
    if inbound.policy != .usual { object["policy"] = .string(inbound.policy.text) }
    if let counters { object["stats"] = Self.object(counters) }
    return .object(object)
  }

  /// `{"protocol","name","targets":[{"host","port"}],"entrances":[],"users":[]}`
  package static func object(
    _ outbound: TunnelOutbound, counters: TunnelCounters? = nil
  ) -> JSONValue {
    var object: JSONObject = [
      "protocol": .string(outbound.key.protocol.text), "name": .string(outbound.key.name),
      "targets": .array(
        outbound.targets.map { target in
          switch target {
          case .host(let host, let port): ["host": .string(host), "port": JSONValue(port)]
          case .unix(let path): ["unix": .string(path)]
          }
        }),
      "entrances": JSONValue(outbound.entrances.map(\.text)), "users": JSONValue(outbound.users),
    ]
    if let counters { object["stats"] = Self.object(counters) }
    return .object(object)
  }

  package static func object(_ counters: TunnelCounters) -> JSONValue {
    [
      "connections": JSONValue(counters.connectionsNow),
      "connectionsTotal": JSONValue(counters.connectionsTotal),
      "bytesToTarget": JSONValue(counters.bytesToTarget),
      "bytesToCaller": JSONValue(counters.bytesToCaller),
      "failures": .array(
        counters.failures.map { entry in
          [
            "reason": .string(entry.reason.code), "words": .string(entry.reason.words),
            "count": JSONValue(entry.count),
          ]
        }),
      "path": .string(counters.path),
    ]
  }

  // MARK: Details

  private static func wrong(_ field: String, _ expected: String, _ value: JSONValue) -> ConfigError
  {
    ConfigError(field: field, words: "expected \(expected), found \(value.kind)")
  }

  private static func array(_ body: JSONValue, _ key: String) throws(ConfigError) -> [JSONValue] {
    guard let value = body[key], !value.isNull else { return [] }
    guard let array = value.array else { throw wrong(key, "an array", value) }
    return array
  }

  private static func text(_ body: JSONValue, _ key: String) throws(ConfigError) -> String {
    guard let value = body[key], !value.isNull else { return "" }
    guard let text = value.string else { throw wrong(key, "a string", value) }
    return text
  }

  private static func strings(_ body: JSONValue, _ key: String) throws(ConfigError) -> [String] {
    var result: [String] = []
    for (index, element) in try array(body, key).enumerated() {
      guard let text = element.string else { throw wrong("\(key)[\(index)]", "a string", element) }
      result.append(text)
    }
    return result
  }

  private static func checked(
    _ place: String, _ body: () throws(DefinitionError) -> Void
  ) throws(ConfigError) {
    do { try body() } catch { throw ConfigError(field: place, words: error.description) }
  }
}

/// The endpoints of a mesh, to find those that people name.
package struct EndpointDirectory: Sendable {
  package var endpoints: [(id: String, name: String)]

  package init(_ endpoints: [(id: String, name: String)]) { self.endpoints = endpoints }

  package enum Answer: Hashable, Sendable {
    case found(id: String)
    /// A well-formed id that is not (yet) known: taken, with a warning.
    case unknownID(String)
    /// The sentence to show; it lists the candidates.
    case refused(String)
  }

  package func find(_ reference: EndpointReference) -> Answer {
    switch reference {
    case .id(let id): return endpoints.contains { $0.id == id } ? .found(id: id) : .unknownID(id)
    case .name(let name):
      let same = endpoints.filter { $0.name == name }
      if same.count == 1 { return .found(id: same[0].id) }
      let shown = TunnelNaming.printable(name)
      if same.isEmpty {
        let names = endpoints.prefix(20).map { TunnelNaming.printable($0.name) }
        let list = names.isEmpty ? "there are none" : names.joined(separator: ", ")
        return .refused("no endpoint \"\(shown)\"; known: \(list)")
      }
      let ids = same.prefix(20).map(\.id).joined(separator: ", ")
      return .refused("endpoint \"\(shown)\" is ambiguous; give one of these ids: \(ids)")
    }
  }
}
