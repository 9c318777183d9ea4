/// Why a pair of nodes has the road it has, and the one change that would give
/// it a better one: codes for machines (`martlet why --json`); the words are
/// made at the edge. Also what theory says of two kinds of network, so that the
/// lab can hold the verdict against the truth. docs/protocol/punching.md.

/// What decides about the road of a pair.
package enum PathVerdict: String, Sendable, CaseIterable {
  /// Direct: there is nothing better.
  case direct
  /// Relayed although a direct path is up: that one is much the slower.
  case relayIsFaster = "relay-is-faster"
  /// A policy, of this end or the peer's, lets the pair use relays only.
  case relayDemanded = "relay-demanded"
  /// Nobody has needed a path for a while.
  case rests
  case offline
  /// Our way out, or the peer's, lets no UDP through.
  case udpBlockedHere = "udp-blocked-here"
  case udpBlockedThere = "udp-blocked-there"
  /// One has only IPv4, the other only IPv6.
  case noCommonFamily = "no-common-family"
  /// Behind one router that does not turn packets round, and not reachable
  /// inside it.
  case noHairpin = "no-hairpin"
  /// Both NATs map anew for every address: no port can be known or guessed.
  case bothSymmetric = "both-symmetric"
  /// One does, and guessing its port did not succeed, or is off.
  case symmetricHere = "symmetric-here"
  case symmetricThere = "symmetric-there"
  /// Attempts are under way.
  case trying
  /// The server's STUN ports do not answer: nothing is known of our NAT.
  case natUnknown = "nat-unknown"
  /// Nothing known stands in the way, and yet nothing comes through.
  case unanswered
}

/// The one change that would help most.
package enum PathAdvice: String, Sendable, CaseIterable {
  case none
  /// Let UDP out of the network here, there.
  case allowUDPHere = "allow-udp-here"
  case allowUDPThere = "allow-udp-there"
  /// Switch on IPv6 (or IPv4) where it is missing.
  case addCommonFamily = "add-common-family"
  /// Let the router turn packets round ("NAT loopback"), or let hosts of the
  /// network reach each other.
  case enableHairpin = "enable-hairpin"
  /// UPnP, NAT-PMP or PCP, or a forwarded port, at the router here, there.
  case mapPortHere = "map-port-here"
  case mapPortThere = "map-port-there"
  /// Open the server's STUN ports.
  case openSTUN = "open-stun"
  case wait
}

extension PathVerdict {
  package var advice: PathAdvice {
    switch self {
    case .direct, .relayIsFaster, .relayDemanded, .rests, .offline: .none
    case .udpBlockedHere: .allowUDPHere
    case .udpBlockedThere: .allowUDPThere
    case .noCommonFamily: .addCommonFamily
    case .noHairpin: .enableHairpin
    case .bothSymmetric, .symmetricHere, .unanswered: .mapPortHere
    case .symmetricThere: .mapPortThere
    case .natUnknown: .openSTUN
    case .trying: .wait
    }
  }
}

extension PathVerdict {
  /// Where the server's STUN ports, UDP and TCP, told an end nothing: they
  /// answer the other end, so it is this one's network that lets nothing through
  /// but what signalling needs. When neither was told anything it may as well be
  /// the server's firewall.
  ///
  /// - Parameter there: nil: the peer has not said anything yet.
  /// - Returns: nil when both know of their networks.
  package static func silent(here: NATFacts, there: NATFacts?) -> PathVerdict? {
    if here.isSilent {
      guard let there, !there.isSilent else { return .natUnknown }
      return .udpBlockedHere
    }
    guard let there, there.isSilent else { return nil }
    return .udpBlockedThere
  }
}

extension NATFacts {
  /// No STUN port answered, over UDP or TCP.
  fileprivate var isSilent: Bool { mapping == .unknown && !isUDPBlocked }
}

extension PunchTheory {
  /// What must be said, in the end, by a node in a home of kind `here` about a
  /// peer in another home of kind `there`.
  package static func verdict(here: NATKind, there: NATKind) -> PathVerdict {
    if expected(here, there).isDatagram { return .direct }
    if !reachesSTUN(here), !reachesSTUN(there) { return .natUnknown }
    if !here.passesUDP { return .udpBlockedHere }
    if !there.passesUDP { return .udpBlockedThere }
    let isShared = here.hasIPv4 && there.hasIPv4 || here.hasIPv6 && there.hasIPv6
    return isShared ? .bothSymmetric : .noCommonFamily
  }

  /// The STUN ports, over UDP or TCP. Who reaches none cannot tell a network that
  /// blocks them from a server that does.
  private static func reachesSTUN(_ kind: NATKind) -> Bool {
    kind.passesUDP || (kind.tcpPorts?.contains { streamSTUNPorts.contains($0) } ?? true)
  }
  /// Where a server answers STUN over TCP (spec/inp2p.md).
  package static let streamSTUNPorts: ClosedRange<UInt16> = 27_180...27_181
}
