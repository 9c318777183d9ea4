/// The UDP sockets of an agent's process, and how the rest of the world sees
/// the machine: which socket gets what, behind which router it is.

#if canImport(Bytes)
  package import Bytes
  internal import NAT
  internal import NodeCore
  internal import STUN
#endif

extension SimulatedNode {
  /// Opens one more UDP socket, for both families.
  /// - Parameters:
  ///   - number: not used before in this process, and none of the first two.
  ///   - port: nil: any free one.
  /// - Returns: its local port.
  @discardableResult
  package func openSocket(number: UInt32, port wanted: UInt16? = nil) -> UInt16 {
    precondition(port(of: number) == nil)
    var port = wanted ?? .random(in: Self.ephemeralPorts, using: &world.random)
    while port == self.port || sockets.values.contains(port) {
      port = .random(in: Self.ephemeralPorts, using: &world.random)
    }
    sockets[number] = port
    return port
  }

  /// What waits in it is lost.
  package func closeSocket(number: UInt32) { sockets[number] = nil }

  /// The local port of a socket; nil when there is none.
  package func port(of socket: UInt32) -> UInt16? {
    socket == Self.socketV4 || socket == Self.socketV6 ? port : sockets[socket]
  }

  /// The socket that gets what is sent to a local endpoint.
  func socket(of local: Endpoint) -> UInt32? {
    if local.port == port { return local.address.isV4 ? Self.socketV4 : Self.socketV6 }
    return sockets.first { $0.value == local.port }?.key
  }

  /// Where the server sees it, by the address it prefers.
  package var seenAddress: IPAddress? {
    addresses.first.map { world.network.outsideAddress(of: $0, in: home) }
  }

  /// The site it is in; nil: directly in the internet.
  package var home: Site? { world.network.home(of: index) }
}

// MARK: What the node asks for

extension SimulatedNode {
  /// To a STUN port and back, by TCP.
  static let stunRoundTrip = TimeAmount.milliseconds(40)

  func setSTUNServers() {
    let ports = SimulatedServer.datagramPorts
    node?.setSTUNServers(
      [SimulatedServer.endpoint.address, SimulatedServer.addressV6].map {
        NATProbeServer($0, udp1: ports[0], udp2: ports[1], tcp: [27_180, 27_181])
      }, now: world.now)
  }

  /// A router of its home says where its TCP port can be reached; nil: no more.
  package func portOpened(_ outside: Endpoint?) {
    tell { $0.setStreamPortMapping(outside, now: $1) }
  }

  func openSockets(first: UInt32, count: Int) {
    let opened = (first..<(first + UInt32(count))).map {
      NATProbeSocket(number: $0, localPort: openSocket(number: $0))
    }
    node?.socketsOpened(first: first, opened, now: world.now)
  }

  func dialSTUN(_ connection: UInt32, _ endpoint: Endpoint) {
    // Closed by a firewall: nothing comes back, and the node's own timer ends it.
    guard home?.kind.tcpPorts?.contains(endpoint.port) ?? true else { return }
    stunStreams[connection] = endpoint
    later { node, now in node.stunConnected(connection, now: now) }
  }

  func sendSTUN(_ connection: UInt32, _ bytes: [UInt8]) {
    guard let endpoint = stunStreams[connection], let seenAddress else { return }
    var source = Endpoint(seenAddress, .random(in: Self.ephemeralPorts, using: &world.random))
    if stunFromListening.contains(connection) {
      guard let seen = world.streamSource(of: self, port: port, to: endpoint) else { return }
      source = seen
    }
    guard let answer = world.server.answerStream(bytes, from: source, at: endpoint.port) else {
      return
    }
    later { node, now in node.stunReceived(connection, answer.span.bytes, now: now) }
  }

  private func later(_ body: @escaping (Node, Instant) -> Void) {
    let process = process
    let index = index
    world.after(Self.stunRoundTrip) { world in
      let machine = world.nodes[index]
      guard machine.process == process, let node = machine.node, !machine.isSuspended else {
        return
      }
      body(node, world.now)
      machine.drain()
    }
  }
}
