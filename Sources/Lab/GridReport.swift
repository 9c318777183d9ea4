/// What many runs come to: per cell how often it was as expected and how long
/// it took, the grid as a picture, everything as JSON. Pure; prints nothing.

package import HTTP
package import NAT

package struct Spread: Hashable, Sendable {
  package var median: Double
  package var p95: Double

  /// Nearest rank; nil without samples.
  package init?(_ samples: [Double]) {
    guard !samples.isEmpty else { return nil }
    let sorted = samples.sorted()
    func rank(_ share: Double) -> Double {
      let index = Int((share * Double(sorted.count)).rounded(.up)) - 1
      return sorted[min(max(index, 0), sorted.count - 1)]
    }
    median = rank(0.5)
    p95 = rank(0.95)
  }

  package var text: String { "\(Int(median.rounded())) / \(Int(p95.rounded()))" }
  package var json: JSONValue {
    ["median": JSONValue(median.rounded()), "p95": JSONValue(p95.rounded())]
  }
}

extension ExpectedRoad {
  /// How soon, at the 95th percentile, the road is to be in use where the round
  /// trip is nothing; nil: no promise.
  package var limitMs: Double? {
    switch self {
    case .direct, .punched: 500
    case .guessed: 10_000
    case .tcpDirect, .tcpPunched: 1_000
    case .relayed: nil
    }
  }
}

package struct GridReport: Sendable {
  package struct Summary: Sendable {
    package var cell: GridPlan.Cell
    package var results: [CellResult] = []
    /// Of runs with nothing beside them.
    package var timed: [CellResult] = []

    package init(_ cell: GridPlan.Cell) { self.cell = cell }

    package var all: [CellResult] { results + timed }
    package var good: Int { all.count { $0.isAsExpected } }
    package var isGood: Bool {
      !all.isEmpty && good >= GridPlan.needed(cell, of: all.count) && isInTime
    }
    /// Runs alone keep the promise of their road; others promise nothing.
    package var isInTime: Bool {
      guard !timed.isEmpty, let limit = cell.scenario.expected.limitMs, let seen = finalTier else {
        return true
      }
      return seen.p95 <= limit
    }
    package var verdict: String {
      if isGood { return "good" }
      return isInTime ? "NOT AS EXPECTED" : "TOO SLOW"
    }
    private var measured: [CellResult] { (timed.isEmpty ? results : timed).filter(\.isAsExpected) }
    package var firstByte: Spread? { Spread(measured.compactMap(\.firstByteMs)) }
    package var finalTier: Spread? { Spread(measured.compactMap(\.finalTierMs)) }
    package var silence: Spread? { Spread(measured.compactMap(\.longestSilenceMs)) }

    /// "udp-punch 19, server-relay 1".
    package var tiers: String {
      var counts: [String: Int] = [:]
      for result in all {
        counts[result.failure == nil ? result.tier : "failed", default: 0] += 1
      }
      return counts.sorted { $0.value == $1.value ? $0.key < $1.key : $0.value > $1.value }
        .map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }
  }

  package var kinds: [NATKind]
  package var summaries: [Summary]

  package init(_ plan: GridPlan) {
    kinds = plan.kinds
    summaries = plan.cells.map { Summary($0) }
  }

  package var isGood: Bool { summaries.allSatisfy(\.isGood) }
  package var isTimed: Bool { summaries.contains { !$0.timed.isEmpty } }

  // MARK: Text

  /// One letter a road: D direct, P punched, G guessed, T and U the same of TCP,
  /// R relayed.
  static func letter(_ road: ExpectedRoad) -> String {
    switch road {
    case .direct: "D"
    case .punched: "P"
    case .guessed: "G"
    case .tcpDirect: "T"
    case .tcpPunched: "U"
    case .relayed: "R"
    }
  }

  package var picture: String {
    let rows = kinds.map { a in
      kinds.map { b -> String in
        let scenario = Scenario.cell(a, b)
        guard let found = summaries.first(where: { $0.cell.scenario == scenario }) else {
          return "."
        }
        let mark = found.isGood ? "" : "!"
        return "\(mark)\(Self.letter(scenario.expected)) \(found.good)/\(found.all.count)"
      }
    }
    guard rows.contains(where: { $0.contains { $0 != "." } }) else { return "" }
    let names = kinds.enumerated().map { "\($0 + 1) \($1.name)" }
    let first = (names.map(\.count).max() ?? 0) + 2
    let width = (rows.flatMap { $0 }.map(\.count).max() ?? 1) + 2
    func pad(_ text: String, _ width: Int) -> String {
      text + String(repeating: " ", count: max(0, width - text.count))
    }
    func trimmed(_ text: String) -> String {
      var text = text
      while text.last == " " { text.removeLast() }
      return text + "\n"
    }
    var text = "Row fetches from column. Expected: D direct, P punched, G guessed port,\n"
    text += "T TCP direct, U TCP punched, R relay; "
    text += "then runs as expected / runs; ! = not good enough.\n\n"
    text += trimmed(
      pad("", first) + kinds.indices.map { pad("\($0 + 1)", width) }.joined())
    for (index, row) in rows.enumerated() {
      text += trimmed(pad(names[index], first) + row.map { pad($0, width) }.joined())
    }
    return text
  }

  package static let columns = [
    "CELL", "EXPECTED", "AS EXPECTED", "FIRST BYTE MS", "FINAL TIER MS", "LONGEST PAUSE MS",
    "TIERS", "VERDICT",
  ]

  /// Rows for named cells, and for those that are not good.
  package var rows: [[String]] {
    summaries.filter { $0.cell.isNamed || !$0.isGood || kinds.isEmpty }.map { summary in
      [
        summary.cell.scenario.name, summary.cell.scenario.expected.rawValue,
        "\(summary.good)/\(summary.all.count)", summary.firstByte?.text ?? "",
        summary.finalTier?.text ?? "", summary.silence?.text ?? "", summary.tiers,
        summary.verdict,
      ]
    }
  }

  /// Times over all runs, by what was expected.
  package var totals: [[String]] {
    [ExpectedRoad.direct, .punched, .guessed, .tcpDirect, .tcpPunched, .relayed].compactMap {
      road in
      let found = summaries.filter { $0.cell.scenario.expected == road }
      let results = found.flatMap(\.all)
      guard !results.isEmpty else { return nil }
      let good = results.filter(\.isAsExpected)
      return [
        road.rawValue, "\(found.count)", "\(good.count)/\(results.count)",
        Spread(good.compactMap(\.firstByteMs))?.text ?? "",
        Spread(good.compactMap(\.finalTierMs))?.text ?? "",
      ]
    }
  }

  // MARK: JSON

  package var json: JSONValue {
    [
      "good": .bool(isGood),
      "cells": .array(
        summaries.map { summary in
          [
            "cell": .string(summary.cell.scenario.name),
            "expected": .string(summary.cell.scenario.expected.rawValue),
            "named": .bool(summary.cell.isNamed), "good": .bool(summary.isGood),
            "runs": JSONValue(summary.all.count), "asExpected": JSONValue(summary.good),
            "firstByteMs": summary.firstByte?.json ?? .null,
            "finalTierMs": summary.finalTier?.json ?? .null,
            "longestSilenceMs": summary.silence?.json ?? .null,
            "inTime": .bool(summary.isInTime), "timedAlone": .bool(!summary.timed.isEmpty),
            "results": .array(summary.results.map(\.json)),
            "timed": .array(summary.timed.map(\.json)),
          ]
        }),
    ]
  }
}
