import CommandLine
import Testing

/// `martlet lab …` as typed, and what it comes to.
@Suite struct LabTableTests {
  private func lab(_ words: String...) -> LabInvocation? {
    guard
      case .martlet(let invocation) = Program.parse(
        ["martlet", "lab"] + words, environment: [:]
      ).invocation, case .lab(let lab) = invocation.command
    else { return nil }
    return lab
  }

  private func refused(_ words: String...) -> Bool {
    guard
      case .exit(let exit) = Program.parse(["martlet", "lab"] + words, environment: [:]).invocation
    else { return false }
    return exit.status == ExitStatus.usage && !exit.errorOutput.isEmpty
  }

  @Test func everyCommandIsTakenAsTyped() {
    #expect(lab("up", "two-homes")?.action == .up(scenario: "two-homes"))
    #expect(lab("up", "x", "--prefix", "p")?.prefix == "p")
    #expect(lab("show", "a,b")?.action == .show(scenario: "a,b"))
    #expect(lab("list", "--json")?.json == true)
    #expect(lab("down", "--prefix", "p")?.action == .down(all: false))
    #expect(lab("down", "--all")?.action == .down(all: true))
    #expect(lab("check-kinds")?.action == .checkKinds([], hairpin: .both))
    #expect(
      lab("check-kinds", "full-cone", "--hairpin", "on")?.action
        == .checkKinds(["full-cone"], hairpin: .on))
  }

  @Test func runsTakeScenariosPairsOrTheGrid() {
    let some = lab("run", "a,b", "same-lan", "--runs", "5", "--jobs", "3", "--results", "r")
    #expect(some?.action == .run(scenarios: ["a,b", "same-lan"], grid: false))
    #expect(some?.runs == 5 && some?.jobs == 3 && some?.results == "r" && some?.timedRuns == nil)
    let grid = lab("run", "--grid", "--pairs", "a,b", "--pairs", "b,a", "--timed", "20")
    #expect(grid?.action == .run(scenarios: ["a,b", "b,a"], grid: true))
    #expect(grid?.timedRuns == 20)
  }

  @Test func whatMakesNoSenseIsRefused() {
    #expect(refused("run"))
    #expect(refused("run", "--grid", "same-lan"))
    #expect(refused("run", "a,b", "--runs", "0"))
    #expect(refused("down"))
    #expect(refused("down", "--all", "--prefix", "p"))
    #expect(refused("up"))
    #expect(refused("check-kinds", "--hairpin", "perhaps"))
    #expect(refused("walk"))
  }
}
