/// How far it is to the first router that is nobody's but the public network's,
/// so that openers pass all our own NATs and no further (DESIGN §2): questions
/// to the STUN server with a rising time to live, until a router with a public
/// address says that one died there, or the server answers. At most
/// `HopLimits.packets` of 20 bytes, one at a time. ICMP is not authenticated: a
/// lie can only choose among `HopLimits.openers`. docs/protocol/stun.md "Routers".

#if canImport(Bytes)
  package import Bytes
#endif

/// Hard limits.
package enum HopLimits {
  /// Packets of one measurement.
  package static let packets = 5
  /// Times to live an opener may have: 1 dies before the NAT.
  package static let openers: ClosedRange<UInt8> = 2...5
}

/// Our own choices.
package enum HopTunables {
  /// A router is given two round trips to the server to answer, within these.
  package static let shortestTimeout = TimeAmount.milliseconds(150)
  package static let longestTimeout = TimeAmount.milliseconds(500)
  /// Routers of ours have the first bits of our own IPv6 addresses: what a site
  /// is given (RFC 6177).
  package static let sitePrefix = 48
}

/// What a measurement has shown.
package struct HopReport: Equatable, Sendable {
  /// Who answered for each time to live asked, from 2 on; nil: nobody did.
  package var routers: [IPAddress?] = []
  /// The time to live that takes an opener over all our NATs and no further;
  /// nil: the routers are silent.
  package var opener: UInt8?

  package init() {}
}

/// One measurement.
struct HopProbe: Sendable {
  let destination: Endpoint
  /// Asked in turn: a late answer is told by its socket.
  let sockets: [UInt32]
  /// Our outside address: a router that has it is ours.
  let outside: IPAddress
  let localAddresses: [IPAddress]
  let timeout: TimeAmount
  private(set) var report = HopReport()
  private(set) var isOver = false
  private(set) var due: Instant
  private var timeToLive = HopLimits.openers.lowerBound
  private var packets = 0
  private var hasRepeated = false
  private var transaction: STUNTransaction
  /// The furthest router of ours that answered.
  private var lastOwn: UInt8?
  /// A question waits to be taken.
  private var isAsking = true

  init(
    destination: Endpoint, sockets: [UInt32], outside: IPAddress, localAddresses: [IPAddress],
    roundTrip: TimeAmount?, random: inout SeededRandom, now: Instant
  ) {
    precondition(!sockets.isEmpty)
    self.destination = destination
    self.sockets = sockets
    self.outside = outside
    self.localAddresses = localAddresses
    timeout = min(
      max((roundTrip ?? HopTunables.longestTimeout) * 2, HopTunables.shortestTimeout),
      HopTunables.longestTimeout)
    transaction = STUNTransaction(&random)
    due = now
  }

  private var socket: UInt32 { sockets[Int(timeToLive) % sockets.count] }

  /// The question that is to leave now.
  mutating func pollTransmit(now: Instant) -> NATProbeTransmit? {
    guard !isOver, isAsking else { return nil }
    isAsking = false
    packets += 1
    due = now + timeout
    return NATProbeTransmit(
      socket: socket, destination: destination,
      bytes: STUNMessage(.request, transaction).encode(), timeToLive: timeToLive)
  }

  /// A router says that a packet died there.
  /// - Returns: false when it is none of ours.
  mutating func expired(
    at router: IPAddress, destination: Endpoint, socket: UInt32, random: inout SeededRandom
  ) -> Bool {
    guard !isOver, !isAsking, destination == self.destination, socket == self.socket,
      router.isV4 == destination.address.isV4, !router.isUnspecified, !router.isMulticast,
      !router.isLoopback
    else { return false }
    report.routers.append(router)
    if isOwn(router) {
      lastOwn = timeToLive
      goOn(&random)
    } else {
      report.opener = timeToLive
      isOver = true
    }
    return true
  }

  /// The server answered: there is no router left between.
  mutating func reached(_ transaction: STUNTransaction, from source: Endpoint, socket: UInt32)
    -> Bool
  {
    guard !isOver, transaction == self.transaction, source == destination, socket == self.socket
    else { return false }
    finish()
    return true
  }

  mutating func advance(to now: Instant, random: inout SeededRandom) {
    guard !isOver, !isAsking, now >= due else { return }
    if !hasRepeated {
      // Routers tell only so many times a second, and packets are lost.
      hasRepeated = true
      isAsking = packets < HopLimits.packets
      if !isAsking { finish() }
    } else {
      report.routers.append(nil)
      goOn(&random)
    }
  }

  /// Takes what is known for the answer.
  mutating func finish() {
    guard !isOver else { return }
    isOver = true
    report.opener = lastOwn.map { min($0 + 1, HopLimits.openers.upperBound) }
  }

  private mutating func goOn(_ random: inout SeededRandom) {
    guard timeToLive < HopLimits.openers.upperBound, packets < HopLimits.packets else {
      finish()
      return
    }
    timeToLive += 1
    transaction = STUNTransaction(&random)
    isAsking = true
  }

  /// In front of the public network, or of our own site's prefix.
  private func isOwn(_ router: IPAddress) -> Bool {
    if router.isPrivate || router.isLinkLocal || router == outside { return true }
    return !router.isV4
      && localAddresses.contains {
        !$0.isPrivate && router.matches($0, prefix: HopTunables.sitePrefix)
      }
  }
}
