/// This agent as a relay for others (`-relay`, `-super`): sockets of its own on
/// `-relay-port`, TCP and UDP, and the machine between them (`Relay/RelayNode`).
/// It shares nothing with the agent's own sessions but the loop and the report to
/// the server. spec/inp2p.md "Relay"; docs/protocol/relay.md.

internal import Bytes
internal import CommandLine
internal import Crypto
internal import HTTP
internal import Mux
internal import NodeCore
internal import Reactor
internal import Relay
internal import Signaling

final class RelayService {
  private unowned let agent: AgentRuntime
  private let relay: RelayNode
  private var listeners: [StreamListener] = []
  private var sockets: [UDPSocket] = []
  private let port: UInt16
  private var connections: [UInt32: RelayServiceConnection] = [:]
  private var lastConnection: UInt32 = 0
  private let batch = TransmitBatch()
  private let timer: LoopTimer
  private var reportTimer: TimerToken?
  private var reportedLoad: UInt16 = 0
  /// Datagrams wait for the kernel: no more are made until it takes them.
  private var isUDPFull = false

  /// Bytes asked of the machine at a time, and kept for a connection that the
  /// kernel takes no more from: the queue belongs in the machine (CoDel).
  static let fillBytes = 16 * 1024
  static let portTries = 64
  /// The load is looked at this often, and told when it has moved so far.
  static let reportInterval = TimeAmount.seconds(5)
  static let reportStep = 100

  /// - Throws: words when `-relay-port` cannot be had.
  init(_ agent: AgentRuntime) throws(AgentStartFailure) {
    self.agent = agent
    let options = agent.options
    relay = RelayNode(
      RelayNodeSettings(
        key: agent.node.settings.staticKey, token: options.token.value,
        isSuper: options.isSuperRelay, megabits: Double(options.relayKilobits) / 1_000,
        seed: agent.random.bytes(32)))
    let door = Door()
    let bound = try Self.bind(agent, door)
    listeners = bound.listeners
    sockets = bound.sockets
    port = bound.port
    weak var me: RelayService?
    timer = LoopTimer(agent.loop) { me?.tick() }
    me = self
    door.service = self
    for socket in sockets { socket.delegate = self }
    if options.relayPort == nil, port != DefaultPort.relay {
      agent.log.warn("relay: port \(DefaultPort.relay) is taken; listening on \(port)")
    }
    let cap = Double(options.relayKilobits) / 1_000
    agent.log.info(
      "relay: for \(options.isSuperRelay ? "all tokens" : "this token") on port \(port), TCP and UDP, at most \(cap) Mbit/s"
    )
    report()
    scheduleReport()
  }

  private final class Door {
    weak var service: RelayService?
    func enter(_ connection: StreamConnection) {
      if let service { service.accept(connection) } else { connection.close() }
    }
  }

  private static func bind(
    _ agent: AgentRuntime, _ door: Door
  ) throws(AgentStartFailure) -> (listeners: [StreamListener], sockets: [UDPSocket], port: UInt16) {
    let wanted = agent.options.relayPort
    for step in 0..<portTries {
      let port = (wanted ?? DefaultPort.relay) &+ UInt16(step)
      do throws(SystemError) {
        let (listeners, sockets) = try open(agent.loop, port: port, door)
        return (listeners, sockets, port)
      } catch {
        guard error.isAddressInUse, wanted == nil else {
          throw AgentStartFailure("-relay-port \(port): \(error)")
        }
      }
    }
    throw AgentStartFailure(
      "the relay finds no free port from \(DefaultPort.relay) on; name one with -relay-port")
  }

  private static func open(
    _ loop: EventLoop, port: UInt16, _ door: Door
  ) throws(SystemError) -> ([StreamListener], [UDPSocket]) {
    var options = StreamOptions()
    options.notSentLowWater = fillBytes
    options.backlogBytes = 256 * 1024
    options.userTimeout = .seconds(30)
    var listeners: [StreamListener] = []
    var sockets: [UDPSocket] = []
    do throws(SystemError) {
      listeners.append(
        try StreamListener(loop, on: Endpoint(.anyV4, port), options: options) { door.enter($0) })
      sockets.append(try UDPSocket(loop, bind: Endpoint(.anyV4, port), number: 1))
      do throws(SystemError) {
        listeners.append(
          try StreamListener(loop, on: Endpoint(.anyV6, port), options: options) { door.enter($0) }
        )
        sockets.append(try UDPSocket(loop, bind: Endpoint(.anyV6, port), number: 2))
      } catch {
        // No IPv6 on this machine is fine; a port that is taken is not.
        if error.isAddressInUse { throw error }
      }
      return (listeners, sockets)
    } catch {
      for listener in listeners { listener.close() }
      for socket in sockets { socket.close() }
      throw error
    }
  }

  func stop() {
    timer.cancel()
    if let reportTimer { agent.loop.cancel(reportTimer) }
    for listener in listeners { listener.close() }
    for socket in sockets { socket.close() }
    for connection in connections.values { connection.close() }
    connections.removeAll()
  }

  // MARK: The server

  func setServerTime(unixNanoseconds: UInt64) {
    relay.setServerTime(unixNanoseconds: unixNanoseconds, now: agent.loop.now)
  }

  func setSecrets(_ secrets: [RelaySecret]) { relay.setSecrets(secrets) }

  private func report() {
    let load = relay.load
    reportedLoad = load
    agent.node.setRelay(
      RelayReport(
        isSuper: agent.options.isSuperRelay, tcpPort: port, udpPort: port,
        kilobits: UInt32(clamping: agent.options.relayKilobits), load: load),
      now: agent.loop.now)
  }

  private func scheduleReport() {
    reportTimer = agent.loop.schedule(after: Self.reportInterval) { [weak self] in
      guard let self else { return }
      // Full, or not any more, is news at once.
      let moved = abs(Int(relay.load) - Int(reportedLoad))
      if moved >= Self.reportStep || (relay.load >= 950) != (reportedLoad >= 950) { report() }
      scheduleReport()
    }
  }

  /// For `status`.
  var status: JSONValue {
    let traffic = relay.traffic
    var refused = JSONObject()
    for reason in RelayRefusal.allCases {
      let count = relay.statistics.refused[Int(reason.rawValue)]
      if count > 0 { refused["\(reason)"] = JSONValue(count) }
    }
    return [
      "super": .bool(agent.options.isSuperRelay), "port": JSONValue(port),
      "capMbit": JSONValue(Double(agent.options.relayKilobits) / 1_000),
      "load": JSONValue(relay.load), "guests": JSONValue(relay.guestCount),
      "sessions": JSONValue(relay.sessionCount), "connections": JSONValue(relay.connectionCount),
      "bytes": JSONValue(traffic.bytesRelayed), "packets": JSONValue(traffic.packetsRelayed),
      "dropped": JSONValue(traffic.packetsDropped),
      "refused": .object(refused),
    ]
  }

  // MARK: TCP

  private func accept(_ connection: StreamConnection) {
    guard let remote = connection.remote else { return connection.close() }
    lastConnection = lastConnection >= .max >> 1 ? 1 : lastConnection + 1
    let id = lastConnection
    guard connections[id] == nil, relay.connectionOpened(id, from: remote, now: agent.loop.now)
    else { return connection.close() }
    connections[id] = RelayServiceConnection(self, connection, id: id)
    drain()
  }

  fileprivate func receive(_ id: UInt32, _ bytes: RawSpan) {
    relay.receive(connection: id, bytes, now: agent.loop.now)
  }

  fileprivate func closed(_ id: UInt32) {
    guard connections.removeValue(forKey: id) != nil else { return }
    relay.connectionClosed(id, now: agent.loop.now)
    drain()
  }

  /// Moves what a connection has ready, until the kernel takes no more.
  fileprivate func fill(_ connection: RelayServiceConnection) {
    var hasMore = true
    while hasMore {
      if connection.isFull {
        connection.waitForRoom()
        return
      }
      batch.removeAll()
      let carrier = Carrier.tcp(connection: connection.id, remote: .none)
      batch.append(carrier: carrier, limit: Self.fillBytes + 65_542) { output in
        hasMore = relay.fill(
          connection: connection.id, into: &output, budget: Self.fillBytes, now: agent.loop.now)
      }
      for segment in batch.segments { batch.withSegment(segment) { connection.write($0) } }
    }
    batch.removeAll()
  }

  // MARK: Drain

  func drain() {
    let now = agent.loop.refreshNow()
    while true {
      while let id = relay.pollReady() {
        if let connection = connections[id] { fill(connection) }
      }
      if !isUDPFull {
        var hasMore = true
        while hasMore, !isUDPFull {
          batch.removeAll()
          hasMore = relay.pollTransmit(into: batch, now: now)
          sendDatagrams()
        }
      }
      var sawEvent = false
      while let event = relay.pollEvent() {
        sawEvent = true
        handle(event)
      }
      if !sawEvent { break }
    }
    timer.set(at: relay.nextDeadline)
  }

  private func sendDatagrams() {
    let segments = batch.segments
    var index = 0
    while index < segments.count {
      let socket = sockets.first { $0.number == segments[index].carrier.socket }
      let next = socket?.send(batch, from: index) ?? index
      index = max(next, index + 1)
    }
    batch.removeAll()
    isUDPFull = sockets.contains { $0.isBlocked }
  }

  private func handle(_ event: RelayNodeEvent) {
    switch event {
    case .close(let id):
      guard let connection = connections[id] else { return }
      fill(connection)
      connection.closeWhenFlushed()
      closed(id)
    case .refused(let reason, let remote):
      agent.log.debug("relay: \(remote) refused: \(reason)")
    case .joined(let session):
      agent.log.debug("relay: session \(session) joined")
    case .ended(let session, let ending):
      agent.log.debug("relay: session \(session) ended: \(ending)")
    }
  }

  private func tick() {
    relay.advance(to: agent.loop.refreshNow())
    drain()
  }
}

extension RelayService: UDPSocketDelegate {
  func socketReadable(_ socket: UDPSocket) {
    let now = agent.loop.refreshNow()
    let number = socket.number
    let relay = relay
    socket.receive { bytes, info in
      guard bytes.byteCount > 0,
        RelayNode.isRelayDatagram(firstByte: bytes.bytes.unsafeLoad(as: UInt8.self))
      else { return }
      relay.receive(bytes.bytes, from: .udp(socket: number, remote: info.remote), now: now)
    }
    drain()
  }

  func socketWritable(_ socket: UDPSocket) {
    isUDPFull = sockets.contains { $0.isBlocked }
    drain()
  }
}

/// One leg, or somebody who wants to be one.
private final class RelayServiceConnection: ConnectionDelegate {
  let id: UInt32
  private let connection: StreamConnection
  private unowned let owner: RelayService

  init(_ owner: RelayService, _ connection: StreamConnection, id: UInt32) {
    self.owner = owner
    self.connection = connection
    self.id = id
    connection.delegate = self
  }

  var isFull: Bool { connection.backlog > 0 }

  func write(_ bytes: RawSpan) {
    // There is room: it is asked only while nothing waits.
    _ = connection.writeAll(bytes)
  }

  func waitForRoom() { connection.notify(below: 0) }

  func closeWhenFlushed() {
    connection.delegate = nil
    connection.closeWhenFlushed()
  }

  func close() {
    connection.delegate = nil
    connection.close()
  }

  func connectionReadable(_ connection: StreamConnection) {
    for _ in 0..<4 {
      let result = connection.read { owner.receive(id, $0.bytes) }
      switch result {
      case .bytes: continue
      case .wouldBlock: break
      case .end, .failed:
        close()
        owner.closed(id)
        return
      }
      break
    }
    owner.drain()
  }

  func connectionWritable(_ connection: StreamConnection) {
    owner.fill(self)
    owner.drain()
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { owner.closed(id) }
}
