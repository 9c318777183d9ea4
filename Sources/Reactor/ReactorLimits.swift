// Every limit of the event loops and sockets, in one place.

package import Bytes

package enum ReactorLimits {
  /// Readiness events taken from the kernel at once.
  package static let eventsPerBatch = 256
  /// Rounds of posted jobs run before the loop looks at its descriptors again.
  static let jobRoundsPerBatch = 16

  /// (Coalesced) datagrams received by one system call.
  static let datagramsPerReceive: UInt32 = 16
  /// System calls per readiness event of one socket, so that others get a turn.
  static let receivesPerEvent = 4
  /// Segments the kernel cuts one message into.
  package static let segmentsPerSend = 64
  /// Bytes of one UDP message (65,535 less the IPv4 and UDP headers).
  package static let bytesPerDatagram = 65_507
  /// Bytes kept when the kernel takes no more datagrams; beyond it they are dropped.
  package static let datagramBacklogBytes = 256 * 1024
  static let datagramBacklogCount = 512
  /// Entries read from a socket's error queue per event.
  static let errorsPerEvent = 64
  package static let udpReceiveBuffer: Int32 = 8 * 1024 * 1024
  package static let udpSendBuffer: Int32 = 4 * 1024 * 1024

  /// Connections accepted per readiness event.
  package static let acceptsPerEvent = 64
  package static let listenBacklog: Int32 = 1024
  /// Bytes a connection keeps for writing unless told otherwise.
  package static let streamBacklogBytes = 1024 * 1024
  /// A connection's write memory is given back when empty and larger than this.
  static let idleRingBytes = 256 * 1024
  /// The loop's shared read buffer.
  package static let readBufferBytes = 256 * 1024
  package static let connectTimeout = TimeAmount.seconds(15)
  /// A connection that was reset while its reader pauses is kept so long for
  /// what it had received; then it fails.
  package static let brokenUnread = TimeAmount.seconds(5)
  /// A listener that ran out of descriptors rests this long.
  static let acceptPause = TimeAmount.milliseconds(100)

  /// Jobs waiting for one worker thread.
  package static let workerQueue = 1024
  package static let lookupTimeout = TimeAmount.seconds(8)
  package static let lookupQueue = 64
  package static let lookupThreads = 2
  package static let addressesPerName = 16
  package static let hostNameBytes = 253

  package static let interfaceEntries = 512
  package static let gateways = 8
}
