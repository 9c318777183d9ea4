/// The way of a datagram from a host through its own routers, the core of the
/// internet and the far routers to a host; and every reason why it may not get
/// there. Own routers act when it leaves, far ones when it arrives. A router
/// forwards what may still pass one more: Linux drops a packet whose time to
/// live is 1 before it translates anything, so a packet that dies further on
/// has opened the way at home and never touches the far side (DESIGN §2).

#if canImport(Bytes)
  package import Bytes
  internal import NAT
#endif

package enum Routing {
  package static let usualTimeToLive: UInt8 = 64
  /// Routers between any two homes, beside their own.
  package static let coreRouters: UInt8 = 2
  /// A router's word that a packet died there is back after this, for each
  /// router passed.
  static let wordsPerRouter = TimeAmount.milliseconds(1)

  /// A router of the core.
  static func coreAddress(_ router: Int, isV4: Bool) -> IPAddress {
    isV4
      ? IPAddress(192, 0, 2, UInt8(1 + router))
      : IPAddress(high: 0x2001_0db8_0002_0000, low: UInt64(1 + router))
  }
}

extension Site {
  fileprivate func outgoing(_ datagram: Datagram, now: Instant) -> NATVerdict {
    datagram.segment == nil
      ? box.outgoing(source: datagram.source, destination: datagram.destination, now: now)
      : streamBox.outgoing(source: datagram.source, destination: datagram.destination, now: now)
  }

  fileprivate func incoming(_ datagram: Datagram, now: Instant) -> NATVerdict {
    datagram.segment == nil
      ? box.incoming(source: datagram.source, destination: datagram.destination, now: now)
      : streamBox.incoming(source: datagram.source, destination: datagram.destination, now: now)
  }
}

extension World {
  /// Puts a datagram on the wire.
  /// - Parameter timeToLive: 0: the usual.
  func transmit(
    _ source: Endpoint, _ destination: Endpoint, _ bytes: [UInt8], from: Int,
    timeToLive: UInt8 = 0, segment: StreamSegment? = nil
  ) {
    statistics.packets += 1
    var datagram = Datagram(source: source, destination: destination, bytes: bytes, from: from)
    datagram.name = statistics.packets
    datagram.segment = segment
    if timeToLive > 0 { datagram.timeToLive = timeToLive }
    guard let to = leave(&datagram) else {
      statistics.lost += 1
      return
    }
    let link = network.link(from, to)
    var settings = link.settings
    if from == Network.server || to == Network.server {
      // Datagrams and connections share the road to the server.
      let other = from == Network.server ? to : from
      if other < nodes.count {
        settings.delay = nodes[other].uplinkSettings.delay
        if nodes[other].uplinkSettings.isCut { settings.isCut = true }
      }
    }
    let size = bytes.count + (datagram.destination.address.isV4 ? 28 : 48)
    if size > settings.mtu {
      statistics.tooLong += 1
      if settings.tellsTooLong, from < nodes.count {
        let limit = settings.mtu - (size - bytes.count)
        let process = nodes[from].process
        after(.microseconds(20)) { world in
          world.nodes[from].tooLong(
            destination, port: source.port, limit: limit, process: process)
        }
      }
      return
    }
    if settings.isCut || chance(settings.loss) {
      statistics.lost += 1
      return
    }
    link.sent += 1
    datagram.number = link.sent
    var leaves = now
    if settings.rate > 0 {
      let rate = Double(settings.rate)
      leaves = max(now, link.freeAt)
      if (leaves - now).inSeconds * rate + Double(size) > Double(settings.queueBytes) {
        statistics.lost += 1
        return
      }
      leaves += .nanoseconds(Int64(Double(size) / rate * 1e9))
      link.freeAt = leaves
    }
    var arrives = leaves + settings.delay
    if settings.jitter > .zero { arrives += time(.zero, settings.jitter) }
    if chance(settings.reorder) {
      arrives += time(.zero, settings.reorderDelay)
    } else {
      arrives = max(arrives, link.lastArrival)
      link.lastArrival = arrives
    }
    schedule(.datagram(datagram), at: arrives)
    if chance(settings.duplication) {
      statistics.duplicated += 1
      schedule(.datagram(datagram), at: arrives + time(.zero, .milliseconds(50)))
    }
  }

  /// Through its own routers, and the core when it goes so far.
  /// - Returns: the host whose link it takes; nil: it is lost.
  private func leave(_ datagram: inout Datagram) -> Int? {
    var place = network.home(of: datagram.from)
    var owner: AddressOwner?
    while let site = place {
      owner = network.owner(of: datagram.destination.address, in: site)
      if owner != nil { break }
      // Nobody on the wire has that address, and no router is asked.
      guard !site.isLocal(datagram.destination.address) else { return nil }
      guard !site.isDown else { return nil }
      guard passesRouter(&datagram) else {
        tellExpired(datagram, at: site.isSilent ? nil : site.insideAddress(seenBy: datagram.source))
        return nil
      }
      if datagram.segment != nil, !site.lets(datagram.destination) { return nil }
      switch site.outgoing(datagram, now: now) {
      case .outside(let source, let destination):
        datagram.source = source
        datagram.destination = destination
        place = site.outer
        continue
      case .inside(let source, let destination):
        datagram.source = source
        datagram.destination = destination
        owner = network.owner(of: destination.address, in: site)
      case .dropped:
        statistics.blocked += 1
        return nil
      }
      break
    }
    datagram.place = place?.number
    if place == nil {
      if datagram.segment == nil { attacker.overhears(datagram, random: &random) }
      for router in 0..<Int(Routing.coreRouters) {
        guard passesRouter(&datagram) else {
          let isV4 = datagram.destination.address.isV4
          tellExpired(
            datagram,
            at: network.coreIsSilent ? nil : Routing.coreAddress(router, isV4: isV4))
          return nil
        }
      }
      owner = network.owner(of: datagram.destination.address, in: nil)
    }
    guard let owner, let to = network.likelyHost(owner, datagram.destination, now: now) else {
      return nil
    }
    // Only a router can bring a packet back to its sender.
    if to == datagram.from, network.home(of: to) == nil || datagram.routers == 0 { return nil }
    return to
  }

  private func passesRouter(_ datagram: inout Datagram) -> Bool {
    datagram.routers += 1
    guard datagram.timeToLive > datagram.routers else {
      statistics.expired += 1
      return false
    }
    return true
  }

  /// ICMP back to the sender, which its own routers let in as belonging to what
  /// it sent.
  private func tellExpired(_ datagram: Datagram, at router: IPAddress?) {
    guard let router, datagram.from < nodes.count else { return }
    let process = nodes[datagram.from].process
    after(Routing.wordsPerRouter * Int64(datagram.routers)) { world in
      world.nodes[datagram.from].expired(
        datagram.target, port: datagram.origin.port, at: router, process: process)
    }
  }

  /// Through the far routers to a host.
  func arrive(_ datagram: Datagram) {
    var datagram = datagram
    guard let to = enter(&datagram) else {
      statistics.lost += 1
      return
    }
    let link = network.link(datagram.from, to)
    if datagram.number < link.newestArrived {
      statistics.reordered += 1
    } else {
      link.newestArrived = datagram.number
    }
    switch to {
    case Network.attacker: attacker.received(datagram, world: self)
    case Network.server: server.received(datagram)
    case Network.plain...: plainHosts[to - Network.plain].received.append(datagram.asReceived(now))
    default:
      if let segment = datagram.segment {
        nodes[to].arrived(segment, datagram)
        return
      }
      attacker.reaches(to, datagram)
      nodes[to].arrived(datagram)
    }
  }

  private func enter(_ datagram: inout Datagram) -> Int? {
    var place = datagram.place.map { network.sites[$0] }
    while let owner = network.owner(of: datagram.destination.address, in: place) {
      switch owner {
      case .host(let host):
        return host
      case .site(let number):
        let site = network.sites[number]
        guard !site.isDown else { return nil }
        // A router looks at the addresses first and at the time to live when
        // it forwards: a packet that ends here may still have left its mark.
        let verdict = site.incoming(datagram, now: now)
        guard case .inside(let source, let destination) = verdict else {
          statistics.blocked += 1
          // A router that listens to strangers answers them: nobody is there.
          if case .syn(let number) = datagram.segment, site.kind.isOpen {
            let from = datagram.from
            after(.milliseconds(20)) {
              $0.nodes[from].streamFailed(number)
            }
          }
          return nil
        }
        guard passesRouter(&datagram) else { return nil }
        datagram.source = source
        datagram.destination = destination
        place = site
      }
    }
    return nil
  }
}
