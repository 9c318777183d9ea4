/// Storms over ten nodes in homes. A failure names its seed;
/// `MARTLET_HOME_SEED=n` runs just that one and prints what happens in it.
import Bytes
import Simulation
import Testing

@Test func everyStormOverHomesEndsWell() async {
  if let text = environment("MARTLET_HOME_SEED"), let seed = UInt64(text) {
    let result = Scenario.run(seed: seed, settings: .inHomes, print: { print($0) })
    #expect(result.violations == [], "seed \(seed)")
    print("seed \(seed): \(result.statistics), back after \(result.recovery.inSeconds) s")
    return
  }
  let count = environment("MARTLET_HOME_SEEDS").flatMap { UInt64($0) } ?? 10
  let first = environment("MARTLET_FIRST_SEED").flatMap { UInt64($0) } ?? 1
  let clock = ContinuousClock()
  let began = clock.now
  let results = await runStorms(Array(first..<(first + count)), settings: .inHomes)
  var sum = WorldStatistics()
  var roads = RoadCount()
  for result in results {
    sum += result.statistics
    roads += result.roads
    #expect(result.violations == [], "seed \(result.seed)")
  }
  let trace = results.reduce(0) { $0 ^ $1.traceHash }
  let slowest = results.max { $0.recovery < $1.recovery }
  let seconds = (clock.now - began) / .seconds(1)
  print(
    "simulator: homes, \(results.count) seeds of 10 nodes: \(roads.direct) pairs direct, \(roads.guessed) by a guess, \(roads.relayed) relayed (\(roads.lucky) of them direct beyond theory); slowest: seed \(slowest?.seed ?? 0), \(slowest?.recovery.inSeconds ?? 0) s; \(sum.packets) packets, \(sum.lost) lost, \(sum.blocked) blocked by routers, \(sum.conversations) connections, \(sum.finishedInOrder) ended in order, \(sum.streamBytes >> 20) MB checked; trace \(String(trace, radix: 16)), \(Int(seconds.rounded())) s"
  )
}

@Test func theSameSeedGivesTheSameTraceInHomes() {
  for seed: UInt64 in 21...22 {
    var settings = ScenarioSettings.inHomes
    settings.storm = .seconds(20)
    settings.calm = .seconds(30)
    settings.guessed = .zero
    let first = Scenario.run(seed: seed, settings: settings)
    let second = Scenario.run(seed: seed, settings: settings)
    #expect(first.traceHash == second.traceHash, "seed \(seed)")
    #expect(first.statistics.events == second.statistics.events, "seed \(seed)")
  }
}
