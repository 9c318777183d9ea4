/// What a logged-in node may say, and what it gets back: every request an
/// answer or a typed error (F1), every push forwarded or refused (F2).
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

extension CoordinationServer {
  func receiveSealed(
    _ bytes: [UInt8], _ connection: ServerConnection, _ member: ServerMember, now: Instant
  ) {
    var plain = bytes
    if let sealer = connection.sealer {
      guard let opened = sealer.open(bytes) else {
        close(connection, .notAuthentic, now: now)
        return
      }
      plain = opened
    }
    let envelope: ClientEnvelope
    do { envelope = try ClientEnvelope(decoding: plain) } catch {
      answerFault(error, connection, now: now)
      return
    }
    handle(envelope, connection, member, now: now)
  }

  private func answerFault(_ fault: MessageFault, _ connection: ServerConnection, now: Instant) {
    switch fault {
    case .unknownType(let type, let request):
      // A newer node may know more than we do: no fault of its own.
      refuse(.unknownType, "message type \(type) is not known here", request, connection)
    case .malformed(let type, let request):
      refuse(.malformed, "message type \(type) has a wrong layout", request, connection)
      self.fault(connection, now: now)
    case .tooShort, .tooLong:
      refuse(.malformed, "not a message", 0, connection)
      self.fault(connection, now: now)
    }
  }

  private func handle(
    _ envelope: ClientEnvelope, _ connection: ServerConnection, _ member: ServerMember,
    now: Instant
  ) {
    let request = envelope.request
    switch envelope.message {
    case .login:
      refuse(.malformed, "already logged in", request, connection)
      fault(connection, now: now)
    case .report(let report):
      accept(report, of: member, now: now)
      done(request, connection)
      if connection.echoes == 0 { askRoundTrip(connection, now: now) }
    case .heartbeat:
      send(
        .heartbeat(serverTimeNanoseconds: serverTime(now)), request: request, to: connection)
      askRoundTrip(connection, now: now)
    case .connect(let connect):
      self.connect(connect, request: request, connection, member, now: now)
    case .candidates(let update):
      forwardCandidates(update, request, connection, member, now: now)
    case .offers(let offers):
      if member.report.offers != offers {
        member.report.offers = offers
        if member.hasReported { announce(member) }
      }
      done(request, connection)
    case .ticket:
      send(.ticket(newTicket(member)), request: request, to: connection)
    case .forward(let name, let kind, let payload):
      forward(to: name, kind, payload, request, connection, member)
    case .relayNodeRequest(let wanted):
      offerRelays(wanted, request: request, connection, member, now: now)
    case .answer:
      guard let echo = connection.echo, echo.request == request else { return }
      connection.echo = nil
      connection.roundTrip = min(connection.roundTrip, now - echo.sent)
    }
  }

  /// A list of candidates for no meeting: nothing but its answer is wanted. One
  /// login that a lost segment held up would else part every agreed start of the
  /// node by half a second, for as long as it is connected.
  private func askRoundTrip(_ connection: ServerConnection, now: Instant) {
    let request = 1 << 31 | connection.echoes
    connection.echoes = (connection.echoes + 1) & 0x7fff_ffff
    connection.echo = (request, now)
    send(.candidates(session: 0, []), request: request, to: connection)
  }

  private func accept(_ report: ReportBasic, of member: ServerMember, now: Instant) {
    let isNews =
      !member.hasReported || member.report.incarnation != report.incarnation
      || member.report.offers != report.offers || member.report.version != report.version
    member.report = report
    member.hasReported = true
    if isNews { announce(member) }
    noteRelay(member)
    startWaitingMeetings(of: member, now: now)
  }

  private func forward(
    to name: String, _ kind: UInt16, _ payload: [UInt8], _ request: UInt32,
    _ connection: ServerConnection, _ member: ServerMember
  ) {
    guard let peer = meshes[member.mesh].members[name] else {
      refuse(.peerUnknown, "no node \(name) in this mesh", request, connection)
      return
    }
    guard let target = peer.connection else {
      refuse(.peerOffline, "\(name) is offline", request, connection)
      return
    }
    send(.forwarded(from: member.name, kind: kind, payload: payload), to: target)
    done(request, connection)
  }

  func done(_ request: UInt32, _ connection: ServerConnection) {
    if request != 0 { send(.ok, request: request, to: connection) }
  }

  /// A typed refusal; to a message that wanted no answer, a notice.
  func refuse(
    _ code: SignalErrorCode, _ words: String, _ request: UInt32, _ connection: ServerConnection
  ) {
    statistics.errorsAnswered += 1
    let words = Self.cut(words)
    if request == 0 {
      send(.notice(code, words), to: connection)
    } else {
      send(.error(code, words), request: request, to: connection)
    }
  }

  /// Words hold names that others chose: cut them to what the codec takes.
  static func cut(_ words: String) -> String {
    guard words.utf8.count > SignalLimits.words else { return words }
    return String(decoding: Array(words.utf8.prefix(SignalLimits.words - 8)), as: UTF8.self)
      .filter { $0 != "\u{fffd}" }
  }

  func fault(_ connection: ServerConnection, now: Instant) {
    statistics.malformed += 1
    connection.faults += 1
    if connection.faults >= ServerLimits.faults { close(connection, .faults, now: now) }
  }
}
