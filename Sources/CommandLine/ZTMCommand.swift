/// What `ztm` was asked to do, as a value. Which agent and mesh are meant
/// follows option > environment > ~/.ztm.conf > default. Implements the
/// commands of the ZTM face; speaks to nobody.

#if canImport(Bytes)
  import HTTP
  package import Tunnels
#endif

package enum ZTMObject: String, Hashable, Sendable {
  case mesh, endpoint, app
}

package enum TunnelObject: String, Hashable, Sendable {
  case tunnel, inbound, outbound
}

/// Options of `run agent` and `start agent`.
package struct ZTMAgentOptions: Hashable, Sendable {
  package init(dataDirectory: String? = nil, listen: ListenAddress? = nil) {
    self.dataDirectory = dataDirectory
    self.listen = listen
  }
  package var dataDirectory: String?
  package var listen: ListenAddress?
}

package enum ZTMCommand: Hashable, Sendable {
  case runAgent(ZTMAgentOptions)
  case startAgent(ZTMAgentOptions)
  case stopAgent
  /// Succeeds for the built-in ones, and says so.
  case installApp(String)
  case startApp(String)
  case get(ZTMObject, name: String?)
  case describe(ZTMObject, name: String)
  case logApp(String)
  case ping(endpoint: String?)
  case tunnelGet(TunnelObject, TunnelReference?)
  case tunnelDescribe(TunnelObject, TunnelReference)
  case openInbound(
    TunnelReference, listens: [ListenAddress], exits: [EndpointReference],
    relay: RelayPolicy = RelayPolicy(), policy: TrafficPolicy = .usual)
  case openOutbound(
    TunnelReference, targets: [TunnelTarget], entrances: [EndpointReference], users: [String])
  case close(TunnelObject, TunnelReference)
  /// Both nil: show.
  case config(agent: String?, mesh: String?)
}

/// A `ztm` command line taken apart.
package struct ZTMInvocation: Hashable, Sendable {
  package var command: ZTMCommand
  package var json: Bool
  /// Of option, `mesh NAME`, environment or file; nil: the only one joined.
  package var mesh: String?
  /// Of option, environment, file or default.
  package var agent: HostPortPair
  /// Said before anything else, on standard error.
  package var notices: [String] = []
  /// `ztm` or `martlet`, for messages.
  package var program: String
}

/// Where the agent's API is.
package struct HostPortPair: Hashable, Sendable, CustomStringConvertible {
  package var host: String
  package var port: UInt16
  package init(_ host: String, _ port: UInt16) {
    self.host = host
    self.port = port
  }

  /// `HOST:PORT`, `HOST`, `PORT`, with or without `http://` and a final slash.
  package init?(agent text: String) {
    var rest = text[...]
    if rest.hasPrefix("http://") { rest = rest.dropFirst(7) }
    while rest.hasSuffix("/") { rest = rest.dropLast() }
    if let (host, port) = HostPort.split(rest, hostRequired: false) {
      let host = host.isEmpty ? "localhost" : host
      guard TunnelNaming.isHost(host) else { return nil }
      self.init(host, port)
    } else if TunnelNaming.isHost(rest) {
      self.init(String(rest), DefaultPort.agentAPI)
    } else {
      return nil
    }
  }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// `~/.ztm.conf`: `{"agent":"localhost:7777","mesh":"my-mesh"}`.
package struct ZTMSettings: Sendable, Equatable {
  package var agent: String?
  package var mesh: String?
  private var root = JSONObject()

  package init() {}

  /// Unknown keys are kept for `bytes()`.
  package init(parsing bytes: [UInt8]) throws(ConfigError) {
    let file = try ConfigFile(parsing: bytes)
    root = file.root
    func text(_ key: String) throws(ConfigError) -> String? {
      guard let value = file[key] else { return nil }
      guard let text = value.string else {
        throw ConfigError(field: key, words: "expected a string, found \(value.kind)")
      }
      return text.isEmpty ? nil : text
    }
    agent = try text("agent")
    mesh = try text("mesh")
  }

  package func bytes() -> [UInt8] {
    var object = root
    object[ignoringCase: "agent"] = agent.map(JSONValue.string)
    object[ignoringCase: "mesh"] = mesh.map(JSONValue.string)
    return JSONValue.object(object).bytes(.pretty)
  }
}

/// A `ztm` command line before ~/.ztm.conf was read.
package struct ZTMArguments: Sendable {
  let parsed: ParsedCommand
  let program: ProgramSpec
  let environment: [String: String]
  let prefixMesh: String?
  let remoteEndpoint: String?

  /// ~/.ztm.conf, or nil without a home.
  package var settingsPath: String? {
    guard let home = environment["HOME"], !home.isEmpty else { return nil }
    return (home.hasSuffix("/") ? String(home.dropLast()) : home) + "/.ztm.conf"
  }

  /// - Parameter settings: the bytes of `settingsPath`, nil when there is none.
  package func resolve(settings bytes: [UInt8]?) -> Parsed<ZTMInvocation> {
    do {
      return .run(try invocation(bytes))
    } catch {
      return .exit(HelpText.refusal(error, program, parsed.command))
    }
  }

  private func invocation(_ bytes: [UInt8]?) throws(UsageError) -> ZTMInvocation {
    let spec = parsed.command
    if spec.isInactive {
      throw UsageError(
        "\(spec.title) is not active yet in this version", showsUsage: false,
        status: ExitStatus.failure)
    }
    if let remoteEndpoint {
      throw UsageError(
        "acting on another endpoint (ep \(TunnelNaming.printable(remoteEndpoint)) …) is not active yet in this version",
        showsUsage: false, status: ExitStatus.failure)
    }
    var settings = ZTMSettings()
    if let bytes {
      do { settings = try ZTMSettings(parsing: bytes) } catch {
        throw UsageError("\(settingsPath ?? "~/.ztm.conf"): \(error)", showsUsage: false)
      }
    }
    let isConfig = spec.title == "config"
    func nonEmpty(_ name: String) -> String? {
      environment[name].flatMap { $0.isEmpty ? nil : $0 }
    }
    // `config --mesh` sets; elsewhere it selects.
    let mesh =
      (isConfig ? nil : parsed.text("mesh")) ?? prefixMesh ?? nonEmpty("ZTM_MESH") ?? settings.mesh
    let sources: [(String?, String)] = [
      (parsed.text("agent"), "--agent"), (nonEmpty("ZTM_AGENT"), "ZTM_AGENT"),
      (settings.agent, settingsPath ?? "~/.ztm.conf"),
    ]
    var agent = HostPortPair("localhost", DefaultPort.agentAPI)
    if let (text, origin) = sources.first(where: { $0.0 != nil }) {
      guard let found = HostPortPair(agent: text ?? "") else {
        throw UsageError("\(origin): expected HOST:PORT of the agent")
      }
      agent = found
    }
    let command: ZTMCommand
    do { command = try self.command(isConfig) } catch { throw UsageError("\(error)") }
    var notices: [String] = []
    for flag in spec.flags where flag.isInactive && parsed.flags[flag.name] != nil {
      notices.append("--\(flag.name) is not active yet in this version; it has no effect")
    }
    return ZTMInvocation(
      command: command, json: parsed.bool("json"), mesh: mesh, agent: agent, notices: notices,
      program: program.name)
  }

  private func command(_ isConfig: Bool) throws(DefinitionError) -> ZTMCommand {
    let words = parsed.command.path.map { $0[0] }
    let name = parsed.positionals.first
    let reference = { () throws(DefinitionError) -> TunnelReference in
      try TunnelReference(name ?? "")
    }
    switch words[0] {
    case "run": return .runAgent(try agentOptions())
    case "start": return words[1] == "app" ? .startApp(name ?? "") : .startAgent(try agentOptions())
    case "stop": return .stopAgent
    case "app": return .installApp(name ?? "")
    case "get": return .get(object(words[1]), name: name)
    case "describe": return .describe(object(words[1]), name: name ?? "")
    case "log": return .logApp(name ?? "")
    case "ping": return .ping(endpoint: name)
    case "config": return .config(agent: parsed.text("agent"), mesh: parsed.text("mesh"))
    case "tunnel": break
    default: preconditionFailure("\(words[0]) is handled before, or inactive")
    }
    guard let half = TunnelObject(rawValue: words[2]) else {
      preconditionFailure("the table names only tunnel, inbound and outbound")
    }
    switch words[1] {
    case "get": return .tunnelGet(half, name == nil ? nil : try reference())
    case "describe": return .tunnelDescribe(half, try reference())
    case "close": return .close(half, try reference())
    default: break
    }
    let reference1 = try reference()
    if half == .inbound {
      let texts = parsed.texts("listen")
      let exits = parsed.texts("exits")
      let inbound = try TunnelInbound(
        reference1.keys[0], listens: texts, exits: exits, relay: parsed.text("relay") ?? "",
        policy: parsed.text("policy") ?? "")
      return .openInbound(
        reference1, listens: inbound.listens, exits: inbound.exits, relay: inbound.relay,
        policy: inbound.policy)
    }
    // A bare name means udp too, which no Unix socket can carry; that is said
    // when the udp half is opened, so tcp's rules are the ones to check here.
    let outbound = try TunnelOutbound(
      reference1.keys[0], targets: parsed.texts("targets"), entrances: parsed.texts("entrances"),
      users: parsed.texts("users"))
    return .openOutbound(
      reference1, targets: outbound.targets, entrances: outbound.entrances, users: outbound.users)
  }

  private func agentOptions() throws(DefinitionError) -> ZTMAgentOptions {
    var options = ZTMAgentOptions()
    options.dataDirectory = parsed.text("data")
    if let text = parsed.text("listen") { options.listen = try ListenAddress(text) }
    return options
  }

  private func object(_ word: String) -> ZTMObject {
    switch word {
    case "mesh": .mesh
    case "ep": .endpoint
    default: .app
    }
  }
}

extension ZTMTable {
  /// `ztm …`: whole argv in.
  static func parse(
    _ arguments: [String], environment: [String: String], program: ProgramSpec = ZTMTable.program
  ) -> (result: Parsed<ZTMArguments>, secrets: [SecretArgument]) {
    // `mesh NAME <cmd>` and `ep NAME <cmd>` may stand before a command.
    var words = arguments
    var prefixMesh: String?
    var remoteEndpoint: String?
    while words.count > 3, program.name == "ztm" {
      if mesh.contains(words[1]) {
        prefixMesh = words[2]
      } else if endpoint.contains(words[1]) {
        remoteEndpoint = words[2]
      } else {
        break
      }
      words.removeSubrange(1...2)
    }
    do {
      switch try CommandParser.parse(program, words) {
      case .help(let found): return (.exit(HelpText.exit(program, found)), [])
      case .command(var parsed):
        // `--listens` is an older spelling.
        if let more = parsed.flags.removeValue(forKey: "listens") {
          parsed.flags["listen", default: []] += more
        }
        try Tree.requireFlags(parsed, program)
        if let exit = try Tree.builtIn(parsed, program) { return (.exit(exit), []) }
        return (
          .run(
            ZTMArguments(
              parsed: parsed, program: program, environment: environment, prefixMesh: prefixMesh,
              remoteEndpoint: remoteEndpoint)), []
        )
      }
    } catch {
      return (.exit(HelpText.refusal(error, program, Tree.command(program, words))), [])
    }
  }
}

/// What the programs that are trees of commands have in common.
enum Tree {
  static func requireFlags(_ parsed: ParsedCommand, _ program: ProgramSpec) throws(UsageError) {
    for flag in parsed.command.flags where flag.isRequired && parsed.flags[flag.name] == nil {
      throw UsageError("\(program.written(flag)) is required")
    }
  }

  /// `help`, `version` and `completion`, the same everywhere.
  static func builtIn(
    _ parsed: ParsedCommand, _ program: ProgramSpec
  ) throws(UsageError) -> CommandExit? {
    switch parsed.command.title {
    case "help":
      if parsed.positionals.isEmpty { return HelpText.exit(program, nil) }
      let depth = parsed.positionals.count
      let matching = program.commands.filter { command in
        command.path.count >= depth
          && zip(command.path, parsed.positionals).allSatisfy { $0.contains($1) }
      }
      guard !matching.isEmpty else {
        let words = parsed.positionals.joined(separator: " ")
        throw UsageError("no command \"\(TextTable.cell(words))\"")
      }
      if let exact = matching.first(where: { $0.path.count == depth }) {
        return HelpText.exit(program, exact)
      }
      var narrowed = program
      narrowed.commands = matching
      return HelpText.exit(narrowed, nil)
    case "version":
      if parsed.bool("json") {
        return CommandExit(
          status: ExitStatus.success, output: "{\"version\":\"\(ProductVersion.text)\"}\n")
      }
      return HelpText.version(program.name)
    case "completion":
      guard let shell = Completion.Shell(rawValue: parsed.positionals[0]) else {
        throw UsageError("completion is for bash or zsh")
      }
      return CommandExit(
        status: ExitStatus.success, output: Completion.script(program, shell))
    default: return nil
    }
  }

  /// The command that words begin with, for the usage line of an error.
  static func command(_ program: ProgramSpec, _ words: [String]) -> CommandSpec? {
    let plain = words.dropFirst().prefix { !$0.hasPrefix("-") }
    return program.commands.filter { command in
      command.path.count <= plain.count && !command.path.isEmpty
        && zip(command.path, plain).allSatisfy { $0.contains($1) }
    }.max { $0.path.count < $1.path.count }
  }
}
