/// From answers to facts. RFC 5780 §4.3 (mapping), §4.4 (filtering), RFC 4787 §4.2
/// (ports); docs/protocol/stun.md "Finding out".

#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(NAT)
  internal import NAT
#endif

extension NATProbe {
  func verdict() -> NATProbeReport {
    var result = NATProbeReport()
    result.mapped = answer(.mainFirst) ?? answer(.mainSecond)
    result.roundTrip = roundTrip
    result.heardUDP = hasHeardUDP
    result.heardTCP = hasHeardTCP
    result.tcpMapped = streams.compactMap(\.mapped)
    result.otherServer = answer(.mainOther) == nil ? nil : other
    result.hops = hops?.report
    for ask in asks {
      guard case .answered(let mapped) = ask.outcome, ask.source == ask.destination else {
        continue
      }
      result.observations.append(
        NATObservation(socket: ask.socket, server: ask.destination, mapped: mapped))
    }
    let mapping = mapping()
    result.facts = NATFacts(
      mapping: mapping, filtering: filtering(mapping),
      preservesPort: mapping == .none ? true : preservesPort(), hairpins: hairpins(mapping),
      isUDPBlocked: !hasHeardUDP && hasHeardTCP)
    if mapping != .none, result.facts.preservesPort == false {
      result.facts.allocatorStep = allocatorStep()
    }
    return result
  }

  private func mapping() -> NATMapping {
    let seen = [answer(.mainFirst), answer(.mainSecond), answer(.mainOther)].compactMap { $0 }
    guard !seen.isEmpty else { return .unknown }
    if seen.allSatisfy({ isOwn($0, settings.main) }) { return .none }
    guard let first = answer(.mainFirst), let second = answer(.mainSecond) else { return .unknown }
    guard first == second else { return .addressAndPortDependent }
    guard let other = answer(.mainOther), other != first else { return .endpointIndependent }
    return .addressDependent
  }

  private func filtering(_ mapping: NATMapping) -> NATFiltering {
    if answer(.changeBoth) != nil { return .endpointIndependent }
    if answer(.changePort) != nil {
      // The second address talks to us, but cannot talk first.
      if outcome(.changeBoth) == .silent, answer(.mainOther) != nil { return .addressDependent }
      // A filter without a NAT is a stateful firewall, and those tell ports
      // apart: there is none. Behind a NAT it is at least this open.
      return mapping == .none ? .endpointIndependent : .addressDependent
    }
    // Silence means filtering only from a port that answers otherwise.
    guard outcome(.changePort) == .silent, answer(.mainSecond) != nil else { return .unknown }
    return .addressAndPortDependent
  }

  private func hairpins(_ mapping: NATMapping) -> Bool? {
    switch mapping {
    case .none: true
    case .unknown: nil
    case .endpointIndependent, .addressDependent, .addressAndPortDependent: hairpin?.works
    }
  }

  /// The first mapping of each socket has its local port, for most of them:
  /// one port may be taken by a neighbour.
  private func preservesPort() -> Bool? {
    var kept = 0
    var seen = 0
    func count(_ mapped: Endpoint?, _ socket: NATProbeSocket) {
      guard let mapped, socket.localPort != 0 else { return }
      seen += 1
      if mapped.port == socket.localPort { kept += 1 }
    }
    count(answer(.mainFirst), settings.main)
    for (index, socket) in settings.auxiliary.enumerated() {
      count(answer(.auxiliary(index)), socket)
    }
    return seen == 0 ? nil : kept * 2 > seen
  }

  /// The difference of successive outside ports, when it is one small number
  /// that others' connections explain the exceptions of; else 0.
  private func allocatorStep() -> Int16 {
    // A repeated question may have made its mapping late: out of order.
    var ports = newPorts { $0.attempts == 1 }
    if ports.count < 3 { ports = newPorts { _ in true } }
    guard ports.count >= 3 else { return 0 }
    let steps = zip(ports, ports.dropFirst()).map { Int(Int16(bitPattern: $1 &- $0)) }
    guard let smallest = steps.min(by: { abs($0) < abs($1) }), smallest != 0,
      abs(smallest) <= NATProbeTunables.largestStep
    else { return 0 }
    let isOne = steps.allSatisfy {
      $0.isMultiple(of: smallest) && (1...NATProbeTunables.foreignSteps).contains($0 / smallest)
    }
    guard isOne, steps.filter({ $0 == smallest }).count * 2 >= steps.count else { return 0 }
    return Int16(smallest)
  }

  /// Outside ports in the order their mappings were made.
  private func newPorts(_ condition: (Ask) -> Bool) -> [UInt16] {
    var ports: [UInt16] = []
    var seen: Set<NATObservation> = []
    for ask in asks where condition(ask) {
      guard case .answered(let mapped) = ask.outcome, ask.source == ask.destination else {
        continue
      }
      let key = NATObservation(socket: ask.socket, server: .none, mapped: mapped)
      if seen.insert(key).inserted { ports.append(mapped.port) }
    }
    return ports
  }

  /// Time is up: a question sent often enough, long enough ago, was filtered.
  mutating func concludeSilence(_ now: Instant) {
    let enough = (roundTrip ?? NATProbeTunables.firstTimeout) * 2
    for index in asks.indices where asks[index].outcome == .waiting {
      if asks[index].attempts >= NATProbeTunables.silenceProves,
        now - asks[index].lastSent >= enough
      {
        asks[index].outcome = .silent
      }
    }
    if hairpin?.works == nil, hairpin != nil { hairpin?.works = false }
  }

  /// Compares with what was seen before; the report's endpoint follows.
  mutating func finishRefresh() {
    let first = answer(.mainFirst)
    let second = answer(.mainSecond)
    let mapped = first ?? second
    var result = NATRefresh(outcome: .silent, mapped: mapped, wantsProbe: false)
    if let mapped {
      let role: Role = first != nil ? .mainFirst : .mainSecond
      let before = lastSeen(role)
      result.outcome = before == nil || before == mapped ? .same : .moved
      let wasStable = report?.facts.mapping.isStable
      let isStable = first == nil || second == nil ? nil : first == second
      result.wantsProbe =
        report == nil || before.map { $0.address != mapped.address } ?? true
        || isStable.map { $0 != wasStable } ?? false
      remember(.mainFirst, first)
      remember(.mainSecond, second)
      report?.mapped = mapped
    }
    clear()
    phase = .idle
    tell(.refreshed(result))
  }

  private mutating func remember(_ role: Role, _ mapped: Endpoint?) {
    let port = role == .mainFirst ? settings.server.udp1 : settings.server.udp2
    let server = Endpoint(settings.server.address, port)
    guard let mapped, report != nil else { return }
    report?.observations.removeAll { $0.socket == settings.main.number && $0.server == server }
    report?.observations.insert(
      NATObservation(socket: settings.main.number, server: server, mapped: mapped), at: 0)
  }
}
