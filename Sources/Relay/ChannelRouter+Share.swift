/// Who may send next: the shares of the cap (meshes in turn, channels of a mesh
/// in turn) and the lists that flows wait in. A flow holds at most the share of
/// its front packet, so a stalled leg keeps nothing from the others.
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
  mutating func activate(_ flow: Int32, now: Instant) {
    busyFlows += 1
    flows[Int(flow)].deficit = min(0, flows[Int(flow)].deficit)
    queueForShare(flow, now: now)
  }

  /// A flow with packets goes where it must wait next.
  mutating func queueForShare(_ flow: Int32, now: Instant) {
    guard isCapped(flow), flows[Int(flow)].grant < frontCost(flow) else {
      makeReady(flow)
      return
    }
    let mesh = flows[Int(flow)].mesh
    flows[Int(flow)].stage = .hungry
    meshes[Int(mesh)].hungry.append(flow, in: &flows)
    if !meshes[Int(mesh)].isActive {
      meshes[Int(mesh)].isActive = true
      activeMeshes.append(mesh)
    }
    share(now: now)
  }

  mutating func makeReady(_ flow: Int32) {
    let leg = flows[Int(flow)].leg
    flows[Int(flow)].stage = .ready
    legs[Int(leg)].ready.append(flow, in: &flows)
    signal(leg)
  }

  /// Hands out what the cap allows: one piece to the next flow of the next
  /// mesh, until the tokens or the hungry flows are used up.
  mutating func share(now: Instant) {
    total.refill(now)
    var skipped = 0
    grantDeadline = .distantFuture
    while !activeMeshes.isEmpty, skipped < activeMeshes.count {
      guard total.hasAny else {
        grantDeadline = total.ready(for: Self.shareQuantum, now: now)
        return
      }
      if activeMeshPosition >= activeMeshes.count { activeMeshPosition = 0 }
      let mesh = Int(activeMeshes[activeMeshPosition])
      meshes[mesh].limiter.refill(now)
      guard meshes[mesh].limiter.hasAny else {
        grantDeadline = min(
          grantDeadline, meshes[mesh].limiter.ready(for: Self.shareQuantum, now: now))
        skipped += 1
        activeMeshPosition += 1
        continue
      }
      skipped = 0
      let flow = meshes[mesh].hungry.first
      let i = Int(flow)
      let missing = frontCost(flow) - flows[i].grant
      var piece = total.grant(min(missing, Self.shareQuantum))
      let allowed = meshes[mesh].limiter.grant(piece)
      total.giveBack(piece - allowed)
      piece = allowed
      flows[i].grant += piece
      meshes[mesh].hungry.removeFirst(in: &flows)
      if flows[i].grant >= frontCost(flow) {
        makeReady(flow)
      } else {
        meshes[mesh].hungry.append(flow, in: &flows)
      }
      if meshes[mesh].hungry.isEmpty {
        meshes[mesh].isActive = false
        activeMeshes.remove(at: activeMeshPosition)
      } else {
        activeMeshPosition += 1
      }
    }
  }

  /// What a flow holds of the cap and will not use.
  mutating func returnGrant(_ flow: Int32) {
    let grant = flows[Int(flow)].grant
    guard grant > 0 else { return }
    flows[Int(flow)].grant = 0
    total.giveBack(grant)
    meshes[Int(flows[Int(flow)].mesh)].limiter.giveBack(grant)
  }

  /// Tells the driver, once, that a leg has something to send.
  mutating func signal(_ leg: Int32) {
    guard !legs[Int(leg)].isSignalled else { return }
    legs[Int(leg)].isSignalled = true
    readyConnections.append(legs[Int(leg)].connection)
  }

  // MARK: Lists

  /// Takes a flow out of whatever list it waits in (closing only: linear).
  mutating func unlink(_ flow: Int32) {
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
      if kept.isEmpty {
        meshes[Int(mesh)].isActive = false
        activeMeshes.removeAll { $0 == mesh }
      }
    }
  }
}
