/// A small internet as a value: homes behind routers of some NAT kind, a router
/// of the provider in front of each home, one server. What a scenario file says
/// and what `NetworkPlan` turns into commands. Makes nothing itself. docs/lab.md.

package import NAT

/// One network with one way out.
package struct LabHome: Hashable, Sendable {
  package var name: String
  package var kind: NATKind
  package var hosts: [String]
  /// Of packets that pass the provider's router, each way, per thousand.
  package var lossPerMille: Int
  /// Its hosts reach the router and not each other, as guests of a Wi-Fi.
  package var isIsolated: Bool

  package init(
    _ name: String, _ kind: NATKind, hosts: [String], lossPerMille: Int = 0,
    isIsolated: Bool = false
  ) {
    self.name = name
    self.kind = kind
    self.hosts = hosts
    self.lossPerMille = lossPerMille
    self.isIsolated = isIsolated
  }
}

package struct LabTopology: Hashable, Sendable {
  package var name: String
  package var homes: [LabHome]
  /// Where the server listens for WebSocket and REST.
  package var serverPort: UInt16

  package init(_ name: String, homes: [LabHome], serverPort: UInt16? = nil) {
    self.name = name
    self.homes = homes
    self.serverPort = serverPort ?? Self.port(for: homes)
  }

  /// The documented port, or 443 when some home lets nothing else out.
  package static func port(for homes: [LabHome]) -> UInt16 {
    let reachable = homes.allSatisfy { $0.kind.tcpPorts?.contains(LabPorts.server) ?? true }
    return reachable ? LabPorts.server : 443
  }

  /// Two homes with a host each, `a` and `b`: a cell of the grid.
  package static func cell(_ a: NATKind, _ b: NATKind) -> LabTopology {
    LabTopology(
      "\(a.name),\(b.name)",
      homes: [LabHome("left", a, hosts: ["a"]), LabHome("right", b, hosts: ["b"])])
  }

  package func home(of host: String) -> LabHome? {
    homes.first { $0.hosts.contains(host) }
  }

  /// Nil when it can be built; else what is wrong with it.
  package var fault: String? {
    if homes.isEmpty { return "there is no home" }
    if homes.count > LabLimits.homes { return "more than \(LabLimits.homes) homes" }
    let names = homes.map(\.name) + homes.flatMap(\.hosts) + ["server", "net"]
    for name in names {
      guard Self.isName(name) else {
        return "\(name): a name is 1 to 12 letters, digits and dashes, a letter first"
      }
    }
    let hosts = homes.flatMap(\.hosts) + ["server", "net"]
    if Set(hosts).count != hosts.count { return "two hosts share a name" }
    if Set(homes.map(\.name)).count != homes.count { return "two homes share a name" }
    for home in homes {
      if home.hosts.isEmpty { return "home \(home.name) has no host" }
      if home.hosts.count > LabLimits.hostsPerHome {
        return "home \(home.name): more than \(LabLimits.hostsPerHome) hosts"
      }
      if home.isIsolated, !home.kind.translates {
        return "home \(home.name): hosts are isolated only where addresses are translated"
      }
      if let refusal = RouterRules.refusal(of: home.kind) { return "home \(home.name): \(refusal)" }
    }
    return nil
  }

  static func isName(_ text: String) -> Bool {
    let utf8 = Array(text.utf8)
    guard (1...12).contains(utf8.count), let first = utf8.first, isLetter(first) else {
      return false
    }
    return utf8.allSatisfy { isLetter($0) || (48...57).contains($0) || $0 == UInt8(ascii: "-") }
  }

  private static func isLetter(_ byte: UInt8) -> Bool { (97...122).contains(byte | 0x20) }
}

package enum LabLimits {
  /// Each has a third octet of its own, twice.
  package static let homes = 90
  package static let hostsPerHome = 100
}

package enum LabPorts {
  package static let server: UInt16 = 27183
}
