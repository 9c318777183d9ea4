/// The server's machine: runs the real `CoordinationServer` and its router,
/// keeps what it stores, and can be killed between any two effects.

#if canImport(Bytes)
  package import Bytes
  internal import Relay
  package import ServerCore
  internal import Signaling
  internal import STUN
#endif

package final class SimulatedServer {
  package struct Settings: Sendable {
    package var relayMegabits: Double?
    /// A second mesh, of `otherToken`.
    package var hasOtherMesh = false
    package init(relayMegabits: Double? = nil, hasOtherMesh: Bool = false) {
      self.relayMegabits = relayMegabits
      self.hasOtherMesh = hasOtherMesh
    }
  }

  unowned let world: World
  let settings: Settings
  package private(set) var core: CoordinationServer?
  package private(set) var process = 0
  /// The machine is gone from the network: nobody is told anything.
  package private(set) var isSilent = false
  /// kill -9 after this many more effects.
  package var dieAfterEffects: Int?
  private var disk: [StoreRecord] = []
  private var wakeAt = Instant.distantFuture
  private var wakeToken: UInt64 = 0
  /// Legs with something to send, in the order the router named them.
  private var ready: [UInt32] = []
  private var isDraining = false
  package var wallOffset: Int64 = 0
  /// The most bytes that ever waited in the router.
  package private(set) var highestQueue = 0

  private var responder = STUNResponder(
    settings: STUNServerSettings(udp1: datagramPorts[0], udp2: datagramPorts[1]),
    random: SeededRandom(testSeed: 0))

  /// The STUN ports that answer; all by default.
  package var answersDatagram: (Endpoint) -> Bool = { _ in true }
  /// In place of the STUN responder: what to send back, and from which of the
  /// server's endpoints.
  package var datagramHandler:
    ((_ bytes: [UInt8], _ from: Endpoint, _ to: Endpoint) -> [(from: Endpoint, bytes: [UInt8])])?

  package static let token: UInt64 = 7_001_002_003
  package static let otherToken: UInt64 = 8_001_002_003
  static let verifier = LoginVerifier(token: token, cost: .cheap)
  package static let endpoint = Endpoint(IPAddress(192, 0, 2, 1), 27_183)
  /// For RFC 5780's tests with two addresses; a handler need not use it.
  package static let secondAddress = IPAddress(192, 0, 2, 2)
  package static let addressV6 = IPAddress(high: 0x2001_0db8_0002_0000, low: 1)
  package static let secondAddressV6 = IPAddress(high: 0x2001_0db8_0002_0000, low: 2)
  package static let addresses = [endpoint.address, secondAddress, addressV6, secondAddressV6]
  /// `-stun-udp1`, `-stun-udp2` (spec/inp2p.md).
  package static let datagramPorts: [UInt16] = [27_182, 27_183]
  /// Frames of one message of a leg.
  static let messageBytes = 16 * 1024

  init(world: World, settings: Settings) {
    self.world = world
    self.settings = settings
  }

  package var isRunning: Bool { core != nil }

  // MARK: Life

  package func start() {
    guard core == nil else { return }
    process += 1
    isSilent = false
    world.note("server: started")
    var server = ServerSettings(
      meshes: [MeshSettings(name: "mesh", verifier: Self.verifier)], version: "simulated",
      relayMegabits: settings.relayMegabits)
    if settings.hasOtherMesh {
      server.meshes.append(
        MeshSettings(
          name: "other", verifier: LoginVerifier(token: Self.otherToken, cost: .cheap)))
    }
    server.relayLimits.queueBytes = 1 << 18
    core = CoordinationServer(
      settings: server, records: disk, seed: world.random.bytes(32), unixNanoseconds: wallClock,
      now: world.now)
    drain()
  }

  /// - Parameter silently: the machine vanishes; otherwise its kernel resets
  ///   the connections.
  package func kill(silently: Bool = false) {
    guard core != nil else { return }
    world.note("server: killed\(silently ? " silently" : "")")
    world.statistics.kills += 1
    core = nil
    isSilent = silently
    dieAfterEffects = nil
    ready.removeAll()
    wakeToken += 1
    wakeAt = .distantFuture
    guard !silently else { return }
    for id in world.pipes.keys.sorted() { world.pipes[id]?.reset(toServer: false) }
  }

  private var wallClock: UInt64 {
    UInt64(
      max(0, Int64(World.wallClockAtStart) + world.elapsed.nanoseconds + wallOffset))
  }

  package func setWallClock(offset: Int64) {
    wallOffset = offset
    core?.setClock(unixNanoseconds: wallClock, now: world.now)
  }

  // MARK: Connections

  func accept(_ pipe: Pipe, address: Endpoint, usesTLS: Bool, exporter: [UInt8]) {
    core?.connectionOpened(
      pipe.id, kind: pipe.purpose == .signal ? .signalling : .relayLeg, address: address,
      exporter: exporter, seals: !usesTLS, now: world.now)
    drain()
  }

  func received(_ pipe: Pipe, _ bytes: [UInt8]) {
    guard let core, pipe.serverProcess == process else {
      // A kernel that knows nothing of this connection.
      if !isSilent { pipe.reset(toServer: false) }
      return
    }
    core.receiveLeg(bytes.span.bytes, connection: pipe.id, now: world.now)
    drain()
  }

  func pipeClosed(_ pipe: Pipe) {
    guard let core, pipe.serverProcess == process else { return }
    core.connectionClosed(pipe.id, now: world.now)
    drain()
  }

  func pipeWritable(_ pipe: Pipe) {
    guard core != nil, pipe.serverProcess == process else { return }
    ready.append(pipe.id)
    drain()
  }

  func received(_ datagram: Datagram) {
    guard core != nil, Self.datagramPorts.contains(datagram.destination.port),
      answersDatagram(datagram.destination)
    else { return }
    guard let datagramHandler else {
      let answer = responder.receive(
        datagram.bytes.span.bytes, from: datagram.source, at: datagram.destination, over: .udp,
        now: world.now)
      if let answer {
        world.transmit(answer.source, datagram.source, answer.bytes, from: Network.server)
      }
      return
    }
    for answer in datagramHandler(datagram.bytes, datagram.source, datagram.destination) {
      world.transmit(answer.from, datagram.source, answer.bytes, from: Network.server)
    }
  }

  /// A STUN request on a connection of `source`'s; nil: no answer.
  func answerStream(_ bytes: [UInt8], from source: Endpoint, at port: UInt16) -> [UInt8]? {
    guard let core else { return nil }
    core.streamSeen(from: source, now: world.now)
    return responder.receive(
      bytes.span.bytes, from: source, at: Endpoint(Self.endpoint.address, port), over: .tcp,
      now: world.now)?.bytes
  }

  // MARK: Time

  func wake(_ token: UInt64) {
    guard token == wakeToken, let core else { return }
    wakeAt = .distantFuture
    core.advance(to: world.now)
    drain()
  }

  /// Something a test does with the machine itself.
  package func with(_ body: (CoordinationServer, Instant) -> Void) {
    guard let core else { return }
    body(core, world.now)
    drain()
  }

  private func drain() {
    guard !isDraining else { return }
    isDraining = true
    defer { isDraining = false }
    while let core, let effect = core.pollEffect() {
      carryOut(effect)
      if let left = dieAfterEffects {
        dieAfterEffects = left - 1
        if left <= 0 {
          kill()
          return
        }
      }
    }
    guard let core else { return }
    while let connection = core.router.pollReady() { ready.append(connection) }
    let now = ready
    ready.removeAll()
    for connection in now { fill(connection) }
    highestQueue = max(highestQueue, core.router.queueMemory)
    if core.router.queueMemory > core.router.limits.totalQueueBytes {
      world.violation("the relay's queues hold \(core.router.queueMemory) bytes")
    }
    arm()
  }

  private func arm() {
    guard let core else { return }
    let due = max(core.nextDeadline, world.now + .microseconds(20))
    guard due != wakeAt else { return }
    wakeAt = due
    wakeToken += 1
    if due < .distantFuture { world.schedule(.wakeServer(token: wakeToken), at: due) }
  }

  private func fill(_ connection: UInt32) {
    guard let core, let pipe = world.pipes[connection], pipe.serverProcess == process else {
      return
    }
    var hasMore = true
    while hasMore {
      if pipe.backlog(toServer: false) >= Pipe.backlogLimit {
        pipe.wantRoom(toServer: false)
        return
      }
      world.batch.removeAll()
      let now = world.now
      let carrier = Carrier.relay(connection: connection, channel: 0, remote: .none)
      world.batch.append(carrier: carrier, limit: Self.messageBytes + 65_542) { output in
        hasMore = core.router.fill(
          connection: connection, into: &output, budget: Self.messageBytes, now: now)
      }
      for segment in world.batch.segments {
        let bytes = world.batch.withSegment(segment) { [UInt8]($0) }
        _ = pipe.send(bytes, toServer: false)
      }
      world.batch.removeAll()
    }
  }

  private func carryOut(_ effect: ServerEffect) {
    switch effect {
    case .send(let connection, let bytes):
      guard let pipe = world.pipes[connection] else { return }
      if !pipe.send(bytes, toServer: false) {
        pipe.close(toServer: false)
        core?.connectionClosed(connection, now: world.now)
      }
    case .close(let connection, let reason):
      world.note("server: closes \(connection): \(reason.rawValue)")
      world.pipes[connection]?.close(toServer: false)
    case .store(let record):
      disk.removeAll { $0.kind == record.kind && $0.key == record.key }
      if record.value != nil { disk.append(record) }
    case .log(let event):
      world.note("server: \(event)")
    }
  }
}
