/// TCP connections between two nodes as carriers: whom to dial, whom to believe,
/// which of several lives, and where TCP leaves our NAT. The sockets are the
/// driver's. DESIGN §1, §2; docs/protocol/punching.md "TCP".
///
/// A connection, dialled or accepted, is on *trial* until a challenge of ours
/// comes back through it. Where both ends dial there may be several: the end
/// with the smaller static key *decides*, and keeps the first that is proven.

#if canImport(Bytes)
  package import Bytes
  internal import NAT
  internal import Paths
  internal import STUN
  internal import Signaling
#endif

/// A TCP connection that belongs to a peer.
struct PeerStream {
  var carrier: Carrier
  var isProven = false
  /// Not proven by then, it is closed.
  var due: Instant
}

/// A connection from outside that has not said whose it is.
struct StrangerStream {
  var remote: Endpoint
  var due: Instant
}

extension NodeLimits {
  /// Accepted connections that nothing authentic came through: in all, and of
  /// one source (an IPv4 address, an IPv6 /64).
  package static let strangers = 64
  package static let strangersPerSource = 4
  /// A connection that says nothing authentic is closed after this.
  package static let strangerTime: TimeAmount = .seconds(5)
  /// Connections of one peer at a time.
  package static let streamsPerPeer = 8
  /// A TCP mapping is named for so long after it was seen; the server vouches
  /// for it for a minute (DESIGN §2).
  package static let streamMappingLife: TimeAmount = .seconds(50)
  /// A network from which no question of the NAT probe has been answered for so
  /// long, one repetition included, is taken for one that lets no UDP through.
  package static let natDoubt: TimeAmount = .milliseconds(750)
}

extension Node {
  // MARK: What the driver tells

  /// A connection of a `dialCarrier` event is there.
  package func carrierDialed(connection: UInt32, remote: Endpoint, now: Instant) {
    clock = now
    for peer in peers where !peer.isRemoved {
      guard let candidate = peer.dialer.opened(number: connection) else { continue }
      addStream(
        .tcp(connection: connection, remote: remote), tier: candidate.tier, to: peer, now: now)
      settle(now: now)
      return
    }
    emit(.closeCarrier(connection))
  }

  /// Somebody connected to the listening port.
  package func carrierAccepted(connection: UInt32, remote: Endpoint, now: Instant) {
    clock = now
    let source = Self.source(remote.address)
    let same = strangers.values.count { Self.source($0.remote.address) == source }
    guard same < NodeLimits.strangersPerSource else {
      drops.strangers += 1
      emit(.closeCarrier(connection))
      return
    }
    if strangers.count >= NodeLimits.strangers,
      let oldest = strangers.min(by: { ($0.value.due, $0.key) < ($1.value.due, $1.key) })
    {
      drops.strangers += 1
      strangers[oldest.key] = nil
      emit(.closeCarrier(oldest.key))
    }
    strangers[connection] = StrangerStream(remote: remote, due: now + NodeLimits.strangerTime)
  }

  /// A connection has ended or could not be made.
  package func carrierClosed(connection: UInt32, now: Instant) {
    clock = now
    blockedCarriers.remove(connection)
    if strangers.removeValue(forKey: connection) != nil { return }
    for peer in peers where !peer.isRemoved {
      if peer.dialer.failed(number: connection, now: now) { touch(peer) }
      guard let i = peer.streams.firstIndex(where: { $0.carrier.socket == connection }) else {
        continue
      }
      let stream = peer.streams.remove(at: i)
      peer.paths.carrierClosed(stream.carrier, now: now)
      touch(peer)
    }
    settle(now: now)
  }

  private static func source(_ address: IPAddress) -> IPAddress {
    address.isV4 ? address : IPAddress(high: address.high, low: 0)
  }

  // MARK: Connections of a peer

  /// Something authentic of `peer` came through an accepted connection.
  func learnStream(_ carrier: Carrier, of peer: Peer, now: Instant) {
    guard strangers.removeValue(forKey: carrier.socket) != nil else { return }
    // Whoever comes in by a port that a router opened needed no hole.
    let tier = streamPortMapping == nil ? streamTier(of: carrier.remote, peer: peer) : .tcpDirect
    addStream(carrier, tier: tier, to: peer, now: now)
  }

  private func addStream(_ carrier: Carrier, tier: Tier, to peer: Peer, now: Instant) {
    guard !peer.isRemoved, !peer.isStock, peer.streams.count < NodeLimits.streamsPerPeer else {
      emit(.closeCarrier(carrier.socket))
      return
    }
    if case .refused = peer.paths.carrierOpened(carrier, tier: tier, now: now) {
      emit(.closeCarrier(carrier.socket))
      return
    }
    peer.streams.append(PeerStream(carrier: carrier, due: now + StreamTunables.trialTime))
    touch(peer)
  }

  func closeStream(_ i: Int, of peer: Peer, now: Instant) {
    let stream = peer.streams.remove(at: i)
    blockedCarriers.remove(stream.carrier.socket)
    peer.paths.carrierClosed(stream.carrier, now: now)
    emit(.closeCarrier(stream.carrier.socket))
    touch(peer)
  }

  func closeStreams(of peer: Peer, now: Instant) {
    stopDialling(peer)
    while !peer.streams.isEmpty { closeStream(peer.streams.count - 1, of: peer, now: now) }
  }

  func stopDialling(_ peer: Peer) {
    if peer.dialer.isDialling { touch(peer) }
    peer.dialer.stop()
  }

  /// A carrier has become a path.
  func pathIsUp(_ carrier: Carrier, of peer: Peer, now: Instant) {
    guard carrier.kind == .tcp else {
      if carrier.kind == .udp { stopDialling(peer) }
      if carrier.kind == .relay { relayIsUp(carrier, of: peer, now: now) }
      return
    }
    stopDialling(peer)
    guard let new = peer.streams.firstIndex(where: { $0.carrier.socket == carrier.socket }) else {
      return
    }
    peer.streams[new].isProven = true
    guard peer.decidesStreams else { return }
    // Both ends may have dialled. The first one stays, unless the peer knows
    // better: then ours has gone silent.
    let held = peer.streams.first {
      $0.isProven && $0.carrier.socket != carrier.socket
        && peer.paths.hasHeard($0.carrier, within: StreamTunables.trialTime, now: now)
    }
    let kept = held?.carrier.socket ?? carrier.socket
    for i in peer.streams.indices.reversed() where peer.streams[i].carrier.socket != kept {
      closeStream(i, of: peer, now: now)
    }
  }

  // MARK: Time

  var nextStreamDeadline: Instant {
    var next = Instant.distantFuture
    for stranger in strangers.values { next = min(next, stranger.due) }
    for index in waysOut.indices {
      next = min(next, waysOut[index].streamMapping?.nextDeadline ?? .distantFuture)
      if waysOut[index].withholdsStream { next = min(next, natDoubtEnds(index)) }
    }
    return next
  }

  func streamDeadline(of peer: Peer) -> Instant {
    var next = peer.dialer.nextDeadline
    for stream in peer.streams where !stream.isProven { next = min(next, stream.due) }
    if !peer.streams.isEmpty, let tier = peer.paths.primary.flatMap({ peer.paths.tier(of: $0) }),
      tier < .tcpDirect
    {
      next = min(next, peer.paths.primarySince + StreamTunables.rest)
    }
    return next
  }

  func advanceStreams(to now: Instant) {
    for (connection, stranger) in strangers.sorted(by: { $0.key < $1.key })
    where stranger.due <= now {
      strangers[connection] = nil
      drops.strangers += 1
      emit(.closeCarrier(connection))
    }
    for index in waysOut.indices
    where (waysOut[index].streamMapping?.nextDeadline ?? .distantFuture) <= now {
      waysOut[index].streamMapping?.advance(to: now)
      drainStreamMapping(index, now: now)
    }
    for index in waysOut.indices where waysOut[index].withholdsStream {
      tellStream(index, now: now)
    }
  }

  func advanceStreams(of peer: Peer, now: Instant) {
    for i in peer.streams.indices.reversed()
    where !peer.streams[i].isProven && peer.streams[i].due <= now {
      log(.debug, "carrier", "\(peer.name): nobody answers through \(peer.streams[i].carrier)")
      closeStream(i, of: peer, now: now)
    }
    if !peer.streams.isEmpty, let tier = peer.paths.primary.flatMap({ peer.paths.tier(of: $0) }),
      tier < .tcpDirect, now - peer.paths.primarySince >= StreamTunables.rest
    {
      closeStreams(of: peer, now: now)
    }
    guard peer.dialer.nextDeadline <= now else { return }
    if peer.paths.hasDirectPath { peer.dialer.stop() }
    while let action = peer.dialer.poll(
      lastNumber: &lastStream, budget: &budget, now: now)
    {
      switch action {
      case .dial(let number, let endpoint):
        emit(.dialCarrier(connection: number, endpoint))
      case .cancel(let number):
        emit(.closeCarrier(number))
      case .learnMapping:
        learnStreamMapping(now: now)
      }
    }
    tellPeerOfPunch(peer)
  }

  /// The end that goes second waits for this.
  private func tellPeerOfPunch(_ peer: Peer) {
    guard peer.dialer.isPunching, peer.toldPunches != peer.dialer.punches, isOnline,
      peer.lastSession != 0
    else { return }
    announceCandidates(to: peer)
  }

  // MARK: Whom to dial

  /// An agreed start: TCP follows UDP, or goes ahead where UDP is of no use.
  func dialStreams(to peer: Peer, at start: Instant, now: Instant) {
    guard settings.listensTCP, !peer.isStock, !peer.paths.hasDirectPath,
      peer.paths.settings.allowedTiers.allows(.tcpDirect)
    else { return }
    peer.dialer.begin(
      at: start,
      isUrgent: natFacts.isUDPBlocked || peer.nat.isUDPBlocked || settings.usesTCPCarriers,
      isSecond: isSecondEnd(of: peer), budget: &budget, now: now)
    touch(peer)
  }

  /// One end or the other knows its NAT better.
  func orderStreams(of peer: Peer, now: Instant) {
    peer.dialer.setSecond(isSecondEnd(of: peer), now: now)
    touch(peer)
  }

  /// Who knows nothing of its NAT goes second: that is a network that lets no UDP
  /// through, and drops what comes unasked, while a home's router may answer it
  /// and give the port away (RECIPES R10, "masq-open").
  private func isSecondEnd(of peer: Peer) -> Bool {
    let isKnownHere = natFacts.mapping != .unknown
    let isKnownThere = peer.nat.mapping != .unknown
    return isKnownHere == isKnownThere ? !peer.decidesStreams : isKnownThere
  }

  /// The TCP endpoints in the peer's list, as far as the rules allow them.
  func setStreamCandidates(
    _ candidates: [SignalledCandidate], of peer: Peer, now: Instant
  ) {
    guard settings.listensTCP else { return }
    let all = candidates.filter { $0.transport == .tcp }
    peer.streamHosts = all.filter { $0.kind == .host }.map(\.endpoint)
    var context = addressContext(of: peer)
    // The server passes on only the listening port and ports that it saw in the last
    // minute; a peer behind a NAT may have no host that is told to us.
    context.peerListeningPort = peer.streamHosts.first?.port ?? 0
    context.peerSeenAt = now
    var result: [StreamCandidate] = []
    for candidate in all where candidate.endpoint.address.isV4 ? socketV4 != nil : socketV6 != nil {
      // Where everybody reaches us the peer need not be dialled through its NAT.
      if candidate.kind == .serverReflexive, natFacts.isOpen { continue }
      // Our own address at another machine.
      if context.serverSeesUs != context.serverSeesPeer,
        localAddresses.contains(where: { $0.address == candidate.endpoint.address })
      {
        continue
      }
      context.peerSeenPort = candidate.kind == .host ? 0 : candidate.endpoint.port
      let refusal = CandidateRules.tcpRefusal(
        of: candidate.endpoint, source: .signalled, context: context, now: now)
      guard refusal == nil, !result.contains(where: { $0.endpoint == candidate.endpoint }) else {
        continue
      }
      let kind: CandidateKind =
        switch candidate.kind {
        case .host: .host
        case .serverReflexive: .serverReflexive
        case .portMapped: .portMapped
        }
      result.append(
        StreamCandidate(
          endpoint: candidate.endpoint, kind: kind,
          tier: kind == .portMapped
            ? .tcpDirect : streamTier(of: candidate.endpoint, peer: peer)))
    }
    result.sort { $0.tier < $1.tier }
    peer.dialer.setCandidates(result, now: now)
    touch(peer)
  }

  /// Direct where one end hears the other unasked, as far as is known.
  private func streamTier(of remote: Endpoint, peer: Peer) -> Tier {
    let address = remote.address
    if address.isPrivate || address.isLoopback { return .tcpDirect }
    if localAddresses.contains(where: { $0.contains(address) && !$0.address.isLoopback }) {
      return .tcpDirect
    }
    func isPublic(_ other: IPAddress) -> Bool {
      other.isV4 == address.isV4 && !other.isPrivate && !other.isLoopback && !other.isLinkLocal
    }
    // Not known to be open: as if there were a firewall, which loses nothing.
    let isOpenHere = natFacts.isOpen && localAddresses.contains { isPublic($0.address) }
    let isOpenThere = peer.nat.isOpen && peer.streamHosts.contains { isPublic($0.address) }
    return isOpenHere || isOpenThere ? .tcpDirect : .tcpPunch
  }

  // MARK: Where TCP leaves our NAT

  var streamHostCandidates: [SignalledCandidate] {
    guard settings.listensTCP else { return [] }
    return hostAddresses.map {
      SignalledCandidate(kind: .host, transport: .tcp, endpoint: Endpoint($0, settings.port))
    }
  }

  var streamReflexiveCandidates: [SignalledCandidate] {
    guard settings.listensTCP else { return [] }
    return waysOut.compactMap { way in
      guard let mapped = way.streamMapped,
        !way.withholdsStream, clock - way.streamMappedAt < NodeLimits.streamMappingLife,
        !localAddresses.contains(where: { $0.address == mapped.address })
      else { return nil }
      return SignalledCandidate(kind: .serverReflexive, transport: .tcp, endpoint: mapped)
    }
  }

  /// Asks the server's TCP ports where we are seen, unless that was done a moment
  /// ago or no NAT is in front of us.
  /// - Returns: whether anything is asked now.
  @discardableResult
  func learnStreamMapping(now: Instant) -> Bool {
    guard settings.listensTCP else { return false }
    var isAsking = false
    for index in waysOut.indices {
      guard let server = waysOut[index].server, !server.tcp.isEmpty,
        (waysOut[index].isV4 ? socketV4 : socketV6) != nil,
        now - waysOut[index].streamAskedAt > NodeLimits.connectRetry,
        waysOut[index].facts.mapping != .none,
        localAddresses.contains(where: {
          $0.address.isV4 == waysOut[index].isV4 && !$0.address.isLoopback
            && !$0.address.isLinkLocal
        })
      else { continue }
      if waysOut[index].streamMapping == nil {
        waysOut[index].streamMapping = StreamMapping(
          server: server, random: SeededRandom(seed: random.bytes(32)))
      }
      waysOut[index].streamAskedAt = now
      waysOut[index].streamMapping?.ask(now: now)
      drainStreamMapping(index, now: now)
      isAsking = true
    }
    return isAsking
  }

  func forgetStreamMapping(_ index: Int, now: Instant) {
    waysOut[index].streamMapping?.stop()
    drainStreamMapping(index, now: now)
    waysOut[index].streamMapping = nil
    waysOut[index].streamMapped = nil
    waysOut[index].withholdsStream = false
    waysOut[index].streamAskedAt = .distantPast
  }

  func drainStreamMapping(_ index: Int, now: Instant) {
    while let event = waysOut[index].streamMapping?.pollEvent() {
      switch event {
      case .dial(let connection, let endpoint):
        emit(
          .dialSTUN(
            connection: streamConnection(index, connection), endpoint, fromListeningPort: true))
      case .send(let connection, let bytes):
        emit(.sendSTUN(connection: streamConnection(index, connection), bytes))
      case .hangUp(let connection):
        emit(.hangUpSTUN(connection: streamConnection(index, connection)))
      case .mapped(let endpoint):
        mappedStream(index, endpoint, now: now)
      case .silent:
        waysOut[index].streamMapped = nil
      }
    }
  }

  private func streamConnection(_ index: Int, _ connection: UInt32) -> UInt32 {
    connection << 2 | 2 | UInt32(index)
  }

  private func mappedStream(_ index: Int, _ endpoint: Endpoint, now: Instant) {
    let isNew = waysOut[index].streamMapped != endpoint
    let isOld = now - waysOut[index].streamMappedAt >= NodeLimits.streamMappingLife
    waysOut[index].streamMapped = endpoint
    waysOut[index].streamMappedAt = now
    for peer in peers where !peer.isRemoved && peer.meetAt != nil { meetSoon(peer, at: now) }
    guard isNew || isOld else { return }
    waysOut[index].withholdsStream = true
    tellStream(index, now: now)
  }

  /// Tells the endpoint outside, but not before it is known whether UDP passes:
  /// who may dial first follows from that, and the wrong end may spoil a router.
  func tellStream(_ index: Int, now: Instant) {
    let way = waysOut[index]
    guard way.streamMapped != nil else {
      waysOut[index].withholdsStream = false
      return
    }
    if way.facts.mapping == .unknown, !way.facts.isUDPBlocked, way.probe?.isRunning == true,
      now < natDoubtEnds(index)
    {
      return
    }
    waysOut[index].withholdsStream = false
    streamsNamedAt = now
    guard isOnline else { return }
    reportAgain(now: now)
    for peer in peers
    where !peer.isRemoved && peer.lastSession != 0 && !peer.paths.hasDirectPath {
      announceCandidates(to: peer)
      // Too late for this start: another is agreed on.
      if !peer.dialer.isOpen(now: now) { peer.paths.hastenPunch(now: now) }
      touch(peer)
    }
  }

  private func natDoubtEnds(_ index: Int) -> Instant {
    waysOut[index].probedAt + NodeLimits.natDoubt
  }
}
