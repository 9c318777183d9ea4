import HTTP
import Lab
import NAT
import Testing

/// What people write into scenario files, and what they get for it.
@Suite struct ScenarioTests {
  private func read(_ text: String) throws(ScenarioFault) -> Scenario {
    try Scenario.parse(text, name: "test")
  }

  private func fault(_ text: String) -> ScenarioFault? {
    do throws(ScenarioFault) {
      _ = try read(text)
      return nil
    } catch {
      return error
    }
  }

  @Test func aFileIsReadLineByLine() throws {
    let scenario = try read(
      """
      # two homes
      home left port-restricted hairpin   # turns round

      home right\tsymmetric-random loss 5%
      host a left
      host b right
      host c right
      server port 8443
      fetch from c at a
      runs 4
      """)
    #expect(scenario.topology.homes.map(\.hosts) == [["a"], ["b", "c"]])
    #expect(scenario.topology.homes[0].kind.hairpins)
    #expect(scenario.topology.homes[1].lossPerMille == 50)
    #expect(scenario.topology.serverPort == 8443)
    #expect(scenario.from == "a" && scenario.to == "c" && scenario.runs == 4)
    #expect(scenario.expected == .guessed)
  }

  @Test func theEndsAreTheFirstAndTheLastHost() throws {
    let scenario = try read("home h public\nhome g public\nhost a h\nhost b h\nhost c g\n")
    #expect(scenario.from == "a" && scenario.to == "c")
  }

  @Test func inOneHomeTheRoadIsDirectWhateverTheRouter() throws {
    for kind in NATKind.all {
      let scenario = try read("home h \(kind.name)\nhost a h\nhost b h\n")
      #expect(scenario.expected == .direct, "\(kind.name)")
    }
  }

  @Test func whatTheFileExpectsGoesBeforeTheory() throws {
    let text = "home h public\nhome g public\nhost a h\nhost b g\n"
    #expect(try read(text).expected == .direct)
    #expect(try read(text + "expect relayed\n").expected == .relayed)
  }

  @Test func faultsNameTheirLine() {
    let good = "home h public\nhome g public\nhost a h\nhost b g\n"
    let cases: [(String, Int, String)] = [
      ("home h nonsense\n", 1, "there is no kind"), ("\n\nhouse h public\n", 3, "house"),
      ("home h public\nhost a g\n", 2, "named before"), (good + "server port 0\n", 5, "port"),
      (good + "server port 70000\n", 5, "port"), (good + "expect maybe\n", 5, "expected direct"),
      (good + "runs 0\n", 5, "number"), (good + "fetch from a at a\n", 5, "two different"),
      (good + "fetch a b\n", 5, "from HOST"), ("home h public loss 51%\n", 1, "percent"),
      ("home h public loud\n", 1, "loud"), ("home h public\n", 1, "no host"), ("", 1, "no home"),
      (String(repeating: "#\n", count: 2001), 2001, "lines"),
      ("home h public\nhost a;b h\n", 2, "a name is"),
    ]
    for (text, line, words) in cases {
      let found = fault(text)
      #expect(found?.line == line, "\(text): \(String(describing: found))")
      #expect(found?.words.contains(words) == true, "\(text): \(String(describing: found))")
    }
  }
}

@Suite struct GridTests {
  private func parse(_ text: String) throws(LabFailure) -> GridPlan {
    try GridPlan.parse(text) { name throws(LabFailure) in
      let kinds = name.split(separator: ",").compactMap { NATKind.named(String($0)) }
      guard kinds.count == 2 else { throw .failed("no scenario \(name)") }
      return .cell(kinds[0], kinds[1])
    }
  }

  @Test func everyPairBothWaysAndNamedCellsOnce() throws {
    let plan = try parse("kinds all\nruns 3\ncell full-cone,public runs 20\n")
    let count = NATKind.all.count * NATKind.all.count
    #expect(plan.cells.count == count)
    #expect(Set(plan.cells.map(\.scenario)).count == count)
    #expect(plan.cells[0].runs == 20 && plan.cells[0].isNamed)
    #expect(plan.cells.dropFirst().allSatisfy { $0.runs == 3 && !$0.isNamed })
  }

  @Test func aGridIsCutToPairs() throws {
    var plan = try parse("kinds public full-cone\n")
    try plan.keep(["public,full-cone"])
    #expect(plan.cells.map(\.scenario.name) == ["public,full-cone"])
    #expect(throws: LabFailure.self) { try plan.keep(["public,nonsense"]) }
  }

  @Test func nineteenOfTwentyWhereNamedAllElsewhere() throws {
    let plan = try parse("kinds public\ncell full-cone,public runs 20\n")
    #expect(GridPlan.needed(plan.cells[0], of: 20) == 19)
    #expect(GridPlan.needed(plan.cells[0], of: 3) == 3)
    #expect(GridPlan.needed(plan.cells[1], of: 20) == 20)
  }

  @Test func badGridsNameTheirLine() {
    for text in [
      "kinds nonsense\n", "runs x\n", "cell a\n", "cell full-cone,public walks 2\n", "x\n",
    ] {
      #expect(throws: LabFailure.self, "\(text)") { _ = try parse(text) }
    }
  }

  private func result(_ tier: String, _ road: ExpectedRoad, firstByte: Double = 5) -> CellResult {
    var result = CellResult("c", expected: road)
    result.tier = tier
    result.tierBack = tier
    result.isStreamWhole = true
    result.firstByteMs = firstByte
    result.finalTierMs = firstByte
    return result
  }

  @Test func aRoadFitsItsTiersAndNoOther() {
    for road in [ExpectedRoad.direct, .punched, .guessed] {
      #expect(result("udp-direct", road).isAsExpected)
      #expect(result("udp-punch", road).isAsExpected)
      #expect(!result("server-relay", road).isAsExpected)
      #expect(!result("none", road).isAsExpected)
    }
    #expect(result("server-relay", .relayed).isAsExpected)
    // Better than theory is a fault too: of the lab or of the theory.
    #expect(!result("udp-punch", .relayed).isAsExpected)
    var half = result("udp-punch", .punched)
    half.tierBack = "server-relay"
    #expect(!half.isAsExpected)
    var broken = result("udp-punch", .punched)
    broken.isStreamWhole = false
    #expect(!broken.isAsExpected)
  }

  @Test func aRightRoadWithAWrongReasonIsNotAsExpected() {
    var run = result("server-relay", .relayed)
    run.expectedVerdict = "udp-blocked-here"
    run.expectedVerdictBack = "udp-blocked-there"
    run.verdict = "udp-blocked-here"
    run.verdictBack = "unanswered"
    #expect(!run.isAsExpected)
    #expect(run.words.contains("why: udp-blocked-here and unanswered"))
    run.verdictBack = "udp-blocked-there"
    #expect(run.isAsExpected)
  }

  @Test func bothEndsMustKnowWhy() throws {
    func verdicts(_ text: String) throws -> [PathVerdict]? {
      try Scenario.parse(text, name: "t").expectedVerdicts.map { [$0.here, $0.there] }
    }
    let two = "host a left\nhost b right\n"
    #expect(
      try verdicts("home left udp-blocked\nhome right public\n" + two)
        == [.udpBlockedHere, .udpBlockedThere])
    #expect(
      try verdicts("home left symmetric-random\nhome right symmetric-random\n" + two)
        == [.bothSymmetric, .bothSymmetric])
    #expect(
      try verdicts("home left public\nhome right ipv6-only\n" + two)
        == [.noCommonFamily, .noCommonFamily])
    #expect(try verdicts("home left public\nhome right public\n" + two) == [.direct, .direct])
    // A file may know better than theory; then it is the file's word alone.
    #expect(
      try verdicts("home left public\nhome right public\nexpect relayed\n" + two) == nil)
    let guests = "host a h\nhost b h\n"
    #expect(try verdicts("home h port-restricted\n" + guests) == [.direct, .direct])
    #expect(
      try verdicts("home h port-restricted isolated\n" + guests) == [.noHairpin, .noHairpin])
    #expect(
      try verdicts("home h port-restricted isolated hairpin\n" + guests) == [.direct, .direct])
    #expect(throws: ScenarioFault.self) { try verdicts("home h public isolated\n" + guests) }
  }

  @Test func resultsSurviveTheirJSON() throws {
    var before = result("udp-punch", .guessed, firstByte: 12.3456)
    before.failure = "words"
    before.why = ["tier": "x"]
    before.verdict = "direct"
    before.expectedVerdictBack = "no-hairpin"
    let after = try #require(CellResult(before.json))
    #expect(after.json == before.json)
    #expect(CellResult(["cell": "c", "expected": "nonsense"]) == nil)
  }

  @Test func reportsCountAndTakeRanks() throws {
    var report = GridReport(try parse("kinds public\ncell full-cone,public runs 20\n"))
    report.summaries[0].results = (1...19).map {
      result("udp-direct", .direct, firstByte: Double($0))
    }
    report.summaries[1].results = [result("udp-direct", .direct)]
    #expect(report.isGood)
    #expect(report.summaries[0].firstByte == Spread((1...19).map(Double.init)))
    #expect(report.summaries[0].firstByte?.median == 10)
    #expect(report.summaries[0].firstByte?.p95 == 19)
    report.summaries[0].results.append(result("server-relay", .direct, firstByte: 900))
    #expect(report.isGood, "one of twenty may miss")
    #expect(report.summaries[0].firstByte?.p95 == 19, "times are of runs as expected")
    report.summaries[0].results.append(result("server-relay", .direct))
    #expect(!report.isGood)
    #expect(report.picture.contains("D 1/1"))
    report.summaries[1].results = []
    #expect(!report.summaries[1].isGood, "a cell that never ran is not good")
    report.summaries[0].timed = [result("udp-direct", .direct, firstByte: 77)]
    #expect(report.summaries[0].firstByte?.median == 77)
  }

  @Test func runsAloneMustKeepTheirTime() throws {
    var report = GridReport(
      try parse(
        "cell full-cone,public runs 1\ncell port-restricted,symmetric-random runs 1\ncell udp-blocked,udp-blocked runs 1\n"
      ))
    report.summaries[0].results = [result("udp-direct", .direct, firstByte: 900)]
    report.summaries[1].results = [result("udp-punch", .guessed, firstByte: 900)]
    report.summaries[2].results = [result("tcp-punch", .tcpPunched, firstByte: 1001)]
    #expect(report.isGood, "side by side nothing is promised")
    report.summaries[0].timed = [result("udp-direct", .direct, firstByte: 501)]
    report.summaries[1].timed = [result("udp-punch", .guessed, firstByte: 9000)]
    report.summaries[2].timed = [result("tcp-punch", .tcpPunched, firstByte: 1001)]
    #expect(report.summaries.map(\.verdict) == ["TOO SLOW", "good", "TOO SLOW"])
  }
}
