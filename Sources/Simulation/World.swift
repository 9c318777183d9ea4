/// A whole mesh in one process under a virtual clock: the real server, the real
/// nodes, links that lose, delay and repeat, applications that check every
/// byte. Everything follows from one seed: the same seed gives the same trace.
/// It reads no clock and sends nothing anywhere. DESIGN §4 law 3, §7.

#if canImport(Bytes)
  package import Bytes
  internal import Signaling
#endif

/// What really happened in a world.
package struct WorldStatistics: Sendable {
  package var packets: UInt64 = 0
  package var lost: UInt64 = 0
  package var duplicated: UInt64 = 0
  package var reordered: UInt64 = 0
  package var tooLong: UInt64 = 0
  /// Dropped by home routers; of these and others those whose time to live ended.
  package var blocked: UInt64 = 0
  package var expired: UInt64 = 0
  package var pathChanges: UInt64 = 0
  package var sessions: UInt64 = 0
  /// Joined at relays that nodes are, and changes of path to one of those.
  package var relayedSessions: UInt64 = 0
  package var relayPathChanges: UInt64 = 0
  package var kills: UInt64 = 0
  package var events: UInt64 = 0
  package var conversations: UInt64 = 0
  package var finishedInOrder: UInt64 = 0
  package var streamBytes: UInt64 = 0
  package var attacks: UInt64 = 0
  package var virtualNanoseconds: UInt64 = 0

  package init() {}

  package static func += (a: inout WorldStatistics, b: WorldStatistics) {
    a.packets += b.packets
    a.lost += b.lost
    a.duplicated += b.duplicated
    a.reordered += b.reordered
    a.tooLong += b.tooLong
    a.blocked += b.blocked
    a.expired += b.expired
    a.pathChanges += b.pathChanges
    a.sessions += b.sessions
    a.relayedSessions += b.relayedSessions
    a.relayPathChanges += b.relayPathChanges
    a.kills += b.kills
    a.events += b.events
    a.conversations += b.conversations
    a.finishedInOrder += b.finishedInOrder
    a.streamBytes += b.streamBytes
    a.attacks += b.attacks
    a.virtualNanoseconds += b.virtualNanoseconds
  }
}

enum WorldEvent {
  /// A datagram reaches the host that has its address.
  case datagram(Datagram)
  /// A node's process reads what waits on its sockets.
  case read(node: Int)
  /// A node's earliest deadline.
  case wake(node: Int, token: UInt64)
  case wakeServer(token: UInt64)
  /// The front of one direction of a connection is due.
  case pipe(UInt32, toServer: Bool)
  /// Room again after a connection was full.
  case pipeWritable(UInt32, toServer: Bool)
  /// One side of a conversation wants to read or write.
  case application(Int, isNear: Bool)
  case action((World) -> Void)
}

package final class World {
  package let seed: UInt64
  package private(set) var now = Instant(nanoseconds: 3_600_000_000_000)
  package let start: Instant
  package var random: SeededRandom
  package var statistics = WorldStatistics()
  /// Broken promises, in words. Empty is what everybody wants.
  package private(set) var violations: [String] = []
  package var network: Network
  package internal(set) var nodes: [SimulatedNode] = []
  package internal(set) var server: SimulatedServer!
  package internal(set) var conversations: [Conversation] = []
  package internal(set) var plainHosts: [PlainHost] = []
  package var attacker = Attacker()
  /// One line per thing that happens; for one seed at a time.
  package var print: ((String) -> Void)?
  /// Logins refused; each makes its node wait a minute.
  var refusals = 0
  var lastPublic: UInt32 = 0
  /// Addresses of home routers at which the server saw a node; there a node
  /// may be searched for by many ports.
  var vouched: Set<IPAddress> = []

  private var queue = EventQueue<WorldEvent>()
  private var hash: UInt64 = 0xcbf2_9ce4_8422_2325
  var pipes: [UInt32: Pipe] = [:]
  /// TCP between nodes.
  var streamLinks: [UInt64: StreamLink] = [:]
  var lastStreamLink: UInt64 = 0
  var lastPipe: UInt32 = 100
  /// Shared by all: nobody drains inside another's drain.
  let batch = TransmitBatch(capacity: 256 * 1024)

  /// 2023-11-14, as good as any.
  static let wallClockAtStart: UInt64 = 1_700_000_000_000_000_000
  /// Violations after which a world says no more.
  static let violationLimit = 20

  package init(seed: UInt64, server settings: SimulatedServer.Settings = .init()) {
    self.seed = seed
    random = SeededRandom(testSeed: seed)
    start = now
    network = Network()
    server = SimulatedServer(world: self, settings: settings)
    network.attach(host: Network.server, addresses: SimulatedServer.addresses, to: nil)
  }

  // MARK: Time

  package var elapsed: TimeAmount { now - start }

  func schedule(_ event: WorldEvent, at: Instant) { queue.insert(event, at: max(at, now)) }

  func schedule(_ event: WorldEvent, after: TimeAmount) { schedule(event, at: now + after) }

  /// Does something at a later time.
  package func after(_ amount: TimeAmount, _ body: @escaping (World) -> Void) {
    schedule(.action(body), after: amount)
  }

  /// Runs until `end` of virtual time, or until `isDone`, which is asked every
  /// `interval`.
  /// - Returns: whether it was done before the end.
  @discardableResult
  package func run(
    until end: Instant, checkEvery interval: TimeAmount = .milliseconds(100),
    isDone: (World) -> Bool = { _ in false }
  ) -> Bool {
    var nextCheck = now
    while true {
      if now >= nextCheck {
        if isDone(self) { return true }
        nextCheck = now + interval
      }
      if violations.count >= Self.violationLimit { return false }
      let next = queue.nextAt ?? .distantFuture
      let stop = min(end, nextCheck)
      if next > stop {
        advanceClock(to: stop)
        if stop >= end { return isDone(self) }
        continue
      }
      guard let (at, event) = queue.popFirst() else { continue }
      advanceClock(to: at)
      handle(event)
    }
  }

  @discardableResult
  package func run(
    for amount: TimeAmount, checkEvery interval: TimeAmount = .milliseconds(100),
    isDone: (World) -> Bool = { _ in false }
  ) -> Bool {
    run(until: now + amount, checkEvery: interval, isDone: isDone)
  }

  private func advanceClock(to at: Instant) {
    guard at > now else { return }
    statistics.virtualNanoseconds += UInt64((at - now).nanoseconds)
    now = at
  }

  private func handle(_ event: WorldEvent) {
    statistics.events += 1
    switch event {
    case .datagram(let datagram):
      trace(1, UInt64(datagram.bytes.count), datagram.fingerprint)
      arrive(datagram)
    case .read(let index):
      trace(2, UInt64(index), 0)
      nodes[index].read()
    case .wake(let index, let token):
      nodes[index].wake(token)
    case .wakeServer(let token):
      server.wake(token)
    case .pipe(let id, let toServer):
      trace(3, UInt64(id), toServer ? 1 : 0)
      pipes[id]?.deliver(toServer: toServer)
    case .pipeWritable(let id, let toServer):
      pipes[id]?.writable(toServer: toServer)
    case .application(let index, let isNear):
      conversations[index].wake(isNear: isNear)
    case .action(let body):
      body(self)
    }
  }

  // MARK: What is told

  /// Mixes one fact into the trace of this run.
  func trace(_ kind: UInt64, _ a: UInt64, _ b: UInt64) {
    for word in [kind, UInt64(bitPattern: now.nanoseconds), a, b] {
      hash = (hash ^ word) &* 0x9e37_79b9_7f4a_7c15
      hash ^= hash >> 29
    }
  }

  /// Equal for equal runs.
  package var traceHash: UInt64 { hash }

  func note(_ words: @autoclosure () -> String) {
    guard let print else { return }
    let micros = elapsed.nanoseconds / 1_000
    let fraction = String(micros % 1_000_000)
    print(
      "\(micros / 1_000_000)." + String(repeating: "0", count: 6 - fraction.count) + fraction + " "
        + words())
  }

  package func violation(_ words: String) {
    note("VIOLATION \(words)")
    guard violations.count < Self.violationLimit else { return }
    violations.append("seed \(seed) at \(elapsed.inMilliseconds) ms: \(words)")
  }

  // MARK: People

  /// A new machine with an agent that is not running yet.
  /// - Parameter site: where it is; nil: directly in the internet.
  @discardableResult
  package func addNode(
    name: String? = nil, addresses: [IPAddress], prefix: Int = 32, site: Site? = nil
  ) -> SimulatedNode {
    let node = SimulatedNode(
      world: self, index: nodes.count, name: name ?? "node\(nodes.count)", addresses: addresses,
      prefix: prefix)
    nodes.append(node)
    network.attach(host: node.index, addresses: addresses, to: site)
    return node
  }

  /// A random number in `range`.
  func pick(_ range: ClosedRange<Int64>) -> Int64 { .random(in: range, using: &random) }

  /// True once in `1 / probability` times.
  func chance(_ probability: Double) -> Bool {
    probability > 0 && Double(random.next() >> 11) * 0x1p-53 < probability
  }

  func time(_ low: TimeAmount, _ high: TimeAmount) -> TimeAmount {
    .nanoseconds(pick(low.nanoseconds...high.nanoseconds))
  }
}
