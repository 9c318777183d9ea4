/// What this node, its apps and its tunnels demand of the road to a peer. A pair
/// has one road at a time, so what one of them demands of it holds for everything
/// between the two; the peer is told by HELLO and keeps to it as well. What a
/// single stream demands beside that: Node+Terms.swift.
/// docs/decisions/0024-policies.md; docs/protocol/relay.md "Policies".

#if canImport(Bytes)
  package import Bytes
  internal import Paths
  internal import Signaling
  package import Tunnels
#endif

/// All that this end demands, put together.
struct PairPolicy: Hashable {
  var use = RelayUse.any
  /// Name or id of the one node whose relay is asked for; empty: any. Without it
  /// the server's relay remains.
  var relay = ""
  var avoided: [EndpointReference] = []
  /// Who demands what, for people.
  var reasons: [String] = []
}

extension RelayUse {
  var tiers: TierSet {
    switch self {
    case .any: .all
    case .never: .direct
    case .only: .relays
    }
  }
}

extension Node {
  /// Looks at the apps and tunnels again.
  func relayPoliciesChanged(now: Instant) {
    for peer in peers where !peer.isRemoved { applyRelayPolicy(to: peer, now: now) }
  }

  func applyRelayPolicy(to peer: Peer, now: Instant) {
    guard !peer.isStock, !peer.isOwn else { return }
    let old = peer.relays.policy
    let new = pairPolicy(of: peer)
    let tiers = new.use.tiers.intersection(peer.relays.told.tiers)
    let former = peer.paths.settings.allowedTiers
    guard new != old || tiers != former else { return }
    peer.relays.policy = new
    if new.use != old.use, peer.hello.keypair != nil { peer.hello.restate(now: now) }
    if tiers != former {
      peer.paths.allow(tiers, now: now)
      if !tiers.allows(.tcpDirect) { closeStreams(of: peer, now: now) }
      if tiers.allows(.serverRelay) != former.allows(.serverRelay) {
        reopenServerRelay(of: peer, now: now)
      }
    }
    if new.relay != old.relay || !tiers.allows(.privateRelay) {
      leaveRelays(of: peer, now: now)
    } else if new.avoided != old.avoided {
      for i in peer.relays.seats.indices.reversed()
      where !mayUse(peer.relays.seats[i].relay, for: peer) {
        leaveRelay(i, of: peer, now: now)
      }
    }
    peer.relays.lastAsked = .distantPast
    if peer.connectedSince != nil {
      wantRelay(for: peer, after: .zero, now: now)
      if tiers.allows(.udpDirect) { meetSoon(peer, at: now) }
    }
    touch(peer)
  }

  /// HELLO said what the peer's end demands.
  func peerDemands(_ use: RelayUse, _ peer: Peer, now: Instant) {
    guard use != peer.relays.told else { return }
    peer.relays.told = use
    applyRelayPolicy(to: peer, now: now)
  }

  /// This node's own word for a peer goes before its word for all, and both before
  /// what apps and tunnels demand.
  private func pairPolicy(of peer: Peer) -> PairPolicy {
    var policy = PairPolicy()
    func add(_ part: RelayPolicy, _ owner: String, steers: Bool) {
      guard !part.isPlain else { return }
      policy.reasons.append("\(part) (\(owner))")
      if policy.use == .any, steers { policy.use = part.use }
      if policy.relay.isEmpty, let via = part.via { policy.relay = via.text }
      for relay in part.avoided where !policy.avoided.contains(relay) {
        policy.avoided.append(relay)
      }
    }
    for rule in settings.relayPolicies
    where rule.peer?.matches(id: peer.endpointID, name: peer.name) == true {
      add(rule.policy, "-relay-policy", steers: true)
    }
    for rule in settings.relayPolicies where rule.peer == nil {
      add(rule.policy, "-relay-policy", steers: true)
    }
    // A tunnel that goes through no relay waits for a direct road; only one that
    // must go through a relay needs the pair to leave a direct road.
    for (key, app) in tunnels.apps.sorted(by: { $0.key < $1.key })
    where app.enabled && isNamed(peer, by: app.peerNode.text) {
      add(
        app.relayPolicy, "\(TunnelOwner.app(key))", steers: app.relayPolicy.use == .only)
    }
    for (key, inbound) in tunnels.inbounds.sorted(by: { $0.key < $1.key })
    where leads(inbound, to: peer) {
      add(
        inbound.relay, "tunnel \(TunnelOwner.tunnel(key))", steers: inbound.relay.use == .only)
    }
    // A relay that must not be cannot be the one that is asked for.
    if policy.use == .never || policy.avoided.contains(where: { $0.text == policy.relay }) {
      policy.relay = ""
    }
    return policy
  }

  private func leads(_ inbound: TunnelInbound, to peer: Peer) -> Bool {
    if !inbound.exits.isEmpty {
      return inbound.exits.contains { $0.matches(id: peer.endpointID, name: peer.name) }
    }
    return peer.offers.contains { !$0.isInbound && $0.tunnel == inbound.key.description }
  }

  private func isNamed(_ peer: Peer, by text: String) -> Bool {
    peer.name == text || peer.endpointID == text
  }

  /// The name by which the server knows the relay that is demanded; empty: any.
  func demandedRelay(for peer: Peer) -> String {
    let text = peer.relays.policy.relay
    guard !text.isEmpty else { return "" }
    return peers.first { !$0.isRemoved && isNamed($0, by: text) }?.name ?? text
  }

  /// Keys of the relays that are ruled out for this pair.
  func avoidedRelays(of peer: Peer) -> [[UInt8]] {
    let avoided = peer.relays.policy.avoided
    guard !avoided.isEmpty else { return [] }
    return peers.filter { other in
      !other.isRemoved
        && avoided.contains { $0.matches(id: other.endpointID, name: other.name) }
    }.map(\.publicKey)
  }

  /// Whether policies let this pair use the relay with that key.
  func mayUse(_ relay: [UInt8], for peer: Peer) -> Bool {
    let policy = peer.relays.policy
    guard !policy.relay.isEmpty || !policy.avoided.isEmpty else { return true }
    let node = peers.first { !$0.isRemoved && $0.publicKey == relay }
    if !policy.relay.isEmpty, !(node.map { isNamed($0, by: policy.relay) } ?? false) {
      return false
    }
    guard let node else { return true }
    return !policy.avoided.contains { $0.matches(id: node.endpointID, name: node.name) }
  }
}
