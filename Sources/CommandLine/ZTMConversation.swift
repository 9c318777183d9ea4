/// One `ztm` command carried out over the agent's HTTP API, as a machine:
/// requests out, answers in, and at the end what to print. Knows no sockets.
///
///     start ──► meshes ──► endpoints (names to ids) ──► act … act ──► finished
///        └────────────── no request needed ─────────────────────────────┘
///
/// `open` of a bare name opens every half this version carries; if one fails,
/// those opened before are closed again.

#if canImport(Bytes)
  import Bytes
  import HTTP
  import Tunnels
#endif

/// A request to the agent; a body is JSON.
package struct AgentRequest: Hashable, Sendable {
  package var method: String
  /// With percent-encoded components.
  package var path: String
  package var body: [UInt8]?

  package init(method: String, path: String, body: [UInt8]? = nil) {
    self.method = method
    self.path = path
    self.body = body
  }
}

package struct ZTMConversation: Sendable {
  package enum Step: Hashable, Sendable {
    case request(AgentRequest)
    /// ~/.ztm.conf is to be written with these bytes, then the exit.
    case save([UInt8], CommandExit)
    case finished(CommandExit)
  }

  private enum Stage: Sendable {
    case meshes
    case endpoints
    /// One GET, then text.
    case showing
    /// Position in `keys`.
    case describing(Int)
    case opening(Int)
    case undoing(Int, because: String)
    case closing(Int)
    case done
  }

  private let invocation: ZTMInvocation
  private var stage = Stage.done
  private var mesh = ""
  private var ownEndpoint = ""
  private var keys: [TunnelKey] = []
  private var output = ""
  private var warnings = ""
  private var found: [JSONValue] = []
  /// The definition to be opened, once its endpoints are ids.
  private var body: [UInt8] = []
  private var lastRefusal: String?

  package init(_ invocation: ZTMInvocation) {
    self.invocation = invocation
    for notice in invocation.notices { warnings += "\(invocation.program): \(notice)\n" }
  }

  /// Whether the command is one of the API; the others (run, start, stop the
  /// agent) are the driver's.
  package static func handles(_ command: ZTMCommand) -> Bool {
    switch command {
    case .runAgent, .startAgent, .stopAgent: false
    case .installApp, .startApp, .get, .describe, .logApp, .ping, .tunnelGet, .tunnelDescribe,
      .openInbound, .openOutbound, .close, .config:
      true
    }
  }

  // MARK: Verbs

  /// - Parameter settings: the bytes of ~/.ztm.conf, for `config`.
  package mutating func start(settings: [UInt8]?) -> Step {
    switch invocation.command {
    case .runAgent, .startAgent, .stopAgent: preconditionFailure("the driver's command")
    case .installApp(let name), .startApp(let name):
      guard name == "tunnel" || name == "ztm/tunnel" else {
        return fail("no app \"\(TunnelNaming.printable(name))\"; built in: tunnel")
      }
      return finish("app tunnel is built in; nothing to do\n")
    case .config(let agent, let mesh): return config(agent, mesh, settings)
    case .tunnelDescribe(_, let reference), .openInbound(let reference, _, _, _, _),
      .openOutbound(let reference, _, _, _), .close(_, let reference):
      keys = reference.keys.filter { TunnelProtocol.active.contains($0.protocol) }
      guard !keys.isEmpty else {
        return fail("\(reference.keys[0]): udp is not active yet in this version")
      }
    case .get, .describe, .logApp, .ping, .tunnelGet: break
    }
    stage = .meshes
    return get("/api/meshes")
  }

  /// The agent's answer.
  package mutating func receive(status: Int, body bytes: [UInt8]) -> Step {
    let value: JSONValue
    if bytes.isEmpty {
      value = .null
    } else {
      do { value = try JSONValue.parse(bytes) } catch {
        return fail(
          (200..<300).contains(status)
            ? "the agent's answer is not JSON (\(error.description))"
            : "the agent answered with status \(status)")
      }
    }
    let refusal: String? =
      (200..<300).contains(status)
      ? nil
      : value["message"]?.string ?? value["detail"]?.string
        ?? "the agent answered with status \(status)"
    switch stage {
    case .meshes: return refusal.map { fail($0) } ?? meshes(value)
    case .endpoints: return refusal.map { fail($0) } ?? endpoints(value)
    case .showing: return refusal.map { fail($0) } ?? show(value)
    case .describing(let index): return described(index, value, status, refusal)
    case .opening(let index): return opened(index, refusal)
    case .undoing(let index, let reason): return undo(from: index - 1, because: reason)
    case .closing(let index): return closed(index, status, refusal)
    case .done: preconditionFailure("an answer after the end")
    }
  }

  /// The agent could not be reached; `words` are the system's.
  package mutating func unreachable(_ words: String) -> Step {
    fail(
      "cannot reach the agent at \(invocation.agent): \(words); start it with 'ztm start agent' or name it with --agent"
    )
  }

  // MARK: Meshes

  private mutating func meshes(_ list: JSONValue) -> Step {
    if case .get(.mesh, let name) = invocation.command {
      let picked = (list.array ?? []).filter { name == nil || $0["name"]?.string == name }
      if let name, picked.isEmpty {
        return fail("mesh \"\(TunnelNaming.printable(name))\" is not joined")
      }
      return print(.array(picked), ZTMText.meshes)
    }
    if case .describe(.mesh, let name) = invocation.command {
      guard let one = (list.array ?? []).first(where: { $0["name"]?.string == name }) else {
        return fail("mesh \"\(TunnelNaming.printable(name))\" is not joined")
      }
      return print(one, ZTMText.describeMesh)
    }
    let all = list.array ?? []
    let names = all.compactMap { $0["name"]?.string }
    let shown = names.map { TunnelNaming.printable($0) }.joined(separator: ", ")
    if let wanted = invocation.mesh {
      guard names.contains(wanted) else {
        let known = names.isEmpty ? "you haven't joined a mesh yet" : "joined: \(shown)"
        return fail("mesh \"\(TunnelNaming.printable(wanted))\" is not joined; \(known)")
      }
      mesh = wanted
    } else if names.count == 1 {
      mesh = names[0]
    } else {
      return fail(
        names.isEmpty
          ? "you haven't joined a mesh yet" : "no mesh specified; use --mesh with one of: \(shown)")
    }
    let entry = all.first { $0["name"]?.string == mesh }
    let own = entry?["agent"] ?? entry?["endpoint"]
    ownEndpoint = "\(ZTMText.text(own?["name"])) (\(ZTMText.text(own?["id"])))"
    return act()
  }

  private mutating func act() -> Step {
    switch invocation.command {
    case .get(.app, _), .describe(.app, _):
      stage = .showing
      return get("\(base)/apps")
    case .logApp(let name):
      guard name == "tunnel" || name == "ztm/tunnel" else {
        return fail("no app \"\(TunnelNaming.printable(name))\"; built in: tunnel")
      }
      stage = .showing
      return get("\(base)/apps/ztm/tunnel/log")
    case .tunnelGet(let half, _):
      stage = .showing
      return get("\(api)/\(half.rawValue)")
    case .tunnelDescribe(let half, _):
      stage = .describing(0)
      return get("\(api)/\(half.rawValue)/\(component(keys[0]))")
    case .close(let half, _):
      stage = .closing(0)
      return .request(
        AgentRequest(method: "DELETE", path: "\(api)/\(half.rawValue)/\(component(keys[0]))"))
    case .openInbound(_, _, let exits, _, _) where exits.isEmpty,
      .openOutbound(_, _, let exits, _) where exits.isEmpty:
      return open([])
    case .get, .describe, .ping, .openInbound, .openOutbound:
      stage = .endpoints
      return get("\(base)/endpoints")
    case .runAgent, .startAgent, .stopAgent, .installApp, .startApp, .config:
      preconditionFailure("handled at the start")
    }
  }

  private mutating func endpoints(_ list: JSONValue) -> Step {
    let all = list.array ?? []
    func matching(_ name: String) -> [JSONValue] {
      all.filter { $0["name"]?.string == name || $0["id"]?.string == name.lowercased() }
    }
    switch invocation.command {
    case .get(_, let name), .ping(let name):
      let picked = name.map(matching) ?? all
      if let name, picked.isEmpty { return fail(unknownEndpoint(name, all)) }
      return print(.array(picked), ZTMText.endpoints)
    case .describe(_, let name):
      let picked = matching(name)
      guard picked.count == 1 else { return fail(unknownEndpoint(name, all)) }
      return print(picked[0], ZTMText.describeEndpoint)
    case .openInbound(_, _, let references, _, _), .openOutbound(_, _, let references, _):
      let directory = directory(all)
      var ids: [String] = []
      for reference in references {
        switch directory.find(reference) {
        case .found(let id): ids.append(id)
        case .unknownID(let id):
          warnings += "\(invocation.program): warning: endpoint \(id) is not known (yet)\n"
          ids.append(id)
        case .refused(let words): return fail(words)
        }
      }
      return open(ids)
    case .runAgent, .startAgent, .stopAgent, .installApp, .startApp, .logApp, .tunnelGet,
      .tunnelDescribe, .close, .config:
      preconditionFailure("needs no endpoints")
    }
  }

  private func directory(_ all: [JSONValue]) -> EndpointDirectory {
    EndpointDirectory(
      all.compactMap { endpoint in
        guard let id = endpoint["id"]?.string, let name = endpoint["name"]?.string else {
          return nil
        }
        return (id, name)
      })
  }

  private func unknownEndpoint(_ name: String, _ all: [JSONValue]) -> String {
    if case .refused(let words) = directory(all).find(.name(name)) { return words }
    return "no endpoint \"\(TunnelNaming.printable(name))\""
  }

  // MARK: Showing

  private mutating func show(_ value: JSONValue) -> Step {
    switch invocation.command {
    case .get(.app, let name):
      let picked = (value.array ?? []).filter { name == nil || $0["name"]?.string == name }
      if let name, picked.isEmpty { return fail("no app \"\(TunnelNaming.printable(name))\"") }
      return print(.array(picked), ZTMText.apps)
    case .describe(.app, let name):
      guard let one = (value.array ?? []).first(where: { $0["name"]?.string == name }) else {
        return fail("no app \"\(TunnelNaming.printable(name))\"")
      }
      return print(one, ZTMText.describeApp)
    case .logApp: return print(value, ZTMText.log)
    case .tunnelGet(let half, let reference):
      let wanted = reference?.keys.map(\.description)
      let picked = (value.array ?? []).filter { entry in
        let key = "\(ZTMText.text(entry["protocol"]))/\(ZTMText.text(entry["name"]))"
        return wanted?.contains(key) ?? true
      }
      if let reference, picked.isEmpty { return fail("no \(half.rawValue) \"\(reference.name)\"") }
      switch half {
      case .tunnel: return print(.array(picked), ZTMText.tunnels)
      case .inbound: return print(.array(picked), ZTMText.inbounds)
      case .outbound: return print(.array(picked), ZTMText.outbounds)
      }
    case .runAgent, .startAgent, .stopAgent, .installApp, .startApp, .get, .describe, .ping,
      .tunnelDescribe, .openInbound, .openOutbound, .close, .config:
      preconditionFailure("shows nothing at this stage")
    }
  }

  private mutating func described(
    _ index: Int, _ value: JSONValue, _ status: Int, _ refusal: String?
  ) -> Step {
    guard case .tunnelDescribe(let half, let reference) = invocation.command else {
      preconditionFailure("the stage belongs to describe")
    }
    if let refusal, status != 404 { return fail(refusal) }
    if refusal == nil { found.append(value) }
    if index + 1 < keys.count {
      stage = .describing(index + 1)
      return get("\(api)/\(half.rawValue)/\(component(keys[index + 1]))")
    }
    guard !found.isEmpty else { return fail("no \(half.rawValue) \"\(reference.name)\"") }
    if invocation.json {
      return finish((found.count == 1 ? found[0] : .array(found)).text(.pretty))
    }
    let texts = found.map { entry in
      switch half {
      case .tunnel: ZTMText.describeTunnel(entry)
      case .inbound: ZTMText.describeInbound(entry, endpoint: ownEndpoint)
      case .outbound: ZTMText.describeOutbound(entry, endpoint: ownEndpoint)
      }
    }
    return finish(texts.joined(separator: "\n"))
  }

  // MARK: Opening and closing

  private mutating func open(_ ids: [String]) -> Step {
    var value = JSONObject()
    switch invocation.command {
    case .openInbound(_, let listens, _, let relay, let policy):
      value["listens"] = .array(
        listens.map { ["ip": .string($0.address.description), "port": JSONValue($0.port)] })
      value["exits"] = JSONValue(ids)
      if !relay.isPlain { value["relay"] = .string(relay.description) }
      if policy != .usual { value["policy"] = .string(policy.text) }
    case .openOutbound(_, let targets, _, let users):
      value["targets"] = .array(
        targets.map { target in
          switch target {
          case .host(let host, let port): ["host": .string(host), "port": JSONValue(port)]
          case .unix(let path): ["unix": .string(path)]
          }
        })
      value["entrances"] = JSONValue(ids)
      value["users"] = JSONValue(users)
    default: preconditionFailure("the stage belongs to open")
    }
    body = JSONValue.object(value).bytes()
    return post(0)
  }

  private mutating func post(_ index: Int) -> Step {
    stage = .opening(index)
    return .request(
      AgentRequest(method: "POST", path: "\(api)/\(half)/\(component(keys[index]))", body: body))
  }

  private mutating func opened(_ index: Int, _ refusal: String?) -> Step {
    if let refusal {
      return undo(from: index - 1, because: "\(half) \(keys[index]) not opened: \(refusal)")
    }
    output += "\(half) \(keys[index]) opened\n"
    if index + 1 < keys.count { return post(index + 1) }
    if TunnelProtocol.active.count == 1, let reference, reference.protocol == nil {
      output += "(tcp only: udp is not active yet in this version)\n"
    }
    return finish(output)
  }

  private mutating func undo(from index: Int, because reason: String) -> Step {
    guard index >= 0 else { return fail(reason) }
    stage = .undoing(index, because: reason)
    return .request(
      AgentRequest(method: "DELETE", path: "\(api)/\(half)/\(component(keys[index]))"))
  }

  private mutating func closed(_ index: Int, _ status: Int, _ refusal: String?) -> Step {
    if let refusal {
      guard status == 404 else { return fail(refusal) }
      lastRefusal = refusal
    } else {
      output += "\(half) \(keys[index]) closed\n"
    }
    if index + 1 < keys.count {
      stage = .closing(index + 1)
      return .request(
        AgentRequest(method: "DELETE", path: "\(api)/\(half)/\(component(keys[index + 1]))"))
    }
    return output.isEmpty ? fail(lastRefusal ?? "no such \(half)") : finish(output)
  }

  // MARK: Config

  private mutating func config(_ agent: String?, _ mesh: String?, _ bytes: [UInt8]?) -> Step {
    var settings = ZTMSettings()
    if let bytes {
      do { settings = try ZTMSettings(parsing: bytes) } catch {
        return fail("~/.ztm.conf: \(error)")
      }
    }
    if agent == nil, mesh == nil {
      let value: JSONValue = [
        "agent": .string(
          settings.agent ?? HostPortPair("localhost", DefaultPort.agentAPI).description),
        "mesh": .string(settings.mesh ?? ""),
      ]
      return print(value) {
        "Agent: \(ZTMText.text($0["agent"]))\nMesh: \(ZTMText.text($0["mesh"]))\n"
      }
    }
    if let agent { settings.agent = agent }
    if let mesh { settings.mesh = mesh }
    stage = .done
    return .save(settings.bytes(), CommandExit(status: ExitStatus.success, errorOutput: warnings))
  }

  // MARK: Pieces

  private var base: String { "/api/meshes/\(HTTPTarget.encode(mesh))" }
  private var api: String { "\(base)/apps/ztm/tunnel/api" }
  private func component(_ key: TunnelKey) -> String {
    "\(key.protocol.text)/\(HTTPTarget.encode(key.name))"
  }
  private var half: String {
    switch invocation.command {
    case .openInbound: TunnelObject.inbound.rawValue
    case .openOutbound: TunnelObject.outbound.rawValue
    case .close(let half, _): half.rawValue
    default: preconditionFailure("only open and close have a half")
    }
  }
  private var reference: TunnelReference? {
    switch invocation.command {
    case .openInbound(let reference, _, _, _, _), .openOutbound(let reference, _, _, _): reference
    default: nil
    }
  }

  private func get(_ path: String) -> Step { .request(AgentRequest(method: "GET", path: path)) }

  private mutating func print(_ value: JSONValue, _ render: (JSONValue) -> String) -> Step {
    finish(invocation.json ? value.text(.pretty) : render(value))
  }

  private mutating func finish(_ text: String) -> Step {
    stage = .done
    return .finished(CommandExit(status: ExitStatus.success, output: text, errorOutput: warnings))
  }

  private mutating func fail(_ words: String) -> Step {
    stage = .done
    return .finished(
      CommandExit(
        status: ExitStatus.failure,
        errorOutput: warnings + "\(invocation.program): \(TextTable.cell(words))\n"))
  }
}
