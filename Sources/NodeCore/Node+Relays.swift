/// The node's use of relays that other nodes are: whom to ask for one and when,
/// legs to it, the carrier that comes of them, and what happens when one fails.
/// The server's relay is not here (Node+Sessions.swift): a pair has both, so that
/// a relay's end is a change of path. docs/protocol/relay.md "How the ends use it".
///
///     asked ──grant──► dialling ──► joined ──► open (on trial) ──► proven
///                         │            │            │                │
///                         └────────────┴── failed: excluded ◄────────┘
///
/// One connection per relay carries the legs of all peers reached through it.

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import Paths
  internal import Relay
  package import Signaling
  internal import Tunnels
  internal import WireGuard
#endif

/// Timers and bounds of using relays of nodes.
package enum RelayTunables {
  /// A pair has this long to find a direct path before a relay is asked for.
  package static let patience = TimeAmount.milliseconds(500)
  /// The end that does not ask first waits so much longer; the other's request
  /// brings both their legs.
  package static let secondEnd = TimeAmount.milliseconds(1_500)
  /// Not sooner than this after the last request: within the time in which the
  /// server gives both ends one session, the answer would be the same.
  package static let retry = TimeAmount.seconds(6)
  /// After the server knew of none. Announcements come anyway.
  package static let emptyRetry = TimeAmount.minutes(5)
  /// A relay that failed a pair is not used by it for so long.
  package static let exclusion = TimeAmount.seconds(60)
  /// From the TCP dial of one endpoint until the next one is tried: before the
  /// kernel sends more SYNs than were counted.
  package static let dialTime = StreamTunables.attemptTime
  /// Without room in the probe budget the next look is not sooner than this.
  package static let budgetPause = TimeAmount.milliseconds(500)
  /// From the grant to a path.
  package static let trialTime = TimeAmount.seconds(15)
  /// A direct path that has stood for so long needs no leg beside it.
  package static let rest = TimeAmount.seconds(60)
  /// All nodes of a mesh hear of a new relay at one moment.
  package static let spreadMilliseconds: UInt64 = 500
  package static let excluded = RelaySignalLimits.exclusions
}

/// A connection to a relay, or the attempt at one.
struct RelayLink {
  let relay: [UInt8]
  let endpoints: [Endpoint]
  /// Of them, the one dialled now.
  var position = 0
  var isOpen = false
  /// The driver has been told; else the probe budget has no room yet.
  var isDialled = false
  var due: Instant

  var remote: Endpoint { endpoints[position] }
}

/// A peer's place at one relay.
struct RelaySeat {
  var guest: RelayGuest
  var connection: UInt32
  let tier: Tier
  var carrier: Carrier?
  var isProven = false
  /// Without a path by then it has failed.
  var due: Instant

  var relay: [UInt8] { guest.invitation.relay }
}

/// What a peer has of relays. Two seats only while one takes over from the other.
struct PeerRelays {
  var seats: [RelaySeat] = []
  var askAt = Instant.distantFuture
  var lastAsked = Instant.distantPast
  /// A relay better than the one in use was announced.
  var wantsBetter = false
  var excluded: [(relay: [UInt8], until: Instant)] = []
  /// What this end demands (Node+RelayPolicy.swift), and what the peer's does.
  var policy = PairPolicy()
  var told = RelayUse.any

  func isExcluded(_ relay: [UInt8]) -> Bool { excluded.contains { $0.relay == relay } }

  mutating func exclude(_ relay: [UInt8], until: Instant) {
    excluded.removeAll { $0.relay == relay }
    if excluded.count >= RelayTunables.excluded { excluded.removeFirst() }
    excluded.append((relay, until))
  }
}

extension Node {
  // MARK: Being one

  /// What this node is as a relay for others; nil: none (any more).
  package func setRelay(_ report: RelayReport?, now: Instant) {
    clock = now
    guard report != relayReport else { return }
    relayReport = report
    reportAgain(now: now)
  }

  /// What a relay must hear of a welcome or heartbeat.
  func tellRelay(secrets: [SignalledRelaySecret]?) {
    guard relayReport != nil else { return }
    if let serverTime { emit(.serverTime(unixNanoseconds: serverTime.nanoseconds)) }
    guard let secrets else { return }
    emit(.relaySecrets(secrets.map { RelaySecret(number: $0.number, key: $0.key) }))
  }

  // MARK: Asking

  /// A relay for this peer may be of use: looked at again after `delay`.
  func wantRelay(for peer: Peer, after delay: TimeAmount, now: Instant) {
    guard !peer.isStock, !peer.isOwn, !peer.isRemoved else { return }
    let turn = peer.decidesStreams ? TimeAmount.zero : RelayTunables.secondEnd
    let at = max(now + delay + turn, peer.relays.lastAsked + RelayTunables.retry)
    guard at < peer.relays.askAt else { return }
    peer.relays.askAt = at
    touch(peer)
  }

  private func askForRelay(_ peer: Peer, now: Instant) {
    let isBetterWanted = peer.relays.wantsBetter
    peer.relays.wantsBetter = false
    guard isOnline, peer.isOnline, peer.connectedSince != nil || peer.isWanted,
      !peer.paths.isLetGo, !peer.paths.hasDirectPath,
      peer.relays.seats.isEmpty || isBetterWanted,
      peer.paths.settings.allowedTiers.allows(.privateRelay)
        || peer.paths.settings.allowedTiers.allows(.superRelay)
    else { return }
    peer.relays.lastAsked = now
    request(
      .relayNodeRequest(
        RelayNodeRequest(
          peer: peer.name, only: demandedRelay(for: peer),
          exclusions: exclusions(of: peer))),
      kind: .relay(peer: peer.index), now: now)
  }

  /// Those that policies rule out, and those that failed.
  private func exclusions(of peer: Peer) -> [[UInt8]] {
    var result = avoidedRelays(of: peer)
    for entry in peer.relays.excluded.reversed() where !result.contains(entry.relay) {
      result.append(entry.relay)
    }
    return Array(result.prefix(RelaySignalLimits.exclusions))
  }

  /// A relay came or went somewhere.
  func relayAnnounced(_ announcement: RelayAnnouncement, now: Instant) {
    guard announcement.isPresent else { return }
    let tier: Tier = announcement.isSuper ? .superRelay : .privateRelay
    for peer in peers where !peer.isRemoved && !peer.isStock {
      peer.relays.excluded.removeAll { $0.relay == announcement.relay }
      guard peer.connectedSince != nil, peer.relays.seats.allSatisfy({ $0.tier > tier }) else {
        continue
      }
      peer.relays.wantsBetter = true
      let spread = Int64(random.next() % RelayTunables.spreadMilliseconds)
      wantRelay(for: peer, after: .milliseconds(spread), now: now)
    }
  }

  /// Our half of what a pair may use: asked for by us, or by the peer.
  func relayGranted(_ grant: RelayGrant, isPushed: Bool, now: Instant) {
    guard let index = peerNames[grant.peer] else { return }
    let peer = peers[index]
    guard !peer.isRemoved, !peer.isStock else { return }
    // Both ends get the same again for a while.
    peer.relays.lastAsked = now
    guard let offer = grant.offers.first else {
      // None, or only such as failed.
      let again = peer.relays.excluded.map(\.until).min().map { $0 - now }
      wantRelay(for: peer, after: again ?? RelayTunables.emptyRetry, now: now)
      return
    }
    let tier: Tier = offer.isSuper ? .superRelay : .privateRelay
    guard peer.paths.settings.allowedTiers.allows(tier),
      !peer.relays.seats.contains(where: { $0.guest.invitation.session == grant.session })
    else { return }
    if peer.relays.isExcluded(offer.relay) || !mayUse(offer.relay, for: peer) {
      // The peer does not know that we cannot, or shall not, use this one.
      guard isPushed, !peer.relays.seats.contains(where: \.isProven) else { return }
      peer.relays.lastAsked = .distantPast
      wantRelay(for: peer, after: .zero, now: now)
      return
    }
    guard let unixTime = serverSeconds(now: now) else { return }
    let admission: RelayInvitation.Admission =
      switch offer.admission {
      case .code: .ownToken(settings.token)
      case .oneTime(let number, let code):
        .oneTime(RelayToken(secretNumber: number, code: code))
      }
    let invitation = RelayInvitation(
      session: grant.session, leg: grant.leg, relay: offer.relay, peer: peer.publicKey,
      expiry: grant.expiry, admission: admission)
    guard
      let guest = RelayGuest(
        invitation, key: settings.staticKey, unixTime: unixTime, using: &random),
      let connection = relayLink(to: offer, now: now)
    else {
      peer.relays.exclude(offer.relay, until: now + RelayTunables.exclusion)
      peer.relays.lastAsked = .distantPast
      wantRelay(for: peer, after: .zero, now: now)
      return
    }
    // Announced while this answer was under way: asked again.
    if isPushed { peer.relays.wantsBetter = false }
    if !peer.relays.wantsBetter { peer.relays.askAt = .distantFuture }
    // Two at most: the older one of them that is not in use makes room.
    if peer.relays.seats.count >= 2 {
      let old = peer.relays.seats.firstIndex { !$0.isProven } ?? 0
      leaveRelay(old, of: peer, now: now)
    }
    var seat = RelaySeat(
      guest: guest, connection: connection, tier: tier, due: now + RelayTunables.trialTime)
    if relayLinks[connection]?.isOpen == true { seat.guest.connected(over: .tcp, now: now) }
    peer.relays.seats.append(seat)
    drainRelays(of: peer, now: now)
    touch(peer)
  }

  private func serverSeconds(now: Instant) -> UInt64? {
    guard let serverTime else { return nil }
    let passed = UInt64(max(0, (now - serverTime.at).nanoseconds))
    return (serverTime.nanoseconds + passed) / 1_000_000_000
  }

  // MARK: Connections

  /// The connection to a relay; dialled if there is none.
  private func relayLink(to offer: RelayOffer, now: Instant) -> UInt32? {
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key })
    where link.relay == offer.relay {
      return number
    }
    let endpoints = offer.endpoints.filter { candidate in
      let address = candidate.endpoint.address
      guard candidate.transport == .tcp, candidate.endpoint.port != 0, !address.isUnspecified,
        !address.isMulticast, !address.isLoopback || seenAt.address.isLoopback
      else { return false }
      return address.isV4 ? socketV4 != nil : socketV6 != nil
    }.map(\.endpoint)
    guard !endpoints.isEmpty else { return nil }
    return dialRelay(
      RelayLink(relay: offer.relay, endpoints: endpoints, due: now), now: now)
  }

  @discardableResult
  private func dialRelay(_ link: RelayLink, now: Instant) -> UInt32 {
    var link = link
    lastStream += 2
    link.isOpen = false
    link.isDialled = false
    relayLinks[lastStream] = link
    dialRelay(lastStream, now: now)
    return lastStream
  }

  /// SYNs to an address that has not answered are probes like others.
  private func dialRelay(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number] else { return }
    let address = link.remote.address
    guard
      budget.takeConnection(address, start: now, offsets: StreamLimits.syns, now: now)
    else {
      relayLinks[number]?.due = max(
        budget.nextFree(address, now: now), now + RelayTunables.budgetPause)
      return
    }
    relayLinks[number]?.isDialled = true
    relayLinks[number]?.due = now + RelayTunables.dialTime
    emit(.dialRelay(connection: number, link.remote))
  }

  /// A connection of a `dialRelay` event is there.
  package func relayConnected(connection: UInt32, now: Instant) {
    clock = now
    guard relayLinks[connection] != nil else {
      emit(.closeRelay(connection))
      return
    }
    relayLinks[connection]?.isOpen = true
    relayLinks[connection]?.due = .distantFuture
    forSeats(of: connection, now: now) { $0.guest.connected(over: .tcp, now: now) }
    settle(now: now)
  }

  /// It has ended, or could not be made.
  package func relayClosed(connection: UInt32, now: Instant) {
    clock = now
    relayLost(connection, now: now)
    settle(now: now)
  }

  private func relayLost(_ connection: UInt32, now: Instant) {
    guard var link = relayLinks.removeValue(forKey: connection) else { return }
    blockedCarriers.remove(connection)
    let wasOpen = link.isOpen
    if wasOpen {
      forSeats(of: connection, now: now) {
        $0.guest.connectionLost(now: now)
        $0.due = now + RelayTunables.trialTime
      }
      // The relay may be there all the same: legs come back without the server.
    } else {
      link.position += 1
    }
    let users = peers.filter { peer in
      !peer.isRemoved && peer.relays.seats.contains { $0.connection == connection }
    }
    guard !users.isEmpty else { return }
    guard link.position < link.endpoints.count else {
      for peer in users {
        for i in peer.relays.seats.indices.reversed()
        where peer.relays.seats[i].connection == connection {
          failRelay(i, of: peer, "cannot be reached", excludes: true, now: now)
        }
      }
      return
    }
    let number = dialRelay(link, now: now)
    for peer in users {
      for i in peer.relays.seats.indices where peer.relays.seats[i].connection == connection {
        peer.relays.seats[i].connection = number
      }
    }
  }

  /// A SYN's body on channel 0 of a connection to a relay.
  package func relayReceived(connection: UInt32, _ body: RawSpan, now: Instant) {
    clock = now
    for peer in peers where !peer.isRemoved {
      for i in peer.relays.seats.indices where peer.relays.seats[i].connection == connection {
        guard peer.relays.seats[i].guest.receive(body, now: now) else { continue }
        drainRelays(of: peer, now: now)
        touch(peer)
        return
      }
    }
  }

  private func forSeats(
    of connection: UInt32, now: Instant, _ body: (inout RelaySeat) -> Void
  ) {
    for peer in peers where !peer.isRemoved {
      var isOurs = false
      for i in peer.relays.seats.indices where peer.relays.seats[i].connection == connection {
        body(&peer.relays.seats[i])
        isOurs = true
      }
      guard isOurs else { continue }
      drainRelays(of: peer, now: now)
      touch(peer)
    }
  }

  /// Whether packets may leave through a channel of a relay, the server's or a node's.
  func isRelayOpen(_ carrier: Carrier) -> Bool {
    leg?.connection == carrier.socket || relayLinks[carrier.socket]?.isOpen == true
  }

  func isBlocked(_ connection: UInt32) -> Bool {
    if let leg, leg.connection == connection { return leg.isBlocked }
    return blockedCarriers.contains(connection)
  }

  // MARK: Seats

  /// What the guests have to say and to send.
  private func drainRelays(of peer: Peer, now: Instant) {
    var i = 0
    while i < peer.relays.seats.count {
      let connection = peer.relays.seats[i].connection
      var failure: (words: String, excludes: Bool)?
      while let news = peer.relays.seats[i].guest.pollNews() {
        switch news {
        case .open(let channel, _, let largestPacket):
          closeRelayCarrier(i, of: peer, now: now)
          let carrier = Carrier.relay(
            connection: connection, channel: channel,
            remote: relayLinks[connection]?.remote ?? .none)
          peer.relays.seats[i].carrier = carrier
          peer.relays.seats[i].due = now + RelayTunables.trialTime
          peer.paths.carrierOpened(
            carrier, tier: peer.relays.seats[i].tier, packetLimit: largestPacket, now: now)
          // Without keys a handshake goes through it, else a challenge does.
          if !keeper.canSeal(peer.handle, now: now) { keeper.initiate(peer.handle, now: now) }
        case .waiting:
          closeRelayCarrier(i, of: peer, now: now)
          peer.relays.seats[i].due = now + RelayTunables.trialTime
        case .refused(let reason):
          let wasGood = peer.relays.seats[i].isProven && reason == .ended
          failure = ("refuses (\(reason))", !wasGood)
        case .silent:
          failure = ("does not answer", true)
        }
      }
      while let message = peer.relays.seats[i].guest.pollMessage() {
        emit(.sendRelay(connection: connection, message))
      }
      if let failure {
        failRelay(i, of: peer, failure.words, excludes: failure.excludes, now: now)
      } else {
        i += 1
      }
    }
  }

  private func closeRelayCarrier(_ i: Int, of peer: Peer, now: Instant) {
    guard let carrier = peer.relays.seats[i].carrier else { return }
    peer.relays.seats[i].carrier = nil
    peer.relays.seats[i].isProven = false
    peer.paths.carrierClosed(carrier, now: now)
    touch(peer)
  }

  private func failRelay(
    _ i: Int, of peer: Peer, _ words: String, excludes: Bool, now: Instant
  ) {
    let relay = peer.relays.seats[i].relay
    let name = peers.first { $0.publicKey == relay }?.name ?? "another mesh's relay"
    log(.info, "relay", "\(peer.name): \(name) \(words)")
    leaveRelay(i, of: peer, now: now)
    if excludes { peer.relays.exclude(relay, until: now + RelayTunables.exclusion) }
    peer.relays.lastAsked = .distantPast
    wantRelay(for: peer, after: excludes ? .zero : RelayTunables.retry, now: now)
  }

  func leaveRelay(_ i: Int, of peer: Peer, now: Instant) {
    closeRelayCarrier(i, of: peer, now: now)
    var seat = peer.relays.seats.remove(at: i)
    seat.guest.leave()
    let connection = seat.connection
    if relayLinks[connection]?.isOpen == true {
      while let message = seat.guest.pollMessage() {
        emit(.sendRelay(connection: connection, message))
      }
    }
    let isUsed = peers.contains { other in
      other.relays.seats.contains { $0.connection == connection }
    }
    guard !isUsed, relayLinks.removeValue(forKey: connection) != nil else { return }
    blockedCarriers.remove(connection)
    emit(.closeRelay(connection))
  }

  /// Its legs are of no use any more.
  func leaveRelays(of peer: Peer, now: Instant) {
    peer.relays.askAt = .distantFuture
    while !peer.relays.seats.isEmpty {
      leaveRelay(peer.relays.seats.count - 1, of: peer, now: now)
    }
  }

  /// A challenge came back through the carrier: the seats before it are left.
  func relayIsUp(_ carrier: Carrier, of peer: Peer, now: Instant) {
    guard let i = peer.relays.seats.firstIndex(where: { $0.carrier == carrier }) else { return }
    peer.relays.seats[i].isProven = true
    peer.relays.seats[i].due = .distantFuture
    for other in peer.relays.seats.indices.reversed() where other < i {
      leaveRelay(other, of: peer, now: now)
    }
  }

  /// A path is gone: perhaps a relay's, perhaps the last direct one.
  func relayMayBeDown(of peer: Peer, now: Instant) {
    for i in peer.relays.seats.indices.reversed() where peer.relays.seats[i].isProven {
      guard let carrier = peer.relays.seats[i].carrier, peer.paths.lane(of: carrier) == nil else {
        continue
      }
      if peer.paths.primary == nil {
        // Everything is silent: it may be our own network.
        peer.relays.seats[i].isProven = false
        peer.relays.seats[i].due = now + RelayTunables.trialTime
      } else {
        failRelay(i, of: peer, "carries nothing", excludes: true, now: now)
      }
    }
    if !peer.paths.hasDirectPath, peer.relays.seats.isEmpty {
      wantRelay(for: peer, after: RelayTunables.patience, now: now)
    }
  }

  // MARK: Time

  var nextRelayDeadline: Instant {
    relayLinks.values.reduce(.distantFuture) { min($0, $1.due) }
  }

  func advanceRelays(to now: Instant) {
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key }) where link.due <= now {
      guard link.isDialled else {
        dialRelay(number, now: now)
        continue
      }
      emit(.closeRelay(number))
      relayLost(number, now: now)
    }
  }

  func relayDeadline(of peer: Peer) -> Instant {
    var next = peer.relays.askAt
    for seat in peer.relays.seats { next = min(next, min(seat.due, seat.guest.nextDeadline)) }
    if let rest = relayRest(of: peer) { next = min(next, rest) }
    return next
  }

  /// When the legs of a peer are not needed any more.
  private func relayRest(of peer: Peer) -> Instant? {
    guard !peer.relays.seats.isEmpty,
      let tier = peer.paths.primary.flatMap({ peer.paths.tier(of: $0) }), !tier.isRelay
    else { return nil }
    return peer.paths.primarySince + RelayTunables.rest
  }

  func advanceRelays(of peer: Peer, now: Instant) {
    if !peer.relays.excluded.isEmpty { peer.relays.excluded.removeAll { $0.until <= now } }
    if let rest = relayRest(of: peer), rest <= now { leaveRelays(of: peer, now: now) }
    for i in peer.relays.seats.indices.reversed() {
      if peer.relays.seats[i].due <= now {
        let seat = peer.relays.seats[i]
        let isWaiting = relayLinks[seat.connection]?.isOpen == true && seat.carrier == nil
        failRelay(
          i, of: peer, isWaiting ? "has waited in vain" : "brings no path", excludes: !isWaiting,
          now: now)
      } else if peer.relays.seats[i].guest.nextDeadline <= now {
        peer.relays.seats[i].guest.advance(to: now)
      }
    }
    drainRelays(of: peer, now: now)
    if peer.relays.askAt <= now {
      peer.relays.askAt = .distantFuture
      askForRelay(peer, now: now)
    }
  }
}
