/// The definitions of one mesh on this node. Each verb either takes effect
/// whole or not at all, and answers which listeners must start and stop, so
/// that changing one tunnel never touches another's connections.

#if canImport(Bytes)
  import Bytes
#endif

/// A socket to listen with.
package struct Listening: Hashable, Sendable {
  package var owner: TunnelOwner
  package var `protocol`: TunnelProtocol
  package var address: ListenAddress

  package init(owner: TunnelOwner, protocol: TunnelProtocol, address: ListenAddress) {
    self.owner = owner
    self.protocol = `protocol`
    self.address = address
  }
}

/// What a change of definitions asks of the driver. Stop before starting.
package struct ListenChange: Hashable, Sendable {
  package var stop: [Listening] = []
  package var start: [Listening] = []
  package init() {}
  package var isEmpty: Bool { stop.isEmpty && start.isEmpty }
}

package enum TunnelTableError: Error, Hashable, Sendable, CustomStringConvertible {
  case invalid(DefinitionError)
  case noSuchInbound(TunnelKey)
  case noSuchOutbound(TunnelKey)
  case noSuchApp(AppKey)

  package var description: String {
    switch self {
    case .invalid(let error): error.description
    case .noSuchInbound(let key): "no inbound \(key)"
    case .noSuchOutbound(let key): "no outbound \(key)"
    case .noSuchApp(let key): "no app \(key)"
    }
  }
}

/// Inbounds, outbounds and apps.
package struct TunnelTable: Sendable {
  package private(set) var inbounds: [TunnelKey: TunnelInbound] = [:]
  package private(set) var outbounds: [TunnelKey: TunnelOutbound] = [:]
  package private(set) var apps: [AppKey: AppDefinition] = [:]

  package init() {}

  /// Opens or replaces inbounds: all of them or none (a bare name is two).
  package mutating func setInbounds(
    _ new: [TunnelInbound]
  ) throws(TunnelTableError) -> ListenChange {
    var changed = self
    for inbound in new { changed.inbounds[inbound.key] = inbound }
    try changed.check()
    return become(changed)
  }

  package mutating func setOutbounds(_ new: [TunnelOutbound]) throws(TunnelTableError) {
    var changed = self
    for outbound in new { changed.outbounds[outbound.key] = outbound }
    try changed.check()
    self = changed
  }

  /// Closes inbounds; those of `keys` that exist, at least one.
  package mutating func removeInbounds(
    _ keys: [TunnelKey]
  ) throws(TunnelTableError) -> ListenChange {
    var changed = self
    for key in keys { changed.inbounds[key] = nil }
    guard changed.inbounds.count < inbounds.count || keys.isEmpty else {
      throw .noSuchInbound(keys[0])
    }
    return become(changed)
  }

  package mutating func removeOutbounds(_ keys: [TunnelKey]) throws(TunnelTableError) {
    let before = outbounds.count
    for key in keys { outbounds[key] = nil }
    guard outbounds.count < before || keys.isEmpty else { throw .noSuchOutbound(keys[0]) }
  }

  /// The new whole list of apps (live reload, push). Twice the same
  /// (protocol, srcPort) is an error.
  package mutating func replaceApps(
    _ new: [AppDefinition]
  ) throws(TunnelTableError) -> ListenChange {
    var changed = self
    changed.apps = [:]
    for app in new {
      guard changed.apps.updateValue(app, forKey: app.key) == nil else {
        throw .invalid(DefinitionError(.srcPort, .duplicate, value: app.key.description))
      }
    }
    try changed.check()
    return become(changed)
  }

  /// Everything that should be listening now, in a fixed order.
  package var listenings: [Listening] {
    var result: [Listening] = []
    for (key, inbound) in inbounds.sorted(by: { $0.key < $1.key }) {
      for address in inbound.listens {
        result.append(
          Listening(owner: .tunnel(key), protocol: key.protocol, address: address))
      }
    }
    for (key, app) in apps.sorted(by: { $0.key < $1.key }) where app.enabled {
      result.append(
        Listening(owner: .app(key), protocol: key.protocol, address: app.listenAddress))
    }
    return result
  }

  private func check() throws(TunnelTableError) {
    let limit = TunnelLimits.definitionsPerMesh
    guard inbounds.count <= limit, outbounds.count <= limit else {
      throw .invalid(DefinitionError(.name, .tooMany(limit: limit)))
    }
    guard apps.count <= limit else {
      throw .invalid(DefinitionError(.appName, .tooMany(limit: limit)))
    }
    struct Slot: Hashable {
      var `protocol`: TunnelProtocol
      var port: UInt16
    }
    var taken: [Slot: [Listening]] = [:]
    for item in listenings {
      let slot = Slot(protocol: item.protocol, port: item.address.port)
      if let other = taken[slot]?.first(where: { $0.address.collides(with: item.address) }) {
        throw .invalid(
          DefinitionError(
            .listen, .taken(by: other.owner.description), value: item.address.description))
      }
      taken[slot, default: []].append(item)
    }
    try checkRelayPolicies()
  }

  /// Two that name one peer cannot demand the opposite of its road.
  private func checkRelayPolicies() throws(TunnelTableError) {
    var demanded: [EndpointReference: (owner: TunnelOwner, use: RelayUse)] = [:]
    func check(
      _ owner: TunnelOwner, _ policy: RelayPolicy, _ peers: [EndpointReference]
    ) throws(TunnelTableError) {
      guard policy.use != .any else { return }
      for peer in peers {
        if let other = demanded[peer], other.use != policy.use {
          throw .invalid(
            DefinitionError(
              .relay, .contradicts("\(other.owner)"), value: policy.description))
        }
        demanded[peer] = (owner, policy.use)
      }
    }
    for (key, inbound) in inbounds.sorted(by: { $0.key < $1.key }) {
      try check(.tunnel(key), inbound.relay, inbound.exits)
    }
    for (key, app) in apps.sorted(by: { $0.key < $1.key }) where app.enabled {
      try check(.app(key), app.relayPolicy, [app.peerNode])
    }
  }

  private mutating func become(_ changed: TunnelTable) -> ListenChange {
    let before = listenings
    let after = changed.listenings
    let kept = Set(before).intersection(after)
    self = changed
    var change = ListenChange()
    change.stop = before.filter { !kept.contains($0) }
    change.start = after.filter { !kept.contains($0) }
    return change
  }
}

extension AppDefinition {
  /// Apps listen on all IPv4 addresses, as their users expect; the whitelist
  /// narrows it.
  package var listenAddress: ListenAddress { ListenAddress(anyAddressPort: srcPort) }
}

extension ListenAddress {
  init(anyAddressPort port: UInt16) {
    precondition(port > 0)
    endpoint = Endpoint(.anyV4, port)
  }
}
