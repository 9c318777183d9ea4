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
    case .direct, .relayIsFaster, .rests, .offline: .none
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

extension PunchTheory {
  /// What must be said, in the end, by a node in a home of kind `here` about a
  /// peer in another home of kind `there`.
  package static func verdict(here: NATKind, there: NATKind) -> PathVerdict {
    if expected(here, there).isDirect { return .direct }
    if !here.passesUDP { return .udpBlockedHere }
    if !there.passesUDP { return .udpBlockedThere }
    let isShared = here.hasIPv4 && there.hasIPv4 || here.hasIPv6 && there.hasIPv6
    return isShared ? .bothSymmetric : .noCommonFamily
  }
}
