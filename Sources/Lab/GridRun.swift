/// `martlet lab run`: one run in this process, many as children of it; then the
/// table, a JSON file, and the logs of what was not as expected in one folder.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import NAT
internal import Reactor

struct GridRun {
  let entry: LabEntry
  /// A run that has not ended by then never will.
  private static let within = TimeAmount.seconds(120)
  private static let progressEvery = TimeAmount.seconds(10)

  func run(_ scenarios: [String], grid: Bool) throws(LabFailure) -> Int32 {
    let plan = try plan(scenarios, grid: grid)
    let runs = plan.cells.reduce(0) { $0 + $1.runs }
    guard runs > 0 else { throw .failed("there is nothing to run") }
    var report = GridReport(plan)
    if runs == 1, entry.invocation.timedRuns ?? 0 == 0 {
      try one(&report)
    } else {
      try many(&report)
    }
    try conclude(report)
    return report.isGood ? ExitStatus.success : ExitStatus.failure
  }

  private func plan(_ scenarios: [String], grid: Bool) throws(LabFailure) -> GridPlan {
    let library = ScenarioLibrary(programs: entry.programs)
    var plan = GridPlan()
    if grid {
      plan = try library.grid()
      if !scenarios.isEmpty { try plan.keep(scenarios) }
    } else {
      for name in scenarios {
        let scenario = try library.scenario(name)
        plan.cells.append(
          GridPlan.Cell(scenario, runs: scenario.runs ?? 1, isNamed: false))
      }
    }
    if let runs = entry.invocation.runs {
      for index in plan.cells.indices { plan.cells[index].runs = runs }
    }
    return plan
  }

  // MARK: One

  private func one(_ report: inout GridReport) throws(LabFailure) {
    let scenario = report.summaries[0].cell.scenario
    var run = CellRun(entry, scenario, try entry.store())
    report.summaries[0].results = [try run.run(keep: results.map { "\($0)/\(label(scenario))" })]
  }

  /// Nil: nothing is kept.
  private var results: String? { entry.invocation.results }

  private func label(_ scenario: Scenario) -> String {
    scenario.name.split(separator: ",").joined(separator: "--")
  }

  // MARK: Many

  private func many(_ report: inout GridReport) throws(LabFailure) {
    let store = try entry.store()
    entry.workshop.journal = try store.begin(scenario: "grid")
    defer { _ = TearDown.run(store, workshop: entry.workshop) }
    // The first run of every cell comes before the second of any.
    var order: [(cell: Int, run: Int)] = []
    for (index, summary) in report.summaries.enumerated() {
      for run in 0..<summary.cell.runs { order.append((index, run)) }
    }
    order.sort { ($0.run, $0.cell) < ($1.run, $1.cell) }
    try pass(&report, order, store, alone: false)

    var alone: [(cell: Int, run: Int)] = []
    for (index, summary) in report.summaries.enumerated()
    where summary.cell.scenario.expected.isDirect && summary.cell.isNamed {
      for run in 0..<(entry.invocation.timedRuns ?? 0) { alone.append((index, run)) }
    }
    if !alone.isEmpty { try pass(&report, alone, store, alone: true) }
  }

  private func pass(
    _ report: inout GridReport, _ order: [(cell: Int, run: Int)], _ store: LabStore, alone: Bool
  ) throws(LabFailure) {
    let jobs = order.enumerated().map { number, item in
      LabJob(
        number: number,
        arguments: arguments(
          report.summaries[item.cell].cell.scenario, run: item.run,
          prefix: "\(store.prefix)\(alone ? "t" : "r")\(number)", alone: alone),
        within: Self.within)
    }
    let begun = Workshop.now
    var spoken = begun
    var done = 0
    var bad = 0
    var summaries = report.summaries
    let pool = JobPool(
      entry.workshop, limit: alone ? 1 : entry.jobs, directory: store.directory)
    try pool.run(jobs) { outcome in
      let item = order[outcome.number]
      let scenario = summaries[item.cell].cell.scenario
      let result = Self.result(outcome, scenario)
      if alone {
        summaries[item.cell].timed.append(result)
      } else {
        summaries[item.cell].results.append(result)
      }
      done += 1
      if !result.isAsExpected {
        bad += 1
        say("\(scenario.name): \(result.expected.rawValue) expected: \(result.words)")
      }
      let now = Workshop.now
      if now.nanoseconds - spoken.nanoseconds > Self.progressEvery.nanoseconds || done == jobs.count
      {
        spoken = now
        let seconds = (now.nanoseconds - begun.nanoseconds) / 1_000_000_000
        say(
          "\(done) of \(jobs.count) runs\(alone ? " alone" : ""), \(bad) not as expected, \(seconds) s"
        )
      }
    }
    report.summaries = summaries
  }

  private func arguments(
    _ scenario: Scenario, run: Int, prefix: String, alone: Bool
  ) -> [String] {
    var arguments = [
      "lab", "run", scenario.source ?? scenario.name, "--runs", "1", "--json", "--prefix", prefix,
      "--bin", entry.programs,
    ]
    arguments += [
      "--results", "\(results ?? Self.defaultResults)/failed/\(alone ? "alone-" : "")\(run + 1)",
    ]
    return arguments
  }

  static let defaultResults = "lab-results"

  private static func result(_ outcome: JobOutcome, _ scenario: Scenario) -> CellResult {
    var failed = CellResult(scenario.name, expected: scenario.expected)
    do throws(JSONError) {
      let value = try JSONValue.parse(Array(outcome.output.utf8))
      if let found = value["cells"]?[0]?["results"]?[0].flatMap({ CellResult($0) }) {
        return found
      }
      failed.failure = "the run printed no result: \(outcome.errors)"
    } catch {
      failed.failure =
        outcome.status == nil ? "the run took too long" : "the run failed: \(outcome.errors)"
    }
    return failed
  }

  private func say(_ words: String) { Output.write("lab: \(words)\n", to: 2) }

  // MARK: The end

  private func conclude(_ report: GridReport) throws(LabFailure) {
    let isMany = report.summaries.reduce(0) { $0 + $1.all.count } > 1
    if isMany {
      let directory = results ?? Self.defaultResults
      do throws(FileFailure) {
        try Files.makeDirectory(directory, mode: 0o755)
        try Files.write("\(directory)/results.json", report.json.bytes(.pretty), mode: 0o644)
      } catch {
        throw .failed("results are not kept: \(error)")
      }
    }
    if entry.invocation.json {
      Output.write(report.json.text(.pretty))
      return
    }
    Output.write(Self.text(report))
    if isMany {
      Output.write("results: \(results ?? Self.defaultResults)/results.json\n")
      if !report.isGood {
        Output.write("logs of what was not as expected: \(results ?? Self.defaultResults)/failed\n")
      }
    }
  }

  static func text(_ report: GridReport) -> String {
    var text = report.picture
    if !text.isEmpty { text += "\n" }
    if !report.rows.isEmpty {
      var table = TextTable(GridReport.columns)
      for row in report.rows { table.add(row) }
      text += table.text + "\n"
    }
    var totals = TextTable(["EXPECTED", "CELLS", "AS EXPECTED", "FIRST BYTE MS", "FINAL TIER MS"])
    for row in report.totals { totals.add(row) }
    text += totals.text
    text += "\ntimes are median / 95th percentile of runs as expected"
    text += report.isTimed ? "; of named cells, of their runs alone\n" : "\n"
    let bad = report.summaries.count { !$0.isGood }
    text += "\(report.summaries.count) cells, \(bad) not as expected\n"
    return text
  }
}
