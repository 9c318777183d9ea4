/// The kinds of network a home can be in: one table that the simulator's NAT
/// boxes and the lab's nftables routers are both built from, so that they can
/// be compared. Pure values; how a kind is rendered is the business of
/// Simulation and Lab. RFC 4787; DESIGN §2.

/// How a NAT chooses outside ports for new mappings.
package enum PortAllocator: Hashable, Sendable {
  /// The local port while it is free, else a random one.
  case preserving
  case random
  /// One after the other, `step` apart.
  case sequential(step: Int)
}

/// What a home's way out does to packets.
package struct NATKind: Hashable, Sendable {
  /// Stable name: scenario files, tables, JSON.
  package var name: String
  package var mapping: NATMapping
  package var filtering: NATFiltering
  package var allocator: PortAllocator
  /// Packets from inside to an outside endpoint of its own reach their target.
  package var hairpins: Bool
  /// Linux masquerading whose router accepts unsolicited packets: one that
  /// comes first takes the port away, and the inside host's later packet to
  /// that same remote endpoint leaves from another port (RECIPES R10).
  package var isOpen: Bool
  /// A second router of the kind `port-restricted` inside this one.
  package var isDouble: Bool
  package var passesUDP: Bool
  /// TCP ports outside that can be reached; nil: all.
  package var tcpPorts: [UInt16]?
  package var hasIPv4: Bool
  package var hasIPv6: Bool

  package init(
    _ name: String, mapping: NATMapping, filtering: NATFiltering,
    allocator: PortAllocator = .preserving, hairpins: Bool = false, isOpen: Bool = false,
    isDouble: Bool = false, passesUDP: Bool = true, tcpPorts: [UInt16]? = nil,
    hasIPv4: Bool = true, hasIPv6: Bool = false
  ) {
    self.name = name
    self.mapping = mapping
    self.filtering = filtering
    self.allocator = allocator
    self.hairpins = hairpins
    self.isOpen = isOpen
    self.isDouble = isDouble
    self.passesUDP = passesUDP
    self.tcpPorts = tcpPorts
    self.hasIPv4 = hasIPv4
    self.hasIPv6 = hasIPv6
  }

  /// A router translates addresses here.
  package var translates: Bool { mapping != .none }
}

extension NATKind {
  /// Every host has a public address and hears everybody.
  package static let open = NATKind(
    "public", mapping: .none, filtering: .endpointIndependent)
  /// A public address behind a stateful firewall.
  package static let firewalled = NATKind(
    "firewalled", mapping: .none, filtering: .addressAndPortDependent)
  package static let fullCone = NATKind(
    "full-cone", mapping: .endpointIndependent, filtering: .endpointIndependent)
  package static let addressRestricted = NATKind(
    "address-restricted", mapping: .endpointIndependent, filtering: .addressDependent)
  package static let portRestricted = NATKind(
    "port-restricted", mapping: .endpointIndependent, filtering: .addressAndPortDependent)
  /// Endpoint-independent mapping, but never the local port outside.
  package static let portRestrictedRandomPort = NATKind(
    "port-restricted-random-port", mapping: .endpointIndependent,
    filtering: .addressAndPortDependent, allocator: .random)
  package static let masqueradeOpen = NATKind(
    "masq-open", mapping: .endpointIndependent, filtering: .addressAndPortDependent, isOpen: true)
  package static let symmetricRandom = NATKind(
    "symmetric-random", mapping: .addressAndPortDependent, filtering: .addressAndPortDependent,
    allocator: .random)
  package static let symmetricSequential = NATKind(
    "symmetric-sequential", mapping: .addressAndPortDependent,
    filtering: .addressAndPortDependent, allocator: .sequential(step: 1))
  /// Two routers, each port-restricted.
  package static let doubleNAT = NATKind(
    "double-nat", mapping: .endpointIndependent, filtering: .addressAndPortDependent,
    isDouble: true)
  package static let udpBlocked = NATKind(
    "udp-blocked", mapping: .endpointIndependent, filtering: .addressAndPortDependent,
    passesUDP: false)
  package static let onlyTCP443 = NATKind(
    "tcp-443-only", mapping: .endpointIndependent, filtering: .addressAndPortDependent,
    passesUDP: false, tcpPorts: [443])
  /// No IPv4 at all; IPv6 behind a stateful firewall.
  package static let onlyIPv6 = NATKind(
    "ipv6-only", mapping: .none, filtering: .addressAndPortDependent, hasIPv4: false,
    hasIPv6: true)

  /// Every kind, in the order of the grid.
  package static let all: [NATKind] = [
    .open, .firewalled, .fullCone, .addressRestricted, .portRestricted,
    .portRestrictedRandomPort, .masqueradeOpen, .symmetricRandom, .symmetricSequential,
    .doubleNAT, .udpBlocked, .onlyTCP443, .onlyIPv6,
  ]

  package static func named(_ name: String) -> NATKind? { all.first { $0.name == name } }
}
