/// The server's STUN ports: two of UDP, two of TCP, IPv4 and IPv6, in front of
/// the pure `STUNResponder`. Opens nothing else, keeps nothing but short TCP
/// connections, and never writes more than an answer to anybody.
/// docs/protocol/stun.md "Answering"; spec/inp2p.md.

internal import Bytes
internal import CommandLine
internal import Reactor
internal import STUN

/// What STUN over TCP may cost.
enum STUNServiceLimits {
  /// Connections; the oldest makes way for a new one.
  static let connections = 256
  /// Of one address; more are closed at once.
  static let connectionsPerSource = 16
  /// From accept to close: one question takes a round trip.
  static let lifetime = TimeAmount.seconds(10)
  static let messages = 8
  static let readBytes = 2_048
  static let backlog: Int32 = 128
  /// Bytes of each UDP socket's kernel buffers, of each connection's backlog.
  /// Between two lines of counters; silent hours have none.
  static let report = TimeAmount.hours(1)
  static let datagramBuffer: Int32 = 256 * 1024
  static let streamBacklog = 4 * 1024
}

final class STUNService {
  private let loop: EventLoop
  private let log: ServerLog
  private var responder: STUNResponder
  /// As of the last line.
  private var reported = STUNResponderCounters()
  private var reportTimer: TimerToken?
  private var sockets: [UDPSocket] = []
  private var listeners: [StreamListener] = []
  private var connections: [UInt32: STUNConnection] = [:]
  private var perSource: [IPAddress: Int] = [:]
  private var lastNumber: UInt32 = 0
  private var isClosed = false
  /// Told the source of each question that was answered over TCP.
  var onStreamSource: ((Endpoint) -> Void)?

  init(
    _ loop: EventLoop, options: ServerOptions, log: ServerLog, random: SeededRandom
  ) throws(ServerStartFailure) {
    self.loop = loop
    self.log = log
    var settings = STUNServerSettings(udp1: options.stunUDP1, udp2: options.stunUDP2)
    if let second = options.stunAlternateAddress {
      settings.pairs = [
        STUNServerSettings.AddressPair(first: try Self.first(beside: second), second: second)
      ]
    }
    responder = STUNResponder(settings: settings, random: random)
    do throws(ServerStartFailure) {
      try openDatagrams("-stun-udp1", options.stunUDP1)
      try openDatagrams("-stun-udp2", options.stunUDP2)
      try openStreams("-stun-tcp1", options.stunTCP1)
      try openStreams("-stun-tcp2", options.stunTCP2)
    } catch {
      close()
      throw error
    }
    scheduleReport()
  }

  private func scheduleReport() {
    reportTimer = loop.schedule(after: STUNServiceLimits.report) { [weak self] in
      self?.report()
      self?.scheduleReport()
    }
  }

  /// What the STUN ports did since the last line; none when they did nothing.
  private func report() {
    let now = responder.counters
    guard now != reported else { return }
    let since = now - reported
    reported = now
    log.info("STUN: \(since.words)")
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    if let reportTimer { loop.cancel(reportTimer) }
    report()
    for socket in sockets { socket.close() }
    for listener in listeners { listener.close() }
    for connection in Array(connections.values) { connection.close() }
  }

  // MARK: Addresses

  /// The address that answers beside the second one: of the same family, and as
  /// much like it as there is.
  private static func first(beside second: IPAddress) throws(ServerStartFailure) -> IPAddress {
    let interfaces: [NetworkInterface]
    do throws(SystemError) {
      interfaces = try NetworkInterfaces.current()
    } catch {
      throw ServerStartFailure("-stun-alt-ip \(second): this machine's addresses: \(error)")
    }
    let home = interfaces.first { $0.addresses.contains { $0.address == second } }
    guard let home else {
      throw ServerStartFailure(
        "-stun-alt-ip \(second): not an address of this machine; add it to an interface first")
    }
    var best: (address: IPAddress, likeness: Int)?
    for interface in interfaces where interface.isUp {
      for entry in interface.addresses {
        let address = entry.address
        guard address != second, address.isV4 == second.isV4, !entry.isTentative,
          !entry.isDuplicate, !entry.isTemporary, !entry.isDeprecated,
          address.isLoopback == second.isLoopback, address.isLinkLocal == second.isLinkLocal
        else { continue }
        let likeness =
          (address.isPrivate == second.isPrivate ? 2 : 0) + (interface.index == home.index ? 1 : 0)
        if likeness > best?.likeness ?? -1 { best = (address, likeness) }
      }
    }
    guard let best else {
      throw ServerStartFailure(
        "-stun-alt-ip \(second): this machine has no other \(second.isV4 ? "IPv4" : "IPv6") address; full RFC 5780 needs two"
      )
    }
    return best.address
  }

  // MARK: UDP

  private func openDatagrams(_ flag: String, _ port: UInt16) throws(ServerStartFailure) {
    var options = UDPOptions()
    options.receiveBuffer = STUNServiceLimits.datagramBuffer
    options.sendBuffer = STUNServiceLimits.datagramBuffer
    options.wantsLocalAddress = true
    do throws(SystemError) {
      do throws(SystemError) {
        try open(Endpoint(.anyV6, port), options)
      } catch {
        // No IPv6 on this machine.
        if error.isAddressInUse { throw error }
      }
      try open(Endpoint(.anyV4, port), options)
    } catch {
      throw ServerStartFailure("\(flag) \(port) (UDP): \(error)")
    }
  }

  private func open(_ endpoint: Endpoint, _ options: UDPOptions) throws(SystemError) {
    let socket = try UDPSocket(
      loop, bind: endpoint, number: UInt32(sockets.count + 1), options: options)
    socket.delegate = self
    sockets.append(socket)
  }

  private func answer(_ bytes: RawSpan, _ info: DatagramInfo, at socket: UDPSocket) {
    let local = Endpoint(info.local, socket.local.port)
    guard
      let answer = responder.receive(
        bytes, from: info.remote, at: local, over: .udp, now: loop.now)
    else { return }
    let source = answer.source
    let sender = sockets.first {
      $0.local.port == source.port && $0.local.address.isV4 == source.address.isV4
    }
    sender?.send(answer.bytes.span.bytes, to: info.remote, from: source.address)
  }

  // MARK: TCP

  private func openStreams(_ flag: String, _ port: UInt16) throws(ServerStartFailure) {
    do throws(SystemError) {
      do throws(SystemError) {
        try listen(Endpoint(.anyV6, port), isDualStack: true)
      } catch {
        if error.isAddressInUse { throw error }
        // No IPv6 on this machine.
        try listen(Endpoint(.anyV4, port), isDualStack: false)
      }
    } catch {
      throw ServerStartFailure("\(flag) \(port) (TCP): \(error)")
    }
  }

  private func listen(_ endpoint: Endpoint, isDualStack: Bool) throws(SystemError) {
    var options = StreamOptions()
    options.backlogBytes = STUNServiceLimits.streamBacklog
    listeners.append(
      try StreamListener(
        loop, on: endpoint, isDualStack: isDualStack, backlog: STUNServiceLimits.backlog,
        options: options
      ) { [weak self] in self?.accept($0) })
  }

  private func accept(_ stream: StreamConnection) {
    guard !isClosed, let remote = stream.remote, let local = stream.local,
      perSource[remote.address, default: 0] < STUNServiceLimits.connectionsPerSource
    else {
      stream.close()
      return
    }
    if connections.count >= STUNServiceLimits.connections {
      connections.values.min { $0.opened < $1.opened }?.close()
    }
    repeat { lastNumber &+= 1 } while connections[lastNumber] != nil
    connections[lastNumber] = STUNConnection(
      stream, number: lastNumber, remote: remote, local: local, service: self)
    perSource[remote.address, default: 0] += 1
  }

  fileprivate func answer(_ bytes: RawSpan, to connection: STUNConnection) -> [UInt8]? {
    guard
      let answer = responder.receive(
        bytes, from: connection.remote, at: connection.local, over: .tcp, now: loop.now)
    else { return nil }
    onStreamSource?(connection.remote)
    return answer.bytes
  }

  fileprivate func ended(_ connection: STUNConnection) {
    guard connections.removeValue(forKey: connection.number) != nil else { return }
    let address = connection.remote.address
    perSource[address] = (perSource[address] ?? 1) - 1
    if perSource[address] == 0 { perSource[address] = nil }
  }
}

extension STUNService: UDPSocketDelegate {
  func socketReadable(_ socket: UDPSocket) {
    socket.receive { bytes, info in answer(bytes.bytes, info, at: socket) }
  }

  // Nobody waits for a certain answer: whoever asked asks again.
  func socket(_ socket: UDPSocket, failed: DatagramFailure) {}
}

/// One short TCP connection: a few messages, each answered, then closed.
private final class STUNConnection: ConnectionDelegate {
  let number: UInt32
  let remote: Endpoint
  let local: Endpoint
  let opened: Instant
  private let stream: StreamConnection
  private weak var service: STUNService?
  private var decoder = STUNStream()
  private var messages = 0
  private var timer: TimerToken?

  init(
    _ stream: StreamConnection, number: UInt32, remote: Endpoint, local: Endpoint,
    service: STUNService
  ) {
    self.stream = stream
    self.number = number
    self.remote = remote
    self.local = local
    self.service = service
    opened = stream.loop.now
    timer = stream.loop.schedule(after: STUNServiceLimits.lifetime) { [weak self] in
      self?.close()
    }
    stream.delegate = self
  }

  func close() {
    if let timer { stream.loop.cancel(timer) }
    timer = nil
    stream.close()
    service?.ended(self)
  }

  func connectionReadable(_ connection: StreamConnection) {
    var answers: [UInt8] = []
    var goesOn = true
    let result = connection.read(limit: STUNServiceLimits.readBytes) { bytes in
      goesOn = decoder.receive(bytes.bytes) { message in
        messages += 1
        if let answer = service?.answer(message, to: self) { answers += answer }
        return messages < STUNServiceLimits.messages
      }
    }
    if !answers.isEmpty, !connection.writeAll(answers) { goesOn = false }
    switch result {
    case .bytes:
      if !goesOn { finish() }
    case .wouldBlock: break
    case .end: finish()
    case .failed: close()
    }
  }

  /// What was written still leaves; its time goes on.
  private func finish() {
    if stream.backlog == 0 { close() } else { stream.closeWhenFlushed() }
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { close() }
}

extension STUNResponderCounters {
  fileprivate static func - (a: Self, b: Self) -> Self {
    var result = Self()
    result.answered = a.answered &- b.answered
    result.refused = a.refused &- b.refused
    result.notSTUN = a.notSTUN &- b.notSTUN
    result.malformed = a.malformed &- b.malformed
    result.otherMethod = a.otherMethod &- b.otherMethod
    result.notRequest = a.notRequest &- b.notRequest
    result.badSource = a.badSource &- b.badSource
    result.sourceLimit = a.sourceLimit &- b.sourceLimit
    result.totalLimit = a.totalLimit &- b.totalLimit
    return result
  }

  /// "12 answered, 3 not STUN"; what did not happen is not said.
  fileprivate var words: String {
    let parts: [(UInt64, String)] = [
      (answered, "answered"), (refused, "answered with an error"), (notSTUN, "not STUN"),
      (malformed, "malformed"), (otherMethod, "of other methods"),
      (notRequest, "not questions"), (badSource, "from addresses that cannot be answered"),
      (sourceLimit, "too many from one source"), (totalLimit, "too many in all"),
    ]
    return parts.filter { $0.0 > 0 }.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
  }
}
