/// From "somebody wants this peer" to a session with a path: meetings through
/// the server, handshakes, HELLO, incarnations, and what to do when all paths
/// are dead. DESIGN §1.1, §2.

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import NAT
  internal import Paths
  internal import Signaling
  internal import Tunnels
  internal import WireGuard
#endif

extension Node {
  /// Makes sure that a session with a path exists or is on its way.
  /// - Returns: false when there is no way to ask: the peer is offline, or the
  ///   server is away and no address of the peer is known.
  func wantSession(with peer: Peer, now: Instant) -> Bool {
    if peer.isOwn { return true }
    guard !peer.isRemoved else { return false }
    peer.isWanted = true
    if peer.isConnected, keeper.canSeal(peer.handle, now: now) { return true }
    if peer.isStock {
      keeper.initiate(peer.handle, now: now)
      return true
    }
    if case .online = signal {
      guard peer.isOnline else { return peer.isConnected }
      meet(peer, now: now)
      return true
    }
    guard !peer.paths.snapshots.isEmpty else { return false }
    keeper.initiate(peer.handle, now: now)
    return true
  }

  /// Asks the server to bring the pair together, at most once in two seconds.
  func meet(_ peer: Peer, now: Instant) {
    guard case .online = signal, !peer.isMeeting, now - peer.lastAsked >= NodeLimits.connectRetry
    else { return }
    if keeper.canSeal(peer.handle, now: now), peer.connectedSince != nil,
      peer.isConnected || now - peer.keysSince < NodeLimits.keyTrust
    {
      // The session lives (old keys alone prove nothing: the peer may have lost them); only candidates and a relay channel are wanted.
      askToConnect(peer, initiation: [], now: now)
      return
    }
    peer.meeting = .wanted
    if peer.initiateAt != nil { return }
    keeper.initiate(peer.handle, now: now)
  }

  /// Meets at `at`, or as soon after it as a meeting may be asked for.
  func meetSoon(_ peer: Peer, at: Instant) {
    peer.meetAt = max(at, peer.lastAsked + NodeLimits.connectRetry)
    touch(peer)
  }

  /// PunchStart: the server names the peer's candidates and our channel.
  func met(_ peer: Peer, _ punch: PunchStart, now: Instant) {
    // The answer to our own request, which crossed the peer's: we have begun, and a
    // second volley would come later than the peer's and use up what both may send.
    let hasBegun = peer.lastSession == punch.session
    peer.meeting = .met(session: punch.session)
    peer.lastSession = punch.session
    peer.announcedIncarnation = punch.incarnation
    updateContext(of: peer)
    // While a leg is opened again the server may still speak of the former one.
    let isOfFormerLeg = leg == nil && hadLeg
    if punch.channel != 0, peer.channel != punch.channel, !isOfFormerLeg {
      dropRelayCarrier(of: peer, now: now)
      peer.channel = punch.channel
    }
    attachRelay(to: peer, now: now)
    peer.nat = punch.nat
    peer.paths.setNAT(local: natFacts, peer: punch.nat)
    keepReflexive(punch.candidates, of: peer, now: now)
    // By TCP, then: where it leaves our NAT is asked at once.
    if natFacts.isUDPBlocked || punch.nat.isUDPBlocked { learnStreamMapping(now: now) }
    if hasBegun, Self.datagrams(punch.candidates) == Self.datagrams(peer.named) {
      setStreamCandidates(punch.candidates, of: peer, now: now)
      peer.named = punch.candidates
    } else {
      let start = now + .milliseconds(Int64(punch.delayMilliseconds))
      peer.paths.punch(at: start, now: now)
      addCandidates(punch.candidates, to: peer, now: now)
      dialStreams(to: peer, at: start, now: now)
    }
    // The server may have gathered its list before it heard of it; and what goes
    // on from an earlier start is news for a peer that begins now.
    let isNews = now - streamsNamedAt < NodeLimits.connectRetry || peer.dialer.isPunching
    if isNews, !peer.paths.hasDirectPath { announceCandidates(to: peer) }
    wantRelay(for: peer, after: RelayTunables.patience, now: now)
    if punch.isNamedInitiator {
      if !punch.initiation.isEmpty { receiveInitiation(punch.initiation, of: peer, now: now) }
    } else if !punch.initiation.isEmpty {
      keeper.cancelInitiation(peer.handle)
      receiveInitiation(punch.initiation, of: peer, now: now)
      if !keeper.canSeal(peer.handle, now: now) { peer.initiateAt = now + .milliseconds(500) }
    }
    if peer.announcesWhenMet {
      peer.announcesWhenMet = false
      announceCandidates(to: peer)
    }
    touch(peer)
  }

  /// News of the peer in a meeting that goes on.
  func updated(_ peer: Peer, _ update: MeetingUpdate, now: Instant) {
    let isOfStreams =
      update.isDialling || update.nat != peer.nat || update.candidates != peer.named
    if peer.nat != update.nat {
      peer.nat = update.nat
      peer.paths.setNAT(local: natFacts, peer: update.nat)
      orderStreams(of: peer, now: now)
      if update.nat.isUDPBlocked, !peer.paths.hasDirectPath { learnStreamMapping(now: now) }
    }
    // Datagram candidates that are named again get a fresh round; news of TCP is no
    // reason for one.
    if isOfStreams, Self.datagrams(update.candidates) == Self.datagrams(peer.named) {
      peer.named = update.candidates
      setStreamCandidates(update.candidates, of: peer, now: now)
    } else {
      addCandidates(update.candidates, to: peer, now: now)
    }
    if update.isDialling { peer.dialer.peerIsDialling(now: now) }
    touch(peer)
  }

  private static func datagrams(_ list: [SignalledCandidate]) -> Set<SignalledCandidate> {
    Set(list.filter { $0.transport == .udp })
  }

  private func receiveInitiation(_ bytes: [UInt8], of peer: Peer, now: Instant) {
    // Answered through the relay channel; without one, to where the peer is seen.
    let carrier =
      peer.relayCarrier
      ?? Carrier.relay(connection: 0, channel: max(peer.channel, 1), remote: .none)
    var copy = bytes
    var span = copy.mutableSpan
    var raw = span.mutableBytes
    if case .handshake(let handle, _) = keeper.receive(&raw, from: carrier, now: now),
      handle == peer.handle
    {
      peer.handshakeCarrier = carrier
    }
  }

  /// A list of candidates is the whole of it.
  private func keepReflexive(
    _ candidates: [SignalledCandidate], of peer: Peer, now: Instant
  ) {
    peer.paths.keepReflexive(
      candidates.filter { $0.kind == .serverReflexive && $0.transport == .udp }.map(\.endpoint),
      now: now)
  }

  func addCandidates(_ candidates: [SignalledCandidate], to peer: Peer, now: Instant) {
    // A NAT that lets everybody in needs no hole.
    keepReflexive(candidates, of: peer, now: now)
    var families = AddressFamilies()
    for candidate in candidates { families.insert(candidate.endpoint.address) }
    setStreamCandidates(candidates, of: peer, now: now)
    if !candidates.isEmpty { peer.families = families }
    peer.named = candidates
    let isOpen = peer.nat.mapping.isStable && peer.nat.filtering == .endpointIndependent
    for candidate in candidates {
      if candidate.transport == .tcp || settings.usesTCPCarriers { continue }
      guard let socket = candidate.endpoint.address.isV4 ? socketV4 : socketV6 else { continue }
      let kind: CandidateKind =
        switch candidate.kind {
        case .host: .host
        case .serverReflexive: .serverReflexive
        case .portMapped: .portMapped
        }
      peer.paths.addCandidate(
        .udp(socket: socket, remote: candidate.endpoint), kind: kind,
        tier: kind == .serverReflexive && !isOpen ? .udpPunch : .udpDirect, source: .signalled,
        now: now)
    }
    touch(peer)
  }

  // MARK: The relay leg to the server

  /// What proves the ticket on a new relay leg; nil before the login.
  package func legHello() -> [UInt8]? {
    guard let ticket else { return nil }
    ticketCounter += 1
    return LegHello.make(ticket: ticket, counter: ticketCounter).encoded()
  }

  /// The server accepted the relay leg.
  package func legOpened(connection: UInt32, remote: Endpoint, now: Instant) {
    clock = now
    leg = (connection, remote, false)
    hadLeg = true
    for peer in peers where !peer.isRemoved {
      attachRelay(to: peer, now: now)
      if peer.channel == 0, peer.connectedSince != nil || peer.isWanted, peer.isOnline {
        // The leg that is gone took the channel with it, however recent it was.
        peer.lastAsked = .distantPast
        meetSoon(peer, at: now)
      }
    }
    settle(now: now)
  }

  package func legClosed(connection: UInt32, now: Instant) {
    clock = now
    guard leg?.connection == connection else { return }
    leg = nil
    for peer in peers where !peer.isRemoved {
      dropRelayCarrier(of: peer, now: now)
      // Its channels ended with it.
      peer.channel = 0
    }
    settle(now: now)
  }

  /// The kernel takes no more (or takes again) on this connection.
  package func setConnectionBlocked(_ connection: UInt32, _ isBlocked: Bool) {
    guard leg?.connection == connection else {
      if isBlocked {
        blockedCarriers.insert(connection)
      } else if blockedCarriers.remove(connection) != nil {
        for peer in peers
        where peer.streams.contains(where: { $0.carrier.socket == connection })
          || peer.relays.seats.contains(where: { $0.connection == connection })
        {
          touch(peer)
        }
      }
      return
    }
    leg?.isBlocked = isBlocked
    if !isBlocked {
      for peer in peers where peer.relayCarrier != nil { touch(peer) }
    }
  }

  /// The server ended a channel of the leg (the peer left, or a limit).
  package func relayChannelEnded(connection: UInt32, channel: UInt32, now: Instant) {
    clock = now
    guard leg?.connection == connection,
      let peer = peers.first(where: { $0.channel == channel && !$0.isRemoved })
    else { return }
    dropRelayCarrier(of: peer, now: now)
    peer.channel = 0
  }

  /// The kernel refused a datagram as too long for its path.
  package func datagramTooLong(on carrier: Carrier, limit: Int, now: Instant) {
    clock = now
    for peer in peers where !peer.isRemoved && peer.connectedSince != nil {
      peer.paths.datagramTooLong(on: carrier, limit: limit, now: now)
      touch(peer)
    }
  }

  private func attachRelay(to peer: Peer, now: Instant) {
    guard let leg, peer.channel != 0, peer.relayCarrier == nil else { return }
    let carrier = Carrier.relay(
      connection: leg.connection, channel: peer.channel, remote: leg.remote)
    peer.relayCarrier = carrier
    peer.paths.carrierOpened(carrier, tier: .serverRelay, now: now)
    if keeper.canSeal(peer.handle, now: now) {
      peer.paths.sessionEstablished(through: carrier, now: now)
    }
    touch(peer)
  }

  /// Policies have let the server's relay go, or let it in again.
  func reopenServerRelay(of peer: Peer, now: Instant) {
    guard peer.relayCarrier != nil else { return }
    dropRelayCarrier(of: peer, now: now)
    attachRelay(to: peer, now: now)
  }

  func dropRelayCarrier(of peer: Peer, now: Instant) {
    guard let carrier = peer.relayCarrier else { return }
    peer.relayCarrier = nil
    peer.paths.carrierClosed(carrier, now: now)
    touch(peer)
  }

  // MARK: What the machines below report

  func drainKeeper(now: Instant) {
    while let event = keeper.pollEvent() {
      switch event {
      case .keypairReady(let handle, let keypair, _):
        guard let peer = peer(handle) else { continue }
        sessionReady(peer, keypair: keypair.rawValue, now: now)
      case .keypairExpired(let handle, let keypair):
        guard let peer = peer(handle) else { continue }
        peer.heardKeypairs.removeAll { $0.keypair == keypair.rawValue }
        peer.held.removeAll { $0.keypair == keypair.rawValue }
      case .sessionDead(let handle):
        guard let peer = peer(handle) else { continue }
        peer.paths.sessionLost(now: now)
        touch(peer)
      case .peerStale(let handle):
        guard let peer = peer(handle) else { continue }
        log(
          .info, "stale-stamp",
          "\(peer.name) sent a handshake with an old time stamp (its clock went back?); answering with one of ours"
        )
      case .handshakeGaveUp(let handle):
        guard let peer = peer(handle) else { continue }
        peer.meeting = .none
      case .storeStampCeiling(let ceiling):
        emit(.store(.stampCeiling(ceiling)))
      }
    }
  }

  private func sessionReady(_ peer: Peer, keypair: UInt64, now: Instant) {
    peer.newestKeypair = max(peer.newestKeypair, keypair)
    peer.keysSince = now
    if !peer.isStock {
      peer.hello.restart(
        keypair: keypair, isHeard: peer.firstCounter(on: keypair) != nil, now: now)
    }
    peer.initiateAt = nil
    peer.isWanted = false
    if case .asked = peer.meeting {} else { peer.meeting = .none }
    if peer.connectedSince == nil {
      peer.connectedSince = now
      log(.info, "session", "session with \(peer.name) established")
    }
    if !peer.isRecorded, !peer.isStock {
      peer.isRecorded = true
      emit(.store(.sessionPeers(peers.filter(\.isRecorded).map(\.name).sorted())))
    }
    peer.paths.sessionEstablished(through: peer.handshakeCarrier, now: now)
    touch(peer)
  }

  func drainPaths(of peer: Peer, now: Instant) {
    while let event = peer.paths.pollEvent() {
      switch event {
      case .pathUp(let lane, let carrier, let tier, let maximum):
        if peer.mux.hasLane(lane) { peer.mux.removeLane(lane, now: now) }
        let roundTrip = peer.paths.snapshots.first { $0.lane == lane }?.roundTrip
        peer.mux.addLane(
          lane, kind: carrier.kind == .tcp ? .ordered : .datagram, maximumPacket: maximum,
          roundTrip: roundTrip, marks: tier.marks, now: now)
        if peer.paths.lanesByPreference.count > 1 { keeper.widenWindow(peer.handle) }
        log(.debug, "path-up", "\(peer.name): \(tier.code) through \(carrier)")
        pathIsUp(carrier, of: peer, now: now)
      case .pathDown(let lane, let reason):
        if peer.mux.hasLane(lane) { peer.mux.removeLane(lane, now: now) }
        closeIdleSockets(of: peer, now: now)
        relayMayBeDown(of: peer, now: now)
        log(.debug, "path-down", "\(peer.name): lane \(lane): \(reason.rawValue)")
      case .suspect(let lane, let reason):
        if peer.mux.hasLane(lane) { peer.mux.suspectLane(lane, now: now) }
        if let carrier = peer.paths.carrier(of: lane), carrier.kind == .relay {
          if reason == .dropsData {
            relayDropsData(carrier, now: now)
          } else {
            relayIsSuspect(carrier, of: peer, now: now)
          }
        }
        log(.debug, "path-suspect", "\(peer.name): lane \(lane): \(reason.rawValue)")
      case .recovered(let lane):
        log(.debug, "path-recovered", "\(peer.name): lane \(lane)")
      case .doubted:
        hastenHeartbeat(now: now)
      case .primaryChanged(let from, let to, let reason):
        // Also what left on it after the suspicion, while there was no other:
        // it is sent again at once (DESIGN §1.3).
        if let from, reason == .primarySuspect || reason == .primaryDropsData,
          peer.mux.hasLane(from)
        {
          peer.mux.suspectLane(from, now: now)
        }
        peer.lastAcknowledged = nil
        roadChanged(of: peer, now: now)
        guard let to else { continue }
        if peer.mux.hasLane(to), let roundTrip = peer.paths.latestRoundTrip(of: to) {
          peer.mux.setRoundTrip(to, roundTrip, now: now)
        }
        peer.deadSince = nil
        peer.hasLingered = false
        if let roundTrip = peer.primarySnapshot?.roundTrip {
          keeper.setPathDelay(peer.handle, roundTrip / 2)
        }
        log(.info, "path", "\(peer.name): now \(peer.pathWords) (\(reason.rawValue))")
      case .maximumPacketChanged(let lane, let maximum):
        if peer.mux.hasLane(lane) { peer.mux.setMaximumPacket(lane, maximum) }
      case .allPathsDead:
        peer.meeting = .none
        if peer.paths.isLetGo {
          log(.info, "let-go", "\(peer.name): no traffic; the session rests until there is some")
          closeStreams(of: peer, now: now)
          leaveRelays(of: peer, now: now)
          continue
        }
        if peer.deadSince == nil { peer.deadSince = now }
        log(.info, "paths-dead", "\(peer.name): no path left")
        if peer.mux.openStreamCount > 0 || peer.isWanted {
          _ = wantSession(with: peer, now: now)
        }
      case .gapPassed(let gap, let isV4):
        learnKeepalive(gap, isV4: isV4, isShut: false, of: peer, now: now)
      case .gapShut(let gap, let isV4):
        learnKeepalive(gap, isV4: isV4, isShut: true, of: peer, now: now)
      case .observedAddress:
        // One peer's word; the server's STUN ports say it of all.
        break
      case .wantsPunch:
        if isOnline, peer.isOnline {
          // Where our NAT has put us must be known before the peer is told.
          var isAsking = refreshMappings(isDoubtful: true, now: now)
          if !peer.paths.hasDirectPath, learnStreamMapping(now: now) { isAsking = true }
          meetSoon(peer, at: now + (isAsking ? PathTunables.mappingWait : .zero))
        } else {
          peer.paths.punch(at: now, now: now)
          dialStreams(to: peer, at: now, now: now)
        }
      case .wantsSockets(let count, let isV4):
        openSockets(count, isV4: isV4, for: .guess(peer: peer.index))
      case .guessEnded:
        closeIdleSockets(of: peer, now: now)
      }
    }
  }

  // MARK: HELLO

  func receiveHello(
    _ message: HelloMessage, keypair: UInt64, counter: UInt64, from peer: Peer, now: Instant
  ) {
    if peer.incarnation != message.incarnation {
      guard !peer.isStale(message.incarnation, on: keypair) else {
        drops.staleHello += 1
        return
      }
      let isRestart = peer.incarnation != 0
      peer.incarnation = message.incarnation
      peer.incarnationKeypair = keypair
      peer.acceptedOn = nil
      peer.isUnsure = !isRestart && peer.firstNumbered != nil
      if isRestart {
        log(.info, "peer-restarted", "\(peer.name) was restarted")
        beginAnew(peer, keypair: keypair, now: now)
      }
    }
    if peer.isUnsure {
      if keypair == peer.firstNumbered || message.flags.contains(.accepted) {
        peer.isUnsure = false
      } else if message.flags.contains(.heard) {
        // It knows of us and never took what we sent before.
        log(.info, "peer-restarted", "\(peer.name) was restarted before it was known")
        peer.localIncarnation &+= 1
        peer.acceptedOn = nil
        beginAnew(peer, keypair: keypair, now: now)
        peer.hello.restart(keypair: keypair, isHeard: false, now: now)
      }
    }
    heardEvictions(message.revocationNumber, from: peer, isStatement: false, now: now)
    if peer.hello.keypair == nil {
      peer.hello.restart(keypair: keypair, isHeard: false, now: now)
    }
    // Meant for a process that is gone: so is everything numbered before it.
    let isForUs = peer.isForUs(message)
    if isForUs, peer.firstCounter(on: keypair) == nil {
      if peer.acceptedOn == nil { peer.acceptedOn = keypair }
      peer.heardKeypairs.insert(
        Peer.HeardKeypair(
          keypair: keypair, firstCounter: message.flags.contains(.unbroken) ? 0 : counter),
        at: 0)
      if peer.heardKeypairs.count > 4 { peer.heardKeypairs.removeLast() }
    }
    if peer.hello.keypair == keypair {
      peer.hello.heard(
        peerHasSeenUs: message.seen == peer.localIncarnation && message.flags.contains(.heard),
        now: now)
    }
    if isForUs {
      peerDemands(
        message.flags.contains(.noRelay)
          ? .never : message.flags.contains(.onlyRelay) ? .only : .any, peer, now: now)
      releaseHeld(of: peer, keypair: keypair, now: now)
    }
    touch(peer)
  }

  /// The old connections end; the session starts from nothing on this keypair.
  private func beginAnew(_ peer: Peer, keypair: UInt64, now: Instant) {
    peer.heardKeypairs.removeAll()
    peer.held.removeAll { $0.keypair != keypair }
    numbersStartAnew(peer)
    peer.mux.restart(now: now)
    drainMux(of: peer, now: now)
    peer.paths.peerRestarted(now: now)
    drainPaths(of: peer, now: now)
    peer.paths.sessionEstablished(through: peer.handshakeCarrier, now: now)
  }

  private func numbersStartAnew(_ peer: Peer) {
    peer.brokenThrough = peer.newestKeypair
    peer.firstNumbered = nil
    peer.isUnsure = false
  }

  private func releaseHeld(of peer: Peer, keypair: UInt64, now: Instant) {
    guard !peer.held.isEmpty, let first = peer.firstCounter(on: keypair) else { return }
    let packets = peer.held.filter { $0.keypair == keypair }
    peer.held.removeAll { $0.keypair == keypair }
    let mux = peer.mux
    for packet in packets {
      // The one before may have ended the session.
      guard peer.mux === mux else { return }
      if packet.counter >= first {
        receiveNumbered(packet.bytes.span.bytes, from: peer, now: now)
      } else {
        drops.formerProcess += 1
      }
    }
  }

  /// The peer broke the protocol: this session is over for both sides. A new
  /// handshake under another incarnation number starts from nothing.
  func sessionFailed(_ peer: Peer, _ failure: MuxFailure, now: Instant) {
    log(.error, "protocol", "\(peer.name) broke the protocol (\(failure)); the session is closed")
    peer.mux.restart(code: ResetCode.protocolError, now: now)
    drainMux(of: peer, now: now)
    keeper.removePeer(peer.handle)
    peerHandles[peer.handle] = nil
    lastPeer = nil
    peer.paths.sessionLost(now: now)
    drainPaths(of: peer, now: now)
    peer.mux = newMultiplexer(role: peer.role)
    numbersStartAnew(peer)
    peer.acceptedOn = nil
    peer.localIncarnation &+= 1
    peer.hello = Hello()
    peer.heardKeypairs = []
    peer.held = []
    peer.connectedSince = nil
    peer.meeting = .none
    do throws(PeerRefusal) {
      peer.handle = try keeper.addPeer(
        publicKey: peer.publicKey, kind: .agent, cipher: peer.cipher, now: now)
      peerHandles[peer.handle] = peer.index
    } catch {
      peer.isRemoved = true
      log(.error, "peer-lost", "\(peer.name) cannot be added again: \(error)")
    }
  }

  func newMultiplexer(role: MuxRole) -> Multiplexer {
    var limits = MuxLimits()
    limits.mutations = settings.mutations
    limits.congestion = settings.congestion
    return Multiplexer(role: role, limits: limits, random: SeededRandom(seed: random.bytes(32)))
  }
}
