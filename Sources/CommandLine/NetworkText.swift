/// Words for what is known of networks and roads: verdicts, advice, NAT facts.
/// The codes are NAT's; here they become sentences for people, once, for the
/// agent's API and every command.

#if canImport(NAT)
  package import NAT
#endif

package enum NetworkText {
  package static func words(_ verdict: PathVerdict) -> String {
    switch verdict {
    case .direct: "direct; nothing stands between the two"
    case .relayIsFaster: "a direct path is up, but the relay is much the faster one"
    case .relayDemanded: "a policy lets this pair use relays only"
    case .rests: "no traffic: nothing is kept open; the next connection brings a path"
    case .offline: "the peer is offline"
    case .udpBlockedHere: "this network lets no UDP out"
    case .udpBlockedThere: "the peer's network lets no UDP out"
    case .noCommonFamily: "one side has only IPv4, the other only IPv6"
    case .noHairpin:
      "both are behind the same router, which does not turn packets round, and they do not reach each other inside"
    case .bothSymmetric:
      "both NATs take a new port for every destination, so neither port can be known"
    case .symmetricHere:
      "this NAT takes a new port for every destination, and the peer's lets only known ports in"
    case .symmetricThere:
      "the peer's NAT takes a new port for every destination, and this one lets only known ports in"
    case .trying: "direct paths are being tried"
    case .natUnknown: "the server's STUN ports do not answer, so nothing is known of this NAT"
    case .unanswered: "nothing known stands in the way, but no direct packet was answered"
    }
  }

  /// What to do; nil: nothing.
  package static func words(_ advice: PathAdvice) -> String? {
    switch advice {
    case .none: nil
    case .allowUDPHere: "let UDP out of this network (any port)"
    case .allowUDPThere: "let UDP out of the peer's network (any port)"
    case .addCommonFamily: "give both sides IPv6, or both IPv4"
    case .enableHairpin:
      "switch on NAT loopback (hairpinning) at the router, or let its hosts reach each other"
    case .mapPortHere:
      "switch on UPnP, NAT-PMP or PCP at this router, or forward a UDP port and give it with -port"
    case .mapPortThere:
      "switch on UPnP, NAT-PMP or PCP at the peer's router, or forward a UDP port there"
    case .openSTUN: "open the server's STUN ports (27182/udp and 27183/udp)"
    case .wait: "wait a few seconds and ask again"
    }
  }

  /// One NAT in a sentence.
  package static func words(_ facts: NATFacts) -> String {
    if facts.isUDPBlocked { return "UDP is blocked" }
    let filter =
      switch facts.filtering {
      case .unknown: ""
      case .endpointIndependent: ", lets everybody in"
      case .addressDependent: ", lets in whom it has sent to"
      case .addressAndPortDependent: ", lets in only from ports it has sent to"
      }
    let step =
      facts.allocatorStep == 0 ? "" : ", counting its ports by \(facts.allocatorStep)"
    switch facts.mapping {
    case .unknown: return "unknown"
    case .none:
      return facts.filtering == .endpointIndependent
        ? "none: a public address" : "none: a public address behind a firewall"
    case .endpointIndependent: return "one port for all destinations" + filter
    case .addressDependent: return "a new port for every address\(step)" + filter
    case .addressAndPortDependent: return "a new port for every destination\(step)" + filter
    }
  }

  /// What would help a node with such a NAT in general; nil: nothing needed.
  package static func advice(_ facts: NATFacts) -> PathAdvice {
    if facts.isUDPBlocked { return .allowUDPHere }
    if facts.mapping == .unknown { return .openSTUN }
    return facts.isSymmetric ? .mapPortHere : .none
  }
}
