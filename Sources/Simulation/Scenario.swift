/// A storm drawn from a seed: who takes part, what the links are like, what is
/// transferred, what breaks and when; then calm, in which everything must come
/// back. DESIGN §7 names what must hold.

#if canImport(Bytes)
  package import Bytes
  internal import NAT
  internal import NodeCore
#endif

package struct ScenarioSettings: Sendable {
  package var storm = TimeAmount.seconds(90)
  /// Everything must be back within this after the storm.
  package var calm = TimeAmount.seconds(400)
  /// Every node is online and every pair connected, on whatever road, this soon.
  package var connected = TimeAmount.seconds(45)
  package var mutations = NodeMutations()
  /// Kinds of trouble that may happen; everything by default.
  package var troubles = Trouble.all
  /// Everybody lives behind a router of some kind (`Scenario+Homes`).
  package var homes = false
  /// How many take part; nil: two to six, in homes ten.
  package var nodes: Int?
  /// Trouble comes so often.
  package var pause: ClosedRange<Int64> = 200...6_000
  /// Some nodes are relays for others.
  package var relays = false
  /// Pairs whose ports must be guessed have this long after everybody else is
  /// back: a guess that failed waits ten minutes for the next.
  package var guessed = TimeAmount.minutes(35)

  package init() {}

  /// Ten nodes behind routers.
  package static var inHomes: ScenarioSettings {
    var settings = ScenarioSettings()
    settings.homes = true
    return settings
  }

  /// Twenty nodes, some of them relays, that come and go; the mesh falls apart
  /// and grows together again.
  package static var ofTwenty: ScenarioSettings {
    var settings = ScenarioSettings()
    settings.nodes = 20
    settings.relays = true
    settings.pause = 100...3_000
    settings.troubles.insert([.partitions, .relayKills])
    return settings
  }
}

package struct Trouble: OptionSet, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package static let cuts = Trouble(rawValue: 1)
  package static let serverKills = Trouble(rawValue: 2)
  package static let agentKills = Trouble(rawValue: 4)
  package static let legResets = Trouble(rawValue: 8)
  package static let moves = Trouble(rawValue: 16)
  package static let clocks = Trouble(rawValue: 32)
  package static let sleeps = Trouble(rawValue: 64)
  package static let attacks = Trouble(rawValue: 128)
  package static let linkChanges = Trouble(rawValue: 256)
  package static let uplinkCuts = Trouble(rawValue: 512)
  /// Reboots, new ports, new addresses, other timers; of homes only.
  package static let routers = Trouble(rawValue: 1024)
  /// Of worlds that ask for them only.
  package static let partitions = Trouble(rawValue: 2048)
  package static let relayKills = Trouble(rawValue: 4096)
  package static let all = Trouble(rawValue: 2047)
}

/// What came of one world.
package struct ScenarioResult: Sendable {
  package var seed: UInt64
  package var statistics: WorldStatistics
  package var violations: [String]
  package var traceHash: UInt64
  /// From the end of the storm until everything was back.
  package var recovery: TimeAmount
  /// The same until every pair was connected at all.
  package var connected: TimeAmount
  /// Pairs of nodes by the road they had in the end; of homes only.
  package var roads = RoadCount()
}

package struct RoadCount: Sendable {
  package var direct = 0
  /// Direct in the end, by a guess.
  package var guessed = 0
  package var relayed = 0
  /// Of the relayed ones by theory, those that are direct all the same.
  package var lucky = 0

  package init() {}

  package static func += (a: inout RoadCount, b: RoadCount) {
    a.direct += b.direct
    a.relayed += b.relayed
    a.guessed += b.guessed
    a.lucky += b.lucky
  }
}

package final class Scenario {
  let world: World
  let settings: ScenarioSettings
  /// Addresses are never used twice.
  var lastAddress: UInt32 = 0
  var stormEnds: Instant
  /// Pairs whose direct road is cut, and nodes that are away, by what cut them.
  var isStorm = true
  /// What theory needs to know of each site (its carrier's router included).
  var kinds: [Int: NATKind] = [:]
  /// Pairs that only a guess can bring together, not seen direct after the
  /// storm. Pairs let go of each other later on, so being there once counts.
  var unguessed: [(Int, Int)] = []
  /// Everybody else is back.
  var isGuessing = false
  /// Nobody wants anything any more.
  var isResting = false

  package init(
    seed: UInt64, settings: ScenarioSettings = ScenarioSettings(),
    print: ((String) -> Void)? = nil
  ) {
    self.settings = settings
    world = World(seed: seed)
    world.print = print
    stormEnds = world.now + settings.storm
  }

  /// Runs the whole world.
  package static func run(
    seed: UInt64, settings: ScenarioSettings = ScenarioSettings(),
    print: ((String) -> Void)? = nil
  ) -> ScenarioResult {
    let scenario = Scenario(seed: seed, settings: settings, print: print)
    return scenario.run()
  }

  // MARK: Set-up

  func freshAddress() -> IPAddress {
    lastAddress += 1
    return IPAddress(v4: 0xcb00_7100 + (lastAddress << 8) + 1 + lastAddress % 200)
  }

  func freshAddresses() -> [IPAddress] {
    var result = [freshAddress()]
    if world.chance(0.3) {
      result.append(
        IPAddress(high: 0x2001_0db8_0000_0000 | UInt64(lastAddress), low: UInt64(lastAddress)))
    }
    return result
  }

  func randomLink() -> LinkSettings {
    var link = LinkSettings()
    link.delay = .microseconds(world.pick(500...(world.chance(0.2) ? 150_000 : 40_000)))
    if world.chance(0.5) {
      link.jitter = .microseconds(world.pick(0...link.delay.nanoseconds / 4_000))
    }
    if world.chance(0.6) { link.loss = Double(world.pick(0...50)) / 1_000 }
    if world.chance(0.3) { link.duplication = Double(world.pick(0...20)) / 1_000 }
    if world.chance(0.3) { link.reorder = Double(world.pick(0...20)) / 1_000 }
    link.rate = [250_000, 1_250_000, 12_500_000, 0][Int(world.pick(0...3))]
    link.queueBytes = Int(world.pick(16...256)) * 1_024
    link.mtu = [1_280, 1_400, 1_500, 1_500, 1_500, 9_000][Int(world.pick(0...5))]
    link.tellsTooLong = world.chance(0.5)
    return link
  }

  func setUp() {
    if settings.homes { addHomes() }
    let count =
      settings.homes ? world.nodes.count : settings.nodes ?? Int(world.pick(2...6))
    for index in 0..<count {
      let node = settings.homes ? world.nodes[index] : world.addNode(addresses: freshAddresses())
      node.usesTLS = world.chance(0.5)
      node.uplinkSettings.delay = .milliseconds(world.pick(1...80))
      node.uplinkSettings.jitter = .milliseconds(world.pick(0...10))
      node.uplinkSettings.rate = [500_000, 2_000_000, 12_000_000][Int(world.pick(0...2))]
      node.uplinkSettings.stalls = world.chance(0.3) ? 0.005 : 0
      node.mutations = settings.mutations
      if settings.relays, index == 0 || world.chance(0.25) {
        node.relaySettings = SimulatedRelaySettings(
          isSuper: world.chance(0.3), megabits: world.chance(0.3) ? 4 : nil,
          takesDatagrams: world.chance(0.6))
      }
      if settings.troubles.contains(.attacks), world.chance(0.15) {
        // Victims: nobody is there, and nobody may be bothered.
        for _ in 0..<world.pick(1...3) {
          node.lies.append(IPAddress(v4: 0xc633_6500 + UInt32(world.pick(1...6))))
        }
      }
    }
    for a in 0..<count {
      for b in 0..<count where a != b && !sharesHome(a, b) {
        if world.chance(0.7), b < a {
          // Most roads are the same both ways.
          let link = world.network.settings(from: b, to: a)
          world.network.changeOneWay(from: a, to: b) { $0 = link }
        } else {
          let link = randomLink()
          world.network.changeOneWay(from: a, to: b) { $0 = link }
        }
      }
    }
    if settings.troubles.contains(.attacks), world.chance(0.5) {
      world.attacker.hearing = 0.02
    }
    world.server.start()
    for node in world.nodes {
      world.after(.milliseconds(world.pick(0...3_000))) { world in world.nodes[node.index].start() }
    }
  }

  // MARK: Traffic

  func randomScript(bulk: Bool) -> ApplicationScript {
    var script = ApplicationScript()
    switch world.pick(0...9) {
    case 0: script.bytes = 0
    case 1...5: script.bytes = UInt64(world.pick(1...3_000))
    case 6...7: script.bytes = UInt64(world.pick(1_000...100_000))
    default: script.bytes = UInt64(world.pick(50_000...(bulk ? 1_500_000 : 200_000)))
    }
    if world.chance(0.2) {
      script.chunk = Int(world.pick(16...1_200))
      script.pause = .milliseconds(world.pick(1...80))
      script.bytes = min(script.bytes, UInt64(script.chunk) * 150)
    }
    if world.chance(0.1) {
      script.readRate = Int(world.pick(10_000...200_000))
    }
    return script
  }

  func converse() {
    let count = Int64(world.nodes.count)
    let near = Int(world.pick(0...count - 1))
    let far = Int(world.pick(0...count - 1))
    guard near != far, world.nodes[near].isOnline || world.chance(0.2) else { return }
    let bulk = world.chance(0.15)
    var nearScript = randomScript(bulk: bulk)
    var farScript = randomScript(bulk: bulk)
    switch world.pick(0...9) {
    case 0: nearScript.begin = .afterBytes(1)  // the server speaks first
    case 1: nearScript.begin = .afterEnd
    case 2...4: farScript.begin = .afterEnd
    case 5: farScript.begin = .afterBytes(1)
    default: break
    }
    if case .atOnce = farScript.begin {
    } else if case .atOnce = nearScript.begin {
    } else {
      farScript.begin = .atOnce
    }
    // Whoever is waited for must say something.
    if case .afterBytes = nearScript.begin { farScript.bytes = max(1, farScript.bytes) }
    if world.chance(0.06) { nearScript.resetAfter = UInt64(world.pick(0...50_000)) }
    if world.chance(0.06) { farScript.resetAfter = UInt64(world.pick(0...50_000)) }
    // A reader so slow that it takes minutes tells nothing new.
    for _ in 0..<1 {
      if nearScript.readRate > 0 { farScript.bytes = min(farScript.bytes, 400_000) }
      if farScript.readRate > 0 { nearScript.bytes = min(nearScript.bytes, 400_000) }
    }
    let dial: DialScript =
      switch world.pick(0...19) {
      case 0: .refuse
      case 1: .hang
      default: .accept(after: .microseconds(world.pick(100...20_000)))
      }
    world.converse(
      near: near, far: far, nearScript: nearScript, farScript: farScript, dial: dial)
  }

  func scheduleTraffic() {
    guard isStorm else { return }
    let burst = world.chance(0.1) ? Int(world.pick(5...30)) : 1
    for _ in 0..<burst { converse() }
    let mean = world.chance(0.1) ? 5_000 : 500
    world.after(.milliseconds(world.pick(10...Int64(2 * mean)))) { [self] _ in scheduleTraffic() }
  }

  // MARK: Trouble

  func scheduleTrouble() {
    guard isStorm else { return }
    trouble()
    world.after(.milliseconds(world.pick(settings.pause))) { [self] _ in scheduleTrouble() }
  }

  func anyNode() -> Int { Int(world.pick(0...Int64(world.nodes.count - 1))) }

  func trouble() {
    let allowed = settings.troubles
    if settings.homes, allowed.contains(.routers), world.chance(0.4) {
      troubleAtHome()
      return
    }
    if allowed.contains(.partitions), world.chance(0.1) { return partition() }
    if allowed.contains(.relayKills), world.chance(0.15) { return killRelay() }
    let index = anyNode()
    let node = world.nodes[index]
    switch world.pick(0...11) {
    case 0, 1,
      2 where allowed.contains(.cuts):
      cutPair()
    case 3 where allowed.contains(.serverKills):
      guard world.server.isRunning else { return }
      if world.chance(0.3) {
        world.server.dieAfterEffects = Int(world.pick(0...10))
      } else {
        world.server.kill(silently: world.chance(0.2))
      }
      world.after(.milliseconds(world.pick(50...8_000))) { world in
        world.server.dieAfterEffects = nil
        if !world.server.isRunning { world.server.start() }
      }
    case 4 where allowed.contains(.agentKills):
      guard node.isRunning else { return }
      node.kill(silently: world.chance(0.2))
      world.after(.milliseconds(world.pick(20...10_000))) { $0.nodes[index].start() }
    case 5 where allowed.contains(.legResets):
      node.resetLeg()
    case 6 where allowed.contains(.moves):
      if settings.homes { moveHome(node) } else { node.move(to: freshAddresses()) }
    case 7 where allowed.contains(.clocks):
      let year: Int64 = 31_557_600_000_000_000
      node.wallOffset = [-10 * year, 70 * year, 0, -5_000_000_000][Int(world.pick(0...3))]
      world.note("\(node.name): wall clock off by \(node.wallOffset / 1_000_000_000) s")
    case 8 where allowed.contains(.sleeps):
      guard !node.isSuspended else { return }
      node.suspend()
      world.after(.milliseconds(world.pick(100...(world.chance(0.2) ? 90_000 : 8_000)))) {
        $0.nodes[index].resume()
      }
    case 9 where allowed.contains(.attacks):
      world.attack(index, count: Int(world.pick(1...200)))
    case 10 where allowed.contains(.linkChanges):
      let other = anyNode()
      guard other != index else { return }
      let link = randomLink()
      let isCut = world.network.settings(from: index, to: other).isCut
      world.note("link \(index)→\(other) changes")
      world.network.changeOneWay(from: index, to: other) {
        $0 = link
        $0.isCut = isCut
      }
    case 11 where allowed.contains(.uplinkCuts):
      world.setUplinkCut(index, true)
      world.after(.milliseconds(world.pick(100...(world.chance(0.2) ? 60_000 : 10_000)))) {
        $0.setUplinkCut(index, false)
      }
    default:
      break
    }
  }

  /// Every direct road between two halves is cut, and now and then one half's way
  /// to the server.
  func partition() {
    let isHere = world.nodes.map { _ in world.chance(0.5) }
    let losesServer = world.chance(0.3)
    world.note("falls apart: \(isHere.map { $0 ? "1" : "0" }.joined())")
    func set(_ world: World, _ isCut: Bool) {
      for a in isHere.indices where isHere[a] {
        for b in isHere.indices where !isHere[b] {
          world.network.change(a, b) { $0.isCut = isCut }
        }
        if losesServer { world.setUplinkCut(a, isCut) }
      }
    }
    set(world, true)
    world.after(.milliseconds(world.pick(200...20_000))) { world in
      world.note("grows together")
      set(world, false)
    }
  }

  func killRelay() {
    let relays = world.nodes.filter { $0.relaySettings != nil && $0.isRunning }
    guard !relays.isEmpty else { return }
    let index = relays[Int(world.pick(0...Int64(relays.count - 1)))].index
    world.nodes[index].kill(silently: world.chance(0.3))
    world.after(.milliseconds(world.pick(20...10_000))) { $0.nodes[index].start() }
  }

  func cutPair() {
    let a = anyNode()
    let b = anyNode()
    guard a != b else { return }
    let isOneWay = world.chance(0.2)
    world.note("direct road \(a)\(isOneWay ? "→" : "↔")\(b) cut")
    world.network.changeOneWay(from: a, to: b) { $0.isCut = true }
    if !isOneWay { world.network.changeOneWay(from: b, to: a) { $0.isCut = true } }
    world.after(.milliseconds(world.pick(50...(world.chance(0.2) ? 60_000 : 10_000)))) { world in
      world.note("direct road \(a)↔\(b) healed")
      world.network.heal(a, b)
    }
  }
}
