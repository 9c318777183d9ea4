/// Storms in homes: ten nodes behind routers of every kind, some in one home,
/// some behind one carrier's router, with and without IPv6; routers that
/// reboot, forget, change ports and addresses; nodes that move from home to
/// home. In the end every pair that theory lets through is direct, and every
/// other one has the relay (`PunchTheory`).

#if canImport(Bytes)
  internal import Bytes
  internal import NAT
#endif

extension Scenario {
  private var nodesInHomes: Int { settings.nodes ?? 10 }

  // MARK: Set-up

  func addHomes() {
    while world.nodes.count < nodesInHomes {
      if world.chance(0.1), world.nodes.count + 2 <= nodesInHomes {
        addHomesBehindOneCarrier()
      } else {
        addHome(kind: randomKind(), behind: nil)
      }
    }
  }

  private func randomKind() -> NATKind {
    var kind = NATKind.all[Int(world.pick(0...Int64(NATKind.all.count - 1)))]
    if kind.hasIPv4 {
      kind.hasIPv6 = world.chance(0.2)
      kind.hairpins = kind.translates && world.chance(0.3)
    }
    return kind
  }

  private func addHome(kind: NATKind, behind carrier: Site?) {
    let home = world.addHome(kind: kind, behind: carrier)
    var effective = kind
    if carrier != nil {
      // Whatever the home lets in, the carrier does not.
      effective.filtering = .addressAndPortDependent
      effective.isDouble = true
    }
    kinds[home.site.number] = effective
    let most = min(3, nodesInHomes - world.nodes.count)
    let count = world.chance(0.2) ? Int(world.pick(1...Int64(most))) : 1
    for _ in 0..<count { world.addNode(in: home.site, kind: kind) }
    if world.chance(0.2) {
      // As short as routers in the field have it.
      for router in home.routers {
        router.box.timers.unreplied = .seconds(world.pick(20...30))
        router.box.timers.replied = .seconds(world.pick(30...180))
        router.box.timers.incomingRefreshes = world.chance(0.5)
      }
    }
  }

  private func addHomesBehindOneCarrier() {
    let carrier = world.addCarrierNAT()
    for _ in 0..<2 {
      var kind = randomKind()
      // A carrier translates IPv4; homes of its customers do so once more.
      if !kind.translates || kind.isDouble { kind = .portRestricted }
      kind.hasIPv6 = false
      if world.nodes.count < nodesInHomes { addHome(kind: kind, behind: carrier) }
    }
  }

  // MARK: Trouble

  private var routers: [Site] { world.network.sites }

  func troubleAtHome() {
    let router = routers[Int(world.pick(0...Int64(routers.count - 1)))]
    switch world.pick(0...5) {
    case 0, 1:
      let isReaddressed = router.kind.translates && router.outer == nil && world.chance(0.4)
      world.reboot(
        router, downFor: world.chance(0.7) ? .milliseconds(world.pick(500...20_000)) : .zero,
        address: isReaddressed ? world.freshPublicAddress() : nil)
    case 2, 3:
      world.rebind(router)
    case 4:
      world.setDown(router, true)
      let number = router.number
      world.after(.milliseconds(world.pick(200...15_000))) {
        $0.setDown($0.network.sites[number], false)
      }
    default:
      router.box.timers.replied = .seconds(world.pick(30...180))
    }
  }

  func moveHome(_ node: SimulatedNode) {
    let homes = kinds.keys.sorted()
    let site = world.network.sites[homes[Int(world.pick(0...Int64(homes.count - 1)))]]
    guard site !== node.home, let kind = kinds[site.number] else { return }
    node.move(into: site, kind: kind)
    world.setUplinkCut(node.index, site.isDown)
  }

  // MARK: Theory

  func sharesHome(_ a: Int, _ b: Int) -> Bool {
    guard let home = world.nodes[a].home else { return false }
    return home === world.nodes[b].home
  }

  private func kind(of node: Int) -> NATKind {
    world.nodes[node].home.flatMap { kinds[$0.number] } ?? .open
  }

  func homeWords(_ node: Int) -> String {
    let kind = kind(of: node)
    return kind.name + (kind.hasIPv4 && kind.hasIPv6 ? "+ipv6" : "")
  }

  private func expectedRoad(_ a: Int, _ b: Int) -> ExpectedRoad {
    if sharesHome(a, b) { return .direct }
    let (one, other) = (kind(of: a), kind(of: b))
    var (oneV4, otherV4) = (one, other)
    if one.hasIPv4, other.hasIPv4 {
      oneV4.hasIPv6 = false
      otherV4.hasIPv6 = false
    }
    let road = PunchTheory.expected(oneV4, otherV4)
    // Behind one carrier that does not hairpin there is no way over IPv4.
    let carrier = world.nodes[a].home?.outer
    let isSameCarrier = carrier != nil && carrier === world.nodes[b].home?.outer
    if isSameCarrier || !road.isDirect || road == .guessed {
      // Firewalls that let nobody in unasked stand before both IPv6 addresses.
      if one.hasIPv6, other.hasIPv6, one.passesUDP, other.passesUDP { return .punched }
    }
    return isSameCarrier ? .relayed : road
  }

  /// Everywhere without homes: whatever is not cut is reachable.
  func mustBeDirect(_ a: Int, _ b: Int) -> Bool {
    guard settings.homes else { return true }
    switch expectedRoad(a, b) {
    case .direct, .punched: return true
    case .guessed, .tcpDirect, .tcpPunched, .relayed: return false
    }
  }

  /// A direct path was found; quality may prefer the relay all the same.
  func isGuessed(_ a: Int, _ b: Int) -> Bool {
    let (one, other) = (world.nodes[a], world.nodes[b])
    return one.isOnBestRoad(to: other) && other.isOnBestRoad(to: one)
  }

  func isDirect(_ a: Int, _ b: Int) -> Bool {
    let (one, other) = (world.nodes[a], world.nodes[b])
    return one.isOnBestRoad(to: other) && other.isOnBestRoad(to: one)
  }

  func pairsToGuess() -> [(Int, Int)] {
    var result: [(Int, Int)] = []
    for a in 0..<world.nodes.count {
      for b in (a + 1)..<world.nodes.count where expectedRoad(a, b) == .guessed {
        result.append((a, b))
      }
    }
    return result
  }

  func countRoads() -> RoadCount {
    var roads = RoadCount()
    for a in 0..<world.nodes.count {
      for b in 0..<a {
        switch expectedRoad(a, b) {
        case .direct, .punched:
          roads.direct += 1
        case .guessed:
          roads.guessed += 1
        case .tcpDirect, .tcpPunched, .relayed:
          roads.relayed += 1
          if isDirect(a, b) { roads.lucky += 1 }
        }
      }
    }
    return roads
  }
}
