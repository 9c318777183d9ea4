/// One run of one cell: a fresh network, a server, two agents that know nothing
/// of each other, a tunnel, a connection through it, and a watch on the path
/// until it has settled. Measures; judges nothing but whether it settled.

internal import Bytes
internal import CLinux
internal import Glibc
internal import HTTP
internal import NAT
internal import Reactor

struct CellRun {
  let entry: LabEntry
  let scenario: Scenario
  private let workshop: Workshop
  private let lab: LiveLab
  private var result: CellResult
  private static let token = "18446744073709551557"
  private static let targetPort: UInt16 = 8000
  private static let inboundPort: UInt16 = 9000

  enum Times {
    static let online = TimeAmount.seconds(20)
    static let firstByte = TimeAmount.seconds(15)
    /// How long a path must stay to be final.
    static let calm = TimeAmount.milliseconds(700)
    /// How long a road may take, by what theory says of it.
    static func limit(_ road: ExpectedRoad) -> TimeAmount {
      switch road {
      case .direct, .punched, .guessed, .tcpDirect, .tcpPunched: .seconds(11)
      case .relayed: .seconds(6)
      }
    }
    static let watch = TimeAmount.milliseconds(20)
    static let ask = TimeAmount.milliseconds(100)
    /// How long the ends may still be trying before they must know.
    static let verdict = TimeAmount.seconds(8)
    static let askAgain = TimeAmount.milliseconds(250)
  }

  init(_ entry: LabEntry, _ scenario: Scenario, _ store: LabStore) {
    self.entry = entry
    self.scenario = scenario
    workshop = entry.workshop
    lab = LiveLab(scenario.topology, store: store, workshop: entry.workshop)
    result = CellResult(scenario.name, expected: scenario.expected)
    if let verdicts = scenario.expectedVerdicts {
      result.expectedVerdict = verdicts.here.rawValue
      result.expectedVerdictBack = verdicts.there.rawValue
    }
  }

  /// - Parameter keep: a directory for the logs when it was not as expected.
  mutating func run(keep: String?) throws(LabFailure) -> CellResult {
    try lab.up()
    var isGood = false
    defer { lab.down(keepingFiles: false) }
    do throws(LabFailure) {
      try measure()
      isGood = result.isAsExpected
    } catch {
      if case .interrupted = error { throw error }
      result.failure = error.words
    }
    if isGood {
      // Both ends' words are of use where something is wrong.
      result.why = .null
      result.whyBack = .null
    } else {
      if result.why == .null { explain() }
      if let keep { LogKeeper.copy(lab.store.directory, to: keep) }
    }
    return result
  }

  // MARK: Programs

  private func program(_ name: String) -> String { "\(entry.programs)/\(name)" }

  private func startServer() throws(LabFailure) -> LabProcess {
    try lab.start(
      [
        program("inp2ps"), "-token", Self.token, "-data", "state", "-log-level", "debug",
        "-ws-port", "\(scenario.topology.serverPort)",
        "-stun-alt-ip", "\(NetworkPlan.serverSecondV4)",
      ], on: "server", log: "inp2ps.log")
  }

  private func startAgent(_ host: String) throws(LabFailure) -> LabProcess {
    guard let home = scenario.topology.home(of: host) else {
      preconditionFailure("\(host) is no host")
    }
    return try lab.start(
      [
        program("inp2pc"), "-serverhost", "\(NetworkPlan.server(for: home.kind))", "-serverport",
        "\(scenario.topology.serverPort)", "-node", host, "-token", Self.token, "-config",
        "config.json", "-log-level", "debug",
      ], on: host, log: "inp2pc.log")
  }

  private func typed(_ host: String, _ words: [String]) throws(LabFailure) -> String {
    let result = try lab.run([program(words[0])] + words.dropFirst(), on: host)
    guard result.status == 0 else {
      throw .failed("\(host): \(words.joined(separator: " ")): \(result.error)")
    }
    return result.output
  }

  /// Until the server's port is open.
  private func waitForServer(_ server: LabProcess) throws(LabFailure) {
    let deadline = Workshop.after(Times.online)
    let endpoint = Endpoint(.loopbackV4, scenario.topology.serverPort)
    while true {
      try alive(server)
      let outcome = try TCPProbe.connect(
        lab.plan.namespace("server"), endpoint, until: deadline, workshop)
      if case .connected(let fd) = outcome {
        _ = martlet_close(fd)
        return
      }
      guard Workshop.now < deadline else { throw .failed("the server does not listen") }
      try workshop.sleep(.milliseconds(10))
    }
  }

  private func alive(_ process: LabProcess) throws(LabFailure) {
    guard process.isRunning else {
      let said = process.log.map { LogTail.read($0) } ?? ""
      throw .failed("\(process.words) ended with \(process.status ?? 255): \(said)")
    }
  }

  // MARK: Measuring

  private mutating func measure() throws(LabFailure) {
    let (a, b) = (scenario.from, scenario.to)
    let server = try startServer()
    try waitForServer(server)
    let begun = Workshop.now
    let agents = [try startAgent(a), try startAgent(b)]
    let queries = [
      AgentQuery(lab.plan.namespace(a), workshop), AgentQuery(lab.plan.namespace(b), workshop),
    ]
    let deadline = Workshop.after(Times.online)
    while true {
      let seen = [try queries[0].sees(b), try queries[1].sees(a)]
      if seen == [true, true] { break }
      for process in agents + [server] { try alive(process) }
      guard Workshop.now < deadline else {
        throw .failed("not both online within \(Times.online.inSeconds) s")
      }
      try workshop.sleep(.milliseconds(20))
    }
    result.onlineMs = Self.milliseconds(since: begun)

    let target = try EchoTarget(lab.plan.namespace(b), port: Self.targetPort)
    _ = try typed(
      b,
      [
        "ztm", "tunnel", "open", "outbound", "tcp/cell", "--targets",
        "127.0.0.1:\(Self.targetPort)",
      ])
    _ = try typed(
      a,
      [
        "ztm", "tunnel", "open", "inbound", "tcp/cell", "--listen",
        "127.0.0.1:\(Self.inboundPort)", "--exits", b,
      ])
    try watch(queries, agents, target)
    result.tier = try tierByStatus(a, of: b)
    result.tierBack = try tierByStatus(b, of: a)
    try judgeVerdicts()
  }

  private static func milliseconds(since: Instant) -> Double {
    TimeAmount(nanoseconds: Workshop.now.nanoseconds - since.nanoseconds).inMilliseconds
  }

  /// What `martlet status --json` says in the end.
  private func tierByStatus(_ host: String, of peer: String) throws(LabFailure) -> String {
    let text = try typed(host, ["martlet", "status", "--json"])
    do throws(JSONError) {
      let status = try JSONValue.parse(Array(text.utf8))
      return status["peers"]?.array?.first { $0["name"]?.string == peer }?["tier"]?.string ?? "none"
    } catch {
      throw .failed("martlet status --json is not JSON: \(error)")
    }
  }

  /// Opens a connection through the tunnel and looks at both ends' paths until
  /// they are what they should be and stay so, or the time is over.
  private mutating func watch(
    _ queries: [AgentQuery], _ agents: [LabProcess], _ target: EchoTarget
  ) throws(LabFailure) {
    let begun = Workshop.now
    guard
      case .connected(let fd) = try TCPProbe.connect(
        lab.plan.namespace(scenario.from), Endpoint(.loopbackV4, Self.inboundPort),
        until: Workshop.after(.seconds(2)), workshop)
    else { throw .failed("nobody listens at the inbound") }
    defer { _ = martlet_close(fd) }
    var client = EchoClient(fd)
    client.ask(now: Workshop.now)
    let limit = Workshop.after(Times.limit(result.expected))
    var tiers: [String?] = [nil, nil]
    var since = [begun, begun]
    var nextLook = begun
    var nextAsk = Workshop.after(Times.ask)
    while true {
      let wake = min(nextLook, nextAsk)
      let ready = try workshop.wait(target.descriptors + [fd], until: wake)
      target.serve(Array(ready.dropLast()))
      if ready.last == true { client.receive(now: Workshop.now) }
      let now = Workshop.now
      if client.isBroken { break }
      if client.firstByteAt == nil,
        now.nanoseconds - begun.nanoseconds > Times.firstByte.nanoseconds
      {
        throw .failed("no byte through the tunnel within \(Times.firstByte.inSeconds) s")
      }
      if now >= nextAsk, client.isAnswered {
        client.ask(now: now)
        nextAsk = Workshop.after(Times.ask)
      } else if now >= nextAsk {
        nextAsk = Workshop.after(Times.ask)
      }
      guard now >= nextLook else { continue }
      nextLook = Workshop.after(Times.watch)
      for (index, peer) in [scenario.to, scenario.from].enumerated() {
        let tier = try queries[index].tier(of: peer)
        if tier != tiers[index] {
          tiers[index] = tier
          since[index] = now
        }
      }
      for process in agents { try alive(process) }
      let isThere = tiers.allSatisfy { CellResult.fits($0 ?? "none", result.expected) }
      let latest = max(since[0], since[1])
      let isCalm = now.nanoseconds - latest.nanoseconds >= Times.calm.nanoseconds
      // A relayed pair is watched to the end: it must not find another road.
      let isDone = result.expected.isDirect && isThere && isCalm && client.firstByteAt != nil
      if isDone || now >= limit { break }
    }
    result.isStreamWhole = !client.isBroken && client.firstByteAt != nil
    result.firstByteMs = client.firstByteAt.map {
      TimeAmount(nanoseconds: $0.nanoseconds - begun.nanoseconds).inMilliseconds
    }
    result.longestSilenceMs = client.longestSilence.inMilliseconds
    let last = max(since[0], since[1])
    result.finalTierMs =
      TimeAmount(nanoseconds: last.nanoseconds - begun.nanoseconds).inMilliseconds
    if client.isBroken { throw .failed("the stream through the tunnel broke") }
  }

  /// `martlet why` at both ends, until it says what it must or the time is over.
  private mutating func judgeVerdicts() throws(LabFailure) {
    let deadline = Workshop.after(Times.verdict)
    while true {
      explain()
      result.verdict = result.why["verdict"]?.string ?? "none"
      result.verdictBack = result.whyBack["verdict"]?.string ?? "none"
      if result.isVerdictRight || Workshop.now >= deadline { return }
      try workshop.sleep(Times.askAgain)
    }
  }

  /// Both ends' own words about it.
  private mutating func explain() {
    func why(_ host: String, _ peer: String) -> JSONValue {
      do throws(LabFailure) {
        let text = try typed(host, ["martlet", "why", peer, "--json"])
        do throws(JSONError) {
          return try JSONValue.parse(Array(text.utf8))
        } catch {
          return .string("not JSON: \(error)")
        }
      } catch {
        return .string(error.words)
      }
    }
    result.why = why(scenario.from, scenario.to)
    result.whyBack = why(scenario.to, scenario.from)
  }
}
