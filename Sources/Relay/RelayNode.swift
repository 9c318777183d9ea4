/// A client that is a relay for others (`-relay`, `-super`): everything it does
/// above sockets. spec/inp2p.md "Relay"; docs/protocol/relay.md. TCP connections
/// and UDP sources show a request (RelayAdmission), two that belong together are
/// joined by a channel of the router, which then moves their packets and keeps
/// `-bw`. It learns no session key, remembers nothing of strangers, and sends an
/// unproven address nothing larger than what came from it.
///
///     TCP connection ─► pending ──join, resume──► leg ─┐
///     UDP source ── cookie ── join, resume ──────► leg ─┴─► session ─► channel
///                                 leg lost ─► session waits ─► resumed, or ended
#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  internal import Mux
#endif

/// One per process, owned by one loop. Verbs: `connectionOpened`, `receive`,
/// `connectionClosed`, `pollReady` and `fill` (TCP), `pollTransmit` (UDP),
/// `nextDeadline`, `advance`, `pollEvent`. After any of them the driver drains.
package final class RelayNode {
  package let settings: RelayNodeSettings
  package internal(set) var statistics = RelayNodeStatistics()

  let limits: RelayNodeLimits
  let router: ChannelRouter
  var admission: RelayAdmission
  var random: SeededRandom

  var connections: [UInt32: RelayConnection] = [:]
  var connectionOfSource: [RelaySource: UInt32] = [:]
  var pendingCount = 0
  var pendingPerNetwork: [IPAddress: Int] = [:]
  var sessions: [UInt64: RelaySession] = [:]
  var sessionsPerNode: [[UInt8]: Int] = [:]
  var sessionOfChannel: [ChannelID: RelaySession] = [:]
  /// Leg → its session and side.
  var seats: [UInt64: (session: RelaySession, side: Int)] = [:]
  var freeShares: [UInt32]
  /// Legs with a state on UDP that nothing confirmed yet.
  var unconfirmed: [UInt64] = []
  var repeatDeadline = Instant.distantFuture

  /// UDP connections are numbered by us, with the top bit set.
  var nextSource: UInt32 = RelayWire.udpMark
  var cookieKeys: [[UInt8]]
  var cookieDeadline = Instant.distantFuture
  var requests: TokenBucket
  var strangerReplies: TokenBucket
  var requestsOfNetwork: [IPAddress: Int] = [:]

  var readyStreams: [UInt32] = []
  var readyStreamPosition = 0
  var readySources: [UInt32] = []
  var readySourcePosition = 0
  var replies: [(source: RelaySource, bytes: [UInt8])] = []
  var replyPosition = 0
  var events: [RelayNodeEvent] = []
  var eventPosition = 0
  var sweepDeadline = Instant.distantFuture
  var loadBytes: UInt64 = 0
  var loadTaken = Instant.distantPast
  var usedShare = 0.0

  package init(_ settings: RelayNodeSettings) {
    self.settings = settings
    limits = settings.limits
    random = SeededRandom(seed: settings.seed)
    router = ChannelRouter(limits: settings.routerLimits, capMegabits: settings.megabits)
    admission = RelayAdmission(
      key: settings.key, token: settings.token,
      acceptsTokens: settings.isSuper || settings.token == nil)
    cookieKeys = [random.bytes(32), random.bytes(32)]
    requests = TokenBucket(ratePerSecond: limits.requestsPerSecond, burst: limits.requestBurst)
    strangerReplies = TokenBucket(
      ratePerSecond: limits.strangerRepliesPerSecond, burst: limits.strangerReplyBurst)
    freeShares = (0..<UInt32(limits.sessions)).reversed()
  }

  // MARK: What the server says

  /// Server time from a welcome or heartbeat. Without it nobody is let in.
  package func setServerTime(unixNanoseconds: UInt64, now: Instant) {
    admission.setServerTime(unixNanoseconds: unixNanoseconds, now: now)
  }

  /// The secrets of one-time tokens, newest first.
  package func setSecrets(_ secrets: [RelaySecret]) { admission.setSecrets(secrets) }

  // MARK: What it is

  package var sessionCount: Int { sessions.count }
  /// Nodes that have a leg here, with a connection or without.
  package var guestCount: Int {
    var nodes: Set<[UInt8]> = []
    for session in sessions.values {
      for side in 0...1 where session.legs[side] != nil { nodes.insert(session.keys[side]) }
    }
    return nodes.count
  }
  /// TCP connections and UDP sources.
  package var connectionCount: Int { connections.count }
  package var channelCount: Int { router.openChannelCount }
  package var traffic: RouterStatistics { router.statistics }
  /// Bytes of memory in queues of packets.
  package var queueMemory: Int { router.queueMemory }
  /// Requests remembered against replay.
  package var rememberedCount: Int { admission.rememberedCount }
  /// How much of what it has is used, 0 to 1000: sessions or rate, the greater.
  package var load: UInt16 {
    let filled = Double(sessions.count) / Double(max(1, limits.sessions))
    return UInt16(min(1_000, 1_000 * max(filled, usedShare)))
  }

  // MARK: TCP connections

  /// Somebody connected. Ids are the driver's, below 2^31, never reused.
  /// - Returns: false: close it at once and forget it.
  package func connectionOpened(_ id: UInt32, from remote: Endpoint, now: Instant) -> Bool {
    precondition(id < RelayWire.udpMark && connections[id] == nil, "connection id used twice")
    let network = Self.network(of: remote.address)
    guard connections.count < limits.connections + limits.pending, pendingCount < limits.pending,
      pendingPerNetwork[network, default: 0] < limits.pendingPerAddress
    else {
      statistics.turnedAway += 1
      return false
    }
    connections[id] = RelayConnection(
      id: id, kind: .tcp, source: RelaySource(socket: id, remote: remote), now: now)
    pendingCount += 1
    pendingPerNetwork[network, default: 0] += 1
    keepTime(now)
    return true
  }

  /// It is gone, whoever ended it. Its legs may be resumed on another.
  package func connectionClosed(_ id: UInt32, now: Instant) {
    guard let connection = connections[id], connection.kind == .tcp else { return }
    drop(connection, now: now)
    drainRouter(now: now)
  }

  /// Ends a connection by our own will; the driver still sends what is queued.
  func close(_ connection: RelayConnection, now: Instant) {
    guard !connection.isClosing else { return }
    switch connection.kind {
    case .udp: drop(connection, now: now)
    case .tcp:
      connection.isClosing = true
      loseLegs(of: connection, now: now)
      emit(.close(connection: connection.id))
    }
  }

  private func drop(_ connection: RelayConnection, now: Instant) {
    guard connections.removeValue(forKey: connection.id) != nil else { return }
    if connection.kind == .udp { connectionOfSource[connection.source] = nil }
    if connection.kind == .tcp, connection.owner == nil { noLongerPending(connection) }
    loseLegs(of: connection, now: now)
  }

  /// It was let in, or is gone before that.
  func noLongerPending(_ connection: RelayConnection) {
    pendingCount -= 1
    let network = Self.network(of: connection.source.remote.address)
    let left = pendingPerNetwork[network, default: 1] - 1
    pendingPerNetwork[network] = left > 0 ? left : nil
  }

  /// Who has one IPv6 address has its /64.
  static func network(of address: IPAddress) -> IPAddress {
    address.isV4 ? address : IPAddress(high: address.high, low: 0)
  }

  // MARK: Out

  /// The next TCP connection that has something to send; said once, and again
  /// when something new comes after `fill` has said that nothing is left.
  package func pollReady() -> UInt32? {
    sortReady()
    while readyStreamPosition < readyStreams.count {
      let id = readyStreams[readyStreamPosition]
      readyStreamPosition += 1
      if connections[id] != nil { return id }
    }
    readyStreams.removeAll(keepingCapacity: true)
    readyStreamPosition = 0
    return nil
  }

  /// Whole frames for a TCP connection, as `ChannelRouter.fill`.
  /// - Returns: whether more is ready at once.
  package func fill(
    connection id: UInt32, into output: inout OutputRawSpan, budget: Int, now: Instant
  ) -> Bool {
    guard let connection = connections[id], connection.kind == .tcp else { return false }
    if let pong = connection.pong {
      guard output.freeCapacity >= pong.count else { return true }
      output.write(pong.span.bytes)
      connection.pong = nil
    }
    var sent = 0
    for message in connection.messages {
      guard output.freeCapacity >= message.count else { break }
      output.write(message.span.bytes)
      sent += 1
    }
    connection.messages.removeFirst(sent)
    guard connection.messages.isEmpty else { return true }
    return router.fill(connection: id, into: &output, budget: budget, now: now)
  }

  /// What TCP_NOTSENT_LOWAT of a connection should be, bytes.
  package func notSentLimit(connection: UInt32) -> Int {
    router.notSentLimit(connection: connection)
  }

  /// Datagrams for all UDP legs and askers, until the batch is full.
  /// - Returns: whether more is ready at once.
  package func pollTransmit(into batch: TransmitBatch, now: Instant) -> Bool {
    while replyPosition < replies.count {
      guard batch.freeCapacity >= RelayNodeLimits.datagram else { return true }
      let reply = replies[replyPosition]
      replyPosition += 1
      let carrier = Carrier.udp(socket: reply.source.socket, remote: reply.source.remote)
      batch.append(carrier: carrier, limit: RelayNodeLimits.datagram) {
        $0.write(reply.bytes.span.bytes)
      }
    }
    replies.removeAll(keepingCapacity: true)
    replyPosition = 0
    sortReady()
    // One datagram of each in turn.
    while readySourcePosition < readySources.count {
      guard batch.freeCapacity >= RelayNodeLimits.datagram else { return true }
      let id = readySources[readySourcePosition]
      readySourcePosition += 1
      guard let source = connections[id]?.source else { continue }
      var hasMore = false
      batch.append(
        carrier: .udp(socket: source.socket, remote: source.remote), limit: RelayNodeLimits.datagram
      ) { output in
        hasMore = router.fill(connection: id, into: &output, budget: 1, now: now)
      }
      if hasMore { readySources.append(id) }
      if readySourcePosition > 4_096 {
        readySources.removeFirst(readySourcePosition)
        readySourcePosition = 0
      }
    }
    readySources.removeAll(keepingCapacity: true)
    readySourcePosition = 0
    return false
  }

  private func sortReady() {
    while let id = router.pollReady() {
      if id & RelayWire.udpMark == 0 { readyStreams.append(id) } else { readySources.append(id) }
    }
  }

  /// One of our own messages.
  func send(_ reply: RelayReply, to connection: RelayConnection) {
    switch connection.kind {
    case .tcp:
      guard connection.messages.count < limits.messagesPerLeg else {
        statistics.repliesDropped += 1
        return
      }
      connection.messages.append(reply.frame(over: .tcp))
      readyStreams.append(connection.id)
    case .udp:
      send(reply.frame(over: .udp), to: connection.source)
    }
  }

  func send(_ datagram: [UInt8], to source: RelaySource) {
    guard replies.count - replyPosition < limits.replies else {
      statistics.repliesDropped += 1
      return
    }
    replies.append((source, datagram))
  }

  // MARK: Events

  package func pollEvent() -> RelayNodeEvent? {
    guard eventPosition < events.count else {
      events.removeAll(keepingCapacity: true)
      eventPosition = 0
      return nil
    }
    eventPosition += 1
    return events[eventPosition - 1]
  }

  /// Closes are never dropped: there are no more of them than connections.
  func emit(_ event: RelayNodeEvent) {
    if case .close = event {
      events.append(event)
      return
    }
    guard events.count - eventPosition < limits.events else {
      statistics.eventsDropped += 1
      return
    }
    events.append(event)
  }
}
