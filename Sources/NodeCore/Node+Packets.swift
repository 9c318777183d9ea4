/// The packet path: opened packets to where they belong, and everything that
/// wants to leave into the batch. No allocation per packet.

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import Paths
  internal import STUN
  internal import Signaling
  internal import WireGuard
#endif

extension Node {
  /// Takes one packet as it came through a carrier; opened in place. Call
  /// `settle` once per batch (`finishReceiving`).
  package func receive(_ packet: inout MutableRawSpan, from carrier: Carrier, now: Instant) {
    clock = now
    if carrier.kind == .udp, packet.byteCount >= STUNConstants.header,
      packet.bytes.unsafeLoadByte(0) < 4, STUNMessage.isSTUN(packet.bytes)
    {
      receiveSTUN(packet.bytes, from: carrier, now: now)
      return
    }
    switch keeper.receive(&packet, from: carrier, now: now) {
    case .dropped:
      break
    case .handshake(let handle, let step):
      guard let peer = peer(handle) else { return }
      switch step {
      case .completed, .answered:
        if carrier.kind == .tcp { learnStream(carrier, of: peer, now: now) }
        peer.handshakeCarrier = carrier
      case .repeated, .cookie: break
      }
      drainKeeper(now: now)
    case .keepalive(let handle, _, _):
      guard let peer = peer(handle) else { return }
      if peer.isStock { peer.handshakeCarrier = carrier }
      peer.paths.received(from: carrier, bytes: packet.byteCount, carriesData: false, now: now)
      drainKeeper(now: now)
      touch(peer)
    case .data(let handle, let keypair, let payload, let counter, _):
      guard let peer = peer(handle) else {
        drops.unknownPeer += 1
        return
      }
      let content = packet.bytes.extracting(payload)
      let type = content.unsafeLoadByte(0)
      if peer.hello.keypair != keypair.rawValue || peer.connectedSince == nil {
        peer.handshakeCarrier = carrier
        drainKeeper(now: now)
      }
      if carrier.kind == .tcp { learnStream(carrier, of: peer, now: now) }
      let isData = type != PathMessage.type
      peer.paths.received(
        from: carrier, bytes: packet.byteCount, carriesData: isData, now: now)
      touch(peer)
      if type == MuxProtocol.packetType {
        if let first = peer.firstCounter(on: keypair.rawValue) {
          if counter >= first {
            receiveNumbered(content, from: peer, now: now)
          } else {
            drops.formerProcess += 1
          }
        } else {
          hold(content, keypair: keypair.rawValue, counter: counter, of: peer)
        }
      } else if type == PathMessage.type {
        receiveUnnumbered(
          content, keypair: keypair.rawValue, counter: counter, from: peer, carrier, now: now)
      } else if type >> 4 == 4 || type >> 4 == 6 {
        // Inner IP packets: the virtual network comes later.
        drops.innerPacket += 1
      } else {
        drops.reservedType += 1
      }
    case .unknownInitiator:
      drops.unknownInitiator += 1
    }
  }

  /// Once after each batch of `receive`.
  package func finishReceiving(now: Instant) { settle(now: now) }

  func receiveNumbered(_ content: RawSpan, from peer: Peer, now: Instant) {
    do throws(MuxFailure) {
      try peer.mux.receive(content, now: now)
    } catch {
      sessionFailed(peer, error, now: now)
    }
  }

  private func receiveUnnumbered(
    _ content: RawSpan, keypair: UInt64, counter: UInt64, from peer: Peer, _ carrier: Carrier,
    now: Instant
  ) {
    if !peer.isStock, EvictionsMessage.isOne(content) {
      if let message = EvictionsMessage(decoding: content) {
        receive(message, from: peer, now: now)
      } else {
        drops.badPathMessage += 1
      }
      return
    }
    guard !peer.isStock, let message = PathMessage.decode(content) else {
      drops.badPathMessage += 1
      return
    }
    switch message {
    case .hello(let hello):
      receiveHello(hello, keypair: keypair, counter: counter, from: peer, now: now)
    case .pong(let challenge, _, _):
      if let ping = pings[challenge], ping.peer == peer.index, let sentAt = ping.sentAt {
        pings[challenge] = nil
        emit(
          .pong(
            token: ping.token, roundTrip: now - sentAt,
            path: peer.paths.lane(of: carrier).flatMap { peer.paths.tier(of: $0) }
              .map { "\($0.code) \(carrier.remote)" } ?? "\(carrier)"))
      } else {
        peer.paths.receive(message, from: carrier, now: now)
      }
    case .ping, .sizeProbe:
      peer.paths.receive(message, from: carrier, now: now)
    }
  }

  private func hold(_ content: RawSpan, keypair: UInt64, counter: UInt64, of peer: Peer) {
    guard keypair >= peer.incarnationKeypair, peer.held.count < NodeLimits.heldPackets else {
      drops.heldTooMany += 1
      return
    }
    peer.held.append(
      Peer.HeldPacket(keypair: keypair, counter: counter, bytes: [UInt8](content)))
  }

  // MARK: Transmit

  /// Fills the batch with whatever may leave now.
  /// - Parameter wallClock: nanoseconds since 1970, for handshake stamps.
  /// - Returns: true when the batch was full: send it and call again.
  package func pollTransmit(into batch: TransmitBatch, now: Instant, wallClock: UInt64) -> Bool {
    clock = now
    settle(now: now)
    while let transmit = keeper.pollTransmit(now: now, wallClock: wallClock) {
      send(transmit, into: batch, now: now)
      if batch.freeCapacity < Node.batchReserve { return true }
    }
    drainKeeper(now: now)
    for transmit in probeTransmits {
      append(
        transmit.bytes, to: .udp(socket: transmit.socket, remote: transmit.destination),
        timeToLive: transmit.timeToLive, into: batch)
    }
    probeTransmits.removeAll(keepingCapacity: true)
    var position = 0
    while position < touched.count {
      let peer = peers[touched[position]]
      guard fill(peer, into: batch, now: now) else {
        // Those before are done; this one and the rest come again.
        touched.removeFirst(position)
        return true
      }
      peer.isTouched = false
      reportLanes(of: peer, now: now)
      drainMux(of: peer, now: now)
      drainPaths(of: peer, now: now)
      position += 1
    }
    touched.removeAll(keepingCapacity: true)
    return false
  }

  /// Room one packet may need.
  private static var batchReserve: Int { 66_048 }

  private func send(_ transmit: HandshakeTransmit, into batch: TransmitBatch, now: Instant) {
    switch transmit.route {
    case .reply(let carrier):
      append(transmit.bytes, to: carrier, into: batch)
    case .data:
      guard let handle = transmit.peer, let peer = peer(handle) else { return }
      if let carrier = peer.paths.primary.flatMap({ peer.paths.carrier(of: $0) })
        ?? peer.handshakeCarrier
      {
        append(transmit.bytes, to: carrier, into: batch)
      }
    case .everyCarrier:
      guard let handle = transmit.peer, let peer = peer(handle) else { return }
      let isFirst = peer.lastInitiation != transmit.bytes
      peer.initiationRepeats = isFirst ? 0 : peer.initiationRepeats + 1
      peer.lastInitiation = transmit.bytes
      if case .wanted = peer.meeting {
        askToConnect(peer, initiation: transmit.bytes, now: now)
      }
      var targets: [Carrier] = []
      peer.paths.initiationTargets(
        bytes: transmit.bytes.count, firstTry: isFirst,
        isLate: peer.initiationRepeats >= NodeLimits.lateInitiation, budget: &budget, now: now,
        into: &targets)
      for carrier in targets {
        append(keeper.finish(transmit, for: carrier, now: now), to: carrier, into: batch)
      }
    }
  }

  private func append(
    _ bytes: [UInt8], to carrier: Carrier, timeToLive: UInt8 = 0, into batch: TransmitBatch
  ) {
    if carrier.kind == .relay {
      guard isRelayOpen(carrier) else { return }
    }
    batch.append(carrier: carrier, limit: bytes.count, timeToLive: timeToLive) {
      $0.write(bytes.span.bytes)
    }
  }

  /// - Returns: false when the batch is full before everything left.
  private func fill(_ peer: Peer, into batch: TransmitBatch, now: Instant) -> Bool {
    if peer.isOwn { pumpOwn(now: now) }
    guard !peer.isRemoved, !peer.isStock else { return true }
    while let opener = peer.paths.pollOpener(budget: &budget, now: now) {
      guard batch.freeCapacity >= Node.batchReserve else { return false }
      batch.append(
        carrier: opener.carrier, limit: opener.size, timeToLive: opener.timeToLive
      ) { opener.write(into: &$0) }
    }
    guard keeper.canSeal(peer.handle, now: now) else {
      // A new keypair says its HELLO anew; without keys it must not stay due.
      peer.hello.sendAt = nil
      peer.evictions.stateAt = nil
      return true
    }
    if let current = keeper.currentKeypair(peer.handle)?.rawValue, current != peer.hello.keypair {
      peer.hello.restart(
        keypair: current, isHeard: peer.firstCounter(on: current) != nil, now: now)
    }
    guard batch.freeCapacity >= Node.batchReserve else { return false }
    if let at = peer.hello.sendAt, at <= now { sendHello(to: peer, into: batch, now: now) }
    while true {
      guard batch.freeCapacity >= Node.batchReserve else { return false }
      guard let probe = peer.paths.pollProbe(budget: &budget, now: now) else { break }
      sealUnnumbered(
        peer, probe.carrier, size: probe.size, timeToLive: probe.timeToLive, into: batch, now: now
      ) { probe.write(into: &$0) }
    }
    sendEvictions(to: peer, into: batch, now: now)
    sendPings(to: peer, into: batch, now: now)
    for lane in peer.mux.pendingLanes where lane != peer.paths.primary {
      guard fill(peer, lane: lane, mode: .probe, into: batch, now: now) else { return false }
    }
    guard let primary = peer.paths.primary else { return true }
    return fill(peer, lane: primary, mode: .data, into: batch, now: now)
  }

  private func fill(
    _ peer: Peer, lane: LaneID, mode: FillMode, into batch: TransmitBatch, now: Instant
  ) -> Bool {
    guard let carrier = peer.paths.carrier(of: lane),
      let maximum = peer.paths.maximumPacket(of: lane)
    else { return true }
    if carrier.kind == .relay, !isRelayOpen(carrier) { return true }
    let size = PathSizes.sealed(maximum)
    let handle = peer.handle
    let mux = peer.mux
    let keeper = keeper
    let inFlight = mux.laneStatistics(lane)?.bytesInFlight ?? 0
    var total = 0
    var isFull = false
    while true {
      if carrier.kind != .udp, isBlocked(carrier.socket) { break }
      guard batch.freeCapacity >= Node.batchReserve else {
        isFull = true
        break
      }
      var result = FillResult.nothing
      let count = batch.append(carrier: carrier, limit: size) { output in
        _ = keeper.seal(handle, into: &output, now: now) { inner in
          result = mux.fill(lane: lane, into: &inner, mode: mode, now: now)
        }
      }
      total += count
      guard result == .wrote, count > 0 else { break }
    }
    if total > 0 {
      peer.lastDataSealed = now
      if peer.firstNumbered == nil { peer.firstNumbered = keeper.currentKeypair(handle)?.rawValue }
      let eliciting = (mux.laneStatistics(lane)?.bytesInFlight ?? 0) > inFlight
      peer.paths.sent(on: lane, bytes: total, ackEliciting: eliciting, now: now)
    }
    return !isFull
  }

  private func sendHello(to peer: Peer, into batch: TransmitBatch, now: Instant) {
    guard
      let carrier = peer.paths.primary.flatMap({ peer.paths.carrier(of: $0) })
        ?? peer.handshakeCarrier
    else {
      peer.hello.sendAt = now + NodeLimits.helloRetryFloor
      return
    }
    if peer.paths.primary == nil,
      !peer.paths.permits(
        carrier, bytes: PathSizes.sealed(HelloMessage.byteCount), budget: &budget, now: now)
    {
      peer.hello.sendAt = now + NodeLimits.helloRetryFloor
      return
    }
    let message = PathMessage.hello(
      HelloMessage(
        flags: peer.helloFlags, incarnation: peer.localIncarnation, seen: peer.incarnation,
        certificateSerial: ownCertificate?.serial ?? 0,
        revocationNumber: evictions?.number ?? 0))
    sealUnnumbered(peer, carrier, size: message.fieldBytes, into: batch, now: now) {
      message.write(into: &$0)
    }
    peer.hello.sent(
      roundTrip: peer.paths.primary.flatMap { peer.mux.laneStatistics($0)?.smoothedRoundTrip }
        ?? .zero, now: now)
  }

  private func sendPings(to peer: Peer, into batch: TransmitBatch, now: Instant) {
    guard !pings.isEmpty, let primary = peer.paths.primary,
      let carrier = peer.paths.carrier(of: primary)
    else { return }
    for (challenge, ping) in pings.sorted(by: { $0.key < $1.key })
    where ping.peer == peer.index && ping.sentAt == nil {
      pings[challenge]?.sentAt = now
      let message = PathMessage.ping(challenge: challenge, size: PathMessage.shortestPing)
      sealUnnumbered(peer, carrier, size: PathMessage.shortestPing, into: batch, now: now) {
        message.write(into: &$0, size: PathMessage.shortestPing)
      }
    }
  }

  func sealUnnumbered(
    _ peer: Peer, _ carrier: Carrier, size: Int, timeToLive: UInt8 = 0,
    into batch: TransmitBatch, now: Instant, _ body: (inout OutputRawSpan) -> Void
  ) {
    if carrier.kind == .relay, !isRelayOpen(carrier) { return }
    batch.append(
      carrier: carrier, limit: PathSizes.sealed(size), timeToLive: timeToLive
    ) { output in
      _ = keeper.seal(peer.handle, into: &output, now: now, body)
    }
  }

  /// What the lane measured, for the choice of paths.
  private func reportLanes(of peer: Peer, now: Instant) {
    guard let lane = peer.paths.primary, let statistics = peer.mux.laneStatistics(lane) else {
      return
    }
    guard let acknowledged = statistics.lastAcknowledged, acknowledged != peer.lastAcknowledged
    else { return }
    peer.lastAcknowledged = acknowledged
    peer.paths.acked(on: lane, now: now)
    peer.paths.rttSample(on: lane, statistics.latestRoundTrip, now: now)
    if peer.reportedLane != lane || statistics.packetsSent < peer.reportedSent
      || statistics.packetsLost < peer.reportedLost
    {
      peer.reportedLane = lane
      peer.reportedSent = statistics.packetsSent
      peer.reportedLost = statistics.packetsLost
      return
    }
    let sent = statistics.packetsSent - peer.reportedSent
    if sent >= 256 {
      peer.paths.lossSample(
        on: lane, lost: Int(statistics.packetsLost - peer.reportedLost), of: Int(sent), now: now)
      let rate = Double(statistics.deliveryRate)
      peer.paths.deliveryRate(on: lane, bytesPerSecond: rate, now: now)
      if !statistics.isAppLimited {
        peer.paths.goodput(on: lane, bytesPerSecond: rate, now: now)
      }
      peer.reportedSent = statistics.packetsSent
      peer.reportedLost = statistics.packetsLost
    }
  }
}

extension RawSpan {
  /// The byte at `offset`; the caller checked the bounds.
  @inline(__always)
  func unsafeLoadByte(_ offset: Int) -> UInt8 { unsafeLoad(fromByteOffset: offset, as: UInt8.self) }
}
