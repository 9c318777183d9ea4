/// The words between a PortMapper and its driver, its bounds and its counters.
/// Values only.

#if canImport(Bytes)
  package import Bytes
#endif

/// Bounds and waiting times that are ours; what the RFCs fix is beside the codecs.
package enum PortMapperLimits {
  /// RFC 6886 §3.3 recommends two hours.
  package static let requestedLifetime: UInt32 = 7200
  /// A gateway that promises more is asked again after this all the same.
  package static let longestLifetime = TimeAmount.hours(24)
  /// What speaks PCP or NAT-PMP answers at once: two transmissions, then the next protocol.
  package static let pcpPatience = TimeAmount.milliseconds(4500)
  /// Four transmissions: 0, 250, 750 and 1750 ms.
  package static let natPMPPatience = TimeAmount.milliseconds(3750)
  /// The driver's answer on UPnP must have come by then.
  package static let upnpPatience = TimeAmount.seconds(60)
  /// A mapping that the gateway forgot must be there again after this.
  package static let recoveryPatience = TimeAmount.seconds(30)
  /// After a round without success, doubled each time.
  package static let shortestRest = TimeAmount.minutes(2)
  package static let longestRest = TimeAmount.hours(1)
  /// Announcements and changes of the network have an effect only this often:
  /// anybody on the link can forge the one, and the other comes in showers.
  package static let refreshHold = TimeAmount.seconds(10)
  /// A mapping lost sooner than this after it was granted is followed by a rest,
  /// not by another question.
  package static let briefLease = TimeAmount.seconds(30)
  /// Removal is not waited for; a second copy is against loss.
  package static let removalCopies = 2
  /// Packets and events kept for the driver; it drains after every call.
  package static let outgoing = 16
  package static let events = 16
}

/// How a mapping was made.
package enum PortMappingProtocol: UInt8, Sendable, CaseIterable {
  case pcp
  case natPMP
  case upnp

  package var words: String {
    switch self {
    case .pcp: "PCP"
    case .natPMP: "NAT-PMP"
    case .upnp: "UPnP"
    }
  }
}

/// A mapping that stands.
package struct MappedPort: Hashable, Sendable {
  package var external: Endpoint
  package var lifetime: TimeAmount
  package var `protocol`: PortMappingProtocol

  package init(external: Endpoint, lifetime: TimeAmount, protocol: PortMappingProtocol) {
    self.external = external
    self.lifetime = lifetime
    self.protocol = `protocol`
  }

  /// The router's own outside address is private: another NAT is in front of it,
  /// and from the internet this mapping alone does not let anybody in.
  package var isBehindAnotherNAT: Bool { external.address.isPrivate }
}

/// Why a protocol gave no mapping, or a mapping ended.
package enum PortMappingFailure: Error, Hashable, Sendable {
  /// No answer in time.
  case silent
  /// The gateway's kernel said that nobody listens there.
  case unreachable
  /// The gateway does not speak it.
  case unsupported
  /// A result code of PCP or NAT-PMP.
  case refused(code: UInt16)
  /// Granted, but at an address nobody can send to: the router has no address
  /// outside yet.
  case noExternalAddress
  /// The lifetime passed without a renewal.
  case expired
  /// The gateway lost its state and did not take the mapping again.
  case stateLost
  /// UPnP, in the driver's words (§ UPnPFailure).
  case upnp(words: String)

  package var words: String {
    switch self {
    case .silent: "no answer"
    case .unreachable: "nobody listens"
    case .unsupported: "not spoken"
    case .refused(let code): "refused with code \(code)"
    case .noExternalAddress: "the router has no address outside"
    case .expired: "not renewed in time"
    case .stateLost: "forgotten by the router"
    case .upnp(let words): words
    }
  }
}

/// One protocol's failure in a round.
package struct PortMappingAttempt: Hashable, Sendable {
  package var `protocol`: PortMappingProtocol
  package var failure: PortMappingFailure

  package init(protocol: PortMappingProtocol, failure: PortMappingFailure) {
    self.protocol = `protocol`
    self.failure = failure
  }
}

/// What the driver is to do with UPnP; one order is open at a time.
package enum UPnPOrder: Hashable, Sendable {
  /// Answer with `upnpMapped` or `upnpFailed`.
  /// - Parameter suggestedPort: outside; what it was before, else the inside one.
  case map(suggestedPort: UInt16, lifetime: UInt32)
  /// No answer wanted.
  case remove(externalPort: UInt16)
}

package enum PortMapperEvent: Hashable, Sendable {
  /// Stands; told again at every renewal.
  case mapped(MappedPort)
  /// Stood, and does not any more. The search begins anew by itself.
  case lost(PortMappingFailure)
  /// A round ended without a mapping; the next one begins after `rest`.
  case unavailable([PortMappingAttempt], rest: TimeAmount)
  case upnp(UPnPOrder)
}

/// Messages dropped, by reason.
package struct PortMapperDrops: Hashable, Sendable {
  /// Not from the gateway that was asked.
  package var stranger: UInt64 = 0
  package var malformed: UInt64 = 0
  /// Another nonce, port or transport.
  package var mismatch: UInt64 = 0
  /// Nothing was asked, or something else.
  package var unexpected: UInt64 = 0

  package init() {}
}
