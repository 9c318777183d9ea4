/// What a peer of the same token may reach through an app on this node: by
/// default loopback and the node's own addresses, more only by `-allow`. The
/// decision is taken on the *resolved* address, so that a name which changes
/// its mind (DNS rebinding) gains nothing. Implements spec "apps" of
/// docs/protocol/tunnels.md. Tunnels do not come here: their targets were
/// named by this node's owner.

#if canImport(Bytes)
  package import Bytes
#endif

/// `-allow 192.168.1.0/24:80,443`, `-allow nas.lan:22,8000-8010`,
/// `-allow [fd00::/8]:*`, `-allow *:443`.
package struct AllowRule: Hashable, Sendable, CustomStringConvertible {
  enum Host: Hashable, Sendable {
    case any
    case block(AddressBlock)
    /// Lower case, without a final dot.
    case name(String)
  }
  let host: Host
  /// Empty: every port.
  let ports: [ClosedRange<UInt16>]
  /// As typed.
  package let description: String

  package init(_ text: some StringProtocol) throws(DefinitionError) {
    let malformed = DefinitionError(.allow, .malformed, value: TunnelNaming.printable(text))
    guard let colon = text.lastIndex(of: ":") else { throw malformed }
    var hostText = text[..<colon]
    if hostText.hasPrefix("["), hostText.hasSuffix("]") {
      hostText = hostText.dropFirst().dropLast()
      guard hostText.contains(":") else { throw malformed }
    } else if hostText.contains(":") {
      throw malformed
    }
    if hostText == "*" {
      host = .any
    } else if let block = AddressBlock(hostText) {
      host = .block(block)
    } else if TunnelNaming.isHost(hostText) {
      host = .name(Self.canonical(hostText))
    } else {
      throw malformed
    }

    let portsText = text[text.index(after: colon)...]
    var ports: [ClosedRange<UInt16>] = []
    if portsText != "*" {
      for part in portsText.split(separator: ",", omittingEmptySubsequences: false) {
        let ends = part.split(separator: "-", omittingEmptySubsequences: false)
        guard (1...2).contains(ends.count), let first = TunnelNaming.port(ends[0]),
          let last = TunnelNaming.port(ends[ends.count - 1]), first <= last
        else { throw malformed }
        guard ports.count < TunnelLimits.portRangesPerRule else {
          throw DefinitionError(.allow, .tooMany(limit: TunnelLimits.portRangesPerRule))
        }
        ports.append(first...last)
      }
    }
    self.ports = ports
    description = String(text)
  }

  /// - Parameter requested: the host as the caller wrote it.
  func covers(requested: String, resolved: IPAddress, port: UInt16) -> Bool {
    guard ports.isEmpty || ports.contains(where: { $0.contains(port) }) else { return false }
    switch host {
    case .any: return true
    case .block(let block): return block.contains(resolved)
    case .name(let name): return name == Self.canonical(requested)
    }
  }

  private static func canonical(_ host: some StringProtocol) -> String {
    let lower = host.lowercased()
    return lower.hasSuffix(".") ? String(lower.dropLast()) : lower
  }
}

/// The answer of the policy, with its reason.
package enum ExitVerdict: Hashable, Sendable {
  case ownAddress
  case allowed(by: AllowRule)
  /// A port of the agent itself (its local API): it would be speaking to
  /// itself with its own rights.
  case refusedOwnService
  /// Multicast, broadcast, 0.0.0.0 or ::.
  case refusedAddressClass
  case refusedNoRule

  package var isAllowed: Bool {
    switch self {
    case .ownAddress, .allowed: true
    case .refusedOwnService, .refusedAddressClass, .refusedNoRule: false
    }
  }
}

/// What apps may reach through this node.
package struct ExitPolicy: Sendable {
  package var rules: [AllowRule]
  /// This node's interface addresses; the driver keeps them up to date.
  package var ownAddresses: Set<IPAddress>
  /// TCP ports of the agent itself on loopback or own addresses that no peer
  /// may reach (the local API). Not even a rule opens them.
  package var protectedPorts: Set<UInt16>

  package init(
    rules: [AllowRule] = [], ownAddresses: Set<IPAddress> = [], protectedPorts: Set<UInt16> = []
  ) {
    self.rules = rules
    self.ownAddresses = ownAddresses
    self.protectedPorts = protectedPorts
  }

  /// May a peer's app reach this? Ask for each resolved address and dial only
  /// an address that passed.
  package func mayReach(
    requested: String, resolved: IPAddress, port: UInt16, protocol: TunnelProtocol = .tcp
  ) -> ExitVerdict {
    guard !resolved.isMulticast, !resolved.isBroadcast, !resolved.isUnspecified, port > 0 else {
      return .refusedAddressClass
    }
    let isOwn = resolved.isLoopback || ownAddresses.contains(resolved)
    if isOwn, `protocol` == .tcp, protectedPorts.contains(port) { return .refusedOwnService }
    if isOwn { return .ownAddress }
    for rule in rules where rule.covers(requested: requested, resolved: resolved, port: port) {
      return .allowed(by: rule)
    }
    return .refusedNoRule
  }
}
