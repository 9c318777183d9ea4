import CommandLine
import HTTP
import Testing
import Tunnels

private let id = "0123abcd-0000-1111-2222-333344445555"

private func ztm(
  _ line: String, _ environment: [String: String] = [:], settings: String? = nil
) throws -> ZTMInvocation {
  guard case .ztm(let arguments) = Program.parse(words(line), environment: environment).invocation
  else { throw Refused(exit(words(line), environment)) }
  switch arguments.resolve(settings: settings.map { Array($0.utf8) }) {
  case .run(let invocation): return invocation
  case .exit(let exit): throw Refused(exit)
  }
}

@Suite struct ZTMCommandTests {
  @Test func theShortFormSessionAsTyped() throws {
    func reference(_ text: String) throws -> TunnelReference { try TunnelReference(text) }
    func inbound(_ name: String, _ listen: String) throws -> ZTMCommand {
      .openInbound(try reference(name), listens: [try ListenAddress(listen)], exits: [.id(id)])
    }
    func outbound(_ name: String, _ target: String) throws -> ZTMCommand {
      .openOutbound(
        try reference(name), targets: [try TunnelTarget(target)], entrances: [], users: [])
    }
    let table: [(String, ZTMCommand)] = [
      ("ztm start agent", .startAgent(ZTMAgentOptions())),
      ("ztm app install tunnel", .installApp("tunnel")),
      (
        "ztm tunnel open outbound my-tunnel --targets 192.168.1.100:8080",
        try outbound("my-tunnel", "192.168.1.100:8080")
      ),
      (
        "ztm tunnel open inbound  my-tunnel --listen 0.0.0.0:9000 --exits \(id)",
        try inbound("my-tunnel", "0.0.0.0:9000")
      ),
      (
        "ztm tunnel open inbound  home-server --listen 0.0.0.0:22 --exits \(id.uppercased())",
        try inbound("home-server", "0.0.0.0:22")
      ),
      (
        "ztm tunnel open outbound home-server --targets 192.168.1.10:22",
        try outbound("home-server", "192.168.1.10:22")
      ),
      (
        "ztm tunnel open outbound dns-tunnel --targets 8.8.8.8:53",
        try outbound("dns-tunnel", "8.8.8.8:53")
      ),
      (
        "ztm tunnel open inbound dns-tunnel --listen 0.0.0.0:5300 --exits \(id)",
        try inbound("dns-tunnel", "0.0.0.0:5300")
      ),
      ("ztm tunnel get tunnel", .tunnelGet(.tunnel, nil)),
      ("ztm tunnel get inbound", .tunnelGet(.inbound, nil)),
      ("ztm tunnel get outbound", .tunnelGet(.outbound, nil)),
      (
        "ztm tunnel describe tunnel tcp/my-tunnel",
        .tunnelDescribe(.tunnel, try reference("tcp/my-tunnel"))
      ),
      (
        "ztm tunnel describe inbound tcp/my-tunnel",
        .tunnelDescribe(.inbound, try reference("tcp/my-tunnel"))
      ),
      (
        "ztm tunnel describe outbound tcp/my-tunnel",
        .tunnelDescribe(.outbound, try reference("tcp/my-tunnel"))
      ),
      ("ztm tunnel close inbound my-tunnel", .close(.inbound, try reference("my-tunnel"))),
      ("ztm tunnel close outbound my-tunnel", .close(.outbound, try reference("my-tunnel"))),
      ("ztm get mesh", .get(.mesh, name: nil)), ("ztm get ep", .get(.endpoint, name: nil)),
      ("ztm get app", .get(.app, name: nil)), ("ztm log app tunnel", .logApp("tunnel")),
      ("ztm get eps", .get(.endpoint, name: nil)), ("ztm get meshes", .get(.mesh, name: nil)),
      ("ztm describe ep laptop", .describe(.endpoint, name: "laptop")),
      ("ztm stop agent", .stopAgent), ("ztm ping ep", .ping(endpoint: nil)),
      (
        "ztm run agent -d /var/x -l7778",
        .runAgent(ZTMAgentOptions(dataDirectory: "/var/x", listen: try ListenAddress("7778")))
      ),
      ("ztm tunnel get inbounds tcp/x", .tunnelGet(.inbound, try reference("tcp/x"))),
    ]
    for (line, command) in table {
      let invocation = try ztm(line)
      #expect(invocation.command == command, "\(line)")
      #expect(
        !invocation.json && invocation.mesh == nil
          && invocation.agent.description == "localhost:7777", "\(line)")
    }
    // `martlet tunnel` is the same table.
    #expect(try ztm("martlet tunnel get tunnel").command == .tunnelGet(.tunnel, nil))
    #expect(try ztm("martlet tunnel get tunnel").program == "martlet")
  }

  @Test func arrayOptionsEatWordsAndRepeat() throws {
    let wanted = try ["a:1", "b:2", "c:3"].map { try TunnelTarget($0) }
    for line in [
      "ztm tunnel open outbound x --targets a:1 b:2 c:3 --users ann bob",
      "ztm tunnel open outbound --users ann bob --targets a:1 b:2 --targets=c:3 -- x",
      "ztm tunnel open outbound x --users=ann --users=bob --targets a:1 --targets b:2 c:3",
    ] {
      guard case .openOutbound(_, let targets, _, let users) = try ztm(line).command else {
        Issue.record("\(line)")
        continue
      }
      #expect(targets == wanted && users == ["ann", "bob"], "\(line)")
    }
  }

  @Test func whichAgentAndMesh() throws {
    let file = #"{"agent":"filehost:1","mesh":"filemesh"}"#
    func pair(_ line: String, _ environment: [String: String] = [:], _ settings: String? = nil)
      throws -> String
    {
      let invocation = try ztm(line, environment, settings: settings)
      return "\(invocation.agent) \(invocation.mesh ?? "-")"
    }
    #expect(try pair("ztm get ep") == "localhost:7777 -")
    #expect(try pair("ztm get ep", [:], file) == "filehost:1 filemesh")
    let environment = ["ZTM_AGENT": "http://localhost:7778/", "ZTM_MESH": "my-mesh-name"]
    #expect(try pair("ztm get ep", environment, file) == "localhost:7778 my-mesh-name")
    #expect(try pair("ztm get ep --agent 9 --mesh m", environment, file) == "localhost:9 m")
    #expect(try pair("ztm --mesh m get ep", environment) == "localhost:7778 m")
    #expect(try pair("ztm mesh other get ep", environment) == "localhost:7778 other")
    #expect(try pair("ztm get ep -mother", [:]) == "localhost:7777 other")
    #expect(try pair("ztm get ep --agent [::1]:5") == "[::1]:5 -")
    #expect(try pair("ztm get ep --agent 10.0.0.1") == "10.0.0.1:7777 -")
    #expect(
      refusal { _ = try ztm("ztm get ep", ["ZTM_AGENT": "https://x"]) }?.errorOutput.hasPrefix(
        "ztm: ZTM_AGENT") == true)
    #expect(refusal { _ = try ztm("ztm get ep", [:], settings: "{") }?.status == 2)
    let home = Program.parse(["ztm", "get", "ep"], environment: ["HOME": "/home/a"]).invocation
    guard case .ztm(let arguments) = home else { return #expect(Bool(false)) }
    #expect(arguments.settingsPath == "/home/a/.ztm.conf")
  }

  @Test func configShowsAndSets() throws {
    #expect(try ztm("ztm config").command == .config(agent: nil, mesh: nil))
    #expect(
      try ztm("ztm config --agent localhost:7778 --mesh m").command
        == .config(agent: "localhost:7778", mesh: "m"))
    var settings = try ZTMSettings(parsing: Array(#"{"agent":"a:1","extra":true}"#.utf8))
    settings.mesh = "m"
    settings.agent = nil
    #expect(JSONValue.object(["extra": true, "mesh": "m"]).bytes(.pretty) == settings.bytes())
  }

  @Test func laterCommandsAnswerClearly() throws {
    for line in [
      "ztm join my-mesh --as NAME --permit permit.json", "ztm leave my-mesh",
      "ztm invite ann -i f -p g",
      "ztm evict ann", "ztm identity", "ztm run hub --names h:1 -l 9 -d /x", "ztm start hub",
      "ztm label ep x a b", "ztm stats ep", "ztm ep laptop get mesh",
    ] {
      let refused = try #require(refusal { _ = try ztm(line) }, "\(line)")
      #expect(refused.status == 1 && refused.errorOutput.hasPrefix("ztm: "), "\(line)")
      #expect(refused.errorOutput.contains("not active yet"), "\(line)")
    }
    #expect(
      try ztm("ztm run agent --join m").notices.first?.contains("--join is not active yet") == true)
  }

  @Test func errorsGoToStandardErrorWithStatusTwo() throws {
    let table: [(String, String)] = [
      ("ztm", "no command given"), ("ztm tunnel", "one of: get, describe, open, close"),
      ("ztm tunnel open", "one of: inbound, outbound"), ("ztm frobnicate", "unknown command"),
      ("ztm tunnel open inbound", "NAME is missing"),
      ("ztm tunnel open inbound x", "--listen is required"),
      ("ztm tunnel open outbound x", "--targets is required"),
      ("ztm tunnel open inbound x --listen", "--listen needs a value"),
      ("ztm tunnel open inbound x --listen --exits a", "--listen needs a value"),
      ("ztm tunnel open inbound x --listen 0", "invalid value \"0\" for --listen"),
      ("ztm tunnel open inbound a/b --listen 1", "protocol \"a\""),
      ("ztm tunnel open outbound udp/x --targets unix:/a", "needs tcp"),
      ("ztm get ep a b", "unexpected argument \"b\""), ("ztm get ep --nope", "unknown flag --nope"),
      ("ztm join", "MESH is missing"), ("ztm join m", "--as is required"),
      ("ztm help nonsense", "no command"),
      ("ztm completion fish", "bash or zsh"),
      ("ztm tunnel open inbound x --listen 1 1", "given twice"),
    ]
    for (line, wanted) in table {
      let refused = try #require(refusal { _ = try ztm(line) }, "\(line)")
      #expect(refused.status == 2 && refused.output.isEmpty, "\(line)")
      #expect(
        refused.errorOutput.hasPrefix("ztm: ") && refused.errorOutput.contains(wanted),
        "\(line): \(refused.errorOutput)")
    }
  }

  @Test func helpForEveryCommand() throws {
    for name in Program.names {
      let program = try #require(Program.spec(name))
      for command in program.commands where !command.path.isEmpty {
        let line = [name] + command.path.map { $0[0] } + ["--help"]
        let help = try #require(exit(line), "\(line)")
        #expect(help.status == 0 && help.output.contains(command.title), "\(line)")
        let other = try #require(exit([name, "help"] + command.path.map { $0[0] }), "\(line)")
        #expect(other.output.contains(command.summary.dropFirst(1)), "\(line)")
      }
    }
    #expect(exit(["ztm", "help"])?.output.contains("tunnel open inbound NAME") == true)
    #expect(exit(["ztm", "help", "tunnel"])?.output.contains("join") == false)
  }
}

@Suite struct MartletTests {
  private func run(_ line: String, _ environment: [String: String] = [:]) throws
    -> MartletInvocation
  {
    guard
      case .martlet(let invocation) = Program.parse(words(line), environment: environment)
        .invocation
    else { throw Refused(exit(words(line), environment)) }
    return invocation
  }

  @Test func tokensHaveTheOriginalsValues() throws {
    #expect(exit(["martlet", "token", "admin", "123456"])?.output == "10200698124330278281\n")
    #expect(exit(["martlet", "token", "user", "password"])?.output == "14716095881315906574\n")
    #expect(exit(["martlet", "token", "", ""])?.output == "0\n")
    #expect(exit(["martlet", "token", "123", "456789"])?.output == "13333283586479230977\n")
    #expect(try run("martlet token --random").command == .randomToken)
    #expect(exit(["martlet", "token", "user"])?.status == 2)
    #expect(exit(["martlet", "token"])?.status == 2)
    #expect(exit(["martlet", "token", "-random", "a", "b"])?.status == 2)
  }

  @Test func commandsReachTheirValues() throws {
    let table: [(String, MartletCommand)] = [
      ("martlet status", .status), ("martlet ping nodeB", .ping(peer: "nodeB", count: 5)),
      ("martlet ping nodeB -count 2 --json", .ping(peer: "nodeB", count: 2)),
      ("martlet why nodeB", .why(peer: "nodeB")),
      ("martlet netcheck", .netcheck(serverHost: nil, ports: NetcheckPorts())),
      ("martlet netcheck -serverhost s", .netcheck(serverHost: "s", ports: NetcheckPorts())),
      (
        "martlet server forget nodeA -data /d",
        .serverForget(node: "nodeA", mesh: nil, dataDirectory: "/d")
      ),
      ("martlet server key add ci", .serverKeyAdd(name: "ci", dataDirectory: nil)),
    ]
    for (line, command) in table { #expect(try run(line).command == command, "\(line)") }
    #expect(try run("martlet ping nodeB -count 2 --json").json)
    #expect(
      try run("martlet status -agent localhost:1", ["ZTM_AGENT": "x:2"]).agent.description
        == "localhost:1")
    #expect(try run("martlet status", ["ZTM_AGENT": "x:2"]).agent.description == "x:2")
    for bad in [
      "martlet", "martlet ping", "martlet ping a b", "martlet server frob", "martlet wg",
      "martlet lab",
    ] {
      #expect(exit(words(bad))?.status == 2, "\(bad)")
    }
  }

  @Test func serverAndAgentTakeTheirProgramsFlags() throws {
    #expect(try server("martlet server -token 5 -ws-port 9").webSocketPort == 9)
    #expect(try agent("martlet agent -serverhost h -node n -token 5").options.node == "n")
    #expect(try agent("martlet inp2pc -serverhost h -node n -token 5").options.node == "n")
    let refused = try #require(refusal { _ = try server("martlet server") })
    #expect(refused.status == 2 && refused.errorOutput.contains("-token is required"))
    #expect(exit(["martlet", "server", "-version"])?.status == 0)
  }

  @Test func wireGuardPeersAreChecked() throws {
    let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
    #expect(
      exit(words("martlet wg add phone \(key) --endpoint h:1 --allowed-ips 10.0.0.2/32,fd00::/64"))
        == nil)
    #expect(exit(words("martlet wg add phone \(key.dropLast(2))h="))?.status == 2)
    #expect(exit(words("martlet wg add phone short"))?.status == 2)
  }
}

@Suite struct TextTests {
  @Test func tablesAlign() {
    var table = TextTable(["NAME", "USER", "ID"])
    table.add(["laptop (local)", "ann", "1"])
    table.add(["网", "b\u{1b}[2J", ""])
    #expect(
      table.text == """
        NAME            USER   ID
        laptop (local)  ann    1
        网              b?[2J

        """)
    #expect(TextTable(["A"]).text == "A\n")
  }

  @Test func numbersForPeople() {
    #expect(
      [0, 1023, 1024, 1536, 10 << 20, .max].map(Show.bytes) == [
        "0 B", "1023 B", "1 KB", "1.5 KB", "10 MB", "16 EB",
      ])
    #expect([0.42, 44, 1234].map(Show.milliseconds) == ["0.4 ms", "44 ms", "1.2 s"])
    #expect(
      [-1, 59, 60, 7800, 90_000].map { Show.age(seconds: $0) } == [
        "0s", "59s", "1m", "2h 10m", "1d 1h",
      ])
  }

  @Test func completionAndManualCoverTheTables() throws {
    for name in Program.names {
      let program = try #require(Program.spec(name))
      let manual = HelpText.manual(program)
      #expect(manual.hasPrefix(".TH \(name.uppercased()) 1"))
      for shell in Completion.Shell.allCases {
        let script = Completion.script(program, shell)
        for command in program.commands {
          for flag in command.flags {
            #expect(script.contains(program.written(flag)), "\(name) \(flag.name)")
            #expect(
              manual.contains(flag.name.split(separator: "-").joined(separator: "\\-")),
              "\(name) \(flag.name)")
          }
        }
      }
    }
  }
}
