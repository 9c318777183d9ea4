/// `martlet lab …`: what each command does, and how it ends.

internal import Bytes
internal import CLinux
package import CommandLine
internal import Glibc
internal import HTTP
internal import NAT
internal import Reactor

package enum LabCommand {
  package static func run(
    _ invocation: LabInvocation, environment: [String: String]
  ) -> Int32 {
    do throws(LabFailure) {
      return try perform(invocation, environment)
    } catch {
      Output.write("martlet lab: \(error.words)\n", to: 2)
      switch error {
      case .refused: return ExitStatus.refused
      case .failed: return ExitStatus.failure
      case .interrupted: return 130
      }
    }
  }

  private static func perform(
    _ invocation: LabInvocation, _ environment: [String: String]
  ) throws(LabFailure) -> Int32 {
    let needsNamespaces: Bool
    switch invocation.action {
    case .run, .checkKinds: needsNamespaces = true
    case .up: needsNamespaces = environment[StandingLab.keeperVariable] != nil
    case .down, .list, .show: needsNamespaces = false
    }
    let entry = try LabEntry(
      invocation, environment: environment, needsNamespaces: needsNamespaces)
    switch invocation.action {
    case .up(let scenario):
      let lab = StandingLab(entry: entry)
      return needsNamespaces ? try lab.keep(scenario) : try lab.up(scenario)
    case .down(let all): return try StandingLab(entry: entry).down(all: all)
    case .list: return try StandingLab(entry: entry).list()
    case .run(let scenarios, let grid):
      return try GridRun(entry: entry).run(scenarios, grid: grid)
    case .checkKinds(let names, let hairpin):
      return try CheckKinds(entry: entry).run(names, hairpin)
    case .show(let scenario):
      let found = try ScenarioLibrary(programs: entry.programs).scenario(scenario)
      let plan = NetworkPlan(found.topology, prefix: try entry.store().prefix)
      Output.write(plan.steps.map(\.text).joined())
      return ExitStatus.success
    }
  }
}
