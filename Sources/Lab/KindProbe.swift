/// Looks at one home's router with real packets, the way the simulator's boxes
/// are looked at: mapping towards two addresses and two ports, filtering from
/// third parties, the allocator, hairpinning, unsolicited packets, TCP, hops.

internal import Bytes
internal import CLinux
internal import NAT
internal import Reactor

struct KindProbe {
  private let lab: LiveLab
  private let kind: NATKind
  private let workshop: Workshop
  private var token: UInt64 = 0x6d61_7274_6c65_7400
  private var nextPort: UInt16 = 30_000

  /// A packet through five namespaces takes well under a millisecond; a busy
  /// machine must not turn that into "filtered".
  private static let arrives = TimeAmount.seconds(2)
  /// For packets that are expected to be dropped.
  private static let staysAway = TimeAmount.milliseconds(250)
  private static let ports: (UInt16, UInt16) = (47_001, 47_002)
  private static let tcpPorts: [UInt16] = [443, LabPorts.server]

  /// - Parameter lab: one home `home` of the kind, with hosts `x` and `y`.
  init(_ lab: LiveLab, _ kind: NATKind) {
    self.lab = lab
    self.kind = kind
    workshop = lab.workshop
  }

  static func topology(_ kind: NATKind) -> LabTopology {
    LabTopology("check \(kind.name)", homes: [LabHome("home", kind, hosts: ["x", "y"])])
  }

  mutating func run() throws(LabFailure) -> KindFacts {
    var facts = KindFacts()
    facts.hasIPv4 = try connects("x", to: NetworkPlan.serverV4, any: Self.tcpPorts)
    facts.hasIPv6 = try connects("x", to: NetworkPlan.serverV6, any: Self.tcpPorts)
    facts.tcpTried = Self.tcpPorts
    let server = NetworkPlan.server(for: kind)
    for port in Self.tcpPorts where try connects("x", to: server, any: [port]) {
      facts.tcpAnswered.append(port)
    }
    facts.homeRouters = try homeRouters()
    facts.reachesNeighbour = try reachesNeighbour()
    let servers = try self.servers()
    let first = try inside("x")
    facts.passesUDP = try observed(first, servers[0]) != nil
    guard facts.passesUDP else { return facts }
    try look(at: &facts, servers)
    if kind.translates { facts.isOpen = try isOpen(servers) }
    facts.hairpins = try hairpin(&facts, servers)
    facts.keepsHostsApart = try keepsApart(servers)
    return facts
  }

  // MARK: Sockets

  private mutating func fresh() -> UInt64 {
    token += 1
    return token
  }

  private mutating func inside(_ host: String, port: UInt16? = nil) throws(LabFailure)
    -> ProbeSocket
  {
    guard let address = lab.plan.address(of: host) else {
      throw .failed("\(host) has no address")
    }
    nextPort += 7
    return try ProbeSocket(lab.plan.namespace(host), address, port ?? nextPort, workshop)
  }

  /// (address 1, port 1), (1, 2), (2, 1), (2, 2).
  private func servers() throws(LabFailure) -> [ProbeSocket] {
    var sockets: [ProbeSocket] = []
    let first = NetworkPlan.server(for: kind)
    for address in [first, NetworkPlan.secondServer(for: kind)] {
      for port in [Self.ports.0, Self.ports.1] {
        sockets.append(
          try ProbeSocket(lab.plan.namespace("server"), address, port, workshop))
      }
    }
    return sockets
  }

  /// Where a packet from `socket` comes from at `server`; sent twice when the
  /// first is not seen, because a first packet waits for ARP at every hop.
  private mutating func observed(
    _ socket: ProbeSocket, _ server: ProbeSocket
  ) throws(LabFailure) -> Endpoint? {
    for _ in 0..<2 {
      let token = fresh()
      socket.send(token, to: server.local)
      if let source = try server.source(of: token, within: Self.arrives) { return source }
      if !kind.passesUDP { return nil }
    }
    return nil
  }

  private mutating func reaches(
    from: ProbeSocket, _ target: Endpoint, at: ProbeSocket, within: TimeAmount = staysAway
  ) throws(LabFailure) -> Endpoint? {
    let token = fresh()
    from.send(token, to: target)
    return try at.source(of: token, within: within)
  }

  // MARK: Mapping, allocator, filtering

  private mutating func look(
    at facts: inout KindFacts, _ servers: [ProbeSocket]
  ) throws(LabFailure) {
    let socket = try inside("x")
    var outside: [String?] = []
    for server in servers { outside.append(try observed(socket, server)?.description) }
    facts.mapping = KindFacts.mapping(outside, inside: socket.local.description)

    var pairs: [(local: UInt16, outside: UInt16)] = []
    var sockets: [ProbeSocket] = []
    for _ in 0..<6 {
      let socket = try inside("x")
      sockets.append(socket)
      if let seen = try observed(socket, servers[0]) {
        pairs.append((socket.local.port, seen.port))
      }
    }
    facts.allocator = KindFacts.allocator(pairs)

    let listener = try inside("x")
    guard let hole = try observed(listener, servers[0]),
      try reaches(from: servers[0], hole, at: listener, within: Self.arrives) != nil
    else { throw .failed("\(kind.name): an answer does not come back") }
    let byAddress = try reaches(from: servers[2], hole, at: listener) != nil
    let byPort = try reaches(from: servers[1], hole, at: listener) != nil
    facts.filtering = KindFacts.filtering(fromOtherPort: byPort, fromOtherAddress: byAddress)
  }

  /// A stranger knocks at the port a socket is about to get; then the socket
  /// speaks to that stranger. Where the knock was remembered, the port changes.
  private mutating func isOpen(_ servers: [ProbeSocket]) throws(LabFailure) -> Bool {
    let home = lab.plan.topology.homes[0]
    let socket = try inside("x")
    let expected = Endpoint(lab.plan.external(home), socket.local.port)
    if try reaches(from: servers[2], expected, at: socket) != nil {
      throw .failed("\(kind.name): a packet came in where there is no mapping")
    }
    // Kinds whose ports say nothing anyway are judged by nothing.
    guard kind.mapping.isStable, kind.allocator == .preserving else { return false }
    guard let first = try observed(socket, servers[0]),
      let second = try observed(socket, servers[2])
    else { throw .failed("\(kind.name): a packet did not arrive") }
    return first == expected && second != expected
  }

  // MARK: Inside to inside

  private mutating func reachesNeighbour() throws(LabFailure) -> Bool {
    let x = try inside("x")
    let y = try inside("y")
    return try reaches(from: x, y.local, at: y, within: Self.arrives) == x.local
  }

  private mutating func hairpin(
    _ facts: inout KindFacts, _ servers: [ProbeSocket]
  ) throws(LabFailure) -> Bool {
    let x = try inside("x")
    let y = try inside("y")
    guard let outsideX = try observed(x, servers[0]), let outsideY = try observed(y, servers[0])
    else { throw .failed("\(kind.name): a packet did not arrive") }
    let patience = kind.hairpins ? Self.arrives : Self.staysAway
    if kind.isDouble {
      // The inner router filters what the outer one turned round, so the way
      // must be opened from the other side first, as in a punch.
      _ = try reaches(from: y, outsideX, at: x)
    }
    let source = try reaches(from: x, outsideY, at: y, within: patience)
    facts.hairpinsWithOutsideSource = source.map {
      kind.mapping.isStable ? $0 == outsideX : $0.address == outsideX.address
    }
    return source != nil
  }

  private mutating func keepsApart(_ servers: [ProbeSocket]) throws(LabFailure) -> Bool {
    let x = try inside("x", port: 29_999)
    let y = try inside("y", port: 29_999)
    guard let outsideX = try observed(x, servers[0]), let outsideY = try observed(y, servers[0])
    else { throw .failed("\(kind.name): a packet did not arrive") }
    let answerX = try reaches(from: servers[0], outsideX, at: x, within: Self.arrives)
    let answerY = try reaches(from: servers[0], outsideY, at: y, within: Self.arrives)
    return outsideX != outsideY && answerX != nil && answerY != nil
  }

  // MARK: TCP and hops

  /// Some port answers: accepts, or refuses, which the network let through too.
  private func connects(
    _ host: String, to address: IPAddress, any ports: [UInt16]
  ) throws(LabFailure) -> Bool {
    let isWanted = address.isV4 ? kind.hasIPv4 : kind.hasIPv6
    for port in ports {
      let mayPass = isWanted && kind.tcpPorts?.contains(port) ?? true
      let answered = try TCPProbe.answers(
        lab.plan.namespace(host), Endpoint(address, port),
        within: mayPass ? Self.arrives : Self.staysAway, workshop)
      if answered { return true }
    }
    return false
  }

  /// Packets with a hop limit are counted: the provider's edge is one router,
  /// all before it are the home's. By TCP, which every kind lets out.
  private func homeRouters() throws(LabFailure) -> Int? {
    let port = kind.tcpPorts?.first ?? LabPorts.server
    let server = Endpoint(NetworkPlan.server(for: kind), port)
    for hops in 2...6 {
      try hopLimit(hops)
      let answered = try TCPProbe.answers(
        lab.plan.namespace("x"), server, within: Self.staysAway, workshop)
      // N routers take N off, and 1 must be left.
      if answered {
        try hopLimit(64)
        return hops - 2
      }
    }
    try hopLimit(64)
    return nil
  }

  private func hopLimit(_ hops: Int) throws(LabFailure) {
    let key = kind.hasIPv4 ? "net/ipv4/ip_default_ttl" : "net/ipv6/conf/eth0/hop_limit"
    try lab.perform(
      .sysctl(namespace: lab.plan.namespace("x"), key: key, value: "\(hops)"))
  }
}
