/// One agent in one mesh, whole and pure: signalling, sessions, paths, streams
/// and tunnels composed from the modules below. Bytes, time and commands in;
/// packets, signals and events out. The agent drives it over sockets, the
/// simulator over a virtual network. DESIGN §1, §3, §4.
///
/// After any call that changes something the driver drains: `pollSignal` until
/// nil, `pollTransmit` until it says there is no more, `pollEvent` until nil;
/// then sleeps until `nextDeadline` and calls `advance`.

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  internal import Mux
  internal import NAT
  package import Paths
  internal import STUN
  package import Signaling
  package import Tunnels
  internal import WireGuard
#endif

/// Packets and messages dropped by the node itself, by reason.
package struct NodeDrops: Sendable {
  package var unknownPeer: UInt64 = 0
  package var unknownInitiator: UInt64 = 0
  package var heldTooMany: UInt64 = 0
  /// Of a former process of the peer.
  package var staleHello: UInt64 = 0
  /// Numbered packets meant for a former process of this node.
  package var formerProcess: UInt64 = 0
  package var innerPacket: UInt64 = 0
  package var reservedType: UInt64 = 0
  package var badPathMessage: UInt64 = 0
  package var badSignal: UInt64 = 0
  package var unexpectedDatagram: UInt64 = 0
  /// A STUN message while nothing was asked.
  package var unexpectedSTUN: UInt64 = 0
  package var badCertificate: UInt64 = 0
  /// Accepted TCP connections closed: too many, or nothing authentic came.
  package var strangers: UInt64 = 0
}

package final class Node {
  package let settings: NodeSettings
  var random: SeededRandom
  let keeper: SessionKeeper
  var clock: Instant

  // Members
  var peers: [Peer] = []
  var peerNames: [String: Int] = [:]
  var peerHandles: [PeerHandle: Int] = [:]
  /// Packets come in runs from one peer.
  var lastPeer: Peer?
  /// Peers with something to send or tell.
  var touched: [Int] = []
  var budget = ProbeBudget(keepsOpenerRoom: true)

  // Signalling
  var signal = SignalState.down
  var verifier: LoginVerifier
  var nodeSecret: [UInt8]?
  package internal(set) var authority: [UInt8]?
  var authorityClock: AuthorityClock
  package internal(set) var endpointID = ""
  package internal(set) var userName = ""
  var ownCertificate: Certificate?
  var evictions: EvictionList?
  /// When certificates are looked at next, and our own may be renewed again.
  var expiryAt = Instant.distantFuture
  var renewalAt = Instant.distantPast
  /// When the machine last woke.
  var sleptAt: Instant?
  var nextRequest: UInt32 = 1
  var requests: [UInt32: PendingRequest] = [:]
  var outgoing: [[UInt8]] = []
  var outgoingHead = 0
  var heartbeatAt = Instant.distantFuture
  var serverTime: (nanoseconds: UInt64, at: Instant)?
  package internal(set) var seenAt = Endpoint.none
  var ticket: RelayTicket?
  var ticketCounter: UInt64 = 0
  var leg: (connection: UInt32, remote: Endpoint, isBlocked: Bool)?
  /// One has been open since the login.
  var hadLeg = false
  /// Direct TCP carriers that take no more for now.
  var blockedCarriers: Set<UInt32> = []
  /// Accepted connections of nobody known (Node+Streams.swift).
  var strangers: [UInt32: StrangerStream] = [:]
  /// When others were told last where TCP leaves our NAT.
  var streamsNamedAt = Instant.distantPast
  /// Connections to relays that nodes are (Node+Relays.swift).
  var relayLinks: [UInt32: RelayLink] = [:]
  /// Round trips to relays, and those the server has not been told.
  var relayMeasured: [[UInt8]: MeasuredRelay] = [:]
  var relaysUntold: Set<[UInt8]> = []
  /// Relays that did not answer by UDP, and until when TCP goes first.
  var relayDatagramsFailed: [[UInt8]: Instant] = [:]
  /// What this node is as a relay for others.
  package internal(set) var relayReport: RelayReport?
  /// Numbers of dialled ones are even; the driver gives accepted ones odd numbers.
  var lastStream: UInt32 = 1 << 24
  /// Peers the last process had sessions with; initiated to once online.
  var formerPeers: Set<String> = []

  // Local network
  var localAddresses: [AddressPrefix] = []
  var socketV4: UInt32?
  var socketV6: UInt32?
  /// IPv4, IPv6 (Node+NAT.swift).
  var waysOut = Node.families
  var probeTransmits: [NATProbeTransmit] = []
  /// Auxiliary sockets asked for, by the first one's number.
  var socketUses: [UInt32: SocketUse] = [:]
  var nextSocket: UInt32 = 16
  /// Where a router lets others reach us (Node+PortMapping.swift).
  package internal(set) var portMapping: Endpoint?
  package internal(set) var streamPortMapping: Endpoint?

  // Tunnels
  package internal(set) var tunnels = TunnelTable()
  package var exitPolicy = ExitPolicy()
  var exitChooser: ExitChooser
  var targetChoosers: [TunnelKey: TargetChooser] = [:]
  package internal(set) var counters: [TunnelOwner: TunnelCounters] = [:]
  package internal(set) var tunnelLog = TunnelEventLog()
  var flows: [Flow] = []
  var freeFlows: [UInt32] = []
  /// The connection to ourselves; nil until a tunnel's halves are both here.
  var own: OwnEnds?
  var openings: Set<UInt32> = []

  var pings: [UInt64: PendingPing] = [:]
  struct PendingPing {
    var token: UInt32
    var peer: Int
    var due: Instant
    var sentAt: Instant?
  }

  var events: [NodeEvent] = []
  var eventHead = 0
  package internal(set) var drops = NodeDrops()

  /// - Parameters:
  ///   - records: what `NodeEvent.store` said before, oldest first.
  package init(settings: NodeSettings, records: [NodeRecord] = [], now: Instant) {
    self.settings = settings
    clock = now
    authorityClock = AuthorityClock(stored: 0, now: now)
    var random = SeededRandom(seed: settings.seed)
    var ceiling: UInt64 = 0
    for case .stampCeiling(let value) in records { ceiling = max(ceiling, value) }
    keeper = SessionKeeper(
      localKeys: [settings.staticKey], random: SeededRandom(seed: random.bytes(32)),
      stampCeiling: ceiling)
    keeper.acceptsReplaysForTest = settings.acceptsReplays
    exitChooser = ExitChooser(random: SeededRandom(seed: random.bytes(32)))
    verifier = LoginVerifier(token: settings.token, cost: settings.loginCost)
    self.random = random
    restore(records, now: now)
  }

  // MARK: Local network

  /// The driver's UDP sockets and this host's addresses. Call again after any
  /// change; peers with a session are asked anew.
  package func setNetwork(
    addresses: [AddressPrefix], socketV4: UInt32?, socketV6: UInt32?, now: Instant
  ) {
    clock = now
    // Link-local IPv6 addresses name nothing outside their link; they come and
    // go (duplicate address detection) without changing anybody's way.
    let addresses = addresses.filter { $0.address.isV4 || !$0.address.isLinkLocal }
    let changed =
      addresses != localAddresses || socketV4 != self.socketV4 || socketV6 != self.socketV6
    guard changed else { return }
    localAddresses = addresses
    for (old, new) in [(self.socketV4, socketV4), (self.socketV6, socketV6)] {
      guard let old, old != new else { continue }
      for peer in peers where !peer.isRemoved { peer.paths.socketClosed(old, now: now) }
    }
    self.socketV4 = socketV4
    self.socketV6 = socketV6
    exitPolicy.ownAddresses = Set(addresses.map(\.address))
    networkChangedWayOut(now: now)
    relaysChangeNetwork(now: now)
    reportAgain(now: now)
    for peer in peers where !peer.isRemoved {
      updateContext(of: peer)
      if peer.connectedSince != nil {
        peer.paths.networkChanged(now: now)
        announceCandidates(to: peer)
        touch(peer)
      }
    }
    settle(now: now)
  }

  /// What this node can be reached at, as it tells its peers.
  var localCandidates: [SignalledCandidate] {
    var result: [SignalledCandidate] = []
    if !settings.usesTCPCarriers {
      result = hostAddresses.map {
        SignalledCandidate(kind: .host, transport: .udp, endpoint: Endpoint($0, settings.port))
      }
      result += portMappedCandidates + reflexiveCandidates
    }
    result += streamPortMappedCandidates + streamHostCandidates + streamReflexiveCandidates
    return Array(result.suffix(SignalLimits.candidates))
  }

  /// Our own addresses that mean something to others.
  var hostAddresses: [IPAddress] {
    var result: [IPAddress] = []
    for address in localAddresses.map(\.address)
    where result.count < NodeLimits.hostAddresses {
      guard address.isV4 ? socketV4 != nil : socketV6 != nil, !address.isUnspecified,
        !(address.isLinkLocal && !address.isV4)
      else { continue }
      // Loopback means something only to an agent on the same machine.
      if address.isLoopback, !seenAt.address.isLoopback { continue }
      result.append(address)
    }
    return result
  }

  func updateContext(of peer: Peer) { peer.paths.setContext(addressContext(of: peer)) }

  func addressContext(of peer: Peer) -> AddressContext {
    var context = AddressContext()
    context.localPrefixes = localAddresses.filter { !$0.address.isLoopback }
    context.serverSeesUs = seenAt == .none ? nil : seenAt.address
    context.serverSeesPeer = peer.seenAt == .none ? nil : peer.seenAt.address
    return context
  }

  // MARK: Time

  /// When `advance` must be called at the latest.
  package var nextDeadline: Instant {
    var next = min(keeper.nextDeadline, min(nextSignalDeadline, nextOpeningDue))
    next = min(next, min(nextProbeDeadline, min(expiryAt, ownDeadline)))
    next = min(next, min(nextStreamDeadline, nextRelayDeadline))
    for peer in peers where !peer.isRemoved {
      next = min(next, deadline(of: peer))
    }
    for ping in pings.values { next = min(next, ping.due) }
    return next
  }

  private func deadline(of peer: Peer) -> Instant {
    var next = min(peer.mux.nextDeadline, peer.paths.nextDeadline)
    next = min(next, min(streamDeadline(of: peer), relayDeadline(of: peer)))
    next = min(next, termsDeadline(of: peer))
    if let at = peer.hello.sendAt, peer.connectedSince != nil { next = min(next, at) }
    if let at = peer.evictions.stateAt, peer.isConnected { next = min(next, at) }
    if let at = peer.initiateAt { next = min(next, at) }
    if let at = peer.meetAt { next = min(next, at) }
    if let at = rekeyAt(of: peer) { next = min(next, at) }
    if let dead = peer.deadSince {
      if peer.mux.openStreamCount > 0, !peer.hasLingered {
        next = min(next, dead + linger(since: dead))
      }
      next = min(next, max(peer.lastAsked + NodeLimits.connectRetry, dead))
    }
    return next
  }

  /// Lets everything due happen.
  package func advance(to now: Instant) {
    clock = now
    noteSleep(now: now)
    keeper.advance(to: now)
    advanceSignal(to: now)
    advanceProbes(now: now)
    advanceStreams(to: now)
    advanceRelays(to: now)
    advanceOpenings(now: now)
    advanceExpiry(to: now)
    advanceOwn(to: now)
    for peer in peers where !peer.isRemoved { advance(peer, now: now) }
    advancePings(now: now)
    settle(now: now)
  }

  /// New keys in time for a session that is kept but says nothing: its pings may
  /// be further apart than the 60 s in which a packet would ask for them.
  private func rekeyAt(of peer: Peer) -> Instant? {
    guard !peer.isStock, peer.isConnected, !peer.paths.isLetGo,
      let current = keeper.currentKeypair(peer.handle)?.rawValue, current != peer.rekeyed
    else { return nil }
    return keeper.rekeyAt(peer.handle)
  }

  private func advance(_ peer: Peer, now: Instant) {
    if peer.mux.nextDeadline <= now {
      peer.mux.advance(to: now)
      touch(peer)
    }
    if peer.paths.nextDeadline <= now {
      peer.paths.advance(to: now)
      touch(peer)
    }
    advanceStreams(of: peer, now: now)
    advanceRelays(of: peer, now: now)
    advanceTerms(of: peer, now: now)
    if let at = peer.hello.sendAt, at <= now, peer.connectedSince != nil { touch(peer) }
    if let at = peer.meetAt, at <= now {
      peer.meetAt = nil
      // What it was wanted for may have come meanwhile.
      let isMet = peer.paths.hasDatagramPath && (peer.channel != 0 || leg == nil)
      if !isMet { meet(peer, now: now) }
    }
    if let at = rekeyAt(of: peer), at <= now {
      peer.rekeyed = keeper.currentKeypair(peer.handle)?.rawValue
      keeper.initiate(peer.handle, now: now)
    }
    if let at = peer.evictions.stateAt, at <= now { touch(peer) }
    if let at = peer.initiateAt, at <= now {
      peer.initiateAt = nil
      if !keeper.canSeal(peer.handle, now: now) { keeper.initiate(peer.handle, now: now) }
    }
    if let dead = peer.deadSince {
      if now - dead >= linger(since: dead), peer.mux.openStreamCount > 0, !peer.hasLingered {
        peer.hasLingered = true
        peer.mux.resetAll(code: ResetCode.peerLost, words: "no path to the peer")
        peer.isWanted = false
        touch(peer)
      }
      let isNeeded = peer.isWanted || (peer.mux.openStreamCount > 0 && !peer.hasLingered)
      if isNeeded, now - peer.lastAsked >= NodeLimits.connectRetry {
        _ = wantSession(with: peer, now: now)
        if peer.lastAsked < now { peer.lastAsked = now }
      } else if !isNeeded {
        peer.deadSince = nil
      }
    }
  }

  /// Lets the machines below tell each other what happened, until all is quiet.
  func settle(now: Instant) {
    drainKeeper(now: now)
    var position = 0
    while position < touched.count {
      let peer = peers[touched[position]]
      if peer.isOwn { pumpOwn(now: now) }
      drainMux(of: peer, now: now)
      peer.paths.setHeld(peer.mux.openStreamCount > 0, now: now)
      drainPaths(of: peer, now: now)
      position += 1
    }
  }

  // MARK: Pings

  /// Asks the peer for a sign of life through the path in use; `pong` or
  /// `pingFailed` with `token` follows within five seconds.
  package func ping(_ name: String, token: UInt32, now: Instant) {
    clock = now
    guard let index = peerNames[name], !peers[index].isRemoved else {
      emit(.pingFailed(token: token, words: "no member is called \(name)"))
      return
    }
    let peer = peers[index]
    guard wantSession(with: peer, now: now) else {
      emit(.pingFailed(token: token, words: "\(name) is offline"))
      return
    }
    pings[random.next()] = PendingPing(token: token, peer: index, due: now + .seconds(5))
    touch(peer)
    settle(now: now)
  }

  private func advancePings(now: Instant) {
    for (challenge, ping) in pings.sorted(by: { $0.key < $1.key }) where ping.due <= now {
      pings[challenge] = nil
      let peer = peers[ping.peer]
      emit(
        .pingFailed(
          token: ping.token,
          words: peer.isConnected
            ? "no answer from \(peer.name) through \(peer.pathWords)" : "no path to \(peer.name)"))
    }
  }

  // MARK: Tunnels

  /// Changes definitions; offers are announced to the mesh.
  package func setInbounds(_ new: [TunnelInbound]) throws(TunnelTableError) -> ListenChange {
    let change = try tunnels.setInbounds(new)
    offersChanged()
    relayPoliciesChanged(now: clock)
    return change
  }

  package func setOutbounds(_ new: [TunnelOutbound]) throws(TunnelTableError) {
    try tunnels.setOutbounds(new)
    for outbound in new { targetChoosers[outbound.key] = nil }
    offersChanged()
  }

  package func removeInbounds(_ keys: [TunnelKey]) throws(TunnelTableError) -> ListenChange {
    let change = try tunnels.removeInbounds(keys)
    offersChanged()
    relayPoliciesChanged(now: clock)
    return change
  }

  package func removeOutbounds(_ keys: [TunnelKey]) throws(TunnelTableError) {
    try tunnels.removeOutbounds(keys)
    for key in keys { targetChoosers[key] = nil }
    offersChanged()
  }

  package func replaceApps(_ apps: [AppDefinition]) throws(TunnelTableError) -> ListenChange {
    let change = try tunnels.replaceApps(apps)
    relayPoliciesChanged(now: clock)
    return change
  }

  /// A line for `log app tunnel`.
  package func recordTunnel(_ owner: TunnelOwner, _ what: TunnelEvent.What, now: Instant) {
    tunnelLog.record(owner, what, now: now)
  }

  // MARK: Small helpers of all aspects

  func peer(_ handle: PeerHandle) -> Peer? {
    if let lastPeer, lastPeer.handle == handle { return lastPeer }
    guard let index = peerHandles[handle] else { return nil }
    lastPeer = peers[index]
    return peers[index]
  }

  func touch(_ peer: Peer) {
    if peer.isTouched { return }
    peer.isTouched = true
    touched.append(peer.index)
  }

  func emit(_ event: NodeEvent) {
    // Flow events are bounded by the flows; the rest by the drain after each call.
    precondition(events.count - eventHead < NodeLimits.events, "events are not drained")
    events.append(event)
  }

  func log(_ level: NodeLog.Level, _ code: String, _ words: String) {
    // Lines give way before anything that must not be lost.
    guard events.count - eventHead < NodeLimits.events / 2 else { return }
    emit(.log(NodeLog(level, code, words)))
  }

  /// The next event, or nil.
  package func pollEvent() -> NodeEvent? {
    guard eventHead < events.count else { return nil }
    let event = events[eventHead]
    eventHead += 1
    if eventHead == events.count {
      events.removeAll(keepingCapacity: true)
      eventHead = 0
    }
    return event
  }
}
