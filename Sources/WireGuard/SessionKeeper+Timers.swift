/// Time: one `advance` for handshakes, keypairs and parked initiations, and the
/// whitepaper's §6.5 timers for stock peers.

#if canImport(Bytes)
  package import Bytes
#endif

extension SessionKeeper {
  /// When `advance` has something to do; may be early, is never late.
  package var nextDeadline: Instant { earliest }

  /// Does what is due at `now`. Cheap when nothing is.
  package func advance(to now: Instant) {
    guard now >= earliest else { return }
    earliest = .distantFuture
    dropParked(now: now)
    if let until = parked.map(\.until).min() { note(until) }
    for case let peer? in peers {
      if now >= peer.deadline {
        expireKeypairs(of: peer, now: now)
        if peer.kind == .stock { advanceStock(peer, now: now) }
        advanceHandshake(peer, now: now)
      }
      note(peer.deadline)
    }
  }

  /// An authentic packet of the peer came, of whatever kind.
  func heard(_ peer: SessionPeer, now: Instant) {
    peer.lastReceived = now
    guard peer.kind == .stock else { return }
    peer.timers.initiateAt = .distantFuture
    traversed(peer, now: now)
  }

  /// Stock: any packet left for the peer.
  func packetSent(to peer: SessionPeer, now: Instant) {
    peer.timers.keepaliveAt = .distantFuture
    traversed(peer, now: now)
  }

  private func traversed(_ peer: SessionPeer, now: Instant) {
    guard let interval = peer.timers.persistentInterval else { return }
    peer.timers.persistentAt = now + interval
    note(peer.timers.persistentAt)
  }

  /// Stock: a transport packet was opened.
  func stockReceived(_ keypair: Keypair, data: Bool, now: Instant) {
    let peer = keypair.peer
    heard(peer, now: now)
    if data {
      if peer.timers.keepaliveAt == .distantFuture {
        peer.timers.keepaliveAt = now + WireGuardConstants.keepaliveTimeout
        note(peer.timers.keepaliveAt)
      } else {
        peer.timers.anotherKeepalive = true
      }
    }
    // The initiator renews a keypair that is only received on, in time for the
    // peer's answers (whitepaper §6.2).
    let renewal =
      WireGuardConstants.rejectAfterTime - WireGuardConstants.keepaliveTimeout
      - WireGuardConstants.rekeyTimeout
    if keypair.initiator, peer.current === keypair, now - keypair.born >= renewal {
      want(peer, now: now)
    }
  }

  private func advanceStock(_ peer: SessionPeer, now: Instant) {
    if now >= peer.timers.initiateAt {
      peer.timers.initiateAt = .distantFuture
      want(peer, now: now)
    }
    if now >= peer.timers.keepaliveAt {
      peer.timers.keepaliveAt = .distantFuture
      _ = send(.keepalive(peer.handle))
      if peer.timers.anotherKeepalive {
        peer.timers.anotherKeepalive = false
        peer.timers.keepaliveAt = now + WireGuardConstants.keepaliveTimeout
      }
    }
    if now >= peer.timers.persistentAt, let interval = peer.timers.persistentInterval {
      peer.timers.persistentAt = now + interval
      _ = send(.keepalive(peer.handle))
    }
  }
}
