/// What apps demand of the road to their peer (`forceRelay`, `relayNode` in
/// config.json). A pair has one road at a time, so what one app demands holds for
/// everything between the two; this end alone enforces it, the other follows by
/// hearing nothing on other roads. docs/protocol/relay.md "Policies".

#if canImport(Bytes)
  package import Bytes
  internal import Paths
  internal import Tunnels
#endif

struct RelayPolicy: Hashable {
  /// No direct path, even where one would stand.
  var isForced = false
  /// Name or id of the one node whose relay is asked for; empty: any. Without it
  /// the server's relay remains.
  var relay = ""
}

extension Node {
  /// Looks at the apps again.
  func relayPoliciesChanged(now: Instant) {
    for peer in peers where !peer.isRemoved { applyRelayPolicy(to: peer, now: now) }
  }

  func applyRelayPolicy(to peer: Peer, now: Instant) {
    guard !peer.isStock, !peer.isOwn else { return }
    let old = peer.relays.policy
    let new = relayPolicy(of: peer)
    guard new != old else { return }
    peer.relays.policy = new
    if new.isForced != old.isForced {
      peer.paths.allow(new.isForced ? .relays : .all, now: now)
      if new.isForced { closeStreams(of: peer, now: now) }
    }
    if new.relay != old.relay { leaveRelays(of: peer, now: now) }
    peer.relays.lastAsked = .distantPast
    if peer.connectedSince != nil {
      wantRelay(for: peer, after: .zero, now: now)
      if !new.isForced { meetSoon(peer, at: now) }
    }
    touch(peer)
  }

  private func relayPolicy(of peer: Peer) -> RelayPolicy {
    var policy = RelayPolicy()
    for (_, app) in tunnels.apps.sorted(by: { $0.key < $1.key })
    where app.enabled && isNamed(peer, by: app.peerNode.text) {
      if app.forceRelay { policy.isForced = true }
      if policy.relay.isEmpty, let relay = app.relayNode { policy.relay = relay.text }
    }
    return policy
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

  /// Whether a policy lets this pair use the relay with that key.
  func isDemanded(_ relay: [UInt8], for peer: Peer) -> Bool {
    let text = peer.relays.policy.relay
    guard !text.isEmpty else { return true }
    return peers.contains { $0.publicKey == relay && isNamed($0, by: text) }
  }
}
