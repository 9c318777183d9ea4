/// Which cells a run of the lab has, how often each, and which of them are
/// named. Read from a grid file (docs/lab.md, "The grid"). A value; runs nothing.

package import NAT

package struct GridPlan: Sendable {
  package struct Cell: Hashable, Sendable {
    package var scenario: Scenario
    package var runs: Int
    /// Listed by itself in the grid file: measured more often and timed alone.
    package var isNamed: Bool

    package init(_ scenario: Scenario, runs: Int, isNamed: Bool) {
      self.scenario = scenario
      self.runs = runs
      self.isNamed = isNamed
    }
  }

  package var kinds: [NATKind] = []
  package var cells: [Cell] = []
  /// A named cell may miss so many of twenty.
  package static let namedShare = 0.95

  package init() {}

  /// Runs that must be as expected.
  package static func needed(_ cell: Cell, of runs: Int) -> Int {
    guard cell.isNamed else { return runs }
    return Int((Double(runs) * namedShare).rounded(.up))
  }

  /// - Parameter scenario: reads a scenario file by its name.
  package static func parse(
    _ text: String, scenario: (String) throws(LabFailure) -> Scenario
  ) throws(LabFailure) -> GridPlan {
    var plan = GridPlan()
    var runs = 3
    var named: [Cell] = []
    do throws(ScenarioFault) {
      for (line, words) in try ScenarioLines(text).lines {
        let rest = words.dropFirst()
        switch words[0] {
        case "kinds":
          if rest == ["all"] {
            plan.kinds = NATKind.all
          } else {
            for name in rest { plan.kinds.append(try ScenarioLines.kind(name, line: line)) }
          }
        case "runs":
          runs = try ScenarioLines.count(rest.first, 1...ScenarioLimits.runs, "runs", line: line)
        case "cell":
          guard rest.count == 1 || rest.count == 3 && words[2] == "runs" else {
            throw ScenarioFault(line: line, words: "cell: expected SCENARIO [runs N]")
          }
          var cell: Cell
          do throws(LabFailure) {
            cell = Cell(try scenario(words[1]), runs: runs, isNamed: rest.count == 3)
          } catch {
            throw ScenarioFault(line: line, words: error.words)
          }
          if rest.count == 3 {
            cell.runs = try ScenarioLines.count(
              words[3], 1...ScenarioLimits.runs, "runs", line: line)
          }
          named.append(cell)
        default:
          throw ScenarioFault(line: line, words: "\(words[0]): expected kinds, runs or cell")
        }
      }
    } catch {
      throw .failed("grid, line \(error.line): \(error.words)")
    }
    let listed = Set(named.map(\.scenario))
    for a in plan.kinds {
      for b in plan.kinds where !listed.contains(.cell(a, b)) {
        plan.cells.append(Cell(.cell(a, b), runs: runs, isNamed: false))
      }
    }
    plan.cells = named + plan.cells
    return plan
  }

  /// Only the cells of these pairs, in either direction when both are there.
  package mutating func keep(_ names: [String]) throws(LabFailure) {
    for name in names where !cells.contains(where: { $0.scenario.name == name }) {
      throw .failed("the grid has no cell \(name)")
    }
    cells = cells.filter { names.contains($0.scenario.name) }
  }
}
