/// Named tunnels and apps at work: the listeners of the near end, the dials of
/// the far end, and the definitions that outlive the process. What is defined
/// is `TunnelTable`'s; this binds, accepts, resolves, connects.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import NodeCore
internal import Reactor
internal import Tunnels

/// Why a tunnel cannot be opened or closed; words for people.
struct TunnelRefusal: Error, CustomStringConvertible {
  enum Kind { case invalid, notFound, cannotListen }
  var kind: Kind
  var description: String
}

final class TunnelManager {
  private unowned let agent: AgentRuntime
  private var listeners: [Listening: StreamListener] = [:]
  /// Saved listeners that could not be bound, with the reason; retried.
  private(set) var unbound: [Listening: String] = [:]
  private var dials: [FlowID: TargetDial] = [:]
  /// Saved definitions that this version cannot read, by half; kept as they are.
  private var unreadable: [String: [JSONValue]] = [:]
  private var retry: TimerToken?
  private var isStopped = false

  static let bindRetry = TimeAmount.seconds(5)

  init(_ agent: AgentRuntime) { self.agent = agent }

  // MARK: Start and stop

  /// Opens what was saved, and the apps of config.json. What cannot listen
  /// stays, is listed with its error, and is retried.
  func start() {
    restore()
    do throws(TunnelTableError) {
      _ = try agent.node.replaceApps(agent.options.apps)
    } catch {
      agent.log.error("apps of \(agent.options.configPath): \(error)")
    }
    for listening in agent.node.tunnels.listenings { bindOrRemember(listening) }
  }

  func stop() {
    isStopped = true
    if let retry { agent.loop.cancel(retry) }
    for listener in listeners.values { listener.close() }
    listeners.removeAll()
  }

  /// A new set of apps (config.json was changed); the old ones stay on an error.
  func replaceApps(_ apps: [AppDefinition]) throws(TunnelRefusal) {
    do throws(TunnelTableError) {
      let change = try agent.node.replaceApps(apps)
      for listening in change.stop { close(listening) }
      for listening in change.start { bindOrRemember(listening) }
    } catch {
      throw TunnelRefusal(kind: .invalid, description: "\(error)")
    }
  }

  // MARK: Open and close

  /// Opens or replaces inbound halves. All of them, or none and nothing changes.
  func open(_ inbounds: [TunnelInbound]) throws(TunnelRefusal) {
    let carried = inbounds.filter { $0.key.protocol == .tcp }
    guard !carried.isEmpty else {
      throw TunnelRefusal(
        kind: .invalid, description: "udp tunnels are not active yet; tcp ones are")
    }
    var bound: [Listening: StreamListener] = [:]
    for inbound in carried {
      for address in inbound.listens {
        let listening = Listening(owner: .tunnel(inbound.key), protocol: .tcp, address: address)
        guard listeners[listening] == nil else { continue }
        if let other = agent.node.tunnels.listenings.first(where: {
          $0.owner != listening.owner && $0.protocol == .tcp && $0.address.collides(with: address)
        }) {
          for listener in bound.values { listener.close() }
          throw TunnelRefusal(
            kind: .cannotListen,
            description: "\(inbound.key): \(address) is already used by \(other.owner)")
        }
        do throws(SystemError) {
          bound[listening] = try bind(listening)
        } catch {
          for listener in bound.values { listener.close() }
          throw TunnelRefusal(
            kind: .cannotListen, description: "\(inbound.key): \(Self.explain(address, error))")
        }
      }
    }
    do throws(TunnelTableError) {
      let change = try agent.node.setInbounds(carried)
      for listening in change.stop { close(listening) }
    } catch {
      for listener in bound.values { listener.close() }
      throw TunnelRefusal(kind: .invalid, description: "\(error)")
    }
    for (listening, listener) in bound {
      listeners[listening] = listener
      unbound[listening] = nil
      note(listening, .listening(listening.address))
    }
    for inbound in carried { agent.node.recordTunnel(.tunnel(inbound.key), .defined("inbound"), now: agent.loop.now) }
    try save()
  }

  func open(_ outbounds: [TunnelOutbound]) throws(TunnelRefusal) {
    let carried = outbounds.filter { $0.key.protocol == .tcp }
    guard !carried.isEmpty else {
      throw TunnelRefusal(
        kind: .invalid, description: "udp tunnels are not active yet; tcp ones are")
    }
    do throws(TunnelTableError) {
      try agent.node.setOutbounds(carried)
    } catch {
      throw TunnelRefusal(kind: .invalid, description: "\(error)")
    }
    for outbound in carried {
      agent.node.recordTunnel(.tunnel(outbound.key), .defined("outbound"), now: agent.loop.now)
    }
    try save()
  }

  func closeInbounds(_ keys: [TunnelKey]) throws(TunnelRefusal) {
    do throws(TunnelTableError) {
      let change = try agent.node.removeInbounds(keys)
      for listening in change.stop { close(listening) }
    } catch {
      throw TunnelRefusal(kind: .notFound, description: "\(error)")
    }
    try save()
  }

  func closeOutbounds(_ keys: [TunnelKey]) throws(TunnelRefusal) {
    do throws(TunnelTableError) {
      try agent.node.removeOutbounds(keys)
    } catch {
      throw TunnelRefusal(kind: .notFound, description: "\(error)")
    }
    try save()
  }

  /// The error of a listener that is defined but not bound.
  func problem(_ listening: Listening) -> String? { unbound[listening] }

  // MARK: Listeners

  private func bind(_ listening: Listening) throws(SystemError) -> StreamListener {
    var options = StreamOptions()
    options.backlogBytes = FlowBridge.backlogLimit
    let owner = listening.owner
    return try StreamListener(
      agent.loop, on: listening.address.endpoint, options: options
    ) { [weak self] connection in
      guard let self else {
        connection.reset()
        return
      }
      accept(connection, owner)
    }
  }

  private func bindOrRemember(_ listening: Listening) {
    guard listening.protocol == .tcp else {
      unbound[listening] = "udp is not active yet"
      return
    }
    guard listeners[listening] == nil else { return }
    do throws(SystemError) {
      listeners[listening] = try bind(listening)
      unbound[listening] = nil
      note(listening, .listening(listening.address))
    } catch {
      let words = Self.explain(listening.address, error)
      if unbound[listening] != words {
        unbound[listening] = words
        agent.log.warn("\(listening.owner): \(words); retrying")
        note(listening, .listenFailed(listening.address, words))
      }
      scheduleRetry()
    }
  }

  private func scheduleRetry() {
    guard retry == nil, !isStopped else { return }
    retry = agent.loop.schedule(after: Self.bindRetry) { [weak self] in
      guard let self else { return }
      retry = nil
      let defined = Set(agent.node.tunnels.listenings)
      for listening in Array(unbound.keys) {
        if defined.contains(listening) {
          if listening.protocol == .tcp { bindOrRemember(listening) }
        } else {
          unbound[listening] = nil
        }
      }
    }
  }

  private func close(_ listening: Listening) {
    unbound[listening] = nil
    guard let listener = listeners.removeValue(forKey: listening) else { return }
    listener.close()
    note(listening, .listeningStopped(listening.address))
  }

  private func note(_ listening: Listening, _ what: TunnelEvent.What) {
    agent.node.recordTunnel(listening.owner, what, now: agent.loop.now)
  }

  /// Why a bind failed, and what to do.
  static func explain(_ address: ListenAddress, _ error: SystemError) -> String {
    if error.isPermissionDenied {
      return
        "cannot listen on \(address): a port below net.ipv4.ip_unprivileged_port_start needs root (or lower that setting)"
    }
    if error.isAddressInUse { return "cannot listen on \(address): another program listens there" }
    return "cannot listen on \(address): \(error)"
  }

  private func accept(_ connection: StreamConnection, _ owner: TunnelOwner) {
    let now = agent.loop.now
    let service: OpenRequest
    let exits: [EndpointReference]
    switch owner {
    case .tunnel(let key):
      guard let inbound = agent.node.tunnels.inbounds[key] else {
        connection.reset()
        return
      }
      service = .tunnel(key)
      exits = inbound.exits
    case .app(let key):
      guard let app = agent.node.tunnels.apps[key] else {
        connection.reset()
        return
      }
      guard let remote = connection.remote, app.whitelist.admits(remote.address) else {
        agent.node.recordTunnel(owner, .refused(peer: "", reason: .callerNotAdmitted), now: now)
        connection.reset()
        return
      }
      service = OpenRequest(app)
      exits = [app.peerNode]
    }
    guard let flow = agent.node.openFlow(owner, service: service, exits: exits, now: now) else {
      connection.reset()
      return
    }
    let bridge = FlowBridge(agent, flow: flow, connection: connection)
    agent.adopt(bridge)
    bridge.readIn()
  }

  // MARK: Dials of the far end

  /// One target being reached: its addresses one after the other.
  private final class TargetDial {
    let flow: FlowID
    var addresses: [Endpoint] = []
    var lookup: NameLookup.Token?
    var bridge: FlowBridge?
    var failure = OpenRefusal.targetUnreachable

    init(flow: FlowID) { self.flow = flow }
  }

  func dial(_ flow: FlowID, _ request: DialRequest) {
    let dial = TargetDial(flow: flow)
    dials[flow] = dial
    switch request.target {
    case .unix(let path):
      do throws(SystemError) {
        let connection = try StreamConnection.connect(agent.loop, unixPath: path)
        dial.bridge = FlowBridge(agent, flow: flow, connection: connection)
      } catch {
        dial.failure = Self.refusal(error)
        dialNext(dial)
      }
    case .host(let host, let port):
      if let address = IPAddress(host) {
        dial.addresses = allowed([address], request, port, dial)
        dialNext(dial)
        return
      }
      dial.lookup = agent.names.resolve(host) { [weak self] result in
        guard let self, dials[flow] === dial else { return }
        dial.lookup = nil
        switch result {
        case .success(let found):
          dial.addresses = allowed(found, request, port, dial)
        case .failure:
          dial.failure = .nameNotResolved
        }
        dialNext(dial)
      }
    }
  }

  private func allowed(
    _ found: [IPAddress], _ request: DialRequest, _ port: UInt16, _ dial: TargetDial
  ) -> [Endpoint] {
    guard let host = request.requestedHost else { return found.map { Endpoint($0, port) } }
    let passed = found.filter {
      agent.node.mayReach(requested: host, resolved: $0, port: port)
    }
    if passed.isEmpty { dial.failure = .notAllowed }
    return passed.map { Endpoint($0, port) }
  }

  private func dialNext(_ dial: TargetDial) {
    while !dial.addresses.isEmpty {
      let endpoint = dial.addresses.removeFirst()
      var options = StreamOptions()
      options.connectTimeout = TargetTuning.dialTimeout
      options.backlogBytes = FlowBridge.backlogLimit
      do throws(SystemError) {
        let connection = try StreamConnection.connect(agent.loop, to: endpoint, options: options)
        dial.bridge = FlowBridge(agent, flow: dial.flow, connection: connection)
        return
      } catch {
        dial.failure = Self.refusal(error)
      }
    }
    dials[dial.flow] = nil
    agent.node.dialFailed(dial.flow, reason: dial.failure, now: agent.loop.now)
  }

  /// The target answered.
  func dialed(_ bridge: FlowBridge) {
    guard let dial = dials.removeValue(forKey: bridge.flow), dial.bridge === bridge else { return }
    agent.adopt(bridge)
    agent.node.dialSucceeded(bridge.flow, now: agent.loop.now)
    bridge.writeOut()
  }

  /// - Returns: false when this bridge is not being dialled.
  func dialFailed(_ bridge: FlowBridge, _ error: SystemError) -> Bool {
    guard let dial = dials[bridge.flow], dial.bridge === bridge else { return false }
    dial.bridge = nil
    dial.failure = Self.refusal(error)
    dialNext(dial)
    return true
  }

  /// The caller has gone while we were dialling.
  func cancelDial(_ flow: FlowID) {
    guard let dial = dials.removeValue(forKey: flow) else { return }
    if let lookup = dial.lookup { agent.names.cancel(lookup) }
    dial.bridge?.connection.close()
  }

  private static func refusal(_ error: SystemError) -> OpenRefusal {
    if error.isConnectionRefused { return .targetRefused }
    if error.isTimeout { return .targetTimedOut }
    if error.isTooManyFiles { return .exitBusy }
    return .targetUnreachable
  }

  // MARK: Definitions that outlive the process

  private func save() throws(TunnelRefusal) {
    let table = agent.node.tunnels
    agent.state["inbounds"] = .array(
      table.inbounds.keys.sorted().compactMap { table.inbounds[$0] }.map { inbound in
        .object([
          "tunnel": .string(inbound.key.description),
          "listens": .array(inbound.listens.map { .string($0.description) }),
          "exits": .array(inbound.exits.map { .string($0.description) }),
          "relay": .string(inbound.relay.description), "policy": .string(inbound.policy.text),
        ])
      } + (unreadable["inbounds"] ?? []))
    agent.state["outbounds"] = .array(
      table.outbounds.keys.sorted().compactMap { table.outbounds[$0] }.map { outbound in
        .object([
          "tunnel": .string(outbound.key.description),
          "targets": .array(outbound.targets.map { .string($0.description) }),
          "entrances": .array(outbound.entrances.map { .string($0.description) }),
          "users": .array(outbound.users.map { .string($0) }),
        ])
      } + (unreadable["outbounds"] ?? []))
    agent.state.save()
    if let failure = agent.state.lastFailure {
      agent.log.warn("tunnels cannot be kept: \(failure)")
    }
  }

  /// What was saved. A definition that cannot be read is said and kept as it
  /// is in the file; the others are loaded.
  private func restore() {
    func texts(_ value: JSONValue?) -> [String] { value?.array?.compactMap(\.string) ?? [] }
    func each(_ half: String, _ load: (TunnelKey, JSONValue) throws -> Void) {
      for entry in agent.state[half]?.array ?? [] {
        do {
          guard let key = Self.key(entry["tunnel"]?.string) else {
            throw DefinitionError(.name, .malformed)
          }
          try load(key, entry)
        } catch {
          unreadable[half, default: []].append(entry)
          agent.log.error("a saved tunnel (\(half)) cannot be used: \(error)")
        }
      }
    }
    each("inbounds") { key, entry in
      _ = try agent.node.setInbounds([
        try TunnelInbound(
          key, listens: texts(entry["listens"]), exits: texts(entry["exits"]),
          relay: entry["relay"]?.string ?? "", policy: entry["policy"]?.string ?? "")
      ])
    }
    each("outbounds") { key, entry in
      try agent.node.setOutbounds([
        try TunnelOutbound(
          key, targets: texts(entry["targets"]), entrances: texts(entry["entrances"]),
          users: texts(entry["users"]))
      ])
    }
  }

  private static func key(_ text: String?) -> TunnelKey? {
    guard let text, let slash = text.firstIndex(of: "/"),
      let kind = TunnelProtocol(text: text[..<slash])
    else { return nil }
    return try? TunnelKey(kind, String(text[text.index(after: slash)...]))
  }
}
