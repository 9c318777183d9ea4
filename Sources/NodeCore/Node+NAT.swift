/// What this node knows of its own way out, and the sockets it takes to find
/// out or to get through: a NAT probe per address family against the server's
/// STUN ports at the start and after each change of the network, the mapping
/// asked again when a pair meets, auxiliary UDP sockets for probes and guesses.
/// The sockets themselves are the driver's. DESIGN §2; docs/protocol/stun.md,
/// punching.md.

#if canImport(Bytes)
  package import Bytes
  package import NAT
  internal import Paths
  package import STUN
  internal import Signaling
#endif

/// One address family's way out.
struct WayOut {
  let isV4: Bool
  var server: NATProbeServer?
  var probe: NATProbe?
  /// Auxiliary sockets of the probe that runs.
  var auxiliary: [UInt32] = []
  var isWaitingForSockets = false
  var facts = NATFacts.unknown
  /// Where the server's STUN port sees our main socket.
  var mapped: Endpoint?
  /// The last probe, for people.
  var report: NATProbeReport?
  /// Time to live of openers, as measured; nil: not known.
  var openerHops: UInt8?
  var probedAt = Instant.distantPast
  /// How long holes may be left alone.
  var keepalive = KeepaliveInterval()
  /// When the mapping was last confirmed or asked for.
  var askedAt = Instant.distantPast
  /// The same for TCP from the listening port (Node+Streams.swift).
  var streamMapping: StreamMapping?
  var streamMapped: Endpoint?
  var streamMappedAt = Instant.distantPast
  /// Known, and not told to anybody yet.
  var withholdsStream = false
  var streamAskedAt = Instant.distantPast
}

/// What an auxiliary socket is for.
enum SocketUse {
  case probe(isV4: Bool)
  /// To see where an allocator stands that counts.
  case counter(isV4: Bool)
  case guess(peer: Int)
}

/// What `netcheck` shows of one address family.
package struct NetworkReport: Sendable {
  package var isV4: Bool
  /// This machine has addresses of the family.
  package var isPresent: Bool
  package var server: NATProbeServer?
  package var isRunning: Bool
  package var facts: NATFacts
  package var mapped: Endpoint?
  package var report: NATProbeReport?
  /// How often idle paths are pinged, and the shortest silence after which a
  /// router had forgotten one; nil: none has.
  package var idlePing: TimeAmount
  package var forgottenAfter: TimeAmount?
  /// Routers up to the first that is not ours; nil: they are silent.
  package var openerHops: UInt8?
  package var probedAt: Instant?
}

extension Node {
  static let families: [WayOut] = [WayOut(isV4: true), WayOut(isV4: false)]

  /// The server's STUN ports at each of its addresses, as far as the driver
  /// knows them: at most one server per family counts.
  package func setSTUNServers(_ servers: [NATProbeServer], now: Instant) {
    clock = now
    for index in waysOut.indices {
      let server = servers.first { $0.address.isV4 == waysOut[index].isV4 }
      guard let server, server != waysOut[index].server else { continue }
      waysOut[index].server = server
      forgetStreamMapping(index, now: now)
      startProbe(index, now: now)
    }
    settle(now: now)
  }

  /// Probes anew, as after a change of the network (`netcheck`).
  package func probeNetwork(now: Instant) {
    clock = now
    for index in waysOut.indices { startProbe(index, now: now) }
    settle(now: now)
  }

  package func networkReports() -> [NetworkReport] {
    waysOut.map { way in
      NetworkReport(
        isV4: way.isV4, isPresent: hasAddress(isV4: way.isV4), server: way.server,
        isRunning: way.isWaitingForSockets || way.probe?.isRunning == true, facts: way.facts,
        mapped: way.mapped, report: way.report, idlePing: way.keepalive.current,
        forgottenAfter: way.keepalive.shutAfter,
        openerHops: way.openerHops,
        probedAt: way.probedAt == .distantPast ? nil : way.probedAt)
    }
  }

  /// The facts told to others: IPv4's where there is IPv4.
  var natFacts: NATFacts {
    let v4 = waysOut[0]
    return v4.facts.mapping != .unknown || v4.facts.isUDPBlocked ? v4.facts : waysOut[1].facts
  }

  /// Reflexive candidates that are no host candidates.
  var reflexiveCandidates: [SignalledCandidate] {
    waysOut.compactMap { way in
      guard let mapped = way.mapped, !way.facts.isUDPBlocked,
        !localAddresses.contains(where: { $0.address == mapped.address })
      else { return nil }
      return SignalledCandidate(kind: .serverReflexive, transport: .udp, endpoint: mapped)
    }
  }

  private func hasAddress(isV4: Bool) -> Bool {
    localAddresses.contains {
      $0.address.isV4 == isV4 && !$0.address.isLoopback && !$0.address.isLinkLocal
    }
  }

  // MARK: Probing

  /// The network changed: what was known of the way out is void.
  func networkChangedWayOut(now: Instant) {
    for index in waysOut.indices {
      waysOut[index].mapped = nil
      setOpenerHops(index, nil)
      waysOut[index].keepalive = KeepaliveInterval()
      keepaliveChanged(index, now: now)
      forgetStreamMapping(index, now: now)
      startProbe(index, now: now)
    }
  }

  /// Asks for the mappings again when they may have gone; the answer is
  /// announced when it is another.
  /// - Parameter isDoubtful: a direct path has died or there is none: the router
  ///   may have forgotten us a moment ago.
  /// - Returns: whether anything is asked now.
  @discardableResult
  func refreshMappings(isDoubtful: Bool = false, now: Instant) -> Bool {
    var isAsking = false
    let memory = isDoubtful ? NodeLimits.connectRetry : NodeLimits.mappingMemory
    for index in waysOut.indices where now - waysOut[index].askedAt > memory {
      guard waysOut[index].probe?.isRunning == false else { continue }
      waysOut[index].askedAt = now
      isAsking = true
      if waysOut[index].facts.isCounted {
        // The mapping that the server knows stays, while the counter moves on.
        let isV4 = waysOut[index].isV4
        openSockets(1, isV4: isV4, for: .counter(isV4: isV4))
        continue
      }
      waysOut[index].probe?.refresh(now: now)
      drainProbe(index, now: now)
    }
    return isAsking
  }

  private func startProbe(_ index: Int, now: Instant) {
    closeProbeSockets(index)
    waysOut[index].probe?.stop()
    drainProbe(index, now: now)
    waysOut[index].probe = nil
    guard waysOut[index].server != nil, hasAddress(isV4: waysOut[index].isV4),
      (waysOut[index].isV4 ? socketV4 : socketV6) != nil
    else {
      waysOut[index].mapped = nil
      waysOut[index].facts = .unknown
      budget.keepsOpenerRoom = !natFacts.isOpen
      return
    }
    waysOut[index].isWaitingForSockets = true
    openSockets(
      NodeLimits.probeSockets, isV4: waysOut[index].isV4,
      for: .probe(isV4: waysOut[index].isV4))
  }

  private func probeSocketsOpened(_ index: Int, _ sockets: [NATProbeSocket], now: Instant) {
    guard waysOut[index].isWaitingForSockets, let server = waysOut[index].server,
      let main = waysOut[index].isV4 ? socketV4 : socketV6
    else { return }
    waysOut[index].isWaitingForSockets = false
    waysOut[index].auxiliary = sockets.map(\.number)
    var probe = NATProbe(
      settings: NATProbeSettings(
        server: server, main: NATProbeSocket(number: main, localPort: settings.port),
        auxiliary: sockets,
        localAddresses: localAddresses.map(\.address).filter { $0.isV4 == waysOut[index].isV4 }),
      random: SeededRandom(seed: random.bytes(32)))
    probe.start(now: now)
    waysOut[index].probe = probe
    waysOut[index].probedAt = now
    waysOut[index].askedAt = now
    drainProbe(index, now: now)
  }

  private func counterSocketOpened(_ index: Int, _ sockets: [NATProbeSocket], now: Instant) {
    guard !waysOut[index].isWaitingForSockets,
      waysOut[index].probe?.refresh(counter: sockets.first?.number, now: now) == true
    else {
      for socket in sockets { closeSocket(socket.number) }
      return
    }
    waysOut[index].auxiliary = sockets.map(\.number)
    drainProbe(index, now: now)
  }

  private func closeProbeSockets(_ index: Int) {
    for socket in waysOut[index].auxiliary { closeSocket(socket) }
    waysOut[index].auxiliary = []
  }

  /// A STUN message at one of our sockets.
  func receiveSTUN(_ bytes: RawSpan, from carrier: Carrier, now: Instant) {
    guard
      let index = waysOut.firstIndex(where: {
        $0.isV4 == carrier.remote.address.isV4 && $0.probe != nil
      })
    else {
      drops.unexpectedSTUN += 1
      return
    }
    waysOut[index].probe?.receive(
      bytes, from: carrier.remote, socket: carrier.socket, now: now)
    drainProbe(index, now: now)
  }

  /// A router says, by ICMP, that a datagram of ours died there of its time to
  /// live. Nobody vouches for it; only a NAT probe asks.
  package func datagramExpired(on carrier: Carrier, at router: IPAddress, now: Instant) {
    clock = now
    let index = carrier.remote.address.isV4 ? 0 : 1
    guard waysOut[index].probe?.isRunning == true else { return }
    waysOut[index].probe?.expired(
      at: router, destination: carrier.remote, socket: carrier.socket, now: now)
    drainProbe(index, now: now)
    settle(now: now)
  }

  var nextProbeDeadline: Instant {
    waysOut.reduce(.distantFuture) { min($0, $1.probe?.nextDeadline ?? .distantFuture) }
  }

  func advanceProbes(now: Instant) {
    for index in waysOut.indices where (waysOut[index].probe?.nextDeadline ?? .distantFuture) <= now
    {
      waysOut[index].probe?.advance(to: now)
      drainProbe(index, now: now)
    }
  }

  private func drainProbe(_ index: Int, now: Instant) {
    while let transmit = waysOut[index].probe?.pollTransmit() { probeTransmits.append(transmit) }
    while let event = waysOut[index].probe?.pollEvent() {
      switch event {
      case .mapped(let endpoint, _):
        setMapped(index, endpoint, now: now)
      case .dial(let connection, let endpoint):
        emit(
          .dialSTUN(
            connection: probeConnection(index, connection), endpoint, fromListeningPort: false))
      case .send(let connection, let bytes):
        emit(.sendSTUN(connection: probeConnection(index, connection), bytes))
      case .hangUp(let connection):
        emit(.hangUpSTUN(connection: probeConnection(index, connection)))
      case .learnt(let facts):
        found(facts, index, now: now)
      case .finished(let report):
        finishedProbe(index, report, now: now)
      case .refreshed(let refresh):
        closeProbeSockets(index)
        for peer in peers where !peer.isRemoved && peer.meetAt != nil {
          meetSoon(peer, at: now)
        }
        if refresh.wantsProbe { startProbe(index, now: now) }
      }
    }
  }

  private func finishedProbe(_ index: Int, _ report: NATProbeReport, now: Instant) {
    closeProbeSockets(index)
    waysOut[index].report = report
    if report.mapped == nil { setMapped(index, nil, now: now) }
    if let hops = report.hops { setOpenerHops(index, hops.opener) }
    log(
      .info, "nat",
      "\(waysOut[index].isV4 ? "IPv4" : "IPv6"): mapping \(report.facts.mapping.code), filtering \(report.facts.filtering.code)\(report.facts.isUDPBlocked ? ", UDP is blocked" : "")"
    )
    found(report.facts, index, now: now)
  }

  private func found(_ facts: NATFacts, _ index: Int, now: Instant) {
    let before = waysOut[index].facts
    waysOut[index].facts = facts
    budget.keepsOpenerRoom = !natFacts.isOpen
    guard before != facts else { return }
    // TCP is what is left: the first meeting should know where it leaves us.
    if facts.isUDPBlocked, !before.isUDPBlocked { learnStreamMapping(now: now) }
    reportAgain(now: now)
    if waysOut[index].withholdsStream { tellStream(index, now: now) }
    for peer in peers where !peer.isRemoved {
      peer.paths.setNAT(local: natFacts, peer: peer.nat)
      orderStreams(of: peer, now: now)
      if peer.lastSession != 0, !peer.paths.hasDirectPath { announceCandidates(to: peer) }
      // What was tried without knowing this is tried again.
      guard
        before.mapping != facts.mapping || before.allocatorStep != facts.allocatorStep
          || before.isUDPBlocked != facts.isUDPBlocked
      else { continue }
      peer.paths.hastenPunch(now: now)
      touch(peer)
    }
  }

  private func setOpenerHops(_ index: Int, _ hops: UInt8?) {
    guard waysOut[index].openerHops != hops else { return }
    waysOut[index].openerHops = hops
    for peer in peers where !peer.isRemoved { setOpenerHops(of: peer) }
  }

  func setOpenerHops(of peer: Peer) {
    for way in waysOut { peer.paths.setOpenerHops(way.openerHops, isV4: way.isV4) }
  }

  // MARK: Keepalive

  /// A pair was quiet for `gap`; its hole was open after it, or shut.
  func learnKeepalive(_ gap: TimeAmount, isV4: Bool, isShut: Bool, of peer: Peer, now: Instant) {
    let index = isV4 ? 0 : 1
    var keepalive = waysOut[index].keepalive
    let isChanged =
      isShut ? keepalive.shut(gap, now: now) : keepalive.passed(gap, now: now)
    waysOut[index].keepalive = keepalive
    if isShut {
      log(
        .info, "keepalive",
        "\(peer.name): a router had forgotten us after \(Int(gap.inSeconds)) s of silence; idle paths are now pinged every \(Int(keepalive.current.inSeconds)) s"
      )
    }
    if isChanged { keepaliveChanged(index, now: now) }
  }

  private func keepaliveChanged(_ index: Int, now: Instant) {
    for peer in peers where !peer.isRemoved {
      setKeepalive(of: peer, now: now)
      touch(peer)
    }
  }

  func setKeepalive(of peer: Peer, now: Instant) {
    for way in waysOut {
      peer.paths.setIdlePing(way.keepalive.current, isV4: way.isV4, now: now)
    }
  }

  private func setMapped(_ index: Int, _ endpoint: Endpoint?, now: Instant) {
    let before = waysOut[index].mapped
    guard before != endpoint else { return }
    waysOut[index].mapped = endpoint
    guard waysOut[index].facts.isCounted, let endpoint, before?.address == endpoint.address else {
      candidatesChanged(now: now)
      return
    }
    // Another port each time is no news, but to those who are about to guess.
    for peer in peers where !peer.isRemoved && !peer.paths.hasDatagramPath {
      if peer.isMeeting {
        peer.announcesWhenMet = true
      } else if peer.lastSession != 0, peer.paths.isTrying(now: now) {
        announceCandidates(to: peer)
      }
    }
  }

  /// Tells everybody who is trying to reach us directly.
  func candidatesChanged(now: Instant) {
    guard isOnline else { return }
    reportAgain(now: now)
    for peer in peers where !peer.isRemoved && peer.lastSession != 0 {
      guard !peer.paths.hasDatagramPath else { continue }
      announceCandidates(to: peer)
      peer.paths.hastenPunch(now: now)
      touch(peer)
    }
  }

  // MARK: TCP connections to the STUN ports

  // The family is in the number, so that the driver needs one only; and whether
  // it is a probe's or asks for the mapping of TCP (Node+Streams.swift).
  private func probeConnection(_ index: Int, _ connection: UInt32) -> UInt32 {
    connection << 2 | UInt32(index)
  }

  package func stunConnected(_ connection: UInt32, now: Instant) {
    clock = now
    let index = Int(connection & 1)
    if connection & 2 != 0 {
      waysOut[index].streamMapping?.connected(connection >> 2, now: now)
    } else {
      waysOut[index].probe?.connected(connection >> 2, now: now)
    }
    drainSTUN(index, now: now)
  }

  package func stunReceived(_ connection: UInt32, _ bytes: RawSpan, now: Instant) {
    clock = now
    let index = Int(connection & 1)
    if connection & 2 != 0 {
      waysOut[index].streamMapping?.received(bytes, on: connection >> 2, now: now)
    } else {
      waysOut[index].probe?.received(bytes, on: connection >> 2, now: now)
    }
    drainSTUN(index, now: now)
  }

  package func stunFailed(_ connection: UInt32, now: Instant) {
    clock = now
    let index = Int(connection & 1)
    if connection & 2 != 0 {
      waysOut[index].streamMapping?.failed(connection >> 2, now: now)
    } else {
      waysOut[index].probe?.failed(connection >> 2, now: now)
    }
    drainSTUN(index, now: now)
  }

  private func drainSTUN(_ index: Int, now: Instant) {
    drainProbe(index, now: now)
    drainStreamMapping(index, now: now)
    settle(now: now)
  }

  // MARK: Auxiliary sockets

  /// Asks the driver for UDP sockets; `socketsOpened` follows.
  func openSockets(_ count: Int, isV4: Bool, for use: SocketUse) {
    let first = nextSocket
    nextSocket += UInt32(count)
    socketUses[first] = use
    emit(.openSockets(first: first, count: count, isV4: isV4))
  }

  func closeSocket(_ number: UInt32) { emit(.closeSocket(number)) }

  /// The answer to `openSockets`: those that could be had, with their ports.
  package func socketsOpened(first: UInt32, _ sockets: [NATProbeSocket], now: Instant) {
    clock = now
    switch socketUses.removeValue(forKey: first) {
    case .probe(let isV4):
      let index = isV4 ? 0 : 1
      if waysOut[index].isWaitingForSockets {
        probeSocketsOpened(index, sockets, now: now)
      } else {
        for socket in sockets { closeSocket(socket.number) }
      }
    case .counter(let isV4):
      counterSocketOpened(isV4 ? 0 : 1, sockets, now: now)
    case .guess(let index) where !peers[index].isRemoved:
      let peer = peers[index]
      log(
        .debug, "guess", "\(peer.name): \(sockets.count) sockets opened, so that one port is hit")
      peer.guessSockets += sockets.map(\.number)
      peer.paths.guess(from: sockets.map(\.number), now: now)
      // The guess may have ended meanwhile.
      closeIdleSockets(of: peer, now: now)
      touch(peer)
    case .guess, nil:
      for socket in sockets { closeSocket(socket.number) }
    }
    settle(now: now)
  }

  /// Peers whose ports are being guessed from many sockets now.
  package var guessesUnderWay: Int { peers.count { !$0.isRemoved && $0.paths.isGuessing } }

  /// Closes what a guess opened and no path uses.
  func closeIdleSockets(of peer: Peer, now: Instant) {
    guard !peer.guessSockets.isEmpty, !peer.paths.isGuessing else { return }
    let idle = peer.guessSockets.filter { !peer.paths.hasPath(socket: $0) }
    peer.guessSockets.removeAll { idle.contains($0) }
    for socket in idle {
      peer.paths.socketClosed(socket, now: now)
      closeSocket(socket)
    }
  }
}
