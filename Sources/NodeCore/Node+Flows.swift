/// Flows: from a local connection to a stream and back. Near end: choose the
/// exit, open, try the next one if nothing was delivered. Far end: check the
/// caller's certified identity, choose a target, let the driver dial.
/// spec "Tunnel semantics"; docs/protocol/tunnels.md.

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import Paths
  package import Tunnels
#endif

// MARK: Near end

extension Node {
  /// A local connection came in through `owner`.
  /// - Returns: its flow; `flowEnded` follows at once when no exit can be tried.
  ///   nil when there is no room for another flow.
  package func openFlow(
    _ owner: TunnelOwner, service: OpenRequest, exits: [EndpointReference], now: Instant
  ) -> FlowID? {
    guard let id = newFlow() else { return nil }
    let others = peers.filter { !$0.isStock && !$0.isOwn }
    var indexes = others.map(\.index)
    var candidates = others.map { $0.exitCandidate(for: service) }
    if let candidate = ownCandidate(for: service, exits: exits) {
      indexes.append(ownEnd(now: now).index)
      candidates.append(candidate)
    }
    let order = exitChooser.order(for: service, exits: exits, candidates: candidates, now: now)
    let slot = Int(id.index)
    flows[slot].isNear = true
    flows[slot].owner = owner
    flows[slot].terms = terms(of: owner)
    flows[slot].phase = .opening
    flows[slot].target = service.description
    flows[slot].attempt = Flow.Attempt(
      service: service, exits: indexes, steps: ExitAttempt(order: order),
      openedAt: now, due: now + NodeLimits.connectDue)
    openings.insert(id.index)
    if let step = flows[slot].attempt?.steps.start() { take(step, flow: slot, now: now) }
    return id
  }

  private func take(_ step: ExitAttempt.Step, flow slot: Int, now: Instant) {
    switch step {
    case .carry:
      openings.remove(UInt32(slot))
    case .giveUp(let failure):
      giveUp(slot, failure)
    case .tryExit(let index):
      guard let attempt = flows[slot].attempt else { return }
      let peer = peers[attempt.exits[index]]
      flows[slot].peer = peer.index
      flows[slot].attempt?.openedAt = now
      flows[slot].attempt?.due = now + NodeLimits.connectDue
      engage(slot, peer)
      guard wantSession(with: peer, now: now) else {
        report(.neverSent, flow: slot, now: now)
        return
      }
      guard isPermitted(flows[slot].terms, on: peer) else {
        // Nothing of it leaves before there is a road for it.
        flows[slot].attempt?.isHeld = true
        flows[slot].stream = StreamID(number: 0, epoch: 0)
        peer.heldOpens.insert(UInt32(slot))
        return
      }
      openStream(slot, peer, now: now)
    }
  }

  private func openStream(_ slot: Int, _ peer: Peer, now: Instant) {
    guard let attempt = flows[slot].attempt else { return }
    let terms = flows[slot].terms
    let request = attempt.service.encoded(terms)
    do throws(OpenFailure) {
      let stream = try peer.mux.open(request: request.span.bytes, now: now)
      if terms != .usual {
        peer.mux.setTerms(stream, priority: terms.priority, avoids: terms.avoids)
      }
      flows[slot].stream = stream
      peer.flows[stream.number] = UInt32(slot)
      if !attempt.early.isEmpty {
        let taken = peer.mux.write(stream, attempt.early.span.bytes)
        assert(taken == attempt.early.count, "the early limit is below every send buffer")
      }
      if attempt.finishedEarly { peer.mux.finish(stream) }
      touch(peer)
    } catch {
      report(.neverSent, flow: slot, now: now)
    }
  }

  /// The road has changed under a flow that waits for one.
  func openHeld(_ slot: Int, now: Instant) {
    guard flows[slot].attempt?.isHeld == true else { return }
    let peer = peers[flows[slot].peer]
    guard isPermitted(flows[slot].terms, on: peer) else { return }
    peer.heldOpens.remove(UInt32(slot))
    flows[slot].attempt?.isHeld = false
    flows[slot].attempt?.openedAt = now
    flows[slot].attempt?.due = now + NodeLimits.connectDue
    openStream(slot, peer, now: now)
    // What the caller said meanwhile may go with the request.
    if flows[slot].phase == .opening { emit(.flowWritable(flowID(slot))) }
  }

  private func report(_ outcome: ExitAttempt.Outcome, flow slot: Int, now: Instant) {
    guard let step = flows[slot].attempt?.steps.report(outcome) else { return }
    take(step, flow: slot, now: now)
  }

  private func giveUp(_ slot: Int, _ failure: TunnelFailure) {
    let flow = flows[slot]
    if let owner = flow.owner {
      counters[owner, default: TunnelCounters()].failed(failure)
      tunnelLog.record(
        owner, .refused(peer: flow.peer >= 0 ? peers[flow.peer].name : "", reason: failure),
        now: clock)
    }
    emit(.flowEnded(flowID(slot), .refused(words: failure.words)))
    release(slot)
  }

  /// Opens that wait too long for a session are given up (or try the next exit).
  func advanceOpenings(now: Instant) {
    // In order, as everything that is seen outside: a run repeats to the byte.
    for index in openings.sorted() {
      let slot = Int(index)
      guard let attempt = flows[slot].attempt, attempt.due <= now, flows[slot].peer >= 0 else {
        continue
      }
      let peer = peers[flows[slot].peer]
      if attempt.isHeld {
        peer.heldOpens.remove(index)
        flows[slot].attempt?.isHeld = false
        report(peer.isConnected ? .noPermittedRoad : .neverSent, flow: slot, now: now)
        continue
      }
      let wasSent = peer.lastDataSealed >= attempt.openedAt
      peer.flows[flows[slot].stream.number] = nil
      peer.mux.reset(flows[slot].stream, code: ResetCode.cancelled)
      touch(peer)
      let isRestricted = !peer.isConnected && peer.paths.settings.allowedTiers != .all
      report(
        wasSent ? .lost : isRestricted ? .noPermittedRoad : .neverSent, flow: slot, now: now)
    }
  }

  var nextOpeningDue: Instant {
    var due = Instant.distantFuture
    for index in openings {
      if let attempt = flows[Int(index)].attempt { due = min(due, attempt.due) }
    }
    return due
  }
}

// MARK: Far end

extension Node {
  func streamOpened(_ stream: StreamID, request: [UInt8], by peer: Peer, now: Instant) {
    let opened: OpenRequest
    let terms: StreamTerms
    do throws(OpenRequestFault) {
      (opened, terms) = try OpenRequest.decode(request.span.bytes)
    } catch {
      refuse(stream, of: peer, owner: nil, .malformedRequest)
      return
    }
    guard opened.protocol == .tcp else {
      refuse(stream, of: peer, owner: nil, .protocolNotActive)
      return
    }
    switch opened {
    case .tunnel(let key):
      guard let outbound = tunnels.outbounds[key] else {
        refuse(stream, of: peer, owner: nil, .noSuchTunnel)
        return
      }
      guard
        outbound.admits(
          endpointID: peer.endpointID, endpointName: peer.name, user: peer.userName)
      else {
        refuse(stream, of: peer, owner: .tunnel(key), .notAdmitted)
        return
      }
      startDial(
        stream, terms, of: peer, owner: .tunnel(key),
        Flow.Dial(targets: outbound.targets, requestedHost: nil), now: now)
    case .app(_, let host, let port):
      if let literal = IPAddress(host), !mayReach(requested: host, resolved: literal, port: port) {
        refuse(stream, of: peer, owner: nil, .notAllowed)
        return
      }
      let target: TunnelTarget
      do throws(DefinitionError) {
        target = try TunnelTarget(host: host, port: Int(port))
      } catch {
        refuse(stream, of: peer, owner: nil, .malformedRequest)
        return
      }
      startDial(
        stream, terms, of: peer, owner: nil,
        Flow.Dial(targets: [target], requestedHost: host), now: now)
    }
  }

  /// May an app of a peer reach this resolved address? Dial only what passed.
  package func mayReach(requested: String, resolved: IPAddress, port: UInt16) -> Bool {
    exitPolicy.mayReach(requested: requested, resolved: resolved, port: port).isAllowed
  }

  private func startDial(
    _ stream: StreamID, _ terms: StreamTerms, of peer: Peer, owner: TunnelOwner?,
    _ dial: Flow.Dial, now: Instant
  ) {
    guard let id = newFlow() else {
      refuse(stream, of: peer, owner: owner, .exitBusy)
      return
    }
    let slot = Int(id.index)
    flows[slot].phase = .dialing
    flows[slot].peer = peer.index
    flows[slot].stream = stream
    flows[slot].owner = owner
    flows[slot].dial = dial
    flows[slot].terms = terms
    peer.flows[stream.number] = id.index
    if terms != .usual {
      peer.mux.setTerms(stream, priority: terms.priority, avoids: terms.avoids)
    }
    engage(slot, peer)
    dialNext(slot, now: now, lastReason: .targetUnreachable)
  }

  private func dialNext(_ slot: Int, now: Instant, lastReason: OpenRefusal) {
    guard var dial = flows[slot].dial else { return }
    let picked: Int?
    if case .tunnel(let key)? = flows[slot].owner, tunnels.outbounds[key] != nil,
      (targetChoosers[key]?.count ?? dial.targets.count) == dial.targets.count
    {
      picked = targetChoosers[key, default: TargetChooser(count: dial.targets.count)]
        .pick(&dial.tried, now: now)
    } else {
      var chooser = TargetChooser(count: dial.targets.count)
      picked = chooser.pick(&dial.tried, now: now)
    }
    guard let picked, picked < dial.targets.count else {
      let flow = flows[slot]
      peers[flow.peer].flows[flow.stream.number] = nil
      refuse(flow.stream, of: peers[flow.peer], owner: flow.owner, lastReason)
      release(slot)
      return
    }
    dial.current = picked
    flows[slot].dial = dial
    flows[slot].target = dial.targets[picked].description
    emit(
      .dial(
        flowID(slot),
        DialRequest(target: dial.targets[picked], requestedHost: dial.requestedHost)))
  }

  /// The driver reached the target.
  package func dialSucceeded(_ id: FlowID, now: Instant) {
    guard let slot = slot(of: id), flows[slot].phase == .dialing else { return }
    let peer = peers[flows[slot].peer]
    if case .tunnel(let key)? = flows[slot].owner, let dial = flows[slot].dial {
      targetChoosers[key]?.succeeded(dial.current)
    }
    flows[slot].dial = nil
    flows[slot].phase = .open
    peer.mux.accept(flows[slot].stream)
    count(opened: slot)
    touch(peer)
    if peer.mux.readableCount(flows[slot].stream) > 0 { emit(.flowReadable(id)) }
    if peer.mux.isFinished(flows[slot].stream) { emit(.flowFinished(id)) }
  }

  /// The driver could not reach the target; the next one is tried, or the open
  /// refused with `reason`.
  package func dialFailed(_ id: FlowID, reason: OpenRefusal, now: Instant) {
    guard let slot = slot(of: id), flows[slot].phase == .dialing else { return }
    if case .tunnel(let key)? = flows[slot].owner, let dial = flows[slot].dial {
      targetChoosers[key]?.failed(dial.current, now: now)
    }
    dialNext(slot, now: now, lastReason: reason)
  }

  private func refuse(
    _ stream: StreamID, of peer: Peer, owner: TunnelOwner?, _ reason: OpenRefusal
  ) {
    peer.mux.refuse(stream, code: reason.rawValue, words: reason.words)
    let failure = TunnelFailure(reason)
    if let owner {
      counters[owner, default: TunnelCounters()].failed(failure)
      tunnelLog.record(owner, .refused(peer: peer.name, reason: failure), now: clock)
    } else {
      log(.info, "open-refused", "refused a connection of \(peer.name): \(failure.words)")
    }
    touch(peer)
  }
}

// MARK: Bytes

extension Node {
  /// Lets `body` put up to `limit` bytes into the flow; a read(2) straight
  /// into the send buffer. 0 when there is no room (`flowWritable` follows).
  package func withFlowWritable(
    _ id: FlowID, limit: Int, _ body: (inout OutputRawSpan) -> Void
  ) -> Int {
    guard let slot = slot(of: id) else { return 0 }
    let flow = flows[slot]
    guard flow.peer >= 0 else { return 0 }
    let peer = peers[flow.peer]
    var written = 0
    if flow.phase == .opening {
      let room = Flow.earlyLimit - (flow.attempt?.early.count ?? 0)
      guard room > 0 else { return 0 }
      var copy: [UInt8] = []
      written = peer.mux.withWritable(flow.stream, limit: min(limit, room)) { output in
        body(&output)
        copy.append(output.bytes)
      }
      flows[slot].attempt?.early += copy
    } else {
      written = peer.mux.withWritable(flow.stream, limit: limit, body)
    }
    if written > 0 {
      if flow.isNear {
        flows[slot].toTarget &+= UInt64(written)
      } else {
        flows[slot].toCaller &+= UInt64(written)
      }
      touch(peer)
    }
    return written
  }

  /// Bytes `withFlowWritable` would take now. 0 asks for a `flowWritable` later.
  package func flowWriteCapacity(_ id: FlowID) -> Int {
    guard let slot = slot(of: id), flows[slot].peer >= 0 else { return 0 }
    let flow = flows[slot]
    let capacity = peers[flow.peer].mux.writeCapacity(flow.stream)
    guard flow.phase == .opening else { return capacity }
    return min(capacity, max(0, Flow.earlyLimit - (flow.attempt?.early.count ?? 0)))
  }

  /// Lends readable bytes in one piece; `body` says how many it took.
  @discardableResult
  package func withFlowReadable(_ id: FlowID, _ body: (RawSpan) -> Int) -> Int {
    guard let slot = slot(of: id), flows[slot].peer >= 0 else { return 0 }
    let peer = peers[flows[slot].peer]
    let taken = peer.mux.withReadable(flows[slot].stream, body)
    if taken > 0 {
      if flows[slot].isNear {
        flows[slot].toCaller &+= UInt64(taken)
      } else {
        flows[slot].toTarget &+= UInt64(taken)
      }
      touch(peer)
    }
    return taken
  }

  /// Bytes that can be read now.
  package func flowReadableCount(_ id: FlowID) -> Int {
    guard let slot = slot(of: id), flows[slot].peer >= 0 else { return 0 }
    return peers[flows[slot].peer].mux.readableCount(flows[slot].stream)
  }

  /// True when the far side finished and every byte was taken.
  package func flowIsFinished(_ id: FlowID) -> Bool {
    guard let slot = slot(of: id), flows[slot].peer >= 0, flows[slot].attempt?.isHeld != true
    else { return false }
    return peers[flows[slot].peer].mux.isFinished(flows[slot].stream)
  }

  /// No more will be written.
  package func flowFinish(_ id: FlowID) {
    guard let slot = slot(of: id), flows[slot].peer >= 0 else { return }
    if flows[slot].phase == .opening { flows[slot].attempt?.finishedEarly = true }
    let peer = peers[flows[slot].peer]
    peer.mux.finish(flows[slot].stream)
    touch(peer)
  }

  /// Ends both directions at once (the local socket was reset or closed).
  package func flowReset(_ id: FlowID, words: String = "") {
    guard let slot = slot(of: id) else { return }
    let flow = flows[slot]
    if flow.peer >= 0 {
      let peer = peers[flow.peer]
      peer.flows[flow.stream.number] = nil
      if flow.phase == .dialing {
        peer.mux.refuse(
          flow.stream, code: OpenRefusal.exitClosing.rawValue, words: OpenRefusal.exitClosing.words)
      } else {
        peer.mux.reset(flow.stream, code: ResetCode.application, words: words)
      }
      touch(peer)
    }
    release(slot)
  }
}

// MARK: Events of the multiplexer

extension Node {
  func drainMux(of peer: Peer, now: Instant) {
    while let event = peer.mux.pollEvent() {
      switch event {
      case .opened(let stream, let request):
        streamOpened(stream, request: request, by: peer, now: now)
      case .accepted(let stream):
        guard let slot = flowSlot(stream, of: peer) else { continue }
        if let service = flows[slot].attempt?.service {
          exitChooser.succeeded(service, atExit: peer.endpointID)
        }
        report(.opened, flow: slot, now: now)
        flows[slot].attempt = nil
        flows[slot].phase = .open
        count(opened: slot)
        emit(.flowOpened(flowID(slot)))
        emit(.flowWritable(flowID(slot)))
      case .refused(let stream, let code, _):
        guard let slot = flowSlot(stream, of: peer) else { continue }
        peer.flows[stream.number] = nil
        if let service = flows[slot].attempt?.service {
          exitChooser.refused(service, byExit: peer.endpointID, now: now)
        }
        report(.refused(OpenRefusal(rawValue: code)), flow: slot, now: now)
      case .readable(let stream):
        guard let slot = flowSlot(stream, of: peer), flows[slot].phase != .dialing else { continue }
        emit(.flowReadable(flowID(slot)))
      case .writable(let stream):
        guard let slot = flowSlot(stream, of: peer), flows[slot].phase != .dialing else { continue }
        emit(.flowWritable(flowID(slot)))
      case .finished(let stream):
        guard let slot = flowSlot(stream, of: peer), flows[slot].phase != .dialing else { continue }
        emit(.flowFinished(flowID(slot)))
      case .reset(let stream, let code, let words):
        guard let slot = flowSlot(stream, of: peer) else { continue }
        end(slot, Node.flowEnd(code: code, words: words))
      case .closed(let stream):
        guard let slot = flowSlot(stream, of: peer) else { continue }
        emit(.flowClosed(flowID(slot)))
        peer.flows[stream.number] = nil
        release(slot)
      case .datagram(let stream):
        // UDP tunnels come later; nothing may open a stream for datagrams yet.
        while peer.mux.receiveDatagram(stream, { _ in }) { drops.unexpectedDatagram += 1 }
      case .laneProbeTimeout(let lane, let count):
        peer.paths.laneTimeout(on: lane, count: count, now: now)
      case .laneLossSpurious, .laneCongestionPersistent:
        break
      }
    }
  }

  private static func flowEnd(code: UInt16, words: String) -> FlowEnd {
    switch code {
    case ResetCode.peerRestarted: .peerRestarted
    case ResetCode.peerLost: .peerLost
    default: .reset(code: code, words: words)
    }
  }

  /// Ends a flow whose stream is over already.
  func end(_ slot: Int, _ reason: FlowEnd) {
    let flow = flows[slot]
    if flow.peer >= 0 { peers[flow.peer].flows[flow.stream.number] = nil }
    if let owner = flow.owner, flow.phase != .open {
      counters[owner, default: TunnelCounters()].failed(.exitLost)
    }
    emit(.flowEnded(flowID(slot), reason))
    release(slot)
  }
}

// MARK: The table

extension Node {
  func newFlow() -> FlowID? {
    let slot: Int
    if let free = freeFlows.popLast() {
      slot = Int(free)
    } else {
      guard flows.count < NodeLimits.flows else { return nil }
      slot = flows.count
      flows.append(Flow())
    }
    let generation = flows[slot].generation &+ 1
    flows[slot] = Flow()
    flows[slot].generation = generation
    return FlowID(index: UInt32(slot), generation: generation)
  }

  func slot(of id: FlowID) -> Int? {
    let slot = Int(id.index)
    guard slot < flows.count, flows[slot].generation == id.generation, flows[slot].phase != .free
    else { return nil }
    return slot
  }

  func flowID(_ slot: Int) -> FlowID {
    FlowID(index: UInt32(slot), generation: flows[slot].generation)
  }

  private func flowSlot(_ stream: StreamID, of peer: Peer) -> Int? {
    guard let index = peer.flows[stream.number], flows[Int(index)].stream == stream else {
      return nil
    }
    return Int(index)
  }

  private func count(opened slot: Int) {
    let flow = flows[slot]
    guard let owner = flow.owner else { return }
    flows[slot].isCounted = true
    let peer = peers[flow.peer]
    counters[owner, default: TunnelCounters()].opened()
    counters[owner]?.path = peer.pathWords
    tunnelLog.record(
      owner, .opened(peer: peer.name, target: flow.target, path: peer.pathWords), now: clock)
  }

  func release(_ slot: Int) {
    let flow = flows[slot]
    guard flow.phase != .free else { return }
    disengage(slot)
    openings.remove(UInt32(slot))
    if flow.isCounted, let owner = flow.owner {
      counters[owner]?.closed()
      counters[owner]?.carried(toTarget: Int(flow.toTarget), toCaller: Int(flow.toCaller))
      let peer = peers[flow.peer]
      tunnelLog.record(
        owner,
        .closed(
          peer: peer.name, target: flow.target, bytesToTarget: flow.toTarget,
          bytesToCaller: flow.toCaller, path: peer.pathWords), now: clock)
    }
    flows[slot].phase = .free
    flows[slot].attempt = nil
    flows[slot].dial = nil
    freeFlows.append(UInt32(slot))
  }
}
