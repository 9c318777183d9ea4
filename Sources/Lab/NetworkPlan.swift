/// A topology as namespaces, links, addresses and rules: everything `ip`, `nft`
/// and sysctl are told, as values with a text form. Runs nothing. docs/lab.md
/// draws the picture.
///
///     host ─ router ─ edge ─┐
///     host ─ router ─ edge ─┼─ net (a switch) ─ server
///
/// Two homes are always four hops apart: router, edge, edge, router. A probe
/// whose hop limit dies between them therefore exists (RECIPES R10).

package import Bytes
package import NAT

/// One thing to do; `namespace` is the full name.
package enum LabStep: Hashable, Sendable {
  /// Lines for `ip -batch -`, inside a namespace when one is given.
  case ip(namespace: String?, lines: [String])
  /// A key below /proc/sys/, with slashes. One below net/bridge/ is left out
  /// where the kernel has no filtering of bridges.
  case sysctl(namespace: String, key: String, value: String)
  /// A script for `nft -f -`.
  case nft(namespace: String, script: String)

  /// As one would type it.
  package var text: String {
    switch self {
    case .ip(let namespace, let lines):
      let command = namespace.map { "ip -n \($0) " } ?? "ip "
      return lines.map { command + $0 + "\n" }.joined()
    case .sysctl(let namespace, let key, let value):
      return "ip netns exec \(namespace) sysctl -qw \(key)=\(value)\n"
    case .nft(let namespace, let script):
      return "ip netns exec \(namespace) nft -f - <<'END'\n\(script)END\n"
    }
  }
}

/// Where everything is.
package struct NetworkPlan: Sendable {
  package let topology: LabTopology
  package let prefix: String

  package init(_ topology: LabTopology, prefix: String) {
    self.topology = topology
    self.prefix = prefix
  }

  /// The namespace of a host, a router or the server.
  package func namespace(_ name: String) -> String { "\(prefix)-\(name)" }

  // MARK: Addresses

  /// IPv4: 198.18/15 is reserved for tests and private by nobody's rules.
  package static let serverV4 = IPAddress(198, 19, 0, 10)
  package static let serverSecondV4 = IPAddress(198, 19, 0, 11)
  /// IPv6: 2001:db8/32 is for documentation.
  package static let serverV6 = IPAddress(high: 0x2001_0db8_ffff_0000, low: 0x10)
  package static let serverSecondV6 = IPAddress(high: 0x2001_0db8_ffff_0000, low: 0x11)

  /// The server as a home of this kind reaches it.
  package static func server(for kind: NATKind) -> IPAddress {
    kind.hasIPv4 ? serverV4 : serverV6
  }
  package static func secondServer(for kind: NATKind) -> IPAddress {
    kind.hasIPv4 ? serverSecondV4 : serverSecondV6
  }

  private func number(_ home: LabHome) -> UInt8 {
    guard let index = topology.homes.firstIndex(where: { $0.name == home.name }) else {
      preconditionFailure("home \(home.name) is not of this topology")
    }
    return UInt8(index + 1)
  }

  /// The home's address outside, IPv4.
  package func external(_ home: LabHome) -> IPAddress { IPAddress(198, 18, number(home), 2) }
  private func edgeV4(_ home: LabHome) -> IPAddress { IPAddress(198, 18, number(home), 1) }
  private func edgeBackbone(_ home: LabHome) -> IPAddress {
    IPAddress(198, 19, 0, 100 + number(home))
  }
  private func v6(_ home: LabHome, net: UInt64, host: UInt64) -> IPAddress {
    IPAddress(high: 0x2001_0db8_0000_0000 | UInt64(number(home)) << 16 | net, low: host)
  }
  private func edgeBackboneV6(_ home: LabHome) -> IPAddress {
    IPAddress(high: 0x2001_0db8_ffff_0000, low: 0x100 + UInt64(number(home)))
  }
  /// All homes that translate use the same network, as people's homes do.
  private func lan(_ home: LabHome, _ host: UInt8) -> IPAddress {
    home.kind.translates
      ? IPAddress(192, 168, 1, host) : IPAddress(198, 18, 100 + number(home), host)
  }
  private static let betweenRouters = (
    outer: IPAddress(192, 168, 100, 1), inner: IPAddress(192, 168, 100, 2)
  )

  /// A host's own address, in the family its home has.
  package func address(of host: String, v6 wantsV6: Bool? = nil) -> IPAddress? {
    guard let home = topology.home(of: host), let index = home.hosts.firstIndex(of: host) else {
      return nil
    }
    let useV6 = wantsV6 ?? !home.kind.hasIPv4
    guard useV6 ? home.kind.hasIPv6 : home.kind.hasIPv4 else { return nil }
    return useV6
      ? v6(home, net: 1, host: 0x10 + UInt64(index)) : lan(home, 10 + UInt8(index))
  }

  // MARK: Steps

  private func router(_ home: LabHome) -> String { namespace("router-\(home.name)") }
  private func inner(_ home: LabHome) -> String { namespace("inner-\(home.name)") }
  private func edge(_ home: LabHome) -> String { namespace("edge-\(home.name)") }

  /// Every namespace, in the order of making.
  package var namespaces: [String] {
    var names = [namespace("net"), namespace("server")]
    for home in topology.homes {
      names += [edge(home), router(home)]
      if home.kind.isDouble { names.append(inner(home)) }
      names += home.hosts.map { namespace($0) }
    }
    return names
  }

  private var usesV6: Bool { topology.homes.contains { $0.kind.hasIPv6 } }

  package var steps: [LabStep] {
    var steps: [LabStep] = [
      .ip(namespace: nil, lines: namespaces.map { "netns add \($0)" })
    ]
    steps += calmV6
    steps.append(.ip(namespace: nil, lines: links))
    for home in topology.homes { steps += rules(home) }
    steps += backbone
    for home in topology.homes {
      steps += edgeSteps(home) + routerSteps(home) + hostSteps(home)
    }
    return steps
  }

  private var links: [String] {
    var lines = [link("server", namespace("net"), "eth0", namespace("server"))]
    for home in topology.homes {
      let last = home.kind.isDouble ? inner(home) : router(home)
      lines.append(link("h\(number(home))", namespace("net"), "core", edge(home)))
      lines.append(link("home", edge(home), "wan", router(home)))
      if home.kind.isDouble { lines.append(link("lan", router(home), "wan", inner(home))) }
      for (index, host) in home.hosts.enumerated() {
        lines.append(link("p\(index + 1)", last, "eth0", namespace(host)))
      }
    }
    return lines
  }

  private func link(_ a: String, _ inA: String, _ b: String, _ inB: String) -> String {
    "link add \(a) netns \(inA) type veth peer name \(b) netns \(inB)"
  }

  /// The switch in the middle, and the server on it.
  private var backbone: [LabStep] {
    var switching = [
      "link add br0 type bridge", "link set br0 up", "link set server master br0 up",
    ]
    for home in topology.homes { switching.append("link set h\(number(home)) master br0 up") }
    var server = [
      "link set lo up", "address add \(Self.serverV4)/24 dev eth0",
      "address add \(Self.serverSecondV4)/24 dev eth0", "link set eth0 up",
    ]
    if usesV6 {
      server.append("address add \(Self.serverV6)/64 dev eth0 nodad")
      server.append("address add \(Self.serverSecondV6)/64 dev eth0 nodad")
    }
    for home in topology.homes {
      server += routes(to: home, viaV4: edgeBackbone(home), viaV6: edgeBackboneV6(home))
    }
    return [
      .ip(namespace: namespace("net"), lines: switching),
      .ip(namespace: namespace("server"), lines: server),
    ]
  }

  /// Routes to everything of one home that the internet knows.
  private func routes(to home: LabHome, viaV4: IPAddress, viaV6: IPAddress) -> [String] {
    var lines: [String] = []
    if home.kind.hasIPv4 {
      lines.append("route add \(network(external(home), 24)) via \(viaV4)")
      if !home.kind.translates {
        lines.append("route add \(network(lan(home, 0), 24)) via \(viaV4)")
      }
    }
    if home.kind.hasIPv6 {
      lines.append("route add \(v6(home, net: 0, host: 0))/63 via \(viaV6)")
    }
    return lines
  }

  private func network(_ address: IPAddress, _ length: UInt32) -> String {
    "\(IPAddress(v4: address.v4 & (~0 << (32 - length))))/\(length)"
  }

  /// Before any interface is there: no waiting for duplicate detection.
  private var calmV6: [LabStep] {
    guard usesV6 else { return [] }
    return namespaces.flatMap { namespace in
      ["accept_dad", "dad_transmits", "accept_ra"].map {
        LabStep.sysctl(namespace: namespace, key: "net/ipv6/conf/default/\($0)", value: "0")
      }
    }
  }

  private func forwarding(_ namespace: String) -> [LabStep] {
    var settings = [
      ("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0"),
      ("net/ipv4/conf/default/rp_filter", "0"), ("net/ipv4/conf/all/send_redirects", "0"),
      ("net/ipv4/conf/default/send_redirects", "0"),
    ]
    if usesV6 { settings.append(("net/ipv6/conf/all/forwarding", "1")) }
    return settings.map { .sysctl(namespace: namespace, key: $0.0, value: $0.1) }
  }

  /// The provider's router: no translation, full routes.
  private func edgeSteps(_ home: LabHome) -> [LabStep] {
    var lines = [
      "link set lo up", "address add \(edgeBackbone(home))/24 dev core", "link set core up",
      "address add \(edgeV4(home))/24 dev home",
    ]
    if usesV6 {
      lines.append("address add \(edgeBackboneV6(home))/64 dev core nodad")
      lines.append("address add \(v6(home, net: 0, host: 1))/64 dev home nodad")
    }
    lines.append("link set home up")
    if !home.kind.translates, home.kind.hasIPv4 {
      lines.append("route add \(network(lan(home, 0), 24)) via \(external(home))")
    }
    if home.kind.hasIPv6 {
      lines.append("route add \(v6(home, net: 1, host: 0))/64 via \(v6(home, net: 0, host: 2))")
    }
    for other in topology.homes where other.name != home.name {
      lines += routes(to: other, viaV4: edgeBackbone(other), viaV6: edgeBackboneV6(other))
    }
    return forwarding(edge(home)) + [.ip(namespace: edge(home), lines: lines)]
  }

  private func routerSteps(_ home: LabHome) -> [LabStep] {
    let last = home.kind.isDouble ? inner(home) : router(home)
    // What two hosts of a home say to each other is no business of the router's
    // rules; by default some kernels show it to them.
    let unfiltered = ["iptables", "ip6tables"].map {
      LabStep.sysctl(namespace: last, key: "net/bridge/bridge-nf-call-\($0)", value: "0")
    }
    var outside = ["link set lo up"]
    if home.kind.hasIPv4 { outside.append("address add \(external(home))/24 dev wan") }
    if home.kind.hasIPv6 {
      outside.append("address add \(v6(home, net: 0, host: 2))/64 dev wan nodad")
    }
    outside.append("link set wan up")
    if home.kind.hasIPv4 { outside.append("route add default via \(edgeV4(home))") }
    if home.kind.hasIPv6 {
      outside.append("route add default via \(v6(home, net: 0, host: 1))")
    }
    var steps = unfiltered + forwarding(router(home))
    if home.kind.isDouble {
      outside += [
        "address add \(Self.betweenRouters.outer)/24 dev lan", "link set lan up",
      ]
      steps.append(.ip(namespace: router(home), lines: outside))
      steps += forwarding(inner(home))
      outside = [
        "link set lo up", "address add \(Self.betweenRouters.inner)/24 dev wan",
        "link set wan up", "route add default via \(Self.betweenRouters.outer)",
      ]
    }
    var inside = ["link add lan type bridge", "link set lan up"]
    for index in home.hosts.indices {
      inside.append("link set p\(index + 1) master lan up")
      if home.isIsolated {
        inside.append("link set p\(index + 1) type bridge_slave isolated on")
      }
    }
    if home.kind.hasIPv4 { inside.append("address add \(lan(home, 1))/24 dev lan") }
    if home.kind.hasIPv6 {
      inside.append("address add \(v6(home, net: 1, host: 1))/64 dev lan nodad")
    }
    steps.append(.ip(namespace: last, lines: inside + outside))
    return steps
  }

  private func hostSteps(_ home: LabHome) -> [LabStep] {
    home.hosts.map { host in
      var lines = ["link set lo up"]
      if let address = address(of: host, v6: false) {
        lines.append("address add \(address)/24 dev eth0")
      }
      if let address = address(of: host, v6: true) {
        lines.append("address add \(address)/64 dev eth0 nodad")
      }
      lines.append("link set eth0 up")
      if home.kind.hasIPv4 { lines.append("route add default via \(lan(home, 1))") }
      if home.kind.hasIPv6 {
        lines.append("route add default via \(v6(home, net: 1, host: 1))")
      }
      return .ip(namespace: namespace(host), lines: lines)
    }
  }

  private func rules(_ home: LabHome) -> [LabStep] {
    var steps: [LabStep] = []
    var outer = home.kind
    outer.isDouble = false
    if home.kind.isDouble {
      steps.append(
        .nft(
          namespace: router(home),
          script: RouterRules.script(
            outer, external: external(home), inside: network(Self.betweenRouters.outer, 24))))
      steps.append(
        .nft(
          namespace: inner(home),
          script: RouterRules.script(
            .portRestricted, external: Self.betweenRouters.inner,
            inside: network(lan(home, 0), 24))))
    } else {
      let script = RouterRules.script(
        outer, external: external(home), inside: network(lan(home, 0), 24))
      if !script.isEmpty { steps.append(.nft(namespace: router(home), script: script)) }
    }
    if home.lossPerMille > 0 {
      steps.append(
        .nft(namespace: edge(home), script: RouterRules.loss(perMille: home.lossPerMille)))
    }
    return steps
  }
}
