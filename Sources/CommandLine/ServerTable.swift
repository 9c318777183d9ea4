/// `inp2ps` (and `martlet server`): its flags and what they come to. Implements
/// the server table of the INP2P face. Pure: the configuration file's bytes are
/// handed in, nothing is read here.

#if canImport(Bytes)
  package import Bytes
  import Tunnels
#endif

/// A mesh token; printing it shows nothing.
package struct MeshToken: Hashable, Sendable, CustomStringConvertible {
  package var value: UInt64
  package init(_ value: UInt64) { self.value = value }
  package var description: String { "(token)" }
}

package enum LogLevel: String, Hashable, Sendable, CaseIterable, Comparable {
  case debug, info, warn, error

  package static func < (a: LogLevel, b: LogLevel) -> Bool { a.rank < b.rank }
  private var rank: Int { Self.allCases.firstIndex(of: self) ?? 0 }

  /// What `logLevel` may be: the names, or OpenP2P's numbers.
  static let words = allCases.map(\.rawValue) + ["0", "1", "2", "3"]

  init?(word: String) {
    if let number = Int(word) {
      guard Self.allCases.indices.contains(number) else { return nil }
      self = Self.allCases[number]
    } else {
      self.init(rawValue: word)
    }
  }
}

/// Ports as the original has them.
package enum DefaultPort {
  package static let webSocket: UInt16 = 27183
  package static let stunUDP1: UInt16 = 27182
  package static let stunUDP2: UInt16 = 27183
  package static let stunTCP1: UInt16 = 27180
  package static let stunTCP2: UInt16 = 27181
  package static let relay: UInt16 = 27185
  package static let agentAPI: UInt16 = 7777
}

/// What a server is to do.
package struct ServerOptions: Hashable, Sendable {
  /// One mesh each; at least one, no two equal.
  package var tokens: [MeshToken]
  package var webSocketPort: UInt16 = DefaultPort.webSocket
  package var stunUDP1: UInt16 = DefaultPort.stunUDP1
  package var stunUDP2: UInt16 = DefaultPort.stunUDP2
  package var stunTCP1: UInt16 = DefaultPort.stunTCP1
  package var stunTCP2: UInt16 = DefaultPort.stunTCP2
  /// Second address for full RFC 5780.
  package var stunAlternateAddress: IPAddress?
  /// Both or neither; neither: a self-signed pair is made and kept.
  package var tlsCertificate: String?
  package var tlsKey: String?
  package var tlsProxied = false
  /// Nil: `ServerOptions.defaultDataDirectory`.
  package var dataDirectory: String?
  package var logLevel = LogLevel.info
  /// Said once at start.
  package var notices: [String] = []

  package init(tokens: [MeshToken]) { self.tokens = tokens }

  /// `$STATE_DIRECTORY` (its first entry), else /var/lib/inp2ps as root, else
  /// ~/.local/state/inp2ps; nil when there is no home either.
  package static func defaultDataDirectory(
    environment: [String: String], isRoot: Bool
  ) -> String? {
    if let state = environment["STATE_DIRECTORY"]?.split(separator: ":").first {
      return String(state)
    }
    if isRoot { return "/var/lib/inp2ps" }
    guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
    return (home.hasSuffix("/") ? String(home.dropLast()) : home) + "/.local/state/inp2ps"
  }
}

/// A server's command line before its configuration file was read.
package struct ServerArguments: Sendable {
  /// The file to read and to hand to `resolve`; nil: there is none.
  package var configPath: String?
  let parsed: ParsedCommand
  let program: ProgramSpec
  let environment: [String: String]

  /// - Parameter config: the bytes of `configPath`. A file that was named and
  ///   is not there is the caller's error to report.
  package func resolve(config: [UInt8]?) -> Parsed<ServerOptions> {
    do {
      return .run(try ServerTable.options(self, config: config))
    } catch {
      return .exit(HelpText.refusal(error, program, parsed.command))
    }
  }
}

package enum ServerTable {
  /// Tokens of one server (it answers a login with one share per mesh).
  package static let maximumMeshes = 16

  package static let flags: [Flag] = [
    Flag(
      "token", .uint64, many: .commas, placeholder: "TOKEN", environment: "INP2P_TOKEN",
      config: "server.token", required: true, secret: true,
      "mesh token; repeat it or separate with commas, each is a mesh of its own"),
    Flag(
      "ws-port", .port(zeroAllowed: false), default: "27183", config: "server.wsPort",
      "TCP port of signalling, REST and console; ws and wss alike"),
    Flag(
      "stun-udp1", .port(zeroAllowed: false), default: "27182", config: "server.stunUDP1",
      "first UDP port of STUN"),
    Flag(
      "stun-udp2", .port(zeroAllowed: false), default: "27183", config: "server.stunUDP2",
      "second UDP port of STUN"),
    Flag(
      "stun-tcp1", .port(zeroAllowed: false), default: "27180", config: "server.stunTCP1",
      "first TCP port of STUN"),
    Flag(
      "stun-tcp2", .port(zeroAllowed: false), default: "27181", config: "server.stunTCP2",
      "second TCP port of STUN"),
    Flag(
      "stun-alt-ip", .address, config: "server.stunAltIP",
      "second address of this host, for full RFC 5780"),
    Flag(
      "tls-cert", .path, config: "server.tlsCert",
      "TLS certificate (PEM); else a self-signed one is made and kept"),
    Flag("tls-key", .path, config: "server.tlsKey", "key of -tls-cert (PEM)"),
    Flag(
      "tls-proxied", .bool, config: "server.tlsProxied", inactive: true,
      "behind nginx or Caddy: leave TLS binding out"),
    Flag(
      "data", .path, placeholder: "DIR", environment: "INP2P_DATA", config: "server.data",
      "state directory; else $STATE_DIRECTORY, /var/lib/inp2ps or ~/.local/state/inp2ps"),
    Flag(
      "config", .path, environment: "INP2P_CONFIG",
      "configuration file (JSON, keys under \"server\")"),
    Flag(
      "log-level", .choice(LogLevel.words), placeholder: "LEVEL", default: "info",
      config: "logLevel", "debug, info, warn or error"),
    Flag("version", .bool, "print the version and exit"),
  ]

  static let examples = [
    "inp2ps -token 12345678 -ws-port 27183 -stun-udp1 27182 -stun-udp2 27183 -stun-tcp1 27180 -stun-tcp2 27181"
  ]

  package static let program = ProgramSpec(
    name: "inp2ps", summary: "coordination server of a Martlet network", style: .go,
    interspersed: false,
    commands: [
      CommandSpec([], flags: flags, "run the server until SIGTERM or SIGINT", examples: examples)
    ],
    exitStatuses: [
      (0, "stopped by a signal, or help or version printed"),
      (1, "a port is in use, or the state cannot be opened"),
      (2, "bad flags, environment or configuration file"),
    ])

  /// - Parameters:
  ///   - arguments: whole argv, argv[0] included.
  ///   - name: what the program was called as, for messages.
  package static func parse(
    _ arguments: [String], environment: [String: String]
  ) -> (result: Parsed<ServerArguments>, secrets: [SecretArgument]) {
    let (result, secrets) = SingleCommand.parse(program, arguments)
    switch result {
    case .exit(let exit): return (.exit(exit), secrets)
    case .run(let parsed):
      return (.run(self.arguments(parsed, program: program, environment: environment)), secrets)
    }
  }

  static func arguments(
    _ parsed: ParsedCommand, program: ProgramSpec, environment: [String: String]
  ) -> ServerArguments {
    let fromEnvironment = environment["INP2P_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
    return ServerArguments(
      configPath: parsed.text("config") ?? fromEnvironment, parsed: parsed, program: program,
      environment: environment)
  }

  static func options(
    _ arguments: ServerArguments, config bytes: [UInt8]?
  ) throws(UsageError) -> ServerOptions {
    let config = try bytes.map { bytes throws(UsageError) in
      try SingleCommand.config(bytes, path: arguments.configPath)
    }
    let flags = try ResolvedFlags(
      arguments.parsed, program: arguments.program, environment: arguments.environment,
      config: config)
    var options = ServerOptions(tokens: [])
    for token in flags.numbers("token").map(MeshToken.init) where !options.tokens.contains(token) {
      options.tokens.append(token)
    }
    guard options.tokens.count <= maximumMeshes else {
      throw UsageError(
        "more than \(maximumMeshes) tokens; one server holds at most \(maximumMeshes) meshes")
    }
    options.webSocketPort = flags.port("ws-port") ?? options.webSocketPort
    options.stunUDP1 = flags.port("stun-udp1") ?? options.stunUDP1
    options.stunUDP2 = flags.port("stun-udp2") ?? options.stunUDP2
    options.stunTCP1 = flags.port("stun-tcp1") ?? options.stunTCP1
    options.stunTCP2 = flags.port("stun-tcp2") ?? options.stunTCP2
    try distinct([("-stun-udp1", options.stunUDP1), ("-stun-udp2", options.stunUDP2)])
    try distinct([
      ("-ws-port", options.webSocketPort), ("-stun-tcp1", options.stunTCP1),
      ("-stun-tcp2", options.stunTCP2),
    ])
    options.stunAlternateAddress = flags.text("stun-alt-ip").flatMap { IPAddress($0) }
    if let second = options.stunAlternateAddress,
      second.isUnspecified || second.isMulticast || second.isBroadcast
    {
      throw UsageError("-stun-alt-ip \(second) is not an address a host can have")
    }
    options.tlsCertificate = flags.text("tls-cert")
    options.tlsKey = flags.text("tls-key")
    guard (options.tlsCertificate == nil) == (options.tlsKey == nil) else {
      throw UsageError("-tls-cert and -tls-key belong together; one is missing")
    }
    options.tlsProxied = flags.bool("tls-proxied")
    options.dataDirectory = flags.text("data")
    options.logLevel = flags.text("log-level").flatMap(LogLevel.init(word:)) ?? .info
    options.notices = flags.notices
    return options
  }

  private static func distinct(_ ports: [(flag: String, port: UInt16)]) throws(UsageError) {
    for (index, one) in ports.enumerated() {
      for other in ports[..<index] where other.port == one.port {
        throw UsageError("\(other.flag) and \(one.flag) are both \(one.port)")
      }
    }
  }
}

/// What the programs that are one command have in common.
enum SingleCommand {
  static func parse(
    _ program: ProgramSpec, _ arguments: [String]
  ) -> (Parsed<ParsedCommand>, [SecretArgument]) {
    let command = program.commands[0]
    do {
      switch try CommandParser.parse(program, arguments) {
      case .help: return (.exit(HelpText.exit(program, command)), [])
      case .command(let parsed):
        if parsed.bool("version") {
          return (.exit(HelpText.version(program.name)), parsed.secrets)
        }
        return (.run(parsed), parsed.secrets)
      }
    } catch {
      // A refused line ends the process at once; there is nothing to wipe for.
      return (.exit(HelpText.refusal(error, program, command)), [])
    }
  }

  static func config(_ bytes: [UInt8], path: String?) throws(UsageError) -> ConfigFile {
    do {
      return try ConfigFile(parsing: bytes)
    } catch {
      throw UsageError("\(path ?? "configuration file"): \(error)", showsUsage: false)
    }
  }
}
