/// Every number of the session layer. The first half is WireGuard's and may not
/// be changed without losing interoperation (whitepaper §5.4, §6); the second
/// half is ours (DESIGN §1.1).

#if canImport(Bytes)
  package import Bytes
#endif

/// Constants of the WireGuard protocol.
package enum WireGuardConstants {
  package static let rekeyAfterTime = TimeAmount.seconds(120)
  package static let rejectAfterTime = TimeAmount.seconds(180)
  package static let rekeyAttemptTime = TimeAmount.seconds(90)
  package static let rekeyTimeout = TimeAmount.seconds(5)
  package static let keepaliveTimeout = TimeAmount.seconds(10)
  package static let rekeyAfterMessages: UInt64 = 1 << 60
  package static let rejectAfterMessages: UInt64 = .max - (1 << 13)
  package static let cookieLifetime = TimeAmount.seconds(120)
  package static let paddingMultiple = 16
  /// Random addition to a stock peer's retry, so that two ends do not march in step.
  package static let largestJitterMilliseconds: Int64 = 333
}

/// Our own limits and tunables.
package enum SessionLimits {
  package static let localKeys = 16
  package static let peers = 16_384
  package static let outbox = 4_096
  package static let events = 16_384

  // Initiations between agents.
  package static let firstRepeat = TimeAmount.milliseconds(100)
  package static let initiationLifetime = TimeAmount.seconds(5)
  package static let initiationGap = TimeAmount.seconds(1)
  /// Least time between two stamps sent to one peer; stamps are rounded down to
  /// 2^24 ns so that they tell little about the clock.
  package static let stampStep: UInt64 = 17_000_000
  package static let stampCeilingAhead: UInt64 = 3_600_000_000_000
  /// A good initiation with an old stamp makes us initiate at most this often.
  package static let staleReplyGap = TimeAmount.seconds(5)

  // Answers.
  package static let answersToRepeats = 10
  package static let answerLifetime = TimeAmount.seconds(10)
  package static let acceptGap = TimeAmount.milliseconds(20)
  package static let parkedInitiations = 16
  package static let parkedPerSource = 4
  package static let parkedTime = TimeAmount.seconds(2)
  package static let cookiesPerPeer = 8

  // Cost of handshakes in curve operations; 76 µs each on the machine measured.
  package static let calmOperationsPerSecond = 1_000.0
  package static let calmOperationsBurst = 1_000.0
  /// With a proven source, while under load.
  package static let loadedOperationsPerSecond = 2_000.0
  package static let loadedOperationsBurst = 400.0
  package static let operationsPerInitiation = 4.0
  package static let operationsPerResponse = 2.0
  package static let loadLinger = TimeAmount.seconds(1)
  package static let initiationsPerSourcePerSecond = 20.0
  package static let initiationsPerSourceBurst = 5.0
  package static let sources = 1_024

  // Keypairs.
  package static let sealingTime = TimeAmount.seconds(165)
  /// The responder's turn to rekey comes this much later (agents).
  package static let responderRekeyDelay = TimeAmount.seconds(10)
  /// Two keypairs born within this time may be two ends' crossing initiations.
  package static let crossingTime = TimeAmount.seconds(5)
  /// How long a preferred keypair may be silent while its partner is heard.
  package static let crossingSilence = TimeAmount.seconds(3)
  /// Replay windows in bits; 64 of them are the ring's spare word.
  package static let narrowWindow = 8_192
  package static let wideWindow = 65_536
}
