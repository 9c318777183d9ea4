/// What a node knows about the NAT in front of it, as plain values that STUN
/// finds out, Signaling carries and Paths plans with. RFC 4787 §4 (mapping),
/// §5 (filtering), §6 (hairpinning). NAT facts order attempts; they never
/// forbid one (DESIGN §1).

/// How the outside port of a local port depends on whom we speak to.
package enum NATMapping: UInt8, Sendable, CaseIterable {
  case unknown = 0
  /// The outside endpoint is our own: no translation.
  case none = 1
  case endpointIndependent = 2
  case addressDependent = 3
  case addressAndPortDependent = 4

  /// One outside port serves all peers.
  package var isStable: Bool { self == .none || self == .endpointIndependent }

  /// Stable name for JSON and words.
  package var code: String {
    switch self {
    case .unknown: "unknown"
    case .none: "none"
    case .endpointIndependent: "endpoint-independent"
    case .addressDependent: "address-dependent"
    case .addressAndPortDependent: "address-and-port-dependent"
    }
  }
}

/// Which packets from outside reach a mapped port.
package enum NATFiltering: UInt8, Sendable, CaseIterable {
  case unknown = 0
  /// Everybody's.
  case endpointIndependent = 1
  /// Those of addresses we have sent to.
  case addressDependent = 2
  /// Those of endpoints we have sent to.
  case addressAndPortDependent = 3

  package var code: String {
    switch self {
    case .unknown: "unknown"
    case .endpointIndependent: "endpoint-independent"
    case .addressDependent: "address-dependent"
    case .addressAndPortDependent: "address-and-port-dependent"
    }
  }
}

/// The NAT of one node for one address family.
package struct NATFacts: Hashable, Sendable {
  package var mapping = NATMapping.unknown
  package var filtering = NATFiltering.unknown
  /// The outside port equals the local one; nil: not known.
  package var preservesPort: Bool?
  /// Difference of successive outside ports where it is constant and small;
  /// 0: random or not known.
  package var allocatorStep: Int16 = 0
  /// Packets to our own outside endpoint come back; nil: not known.
  package var hairpins: Bool?
  /// No STUN server answered over UDP; one did over TCP, or signalling works.
  package var isUDPBlocked = false

  package init() {}

  package init(
    mapping: NATMapping, filtering: NATFiltering, preservesPort: Bool? = nil,
    allocatorStep: Int16 = 0, hairpins: Bool? = nil, isUDPBlocked: Bool = false
  ) {
    self.mapping = mapping
    self.filtering = filtering
    self.preservesPort = preservesPort
    self.allocatorStep = allocatorStep
    self.hairpins = hairpins
    self.isUDPBlocked = isUDPBlocked
  }

  package static let unknown = NATFacts()

  /// Every destination gets another port, and which one can be predicted.
  package var isCounted: Bool { isSymmetric && allocatorStep != 0 }

  /// The number INP2P reports: 0 none, 1 cone, 2 symmetric, 314 unknown
  /// (spec/inp2p.md, "Login, heartbeat, NAT probing").
  package var type: UInt16 {
    switch mapping {
    case .unknown: 314
    case .none: 0
    case .endpointIndependent: 1
    case .addressDependent, .addressAndPortDependent: 2
    }
  }

  /// Its own outside endpoint, and everybody is heard there.
  package var isOpen: Bool { mapping == .none && filtering == .endpointIndependent }

  /// Known to keep out whom it has not sent to.
  package var isFiltering: Bool {
    filtering == .addressDependent || filtering == .addressAndPortDependent
  }

  /// Known to put other endpoints in place of our own.
  package var isTranslating: Bool { mapping != .unknown && mapping != .none }

  /// Outside ports cannot be known beforehand.
  package var isSymmetric: Bool {
    mapping == .addressDependent || mapping == .addressAndPortDependent
  }
}
