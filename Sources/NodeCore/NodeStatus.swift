/// What a node knows of itself and its peers, as plain values for `status`,
/// `get ep` and the API. Made on demand, never on the packet path.

#if canImport(Bytes)
  package import Bytes
  package import Crypto
  internal import Mux
  package import NAT
  package import Paths
  internal import Signaling
  package import Tunnels
  internal import WireGuard
#endif

/// What is demanded of the road to a peer.
package struct PeerDemands: Sendable {
  /// Who of this end demands what; the first that says so about relays counts.
  package var reasons: [String]
  package var use: RelayUse
  /// What the peer's end demands, as it told.
  package var told: RelayUse
  /// What the streams of now want of the choice.
  package var aim: PathAim
  /// Flows that wait for a road they may take: not opened yet, and open ones.
  package var heldOpens: Int
  package var heldFlows: Int
}

package struct PeerStatus: Sendable {
  package var name: String
  package var endpointID: String
  package var user: String
  package var isStock: Bool
  package var isOnline: Bool
  package var version: String
  /// Where the server sees it.
  package var seenAt: Endpoint
  /// Named tunnels it offers: "tcp/NAME", and whether it is the inbound half.
  package var offers: [(tunnel: String, isInbound: Bool)]
  /// The path in use; nil without one.
  package var tier: Tier?
  package var address: Endpoint?
  package var roundTrip: TimeAmount?
  package var lossPerMille: Int
  package var bytesSent: UInt64
  package var bytesReceived: UInt64
  /// Since when this path is in use.
  package var since: Instant?
  package var openStreams: Int
  package var cipher: AEADCipher
  /// Why no better tier is in use.
  package var whyNotBetter: [(tier: Tier, reason: PathReason)]
  /// What decides about the road, and the NATs at both ends.
  package var verdict: PathVerdict
  package var demands: PeerDemands
  package var ownNAT: NATFacts
  package var peerNAT: NATFacts
  package var paths: [PathSnapshot]
  package var history: [PathDecision]
}

extension Node {
  /// All members but this node, by name.
  package func status(now: Instant) -> [PeerStatus] {
    peers.filter { !$0.isRemoved }.sorted { $0.name < $1.name }.map { status(of: $0, now: now) }
  }

  /// One member; nil when there is none of that name or endpoint id.
  package func status(of name: String, now: Instant) -> PeerStatus? {
    guard
      let peer = peers.first(where: { !$0.isRemoved && ($0.name == name || $0.endpointID == name) })
    else { return nil }
    return status(of: peer, now: now)
  }

  private func status(of peer: Peer, now: Instant) -> PeerStatus {
    let primary = peer.primarySnapshot
    let lane = peer.paths.primary.flatMap { peer.mux.laneStatistics($0) }
    let paths = peer.paths.snapshots
    return PeerStatus(
      name: peer.name, endpointID: peer.endpointID, user: peer.userName, isStock: peer.isStock,
      isOnline: peer.isOnline || peer.isConnected, version: peer.version, seenAt: peer.seenAt,
      offers: peer.offers.map { ($0.tunnel, $0.isInbound) }, tier: primary?.tier,
      address: primary?.carrier.remote,
      roundTrip: lane.flatMap { $0.hasRoundTrip ? $0.smoothedRoundTrip : nil }
        ?? primary?.roundTrip,
      lossPerMille: primary?.lossPerMille ?? 0,
      bytesSent: paths.reduce(0) { $0 &+ $1.bytesSent },
      bytesReceived: paths.reduce(0) { $0 &+ $1.bytesReceived },
      since: primary == nil ? nil : peer.paths.primarySince,
      openStreams: peer.mux.openStreamCount, cipher: peer.cipher,
      whyNotBetter: peer.paths.whyNotBetterExplained(now: now),
      verdict: verdict(on: peer, now: now), demands: demands(on: peer), ownNAT: natFacts,
      peerNAT: peer.nat, paths: paths,
      history: peer.paths.history)
  }

  private func demands(on peer: Peer) -> PeerDemands {
    PeerDemands(
      reasons: peer.relays.policy.reasons, use: peer.relays.policy.use, told: peer.relays.told,
      aim: peer.paths.aim, heldOpens: peer.heldOpens.count,
      heldFlows: peer.isConnected
        ? peer.flows.values.count { !isPermitted(flows[Int($0)].terms, on: peer) } : 0)
  }

  /// Drops of the session layer, by reason, those that happened.
  package var sessionDropTotal: UInt64 { keeper.drops.total }
}

extension Node {
  /// One line on the inside of a session, for failure messages of the simulator.
  package func diagnosis(of name: String, now: Instant) -> String {
    guard let peer = peers.first(where: { !$0.isRemoved && $0.name == name }) else {
      return "no peer"
    }
    var words =
      "canSeal \(keeper.canSeal(peer.handle, now: now)) hello \(peer.hello) heard \(peer.heardKeypairs.count) held \(peer.held.count) meeting \(peer.meeting) channel \(peer.channel) streams \(peer.mux.openStreamCount) hasWork \(peer.mux.hasWork(now: now)) mux \(peer.mux.drops) keeper \(keeper.drops)"
    for path in peer.paths.snapshots {
      words +=
        "\n    \(path.carrier) \(path.state) lane \(path.lane.map { "\($0)" } ?? "-") \(path.isPrimary ? "primary" : "") rtt \(path.roundTrip?.inMilliseconds ?? -1) max \(path.maximumPacket)"
      if let lane = path.lane, let figures = peer.mux.laneStatistics(lane) {
        words +=
          " sent \(figures.packetsSent) acked \(figures.packetsAcknowledged) lost \(figures.packetsLost) inflight \(figures.bytesInFlight) window \(figures.congestionWindow) timeouts \(figures.probeTimeouts)"
      }
      if let lane = path.lane, let theirs = peer.mux.peerLaneStatistics(lane) {
        words += " came \(theirs.packets) missing \(theirs.missing)"
      }
    }
    return words
  }
}
