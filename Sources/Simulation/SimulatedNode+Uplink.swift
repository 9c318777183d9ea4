/// The node's connections to the server, as the agent keeps them: reconnects
/// after 3–5 s, at once when the connection had stood, a refused login after
/// 60 s; the relay leg follows `online`, its first message from the server
/// accepts it.

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import NodeCore
#endif

struct UplinkState {
  var signal: UInt32?
  var isSignalOpen = false
  var leg: UInt32?
  var isLegOpen = false
  var isLegAccepted = false
  var isLegBlocked = false
  var nextDelay: TimeAmount?
  var retry: UInt64 = 0
  var isRetrying = false
  var isLegRetrying = false
  var onlineSince = Instant.distantPast
  var legAcceptedAt = Instant.distantPast
}

extension SimulatedNode {
  static let reconnect = TimeAmount.seconds(5)
  static let legReconnect = TimeAmount.seconds(2)
  static let afterRefusal = TimeAmount.seconds(60)
  /// A connection that has stood for so long is replaced at once (decision 0023).
  static let stood = TimeAmount.seconds(5)
  static let atOnce = TimeAmount.milliseconds(500)
  static let legAtOnce = TimeAmount.milliseconds(50)

  func connectSignal() {
    uplink.isRetrying = false
    guard node != nil, uplink.signal == nil else { return }
    uplink.signal = world.connect(node: index, purpose: .signal)
  }

  private func jittered(_ amount: TimeAmount) -> TimeAmount {
    amount - world.time(.zero, .nanoseconds(amount.nanoseconds * 2 / 5))
  }

  private func retrySignal(after delay: TimeAmount) {
    uplink.retry += 1
    uplink.isRetrying = true
    let token = uplink.retry
    let process = process
    world.after(delay) { world in
      let me = world.nodes[self.index]
      guard me.process == process, me.uplink.retry == token else { return }
      guard !me.isSuspended else {
        me.retrySignal(after: .milliseconds(500))
        return
      }
      me.connectSignal()
    }
  }

  /// - Parameter isStranded: the address of the connections is gone; they make
  ///   room for new ones, as the agent's do.
  func networkChanged(isStranded: Bool = false) {
    if isStranded {
      if let id = uplink.leg { legGone(id) }
      if uplink.signal != nil { signalGone("this host's address of it is gone") }
    }
    if uplink.signal == nil, uplink.isRetrying { retrySignal(after: .milliseconds(200)) }
  }

  func resumeUplink() {}

  func sendSignals() {
    guard let id = uplink.signal, uplink.isSignalOpen, let pipe = world.pipes[id], let node else {
      return
    }
    while let message = node.pollSignal() {
      if !pipe.send(message, toServer: true) {
        signalMustClose("the server does not read")
        return
      }
    }
  }

  func signalMustClose(_ words: String) {
    guard let id = uplink.signal else { return }
    world.pipes[id]?.close(toServer: true)
    signalGone(words)
  }

  func loginRefused(_ words: String) {
    world.note("\(name): login refused: \(words)")
    world.refusals += 1
    uplink.nextDelay = Self.afterRefusal
    signalMustClose(words)
  }

  private func signalGone(_ words: String) {
    world.note("\(name): signalling lost: \(words)")
    uplink.signal = nil
    uplink.isSignalOpen = false
    if node?.isOnline == true, uplink.nextDelay == nil,
      world.now - uplink.onlineSince >= Self.stood
    {
      uplink.nextDelay = world.time(.zero, Self.atOnce)
    }
    node?.signalClosed(now: world.now)
    retrySignal(after: uplink.nextDelay ?? jittered(Self.reconnect))
    uplink.nextDelay = nil
  }

  func online() {
    world.note("\(name): online")
    uplink.onlineSince = world.now
    if let old = uplink.leg {
      // A leg of an earlier login is void.
      world.pipes[old]?.close(toServer: true)
      legGone(old)
    }
    openLeg()
  }

  private func openLeg() {
    guard let node, node.isOnline, uplink.leg == nil, uplink.signal != nil else { return }
    uplink.isLegOpen = false
    uplink.isLegAccepted = false
    uplink.isLegBlocked = false
    uplink.leg = world.connect(node: index, purpose: .relay)
  }

  private func legGone(_ id: UInt32) {
    let stood = uplink.isLegAccepted && world.now - uplink.legAcceptedAt >= Self.stood
    uplink.leg = nil
    uplink.isLegOpen = false
    uplink.isLegAccepted = false
    node?.legClosed(connection: id, now: world.now)
    guard node?.isOnline == true else { return }
    retryLeg(after: stood ? world.time(.zero, Self.legAtOnce) : jittered(Self.legReconnect))
  }

  private func retryLeg(after delay: TimeAmount) {
    guard !uplink.isLegRetrying else { return }
    uplink.isLegRetrying = true
    let process = process
    world.after(delay) { world in
      let me = world.nodes[self.index]
      guard me.process == process else { return }
      me.uplink.isLegRetrying = false
      if me.isSuspended {
        me.retryLeg(after: me.jittered(Self.legReconnect))
      } else {
        me.openLeg()
      }
    }
  }

  /// Breaks the relay leg (a middlebox resets it).
  package func resetLeg() {
    guard let id = uplink.leg, let pipe = world.pipes[id] else { return }
    world.note("\(name): relay leg reset")
    pipe.expire()
  }

  // MARK: Pipes

  func pipeOpened(_ pipe: Pipe, exporter: [UInt8]) {
    guard let node, pipe.process == process else { return }
    if uplink.signal == pipe.id {
      uplink.isSignalOpen = true
      node.signalConnected(usesTLS: usesTLS, exporter: exporter, now: world.now)
    } else if uplink.leg == pipe.id {
      uplink.isLegOpen = true
      guard let hello = node.legHello() else {
        pipe.close(toServer: true)
        legGone(pipe.id)
        return
      }
      _ = pipe.send(hello, toServer: true)
    }
    drain()
  }

  func pipeFailed(_ id: UInt32, process: Int) {
    guard node != nil, process == self.process else { return }
    if uplink.signal == id {
      signalGone("cannot connect")
    } else if uplink.leg == id {
      legGone(id)
    }
    drain()
  }

  func pipeClosed(_ pipe: Pipe) {
    guard node != nil, pipe.process == process else { return }
    if uplink.signal == pipe.id {
      signalGone("closed by the server")
    } else if uplink.leg == pipe.id {
      legGone(pipe.id)
    }
    drain()
  }

  func received(_ pipe: Pipe, _ bytes: [UInt8]) {
    guard let node, pipe.process == process, uplink.signal == pipe.id || uplink.leg == pipe.id
    else {
      // A kernel that knows nothing of this connection.
      if isRunning { pipe.reset(toServer: true) }
      return
    }
    if uplink.signal == pipe.id {
      node.signalReceived(bytes, now: world.now)
    } else if !uplink.isLegAccepted {
      uplink.isLegAccepted = true
      uplink.legAcceptedAt = world.now
      node.legOpened(
        connection: pipe.id, remote: SimulatedServer.endpoint, now: world.now)
    } else {
      receiveRelayed(pipe, bytes, node)
    }
    drain()
  }

  func pipeWritable(_ pipe: Pipe) {
    guard let node, pipe.process == process, uplink.leg == pipe.id, uplink.isLegBlocked else {
      return
    }
    uplink.isLegBlocked = false
    node.setConnectionBlocked(pipe.id, false)
    drain()
  }

  // MARK: Relayed packets

  func sendRelayed(_ carrier: Carrier, _ bytes: [UInt8]) {
    guard let id = uplink.leg, uplink.isLegAccepted, id == carrier.socket,
      let pipe = world.pipes[id]
    else { return }
    world.statistics.packets += 1
    var frame: [UInt8] = []
    frame.reserveCapacity(bytes.count + 7)
    frame.appendUInt32(carrier.channel)
    frame.append(CarrierFrame.Kind.data.rawValue)
    frame.appendUInt16(UInt16(bytes.count))
    frame += bytes
    _ = pipe.send(frame, toServer: true)
  }

  func flushRelayed() {
    guard let id = uplink.leg, uplink.isLegAccepted, !uplink.isLegBlocked,
      let pipe = world.pipes[id],
      pipe.backlog(toServer: true) > Pipe.backlogLimit
    else { return }
    uplink.isLegBlocked = true
    node?.setConnectionBlocked(id, true)
    pipe.wantRoom(toServer: true)
  }

  private func receiveRelayed(_ pipe: Pipe, _ bytes: [UInt8], _ node: Node) {
    var bytes = bytes
    var offset = 0
    let count = bytes.count
    while offset < count {
      let frame: CarrierFrame?
      do throws(CarrierFailure) {
        frame = try CarrierFrame(headOf: bytes.span.bytes.extracting(offset..<count))
      } catch {
        frame = nil
      }
      guard let frame, offset + CarrierFrame.headBytes + frame.length <= count else {
        world.violation("\(name): the server's relay sent a broken frame")
        return
      }
      let start = offset + CarrierFrame.headBytes
      let end = start + frame.length
      switch frame.kind {
      case .data:
        var span = bytes.mutableSpan
        var whole = span.mutableBytes
        var packet = whole._mutatingExtracting(start..<end)
        node.receive(
          &packet,
          from: .relay(
            connection: pipe.id, channel: frame.channel, remote: SimulatedServer.endpoint),
          now: world.now)
      case .ping:
        let body = Array(bytes[start..<end])
        _ = pipe.send(
          CarrierFrame.bytes(channel: frame.channel, kind: .pong, body: body), toServer: true)
      case .end, .refuse:
        node.relayChannelEnded(connection: pipe.id, channel: frame.channel, now: world.now)
      case .open, .pong:
        break
      }
      offset = end
    }
    node.finishReceiving(now: world.now)
  }
}
