/// The end of a storm: everything is mended, and everything must come back:
/// logins, sessions, direct paths, every connection to its end, and rest.

#if canImport(Bytes)
  internal import Bytes
  internal import NAT
  internal import NodeCore
  internal import Paths
#endif

extension Scenario {
  // MARK: Run

  func run() -> ScenarioResult {
    setUp()
    world.after(.milliseconds(500)) { [self] _ in scheduleTraffic() }
    world.after(.seconds(2)) { [self] _ in scheduleTrouble() }
    world.run(until: stormEnds)
    isStorm = false
    calm()
    let calmBegan = world.now
    // More than three logins with one key in a minute are refused, by design; the
    // last of them may come when the storm is over.
    func isConnected(within limit: TimeAmount) -> Bool {
      world.run(for: limit, checkEvery: .milliseconds(500), isDone: { self.isConnected($0) })
    }
    let isInTime =
      isConnected(within: settings.connected)
      || world.refusals > 0 && isConnected(within: SimulatedNode.afterRefusal)
    if !isInTime {
      world.note("not connected in time")
      tellWhatIsMissing()
    }
    let connected = world.now - calmBegan
    let isBack = world.run(for: settings.calm, checkEvery: .milliseconds(500)) { self.isBack($0) }
    let recovery = world.now - calmBegan
    var areAllBack = isBack
    if isBack, settings.homes {
      isGuessing = true
      areAllBack = world.run(for: settings.guessed, checkEvery: .seconds(1)) { _ in
        self.unguessed.removeAll { self.isGuessed($0, $1) }
        return self.unguessed.isEmpty && self.world.conversations.allSatisfy(\.isOver)
      }
    }
    isResting = true
    if !areAllBack { tellWhatIsMissing() }
    if areAllBack, world.violations.isEmpty { checkRest() }
    var result = ScenarioResult(
      seed: world.seed, statistics: world.statistics, violations: world.violations,
      traceHash: world.traceHash, recovery: recovery, connected: connected)
    if settings.homes { result.roads = countRoads() }
    return result
  }

  /// Everything is mended; clocks may stay wrong.
  private func calm() {
    world.note("the storm is over")
    let count = world.nodes.count
    if !world.server.isRunning { world.server.start() }
    world.server.dieAfterEffects = nil
    for site in world.network.sites { world.setDown(site, false) }
    for a in 0..<count {
      world.setUplinkCut(a, false)
      world.nodes[a].resume()
      if !world.nodes[a].isRunning { world.nodes[a].start() }
      for b in 0..<count where a != b {
        world.network.changeOneWay(from: a, to: b) { $0.isCut = false }
      }
    }
    if settings.homes { unguessed = pairsToGuess() }
    // Somebody wants every pair, and wants it now and then.
    for a in 0..<count {
      for b in 0..<count where a < b {
        askNowAndThen(a, b)
      }
    }
  }

  private func askNowAndThen(_ a: Int, _ b: Int) {
    world.after(.milliseconds(world.pick(0...3_000))) { [self] world in
      let isUnguessed = unguessed.contains { $0 == (a, b) } && !isGuessed(a, b)
      guard isUnguessed || !isGuessing && !isPairBack(a, b) else {
        // In homes a path may still be lost that seemed to be there.
        if settings.homes, !isResting {
          world.after(.seconds(17)) { [self] _ in askNowAndThen(a, b) }
        }
        return
      }
      if world.nodes[a].isOnline {
        var script = ApplicationScript()
        script.bytes = 100
        world.converse(near: a, far: b, nearScript: script, farScript: script)
      }
      world.after(.seconds(17)) { [self] _ in askNowAndThen(a, b) }
    }
  }

  private func isPairBack(_ a: Int, _ b: Int) -> Bool {
    let (one, other) = (world.nodes[a], world.nodes[b])
    guard mustBeDirect(a, b) else {
      return one.tier(to: other) != nil && other.tier(to: one) != nil
    }
    // Direct wherever a direct road works, which now is everywhere.
    return one.isOnBestRoad(to: other) && other.isOnBestRoad(to: one)
  }

  private func isConnected(_ world: World) -> Bool {
    guard world.nodes.allSatisfy(\.isOnline) else { return false }
    for one in world.nodes {
      for other in world.nodes where other.index != one.index && one.tier(to: other) == nil {
        return false
      }
    }
    return true
  }

  private func isBack(_ world: World) -> Bool {
    guard world.nodes.allSatisfy(\.isOnline) else { return false }
    for a in 0..<world.nodes.count {
      for b in 0..<a where !isPairBack(a, b) { return false }
    }
    return world.conversations.allSatisfy(\.isOver)
  }

  private func tellWhatIsMissing() {
    var words: [String] = []
    for node in world.nodes where !node.isOnline { words.append("\(node.name) is not online") }
    for a in 0..<world.nodes.count {
      for b in 0..<world.nodes.count where a != b {
        guard isGuessing ? unguessed.contains(where: { $0 == (a, b) }) : !isPairBack(a, b) else {
          continue
        }
        let tier = world.nodes[a].tier(to: world.nodes[b])
        let homes = settings.homes ? " (\(homeWords(a)), \(homeWords(b)))" : ""
        words.append("\(a)→\(b)\(homes) is \(tier ?? "not connected")")
        for (from, to) in [(a, b), (b, a)] {
          for line in world.nodes[from].roads(to: world.nodes[to]) {
            world.note("\(from)→\(to): \(line)")
          }
        }
        if let node = world.nodes[a].node {
          world.note("\(a)→\(b): \(node.diagnosis(of: world.nodes[b].name, now: world.now))")
        }
      }
    }
    for conversation in world.conversations where !conversation.isOver {
      words.append("conversation \(conversation.summary) goes on")
      for (a, b) in [
        (conversation.nearNode, conversation.farNode),
        (conversation.farNode, conversation.nearNode),
      ] {
        if let node = world.nodes[a].node {
          world.note("\(a)→\(b): \(node.diagnosis(of: world.nodes[b].name, now: world.now))")
        }
      }
    }
    for site in world.network.sites {
      let drops = NATDrop.allCases.compactMap { reason in
        site.box.drops(reason) > 0 ? "\(reason) \(site.box.drops(reason))" : nil
      }
      world.note(
        "site \(site.number) \(site.kind.name) \(site.box.address) behind \(site.outer?.number ?? -1): \(site.box.mappingCount(now: world.now)) mappings, dropped \(drops)"
      )
    }
    world.violation("not back after the storm: \(words.prefix(8))")
  }

  /// Nothing to do: nothing but keepalives may happen.
  private func checkRest() {
    world.run(for: .seconds(5))
    let events = world.statistics.events
    let packets = world.statistics.packets
    world.run(for: .seconds(30))
    let pairs = UInt64(world.nodes.count * (world.nodes.count - 1))
    let perPair = (world.statistics.packets - packets) / max(1, pairs)
    if perPair > 200 {
      world.violation("\(perPair) packets per pair in 30 s of rest")
    }
    let perNode = (world.statistics.events - events) / UInt64(world.nodes.count)
    if perNode > 3_000 { world.violation("\(perNode) events per node in 30 s of rest") }
    for conversation in world.conversations where conversation.dials > 1 {
      world.violation("conversation \(conversation.summary)")
    }
    for node in world.nodes {
      let left = socketsWithoutPath(node).count
      let guessing = (node.node?.guessesUnderWay ?? 0) * PathLimits.birthdaySockets
      if left > world.nodes.count + guessing {
        world.violation("\(node.name): \(left) sockets left open")
      }
    }
  }

  /// One guess may hit several ports at once; all of them are paths.
  private func socketsWithoutPath(_ node: SimulatedNode) -> Set<UInt32> {
    var sockets = Set(node.sockets.keys)
    for other in world.nodes where other.index != node.index {
      let paths = node.node?.status(of: other.name, now: world.now)?.paths ?? []
      for path in paths where path.state == .up && path.carrier.kind == .udp {
        sockets.remove(path.carrier.socket)
      }
    }
    return sockets
  }
}
