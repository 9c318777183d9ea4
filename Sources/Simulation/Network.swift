/// Roads for datagrams: one directed link per pair of hosts, each with its own
/// delay, loss, rate and largest packet, changeable at any time. A NAT box can
/// be put in front of a host; without one addresses pass unchanged.

#if canImport(Bytes)
  package import Bytes
#endif

/// How one direction between two hosts behaves.
package struct LinkSettings: Sendable {
  package var delay = TimeAmount.milliseconds(10)
  /// Added at random; packets stay in order unless `reorder` says otherwise.
  package var jitter = TimeAmount.zero
  /// Shares of packets, 0…1.
  package var loss = 0.0
  package var duplication = 0.0
  /// Packets held back by up to `reorderDelay`.
  package var reorder = 0.0
  package var reorderDelay = TimeAmount.milliseconds(10)
  /// Bytes a second; 0 = no limit.
  package var rate = 12_500_000
  package var queueBytes = 256 * 1024
  /// The largest IP packet.
  package var mtu = 1_500
  /// The sender's kernel is told of a packet that is too long.
  package var tellsTooLong = false
  package var isCut = false

  package init() {}
}

struct Datagram {
  var source: Endpoint
  var destination: Endpoint
  var bytes: [UInt8]
  var from: Int
  /// Names it in the world; a hostile copy has that of its original.
  var name: UInt64 = 0
  /// Number on its link.
  var number: UInt64 = 0

  /// Enough of the (sealed, so random) bytes to tell packets apart.
  var fingerprint: UInt64 {
    var result = UInt64(source.port) << 16 | UInt64(destination.port)
    var i = 0
    while i < bytes.count {
      result = (result ^ UInt64(bytes[i])) &* 0x100_0000_01b3
      i += i < 32 ? 1 : 61
    }
    return result
  }
}

/// A router that rewrites addresses between one host and the rest. None exists
/// yet; kinds of NAT come with their own issue and plug in here.
package protocol Middlebox: AnyObject {
  /// nil drops the packet.
  func outgoing(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> (source: Endpoint, destination: Endpoint)?
  func incoming(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> (source: Endpoint, destination: Endpoint)?
}

/// State of one directed link.
final class Link {
  var settings: LinkSettings
  var freeAt = Instant.distantPast
  var lastArrival = Instant.distantPast
  var sent: UInt64 = 0
  var newestArrived: UInt64 = 0

  init(_ settings: LinkSettings) { self.settings = settings }
}

package struct Network {
  private var links: [Int: Link] = [:]
  private var owners: [IPAddress: Int] = [:]
  var boxes: [Int: any Middlebox] = [:]
  /// For pairs that nobody spoke of.
  package var usual = LinkSettings()

  static let hosts = 1 << 16
  /// Hosts that are no nodes.
  static let attacker = 60_000

  init() {}

  mutating func attach(host: Int, addresses: [IPAddress]) {
    for address in addresses { owners[address] = host }
  }

  mutating func detach(host: Int, addresses: [IPAddress]) {
    for address in addresses where owners[address] == host { owners[address] = nil }
  }

  func owner(of address: IPAddress) -> Int? { owners[address] }

  mutating func link(_ from: Int, _ to: Int) -> Link {
    if let link = links[from * Self.hosts + to] { return link }
    let link = Link(usual)
    links[from * Self.hosts + to] = link
    return link
  }

  /// Changes both directions between two hosts.
  package mutating func change(_ a: Int, _ b: Int, _ body: (inout LinkSettings) -> Void) {
    body(&link(a, b).settings)
    body(&link(b, a).settings)
  }

  /// Changes one direction.
  package mutating func changeOneWay(
    from: Int, to: Int, _ body: (inout LinkSettings) -> Void
  ) {
    body(&link(from, to).settings)
  }

  package mutating func settings(from: Int, to: Int) -> LinkSettings { link(from, to).settings }

  /// No datagram passes between the two, either way.
  package mutating func cut(_ a: Int, _ b: Int) { change(a, b) { $0.isCut = true } }
  package mutating func heal(_ a: Int, _ b: Int) { change(a, b) { $0.isCut = false } }
}

extension World {
  /// Puts a datagram on the wire.
  func transmit(_ source: Endpoint, _ destination: Endpoint, _ bytes: [UInt8], from: Int) {
    statistics.packets += 1
    var datagram = Datagram(source: source, destination: destination, bytes: bytes, from: from)
    datagram.name = statistics.packets
    if let box = network.boxes[from] {
      guard let (s, d) = box.outgoing(source: source, destination: destination, now: now) else {
        statistics.lost += 1
        return
      }
      datagram.source = s
      datagram.destination = d
    }
    attacker.overhears(datagram, random: &random)
    guard let to = network.owner(of: datagram.destination.address), to != from else {
      statistics.lost += 1
      return
    }
    let link = network.link(from, to)
    let settings = link.settings
    let size = bytes.count + (datagram.destination.address.isV4 ? 28 : 48)
    if size > settings.mtu {
      statistics.tooLong += 1
      if settings.tellsTooLong, from < nodes.count {
        let limit = settings.mtu - (size - bytes.count)
        let process = nodes[from].process
        after(.microseconds(20)) { world in
          world.nodes[from].tooLong(destination, limit: limit, process: process)
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

  func arrive(_ datagram: Datagram) {
    var datagram = datagram
    guard let to = network.owner(of: datagram.destination.address) else {
      statistics.lost += 1
      return
    }
    let link = network.link(datagram.from, to)
    if datagram.number < link.newestArrived {
      statistics.reordered += 1
    } else {
      link.newestArrived = datagram.number
    }
    if let box = network.boxes[to] {
      guard
        let (s, d) = box.incoming(
          source: datagram.source, destination: datagram.destination, now: now)
      else {
        statistics.lost += 1
        return
      }
      datagram.source = s
      datagram.destination = d
    }
    if to == Network.attacker {
      attacker.received(datagram, world: self)
    } else {
      nodes[to].arrived(datagram)
    }
  }
}
