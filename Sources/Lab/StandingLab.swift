/// Labs that stay until they are taken down: `up`, `down`, `list`. A keeper, a
/// child of ours that outlives us, makes the network and waits for SIGTERM; so
/// it is one and the same with root and for an ordinary user, whose namespaces
/// live only as long as somebody is in them.

internal import Bytes
internal import CLinux
internal import CommandLine
internal import Glibc
internal import HTTP
internal import NAT
internal import Reactor

struct StandingLab {
  let entry: LabEntry
  /// Set for the keeper; the descriptor it reports to is its standard output.
  static let keeperVariable = "MARTLET_LAB_KEEPER"
  private static let within = TimeAmount.seconds(30)

  // MARK: Up

  func up(_ scenario: String) throws(LabFailure) -> Int32 {
    let store = try entry.store()
    let found = try ScenarioLibrary(programs: entry.programs).scenario(scenario)
    let (keeper, pipe) = try entry.workshop.startPiped(
      [LabEntry.program, "lab", "up", scenario, "--prefix", store.prefix],
      log: nil, deathSignal: 0, environment: [Self.keeperVariable: "1"])
    defer { _ = martlet_close(pipe) }
    var text: [UInt8] = []
    let deadline = Workshop.after(Self.within)
    do throws(LabFailure) {
      while true {
        guard try entry.workshop.wait([pipe], until: deadline).contains(true) else {
          throw .failed("the lab is not up within \(Self.within.inSeconds) s")
        }
        let bytes = Workshop.readSome(pipe)
        if bytes.isEmpty { break }
        text += bytes
        if text.last == UInt8(ascii: "\n") { break }
      }
    } catch {
      keeper.signal(SIGTERM)
      throw error
    }
    guard String(decoding: text, as: UTF8.self) == "up\n" else {
      _ = try entry.workshop.wait(for: keeper, within: .seconds(10))
      return keeper.status == ExitStatus.refused ? ExitStatus.refused : ExitStatus.failure
    }
    Output.write(Self.words(found, store, keeper: keeper.pid))
    return ExitStatus.success
  }

  private static func words(_ scenario: Scenario, _ store: LabStore, keeper: Int32) -> String {
    let plan = NetworkPlan(scenario.topology, prefix: store.prefix)
    var table = TextTable(["HOST", "HOME", "KIND", "ADDRESS", "NAMESPACE"])
    table.add(["server", "", "", "\(NetworkPlan.serverV4)", plan.namespace("server")])
    for home in scenario.topology.homes {
      for host in home.hosts {
        table.add([
          host, home.name, home.kind.name + (home.kind.hairpins ? " +hairpin" : ""),
          plan.address(of: host)?.description ?? "", plan.namespace(host),
        ])
      }
    }
    var text = "lab \(store.prefix) is up: \(scenario.name)\n" + table.text
    if ProcessSettings.effectiveUserID == 0 {
      text += "a shell there:  ip netns exec \(plan.namespace(scenario.from)) bash\n"
    } else {
      text +=
        "a shell there:  nsenter -t \(keeper) -U -m -n --preserve-credentials ip netns exec \(plan.namespace(scenario.from)) bash\n"
    }
    return text + "take it down:   martlet lab down --prefix \(store.prefix)\n"
  }

  /// The keeper's life.
  func keep(_ scenario: String) throws(LabFailure) -> Int32 {
    let found = try ScenarioLibrary(programs: entry.programs).scenario(scenario)
    let lab = LiveLab(found.topology, store: try entry.store(), workshop: entry.workshop)
    try lab.up()
    Output.write("up\n")
    // Whoever waits for the end of our output must not wait for ours.
    let null = unsafe open("/dev/null", O_RDWR | O_CLOEXEC)
    if null >= 0 {
      for descriptor: Int32 in [1, 2] { _ = dup2(null, descriptor) }
      _ = martlet_close(null)
    }
    do throws(LabFailure) {
      while true { try entry.workshop.sleep(.hours(1)) }
    } catch {
      lab.down()
      return ExitStatus.success
    }
  }

  // MARK: Down

  func down(all: Bool) throws(LabFailure) -> Int32 {
    var prefixes: [String] = []
    if all {
      prefixes = LabStore.prefixes(in: entry.parent)
      // Labs whose directory is gone, by the prefix we give when none is given.
      // Only root's have names that are seen here.
      for name in ProcessSettings.effectiveUserID == 0 ? Namespaces.all() : [] {
        if let prefix = Self.automaticPrefix(name), !prefixes.contains(prefix) {
          prefixes.append(prefix)
        }
      }
    } else {
      let prefix = try entry.store().prefix
      prefixes =
        [prefix] + LabStore.prefixes(in: entry.parent).filter { Self.isPart($0, of: prefix) }
    }
    var found = 0
    for prefix in prefixes {
      let store = LabStore(parent: entry.parent, prefix: prefix)
      let outcome = TearDown.run(store, workshop: entry.workshop)
      if entry.workshop.isInterrupted { throw .interrupted }
      guard outcome.foundSomething else { continue }
      found += 1
      let left =
        outcome.runnerEnded
        ? ""
        : ", left by a killed runner: \(outcome.processes) processes, \(outcome.namespaces) namespaces"
      Output.write("lab \(prefix) is down\(left)\n")
    }
    if found == 0 {
      Output.write(all ? "no lab stands\n" : "there is no lab \(prefixes[0])\n", to: all ? 1 : 2)
      return all ? ExitStatus.success : ExitStatus.failure
    }
    return ExitStatus.success
  }

  /// The labs of a grid's runs bear its prefix and a number.
  static func isPart(_ name: String, of prefix: String) -> Bool {
    guard name.hasPrefix(prefix), let letter = name.dropFirst(prefix.count).first,
      LabStore.partLetters.contains(letter)
    else { return false }
    let number = name.dropFirst(prefix.count + 1)
    return !number.isEmpty && number.allSatisfy { $0.isASCII && $0.isNumber }
  }

  /// "mlab123-net" → "mlab123".
  static func automaticPrefix(_ namespace: String) -> String? {
    guard namespace.hasPrefix("mlab"), let dash = namespace.firstIndex(of: "-") else { return nil }
    let prefix = String(namespace[..<dash])
    let rest = prefix.dropFirst(4)
    guard let digit = rest.first, digit.isASCII, digit.isNumber, LabStore.isPrefix(prefix) else {
      return nil
    }
    return prefix
  }

  // MARK: List

  func list() throws(LabFailure) -> Int32 {
    let labs = LabStore.prefixes(in: entry.parent).map { prefix in
      let record = LabStore(parent: entry.parent, prefix: prefix).read()
      return (
        prefix: prefix, scenario: record.scenario, isRunning: record.runner?.isAlive == true,
        processes: record.processes.count(where: \.isAlive)
      )
    }
    let library = ScenarioLibrary(programs: entry.programs)
    if entry.invocation.json {
      let value: JSONValue = [
        "labs": .array(
          labs.map { lab in
            [
              "prefix": .string(lab.prefix), "scenario": .string(lab.scenario),
              "running": .bool(lab.isRunning), "processes": JSONValue(lab.processes),
            ]
          }), "scenarios": JSONValue(library.names), "kinds": JSONValue(NATKind.all.map(\.name)),
      ]
      Output.write(value.text(.pretty))
      return ExitStatus.success
    }
    var table = TextTable(["LAB", "SCENARIO", "STATE", "PROCESSES"])
    for lab in labs {
      table.add([
        lab.prefix, lab.scenario,
        lab.isRunning ? "up" : "left over: martlet lab down --prefix \(lab.prefix)",
        "\(lab.processes)",
      ])
    }
    Output.write(labs.isEmpty ? "no lab stands\n" : table.text)
    Output.write("scenarios: \(library.names.joined(separator: ", "))\n")
    Output.write("kinds: \(NATKind.all.map(\.name).joined(separator: ", "))\n")
    return ExitStatus.success
  }
}
