/// What the agent's API answers: status, meshes, endpoints, tunnels, in the
/// short forms and the long ones, and our own `/api/peers` and `/api/ping`.
/// spec/ztm.md "Agent HTTP API". 400 for bad input, 404 for what is not there,
/// never 500.

internal import Bytes
internal import CommandLine
internal import Crypto
internal import HTTP
internal import NAT
internal import NodeCore
internal import Paths
internal import Reactor
internal import Tunnels

extension LocalAPI {
  typealias Answer = (HTTPResponse) -> Void

  func route(_ request: HTTPRequest, _ target: HTTPTarget, _ answer: @escaping Answer) {
    let path = target.segments
    guard path.first == "api" else { return answer(Self.notFound) }
    switch Array(path.dropFirst()) {
    case ["status"]: read(request, answer) { self.status }
    case ["version"]: read(request, answer) { self.version }
    case ["identity"]: read(request, answer) { .string(self.agent.identity) }
    case ["meshes"]: read(request, answer) { .array([self.mesh]) }
    case ["peers"]: read(request, answer) { self.peers }
    case ["peers", path.last ?? ""]: peer(path[path.count - 1], request, answer)
    case ["ping", path.last ?? ""]: ping(path[path.count - 1], request, answer)
    case ["netcheck"]: netcheck(request, answer)
    case ["wg"]: wireGuard(request, answer)
    case let rest where rest.count >= 2 && rest[0] == "meshes":
      guard rest[1] == agent.options.mesh else {
        answer(Self.error(404, "mesh \(rest[1]) is not joined"))
        return
      }
      mesh(Array(rest.dropFirst(2)), request, target, answer)
    default: answer(Self.notFound)
    }
  }

  private static var notFound: HTTPResponse { error(404, "no such path") }

  private func read(_ request: HTTPRequest, _ answer: Answer, _ value: () -> JSONValue) {
    guard request.method == .get || request.method == .head else {
      var response = Self.error(405, "only GET")
      response.headers["Allow"] = "GET"
      return answer(response)
    }
    answer(.json(value()))
  }

  // MARK: This agent

  private var status: JSONValue {
    var mesh: JSONObject = [
      "name": .string(agent.options.mesh),
      "endpoint": ["id": .string(agent.node.endpointID), "name": .string(agent.options.node)],
      "connected": .bool(agent.node.isOnline),
    ]
    if let problem { mesh["error"] = .string(problem) }
    var status: JSONObject = [
      "status": "ok", "version": .string(AgentRuntime.version),
      "uptime": JSONValue((agent.loop.now - agent.startedAt).nanoseconds / 1_000_000_000),
      "meshes": .array([.object(mesh)]),
      "portMapping": PortMappingManager.describe(agent.portMapping),
    ]
    if let relay = agent.relay { status["relay"] = relay.status }
    return .object(status)
  }

  private var problem: String? {
    guard !agent.node.isOnline else { return nil }
    let words = agent.uplinks?.problem ?? ""
    return words.isEmpty ? "not connected yet" : words
  }

  private var version: JSONValue {
    ["ztm": ["edition": "Martlet", "version": .string(AgentRuntime.version)]]
  }

  private var mesh: JSONValue {
    var mesh: JSONObject = [
      "name": .string(agent.options.mesh), "connected": .bool(agent.node.isOnline),
      "agent": [
        "id": .string(agent.node.endpointID), "name": .string(agent.options.node),
        "username": .string(agent.node.userName),
      ],
      "bootstraps": .array([.string("\(agent.options.serverHost):\(agent.options.serverPort)")]),
    ]
    if let problem { mesh["errors"] = .array([["message": .string(problem)]]) }
    return .object(mesh)
  }

  // MARK: Peers and paths

  private var peers: JSONValue {
    .array(agent.node.status(now: agent.loop.now).map { describe($0, details: false) })
  }

  private func peer(_ name: String, _ request: HTTPRequest, _ answer: Answer) {
    guard let status = agent.node.status(of: name, now: agent.loop.now) else {
      return answer(Self.error(404, "no member is called \(name)"))
    }
    read(request, answer) { describe(status, details: true) }
  }

  /// Per peer: tier, address, RTT, loss, bytes, since when, why not better.
  private func describe(_ peer: PeerStatus, details: Bool) -> JSONValue {
    let now = agent.loop.now
    var value: JSONObject = [
      "name": .string(peer.name), "id": .string(peer.endpointID), "user": .string(peer.user),
      "online": .bool(peer.isOnline), "version": .string(peer.version),
      "tier": peer.tier.map { .string($0.code) } ?? .null,
      "address": peer.address.map { .string($0.description) } ?? .null,
      "rttMs": peer.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
      "lossPerMille": JSONValue(peer.lossPerMille),
      "bytesSent": JSONValue(peer.bytesSent), "bytesReceived": JSONValue(peer.bytesReceived),
      "sinceSeconds": peer.since.map { JSONValue((now - $0).nanoseconds / 1_000_000_000) } ?? .null,
      "streams": JSONValue(peer.openStreams), "cipher": .string(peer.cipher.name),
      "whyNotBetter": .array(
        peer.whyNotBetter.map {
          ["tier": .string($0.tier.code), "reason": .string($0.reason.rawValue)]
        }),
    ]
    value["verdict"] = .string(peer.verdict.rawValue)
    value["policy"] = Self.describe(peer.demands)
    guard details else { return .object(value) }
    value["verdictWords"] = .string(NetworkText.words(peer.verdict))
    value["advice"] = .string(peer.verdict.advice.rawValue)
    value["adviceWords"] = NetworkText.words(peer.verdict.advice).map { .string($0) } ?? .null
    value["portMapping"] = PortMappingManager.describe(agent.portMapping)
    value["nat"] = ["here": Self.describe(peer.ownNAT), "there": Self.describe(peer.peerNAT)]
    value["paths"] = .array(
      peer.paths.map { path in
        [
          "carrier": .string(path.carrier.description),
          "ours": agent.ownEndpoint(of: path.carrier).map { .string($0) } ?? .null,
          "theirs": .string(path.carrier.remote.description), "tier": .string(path.tier.code),
          "kind": .string(path.kind.rawValue), "source": .string(path.source.rawValue),
          "state": .string(path.state.rawValue), "primary": .bool(path.isPrimary),
          "suspect": .bool(path.isSuspect),
          "rttMs": path.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
          "lossPerMille": JSONValue(path.lossPerMille),
          "maximumPacket": JSONValue(path.maximumPacket),
          "bytesSent": JSONValue(path.bytesSent), "bytesReceived": JSONValue(path.bytesReceived),
          "probesSent": JSONValue(path.probesSent),
          "probesAnswered": JSONValue(path.probesAnswered),
          "reason": .string(path.reason.rawValue),
        ]
      })
    value["history"] = .array(
      peer.history.map { decision in
        [
          "ageMs": JSONValue((now - decision.at).nanoseconds / 1_000_000),
          "reason": .string(decision.reason.rawValue),
          "carrier": .string(decision.carrier.description),
          "lane": decision.lane.map { JSONValue($0) } ?? .null,
          "numbers": .array([JSONValue(decision.first), JSONValue(decision.second)]),
        ]
      })
    return .object(value)
  }

  private static func describe(_ demands: PeerDemands) -> JSONValue {
    [
      "here": .array(demands.reasons.map { .string($0) }),
      "relays": .string(demands.use.text), "relaysThere": .string(demands.told.text),
      "aim": .string(demands.aim.rawValue),
      "waiting": JSONValue(demands.heldOpens + demands.heldFlows),
    ]
  }

  private func ping(_ name: String, _ request: HTTPRequest, _ answer: @escaping Answer) {
    guard request.method == .get || request.method == .post else {
      return answer(Self.error(405, "only GET and POST"))
    }
    agent.ping(name) { result in
      switch result {
      case .success(let (roundTrip, path)):
        answer(
          .json([
            "peer": .string(name), "rttMs": JSONValue(roundTrip.inMilliseconds),
            "path": .string(path),
          ]))
      case .failure(let failure):
        answer(Self.error(504, failure.words))
      }
    }
  }

  private func wireGuard(_ request: HTTPRequest, _ answer: Answer) {
    switch request.method {
    case .get:
      answer(
        .json([
          "publicKey": .string(Base64.encode(agent.node.settings.staticKey.publicKey)),
          "port": JSONValue(agent.node.settings.port),
        ]))
    case .post:
      do throws(BodyFault) {
        let body = try Self.body(request)
        guard let name = body["name"]?.string, !name.isEmpty,
          let key = body["publicKey"]?.string.flatMap({ Base64.decode($0) }), key.count == 32
        else { throw BodyFault(words: "name and publicKey (44 characters of base64) are required") }
        var endpoint: Endpoint?
        if let text = body["endpoint"]?.string {
          guard let parsed = Endpoint(text) else {
            throw BodyFault(words: "endpoint: expected IP:PORT")
          }
          endpoint = parsed
        }
        if let words = agent.addStockPeer(name: name, publicKey: key, endpoint: endpoint) {
          throw BodyFault(words: words)
        }
        answer(.json(["name": .string(name)], status: 201))
      } catch {
        answer(Self.error(400, error.words))
      }
    default:
      answer(Self.error(405, "only GET and POST"))
    }
  }

  // MARK: One mesh

  private func mesh(
    _ path: [String], _ request: HTTPRequest, _ target: HTTPTarget, _ answer: Answer
  ) {
    switch path {
    case []: read(request, answer) { mesh }
    case ["endpoints"]: read(request, answer) { .array(endpoints(target)) }
    case ["apps"]: read(request, answer) { .array([Self.app]) }
    case ["apps", "ztm", "tunnel"]: read(request, answer) { Self.app }
    case ["apps", "ztm", "tunnel", "log"], ["log"]: read(request, answer) { log }
    case let rest where rest.count == 2 && rest[0] == "endpoints":
      guard
        let found = allEndpoints.first(where: {
          $0["id"]?.string == rest[1] || $0["name"]?.string == rest[1]
        })
      else { return answer(Self.error(404, "no endpoint \(rest[1])")) }
      read(request, answer) { found }
    case let rest where rest.starts(with: ["apps", "ztm", "tunnel", "api"]):
      tunnelAPI(Array(rest.dropFirst(4)), request, answer)
    default: answer(Self.notFound)
    }
  }

  private static var app: JSONValue {
    [
      "name": "tunnel", "provider": "ztm", "tag": "", "isBuiltin": true, "isDownloaded": true,
      "isRunning": true,
    ]
  }

  private var log: JSONValue {
    let wall = EventLoop.wallClockNanoseconds
    let now = agent.loop.now
    return .array(
      agent.node.tunnelLog.events().map { event in
        [
          "time": .string(ISOTime.text(wall - (now - event.at).nanoseconds)),
          "message": .string(event.words),
        ]
      })
  }

  private var allEndpoints: [JSONValue] {
    let own: JSONValue = [
      "id": .string(agent.node.endpointID), "name": .string(agent.options.node),
      "username": .string(agent.node.userName),
      "ip": .string(
        agent.node.seenAt == .none ? "" : agent.node.seenAt.address.description),
      "port": JSONValue(agent.node.seenAt.port), "online": .bool(true), "ping": .null,
      "labels": .array([]), "isLocal": .bool(true),
      "agent": ["edition": "Martlet", "version": .string(AgentRuntime.version)],
    ]
    return [own]
      + agent.node.status(now: agent.loop.now).filter { !$0.isStock }.map { peer in
        [
          "id": .string(peer.endpointID), "name": .string(peer.name),
          "username": .string(peer.user),
          "ip": .string(peer.seenAt == .none ? "" : peer.seenAt.address.description),
          "port": JSONValue(peer.seenAt.port), "online": .bool(peer.isOnline),
          "ping": peer.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
          "labels": .array([]), "isLocal": .bool(false),
          "agent": ["edition": "Martlet", "version": .string(peer.version)],
          "path": peer.tier.map { .string($0.code) } ?? .null,
          "rtt": peer.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
        ]
      }
  }

  /// Filters `id name user keyword offset limit`.
  private func endpoints(_ target: HTTPTarget) -> [JSONValue] {
    var found = allEndpoints
    for (filter, key) in [("id", "id"), ("name", "name"), ("user", "username")] {
      if let wanted = target[filter] { found = found.filter { $0[key]?.string == wanted } }
    }
    if let keyword = target["keyword"], !keyword.isEmpty {
      found = found.filter {
        ($0["name"]?.string ?? "").contains(keyword)
          || ($0["username"]?.string ?? "").contains(keyword)
      }
    }
    if let offset = target["offset"].flatMap({ Int($0) }), offset > 0 {
      found = Array(found.dropFirst(offset))
    }
    if let limit = target["limit"].flatMap({ Int($0) }), limit >= 0 {
      found = Array(found.prefix(limit))
    }
    return found
  }

  // MARK: Tunnels

  private func tunnelAPI(_ path: [String], _ request: HTTPRequest, _ answer: Answer) {
    var path = path
    // Long form: …/api/endpoints/{ep}/inbound|outbound[/{proto}/{name}].
    if path.count >= 3, path[0] == "endpoints" {
      guard path[1] == agent.node.endpointID || path[1] == agent.options.node else {
        return answer(
          Self.error(404, "tunnels of other endpoints are changed on those endpoints' own agents"))
      }
      path = Array(path.dropFirst(2))
    }
    switch path.count {
    case 1:
      switch path[0] {
      case "tunnel", "tunnels": read(request, answer) { .array(tunnelOverview) }
      case "inbound": read(request, answer) { .array(inbounds.map(object)) }
      case "outbound": read(request, answer) { .array(outbounds.map(object)) }
      default: answer(Self.notFound)
      }
    case 3:
      let key: TunnelKey
      do throws(DefinitionError) {
        guard let kind = TunnelProtocol(text: path[1]) else {
          throw DefinitionError(.protocol, .malformed, value: path[1])
        }
        key = try TunnelKey(kind, path[2])
      } catch {
        return answer(Self.error(400, "\(error)"))
      }
      switch path[0] {
      case "tunnel", "tunnels":
        guard
          let found = tunnelOverview.first(where: {
            $0["protocol"]?.string == key.protocol.text && $0["name"]?.string == key.name
          })
        else { return answer(Self.error(404, "no tunnel \(key)")) }
        read(request, answer) { found }
      case "inbound": change(key, isInbound: true, request, answer)
      case "outbound": change(key, isInbound: false, request, answer)
      default: answer(Self.notFound)
      }
    default: answer(Self.notFound)
    }
  }

  private var inbounds: [TunnelInbound] {
    let table = agent.node.tunnels.inbounds
    return table.keys.sorted().compactMap { table[$0] }
  }

  private var outbounds: [TunnelOutbound] {
    let table = agent.node.tunnels.outbounds
    return table.keys.sorted().compactMap { table[$0] }
  }

  private func object(_ inbound: TunnelInbound) -> JSONValue {
    TunnelJSON.object(
      inbound,
      failure: { address in
        self.agent.tunnels.problem(
          Listening(owner: .tunnel(inbound.key), protocol: inbound.key.protocol, address: address))
      }, counters: agent.node.counters[.tunnel(inbound.key)] ?? TunnelCounters())
  }

  private func object(_ outbound: TunnelOutbound) -> JSONValue {
    TunnelJSON.object(
      outbound, counters: agent.node.counters[.tunnel(outbound.key)] ?? TunnelCounters())
  }

  /// Every tunnel of the mesh with the endpoints that hold its halves.
  private var tunnelOverview: [JSONValue] {
    var halves: [String: (inbound: [JSONValue], outbound: [JSONValue])] = [:]
    let own: JSONValue = [
      "id": .string(agent.node.endpointID), "name": .string(agent.options.node),
    ]
    for inbound in inbounds {
      halves[inbound.key.description, default: ([], [])].inbound.append(own)
    }
    for outbound in outbounds {
      halves[outbound.key.description, default: ([], [])].outbound.append(own)
    }
    for peer in agent.node.status(now: agent.loop.now) {
      let endpoint: JSONValue = ["id": .string(peer.endpointID), "name": .string(peer.name)]
      for offer in peer.offers {
        if offer.isInbound {
          halves[offer.tunnel, default: ([], [])].inbound.append(endpoint)
        } else {
          halves[offer.tunnel, default: ([], [])].outbound.append(endpoint)
        }
      }
    }
    return halves.keys.sorted().map { name in
      let half = halves[name] ?? ([], [])
      let slash = name.firstIndex(of: "/") ?? name.startIndex
      return [
        "protocol": .string(String(name[..<slash])),
        "name": .string(String(name[slash...].dropFirst())),
        "inbound": .array(half.inbound), "outbound": .array(half.outbound),
      ]
    }
  }

  private struct BodyFault: Error {
    let words: String
  }

  private static func body(_ request: HTTPRequest) throws(BodyFault) -> JSONValue {
    do throws(JSONError) {
      return try JSONValue.parse(request.body)
    } catch {
      throw BodyFault(words: "the body is not JSON: \(error)")
    }
  }

  private func change(
    _ key: TunnelKey, isInbound: Bool, _ request: HTTPRequest, _ answer: Answer
  ) {
    let half = isInbound ? "inbound" : "outbound"
    switch request.method {
    case .get, .head:
      let found =
        isInbound
        ? agent.node.tunnels.inbounds[key].map(object)
        : agent.node.tunnels.outbounds[key].map(object)
      guard let found else { return answer(Self.error(404, "no \(half) \(key)")) }
      answer(.json(found))
    case .post, .put:
      do {
        let body = try Self.body(request)
        if isInbound {
          try agent.tunnels.open([try TunnelJSON.inbound(key, from: body)])
        } else {
          try agent.tunnels.open([try TunnelJSON.outbound(key, from: body)])
        }
        answer(
          .json(["protocol": .string(key.protocol.text), "name": .string(key.name)], status: 201))
      } catch {
        answer(Self.explain(error))
      }
    case .delete:
      do throws(TunnelRefusal) {
        if isInbound {
          try agent.tunnels.closeInbounds([key])
        } else {
          try agent.tunnels.closeOutbounds([key])
        }
        answer(HTTPResponse(204))
      } catch {
        answer(Self.explain(error))
      }
    default:
      answer(Self.error(405, "GET, POST or DELETE"))
    }
  }

  private static func explain(_ error: any Error) -> HTTPResponse {
    switch error {
    case let fault as BodyFault: Self.error(400, fault.words)
    case let fault as ConfigError: Self.error(400, fault.description)
    case let refusal as TunnelRefusal:
      Self.error(refusal.kind == .notFound ? 404 : 400, refusal.description)
    default: Self.error(400, "\(error)")
    }
  }
}
