/// Which addresses of one node may be told to another: the server must not be
/// made to aim a node's probes at a third party (DESIGN §2 "We must not be a
/// weapon"). Nodes keep the same rules; this is the first of two gates.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Signaling)
  package import Signaling
#endif

/// What the rules look at.
package struct CandidateFacts: Hashable, Sendable {
  /// Where the server sees the node.
  package var seenAt: IPAddress
  package var interfaces: [IPAddress]
  package var port: UInt16
  /// TCP ports at which somebody at that address was seen in the last minute.
  package var streamPorts: [UInt16] = []

  package init(seenAt: IPAddress, interfaces: [IPAddress], port: UInt16) {
    self.seenAt = seenAt
    self.interfaces = interfaces
    self.port = port
  }
}

extension ServerMember {
  var facts: CandidateFacts {
    CandidateFacts(
      seenAt: seenAt.address, interfaces: report.interfaces, port: report.port)
  }
}

package enum CandidateRule {
  package static func allows(
    _ candidate: SignalledCandidate, of owner: CandidateFacts, to receiver: CandidateFacts
  ) -> Bool {
    let address = candidate.endpoint.address
    let port = candidate.endpoint.port
    guard port != 0, !address.isUnspecified, !address.isMulticast, !address.isBroadcast else {
      return false
    }
    // Without a zone a link-local address names nothing.
    guard !address.isLinkLocal else { return false }
    if candidate.transport == .tcp {
      guard port >= 1_024 || port == 443 else { return false }
      let isSeen = address == owner.seenAt && owner.streamPorts.contains(port)
      guard port == owner.port || isSeen else { return false }
    }
    if address.isLoopback { return owner.seenAt.isLoopback && receiver.seenAt.isLoopback }
    guard address.isPrivate else { return true }
    // Behind one NAT, or on the server's own machine.
    if owner.seenAt == receiver.seenAt { return true }
    // The server is inside the same private network as both.
    if isLocal(owner.seenAt), isLocal(receiver.seenAt) { return true }
    let prefix = address.isV4 ? 24 : 64
    return receiver.interfaces.contains { $0.matches(address, prefix: prefix) }
  }

  private static func isLocal(_ address: IPAddress) -> Bool {
    address.isPrivate || address.isLoopback
  }
}
