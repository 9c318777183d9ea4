/// Scenario files: a network and who fetches from whom, and what is expected.
/// Line format and examples are in docs/lab.md. Parses text; opens no file.

package import NAT

/// A network, and one fetch in it.
package struct Scenario: Hashable, Sendable {
  package var topology: LabTopology
  /// The host with the inbound, and the one with the outbound and the target.
  package var from: String
  package var to: String
  /// From the file; nil: theory says.
  package var stated: ExpectedRoad?
  package var runs: Int?
  /// The file it came from; nil for a pair of kinds.
  package var source: String?

  package init(_ topology: LabTopology, from: String, to: String) {
    self.topology = topology
    self.from = from
    self.to = to
  }

  /// A cell of the grid: host `a` fetches from host `b`.
  package static func cell(_ a: NATKind, _ b: NATKind) -> Scenario {
    Scenario(.cell(a, b), from: "a", to: "b")
  }

  package var name: String { topology.name }

  /// What theory, or the file, says about the road between the two.
  package var expected: ExpectedRoad {
    if let stated { return stated }
    guard let a = topology.home(of: from), let b = topology.home(of: to) else {
      preconditionFailure("\(name): its ends were checked when it was read")
    }
    if a.name == b.name {
      // In one home they meet in its own network, whatever its way out is; else
      // at the router's address outside, when it turns packets round.
      guard a.isIsolated else { return .direct }
      return a.kind.hairpins && a.kind.passesUDP ? .punched : .relayed
    }
    return PunchTheory.expected(a.kind, b.kind)
  }

  /// What `martlet why` has to say in the end: at `from` of `to`, and at `to` of
  /// `from`. Nil where a file expects another road than theory, which has no
  /// word for the reason.
  package var expectedVerdicts: (here: PathVerdict, there: PathVerdict)? {
    if expected.isDatagram { return (.direct, .direct) }
    guard let a = topology.home(of: from), let b = topology.home(of: to) else { return nil }
    if a.name == b.name {
      guard a.isIsolated else { return nil }
      return a.kind.passesUDP ? (.noHairpin, .noHairpin) : (.udpBlockedHere, .udpBlockedHere)
    }
    guard !PunchTheory.expected(a.kind, b.kind).isDatagram else { return nil }
    return (
      PunchTheory.verdict(here: a.kind, there: b.kind),
      PunchTheory.verdict(here: b.kind, there: a.kind)
    )
  }
}

/// A line of a file that says nothing we know.
package struct ScenarioFault: Error, Hashable, Sendable {
  /// 1 is the first.
  package var line: Int
  package var words: String
}

package enum ScenarioLimits {
  package static let lines = 2000
  package static let runs = 1000
}

/// The lines of a file as words; shared by scenarios and grids.
struct ScenarioLines {
  let lines: [(number: Int, words: [String])]

  init(_ text: String) throws(ScenarioFault) {
    var lines: [(Int, [String])] = []
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    {
      guard index < ScenarioLimits.lines else {
        throw ScenarioFault(line: index + 1, words: "more than \(ScenarioLimits.lines) lines")
      }
      let said = line.prefix { $0 != "#" }
      let words = said.split { $0 == " " || $0 == "\t" || $0 == "\r" }.map(String.init)
      if !words.isEmpty { lines.append((index + 1, words)) }
    }
    self.lines = lines
  }

  static func kind(_ name: String, line: Int) throws(ScenarioFault) -> NATKind {
    guard let kind = NATKind.named(name) else {
      throw ScenarioFault(line: line, words: unknownKind(name))
    }
    return kind
  }

  static func unknownKind(_ name: String) -> String {
    "there is no kind \(name); there are: \(NATKind.all.map(\.name).joined(separator: ", "))"
  }

  static func count(
    _ word: String?, _ range: ClosedRange<Int>, _ what: String, line: Int
  ) throws(ScenarioFault) -> Int {
    guard let word, let value = Int(word), range.contains(value) else {
      throw ScenarioFault(
        line: line,
        words: "\(what): expected a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }
}

extension Scenario {
  /// - Parameter name: of the file, without `.lab`.
  package static func parse(_ text: String, name: String) throws(ScenarioFault) -> Scenario {
    var homes: [LabHome] = []
    var port: UInt16?
    var ends: (from: String, to: String)?
    var stated: ExpectedRoad?
    var runs: Int?
    var last = 1
    for (line, words) in try ScenarioLines(text).lines {
      last = line
      switch words[0] {
      case "home": homes.append(try home(words, line))
      case "host":
        guard words.count == 3, let index = homes.firstIndex(where: { $0.name == words[2] }) else {
          throw ScenarioFault(line: line, words: "host: expected NAME and a home named before")
        }
        homes[index].hosts.append(words[1])
      case "server":
        guard words.count == 3, words[1] == "port", let value = UInt16(words[2]), value > 0 else {
          throw ScenarioFault(line: line, words: "server: expected port NUMBER")
        }
        port = value
      case "fetch":
        guard words.count == 5, words[1] == "from", words[3] == "at" else {
          throw ScenarioFault(line: line, words: "fetch: expected from HOST at HOST")
        }
        ends = (words[4], words[2])
      case "expect":
        guard words.count == 2, let road = ExpectedRoad(rawValue: words[1]) else {
          throw ScenarioFault(
            line: line,
            words: "expect: expected direct, punched, guessed, tcp-direct, tcp-punched or relayed")
        }
        stated = road
      case "runs":
        runs = try ScenarioLines.count(
          words.dropFirst().first, 1...ScenarioLimits.runs, "runs", line: line)
      default:
        throw ScenarioFault(
          line: line,
          words: "\(words[0]): expected home, host, server, fetch, expect or runs")
      }
    }
    let topology = LabTopology(name, homes: homes, serverPort: port)
    if let fault = topology.fault { throw ScenarioFault(line: last, words: fault) }
    let hosts = homes.flatMap(\.hosts)
    let found = ends ?? (hosts[0], hosts[hosts.count - 1])
    guard found.from != found.to, hosts.contains(found.from), hosts.contains(found.to) else {
      throw ScenarioFault(line: last, words: "it takes two different hosts to fetch")
    }
    var scenario = Scenario(topology, from: found.from, to: found.to)
    scenario.stated = stated
    scenario.runs = runs
    return scenario
  }

  /// home NAME KIND [hairpin] [isolated] [loss PERCENT]
  private static func home(_ words: [String], _ line: Int) throws(ScenarioFault) -> LabHome {
    guard words.count >= 3 else {
      throw ScenarioFault(line: line, words: "home: expected NAME and KIND")
    }
    var home = LabHome(words[1], try ScenarioLines.kind(words[2], line: line), hosts: [])
    var rest = words.dropFirst(3)
    while let word = rest.popFirst() {
      switch word {
      case "hairpin": home.kind.hairpins = true
      case "isolated": home.isIsolated = true
      case "loss":
        let number = rest.popFirst().map { $0.hasSuffix("%") ? String($0.dropLast()) : $0 }
        home.lossPerMille =
          10 * (try ScenarioLines.count(number, 0...50, "loss in percent", line: line))
      default:
        throw ScenarioFault(
          line: line, words: "home: \(word) is neither hairpin nor isolated nor loss")
      }
    }
    return home
  }
}
