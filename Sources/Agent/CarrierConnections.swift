/// Direct TCP connections between agents as carriers: the 7-byte frames of
/// docs/protocol/carrier.md on channel 0, one sealed packet each. Who is at the
/// other end only the session knows. A test hook (`MARTLET_TEST_TCP_CARRIER=1`)
/// until the TCP tiers are built; benchmarks measure the carrier with it.

internal import Bytes
internal import Mux
internal import NodeCore
internal import Reactor

final class CarrierConnections {
  private unowned let agent: AgentRuntime
  private var listener: StreamListener?
  private var connections: [UInt32: CarrierConnection] = [:]
  private var lastNumber: UInt32 = 1_000_000

  /// Unsent bytes of one connection beside the kernel's; the kernel keeps none
  /// unsent beyond its low-water mark (DESIGN §1.3).
  static let backlog = 256 * 1024
  static let notSentLowWater = 128 * 1024

  init(_ agent: AgentRuntime, port: UInt16) throws(SystemError) {
    self.agent = agent
    listener = try StreamListener(
      agent.loop, on: Endpoint(.anyV4, port), options: Self.options
    ) { [weak self] connection in self?.adopt(connection, peer: nil) }
  }

  private static var options: StreamOptions {
    var options = StreamOptions()
    options.notSentLowWater = notSentLowWater
    options.backlogBytes = 4 << 20
    return options
  }

  func dial(_ peer: String, _ endpoint: Endpoint) {
    do throws(SystemError) {
      adopt(
        try StreamConnection.connect(agent.loop, to: endpoint, options: Self.options), peer: peer)
    } catch {
      agent.log.debug("carrier to \(peer) at \(endpoint): \(error)")
    }
  }

  private func adopt(_ connection: StreamConnection, peer: String?) {
    lastNumber += 1
    let carrier = CarrierConnection(agent, self, connection, number: lastNumber, peer: peer)
    connections[lastNumber] = carrier
  }

  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    connections[segment.carrier.socket]?.send(batch, segment)
  }

  func flush() { for connection in connections.values { connection.flush() } }

  func forget(_ number: UInt32) { connections[number] = nil }

  func close() {
    listener?.close()
    for connection in connections.values { connection.connection.close() }
    connections.removeAll()
  }
}

final class CarrierConnection: ConnectionDelegate {
  let connection: StreamConnection
  private unowned let agent: AgentRuntime
  private unowned let owner: CarrierConnections
  private let number: UInt32
  private let peer: String?
  private var decoder = CarrierDecoder()
  private var isBlocked = false
  private var wrote = false

  init(
    _ agent: AgentRuntime, _ owner: CarrierConnections, _ connection: StreamConnection,
    number: UInt32, peer: String?
  ) {
    self.agent = agent
    self.owner = owner
    self.connection = connection
    self.number = number
    self.peer = peer
    connection.delegate = self
  }

  func connectionOpened(_ connection: StreamConnection) {
    guard let peer, let remote = connection.remote else { return }
    agent.node.carrierDialed(peer, connection: number, remote: remote, now: agent.loop.now)
  }

  func connectionReadable(_ connection: StreamConnection) {
    let carrier = Carrier.tcp(connection: number, remote: connection.remote ?? .none)
    let now = agent.loop.now
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
          if frame.kind == .data { agent.node.receive(&body, from: carrier, now: now) }
        }) {}
      } catch {
        agent.log.debug("carrier: \(error)")
        end()
        break
      }
    }
    agent.node.finishReceiving(now: now)
  }

  func connectionWritable(_ connection: StreamConnection) {
    guard isBlocked else { return }
    isBlocked = false
    agent.node.setConnectionBlocked(number, false)
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { end() }

  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    let head = CarrierFrame.bytes(channel: 0, length: segment.count)
    batch.withSegment(segment) { packet in
      // A packet without room is dropped: the session's recovery is for that.
      _ = connection.write(head.span.bytes, packet)
    }
    wrote = true
  }

  func flush() {
    guard wrote else { return }
    wrote = false
    if !isBlocked, connection.backlog > CarrierConnections.backlog {
      isBlocked = true
      agent.node.setConnectionBlocked(number, true)
      connection.notify(below: CarrierConnections.backlog / 4)
    }
  }

  private func end() {
    connection.close()
    owner.forget(number)
    agent.node.carrierClosed(connection: number, now: agent.loop.now)
  }
}

extension CarrierFrame {
  /// The head of a data frame.
  fileprivate static func bytes(channel: UInt32, length: Int) -> InlineArray<7, UInt8> {
    [
      UInt8(truncatingIfNeeded: channel >> 24), UInt8(truncatingIfNeeded: channel >> 16),
      UInt8(truncatingIfNeeded: channel >> 8), UInt8(truncatingIfNeeded: channel),
      Kind.data.rawValue, UInt8(truncatingIfNeeded: length >> 8),
      UInt8(truncatingIfNeeded: length),
    ]
  }
}
