/// The commands of `ztm`, short and long forms, as a table. `martlet tunnel`
/// is the same table under another name.

#if canImport(Bytes)
  import Tunnels
#endif

enum ZTMTable {
  static let mesh = ["mesh", "meshes"]
  static let endpoint = ["ep", "eps", "endpoint", "endpoints"]
  static let app = ["app", "apps"]
  static let tunnel = ["tunnel", "tunnels"]
  static let inbound = ["inbound", "inbounds"]
  static let outbound = ["outbound", "outbounds"]

  static let json = Flag("json", .bool, "print JSON")

  static let globalFlags: [Flag] = [
    Flag(
      "mesh", short: "m", .name, environment: "ZTM_MESH",
      "the mesh to act on (else of ~/.ztm.conf, else the only one)"),
    Flag(
      "agent", .text, placeholder: "HOST:PORT", environment: "ZTM_AGENT",
      "the agent to ask (else of ~/.ztm.conf, else localhost:7777)"),
  ]

  static let agentFlags: [Flag] = [
    Flag("data", short: "d", .path, placeholder: "DIR", "state directory"),
    Flag("listen", short: "l", .listen, "local API"),
    Flag("join", .name, placeholder: "MESH", inactive: true, "join this mesh"),
    Flag("join-as", .name, placeholder: "ENDPOINT", inactive: true, "the endpoint's name in it"),
    Flag("permit", short: "p", .path, inactive: true, "permit for the mesh"),
  ]
  static let hubFlags: [Flag] = [
    Flag("data", short: "d", .path, placeholder: "DIR", "state directory"),
    Flag("listen", short: "l", .listen, "port of the hub"),
    Flag("names", short: "n", .hostPort, many: .words, "addresses under which agents find it"),
    Flag("permit", short: "p", .path, "where the root permit is written, once"),
  ]

  static let commands: [CommandSpec] = [
    CommandSpec([["start"], ["agent"]], flags: agentFlags, "start the agent in the background"),
    CommandSpec(
      [["start"], ["hub"]], flags: hubFlags, inactive: true, "start a hub in the background"),
    CommandSpec([["start"], ["app"]], [Positional("NAME")], "start an app (they are built in)"),
    CommandSpec([["stop"], ["agent"]], "stop the agent's service"),
    CommandSpec([["stop"], ["hub"]], inactive: true, "stop the hub's service"),
    CommandSpec([["stop"], ["app"]], [Positional("NAME")], inactive: true, "stop an app"),
    CommandSpec([["run"], ["agent"]], flags: agentFlags, "run an agent in the foreground"),
    CommandSpec(
      [["run"], ["hub"]], flags: hubFlags, inactive: true, "run a hub (a server with permits)"),
    CommandSpec(
      [["join"]], [Positional("MESH")],
      flags: [
        Flag(
          "as", .name, placeholder: "ENDPOINT", required: true, "this endpoint's name in the mesh"),
        Flag("permit", short: "p", .path, required: true, "permit file"),
      ], inactive: true, "join a mesh with a permit",
      examples: ["ztm join my-mesh --as laptop --permit permit.json"]),
    CommandSpec([["leave"]], [Positional("MESH")], inactive: true, "leave a mesh"),
    CommandSpec([["identity"]], inactive: true, "print this agent's public key"),
    CommandSpec(
      [["invite"]], [Positional("USER")],
      flags: [
        Flag("identity", short: "i", .path, "the invited agent's public key"),
        Flag("permit", short: "p", .path, "where to write the permit"),
      ], inactive: true, "make a permit for a user"),
    CommandSpec(
      [["evict"]], [Positional("USER")], inactive: true, "end a user's membership at once"),
    CommandSpec(
      [["app"], ["install"]], [Positional("NAME")], "install an app (tunnel is built in)"),
    CommandSpec(
      [["get"], mesh], [Positional("NAME", optional: true)], flags: [json], "list meshes"),
    CommandSpec(
      [["get"], endpoint], [Positional("NAME", optional: true)], flags: [json], "list endpoints"),
    CommandSpec([["get"], app], [Positional("NAME", optional: true)], flags: [json], "list apps"),
    CommandSpec([["describe"], mesh], [Positional("NAME")], flags: [json], "describe a mesh"),
    CommandSpec(
      [["describe"], endpoint], [Positional("NAME")], flags: [json], "describe an endpoint"),
    CommandSpec([["describe"], app], [Positional("NAME")], flags: [json], "describe an app"),
    CommandSpec([["log"], app], [Positional("NAME")], flags: [json], "print an app's log"),
    CommandSpec(
      [["ping"], endpoint], [Positional("NAME", optional: true)], flags: [json], "ping endpoints"),
    CommandSpec(
      [["stats"], endpoint], [Positional("NAME", optional: true)], flags: [json], inactive: true,
      "traffic of endpoints"),
    CommandSpec(
      [["label"], endpoint],
      [Positional("NAME"), Positional("LABEL", optional: true, repeats: true)],
      inactive: true, "show or set an endpoint's labels"),
    CommandSpec(
      [["tunnel"], ["get"], tunnel], [Positional("NAME", optional: true)], flags: [json],
      "list tunnels"),
    CommandSpec(
      [["tunnel"], ["get"], inbound], [Positional("NAME", optional: true)], flags: [json],
      "list inbounds"),
    CommandSpec(
      [["tunnel"], ["get"], outbound], [Positional("NAME", optional: true)], flags: [json],
      "list outbounds"),
    CommandSpec(
      [["tunnel"], ["describe"], tunnel], [Positional("NAME")], flags: [json], "describe a tunnel"),
    CommandSpec(
      [["tunnel"], ["describe"], inbound], [Positional("NAME")], flags: [json],
      "describe an inbound"),
    CommandSpec(
      [["tunnel"], ["describe"], outbound], [Positional("NAME")], flags: [json],
      "describe an outbound"),
    CommandSpec(
      [["tunnel"], ["open"], inbound], [Positional("NAME")],
      flags: [
        Flag("listen", .listen, many: .words, required: true, "where to listen (IP: 127.0.0.1)"),
        Flag("listens", .listen, many: .words, "same as --listen"),
        Flag(
          "exits", .name, many: .words, placeholder: "EP",
          "endpoints to leave by (any that offers it)"),
        Flag(
          "relay", .relay, "relays: never, only, via:EP, not:EP, with commas"),
        Flag(
          "policy", .choice(TrafficPolicy.words),
          "its traffic: urgent, patient, or not worth others' relays"),
      ], "open the near half of a tunnel",
      examples: ["ztm tunnel open inbound my-tunnel --listen 0.0.0.0:9000 --exits ENDPOINT-ID"]),
    CommandSpec(
      [["tunnel"], ["open"], outbound], [Positional("NAME")],
      flags: [
        Flag("targets", .target, many: .words, required: true, "what to reach, or unix:/path"),
        Flag("entrances", .name, many: .words, placeholder: "EP", "endpoints admitted (all)"),
        Flag("users", .name, many: .words, placeholder: "USER", "users admitted (all)"),
      ], "open the far half of a tunnel",
      examples: ["ztm tunnel open outbound my-tunnel --targets 192.168.1.100:8080"]),
    CommandSpec([["tunnel"], ["close"], inbound], [Positional("NAME")], "close the near half"),
    CommandSpec([["tunnel"], ["close"], outbound], [Positional("NAME")], "close the far half"),
    CommandSpec([["config"]], flags: [json], "show or set (--agent, --mesh) ~/.ztm.conf"),
    CommandSpec([["version"]], flags: [json], "print the version"),
    CommandSpec([["completion"]], [Positional("bash|zsh")], "print a completion script"),
    CommandSpec(
      [["help"]], [Positional("COMMAND", optional: true, repeats: true)], "help on a command"),
  ]

  static let exitStatuses: [(status: Int32, meaning: String)] = [
    (0, "done"), (1, "the agent refused, cannot be reached, or the command is not active yet"),
    (2, "bad command or options"),
  ]

  static let program = ProgramSpec(
    name: "ztm", summary: "command line of the agent", style: .ztm, interspersed: true,
    globalFlags: globalFlags, commands: commands, exitStatuses: exitStatuses)

  /// `martlet tunnel …`.
  static let martletTunnel = ProgramSpec(
    name: "martlet", summary: "named tunnels", style: .ztm, interspersed: true,
    globalFlags: globalFlags, commands: commands.filter { $0.path[0] == ["tunnel"] },
    exitStatuses: exitStatuses)
}
