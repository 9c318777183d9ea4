/// Direct TCP connections between agents as carriers: the 7-byte frames of
/// docs/protocol/carrier.md on channel 0, one sealed packet each. It listens at
/// the agent's port and dials from it, so that what the server's STUN port sees
/// of that port holds for peers as well, and two that dial each other at one
/// moment get one connection. Who is at the other end only the session knows.
/// DESIGN §1.2, §2.

internal import Bytes
internal import Mux
internal import NodeCore
internal import Reactor

extension StreamOptions {
  /// From a port that is listened at.
  mutating func leave(from port: UInt16, to remote: Endpoint) {
    source = Endpoint(remote.address.isV4 ? .anyV4 : .anyV6, port)
    reuseAddress = true
    reusePort = true
  }
}

final class CarrierConnections: FrameConnectionOwner {
  private unowned let agent: AgentRuntime
  private var listeners: [StreamListener] = []
  private var connections: [UInt32: FrameConnection] = [:]
  /// Of them, those of which the node waits to hear that they are there.
  private var dialled: Set<UInt32> = []
  /// Accepted ones are odd; the node numbers what it dials.
  private var lastAccepted: UInt32 = 1 << 24 | 1

  /// Unsent bytes of one connection beside the kernel's; the kernel keeps none
  /// unsent beyond its low-water mark (DESIGN §1.3).
  static let backlog = 256 * 1024
  static let notSentLowWater = 128 * 1024
  /// Sent bytes unacknowledged for so long end a connection.
  static let userTimeout = TimeAmount.seconds(30)
  static let listenBacklog: Int32 = 64
  static let connectTimeout = TimeAmount.minutes(3)

  init(_ agent: AgentRuntime, _ listeners: [StreamListener], _ door: Door) {
    self.agent = agent
    self.listeners = listeners
    door.carriers = self
  }

  /// Who takes what the listeners accept; they are there before the agent is.
  final class Door {
    weak var carriers: CarrierConnections?

    fileprivate func enter(_ connection: StreamConnection) {
      if let carriers { carriers.accept(connection) } else { connection.close() }
    }
  }

  /// Listens at `port`, IPv4 and, where there is any, IPv6.
  static func listen(
    _ loop: EventLoop, port: UInt16, _ door: Door
  ) throws(SystemError) -> [StreamListener] {
    let v4 = try StreamListener(
      loop, on: Endpoint(.anyV4, port), backlog: listenBacklog, options: options
    ) { door.enter($0) }
    do throws(SystemError) {
      let v6 = try StreamListener(
        loop, on: Endpoint(.anyV6, port), backlog: listenBacklog, options: options
      ) { door.enter($0) }
      return [v4, v6]
    } catch {
      // No IPv6 on this machine is fine; a port that is taken is not.
      guard error.isAddressInUse else { return [v4] }
      v4.close()
      throw error
    }
  }

  private static var options: StreamOptions {
    var options = StreamOptions()
    options.notSentLowWater = notSentLowWater
    options.backlogBytes = 4 << 20
    options.userTimeout = userTimeout
    options.reusePort = true
    return options
  }

  func dial(_ number: UInt32, _ endpoint: Endpoint) {
    var options = Self.options
    options.leave(from: agent.node.settings.port, to: endpoint)
    // The node ends attempts.
    options.connectTimeout = Self.connectTimeout
    do throws(SystemError) {
      adopt(try StreamConnection.connect(agent.loop, to: endpoint, options: options), number)
      dialled.insert(number)
    } catch {
      agent.log.debug("TCP to \(endpoint): \(error)")
      agent.node.carrierClosed(connection: number, now: agent.loop.now)
    }
  }

  func accept(_ connection: StreamConnection) {
    guard let remote = connection.remote else { return connection.close() }
    lastAccepted &+= 2
    let number = lastAccepted
    adopt(connection, number)
    agent.node.carrierAccepted(connection: number, remote: remote, now: agent.loop.now)
  }

  private func adopt(_ connection: StreamConnection, _ number: UInt32) {
    connections[number] = FrameConnection(
      agent, self, connection, number: number, name: "carrier", backlog: Self.backlog)
  }

  /// By a reset: its ends may be wanted again at once.
  func close(_ number: UInt32) {
    dialled.remove(number)
    connections.removeValue(forKey: number)?.reset()
  }

  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    connections[segment.carrier.socket]?.send(batch, segment)
  }

  func flush() { for connection in connections.values { connection.flush() } }

  /// What leaves from an address that is gone hears nothing any more, not even
  /// its end: that is said now, and not found out by silence.
  func networkChanged(_ addresses: Set<IPAddress>) {
    for connection in connections.values { connection.endWhenStranded(addresses) }
  }

  func close() {
    for listener in listeners { listener.close() }
    for connection in connections.values { connection.close() }
    connections.removeAll()
    dialled.removeAll()
  }

  // MARK: FrameConnectionOwner

  func opened(_ connection: FrameConnection) {
    guard dialled.remove(connection.number) != nil, let remote = connection.remote else { return }
    agent.node.carrierDialed(connection: connection.number, remote: remote, now: agent.loop.now)
  }

  /// One sealed packet a frame; others end nothing and mean nothing here.
  func receive(
    _ frame: CarrierFrame, _ body: inout MutableRawSpan, from connection: FrameConnection,
    now: Instant
  ) {
    guard frame.kind == .data else { return }
    agent.node.receive(
      &body, from: .tcp(connection: connection.number, remote: connection.remote ?? .none),
      now: now)
  }

  func ended(_ connection: FrameConnection) {
    connections[connection.number] = nil
    dialled.remove(connection.number)
    agent.node.carrierClosed(connection: connection.number, now: agent.loop.now)
  }
}
