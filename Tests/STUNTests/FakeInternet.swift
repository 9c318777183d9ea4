import Bytes
import NAT
import STUN

/// A NAT as RFC 4787 describes it: only what a probe can see of one.
struct FakeNAT {
  var mapping: NATMapping
  var filtering: NATFiltering
  var allocator: PortAllocator = .preserving
  var hairpins = false
  var outside = address("203.0.113.7")

  private struct Key: Hashable {
    var inside: Endpoint
    var remote: Endpoint
  }
  private var mappings: [Key: UInt16] = [:]
  private var owners: [UInt16: Endpoint] = [:]
  private var opened: [UInt16: Set<Endpoint>] = [:]
  private var nextPort: UInt16 = 30_000
  private var random: SeededRandom

  init(
    _ mapping: NATMapping, _ filtering: NATFiltering, _ allocator: PortAllocator = .preserving,
    hairpins: Bool = false, seed: UInt64 = 1
  ) {
    self.mapping = mapping
    self.filtering = filtering
    self.allocator = allocator
    self.hairpins = hairpins
    random = SeededRandom(testSeed: seed ^ 0xabcd)
  }

  /// After a reboot nothing is remembered, and others have the old ports.
  mutating func reboot(ports: UInt16 = 50_000, outside: IPAddress? = nil) {
    mappings = [:]
    owners = [:]
    opened = [:]
    nextPort = ports
    if allocator == .preserving { allocator = .random }
    if let outside { self.outside = outside }
  }

  /// The outside endpoint of a packet that leaves.
  mutating func leave(_ inside: Endpoint, to remote: Endpoint) -> Endpoint {
    if mapping == .none {
      opened[inside.port, default: []].insert(remote)
      owners[inside.port] = inside
      return inside
    }
    let seen: Endpoint
    switch mapping {
    case .addressAndPortDependent: seen = remote
    case .addressDependent: seen = Endpoint(remote.address, 0)
    case .none, .unknown, .endpointIndependent: seen = .none
    }
    let key = Key(inside: inside, remote: seen)
    let port = mappings[key] ?? allocate(inside.port)
    mappings[key] = port
    owners[port] = inside
    opened[port, default: []].insert(remote)
    return Endpoint(outside, port)
  }

  /// The inside endpoint a packet from outside reaches, or nil.
  func enter(from remote: Endpoint, to port: UInt16) -> Endpoint? {
    guard let inside = owners[port], let known = opened[port] else { return nil }
    switch filtering {
    case .endpointIndependent, .unknown: return inside
    case .addressDependent:
      return known.contains { $0.address == remote.address } ? inside : nil
    case .addressAndPortDependent: return known.contains(remote) ? inside : nil
    }
  }

  private mutating func allocate(_ local: UInt16) -> UInt16 {
    switch allocator {
    case .preserving where owners[local] == nil: return local
    case .preserving, .random:
      while true {
        let port = UInt16(1_024 + random.next() % 60_000)
        if owners[port] == nil { return port }
      }
    case .sequential(let step):
      nextPort = UInt16(truncatingIfNeeded: Int(nextPort) + step)
      return nextPort
    }
  }
}

/// One host behind one NAT, one server with one or two addresses, in virtual
/// time.
struct FakeInternet {
  struct Packet {
    var due: Instant
    var number: Int
    /// As seen outside, or inside once it is through the NAT.
    var from: Endpoint
    var to: Endpoint
    var bytes: [UInt8]
    var stream: UInt32? = nil
  }

  var nat: FakeNAT
  var responder: STUNResponder
  var probe: NATProbe
  let host: IPAddress
  let server: [IPAddress]
  var oneWay = TimeAmount.milliseconds(25)
  /// Of each packet, each way.
  var loss = 0.0
  var passesUDP = true
  var passesTCP = true
  /// TCP to the server is refused at once.
  var refusesTCP = false
  /// Changes what the server answers, or swallows it.
  var meddle: ((inout Packet) -> Bool)?
  /// A neighbour makes a connection before the host's packet of this number.
  var foreignBefore: Set<Int> = []
  /// On the way to the server, the nearest first; nil says nothing of what dies there.
  var routers: [IPAddress?] = []
  /// The host's packets of these numbers do not get as far as the NAT.
  var lostSends: Set<Int> = []
  var now = Instant(nanoseconds: 1_000_000_000)
  var events: [(at: Instant, NATProbeEvent)] = []
  /// Everything the host has sent over UDP.
  var sent: [(at: Instant, NATProbeTransmit)] = []
  private var packets: [Packet] = []
  private var deaths: [(due: Instant, transmit: NATProbeTransmit, router: IPAddress)] = []
  private var count = 0
  private var random: SeededRandom

  static let ports: (UInt16, UInt16) = (3_478, 3_479)
  static let tcpPorts: [UInt16] = [3_480, 3_481]
  static let main: UInt16 = 40_000

  init(
    _ nat: FakeNAT, addresses: Int = 2, isV6: Bool = false, auxiliary: Int = 2, seed: UInt64 = 1,
    limits: STUNResponderLimits = STUNResponderLimits()
  ) {
    var nat = nat
    if isV6 { nat.outside = address("2001:db8:7::7") }
    let inside = isV6 ? address("fd00::10") : address("192.168.1.10")
    host = nat.mapping == .none ? nat.outside : inside
    server =
      isV6
      ? [address("2001:db8:100::1"), address("2001:db8:100::2")]
      : [address("198.51.100.1"), address("198.51.100.2")]
    let pair = STUNServerSettings.AddressPair(first: server[0], second: server[1])
    responder = STUNResponder(
      settings: STUNServerSettings(
        udp1: Self.ports.0, udp2: Self.ports.1, pairs: addresses == 2 ? [pair] : []),
      limits: limits, random: SeededRandom(testSeed: seed))
    probe = NATProbe(
      settings: NATProbeSettings(
        server: NATProbeServer(
          server[0], udp1: Self.ports.0, udp2: Self.ports.1, tcp: Self.tcpPorts),
        main: NATProbeSocket(number: 1, localPort: Self.main),
        auxiliary: (0..<auxiliary).map {
          // Neighbouring local ports must not look like an allocator's step.
          NATProbeSocket(number: UInt32(2 + $0), localPort: Self.main + UInt16(1 + $0))
        }, localAddresses: [host]), random: SeededRandom(testSeed: seed))
    self.nat = nat
    random = SeededRandom(testSeed: seed ^ 0x5555)
  }

  // MARK: Running

  var started: Instant { Instant(nanoseconds: 1_000_000_000) }
  var finished: (at: TimeAmount, NATProbeReport)? {
    for (at, event) in events {
      if case .finished(let report) = event { return (at - started, report) }
    }
    return nil
  }
  var facts: NATFacts? { finished?.1.facts }
  var mapped: (at: TimeAmount, Endpoint)? {
    for (at, event) in events {
      if case .mapped(let endpoint, _) = event { return (at - started, endpoint) }
    }
    return nil
  }
  var refreshed: NATRefresh? {
    for (_, event) in events.reversed() {
      if case .refreshed(let refresh) = event { return refresh }
    }
    return nil
  }

  /// A whole probe, until nothing is left to happen.
  mutating func run() {
    probe.start(now: now)
    settle()
  }

  mutating func settle() {
    drain()
    var turns = 0
    while turns < 10_000 {
      turns += 1
      let next = (packets.map(\.due) + deaths.map(\.due)).min()
      let due = min(next ?? .distantFuture, probe.nextDeadline)
      guard due < .distantFuture else { return }
      now = max(now, due)
      if probe.nextDeadline <= now { probe.advance(to: now) }
      deliver()
      drain()
    }
    preconditionFailure("it does not come to an end")
  }

  /// What is due now, and no more.
  mutating func settleOnce() {
    deliver()
    drain()
  }

  mutating func drain() {
    while let transmit = probe.pollTransmit() {
      sent.append((now, transmit))
      leave(transmit)
    }
    while let event = probe.pollEvent() {
      events.append((now, event))
      carryOut(event)
    }
  }

  /// Puts a packet before the host's NAT from outside, or lets the host have it.
  mutating func inject(
    _ bytes: [UInt8], from: Endpoint, toSocket socket: UInt32, after: TimeAmount = .zero
  ) {
    enqueue(
      Packet(
        due: now + after, number: 0, from: from,
        to: Endpoint(host, Self.main + UInt16(socket - 1)), bytes: bytes, stream: .max))
  }

  // MARK: The network

  private var isLost: Bool {
    mutating get { loss > 0 && Double(random.next() >> 11) / Double(1 << 53 as UInt64) < loss }
  }

  private mutating func enqueue(_ packet: Packet) {
    var packet = packet
    count += 1
    packet.number = count
    packets.append(packet)
  }

  private mutating func leave(_ transmit: NATProbeTransmit) {
    guard passesUDP, !lostSends.contains(sent.count) else { return }
    if foreignBefore.contains(sent.count) {
      _ = nat.leave(at("192.168.1.77:\(sent.count)"), to: at("192.0.2.9:1"))
    }
    let inside = Endpoint(host, Self.main + UInt16(transmit.socket - 1))
    let outside = nat.leave(inside, to: transmit.destination)
    if transmit.destination.address == nat.outside {
      guard nat.hairpins || nat.mapping == .none else { return }
      enqueue(
        Packet(
          due: now + .milliseconds(1), number: 0, from: outside, to: transmit.destination,
          bytes: transmit.bytes))
      return
    }
    guard !isLost else { return }
    let hop = Int(transmit.timeToLive)
    if hop > 0, hop <= routers.count {
      guard let router = routers[hop - 1], !isLost else { return }
      deaths.append((now + .milliseconds(2 * Int64(hop)), transmit, router))
      return
    }
    enqueue(
      Packet(
        due: now + oneWay, number: 0, from: outside, to: transmit.destination,
        bytes: transmit.bytes))
  }

  private mutating func deliver() {
    let due = packets.filter { $0.due <= now }.sorted { ($0.due, $0.number) < ($1.due, $1.number) }
    packets.removeAll { $0.due <= now }
    for packet in due { deliver(packet) }
    let dead = deaths.filter { $0.due <= now }
    deaths.removeAll { $0.due <= now }
    for death in dead {
      probe.expired(
        at: death.router, destination: death.transmit.destination, socket: death.transmit.socket,
        now: now)
    }
  }

  private mutating func deliver(_ packet: Packet) {
    if packet.stream == .max {
      hear(packet.bytes, from: packet.from, at: packet.to)
    } else if let stream = packet.stream {
      if server.contains(packet.to.address) {
        answer(packet, over: .tcp)
      } else {
        probe.received(packet.bytes.span.bytes, on: stream, now: now)
      }
    } else if server.contains(packet.to.address) {
      answer(packet, over: .udp)
    } else if packet.to.address == nat.outside,
      let inside = nat.enter(from: packet.from, to: packet.to.port)
    {
      hear(packet.bytes, from: packet.from, at: inside)
    }
  }

  private mutating func hear(_ bytes: [UInt8], from: Endpoint, at inside: Endpoint) {
    let socket = UInt32(inside.port - Self.main + 1)
    probe.receive(bytes.span.bytes, from: from, socket: socket, now: now)
  }

  private mutating func answer(_ packet: Packet, over transport: STUNTransport) {
    guard
      let answer = responder.receive(
        packet.bytes.span.bytes, from: packet.from, at: packet.to, over: transport, now: now)
    else { return }
    var reply = Packet(
      due: now + oneWay, number: 0, from: answer.source, to: packet.from, bytes: answer.bytes,
      stream: packet.stream)
    if let meddle, !meddle(&reply) { return }
    guard packet.stream != nil || !isLost else { return }
    enqueue(reply)
  }

  private mutating func carryOut(_ event: NATProbeEvent) {
    switch event {
    case .dial(let connection, _):
      if refusesTCP {
        probe.failed(connection, now: now)
      } else if passesTCP {
        probe.connected(connection, now: now)
      }
    case .send(let connection, let bytes):
      let port = events.compactMap { event -> UInt16? in
        guard case .dial(connection, let remote) = event.1 else { return nil }
        return remote.port
      }
      guard let port = port.first else { return }
      let from = Endpoint(nat.outside, 20_000 + UInt16(connection))
      enqueue(
        Packet(
          due: now + oneWay, number: 0, from: from, to: Endpoint(server[0], port), bytes: bytes,
          stream: connection))
    case .mapped, .learnt, .hangUp, .finished, .refreshed:
      break
    }
  }
}
