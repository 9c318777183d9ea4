/// Two multiplexers joined by simulated links under a virtual clock: delay,
/// rate with a queue, loss, reordering, several lanes, everything from a seed.

import Bytes
import Mux
import Testing

/// One direction of a link.
struct Link {
  /// Bytes a second; 0 = no limit.
  var rate = 0
  var delay: TimeAmount = .milliseconds(10)
  /// Losses and late packets of a million.
  var loss = 0
  var reorder = 0
  /// How much later a late packet comes.
  var lateness: TimeAmount = .milliseconds(5)
  var queue = 1 << 20
  var isDown = false
  /// A TCP connection: a packet is never lost nor overtaken.
  var isOrdered = false
  var busyUntil = Instant(nanoseconds: 0)
  var lastArrival = Instant(nanoseconds: 0)
  var sent = 0
  var dropped = 0
  var bytes = 0
}

struct Flight {
  var at: Instant
  var order: Int
  var toB: Bool
  var bytes: [UInt8]
}

/// A binary heap of packets under way, by arrival.
struct FlightHeap {
  private var items: [Flight] = []
  var first: Flight? { items.first }
  private static func before(_ a: Flight, _ b: Flight) -> Bool {
    (a.at, a.order) < (b.at, b.order)
  }
  mutating func push(_ flight: Flight) {
    items.append(flight)
    var at = items.count - 1
    while at > 0, Self.before(items[at], items[(at - 1) / 2]) {
      items.swapAt(at, (at - 1) / 2)
      at = (at - 1) / 2
    }
  }
  mutating func pop() -> Flight? {
    guard let top = items.first else { return nil }
    let last = items.removeLast()
    if !items.isEmpty {
      items[0] = last
      var at = 0
      while true {
        var child = 2 * at + 1
        guard child < items.count else { break }
        if child + 1 < items.count, Self.before(items[child + 1], items[child]) { child += 1 }
        guard Self.before(items[child], items[at]) else { break }
        items.swapAt(at, child)
        at = child
      }
    }
    return top
  }
}

/// The byte at an offset of the test pattern of a stream.
func patternByte(_ stream: UInt32, _ offset: Int) -> UInt8 {
  UInt8(truncatingIfNeeded: offset &* 31 &+ (offset >> 8) &* 7 &+ Int(stream) &* 13)
}

func pattern(_ stream: UInt32, _ range: Range<Int>) -> [UInt8] {
  range.map { patternByte(stream, $0) }
}

/// One side: the multiplexer and what its application does.
final class Side {
  let mux: Multiplexer
  var primary: LaneID = 0
  var log: [MuxEvent] = []
  /// Streams that write the pattern: bytes still to write, then FIN.
  var sending: [StreamID: (next: Int, total: Int, finishes: Bool)] = [:]
  var received: [StreamID: Int] = [:]
  var finished: Set<StreamID> = []
  var closed: Set<StreamID> = []
  var datagrams: [StreamID: [[UInt8]]] = [:]
  var wrongBytes = 0
  var failure: MuxFailure?
  var accepts = true
  /// Streams that the application does not read.
  var unread: Set<UInt32> = []
  /// Answers each opened stream with so many pattern bytes and FIN.
  var echoTotal: Int?
  var openedRequests: [UInt32: [UInt8]] = [:]
  var openedCount = 0

  init(_ role: MuxRole, limits: MuxLimits, seed: UInt64) {
    mux = Multiplexer(role: role, limits: limits, random: SeededRandom(testSeed: seed))
  }

  func open(_ request: String = "x", now: Instant) throws(OpenFailure) -> StreamID {
    let bytes = Array(request.utf8)
    return try mux.open(request: bytes.span.bytes, now: now)
  }

  func send(_ id: StreamID, total: Int, finishes: Bool = true) {
    sending[id] = (0, total, finishes)
    pump(id)
  }

  func pump(_ id: StreamID) {
    guard var state = sending[id] else { return }
    while state.next < state.total {
      let chunk = pattern(id.number, state.next..<min(state.total, state.next + 65_536))
      let taken = mux.write(id, chunk.span.bytes)
      state.next += taken
      if taken < chunk.count { break }
    }
    if state.next == state.total {
      sending[id] = nil
      if state.finishes { mux.finish(id) }
    } else {
      sending[id] = state
    }
  }

  func read(_ id: StreamID) {
    if unread.contains(id.number) { return }
    while mux.readableCount(id) > 0 {
      var offset = received[id] ?? 0
      var wrong = 0
      mux.withReadable(id) { bytes in
        for index in 0..<bytes.byteCount
        where bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
          != patternByte(id.number, offset + index)
        {
          wrong += 1
        }
        offset += bytes.byteCount
        return bytes.byteCount
      }
      wrongBytes += wrong
      received[id] = offset
    }
  }

  func handleEvents() {
    while let event = mux.pollEvent() {
      log.append(event)
      switch event {
      case .opened(let id, let request):
        openedCount += 1
        openedRequests[id.number] = request
        if accepts { mux.accept(id) }
        if let echoTotal { send(id, total: echoTotal) }
      case .readable(let id): read(id)
      case .writable(let id): pump(id)
      case .finished(let id):
        read(id)
        finished.insert(id)
        if echoTotal == nil, accepts, sending[id] == nil { mux.finish(id) }
      case .datagram(let id):
        var list: [[UInt8]] = []
        while mux.receiveDatagram(id, { list.append([UInt8]($0)) }) {}
        datagrams[id, default: []] += list
      case .closed(let id): closed.insert(id)
      case .accepted, .refused, .reset, .laneProbeTimeout, .laneLossSpurious,
        .laneCongestionPersistent:
        break
      }
    }
  }

  func count(_ matches: (MuxEvent) -> Bool) -> Int { log.count(where: matches) }
}

final class World {
  let a: Side
  let b: Side
  var now = Instant(nanoseconds: 1_000_000_000)
  var toB: [LaneID: Link] = [:]
  var toA: [LaneID: Link] = [:]
  private var heap = FlightHeap()
  private var order = 0
  private var random: SeededRandom
  let seed: UInt64
  var trace: ((String) -> Void)?
  private let scratch = TransmitBatch(capacity: 1 << 17)
  private let carrier = Carrier.udp(socket: 0, remote: .none)
  var packetsFilled = 0

  init(seed: UInt64 = 1, limits: MuxLimits = MuxLimits()) {
    self.seed = seed
    random = SeededRandom(testSeed: seed)
    a = Side(.odd, limits: limits, seed: seed)
    b = Side(.even, limits: limits, seed: seed + 1)
  }

  func addLane(
    _ id: LaneID, kind: LaneKind = .datagram, maximumPacket: Int = 1_200, _ link: Link = Link(),
    marks: LaneMarks = []
  ) {
    var link = link
    link.isOrdered = kind == .ordered
    toB[id] = link
    toA[id] = link
    for side in [a, b] {
      side.mux.addLane(id, kind: kind, maximumPacket: maximumPacket, marks: marks, now: now)
    }
  }

  func setPrimary(_ id: LaneID) {
    a.primary = id
    b.primary = id
  }

  private func chance(_ ofMillion: Int) -> Bool {
    ofMillion > 0 && Int(random.next() % 1_000_000) < ofMillion
  }

  /// Sends everything a side may send now.
  func drain(_ side: Side) {
    side.handleEvents()
    guard side.failure == nil else { return }
    fill(side, side.primary, .data)
    for lane in side.mux.pendingLanes where lane != side.primary { fill(side, lane, .probe) }
    side.handleEvents()
  }

  func fill(_ side: Side, _ lane: LaneID, _ mode: FillMode, limit: Int = .max) {
    var left = limit
    while left > 0 {
      left -= 1
      scratch.removeAll()
      var result = FillResult.nothing
      let now = now
      scratch.append(carrier: carrier, limit: 65_536) {
        result = side.mux.fill(lane: lane, into: &$0, mode: mode, now: now)
      }
      guard result == .wrote else { return }
      packetsFilled += 1
      let bytes = unsafe scratch.withBytes(0..<scratch.byteCount) { unsafe [UInt8]($0) }
      transmit(bytes, lane, toB: side === a)
      if mode == .warm { return }
    }
  }

  private func transmit(_ bytes: [UInt8], _ lane: LaneID, toB direction: Bool) {
    var link = (direction ? toB[lane] : toA[lane]) ?? Link()
    defer { if direction { toB[lane] = link } else { toA[lane] = link } }
    link.sent += 1
    link.bytes += bytes.count
    var at = max(now, link.busyUntil)
    let size = bytes.count + 60
    if link.rate > 0 {
      let waiting = (at - now).inSeconds * Double(link.rate)
      if !link.isOrdered, waiting + Double(size) > Double(link.queue) {
        link.dropped += 1
        return
      }
      at += .nanoseconds(Int64(Double(size) / Double(link.rate) * 1e9))
      link.busyUntil = at
    }
    if link.isDown || (!link.isOrdered && chance(link.loss)) {
      link.dropped += 1
      return
    }
    at += link.delay
    if !link.isOrdered, chance(link.reorder) { at += link.lateness }
    if link.isOrdered {
      at = max(at, link.lastArrival)
      link.lastArrival = at
    }
    order += 1
    heap.push(Flight(at: at, order: order, toB: direction, bytes: bytes))
  }

  /// Delivers a packet as if it had come from the network.
  func inject(_ bytes: [UInt8], to side: Side) {
    do throws(MuxFailure) {
      try side.mux.receive(bytes.span.bytes, now: now)
    } catch {
      side.failure = error
    }
  }

  /// Runs until `condition`, or until `limit` of virtual time has passed.
  /// - Returns: whether the condition came true.
  @discardableResult
  func run(for limit: TimeAmount, until condition: () -> Bool = { false }) -> Bool {
    let end = now + limit
    drain(a)
    drain(b)
    while true {
      if condition() { return true }
      var next = min(a.mux.nextDeadline, b.mux.nextDeadline)
      if let first = heap.first { next = min(next, first.at) }
      guard next <= end else {
        now = end
        return condition()
      }
      now = max(now, next)
      // One batch: everything that arrives within 50 µs is read at once.
      var touchedA = false
      var touchedB = false
      while let first = heap.first, first.at <= now {
        let flight = heap.pop()!
        if flight.toB { touchedB = true } else { touchedA = true }
        inject(flight.bytes, to: flight.toB ? b : a)
      }
      if a.mux.nextDeadline <= now {
        a.mux.advance(to: now)
        touchedA = true
      }
      if b.mux.nextDeadline <= now {
        b.mux.advance(to: now)
        touchedB = true
      }
      if touchedA { drain(a) }
      if touchedB { drain(b) }
    }
  }

  /// Nothing under way, no deadline left.
  var isQuiet: Bool {
    heap.first == nil && a.mux.nextDeadline == .distantFuture
      && b.mux.nextDeadline == .distantFuture
  }
}

// Spans cannot stand inside an #expect: the same with arrays.
extension Multiplexer {
  func open(_ request: [UInt8], now: Instant) throws(OpenFailure) -> StreamID {
    try open(request: request.span.bytes, now: now)
  }
  func write(_ id: StreamID, _ bytes: [UInt8]) -> Int { write(id, bytes.span.bytes) }
  func sendDatagram(_ id: StreamID, _ bytes: [UInt8], now: Instant) -> Bool {
    sendDatagram(id, bytes.span.bytes, now: now)
  }
}
