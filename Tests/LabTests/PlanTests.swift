import Bytes
import Lab
import NAT
import Testing

/// A topology as commands: what is made for whom, without making it.
@Suite struct PlanTests {
  private func lines(_ plan: NetworkPlan, _ namespace: String) -> [String] {
    plan.steps.flatMap { step -> [String] in
      if case .ip(let name, let lines) = step, name == namespace { return lines }
      return []
    }
  }

  private func script(_ plan: NetworkPlan, _ namespace: String) -> String? {
    for case .nft(let name, let script) in plan.steps where name == namespace { return script }
    return nil
  }

  @Test func everyNameBeginsWithThePrefix() {
    for kind in NATKind.all {
      let plan = NetworkPlan(.cell(kind, .doubleNAT), prefix: "try7")
      #expect(plan.namespaces.allSatisfy { $0.hasPrefix("try7-") })
      #expect(Set(plan.namespaces).count == plan.namespaces.count, "\(kind.name)")
      for step in plan.steps {
        switch step {
        case .ip(nil, let lines):
          for line in lines {
            let words = line.split(separator: " ")
            if words[0] == "netns" {
              #expect(plan.namespaces.contains(String(words[2])))
            } else {
              let named = zip(words, words.dropFirst()).filter { $0.0 == "netns" }.map(\.1)
              #expect(named.count == 2 && named.allSatisfy { plan.namespaces.contains(String($0)) })
            }
          }
        case .ip(let name?, _), .sysctl(let name, _, _), .nft(let name, _):
          #expect(plan.namespaces.contains(name))
        }
      }
    }
  }

  @Test func homesMayUseOneNetworkAndAreTwoRoutersApart() {
    let plan = NetworkPlan(.cell(.portRestricted, .fullCone), prefix: "p")
    #expect(plan.address(of: "a") == IPAddress(192, 168, 1, 10))
    #expect(plan.address(of: "b") == IPAddress(192, 168, 1, 10))
    // Each router has a router of the provider to itself; those meet at the switch.
    for home in ["left", "right"] {
      #expect(plan.namespaces.contains("p-edge-\(home)"))
      #expect(plan.namespaces.contains("p-router-\(home)"))
    }
    #expect(lines(plan, "p-router-left").contains("route add default via 198.18.1.1"))
    #expect(lines(plan, "p-edge-left").contains("route add 198.18.2.0/24 via 198.19.0.102"))
    // Nothing outside knows a private network.
    for step in plan.steps {
      if case .ip(let name?, let lines) = step, !name.hasPrefix("p-router"), name != "p-a",
        name != "p-b"
      {
        #expect(!lines.contains { $0.contains("192.168.") }, "\(name)")
      }
    }
  }

  @Test func aPublicHomeIsRoutedAndNotTranslated() {
    let plan = NetworkPlan(.cell(.open, .firewalled), prefix: "p")
    #expect(plan.address(of: "a") == IPAddress(198, 18, 101, 10))
    #expect(lines(plan, "p-server").contains("route add 198.18.101.0/24 via 198.19.0.101"))
    #expect(script(plan, "p-router-left") == nil)
    let wall = script(plan, "p-router-right") ?? ""
    #expect(wall.contains("iifname \"wan\" drop"))
    #expect(!wall.contains("masquerade") && !wall.contains("snat"))
  }

  @Test func doubleNATIsTwoRouters() {
    let plan = NetworkPlan(.cell(.doubleNAT, .open), prefix: "p")
    #expect(plan.namespaces.contains("p-inner-left"))
    #expect(script(plan, "p-router-left")?.contains("masquerade") == true)
    #expect(script(plan, "p-inner-left")?.contains("masquerade") == true)
    #expect(plan.address(of: "a") == IPAddress(192, 168, 1, 10))
  }

  @Test func onlyIPv6HasNoIPv4() {
    let plan = NetworkPlan(.cell(.onlyIPv6, .open), prefix: "p")
    #expect(plan.address(of: "a")?.isV4 == false)
    #expect(plan.address(of: "a", v6: false) == nil)
    for name in ["p-a", "p-router-left"] {
      #expect(!lines(plan, name).contains { $0.contains("198.") || $0.contains("192.") })
    }
    #expect(script(plan, "p-router-left")?.contains("table ip6 lab") == true)
    // Where nobody has IPv6 nothing of it is made.
    let plain = NetworkPlan(.cell(.open, .open), prefix: "p")
    #expect(!plain.steps.contains { $0.text.contains("2001:db8") })
  }

  @Test func theServerMovesToTheOnlyOpenPort() {
    #expect(LabTopology.cell(.onlyTCP443, .open).serverPort == 443)
    #expect(LabTopology.cell(.udpBlocked, .open).serverPort == 27183)
  }

  @Test func badTopologiesAreNamed() {
    func fault(_ homes: [LabHome]) -> String? { LabTopology("t", homes: homes).fault }
    #expect(fault([]) != nil)
    #expect(fault([LabHome("h", .open, hosts: [])])?.contains("no host") == true)
    #expect(fault([LabHome("h", .open, hosts: ["a", "a"])])?.contains("share") == true)
    #expect(fault([LabHome("h", .open, hosts: ["server"])])?.contains("share") == true)
    #expect(fault([LabHome("h; rm", .open, hosts: ["a"])])?.contains("a name is") == true)
    var strange = NATKind.portRestricted
    strange.mapping = .addressDependent
    #expect(fault([LabHome("h", strange, hosts: ["a"])])?.contains("not built") == true)
    for kind in NATKind.all {
      #expect(fault([LabHome("h", kind, hosts: ["a", "b"])]) == nil, "\(kind.name)")
    }
  }
}

/// Each kind's rules, by what tells it from its neighbours.
@Suite struct RouterRulesTests {
  private func script(_ kind: NATKind, hairpins: Bool = false) -> String {
    var kind = kind
    kind.hairpins = hairpins
    kind.isDouble = false
    return RouterRules.script(
      kind, external: IPAddress(198, 18, 1, 2), inside: "192.168.1.0/24")
  }

  @Test func filteringIsWhoMayComeBack() {
    #expect(script(.fullCone).contains("\"wan\" ip daddr 198.18.1.2 dnat"))
    #expect(script(.addressRestricted).contains("udp dport . ip saddr @heard dnat"))
    #expect(!script(.portRestricted).contains("dnat ip addr"))
    #expect(!script(.portRestrictedRandomPort).contains("dnat ip addr"))
  }

  @Test func onlyAnOpenRouterTakesWhatNobodyAskedFor() {
    let drops = "iifname \"wan\" meta l4proto { tcp, udp } drop"
    for kind in NATKind.all where kind.translates {
      #expect(script(kind).contains(drops) == !kind.isOpen, "\(kind.name)")
    }
  }

  @Test func portsAreChosenAsDescribed() {
    #expect(!script(.portRestricted).contains("random"))
    #expect(script(.symmetricRandom).contains("fully-random"))
    #expect(!script(.symmetricRandom).contains("@mapped"))
    #expect(script(.portRestrictedRandomPort).contains("@mapped"))
    #expect(script(.symmetricSequential).contains("0 : 20000, 1 : 20001, 2 : 20002"))
    var byTwo = NATKind.symmetricSequential
    byTwo.allocator = .sequential(step: 2)
    #expect(script(byTwo).contains("0 : 20000, 1 : 20002"))
  }

  @Test func hairpinsOnlyWhereWanted() {
    for kind in NATKind.all where kind.translates {
      #expect(script(kind, hairpins: true).contains("iifname \"lan\" ip daddr 198.18.1.2 dnat"))
      #expect(!script(kind).contains("iifname \"lan\" ip daddr 198.18.1.2 dnat"))
    }
  }

  @Test func whatIsBlockedIsBlocked() {
    #expect(script(.udpBlocked).contains("meta l4proto udp drop"))
    #expect(script(.onlyTCP443).contains("tcp dport != { 443 } drop"))
    #expect(!script(.udpBlocked).contains("tcp dport"))
  }
}

/// The judgement of what probes saw.
@Suite struct KindFactsTests {
  /// What a router of exactly this kind shows.
  private func seen(_ kind: NATKind) -> KindFacts {
    var facts = KindFacts()
    facts.hasIPv4 = kind.hasIPv4
    facts.hasIPv6 = kind.hasIPv6
    facts.passesUDP = kind.passesUDP
    facts.tcpTried = [443, 27183]
    facts.tcpAnswered = kind.tcpPorts ?? [443, 27183]
    facts.homeRouters = kind.isDouble ? 2 : 1
    facts.reachesNeighbour = true
    guard kind.passesUDP else { return facts }
    facts.mapping = kind.mapping
    facts.filtering = kind.filtering
    facts.allocator = kind.allocator
    facts.hairpins = kind.hairpins
    facts.hairpinsWithOutsideSource = kind.hairpins
    facts.isOpen = kind.isOpen
    facts.keepsHostsApart = true
    return facts
  }

  @Test func aRouterIsOfItsOwnKindAndOfNoOther() {
    for kind in NATKind.all {
      let facts = seen(kind)
      for other in NATKind.all {
        let lines = facts.mismatches(other)
        #expect(lines.isEmpty == (kind == other), "\(kind.name) as \(other.name): \(lines)")
      }
    }
  }

  @Test func nothingSeenIsNoKind() {
    for kind in NATKind.all { #expect(!KindFacts().mismatches(kind).isEmpty, "\(kind.name)") }
  }

  @Test func mappingIsReadOffFourSources() {
    let inside = "192.168.1.10:5"
    #expect(KindFacts.mapping(["a", "a", "a", "a"], inside: inside) == .endpointIndependent)
    #expect(KindFacts.mapping(["a", "a", "b", "b"], inside: inside) == .addressDependent)
    #expect(KindFacts.mapping(["a", "b", "c", "d"], inside: inside) == .addressAndPortDependent)
    #expect(
      KindFacts.mapping([inside, inside, inside, inside], inside: inside) == NATMapping.none)
    #expect(KindFacts.mapping(["a", nil, "a", "a"], inside: inside) == nil)
  }

  @Test func allocatorIsReadOffPorts() {
    func pairs(_ outside: [UInt16]) -> [(local: UInt16, outside: UInt16)] {
      outside.enumerated().map { (UInt16(5000 + $0), $1) }
    }
    #expect(KindFacts.allocator(pairs([5000, 5001, 5002, 5003])) == .preserving)
    #expect(KindFacts.allocator(pairs([20_001, 20_002, 20_003])) == .sequential(step: 1))
    #expect(KindFacts.allocator(pairs([20_001, 20_005, 20_009])) == .sequential(step: 4))
    #expect(KindFacts.allocator(pairs([20_001, 53_002, 9_003])) == .random)
    #expect(KindFacts.allocator(pairs([20_001, 20_002])) == nil)
  }
}
