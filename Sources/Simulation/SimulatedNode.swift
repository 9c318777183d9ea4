/// A machine with an agent: runs the real `Node` as the agent's runtime does,
/// over virtual sockets. Its process can be killed and started again with what
/// was on its disk; the machine can sleep, move, and have a wrong clock.

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  package import NAT
  internal import Mux
  package import NodeCore
  package import Paths
  internal import Relay
  internal import Signaling
  package import Tunnels
#endif

package final class SimulatedNode {
  unowned let world: World
  package let index: Int
  package let name: String
  let key: KeyPair
  package private(set) var node: Node?
  /// Counts starts; names the process in events that come late.
  package private(set) var process = 0
  package private(set) var addresses: [IPAddress]
  let prefix: Int
  /// Of the two sockets that every agent has, one per family.
  package let port: UInt16
  /// More sockets, by number.
  var sockets: [UInt32: UInt16] = [:]
  /// Nanoseconds that the wall clock is wrong by.
  package var wallOffset: Int64 = 0
  package private(set) var isSuspended = false
  package var uplinkSettings = UplinkSettings()
  package var usesTLS = false
  /// Addresses of strangers that it claims as its own, so that others probe them.
  package var lies: [IPAddress] = []
  package var mutations = NodeMutations()
  /// Of its mesh.
  package var token = SimulatedServer.token
  /// It is a relay for others, from its next start on.
  package var relaySettings: SimulatedRelaySettings?
  /// Its legs at relays by UDP.
  var relayDatagrams: [UInt32: RelayDatagramLeg] = [:]
  /// `-relay-policy`, from the next start on.
  package var relayPolicies: [PeerRelayPolicy] = []
  var relay: SimulatedRelay?

  // Disk: written at once or soon; a kill loses what was not.
  private var disk: [NodeRecord] = []
  private var unsaved: [NodeRecord] = []
  private var isSaveScheduled = false

  private var inbox: [Datagram] = []
  private var inboxBytes = 0
  private var isReadScheduled = false
  private var wakeAt = Instant.distantFuture
  private var wakeToken: UInt64 = 0
  private var isDraining = false
  /// Wakes in a row that were due at once.
  private var hurry = 0
  var uplink = UplinkState()

  /// Flow → conversation and side.
  var flows: [FlowID: (number: Int, isNear: Bool)] = [:]
  var watch = WireWatch()
  /// STUN connections and the endpoints they are for, those from the listening
  /// port apart.
  var stunStreams: [UInt32: Endpoint] = [:]
  var stunFromListening: Set<UInt32> = []
  /// TCP to other nodes: asked for, and open (`StreamLink`), by number.
  var streamAttempts: [UInt32: StreamAttempt] = [:]
  var streamLinks: [UInt32: UInt64] = [:]
  var lastAccepted: UInt32 = 1 << 24 | 1

  /// Routers that told of datagrams that died there, the first ones, for tests.
  package private(set) var deaths: [(destination: Endpoint, router: IPAddress)] = []

  static let socketV4: UInt32 = 1
  static let socketV6: UInt32 = 2
  /// From which a kernel takes ports that nobody asks for.
  static let ephemeralPorts: ClosedRange<UInt16> = 32_768...60_999
  static let inboxLimit = 512 * 1024
  static let deathLimit = 1_024
  /// One batch of the loop waits this long at most.
  static let latency = TimeAmount.microseconds(100)

  init(world: World, index: Int, name: String, addresses: [IPAddress], prefix: Int) {
    self.world = world
    self.index = index
    self.name = name
    self.addresses = addresses
    self.prefix = prefix
    key = X25519.generate(using: &world.random)
    port = UInt16(40_000 + index)
  }

  package var isRunning: Bool { node != nil }

  // MARK: Life

  package func start() {
    guard node == nil else { return }
    process += 1
    world.note("\(name): started")
    var settings = NodeSettings(
      name: name, staticKey: key, incarnation: world.random.next() | 1, version: "simulated",
      os: "none", port: port, seed: world.random.bytes(32), token: token,
      loginCost: .cheap)
    // Some machines have instructions for AES.
    if key.publicKey[0] & 3 != 0 { settings.ciphers.insert(.aes256GCM) }
    settings.listensTCP = true
    settings.relayPolicies = relayPolicies
    mutations.apply(to: &settings)
    node = Node(settings: settings, records: disk, now: world.now)
    watch.restart()
    sockets.removeAll()
    relayDatagrams.removeAll()
    stunStreams.removeAll()
    stunFromListening.removeAll()
    setNetwork()
    setSTUNServers()
    startRelay()
    connectSignal()
    drain()
  }

  /// kill -9: what was not on disk is gone; the kernel resets the connections,
  /// unless the whole machine vanished.
  package func kill(silently: Bool = false) {
    guard node != nil else { return }
    world.note("\(name): killed\(silently ? " silently" : "")")
    world.statistics.kills += 1
    process += 1
    node = nil
    relay = nil
    unsaved.removeAll()
    inbox.removeAll()
    inboxBytes = 0
    sockets.removeAll()
    wakeToken += 1
    wakeAt = .distantFuture
    let lost = flows.values.sorted {
      ($0.number, $0.isNear ? 0 : 1) < ($1.number, $1.isNear ? 0 : 1)
    }
    flows.removeAll()
    for entry in lost { world.conversations[entry.number].killed(isNear: entry.isNear) }
    if !silently {
      for pipe in [uplink.signal, uplink.leg] {
        if let pipe { world.pipes[pipe]?.reset(toServer: true) }
      }
    }
    uplink = UplinkState()
    endStreams(silently: silently)
  }

  /// The machine sleeps: nothing runs, time goes on.
  package func suspend() {
    guard !isSuspended else { return }
    world.note("\(name): suspended")
    isSuspended = true
  }

  package func resume() {
    guard isSuspended else { return }
    world.note("\(name): resumed")
    isSuspended = false
    for id in world.pipes.keys.sorted() where world.pipes[id]?.node == index {
      world.schedule(.pipe(id, toServer: false), after: .microseconds(50))
    }
    guard let node else { return }
    scheduleRead()
    node.advance(to: world.now)
    resumeUplink()
    drain()
  }

  /// Other interfaces than before. Connections over an address that is gone
  /// hear nothing any more.
  package func move(to new: [IPAddress]) { move(to: new, in: world.network.home(of: index)) }

  /// Into another home (or into the internet).
  package func move(into site: Site, kind: NATKind? = nil) {
    move(to: world.freshAddresses(in: site, kind: kind ?? site.kind), in: site)
  }

  package func move(to new: [IPAddress], in site: Site?) {
    world.note("\(name): moves to \(new)")
    let gone = addresses.filter { !new.contains($0) }
    let isElsewhere = world.network.home(of: index) !== site
    world.network.detach(host: index, addresses: addresses)
    world.network.attach(host: index, addresses: new, to: site)
    let isStranded = addresses.first.map { gone.contains($0) } ?? false
    if isStranded || isElsewhere {
      world.breakConnections(ofNode: index)
      world.breakStreams(ofNode: index)
    }
    addresses = new
    guard node != nil else { return }
    world.after(.milliseconds(20)) { world in
      let node = world.nodes[self.index]
      node.setNetwork()
      node.networkChanged(isStranded: isStranded)
      node.drain()
    }
  }

  private func setNetwork() {
    node?.setNetwork(
      addresses: (addresses + lies).map { AddressPrefix($0, $0.isV4 ? prefix : 64) },
      socketV4: Self.socketV4, socketV6: Self.socketV6, now: world.now)
  }

  var wallClock: UInt64 {
    UInt64(max(0, Int64(World.wallClockAtStart) + world.elapsed.nanoseconds + wallOffset))
  }

  // MARK: In

  func arrived(_ datagram: Datagram) {
    guard node != nil, !relayTakes(datagram), socket(of: datagram.destination) != nil else {
      return
    }
    guard inboxBytes + datagram.bytes.count <= Self.inboxLimit else {
      world.statistics.lost += 1
      return
    }
    inbox.append(datagram)
    inboxBytes += datagram.bytes.count
    scheduleRead()
  }

  private func scheduleRead() {
    guard !isReadScheduled, !isSuspended, !inbox.isEmpty else { return }
    isReadScheduled = true
    world.schedule(.read(node: index), after: world.time(.zero, Self.latency))
  }

  func read() {
    isReadScheduled = false
    guard let node, !isSuspended, !inbox.isEmpty else { return }
    let datagrams = inbox
    inbox.removeAll(keepingCapacity: true)
    inboxBytes = 0
    hurry = 0
    for datagram in datagrams {
      world.attacker.isRead(datagram, by: process)
      watch.received(from: datagram.source.address, bytes: datagram.bytes.count)
      // Closed while it waited.
      guard let socket = socket(of: datagram.destination) else { continue }
      if relayLegTakes(datagram, node) { continue }
      var bytes = datagram.bytes
      var span = bytes.mutableSpan
      var packet = span.mutableBytes
      node.receive(
        &packet,
        from: .udp(socket: socket, remote: datagram.source),
        now: world.now)
    }
    node.finishReceiving(now: world.now)
    drain()
  }

  func tooLong(_ destination: Endpoint, port: UInt16, limit: Int, process: Int) {
    guard process == self.process, let node, !isSuspended,
      let socket = socket(of: Endpoint(destination.address, port))
    else { return }
    node.datagramTooLong(
      on: .udp(socket: socket, remote: destination), limit: limit, now: world.now)
    drain()
  }

  /// A router has told that a datagram died there.
  func expired(_ destination: Endpoint, port: UInt16, at router: IPAddress, process: Int) {
    if deaths.count < Self.deathLimit { deaths.append((destination, router)) }
    guard process == self.process, let node, !isSuspended,
      let socket = socket(of: Endpoint(destination.address, port))
    else { return }
    node.datagramExpired(
      on: .udp(socket: socket, remote: destination), at: router, now: world.now)
    drain()
  }

  // MARK: Time

  func wake(_ token: UInt64) {
    guard token == wakeToken, let node else { return }
    wakeAt = .distantFuture
    guard !isSuspended else { return }
    node.advance(to: world.now)
    drain()
  }

  private func arm() {
    guard let node else { return }
    let deadline = node.nextDeadline
    if deadline <= world.now {
      hurry += 1
      if hurry == 2_000 {
        world.violation("\(name): awake without rest; its deadline never moves")
      }
    } else if deadline > world.now + .milliseconds(1) {
      hurry = 0
    }
    let due = max(deadline, world.now + .microseconds(50))
    guard due != wakeAt else { return }
    wakeAt = due
    wakeToken += 1
    if due < .distantFuture { world.schedule(.wake(node: index, token: wakeToken), at: due) }
  }

  // MARK: Drain

  func drain() {
    guard !isDraining else { return }
    isDraining = true
    defer { isDraining = false }
    var rounds = 0
    while let node {
      let isFull = node.pollTransmit(into: world.batch, now: world.now, wallClock: wallClock)
      flush()
      var sawEvent = false
      while let event = self.node?.pollEvent() {
        sawEvent = true
        handle(event)
      }
      sendSignals()
      rounds += 1
      if !isFull && !sawEvent { break }
      if rounds == 10_000 {
        world.violation("\(name): never stops sending or telling")
        break
      }
    }
    arm()
  }

  private func flush() {
    let batch = world.batch
    let segments = batch.segments
    for segment in segments {
      let bytes = batch.withSegment(segment) { [UInt8]($0) }
      switch segment.carrier.kind {
      case .udp:
        let remote = segment.carrier.remote
        guard let source = addresses.first(where: { $0.isV4 == remote.address.isV4 }),
          let port = port(of: segment.carrier.socket)
        else { continue }
        if let words = watch.sent(
          to: remote.address, bytes: bytes.count,
          isVouchedFor: world.vouched.contains(remote.address), now: world.now)
        {
          world.violation("\(name): \(words)")
        }
        world.transmit(
          Endpoint(source, port), remote, bytes, from: index, timeToLive: segment.timeToLive)
      case .relay:
        if !sendToRelay(segment.carrier, bytes) { sendRelayed(segment.carrier, bytes) }
      case .tcp:
        sendStream(segment.carrier.socket, bytes)
      }
    }
    batch.removeAll()
    flushRelayed()
  }

  // MARK: Events of the node

  private func handle(_ event: NodeEvent) {
    switch event {
    case .online:
      online()
    case .signalClosed(let reason):
      signalMustClose(reason)
    case .loginRefused(_, let words):
      loginRefused(words)
    case .dial(let flow, let request):
      dial(flow, request)
    case .flowOpened(let flow):
      if let entry = flows[flow] {
        world.conversations[entry.number].opened()
        world.conversations[entry.number].pump(isNear: entry.isNear)
      }
    case .flowReadable(let flow), .flowWritable(let flow), .flowFinished(let flow):
      if let entry = flows[flow] { world.conversations[entry.number].pump(isNear: entry.isNear) }
    case .flowEnded(let flow, let end):
      if let entry = flows.removeValue(forKey: flow) {
        world.conversations[entry.number].ended(isNear: entry.isNear, end)
      }
    case .flowClosed(let flow):
      if let entry = flows.removeValue(forKey: flow) {
        world.conversations[entry.number].closed(isNear: entry.isNear)
      }
    case .openSockets(let first, let count, _):
      openSockets(first: first, count: count)
    case .closeSocket(let number):
      closeSocket(number: number)
    case .dialSTUN(let connection, let endpoint, let fromListeningPort):
      if fromListeningPort { stunFromListening.insert(connection) }
      dialSTUN(connection, endpoint)
    case .sendSTUN(let connection, let bytes):
      sendSTUN(connection, bytes)
    case .hangUpSTUN(let connection):
      stunStreams[connection] = nil
      stunFromListening.remove(connection)
    case .dialCarrier(let number, let endpoint):
      dialCarrier(number, endpoint)
    case .closeCarrier(let number):
      closeCarrier(number)
    case .dialRelay(let number, let endpoint, let isDatagram):
      if isDatagram {
        relayDatagrams[number] = RelayDatagramLeg(remote: endpoint)
      } else {
        dialCarrier(number, endpoint, isRelay: true)
      }
    case .sendRelay(let number, let frame):
      if relayDatagrams[number] != nil {
        sendDatagram(number, frame)
      } else {
        sendStream(number, frame)
      }
    case .closeRelay(let number):
      if relayDatagrams.removeValue(forKey: number) == nil { closeCarrier(number) }
    case .serverTime(let unixNanoseconds):
      relay?.machine.setServerTime(unixNanoseconds: unixNanoseconds, now: world.now)
    case .relaySecrets(let secrets):
      relay?.machine.setSecrets(secrets)
    case .pong, .pingFailed:
      break
    case .store(let record):
      store(record)
    case .log(let line):
      switch line.code {
      case "path":
        world.statistics.pathChanges += 1
        if line.words.contains("private-relay") || line.words.contains("super-relay") {
          world.statistics.relayPathChanges += 1
        }
      case "session": world.statistics.sessions += 1
      case "protocol": world.violation("\(name): \(line.words)")
      default: break
      }
      world.note("\(name): [\(line.code)] \(line.words)")
    }
  }

  private func store(_ record: NodeRecord) {
    if case .stampCeiling = record {
      disk.append(record)
      save()
      return
    }
    unsaved.append(record)
    guard !isSaveScheduled else { return }
    isSaveScheduled = true
    let process = process
    world.after(.milliseconds(100)) { world in
      let node = world.nodes[self.index]
      node.isSaveScheduled = false
      if node.process == process { node.save() }
    }
  }

  private func save() {
    disk += unsaved
    unsaved.removeAll()
    // Only the newest of each kind counts; kept short as the agent does.
    if disk.count > 256 { disk.removeFirst(disk.count - 256) }
  }
}

// MARK: What tests ask

extension SimulatedNode {
  package var isOnline: Bool { node?.isOnline == true }

  /// The server has told it that another node is there.
  package func sees(_ other: SimulatedNode) -> Bool {
    node?.status(of: other.name, now: world.now)?.isOnline == true
  }

  /// Every road tried to another node, for people who look for a fault.
  package func roads(to other: SimulatedNode) -> [String] {
    guard let node, let status = node.status(of: other.name, now: world.now) else { return [] }
    let facts =
      "our NAT \(node.networkReports().map { "\($0.facts.mapping.code)/\($0.facts.filtering.code) step \($0.facts.allocatorStep) at \($0.mapped?.description ?? "-")" })"
    let decisions = status.history.suffix(24).map { decision in
      "\((decision.at - world.start).inMilliseconds.rounded()) \(decision.reason.rawValue) \(decision.carrier.remote) \(decision.first) \(decision.second)"
    }
    return [facts]
      + status.paths.map { path in
        "\(path.carrier) socket \(path.carrier.socket) \(path.kind.rawValue) \(path.source.rawValue) \(path.state.rawValue): sent \(path.probesSent), answered \(path.probesAnswered), \(path.bytesReceived) bytes in, \(path.reason.rawValue)"
      } + decisions
  }

  /// Bytes of UDP payload sent to another node over all paths it knows.
  package func datagramBytes(to other: SimulatedNode) -> UInt64 {
    let paths = node?.status(of: other.name, now: world.now)?.paths ?? []
    return paths.reduce(0) { $0 + ($1.carrier.kind == .udp ? $1.bytesSent : 0) }
  }

  /// The code of the tier in use to another node ("udp-direct"); nil without a path.
  package func tier(to other: SimulatedNode) -> String? {
    node?.status(of: other.name, now: world.now)?.tier?.code
  }
}

extension SimulatedNode {
  /// On a direct path; or on the relay though a direct path is up and known,
  /// because it is much the slower one (quality decides, DESIGN §2).
  func isOnBestRoad(to other: SimulatedNode) -> Bool {
    guard let status = node?.status(of: other.name, now: world.now), let tier = status.tier else {
      return false
    }
    if tier == .udpDirect || tier == .udpPunch { return true }
    guard let used = status.paths.first(where: \.isPrimary) else { return false }
    return status.paths.contains {
      ($0.tier == .udpDirect || $0.tier == .udpPunch) && $0.state == .up
        && $0.cost * 100 >= used.cost * 85 - 1_000_000
    }
  }
}
