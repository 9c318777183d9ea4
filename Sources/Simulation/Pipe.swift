/// A connection between a node and the server, as both ends see it: whole
/// messages, in order, once; bounded; with delay and rate; it can stall, be
/// reset, or vanish without a word. Stands for TCP, TLS and WebSocket.

#if canImport(Bytes)
  package import Bytes
#endif

/// How the road between a node and the server behaves.
package struct UplinkSettings: Sendable {
  package var delay = TimeAmount.milliseconds(15)
  package var jitter = TimeAmount.milliseconds(2)
  /// Bytes a second each way.
  package var rate = 6_000_000
  /// Share of messages that wait for a retransmission of the transport.
  package var stalls = 0.0
  package var isCut = false

  package init() {}
}

/// What a connection was opened for.
enum PipePurpose {
  case signal
  case relay
}

final class Pipe {
  enum Item {
    case message([UInt8])
    /// The other side closed; nothing follows.
    case end
  }
  struct Direction {
    var items: [(at: Instant, item: Item)] = []
    var head = 0
    var freeAt = Instant.distantPast
    var lastArrival = Instant.distantPast
    var isEnding = false
    var waitsForRoom = false
  }

  unowned let world: World
  let id: UInt32
  let node: Int
  let purpose: PipePurpose
  /// The processes at both ends; others do not know this connection.
  let process: Int
  let serverProcess: Int
  /// An address that is gone: nothing arrives any more.
  var isBlackHole = false
  var isCutSince: Instant?
  /// A router on the node's side has forgotten the connection: nothing comes in
  /// before something has gone out. The transport repeats what was lost, later
  /// and later (RFC 6298).
  private var isForgotten = false
  private var heldSince: Instant?
  private var up = Direction()
  private var down = Direction()

  /// Bytes not yet on the wire above which the sender is told to wait.
  static let backlogLimit = 64 * 1024
  /// The first repetition of what was lost comes no sooner.
  static let retransmission = TimeAmount.milliseconds(200)
  /// Bytes not yet on the wire above which messages are refused.
  static let backlogCeiling = 4 << 20
  /// The transport gives a silent peer up after this (TCP_USER_TIMEOUT).
  static let userTimeout = TimeAmount.seconds(45)

  init(world: World, id: UInt32, node: Int, purpose: PipePurpose) {
    self.world = world
    self.id = id
    self.node = node
    self.purpose = purpose
    process = world.nodes[node].process
    serverProcess = world.server.process
  }

  private var settings: UplinkSettings { world.nodes[node].uplinkSettings }
  private var isStalled: Bool { isBlackHole || settings.isCut }

  /// Bytes that wait for the wire.
  func backlog(toServer: Bool) -> Int {
    let freeAt = toServer ? up.freeAt : down.freeAt
    guard freeAt > world.now else { return 0 }
    return Int((freeAt - world.now).inSeconds * Double(settings.rate))
  }

  /// - Returns: false when there is no room.
  func send(_ bytes: [UInt8], toServer: Bool) -> Bool {
    guard backlog(toServer: toServer) + bytes.count <= Self.backlogCeiling else { return false }
    push(.message(bytes), size: bytes.count + 8, toServer: toServer)
    return true
  }

  /// Closes after what was sent before.
  func close(toServer: Bool) { push(.end, size: 40, toServer: toServer) }

  /// Closes at once; what was under way is lost.
  func reset(toServer: Bool) {
    if toServer {
      up.items.removeAll()
      up.head = 0
    } else {
      down.items.removeAll()
      down.head = 0
    }
    push(.end, size: 40, toServer: toServer)
  }

  /// Asks to be told when the backlog has fallen to half the limit.
  func wantRoom(toServer: Bool) {
    if toServer ? up.waitsForRoom : down.waitsForRoom { return }
    if toServer { up.waitsForRoom = true } else { down.waitsForRoom = true }
    let excess = max(0, backlog(toServer: toServer) - Self.backlogLimit / 2)
    let wait = Double(excess) / Double(settings.rate)
    world.schedule(
      .pipeWritable(id, toServer: toServer),
      after: .nanoseconds(Int64(wait * 1e9) + 1_000))
  }

  func writable(toServer: Bool) {
    if toServer { up.waitsForRoom = false } else { down.waitsForRoom = false }
    if toServer {
      world.nodes[node].pipeWritable(self)
    } else {
      world.server.pipeWritable(self)
    }
  }

  private func push(_ item: Item, size: Int, toServer: Bool) {
    var direction = toServer ? up : down
    guard !direction.isEnding else { return }
    let settings = settings
    let leaves =
      max(world.now, direction.freeAt)
      + .nanoseconds(Int64(Double(size) / Double(settings.rate) * 1e9))
    direction.freeAt = leaves
    var arrives = leaves + settings.delay
    if settings.jitter > .zero { arrives += world.time(.zero, settings.jitter) }
    if world.chance(settings.stalls) {
      arrives += world.time(.milliseconds(200), .milliseconds(500))
    }
    arrives = max(arrives, direction.lastArrival)
    direction.lastArrival = arrives
    if case .end = item { direction.isEnding = true }
    direction.items.append((arrives, item))
    if toServer { up = direction } else { down = direction }
    world.schedule(.pipe(id, toServer: toServer), at: arrives)
    if toServer { remember() }
  }

  /// The router starts anew.
  func forget() { isForgotten = true }

  /// The node has sent something: its router knows the connection again. What
  /// waited comes with the next repetition.
  func remember() {
    guard isForgotten, !isStalled else { return }
    isForgotten = false
    guard let since = heldSince else { return }
    heldSince = nil
    var wait = Self.retransmission
    while since + wait < world.now { wait = wait * 2 + Self.retransmission }
    world.schedule(.pipe(id, toServer: false), at: since + wait + settings.delay)
  }

  /// The road is open again: the transport sends what waited.
  func resume() {
    isCutSince = nil
    for toServer in [true, false] {
      world.schedule(
        .pipe(id, toServer: toServer), after: world.time(.milliseconds(50), .seconds(1)))
    }
  }

  func deliver(toServer: Bool) {
    guard !isStalled else { return }
    // A host that sleeps reads nothing; its kernel keeps the bytes.
    if !toServer, world.nodes[node].isSuspended { return }
    if !toServer, isForgotten {
      if heldSince == nil { heldSince = world.now }
      return
    }
    while world.pipes[id] != nil {
      let direction = toServer ? up : down
      guard direction.head < direction.items.count, direction.items[direction.head].at <= world.now
      else { break }
      let item = direction.items[direction.head].item
      if toServer { up.head += 1 } else { down.head += 1 }
      if toServer ? up.head > 64 : down.head > 64 { compact() }
      switch item {
      case .message(let bytes):
        world.trace(4, UInt64(bytes.count), UInt64(id))
        if toServer {
          world.server.received(self, bytes)
        } else {
          world.nodes[node].received(self, bytes)
        }
      case .end:
        if toServer { world.server.pipeClosed(self) } else { world.nodes[node].pipeClosed(self) }
        vanish()
      }
    }
  }

  private func compact() {
    up.items.removeFirst(up.head)
    up.head = 0
    down.items.removeFirst(down.head)
    down.head = 0
  }

  /// Nobody speaks of it any more.
  func vanish() { world.pipes[id] = nil }

  /// Both ends give up (time-out of the transport).
  func expire() {
    guard world.pipes[id] != nil else { return }
    vanish()
    world.server.pipeClosed(self)
    world.nodes[node].pipeClosed(self)
  }
}

extension World {
  /// A node dials the server. `pipeOpened` or `pipeFailed` of the node follows.
  func connect(node index: Int, purpose: PipePurpose) -> UInt32 {
    lastPipe += 1
    let id = lastPipe
    let node = nodes[index]
    let process = node.process
    let settings = node.uplinkSettings
    let trip = settings.delay * 2 + time(.zero, settings.jitter)
    let seenFrom = node.seenAddress
    if settings.isCut || server.isSilent || node.addresses.isEmpty {
      after(.seconds(10)) { $0.nodes[index].pipeFailed(id, process: process) }
      return id
    }
    guard server.isRunning else {
      after(trip) { $0.nodes[index].pipeFailed(id, process: process) }
      return id
    }
    let serverProcess = server.process
    after(trip * 2) { world in
      let node = world.nodes[index]
      guard node.process == process, node.isRunning, world.server.isRunning,
        world.server.process == serverProcess, !node.uplinkSettings.isCut,
        let address = node.seenAddress, address == seenFrom
      else {
        world.nodes[index].pipeFailed(id, process: process)
        return
      }
      let pipe = Pipe(world: world, id: id, node: index, purpose: purpose)
      world.pipes[id] = pipe
      if node.home != nil { world.vouched.insert(address) }
      let endpoint = Endpoint(address, UInt16(truncatingIfNeeded: 20_000 + id % 40_000))
      let exporter = node.usesTLS ? world.random.bytes(32) : []
      world.server.accept(pipe, address: endpoint, usesTLS: node.usesTLS, exporter: exporter)
      world.keepAlive(id)
      world.after(settings.delay) { world in
        guard world.pipes[id] != nil else {
          world.nodes[index].pipeFailed(id, process: process)
          return
        }
        world.nodes[index].pipeOpened(pipe, exporter: exporter)
      }
    }
    return id
  }

  /// The transport asks every 30 s whether the other end still knows it.
  private func keepAlive(_ id: UInt32) {
    after(.seconds(30)) { world in
      guard let pipe = world.pipes[id] else { return }
      pipe.remember()
      if !pipe.isBlackHole, !world.nodes[pipe.node].uplinkSettings.isCut, !world.server.isSilent,
        pipe.serverProcess != world.server.process || !world.server.isRunning
      {
        pipe.reset(toServer: false)
      }
      world.keepAlive(id)
    }
  }

  /// Breaks or mends the road between a node and the server.
  package func setUplinkCut(_ index: Int, _ isCut: Bool) {
    let node = nodes[index]
    guard node.uplinkSettings.isCut != isCut else { return }
    note("\(node.name): server \(isCut ? "unreachable" : "reachable")")
    node.uplinkSettings.isCut = isCut
    for id in pipes.keys.sorted() {
      guard let pipe = pipes[id], pipe.node == index else { continue }
      if isCut {
        let since = now
        pipe.isCutSince = since
        after(Pipe.userTimeout) { world in
          if let pipe = world.pipes[id], pipe.isCutSince == since { pipe.expire() }
        }
      } else {
        pipe.resume()
      }
    }
  }
}
