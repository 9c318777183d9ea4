/// One agent at work: the pure `Node` with its sockets. Everything here runs on
/// one event loop; nothing blocks but reading files at the start. After each
/// batch of events the node is drained: packets, signals, events.

package import Bytes
package import CommandLine
internal import Crypto
internal import HTTP
internal import Mux
package import NodeCore
internal import Paths
internal import Relay
internal import Signaling
package import Reactor
internal import Tunnels

/// Why an agent does not start. Words for stderr; the exit status is 1.
package struct AgentStartFailure: Error, CustomStringConvertible {
  package let description: String
  init(_ description: String) { self.description = description }
}

package final class AgentRuntime {
  package let options: AgentOptions
  package let loop: EventLoop
  package let node: Node
  let state: AgentState
  let log: AgentLog
  let names: NameLookup
  var random: SeededRandom
  package let startedAt: Instant

  private let batch = TransmitBatch()
  private let timer: LoopTimer
  private var socketV4: UDPSocket?
  private var socketV6: UDPSocket?
  private var streamListeners: [StreamListener]
  private let streamDoor = CarrierConnections.Door()
  var uplinks: UplinkManager?
  private var api: LocalAPI?
  private var watcher: ConfigWatcher?
  private var carriers: CarrierConnections?
  private(set) var relay: RelayService?
  private(set) lazy var relayLegs = RelayLegs(self)
  private(set) lazy var natSockets = NATSockets(self)
  private(set) lazy var tunnels = TunnelManager(self)
  private var bridges: [FlowID: FlowBridge] = [:]
  private var monitor: NetworkMonitor?
  private(set) var portMapping: PortMappingManager?
  private var saveTimer: TimerToken?
  private var pingWaiters: [UInt32: (Result<(TimeAmount, String), PingFailure>) -> Void] = [:]
  private var lastPing: UInt32 = 0
  private var isStopped = false

  struct PingFailure: Error {
    let words: String
  }

  static let version = ProductVersion.text

  /// Opens the state directory and the sockets; nothing is sent yet.
  /// Parameters for benchmarks:
  /// - usesTCPCarriers: no UDP ones.
  /// - congestion: `cubic` or `bbr`; nil: the usual one.
  package init(
    options: AgentOptions, loop: EventLoop, log: AgentLog, usesTCPCarriers: Bool = false,
    congestion: String? = nil
  ) throws(AgentStartFailure) {
    self.options = options
    self.loop = loop
    self.log = log
    startedAt = loop.now
    do throws(AgentStateFailure) {
      state = try AgentState(directory: options.dataDirectory) { log.warn($0) }
    } catch {
      switch error {
      case .locked(let words), .unreadable(let words): throw AgentStartFailure(words)
      }
    }
    var random = SeededRandom(seed: try Self.kernelSeed())
    let key: KeyPair
    if let secret = state.bytes("key"), secret.count == 32 {
      key = KeyPair(secret: secret, publicKey: X25519.publicKey(of: secret))
    } else {
      key = X25519.generate(using: &random)
      state.setBytes("key", key.secret)
      // For the life of the key: both ends of a session must always agree.
      let ciphers: CipherSet =
        ProcessSettings.hasAES ? [.chaCha20Poly1305, .aes256GCM] : .chaCha20Poly1305
      state["ciphers"] = JSONValue(Int(ciphers.rawValue))
    }
    do throws(SystemError) {
      names = try NameLookup(loop)
    } catch {
      throw AgentStartFailure("names cannot be looked up: \(error)")
    }
    let sockets = try Self.bindSockets(options, state, loop, log, streamDoor)
    socketV4 = sockets.v4
    socketV6 = sockets.v6
    streamListeners = sockets.streams
    state["port"] = JSONValue(sockets.port)
    state.save()
    if let failure = state.lastFailure { throw AgentStartFailure(failure) }
    var settings = NodeSettings(
      name: options.node, staticKey: key, incarnation: random.next() | 1, version: Self.version,
      os: "\(ProcessSettings.systemName) \(ProcessSettings.kernelRelease)", port: sockets.port,
      seed: random.bytes(32), token: options.token.value)
    settings.usesTCPCarriers = usesTCPCarriers
    if let congestion {
      guard let algorithm = CongestionAlgorithm(rawValue: congestion) else {
        throw AgentStartFailure("MARTLET_CONGESTION=\(congestion): expected cubic or bbr")
      }
      settings.congestion = algorithm
    }
    // A key of the time before this was kept knows one cipher.
    if state["ciphers"]?.uint64 == UInt64(CipherSet([.chaCha20Poly1305, .aes256GCM]).rawValue) {
      settings.ciphers.insert(.aes256GCM)
    }
    settings.listensTCP = true
    settings.guessesPorts = !options.noPortGuessing
    settings.relayPolicies = options.relayPolicies
    node = Node(settings: settings, records: state.records, now: loop.now)
    self.random = random
    weak var me: AgentRuntime?
    timer = LoopTimer(loop) { me?.tick() }
    me = self
    node.exitPolicy.rules = options.allow
    socketV4?.delegate = self
    socketV6?.delegate = self
  }

  /// Begins to work: interfaces, tunnels, the server.
  package func start() throws(AgentStartFailure) {
    if options.mapsPorts { portMapping = PortMappingManager(self) }
    readInterfaces()
    restoreStockPeers()
    do throws(SystemError) {
      monitor = try NetworkMonitor(loop) { [weak self] in self?.readInterfaces() }
    } catch {
      log.warn("changes of the network will not be noticed: \(error)")
    }
    loop.onClockChange { [weak self] in self?.readInterfaces() }
    loop.afterEachBatch { [weak self] in self?.drain() }
    let api = try LocalAPI(self)
    self.api = api
    node.exitPolicy.protectedPorts = [api.endpoint.port]
    carriers = CarrierConnections(self, streamListeners, streamDoor)
    streamListeners = []
    if options.isRelay { try startRelay() }
    tunnels.start()
    watcher = ConfigWatcher(self)
    let uplinks = UplinkManager(self)
    self.uplinks = uplinks
    uplinks.start()
  }

  /// Closes everything; the loop may stop afterwards.
  package func stop() {
    guard !isStopped else { return }
    for bridge in bridges.values { node.flowReset(bridge.flow, words: "the agent stops") }
    // The resets leave while the sockets are open.
    drain()
    isStopped = true
    api?.stop()
    watcher?.stop()
    portMapping?.stop()
    carriers?.close()
    relay?.stop()
    relayLegs.closeAll()
    tunnels.stop()
    for bridge in bridges.values { bridge.connection.reset() }
    bridges.removeAll()
    uplinks?.stop()
    state.save()
    natSockets.closeAll()
    socketV4?.close()
    socketV6?.close()
    monitor?.close()
    names.close()
  }

  private func startRelay() throws(AgentStartFailure) {
    guard options.relayKilobits > 0 else {
      log.warn("relay: -bw 0 relays nothing for others, so no relay is started")
      return
    }
    relay = try RelayService(self)
  }

  /// What may take a moment at the end; call after the loop has ended.
  package func finishStopping() { portMapping?.finish() }

  private static func kernelSeed() throws(AgentStartFailure) -> [UInt8] {
    do throws(SystemError) {
      return try ProcessSettings.randomBytes(32)
    } catch {
      throw AgentStartFailure("no random bytes from the kernel: \(error)")
    }
  }

  // MARK: Sockets

  private static func bindSockets(
    _ options: AgentOptions, _ state: AgentState, _ loop: EventLoop, _ log: AgentLog,
    _ door: CarrierConnections.Door
  ) throws(AgentStartFailure) -> (
    v4: UDPSocket, v6: UDPSocket?, streams: [StreamListener], port: UInt16
  ) {
    let kept: UInt16? = state["port"]?.integer()
    var wanted = options.port ?? kept ?? 0
    for attempt in 0..<8 {
      do throws(SystemError) {
        let v4 = try UDPSocket(loop, bind: Endpoint(.anyV4, wanted), number: 1)
        var v6: UDPSocket?
        do throws(SystemError) {
          v6 = try UDPSocket(loop, bind: Endpoint(.anyV6, v4.local.port), number: 2)
        } catch {
          // No IPv6 on this machine is fine; a port that is taken is not.
          if error.isAddressInUse {
            v4.close()
            throw error
          }
        }
        let port = v4.local.port
        do throws(SystemError) {
          return (v4, v6, try CarrierConnections.listen(loop, port: port, door), port)
        } catch {
          v4.close()
          v6?.close()
          throw error
        }
      } catch {
        guard error.isAddressInUse, options.port == nil, attempt < 7 else {
          throw AgentStartFailure("-port \(wanted): \(error)")
        }
        if kept != nil, attempt == 0 {
          log.warn("port \(wanted), used before, is taken; choosing another")
        }
        wanted = 0
      }
    }
    throw AgentStartFailure("no port could be had for UDP and TCP")
  }

  private func readInterfaces() {
    do throws(SystemError) {
      var addresses: [AddressPrefix] = []
      let interfaces = try NetworkInterfaces.current()
      for interface in interfaces where interface.isUp {
        for address in interface.addresses
        where !address.isTentative && !address.isDuplicate && !address.isDeprecated {
          addresses.append(AddressPrefix(address.address, address.prefix))
        }
      }
      node.setNetwork(
        addresses: addresses, socketV4: socketV4?.number, socketV6: socketV6?.number,
        now: loop.now)
      // An interface that is down keeps its IPv4 addresses; nothing arrives at them.
      let reachable = Set(interfaces.filter(\.isUp).flatMap { $0.addresses.map(\.address) })
      uplinks?.networkChanged(reachable)
      relayLegs.networkChanged(reachable)
      carriers?.networkChanged(reachable)
      portMapping?.networkChanged(interfaces)
    } catch {
      log.warn("the interfaces cannot be read: \(error)")
    }
  }

  /// The router's answer: where others reach our UDP or TCP port from outside.
  func portMapped(_ external: Endpoint?, isTCP: Bool, _ words: String) {
    log.info(words)
    if isTCP {
      node.setStreamPortMapping(external, now: loop.now)
    } else {
      node.setPortMapping(external, now: loop.now)
    }
  }

  // MARK: Drain

  private func tick() { node.advance(to: loop.refreshNow()) }

  private func drain() {
    guard !isStopped else { return }
    var rounds = 0
    while true {
      let now = loop.refreshNow()
      let isFull = node.pollTransmit(
        into: batch, now: now, wallClock: UInt64(max(0, EventLoop.wallClockNanoseconds)))
      flush()
      var sawEvent = false
      while let event = node.pollEvent() {
        sawEvent = true
        handle(event)
      }
      uplinks?.sendSignals()
      rounds += 1
      if !isFull && !sawEvent { break }
      if rounds == 16 {
        loop.requestAnotherBatch()
        break
      }
    }
    timer.set(at: node.nextDeadline)
  }

  private func flush() {
    let segments = batch.segments
    var index = 0
    while index < segments.count {
      let carrier = segments[index].carrier
      switch carrier.kind {
      case .udp:
        let socket =
          switch carrier.socket {
          case 1: socketV4
          case 2: socketV6
          default: natSockets[carrier.socket]
          }
        let next = socket?.send(batch, from: index) ?? index
        index = max(next, index + 1)
      case .relay:
        if !relayLegs.send(batch, segments[index]) { uplinks?.sendRelayed(batch, segments[index]) }
        index += 1
      case .tcp:
        carriers?.send(batch, segments[index])
        index += 1
      }
    }
    uplinks?.flushRelayed()
    carriers?.flush()
    relayLegs.flush()
    batch.removeAll()
  }

  // MARK: Events of the node

  private func handle(_ event: NodeEvent) {
    switch event {
    case .online:
      uplinks?.online()
    case .signalClosed(let reason):
      uplinks?.signalMustClose(reason)
    case .loginRefused(_, let words):
      uplinks?.loginRefused(words)
    case .dial(let flow, let request):
      tunnels.dial(flow, request)
    case .flowOpened:
      break
    case .flowReadable(let flow):
      bridge(flow)?.writeOut()
    case .flowWritable(let flow):
      bridge(flow)?.flowWritable()
    case .flowFinished(let flow):
      bridge(flow)?.writeOut()
    case .flowEnded(let flow, let end):
      log.debug("connection ended: \(end.words)")
      tunnels.cancelDial(flow)
      if let bridge = takeBridge(flow) { bridge.connection.reset() }
    case .flowClosed(let flow):
      if let bridge = takeBridge(flow) { bridge.connection.closeWhenFlushed() }
    case .openSockets(let first, let count, let isV4):
      natSockets.open(first: first, count: count, isV4: isV4)
    case .closeSocket(let number):
      natSockets.close(number)
    case .dialSTUN(let connection, let endpoint, let fromListeningPort):
      natSockets.dial(connection, endpoint, fromListeningPort: fromListeningPort)
    case .sendSTUN(let connection, let bytes):
      natSockets.send(connection, bytes)
    case .hangUpSTUN(let connection):
      natSockets.hangUp(connection)
    case .dialCarrier(let connection, let endpoint):
      carriers?.dial(connection, endpoint)
    case .closeCarrier(let connection):
      carriers?.close(connection)
    case .dialRelay(let connection, let endpoint, let isDatagram):
      relayLegs.dial(connection, endpoint, isDatagram: isDatagram)
    case .sendRelay(let connection, let frame):
      relayLegs.send(connection, frame)
    case .closeRelay(let connection):
      relayLegs.close(connection)
    case .serverTime(let unixNanoseconds):
      relay?.setServerTime(unixNanoseconds: unixNanoseconds)
    case .relaySecrets(let secrets):
      relay?.setSecrets(secrets)
    case .pong(let token, let roundTrip, let path):
      pingWaiters.removeValue(forKey: token)?(.success((roundTrip, path)))
    case .pingFailed(let token, let words):
      pingWaiters.removeValue(forKey: token)?(.failure(PingFailure(words: words)))
    case .store(let record):
      state.keep(record)
      if case .stampCeiling = record { state.save() } else { saveSoon() }
    case .log(let line):
      log.write(line)
    }
  }

  /// The socket of direct paths for a family; nil where there is none.
  func datagramSocket(for address: IPAddress) -> UDPSocket? {
    address.isV4 ? socketV4 : socketV6
  }

  func datagramSocket(number: UInt32) -> UDPSocket? {
    [socketV4, socketV6].compactMap(\.self).first { $0.number == number }
  }

  /// Our end of a UDP carrier: the local port.
  func ownEndpoint(of carrier: Carrier) -> String? {
    guard carrier.kind == .udp else { return nil }
    let port =
      switch carrier.socket {
      case 1: socketV4?.local.port
      case 2: socketV6?.local.port
      default: natSockets[carrier.socket]?.local.port
      }
    return port.map { "port \($0)" }
  }

  /// The public key of the agent's own static key, as text.
  var identity: String { Hex.encode(node.settings.staticKey.publicKey) }

  /// Makes a stock WireGuard peer known; kept in the state directory.
  /// - Returns: why it was refused; nil when it was not.
  func addStockPeer(name: String, publicKey: [UInt8], endpoint: Endpoint?) -> String? {
    if let words = node.addStockPeer(
      name: name, publicKey: publicKey, endpoint: endpoint, now: loop.now)
    {
      return words
    }
    var stock = state["wireguard"] ?? .object(JSONObject())
    stock[name] = [
      "publicKey": .string(Base64.encode(publicKey)),
      "endpoint": endpoint.map { .string($0.description) } ?? .null,
    ]
    state["wireguard"] = stock
    state.save()
    return nil
  }

  private func restoreStockPeers() {
    for member in state["wireguard"]?.object?.members ?? [] {
      guard let key = member.value["publicKey"]?.string.flatMap({ Base64.decode($0) }) else {
        continue
      }
      let endpoint = member.value["endpoint"]?.string.flatMap { Endpoint($0) }
      if let words = node.addStockPeer(
        name: member.name, publicKey: key, endpoint: endpoint, now: loop.now)
      {
        log.warn("WireGuard peer \(member.name): \(words)")
      }
    }
  }

  func saveSoon() {
    guard saveTimer == nil else { return }
    saveTimer = loop.schedule(after: .milliseconds(100)) { [weak self] in
      guard let self else { return }
      saveTimer = nil
      state.save()
      if let failure = state.lastFailure { log.warn("state cannot be kept: \(failure)") }
    }
  }

  /// Asks a peer for a sign of life through the path in use.
  func ping(
    _ name: String, _ completion: @escaping (Result<(TimeAmount, String), PingFailure>) -> Void
  ) {
    lastPing &+= 1
    pingWaiters[lastPing] = completion
    node.ping(name, token: lastPing, now: loop.now)
  }

  // MARK: Bridges

  func adopt(_ bridge: FlowBridge) { bridges[bridge.flow] = bridge }

  func bridge(_ flow: FlowID) -> FlowBridge? { bridges[flow] }

  func takeBridge(_ flow: FlowID) -> FlowBridge? { bridges.removeValue(forKey: flow) }

  /// The bridge's own connection (a dialled target) is there.
  func dialed(_ bridge: FlowBridge) { tunnels.dialed(bridge) }

  /// The local socket broke.
  func bridgeFailed(_ bridge: FlowBridge, _ error: SystemError) {
    if tunnels.dialFailed(bridge, error) { return }
    guard self.bridge(bridge.flow) === bridge else { return }
    bridges[bridge.flow] = nil
    node.flowReset(bridge.flow, words: "\(error)")
  }
}

extension AgentRuntime: UDPSocketDelegate {
  package func socketReadable(_ socket: UDPSocket) {
    let now = loop.refreshNow()
    let number = socket.number
    let node = node
    let relayLegs = relayLegs
    socket.receive { bytes, info in
      if bytes.byteCount > 0,
        RelayNode.isRelayDatagram(firstByte: bytes.bytes.unsafeLoad(as: UInt8.self))
      {
        relayLegs.receive(&bytes, from: info.remote, now: now)
        return
      }
      node.receive(&bytes, from: .udp(socket: number, remote: info.remote), now: now)
    }
    node.finishReceiving(now: now)
  }

  package func socket(_ socket: UDPSocket, failed failure: DatagramFailure) {
    if let router = failure.expiredAt {
      node.datagramExpired(
        on: .udp(socket: socket.number, remote: failure.remote), at: router, now: loop.now)
      return
    }
    if failure.error.isMessageTooLarge {
      // The kernel tells the next hop's MTU; a datagram has its headers less. 0 = not told.
      let headers = failure.remote.address.isV4 ? 28 : 48
      node.datagramTooLong(
        on: .udp(socket: socket.number, remote: failure.remote),
        limit: max(0, failure.maximumSize - headers), now: loop.now)
    }
  }
}
