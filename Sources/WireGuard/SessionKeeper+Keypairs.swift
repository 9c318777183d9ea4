/// Which keypair seals, which still open, and when each ends.
///
///       response made            peer's first packet           newer one chosen
///     ──────────────────▶ next ─────────────────────▶ current ─────────────────▶ former (2)
///       response came                                   ▲ │ 180 s                 │ 180 s
///     ──────────────────────────────────────────────────┘ ▼                       ▼
///                                                       gone                     gone

#if canImport(Bytes)
  internal import Bytes
#endif

extension SessionKeeper {
  /// The peer's first packet on a keypair we made as responder: it has the keys.
  func confirm(_ keypair: Keypair, now: Instant) {
    let peer = keypair.peer
    keypair.confirmed = true
    if peer.next === keypair { peer.next = nil }
    peer.counters.handshakesCompleted += 1
    // What we wanted is there, whoever asked first. A response to our own
    // crossing initiation is still taken.
    peer.wanted = false
    peer.buildQueued = false
    choose(keypair, now: now)
    emit(.keypairReady(peer.handle, keypair.id, initiator: false))
  }

  /// A confirmed keypair that is not the current one has been heard or made:
  /// does sending move to it?
  func choose(_ keypair: Keypair, now: Instant) {
    let peer = keypair.peer
    guard let current = peer.current, current !== keypair else {
      setCurrent(keypair)
      return
    }
    if prefers(keypair, over: current, now: now) {
      setCurrent(keypair)
    } else if !peer.former.contains(where: { $0 === keypair }) {
      keepFormer(keypair)
    }
  }

  private func prefers(_ keypair: Keypair, over current: Keypair, now: Instant) -> Bool {
    let isNewer = keypair.id > current.id
    if !current.canSeal(now) { return isNewer || keypair.canSeal(now) }
    guard keypair.peer.kind == .agent else { return isNewer }
    if keypair.crosses(current) {
      // Both ends come to the same choice, as both hold both. If the favourite
      // is silent while the other is heard, the peer lost it (it restarted).
      if keypair.isFavourite { return isNewer || !keypair.resumed }
      let heard = max(current.lastReceived, current.born)
      return now - heard >= SessionLimits.crossingSilence
    }
    if isNewer { return true }
    // The peer may know of a crossing that we could not see, because its
    // initiation reached us after its response. It then keeps to the favourite,
    // and we follow, once.
    guard keypair.initiator != current.initiator, keypair.isFavourite, !keypair.resumed,
      current.born - keypair.born <= SessionLimits.crossingTime
    else { return false }
    return true
  }

  private func setCurrent(_ keypair: Keypair) {
    let peer = keypair.peer
    guard peer.current !== keypair else { return }
    if let old = peer.current {
      if old.id > keypair.id { keypair.resumed = true }
      peer.former.removeAll { $0 === keypair }
      peer.current = keypair
      keepFormer(old)
    } else {
      peer.former.removeAll { $0 === keypair }
      peer.current = keypair
    }
  }

  /// Two former keypairs stay for what is still in flight.
  private func keepFormer(_ keypair: Keypair) {
    let peer = keypair.peer
    peer.former.append(keypair)
    guard peer.former.count > 2,
      let oldest = peer.former.min(by: { $0.id < $1.id })
    else { return }
    peer.former.removeAll { $0 === oldest }
    forget(oldest)
  }

  /// The index no longer opens anything.
  func forget(_ keypair: Keypair) {
    table.remove(keypair.localIndex)
    if keypair.confirmed { emit(.keypairExpired(keypair.peer.handle, keypair.id)) }
  }

  func dropKeypairs(of peer: SessionPeer) {
    for keypair in [peer.current, peer.next].compactMap({ $0 }) + peer.former {
      table.remove(keypair.localIndex)
    }
    peer.current = nil
    peer.next = nil
    peer.former.removeAll()
  }

  /// Ends what is past its 180 s.
  func expireKeypairs(of peer: SessionPeer, now: Instant) {
    let had = peer.current != nil
    for keypair in peer.former where now >= keypair.expiresAt { forget(keypair) }
    peer.former.removeAll { now >= $0.expiresAt }
    if let next = peer.next, now >= next.expiresAt {
      forget(next)
      peer.next = nil
    }
    if let current = peer.current, now >= current.expiresAt {
      forget(current)
      peer.current = peer.former.max { $0.id < $1.id }
      if let resumed = peer.current { peer.former.removeAll { $0 === resumed } }
    }
    if had, peer.current == nil { emit(.sessionDead(peer.handle)) }
  }
}
