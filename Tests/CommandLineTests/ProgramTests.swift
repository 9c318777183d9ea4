import Bytes
import CommandLine
import HTTP
import Testing
import Tunnels

func words(_ line: String) -> [String] { line.split(separator: " ").map(String.init) }

func exit(_ line: [String], _ environment: [String: String] = [:]) -> CommandExit? {
  if case .exit(let exit) = Program.parse(line, environment: environment).invocation {
    exit
  } else {
    nil
  }
}

func server(
  _ line: String, _ environment: [String: String] = [:], config: String? = nil
) throws -> ServerOptions {
  guard
    case .server(let arguments) = Program.parse(words(line), environment: environment).invocation
  else { throw Refused(exit(words(line), environment)) }
  switch arguments.resolve(config: config.map { Array($0.utf8) }) {
  case .run(let options): return options
  case .exit(let exit): throw Refused(exit)
  }
}

func agent(
  _ line: String, _ environment: [String: String] = [:], config: String? = nil
) throws -> AgentArguments.Resolved {
  guard case .agent(let arguments) = Program.parse(words(line), environment: environment).invocation
  else { throw Refused(exit(words(line), environment)) }
  switch arguments.resolve(config: config.map { Array($0.utf8) }) {
  case .run(let resolved): return resolved
  case .exit(let exit): throw Refused(exit)
  }
}

struct Refused: Error {
  var exit: CommandExit?
  init(_ exit: CommandExit?) { self.exit = exit }
}

func refusal(_ body: () throws -> Void) -> CommandExit? {
  do {
    try body()
    return nil
  } catch { return (error as? Refused)?.exit }
}

@Suite struct QuickStartTests {
  @Test func serverAsTyped() throws {
    for program in ["inp2ps", "bin/inp2ps", "/usr/local/bin/inp2ps"] {
      let options = try server(
        program
          + " -token 12345678 -ws-port 27183 -stun-udp1 27182 -stun-udp2 27183 -stun-tcp1 27180 -stun-tcp2 27181"
      )
      var wanted = ServerOptions(tokens: [MeshToken(12_345_678)])
      wanted.webSocketPort = 27183
      wanted.stunUDP1 = 27182
      wanted.stunUDP2 = 27183
      wanted.stunTCP1 = 27180
      wanted.stunTCP2 = 27181
      #expect(options == wanted)
      let defaults = ServerOptions(tokens: [MeshToken(12_345_678)])
      #expect(options == defaults, "the flags are the defaults, and all are active")
    }
  }

  @Test func agentsAsTyped() throws {
    let a = try agent(
      "inp2pc -serverhost your-server.com -serverport 27183 -node nodeA -token 12345678 -relay -config config.json -newconfig",
      config: "this is not JSON and must not matter")
    #expect(a.options.serverHost == "your-server.com" && a.options.serverPort == 27183)
    #expect(a.options.node == "nodeA" && a.options.token == MeshToken(12_345_678))
    #expect(a.options.isRelay && !a.options.isSuperRelay && !a.options.insecure)
    #expect(a.options.relayPort == nil && a.options.relayKilobits == 10_000)
    #expect(a.options.dataDirectory == "./.inp2p/nodeA" && a.options.configPath == "config.json")
    #expect(a.options.listen == nil && a.options.port == nil)
    let saved = String(decoding: try #require(a.configToSave), as: UTF8.self)
    #expect(
      saved == """
        {
          "network": {
            "token": 12345678,
            "node": "nodeA",
            "serverHost": "your-server.com",
            "serverPort": 27183,
            "insecure": false,
            "relay": true,
            "super": false,
            "shareBandwidth": 10
          },
          "apps": [],
          "logLevel": "info"
        }

        """)
    // The next start needs no flag at all.
    let again = try agent("inp2pc", config: saved)
    var asBefore = a.options
    asBefore.notices = again.options.notices
    #expect(again.options == asBefore && again.configToSave == nil)
    // Nobody asked for the defaults that were saved, so nothing is said of them.
    #expect(!again.options.notices.contains { $0.contains("-bw") || $0.contains("-super") })

    let b = try agent(
      "inp2pc -serverhost your-server.com -serverport 27183 -node nodeB -token 12345678 -config config.json -newconfig"
    )
    #expect(b.options.node == "nodeB" && !b.options.isRelay)
    #expect(b.options.dataDirectory != a.options.dataDirectory, "both may run in one directory")

    let service = try agent(
      "/usr/local/bin/inp2pc -serverhost your-server.com -node mynode -token 13666999958022769123 -insecure"
    )
    #expect(service.options.insecure && service.options.serverPort == 27183)
    #expect(service.configToSave != nil, "a missing file is created")
  }

  @Test func secretsAreReportedWithTheirPlaces() {
    let cases: [([String], [SecretArgument])] = [
      (["inp2pc", "-token", "123", "-node", "a"], [SecretArgument(index: 2, offset: 0)]),
      (["inp2pc", "--token=123"], [SecretArgument(index: 1, offset: 8)]),
      (
        ["inp2ps", "-token", "1", "-token=2,3"],
        [SecretArgument(index: 2, offset: 0), SecretArgument(index: 3, offset: 7)]
      ),
      (["martlet", "agent", "-token", "5"], [SecretArgument(index: 3, offset: 0)]),
      (["martlet", "inp2pc", "-token", "5"], [SecretArgument(index: 3, offset: 0)]),
    ]
    for (line, wanted) in cases {
      #expect(Program.parse(line, environment: [:]).secrets == wanted, "\(line)")
    }
    #expect("\(MeshToken(12_345_678))" == "(token)")
  }
}

@Suite struct ServerTableTests {
  @Test func tokensAreMeshes() throws {
    #expect(try server("inp2ps -token 1,2 -token 3 -token 1").tokens.map(\.value) == [1, 2, 3])
    #expect(try server("inp2ps -token 0").tokens.map(\.value) == [0])
    #expect(try server("inp2ps -token 18446744073709551615").tokens.map(\.value) == [.max])
    for bad in [
      "inp2ps", "inp2ps -token abc", "inp2ps -token -1", "inp2ps -token 18446744073709551616",
      "inp2ps -token 1,", "inp2ps -token", "inp2ps -token=", "inp2ps -token 1 extra",
      "inp2ps -token +1", "inp2ps -token 0x1",
    ] {
      let refused = try #require(refusal { _ = try server(bad) }, "\(bad)")
      #expect(refused.status == 2 && refused.output.isEmpty, "\(bad)")
      #expect(
        refused.errorOutput.contains("Usage: inp2ps") && refused.errorOutput.contains("-stun-udp1"),
        "\(bad)")
    }
    let many = (1...17).map(String.init).joined(separator: ",")
    #expect(refusal { _ = try server("inp2ps -token \(many)") }?.errorOutput.contains("16") == true)
  }

  @Test func helpAndVersionExitZero() throws {
    for line in [
      ["inp2ps", "-h"], ["inp2ps", "--help"], ["inp2ps", "-help"], ["inp2pc", "-h"],
      ["inp2ps", "-token", "1", "-h"],
    ] {
      let help = try #require(exit(line))
      #expect(
        help.status == 0 && help.errorOutput.isEmpty && help.output.contains("Usage: "), "\(line)")
    }
    #expect(exit(["inp2ps", "-version"])?.output == "inp2ps version 0.1.0\n")
    #expect(exit(["inp2pc", "--version"])?.output == "inp2pc version 0.1.0\n")
    #expect(exit(["martlet", "--version"])?.output == "martlet version 0.1.0\n")
    #expect(exit(["ztm", "version", "--json"])?.output == "{\"version\":\"0.1.0\"}\n")
  }

  @Test func flagBeatsEnvironmentBeatsFile() throws {
    let file = #"{"server":{"Token":[7,"8"],"WSPORT":1000,"data":"/file"},"loglevel":2}"#
    #expect(try server("inp2ps -config f", config: file).tokens.map(\.value) == [7, 8])
    #expect(try server("inp2ps", ["INP2P_TOKEN": "5"], config: file).tokens.map(\.value) == [5])
    #expect(
      try server("inp2ps -token 4", ["INP2P_TOKEN": "5"], config: file).tokens.map(\.value) == [4])
    let options = try server("inp2ps -ws-port=1001", ["INP2P_DATA": "/env"], config: file)
    #expect(
      options.webSocketPort == 1001 && options.dataDirectory == "/env" && options.logLevel == .warn)
    #expect(
      try server("inp2ps", ["INP2P_TOKEN": "", "INP2P_DATA": ""], config: file).dataDirectory
        == "/file")
  }

  @Test func portsMustDifferPerProtocol() throws {
    #expect(
      refusal { _ = try server("inp2ps -token 1 -stun-udp1 5 -stun-udp2 5") }?.errorOutput
        .contains("-stun-udp1 and -stun-udp2 are both 5") == true)
    #expect(
      refusal { _ = try server("inp2ps -token 1 -ws-port 27180") }?.errorOutput
        .contains("-ws-port and -stun-tcp1") == true)
    #expect(try server("inp2ps -token 1 -stun-udp1 27180").stunUDP1 == 27180)
    #expect(refusal { _ = try server("inp2ps -token 1 -tls-cert c.pem") }?.status == 2)
  }

  @Test func dataDirectoryDefaults() {
    func directory(_ environment: [String: String], _ isRoot: Bool) -> String? {
      ServerOptions.defaultDataDirectory(environment: environment, isRoot: isRoot)
    }
    #expect(directory(["STATE_DIRECTORY": "/var/lib/x:/var/lib/y"], true) == "/var/lib/x")
    #expect(directory(["HOME": "/root"], true) == "/var/lib/inp2ps")
    #expect(directory(["HOME": "/home/a/"], false) == "/home/a/.local/state/inp2ps")
    #expect(directory([:], false) == nil)
  }

  @Test func laterFeaturesAreCheckedAndSaid() throws {
    let options = try server("inp2ps -token 1 -tls-proxied")
    #expect(options.notices == ["-tls-proxied is not active yet in this version; it has no effect"])
  }

  @Test func theSecondSTUNAddressIsAnAddress() throws {
    for address in ["1.2.3.4", "2001:db8::2"] {
      let options = try server("inp2ps -token 1 -stun-alt-ip \(address)")
      #expect(options.stunAlternateAddress?.description == address && options.notices.isEmpty)
    }
    for address in ["x", "1.2.3.4:5", "1.2.3", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255"] {
      let refused = refusal { _ = try server("inp2ps -token 1 -stun-alt-ip \(address)") }
      #expect(refused?.status == 2, "\(address)")
      #expect(refused?.errorOutput.contains("-stun-alt-ip") == true, "\(address)")
    }
  }

  @Test func noSTUNPortIsZero() {
    for flag in ["stun-udp1", "stun-udp2", "stun-tcp1", "stun-tcp2"] {
      let refused = refusal { _ = try server("inp2ps -token 1 -\(flag) 0") }
      #expect(refused?.status == 2 && refused?.errorOutput.contains("-\(flag)") == true)
    }
  }
}

@Suite struct AgentTableTests {
  private let base = "inp2pc -serverhost h -node n -token 1"

  @Test func requiredMayComeFromAnywhere() throws {
    for missing in [
      "inp2pc -node n -token 1", "inp2pc -serverhost h -token 1", "inp2pc -serverhost h -node n",
    ] {
      let refused = try #require(refusal { _ = try agent(missing) })
      #expect(refused.status == 2 && refused.errorOutput.contains("is required"))
      #expect(refused.errorOutput.contains("Usage: inp2pc"))
    }
    let environment = [
      "INP2P_TOKEN": "9", "INP2P_NODE": "e", "INP2P_SERVERHOST": "eh", "INP2P_SERVERPORT": "99",
      "INP2P_INSECURE": "1", "INP2P_RELAY": "true", "INP2P_RELAY_PORT": "98", "INP2P_BW": "2.5",
      "INP2P_CONFIG": "/etc/x/c.json", "INP2P_LISTEN": "7778",
    ]
    let resolved = try agent("inp2pc", environment)
    let options = resolved.options
    #expect(
      options.token.value == 9 && options.node == "e" && options.serverHost == "eh"
        && options.serverPort == 99)
    #expect(
      options.insecure && options.isRelay && options.relayPort == 98
        && options.relayKilobits == 2500)
    #expect(
      options.listen?.description == "127.0.0.1:7778" && options.configPath == "/etc/x/c.json")
    #expect(options.dataDirectory == "/etc/x/.inp2p/e")
    let saved = String(decoding: try #require(resolved.configToSave), as: UTF8.self)
    #expect(
      !saved.contains("token") && !saved.contains("\"e\""),
      "the environment stays in the environment")
    #expect(
      refusal { _ = try agent("inp2pc", environment.merging(["INP2P_INSECURE": "maybe"]) { $1 }) }?
        .errorOutput.contains("INP2P_INSECURE") == true)
    #expect(try agent(base + " -insecure=false", ["INP2P_INSECURE": "1"]).options.insecure == false)
  }

  @Test func portMappingIsOnUnlessSomebodySaysNo() throws {
    let off = #"{"network": {"portMapping": false}}"#
    let on = #"{"Network": {"PortMapping": 1}}"#
    #expect(try agent(base).options.mapsPorts)
    #expect(try agent(base, config: on).options.mapsPorts)
    #expect(try !agent(base, config: off).options.mapsPorts)
    #expect(try !agent(base + " -no-port-mapping").options.mapsPorts)
    #expect(try !agent(base + " -no-port-mapping", config: on).options.mapsPorts)
    #expect(try agent(base + " -no-port-mapping=false", config: off).options.mapsPorts)
    #expect(try !agent(base, ["INP2P_NO_PORT_MAPPING": "1"], config: on).options.mapsPorts)
    let refused = try #require(
      refusal { _ = try agent(base, config: #"{"network": {"portMapping": "perhaps"}}"#) })
    #expect(refused.errorOutput.contains("network.portMapping"))
    // What was chosen at the first start stays chosen.
    let first = try agent(base + " -no-port-mapping -newconfig")
    let file = String(decoding: try #require(first.configToSave), as: UTF8.self)
    #expect(try !agent(base, config: file).options.mapsPorts)
    #expect(
      !String(decoding: try #require(agent(base).configToSave), as: UTF8.self).contains(
        "portMapping"))
  }

  @Test func everyFlagReachesItsOption() throws {
    let options = try agent(
      base
        + " --serverport=1 -relay-port 2 -bw 0 -config /d/c -stun-udp1 3 -stun-udp2 4 -stun-tcp1 5 -stun-tcp2 6"
        + " -port 7 -listen 0.0.0.0:8 -data /data -allow 192.168.1.0/24:80,443 -allow nas:22 -api-users ann,1001"
        + " -proxy http://p:3128 -mesh home -no-remote-apps -log-level debug -super"
    ).options
    #expect(options.serverPort == 1 && options.relayPort == 2 && options.relayKilobits == 0)
    #expect(options.configPath == "/d/c" && options.dataDirectory == "/data")
    #expect(
      [options.stunUDP1, options.stunUDP2, options.stunTCP1, options.stunTCP2] == [3, 4, 5, 6])
    #expect(options.port == 7 && options.listen?.description == "0.0.0.0:8")
    #expect(options.allow.map(\.description) == ["192.168.1.0/24:80,443", "nas:22"])
    #expect(
      options.apiUsers == ["ann", "1001"] && options.proxy == "http://p:3128"
        && options.mesh == "home")
    #expect(
      !options.takesRemoteApps && options.logLevel == .debug && options.isSuperRelay
        && options.isRelay)
    let isSaid = options.notices.contains { notice in
      ["-relay", "-super", "-bw"].contains { notice.contains($0) }
    }
    #expect(!isSaid, "relays are active")
  }

  @Test func booleansTakeAValueOnlyWithEquals() throws {
    #expect(try agent(base + " -relay=0").options.isRelay == false)
    let refused = try #require(refusal { _ = try agent(base + " -relay true") })
    #expect(refused.errorOutput.contains("unexpected argument \"true\""))
  }

  @Test func anOpenP2PFileLoads() throws {
    let file = #"""
      {"network":{"Token":"11602319472897248650","Node":"hhd1207-222","User":"x","ShareBandwidth":10,
        "ServerHost":"api.example.com","ServerPort":27183,"UDPPort1":27182,"TCPPort":50448},
       "apps":[{"AppName":"OfficeSSH","Protocol":"tcp","SrcPort":22,"PeerNode":"OFFICEPC1","DstPort":22,
        "DstHost":"localhost","PeerUser":"","Enabled":1},
        {"appName":"self","srcPort":23,"peerNode":"hhd1207-222","dstPort":1,"enabled":0}],"LogLevel":1}
      """#
    let resolved = try agent("inp2pc", config: file)
    #expect(resolved.options.token.value == 11_602_319_472_897_248_650)
    #expect(resolved.options.node == "hhd1207-222" && resolved.options.logLevel == .info)
    #expect(resolved.configToSave == nil)
    #expect(resolved.options.apps.count == 1)
    #expect(resolved.options.apps[0].dstHost == "localhost" && resolved.options.apps[0].enabled)
    #expect(resolved.options.notices.contains { $0.contains("tcp:23") && $0.contains("ignored") })
    #expect(try agent("inp2pc -node other", config: file).options.apps.count == 2)
  }

  @Test func fileErrorsNameLineOrField() throws {
    let table: [(String, String)] = [
      ("{\n  \"network\": {\n    \"token\": 1,,\n", "config.json: line 3"),
      (#"{"network":{"token":1.5}}"#, "network.token"),
      (#"{"network":{"token":-1}}"#, "network.token"),
      (#"{"network":{"token":{}}}"#, "network.token: expected a plain value, found an object"),
      (#"{"network":{"serverPort":"x"}}"#, "network.serverPort: expected a port"),
      (#"{"network":{"relay":"perhaps"}}"#, "network.relay"),
      (#"{"network":5}"#, "network: expected an object, found a number"),
      (#"[]"#, "expected an object"),
      (#"{"apps":{}}"#, "apps: expected an array"),
      (#"{"apps":[{"srcPort":1,"dstPort":1,"peerNode":"b"},{"srcPort":"x"}]}"#, "apps[1].srcPort"),
      (
        #"{"apps":[{"srcPort":1,"dstPort":1,"peerNode":"b"},{"srcPort":1,"dstPort":2,"peerNode":"c"}]}"#,
        "already used by apps[0]"
      ),
      (#"{"apps":[{"srcPort":70000,"dstPort":1,"peerNode":"b"}]}"#, "apps[0].srcPort"),
      (#"{"apps":[{"srcPort":1,"peerNode":"b"}]}"#, "apps[0].dstPort: is missing"),
      (#"{"logLevel":"loud"}"#, "logLevel"),
      (#"{"network":{"allow":["x"]}}"#, "network.allow"),
    ]
    for (file, wanted) in table {
      // Flags that the field under test does not meet.
      let line = file.contains("token") ? "inp2pc -serverhost h -node n" : base
      let refused = try #require(refusal { _ = try agent(line, config: file) }, "\(file)")
      #expect(
        refused.status == 2 && refused.errorOutput.contains(wanted),
        "\(file): \(refused.errorOutput)")
      #expect(!refused.errorOutput.contains("Usage"), "\(file)")
    }
    #expect(
      try agent(base, config: "  \n").options.node == "n", "a blank file is empty, not broken")
  }

  @Test func anAmbientProxyNeverStopsTheStart() throws {
    #expect(
      try agent(base, ["https_proxy": "socks5://x"]).options.notices == [
        "https_proxy is ignored: expected http://HOST[:PORT]"
      ])
    let options = try agent(base, ["https_proxy": "http://p"]).options
    #expect(options.proxy == "http://p" && options.notices.isEmpty)
    #expect(refusal { _ = try agent(base + " -proxy socks5://x") }?.status == 2)
  }

  @Test func someServersAreReachedWithoutTheAmbientProxy() throws {
    func proxy(_ host: String, _ exceptions: String, _ flags: String = "") throws -> String? {
      try agent(
        "inp2pc -node n -token 1 -serverhost \(host)\(flags)",
        ["https_proxy": "http://p", "no_proxy": exceptions]
      ).options.proxy
    }
    #expect(try proxy("s.example", "") == "http://p")
    #expect(try proxy("S.example", "x, .example") == nil)
    #expect(try proxy("s.example", "s.example") == nil)
    #expect(try proxy("ns.example", "s.example") == "http://p")
    #expect(try proxy("s.example", "*") == nil)
    #expect(try proxy("192.0.2.7", "192.0.2.7") == nil)
    #expect(try proxy("localhost", "") == nil)
    // A flag is meant.
    #expect(try proxy("localhost", "*", " -proxy http://q") == "http://q")
  }

  @Test func nodeNamesMakeSafeDirectories() {
    func name(_ node: String) -> String {
      AgentOptions.defaultDataDirectory(configPath: "c", node: node)
    }
    #expect(name("nodeA") == "./.inp2p/nodeA")
    #expect(name("..") == "./.inp2p/%2E.")
    #expect(name("a/../b") == "./.inp2p/a%2F..%2Fb")
    #expect(name("é") == "./.inp2p/%C3%A9")
    #expect(name("a%2Fb") != name("a/b"))
    #expect(name(String(repeating: "é", count: 64)).utf8.count < 275)
    #expect(AgentOptions.defaultDataDirectory(configPath: "/c", node: "a") == "/.inp2p/a")
  }
}

@Suite struct ConfigFileTests {
  @Test func unknownKeysSurviveASave() throws {
    let text =
      #"{"Network":{"TOKEN":"5","future":[1,{"x":18446744073709551615}]},"apps":[{"AppName":"a","SrcPort":1,"DstPort":2,"PeerNode":"b","note":"mine"}],"other":1e400}"#
    var file = try ConfigFile(parsing: Array(text.utf8))
    file.set("network.serverHost", "h")
    file.set("network.token", 6)
    var apps = try file.apps()
    apps.append(try AppDefinition(srcPort: 9, peerNode: "c", dstPort: 10))
    file.setApps(apps)
    let again = try ConfigFile(parsing: file.bytes())
    #expect(again["network.future"]?.text() == #"[1,{"x":18446744073709551615}]"#)
    #expect(again["other"]?.text() == "1e400")
    #expect(again.root.names == ["Network", "apps", "other"])
    #expect(again["network"]?.object?.names == ["TOKEN", "future", "serverHost"])
    #expect(again["network.token"] == 6)
    #expect(again["apps"]?[0]?["note"] == "mine" && again["apps"]?[0]?["AppName"] == "a")
    #expect(try again.apps() == apps)
  }

  @Test func aByteOrderMarkIsForgiven() throws {
    #expect(try ConfigFile(parsing: [0xef, 0xbb, 0xbf] + Array("{}".utf8)).root.isEmpty)
    #expect(throws: ConfigError.self) { try ConfigFile(parsing: [0xff]) }
    #expect(throws: ConfigError.self) {
      try ConfigFile(parsing: Array(repeating: 0x5b, count: 100))
    }
  }

  @Test func appsRoundTripThroughJSON() throws {
    let app = try AppDefinition(
      appName: "ssh", protocol: "udp", srcPort: 1, peerNode: "b", dstHost: "fd00::1", dstPort: 2,
      whitelist: "10.0.0.0/8, 1.2.3.4", enabled: false, forceRelay: true, relayNode: "r")
    #expect(try ConfigFile.app(.object(ConfigFile.json(app)), at: "x") == app)
    #expect(ConfigFile.json(app)["relay"] == nil && ConfigFile.json(app)["policy"] == nil)
    let plain = try AppDefinition(
      srcPort: 1, peerNode: "b", dstPort: 2, relay: "never,not:c", policy: "bulk")
    #expect(try ConfigFile.app(.object(ConfigFile.json(plain)), at: "x") == plain)
    #expect(throws: ConfigError.self) {
      try ConfigFile.app(
        ["srcPort": 1, "peerNode": "b", "dstPort": 2, "forceRelay": true, "relay": "never"], at: "x"
      )
    }
  }

  @Test func relayPoliciesOfANode() throws {
    func options(_ words: [String]) -> (AgentOptions?, String) {
      let line = ["inp2pc", "-serverhost", "h", "-node", "a", "-token", "1"] + words
      guard case .agent(let arguments) = Program.parse(line, environment: [:]).invocation else {
        return (nil, "not taken")
      }
      switch arguments.resolve(config: nil) {
      case .run(let resolved): return (resolved.options, "")
      case .exit(let exit): return (nil, exit.errorOutput)
      }
    }
    let (taken, _) = options(["-relay-policy", "never", "-relay-policy", "to:b,only,via:c"])
    #expect(taken?.relayPolicies.map(\.description) == ["never", "to:b,only,via:c"])
    let (none, words) = options(["-relay-policy", "never", "-relay-policy", "only"])
    #expect(none == nil && words.contains("contradicts"), "\(words)")
    #expect(options(["-relay-policy", "to:b,never", "-relay-policy", "to:b,via:c"]).0 == nil)
  }
}
