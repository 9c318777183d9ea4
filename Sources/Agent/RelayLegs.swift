/// This agent's connections to relays that other nodes are: one per relay, for
/// all sessions through it, by UDP from the agent's own port or by TCP, that
/// through the HTTP proxy where one is set. What is said on them is the node's
/// (`RelayGuest`); here are the sockets, the frames and the answer to a PING.
/// docs/protocol/relay.md.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import Mux
internal import NodeCore
internal import Reactor
internal import Relay

final class RelayLegs: FrameConnectionOwner {
  private unowned let agent: AgentRuntime
  private let proxy: HTTPProxy?
  private var streams: [UInt32: FrameConnection] = [:]
  private var lookups: [UInt32: NameLookup.Token] = [:]
  /// Legs by UDP, by number and by address.
  private var datagrams: [UInt32: Carrier] = [:]
  private var numbers: [Endpoint: UInt32] = [:]
  private let batch = TransmitBatch()

  /// Unsent bytes beside the kernel's, and the kernel's own: more would only
  /// hide a queue (DESIGN §1.3).
  static let backlog = 64 * 1024
  static let userTimeout = TimeAmount.seconds(30)

  init(_ agent: AgentRuntime) {
    self.agent = agent
    proxy = agent.options.proxy.flatMap { HTTPProxy($0) }
  }

  // MARK: Dialling

  func dial(_ number: UInt32, _ endpoint: Endpoint, isDatagram: Bool) {
    if isDatagram {
      guard let socket = agent.datagramSocket(for: endpoint.address) else { return }
      datagrams[number] = .udp(socket: socket.number, remote: endpoint)
      numbers[endpoint] = number
    } else if let proxy {
      dial(number, endpoint, through: proxy)
    } else {
      connect(number, to: endpoint, through: nil)
    }
  }

  private func dial(_ number: UInt32, _ endpoint: Endpoint, through proxy: HTTPProxy) {
    lookups[number] = agent.names.resolve(proxy.host) { [weak self] result in
      guard let self, lookups.removeValue(forKey: number) != nil else { return }
      switch result {
      case .success(let found):
        guard let address = found.first, let authority = HTTPAuthority("\(endpoint)"[...]) else {
          return agent.node.relayClosed(connection: number, now: agent.loop.now)
        }
        connect(
          number, to: Endpoint(address, proxy.port),
          through: ProxyTunnel(through: proxy, to: authority))
      case .failure(let failure):
        agent.log.debug("relay: \(proxy.host) cannot be resolved (\(failure))")
        agent.node.relayClosed(connection: number, now: agent.loop.now)
      }
    }
  }

  private func connect(_ number: UInt32, to endpoint: Endpoint, through tunnel: ProxyTunnel?) {
    var options = StreamOptions()
    options.notSentLowWater = Self.backlog
    options.backlogBytes = 4 << 20
    options.userTimeout = Self.userTimeout
    do throws(SystemError) {
      streams[number] = FrameConnection(
        agent, self, try StreamConnection.connect(agent.loop, to: endpoint, options: options),
        number: number, name: "relay", backlog: Self.backlog, through: tunnel)
    } catch {
      agent.log.debug("relay at \(endpoint): \(error)")
      agent.node.relayClosed(connection: number, now: agent.loop.now)
    }
  }

  func close(_ number: UInt32) {
    streams.removeValue(forKey: number)?.closeWhenFlushed()
    if let lookup = lookups.removeValue(forKey: number) { agent.names.cancel(lookup) }
    forgetDatagrams(number)
  }

  private func forgetDatagrams(_ number: UInt32) {
    guard let carrier = datagrams.removeValue(forKey: number) else { return }
    // Another leg to that address may have come meanwhile.
    if numbers[carrier.remote] == number { numbers[carrier.remote] = nil }
  }

  func closeAll() {
    flush()
    for leg in streams.values { leg.closeWhenFlushed() }
    for lookup in lookups.values { agent.names.cancel(lookup) }
    streams.removeAll()
    lookups.removeAll()
    datagrams.removeAll()
    numbers.removeAll()
  }

  // MARK: Out

  /// One whole frame of the node's own.
  func send(_ number: UInt32, _ frame: [UInt8]) {
    if let leg = streams[number] { return leg.send(frame) }
    guard let carrier = datagrams[number] else { return }
    batch.append(carrier: carrier, limit: frame.count) { $0.write(frame.span.bytes) }
    flushDatagrams()
  }

  /// - Returns: whether the connection is one to a node's relay.
  func send(_ packets: TransmitBatch, _ segment: TransmitBatch.Segment) -> Bool {
    if let leg = streams[segment.carrier.socket] {
      leg.send(packets, segment)
      return true
    }
    guard let carrier = datagrams[segment.carrier.socket] else { return false }
    let size = CarrierFrame.headBytes + segment.count
    if batch.freeCapacity < size { flushDatagrams() }
    let head = CarrierFrame.head(channel: segment.carrier.channel, length: segment.count)
    batch.append(carrier: carrier, limit: size) { output in
      output.write(head.span.bytes)
      packets.withSegment(segment) { output.write($0) }
    }
    return true
  }

  func flush() {
    for leg in streams.values { leg.flush() }
    flushDatagrams()
  }

  /// Legs from an address that is gone are dialled anew at once.
  func networkChanged(_ addresses: Set<IPAddress>) {
    for leg in streams.values { leg.endWhenStranded(addresses) }
  }

  /// What the kernel does not take is dropped: a queue would be a second one.
  private func flushDatagrams() {
    let segments = batch.segments
    var index = 0
    while index < segments.count {
      let socket = agent.datagramSocket(number: segments[index].carrier.socket)
      index = max(socket?.send(batch, from: index) ?? index, index + 1)
    }
    batch.removeAll()
  }

  // MARK: In

  /// A datagram whose first byte is a relay frame's.
  func receive(_ bytes: inout MutableRawSpan, from remote: Endpoint, now: Instant) {
    guard let number = numbers[remote] else { return }
    var offset = 0
    let count = bytes.byteCount
    while offset < count {
      let head: CarrierFrame?
      do throws(CarrierFailure) {
        head = try CarrierFrame(headOf: bytes.bytes.extracting(offset..<count))
      } catch {
        head = nil
      }
      guard let head, head.length <= count - offset - CarrierFrame.headBytes else { return }
      let start = offset + CarrierFrame.headBytes
      offset = start + head.length
      var body = bytes._mutatingExtracting(start..<offset)
      receive(head, &body, number, remote, control: LegKind.udp.controlChannel, now: now)
    }
  }

  private func receive(
    _ frame: CarrierFrame, _ body: inout MutableRawSpan, _ number: UInt32, _ remote: Endpoint,
    control: UInt32, now: Instant
  ) {
    switch frame.kind {
    case .data:
      agent.node.receive(
        &body, from: .relay(connection: number, channel: frame.channel, remote: remote), now: now)
    case .open:
      // Others than on the control channel a node's relay does not send.
      if frame.channel == control {
        agent.node.relayReceived(connection: number, body.bytes, now: now)
      }
    case .ping:
      send(
        number,
        CarrierFrame.bytes(channel: frame.channel, kind: .pong, body: [UInt8](body.bytes)))
    case .pong:
      if frame.channel == control {
        agent.node.relayPong(connection: number, body.bytes, now: now)
      }
    case .end, .refuse:
      // The end of a channel is told by a state, with a proof.
      break
    }
  }

  // MARK: FrameConnectionOwner

  func opened(_ connection: FrameConnection) {
    agent.node.relayConnected(connection: connection.number, now: agent.loop.now)
  }

  func receive(
    _ frame: CarrierFrame, _ body: inout MutableRawSpan, from connection: FrameConnection,
    now: Instant
  ) {
    receive(
      frame, &body, connection.number, connection.remote ?? .none,
      control: LegKind.tcp.controlChannel, now: now)
  }

  func ended(_ connection: FrameConnection) {
    streams[connection.number] = nil
    agent.node.relayClosed(connection: connection.number, now: agent.loop.now)
  }
}
