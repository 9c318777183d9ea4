/// config.json: `{"network":{…},"apps":[…],"logLevel"}`. Reads what people and
/// OpenP2P write (keys in any case, a token as number or string, 0/1 for
/// booleans), keeps what it does not know, and gives bytes back; the driver
/// writes them atomically with mode 0600. What an agent chooses or learns
/// (listen port, fingerprint, pushed apps) never goes in here.

#if canImport(Bytes)
  package import HTTP
  package import Tunnels
#endif

/// Why a configuration file cannot be taken.
package struct ConfigError: Error, Hashable, Sendable, CustomStringConvertible {
  /// From 1; nil when the fault is in a value.
  package var line: Int?
  /// "network.serverPort", "apps[2].srcPort".
  package var field: String?
  package var words: String

  package var description: String {
    if let line { return "line \(line): \(words)" }
    if let field { return "\(field): \(words)" }
    return words
  }
}

package struct ConfigFile: Sendable, Equatable {
  package private(set) var root: JSONObject

  /// 1 MB, 32 levels.
  package static let limits = JSONLimits(byteCount: 1 << 20, depth: 32)

  /// Empty.
  package init() { root = JSONObject() }

  /// Parses a file; an empty or blank one counts as `{}`.
  package init(parsing bytes: [UInt8]) throws(ConfigError) {
    var bytes = bytes[...]
    // A byte order mark, as some editors leave it.
    if bytes.starts(with: [0xef, 0xbb, 0xbf]) { bytes = bytes.dropFirst(3) }
    if bytes.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0a || $0 == 0x0d }) {
      root = JSONObject()
      return
    }
    let value: JSONValue
    do {
      value = try JSONValue.parse(Array(bytes), limits: Self.limits)
    } catch {
      throw ConfigError(line: error.line, words: "\(error.reason.words) (column \(error.column))")
    }
    guard case .object(let object) = value else {
      throw ConfigError(line: 1, words: "expected an object, found \(value.kind)")
    }
    root = object
  }

  /// The file's new content, laid out for reading.
  package func bytes() -> [UInt8] { JSONValue.object(root).bytes(.pretty) }

  /// The value at "network.serverHost"; nil when absent or null.
  package subscript(path: String) -> JSONValue? {
    var value = JSONValue.object(root)
    for key in path.split(separator: ".") {
      guard let next = value.object?[ignoringCase: String(key)] else { return nil }
      value = next
    }
    // Not `? nil : value`: that nil would be JSON's null.
    if value.isNull { return Optional.none }
    return value
  }

  /// Sets or (nil) removes the value at "network.serverHost"; a key that is
  /// there keeps its spelling and place.
  package mutating func set(_ path: String, _ value: JSONValue?) {
    let keys = path.split(separator: ".").map(String.init)
    root = Self.setting(root, keys[...], value)
  }

  private static func setting(
    _ object: JSONObject, _ keys: ArraySlice<String>, _ value: JSONValue?
  ) -> JSONObject {
    guard let key = keys.first else { return object }
    var object = object
    if keys.count == 1 {
      object[ignoringCase: key] = value
    } else {
      let inner = object[ignoringCase: key]?.object ?? JSONObject()
      object[ignoringCase: key] = .object(setting(inner, keys.dropFirst(), value))
    }
    return object
  }

  /// The value at a path as texts for the flag's own check: a scalar is one, an
  /// array of scalars is many; nil when absent, null or an empty string.
  package func texts(_ path: String) throws(ConfigError) -> [String]? {
    // A parent that is not an object would otherwise hide silently.
    if let parent = path.split(separator: ".").first.map(String.init), parent != path,
      let value = self[parent], value.object == nil
    {
      throw ConfigError(field: parent, words: "expected an object, found \(value.kind)")
    }
    guard let value = self[path] else { return nil }
    func text(_ value: JSONValue) throws(ConfigError) -> String {
      switch value {
      case .bool(let flag): return flag ? "true" : "false"
      case .number(let number):
        return number.integer(as: UInt64.self).map(String.init) ?? number.text
      case .string(let text): return text
      case .null, .array, .object:
        throw ConfigError(field: path, words: "expected a plain value, found \(value.kind)")
      }
    }
    guard case .array(let elements) = value else {
      let text = try text(value)
      return text.isEmpty ? nil : [text]
    }
    var result: [String] = []
    for element in elements { result.append(try text(element)) }
    return result
  }
}

// MARK: Apps

extension ConfigFile {
  /// The apps, checked field by field.
  package func apps() throws(ConfigError) -> [AppDefinition] {
    guard let list = self["apps"] else { return [] }
    guard case .array(let elements) = list else {
      throw ConfigError(field: "apps", words: "expected an array, found \(list.kind)")
    }
    guard elements.count <= TunnelLimits.definitionsPerMesh else {
      throw ConfigError(field: "apps", words: "more than \(TunnelLimits.definitionsPerMesh)")
    }
    var result: [AppDefinition] = []
    var places: [AppKey: Int] = [:]
    for (index, element) in elements.enumerated() {
      let app = try Self.app(element, at: "apps[\(index)]")
      if let other = places.updateValue(index, forKey: app.key) {
        throw ConfigError(
          field: "apps[\(index)].srcPort",
          words: "\(app.key) is already used by apps[\(other)]")
      }
      result.append(app)
    }
    return result
  }

  /// The apps that this node serves: those of other peers. One whose peerNode
  /// is the node itself is ignored (two clients may share a file).
  package func apps(for node: String) throws(ConfigError) -> (
    apps: [AppDefinition], ignored: [AppDefinition]
  ) {
    let all = try apps()
    let isOwn = { (app: AppDefinition) in app.peerNode == .name(node) }
    return (all.filter { !isOwn($0) }, all.filter(isOwn))
  }

  /// One app from JSON: config.json, the server's push, the API.
  package static func app(_ value: JSONValue, at place: String) throws(ConfigError) -> AppDefinition
  {
    guard let object = value.object else {
      throw ConfigError(field: place, words: "expected an object, found \(value.kind)")
    }
    func wrong(_ key: String, _ expected: String, _ value: JSONValue) -> ConfigError {
      ConfigError(field: "\(place).\(key)", words: "expected \(expected), found \(value.kind)")
    }
    func text(_ key: String) throws(ConfigError) -> String {
      guard let value = object[ignoringCase: key], !value.isNull else { return "" }
      guard let text = value.string else { throw wrong(key, "a string", value) }
      return text
    }
    func number(_ key: String) throws(ConfigError) -> Int {
      guard let value = object[ignoringCase: key], !value.isNull else {
        throw ConfigError(field: "\(place).\(key)", words: "is missing")
      }
      guard let number = value.lenientInteger(as: Int.self) else {
        throw wrong(key, "a port from 1 to 65535", value)
      }
      return number
    }
    func bool(_ key: String, default fallback: Bool) throws(ConfigError) -> Bool {
      guard let value = object[ignoringCase: key], !value.isNull else { return fallback }
      if let flag = value.bool { return flag }
      switch value.int {
      case 0: return false
      case 1: return true
      default: throw wrong(key, "true or false", value)
      }
    }
    let carried = try text("protocol")
    let (appName, peerNode) = (try text("appName"), try text("peerNode"))
    let (dstHost, whitelist) = (try text("dstHost"), try text("whitelist"))
    let (srcPort, dstPort) = (try number("srcPort"), try number("dstPort"))
    let enabled = try bool("enabled", default: true)
    let forceRelay = try bool("forceRelay", default: false)
    let relayNode = try text("relayNode")
    let (relay, policy) = (try text("relay"), try text("policy"))
    do {
      return try AppDefinition(
        appName: appName, protocol: carried.isEmpty ? "tcp" : carried, srcPort: srcPort,
        peerNode: peerNode, dstHost: dstHost, dstPort: dstPort, whitelist: whitelist,
        enabled: enabled, forceRelay: forceRelay, relayNode: relayNode, relay: relay, policy: policy
      )
    } catch {
      throw ConfigError(field: "\(place).\(error.field.rawValue)", words: error.description)
    }
  }

  /// Puts these apps in place of those there. An app that was there keeps its
  /// unknown keys and its spelling.
  package mutating func setApps(_ apps: [AppDefinition]) {
    var former: [AppKey: JSONObject] = [:]
    for element in self["apps"]?.array ?? [] {
      if let object = element.object, let app = try? Self.app(element, at: "") {
        former[app.key] = object
      }
    }
    set("apps", .array(apps.map { .object(Self.json($0, onto: former[$0.key] ?? JSONObject())) }))
  }

  /// An app as JSON, for the file and for the API.
  package static func json(_ app: AppDefinition, onto base: JSONObject = JSONObject()) -> JSONObject
  {
    var object = base
    object[ignoringCase: "appName"] = .string(app.appName)
    object[ignoringCase: "protocol"] = .string(app.protocol.text)
    object[ignoringCase: "srcPort"] = JSONValue(app.srcPort)
    object[ignoringCase: "peerNode"] = .string(app.peerNode.text)
    object[ignoringCase: "dstHost"] = .string(app.dstHost)
    object[ignoringCase: "dstPort"] = JSONValue(app.dstPort)
    object[ignoringCase: "whitelist"] = .string(app.whitelist.description)
    object[ignoringCase: "enabled"] = .bool(app.enabled)
    object[ignoringCase: "forceRelay"] = .bool(app.forceRelay)
    object[ignoringCase: "relayNode"] = .string(app.relayNode?.text ?? "")
    // Ours alone: a file that never had them stays as OpenP2P wrote it.
    for (key, text) in [("relay", app.relay.description), ("policy", app.policy.text)]
    where !text.isEmpty || object[ignoringCase: key] != nil {
      object[ignoringCase: key] = .string(text)
    }
    return object
  }
}
