import CommandLine
import HTTP
import Testing
import Tunnels

private let idA = "0123abcd-0000-1111-2222-333344445555"
private let idB = "0123abcd-0000-1111-2222-333344446666"

/// An agent that answers from a table; unknown requests get 404.
private struct ScriptedAgent {
  var answers: [String: (Int, String)] = [
    "GET /api/meshes": (
      200,
      #"[{"name":"my-mesh","agent":{"name":"laptop","id":"\#(idA)","username":"ann"},"bootstraps":["h:27183"],"connected":true}]"#
    ),
    "GET /api/meshes/my-mesh/endpoints": (
      200,
      #"[{"id":"\#(idA)","name":"laptop","username":"ann","ip":"10.0.0.1","port":5,"online":true,"ping":0.3,"labels":["x","y"],"isLocal":true,"agent":{"edition":"Martlet","version":"0.1.0"}},{"id":"\#(idB)","name":"server","username":"ann","online":false}]"#
    ),
  ]
  var asked: [String] = []

  mutating func run(_ line: String, settings: String? = nil) throws -> (CommandExit, saved: String?)
  {
    guard case .ztm(let arguments) = Program.parse(words(line), environment: [:]).invocation,
      case .run(let invocation) = arguments.resolve(settings: nil)
    else { throw Refused(exit(words(line))) }
    #expect(ZTMConversation.handles(invocation.command))
    var conversation = ZTMConversation(invocation)
    var step = conversation.start(settings: settings.map { Array($0.utf8) })
    for _ in 0..<20 {
      switch step {
      case .finished(let exit): return (exit, nil)
      case .save(let bytes, let exit): return (exit, String(decoding: bytes, as: UTF8.self))
      case .request(let request):
        let body = request.body.map { " " + String(decoding: $0, as: UTF8.self) } ?? ""
        asked.append("\(request.method) \(request.path)\(body)")
        let (status, text) =
          answers["\(request.method) \(request.path)"] ?? (
            404, #"{"status":404,"message":"not found"}"#
          )
        step = conversation.receive(status: status, body: Array(text.utf8))
      }
    }
    Issue.record("does not end")
    return (CommandExit(status: -1), nil)
  }
}

@Suite struct ConversationTests {
  private let api = "/api/meshes/my-mesh/apps/ztm/tunnel/api"

  @Test func getEndpointsPrintsTheTable() throws {
    var agent = ScriptedAgent()
    let (exit, _) = try agent.run("ztm get ep")
    #expect(
      exit.output == """
        NAME            USER  IP        PORT  STATUS   PING    ID                                    EDITION  VERSION  LABELS  PATH  RTT
        laptop (local)  ann   10.0.0.1  5     Online   0.3 ms  0123abcd-0000-1111-2222-333344445555  Martlet  0.1.0    x y
        server          ann                   Offline          0123abcd-0000-1111-2222-333344446666

        """)
    #expect(
      try agent.run("ztm get ep server --json").0.output.hasPrefix("[\n  {\n    \"id\": \"\(idB)\"")
    )
    #expect(
      try agent.run("ztm get ep nobody").0.errorOutput
        == "ztm: no endpoint \"nobody\"; known: laptop, server\n")
    #expect(
      try agent.run("ztm describe ep \(idA.uppercased())").0.output.hasPrefix(
        "Endpoint: laptop (local)\nID: \(idA)\n"))
  }

  @Test func getMeshPrintsTheTable() throws {
    var agent = ScriptedAgent()
    #expect(
      try agent.run("ztm get mesh").0.output == """
        NAME     JOINED AS  USER  HUBS     STATUS
        my-mesh  laptop     ann   h:27183  Connected

        """)
    #expect(try agent.run("ztm get mesh other").0.status == 1)
    #expect(
      try agent.run("ztm describe mesh my-mesh").0.output.contains("Joined as: laptop (\(idA))"))
  }

  @Test func openingAnInboundResolvesNames() throws {
    var agent = ScriptedAgent()
    agent.answers["POST \(api)/inbound/tcp/my-tunnel"] = (201, "")
    let (exit, _) = try agent.run(
      "ztm tunnel open inbound my-tunnel --listen 0.0.0.0:9000 --exits server")
    #expect(exit.status == 0 && exit.errorOutput.isEmpty)
    #expect(
      exit.output
        == "inbound tcp/my-tunnel opened\n(tcp only: udp is not active yet in this version)\n")
    #expect(
      agent.asked.last == "POST \(api)/inbound/tcp/my-tunnel "
        + #"{"listens":[{"ip":"0.0.0.0","port":9000}],"exits":["\#(idB)"]}"#)
    // An id that is not known yet: taken with a warning; a name: refused.
    let other = idB.dropLast() + "7"
    let (warned, _) = try agent.run(
      "ztm tunnel open inbound tcp/my-tunnel --listen 9000 --exits \(other)")
    #expect(
      warned.status == 0
        && warned.errorOutput == "ztm: warning: endpoint \(other) is not known (yet)\n")
    #expect(warned.output == "inbound tcp/my-tunnel opened\n")
    let (refused, _) = try agent.run(
      "ztm tunnel open inbound my-tunnel --listen 9000 --exits nobody")
    #expect(refused.status == 1 && refused.errorOutput.contains("no endpoint \"nobody\""))
    let (udp, _) = try agent.run("ztm tunnel open inbound udp/x --listen 9000")
    #expect(udp.status == 1 && udp.errorOutput.contains("udp is not active yet"))
  }

  @Test func openingAnOutboundSendsItsTargets() throws {
    var agent = ScriptedAgent()
    agent.answers["POST \(api)/outbound/tcp/b%C3%BCro"] = (201, "")
    let (exit, _) = try agent.run(
      "ztm tunnel open outbound tcp/büro --targets 192.168.1.100:80 unix:/run/x --users ann")
    #expect(exit.status == 0)
    #expect(
      agent.asked.last == "POST \(api)/outbound/tcp/b%C3%BCro "
        + #"{"targets":[{"host":"192.168.1.100","port":80},{"unix":"/run/x"}],"entrances":[],"users":["ann"]}"#
    )
    agent.answers["POST \(api)/outbound/tcp/büro"] = nil
    agent.answers["POST \(api)/outbound/tcp/b%C3%BCro"] = (
      400, #"{"status":400,"message":"too many\u001b[2J"}"#
    )
    #expect(
      try agent.run("ztm tunnel open outbound tcp/büro --targets a:1").0.errorOutput
        == "ztm: outbound tcp/büro not opened: too many?[2J\n")
  }

  @Test func closingAndDescribing() throws {
    var agent = ScriptedAgent()
    agent.answers["DELETE \(api)/inbound/tcp/web"] = (204, "")
    #expect(try agent.run("ztm tunnel close inbound web").0.output == "inbound tcp/web closed\n")
    let (none, _) = try agent.run("ztm tunnel close outbound web")
    #expect(none.status == 1 && none.errorOutput == "ztm: not found\n")
    var counters = TunnelCounters()
    counters.opened()
    counters.carried(toTarget: 2048, toCaller: 3)
    counters.failed(.targetRefused)
    counters.path = "udp direct 1.2.3.4:5"
    let inbound = try TunnelInbound(TunnelKey(.tcp, "web"), listens: ["9000", "9001"], exits: [])
    let json = TunnelJSON.object(
      inbound, failure: { $0.port == 9001 ? "address in use" : nil }, counters: counters)
    agent.answers["GET \(api)/inbound/tcp/web"] = (200, json.text())
    #expect(
      try agent.run("ztm tunnel describe inbound tcp/web").0.output == """
        Inbound tcp/web
        Endpoint: laptop (\(idA))
        Listens:
          127.0.0.1:9000
          127.0.0.1:9001 (not open: address in use)
        Exits:
          (all endpoints)
        Connections: 1 now, 1 in all
        Bytes: 2 KB to the target, 3 B to the caller
        Failures:
          1 × the target refused the connection
        Path: udp direct 1.2.3.4:5

        """)
    agent.answers["GET \(api)/inbound"] = (200, "[\(json.text())]")
    #expect(
      try agent.run("ztm tunnel get inbound").0.output == """
        NAME     LISTENS                                                    EXITS
        tcp/web  127.0.0.1:9000, 127.0.0.1:9001 (not open: address in use)  (all endpoints)

        """)
    agent.answers["GET \(api)/tunnel/tcp/web"] = (
      200,
      #"{"protocol":"tcp","name":"web","inbound":[{"id":"\#(idA)","name":"laptop"}],"outbound":[]}"#
    )
    #expect(
      try agent.run("ztm tunnel describe tunnel tcp/web").0.output
        == "Tunnel: tcp/web\nInbound:\n  Endpoint: laptop (\(idA))\nOutbound:\n  (none)\n")
    agent.answers["GET \(api)/tunnel"] = (
      200,
      #"[{"protocol":"tcp","name":"web","inbound":[{"id":"i","name":"laptop"}],"outbound":["server"]}]"#
    )
    #expect(
      try agent.run("ztm tunnel get tunnel").0.output
        == "NAME     INBOUND  OUTBOUND\ntcp/web  laptop   server\n")
    #expect(try agent.run("ztm tunnel get tunnel nope").0.status == 1)
  }

  @Test func aTunnelsPoliciesAreTypedAndShown() throws {
    var agent = ScriptedAgent()
    agent.answers["POST \(api)/inbound/tcp/web"] = (201, "{}")
    _ = try agent.run("ztm tunnel open inbound tcp/web --listen 9000 --relay never --policy bulk")
    #expect(agent.asked.last?.contains(#""relay":"never","policy":"bulk""#) == true)
    let inbound = try TunnelInbound(
      TunnelKey(.tcp, "web"), listens: ["9000"], exits: [], relay: "not:hub", policy: "latency")
    let json = TunnelJSON.object(inbound)
    #expect(try TunnelJSON.inbound(inbound.key, from: json) == inbound)
    agent.answers["GET \(api)/inbound/tcp/web"] = (200, json.text())
    let output = try agent.run("ztm tunnel describe inbound tcp/web").0.output
    #expect(output.contains("Relay: not:hub\nPolicy: latency\n"))
    #expect(throws: (any Error).self) {
      try agent.run("ztm tunnel open inbound web --listen 1 --relay never,only")
    }
    #expect(throws: ConfigError.self) {
      try TunnelJSON.inbound(inbound.key, from: ["listens": ["1"], "policy": "fast"])
    }
  }

  @Test func whichMeshIsSaidClearly() throws {
    var agent = ScriptedAgent()
    agent.answers["GET /api/meshes"] = (200, "[]")
    #expect(try agent.run("ztm get ep").0.errorOutput == "ztm: you haven't joined a mesh yet\n")
    #expect(try agent.run("ztm get mesh").0.output == "NAME  JOINED AS  USER  HUBS  STATUS\n")
    agent.answers["GET /api/meshes"] = (200, #"[{"name":"a"},{"name":"b"}]"#)
    #expect(
      try agent.run("ztm get ep").0.errorOutput
        == "ztm: no mesh specified; use --mesh with one of: a, b\n")
    #expect(
      try agent.run("ztm get ep --mesh c").0.errorOutput
        == "ztm: mesh \"c\" is not joined; joined: a, b\n")
    agent.answers["GET /api/meshes/b/apps"] = (
      200, #"[{"name":"tunnel","tag":"","isBuiltin":true,"isRunning":true}]"#
    )
    #expect(
      try agent.run("ztm get app --mesh b").0.output
        == "NAME    TAG  STATE\ntunnel       builtin, running\n")
  }

  @Test func noAgentNoMiracle() throws {
    guard
      case .ztm(let arguments) = Program.parse(["ztm", "get", "ep"], environment: [:]).invocation,
      case .run(let invocation) = arguments.resolve(settings: nil)
    else { return #expect(Bool(false)) }
    var conversation = ZTMConversation(invocation)
    _ = conversation.start(settings: nil)
    guard case .finished(let exit) = conversation.unreachable("Connection refused") else {
      return #expect(Bool(false))
    }
    #expect(
      exit.status == 1
        && exit.errorOutput.hasPrefix(
          "ztm: cannot reach the agent at localhost:7777: Connection refused")
    )
    var agent = ScriptedAgent()
    agent.answers["GET /api/meshes"] = (200, "<html>")
    #expect(try agent.run("ztm get ep").0.errorOutput.contains("not JSON"))
    agent.answers["GET /api/meshes"] = (403, "")
    #expect(
      try agent.run("ztm get ep").0.errorOutput == "ztm: the agent answered with status 403\n")
  }

  @Test func theRestNeedsNoAgent() throws {
    var agent = ScriptedAgent()
    #expect(try agent.run("ztm app install tunnel").0.status == 0)
    #expect(try agent.run("ztm app install proxy").0.status == 1)
    let (exit, saved) = try agent.run("ztm config --mesh m", settings: #"{"agent":"a:1","x":1}"#)
    #expect(
      exit.status == 0 && saved == "{\n  \"agent\": \"a:1\",\n  \"x\": 1,\n  \"mesh\": \"m\"\n}\n")
    #expect(
      try agent.run("ztm config", settings: nil).0.output == "Agent: localhost:7777\nMesh: \n")
    #expect(agent.asked.isEmpty)
    agent.answers["GET /api/meshes/my-mesh/apps/ztm/tunnel/log"] = (
      200, #"[{"time":"2026-01-01T00:00:00Z","message":"tcp/web: listening"}]"#
    )
    #expect(
      try agent.run("ztm log app tunnel").0.output == "2026-01-01T00:00:00Z tcp/web: listening\n")
  }
}

@Suite struct TunnelJSONTests {
  @Test func bodiesBecomeDefinitions() throws {
    let key = try TunnelKey(.tcp, "t")
    let body = try JSONValue.parse(
      #"{"listens":[{"ip":"0.0.0.0","port":9000},{"port":"9001"},{"ip":"::1","port":2},"3"],"exits":["endpoint-id"]}"#
    )
    let inbound = try TunnelJSON.inbound(key, from: body)
    #expect(
      inbound.listens.map(\.description) == [
        "0.0.0.0:9000", "127.0.0.1:9001", "[::1]:2", "127.0.0.1:3",
      ])
    #expect(inbound.exits == [.name("endpoint-id")])
    #expect(try TunnelJSON.inbound(key, from: TunnelJSON.object(inbound)) == inbound)
    let outbound = try TunnelJSON.outbound(
      key,
      from: try JSONValue.parse(
        #"{"targets":[{"host":"h","port":1},{"unix":"/x"},"[::1]:5"],"entrances":["e"],"users":["u"]}"#
      ))
    #expect(outbound.targets.map(\.description) == ["h:1", "unix:/x", "[::1]:5"])
    #expect(try TunnelJSON.outbound(key, from: TunnelJSON.object(outbound)) == outbound)
  }

  @Test func badBodiesNameTheField() throws {
    let key = try TunnelKey(.tcp, "t")
    for (text, wanted) in [
      ("[]", "body: expected an object"), ("{}", "listen is missing"),
      (#"{"listens":5}"#, "listens: expected an array"),
      (#"{"listens":[{"ip":"x","port":1}]}"#, "listens[0]"),
      (#"{"listens":[{"ip":1,"port":1}]}"#, "listens[0].ip"),
      (#"{"listens":[{"ip":"1.2.3.4","port":0}]}"#, "listens[0].port"),
      (#"{"listens":[7]}"#, "listens[0]: expected an object"),
      (#"{"listens":["1"],"exits":[5]}"#, "exits[0]"),
      (#"{"listens":["1"],"exits":[""]}"#, "exit is missing"),
      (#"{"listens":["1","1"]}"#, "given twice"),
      (#"{"listens":["1"],"exits":"x"}"#, "exits: expected an array"),
    ] {
      let value = try JSONValue.parse(text)
      let error = #expect(throws: ConfigError.self, "\(text)") {
        try TunnelJSON.inbound(key, from: value)
      }
      #expect(error?.description.contains(wanted) == true, "\(text): \(error?.description ?? "")")
    }
    for (text, wanted) in [
      (#"{"targets":[]}"#, "target is missing"),
      (#"{"targets":[{"host":5,"port":1}]}"#, "targets[0].host"),
      (#"{"targets":[{"host":"h"}]}"#, "targets[0].port"),
      (#"{"targets":[{"host":"h","port":70000}]}"#, "targets[0]"),
      (#"{"targets":["h:1"],"users":[{}]}"#, "users[0]"), (#"{"targets":[null]}"#, "targets[0]"),
    ] {
      let value = try JSONValue.parse(text)
      let error = #expect(throws: ConfigError.self, "\(text)") {
        try TunnelJSON.outbound(key, from: value)
      }
      #expect(error?.description.contains(wanted) == true, "\(text): \(error?.description ?? "")")
    }
  }

  @Test func endpointsAreFoundOrExplained() {
    let directory = EndpointDirectory([(idA, "a"), (idB, "twin"), ("x", "twin")])
    #expect(directory.find(.name("a")) == .found(id: idA))
    #expect(directory.find(.id(idB)) == .found(id: idB))
    #expect(directory.find(.id("other")) == .unknownID("other"))
    #expect(
      directory.find(.name("twin"))
        == .refused("endpoint \"twin\" is ambiguous; give one of these ids: \(idB), x"))
  }
}
