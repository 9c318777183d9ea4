/// Every kind of home with every other, both ways: the road they end on is the
/// one theory wrote down. `MARTLET_CELL="full-cone symmetric-random 3"` runs one
/// cell and prints what happens in it; a fourth word, `fresh`, has the nodes meet
/// before they know their networks.
import Bytes
import NAT
import Simulation
import Testing

/// Runs cells on as many threads as there are cores; results in order.
private func runCells(_ cells: [GridCell]) async -> [GridResult] {
  await withTaskGroup(of: (Int, GridResult).self) { group in
    var next = 0
    func add() {
      guard next < cells.count else { return }
      let index = next
      next += 1
      group.addTask { (index, cells[index].run()) }
    }
    add()
    add()
    var results: [(Int, GridResult)] = []
    while let result = await group.next() {
      results.append(result)
      add()
    }
    return results.sorted { $0.0 < $1.0 }.map(\.1)
  }
}

private func percentile(_ share: Double, of values: [TimeAmount]) -> Double {
  guard !values.isEmpty else { return 0 }
  let sorted = values.sorted()
  return sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))].inMilliseconds.rounded()
}

@Test func everyPairOfHomesEndsOnTheRoadOfTheory() async {
  if let text = environment("MARTLET_CELL") {
    let words = text.split(separator: " ").map(String.init)
    let isFresh = words.count == 4 && words[3] == "fresh"
    guard words.count == 3 || isFresh, let near = NATKind.named(words[0]),
      let far = NATKind.named(words[1]), let seed = UInt64(words[2])
    else {
      Issue.record("MARTLET_CELL: two kinds, a seed, and perhaps fresh")
      return
    }
    let result = GridCell(near: near, far: far, seed: seed, isFresh: isFresh)
      .run(print: { print($0) })
    print("\(result.words); direct after \(result.direct?.inMilliseconds ?? -1) ms")
    #expect(result.isAsExpected)
    return
  }
  let seeds = environment("MARTLET_GRID_SEEDS").flatMap { UInt64($0) } ?? 1
  await judge("grid", allPairs(seeds: seeds, isFresh: false))
}

/// The same when both were started a moment ago, as in the lab.
@Test func everyPairOfHomesThatJustStartedEndsOnTheRoadOfTheory() async {
  let seeds = environment("MARTLET_GRID_SEEDS").flatMap { UInt64($0) } ?? 1
  await judge("fresh grid", allPairs(seeds: seeds, isFresh: true))
}

/// Which end goes first is drawn with its keys: many seeds.
@Test func connectionsThroughNATsDoNotDependOnWhoKnowsWhatWhen() async {
  let seeds = environment("MARTLET_GRID_SEEDS").flatMap { UInt64($0) } ?? 20
  var cells: [GridCell] = []
  for seed in 1...seeds {
    for far in [NATKind.masqueradeOpen, .firewalled, .portRestricted, .doubleNAT, .udpBlocked] {
      for isFresh in [false, true] {
        cells.append(GridCell(near: .udpBlocked, far: far, seed: seed, isFresh: isFresh))
        cells.append(GridCell(near: far, far: .udpBlocked, seed: seed, isFresh: isFresh))
      }
    }
  }
  await judge("without UDP", cells)
}

private func allPairs(seeds: UInt64, isFresh: Bool) -> [GridCell] {
  var cells: [GridCell] = []
  for seed in 1...seeds {
    for near in NATKind.all {
      for far in NATKind.all {
        cells.append(GridCell(near: near, far: far, seed: seed, isFresh: isFresh))
      }
    }
  }
  return cells
}

private func judge(_ title: String, _ cells: [GridCell]) async {
  let results = await runCells(cells)
  let wrong = results.filter { !$0.isAsExpected }
  for result in wrong { Issue.record("\(result.words)") }
  var words: [String] = []
  for road in [ExpectedRoad.direct, .punched, .guessed, .tcpDirect, .tcpPunched, .relayed] {
    let all = results.filter { $0.cell.expected == road }
    guard !all.isEmpty else { continue }
    let times = all.compactMap(\.direct)
    let good = all.count { $0.isAsExpected }
    words.append(
      "\(good)/\(all.count) \(road.rawValue)"
        + (times.isEmpty
          ? "" : " (p50 \(percentile(0.5, of: times)), p95 \(percentile(0.95, of: times)) ms)"))
  }
  let bytes = results.compactMap(\.firstByte)
  print(
    "simulator: \(title), \(results.count) cells: \(words.joined(separator: ", ")); first byte p50 \(percentile(0.5, of: bytes)), p95 \(percentile(0.95, of: bytes)) ms"
  )
}
