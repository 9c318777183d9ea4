/// What moves a datagram between two agents, as a value small enough to be
/// copied with every packet. A carrier is named by what the driver needs to
/// use it; nothing here says whether it works (that is a path, DESIGN §1).

/// The name of one carrier. Sockets and connections are the driver's numbers
/// and are never reused within a process.
public struct Carrier: Hashable, Sendable, BitwiseCopyable {
  public enum Kind: UInt8, Sendable, BitwiseCopyable {
    /// A local UDP socket and a remote endpoint.
    case udp = 1
    /// A TCP connection between the two agents.
    case tcp = 2
    /// A channel inside a connection to a relay (the server is one).
    case relay = 3
  }

  public var kind: Kind
  /// UDP: the local socket. TCP and relay: the connection.
  public var socket: UInt32
  /// Relay: the channel on that connection, never 0. Otherwise 0.
  public var channel: UInt32
  /// UDP: the far endpoint. Otherwise, where known, for display only.
  public var remote: Endpoint

  @inlinable init(kind: Kind, socket: UInt32, channel: UInt32, remote: Endpoint) {
    self.kind = kind
    self.socket = socket
    self.channel = channel
    self.remote = remote
  }
  @inlinable public static func udp(socket: UInt32, remote: Endpoint) -> Carrier {
    Carrier(kind: .udp, socket: socket, channel: 0, remote: remote)
  }
  @inlinable public static func tcp(connection: UInt32, remote: Endpoint) -> Carrier {
    Carrier(kind: .tcp, socket: connection, channel: 0, remote: remote)
  }
  @inlinable public static func relay(
    connection: UInt32, channel: UInt32, remote: Endpoint
  ) -> Carrier {
    Carrier(kind: .relay, socket: connection, channel: channel, remote: remote)
  }
}

extension Carrier: CustomStringConvertible {
  public var description: String {
    switch kind {
    case .udp: "udp \(remote)"
    case .tcp: "tcp \(remote)"
    case .relay: "relay \(remote) channel \(channel)"
    }
  }
}
