/// Two ends of one peer pair over virtual links: delay, loss, direction cuts,
/// packet size, in virtual time. Traffic is a small stand-in for Mux: numbered
/// packets, acknowledgements, probe time-outs that double.

import Bytes
import Paths

extension PeerPaths {
  init(testSeed: UInt64, settings: PathSettings = PathSettings()) {
    self.init(settings: settings, random: SeededRandom(testSeed: testSeed))
  }
}

/// What travels: one of our messages, or data, or an acknowledgement.
enum Load {
  case opener
  case message(PathMessage)
  case data(number: Int)
  case ack(number: Int, lane: UInt8)
}

struct TestLink {
  /// The carrier as A and as B name it.
  var ends: [Carrier]
  var tier: Tier
  var delay: TimeAmount
  var lossPerMille = 0
  /// Largest IP packet, IPv4; only UDP links drop by it.
  var mtu = 1500
  /// Packets from A pass, packets from B pass.
  var passes = [true, true]
  /// Data and size probes vanish, small packets pass.
  var swallowsLarge = false

  static func udp(_ n: UInt8, delay: TimeAmount, tier: Tier = .udpDirect) -> TestLink {
    TestLink(
      ends: [
        .udp(socket: 1, remote: Endpoint(IPAddress(198, 51, 100, 100 + n), 4000)),
        .udp(socket: 1, remote: Endpoint(IPAddress(203, 0, 113, 100 + n), 5000)),
      ], tier: tier, delay: delay)
  }
  static func relay(delay: TimeAmount) -> TestLink {
    let server = Endpoint(IPAddress(192, 0, 2, 1), 27183)
    return TestLink(
      ends: [
        .relay(connection: 7, channel: 1, remote: server),
        .relay(connection: 8, channel: 1, remote: server),
      ], tier: .serverRelay, delay: delay)
  }
  static func tcp(delay: TimeAmount) -> TestLink {
    TestLink(
      ends: [
        .tcp(connection: 21, remote: Endpoint(IPAddress(198, 51, 100, 9), 4000)),
        .tcp(connection: 22, remote: Endpoint(IPAddress(203, 0, 113, 9), 5000)),
      ], tier: .tcpDirect, delay: delay)
  }
}

/// A's traffic to B.
struct TestTraffic {
  var interval: TimeAmount
  var next: Instant
  var number = 0
  var unacked: [Int: (sentAt: Instant, lane: UInt8)] = [:]
  var timeouts = 0
  var lastProgress: Instant
}

final class World {
  struct Flight {
    var at: Instant
    var order: Int
    var to: Int
    var link: Int
    var size: Int
    var load: Load
  }

  var now = Instant(nanoseconds: 1_000_000_000)
  var random: SeededRandom
  var nodes: [PeerPaths]
  var budgets = [ProbeBudget(), ProbeBudget()]
  var links: [TestLink]
  var flights: [Flight] = []
  var order = 0
  var traffic: TestTraffic?
  /// A's events with their times; B's too.
  var events: [[(at: Instant, event: PathEvent)]] = [[], []]
  /// Every UDP packet to an address not proven at that moment.
  var unproven: [[(at: Instant, address: IPAddress, bytes: Int)]] = [[], []]
  /// Every authentic packet from an address not proven at that moment.
  var heard: [[(at: Instant, address: IPAddress, bytes: Int)]] = [[], []]
  var lastDelivery = Instant.distantPast
  var longestGap = TimeAmount.zero
  var delivered = 0
  var sentBytes = [0, 0]
  /// Timed changes of the links.
  var plan: [(at: Instant, change: (World) -> Void)] = []
  /// Times a machine was woken.
  var steps = 0
  var trace: UInt64 = 14_695_981_039_346_656_037

  init(seed: UInt64, links: [TestLink], settings: PathSettings = PathSettings()) {
    random = SeededRandom(testSeed: seed)
    nodes = (0..<2).map { PeerPaths(testSeed: seed &* 2 &+ UInt64($0), settings: settings) }
    self.links = links
  }

  /// Everything known, the session made through the first stream link, or
  /// without one through nothing.
  func begin() {
    for link in links {
      for node in 0..<2 {
        if link.ends[node].kind == .udp {
          nodes[node].addCandidate(
            link.ends[node], kind: .host, tier: link.tier, source: .signalled, now: now)
        } else {
          nodes[node].carrierOpened(link.ends[node], tier: link.tier, now: now)
        }
      }
    }
    let first = links.first { $0.ends[0].kind != .udp }
    for node in 0..<2 {
      nodes[node].sessionEstablished(through: first?.ends[node], now: now)
    }
    drain()
  }

  func startTraffic(every interval: TimeAmount) {
    traffic = TestTraffic(interval: interval, next: now, lastProgress: now)
    lastDelivery = now
    longestGap = .zero
  }

  func at(_ delay: TimeAmount, _ change: @escaping (World) -> Void) {
    plan.append((now + delay, change))
    plan.sort { $0.at < $1.at }
  }

  func run(for amount: TimeAmount) {
    let end = now + amount
    var stalled = 0
    while true {
      var next = end
      for node in nodes { next = min(next, node.nextDeadline) }
      if let first = flights.first { next = min(next, first.at) }
      if let planned = plan.first { next = min(next, planned.at) }
      if let traffic { next = min(next, traffic.next, timeoutAt(traffic)) }
      if next >= end { break }
      if next > now {
        now = next
        stalled = 0
      }
      stalled += 1
      steps += 1
      precondition(stalled < 10_000, "the machine spins")
      step()
    }
    now = max(now, end)
  }

  private func step() {
    while let planned = plan.first, planned.at <= now {
      plan.removeFirst()
      planned.change(self)
    }
    while let flight = flights.first, flight.at <= now {
      flights.removeFirst()
      arrive(flight)
      drain()
    }
    for i in 0..<2 where nodes[i].nextDeadline <= now { nodes[i].advance(to: now) }
    drain()
    runTraffic()
    drain()
  }

  func drain() {
    for i in 0..<2 {
      while let probe = nodes[i].pollProbe(budget: &budgets[i], now: now) {
        send(from: i, carrier: probe.carrier, size: probe.size, load: probe.message.map(Load.message) ?? .opener)
      }
      while let event = nodes[i].pollEvent() { events[i].append((now, event)) }
    }
  }

  func send(from node: Int, carrier: Carrier, size: Int, load: Load) {
    let sealed = PathSizes.sealed(size)
    sentBytes[node] += sealed
    if carrier.kind == .udp, nodes[node].lane(of: carrier) == nil {
      unproven[node].append((now, carrier.remote.address, sealed))
    }
    mix(UInt64(bitPattern: now.nanoseconds))
    mix(UInt64(sealed))
    guard let l = links.firstIndex(where: { $0.ends[node] == carrier }) else { return }
    let link = links[l]
    let roll = Int(random.next() % 1000)
    guard link.passes[node], roll >= link.lossPerMille else { return }
    if carrier.kind == .udp, sealed + 28 > link.mtu { return }
    if link.swallowsLarge, size > 200 { return }
    order += 1
    let flight = Flight(
      at: now + link.delay, order: order, to: 1 - node, link: l, size: size, load: load)
    let place = flights.firstIndex { $0.at > flight.at } ?? flights.count
    flights.insert(flight, at: place)
  }

  private func arrive(_ flight: Flight) {
    let node = flight.to
    let carrier = links[flight.link].ends[node]
    let carriesData: Bool
    switch flight.load {
    case .opener: return  // The peer's machine never sees one: it is not sealed.
    case .message: carriesData = false
    case .data, .ack: carriesData = true
    }
    if nodes[node].lane(of: carrier) == nil {
      heard[node].append((now, carrier.remote.address, PathSizes.sealed(flight.size)))
    }
    nodes[node].received(
      from: carrier, bytes: PathSizes.sealed(flight.size), carriesData: carriesData, now: now)
    switch flight.load {
    case .opener: break
    case .message(let message):
      nodes[node].receive(message, from: carrier, now: now)
    case .data(let number):
      delivered += 1
      longestGap = max(longestGap, now - lastDelivery)
      lastDelivery = now
      let lane = nodes[1 - node].lane(of: links[flight.link].ends[1 - node]) ?? 255
      guard let back = nodes[node].primary, let road = nodes[node].carrier(of: back) else {
        return
      }
      nodes[node].sent(on: back, bytes: 64, ackEliciting: false, now: now)
      send(from: node, carrier: road, size: 32, load: .ack(number: number, lane: lane))
    case .ack(let number, let lane):
      guard traffic?.unacked.removeValue(forKey: number) != nil else { return }
      traffic?.timeouts = 0
      traffic?.lastProgress = now
      nodes[node].acked(on: lane, now: now)
    }
  }

  private func timeoutAt(_ traffic: TestTraffic) -> Instant {
    guard let oldest = traffic.unacked.values.map(\.sentAt).min() else { return .distantFuture }
    let pto = TimeAmount.milliseconds(100)
    return max(oldest, traffic.lastProgress) + pto * Int64(1 << min(traffic.timeouts + 1, 6)) - pto
  }

  private func runTraffic() {
    guard var current = traffic else { return }
    if now >= timeoutAt(current), let primary = nodes[0].primary {
      current.timeouts += 1
      traffic = current
      nodes[0].laneTimeout(on: primary, count: current.timeouts, now: now)
      current.lastProgress = max(current.lastProgress, now - .milliseconds(100))
      if current.timeouts > 6 { current.unacked.removeAll() }
    }
    if now >= current.next {
      current.next = now + current.interval
      if let primary = nodes[0].primary, let carrier = nodes[0].carrier(of: primary) {
        let size = nodes[0].maximumPacket(of: primary) ?? 512
        current.number += 1
        current.unacked[current.number] = (now, primary)
        nodes[0].sent(on: primary, bytes: size, ackEliciting: true, now: now)
        send(from: 0, carrier: carrier, size: size, load: .data(number: current.number))
      }
    }
    for event in events[0].suffix(4) where event.at == now {
      if case .primaryChanged = event.event {
        // Re-framed elsewhere by Mux.
        current.unacked.removeAll()
        current.timeouts = 0
        current.lastProgress = now
      }
    }
    traffic = current
  }

  private func mix(_ value: UInt64) { trace = (trace ^ value) &* 1_099_511_628_211 }

  // MARK: Questions

  func primaryTier(_ node: Int = 0) -> Tier? {
    nodes[node].primary.flatMap { nodes[node].tier(of: $0) }
  }
  func primaryCarrier(_ node: Int = 0) -> Carrier? {
    nodes[node].primary.flatMap { nodes[node].carrier(of: $0) }
  }
  func switches(_ node: Int = 0) -> Int {
    events[node].count {
      if case .primaryChanged(.some, .some, _) = $0.event { true } else { false }
    }
  }
  func firstSwitch(after: Instant, node: Int = 0) -> Instant? {
    events[node].first {
      if case .primaryChanged = $0.event { $0.at >= after } else { false }
    }?.at
  }

  /// The worst 10-second window to one unproven address: packets and bytes
  /// beyond three times what it sent in it (RFC 9000 §8.1).
  func worstWindow(_ node: Int) -> (packets: Int, bytes: Int) {
    var worst = (packets: 0, bytes: 0)
    let log = unproven[node]
    for (i, first) in log.enumerated() {
      var packets = 0
      var bytes = 0
      for entry in log[i...] {
        if entry.at - first.at >= .seconds(10) { break }
        if entry.address == first.address {
          packets += 1
          bytes += entry.bytes
        }
      }
      let heardHere = heard[node].filter {
        $0.address == first.address && $0.at >= first.at - .seconds(10)
          && $0.at - first.at < .seconds(10)
      }
      packets -= 3 * heardHere.count
      bytes -= 3 * heardHere.reduce(0) { $0 + $1.bytes }
      worst = (max(worst.packets, packets), max(worst.bytes, bytes))
    }
    return worst
  }
}
