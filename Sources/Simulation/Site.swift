/// A place with addresses of its own behind one router: a home, the inner part
/// of a home with two routers, or everything behind one carrier-grade NAT.
/// Hosts inside reach each other without the router. An address means what it
/// means in its site only: two homes may both use 192.168.1.0/24.

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// Who has an address in one place.
enum AddressOwner: Hashable {
  case host(Int)
  /// The router of another site, whose outside this place is.
  case site(Int)
}

package final class Site {
  /// Its index in the network.
  package let number: Int
  /// Where its router's outside is; nil: the internet.
  package let outer: Site?
  /// The addresses on its wire; others are the router's business.
  package let subnet: IPAddress
  package let prefix: Int
  package var box: NATBox
  /// The same router's table of connections.
  package var streamBox: NATBox
  /// The router is off: nothing passes, either way.
  package var isDown = false
  /// It says nothing of packets whose time to live is over there.
  package var isSilent = false
  var owners: [IPAddress: AddressOwner] = [:]
  /// In the order they came. The first stands for the site where nobody is named.
  var hosts: [Int] = []
  /// Sites whose outside this is.
  var inner: [Int] = []
  private var given: UInt32 = 9

  init(number: Int, outer: Site?, subnet: IPAddress, prefix: Int, box: NATBox) {
    self.number = number
    self.outer = outer
    self.subnet = subnet
    self.prefix = prefix
    self.box = box
    streamBox = NATBox(
      kind: box.kind.forConnections, address: box.address,
      seed: UInt64(number) &* 0x9e37_79b9_7f4a_7c15)
    streamBox.timers = .connections
  }

  package var kind: NATKind { box.kind }

  /// Whether a connection to that port is let out.
  func lets(_ remote: Endpoint) -> Bool { kind.tcpPorts?.contains(remote.port) ?? true }

  /// An IPv4 address nobody here ever had.
  package func freshAddress() -> IPAddress {
    given += 1
    precondition(given < 1 << (32 - UInt32(prefix)) - 1, "the subnet is used up")
    return IPAddress(v4: subnet.v4 + given)
  }

  /// The router's address on the wire, as a host with address `source` sees it.
  func insideAddress(seenBy source: Endpoint) -> IPAddress {
    if !source.address.isV4 { return IPAddress(high: source.address.high, low: 1) }
    return IPAddress(v4: (kind.translates ? subnet.v4 : source.address.v4 & ~0xff) + 1)
  }

  /// An address on its own wire.
  func isLocal(_ address: IPAddress) -> Bool { address.matches(subnet, prefix: prefix) }

  /// An address of its hosts that is its own outside as well.
  func isVisibleOutside(_ address: IPAddress) -> Bool {
    !(box.kind.translates && address.isV4) && !isLocal(address)
  }
}

extension Network {
  /// The place where `host` is; nil: directly in the internet.
  package func home(of host: Int) -> Site? { homes[host].map { sites[$0] } }

  func owner(of address: IPAddress, in place: Site?) -> AddressOwner? {
    guard let place else { return owners[address] }
    return place.owners[address]
  }

  /// A router, its wire inside, and where its outside is.
  mutating func addSite(
    kind: NATKind, address: IPAddress?, outer: Site?, subnet: IPAddress, prefix: Int, seed: UInt64
  ) -> Site {
    let box = NATBox(kind: kind, address: address, seed: seed)
    let site = Site(number: sites.count, outer: outer, subnet: subnet, prefix: prefix, box: box)
    sites.append(site)
    outer?.inner.append(site.number)
    if let address { setOwner(.site(site.number), of: address, in: outer) }
    return site
  }

  mutating func setOwner(_ owner: AddressOwner?, of address: IPAddress, in place: Site?) {
    if let place { place.owners[address] = owner } else { owners[address] = owner }
  }

  /// The router gets another address outside.
  mutating func readdress(_ site: Site, _ address: IPAddress) {
    if let old = site.box.address { setOwner(nil, of: old, in: site.outer) }
    setOwner(.site(site.number), of: address, in: site.outer)
  }

  /// A host is at these addresses of `site` now.
  mutating func attach(host: Int, addresses: [IPAddress], to site: Site?) {
    homes[host] = site?.number
    if let site, !site.hosts.contains(host) { site.hosts.append(host) }
    for address in addresses {
      setOwner(.host(host), of: address, in: site)
      var place = site
      while let here = place, here.isVisibleOutside(address) {
        setOwner(.site(here.number), of: address, in: here.outer)
        place = here.outer
      }
    }
  }

  mutating func detach(host: Int, addresses: [IPAddress]) {
    let site = home(of: host)
    for address in addresses where owner(of: address, in: site) == .host(host) {
      setOwner(nil, of: address, in: site)
      var place = site
      while let here = place, here.isVisibleOutside(address),
        owner(of: address, in: here.outer) == .site(here.number)
      {
        setOwner(nil, of: address, in: here.outer)
        place = here.outer
      }
    }
    site?.hosts.removeAll { $0 == host }
    homes[host] = nil
  }

  /// Where the internet sees `address` of a host of `site`.
  package func outsideAddress(of address: IPAddress, in site: Site?) -> IPAddress {
    var address = address
    var place = site
    while let here = place {
      if here.kind.translates, address.isV4, let outside = here.box.address { address = outside }
      place = here.outer
    }
    return address
  }

  /// The host a packet will probably reach: routers still have their say when
  /// it arrives. Names the link that the packet takes.
  func likelyHost(_ owner: AddressOwner, _ destination: Endpoint, now: Instant) -> Int? {
    var owner = owner
    var destination = destination
    while case .site(let number) = owner {
      let site = sites[number]
      if let address = site.box.host(behind: destination, now: now),
        let next = site.owners[address]
      {
        // The inner port is not asked for: one more guess, and only of a link.
        destination = Endpoint(address, destination.port)
        owner = next
      } else if let host = anyHost(of: site) {
        return host
      } else {
        return nil
      }
    }
    if case .host(let host) = owner { return host }
    return nil
  }

  private func anyHost(of site: Site) -> Int? {
    if let host = site.hosts.first { return host }
    for number in site.inner {
      if let host = anyHost(of: sites[number]) { return host }
    }
    return nil
  }
}
