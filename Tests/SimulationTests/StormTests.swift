/// Many worlds in a storm, from seeds. A failure names its seed;
/// `MARTLET_SEED=n` runs just that one and prints what happens in it.
import Bytes
import Simulation
import Testing

/// Runs `seeds` on as many threads as there are cores; results in order.
func runStorms(
  _ seeds: [UInt64], settings: ScenarioSettings = ScenarioSettings(),
  stopAtFirst: Bool = false
) async -> [ScenarioResult] {
  await withTaskGroup(of: ScenarioResult.self) { group in
    var next = 0
    var results: [ScenarioResult] = []
    func add() {
      guard next < seeds.count else { return }
      let seed = seeds[next]
      next += 1
      group.addTask { Scenario.run(seed: seed, settings: settings) }
    }
    add()
    add()
    while let result = await group.next() {
      results.append(result)
      if stopAtFirst, !result.violations.isEmpty { break }
      add()
    }
    group.cancelAll()
    return results.sorted { $0.seed < $1.seed }
  }
}

@Test func everyStormEndsWell() async {
  if let text = environment("MARTLET_SEED"), let seed = UInt64(text) {
    let result = Scenario.run(seed: seed, print: { print($0) })
    #expect(result.violations == [], "seed \(seed)")
    print("seed \(seed): \(result.statistics), back after \(result.recovery.inSeconds) s")
    return
  }
  let count = environment("MARTLET_SEEDS").flatMap { UInt64($0) } ?? 200
  let first = environment("MARTLET_FIRST_SEED").flatMap { UInt64($0) } ?? 1
  let clock = ContinuousClock()
  let began = clock.now
  let results = await runStorms(Array(first..<(first + count)))
  var sum = WorldStatistics()
  for result in results {
    sum += result.statistics
    #expect(result.violations == [], "seed \(result.seed)")
  }
  let seconds = (clock.now - began) / .seconds(1)
  // Equal in every run of the same seeds, also on another machine.
  let trace = results.reduce(0) { $0 ^ $1.traceHash }
  let slowest = results.max { $0.recovery < $1.recovery }
  let connected = results.max { $0.connected < $1.connected }
  let hours = Double(sum.virtualNanoseconds) / 3.6e12
  print(
    "simulator: slowest to come back: seed \(slowest?.seed ?? 0), \(slowest?.recovery.inSeconds ?? 0) s after its storm (connected: seed \(connected?.seed ?? 0), \(connected?.connected.inSeconds ?? 0) s); \(sum.conversations) connections, \(sum.finishedInOrder) ended in order, \(sum.streamBytes >> 20) MB checked, \(sum.sessions) sessions, \(sum.attacks) hostile packets; trace \(String(trace, radix: 16))"
  )
  print(
    "simulator: \(results.count) seeds, \((hours * 10).rounded() / 10) virtual hours, \(sum.packets) packets, \(sum.lost) lost, \(sum.duplicated) duplicated, \(sum.reordered) reordered, \(sum.pathChanges) path changes, \(sum.kills) kills, \(Int(seconds.rounded())) s"
  )
}

/// The same with relays among the nodes, which are killed, cut off and moved as
/// all others are.
@Test func stormsWithRelaysEndWell() async {
  let first = environment("MARTLET_FIRST_SEED").flatMap { UInt64($0) } ?? 1
  let count = environment("MARTLET_RELAY_SEEDS").flatMap { UInt64($0) } ?? 30
  for (homes, seeds) in [(false, count), (true, count / 10)] {
    var settings = homes ? ScenarioSettings.inHomes : ScenarioSettings()
    settings.relays = true
    if let text = environment("MARTLET_SEED"), let seed = UInt64(text) {
      let result = Scenario.run(seed: seed, settings: settings, print: { print($0) })
      #expect(result.violations == [], "seed \(seed)")
      continue
    }
    let results = await runStorms(Array(first..<(first + seeds)), settings: settings)
    var sum = WorldStatistics()
    for result in results {
      sum += result.statistics
      #expect(result.violations == [], "seed \(result.seed), homes \(homes)")
    }
    let slowest = results.max { $0.recovery < $1.recovery }
    print(
      "simulator: relays\(homes ? " and homes" : ""), \(results.count) seeds: slowest seed \(slowest?.seed ?? 0), \(slowest?.recovery.inSeconds ?? 0) s; \(sum.relayedSessions) sessions at relays, \(sum.relayPathChanges) changes to a relay's path, \(sum.kills) kills"
    )
  }
}

/// Twenty nodes that come and go; `MARTLET_TWENTY_SEEDS` and a tenth as many in
/// homes. `MARTLET_TWENTY_SEED=n` runs one of the former with a trace.
@Test func stormsOfTwentyNodesEndWell() async {
  if let text = environment("MARTLET_TWENTY_SEED"), let seed = UInt64(text) {
    let result = Scenario.run(seed: seed, settings: .ofTwenty, print: { print($0) })
    #expect(result.violations == [], "seed \(seed)")
    print("seed \(seed): \(result.statistics), back after \(result.recovery.inSeconds) s")
    return
  }
  let first = environment("MARTLET_FIRST_SEED").flatMap { UInt64($0) } ?? 1
  let count = environment("MARTLET_TWENTY_SEEDS").flatMap { UInt64($0) } ?? 3
  for (homes, seeds) in [(false, count), (true, count / 10)] where seeds > 0 {
    var settings = ScenarioSettings.ofTwenty
    settings.homes = homes
    let clock = ContinuousClock()
    let began = clock.now
    let results = await runStorms(Array(first..<(first + seeds)), settings: settings)
    var sum = WorldStatistics()
    for result in results {
      sum += result.statistics
      #expect(result.violations == [], "seed \(result.seed), homes \(homes)")
    }
    let slowest = results.max { $0.recovery < $1.recovery }
    let hours = Double(sum.virtualNanoseconds) / 3.6e12
    let seconds = (clock.now - began) / .seconds(1)
    print(
      "simulator: twenty nodes\(homes ? " in homes" : ""), \(results.count) seeds: slowest seed \(slowest?.seed ?? 0), \(slowest?.recovery.inSeconds ?? 0) s; \((hours * 10).rounded() / 10) virtual hours, \(sum.packets) packets, \(sum.conversations) connections, \(sum.finishedInOrder) ended in order, \(sum.kills) kills, \(sum.relayedSessions) sessions at relays, \(sum.relayPathChanges) changes to a relay's path, \(Int(seconds.rounded())) s"
    )
  }
}

@Test func theSameSeedGivesTheSameTrace() {
  for seed: UInt64 in 11...16 {
    var settings = ScenarioSettings()
    settings.storm = .seconds(30)
    let first = Scenario.run(seed: seed, settings: settings)
    let second = Scenario.run(seed: seed, settings: settings)
    #expect(first.traceHash == second.traceHash, "seed \(seed)")
    #expect(first.statistics.events == second.statistics.events, "seed \(seed)")
  }
}
