/// The bounds and tunables of the router of channels, and the figures it takes
/// from specifications. Nothing here grows with traffic.

#if canImport(Bytes)
  package import Bytes
#endif

/// Figures that other documents fix.
package enum RelaySpecification {
  /// RFC 8289 §4.2: tolerated standing delay. DESIGN §1.3 says 10 ms.
  package static let target = TimeAmount.milliseconds(10)
  /// RFC 8289 §4.3: a round trip of the worst ordinary path.
  package static let interval = TimeAmount.milliseconds(100)
  /// The 7-byte mux header of INP2P.
  package static let headSize = 7
  /// The largest packet a frame's 16-bit length can name.
  package static let largestPacket = 65_535
}

/// Tunables of a router. The defaults are those of the server.
package struct RelayLimits: Sendable {
  /// Connections that carry channels.
  package var legs = 8_192
  /// Channels of one connection.
  package var channelsPerLeg = 4_096
  /// Channels in all.
  package var channels = 65_536
  /// Memory of one direction of one channel, bytes (a power of two).
  package var queueBytes = 1 << 20
  /// Memory of all queues, bytes.
  package var totalQueueBytes = 128 << 20
  /// Bytes a channel gets in its turn, before those it was short of last time.
  package var quantum = 4_096
  /// A packet that waited longer was given up by its sender long ago.
  package var maximumAge = TimeAmount.seconds(1)
  /// A channel that carried nothing for so long is closed.
  package var idleTime = TimeAmount.minutes(10)
  /// Control frames waiting for one connection.
  package var controlFrames = 8_192
  /// Malformed frames and frames for channels that never were, per connection,
  /// after which it is given up.
  package var violationsPerLeg = 64

  package init() {}
}
