/// What theory allows between two kinds of network, written down before
/// anything is measured: the simulator and the lab compare what happened with
/// it. The derivation is in docs/protocol/punching.md.

/// The best road two nodes in different homes can have.
package enum ExpectedRoad: String, Sendable {
  /// One side hears the other unasked.
  case direct
  /// Both open holes at the same time.
  case punched
  /// The port of one side must be guessed: predicted or by birthday.
  case guessed
  /// No datagrams, and one side hears the other's connection unasked.
  case tcpDirect = "tcp-direct"
  /// No datagrams, and both connect at the same time.
  case tcpPunched = "tcp-punched"
  /// Nothing but a relay.
  case relayed

  /// Of datagrams: nothing is better.
  package var isDatagram: Bool {
    switch self {
    case .direct, .punched, .guessed: true
    case .tcpDirect, .tcpPunched, .relayed: false
    }
  }

  /// Without a relay.
  package var isDirect: Bool { self != .relayed }
}

package enum PunchTheory {
  /// Two homes with nothing in common but the internet; the server is
  /// reachable over IPv4 and IPv6.
  package static func expected(_ a: NATKind, _ b: NATKind) -> ExpectedRoad {
    guard a.hasIPv4 && b.hasIPv4 || a.hasIPv6 && b.hasIPv6 else { return .relayed }
    let road = datagrams(a, b)
    return road == .relayed ? connections(a, b) : road
  }

  /// Routers map TCP as they map UDP, but let in only what answers: the port of a
  /// moving side cannot be guessed, because a connection asked from another port
  /// is another connection.
  private static func connections(_ a: NATKind, _ b: NATKind) -> ExpectedRoad {
    // Ports of agents are none of those that such networks let out.
    guard a.tcpPorts == nil, b.tcpPorts == nil else { return .relayed }
    func hears(_ kind: NATKind) -> Bool {
      kind.mapping == .none && kind.filtering == .endpointIndependent
    }
    if hears(a) || hears(b) { return .tcpDirect }
    return a.mapping.isStable && b.mapping.isStable ? .tcpPunched : .relayed
  }

  private static func datagrams(_ a: NATKind, _ b: NATKind) -> ExpectedRoad {
    guard a.passesUDP, b.passesUDP else { return .relayed }
    if hearsUnasked(a) || hearsUnasked(b) { return .direct }
    let fixed = (a.mapping.isStable, b.mapping.isStable)
    switch fixed {
    case (true, true): return .punched
    case (true, false): return meets(fixed: a, moving: b)
    case (false, true): return meets(fixed: b, moving: a)
    // Each guess at a moving port moves the guesser's own: no pair of guesses
    // meets, whatever the allocators.
    case (false, false): return .relayed
    }
  }

  /// Whom everybody can reach at an endpoint known beforehand.
  private static func hearsUnasked(_ kind: NATKind) -> Bool {
    kind.mapping.isStable && kind.filtering == .endpointIndependent && !kind.isDouble
  }

  /// The moving side's packet comes from a port nobody knew. It is let in when
  /// the fixed side filters by address only; its source is then the answer's
  /// destination (peer-reflexive). Otherwise the port must be guessed.
  private static func meets(fixed: NATKind, moving: NATKind) -> ExpectedRoad {
    fixed.filtering == .addressDependent && !fixed.isDouble ? .punched : .guessed
  }
}
