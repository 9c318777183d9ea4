/// Which addresses may become candidates at all (DESIGN §2, "We must not be a
/// weapon"). Pure tables: no state, no probes.

#if canImport(Bytes)
  package import Bytes
#endif

/// An address range.
package struct AddressPrefix: Hashable, Sendable {
  package var address: IPAddress
  /// Bits: 0…32 for IPv4, 0…128 for IPv6.
  package var length: Int

  package init(_ address: IPAddress, _ length: Int) {
    self.address = address
    self.length = length
  }
  package func contains(_ other: IPAddress) -> Bool { other.matches(address, prefix: length) }
}

/// What the rules need to know about both ends.
package struct AddressContext: Sendable {
  /// Ranges of our own virtual network.
  package var virtualRanges: [AddressPrefix] = []
  /// The prefixes of our own interfaces.
  package var localPrefixes: [AddressPrefix] = []
  /// The addresses at which the server itself sees us and the peer.
  package var serverSeesUs: IPAddress?
  package var serverSeesPeer: IPAddress?
  /// The peer's TCP listening port; 0 = none.
  package var peerListeningPort: UInt16 = 0
  /// The TCP port at which the server saw the peer, and when.
  package var peerSeenPort: UInt16 = 0
  package var peerSeenAt = Instant.distantPast

  package init() {}
}

package enum CandidateRules {
  static let seenPortLife = TimeAmount.minutes(1)

  /// Nil when a UDP candidate may be probed.
  package static func refusal(
    of endpoint: Endpoint, source: CandidateSource, context: AddressContext
  ) -> CandidateRefusal? {
    let address = endpoint.address
    if address.isMulticast || address.isBroadcast { return .multicast }
    if address.isUnspecified { return .unspecified }
    if endpoint.port == 0 { return .noPort }
    if context.virtualRanges.contains(where: { $0.contains(address) }) { return .virtualRange }
    switch source {
    case .fromPacket, .dialled, .configured: return nil
    case .signalled: break
    }
    if address.isLoopback {
      let both =
        context.serverSeesUs?.isLoopback == true && context.serverSeesPeer?.isLoopback == true
      return both ? nil : .loopback
    }
    guard address.isPrivate || address.isLinkLocal else { return nil }
    // IPv6 link-local needs a zone, which a signalled address cannot carry.
    if address.isLinkLocal, !address.isV4 { return .linkLocal }
    if context.localPrefixes.contains(where: { $0.length > 0 && $0.contains(address) }) {
      return nil
    }
    if address.isLinkLocal { return .linkLocal }
    if let us = context.serverSeesUs, let peer = context.serverSeesPeer {
      if us == peer { return nil }
      // Server and both ends in one private network: the server itself vouches
      // for the address, and for our being in the same realm.
      if us.isPrivate || us.isLoopback, peer == address { return nil }
    }
    return .privateRange
  }

  /// Nil when a TCP connection to `endpoint` may be tried.
  package static func tcpRefusal(
    of endpoint: Endpoint, source: CandidateSource, context: AddressContext, now: Instant
  ) -> CandidateRefusal? {
    if let refusal = refusal(of: endpoint, source: source, context: context) { return refusal }
    guard source == .signalled else { return nil }
    if endpoint.port < 1024, endpoint.port != 443 { return .lowPort }
    if context.peerListeningPort != 0, endpoint.port == context.peerListeningPort { return nil }
    if context.peerSeenPort != 0, endpoint.port == context.peerSeenPort,
      endpoint.address == context.serverSeesPeer, now - context.peerSeenAt <= seenPortLife
    {
      return nil
    }
    return .tcpPort
  }
}
