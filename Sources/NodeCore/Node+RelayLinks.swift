/// Connections to relays that nodes are: one per relay, by UDP where that is
/// answered, else by TCP; and what is measured through them. A relay is an address
/// that somebody named: what goes there before it has answered is counted like
/// every probe. docs/protocol/relay.md "How the ends use it".
///
///     dialled by UDP ──PONG──► open          nothing in 1 s: the next endpoint,
///     dialled by TCP ──connected──► open     TCP's after UDP's

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import NAT
  internal import Paths
  internal import Relay
  internal import Signaling
#endif

/// Where a relay may be reached.
struct RelayRoad: Hashable {
  let kind: LegKind
  let endpoint: Endpoint
}

/// A connection to a relay, or the attempt at one.
struct RelayLink {
  let relay: [UInt8]
  /// In the order in which they are tried.
  let roads: [RelayRoad]
  /// Of them, the one dialled now.
  var position = 0
  var isOpen = false
  /// The driver has been told; else the probe budget has no room yet.
  var isDialled = false
  /// An attempt: when the next look at it is due.
  var due: Instant
  /// An attempt by UDP is over then.
  var giveUpAt = Instant.distantFuture
  /// Made, or kept, only to measure: so long.
  var measureUntil: Instant?
  // The question under way, those asked, and the shortest answer.
  var question: (nonce: UInt64, at: Instant, isRepeated: Bool)?
  var asked = 0
  var askAt = Instant.distantFuture
  var roundTrip: TimeAmount?
  /// When a leg last proved itself anew because it was silent.
  var resumedAt = Instant.distantPast

  var remote: Endpoint { roads[position].endpoint }
  var kind: LegKind { roads[position].kind }
}

extension Node {
  /// The connection to a relay; dialled if there is none.
  /// - Parameter forSeat: else only to measure.
  func relayLink(to offer: RelayOffer, forSeat: Bool, now: Instant) -> UInt32? {
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key })
    where link.relay == offer.relay {
      return number
    }
    let roads = roads(of: offer, now: now)
    guard !roads.isEmpty else { return nil }
    var link = RelayLink(relay: offer.relay, roads: roads, due: now)
    if !forSeat { link.measureUntil = now + RelayTunables.measureTime }
    return dialRelay(link, now: now)
  }

  /// UDP first, unless it is known not to pass.
  private func roads(of offer: RelayOffer, now: Instant) -> [RelayRoad] {
    let usable = offer.endpoints.filter { candidate in
      let address = candidate.endpoint.address
      guard candidate.endpoint.port != 0, !address.isUnspecified, !address.isMulticast,
        !address.isLoopback || seenAt.address.isLoopback
      else { return false }
      return address.isV4 ? socketV4 != nil : socketV6 != nil
    }
    let datagrams = usable.filter { $0.transport == .udp }.map {
      RelayRoad(kind: .udp, endpoint: $0.endpoint)
    }
    let streams = usable.filter { $0.transport == .tcp }.map {
      RelayRoad(kind: .tcp, endpoint: $0.endpoint)
    }
    let isBlocked = natFacts.isUDPBlocked || settings.usesTCPCarriers
    if isBlocked { return streams }
    let hasFailed = relayDatagramsFailed[offer.relay].map { $0 > now } ?? false
    return hasFailed ? streams + datagrams : datagrams + streams
  }

  @discardableResult
  private func dialRelay(_ link: RelayLink, now: Instant) -> UInt32 {
    var link = link
    lastStream += 2
    link.isOpen = false
    link.isDialled = false
    link.question = nil
    link.asked = 0
    link.askAt = .distantFuture
    link.giveUpAt = .distantFuture
    relayLinks[lastStream] = link
    dialRelay(lastStream, now: now)
    return lastStream
  }

  /// SYNs and questions to an address that has not answered are probes.
  private func dialRelay(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number] else { return }
    let address = link.remote.address
    switch link.kind {
    case .tcp:
      guard budget.takeConnection(address, start: now, offsets: StreamLimits.syns, now: now)
      else { return dialLater(number, now: now) }
      relayLinks[number]?.isDialled = true
      relayLinks[number]?.due = now + RelayTunables.dialTime
      emit(.dialRelay(connection: number, link.remote, isDatagram: false))
    case .udp:
      guard budget.take(address, bytes: RelayQuestion.bytes, now: now) else {
        return dialLater(number, now: now)
      }
      if !link.isDialled {
        relayLinks[number]?.isDialled = true
        relayLinks[number]?.giveUpAt = now + RelayTunables.datagramTime
        emit(.dialRelay(connection: number, link.remote, isDatagram: true))
      }
      askRelay(number, now: now)
      relayLinks[number]?.due = now + RelayTunables.datagramRepeat
    }
  }

  private func dialLater(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number] else { return }
    relayLinks[number]?.due = max(
      budget.nextFree(link.remote.address, now: now), now + RelayTunables.budgetPause)
  }

  /// A connection by TCP of a `dialRelay` event is there.
  package func relayConnected(connection: UInt32, now: Instant) {
    clock = now
    guard relayLinks[connection] != nil else {
      emit(.closeRelay(connection))
      return
    }
    relayOpened(connection, now: now)
    settle(now: now)
  }

  func relayOpened(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number], !link.isOpen else { return }
    relayLinks[number]?.isOpen = true
    relayLinks[number]?.due = .distantFuture
    relayLinks[number]?.giveUpAt = .distantFuture
    if link.kind == .tcp { askRelay(number, now: now) }
    let kind = link.kind
    forSeats(of: number, now: now) { $0.guest.connected(over: kind, now: now) }
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
    if link.isOpen {
      forSeats(of: connection, now: now) {
        $0.guest.connectionLost(now: now)
        $0.due = now + RelayTunables.trialTime
      }
      // The relay may be there all the same: legs come back without the server.
    } else {
      if link.kind == .udp {
        noteDatagramsFailed(link.relay, now: now)
        // One address of a relay answers for all by UDP: TCP is next.
        while link.position + 1 < link.roads.count, link.roads[link.position + 1].kind == .udp {
          link.position += 1
        }
      }
      link.position += 1
    }
    let users = relayUsers(of: connection)
    guard !users.isEmpty else {
      guard link.measureUntil != nil else { return }
      if link.position < link.roads.count, !link.isOpen {
        dialRelay(link, now: now)
      } else {
        tellMeasurements(now: now)
      }
      return
    }
    guard link.position < link.roads.count else {
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

  private func relayUsers(of connection: UInt32) -> [Peer] {
    peers.filter { peer in
      !peer.isRemoved && peer.relays.seats.contains { $0.connection == connection }
    }
  }

  private func noteDatagramsFailed(_ relay: [UInt8], now: Instant) {
    if relayDatagramsFailed.count >= RelayTunables.measured {
      relayDatagramsFailed = relayDatagramsFailed.filter { $0.value > now }
      guard relayDatagramsFailed.count < RelayTunables.measured else { return }
    }
    relayDatagramsFailed[relay] = now + RelayTunables.datagramMemory
  }

  /// Another network: what failed in the old one may pass, and legs by UDP come
  /// from another address now.
  func relaysChangeNetwork(now: Instant) {
    relayDatagramsFailed.removeAll()
    relayMeasured.removeAll()
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key })
    where link.isOpen && link.kind == .udp {
      forSeats(of: number, now: now) { $0.guest.connected(over: .udp, now: now) }
    }
  }

  /// A path through a leg by UDP is doubtful: perhaps a NAT has given us another
  /// address.
  func relayIsSuspect(_ carrier: Carrier, of peer: Peer, now: Instant) {
    guard let link = relayLinks[carrier.socket], link.isOpen, link.kind == .udp,
      now - link.resumedAt >= RelayTunables.resumePause
    else { return }
    relayLinks[carrier.socket]?.resumedAt = now
    forSeats(of: carrier.socket, now: now) { $0.guest.connected(over: .udp, now: now) }
  }

  /// The relay came online: legs by UDP would not notice that it was started anew.
  func doubtPlaces(at relay: [UInt8], now: Instant) {
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key }) where link.relay == relay {
      let isDatagram = link.isOpen && link.kind == .udp
      forSeats(of: number, now: now) {
        $0.isDoubtful = true
        if isDatagram { $0.guest.connected(over: .udp, now: now) }
      }
    }
  }

  /// Full-size packets do not pass through a leg by UDP though small ones do: by
  /// TCP they will.
  func relayDropsData(_ carrier: Carrier, now: Instant) {
    guard let link = relayLinks[carrier.socket], link.isOpen, link.kind == .udp,
      let stream = link.roads.firstIndex(where: { $0.kind == .tcp })
    else { return }
    noteDatagramsFailed(link.relay, now: now)
    let users = relayUsers(of: carrier.socket)
    forSeats(of: carrier.socket, now: now) {
      $0.guest.connectionLost(now: now)
      $0.due = now + RelayTunables.trialTime
    }
    relayLinks[carrier.socket] = nil
    blockedCarriers.remove(carrier.socket)
    emit(.closeRelay(carrier.socket))
    var other = link
    other.position = stream
    let number = dialRelay(other, now: now)
    for peer in users {
      for i in peer.relays.seats.indices where peer.relays.seats[i].connection == carrier.socket {
        peer.relays.seats[i].connection = number
      }
    }
  }

  /// A SYN's body on the control channel of a connection to a relay.
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
    // A cookie is for all: each has something to say to it.
    for peer in peers
    where !peer.isRemoved && peer.relays.seats.contains(where: { $0.connection == connection }) {
      drainRelays(of: peer, now: now)
    }
  }

  func forSeats(
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

  /// Nobody has a place through it any more.
  func releaseLink(_ connection: UInt32) {
    let isUsed = peers.contains { other in
      other.relays.seats.contains { $0.connection == connection }
    }
    guard !isUsed, relayLinks[connection]?.measureUntil == nil,
      relayLinks.removeValue(forKey: connection) != nil
    else { return }
    blockedCarriers.remove(connection)
    emit(.closeRelay(connection))
  }

  // MARK: Time

  var nextRelayDeadline: Instant {
    relayLinks.values.reduce(.distantFuture) { next, link in
      min(
        min(next, min(link.due, link.giveUpAt)),
        min(link.askAt, link.measureUntil ?? .distantFuture))
    }
  }

  func advanceRelays(to now: Instant) {
    for (number, link) in relayLinks.sorted(by: { $0.key < $1.key }) {
      if let until = link.measureUntil, until <= now {
        // What came until now counts.
        relayIsMeasured(number, now: now)
        if relayLinks[number] == nil { continue }
      }
      if link.askAt <= now {
        relayLinks[number]?.askAt = .distantFuture
        if link.asked < RelayTunables.measurePings {
          askRelay(number, now: now)
        } else {
          relayIsMeasured(number, now: now)
          if relayLinks[number] == nil { continue }
        }
      }
      guard !link.isOpen else { continue }
      if link.giveUpAt <= now || link.kind == .tcp && link.isDialled && link.due <= now {
        emit(.closeRelay(number))
        relayLost(number, now: now)
      } else if link.due <= now {
        dialRelay(number, now: now)
      }
    }
  }
}
