/// The coordination server as one pure machine: logins, the registry of nodes,
/// meetings of pairs, relay legs. DESIGN §3, spec/inp2p.md, docs/protocol/
/// signaling.md and server.md. It owns no socket, clock or file; it never sees
/// a plain packet of a session, and never talks about one mesh to another.
///
///     connectionOpened → login → report → connect … → connectionClosed
///                        (second connection) legHello → frames → ChannelRouter
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif
#if canImport(Relay)
  package import Relay
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

/// One per process, owned by one loop. After any call the driver drains
/// `pollEffect` and the relay (`router.pollReady`/`fill`).
package final class CoordinationServer {
  /// What a WebSocket was opened for.
  package enum ConnectionKind: Sendable {
    /// Path `/signal`.
    case signalling
    /// Path `/relay`.
    case relayLeg
  }

  package let settings: ServerSettings
  /// The packet path: the driver calls `router.pollReady()` and `router.fill`.
  package let router: ChannelRouter
  package internal(set) var statistics = ServerStatistics()

  var meshes: [ServerMesh] = []
  let loginMeshes: [LoginMesh]
  var throttle: LoginThrottle
  var random: SeededRandom
  var connections: [UInt32: ServerConnection] = [:]
  var pendingCount = 0
  var pendingPerAddress: [IPAddress: Int] = [:]
  var tickets: [UInt64: ServerMember] = [:]
  var nextMember: UInt32 = 1

  var meetingOfPair: [PairKey: Meeting] = [:]
  var meetingOfSession: [UInt64: Meeting] = [:]
  var meetingOfChannel: [ChannelID: Meeting] = [:]
  /// Meetings that nobody has been told of yet.
  var waiting: [Meeting] = []
  /// Clients that are relays.
  var directory: RelayDirectory

  /// Where TCP of nodes was seen to come from.
  var streamSources = StreamSources()

  var effects: [ServerEffect] = []
  var effectPosition = 0
  var sweepDeadline = Instant.distantFuture
  /// Strangers may not flood the log.
  var strangerLog = TokenBucket(ratePerSecond: 5, burst: 50)
  var wallNanoseconds: UInt64
  var wallTaken: Instant
  var usageDay: UInt64

  /// - Parameters:
  ///   - records: everything stored so far, in any order.
  ///   - seed: 32 fresh random bytes.
  ///   - unixNanoseconds: the wall clock; may be wrong.
  /// Effects that are ready after this (the authorities' keys) must be stored
  /// before the first connection is taken.
  package init(
    settings: ServerSettings, records: [StoreRecord], seed: [UInt8], unixNanoseconds: UInt64,
    now: Instant
  ) {
    precondition((1...LoginLimits.meshes).contains(settings.meshes.count))
    precondition(Set(settings.meshes.map(\.name)).count == settings.meshes.count)
    self.settings = settings
    random = SeededRandom(seed: seed)
    wallNanoseconds = unixNanoseconds
    wallTaken = now
    usageDay = unixNanoseconds / 86_400_000_000_000
    router = ChannelRouter(limits: settings.relayLimits, capMegabits: settings.relayMegabits)
    throttle = LoginThrottle(meshCount: settings.meshes.count)
    directory = RelayDirectory(
      seed: SHA256.hash(Array("martlet relay directory v1".utf8) + seed),
      unixSeconds: unixNanoseconds / 1_000_000_000)
    var loaded = LoadedRecords(records)
    var isNew: [Bool] = []
    for mesh in settings.meshes {
      isNew.append(loaded.authorities[mesh.name] == nil)
      let fresh = AuthorityRecord(
        mesh: mesh.name, seed: random.bytes(32), serialCeiling: 1, authorityTime: 0)
      let authority = loaded.authorities[mesh.name] ?? fresh
      meshes.append(
        ServerMesh(
          name: mesh.name,
          authority: CertificateAuthority(
            mesh: mesh.name, secret: authority.seed,
            record: CertificateAuthorityRecord(
              nextSerial: authority.serialCeiling, time: authority.authorityTime),
            evictions: loaded.evictions[mesh.name],
            wallClock: unixNanoseconds / 1_000_000_000, now: now),
          seed: authority.seed, serialCeiling: authority.serialCeiling))
    }
    var loginMeshes: [LoginMesh] = []
    for (mesh, state) in zip(settings.meshes, meshes) {
      loginMeshes.append(
        LoginMesh(name: mesh.name, verifier: mesh.verifier, authority: state.authority.publicKey))
    }
    self.loginMeshes = loginMeshes
    for index in meshes.indices {
      reserveSerials(index, now: now)
      loadMembers(index, &loaded)
      let mesh = settings.meshes[index]
      router.setMesh(
        UInt32(index), capMegabits: mesh.relayMegabits, quotaBytes: mesh.relayQuotaBytes)
      if let usage = loaded.usages[mesh.name], usage.day == usageDay {
        router.setBytesUsed(usage.bytes, mesh: UInt32(index))
        meshes[index].usageStored = usage.bytes
      }
      log(
        .started(
          mesh: mesh.name, members: meshes[index].members.count, newAuthority: isNew[index]))
    }
    for kind in loaded.bad { log(.badRecord(kind: kind)) }
  }

  /// A STUN question came over TCP: its source may be told to peers as a
  /// candidate of a node at that address, for a minute.
  package func streamSeen(from source: Endpoint, now: Instant) {
    streamSources.note(source, now: now)
  }

  // MARK: Clock

  /// What the wall clock shows; call at least every few minutes and whenever it
  /// was set. Between, the monotonic clock moves it on.
  package func setClock(unixNanoseconds: UInt64, now: Instant) {
    wallNanoseconds = unixNanoseconds
    wallTaken = now
  }

  /// Server time, nanoseconds since 1970.
  package func serverTime(_ now: Instant) -> UInt64 {
    wallNanoseconds &+ UInt64(max(0, (now - wallTaken).nanoseconds))
  }
  func wallSeconds(_ now: Instant) -> UInt64 { serverTime(now) / 1_000_000_000 }

  // MARK: Connections

  /// A WebSocket was accepted. Ids are never reused within a process.
  /// - Parameters:
  ///   - exporter: RFC 9266 value of its TLS connection; empty without TLS or
  ///     behind a TLS proxy.
  ///   - seals: the node speaks no TLS, neither to us nor to a proxy in front of
  ///     us: messages are sealed after the login.
  package func connectionOpened(
    _ id: UInt32, kind: ConnectionKind, address: Endpoint, exporter: [UInt8], seals: Bool,
    now: Instant
  ) {
    precondition(connections[id] == nil, "connection opened twice")
    statistics.connectionsOpened += 1
    let network = Self.network(of: address.address)
    guard connections.count < ServerLimits.connections,
      pendingCount < ServerLimits.pendingConnections,
      pendingPerAddress[network, default: 0] < ServerLimits.pendingPerAddress
    else {
      if kind == .signalling {
        let bytes = LoginServer.refusal(LoginRefusal(.serverFull, retryAfterSeconds: 5))
        let envelope = ServerEnvelope(request: 0, message: .login(bytes))
        effects.append(.send(connection: id, envelope.encoded()))
      }
      effects.append(.close(connection: id, .full))
      logStranger(.closed(address: address, .full), now: now)
      return
    }
    let phase: ServerConnection.Phase =
      switch kind {
      case .signalling:
        .login(
          LoginServer(meshes: loginMeshes, exporter: exporter, address: address.address))
      case .relayLeg: .legHello
      }
    connections[id] = ServerConnection(
      id: id, address: address, seals: seals, phase: phase, now: now)
    pendingCount += 1
    pendingPerAddress[network, default: 0] += 1
    sweepDeadline = min(sweepDeadline, now + ServerLimits.sweep)
  }

  /// Logged in, or a relay leg whose ticket held.
  package func isProven(_ id: UInt32) -> Bool {
    connections[id].map { !$0.isPending } ?? false
  }

  /// The connection ended without the machine's doing.
  package func connectionClosed(_ id: UInt32, now: Instant) {
    guard let connection = connections[id] else { return }
    drop(connection, reason: nil, now: now)
    drainRouter(now: now)
  }

  /// One binary message of a signalling connection.
  package func receive(_ bytes: [UInt8], connection id: UInt32, now: Instant) {
    receiveLeg(bytes.span.bytes, connection: id, now: now)
  }

  /// One binary message of any connection. Frames of a relay leg go through to
  /// the router without a copy of their own.
  package func receiveLeg(_ bytes: RawSpan, connection id: UInt32, now: Instant) {
    guard let connection = connections[id] else {
      statistics.unknownConnection += 1
      return
    }
    switch connection.phase {
    case .leg:
      connection.heard = now
      router.receiveFrames(connection: id, bytes, now: now)
    case .legHello:
      openLeg([UInt8](bytes), connection, now: now)
    case .login(let login):
      statistics.messages += 1
      receiveLogin([UInt8](bytes), connection, login, now: now)
    case .online(let member):
      statistics.messages += 1
      connection.heard = now
      guard connection.messages.take(now: now) else {
        close(connection, .flood, now: now)
        return
      }
      receiveSealed([UInt8](bytes), connection, member, now: now)
    }
    drainRouter(now: now)
  }

  // MARK: Time and effects

  /// When `advance` has something to do. The router's deadline is included.
  package var nextDeadline: Instant {
    var deadline = min(sweepDeadline, router.nextDeadline)
    for meeting in waiting {
      if case .waits(let until) = meeting.state { deadline = min(deadline, until) }
    }
    return deadline
  }

  package func advance(to now: Instant) {
    router.advance(to: now)
    startDueMeetings(now: now)
    if now >= sweepDeadline { sweep(now: now) }
    drainRouter(now: now)
  }

  /// The next thing to do; nil = nothing for now.
  package func pollEffect() -> ServerEffect? {
    guard effectPosition < effects.count else {
      effects.removeAll(keepingCapacity: effects.count < 1_024)
      effectPosition = 0
      return nil
    }
    effectPosition += 1
    return effects[effectPosition - 1]
  }

  // MARK: Sending

  func send(_ message: ServerMessage, request: UInt32 = 0, to connection: ServerConnection) {
    send(ServerEnvelope(request: request, message: message).encoded(), to: connection)
  }

  func send(_ encoded: [UInt8], to connection: ServerConnection) {
    let bytes = connection.sealer?.seal(encoded) ?? encoded
    effects.append(.send(connection: connection.id, bytes))
  }

  func store(_ record: StoreRecord) { effects.append(.store(record)) }
  func log(_ event: ServerLogEvent) { effects.append(.log(event)) }

  /// For events that strangers cause.
  func logStranger(_ event: ServerLogEvent, now: Instant) {
    if strangerLog.take(now: now) { log(event) }
  }

  /// Ends a connection by our own will.
  func close(_ connection: ServerConnection, _ reason: CloseReason, now: Instant) {
    guard connections[connection.id] === connection else { return }
    effects.append(.close(connection: connection.id, reason))
    if connection.isPending {
      logStranger(.closed(address: connection.address, reason), now: now)
    }
    drop(connection, reason: reason, now: now)
  }

  /// Forgets a connection, whoever ended it.
  func drop(_ connection: ServerConnection, reason: CloseReason?, now: Instant) {
    guard connections.removeValue(forKey: connection.id) != nil else { return }
    switch connection.phase {
    case .login, .legHello:
      noLongerPending(connection)
    case .online(let member):
      // The late close of a replaced session must not remove the new one.
      if member.connection === connection { setOffline(member, reason, now: now) }
    case .leg(let member):
      router.removeLeg(connection: connection.id, now: now)
      if member.leg === connection { member.leg = nil }
    }
  }

  func noLongerPending(_ connection: ServerConnection) {
    pendingCount -= 1
    let network = Self.network(of: connection.address.address)
    let left = pendingPerAddress[network, default: 1] - 1
    pendingPerAddress[network] = left > 0 ? left : nil
  }

  /// Who has one IPv6 address has its /64.
  static func network(of address: IPAddress) -> IPAddress {
    address.isV4 ? address : IPAddress(high: address.high, low: 0)
  }
}
