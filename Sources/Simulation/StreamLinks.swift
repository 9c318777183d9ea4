/// TCP between nodes: asking for a connection goes through all routers packet by
/// packet (`Routing`), each of them with a table of its own for connections; what
/// an open connection carries takes the link between the two hosts, in order and
/// once. A stand-in for the kernels' TCP: it repeats SYNs, meets a SYN of the
/// other end half-way (simultaneous open, RFC 9293 §3.5), refuses where nobody
/// listens, and gives up.

#if canImport(Bytes)
  package import Bytes
  internal import NAT
  internal import NodeCore
#endif

/// What a segment without data says.
enum StreamSegment {
  /// Of this attempt of the sender.
  case syn(UInt32)
  /// To this attempt of the receiver.
  case synAck(UInt32)
  case refused(UInt32)
}

struct StreamAttempt {
  var remote: Endpoint
  var process: Int
  /// To a relay's port, from a port of its own.
  var isRelay = false
  var syns = 0
}

final class StreamLink {
  struct End {
    var node: Int
    var number: UInt32
    var process: Int
    /// As this end sees the other.
    var remote: Endpoint
    var freeAt = Instant.distantPast
    var lastArrival = Instant.distantPast
    /// Told to wait for room.
    var isBlocked = false
  }
  let id: UInt64
  var ends: [End]
  /// A router forgot it, or an address is gone: nothing arrives any more.
  var isDead = false
  /// The first end's leg at the second one's relay: frames, not packets.
  var isRelay = false

  init(id: UInt64, _ a: End, _ b: End) {
    self.id = id
    ends = [a, b]
  }

  static let synBytes = 60
  static let repeats: [TimeAmount] = [1, 3, 7, 15, 31, 63].map { TimeAmount.seconds($0) }
  static let attemptTime = TimeAmount.seconds(127)
  static let backlogLimit = 256 * 1024
  static let userTimeout = TimeAmount.seconds(30)
  /// A lost packet is there again after this.
  static let retransmission = TimeAmount.milliseconds(200)
}

extension NATKind {
  /// How its router treats connections: mapped like datagrams, and let in only as
  /// answers (docs/protocol/punching.md "TCP").
  var forConnections: NATKind {
    var kind = self
    kind.passesUDP = true
    if mapping != .none || filtering != .endpointIndependent {
      kind.filtering = .addressAndPortDependent
    }
    return kind
  }
}

extension NATTimers {
  /// nf_conntrack_tcp_timeout_syn_sent, …_established.
  static var connections: NATTimers {
    var timers = NATTimers()
    timers.unreplied = .seconds(120)
    timers.replied = .hours(24)
    timers.streamAfter = .zero
    timers.occupied = .seconds(10)
    return timers
  }
}

// MARK: What the node asks for

extension SimulatedNode {
  func dialCarrier(_ number: UInt32, _ remote: Endpoint, isRelay: Bool = false) {
    streamAttempts[number] = StreamAttempt(remote: remote, process: process, isRelay: isRelay)
    sendSYN(number)
    // The next process counts its numbers from the same one.
    let process = process
    for wait in StreamLink.repeats {
      world.after(wait) { _ in if self.process == process { self.sendSYN(number) } }
    }
    world.after(StreamLink.attemptTime) { _ in
      if self.process == process { self.streamFailed(number) }
    }
  }

  private func sendSYN(_ number: UInt32) {
    guard let attempt = streamAttempts[number], attempt.process == process, !isSuspended,
      let address = addresses.first(where: { $0.isV4 == attempt.remote.address.isV4 })
    else { return }
    if let words = watch.sent(
      to: attempt.remote.address, bytes: StreamLink.synBytes,
      isVouchedFor: world.vouched.contains(attempt.remote.address), now: world.now)
    {
      world.violation("\(name): \(words)")
    }
    world.transmit(
      Endpoint(address, attempt.isRelay ? relayPort : port), attempt.remote, [], from: index,
      segment: .syn(number))
  }

  func streamFailed(_ number: UInt32) {
    guard let attempt = streamAttempts.removeValue(forKey: number), attempt.process == process
    else { return }
    tell {
      if attempt.isRelay {
        $0.relayClosed(connection: number, now: $1)
      } else {
        $0.carrierClosed(connection: number, now: $1)
      }
    }
  }

  func closeCarrier(_ number: UInt32) {
    streamAttempts[number] = nil
    guard let id = streamLinks.removeValue(forKey: number), let link = world.streamLinks[id] else {
      return
    }
    world.endStream(link, by: index)
  }

  /// A segment has come through all routers.
  func arrived(_ segment: StreamSegment, _ datagram: Datagram) {
    guard node != nil else { return }
    switch segment {
    case .syn(let theirs):
      if relay != nil, datagram.destination.port == relayPort {
        answer(datagram, .synAck(theirs))
        return
      }
      guard datagram.destination.port == port else {
        answer(datagram, .refused(theirs))
        return
      }
      let ours = streamAttempts.filter {
        $0.value.remote == datagram.source && $0.value.process == process && !$0.value.isRelay
      }.keys.min()
      let peer = world.nodes[datagram.from]
      if let ours {
        // Both asked: there is one connection (its last segments are not acted out).
        guard let attempt = peer.streamAttempts.removeValue(forKey: theirs) else { return }
        streamAttempts[ours] = nil
        world.openStream(
          peer, theirs, attempt.remote, self, ours, datagram.source, isAccepted: false)
      } else {
        answer(datagram, .synAck(theirs))
      }
    case .synAck(let ours):
      guard let attempt = streamAttempts[ours], attempt.process == process,
        attempt.remote == datagram.source
      else { return }
      streamAttempts[ours] = nil
      let peer = world.nodes[datagram.from]
      guard peer.isRunning else { return streamFailed(ours) }
      peer.lastAccepted &+= 2
      world.openStream(
        self, ours, attempt.remote, peer, peer.lastAccepted, datagram.target,
        isAccepted: true, isRelay: attempt.isRelay)
    case .refused(let ours):
      guard streamAttempts[ours]?.remote.address == datagram.source.address else { return }
      streamFailed(ours)
    }
  }

  private func answer(_ datagram: Datagram, _ segment: StreamSegment) {
    world.transmit(
      datagram.destination, datagram.source, [], from: index, segment: segment)
  }

  /// - Returns: nothing; what finds no room is dropped, as by the agent.
  func sendStream(_ number: UInt32, _ bytes: [UInt8]) {
    guard let id = streamLinks[number], let link = world.streamLinks[id] else { return }
    world.statistics.packets += 1
    world.sendStream(link, from: index, number, bytes)
  }

  func tell(_ body: (Node, Instant) -> Void) {
    guard let node else { return }
    body(node, world.now)
    drain()
  }

  /// The kernel ends everything of a process that is gone.
  func endStreams(silently: Bool) {
    streamAttempts.removeAll()
    for id in streamLinks.values.sorted() {
      guard let link = world.streamLinks[id] else { continue }
      if silently { world.breakStream(link) } else { world.endStream(link, by: index) }
    }
    streamLinks.removeAll()
  }
}

// MARK: The connections

extension World {
  func openStream(
    _ a: SimulatedNode, _ numberA: UInt32, _ remoteA: Endpoint, _ b: SimulatedNode,
    _ numberB: UInt32, _ remoteB: Endpoint, isAccepted: Bool, isRelay: Bool = false
  ) {
    lastStreamLink += 1
    let link = StreamLink(
      id: lastStreamLink,
      StreamLink.End(node: a.index, number: numberA, process: a.process, remote: remoteA),
      StreamLink.End(node: b.index, number: numberB, process: b.process, remote: remoteB))
    link.isRelay = isRelay
    streamLinks[link.id] = link
    a.streamLinks[numberA] = link.id
    b.streamLinks[numberB] = link.id
    note("\(a.name) and \(b.name): TCP \(remoteA)\(isAccepted ? "" : ", opened by both")")
    a.watch.received(from: remoteA.address, bytes: StreamLink.synBytes)
    b.watch.received(from: remoteB.address, bytes: StreamLink.synBytes)
    if isRelay {
      guard b.relayAccepts(numberB, from: remoteB) else { return endStream(link, by: b.index) }
      a.tell { node, now in node.relayConnected(connection: numberA, now: now) }
      return
    }
    b.tell {
      if isAccepted {
        $0.carrierAccepted(connection: numberB, remote: remoteB, now: $1)
      } else {
        $0.carrierDialed(connection: numberB, remote: remoteB, now: $1)
      }
    }
    a.tell { $0.carrierDialed(connection: numberA, remote: remoteA, now: $1) }
  }

  func sendStream(_ link: StreamLink, from node: Int, _ number: UInt32, _ bytes: [UInt8]) {
    guard !link.isDead,
      let e = link.ends.firstIndex(where: { $0.number == number && $0.node == node })
    else { return }
    let settings = network.settings(from: node, to: link.ends[1 - e].node)
    let rate = Double(max(settings.rate, 1_000_000))
    let leaves =
      max(now, link.ends[e].freeAt) + .nanoseconds(Int64(Double(bytes.count + 47) / rate * 1e9))
    link.ends[e].freeAt = leaves
    var arrives = leaves + settings.delay
    if chance(settings.loss) { arrives += StreamLink.retransmission }
    arrives = max(arrives, link.ends[e].lastArrival)
    link.ends[e].lastArrival = arrives
    deliver(link, to: 1 - e, bytes, at: arrives, since: now)
    let backlog = Int((leaves - now).inSeconds * rate)
    guard backlog > StreamLink.backlogLimit, !link.ends[e].isBlocked else { return }
    link.ends[e].isBlocked = true
    let process = link.ends[e].process
    let isAtRelay = link.isRelay && e == 1
    if isAtRelay {
      nodes[node].relay?.blocked.insert(number)
    } else {
      nodes[node].node?.setConnectionBlocked(number, true)
    }
    after(.nanoseconds(Int64(Double(backlog / 2) / rate * 1e9))) { world in
      link.ends[e].isBlocked = false
      let machine = world.nodes[node]
      guard machine.process == process else { return }
      if isAtRelay { return machine.relayHasRoom(number) }
      machine.tell { owner, _ in owner.setConnectionBlocked(number, false) }
    }
  }

  private func deliver(
    _ link: StreamLink, to e: Int, _ bytes: [UInt8], at: Instant, since: Instant
  ) {
    after(max(.zero, at - now)) { world in
      guard world.streamLinks[link.id] != nil, !link.isDead else { return }
      let end = link.ends[e]
      let machine = world.nodes[end.node]
      let from = link.ends[1 - e].node
      if machine.isSuspended || world.network.settings(from: from, to: end.node).isCut {
        guard world.now - since < StreamLink.userTimeout else { return world.expireStream(link) }
        world.deliver(
          link, to: e, bytes, at: world.now + StreamLink.retransmission, since: since)
        return
      }
      guard machine.process == end.process, let node = machine.node else { return }
      world.trace(5, UInt64(bytes.count), UInt64(end.number))
      if link.isRelay {
        if e == 0 {
          machine.relayLegReceives(end.number, bytes, remote: end.remote)
        } else {
          machine.relayReceives(end.number, bytes)
        }
        return
      }
      var bytes = bytes
      var span = bytes.mutableSpan
      var packet = span.mutableBytes
      node.receive(
        &packet, from: .tcp(connection: end.number, remote: end.remote), now: world.now)
      node.finishReceiving(now: world.now)
      machine.drain()
    }
  }

  /// One end closes; the other hears of it, unless the road is gone.
  func endStream(_ link: StreamLink, by node: Int) {
    guard streamLinks.removeValue(forKey: link.id) != nil, !link.isDead else { return }
    guard let end = link.ends.first(where: { $0.node != node }) else { return }
    let settings = network.settings(from: node, to: end.node)
    after(settings.delay) { $0.tellClosed(end, of: link) }
  }

  /// Nothing arrives any more; the transport gives up after a while.
  func breakStream(_ link: StreamLink) {
    guard !link.isDead else { return }
    link.isDead = true
    after(StreamLink.userTimeout) { $0.expireStream(link) }
  }

  private func expireStream(_ link: StreamLink) {
    guard streamLinks.removeValue(forKey: link.id) != nil else { return }
    for end in link.ends { tellClosed(end, of: link) }
  }

  private func tellClosed(_ end: StreamLink.End, of link: StreamLink) {
    let machine = nodes[end.node]
    guard machine.process == end.process else { return }
    machine.streamLinks[end.number] = nil
    if link.isRelay {
      if end.number == link.ends[1].number, end.node == link.ends[1].node {
        machine.relayLoses(end.number)
      } else {
        machine.tell { $0.relayClosed(connection: end.number, now: $1) }
      }
      return
    }
    machine.tell { $0.carrierClosed(connection: end.number, now: $1) }
  }

  func breakStreams(ofNode index: Int) {
    for id in nodes[index].streamLinks.values.sorted() {
      if let link = streamLinks[id] { breakStream(link) }
    }
  }

  /// Where a connection from `source` at a host is seen from outside; opens the
  /// way for it in every router. Nil: none lets it out.
  func streamSource(of node: SimulatedNode, port: UInt16, to remote: Endpoint) -> Endpoint? {
    guard let address = node.addresses.first(where: { $0.isV4 == remote.address.isV4 }) else {
      return nil
    }
    var source = Endpoint(address, port)
    var place = node.home
    while let site = place {
      guard !site.isDown, site.lets(remote) else { return nil }
      guard
        case .outside(let outside, _) = site.streamBox.outgoing(
          source: source, destination: remote, now: now)
      else { return nil }
      source = outside
      place = site.outer
    }
    return source
  }
}
