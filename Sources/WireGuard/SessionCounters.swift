/// What is counted: packets that were dropped, by reason, and what went through
/// a peer. A drop is never thrown and never answered with an error.

/// Why a packet was dropped.
package enum SessionDrop: UInt8, CaseIterable, Sendable {
  /// Shorter than its type needs, or longer than a fixed-size message.
  case badLength
  case unknownType
  /// mac1 fits none of our keys: not meant for us, or garbage.
  case badMac1
  /// Decryption or a curve operation failed.
  case notAuthentic
  /// No handshake or keypair has that receiver index.
  case unknownIndex
  /// A response for a handshake that is complete already.
  case duplicateResponse
  /// Counter seen before, or older than the replay window.
  case replayed
  /// Keypair past its time or message limit.
  case expired
  /// A good initiation whose stamp is not newer than the last.
  case staleStamp
  /// A copy of an initiation answered long ago, or replaced.
  case staleRepeat
  /// A repeat beyond those that are answered.
  case repeatLimit
  /// Two initiations of one peer within 20 ms.
  case flood
  /// Under load and no valid mac2: a cookie was sent instead.
  case cookieRequired
  /// Under load and over the limit of the source or of the machine.
  case overloaded
  /// An unknown initiator and no room to let it wait.
  case parkingFull
  /// An initiation that waited for its peer to become known, in vain.
  case parkedExpired
  /// A cookie for a message we did not send, or a forged one.
  case badCookie
  /// Our own queue towards the driver was full.
  case outboxFull
  case eventsFull
}

/// Drops by reason since start.
package struct SessionDropCounters: Sendable {
  private var counts = InlineArray<24, UInt64>(repeating: 0)

  package init() {}

  package subscript(_ reason: SessionDrop) -> UInt64 { counts[Int(reason.rawValue)] }

  /// The sum over all reasons.
  package var total: UInt64 {
    SessionDrop.allCases.reduce(0) { $0 + self[$1] }
  }

  mutating func count(_ reason: SessionDrop) { counts[Int(reason.rawValue)] &+= 1 }
}

/// What one peer's keypairs have moved, and how its handshakes fared.
package struct PeerCounters: Sendable, Equatable {
  package var sealedPackets: UInt64 = 0
  /// Bytes of whole packets, header and tag included.
  package var sealedBytes: UInt64 = 0
  package var openedPackets: UInt64 = 0
  package var openedBytes: UInt64 = 0
  package var initiationsBuilt: UInt64 = 0
  package var initiationsAnswered: UInt64 = 0
  package var handshakesCompleted: UInt64 = 0
  package var staleInitiations: UInt64 = 0

  package init() {}
}
