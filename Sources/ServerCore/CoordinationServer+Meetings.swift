/// Bringing pairs together: ConnectReq in, PunchStart to both out, with a
/// session id, a channel of the server relay, candidates, the other's
/// certificate, a delay, and the named initiator. Crossing ConnectReqs are one
/// meeting; the side whose ConnectReq came first is its named initiator.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

extension CoordinationServer {
  func connect(
    _ connect: ConnectRequest, request: UInt32, _ connection: ServerConnection,
    _ member: ServerMember, now: Instant
  ) {
    guard connect.peer != member.name else {
      refuse(.notPermitted, "a node needs no connection to itself", request, connection)
      return
    }
    guard let peer = meshes[member.mesh].members[connect.peer] else {
      refuse(.peerUnknown, "no node \(connect.peer) in this mesh", request, connection)
      return
    }
    guard peer.connection != nil else {
      refuse(.peerOffline, "\(connect.peer) is offline", request, connection)
      return
    }
    guard connection.connects.take(now: now) else {
      refuse(.limit, "too many connection requests", request, connection)
      return
    }
    if let meeting = meetingOfPair[PairKey(member, peer)],
      join(meeting, connect, request, member, now: now)
    {
      return
    }
    let meeting = newMeeting(
      initiator: member, responder: peer, initiation: connect.initiation, now: now)
    guard let meeting else {
      refuse(.limit, "too many meetings", request, connection)
      return
    }
    meeting.candidates[0] = connect.candidates
    meeting.nats[0] = connect.nat
    meeting.requests.append((0, request))
    startOrWait(meeting, now: now)
  }

  /// Brings two nodes together at the operator's wish.
  /// - Returns: false when one of them is unknown or offline.
  package func introduce(from: String, to: String, mesh: String? = nil, now: Instant) -> Bool {
    for index in meshes.indices where mesh == nil || meshes[index].name == mesh {
      guard let a = meshes[index].members[from], let b = meshes[index].members[to], a !== b,
        a.connection != nil, b.connection != nil,
        let meeting = newMeeting(initiator: a, responder: b, initiation: [], now: now)
      else { continue }
      startOrWait(meeting, now: now)
      return true
    }
    return false
  }

  /// A request that belongs to a meeting there is: the other side's crossing
  /// one, or a repetition while it waits.
  private func join(
    _ meeting: Meeting, _ connect: ConnectRequest, _ request: UInt32, _ member: ServerMember,
    now: Instant
  ) -> Bool {
    guard let side = meeting.side(of: member) else { return false }
    switch meeting.state {
    case .waits:
      meeting.candidates[side] = connect.candidates
      meeting.nats[side] = connect.nat
      if side == 0 { meeting.initiation = connect.initiation }
      if meeting.requests.count < 8 { meeting.requests.append((side, request)) }
      if side == 1 { statistics.crossings += 1 }
      return true
    case .started(let start):
      let isSamePair =
        meeting.told[0] == meeting.initiator.connection?.id
        && meeting.told[1] == meeting.responder.connection?.id
      // Who has lost the relay leg since then asks for another channel.
      guard side == 1, now - start < ServerLimits.crossing, isSamePair,
        hasEveryChannel(meeting)
      else { return false }
      statistics.crossings += 1
      let known = update(of: meeting, for: 0, now: now)
      meeting.candidates[1] = connect.candidates
      meeting.nats[1] = connect.nat
      punch(meeting, side: 1, request: request, now: now)
      let news = update(of: meeting, for: 0, now: now)
      // Whoever hears the same again would begin anew.
      if let other = meeting.initiator.connection,
        news.nat != known.nat || Set(news.candidates) != Set(known.candidates)
      {
        send(.candidates(news), to: other)
      }
      return true
    }
  }

  private func newMeeting(
    initiator: ServerMember, responder: ServerMember, initiation: [UInt8], now: Instant
  ) -> Meeting? {
    let key = PairKey(initiator, responder)
    let old = meetingOfPair[key]
    guard old != nil || meetingOfPair.count < ServerLimits.meetings else { return nil }
    var session = random.next()
    while session == 0 || meetingOfSession[session] != nil { session = random.next() }
    let meeting = Meeting(
      session: session, initiator: initiator, responder: responder, initiation: initiation,
      state: .waits(until: now + ServerLimits.legWait))
    if let old {
      // The channel there is goes on being used.
      meetingOfSession[old.session] = nil
      waiting.removeAll { $0 === old }
      meeting.channel = old.channel
      meeting.legs = old.legs
      if old.initiator !== initiator, let channel = old.channel {
        meeting.channel = channel.swapped
        meeting.legs.reverse()
      }
      if let channel = meeting.channel { meetingOfChannel[channel.id] = meeting }
    }
    meetingOfPair[key] = meeting
    meetingOfSession[session] = meeting
    statistics.meetings += 1
    sweepDeadline = min(sweepDeadline, now + ServerLimits.sweep)
    return meeting
  }

  private func startOrWait(_ meeting: Meeting, now: Instant) {
    if isComplete(meeting) {
      start(meeting, now: now)
    } else {
      waiting.append(meeting)
    }
  }

  private func isComplete(_ meeting: Meeting) -> Bool {
    for side in 0..<2 {
      let member = meeting.member(side)
      guard member.leg != nil, member.hasReported else { return false }
    }
    return true
  }

  func startWaitingMeetings(of member: ServerMember, now: Instant) {
    for meeting in waiting
    where meeting.side(of: member) != nil && isComplete(meeting) {
      start(meeting, now: now)
    }
  }

  func startDueMeetings(now: Instant) {
    for meeting in waiting {
      if case .waits(let until) = meeting.state, now >= until { start(meeting, now: now) }
    }
  }

  /// Tells both sides.
  private func start(_ meeting: Meeting, now: Instant) {
    waiting.removeAll { $0 === meeting }
    meeting.state = .started(now)
    openChannel(meeting, now: now)
    log(
      .meeting(
        mesh: meshes[meeting.initiator.mesh].name, from: meeting.initiator.name,
        to: meeting.responder.name, hasChannel: meeting.channel != nil))
    for side in 0..<2 {
      meeting.told[side] = meeting.member(side).connection?.id
      let requests = meeting.requests.filter { $0.side == side }
      if requests.isEmpty { punch(meeting, side: side, request: 0, now: now) }
      for entry in requests { punch(meeting, side: side, request: entry.request, now: now) }
    }
    meeting.requests = []
  }

  /// Both have a leg, and the channel leads over these two; or there can be none.
  private func hasEveryChannel(_ meeting: Meeting) -> Bool {
    guard let a = meeting.initiator.leg?.id, let b = meeting.responder.leg?.id else { return true }
    guard let channel = meeting.channel else { return false }
    return router.isOpen(channel.id) && meeting.legs == [a, b]
  }

  private func openChannel(_ meeting: Meeting, now: Instant) {
    guard let a = meeting.initiator.leg?.id, let b = meeting.responder.leg?.id else {
      closeChannel(meeting, now: now)
      return
    }
    if hasEveryChannel(meeting) { return }
    closeChannel(meeting, now: now)
    do {
      let channel = try router.open(
        mesh: UInt32(meeting.initiator.mesh), connectionA: a, connectionB: b, now: now)
      meeting.channel = channel
      meeting.legs = [a, b]
      meetingOfChannel[channel.id] = meeting
    } catch {
      // No channel: the pair may still meet directly.
      meeting.channel = nil
    }
  }

  private func closeChannel(_ meeting: Meeting, now: Instant) {
    guard let channel = meeting.channel else { return }
    meetingOfChannel[channel.id] = nil
    meeting.channel = nil
    meeting.legs = []
    router.close(channel.id, now: now)
  }

  private func punch(_ meeting: Meeting, side: Int, request: UInt32, now: Instant) {
    let peer = meeting.member(1 - side)
    guard let connection = meeting.member(side).connection else { return }
    let number = meeting.channel.map { side == 0 ? $0.numberA : $0.numberB } ?? 0
    send(
      .punchStart(
        PunchStart(
          session: meeting.session, channel: number, certificate: peer.certificateBytes,
          incarnation: peer.report.incarnation,
          candidates: candidates(of: meeting, for: side, now: now),
          nat: meeting.nats[1 - side], delayMilliseconds: delay(meeting, side: side),
          isNamedInitiator: side == 0, initiation: side == 1 ? meeting.initiation : [])),
      request: request, to: connection)
  }

  /// Both begin at the same instant: who hears of it sooner waits longer.
  private func delay(_ meeting: Meeting, side: Int) -> UInt16 {
    let ways = (0..<2).map { (meeting.member($0).connection?.roundTrip ?? .zero) / 2 }
    return UInt16(max(0, (max(ways[0], ways[1]) - ways[side]).nanoseconds) / 1_000_000)
  }

  // MARK: Candidates

  func forwardCandidates(
    _ update: MeetingUpdate, _ request: UInt32, _ connection: ServerConnection,
    _ member: ServerMember, now: Instant
  ) {
    guard let meeting = meetingOfSession[update.session], let side = meeting.side(of: member) else {
      refuse(.peerUnknown, "no such meeting", request, connection)
      return
    }
    meeting.candidates[side] = update.candidates
    meeting.nats[side] = update.nat
    let peer = meeting.member(1 - side)
    guard let target = peer.connection else {
      refuse(.peerOffline, "\(peer.name) is offline", request, connection)
      return
    }
    if case .started = meeting.state {
      var news = self.update(of: meeting, for: 1 - side, now: now)
      news.isDialling = update.isDialling
      send(.candidates(news), to: target)
    }
    done(request, connection)
  }

  /// The peer of `side` as it is now.
  private func update(of meeting: Meeting, for side: Int, now: Instant) -> MeetingUpdate {
    MeetingUpdate(
      session: meeting.session, candidates: candidates(of: meeting, for: side, now: now),
      nat: meeting.nats[1 - side])
  }

  /// What `side` may try: what the peer said and what the server knows of it.
  private func candidates(
    of meeting: Meeting, for side: Int, now: Instant
  ) -> [SignalledCandidate] {
    let peer = meeting.member(1 - side)
    let receiver = meeting.member(side)
    var owner = peer.facts
    owner.streamPorts = streamSources.ports(of: owner.seenAt, now: now)
    var result: [SignalledCandidate] = []
    for candidate in meeting.candidates[1 - side]
      + knownCandidates(peer)
    where !result.contains(candidate) && result.count < SignalLimits.candidates {
      if CandidateRule.allows(candidate, of: owner, to: receiver.facts) {
        result.append(candidate)
      } else {
        statistics.candidatesFiltered += 1
      }
    }
    return result
  }

  /// From the report: its interfaces and its port; and the address the server
  /// sees, where a port forwarding or a port-preserving NAT may lead to it,
  /// unless the node itself has found out where its NAT puts it.
  private func knownCandidates(_ member: ServerMember) -> [SignalledCandidate] {
    guard member.hasReported, member.report.port != 0 else { return [] }
    var result = member.report.interfaces.map {
      SignalledCandidate(
        kind: .host, transport: .udp, endpoint: Endpoint($0, member.report.port))
    }
    let seen = member.seenAt.address
    result += member.report.candidates
    let isTold = result.contains {
      $0.kind == .serverReflexive && $0.transport == .udp && $0.endpoint.address.isV4 == seen.isV4
    }
    if !seen.isUnspecified, !isTold, !member.report.interfaces.contains(seen) {
      result.append(
        SignalledCandidate(
          kind: .serverReflexive, transport: .udp, endpoint: Endpoint(seen, member.report.port)))
    }
    return result
  }

  // MARK: Ends

  /// A member left: who waited to meet it hears so at once.
  func refuseWaitingMeetings(of member: ServerMember) {
    for meeting in waiting {
      guard let side = meeting.side(of: member) else { continue }
      if let other = meeting.member(1 - side).connection {
        for entry in meeting.requests where entry.side == 1 - side {
          refuse(.peerOffline, "\(member.name) is offline", entry.request, other)
        }
      }
      waiting.removeAll { $0 === meeting }
      meetingOfPair[PairKey(meeting.initiator, meeting.responder)] = nil
      meetingOfSession[meeting.session] = nil
      if let channel = meeting.channel { meetingOfChannel[channel.id] = nil }
    }
  }

  func forgetMeeting(_ meeting: Meeting, now: Instant) {
    waiting.removeAll { $0 === meeting }
    let key = PairKey(meeting.initiator, meeting.responder)
    if meetingOfPair[key] === meeting { meetingOfPair[key] = nil }
    meetingOfSession[meeting.session] = nil
    closeChannel(meeting, now: now)
  }

  func sweepMeetings(now: Instant) {
    for meeting in meetingOfPair.values.sorted(by: { $0.session < $1.session })
    where meeting.channel == nil {
      guard case .started(let start) = meeting.state, now - start >= ServerLimits.meetingTime
      else { continue }
      forgetMeeting(meeting, now: now)
    }
  }
}

extension OpenedChannel {
  /// The same channel, A and B exchanged.
  var swapped: OpenedChannel {
    OpenedChannel(
      id: id, numberA: numberB, numberB: numberA, largestPacket: largestPacket)
  }
}
