/// A pair's places at relays: what its guests say and hear, the carriers that come
/// of them, which of several stay. docs/protocol/relay.md "How the ends use it".

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import Paths
  internal import Relay
  internal import WireGuard
#endif

/// A peer's place at one relay.
struct RelaySeat {
  var guest: RelayGuest
  var connection: UInt32
  let tier: Tier
  /// The process of the peer that the grant was for.
  let incarnation: UInt64
  var carrier: Carrier?
  var isProven = false
  /// The relay was announced since: perhaps it was started anew and knows nothing
  /// of this place.
  var isDoubtful = false
  /// Without a path by then it has failed.
  var due: Instant

  var relay: [UInt8] { guest.invitation.relay }
}

extension Node {
  /// What the guests have to say and to send.
  func drainRelays(of peer: Peer, now: Instant) {
    var i = 0
    while i < peer.relays.seats.count {
      let connection = peer.relays.seats[i].connection
      var failure: (words: String, excludes: Bool, isUrgent: Bool)?
      while let news = peer.relays.seats[i].guest.pollNews() {
        switch news {
        case .open(let channel, _, let largestPacket):
          let carrier = Carrier.relay(
            connection: connection, channel: channel,
            remote: relayLinks[connection]?.remote ?? .none)
          // Only the address has changed.
          if peer.relays.seats[i].carrier == carrier { continue }
          closeRelayCarrier(i, of: peer, now: now)
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
          // Who knows nothing of us has been started anew.
          let isFormer = reason == .unknownLeg
          failure = ("refuses (\(reason))", !wasGood && !isFormer, !wasGood)
        case .silent:
          failure = ("does not answer", true, true)
        }
      }
      while let message = peer.relays.seats[i].guest.pollMessage() {
        emit(.sendRelay(connection: connection, message))
      }
      if let failure {
        failRelay(
          i, of: peer, failure.words, excludes: failure.excludes, isUrgent: failure.isUrgent,
          now: now)
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

  /// The next relay of the grant takes its part; without one the server is asked.
  func failRelay(
    _ i: Int, of peer: Peer, _ words: String, excludes: Bool, isUrgent: Bool = true,
    now: Instant
  ) {
    let relay = peer.relays.seats[i].relay
    let excludes = excludes && !peer.relays.seats[i].isDoubtful
    let name = peers.first { $0.publicKey == relay }?.name ?? "another mesh's relay"
    log(.info, "relay", "\(peer.name): \(name) \(words)")
    leaveRelay(i, of: peer, now: now)
    if excludes { peer.relays.exclude(relay, now: now) }
    if joinNext(peer, now: now) { return }
    if peer.relays.seats.isEmpty {
      peer.relays.lastAsked = .distantPast
    } else if peer.relays.seats.contains(where: \.isProven) {
      // One stands; a second one is no hurry.
      peer.relays.wantsBetter = true
    } else {
      return
    }
    wantRelay(
      for: peer, after: isUrgent && peer.relays.seats.isEmpty ? .zero : RelayTunables.retry,
      now: now)
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
    releaseLink(connection)
  }

  /// Its legs are of no use any more.
  func leaveRelays(of peer: Peer, now: Instant) {
    peer.relays.askAt = .distantFuture
    peer.relays.forgetGrant()
    while !peer.relays.seats.isEmpty {
      leaveRelay(peer.relays.seats.count - 1, of: peer, now: now)
    }
  }

  /// Of too many places the worst is left: not proven, of the lower tier, the older.
  func makeRoom(in peer: Peer, now: Instant) {
    while peer.relays.seats.count >= RelayTunables.seats { leaveWorst(of: peer, now: now) }
  }

  private func leaveWorst(of peer: Peer, now: Instant) {
    let used = peer.paths.primary.flatMap { peer.paths.carrier(of: $0) }
    var worst = 0
    for i in peer.relays.seats.indices.dropFirst() {
      let (a, b) = (peer.relays.seats[i], peer.relays.seats[worst])
      let isWorse =
        (b.carrier != nil && b.carrier == used)
        || (a.isProven != b.isProven ? !a.isProven : a.tier > b.tier)
      if isWorse, a.carrier == nil || a.carrier != used { worst = i }
    }
    leaveRelay(worst, of: peer, now: now)
  }

  /// A challenge came back through the carrier. Two places stay: this one or a
  /// better one, and one beside it.
  func relayIsUp(_ carrier: Carrier, of peer: Peer, now: Instant) {
    guard let i = peer.relays.seats.firstIndex(where: { $0.carrier == carrier }) else { return }
    peer.relays.seats[i].isProven = true
    peer.relays.seats[i].due = .distantFuture
    let relay = peer.relays.seats[i].relay
    let session = peer.relays.seats[i].guest.invitation.session
    peer.relays.excluded.removeAll { $0.relay == relay }
    // The same relay twice is no second road.
    for other in peer.relays.seats.indices.reversed()
    where peer.relays.seats[other].relay == relay
      && peer.relays.seats[other].guest.invitation.session != session
    {
      leaveRelay(other, of: peer, now: now)
    }
    // Layers before figures: a relay of a lower one is not kept beside a new one.
    let tier = peer.relays.seats.first { $0.carrier == carrier }?.tier ?? .superRelay
    for other in peer.relays.seats.indices.reversed()
    where peer.relays.seats[other].isProven && peer.relays.seats[other].tier > tier {
      leaveRelay(other, of: peer, now: now)
    }
    while peer.relays.seats.count(where: \.isProven) > 2 { leaveWorst(of: peer, now: now) }
    warmSoon(peer, now: now)
  }

  /// A path is gone: perhaps a relay's, perhaps the last direct one.
  func relayMayBeDown(of peer: Peer, now: Instant) {
    for i in peer.relays.seats.indices.reversed()
    where i < peer.relays.seats.count && peer.relays.seats[i].isProven {
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

  func relayDeadline(of peer: Peer) -> Instant {
    var next = min(peer.relays.askAt, peer.relays.nextOfferAt)
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
    peer.relays.forgetExclusions(now: now)
    if let rest = relayRest(of: peer), rest <= now { leaveRelays(of: peer, now: now) }
    for i in peer.relays.seats.indices.reversed() where i < peer.relays.seats.count {
      if peer.relays.seats[i].due <= now {
        let seat = peer.relays.seats[i]
        let isWaiting = relayLinks[seat.connection]?.isOpen == true && seat.carrier == nil
        failRelay(
          i, of: peer, isWaiting ? "has waited in vain" : "brings no path", excludes: !isWaiting,
          isUrgent: !isWaiting, now: now)
      } else if peer.relays.seats[i].guest.nextDeadline <= now {
        peer.relays.seats[i].guest.advance(to: now)
      }
    }
    drainRelays(of: peer, now: now)
    if peer.relays.nextOfferAt <= now {
      peer.relays.nextOfferAt = .distantFuture
      // A direct path, or two relays that work, need no more.
      if !peer.paths.hasDirectPath, peer.relays.seats.count(where: \.isProven) < 2 {
        joinNext(peer, now: now)
      } else {
        peer.relays.forgetGrant()
      }
    }
    if peer.relays.askAt <= now {
      peer.relays.askAt = .distantFuture
      askForRelay(peer, now: now)
    }
  }
}
