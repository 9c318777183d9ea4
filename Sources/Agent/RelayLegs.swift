/// This agent's connections to relays that other nodes are: one per relay, for
/// all sessions through it. What is said on them is the node's (`RelayGuest`);
/// here are the sockets, the frames and the answer to a PING.
/// docs/protocol/relay.md.

internal import Bytes
internal import Mux
internal import NodeCore
internal import Reactor

final class RelayLegs {
  private unowned let agent: AgentRuntime
  private var legs: [UInt32: RelayLegConnection] = [:]

  /// Unsent bytes beside the kernel's, and the kernel's own: more would only
  /// hide a queue (DESIGN §1.3).
  static let backlog = 64 * 1024

  init(_ agent: AgentRuntime) { self.agent = agent }

  func dial(_ number: UInt32, _ endpoint: Endpoint) {
    var options = StreamOptions()
    options.notSentLowWater = Self.backlog
    options.backlogBytes = 4 << 20
    options.userTimeout = .seconds(30)
    do throws(SystemError) {
      legs[number] = RelayLegConnection(
        agent, self, try StreamConnection.connect(agent.loop, to: endpoint, options: options),
        number: number)
    } catch {
      agent.log.debug("relay at \(endpoint): \(error)")
      agent.node.relayClosed(connection: number, now: agent.loop.now)
    }
  }

  func send(_ number: UInt32, _ frame: [UInt8]) { legs[number]?.send(frame) }

  func close(_ number: UInt32) { legs.removeValue(forKey: number)?.closeWhenFlushed() }

  /// - Returns: whether the connection is one to a node's relay.
  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) -> Bool {
    guard let leg = legs[segment.carrier.socket] else { return false }
    leg.send(batch, segment)
    return true
  }

  func flush() { for leg in legs.values { leg.flush() } }

  func closeAll() {
    for leg in legs.values { leg.closeWhenFlushed() }
    legs.removeAll()
  }

  /// Legs from an address that is gone are dialled anew at once.
  func networkChanged(_ addresses: Set<IPAddress>) {
    for leg in legs.values where addresses.strand(leg.connection.local?.address) { leg.end() }
  }

  fileprivate func forget(_ number: UInt32) { legs[number] = nil }
}

private final class RelayLegConnection: ConnectionDelegate {
  let connection: StreamConnection
  private unowned let agent: AgentRuntime
  private unowned let owner: RelayLegs
  private let number: UInt32
  private var decoder = CarrierDecoder()
  private var isBlocked = false
  private var wrote = false

  init(
    _ agent: AgentRuntime, _ owner: RelayLegs, _ connection: StreamConnection, number: UInt32
  ) {
    self.agent = agent
    self.owner = owner
    self.connection = connection
    self.number = number
    connection.delegate = self
  }

  func connectionOpened(_ connection: StreamConnection) {
    agent.node.relayConnected(connection: number, now: agent.loop.now)
  }

  func connectionReadable(_ connection: StreamConnection) {
    let now = agent.loop.now
    let remote = connection.remote ?? .none
    for _ in 0..<8 {
      var result = ReadResult.wouldBlock
      decoder.append(minimum: 128 * 1024) { result = connection.read(into: &$0) }
      guard case .bytes = result else {
        switch result {
        case .end, .failed: end()
        case .bytes, .wouldBlock: break
        }
        break
      }
      do throws(CarrierFailure) {
        while try decoder.next({ frame, body in
          receive(frame, &body, remote, now: now)
        }) {}
      } catch {
        agent.log.debug("relay: \(error)")
        end()
        break
      }
    }
    agent.node.finishReceiving(now: now)
  }

  private func receive(
    _ frame: CarrierFrame, _ body: inout MutableRawSpan, _ remote: Endpoint, now: Instant
  ) {
    switch frame.kind {
    case .data:
      agent.node.receive(
        &body, from: .relay(connection: number, channel: frame.channel, remote: remote), now: now)
    case .open:
      // Others than on channel 0 a node's relay does not send.
      if frame.channel == 0 {
        agent.node.relayReceived(connection: number, body.bytes, now: now)
      }
    case .ping:
      send(CarrierFrame.bytes(channel: frame.channel, kind: .pong, body: [UInt8](body.bytes)))
    case .end, .refuse, .pong:
      // The end of a channel is told by a state, with a proof.
      break
    }
  }

  func connectionWritable(_ connection: StreamConnection) {
    guard isBlocked else { return }
    isBlocked = false
    agent.node.setConnectionBlocked(number, false)
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    agent.log.debug("relay at \(connection.remote ?? .none): \(error)")
    end()
  }

  func send(_ frame: [UInt8]) { _ = connection.writeAll(frame) }

  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    let head = CarrierFrame.head(channel: segment.carrier.channel, length: segment.count)
    batch.withSegment(segment) { packet in
      // A packet without room is dropped: the session's recovery is for that.
      _ = connection.write(head.span.bytes, packet)
    }
    wrote = true
  }

  func flush() {
    guard wrote else { return }
    wrote = false
    if !isBlocked, connection.backlog > RelayLegs.backlog {
      isBlocked = true
      agent.node.setConnectionBlocked(number, true)
      connection.notify(below: RelayLegs.backlog / 4)
    }
  }

  func closeWhenFlushed() {
    connection.delegate = nil
    connection.closeWhenFlushed()
  }

  fileprivate func end() {
    connection.delegate = nil
    connection.close()
    owner.forget(number)
    agent.node.relayClosed(connection: number, now: agent.loop.now)
  }
}
