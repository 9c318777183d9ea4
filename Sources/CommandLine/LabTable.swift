/// `martlet lab …`: the commands of the lab and what they come to. The lab
/// itself is in Sources/Lab; scenarios are described in docs/lab.md.

package enum LabAction: Hashable, Sendable {
  /// A scenario's network, left standing.
  case up(scenario: String)
  /// Cells: scenario files, pairs of kinds, or the whole grid.
  case run(scenarios: [String], grid: Bool)
  case down(all: Bool)
  case list
  /// Real packets against the router of each kind; none named: all.
  case checkKinds([String], hairpin: LabHairpin)
  /// The commands that would make it.
  case show(scenario: String)
}

package enum LabHairpin: String, Hashable, Sendable, CaseIterable {
  case on
  case off
  case both
}

package struct LabInvocation: Hashable, Sendable {
  package var action: LabAction
  package var json: Bool
  /// Of the lab's namespaces.
  package var prefix: String?
  /// Where inp2ps, inp2pc and ztm are; nil: beside this program.
  package var programs: String?
  package var runs: Int?
  package var timedRuns: Int?
  package var jobs: Int?
  /// Where results and the logs of failed cells go.
  package var results: String?
}

package enum LabTable {
  private static let json = Flag("json", .bool, "print JSON")
  private static let prefix = Flag(
    "prefix", .name, placeholder: "P", "of its namespaces (else one that is free)")
  private static let programs = Flag(
    "bin", .path, placeholder: "DIR", "where inp2ps, inp2pc and ztm are (else beside martlet)")
  private static let jobs = Flag(
    "jobs", .number(1...32), "so many at a time (else two per processor)")
  private static let hairpin = Flag(
    "hairpin", .choice(LabHairpin.allCases.map(\.rawValue)), default: "both",
    "routers that turn packets round, that do not, or both")

  package static let commands: [CommandSpec] = [
    CommandSpec(
      [["lab"], ["up"]], [Positional("SCENARIO")], flags: [prefix],
      "make a scenario's network of namespaces and leave it standing",
      examples: [
        "martlet lab up two-homes", "martlet lab up port-restricted,symmetric-random --prefix try",
      ]),
    CommandSpec(
      [["lab"], ["run"]], [Positional("SCENARIO", optional: true, repeats: true)],
      flags: [
        Flag("grid", .bool, "every pair of kinds, as Lab/grid.lab says"),
        Flag("pairs", .text, many: .repeated, placeholder: "A,B", "of the grid only these"),
        Flag("runs", .number(1...1000), "of each cell (else as the scenario says)"),
        Flag("timed", .number(0...1000), "further runs of the named cells alone, for the times"),
        jobs,
        Flag(
          "results", .path, placeholder: "DIR",
          "where results and the logs of failed cells go (lab-results)"),
        json, prefix, programs,
      ], "run server and agents in cells, and compare the path they find with theory",
      examples: [
        "martlet lab run full-cone,symmetric-random --runs 5",
        "martlet lab run --grid --jobs 4 --results lab-results",
      ]),
    CommandSpec(
      [["lab"], ["down"]],
      flags: [prefix, Flag("all", .bool, "every lab of this user, running ones too")],
      "take a lab down: processes, namespaces, files"),
    CommandSpec([["lab"], ["list"]], flags: [json], "labs that stand, kinds and scenarios"),
    CommandSpec(
      [["lab"], ["check-kinds"]], [Positional("KIND", optional: true, repeats: true)],
      flags: [hairpin, jobs, json, prefix],
      "probe the router of each kind with real packets and compare it with its description"),
    CommandSpec(
      [["lab"], ["show"]], [Positional("SCENARIO")], flags: [prefix],
      "print the commands that make a scenario's network"),
  ]

  static func invocation(
    _ parsed: ParsedCommand, _ flags: ResolvedFlags
  ) throws(UsageError) -> LabInvocation {
    let first = parsed.positionals.first ?? ""
    let action: LabAction
    switch parsed.command.title {
    case "lab up": action = .up(scenario: first)
    case "lab run":
      let scenarios = parsed.positionals + flags.texts("pairs")
      guard flags.bool("grid") || !scenarios.isEmpty else {
        throw UsageError("lab run: give scenarios, pairs of kinds, or --grid")
      }
      guard !flags.bool("grid") || parsed.positionals.isEmpty else {
        throw UsageError("lab run: --grid takes no scenarios; choose pairs with --pairs")
      }
      action = .run(scenarios: scenarios, grid: flags.bool("grid"))
    case "lab down":
      guard flags.bool("all") != (flags.text("prefix") != nil) else {
        throw UsageError("lab down: give --prefix P or --all")
      }
      action = .down(all: flags.bool("all"))
    case "lab list": action = .list
    case "lab check-kinds":
      let hairpin = flags.text("hairpin").flatMap { LabHairpin(rawValue: $0) } ?? .both
      action = .checkKinds(parsed.positionals, hairpin: hairpin)
    case "lab show": action = .show(scenario: first)
    default: preconditionFailure("\(parsed.command.title) is no command of the lab")
    }
    return LabInvocation(
      action: action, json: flags.bool("json"), prefix: flags.text("prefix"),
      programs: flags.text("bin"), runs: flags.number("runs").map { Int($0) },
      timedRuns: flags.number("timed").map { Int($0) }, jobs: flags.number("jobs").map { Int($0) },
      results: flags.text("results"))
  }
}
