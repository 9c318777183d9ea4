/// Who is a member and who is online: announcements, silence, kick and forget,
/// and what the console and REST show.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  package import Signaling
#endif

/// A node as `GET /api/v1/nodes` lists it.
package struct NodeInformation: Sendable {
  package var mesh: String
  package var node: String
  package var isOnline: Bool
  /// Where the server sees it; `.none` when offline.
  package var seenAt: Endpoint
  /// Since when the session lasts; meaningless when offline.
  package var since: Instant
  package var version: String
  package var os: String
  package var incarnation: UInt64
  package var nat: NATFacts
  package var interfaces: [IPAddress]
  package var port: UInt16
  package var offers: [SignalledOffer]
  package var hasRelayLeg: Bool
  /// RFC 7748 public key.
  package var staticKey: [UInt8]
  package var certificateSerial: UInt64
}

extension CoordinationServer {
  /// Nodes online in all meshes: the number in `health`.
  package var onlineCount: Int { meshes.reduce(0) { $0 + $1.online } }
  package var meshNames: [String] { meshes.map(\.name) }
  package var connectionCount: Int { connections.count }
  package var meetingCount: Int { meetingOfPair.count }

  /// Members of a mesh (nil: of all), by name.
  package func nodes(mesh: String? = nil) -> [NodeInformation] {
    meshes.filter { mesh == nil || $0.name == mesh }.flatMap { mesh in
      mesh.members.values.sorted { $0.name < $1.name }.map { information($0) }
    }
  }

  private func information(_ member: ServerMember) -> NodeInformation {
    NodeInformation(
      mesh: meshes[member.mesh].name, node: member.name, isOnline: member.connection != nil,
      seenAt: member.seenAt, since: member.since, version: member.report.version,
      os: member.report.os, incarnation: member.report.incarnation, nat: member.report.nat,
      interfaces: member.report.interfaces, port: member.report.port,
      offers: member.report.offers, hasRelayLeg: member.leg != nil, staticKey: member.staticKey,
      certificateSerial: member.certificate.serial)
  }

  /// Ends a node's session; it may come back.
  /// - Returns: whether one was online under that name.
  package func kick(node: String, mesh: String? = nil, now: Instant) -> Bool {
    var found = false
    for member in named(node, mesh) {
      guard let connection = member.connection else { continue }
      send(.notice(.notPermitted, "kicked by the operator"), to: connection)
      if let leg = member.leg { close(leg, .kicked, now: now) }
      close(connection, .kicked, now: now)
      found = true
    }
    drainRouter(now: now)
    return found
  }

  /// Frees a name and evicts the certificates of its key. The same machine may
  /// log in again, as anybody who knows the token.
  /// - Returns: whether the name was bound.
  package func forget(node: String, mesh: String? = nil, now: Instant) -> Bool {
    let members = named(node, mesh)
    for member in members {
      let index = member.mesh
      log(.forgotten(mesh: meshes[index].name, node: node))
      do {
        let list = try meshes[index].authority.evict(
          member.certificate, wallClock: wallSeconds(now), now: now)
        let bytes = list.encoded()
        store(StoreRecord(kind: .evictions, key: Array(meshes[index].name.utf8), value: bytes))
        broadcast(.evictions(bytes), mesh: index, except: nil)
      } catch {
        // The list is full: the certificate ends by its own date.
      }
      remove(member, reason: .forgotten, notice: "the operator forgot this node", now: now)
    }
    drainRouter(now: now)
    return !members.isEmpty
  }

  private func named(_ node: String, _ mesh: String?) -> [ServerMember] {
    meshes.filter { mesh == nil || $0.name == mesh }.compactMap { $0.members[node] }
  }

  /// Takes a member out of its mesh, on disk too.
  func remove(_ member: ServerMember, reason: CloseReason, notice: String, now: Instant) {
    let index = member.mesh
    if let connection = member.connection {
      let code: SignalErrorCode = reason == .replaced ? .replaced : .evicted
      send(.notice(code, Self.cut(notice)), to: connection)
      close(connection, reason, now: now)
    }
    if let leg = member.leg { close(leg, reason, now: now) }
    if let ticket = member.ticket { tickets[ticket.id] = nil }
    meshes[index].members[member.name] = nil
    meshes[index].memberOfKey[member.staticKey] = nil
    store(NodeRecord.deletion(mesh: meshes[index].name, node: member.name))
    for meeting in meetingOfPair.values.sorted(by: { $0.session < $1.session })
    where meeting.side(of: member) != nil {
      forgetMeeting(meeting, now: now)
    }
    broadcast(.memberRemoved(node: member.name), mesh: index, except: nil)
  }

  func setOffline(_ member: ServerMember, _ reason: CloseReason?, now: Instant) {
    member.connection = nil
    member.offlineSince = now
    meshes[member.mesh].online -= 1
    log(.wentOffline(mesh: meshes[member.mesh].name, node: member.name, reason))
    let wasKnown = member.hasReported
    member.hasReported = false
    refuseWaitingMeetings(of: member)
    withdrawRelay(member)
    directory.forget(member: member.number)
    if wasKnown { announce(member) }
  }

  /// Tells the others of the mesh what this member is now.
  func announce(_ member: ServerMember) {
    broadcast(.memberChanged(member.signalled), mesh: member.mesh, except: member)
  }

  func broadcast(_ message: ServerMessage, mesh: Int, except: ServerMember?) {
    let encoded = ServerEnvelope(request: 0, message: message).encoded()
    // By number: the same seed gives the same trace.
    for member in meshes[mesh].members.values.sorted(by: { $0.number < $1.number })
    where member !== except {
      if let connection = member.connection { send(encoded, to: connection) }
    }
  }

  /// Once a second: who said nothing for too long.
  func sweep(now: Instant) {
    for connection in connections.values.sorted(by: { $0.id < $1.id }) {
      switch connection.phase {
      case .login where now - connection.opened >= ServerLimits.loginTime,
        .legHello where now - connection.opened >= ServerLimits.legHelloTime:
        close(connection, .loginLate, now: now)
      case .online where now - connection.heard >= ServerLimits.silence,
        .leg where now - connection.heard >= ServerLimits.silence:
        close(connection, .silent, now: now)
      case .leg(let member)
      where member.connection == nil && now - member.offlineSince >= ServerLimits.legGrace:
        close(connection, .idle, now: now)
      case .leg where now - max(connection.heard, connection.pinged) >= ServerLimits.legPing:
        connection.pinged = now
        router.ping(connection: connection.id)
      default: break
      }
    }
    sweepMeetings(now: now)
    rotateRelaySecrets(now: now)
    keepUsage(now: now)
    let isBusy = !connections.isEmpty || !meetingOfPair.isEmpty
    sweepDeadline = isBusy ? now + ServerLimits.sweep : .distantFuture
  }
}
