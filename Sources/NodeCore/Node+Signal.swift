/// The node's side of signalling: login, welcome, heartbeats, and the answer to
/// every push (who is a member: Node+Members.swift). The connection itself is the
/// driver's; a lost one is only told here. DESIGN §3; docs/protocol/signaling.md,
/// login.md.
///
/// ```
///  down ──signalConnected──► loggingIn ──welcome──► online
///   ▲                            │                    │
///   └──────── signalClosed, time-out, refusal ────────┘
/// ```

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  internal import Mux
  internal import NAT
  internal import Paths
  internal import Signaling
  internal import Tunnels
  internal import WireGuard
#endif

enum SignalState {
  case down
  /// The exchange runs; `due` ends it.
  case loggingIn(LoginClient, due: Instant, usesTLS: Bool)
  /// The login held; the welcome is due.
  case welcomed(due: Instant, sealer: SignalSealer?)
  case online(sealer: SignalSealer?)

  var sealer: SignalSealer? {
    switch self {
    case .down, .loggingIn: nil
    case .welcomed(_, let sealer), .online(let sealer): sealer
    }
  }
}

struct PendingRequest {
  enum Kind {
    case report, heartbeat, offers, ticket
    case connect(peer: Int)
    case candidates(peer: Int, session: UInt64)
    case relay(peer: Int)
  }
  var kind: Kind
  var due: Instant
}

extension LegHello {
  static func make(ticket: RelayTicket, counter: UInt64) -> LegHello {
    var hello = LegHello(id: ticket.id, counter: counter, proof: [])
    hello.proof = HMACSHA256.authenticate(key: ticket.secret, hello.signed)
    return hello
  }
}

/// The name an endpoint has beside the one people give it: a UUID (RFC 9562
/// version 8) from the hash of its static key.
package enum EndpointIdentifier {
  package static func make(staticKey: [UInt8]) -> String {
    var bytes = Array(SHA256.hash(Array("martlet endpoint v1".utf8) + staticKey)[..<16])
    bytes[6] = bytes[6] & 0x0f | 0x80
    bytes[8] = bytes[8] & 0x3f | 0x80
    var text = ""
    for (index, byte) in bytes.enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      let digits = String(byte, radix: 16)
      text += digits.count == 1 ? "0" + digits : digits
    }
    return text
  }
}

// MARK: The connection

extension Node {
  package var isOnline: Bool {
    if case .online = signal { return true }
    return false
  }

  /// The driver has a WebSocket to the server.
  /// - Parameters:
  ///   - exporter: RFC 9266 channel binding; empty without TLS.
  ///   - nameVerified: a CA vouched for the server's name.
  package func signalConnected(
    usesTLS: Bool, exporter: [UInt8], nameVerified: Bool = false, now: Instant
  ) {
    clock = now
    clearSignal()
    var client = LoginClient(
      node: settings.name, staticKey: settings.staticKey, verifier: verifier,
      nodeSecret: nodeSecret, exporter: exporter, allowsUnbound: nameVerified,
      ciphers: settings.ciphers, attachment: settings.identityProof)
    let hello = client.start(using: &random)
    signal = .loggingIn(client, due: now + NodeLimits.loginDue, usesTLS: usesTLS)
    queue(ClientEnvelope(request: 0, message: .login(hello)))
  }

  /// The connection is over. Sessions and flows go on.
  package func signalClosed(now: Instant) {
    clock = now
    clearSignal()
    for peer in peers where peer.isMeeting { peer.meeting = .none }
    settle(now: now)
  }

  private func clearSignal() {
    signal = .down
    requests.removeAll(keepingCapacity: true)
    outgoing.removeAll(keepingCapacity: true)
    outgoingHead = 0
    heartbeatAt = .distantFuture
  }

  /// The next message for the server, or nil.
  package func pollSignal() -> [UInt8]? {
    guard outgoingHead < outgoing.count else { return nil }
    let message = outgoing[outgoingHead]
    outgoingHead += 1
    if outgoingHead == outgoing.count {
      outgoing.removeAll(keepingCapacity: true)
      outgoingHead = 0
    }
    return message
  }

  /// One WebSocket message from the server.
  package func signalReceived(_ bytes: [UInt8], now: Instant) {
    clock = now
    defer { settle(now: now) }
    let plain: [UInt8]
    if let sealer = signal.sealer {
      guard let opened = sealer.open(bytes) else {
        closeSignal("a message from the server was not authentic", now: now)
        return
      }
      plain = opened
    } else {
      plain = bytes
    }
    let envelope: ServerEnvelope
    do throws(MessageFault) {
      envelope = try ServerEnvelope(decoding: plain)
    } catch {
      drops.badSignal += 1
      if case .unknownType(_, let request) = error, request != 0, isOnline {
        queue(ClientEnvelope(request: request, message: .answer(ok: false, words: "unknown type")))
      }
      return
    }
    switch signal {
    case .down:
      drops.badSignal += 1
    case .loggingIn(let client, let due, let usesTLS):
      receiveLogin(envelope, client, due: due, usesTLS: usesTLS, now: now)
    case .welcomed(_, let sealer):
      if case .welcome(let welcome) = envelope.message {
        welcomed(welcome, sealer: sealer, now: now)
      } else {
        drops.badSignal += 1
      }
    case .online:
      receiveOnline(envelope, now: now)
    }
  }

  private func receiveLogin(
    _ envelope: ServerEnvelope, _ client: LoginClient, due: Instant, usesTLS: Bool, now: Instant
  ) {
    guard case .login(let payload) = envelope.message else {
      drops.badSignal += 1
      return
    }
    var client = client
    switch client.receive(payload, using: &random) {
    case .send(let bytes):
      signal = .loggingIn(client, due: due, usesTLS: usesTLS)
      queue(ClientEnvelope(request: 0, message: .login(bytes)))
    case .done(let result):
      if result.nodeSecretIsNew {
        nodeSecret = result.nodeSecret
        emit(.store(.nodeSecret(result.nodeSecret)))
      }
      if authority != result.authority {
        if authority != nil {
          log(.warning, "authority-changed", "the server's mesh authority has changed")
          removeAllMembers(now: now)
          authorityClock = AuthorityClock(stored: 0, now: now)
          evictions = nil
        }
        authority = result.authority
        emit(.store(.authorityKey(result.authority)))
      }
      signal = .welcomed(
        due: due, sealer: usesTLS ? nil : SignalSealer(result.keys, side: .node))
    case .failed(let failure):
      let (code, words) = Node.explain(failure, node: settings.name)
      signal = .down
      emit(.loginRefused(code: code, words: words))
    }
  }

  /// A refusal in words: what happened and what to do.
  private static func words(_ refusal: LoginRefusal, node: String) -> String {
    switch refusal.reason {
    case .wrongToken: "the server does not accept this token; check -token"
    case .unknownNode: "the server does not know this node's secret"
    case .nameTaken:
      "the name \(node) belongs to another key; choose another -node, or run `martlet server forget \(node)` on the server"
    case .throttled:
      "too many failed logins; the server asks to wait \(refusal.retryAfterSeconds) s"
    case .badVersion: "the server speaks another version of the login"
    case .serverFull: "the server has no room for another node"
    case .malformed: "the server could not read the login"
    case .badKeyProof: "the proof of the static key did not hold"
    case .evicted: "this node was evicted from the mesh"
    case .duplicateKey:
      "this node's key is used by two machines at once; give each its own -data directory"
    }
  }

  private static func explain(_ failure: LoginFailure, node: String) -> (UInt16, String) {
    switch failure {
    case .refused(let refusal):
      (UInt16(refusal.reason.rawValue), words(refusal, node: node))
    case .serverNotAuthentic:
      (0x100, "the server does not know the token, or somebody sits in between")
    case .unboundTLS:
      (0x101, "a TLS proxy is in front of the server and its certificate is not verified")
    case .malformed: (0x102, "the server's login answer is malformed")
    case .outOfOrder: (0x103, "the server's login answer came out of order")
    }
  }

  private func welcomed(_ welcome: Welcome, sealer: SignalSealer?, now: Instant) {
    guard let authority else { return }
    do throws(CertificateFault) {
      let own = try Certificate(verifying: welcome.certificate, authority: authority)
      guard own.staticKey == settings.staticKey.publicKey else { throw .badSignature }
      ownCertificate = own
      authorityClock.observe(own.issuedAt, now: now)
      // Looks at all certificates, and keeps authority time.
      expiryAt = now
      userName = own.user
    } catch {
      closeSignal("the server gave a bad certificate (\(error))", now: now)
      return
    }
    signal = .online(sealer: sealer)
    seenAt = welcome.seenAt
    ticket = welcome.ticket
    ticketCounter = 0
    serverTime = (welcome.serverTimeNanoseconds, now)
    heartbeatAt = now + NodeLimits.heartbeat
    leg = nil
    hadLeg = false
    for peer in peers where !peer.isStock {
      // Channels belong to the server's session with us: the old ones are void.
      dropRelayCarrier(of: peer, now: now)
      peer.channel = 0
      peer.lastSession = 0
      peer.isOnline = false
      peer.meeting = .none
      peer.lastAsked = .distantPast
    }
    tellRelay(secrets: welcome.relaySecrets)
    receiveEvictions(welcome.evictions, now: now)
    for member in welcome.members { memberChanged(member, now: now) }
    request(.report(report), kind: .report, now: now)
    emit(.online)
    // Relay channels for the sessions that live, and the peers of the last process.
    for peer in peers where !peer.isRemoved && peer.isOnline {
      if peer.connectedSince != nil || formerPeers.contains(peer.name) {
        if peer.connectedSince == nil { peer.isWanted = true }
        meet(peer, now: now)
      }
    }
    formerPeers = []
  }

  /// Tells the server what has changed about this node.
  func reportAgain(now: Instant) {
    guard isOnline else { return }
    request(.report(report), kind: .report, now: now)
  }

  private var report: ReportBasic {
    ReportBasic(
      os: settings.os, version: settings.version, incarnation: settings.incarnation,
      nat: natFacts, port: settings.port,
      interfaces: localAddresses.prefix(SignalLimits.candidates).map(\.address),
      candidates: portMappedCandidates + reflexiveCandidates + streamPortMappedCandidates
        + streamHostCandidates + streamReflexiveCandidates, offers: offers, relay: relayReport)
  }

  private var offers: [SignalledOffer] {
    var result: [SignalledOffer] = []
    for key in tunnels.outbounds.keys.sorted() {
      result.append(SignalledOffer(tunnel: key.description, isInbound: false))
    }
    for key in tunnels.inbounds.keys.sorted() {
      result.append(SignalledOffer(tunnel: key.description, isInbound: true))
    }
    return Array(result.prefix(SignalLimits.offers))
  }

  func offersChanged() {
    guard isOnline else { return }
    request(.offers(offers), kind: .offers, now: clock)
  }

  // MARK: Messages while online

  private func receiveOnline(_ envelope: ServerEnvelope, now: Instant) {
    switch envelope.message {
    case .ok, .error, .punchStart, .heartbeat, .ticket, .relayNodeResponse:
      if envelope.request != 0, let pending = requests.removeValue(forKey: envelope.request) {
        answered(pending, envelope.message, now: now)
      } else if case .punchStart(let punch) = envelope.message {
        pushed(punch, now: now)
      } else if case .error(let code, let words) = envelope.message {
        log(.warning, "server-error", "\(words) (\(code))")
      }
    case .memberChanged(let member):
      memberChanged(member, now: now)
    case .memberRemoved(let node):
      if let index = peerNames[node] { removePeer(peers[index], now: now) }
      emit(.store(.memberRemoved(node: node)))
    case .candidates(let update):
      for peer in peers
      where !peer.isRemoved && update.session != 0 && peer.lastSession == update.session {
        updated(peer, update, now: now)
      }
    case .evictions(let list):
      receiveEvictions(list, now: now)
    case .notice(let code, let words):
      log(.warning, "notice", words)
      if code == .replaced || code == .duplicateKey || code == .evicted {
        closeSignal(words, now: now)
      }
    case .forwarded(let from, let kind, _):
      // No kind is defined yet; the sender hears that (never silence).
      if envelope.request != 0 {
        queue(
          ClientEnvelope(
            request: envelope.request,
            message: .answer(ok: false, words: "message kind \(kind) is not known here")))
      }
      log(.debug, "forwarded", "message of kind \(kind) from \(from) refused")
      return
    case .pushRelayOffer(let grant):
      relayGranted(grant, isPushed: true, now: now)
    case .relaySecrets(let secrets):
      tellRelay(secrets: secrets)
    case .relayAnnounced(let announcement):
      relayAnnounced(announcement, now: now)
    case .login, .welcome:
      drops.badSignal += 1
    }
    switch envelope.message {
    case .memberChanged, .memberRemoved, .candidates, .evictions, .notice:
      if envelope.request != 0 {
        queue(ClientEnvelope(request: envelope.request, message: .answer(ok: true, words: "")))
      }
    default:
      break
    }
  }

  private func answered(_ pending: PendingRequest, _ message: ServerMessage, now: Instant) {
    switch (pending.kind, message) {
    case (.connect(let index), _) where peers[index].isRemoved:
      break
    case (.connect(let index), .punchStart(let punch)):
      met(peers[index], punch, now: now)
    case (.connect(let index), .error(let code, let words)):
      let peer = peers[index]
      peer.meeting = .none
      if code == .peerOffline || code == .peerUnknown { peer.isOnline = false }
      log(.info, "connect-refused", "\(peer.name): \(words)")
      if !peer.isConnected { failOpenings(to: peer, now: now) }
    case (.candidates(let index, let session), .error) where peers[index].lastSession == session:
      // The server has forgotten the meeting: a new one tells the peer as well.
      peers[index].lastSession = 0
      if !peers[index].isRemoved, peers[index].isOnline {
        peers[index].lastAsked = .distantPast
        meet(peers[index], now: now)
      }
    case (.candidates, .error):
      // Of a meeting that another has followed.
      break
    case (.heartbeat, .heartbeat(let time)):
      serverTime = (time, now)
      tellRelay(secrets: nil)
    case (.relay, .relayNodeResponse(let grant)):
      relayGranted(grant, isPushed: false, now: now)
    case (.relay(let index), .error):
      // Offline, or too many requests.
      wantRelay(for: peers[index], after: RelayTunables.retry, now: now)
    case (.ticket, .ticket(let new)):
      ticket = new
      ticketCounter = 0
    case (_, .error(let code, let words)):
      log(.warning, "server-error", "\(words) (\(code))")
    default:
      break
    }
  }

  /// A PunchStart nobody asked for: the peer did.
  private func pushed(_ punch: PunchStart, now: Instant) {
    guard let peer = admit(punch.certificate, now: now) else { return }
    peer.isOnline = true
    let isAsking = refreshMappings(
      isDoubtful: peer.connectedSince != nil && !peer.paths.hasDatagramPath, now: now)
    met(peer, punch, now: now)
    // The server tells a peer where our counter stood long ago.
    if !isAsking, natFacts.isCounted, !peer.paths.hasDatagramPath { announceCandidates(to: peer) }
  }

  func failOpenings(to peer: Peer, now: Instant) {
    for index in openings.sorted() where flows[Int(index)].peer == peer.index {
      flows[Int(index)].attempt?.due = now
    }
    advanceOpenings(now: now)
  }

  // MARK: Requests

  /// - Returns: false when too many wait for an answer already.
  @discardableResult
  func request(_ message: ClientMessage, kind: PendingRequest.Kind, now: Instant) -> Bool {
    guard requests.count < NodeLimits.requests else { return false }
    let id = nextRequest
    nextRequest = nextRequest == .max ? 1 : nextRequest + 1
    requests[id] = PendingRequest(kind: kind, due: now + NodeLimits.answerDue)
    queue(ClientEnvelope(request: id, message: message))
    return true
  }

  func askToConnect(_ peer: Peer, initiation: [UInt8], now: Instant) {
    guard isOnline else {
      peer.meeting = .none
      return
    }
    peer.meeting = .asked(now)
    peer.lastAsked = now
    refreshMappings(now: now)
    if natFacts.isUDPBlocked || peer.nat.isUDPBlocked { learnStreamMapping(now: now) }
    let isAsked = request(
      .connect(
        ConnectRequest(
          peer: peer.name, candidates: localCandidates, nat: natFacts, initiation: initiation)),
      kind: .connect(peer: peer.index), now: now)
    if !isAsked { peer.meeting = .none }
  }

  func announceCandidates(to peer: Peer) {
    guard isOnline else { return }
    guard peer.lastSession != 0 else {
      meet(peer, now: clock)
      return
    }
    if peer.dialer.isPunching { peer.toldPunches = peer.dialer.punches }
    request(
      .candidates(
        MeetingUpdate(
          session: peer.lastSession, candidates: localCandidates, nat: natFacts,
          isDialling: peer.dialer.isPunching)),
      kind: .candidates(peer: peer.index, session: peer.lastSession), now: clock)
  }

  func queue(_ envelope: ClientEnvelope) {
    let bytes = envelope.encoded()
    outgoing.append(signal.sealer?.seal(bytes) ?? bytes)
  }

  func closeSignal(_ reason: String, now: Instant) {
    clearSignal()
    emit(.signalClosed(reason: reason))
  }

  // MARK: Time

  var nextSignalDeadline: Instant {
    switch signal {
    case .down: return .distantFuture
    case .loggingIn(_, let due, _), .welcomed(let due, _): return due
    case .online:
      var next = heartbeatAt
      for request in requests.values { next = min(next, request.due) }
      return next
    }
  }

  func advanceSignal(to now: Instant) {
    switch signal {
    case .down:
      break
    case .loggingIn(_, let due, _), .welcomed(let due, _):
      if due <= now { closeSignal("the server did not answer the login", now: now) }
    case .online:
      if requests.values.contains(where: { $0.due <= now }) {
        closeSignal("the server does not answer", now: now)
      } else if heartbeatAt <= now {
        sendHeartbeat(now: now)
      }
    }
  }

  private func sendHeartbeat(now: Instant) {
    heartbeatAt = now + NodeLimits.heartbeat
    request(.heartbeat, kind: .heartbeat, now: now)
  }

  /// A path fails: the router that forgot it may have forgotten the connection to
  /// the server as well, and then nothing of the server's comes in before
  /// something of ours goes out.
  func hastenHeartbeat(now: Instant) {
    guard isOnline, heartbeatAt - now <= NodeLimits.heartbeat - NodeLimits.heartbeatGap else {
      return
    }
    sendHeartbeat(now: now)
  }

  // MARK: Records

  func restore(_ records: [NodeRecord], now start: Instant) {
    endpointID = EndpointIdentifier.make(staticKey: settings.staticKey.publicKey)
    userName = "default"
    var members: [String: [UInt8]] = [:]
    for record in records {
      switch record {
      case .nodeSecret(let secret): nodeSecret = secret
      case .authorityKey(let key): authority = key
      case .member(let node, let certificate): members[node] = certificate
      case .memberRemoved(let node): members[node] = nil
      case .evictions(let list): receiveEvictions(list, now: start)
      case .stampCeiling: break
      case .authorityTime(let time): authorityClock = AuthorityClock(stored: time, now: start)
      case .sessionPeers(let names): formerPeers = Set(names)
      }
    }
    for (_, certificate) in members.sorted(by: { $0.key < $1.key }) {
      _ = admit(certificate, now: start)
    }
    events.removeAll()
    eventHead = 0
  }
}
