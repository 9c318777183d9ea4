/// What single streams demand of the road: their turn among others, the roads they
/// do not go by, and what all of a pair's streams together want of the choice of
/// paths. The opening end says it in the SYN, so both keep to it.
/// docs/decisions/0024-policies.md.

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import Paths
  internal import Tunnels
#endif

/// Streams of a peer by what they want of the road.
struct TermCounts {
  var latency = 0
  var bulk = 0
  var others = 0

  /// - Parameter step: 1 or -1.
  mutating func count(_ terms: StreamTerms, _ step: Int) {
    switch terms.traffic {
    case .latency: latency += step
    case .bulk: bulk += step
    case .usual, .cheap: others += step
    }
  }

  /// Who waits for answers decides; bulk only where it is alone.
  var aim: PathAim {
    if latency > 0 { return .roundTrip }
    return bulk > 0 && others == 0 ? .goodput : .usual
  }
}

extension StreamTerms {
  var priority: StreamPriority {
    switch traffic {
    case .latency: .urgent
    case .bulk: .background
    case .usual, .cheap: .usual
    }
  }

  var avoids: LaneMarks {
    var marks: LaneMarks = traffic == .cheap ? .costly : []
    switch relays {
    case .any: break
    case .never: marks.insert(.relayed)
    case .only: marks.insert(.direct)
    }
    return marks
  }
}

extension Tier {
  /// Relays of one's own mesh are one's own; the others are somebody's, with a cap.
  var marks: LaneMarks {
    if !isRelay { return .direct }
    return self == .privateRelay ? .relayed : [.relayed, .costly]
  }
}

extension Node {
  /// An aim that nobody wants any more is kept for so long: the next stream of
  /// its kind may come at once.
  static var aimMemory: TimeAmount { .seconds(10) }

  func terms(of owner: TunnelOwner) -> StreamTerms {
    switch owner {
    case .tunnel(let key): tunnels.inbounds[key]?.terms ?? .usual
    case .app(let key): tunnels.apps[key]?.terms ?? .usual
    }
  }

  /// The flow's stream is one of this peer's from now on.
  func engage(_ slot: Int, _ peer: Peer) {
    disengage(slot)
    flows[slot].engaged = peer.index
    peer.terms.count(flows[slot].terms, 1)
    aimChanged(peer)
  }

  func disengage(_ slot: Int) {
    guard flows[slot].engaged >= 0 else { return }
    let peer = peers[flows[slot].engaged]
    flows[slot].engaged = -1
    peer.heldOpens.remove(UInt32(slot))
    peer.terms.count(flows[slot].terms, -1)
    aimChanged(peer)
  }

  private func aimChanged(_ peer: Peer) {
    let wanted = peer.terms.aim
    if wanted == peer.paths.aim {
      peer.aimAt = .distantFuture
    } else if peer.paths.aim == .usual || wanted == .roundTrip {
      peer.aimAt = .distantFuture
      peer.paths.setAim(wanted, now: clock)
    } else if peer.aimAt == .distantFuture {
      peer.aimAt = clock + Self.aimMemory
    }
    touch(peer)
  }

  /// Whether the road in use is one that the terms permit.
  func isPermitted(_ terms: StreamTerms, on peer: Peer) -> Bool {
    if terms.avoids.isEmpty || peer.isOwn { return true }
    guard let tier = peer.paths.primary.flatMap({ peer.paths.tier(of: $0) }) else { return false }
    return terms.avoids.isDisjoint(with: tier.marks)
  }

  /// Another road is in use, or none: who waited for it may go; who may not go by
  /// it has so long until it is given up.
  func roadChanged(of peer: Peer, now: Instant) {
    peer.forbiddenSince = hasForbiddenFlows(peer) ? peer.forbiddenSince ?? now : nil
    for index in peer.heldOpens.sorted() { openHeld(Int(index), now: now) }
  }

  private func hasForbiddenFlows(_ peer: Peer) -> Bool {
    guard peer.isConnected else { return peer.forbiddenSince != nil }
    return peer.flows.values.contains { !isPermitted(flows[Int($0)].terms, on: peer) }
  }

  func termsDeadline(of peer: Peer) -> Instant {
    min(peer.aimAt, peer.forbiddenSince.map { $0 + NodeLimits.linger } ?? .distantFuture)
  }

  func advanceTerms(of peer: Peer, now: Instant) {
    if peer.aimAt <= now {
      peer.aimAt = .distantFuture
      peer.paths.setAim(peer.terms.aim, now: now)
      touch(peer)
    }
    guard let since = peer.forbiddenSince, since + NodeLimits.linger <= now else { return }
    peer.forbiddenSince = nil
    guard peer.isConnected else { return }
    for index in peer.flows.values.sorted()
    where !isPermitted(flows[Int(index)].terms, on: peer) {
      let stream = flows[Int(index)].stream
      peer.mux.reset(
        stream, code: ResetCode.peerLost, words: TunnelFailure.noPermittedRoad.words)
      end(Int(index), .peerLost)
    }
    touch(peer)
  }
}
