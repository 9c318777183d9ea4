/// `martlet status|ping|why|netcheck|token|wg|server forget|server key add`:
/// our own grammar, over the agent's API or the server's state.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import Lab
internal import Reactor
internal import Server
internal import Tunnels

enum MartletCommands {
  static func run(_ invocation: MartletInvocation, environment: [String: String]) -> Int32 {
    switch invocation.command {
    case .status: return status(invocation)
    case .ping(let peer, let count): return ping(peer, count, invocation)
    case .why(let peer): return why(peer, invocation)
    case .netcheck(let host, let ports): return netcheck(host, ports, invocation)
    case .wireGuardKey: return wireGuardKey(invocation)
    case .wireGuardAdd(let name, let key, let endpoint, let allowed):
      return wireGuardAdd(name, key, endpoint, allowed, invocation)
    case .serverForget(let node, let mesh, let directory):
      return ServerCommand.forget(node, mesh: mesh, directory: directory, environment: environment)
    case .serverKeyAdd:
      return Entry.fail("martlet", "API keys are not active yet in this version")
    case .lab(let invocation): return LabCommand.run(invocation, environment: environment)
    case .randomToken:
      do throws(SystemError) {
        var token: UInt64 = 0
        while token == 0 {
          token = try ProcessSettings.randomBytes(8).reduce(0) { $0 << 8 | UInt64($1) }
        }
        Entry.write("\(token)\n", to: 1)
        return ExitStatus.success
      } catch {
        return Entry.fail("martlet", "\(error)")
      }
    }
  }

  // MARK: Asking the agent

  static func ask(
    _ method: String, _ path: String, body: JSONValue? = nil, _ invocation: MartletInvocation
  ) -> Result<JSONValue, AgentClient.Failure> {
    do throws(AgentClient.Failure) {
      let answer = try AgentClient.send(
        AgentRequest(method: method, path: path, body: body?.bytes()), to: invocation.agent)
      var value = JSONValue.null
      if !answer.body.isEmpty {
        do throws(JSONError) {
          value = try JSONValue.parse(answer.body)
        } catch {
          return .failure(AgentClient.Failure(words: "the agent's answer is not JSON (\(error))"))
        }
      }
      guard (200..<300).contains(answer.status) else {
        return .failure(
          AgentClient.Failure(
            words: value["message"]?.string ?? "the agent answered with status \(answer.status)"))
      }
      return .success(value)
    } catch {
      return .failure(
        AgentClient.Failure(
          words:
            "cannot reach the agent at \(invocation.agent): \(error.words); start it with inp2pc, or name it with -agent"
        ))
    }
  }

  // MARK: Status

  private static func status(_ invocation: MartletInvocation) -> Int32 {
    switch (ask("GET", "/api/status", invocation), ask("GET", "/api/peers", invocation)) {
    case (.failure(let failure), _), (_, .failure(let failure)):
      return Entry.fail("martlet", failure.words)
    case (.success(let status), .success(let peers)):
      if invocation.json {
        var both = status
        both["peers"] = peers
        Entry.write(both.text(.pretty), to: 1)
        return ExitStatus.success
      }
      let mesh = status["meshes"]?[0]
      var text =
        "Node \(word(mesh?["endpoint"]?["name"])) (\(word(mesh?["endpoint"]?["id"]))), version \(word(status["version"]))\n"
      text +=
        mesh?["connected"]?.bool == true
        ? "Server: connected\n" : "Server: not connected: \(word(mesh?["error"]))\n"
      text += portMapping(status)
      text += ownRelay(status["relay"])
      var table = TextTable([
        "PEER", "STATUS", "TIER", "ADDRESS", "RTT", "LOSS", "SENT", "RECEIVED", "SINCE",
        "POLICY", "WHY NOT BETTER",
      ])
      for peer in peers.array ?? [] {
        table.add([
          word(peer["name"]), peer["online"]?.bool == true ? "Online" : "Offline",
          word(peer["tier"]), word(peer["address"]),
          peer["rttMs"]?.double.map { "\(rounded($0)) ms" } ?? "",
          peer["lossPerMille"]?.double.map { "\(rounded($0 / 10)) %" } ?? "",
          word(peer["bytesSent"]), word(peer["bytesReceived"]),
          peer["sinceSeconds"]?.int.map { "\($0) s" } ?? "",
          policyCell(peer["policy"]),
          (peer["whyNotBetter"]?.array ?? []).map {
            "\(word($0["tier"])): \(word($0["reason"]))"
          }.joined(separator: ", "),
        ])
      }
      Entry.write(text + table.text, to: 1)
      return ExitStatus.success
    }
  }

  /// This node as a relay for others.
  private static func ownRelay(_ relay: JSONValue?) -> String {
    guard let relay else { return "" }
    func count(_ key: String, _ one: String) -> String {
      let number = relay[key]?.int ?? 0
      return "\(number) \(one)\(number == 1 ? "" : "s")"
    }
    let whom = relay["super"]?.bool == true ? "all tokens" : "this token"
    let megabytes = (relay["bytes"]?.double ?? 0) / 1e6
    return
      "Relay: for \(whom) on port \(word(relay["port"])), at most \(word(relay["capMbit"])) Mbit/s: "
      + "\(count("guests", "guest")), \(count("sessions", "session")), "
      + "\(rounded(megabytes)) MB relayed, load \(rounded((relay["load"]?.double ?? 0) / 10)) %\n"
  }

  /// In the table of peers: what is demanded of the road, in short.
  private static func policyCell(_ policy: JSONValue?) -> String {
    var words = (policy?["here"]?.array ?? []).map { word($0) }
    if let there = policy?["relaysThere"]?.string, there != "any" {
      words.append("\(there) (the peer)")
    }
    return words.joined(separator: "; ")
  }

  /// The same in lines, for `why`.
  private static func policyLines(_ policy: JSONValue?) -> String {
    var text = ""
    for reason in policy?["here"]?.array ?? [] { text += "policy here: \(word(reason))\n" }
    if let there = policy?["relaysThere"]?.string, there != "any" {
      text += "policy there: relays: \(there)\n"
    }
    if let aim = policy?["aim"]?.string, aim != "usual" { text += "the choice is for: \(aim)\n" }
    if let waiting = policy?["waiting"]?.int, waiting > 0 {
      text += "connections that wait for a road they may take: \(waiting)\n"
    }
    return text
  }

  static func word(_ value: JSONValue?) -> String {
    switch value {
    case .string(let text)?: text
    case .number(let number)?: number.text
    case .bool(let value)?: "\(value)"
    case .null?, nil, .array?, .object?: ""
    }
  }

  /// Three digits behind the point, without trailing zeros.
  static func rounded(_ value: Double) -> String {
    let thousandths = (value * 1000).rounded() / 1000
    return JSONNumber(thousandths).text
  }

  // MARK: Ping and why

  private static func ping(_ peer: String, _ count: UInt64, _ invocation: MartletInvocation)
    -> Int32
  {
    var answered = 0
    var results: [JSONValue] = []
    for index in 0..<count {
      if index > 0 { EventLoop.sleep(.milliseconds(200)) }
      switch ask("GET", "/api/ping/\(HTTPTarget.encode(peer))", invocation) {
      case .success(let value):
        answered += 1
        results.append(value)
        if !invocation.json {
          Entry.write(
            "\(peer) through \(word(value["path"])): \(rounded(value["rttMs"]?.double ?? 0)) ms\n",
            to: 1)
        }
      case .failure(let failure):
        results.append(["error": .string(failure.words)])
        if !invocation.json { Entry.write("\(peer): \(failure.words)\n", to: 2) }
      }
    }
    if invocation.json { Entry.write(JSONValue.array(results).text(.pretty), to: 1) }
    return answered > 0 ? ExitStatus.success : ExitStatus.failure
  }

  private static func why(_ peer: String, _ invocation: MartletInvocation) -> Int32 {
    switch ask("GET", "/api/peers/\(HTTPTarget.encode(peer))", invocation) {
    case .failure(let failure): return Entry.fail("martlet", failure.words)
    case .success(let value):
      if invocation.json {
        Entry.write(value.text(.pretty), to: 1)
        return ExitStatus.success
      }
      var text =
        "\(peer): \(word(value["tier"]).isEmpty ? "no path" : word(value["tier"])) \(word(value["address"]))\n"
      text += "because: \(word(value["verdictWords"])) (\(word(value["verdict"])))\n"
      if !word(value["adviceWords"]).isEmpty {
        text += "to improve it: \(word(value["adviceWords"]))\n"
      }
      text += policyLines(value["policy"])
      text += "NAT here:  \(word(value["nat"]?["here"]?["words"]))\n"
      text += "NAT there: \(word(value["nat"]?["there"]?["words"]))\n"
      text += portMapping(value)
      for better in value["whyNotBetter"]?.array ?? [] {
        text += "  not \(word(better["tier"])): \(word(better["reason"]))\n"
      }
      var table = TextTable([
        "OURS", "THEIRS", "LEARNT", "TIER", "STATE", "RTT", "PROBES", "ANSWERED", "RECEIVED",
        "REASON",
      ])
      for path in value["paths"]?.array ?? [] {
        table.add([
          word(path["ours"]), word(path["theirs"]),
          "\(word(path["kind"])), \(word(path["source"]))", word(path["tier"]),
          word(path["state"]) + (path["primary"]?.bool == true ? " (in use)" : ""),
          path["rttMs"]?.double.map { "\(rounded($0)) ms" } ?? "", word(path["probesSent"]),
          word(path["probesAnswered"]), word(path["bytesReceived"]), word(path["reason"]),
        ])
      }
      text += table.text
      for decision in value["history"]?.array ?? [] {
        text +=
          "  \(word(decision["ageMs"])) ms ago: \(word(decision["reason"])) \(word(decision["carrier"]))\n"
      }
      Entry.write(text, to: 1)
      return ExitStatus.success
    }
  }

  // MARK: WireGuard

  private static func wireGuardKey(_ invocation: MartletInvocation) -> Int32 {
    switch ask("GET", "/api/wg", invocation) {
    case .failure(let failure): return Entry.fail("martlet", failure.words)
    case .success(let value):
      Entry.write(invocation.json ? value.text(.pretty) : word(value["publicKey"]) + "\n", to: 1)
      return ExitStatus.success
    }
  }

  private static func wireGuardAdd(
    _ name: String, _ key: [UInt8], _ endpoint: HostPortPair?, _ allowed: [AddressBlock],
    _ invocation: MartletInvocation
  ) -> Int32 {
    var body: JSONObject = ["name": .string(name), "publicKey": .string(Base64.encode(key))]
    if let endpoint {
      guard let address = IPAddress(endpoint.host) else {
        return Entry.fail("martlet", "--endpoint: expected an IP address and a port")
      }
      body["endpoint"] = .string(Endpoint(address, endpoint.port).description)
    }
    if !allowed.isEmpty {
      Entry.write(
        "martlet: --allowed-ips is kept for the virtual network, which is not active yet\n", to: 2)
    }
    switch ask("POST", "/api/wg", body: .object(body), invocation) {
    case .failure(let failure): return Entry.fail("martlet", failure.words)
    case .success:
      Entry.write("WireGuard peer \(name) added\n", to: 1)
      return ExitStatus.success
    }
  }
}
