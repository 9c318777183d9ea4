/// A node that is a relay for others, and nodes' legs to it: the real `RelayNode`
/// behind a port of its own, over the world's TCP (`StreamLinks`) and UDP.

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import NodeCore
  internal import Relay
  internal import Signaling
  package import Tunnels
#endif

package struct SimulatedRelaySettings: Sendable {
  package var isSuper: Bool
  package var megabits: Double?
  /// Else its UDP port is shut, though it names it.
  package var takesDatagrams: Bool

  package init(isSuper: Bool = false, megabits: Double? = nil, takesDatagrams: Bool = true) {
    self.isSuper = isSuper
    self.megabits = megabits
    self.takesDatagrams = takesDatagrams
  }
}

/// A node's leg by UDP.
struct RelayDatagramLeg {
  let remote: Endpoint
  /// Something has come from there: what is sent is no probe any more.
  var isAnswered = false
}

/// The relay's part of a process.
final class SimulatedRelay {
  let machine: RelayNode
  let process: Int
  /// Connections whose link takes no more for now.
  var blocked: Set<UInt32> = []
  var isDrainDue = false
  var wakeAt = Instant.distantFuture

  init(_ machine: RelayNode, process: Int) {
    self.machine = machine
    self.process = process
  }

  static let fillBytes = 16 * 1024
  static let closing = TimeAmount.milliseconds(200)
}

extension SimulatedNode {
  /// Where its relay listens, and from where it dials others' relays.
  var relayPort: UInt16 { port + 10_000 }

  /// Apps of config.json; nobody listens for them here.
  package func setApps(_ apps: [AppDefinition]) throws(TunnelTableError) {
    guard let node else { return }
    _ = try node.replaceApps(apps)
    drain()
  }

  func startRelay() {
    relay = nil
    guard let settings = relaySettings, let node else { return }
    relay = SimulatedRelay(
      RelayNode(
        RelayNodeSettings(
          key: key, token: token, isSuper: settings.isSuper, megabits: settings.megabits,
          seed: world.random.bytes(32))),
      process: process)
    node.setRelay(
      RelayReport(
        isSuper: settings.isSuper, tcpPort: relayPort, udpPort: relayPort,
        kilobits: UInt32((settings.megabits ?? 0) * 1_000), load: 0), now: world.now)
  }

  // MARK: The relay's connections

  /// - Returns: false: it is turned away.
  func relayAccepts(_ number: UInt32, from remote: Endpoint) -> Bool {
    guard let relay else { return false }
    defer { drainRelaySoon() }
    return relay.machine.connectionOpened(number, from: remote, now: world.now)
  }

  func relayReceives(_ number: UInt32, _ bytes: [UInt8]) {
    relay?.machine.receive(connection: number, bytes.span.bytes, now: world.now)
    drainRelaySoon()
  }

  func relayLoses(_ number: UInt32) {
    relay?.blocked.remove(number)
    relay?.machine.connectionClosed(number, now: world.now)
    drainRelaySoon()
  }

  func relayHasRoom(_ number: UInt32) {
    guard let relay, relay.blocked.remove(number) != nil else { return }
    fillRelay(relay, number)
    drainRelaySoon()
  }

  /// Never inside another's drain: the batch is the world's.
  func drainRelaySoon() {
    guard let relay, !relay.isDrainDue else { return }
    relay.isDrainDue = true
    world.after(.microseconds(20)) { _ in
      relay.isDrainDue = false
      guard self.relay === relay else { return }
      guard !self.isSuspended else {
        self.world.after(.milliseconds(100)) { _ in self.drainRelaySoon() }
        return
      }
      self.drainRelay(relay)
    }
  }

  private func drainRelay(_ relay: SimulatedRelay) {
    if relay.machine.nextDeadline <= world.now { relay.machine.advance(to: world.now) }
    while let number = relay.machine.pollReady() { fillRelay(relay, number) }
    sendRelayDatagrams(relay)
    while let event = relay.machine.pollEvent() {
      switch event {
      case .close(let number):
        fillRelay(relay, number)
        relay.machine.connectionClosed(number, now: world.now)
        // What was written before it is still read at the other end.
        world.after(SimulatedRelay.closing) { _ in
          if self.relay === relay { self.closeCarrier(number) }
        }
      case .refused(let reason, _):
        world.note("\(name): relay refuses: \(reason)")
      case .joined(let session):
        world.statistics.relayedSessions += 1
        world.note("\(name): relay joins \(session % 1_000)")
      case .ended(let session, let ending):
        world.note("\(name): relay ends \(session % 1_000): \(ending)")
      }
    }
    let due = max(relay.machine.nextDeadline, world.now + .microseconds(50))
    guard due < .distantFuture, due != relay.wakeAt else { return }
    relay.wakeAt = due
    world.after(due - world.now) { _ in
      guard self.relay === relay, relay.wakeAt == due else { return }
      relay.wakeAt = .distantFuture
      self.drainRelaySoon()
    }
  }

  private func fillRelay(_ relay: SimulatedRelay, _ number: UInt32) {
    guard let id = streamLinks[number], let link = world.streamLinks[id] else { return }
    var hasMore = true
    while hasMore, !relay.blocked.contains(number) {
      world.batch.removeAll()
      let carrier = Carrier.tcp(connection: number, remote: .none)
      world.batch.append(carrier: carrier, limit: SimulatedRelay.fillBytes + 65_542) { output in
        hasMore = relay.machine.fill(
          connection: number, into: &output, budget: SimulatedRelay.fillBytes, now: world.now)
      }
      for segment in world.batch.segments {
        let bytes = world.batch.withSegment(segment) { [UInt8]($0) }
        world.sendStream(link, from: index, number, bytes)
      }
      world.batch.removeAll()
    }
  }

  // MARK: Datagrams

  /// One of its UDP sockets, whatever the family.
  private static var relaySocket: UInt32 { 1 }

  /// - Returns: whether it is for the relay's port.
  func relayTakes(_ datagram: Datagram) -> Bool {
    guard let relay, datagram.destination.port == relayPort else { return false }
    guard relaySettings?.takesDatagrams == true, let first = datagram.bytes.first,
      RelayNode.isRelayDatagram(firstByte: first)
    else { return true }
    relay.machine.receive(
      datagram.bytes.span.bytes,
      from: .udp(socket: Self.relaySocket, remote: datagram.source), now: world.now)
    drainRelaySoon()
    return true
  }

  private func sendRelayDatagrams(_ relay: SimulatedRelay) {
    var hasMore = true
    while hasMore {
      world.batch.removeAll()
      hasMore = relay.machine.pollTransmit(into: world.batch, now: world.now)
      for segment in world.batch.segments {
        let bytes = world.batch.withSegment(segment) { [UInt8]($0) }
        let remote = segment.carrier.remote
        guard let source = addresses.first(where: { $0.isV4 == remote.address.isV4 }) else {
          continue
        }
        world.transmit(Endpoint(source, relayPort), remote, bytes, from: index)
      }
    }
    world.batch.removeAll()
  }

  /// One frame, or more, of ours to a relay.
  func sendDatagram(_ number: UInt32, _ bytes: [UInt8]) {
    guard let leg = relayDatagrams[number],
      let source = addresses.first(where: { $0.isV4 == leg.remote.address.isV4 })
    else { return }
    if !leg.isAnswered,
      let words = watch.sent(
        to: leg.remote.address, bytes: bytes.count,
        isVouchedFor: world.vouched.contains(leg.remote.address), now: world.now)
    {
      world.violation("\(name): \(words)")
    }
    world.transmit(Endpoint(source, port), leg.remote, bytes, from: index)
  }

  /// - Returns: whether it came from a relay of ours.
  func relayLegTakes(_ datagram: Datagram, _ node: Node) -> Bool {
    guard let first = datagram.bytes.first, RelayNode.isRelayDatagram(firstByte: first) else {
      return false
    }
    let number = relayDatagrams.first { $0.value.remote == datagram.source }?.key
    guard let number else { return true }
    relayDatagrams[number]?.isAnswered = true
    takeRelayFrames(number, datagram.bytes, remote: datagram.source, node)
    return true
  }

  // MARK: A node's legs

  func relayLegReceives(_ number: UInt32, _ bytes: [UInt8], remote: Endpoint) {
    guard let node else { return }
    takeRelayFrames(number, bytes, remote: remote, node)
    node.finishReceiving(now: world.now)
    drain()
  }

  private func takeRelayFrames(
    _ number: UInt32, _ bytes: [UInt8], remote: Endpoint, _ node: Node
  ) {
    var bytes = bytes
    var offset = 0
    let count = bytes.count
    while offset < count {
      let frame: CarrierFrame?
      do throws(CarrierFailure) {
        frame = try CarrierFrame(headOf: bytes.span.bytes.extracting(offset..<count))
      } catch {
        frame = nil
      }
      guard let frame, offset + CarrierFrame.headBytes + frame.length <= count else {
        world.violation("\(name): a relay sent a broken frame")
        return
      }
      let start = offset + CarrierFrame.headBytes
      offset = start + frame.length
      switch frame.kind {
      case .data:
        var span = bytes.mutableSpan
        var whole = span.mutableBytes
        var packet = whole._mutatingExtracting(start..<offset)
        node.receive(
          &packet, from: .relay(connection: number, channel: frame.channel, remote: remote),
          now: world.now)
      case .open:
        node.relayReceived(
          connection: number, bytes.span.bytes.extracting(start..<offset), now: world.now)
      case .ping:
        let answer = CarrierFrame.bytes(
          channel: frame.channel, kind: .pong, body: Array(bytes[start..<offset]))
        if relayDatagrams[number] != nil {
          sendDatagram(number, answer)
        } else {
          sendStream(number, answer)
        }
      case .pong:
        node.relayPong(
          connection: number, bytes.span.bytes.extracting(start..<offset), now: world.now)
      case .end, .refuse:
        break
      }
    }
  }

  /// One sealed packet for a leg.
  /// - Returns: whether the connection is one to a node's relay.
  func sendToRelay(_ carrier: Carrier, _ bytes: [UInt8]) -> Bool {
    if relayDatagrams[carrier.socket] != nil {
      sendDatagram(
        carrier.socket,
        CarrierFrame.bytes(channel: carrier.channel, kind: .data, body: bytes))
      return true
    }
    guard let id = streamLinks[carrier.socket], world.streamLinks[id]?.isRelay == true else {
      return false
    }
    sendStream(
      carrier.socket,
      CarrierFrame.bytes(channel: carrier.channel, kind: .data, body: bytes))
    return true
  }
}
