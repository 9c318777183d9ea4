/// The node's use of relays that other nodes are: whom to ask for one and when,
/// which of those granted to try, and what happens when one fails. Connections to
/// relays are in Node+RelayLinks.swift, a pair's places there in
/// Node+RelaySeats.swift. The server's relay is not here (Node+Sessions.swift): a
/// pair has both, so that a relay's end is a change of path. docs/protocol/relay.md
/// "How the ends use it".
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
  /// A relay that failed a pair is not used by it for so long, twice as long when
  /// it fails again, and so on up to the ceiling; after the memory it is forgotten.
  package static let exclusion = TimeAmount.seconds(60)
  package static let exclusionCeiling = TimeAmount.minutes(30)
  package static let exclusionMemory = TimeAmount.minutes(30)
  /// The peer does not come to the relay at which we wait: it may be at the next.
  package static let offerPatience = TimeAmount.seconds(2)
  /// A relay that works has a second one beside it after this.
  package static let warmDelay = TimeAmount.seconds(3)
  /// So many places of a pair: in use, warm, and one that may take over.
  package static let seats = 3
  /// From the TCP dial of one endpoint until the next one is tried: before the
  /// kernel sends more SYNs than were counted.
  package static let dialTime = StreamTunables.attemptTime
  /// The same by UDP, and when the question is repeated.
  package static let datagramTime = TimeAmount.seconds(1)
  package static let datagramRepeat = TimeAmount.milliseconds(250)
  /// Where UDP did not answer TCP is dialled first for so long.
  package static let datagramMemory = TimeAmount.minutes(10)
  /// A silent leg by UDP proves itself anew, at most so often: its address may
  /// have changed.
  package static let resumePause = TimeAmount.seconds(5)
  /// Without room in the probe budget the next look is not sooner than this.
  package static let budgetPause = TimeAmount.milliseconds(500)
  /// From the grant to a path.
  package static let trialTime = TimeAmount.seconds(15)
  /// A direct path that has stood for so long needs no leg beside it.
  package static let rest = TimeAmount.seconds(60)
  /// All nodes of a mesh hear of a new relay at one moment.
  package static let spreadMilliseconds: UInt64 = 500
  package static let excluded = RelaySignalLimits.exclusions
  // Round trips.
  /// Questions of one measurement, and the pause between them.
  package static let measurePings = 3
  package static let measurePause = TimeAmount.milliseconds(100)
  package static let answerTime = TimeAmount.seconds(1)
  /// A connection made only to measure lives no longer.
  package static let measureTime = TimeAmount.seconds(4)
  /// A round trip is believed so long.
  package static let measureMemory = TimeAmount.minutes(5)
  package static let measured = 64
  /// After the round trips are told the server is asked again: the peer's have
  /// come as well by then.
  package static let compareDelay = TimeAmount.seconds(4)
}

/// A relay that failed a pair.
struct ExcludedRelay {
  let relay: [UInt8]
  var until: Instant
  var failures: Int
}

/// What a peer has of relays.
struct PeerRelays {
  /// Oldest first.
  var seats: [RelaySeat] = []
  var askAt = Instant.distantFuture
  var lastAsked = Instant.distantPast
  /// A relay better than the one in use may be had.
  var wantsBetter = false
  /// Offers of which some are not tried yet, best first.
  var grant: RelayGrant?
  var nextOffer = 0
  /// When the next offer is tried though nothing has failed.
  var nextOfferAt = Instant.distantFuture
  var excluded: [ExcludedRelay] = []
  /// When the pair was last asked for again because of round trips.
  var comparedAt = Instant.distantPast
  /// What this end demands (Node+RelayPolicy.swift), and what the peer's does.
  var policy = PairPolicy()
  var told = RelayUse.any

  func isExcluded(_ relay: [UInt8], now: Instant) -> Bool {
    excluded.contains { $0.relay == relay && $0.until > now }
  }

  mutating func exclude(_ relay: [UInt8], now: Instant) {
    let failures = (excluded.first { $0.relay == relay }?.failures ?? 0) + 1
    excluded.removeAll { $0.relay == relay }
    if excluded.count >= RelayTunables.excluded { excluded.removeFirst() }
    let wait = RelayTunables.exclusion * Int64(1 << min(failures - 1, 10))
    excluded.append(
      ExcludedRelay(
        relay: relay, until: now + min(wait, RelayTunables.exclusionCeiling), failures: failures))
  }

  mutating func forgetExclusions(now: Instant) {
    guard !excluded.isEmpty else { return }
    excluded.removeAll { $0.until + RelayTunables.exclusionMemory <= now }
  }

  mutating func forgetGrant() {
    grant = nil
    nextOffer = 0
    nextOfferAt = .distantFuture
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

  func askForRelay(_ peer: Peer, now: Instant) {
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
          peer: peer.name, only: demandedRelay(for: peer), exclusions: exclusions(of: peer, now),
          measured: newestMeasurements(now: now))),
      kind: .relay(peer: peer.index), now: now)
  }

  /// Those that policies rule out, and those that failed.
  private func exclusions(of peer: Peer, _ now: Instant) -> [[UInt8]] {
    var result = avoidedRelays(of: peer)
    for entry in peer.relays.excluded.reversed()
    where entry.until > now && !result.contains(entry.relay) {
      result.append(entry.relay)
    }
    return Array(result.prefix(RelaySignalLimits.exclusions))
  }

  /// A relay came or went somewhere.
  func relayAnnounced(_ announcement: RelayAnnouncement, now: Instant) {
    guard announcement.isPresent else { return }
    doubtPlaces(at: announcement.relay, now: now)
    let tier: Tier = announcement.isSuper ? .superRelay : .privateRelay
    for peer in peers where !peer.isRemoved && !peer.isStock {
      peer.relays.excluded.removeAll { $0.relay == announcement.relay }
      // One of the same kind may be the second one, or a nearer one.
      let good = peer.relays.seats.count { $0.isProven && $0.tier <= tier }
      guard peer.connectedSince != nil, good < 2,
        peer.relays.seats.allSatisfy({ $0.relay != announcement.relay })
      else { continue }
      peer.relays.wantsBetter = true
      let spread = Int64(random.next() % RelayTunables.spreadMilliseconds)
      wantRelay(for: peer, after: .milliseconds(spread), now: now)
    }
  }

  // MARK: Grants

  /// Our half of what a pair may use: asked for by us, or by the peer.
  func relayGranted(_ grant: RelayGrant, isPushed: Bool, now: Instant) {
    guard let index = peerNames[grant.peer] else { return }
    let peer = peers[index]
    guard !peer.isRemoved, !peer.isStock else { return }
    // Both ends get the same again for a while.
    peer.relays.lastAsked = now
    guard !grant.offers.isEmpty else {
      // None, or only such as failed.
      let again = peer.relays.excluded.map(\.until).filter { $0 > now }.min().map { $0 - now }
      wantRelay(for: peer, after: again ?? RelayTunables.emptyRetry, now: now)
      return
    }
    guard !peer.relays.seats.contains(where: { $0.guest.invitation.session == grant.session })
    else { return }
    // Announced while this answer was under way: asked again.
    if isPushed { peer.relays.wantsBetter = false }
    if !peer.relays.wantsBetter { peer.relays.askAt = .distantFuture }
    measure(grant.offers, for: peer, now: now)
    peer.relays.grant = grant
    peer.relays.nextOffer = 0
    peer.relays.nextOfferAt = .distantFuture
    let first = grant.offers.first { isUsable($0, for: peer, now: now) }
    if let first, isServed(by: first.relay, peer) {
      // Nothing better than what we have; the next one may be the second place.
      skipOffer(first.relay, of: peer)
      warmSoon(peer, now: now)
      return
    }
    if joinNext(peer, now: now) || peer.relays.seats.contains(where: \.isProven) { return }
    if isPushed
      || peer.relays.excluded.contains(where: { entry in
        entry.until > now && grant.offers.contains { $0.relay == entry.relay }
      })
    {
      // The server, or the peer, does not know that we cannot, or shall not, use these.
      peer.relays.lastAsked = .distantPast
    }
    wantRelay(for: peer, after: .zero, now: now)
  }

  /// Whether the pair has a good place at this relay, in this process of the peer.
  private func isServed(by relay: [UInt8], _ peer: Peer) -> Bool {
    peer.relays.seats.contains {
      $0.relay == relay && $0.isProven && $0.incarnation == peer.incarnation
        && $0.carrier.flatMap { peer.paths.lane(of: $0) } != nil
    }
  }

  private func skipOffer(_ relay: [UInt8], of peer: Peer) {
    guard let offers = peer.relays.grant?.offers,
      let at = offers.firstIndex(where: { $0.relay == relay })
    else { return }
    peer.relays.nextOffer = max(peer.relays.nextOffer, at + 1)
  }

  private func isUsable(_ offer: RelayOffer, for peer: Peer, now: Instant) -> Bool {
    peer.paths.settings.allowedTiers.allows(offer.isSuper ? .superRelay : .privateRelay)
      && !peer.relays.isExcluded(offer.relay, now: now) && mayUse(offer.relay, for: peer)
  }

  /// Takes a place at the next relay of the grant that may be used.
  /// - Returns: whether there was one.
  @discardableResult
  func joinNext(_ peer: Peer, now: Instant) -> Bool {
    peer.relays.nextOfferAt = .distantFuture
    while let grant = peer.relays.grant, peer.relays.nextOffer < grant.offers.count {
      let offer = grant.offers[peer.relays.nextOffer]
      peer.relays.nextOffer += 1
      guard isUsable(offer, for: peer, now: now),
        !peer.relays.seats.contains(where: {
          $0.relay == offer.relay && $0.guest.invitation.session == grant.session
        }), let unixTime = serverSeconds(now: now), unixTime < grant.expiry
      else { continue }
      guard let seat = seat(at: offer, grant, peer, unixTime: unixTime, now: now) else {
        peer.relays.exclude(offer.relay, now: now)
        continue
      }
      makeRoom(in: peer, now: now)
      peer.relays.seats.append(seat)
      if peer.relays.nextOffer < grant.offers.count {
        peer.relays.nextOfferAt = now + RelayTunables.offerPatience
      }
      drainRelays(of: peer, now: now)
      touch(peer)
      return true
    }
    peer.relays.forgetGrant()
    return false
  }

  private func seat(
    at offer: RelayOffer, _ grant: RelayGrant, _ peer: Peer, unixTime: UInt64, now: Instant
  ) -> RelaySeat? {
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
      let connection = relayLink(to: offer, forSeat: true, now: now)
    else { return nil }
    var seat = RelaySeat(
      guest: guest, connection: connection, tier: offer.isSuper ? .superRelay : .privateRelay,
      incarnation: peer.incarnation, due: now + RelayTunables.trialTime)
    if let link = relayLinks[connection], link.isOpen {
      seat.guest.connected(over: link.kind, now: now)
    }
    return seat
  }

  /// A relay that works gets a second one beside it, if there is one.
  func warmSoon(_ peer: Peer, now: Instant) {
    guard let grant = peer.relays.grant else { return }
    guard peer.relays.nextOffer < grant.offers.count,
      peer.relays.seats.count(where: \.isProven) < 2
    else {
      peer.relays.forgetGrant()
      return
    }
    peer.relays.nextOfferAt = now + RelayTunables.warmDelay
    touch(peer)
  }

  private func serverSeconds(now: Instant) -> UInt64? {
    guard let serverTime else { return nil }
    let passed = UInt64(max(0, (now - serverTime.at).nanoseconds))
    return (serverTime.nanoseconds + passed) / 1_000_000_000
  }
}
