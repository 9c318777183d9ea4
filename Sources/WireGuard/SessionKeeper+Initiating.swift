/// The initiator's half: wanting a session, building one initiation at a time,
/// repeating it, and completing it when the response comes.

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
#endif

extension SessionKeeper {
  /// Asks for a new keypair, with or without one in use. An agent's initiation
  /// is repeated for 5 s, then made anew, for 90 s; a stock peer's as the
  /// whitepaper §6.4 says. Does nothing while one is under way.
  package func initiate(_ handle: PeerHandle, now: Instant) {
    guard let peer = find(handle) else { return }
    want(peer, now: now)
  }

  /// Stops wanting. A response to what was already sent is still accepted.
  package func cancelInitiation(_ handle: PeerHandle) { find(handle)?.wanted = false }

  func want(_ peer: SessionPeer, now: Instant) {
    guard !peer.wanted else { return }
    peer.wanted = true
    peer.wantedSince = now
    pursue(peer, now: now)
  }

  /// Puts a new initiation into the outbox when one is wanted and allowed.
  func pursue(_ peer: SessionPeer, now: Instant) {
    guard peer.wanted, peer.outstanding == nil, !peer.buildQueued else {
      note(peer.deadline)
      return
    }
    guard now - peer.wantedSince < WireGuardConstants.rekeyAttemptTime else {
      peer.wanted = false
      emit(.handshakeGaveUp(peer.handle))
      return
    }
    if now >= peer.nextInitiation, send(.initiation(peer.handle)) {
      peer.buildQueued = true
    } else {
      peer.nextInitiation = max(peer.nextInitiation, now + .milliseconds(1))
      note(peer.nextInitiation)
    }
  }

  /// Repeats, ends and renews initiations; called when the peer's deadline came.
  func advanceHandshake(_ peer: SessionPeer, now: Instant) {
    if let outstanding = peer.outstanding {
      if now >= outstanding.expiresAt {
        table.remove(outstanding.index)
        peer.outstanding = nil
        peer.repeatQueued = false
      } else if peer.wanted, now >= outstanding.nextRepeat, !peer.repeatQueued {
        peer.repeatQueued = send(.initiation(peer.handle))
        scheduleRepeat(peer, after: now)
      }
    }
    if peer.outstanding == nil { pursue(peer, now: now) }
  }

  private func scheduleRepeat(_ peer: SessionPeer, after now: Instant) {
    guard var outstanding = peer.outstanding else { return }
    while outstanding.nextRepeat <= now {
      outstanding.nextRepeat += outstanding.repeatDelay
      outstanding.repeatDelay = outstanding.repeatDelay * 2
    }
    peer.outstanding = outstanding
  }

  /// What an outbox entry stands for: the outstanding initiation again, or a new one.
  func initiation(of peer: SessionPeer, now: Instant, wallClock: UInt64) -> HandshakeTransmit? {
    if let outstanding = peer.outstanding {
      guard peer.repeatQueued else { return nil }
      peer.repeatQueued = false
      return HandshakeTransmit(
        kind: .initiation, peer: peer.handle, bytes: outstanding.bytes, route: .everyCarrier)
    }
    guard peer.buildQueued else { return nil }
    peer.buildQueued = false
    guard peer.wanted else { return nil }
    let ephemeral = X25519.generate(using: &random)
    let index = newIndex()
    guard
      let (message, state) = Handshake.initiate(
        peer.identity, ephemeral: ephemeral, sender: index,
        stamp: nextStamp(for: peer, wallClock: wallClock))
    else {
      peer.wanted = false
      return nil
    }
    let bytes = message.encoded(mac1Key: peer.mac1Key)
    lastSerial += 1
    var lifetime = SessionLimits.initiationLifetime
    var firstRepeat = SessionLimits.firstRepeat
    var gap = SessionLimits.initiationGap
    if peer.kind == .stock {
      lifetime = WireGuardConstants.rekeyTimeout + jitter()
      firstRepeat = lifetime * 2
      gap = WireGuardConstants.rekeyTimeout
    }
    peer.outstanding = SessionPeer.Outstanding(
      serial: lastSerial, index: index, ephemeralSecret: ephemeral.secret, state: state,
      bytes: bytes, expiresAt: now + lifetime, nextRepeat: now + firstRepeat,
      repeatDelay: firstRepeat)
    peer.nextInitiation = now + gap
    peer.counters.initiationsBuilt += 1
    table.set(IndexTable.Entry(index: index, peer: peer, keypair: nil))
    note(peer.deadline)
    if peer.kind == .stock { packetSent(to: peer, now: now) }
    return HandshakeTransmit(
      kind: .initiation, peer: peer.handle, bytes: bytes, route: .everyCarrier)
  }

  /// `transmit` as it must leave through `carrier`: with mac2 where that carrier's
  /// far end has given us a cookie. Every copy of an initiation goes through here.
  package func finish(
    _ transmit: HandshakeTransmit, for carrier: Carrier, now: Instant
  ) -> [UInt8] {
    guard transmit.kind == .initiation, let handle = transmit.peer, let peer = find(handle),
      let cookie = peer.freshCookie(for: carrier, now: now)
    else { return transmit.bytes }
    return MessageMacs.filled(transmit.bytes, cookie: cookie)
  }

  /// The stamp of the next initiation: the clock, but always after the last one
  /// sent to this peer, in this process or before it.
  private func nextStamp(for peer: SessionPeer, wallClock: UInt64) -> Stamp {
    let least = peer.lastStampSent == 0 ? 0 : peer.lastStampSent &+ SessionLimits.stampStep
    // A clock that claims the end of the 64-bit range must not wrap the ceiling.
    let stamp = max(min(wallClock, .max / 2), least)
    peer.lastStampSent = stamp
    if stamp > stampCeiling {
      stampCeiling = stamp &+ SessionLimits.stampCeilingAhead
      emit(.storeStampCeiling(stampCeiling))
    }
    return Stamp(unix: stamp)
  }

  func jitter() -> TimeAmount {
    .milliseconds(
      Int64(random.next() % UInt64(WireGuardConstants.largestJitterMilliseconds + 1)))
  }

  // MARK: Responses and cookies

  func receiveResponse(_ bytes: [UInt8], from carrier: Carrier, now: Instant) -> Receipt {
    guard let message = ResponseMessage(bytes) else { return drop(.badLength) }
    guard let entry = table.entry(message.receiver), let peer = entry.peer else {
      return drop(.unknownIndex)
    }
    guard MessageMacs.hasMac1(bytes, key: localKeys[peer.localKey].mac1Key) else {
      return drop(.badMac1)
    }
    guard entry.keypair == nil, let outstanding = peer.outstanding,
      outstanding.index == message.receiver
    else { return drop(.duplicateResponse) }
    if let receipt = passGate(
      bytes, sender: message.sender, localKey: peer.localKey, from: carrier,
      cost: SessionLimits.operationsPerResponse, now: now)
    {
      return receipt
    }
    guard
      let state = Handshake.finish(
        message, peer.identity, ephemeralSecret: outstanding.ephemeralSecret,
        state: outstanding.state)
    else { return drop(.notAuthentic) }
    let keys = state.transportKeys
    lastKeypair += 1
    let keypair = Keypair(
      id: KeypairID(rawValue: lastKeypair), peer: peer, initiator: true,
      localIndex: outstanding.index, remoteIndex: message.sender, sendKey: keys.0,
      receiveKey: keys.1, now: now, initiation: outstanding.serial)
    peer.outstanding = nil
    peer.wanted = false
    peer.buildQueued = false
    peer.repeatQueued = false
    peer.counters.handshakesCompleted += 1
    table.set(IndexTable.Entry(index: keypair.localIndex, peer: peer, keypair: keypair))
    heard(peer, now: now)
    choose(keypair, now: now)
    emit(.keypairReady(peer.handle, keypair.id, initiator: true))
    // The responder may not send before our first packet; an agent's is HELLO.
    if peer.kind == .stock { _ = send(.keepalive(peer.handle)) }
    note(keypair.expiresAt)
    return .handshake(peer.handle, .completed)
  }

  func receiveCookie(_ bytes: [UInt8], from carrier: Carrier, now: Instant) -> Receipt {
    guard let message = CookieReplyMessage(bytes) else { return drop(.badLength) }
    guard let peer = table.entry(message.receiver)?.peer else { return drop(.unknownIndex) }
    let mac1: [UInt8]
    if let outstanding = peer.outstanding, outstanding.index == message.receiver {
      mac1 = outstanding.mac1
    } else if let answer = peer.answer, answer.index == message.receiver {
      mac1 = MessageMacs.mac1(of: answer.bytes)
    } else {
      return drop(.badCookie)
    }
    guard
      let cookie = XChaCha20Poly1305.openBox(
        key: peer.cookieKey, nonce: message.nonce, message.sealedCookie, aad: mac1),
      cookie.count == MessageSize.mac
    else { return drop(.badCookie) }
    peer.remember(cookie: cookie, from: carrier, now: now)
    return .handshake(peer.handle, .cookie)
  }
}
