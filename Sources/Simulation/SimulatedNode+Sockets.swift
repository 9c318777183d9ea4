/// The UDP sockets of an agent's process, and how the rest of the world sees
/// the machine: which socket gets what, behind which router it is.

#if canImport(Bytes)
  package import Bytes
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
