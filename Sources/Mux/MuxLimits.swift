/// Every bound and tunable of the multiplexer by name, apart from the
/// constants of the specifications. The first group is part of the protocol
/// (docs/protocol/mux.md) and must be equal on both sides; the second is ours.

#if canImport(Bytes)
package import Bytes
#endif

/// Figures both sides must agree on.
package enum MuxProtocol {
  package static let packetType: UInt8 = 0x01
  /// type | lane | number
  package static let packetHead = 8
  /// StreamID | Flags | Length
  package static let frameHead = 7
  /// Credit each side has for each stream before any CREDIT came.
  package static let initialStreamCredit = 65_536
  /// Credit each side has for the session before any CREDIT came.
  package static let initialSessionCredit = 1 << 20
  /// An id further than this above the watermark closes the session.
  package static let streamDistance: UInt32 = 65_536
  /// Fits one packet of the smallest path (548 bytes of UDP payload).
  package static let requestBytes = 480
  package static let wordsBytes = 256
  package static let maximumPacket = 65_488
  package static let datagramBytes = 65_507
  package static let ackRanges = 32
}

/// What one multiplexer may use.
package struct MuxLimits: Sendable {
  /// Streams of either side alive at once.
  package var streams = 16_384
  /// The largest credit window a stream and the session grow to, in bytes.
  package var streamWindow = 16 << 20
  package var sessionWindow = 64 << 20
  /// The largest send buffer of a stream, in bytes.
  package var sendBuffer = 16 << 20
  /// Send and receive buffers together, in bytes; windows stop growing at half.
  package var memory = 192 << 20
  /// Unread datagrams of a stream and of the session, in bytes.
  package var datagramQueue = 256 << 10
  package var sessionDatagramQueue = 1 << 20
  /// Datagrams waiting to be sent, in bytes, and how long they may wait.
  package var datagramSendQueue = 1 << 20
  package var datagramAge: TimeAmount = .milliseconds(500)
  /// Datagrams being put together.
  package var reassemblies = 64
  package var reassemblyBytes = 1 << 20
  package var reassemblyAge: TimeAmount = .seconds(2)
  /// Packets of a lane whose fate is unknown.
  package var packetsInFlight = 65_536
  /// The controller of datagram lanes added from now on.
  package var congestion: CongestionAlgorithm = .cubic
  /// For tests only: ids of both sides begin near this one instead of at 1 and 2.
  package var firstStream: UInt32 = 0
  /// For mutation checks only.
  package var mutations: MuxMutations = []

  package init() {}
}
