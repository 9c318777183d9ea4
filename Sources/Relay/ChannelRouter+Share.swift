/// Who may send next: the shares of the cap (meshes in turn, channels of a mesh
/// in turn) and the lists that flows wait in. A flow that holds its share gets no
/// more until it has used it, so a stalled leg keeps nothing from the others.
#if canImport(Bytes)
  internal import Bytes
#endif

extension ChannelRouter {
  /// A share is handed out in pieces of this size, so that large packets gain
  /// nothing over small ones.
  static var shareQuantum: Int { 1_500 }

  func isCapped(_ flow: Int32) -> Bool {
    total.isLimited || meshes[Int(flows[Int(flow)].mesh)].limiter.isLimited
  }

  /// Bytes the front packet takes on the wire.
  func frontCost(_ flow: Int32) -> Int {
    flows[Int(flow)].queue.frontCount + RelaySpecification.headSize
  }

  /// A flow has its first packet.
  func activate(_ flow: Int32, now: Instant) {
    busyFlows += 1
    flows[Int(flow)].deficit = min(0, flows[Int(flow)].deficit)
    queueForShare(flow, now: now)
  }

  /// A flow with packets goes where it must wait next.
  func queueForShare(_ flow: Int32, now: Instant) {
    guard isCapped(flow), flows[Int(flow)].grant < frontCost(flow) else {
      makeReady(flow)
      return
    }
    let mesh = flows[Int(flow)].mesh
    flows[Int(flow)].stage = .hungry
    meshes[Int(mesh)].hungry.append(flow, in: &flows)
    meshes[Int(mesh)].hungryCount += 1
    if !meshes[Int(mesh)].isActive {
      meshes[Int(mesh)].isActive = true
      activeMeshes.append(mesh)
    }
    share(now: now)
  }

  func makeReady(_ flow: Int32) {
    let leg = flows[Int(flow)].leg
    flows[Int(flow)].stage = .ready
    legs[Int(leg)].ready.append(flow, in: &flows)
    signal(leg)
  }

  /// Hands out what the cap allows, meshes in turn and channels of a mesh in
  /// turn. Tokens come in ticks, and every hungry flow gets an equal part of
  /// what a tick brought: whoever is filled first must not find the tokens that
  /// came since the others were asked.
  func share(now: Instant) {
    total.refill(now)
    grantDeadline = .distantFuture
    var skipped = 0
    let part = total.isLimited ? Int(total.level) / max(1, activeMeshes.count) : Int.max
    while !activeMeshes.isEmpty, skipped < activeMeshes.count {
      guard total.holds(Self.shareQuantum) else {
        grantDeadline = total.ready(for: Self.shareQuantum, now: now)
        return
      }
      // A queue: a mesh that stayed at its place would wait for ever behind those
      // that leave and come again.
      let mesh = Int(activeMeshes.removeFirst())
      meshes[mesh].limiter.refill(now)
      guard meshes[mesh].limiter.holds(Self.shareQuantum) else {
        grantDeadline = min(
          grantDeadline, meshes[mesh].limiter.ready(for: Self.shareQuantum, now: now))
        skipped += 1
        activeMeshes.append(Int32(mesh))
        continue
      }
      skipped = 0
      serveMesh(mesh, part: part)
      if meshes[mesh].hungry.isEmpty {
        meshes[mesh].isActive = false
      } else {
        activeMeshes.append(Int32(mesh))
      }
    }
  }

  /// One turn of a mesh: each of its hungry flows once, or until its part is used.
  private func serveMesh(_ mesh: Int, part: Int) {
    let count = meshes[mesh].hungryCount
    var available = part
    if meshes[mesh].limiter.isLimited {
      available = min(available, Int(meshes[mesh].limiter.level))
    }
    let each = max(Self.shareQuantum, available / max(1, count))
    var turns = min(count, max(1, available / each))
    // A turn is a whole piece or none: a part of one would be a lost turn.
    while turns > 0, total.holds(Self.shareQuantum),
      meshes[mesh].limiter.holds(Self.shareQuantum)
    {
      turns -= 1
      let flow = meshes[mesh].hungry.first
      let i = Int(flow)
      let piece = min(appetite(flow), each)
      total.take(piece)
      meshes[mesh].limiter.take(piece)
      flows[i].grant += piece
      meshes[mesh].hungry.removeFirst(in: &flows)
      if flows[i].grant >= frontCost(flow) {
        meshes[mesh].hungryCount -= 1
        makeReady(flow)
      } else {
        meshes[mesh].hungry.append(flow, in: &flows)
      }
    }
  }

  /// What a flow could use now.
  private func appetite(_ flow: Int32) -> Int {
    let queue = flows[Int(flow)].queue
    return queue.byteCount + queue.count * RelaySpecification.headSize - flows[Int(flow)].grant
  }

  /// What a flow holds of the cap and will not use.
  func returnGrant(_ flow: Int32) {
    let grant = flows[Int(flow)].grant
    guard grant > 0 else { return }
    flows[Int(flow)].grant = 0
    total.giveBack(grant)
    meshes[Int(flows[Int(flow)].mesh)].limiter.giveBack(grant)
  }

  /// Tells the driver, once, that a leg has something to send.
  func signal(_ leg: Int32) {
    guard !legs[Int(leg)].isSignalled else { return }
    legs[Int(leg)].isSignalled = true
    readyConnections.append(legs[Int(leg)].connection)
  }

  // MARK: Lists

  /// Takes a flow out of whatever list it waits in (closing only: linear).
  func unlink(_ flow: Int32) {
    let i = Int(flow)
    let stage = flows[i].stage
    guard stage != .idle else { return }
    flows[i].stage = .idle
    busyFlows -= 1
    returnGrant(flow)
    var list =
      stage == .ready
      ? legs[Int(flows[i].leg)].ready : meshes[Int(flows[i].mesh)].hungry
    var kept = FlowList()
    while !list.isEmpty {
      let member = list.first
      list.removeFirst(in: &flows)
      if member != flow { kept.append(member, in: &flows) }
    }
    if stage == .ready {
      legs[Int(flows[i].leg)].ready = kept
    } else {
      let mesh = flows[i].mesh
      meshes[Int(mesh)].hungry = kept
      meshes[Int(mesh)].hungryCount -= 1
      if kept.isEmpty {
        meshes[Int(mesh)].isActive = false
        activeMeshes.removeAll { $0 == mesh }
      }
    }
  }
}
