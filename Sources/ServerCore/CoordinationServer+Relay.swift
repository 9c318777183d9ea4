/// Relay legs: the second WebSocket of a node, opened with a ticket of its
/// login, so that bulk never blocks heartbeats. Frames go straight to the router.
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

extension CoordinationServer {
  /// The first message of a leg.
  func openLeg(_ bytes: [UInt8], _ connection: ServerConnection, now: Instant) {
    guard let hello = LegHello(decoding: bytes), let member = tickets[hello.id],
      let ticket = member.ticket, ticket.id == hello.id,
      HMACSHA256.verify(hello.proof, key: ticket.secret, hello.signed),
      hello.counter > member.legCounter
    else {
      statistics.legsRefused += 1
      close(connection, .badLegTicket, now: now)
      return
    }
    member.legCounter = hello.counter
    if let old = member.leg { close(old, .legReplaced, now: now) }
    guard
      router.addLeg(
        connection: connection.id, kind: .tcp, largestPacket: RelaySpecification.largestPacket,
        now: now)
    else {
      close(connection, .full, now: now)
      return
    }
    noLongerPending(connection)
    connection.phase = .leg(member)
    connection.heard = now
    member.leg = connection
    effects.append(.send(connection: connection.id, []))
    log(
      .legOpened(
        mesh: meshes[member.mesh].name, node: member.name, address: connection.address))
    startWaitingMeetings(of: member, now: now)
  }

  /// What the router found out: channels that ended, legs to give up.
  func drainRouter(now: Instant) {
    while let event = router.pollEvent() {
      switch event {
      case .channelEnded(let id, _):
        guard let meeting = meetingOfChannel.removeValue(forKey: id),
          meeting.channel?.id == id
        else { continue }
        meeting.channel = nil
        meeting.legs = []
      case .legMisbehaves(let connection):
        if let leg = connections[connection] { close(leg, .relayMisuse, now: now) }
      }
    }
  }
}
