/// The responder's half: who initiates, is it new, and the answer. Checks stand
/// in order of cost: length, mac1, copy of the last one, budget, one curve
/// operation, the stamp, and only then the three operations of an answer.

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
#endif

extension SessionKeeper {
  func receiveInitiation(_ bytes: [UInt8], from carrier: Carrier, now: Instant) -> Receipt {
    guard
      let localKey = localKeys.firstIndex(where: { MessageMacs.hasMac1(bytes, key: $0.mac1Key) })
    else { return drop(.badMac1) }
    let mac1 = MessageMacs.mac1(of: bytes)
    if let handle = recentInitiations[Self.tag(mac1)], let peer = find(handle),
      let receipt = repeatedInitiation(mac1, of: peer, from: carrier, now: now)
    {
      return receipt
    }
    guard let message = InitiationMessage(bytes) else { return drop(.badLength) }
    if let receipt = passGate(
      bytes, sender: message.sender, localKey: localKey, from: carrier,
      cost: SessionLimits.operationsPerInitiation, now: now)
    {
      return receipt
    }
    guard
      let (publicKey, state) = Handshake.readInitiator(message, local: localKeys[localKey].pair)
    else { return drop(.notAuthentic) }
    guard let handle = names[PeerName(localKey: localKey, publicKey: publicKey)],
      let peer = find(handle)
    else { return park(bytes, publicKey: publicKey, localKey: localKey, from: carrier, now: now) }
    return accept(message, mac1: mac1, of: peer, state: state, from: carrier, now: now)
  }

  /// The answer to a copy, without a curve operation; nil when it is no copy.
  private func repeatedInitiation(
    _ mac1: [UInt8], of peer: SessionPeer, from carrier: Carrier, now: Instant
  ) -> Receipt? {
    if var answer = peer.answer, answer.initiationMac1 == mac1 {
      guard now - answer.made < SessionLimits.answerLifetime,
        table.keypair(answer.index) != nil
      else { return drop(.staleRepeat) }
      guard answer.repeats < SessionLimits.answersToRepeats else { return drop(.repeatLimit) }
      answer.repeats += 1
      peer.answer = answer
      _ = send(.answer(peer.handle, carrier))
      return .handshake(peer.handle, .repeated)
    }
    return peer.formerMac1 == mac1 ? drop(.staleRepeat) : nil
  }

  /// Nil when curve operations may be spent.
  func passGate(
    _ bytes: [UInt8], sender: UInt32, localKey: Int, from carrier: Carrier, cost: Double,
    now: Instant
  ) -> Receipt? {
    switch gate.admit(bytes, from: carrier, cost: cost, now: now) {
    case .admitted: return nil
    case .refused: return drop(.overloaded)
    case .cookieRequired:
      let reply = gate.reply(
        to: bytes, sender: sender, from: carrier, cookieKey: localKeys[localKey].cookieKey,
        now: now, random: &random)
      _ = send(.cookieReply(reply, carrier))
      return drop(.cookieRequired)
    }
  }

  private func accept(
    _ message: InitiationMessage, mac1: [UInt8], of peer: SessionPeer, state: HandshakeState,
    from carrier: Carrier, now: Instant
  ) -> Receipt {
    var state = state
    guard let stamp = Handshake.readStamp(message, peer.identity, state: &state) else {
      return drop(.notAuthentic)
    }
    if let greatest = peer.greatestStamp, stamp <= greatest { return stale(peer, now: now) }
    if let last = peer.lastAccepted, now - last < SessionLimits.acceptGap { return drop(.flood) }
    let ephemeral = X25519.generate(using: &random)
    let index = newIndex()
    guard
      let response = Handshake.respond(
        to: message, peer.identity, ephemeral: ephemeral, sender: index, state: &state)
    else { return drop(.notAuthentic) }
    peer.greatestStamp = stamp
    peer.lastAccepted = now
    remember(
      SessionPeer.Answer(
        initiationMac1: mac1, bytes: response.encoded(mac1Key: peer.mac1Key), index: index,
        made: now, repeats: 0), of: peer)
    let keys = state.transportKeys
    lastKeypair += 1
    let keypair = Keypair(
      id: KeypairID(rawValue: lastKeypair), peer: peer, initiator: false, localIndex: index,
      remoteIndex: message.sender, sendKey: keys.1, receiveKey: keys.0, now: now,
      initiation: peer.outstanding?.serial ?? 0)
    if let unused = peer.next { forget(unused) }
    peer.next = keypair
    table.set(IndexTable.Entry(index: index, peer: peer, keypair: keypair))
    peer.counters.initiationsAnswered += 1
    heard(peer, now: now)
    if peer.kind == .stock { packetSent(to: peer, now: now) }
    _ = send(.answer(peer.handle, carrier))
    note(keypair.expiresAt)
    return .handshake(peer.handle, .answered)
  }

  /// A good initiation that is not newer than the last: the peer's clock went
  /// back and its memory is gone, or this is a replay. Our own initiation
  /// settles either, whatever the clocks say.
  private func stale(_ peer: SessionPeer, now: Instant) -> Receipt {
    peer.counters.staleInitiations += 1
    if peer.lastStaleReply.map({ now - $0 >= SessionLimits.staleReplyGap }) ?? true {
      peer.lastStaleReply = now
      emit(.peerStale(peer.handle))
      want(peer, now: now)
    }
    return drop(.staleStamp)
  }

  // MARK: Copies

  static func tag(_ mac1: [UInt8]) -> UInt64 {
    mac1.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
  }

  private func remember(_ answer: SessionPeer.Answer, of peer: SessionPeer) {
    if let mac1 = peer.formerMac1 { forgetInitiation(mac1) }
    peer.formerMac1 = peer.answer?.initiationMac1
    peer.answer = answer
    recentInitiations[Self.tag(answer.initiationMac1)] = peer.handle
  }

  func forgetInitiation(_ mac1: [UInt8]) { recentInitiations[Self.tag(mac1)] = nil }

  // MARK: Unknown initiators

  private func park(
    _ bytes: [UInt8], publicKey: [UInt8], localKey: Int, from carrier: Carrier, now: Instant
  ) -> Receipt {
    dropParked(now: now)
    // A repeat replaces nothing: the first copy is as good.
    if parked.contains(where: { $0.publicKey == publicKey && $0.localKey == localKey }) {
      return drop(.staleRepeat)
    }
    let ofSource = parked.count {
      $0.carrier.socket == carrier.socket && $0.carrier.channel == carrier.channel
        && $0.carrier.remote.address == carrier.remote.address
    }
    guard parked.count < SessionLimits.parkedInitiations,
      ofSource < SessionLimits.parkedPerSource
    else { return drop(.parkingFull) }
    let until = now + SessionLimits.parkedTime
    parked.append(
      Parked(
        publicKey: publicKey, localKey: localKey, bytes: bytes, carrier: carrier, until: until))
    note(until)
    return .unknownInitiator(publicKey: publicKey, localKey: localKey)
  }

  func dropParked(now: Instant) {
    for entry in parked where now >= entry.until {
      _ = entry
      drops.count(.parkedExpired)
    }
    parked.removeAll { now >= $0.until }
  }

  /// The peer is known now: takes up what waited for it.
  func unpark(publicKey: [UInt8], localKey: Int, now: Instant) {
    dropParked(now: now)
    guard
      let at = parked.firstIndex(where: { $0.publicKey == publicKey && $0.localKey == localKey })
    else { return }
    let entry = parked.remove(at: at)
    guard let handle = names[PeerName(localKey: localKey, publicKey: publicKey)],
      let peer = find(handle), let message = InitiationMessage(entry.bytes),
      let (_, state) = Handshake.readInitiator(message, local: localKeys[localKey].pair)
    else { return }
    _ = accept(
      message, mac1: MessageMacs.mac1(of: entry.bytes), of: peer, state: state,
      from: entry.carrier, now: now)
  }
}
