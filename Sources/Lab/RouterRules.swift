/// A NAT kind as an nftables script for the router of one home. Text only.
/// RFC 4787 §4 and §5; what each rule was found to do with real packets is what
/// `martlet lab check-kinds` repeats (docs/lab.md, "How a kind is built").
///
/// Endpoint-independent mapping is not what conntrack does by itself: the
/// outside port of an inside port is learnt into `mapped` after translation and
/// used for every further peer; `owners` is the way back. What only looks like
/// it (port-preserving masquerade) serves where nothing else is wanted, because
/// that is what most real routers run.

package import Bytes
package import NAT

package enum RouterRules {
  /// Nil when the kind can be built.
  package static func refusal(of kind: NATKind) -> String? {
    switch (kind.mapping, kind.filtering) {
    case (.unknown, _), (_, .unknown): return "\(kind.name): mapping or filtering is not known"
    case (.addressDependent, _): return "\(kind.name): address-dependent mapping is not built"
    case (.none, .addressDependent):
      return "\(kind.name): address-dependent filtering without translation is not built"
    case (.addressAndPortDependent, .endpointIndependent),
      (.addressAndPortDependent, .addressDependent):
      return "\(kind.name): symmetric mapping with open filtering is not built"
    default: break
    }
    if kind.hasIPv6 && kind.translates { return "\(kind.name): IPv6 is not translated" }
    if !kind.hasIPv4 && !kind.hasIPv6 { return "\(kind.name): no address family" }
    if kind.isDouble && !kind.translates { return "\(kind.name): nothing to translate twice" }
    if case .sequential(let step) = kind.allocator {
      if kind.mapping != .addressAndPortDependent || step < 1 || step > 16 {
        return "\(kind.name): sequential ports are built for symmetric kinds, step 1 to 16"
      }
    }
    return nil
  }

  /// - Parameters:
  ///   - external: the router's address on `wan`.
  ///   - inside: the network on `lan`, as text with its length.
  /// - Returns: empty when the router only routes.
  package static func script(_ kind: NATKind, external: IPAddress, inside: String) -> String {
    precondition(refusal(of: kind) == nil, "\(kind.name) cannot be built")
    var script = ""
    let filters = kind.filtering != .endpointIndependent
    if kind.hasIPv6, filters || hasLimits(kind) {
      script += "table ip6 lab {\n" + forward(kind, translated: false) + "}\n"
    }
    guard kind.hasIPv4 else { return script }
    if !kind.translates {
      if filters || hasLimits(kind) {
        script += "table ip lab {\n" + forward(kind, translated: false) + "}\n"
      }
      return script
    }
    script += "table ip lab {\n"
    if isLearning(kind) { script += objects(kind) }
    script += prerouting(kind, external)
    script += postrouting(kind, external, inside)
    if isLearning(kind) { script += learning(kind, inside) }
    script += forward(kind, translated: true)
    script += input(kind, external)
    return script + "}\n"
  }

  package static func loss(perMille: Int) -> String {
    """
    table inet loss {
      chain forward {
        type filter hook forward priority -10; policy accept;
        numgen random mod 1000 < \(perMille) drop
      }
    }

    """
  }

  private static func hasLimits(_ kind: NATKind) -> Bool {
    !kind.passesUDP || kind.tcpPorts != nil
  }

  /// The router keeps its own table of outside ports.
  private static func isLearning(_ kind: NATKind) -> Bool {
    if kind.hairpins { return true }
    guard kind.mapping == .endpointIndependent else { return false }
    return kind.filtering != .addressAndPortDependent || kind.allocator != .preserving
  }

  private static func objects(_ kind: NATKind) -> String {
    var text = ""
    if kind.mapping == .endpointIndependent {
      text += """
          map mapped {
            type ipv4_addr . inet_service : ipv4_addr . inet_service
            flags dynamic,timeout; timeout 5m; size 65535
          }

        """
    }
    text += """
        map owners {
          type inet_service : ipv4_addr . inet_service
          flags dynamic,timeout; timeout 5m; size 65535
        }
        set taken { type inet_service; flags dynamic,timeout; timeout 5m; size 65535; }
        set heard {
          type inet_service . ipv4_addr
          flags dynamic,timeout; timeout 5m; size 65535
        }

      """
    return text
  }

  private static func prerouting(_ kind: NATKind, _ external: IPAddress) -> String {
    guard isLearning(kind) else { return "" }
    var text =
      "  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n"
    let back = "dnat ip addr . port to udp dport map @owners"
    switch kind.filtering {
    case .endpointIndependent: text += "    iifname \"wan\" ip daddr \(external) \(back)\n"
    case .addressDependent:
      text += "    iifname \"wan\" ip daddr \(external) udp dport . ip saddr @heard \(back)\n"
    case .addressAndPortDependent, .unknown: break  // conntrack lets answers in, nothing else
    }
    if kind.hairpins { text += "    iifname \"lan\" ip daddr \(external) \(back)\n" }
    return text + "  }\n"
  }

  private static func postrouting(
    _ kind: NATKind, _ external: IPAddress, _ inside: String
  ) -> String {
    var text =
      "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
    let outwards =
      kind.hairpins ? "oifname { \"wan\", \"lan\" } ip saddr \(inside)" : "oifname \"wan\""
    if isLearning(kind), kind.mapping == .endpointIndependent {
      // A port that a stranger's packet took is not to be had again: where that
      // can be, connections outwards are left to conntrack's own choice.
      let learnt = kind.isOpen ? "oifname \"lan\" ip saddr \(inside)" : outwards
      text += "    \(learnt) snat ip addr . port to ip saddr . udp sport map @mapped\n"
    }
    switch kind.allocator {
    case .preserving:
      if isLearning(kind), !kind.isOpen {
        text += "    \(outwards) udp sport @taken snat to \(external) fully-random\n"
      }
    case .random:
      text += "    \(outwards) meta l4proto udp snat to \(external) fully-random\n"
    case .sequential(let step):
      text += "    \(outwards) meta l4proto udp snat to \(external):\(ports(step))\n"
    }
    // A symmetric router is one for TCP as well; others keep its ports.
    let isMoving = kind.mapping == .addressAndPortDependent
    if isMoving { text += "    oifname \"wan\" meta l4proto tcp masquerade fully-random\n" }
    text += "    oifname \"wan\" masquerade\n"
    if kind.hairpins { text += "    oifname \"lan\" ip saddr \(inside) snat to \(external)\n" }
    return text + "  }\n"
  }

  /// A counter's register is in the machine's byte order and a port's in the
  /// network's, so the ports are listed.
  private static func ports(_ step: Int) -> String {
    let count = sequentialCount / step
    let ports = (0..<count).map { "\($0) : \(sequentialBase + $0 * step)" }.joined(separator: ", ")
    return "numgen inc mod \(count) map { \(ports) }"
  }
  package static let sequentialBase = 20_000
  private static let sequentialCount = 4_000

  /// After translation (priority srcnat is 100), once per connection.
  private static func learning(_ kind: NATKind, _ inside: String) -> String {
    let mapped =
      kind.mapping == .endpointIndependent
      ? "    meta l4proto udp update @mapped { ct original ip saddr . ct original proto-src : ip saddr . udp sport }\n"
      : ""
    return """
        chain learn {
          type filter hook postrouting priority 300; policy accept;
          oifname { "wan", "lan" } ct direction original ct original ip saddr \(inside) \
      meta l4proto udp jump keep
        }
        chain keep {
      \(mapped)    meta l4proto udp update @owners { udp sport : ct original ip saddr . ct original proto-src }
          update @taken { udp sport }
          update @heard { udp sport . ip daddr }
        }

      """
  }

  private static func forward(_ kind: NATKind, translated: Bool) -> String {
    var text = "  chain forward {\n    type filter hook forward priority 0; policy accept;\n"
    if !kind.passesUDP { text += "    meta l4proto udp drop\n" }
    if let ports = kind.tcpPorts {
      let list = ports.map { "\($0)" }.joined(separator: ", ")
      text += "    iifname \"lan\" tcp dport != { \(list) } drop\n"
    }
    if translated || kind.filtering != .endpointIndependent {
      text += "    iifname \"wan\" ct state established,related accept\n"
      if translated { text += "    iifname \"wan\" ct status dnat accept\n" }
      text += "    iifname \"wan\" drop\n"
    }
    return text + "  }\n"
  }

  /// Unsolicited packets that nobody inside owns end at the router itself. One
  /// that is accepted is remembered by conntrack and takes the port away for
  /// its sender (`isOpen`); one that is dropped leaves no trace.
  private static func input(_ kind: NATKind, _ external: IPAddress) -> String {
    var text = "  chain input {\n    type filter hook input priority 0; policy accept;\n"
    if !kind.isOpen {
      text += "    iifname \"wan\" ct state established,related accept\n"
      text += "    iifname \"wan\" meta l4proto { tcp, udp } drop\n"
    }
    text += "    iifname \"lan\" ip daddr \(external) meta l4proto { tcp, udp } drop\n"
    return text + "  }\n"
  }
}
