/// What goes into a NAT probe and what comes out of it, as values; its limits
/// and figures. docs/protocol/stun.md "Finding out".

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// A UDP socket of the driver, bound for the family that is probed.
package struct NATProbeSocket: Hashable, Sendable {
  /// The driver's number, as in `Carrier.socket`.
  package var number: UInt32
  package var localPort: UInt16

  package init(number: UInt32, localPort: UInt16) {
    self.number = number
    self.localPort = localPort
  }
}

/// A STUN server: one address, two UDP ports, perhaps TCP ports.
package struct NATProbeServer: Hashable, Sendable {
  package var address: IPAddress
  package var udp1: UInt16
  package var udp2: UInt16
  /// At most two; empty: TCP is never asked.
  package var tcp: [UInt16]

  package init(_ address: IPAddress, udp1: UInt16, udp2: UInt16, tcp: [UInt16] = []) {
    self.address = address
    self.udp1 = udp1
    self.udp2 = udp2
    self.tcp = Array(tcp.prefix(2))
  }
}

/// What one probe is about: one server, so one address family.
package struct NATProbeSettings: Sendable {
  package var server: NATProbeServer
  /// The socket whose mapping is wanted.
  package var main: NATProbeSocket
  /// Two or three sockets that have sent nothing to the server before, best
  /// opened for this probe and closed after it. With none, filtering, hairpin
  /// and step stay unknown.
  package var auxiliary: [NATProbeSocket]
  /// Addresses of this machine, of the server's family.
  package var localAddresses: [IPAddress]

  package init(
    server: NATProbeServer, main: NATProbeSocket, auxiliary: [NATProbeSocket],
    localAddresses: [IPAddress]
  ) {
    self.server = server
    self.main = main
    self.auxiliary = Array(auxiliary.prefix(NATProbeLimits.auxiliarySockets))
    self.localAddresses = localAddresses
  }
}

/// A datagram to be sent from one of the sockets.
package struct NATProbeTransmit: Equatable, Sendable {
  package var socket: UInt32
  package var destination: Endpoint
  package var bytes: [UInt8]
  /// IP time to live; 0 = the usual one.
  package var timeToLive: UInt8 = 0
}

/// One mapping seen.
package struct NATObservation: Hashable, Sendable {
  package var socket: UInt32
  /// Whom it was for.
  package var server: Endpoint
  package var mapped: Endpoint
}

/// What a probe found out.
package struct NATProbeReport: Equatable, Sendable {
  package var facts = NATFacts()
  /// The main socket's outside endpoint as the first server port saw it, else
  /// the second: the server-reflexive candidate.
  package var mapped: Endpoint?
  package var roundTrip: TimeAmount?
  /// A server answered over UDP.
  package var heardUDP = false
  /// A server answered over TCP (asked only while UDP is silent).
  package var heardTCP = false
  /// Where the TCP ports saw us, in the order of the ports.
  package var tcpMapped: [Endpoint] = []
  /// The server's second address, when it answered: mapping and filtering are
  /// then told by address and by port. Without it, "address-dependent" filtering
  /// behind a NAT means: at least that open.
  package var otherServer: Endpoint?
  /// How far our own NATs reach; nil: it was not measured (UDP is silent, no
  /// auxiliary sockets).
  package var hops: HopReport?
  /// Every mapping seen, in the order asked.
  package var observations: [NATObservation] = []

  package init() {}
}

/// What asking for the mapping again has shown.
package struct NATRefresh: Equatable, Sendable {
  package enum Outcome: UInt8, Sendable {
    case same
    /// The outside endpoint is another one.
    case moved
    /// Nobody answered.
    case silent
  }
  package var outcome: Outcome
  /// The outside endpoint now; nil when silent.
  package var mapped: Endpoint?
  /// The outside address, or the kind of mapping, is another: facts are stale.
  package var wantsProbe: Bool

  package init(outcome: Outcome, mapped: Endpoint?, wantsProbe: Bool) {
    self.outcome = outcome
    self.mapped = mapped
    self.wantsProbe = wantsProbe
  }
}

/// What a probe has to say.
package enum NATProbeEvent: Equatable, Sendable {
  /// The main socket's outside endpoint, as soon as one server port has told it
  /// and whenever a refresh finds another.
  case mapped(Endpoint, roundTrip: TimeAmount?)
  /// Open a TCP connection; tell `connected` or `failed`.
  case dial(connection: UInt32, Endpoint)
  case send(connection: UInt32, [UInt8])
  /// Not wanted any more; nothing need be told about it.
  case hangUp(connection: UInt32)
  /// Mapping, port preservation and step before the rest, which pairs plan their
  /// first attempts with (filtering may still be unknown); once more when only
  /// silent routers are still waited for.
  case learnt(NATFacts)
  case finished(NATProbeReport)
  case refreshed(NATRefresh)
}

/// Messages that were not an answer to anything asked.
package struct NATProbeDrops: Equatable, Sendable {
  package var malformed: UInt64 = 0
  /// No such transaction is open.
  package var unknown: UInt64 = 0
  /// A right transaction from another endpoint or at another socket.
  package var wrongSource: UInt64 = 0
  /// An answer without an address that could be ours.
  package var useless: UInt64 = 0

  package init() {}
}

/// Hard limits.
package enum NATProbeLimits {
  package static let auxiliarySockets = 3
  /// Times one question is sent.
  package static let attempts = 4
  package static let refreshAttempts = 3
  /// Everything is over after this; with the figures below, after 4.5 s of silence.
  package static let whole = TimeAmount.milliseconds(5_500)
}

/// Our own choices.
package enum NATProbeTunables {
  /// RFC 8489 §6.2.1, before a round trip is known.
  package static let firstTimeout = TimeAmount.milliseconds(500)
  /// Afterwards three round trips, within these.
  package static let shortestTimeout = TimeAmount.milliseconds(100)
  package static let longestTimeout = TimeAmount.milliseconds(500)
  /// TCP is asked when UDP has been silent for so long…
  package static let streamsAfter = TimeAmount.seconds(1)
  /// …and UDP is called blocked when it still is, while TCP has answered.
  package static let blockedAfter = TimeAmount.seconds(3)
  /// Questions that must have gone unanswered to say "filtered" when time is up.
  package static let silenceProves = 3
  package static let hairpinAttempts = 3
  package static let hairpinTimeout = TimeAmount.milliseconds(150)
  /// The largest allocator step that is one.
  package static let largestStep = 16
  /// Steps that others may have taken between two of ours.
  package static let foreignSteps = 8
}
