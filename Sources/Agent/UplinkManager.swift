/// The agent's connections to the server: the signalling WebSocket, kept for
/// ever, and the relay leg beside it. Resolves, dials, retries with jitter;
/// pins the server's certificate once the login has proven it.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import Mux
internal import NodeCore
internal import Reactor
internal import STUN
internal import TLS
internal import Transport

extension Set<IPAddress> {
  /// These are this host's, and a connection from `local` has lost its own.
  func strand(_ local: IPAddress?) -> Bool {
    guard let local, !local.isLoopback else { return false }
    return !contains(local)
  }
}

final class UplinkManager: UplinkDelegate {
  private unowned let agent: AgentRuntime
  private var signal: Uplink?
  private var leg: Uplink?
  private var isLegAccepted = false
  private var legAcceptedAt = Instant.distantPast
  private var onlineSince = Instant.distantPast
  private var isLegBlocked = false
  private var lastNumber: UInt32 = 100
  private var addresses: [IPAddress] = []
  private var retry: TimerToken?
  private var legRetry: TimerToken?
  private var lookup: NameLookup.Token?
  /// Why the connection is down, and what of it was last said in the log.
  private var lastWords = ""
  private var saidWords = ""
  private var isStopped = false
  private var fingerprint: [UInt8]?
  private var tlsContext: TLSContext?
  /// The next reconnect waits this long: a refused login is no reason to hurry.
  private var nextDelay: TimeAmount?

  /// spec/inp2p: reconnect after 5 s with jitter; a refused login every 60 s.
  static let reconnect = TimeAmount.seconds(5)
  static let afterRefusal = TimeAmount.seconds(60)
  /// A connection that has stood for so long and ends was most likely forgotten
  /// by a router: the first new one is tried at once, spread a little so that a
  /// server that starts again is not met by everybody in one moment.
  static let stood = TimeAmount.seconds(5)
  static let atOnce = TimeAmount.milliseconds(500)
  static let legAtOnce = TimeAmount.milliseconds(50)
  /// Bytes of relayed packets that wait for the kernel before the node is told
  /// to stop: more would only hide a queue (DESIGN §1.3).
  static let legBacklog = 64 * 1024

  /// All connections to the server go through it.
  private let proxy: HTTPProxy?

  init(_ agent: AgentRuntime) {
    self.agent = agent
    proxy = agent.options.proxy.flatMap { HTTPProxy($0) }
  }

  /// The connection that carries signalling is logged in.
  var isOnline: Bool { agent.node.isOnline }
  /// Why the last connection ended; empty while online.
  var problem: String { isOnline ? "" : lastWords }

  func start() { connect() }

  func stop() {
    isStopped = true
    if let retry { agent.loop.cancel(retry) }
    if let legRetry { agent.loop.cancel(legRetry) }
    signal?.close()
    leg?.close()
  }

  /// A new address or route: try at once instead of waiting. A connection from
  /// an address that is gone hears nothing any more, not even its end: it makes
  /// room for a new one, because without the server no path is found again.
  ///
  /// - Parameter addresses: all of interfaces that are up, also those not to be used
  ///   anew.
  func networkChanged(_ addresses: Set<IPAddress>) {
    if let leg, addresses.strand(leg.localAddress) {
      leg.close()
      uplinkClosed(leg, Self.stranded)
    }
    if let signal, addresses.strand(signal.localAddress) {
      signal.close()
      uplinkClosed(signal, Self.stranded)
    }
    guard signal == nil, retry != nil else { return }
    schedule(after: Self.afterChange)
  }
  private static let stranded = "this host's address of it is gone"
  /// Addresses and routes come one by one.
  private static let afterChange = TimeAmount.milliseconds(200)

  // MARK: Signalling

  private func connect() {
    guard !isStopped, signal == nil, lookup == nil else { return }
    let host = proxy?.host ?? agent.options.serverHost
    lookup = agent.names.resolve(host) { [weak self] result in
      guard let self else { return }
      lookup = nil
      switch result {
      case .success(let found):
        addresses = found
        if proxy == nil {
          setSTUNServers(found)
        } else {
          findSTUNServers()
        }
        dialNext()
      case .failure(let failure):
        failed("\(host) cannot be resolved (\(failure))")
      }
    }
  }

  /// Where only a proxy leads out, the server's name often means nothing here;
  /// where it does, datagrams may still pass.
  private func findSTUNServers() {
    _ = agent.names.resolve(agent.options.serverHost) { [weak self] result in
      if case .success(let found) = result { self?.setSTUNServers(found) }
    }
  }

  private func setSTUNServers(_ addresses: [IPAddress]) {
    let options = agent.options
    agent.node.setSTUNServers(
      addresses.map {
        NATProbeServer(
          $0, udp1: options.stunUDP1 ?? DefaultPort.stunUDP1,
          udp2: options.stunUDP2 ?? DefaultPort.stunUDP2,
          tcp: [
            options.stunTCP1 ?? DefaultPort.stunTCP1, options.stunTCP2 ?? DefaultPort.stunTCP2,
          ])
      }, now: agent.loop.now)
  }

  private func dialNext() {
    guard !addresses.isEmpty else {
      failed(lastWords)
      return
    }
    let address = addresses.removeFirst()
    do throws(UplinkFailure) {
      signal = try open(
        .signal, to: Endpoint(address, proxy?.port ?? agent.options.serverPort))
    } catch {
      lastWords = error.words
      dialNext()
    }
  }

  private struct UplinkFailure: Error {
    let words: String
  }

  private func open(_ purpose: Uplink.Purpose, to endpoint: Endpoint) throws(UplinkFailure)
    -> Uplink
  {
    var streamOptions = StreamOptions()
    streamOptions.connectTimeout = .seconds(10)
    streamOptions.keepalive = .seconds(30)
    streamOptions.userTimeout = .seconds(45)
    if purpose == .relay {
      streamOptions.notSentLowWater = Self.legBacklog
      streamOptions.backlogBytes = 4 << 20
    }
    do {
      let connection = try StreamConnection.connect(
        agent.loop, to: endpoint, options: streamOptions)
      var tls: TLSSession?
      if !agent.options.insecure {
        let context = try tlsContext ?? TLSContext.client()
        tlsContext = context
        tls = try context.session(serverName: agent.options.serverHost)
      }
      lastNumber += 1
      return Uplink(
        purpose, number: lastNumber, connection: connection, tls: tls, through: proxy,
        host: agent.options.serverHost, port: agent.options.serverPort,
        random: agent.random.bytes(48), delegate: self)
    } catch {
      throw UplinkFailure(words: "\(endpoint): \(error)")
    }
  }

  private func failed(_ reason: String) {
    // A server without TLS answers a TLS greeting with something else.
    let words =
      reason.hasPrefix("TLS:") && !agent.options.insecure
      ? reason + "; if the server speaks without TLS, start with -insecure" : reason
    if words != saidWords { agent.log.warn("server: \(words)") }
    saidWords = words
    lastWords = words
    schedule(after: nextDelay ?? jittered(Self.reconnect))
    nextDelay = nil
  }

  /// Between three fifths and all of it.
  private func jittered(_ amount: TimeAmount) -> TimeAmount {
    amount - .nanoseconds(Int64.random(in: 0...(amount.nanoseconds * 2 / 5), using: &agent.random))
  }

  /// Anything up to `amount`.
  private func spread(_ amount: TimeAmount) -> TimeAmount {
    .nanoseconds(Int64.random(in: 0...amount.nanoseconds, using: &agent.random))
  }

  private func schedule(after delay: TimeAmount) {
    guard !isStopped else { return }
    if let retry { agent.loop.cancel(retry) }
    retry = agent.loop.schedule(after: delay) { [weak self] in
      self?.retry = nil
      self?.connect()
    }
  }

  func sendSignals() {
    guard let signal, signal.isOpen else { return }
    while let message = agent.node.pollSignal() {
      if !signal.send(message) {
        signal.close()
        uplinkClosed(signal, "the server does not read")
        return
      }
    }
  }

  /// The node has ended the conversation.
  func signalMustClose(_ words: String) {
    guard let signal else { return }
    // It may have been replaced: two machines with one key must not chase
    // each other.
    nextDelay = jittered(Self.reconnect)
    signal.close()
    uplinkClosed(signal, words)
  }

  func loginRefused(_ words: String) {
    if words != saidWords { agent.log.error("login refused: \(words)") }
    saidWords = words
    lastWords = words
    guard let signal else {
      // The server's close overtook its refusal in this batch.
      if retry != nil { schedule(after: Self.afterRefusal) }
      return
    }
    nextDelay = Self.afterRefusal
    signal.close()
    uplinkClosed(signal, words)
  }

  /// Logged in: the proof over this certificate held.
  func online() {
    if let fingerprint {
      let known = agent.state.bytes("fingerprint")
      if known != fingerprint {
        if known != nil {
          agent.log.warn(
            "the server's certificate has changed; the login proved it, so it is pinned anew")
        }
        agent.state.setBytes("fingerprint", fingerprint)
        agent.saveSoon()
      }
    }
    lastWords = ""
    saidWords = ""
    onlineSince = agent.loop.now
    agent.log.info(
      "connected to \(agent.options.serverHost):\(agent.options.serverPort) as \(agent.options.node)"
    )
    if let leg {
      // It belongs to an earlier login: its channels are void.
      leg.close()
      uplinkClosed(leg, "logged in anew")
    }
    openLeg()
  }

  // MARK: The relay leg

  private func openLeg() {
    guard !isStopped, leg == nil, let signal, agent.node.isOnline else { return }
    do throws(UplinkFailure) {
      isLegAccepted = false
      isLegBlocked = false
      leg = try open(.relay, to: signal.remote)
    } catch {
      retryLeg()
    }
  }

  private func retryLeg(after delay: TimeAmount? = nil) {
    guard legRetry == nil, !isStopped else { return }
    legRetry = agent.loop.schedule(after: delay ?? jittered(.seconds(2))) { [weak self] in
      self?.legRetry = nil
      self?.openLeg()
    }
  }

  /// One sealed packet for a channel of the leg. Without a leg it is dropped:
  /// the session's recovery is for that.
  func sendRelayed(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    guard let leg, isLegAccepted, leg.number == segment.carrier.socket else { return }
    let frame = CarrierFrame(
      channel: segment.carrier.channel, kind: .data, length: segment.count)
    _ = leg.append(limit: CarrierFrame.headBytes + segment.count) { output in
      frame.write(into: &output)
      batch.withSegment(segment) { output.write($0) }
    }
  }

  func flushRelayed() {
    guard let leg, isLegAccepted else { return }
    leg.flush()
    if !isLegBlocked, leg.backlog > Self.legBacklog {
      isLegBlocked = true
      agent.node.setConnectionBlocked(leg.number, true)
      leg.notify(below: Self.legBacklog / 4)
    }
  }

  private func receiveRelayed(_ leg: Uplink, _ message: inout MutableRawSpan) {
    let now = agent.loop.now
    var offset = 0
    while offset < message.byteCount {
      let frame: CarrierFrame?
      do throws(CarrierFailure) {
        frame = try CarrierFrame(headOf: message.bytes.extracting(offset..<message.byteCount))
      } catch {
        frame = nil
      }
      guard let frame, offset + CarrierFrame.headBytes + frame.length <= message.byteCount else {
        leg.close()
        uplinkClosed(leg, "the server's relay sent a broken frame")
        return
      }
      let start = offset + CarrierFrame.headBytes
      let end = start + frame.length
      switch frame.kind {
      case .data:
        var packet = message._mutatingExtracting(start..<end)
        agent.node.receive(
          &packet,
          from: .relay(connection: leg.number, channel: frame.channel, remote: leg.remote),
          now: now)
      case .ping:
        let body = [UInt8](message.bytes.extracting(start..<end))
        _ = leg.send(CarrierFrame.bytes(channel: frame.channel, kind: .pong, body: body))
      case .end, .refuse:
        agent.node.relayChannelEnded(connection: leg.number, channel: frame.channel, now: now)
      case .open, .pong:
        break
      }
      offset = end
    }
    agent.node.finishReceiving(now: now)
  }

  // MARK: UplinkDelegate

  func uplinkOpened(_ uplink: Uplink) {
    switch uplink.purpose {
    case .signal:
      fingerprint = uplink.tls?.peerFingerprintSHA256
      agent.node.signalConnected(
        usesTLS: uplink.tls != nil, exporter: uplink.tls?.channelBinding ?? [],
        now: agent.loop.now)
      sendSignals()
    case .relay:
      guard let hello = agent.node.legHello() else {
        uplink.close()
        uplinkClosed(uplink, "no ticket")
        return
      }
      _ = uplink.send(hello)
    }
  }

  func uplinkReceived(_ uplink: Uplink, _ message: inout MutableRawSpan) {
    switch uplink.purpose {
    case .signal:
      agent.node.signalReceived([UInt8](message.bytes), now: agent.loop.now)
    // Events and answers leave with the drain after this batch.
    case .relay:
      if isLegAccepted {
        receiveRelayed(uplink, &message)
      } else {
        isLegAccepted = true
        legAcceptedAt = agent.loop.now
        agent.node.legOpened(
          connection: uplink.number, remote: uplink.remote, now: agent.loop.now)
      }
    }
  }

  func uplinkWritable(_ uplink: Uplink) {
    guard uplink === leg, isLegBlocked else { return }
    guard uplink.backlog <= Self.legBacklog / 2 else {
      uplink.notify(below: Self.legBacklog / 4)
      return
    }
    isLegBlocked = false
    agent.node.setConnectionBlocked(uplink.number, false)
  }

  func uplinkClosed(_ uplink: Uplink, _ words: String) {
    if uplink === leg {
      let stood = isLegAccepted && agent.loop.now - legAcceptedAt >= Self.stood
      leg = nil
      isLegAccepted = false
      agent.node.legClosed(connection: uplink.number, now: agent.loop.now)
      if agent.node.isOnline { retryLeg(after: stood ? spread(Self.legAtOnce) : nil) }
    } else if uplink === signal {
      let wasOnline = agent.node.isOnline
      let wasOpen = uplink.wasUpgraded
      signal = nil
      fingerprint = nil
      agent.node.signalClosed(now: agent.loop.now)
      if wasOnline {
        agent.log.warn("connection to the server lost: \(words)")
        saidWords = words
        if nextDelay == nil, agent.loop.now - onlineSince >= Self.stood {
          nextDelay = spread(Self.atOnce)
        }
      }
      if !wasOnline, !wasOpen, !addresses.isEmpty {
        lastWords = words
        dialNext()
      } else {
        failed(words)
      }
    }
  }
}
