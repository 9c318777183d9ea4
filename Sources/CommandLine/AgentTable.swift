/// `inp2pc` (and `martlet agent`): its flags and what they come to. Implements
/// the client table of the INP2P face. Pure: the bytes of config.json are
/// handed in, those to be saved are handed out.

#if canImport(Bytes)
  import HTTP
  package import Tunnels
#endif

/// What an agent is to do.
package struct AgentOptions: Hashable, Sendable {
  package var serverHost: String
  package var serverPort: UInt16 = DefaultPort.webSocket
  package var node: String
  package var token: MeshToken
  /// ws:// instead of wss://.
  package var insecure = false
  package var isRelay = false
  /// Implies `isRelay`.
  package var isSuperRelay = false
  /// Nil: 27185, else the next free one, said. Given: taken is an error.
  package var relayPort: UInt16?
  /// Cap on what is relayed for others, kbit/s; 0: nothing for others.
  package var relayKilobits: UInt64 = 10_000
  /// Which relays this node uses itself.
  package var relayPolicies: [PeerRelayPolicy] = []
  /// Nil: what the server says, else the usual ones.
  package var stunUDP1: UInt16?
  package var stunUDP2: UInt16?
  package var stunTCP1: UInt16?
  package var stunTCP2: UInt16?
  /// Ports of symmetric NATs are not guessed.
  package var noPortGuessing = false
  /// For direct connections; nil: chosen once and kept in `dataDirectory`.
  package var port: UInt16?
  /// The local API. Nil: 127.0.0.1:7777, else the next free one, kept in
  /// `dataDirectory`. Given: taken is an error.
  package var listen: ListenAddress?
  package var configPath = AgentTable.defaultConfig
  package var dataDirectory: String
  package var allow: [AllowRule] = []
  /// Users (names or uids) who may call the local API besides our own and root.
  package var apiUsers: [String] = []
  /// "http://…"
  package var proxy: String?
  /// The mesh's local name.
  package var mesh = "default"
  package var takesRemoteApps = true
  /// Ask the router to open our port (UPnP-IGD, NAT-PMP, PCP).
  package var mapsPorts = true
  package var logLevel = LogLevel.info
  /// Of config.json, without those whose peer is this node.
  package var apps: [AppDefinition] = []
  /// Said once at start.
  package var notices: [String] = []

  package init(serverHost: String, node: String, token: MeshToken) {
    self.serverHost = serverHost
    self.node = node
    self.token = token
    dataDirectory = Self.defaultDataDirectory(configPath: AgentTable.defaultConfig, node: node)
  }

  /// `<directory of the config file>/.inp2p/<node>`; a node's name is made safe
  /// for one path component.
  package static func defaultDataDirectory(configPath: String, node: String) -> String {
    let directory: Substring
    if let slash = configPath.lastIndex(of: "/") {
      directory = slash == configPath.startIndex ? "/" : configPath[..<slash]
    } else {
      directory = "."
    }
    var component = ""
    for (index, byte) in node.utf8.enumerated() {
      let scalar = Unicode.Scalar(byte)
      let isPlain =
        TunnelNaming.isPathByte(byte) && !(index == 0 && scalar == ".")
      if isPlain {
        component.unicodeScalars.append(scalar)
      } else {
        let digits = String(byte, radix: 16, uppercase: true)
        component += "%" + (digits.count == 1 ? "0" : "") + digits
      }
    }
    // A file name has at most 255 bytes; an escaped name may be three times as long.
    if component.utf8.count > 255 {
      component = String(component.prefix(230)) + "%" + String(Self.hash(node), radix: 16)
    }
    return (directory == "/" ? "" : directory) + "/.inp2p/" + component
  }

  private static func hash(_ text: String) -> UInt64 {
    text.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }
}

extension TunnelNaming {
  static func isPathByte(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
      || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".")
  }
}

/// An agent's command line before config.json was read.
package struct AgentArguments: Sendable {
  /// Read it if it is there, and hand its bytes to `resolve`.
  package var configPath: String
  /// `-newconfig`: what is there need not be read.
  package var ignoresConfig: Bool
  let parsed: ParsedCommand
  let program: ProgramSpec
  let environment: [String: String]

  /// What is to be done, and config.json's new content when it is to be
  /// written (it was missing, or `-newconfig`).
  package struct Resolved: Sendable {
    package var options: AgentOptions
    package var configToSave: [UInt8]?
  }

  /// - Parameter config: the bytes of `configPath`; nil when there is no file.
  package func resolve(config: [UInt8]?) -> Parsed<Resolved> {
    do {
      return .run(try AgentTable.options(self, config: config))
    } catch {
      return .exit(HelpText.refusal(error, program, parsed.command))
    }
  }
}

package enum AgentTable {
  package static let defaultConfig = "config.json"

  package static let flags: [Flag] = [
    Flag(
      "serverhost", .host, environment: "INP2P_SERVERHOST", config: "network.serverHost",
      required: true, "server's name or address"),
    Flag(
      "serverport", .port(zeroAllowed: false), default: "27183", environment: "INP2P_SERVERPORT",
      config: "network.serverPort", "server's port"),
    Flag(
      "node", .name, environment: "INP2P_NODE", config: "network.node", required: true,
      "this node's name, unique in its mesh"),
    Flag(
      "token", .uint64, placeholder: "TOKEN", environment: "INP2P_TOKEN", config: "network.token",
      required: true, secret: true, "mesh token, as on the server"),
    Flag(
      "insecure", .bool, environment: "INP2P_INSECURE", config: "network.insecure",
      "ws:// instead of wss://, no TLS to the server"),
    Flag(
      "relay", .bool, environment: "INP2P_RELAY", config: "network.relay",
      "be a relay for nodes of the same token"),
    Flag(
      "super", .bool, environment: "INP2P_SUPER", config: "network.super",
      "be a relay for all tokens; implies -relay"),
    Flag(
      "relay-port", .port(zeroAllowed: false), environment: "INP2P_RELAY_PORT",
      config: "network.relayPort",
      "TCP and UDP port of the relay (27185, else the next free one)"),
    Flag(
      "bw", .bandwidth, default: "10", environment: "INP2P_BW", config: "network.shareBandwidth",
      "cap on what is relayed for others; 0: nothing for others"),
    Flag(
      "relay-policy", .relayPolicy, many: .repeated, environment: "INP2P_RELAY_POLICY",
      config: "network.relayPolicy",
      "never, only, via:NODE, not:NODE; to:NODE first: for that peer; may be repeated"),
    Flag(
      "config", .path, default: defaultConfig, environment: "INP2P_CONFIG",
      "configuration file; created when missing"),
    Flag("newconfig", .bool, "ignore the existing file, use the flags, write a new file"),
    Flag(
      "stun-udp1", .port(zeroAllowed: false), config: "network.stunUDP1",
      "first UDP port of STUN (as the server's)"),
    Flag(
      "stun-udp2", .port(zeroAllowed: false), config: "network.stunUDP2",
      "second UDP port of STUN (as the server's)"),
    Flag(
      "stun-tcp1", .port(zeroAllowed: false), config: "network.stunTCP1",
      "first TCP port of STUN (as the server's)"),
    Flag(
      "stun-tcp2", .port(zeroAllowed: false), config: "network.stunTCP2",
      "second TCP port of STUN (as the server's)"),
    Flag(
      "port", .port(zeroAllowed: true), config: "network.port",
      "UDP and TCP port of direct connections (chosen once and kept)"),
    Flag(
      "listen", .listen, environment: "INP2P_LISTEN", config: "network.listen",
      "local API (127.0.0.1:7777, else the next free port)"),
    Flag(
      "data", .path, placeholder: "DIR", environment: "INP2P_DATA",
      "state directory (.inp2p/NODE beside the configuration file)"),
    Flag(
      "allow", .rule, many: .repeated, config: "network.allow",
      "what peers may reach beyond this node, e.g. 192.168.1.0/24:80,443; may be repeated"),
    Flag(
      "api-users", .name, many: .commas, placeholder: "USER,…",
      "users who may call the local API besides this one and root"),
    Flag(
      "proxy", .proxy, environment: "https_proxy", config: "network.proxy", secret: true,
      "HTTP proxy to the server (https_proxy, unless no_proxy names the server)"),
    Flag("mesh", .name, default: "default", "the mesh's name on this machine"),
    Flag(
      "no-port-guessing", .bool,
      "never guess the ports of NATs that map anew for every address; such pairs use the relay"),
    Flag("no-remote-apps", .bool, inactive: true, "refuse apps pushed by the server"),
    Flag(
      "no-port-mapping", .bool, environment: "INP2P_NO_PORT_MAPPING",
      "do not ask the router to open our port (PCP, NAT-PMP, UPnP)"),
    Flag(
      "log-level", .choice(LogLevel.words), placeholder: "LEVEL", default: "info",
      config: "logLevel", "debug, info, warn or error"),
    Flag("version", .bool, "print the version and exit"),
  ]

  static let examples = [
    "inp2pc -serverhost your-server.com -node nodeA -token 12345678 -relay -newconfig",
    "inp2pc -serverhost your-server.com -node mynode -token TOKEN -insecure",
  ]

  package static let program = ProgramSpec(
    name: "inp2pc", summary: "agent of a Martlet network", style: .go, interspersed: false,
    commands: [
      CommandSpec([], flags: flags, "run the agent until SIGTERM or SIGINT", examples: examples)
    ],
    exitStatuses: [
      (0, "stopped by a signal, or help or version printed"),
      (1, "a given port is in use, or the data directory is locked"),
      (2, "bad flags, environment or configuration file"),
    ])

  /// - Parameter arguments: whole argv, argv[0] included.
  package static func parse(
    _ arguments: [String], environment: [String: String]
  ) -> (result: Parsed<AgentArguments>, secrets: [SecretArgument]) {
    let (result, secrets) = SingleCommand.parse(program, arguments)
    switch result {
    case .exit(let exit): return (.exit(exit), secrets)
    case .run(let parsed):
      return (.run(self.arguments(parsed, program: program, environment: environment)), secrets)
    }
  }

  static func arguments(
    _ parsed: ParsedCommand, program: ProgramSpec, environment: [String: String]
  ) -> AgentArguments {
    let fromEnvironment = environment["INP2P_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
    return AgentArguments(
      configPath: parsed.text("config") ?? fromEnvironment ?? defaultConfig,
      ignoresConfig: parsed.bool("newconfig"), parsed: parsed, program: program,
      environment: environment)
  }

  static func options(
    _ arguments: AgentArguments, config bytes: [UInt8]?
  ) throws(UsageError) -> AgentArguments.Resolved {
    var config: ConfigFile?
    if !arguments.ignoresConfig, let bytes {
      config = try SingleCommand.config(bytes, path: arguments.configPath)
    }
    let flags = try ResolvedFlags(
      arguments.parsed, program: arguments.program, environment: arguments.environment,
      config: config)
    guard let host = flags.text("serverhost"), let node = flags.text("node"),
      let token = flags.number("token")
    else { preconditionFailure("required flags were checked") }

    var options = AgentOptions(serverHost: host, node: node, token: MeshToken(token))
    options.serverPort = flags.port("serverport") ?? options.serverPort
    options.insecure = flags.bool("insecure")
    options.isSuperRelay = flags.bool("super")
    options.isRelay = flags.bool("relay") || options.isSuperRelay
    options.relayPort = flags.givenPort("relay-port")
    options.relayKilobits = flags.number("bw") ?? options.relayKilobits
    options.noPortGuessing = flags.bool("no-port-guessing")
    options.stunUDP1 = flags.givenPort("stun-udp1")
    options.stunUDP2 = flags.givenPort("stun-udp2")
    options.stunTCP1 = flags.givenPort("stun-tcp1")
    options.stunTCP2 = flags.givenPort("stun-tcp2")
    options.port = flags.givenPort("port").flatMap { $0 == 0 ? nil : $0 }
    options.configPath = arguments.configPath
    options.dataDirectory =
      flags.text("data")
      ?? AgentOptions.defaultDataDirectory(configPath: arguments.configPath, node: node)
    options.apiUsers = flags.texts("api-users")
    options.proxy = flags.text("proxy")
    if flags.source("proxy") == .environment,
      ProxyExceptions(arguments.environment["no_proxy"] ?? "").names(host: options.serverHost)
    {
      options.proxy = nil
    }
    options.mesh = flags.text("mesh") ?? options.mesh
    options.takesRemoteApps = !flags.bool("no-remote-apps")
    options.mapsPorts = try mapsPorts(flags, config, path: arguments.configPath)
    options.logLevel = flags.text("log-level").flatMap(LogLevel.init(word:)) ?? .info
    options.notices = flags.notices
    do {
      options.listen = try flags.text("listen").map { text throws(DefinitionError) in
        try ListenAddress(text)
      }
      for text in flags.texts("allow") { options.allow.append(try AllowRule(text)) }
      for text in flags.texts("relay-policy") {
        options.relayPolicies.append(try PeerRelayPolicy(text))
      }
    } catch {
      throw UsageError("\(error)")
    }
    guard options.allow.count <= TunnelLimits.allowRules else {
      throw UsageError("more than \(TunnelLimits.allowRules) -allow rules")
    }
    try check(options.relayPolicies)
    if let config {
      do {
        let (apps, ignored) = try config.apps(for: node)
        options.apps = apps
        for app in ignored {
          options.notices.append(
            "app \(app.key) (\(app.appName)) is ignored: its peer is this node")
        }
      } catch {
        throw UsageError("\(arguments.configPath): \(error)", showsUsage: false)
      }
    }
    let isNew = arguments.ignoresConfig || bytes == nil
    return AgentArguments.Resolved(
      options: options, configToSave: isNew ? newConfig(options, flags).bytes() : nil)
  }

  /// Two words for the same peers must not say the opposite.
  private static func check(_ policies: [PeerRelayPolicy]) throws(UsageError) {
    guard policies.count <= TunnelLimits.relayPolicies else {
      throw UsageError("more than \(TunnelLimits.relayPolicies) -relay-policy rules")
    }
    for (index, policy) in policies.enumerated() {
      for other in policies[..<index] where other.peer == policy.peer {
        let uses = Set([other.policy.use, policy.policy.use]).subtracting([.any])
        let relays = Set([other.policy.via, policy.policy.via].compactMap(\.self))
        guard uses.count < 2, relays.count < 2, relays.isEmpty || !uses.contains(.never) else {
          throw UsageError("-relay-policy \"\(policy)\" contradicts \"\(other)\"")
        }
      }
    }
  }

  /// The file says it the other way round: `"portMapping": false`.
  private static func mapsPorts(
    _ flags: ResolvedFlags, _ config: ConfigFile?, path: String
  ) throws(UsageError) -> Bool {
    if flags.isGiven("no-port-mapping") { return !flags.bool("no-port-mapping") }
    guard let config else { return true }
    do {
      guard let texts = try config.texts("network.portMapping"), let text = texts.last else {
        return true
      }
      guard case .bool(let value) = try FlagKind.bool.value(of: text) else {
        preconditionFailure("a boolean's value is one")
      }
      return value
    } catch {
      throw UsageError(
        "\(path): network.portMapping: expected true or false", showsUsage: false)
    }
  }

  /// The file of a first start: the flags, and the defaults a reader wants to
  /// see. What came by the environment stays there (a token above all), and a
  /// port that may give way when taken is not made binding by being written.
  private static func newConfig(_ options: AgentOptions, _ flags: ResolvedFlags) -> ConfigFile {
    var file = ConfigFile()
    func put(_ flag: String, _ key: String, _ value: JSONValue, always: Bool = true) {
      let source = flags.source(flag)
      guard source == .flag || (always && source != .environment) else { return }
      file.set("network." + key, value)
    }
    put("token", "token", JSONValue(options.token.value))
    put("node", "node", .string(options.node))
    put("serverhost", "serverHost", .string(options.serverHost))
    put("serverport", "serverPort", JSONValue(options.serverPort))
    put("insecure", "insecure", .bool(options.insecure))
    put("relay", "relay", .bool(flags.bool("relay")))
    put("super", "super", .bool(options.isSuperRelay))
    put("relay-port", "relayPort", JSONValue(options.relayPort ?? 0), always: false)
    let megabits = options.relayKilobits
    put(
      "bw", "shareBandwidth",
      megabits % 1000 == 0 ? JSONValue(megabits / 1000) : JSONValue(Double(megabits) / 1000))
    put(
      "relay-policy", "relayPolicy", JSONValue(options.relayPolicies.map(\.description)),
      always: false)
    put("stun-udp1", "stunUDP1", JSONValue(options.stunUDP1 ?? 0), always: false)
    put("stun-udp2", "stunUDP2", JSONValue(options.stunUDP2 ?? 0), always: false)
    put("stun-tcp1", "stunTCP1", JSONValue(options.stunTCP1 ?? 0), always: false)
    put("stun-tcp2", "stunTCP2", JSONValue(options.stunTCP2 ?? 0), always: false)
    put("listen", "listen", .string(options.listen?.description ?? ""), always: false)
    put("port", "port", JSONValue(options.port ?? 0), always: false)
    put("proxy", "proxy", .string(options.proxy ?? ""), always: false)
    put("no-port-mapping", "portMapping", .bool(options.mapsPorts), always: false)
    put("allow", "allow", JSONValue(options.allow.map(\.description)), always: false)
    file.set("apps", .array([]))
    file.set("logLevel", .string(options.logLevel.rawValue))
    return file
  }
}
