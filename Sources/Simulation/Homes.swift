/// Homes for stories: a router of any kind with hosts behind it, homes behind
/// one carrier's router, hosts that are no nodes, and what happens to routers.

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// A home and who lives there.
package struct Home {
  /// Where its hosts are.
  package let site: Site
  /// Its own routers, the innermost first.
  package let routers: [Site]
  package internal(set) var nodes: [SimulatedNode] = []

  package var kind: NATKind { routers[routers.count - 1].kind }
}

/// A datagram as a host that is no node got it.
package struct ReceivedDatagram: Sendable {
  package var source: Endpoint
  package var destination: Endpoint
  package var bytes: [UInt8]
  package var at: Instant
}

/// A host with sockets and nothing else: a STUN client, a listener, a bystander.
package final class PlainHost {
  package let number: Int
  package let addresses: [IPAddress]
  package internal(set) var received: [ReceivedDatagram] = []

  init(number: Int, addresses: [IPAddress]) {
    self.number = number
    self.addresses = addresses
  }

  package func forget() { received.removeAll() }
}

extension World {
  // MARK: Addresses

  /// 198.18.0.0/15, each once.
  package func freshPublicAddress() -> IPAddress {
    lastPublic += 1
    return IPAddress(v4: 0xc612_0000 + lastPublic << 8 | 1)
  }

  /// 2001:db8:1::/48, another /64 each time.
  package func freshPublicAddressV6() -> IPAddress {
    lastPublic += 1
    return IPAddress(high: 0x2001_0db8_0001_0000 | UInt64(lastPublic), low: 0x10)
  }

  // MARK: Homes

  /// A router and the wire behind it.
  /// - Parameter behind: the carrier's router it is connected to; nil: the internet.
  package func addSite(
    kind: NATKind, behind outer: Site? = nil, subnet: IPAddress = .homeSubnet, prefix: Int = 24
  ) -> Site {
    var address: IPAddress?
    if kind.translates { address = outer?.freshAddress() ?? freshPublicAddress() }
    var plain = kind
    plain.isDouble = false
    return network.addSite(
      kind: plain, address: address, outer: outer, subnet: subnet, prefix: prefix,
      seed: random.next())
  }

  /// A carrier's router in front of homes (RFC 6598).
  package func addCarrierNAT(kind: NATKind = .portRestricted) -> Site {
    addSite(kind: kind, subnet: IPAddress(100, 64, 0, 0), prefix: 16)
  }

  /// A home with its routers; every home has the same private addresses.
  package func addHome(kind: NATKind, behind carrier: Site? = nil) -> Home {
    guard kind.isDouble else {
      let site = addSite(kind: kind, behind: carrier)
      return Home(site: site, routers: [site])
    }
    let outer = addSite(kind: kind, behind: carrier, subnet: IPAddress(192, 168, 0, 0))
    let inner = addSite(kind: .portRestricted, behind: outer)
    return Home(site: inner, routers: [inner, outer])
  }

  /// A home and its machines, each with an agent that is not running yet.
  package func addHome(kind: NATKind, nodes count: Int, behind carrier: Site? = nil) -> Home {
    var home = addHome(kind: kind, behind: carrier)
    for _ in 0..<count { home.nodes.append(addNode(in: home.site, kind: kind)) }
    return home
  }

  /// Another machine in a site, with the addresses its kind has.
  @discardableResult
  package func addNode(name: String? = nil, in site: Site, kind: NATKind? = nil) -> SimulatedNode {
    addNode(
      name: name, addresses: freshAddresses(in: site, kind: kind ?? site.kind), prefix: site.prefix,
      site: site)
  }

  package func freshAddresses(in site: Site, kind: NATKind) -> [IPAddress] {
    var addresses: [IPAddress] = []
    if kind.hasIPv4 {
      addresses.append(site.kind.translates ? site.freshAddress() : freshPublicAddress())
    }
    if kind.hasIPv6 { addresses.append(freshPublicAddressV6()) }
    return addresses
  }

  @discardableResult
  package func addPlainHost(addresses: [IPAddress], in site: Site? = nil) -> PlainHost {
    let host = PlainHost(number: Network.plain + plainHosts.count, addresses: addresses)
    plainHosts.append(host)
    network.attach(host: host.number, addresses: addresses, to: site)
    return host
  }

  package func send(
    from host: PlainHost, source: Endpoint, to destination: Endpoint, bytes: [UInt8],
    timeToLive: UInt8 = 0
  ) {
    transmit(source, destination, bytes, from: host.number, timeToLive: timeToLive)
  }

  // MARK: What happens to routers

  /// Off and on again: all mappings are lost, and perhaps the address changes.
  /// Connections to the server live on with the address, though nothing of the
  /// server's comes in before the node has sent something; else they hear
  /// nothing any more.
  package func reboot(
    _ site: Site, downFor outage: TimeAmount = .zero, address: IPAddress? = nil
  ) {
    note("router \(site.number) reboots\(address.map { ", now \($0)" } ?? "")")
    precondition(address == nil || site.kind.translates)
    if let address {
      network.readdress(site, address)
      for node in nodesBehind(site) { breakConnections(ofNode: node) }
    }
    site.box.reboot(address: address)
    site.streamBox.reboot(address: address)
    forgetConnections(of: site)
    guard outage > .zero else { return }
    setDown(site, true)
    after(outage) { $0.setDown(site, false) }
  }

  /// Mappings get other ports.
  package func rebind(_ site: Site) {
    note("router \(site.number) rebinds")
    site.box.rebind(now: now)
    site.streamBox.rebind(now: now)
    forgetConnections(of: site)
  }

  private func forgetConnections(of site: Site) {
    for node in nodesBehind(site) {
      breakStreams(ofNode: node)
      for pipe in pipes.values where pipe.node == node { pipe.forget() }
    }
  }

  /// The line of a home breaks or is mended, for datagrams and connections.
  package func setDown(_ site: Site, _ isDown: Bool) {
    guard site.isDown != isDown else { return }
    note("router \(site.number) is \(isDown ? "down" : "up")")
    site.isDown = isDown
    for node in nodesBehind(site) { setUplinkCut(node, isDown) }
  }

  /// The nodes whose packets pass the router of `site`, in order.
  func nodesBehind(_ site: Site) -> [Int] {
    var result = site.hosts.filter { $0 < nodes.count }
    for number in site.inner { result += nodesBehind(network.sites[number]) }
    return result.sorted()
  }

  /// Nothing arrives any more over the connections of a node; they end when
  /// the transport gives up.
  func breakConnections(ofNode index: Int) {
    for pipe in pipes.values where pipe.node == index {
      pipe.isBlackHole = true
      let id = pipe.id
      after(Pipe.userTimeout) { $0.pipes[id]?.expire() }
    }
  }
}

extension IPAddress {
  /// What every second home has.
  package static var homeSubnet: IPAddress { IPAddress(192, 168, 1, 0) }
}

extension Datagram {
  func asReceived(_ now: Instant) -> ReceivedDatagram {
    ReceivedDatagram(source: source, destination: destination, bytes: bytes, at: now)
  }
}
