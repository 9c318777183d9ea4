/// `martlet lab check-kinds`: the router of every kind is built, looked at with
/// real packets, and compared with the table that the simulator shares. One
/// kind in this process, several as children of it.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import NAT

struct CheckKinds {
  let entry: LabEntry
  private static let within = TimeAmount.seconds(60)

  struct Check: Hashable {
    var kind: NATKind

    var label: String { kind.name + (kind.hairpins ? " +hairpin" : "") }
  }

  /// Those asked for; hairpinning makes no sense where nothing is translated.
  static func checks(_ names: [String], _ hairpin: LabHairpin) throws(LabFailure) -> [Check] {
    var kinds: [NATKind] = []
    for name in names {
      guard let kind = NATKind.named(name) else { throw .failed(ScenarioLines.unknownKind(name)) }
      kinds.append(kind)
    }
    if kinds.isEmpty { kinds = NATKind.all }
    var checks: [Check] = []
    for kind in kinds {
      let canTurn = kind.translates && kind.passesUDP
      if hairpin != .on || !canTurn {
        checks.append(Check(kind: kind))
      }
      if hairpin != .off, canTurn {
        var turning = kind
        turning.hairpins = true
        checks.append(Check(kind: turning))
      }
    }
    return checks
  }

  func run(_ names: [String], _ hairpin: LabHairpin) throws(LabFailure) -> Int32 {
    let checks = try Self.checks(names, hairpin)
    var results: [JSONValue] = []
    if checks.count == 1 {
      results = [try one(checks[0])]
    } else {
      results = try all(checks)
    }
    let isGood = results.allSatisfy { $0["mismatches"]?.array?.isEmpty == true }
    if entry.invocation.json {
      Output.write(JSONValue.array(results).text(.pretty))
    } else {
      Output.write(Self.table(results))
    }
    return isGood ? ExitStatus.success : ExitStatus.failure
  }

  private func one(_ check: Check) throws(LabFailure) -> JSONValue {
    let lab = LiveLab(
      KindProbe.topology(check.kind), store: try entry.store(), workshop: entry.workshop)
    try lab.up()
    defer { lab.down() }
    var probe = KindProbe(lab, check.kind)
    let facts = try probe.run()
    return [
      "kind": .string(check.kind.name), "hairpin": .bool(check.kind.hairpins),
      "facts": facts.json, "mismatches": JSONValue(facts.mismatches(check.kind)),
    ]
  }

  private func all(_ checks: [Check]) throws(LabFailure) -> [JSONValue] {
    let store = try entry.store()
    let journal = try store.begin(scenario: "check-kinds")
    entry.workshop.journal = journal
    defer { _ = TearDown.run(store, workshop: entry.workshop) }
    let jobs = checks.enumerated().map { number, check in
      LabJob(
        number: number,
        arguments: [
          "lab", "check-kinds", check.kind.name, "--hairpin", check.kind.hairpins ? "on" : "off",
          "--json", "--prefix", "\(store.prefix)k\(number)",
        ], within: Self.within)
    }
    var results = checks.map { check in
      JSONValue.object([
        "kind": .string(check.kind.name), "hairpin": .bool(check.kind.hairpins), "facts": .null,
        "mismatches": ["not checked"],
      ])
    }
    let pool = JobPool(entry.workshop, limit: entry.jobs, directory: store.directory)
    try pool.run(jobs) { outcome in
      do throws(JSONError) {
        let value = try JSONValue.parse(Array(outcome.output.utf8))
        if let result = value[0] { results[outcome.number] = result }
      } catch {
        results[outcome.number]["mismatches"] = .array([
          .string(outcome.status == nil ? "took too long" : outcome.errors)
        ])
      }
    }
    return results
  }

  static func table(_ results: [JSONValue]) -> String {
    var table = TextTable([
      "KIND", "HAIRPIN", "MAPPING", "FILTERING", "PORTS", "UDP", "TCP", "ROUTERS", "VERDICT",
    ])
    var bad = 0
    for result in results {
      let facts = result["facts"]
      let mismatches = result["mismatches"]?.array?.compactMap(\.string) ?? []
      if !mismatches.isEmpty { bad += 1 }
      table.add([
        result["kind"]?.string ?? "", facts?["hairpins"]?.bool.map { $0 ? "yes" : "no" } ?? "",
        facts?["mapping"]?.string ?? "", facts?["filtering"]?.string ?? "",
        facts?["allocator"]?.string ?? "", facts?["udp"]?.bool.map { $0 ? "yes" : "no" } ?? "",
        (facts?["tcpAnswered"]?.array ?? []).compactMap { $0.int.map { "\($0)" } }
          .joined(separator: ","),
        facts?["homeRouters"]?.int.map { "\($0)" } ?? "",
        mismatches.isEmpty ? "as described" : mismatches.joined(separator: "; "),
      ])
    }
    return table.text + "\(results.count) routers checked, \(bad) not as described\n"
  }
}
