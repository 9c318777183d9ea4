/// Relays that clients are: announced with a report, withdrawn with one or by
/// going offline, offered to pairs that ask. The choice is RelayDirectory's.
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

extension CoordinationServer {
  /// A report has come: is its node a relay?
  func noteRelay(_ member: ServerMember) {
    guard let report = member.report.relay, report.tcpPort != 0 || report.udpPort != 0 else {
      withdrawRelay(member)
      return
    }
    let relay = DirectoryRelay(
      member: member.number, mesh: member.mesh, name: member.name, key: member.staticKey,
      report: report, incarnation: member.report.incarnation, facts: member.facts, roundTrip: member.connection?.roundTrip ?? .zero)
    let old = directory.relay(member: member.number)
    guard directory.announce(relay) else { return }
    if let old, old.report.isSuper, !report.isSuper {
      tell(of: old, isPresent: false)
    }
    tell(of: relay, isPresent: true)
  }

  func withdrawRelay(_ member: ServerMember) {
    guard let relay = directory.withdraw(member: member.number) else { return }
    tell(of: relay, isPresent: false)
  }

  /// Its mesh hears of a relay; of a super relay all do, but not its name.
  private func tell(of relay: DirectoryRelay, isPresent: Bool) {
    let message = ServerMessage.relayAnnounced(
      RelayAnnouncement(
        relay: relay.key, isSuper: relay.report.isSuper, isPresent: isPresent))
    let except = meshes[relay.mesh].members[relay.name]
    for mesh in meshes.indices where mesh == relay.mesh || relay.report.isSuper {
      broadcast(message, mesh: mesh, except: except)
    }
  }

  /// Once a second: the keys of one-time tokens change daily.
  func rotateRelaySecrets(now: Instant) {
    guard directory.rotate(unixSeconds: wallSeconds(now)) else { return }
    for number in directory.members {
      guard let relay = directory.relay(member: number),
        let connection = meshes[relay.mesh].members[relay.name]?.connection
      else { continue }
      send(.relaySecrets(directory.secrets(of: relay.key)), to: connection)
    }
  }

  /// RelayNodeReq: the asker gets its legs, the peer the others.
  func offerRelays(
    _ wanted: RelayNodeRequest, request: UInt32, _ connection: ServerConnection,
    _ member: ServerMember, now: Instant
  ) {
    guard wanted.peer != member.name else {
      refuse(.notPermitted, "a node needs no relay to itself", request, connection)
      return
    }
    guard let peer = meshes[member.mesh].members[wanted.peer] else {
      refuse(.peerUnknown, "no node \(wanted.peer) in this mesh", request, connection)
      return
    }
    guard let other = peer.connection, peer.hasReported else {
      refuse(.peerOffline, "\(wanted.peer) is offline", request, connection)
      return
    }
    guard connection.connects.take(now: now) else {
      refuse(.limit, "too many requests for relays", request, connection)
      return
    }
    directory.learn(wanted.measured, from: member.number)
    let grants = directory.offer(
      to: member.directoryNode, and: peer.directoryNode, mesh: member.mesh,
      hasToken: settings.meshes[member.mesh].hasToken, only: wanted.only,
      exclusions: wanted.exclusions, unixSeconds: wallSeconds(now), now: now)
    // The peer first: who joins a relay early waits there.
    if !grants.peer.offers.isEmpty { send(.pushRelayOffer(grants.peer), to: other) }
    send(.relayNodeResponse(grants.asker), request: request, to: connection)
  }
}

extension ServerMember {
  fileprivate var directoryNode: DirectoryNode {
    DirectoryNode(
      member: number, name: name, key: staticKey, facts: facts,
      roundTrip: connection?.roundTrip ?? .zero)
  }
}
