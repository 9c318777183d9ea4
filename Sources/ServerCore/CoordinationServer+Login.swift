/// Logins: the exchange itself is LoginServer's; here is what a proven key may
/// have. Same key: the newest session replaces the old. Another key: refused.
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

extension CoordinationServer {
  func receiveLogin(
    _ bytes: [UInt8], _ connection: ServerConnection, _ state: LoginServer, now: Instant
  ) {
    guard bytes.count <= SignalLimits.login + 64 else {
      close(connection, .faults, now: now)
      return
    }
    let envelope: ClientEnvelope
    do { envelope = try ClientEnvelope(decoding: bytes) } catch {
      // Garbage before a login gets no answer.
      statistics.malformed += 1
      close(connection, .faults, now: now)
      return
    }
    guard case .login(let payload) = envelope.message else {
      refuse(.notLoggedIn, "log in first", envelope.request, connection)
      fault(connection, now: now)
      return
    }
    var login = state
    let step = login.receive(
      payload, now: now, throttle: &throttle, using: &random,
      known: { key in
        for mesh in meshes.indices {
          if let member = meshes[mesh].memberOfKey[key] {
            return LoginKnownNode(mesh: mesh, secret: member.secret)
          }
        }
        return nil
      })
    connection.phase = .login(login)
    switch step {
    case .send(let reply):
      connection.sharesSent = now
      send(.login(reply), request: envelope.request, to: connection)
    case .refused(let reply, let refusal):
      send(.login(reply), request: envelope.request, to: connection)
      countRefusal(refusal.reason)
      if login.isOver {
        logStranger(
          .loginRefused(node: nil, address: connection.address, refusal.reason), now: now)
        close(connection, .loginRefused, now: now)
      }
    case .verified(let verified):
      decide(verified, &login, connection, request: envelope.request, now: now)
    }
  }

  private func countRefusal(_ reason: LoginRefusalReason) {
    statistics.loginsRefused[reason.rawValue, default: 0] += 1
  }

  /// The proofs held: may this key have this name, now?
  private func decide(
    _ verified: LoginVerified, _ login: inout LoginServer, _ connection: ServerConnection,
    request: UInt32, now: Instant
  ) {
    if let sent = connection.sharesSent { connection.roundTrip = min(now - sent, .seconds(1)) }
    let mesh = verified.mesh
    func refuse(_ reason: LoginRefusalReason, _ event: ServerLogEvent) {
      let reply = login.refuse(LoginRefusal(reason, retryAfterSeconds: 60))
      send(.login(reply), request: request, to: connection)
      countRefusal(reason)
      log(event)
      close(connection, .loginRefused, now: now)
    }
    let name = verified.node
    let bound = meshes[mesh].members[name]
    if let bound, bound.staticKey != verified.staticKey {
      refuse(
        .nameTaken,
        .nameTaken(mesh: meshes[mesh].name, node: name, address: connection.address))
      return
    }
    if let bound, let old = bound.connection, isReplacedTooOften(bound, now: now) {
      send(
        .notice(
          .duplicateKey,
          "another machine at \(connection.address) uses the key of \(name) too; it was refused"),
        to: old)
      refuse(
        .duplicateKey,
        .duplicateKey(
          mesh: meshes[mesh].name, node: name, old: old.address, new: connection.address))
      return
    }
    let renamed = bound == nil ? meshes[mesh].memberOfKey[verified.staticKey] : nil
    if bound == nil, renamed == nil, meshes[mesh].members.count >= ServerLimits.members {
      refuse(
        .serverFull, .loginRefused(node: name, address: connection.address, .serverFull))
      return
    }
    guard
      let certificate = certificate(for: verified, current: bound?.certificate, now: now)
    else {
      refuse(.malformed, .loginRefused(node: name, address: connection.address, .malformed))
      return
    }
    if let renamed { rename(renamed, to: name, now: now) }
    let accepted = login.accept(using: &random)
    let member = admit(
      accepted, certificate, bound: bound, connection: connection, now: now)
    send(.login(accepted.reply), request: request, to: connection)
    if connection.seals { connection.sealer = SignalSealer(accepted.keys, side: .server) }
    noLongerPending(connection)
    connection.phase = .online(member)
    statistics.loginsAccepted += 1
    comeOnline(member, connection, now: now)
    log(
      .loggedIn(
        mesh: meshes[mesh].name, node: name, address: connection.address, isNew: bound == nil))
    welcome(member, connection, now: now)
  }

  /// The fourth replacement of a live session within a minute is one too many.
  private func isReplacedTooOften(_ member: ServerMember, now: Instant) -> Bool {
    member.replacements.removeAll { now - $0 >= ServerLimits.replacementTime }
    return member.replacements.count >= ServerLimits.replacements
  }

  private func certificate(
    for verified: LoginVerified, current: Certificate?, now: Instant
  ) -> Certificate? {
    let mesh = verified.mesh
    if let current, current.ciphers == verified.ciphers,
      !meshes[mesh].authority.needsRenewal(current, wallClock: wallSeconds(now), now: now)
    {
      return current
    }
    let subject = CertificateSubject(
      mesh: meshes[mesh].name, node: verified.node, user: "default",
      staticKey: verified.staticKey, labels: [], ciphers: verified.ciphers)
    do {
      let issued = try meshes[mesh].authority.issue(
        subject, wallClock: wallSeconds(now), now: now)
      reserveSerials(mesh, now: now)
      return issued
    } catch {
      return nil
    }
  }

  /// Binds name and key, and stores what is new about them.
  private func admit(
    _ accepted: LoginAccepted, _ certificate: Certificate, bound: ServerMember?,
    connection: ServerConnection, now: Instant
  ) -> ServerMember {
    let verified = accepted.verified
    guard let bound else {
      let member = ServerMember(
        number: nextMember, mesh: verified.mesh, name: verified.node,
        staticKey: verified.staticKey, secret: accepted.nodeSecret, certificate: certificate)
      insert(member)
      storeMember(member)
      return member
    }
    if bound.certificate != certificate || bound.secret != accepted.nodeSecret {
      bound.certificate = certificate
      bound.certificateBytes = certificate.encoded()
      bound.secret = accepted.nodeSecret
      storeMember(bound)
    }
    return bound
  }

  /// A key that was bound to another name: its owner changed `-node`.
  private func rename(_ member: ServerMember, to name: String, now: Instant) {
    log(.renamed(mesh: meshes[member.mesh].name, from: member.name, to: name))
    remove(member, reason: .replaced, notice: "this key logged in as \(name)", now: now)
  }

  private func comeOnline(
    _ member: ServerMember, _ connection: ServerConnection, now: Instant
  ) {
    if let old = member.connection {
      member.replacements.append(now)
      statistics.sessionsReplaced += 1
      log(
        .replaced(
          mesh: meshes[member.mesh].name, node: member.name, old: old.address,
          new: connection.address))
      member.connection = connection
      send(.notice(.replaced, "a newer session from \(connection.address) took over"), to: old)
      close(old, .replaced, now: now)
    } else {
      meshes[member.mesh].online += 1
      member.connection = connection
    }
    // A channel on it would be told to a node that opens a new one.
    if let leg = member.leg { close(leg, .legReplaced, now: now) }
    member.since = now
    member.hasReported = false
  }

  /// The first word after the login: everything the node needs to find others.
  private func welcome(_ member: ServerMember, _ connection: ServerConnection, now: Instant) {
    var members: [SignalledMember] = []
    var later: [SignalledMember] = []
    var bytes = 0
    for other in meshes[member.mesh].members.values.sorted(by: { $0.number < $1.number })
    where other !== member {
      let signalled = other.signalled
      bytes += Self.size(of: signalled)
      if bytes <= ServerLimits.welcomeBytes {
        members.append(signalled)
      } else {
        later.append(signalled)
      }
    }
    send(
      .welcome(
        Welcome(
          serverTimeNanoseconds: serverTime(now), version: settings.version,
          certificate: member.certificateBytes, seenAt: connection.address,
          ticket: newTicket(member),
          evictions: meshes[member.mesh].authority.evictions.encoded(), members: members,
          relaySecrets: directory.secrets(of: member.staticKey))),
      to: connection)
    for other in later { send(.memberChanged(other), to: connection) }
  }

  private static func size(of member: SignalledMember) -> Int {
    var size = 64 + member.certificate.count + member.version.utf8.count
    for offer in member.offers { size += 3 + offer.tunnel.utf8.count }
    return size
  }

  func newTicket(_ member: ServerMember) -> RelayTicket {
    if let old = member.ticket { tickets[old.id] = nil }
    var id = random.next()
    while tickets[id] != nil { id = random.next() }
    let ticket = RelayTicket(id: id, secret: random.bytes(32))
    member.ticket = ticket
    member.legCounter = 0
    tickets[id] = member
    return ticket
  }
}
