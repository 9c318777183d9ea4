/// The sockets that finding out about NATs and getting through them takes
/// beside the agent's own: auxiliary UDP sockets, opened and closed as the node
/// asks, and short TCP connections to the server's STUN ports. It decides
/// nothing; what the packets mean is the node's business.

internal import Bytes
internal import NodeCore
internal import Reactor
internal import STUN

final class NATSockets {
  private unowned let agent: AgentRuntime
  private var sockets: [UInt32: UDPSocket] = [:]
  private var connections: [UInt32: STUNConnection] = [:]

  /// Kernel buffers of an auxiliary socket: most of them carry a packet or two.
  static let bufferBytes: Int32 = 256 * 1024

  init(_ agent: AgentRuntime) { self.agent = agent }

  subscript(number: UInt32) -> UDPSocket? { sockets[number] }

  // MARK: UDP

  func open(first: UInt32, count: Int, isV4: Bool) {
    var options = UDPOptions()
    options.receiveBuffer = Self.bufferBytes
    options.sendBuffer = Self.bufferBytes
    var opened: [NATProbeSocket] = []
    for number in first..<(first + UInt32(count)) {
      do throws(SystemError) {
        let socket = try UDPSocket(
          agent.loop, bind: Endpoint(isV4 ? .anyV4 : .anyV6, 0), number: number, options: options)
        socket.delegate = agent
        sockets[number] = socket
        opened.append(NATProbeSocket(number: number, localPort: socket.local.port))
      } catch {
        agent.log.debug("only \(opened.count) of \(count) UDP sockets: \(error)")
        break
      }
    }
    agent.node.socketsOpened(first: first, opened, now: agent.loop.now)
  }

  func close(_ number: UInt32) { sockets.removeValue(forKey: number)?.close() }

  func closeAll() {
    for socket in sockets.values { socket.close() }
    sockets.removeAll()
    for connection in connections.values { connection.close() }
    connections.removeAll()
  }

  // MARK: TCP

  /// - Parameter fromListeningPort: where TCP from there leaves our NAT is asked.
  func dial(_ number: UInt32, _ endpoint: Endpoint, fromListeningPort: Bool) {
    var options = StreamOptions()
    options.connectTimeout = NATProbeLimits.whole
    if fromListeningPort { options.leave(from: agent.node.settings.port, to: endpoint) }
    do throws(SystemError) {
      connections[number] = STUNConnection(
        agent, self, try StreamConnection.connect(agent.loop, to: endpoint, options: options),
        number: number)
    } catch {
      agent.log.debug("STUN at \(endpoint) by TCP: \(error)")
      agent.node.stunFailed(number, now: agent.loop.now)
    }
  }

  func send(_ number: UInt32, _ bytes: [UInt8]) {
    _ = connections[number]?.connection.write(bytes.span.bytes)
  }

  /// By a reset: the ends of this connection may be wanted again at once.
  func hangUp(_ number: UInt32) { connections.removeValue(forKey: number)?.reset() }

  fileprivate func failed(_ number: UInt32) {
    guard connections.removeValue(forKey: number) != nil else { return }
    agent.node.stunFailed(number, now: agent.loop.now)
  }
}

/// One connection to a STUN port.
private final class STUNConnection: ConnectionDelegate {
  let connection: StreamConnection
  private unowned let agent: AgentRuntime
  private unowned let owner: NATSockets
  private let number: UInt32

  init(
    _ agent: AgentRuntime, _ owner: NATSockets, _ connection: StreamConnection, number: UInt32
  ) {
    self.agent = agent
    self.owner = owner
    self.connection = connection
    self.number = number
    connection.delegate = self
  }

  func close() {
    connection.delegate = nil
    connection.close()
  }

  func reset() {
    connection.delegate = nil
    connection.reset()
  }

  func connectionOpened(_ connection: StreamConnection) {
    agent.node.stunConnected(number, now: agent.loop.now)
  }

  func connectionReadable(_ connection: StreamConnection) {
    let agent = agent
    let number = number
    let result = connection.read(limit: 1024) { bytes in
      agent.node.stunReceived(number, bytes.bytes, now: agent.loop.now)
    }
    switch result {
    case .bytes: break
    case .wouldBlock: break
    case .end, .failed:
      close()
      owner.failed(number)
    }
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    owner.failed(number)
  }
}
