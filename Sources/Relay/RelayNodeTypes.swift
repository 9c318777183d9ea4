/// The bounds, settings, events and records of a relay that a client is
/// (`-relay`, `-super`). The rules are in RelayNode.

#if canImport(Bytes)
  package import Bytes
  package import Crypto
  internal import Mux
#endif

/// Bounds and tunables of a relay node.
package struct RelayNodeLimits: Sendable {
  /// Sessions, whether both legs are there or one.
  package var sessions = 512
  /// Sessions that one node may have a leg of.
  package var sessionsPerNode = 128
  /// TCP connections and UDP sources with a leg, in all.
  package var connections = 1_536
  /// TCP connections that have not been let in yet, in all and per address
  /// (IPv6: per /64).
  package var pending = 256
  package var pendingPerAddress = 16
  /// So long has a connection to be let in.
  package var pendingTime = TimeAmount.seconds(5)
  /// What such a connection may have sent without saying a whole frame.
  package var pendingBytes = 2_048
  /// Sealed requests opened, each two curve operations.
  package var requestsPerSecond = 200.0
  package var requestBurst = 400.0
  /// The same from one address, per second.
  package var requestsPerAddress = 32
  package var countedAddresses = 4_096
  /// Refused requests of one connection, after which it is closed.
  package var refusals = 8
  /// Answers to UDP sources that have not echoed a cookie.
  package var strangerRepliesPerSecond = 1_000.0
  package var strangerReplyBurst = 1_000.0
  /// Answers waiting to be sent to UDP sources.
  package var replies = 1_024
  /// One's own messages waiting on a TCP leg.
  package var messagesPerLeg = 1_024
  /// A cookie holds between one and two of these.
  package var cookieTime = TimeAmount.seconds(60)
  /// A session waits so long for its other leg to come, or to come back.
  package var otherLegTime = TimeAmount.seconds(30)
  package var resumeTime = TimeAmount.seconds(90)
  /// A leg that said nothing for so long is asked, and is gone.
  package var legPing = TimeAmount.seconds(20)
  package var legSilence = TimeAmount.seconds(50)
  /// A state on UDP is repeated after this, doubling, until it is confirmed.
  package var stateRepeat = TimeAmount.milliseconds(200)
  package var stateRepeats = 5
  package var events = 4_096
  package var sweep = TimeAmount.seconds(1)
  /// The largest sealed packet a UDP leg carries: with our head and IPv6's and
  /// UDP's it fills an Ethernet frame. Smaller paths are found end to end.
  package static let largestUDPPacket = 1_445
  /// Bytes of one datagram.
  package static let datagram = largestUDPPacket + CarrierFrame.headBytes

  package init() {}
}

package struct RelayNodeSettings: Sendable {
  /// The node's static key in its mesh.
  package var key: KeyPair
  /// Of its mesh; nil in a permit mesh, where only one-time tokens hold.
  package var token: UInt64?
  /// A relay for every token (`-super`).
  package var isSuper: Bool
  /// `-bw`: Mbit/s relayed in all; 0 = nothing for others, nil = no cap.
  package var megabits: Double?
  /// 32 random bytes.
  package var seed: [UInt8]
  package var limits = RelayNodeLimits()
  package var routerLimits = RelayLimits()

  package init(
    key: KeyPair, token: UInt64?, isSuper: Bool, megabits: Double?, seed: [UInt8]
  ) {
    precondition(seed.count == 32)
    self.key = key
    self.token = token
    self.isSuper = isSuper
    self.megabits = megabits
    self.seed = seed
    // A machine at home has less memory for others than a server.
    routerLimits.queueBytes = 512 << 10
    routerLimits.totalQueueBytes = 32 << 20
  }
}

/// Why a session of a relay is over.
package enum RelaySessionEnding: UInt8, Sendable {
  /// A node left it.
  case left = 1
  /// The other leg never came, or did not come back.
  case otherLegMissing = 2
  /// Nothing was carried for ten minutes.
  case idle = 3
  /// The router had no room for its channel.
  case noChannel = 4
}

package enum RelayNodeEvent: Sendable, Equatable {
  /// Send what `fill` still gives, close it, and say `connectionClosed`.
  case close(connection: UInt32)
  case refused(RelayRefusal, Endpoint)
  /// Both legs of a session are there (again).
  case joined(session: UInt64)
  case ended(session: UInt64, RelaySessionEnding)
}

/// What a relay has let in, sent away and dropped.
package struct RelayNodeStatistics: Sendable, Equatable {
  package var accepted: UInt64 = 0
  package var resumed: UInt64 = 0
  /// By `RelayRefusal`'s number.
  package var refused = [UInt64](repeating: 0, count: RelayRefusal.allCases.count + 1)
  /// TCP connections turned away at the door.
  package var turnedAway: UInt64 = 0
  /// Frames that break the rules of a leg.
  package var malformed: UInt64 = 0
  /// Datagrams from sources that have no leg, other than requests.
  package var strangers: UInt64 = 0
  package var cookiesSent: UInt64 = 0
  /// Answers that were not sent: too many just then.
  package var repliesDropped: UInt64 = 0
  package var requestsDropped: UInt64 = 0
  package var eventsDropped: UInt64 = 0
}

/// Where datagrams of one UDP leg come from.
struct RelaySource: Hashable {
  let socket: UInt32
  let remote: Endpoint
}

/// A TCP connection, or a UDP source with a leg.
final class RelayConnection {
  let id: UInt32
  let kind: LegKind
  /// TCP: where it comes from. UDP: where it is now.
  var source: RelaySource
  let opened: Instant
  var heard: Instant
  var pinged: Instant
  /// The one node whose legs it carries; nil while nobody was let in.
  var owner: [UInt8]?
  var decoder = CarrierDecoder()
  /// Our own frames, for TCP; UDP's go to the common queue.
  var messages: [[UInt8]] = []
  /// The newest PING not yet answered.
  var pong: [UInt8]?
  var legs: [UInt64] = []
  /// Since when it carries none, as the sweep saw it.
  var emptySince: Instant?
  /// States on it that nothing confirmed yet.
  var unconfirmed = 0
  var refusals = 0
  var isClosing = false

  init(id: UInt32, kind: LegKind, source: RelaySource, now: Instant) {
    self.id = id
    self.kind = kind
    self.source = source
    opened = now
    heard = now
    pinged = now
  }
}

/// One node's end of a session.
struct RelaySessionLeg {
  let id: UInt64
  let secret: [UInt8]
  /// Of the request that made it: a repeat of it is answered, not judged.
  let ephemeral: [UInt8]
  /// Nil: it is not there just now.
  var connection: UInt32?
  var lostAt: Instant
  var counter: UInt64 = 0
  var stateNumber: UInt32 = 0
  /// Repeats of the newest state that are left, and when.
  var repeats = 0
  var repeatAt = Instant.distantFuture
}

/// Two nodes and what joins them.
final class RelaySession {
  let number: UInt64
  /// The router's name for its share of the cap.
  let share: UInt32
  let isOneTime: Bool
  let keys: [[UInt8]]
  var legs: [RelaySessionLeg?] = [nil, nil]
  var channel: OpenedChannel?

  init(number: UInt64, share: UInt32, isOneTime: Bool, keys: [[UInt8]]) {
    self.number = number
    self.share = share
    self.isOneTime = isOneTime
    self.keys = keys
  }
}
