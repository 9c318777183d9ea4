/// Two or more keepers on a virtual wire: packets take a delay, may be lost,
/// doubled or overtaken; nobody looks at a clock. Same seed, same run.

import Bytes
import Crypto
import WireGuard

struct WireLink {
  var delay = TimeAmount.milliseconds(20)
  /// Added at random, up to this much: packets overtake each other.
  var jitter = TimeAmount.zero
  var lossPercent: UInt64 = 0
}

final class WireNode {
  let name: Int
  let keys: KeyPair
  var keeper: SessionKeeper
  /// This node's wall clock minus the true time.
  var clockError: Int64 = 0
  var peer = PeerHandle(rawValue: .max)
  var events: [SessionEvent] = []
  var received: [[UInt8]] = []
  var receipts: [Receipt] = []
  /// Whether each keypair that got ready was ours as initiator.
  var initiated: [KeypairID: Bool] = [:]
  var sentBytes = 0
  var largestReply: [(cause: Int, reply: Int)] = []

  init(name: Int, keys: KeyPair, seed: UInt64, ceiling: UInt64 = 0) {
    self.name = name
    self.keys = keys
    keeper = SessionKeeper(
      localKeys: [keys], random: SeededRandom(testSeed: seed &* 2 &+ UInt64(name)),
      stampCeiling: ceiling)
  }
}

struct WirePacket {
  var from: Int
  var to: Int
  var lane: UInt32
  var bytes: [UInt8]
}

final class WireWorld {
  private struct Flight {
    var at: Instant
    var order: Int
    var packet: WirePacket
  }

  var nodes: [WireNode] = []
  var link = WireLink()
  var lanes: UInt32 = 1
  var now = Instant(nanoseconds: 1_000_000_000)
  /// 2026.
  let wallBase: Int64 = 1_780_000_000_000_000_000
  private var flights: [Flight] = []
  private var order = 0
  var random: SeededRandom
  /// When set, packets are not sent but kept here for the test to deliver.
  var held: [WirePacket]?
  /// Sees every packet; false = swallow it.
  var filter: ((WirePacket) -> Bool)?
  /// Called when a keypair is ready.
  var onReady: ((WireNode) -> Void)?

  init(seed: UInt64, kind: PeerKind = .agent, cipher: AEADCipher = .chaCha20Poly1305) {
    random = SeededRandom(testSeed: seed &+ 1_000_000)
    var keys = SeededRandom(testSeed: seed)
    for name in 0..<2 {
      nodes.append(WireNode(name: name, keys: X25519.generate(using: &keys), seed: seed))
    }
    introduce(kind, cipher)
  }

  func introduce(_ kind: PeerKind, _ cipher: AEADCipher) {
    for (a, b) in [(0, 1), (1, 0)] {
      do {
        nodes[a].peer = try nodes[a].keeper.addPeer(
          publicKey: nodes[b].keys.publicKey, kind: kind, cipher: cipher, now: now)
      } catch {
        preconditionFailure("\(error)")
      }
    }
  }

  var a: WireNode { nodes[0] }
  var b: WireNode { nodes[1] }

  /// How a node sees the other's end of a lane.
  func carrier(from: Int, lane: UInt32) -> Carrier {
    .udp(
      socket: lane,
      remote: Endpoint(IPAddress(10, 0, UInt8(lane), UInt8(from)), 5000 + UInt16(lane)))
  }

  func wallClock(_ node: WireNode) -> UInt64 {
    UInt64(wallBase + now.nanoseconds + node.clockError)
  }

  /// Sends out and notes everything the node has to say.
  func drain(_ node: WireNode, cause: Int? = nil) {
    while true {
      if let event = node.keeper.pollEvent() {
        node.events.append(event)
        if case .keypairReady(_, let id, let initiator) = event {
          node.initiated[id] = initiator
          onReady?(node)
        }
        continue
      }
      guard let transmit = node.keeper.pollTransmit(now: now, wallClock: wallClock(node)) else {
        break
      }
      switch transmit.route {
      case .everyCarrier:
        for lane in 0..<lanes {
          let carrier = carrier(from: 1 - node.name, lane: lane)
          launch(node, lane, node.keeper.finish(transmit, for: carrier, now: now))
        }
      case .reply(let carrier):
        if let cause { node.largestReply.append((cause, transmit.bytes.count)) }
        launch(node, carrier.socket, transmit.bytes)
      case .data:
        launch(node, 0, transmit.bytes)
      }
    }
  }

  private func launch(_ node: WireNode, _ lane: UInt32, _ bytes: [UInt8]) {
    node.sentBytes += bytes.count
    let packet = WirePacket(from: node.name, to: 1 - node.name, lane: lane, bytes: bytes)
    if let filter, !filter(packet) { return }
    if held != nil {
      held?.append(packet)
      return
    }
    if link.lossPercent > 0, random.next() % 100 < link.lossPercent { return }
    var at = now + link.delay
    if link.jitter > .zero {
      at += .nanoseconds(Int64(random.next() % UInt64(link.jitter.nanoseconds)))
    }
    order += 1
    flights.append(Flight(at: at, order: order, packet: packet))
  }

  /// Gives a packet to its receiver at once.
  @discardableResult
  func deliver(_ packet: WirePacket) -> Receipt {
    let node = nodes[packet.to]
    var bytes = packet.bytes
    let receipt = inject(&bytes, into: node, from: carrier(from: packet.from, lane: packet.lane))
    drain(node, cause: packet.bytes.count)
    return receipt
  }

  func inject(_ bytes: inout [UInt8], into node: WireNode, from carrier: Carrier) -> Receipt {
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    let receipt = node.keeper.receive(&raw, from: carrier, now: now)
    if case .data(_, _, let payload, _, _) = receipt { node.received.append(Array(bytes[payload])) }
    node.receipts.append(receipt)
    return receipt
  }

  /// The sealed packet, or nil when the node has no keys.
  func sealed(_ node: WireNode, _ payload: [UInt8]) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: payload.count + 64)
    let capacity = bytes.count
    var outcome = SealOutcome.nothing
    let peer = node.peer
    let keeper = node.keeper
    let count = bytes.withUnsafeMutableBytes { buffer in
      var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
      outcome = keeper.seal(peer, into: &output, now: now) { $0.write(payload.span.bytes) }
      return output.finalize(for: buffer)
    }
    guard case .sealed = outcome else { return nil }
    precondition(count <= capacity)
    return Array(bytes[..<count])
  }

  /// Seals and sends; false when there are no keys.
  @discardableResult
  func send(_ node: WireNode, _ payload: [UInt8]) -> Bool {
    let packet = sealed(node, payload)
    if let packet { launch(node, 0, packet) }
    drain(node)
    return packet != nil
  }

  func initiate(_ node: WireNode) {
    node.keeper.initiate(node.peer, now: now)
    drain(node)
  }

  /// Runs to `end`, delivering and advancing in order.
  func run(for time: TimeAmount, until done: (() -> Bool)? = nil) {
    let end = now + time
    while true {
      if let done, done() { return }
      var next = nodes.map(\.keeper.nextDeadline).min() ?? .distantFuture
      let at = flights.indices.min {
        (flights[$0].at, flights[$0].order) < (flights[$1].at, flights[$1].order)
      }
      if let at, flights[at].at <= next {
        let flight = flights[at]
        guard flight.at <= end else { break }
        now = max(now, flight.at)
        flights.remove(at: at)
        deliver(flight.packet)
        continue
      }
      guard next <= end else { break }
      next = max(next, now)
      now = next
      for node in nodes {
        node.keeper.advance(to: now)
        drain(node)
      }
    }
    now = end
    for node in nodes {
      node.keeper.advance(to: now)
      drain(node)
    }
  }

  /// Whether data moves both ways right now, over a wire without loss.
  func conversationWorks() -> Bool {
    let before = link
    link = WireLink()
    defer { link = before }
    let counts = nodes.map(\.received.count)
    for node in nodes where !send(node, [0x45, UInt8(node.name)]) { return false }
    run(for: .milliseconds(100))
    return zip(nodes, counts).allSatisfy { $0.received.count > $1 }
  }

  /// Whether the node's current keypair was made by the smaller static key.
  func onFavourite(_ node: WireNode) -> Bool? {
    guard let id = node.keeper.currentKeypair(node.peer), let initiator = node.initiated[id] else {
      return nil
    }
    return initiator == node.keeper.localIsSmaller(node.peer)
  }
}

extension Receipt {
  var dropReason: SessionDrop? {
    if case .dropped(let reason) = self { return reason }
    return nil
  }
}
