/// `martlet` itself: its commands, and what they come to. `server`, `agent` and
/// `tunnel` are the tables of inp2ps, inp2pc and ztm under another name.

#if canImport(Bytes)
  import Bytes
  import Crypto
  import HTTP
  package import Tunnels
#endif

package enum MartletCommand: Hashable, Sendable {
  case status
  case ping(peer: String, count: UInt64)
  case why(peer: String)
  /// Nil: the agent's own server.
  case netcheck(serverHost: String?, ports: NetcheckPorts)
  case wireGuardAdd(
    name: String, publicKey: [UInt8], endpoint: HostPortPair?, allowed: [AddressBlock])
  case wireGuardKey
  /// Frees a node's name.
  case serverForget(node: String, mesh: String?, dataDirectory: String?)
  case serverKeyAdd(name: String, dataDirectory: String?)
  /// A random token; the driver draws it, 1…2^64−1.
  case randomToken
  /// Networks of namespaces with real NATs.
  case lab(LabInvocation)
}

package struct NetcheckPorts: Hashable, Sendable {
  package var serverPort = DefaultPort.webSocket
  package var stunUDP1 = DefaultPort.stunUDP1
  package var stunUDP2 = DefaultPort.stunUDP2
  package var stunTCP1 = DefaultPort.stunTCP1
  package var stunTCP2 = DefaultPort.stunTCP2
  package init() {}
}

/// A `martlet` command line of its own (not server, agent or tunnel).
package struct MartletInvocation: Hashable, Sendable {
  package var command: MartletCommand
  package var json: Bool
  package var agent: HostPortPair
  package var mesh: String?
}

package enum MartletTable {
  static let json = Flag("json", .bool, "print JSON")
  static let agent = Flag(
    "agent", .text, placeholder: "HOST:PORT", environment: "ZTM_AGENT",
    "the agent to ask (localhost:7777)")
  static let mesh = Flag("mesh", .name, environment: "ZTM_MESH", "the mesh (else the only one)")
  static let data = Flag(
    "data", .path, placeholder: "DIR", environment: "INP2P_DATA", "the server's state directory")

  package static let program = ProgramSpec(
    name: "martlet", summary: "self-hosted peer-to-peer network", style: .go, interspersed: true,
    commands: [
      CommandSpec([["server"]], flags: ServerTable.flags, "run a server, as inp2ps"),
      CommandSpec(
        [["server"], ["forget"]], [Positional("NODE")], flags: [mesh, data], "free a node's name"),
      CommandSpec(
        [["server"], ["key"], ["add"]], [Positional("NAME")], flags: [data],
        "make an API key for REST"),
      CommandSpec([["agent"]], flags: AgentTable.flags, "run an agent, as inp2pc"),
      CommandSpec(
        [["tunnel"]], [Positional("COMMAND", optional: true, repeats: true)],
        "get, describe, open or close tunnels, as ztm tunnel"),
      CommandSpec([["status"]], flags: [json, agent, mesh], "peers, paths, tunnels of this agent"),
      CommandSpec(
        [["ping"]], [Positional("PEER")],
        flags: [
          Flag("count", .number(1...1000), default: "5", "how many"), json, agent, mesh,
        ], "measure the way to a peer"),
      CommandSpec(
        [["why"]], [Positional("PEER")], flags: [json, agent, mesh],
        "why the path to a peer is the one it is, and what would improve it"),
      CommandSpec(
        [["netcheck"]],
        flags: [
          Flag(
            "serverhost", .host, environment: "INP2P_SERVERHOST", "server (else the agent's own)"),
          Flag("serverport", .port(zeroAllowed: false), default: "27183", "server's port"),
          Flag("stun-udp1", .port(zeroAllowed: false), default: "27182", "first UDP port of STUN"),
          Flag("stun-udp2", .port(zeroAllowed: false), default: "27183", "second UDP port of STUN"),
          Flag("stun-tcp1", .port(zeroAllowed: false), default: "27180", "first TCP port of STUN"),
          Flag("stun-tcp2", .port(zeroAllowed: false), default: "27181", "second TCP port of STUN"),
          json, agent,
        ], "what kind of NAT this machine is behind"),
      CommandSpec(
        [["token"]],
        [
          Positional("USER", optional: true, secret: true),
          Positional("PASSWORD", optional: true, secret: true),
        ],
        flags: [Flag("random", .bool, "a random token (better)")],
        "make a mesh token", examples: ["martlet token --random", "martlet token USER PASSWORD"]),
      CommandSpec(
        [["wg"], ["add"]], [Positional("NAME"), Positional("PUBKEY")],
        flags: [
          Flag("endpoint", .hostPort, "where the peer is"),
          Flag("allowed-ips", .block, many: .commas, placeholder: "CIDR,…", "its addresses"),
          agent, mesh,
        ], "add a stock WireGuard peer"),
      CommandSpec(
        [["wg"], ["key"]], flags: [json, agent, mesh],
        "print this agent's WireGuard public key"),
    ] + LabTable.commands + [
      CommandSpec([["version"]], flags: [json], "print the version"),
      CommandSpec([["completion"]], [Positional("bash|zsh")], "print a completion script"),
      CommandSpec(
        [["help"]], [Positional("COMMAND", optional: true, repeats: true)], "help on a command"),
    ],
    exitStatuses: [
      (0, "done"), (1, "it failed, or is not active yet"),
      (2, "bad command, flags or configuration file"),
      (3, "lab: this machine gives no network namespaces or no nftables"),
    ])

  /// CRC-64/ISO of user and password, as OpenP2P makes tokens.
  package static func token(user: String, password: String) -> UInt64 {
    CRC64ISO.checksum(Array((user + password).utf8))
  }

  static func invocation(
    _ parsed: ParsedCommand, environment: [String: String]
  ) throws(UsageError) -> MartletInvocation {
    let flags = try ResolvedFlags(parsed, program: program, environment: environment, config: nil)
    var agent = HostPortPair("localhost", DefaultPort.agentAPI)
    if let text = flags.text("agent") {
      guard let found = HostPortPair(agent: text) else {
        throw UsageError("-agent: expected HOST:PORT of the agent")
      }
      agent = found
    }
    let name = parsed.positionals.first ?? ""
    if parsed.command.positionals.first.map({ ["NODE", "PEER", "NAME"].contains($0.name) }) == true
    {
      do { try TunnelNaming.checkReference(name, field: .peerNode) } catch {
        throw UsageError(
          "\(parsed.command.positionals[0].name): expected \(FlagKind.name.expected)")
      }
    }
    let command: MartletCommand
    switch parsed.command.title {
    case "status": command = .status
    case "ping": command = .ping(peer: name, count: flags.number("count") ?? 5)
    case "why": command = .why(peer: name)
    case "netcheck":
      var ports = NetcheckPorts()
      ports.serverPort = flags.port("serverport") ?? ports.serverPort
      ports.stunUDP1 = flags.port("stun-udp1") ?? ports.stunUDP1
      ports.stunUDP2 = flags.port("stun-udp2") ?? ports.stunUDP2
      ports.stunTCP1 = flags.port("stun-tcp1") ?? ports.stunTCP1
      ports.stunTCP2 = flags.port("stun-tcp2") ?? ports.stunTCP2
      command = .netcheck(serverHost: flags.text("serverhost"), ports: ports)
    case "wg add":
      guard let key = Base64.decode(parsed.positionals[1]), key.count == 32 else {
        throw UsageError("PUBKEY: expected a WireGuard public key (44 characters of base64)")
      }
      command = .wireGuardAdd(
        name: name, publicKey: key,
        endpoint: flags.text("endpoint").flatMap { HostPortPair(agent: $0) },
        allowed: flags.texts("allowed-ips").compactMap { AddressBlock($0) })
    case "wg key": command = .wireGuardKey
    case "server forget":
      command = .serverForget(
        node: name, mesh: flags.text("mesh"), dataDirectory: flags.text("data"))
    case "server key add": command = .serverKeyAdd(name: name, dataDirectory: flags.text("data"))
    case "token": command = .randomToken
    case let title where title.hasPrefix("lab "):
      command = .lab(try LabTable.invocation(parsed, flags))
    default: preconditionFailure("\(parsed.command.title) is handled before")
    }
    if parsed.command.isInactive {
      throw UsageError(
        "\(parsed.command.title) is not active yet in this version", showsUsage: false,
        status: ExitStatus.failure)
    }
    return MartletInvocation(
      command: command, json: flags.bool("json"), agent: agent, mesh: flags.text("mesh"))
  }

  /// `martlet token`: prints, or asks the driver for randomness.
  static func token(_ parsed: ParsedCommand) throws(UsageError) -> CommandExit? {
    if parsed.bool("random") {
      guard parsed.positionals.isEmpty else {
        throw UsageError("token --random takes no user and password")
      }
      return nil
    }
    guard parsed.positionals.count == 2 else {
      throw UsageError("token needs USER and PASSWORD, or --random")
    }
    let token = token(user: parsed.positionals[0], password: parsed.positionals[1])
    return CommandExit(status: ExitStatus.success, output: "\(token)\n")
  }
}
