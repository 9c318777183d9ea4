/// An INP2P app: a listener on a port here, to a host and port as a peer sees
/// them. The same engine and counters serve apps and tunnels. Implements
/// docs/protocol/tunnels.md (INP2P's "apps").

/// The listener of an app: unique per node.
package struct AppKey: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let `protocol`: TunnelProtocol
  package let srcPort: UInt16

  package init(_ protocol: TunnelProtocol, _ srcPort: UInt16) {
    self.protocol = `protocol`
    self.srcPort = srcPort
  }
  package var description: String { "\(`protocol`.text):\(srcPort)" }
  package static func < (a: AppKey, b: AppKey) -> Bool {
    a.srcPort != b.srcPort ? a.srcPort < b.srcPort : a.protocol < b.protocol
  }
}

/// A checked app.
package struct AppDefinition: Hashable, Sendable {
  package let appName: String
  package let key: AppKey
  package let peerNode: EndpointReference
  /// A name or a literal address, resolved at the peer.
  package let dstHost: String
  package let dstPort: UInt16
  /// Who may use the listener; empty: everyone who reaches it.
  package let whitelist: CallerList
  package let enabled: Bool
  package let forceRelay: Bool
  package let relayNode: EndpointReference?
  /// Beside the two.
  package let relay: RelayPolicy
  package let policy: TrafficPolicy

  package var `protocol`: TunnelProtocol { key.protocol }
  package var srcPort: UInt16 { key.srcPort }

  /// From the fields of config.json, the server or the API. An empty
  /// `appName` becomes `tcp:PORT`; an empty `dstHost` is 127.0.0.1.
  package init(
    appName: String = "", protocol protocolText: String = "tcp", srcPort: Int, peerNode: String,
    dstHost: String = "127.0.0.1", dstPort: Int, whitelist: String = "", enabled: Bool = true,
    forceRelay: Bool = false, relayNode: String = "", relay: String = "", policy: String = ""
  ) throws(DefinitionError) {
    guard let kind = TunnelProtocol(text: protocolText) else {
      throw DefinitionError(
        .protocol, protocolText.isEmpty ? .missing : .malformed,
        value: TunnelNaming.printable(protocolText))
    }
    guard (1...65535).contains(srcPort) else {
      throw DefinitionError(.srcPort, .outOfRange, value: "\(srcPort)")
    }
    guard (1...65535).contains(dstPort) else {
      throw DefinitionError(.dstPort, .outOfRange, value: "\(dstPort)")
    }
    let host = dstHost.isEmpty ? "127.0.0.1" : HostPort.unbracketed(dstHost)
    guard TunnelNaming.isHost(host) else {
      throw DefinitionError(.dstHost, .malformed, value: TunnelNaming.printable(dstHost))
    }
    key = AppKey(kind, UInt16(srcPort))
    if appName.isEmpty {
      self.appName = key.description
    } else {
      try TunnelNaming.checkText(appName, field: .appName, limit: TunnelLimits.appNameBytes)
      self.appName = appName
    }
    self.peerNode = try EndpointReference(peerNode, field: .peerNode)
    self.dstHost = host
    self.dstPort = UInt16(dstPort)
    self.whitelist = try CallerList(whitelist)
    self.enabled = enabled
    self.forceRelay = forceRelay
    self.relayNode = relayNode.isEmpty ? nil : try EndpointReference(relayNode, field: .relayNode)
    self.relay = try RelayPolicy(relay)
    self.policy = try TrafficPolicy(policy)
    guard !forceRelay || self.relay.use != .never,
      self.relayNode == nil
        || self.relay.use != .never && (self.relay.via ?? self.relayNode) == self.relayNode
    else {
      throw DefinitionError(.relay, .contradictory, value: TunnelNaming.printable(relay))
    }
  }

  /// `forceRelay`, `relayNode` and `relay` together.
  package var relayPolicy: RelayPolicy {
    var all = relay
    if forceRelay { all.use = .only }
    if let relayNode { all.via = relayNode }
    return all
  }

  package var terms: StreamTerms { StreamTerms(policy, relays: relayPolicy.use) }
}
