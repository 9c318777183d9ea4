/// From which TCP ports of an address somebody asked the STUN ports in the last
/// minute: only there may a peer dial through a NAT (DESIGN §2 "We must not be a
/// weapon"). A source of TCP cannot be made up. Bounded; what does not fit is
/// forgotten, and its node reached otherwise.

#if canImport(Bytes)
  package import Bytes
#endif

package enum StreamSourceLimits {
  package static let addresses = 8_192
  /// Of one address, the newest: nodes behind one NAT.
  package static let portsPerAddress = 32
  package static let life = TimeAmount.minutes(1)
}

package struct StreamSources: Sendable {
  private var seen: [IPAddress: [(port: UInt16, at: Instant)]] = [:]

  package init() {}

  package mutating func note(_ source: Endpoint, now: Instant) {
    if seen[source.address] == nil, seen.count >= StreamSourceLimits.addresses {
      seen = seen.filter { entry in
        entry.value.contains { now - $0.at <= StreamSourceLimits.life }
      }
      guard seen.count < StreamSourceLimits.addresses else { return }
    }
    var ports = seen[source.address] ?? []
    ports.removeAll { $0.port == source.port || now - $0.at > StreamSourceLimits.life }
    if ports.count >= StreamSourceLimits.portsPerAddress { ports.removeFirst() }
    ports.append((source.port, now))
    seen[source.address] = ports
  }

  package func ports(of address: IPAddress, now: Instant) -> [UInt16] {
    (seen[address] ?? []).filter { now - $0.at <= StreamSourceLimits.life }.map(\.port)
  }
}
