/// Legs and sessions: joining, resuming, leaving, and what happens when a
/// connection under a leg is gone. A session is two seats; a channel of the
/// router is open exactly while both have a connection.
#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
  internal import Mux
#endif

extension RelayNode {
  // MARK: Joining

  func join(_ sealed: [UInt8], _ asker: RelayAsker, now: Instant) {
    let ephemeral = Array(sealed.prefix(NoiseX.ephemeralBytes))
    var reader = ByteReader(ephemeral.span.bytes)
    let subject = reader.uint64() ?? 0
    // A repeat, because our answer was lost: the same answer, nothing computed.
    if let connection = asker.connection {
      for id in connection.legs {
        guard let seat = seats[id], seat.session.legs[seat.side]?.ephemeral == ephemeral else {
          continue
        }
        sendState(seat.session, seat.side, now: now)
        return
      }
    }
    guard settings.megabits != 0 else {
      refuse(.notServed, subject: subject, secret: nil, asker, now: now)
      return
    }
    guard mayAsk(asker, now: now) else {
      // Silence on UDP: the node asks again.
      if asker.kind == .tcp { refuse(.busy, subject: subject, secret: nil, asker, now: now) }
      return
    }
    let admitted: RelayAdmitted
    do throws(RelayRefused) {
      admitted = try admission.admit(sealed, now: now)
    } catch {
      refuse(error.reason, subject: subject, secret: error.secret, asker, now: now)
      return
    }
    do throws(RelayRefusal) {
      let session = try session(for: admitted)
      let side = Int(admitted.handshake.leg)
      let connection: RelayConnection
      do throws(RelayRefusal) {
        connection = try seatable(asker, owner: admitted.handshake.from, now: now)
      } catch {
        endIfEmpty(session)
        throw error
      }
      seat(
        RelaySessionLeg(
          id: newLegID(), secret: admitted.legSecret, ephemeral: ephemeral, connection: nil,
          lostAt: now), session, side, on: connection, now: now)
      statistics.accepted += 1
    } catch {
      refuse(error, subject: subject, secret: admitted.legSecret, asker, now: now)
    }
  }

  private func newLegID() -> UInt64 {
    var id = random.next()
    while id == 0 || seats[id] != nil { id = random.next() }
    return id
  }

  /// The session a request belongs to, new if it is the first of its two legs.
  private func session(for admitted: RelayAdmitted) throws(RelayRefusal) -> RelaySession {
    let handshake = admitted.handshake
    let keys =
      handshake.leg == 0 ? [handshake.from, handshake.to] : [handshake.to, handshake.from]
    if let session = sessions[handshake.session] {
      guard session.keys == keys, session.isOneTime == admitted.isOneTime else {
        throw .otherSession
      }
      if session.legs[Int(handshake.leg)] == nil { try checkQuota(of: handshake.from) }
      return session
    }
    try checkQuota(of: handshake.from)
    guard let share = freeShares.popLast() else { throw .full }
    let session = RelaySession(
      number: handshake.session, share: share, isOneTime: admitted.isOneTime, keys: keys)
    sessions[handshake.session] = session
    return session
  }

  /// Only seats taken count: nobody is charged for being named.
  private func checkQuota(of key: [UInt8]) throws(RelayRefusal) {
    guard sessionsPerNode[key, default: 0] < limits.sessionsPerNode else { throw .full }
  }

  /// The connection that a leg may sit on: the asker's own, if it is one node's
  /// only; for a new UDP source, a new one.
  private func seatable(
    _ asker: RelayAsker, owner: [UInt8], now: Instant
  ) throws(RelayRefusal) -> RelayConnection {
    if let connection = asker.connection, let present = connection.owner {
      guard present == owner else { throw .wrongSender }
      return connection
    }
    guard connections.count - pendingCount < limits.connections else { throw .full }
    let connection: RelayConnection
    if let pending = asker.connection {
      connection = pending
    } else {
      while connections[nextSource] != nil { nextSource = nextSource &+ 1 | RelayWire.udpMark }
      connection = RelayConnection(id: nextSource, kind: .udp, source: asker.source, now: now)
      nextSource = nextSource &+ 1 | RelayWire.udpMark
    }
    let largest =
      connection.kind == .udp
      ? RelayNodeLimits.largestUDPPacket : RelaySpecification.largestPacket
    guard
      router.addLeg(
        connection: connection.id, kind: connection.kind, largestPacket: largest,
        generation: connection.kind == .udp ? UInt32(truncatingIfNeeded: random.next()) : 0,
        now: now)
    else { throw .full }
    connection.owner = owner
    switch connection.kind {
    case .tcp: noLongerPending(connection)
    case .udp:
      connections[connection.id] = connection
      connectionOfSource[asker.source] = connection.id
    }
    keepTime(now)
    return connection
  }

  // MARK: Seats and channels

  /// Puts a leg (new, or come back) on a connection; opens the channel when the
  /// other is there too.
  private func seat(
    _ leg: RelaySessionLeg, _ session: RelaySession, _ side: Int, on connection: RelayConnection,
    now: Instant
  ) {
    vacate(session, side, keeping: leg.id, now: now)
    var leg = leg
    leg.connection = connection.id
    leg.repeatAt = .distantFuture
    if session.legs[side] == nil { sessionsPerNode[session.keys[side], default: 0] += 1 }
    session.legs[side] = leg
    seats[leg.id] = (session, side)
    if !connection.legs.contains(leg.id) { connection.legs.append(leg.id) }
    pair(session, now: now)
    guard sessions[session.number] === session else { return }
    sendState(session, side, now: now)
    if session.channel != nil { sendState(session, 1 - side, now: now) }
    keepTime(now)
  }

  private func pair(_ session: RelaySession, now: Instant) {
    guard session.channel == nil, let a = session.legs[0]?.connection,
      let b = session.legs[1]?.connection
    else { return }
    do throws(OpenChannelFailure) {
      let channel = try router.open(
        mesh: session.share, connectionA: a, connectionB: b, now: now)
      session.channel = channel
      sessionOfChannel[channel.id] = session
      emit(.joined(session: session.number))
    } catch {
      end(session, .noChannel, now: now)
    }
  }

  /// Takes whoever sits there from its connection; the channel ends.
  /// - Parameter keeping: a leg that only moves.
  private func vacate(_ session: RelaySession, _ side: Int, keeping: UInt64?, now: Instant) {
    closeChannel(session, now: now)
    guard let old = session.legs[side] else { return }
    if let id = old.connection, let connection = connections[id] {
      connection.legs.removeAll { $0 == old.id }
      if connection.legs.isEmpty, old.id == keeping {
        // It came back elsewhere: the old connection is dead.
        close(connection, now: now)
      }
    }
    session.legs[side]?.connection = nil
    session.legs[side]?.lostAt = now
    stopRepeating(session, side)
    if old.id != keeping {
      seats[old.id] = nil
      session.legs[side] = nil
      giveBackQuota(of: session.keys[side])
    }
  }

  private func giveBackQuota(of key: [UInt8]) {
    let left = sessionsPerNode[key, default: 1] - 1
    sessionsPerNode[key] = left > 0 ? left : nil
  }

  private func closeChannel(_ session: RelaySession, now: Instant) {
    guard let channel = session.channel else { return }
    session.channel = nil
    sessionOfChannel[channel.id] = nil
    router.close(channel.id, now: now)
  }

  /// The connection under some legs is gone: their sessions wait, and the
  /// other ends hear of it at once. What was queued for them is thrown away.
  func loseLegs(of connection: RelayConnection, now: Instant) {
    let legs = connection.legs
    connection.legs = []
    for id in legs {
      guard let seat = seats[id] else { continue }
      stopRepeating(seat.session, seat.side)
      seat.session.legs[seat.side]?.connection = nil
      seat.session.legs[seat.side]?.lostAt = now
      closeChannel(seat.session, now: now)
      sendState(seat.session, 1 - seat.side, now: now)
    }
    router.removeLeg(connection: connection.id, now: now)
  }

  // MARK: Coming back, leaving

  func resume(_ proof: RelayLegProof, _ asker: RelayAsker, now: Instant) {
    guard let seat = seats[proof.leg], let leg = seat.session.legs[seat.side] else {
      refuse(.unknownLeg, subject: proof.leg, secret: nil, asker, now: now)
      return
    }
    guard proof.holds(secret: leg.secret, context: RelayWire.resumeContext) else {
      refuse(.wrong, subject: proof.leg, secret: nil, asker, now: now)
      return
    }
    guard proof.counter > leg.counter else {
      refuse(.replayed, subject: proof.leg, secret: leg.secret, asker, now: now)
      return
    }
    seat.session.legs[seat.side]?.counter = proof.counter
    if let connection = asker.connection, connection.id == leg.connection {
      // It only wants to know how things stand.
      sendState(seat.session, seat.side, now: now)
      return
    }
    statistics.resumed += 1
    if asker.kind == .udp, asker.connection == nil, let id = leg.connection,
      let connection = connections[id], connection.kind == .udp
    {
      move(connection, to: asker.source, now: now)
      sendState(seat.session, seat.side, now: now)
      return
    }
    do throws(RelayRefusal) {
      let owner = seat.session.keys[seat.side]
      let connection = try seatable(asker, owner: owner, now: now)
      guard var leg = seat.session.legs[seat.side] else { return }
      leg.counter = proof.counter
      self.seat(leg, seat.session, seat.side, on: connection, now: now)
    } catch {
      refuse(error, subject: proof.leg, secret: leg.secret, asker, now: now)
    }
  }

  /// The same node behind another address: nothing else changes.
  private func move(_ connection: RelayConnection, to source: RelaySource, now: Instant) {
    connectionOfSource[connection.source] = nil
    connection.source = source
    connection.heard = now
    connectionOfSource[source] = connection.id
  }

  func leave(_ proof: RelayLegProof, _ asker: RelayAsker, now: Instant) {
    guard let seat = seats[proof.leg], let leg = seat.session.legs[seat.side] else {
      refuse(.unknownLeg, subject: proof.leg, secret: nil, asker, now: now)
      return
    }
    guard proof.holds(secret: leg.secret, context: RelayWire.leaveContext),
      proof.counter > leg.counter
    else {
      refuse(.wrong, subject: proof.leg, secret: nil, asker, now: now)
      return
    }
    end(seat.session, .left, now: now)
  }

  // MARK: Ends

  func end(_ session: RelaySession, _ ending: RelaySessionEnding, now: Instant) {
    guard sessions[session.number] === session else { return }
    closeChannel(session, now: now)
    for side in 0..<2 {
      guard let leg = session.legs[side] else { continue }
      stopRepeating(session, side)
      seats[leg.id] = nil
      guard let id = leg.connection, let connection = connections[id] else { continue }
      connection.legs.removeAll { $0 == leg.id }
      send(
        .refused(RelayRefusalNotice(reason: .ended, subject: leg.id, secret: leg.secret)),
        to: connection)
    }
    forget(session)
    emit(.ended(session: session.number, ending))
  }

  private func endIfEmpty(_ session: RelaySession) {
    if session.legs[0] == nil, session.legs[1] == nil { forget(session) }
  }

  private func forget(_ session: RelaySession) {
    sessions[session.number] = nil
    freeShares.append(session.share)
    for side in 0..<2 where session.legs[side] != nil { giveBackQuota(of: session.keys[side]) }
  }

  /// What the router found out.
  func drainRouter(now: Instant) {
    while let event = router.pollEvent() {
      switch event {
      case .channelEnded(let id, let ending):
        guard let session = sessionOfChannel.removeValue(forKey: id) else { continue }
        session.channel = nil
        end(session, ending == .idle ? .idle : .left, now: now)
      case .legMisbehaves(let id):
        guard let connection = connections[id] else { continue }
        statistics.malformed += 1
        close(connection, now: now)
      }
    }
  }

  // MARK: Telling how a leg stands

  func sendState(_ session: RelaySession, _ side: Int, now: Instant) {
    guard var leg = session.legs[side], let id = leg.connection, let connection = connections[id]
    else { return }
    leg.stateNumber += 1
    if connection.kind == .udp {
      stopRepeating(session, side)
      leg.repeats = limits.stateRepeats
      leg.repeatAt = now + limits.stateRepeat
      repeatDeadline = min(repeatDeadline, leg.repeatAt)
      unconfirmed.append(leg.id)
      connection.unconfirmed += 1
    }
    session.legs[side] = leg
    send(state(session, side, leg), to: connection)
  }

  private func state(_ session: RelaySession, _ side: Int, _ leg: RelaySessionLeg) -> RelayReply {
    let other = session.legs[1 - side]?.connection.flatMap { connections[$0] }
    var state = RelayLegState(
      leg: leg.id, session: session.number, side: UInt8(side), number: leg.stateNumber,
      channel: session.channel.map { side == 0 ? $0.numberA : $0.numberB } ?? 0,
      otherKind: session.channel == nil ? nil : other?.kind,
      largestPacket: session.channel?.largestPacket ?? 0)
    state.sign(secret: leg.secret)
    return .state(state)
  }

  /// A packet on its channel shows that a UDP leg knows its state.
  func confirm(_ connection: RelayConnection, channel: UInt32) {
    for id in connection.legs {
      guard let seat = seats[id], let opened = seat.session.channel else { continue }
      let number = seat.side == 0 ? opened.numberA : opened.numberB
      if number == channel { stopRepeating(seat.session, seat.side) }
    }
  }

  private func stopRepeating(_ session: RelaySession, _ side: Int) {
    guard let leg = session.legs[side], leg.repeatAt != .distantFuture else { return }
    session.legs[side]?.repeatAt = .distantFuture
    unconfirmed.removeAll { $0 == leg.id }
    if let id = leg.connection, let connection = connections[id] { connection.unconfirmed -= 1 }
  }

  /// Says again what may have been lost.
  func repeatStates(now: Instant) {
    repeatDeadline = .distantFuture
    for id in unconfirmed {
      guard let seat = seats[id], var leg = seat.session.legs[seat.side] else { continue }
      if now >= leg.repeatAt {
        guard leg.repeats > 0 else {
          stopRepeating(seat.session, seat.side)
          continue
        }
        leg.repeats -= 1
        let doublings = min(limits.stateRepeats - leg.repeats, 16)
        leg.repeatAt = now + limits.stateRepeat * Int64(1 << doublings)
        seat.session.legs[seat.side] = leg
        if let connection = leg.connection.flatMap({ connections[$0] }) {
          send(state(seat.session, seat.side, leg), to: connection)
        }
      }
      repeatDeadline = min(repeatDeadline, leg.repeatAt)
    }
  }
}
