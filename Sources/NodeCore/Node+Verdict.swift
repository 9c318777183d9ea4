/// Why a pair is on the road it is on: made from the facts of both NATs, the
/// paths and their history. It decides nothing. docs/protocol/punching.md.

#if canImport(Bytes)
  package import Bytes
  package import NAT
  internal import Paths
#endif

extension Node {
  func verdict(on peer: Peer, now: Instant) -> PathVerdict {
    let paths = peer.paths.snapshots
    if let used = paths.first(where: \.isPrimary) {
      if used.tier < .tcpDirect { return .direct }
      if paths.contains(where: {
        $0.state == .up && $0.tier < used.tier && $0.tier < .privateRelay && !$0.isSuspect
      }) {
        return used.tier.isRelay ? .relayIsFaster : .direct
      }
    }
    if peer.paths.isLetGo || peer.connectedSince == nil && peer.isOnline { return .rests }
    if !peer.isConnected, !peer.isOnline { return .offline }
    if !peer.paths.settings.allowedTiers.allows(.udpDirect) { return .relayDemanded }
    let ours = natFacts
    let theirs = peer.nat
    if ours.isUDPBlocked { return .udpBlockedHere }
    let isTrying = peer.paths.isGuessing || peer.paths.isTrying(now: now)
    // Who has not had the time to ask is not silent.
    let silent =
      isTrying ? nil : PathVerdict.silent(here: ours, there: peer.families == nil ? nil : theirs)
    if let silent, silent != .natUnknown { return silent }
    if theirs.isUDPBlocked { return .udpBlockedThere }
    if let families = peer.families, !families.intersects(ownFamilies) { return .noCommonFamily }
    if isTrying { return .trying }
    if let silent { return silent }
    if seenAt.address == peer.seenAt.address, seenAt != .none, ours.hairpins != true {
      return .noHairpin
    }
    switch (ours.isSymmetric, theirs.isSymmetric) {
    case (true, true): return .bothSymmetric
    case (true, false): return .symmetricHere
    case (false, true): return .symmetricThere
    case (false, false): return .unanswered
    }
  }

  var ownFamilies: AddressFamilies {
    var families = AddressFamilies()
    for prefix in localAddresses
    where !prefix.address.isLoopback && !prefix.address.isLinkLocal {
      families.insert(prefix.address)
    }
    return families
  }
}

/// Families a node has addresses of.
struct AddressFamilies {
  var hasV4 = false
  var hasV6 = false

  mutating func insert(_ address: IPAddress) {
    if address.isV4 { hasV4 = true } else { hasV6 = true }
  }

  func intersects(_ other: AddressFamilies) -> Bool {
    hasV4 && other.hasV4 || hasV6 && other.hasV6
  }
}
