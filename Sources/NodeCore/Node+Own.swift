/// Tunnels whose two halves are on this endpoint: the flow goes through two
/// multiplexers joined in memory, so that refusals, half-closed and slow ends
/// behave as between two machines. Nothing here is sealed or leaves the process,
/// no session and no server is needed. spec/ztm.md "Tunnel semantics".

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
  internal import Mux
  internal import Paths
  internal import Tunnels
  internal import WireGuard
#endif

/// The two ends of the connection to ourselves. To every other aspect they are
/// removed peers: never listed, met, probed or sent to.
final class OwnEnds {
  let near: Peer
  let far: Peer
  /// Carries one packet from one end to the other.
  let batch = TransmitBatch(capacity: 2 * MuxProtocol.maximumPacket)
  static let lane: LaneID = 0

  init(near: Peer, far: Peer) {
    self.near = near
    self.far = far
  }
}

extension Node {
  /// This endpoint as an exit; nil when it is none for `service`.
  func ownCandidate(for service: OpenRequest, exits: [EndpointReference]) -> ExitCandidate? {
    let isNamed = exits.contains { $0.matches(id: endpointID, name: settings.name) }
    guard isNamed || exits.isEmpty else { return nil }
    var offers = false
    if case .tunnel(let key) = service { offers = tunnels.outbounds[key] != nil }
    guard isNamed || offers else { return nil }
    return ExitCandidate(
      id: endpointID, name: settings.name, isOnline: true, tier: 0, roundTrip: .zero,
      connections: own?.near.flows.count ?? 0, offers: offers)
  }

  /// The peer that is ourselves; made when first needed.
  func ownEnd(now: Instant) -> Peer {
    let ends = own ?? OwnEnds(near: makeOwn(.odd, now: now), far: makeOwn(.even, now: now))
    own = ends
    ends.far.userName = userName
    return ends.near
  }

  private func makeOwn(_ role: MuxRole, now: Instant) -> Peer {
    let peer = Peer(
      index: peers.count, name: settings.name, publicKey: settings.staticKey.publicKey,
      isStock: false, handle: PeerHandle(rawValue: .max), role: role, cipher: .chaCha20Poly1305,
      mux: newMultiplexer(role: role),
      paths: PeerPaths(settings: PathSettings(), random: SeededRandom(seed: random.bytes(32))),
      localIncarnation: settings.incarnation)
    peer.isOwn = true
    peer.isRemoved = true
    peer.endpointID = endpointID
    peer.userName = userName
    peer.mux.addLane(
      OwnEnds.lane, kind: .ordered, maximumPacket: MuxProtocol.maximumPacket, roundTrip: .zero,
      now: now)
    peers.append(peer)
    return peer
  }

  /// Carries whatever either end has to say, until both are quiet.
  func pumpOwn(now: Instant) {
    guard let own else { return }
    var isQuiet = false
    while !isQuiet {
      let there = carry(from: own.near, to: own.far, own.batch, now: now)
      let back = carry(from: own.far, to: own.near, own.batch, now: now)
      drainMux(of: own.near, now: now)
      drainMux(of: own.far, now: now)
      isQuiet = !there && !back
    }
  }

  /// - Returns: whether there was anything.
  private func carry(
    from sender: Peer, to receiver: Peer, _ batch: TransmitBatch, now: Instant
  ) -> Bool {
    var hasCarried = false
    let source = sender.mux
    let sink = receiver.mux
    while true {
      batch.removeAll()
      var result = FillResult.nothing
      batch.append(
        carrier: .udp(socket: 0, remote: .none), limit: MuxProtocol.maximumPacket
      ) { output in
        result = source.fill(lane: OwnEnds.lane, into: &output, now: now)
      }
      guard result == .wrote, let segment = batch.segments.first else { return hasCarried }
      hasCarried = true
      let failure: MuxFailure? = batch.withSegment(segment) { packet in
        do throws(MuxFailure) {
          try sink.receive(packet, now: now)
          return nil
        } catch {
          return error
        }
      }
      precondition(failure == nil, "our own multiplexer contradicts itself")
    }
  }

  var ownDeadline: Instant {
    guard let own else { return .distantFuture }
    return min(own.near.mux.nextDeadline, own.far.mux.nextDeadline)
  }

  func advanceOwn(to now: Instant) {
    guard let own else { return }
    for peer in [own.near, own.far] where peer.mux.nextDeadline <= now {
      peer.mux.advance(to: now)
      touch(peer)
    }
  }
}
