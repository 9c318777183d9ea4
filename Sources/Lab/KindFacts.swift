/// What a router was seen to do, and whether that is the kind it should be.
/// The comparison is a value of its own so that the same rule judges the lab's
/// routers and can be tested without them. RFC 4787 §4–6.

package import HTTP
package import NAT

/// As probes from inside and outside show it; nil: not probed, or not seen.
package struct KindFacts: Hashable, Sendable {
  package var hasIPv4 = false
  package var hasIPv6 = false
  package var passesUDP = false
  /// Of the TCP ports tried, those that answered.
  package var tcpAnswered: [UInt16] = []
  package var tcpTried: [UInt16] = []
  package var mapping: NATMapping?
  package var filtering: NATFiltering?
  package var allocator: PortAllocator?
  package var hairpins: Bool?
  /// The source of a hairpinned packet was the sender's outside endpoint.
  package var hairpinsWithOutsideSource: Bool?
  package var isOpen: Bool?
  /// Routers on the way that belong to the home.
  package var homeRouters: Int?
  /// A packet from one host of the home to another came, unchanged.
  package var reachesNeighbour: Bool?
  /// Two hosts with one local port had two outside endpoints.
  package var keepsHostsApart: Bool?

  package init() {}

  /// Each line one way in which the router is not of this kind.
  package func mismatches(_ kind: NATKind) -> [String] {
    var lines: [String] = []
    func compare<Value: Equatable>(_ what: String, _ seen: Value?, _ wanted: Value) {
      if seen != wanted {
        lines.append("\(what): \(seen.map { "\($0)" } ?? "not seen") instead of \(wanted)")
      }
    }
    compare("IPv4", hasIPv4, kind.hasIPv4)
    compare("IPv6", hasIPv6, kind.hasIPv6)
    compare("UDP passes", passesUDP, kind.passesUDP)
    let ports = tcpTried.filter { kind.tcpPorts?.contains($0) ?? true }
    compare("TCP ports", tcpAnswered, ports)
    compare("routers of the home", homeRouters, kind.isDouble ? 2 : 1)
    compare("hosts of the home hear each other", reachesNeighbour, true)
    guard kind.passesUDP else { return lines }
    compare("mapping", mapping?.code, kind.mapping.code)
    compare("filtering", filtering?.code, kind.filtering.code)
    compare("two hosts are kept apart", keepsHostsApart, true)
    guard kind.translates else { return lines }
    compare("allocator", allocator, kind.allocator)
    compare("hairpin", hairpins, kind.hairpins)
    if kind.hairpins {
      compare("hairpin with the outside source", hairpinsWithOutsideSource, true)
    }
    compare("unsolicited packets take the port", isOpen, kind.isOpen)
    return lines
  }

  package var json: JSONValue {
    [
      "ipv4": .bool(hasIPv4), "ipv6": .bool(hasIPv6), "udp": .bool(passesUDP),
      "tcpTried": .array(tcpTried.map { JSONValue($0) }),
      "tcpAnswered": .array(tcpAnswered.map { JSONValue($0) }),
      "mapping": JSONValue(mapping?.code), "filtering": JSONValue(filtering?.code),
      "allocator": JSONValue(allocator.map { Self.words($0) }), "hairpins": Self.json(hairpins),
      "hairpinsWithOutsideSource": Self.json(hairpinsWithOutsideSource), "open": Self.json(isOpen),
      "homeRouters": homeRouters.map { JSONValue($0) } ?? .null,
      "reachesNeighbour": Self.json(reachesNeighbour),
      "keepsHostsApart": Self.json(keepsHostsApart),
    ]
  }

  private static func json(_ value: Bool?) -> JSONValue { value.map { .bool($0) } ?? .null }

  package static func words(_ allocator: PortAllocator) -> String {
    switch allocator {
    case .preserving: "preserving"
    case .random: "random"
    case .sequential(let step): "sequential \(step)"
    }
  }

  // MARK: From observations

  /// Outside endpoints of one inside endpoint towards (address 1, port 1),
  /// (1, 2), (2, 1), (2, 2), as texts; nil where nothing arrived.
  package static func mapping(_ outside: [String?], inside: String) -> NATMapping? {
    let seen = outside.compactMap { $0 }
    guard seen.count == outside.count, seen.count == 4 else { return nil }
    if seen.allSatisfy({ $0 == inside }) { return NATMapping.none }
    if Set(seen).count == 1 { return .endpointIndependent }
    if seen[0] == seen[1], seen[2] == seen[3] { return .addressDependent }
    return .addressAndPortDependent
  }

  package static func filtering(fromOtherPort: Bool, fromOtherAddress: Bool) -> NATFiltering {
    if fromOtherAddress { return .endpointIndependent }
    return fromOtherPort ? .addressDependent : .addressAndPortDependent
  }

  /// From pairs of local and outside ports in the order of their making.
  package static func allocator(_ pairs: [(local: UInt16, outside: UInt16)]) -> PortAllocator? {
    guard pairs.count >= 3 else { return nil }
    if pairs.allSatisfy({ $0.local == $0.outside }) { return .preserving }
    let steps = zip(pairs, pairs.dropFirst()).map { Int($1.outside) - Int($0.outside) }
    if let first = steps.first, (1...16).contains(first), steps.allSatisfy({ $0 == first }) {
      return .sequential(step: first)
    }
    return .random
  }
}
