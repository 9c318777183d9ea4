/// Roads for datagrams: one directed link per pair of hosts, each with its own
/// delay, loss, rate and largest packet, changeable at any time. Which host an
/// address means is decided in `Site` and `Routing`.

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

  /// A wire inside a home.
  package static var local: LinkSettings {
    var link = LinkSettings()
    link.delay = .microseconds(300)
    return link
  }
}

struct Datagram {
  var source: Endpoint
  var destination: Endpoint
  var bytes: [UInt8]
  var from: Int
  /// As the sender wrote them.
  let origin: Endpoint
  let target: Endpoint
  /// Names it in the world; a hostile copy has that of its original.
  var name: UInt64 = 0
  /// Number on its link.
  var number: UInt64 = 0
  /// Routers it may still pass, and those it has passed (`Routing`).
  var timeToLive: UInt8 = Routing.usualTimeToLive
  var routers: UInt8 = 0
  /// Of TCP, without data; nil: a datagram.
  var segment: StreamSegment?
  /// The site in which its destination means something; nil: the internet.
  var place: Int?

  init(source: Endpoint, destination: Endpoint, bytes: [UInt8], from: Int) {
    self.source = source
    self.destination = destination
    self.bytes = bytes
    self.from = from
    origin = source
    target = destination
  }

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
  /// Who has an address in the internet.
  var owners: [IPAddress: AddressOwner] = [:]
  package internal(set) var sites: [Site] = []
  /// The site each host is in; none: directly in the internet.
  var homes: [Int: Int] = [:]
  /// For pairs that nobody spoke of.
  package var usual = LinkSettings()
  /// For pairs in one site that nobody spoke of.
  package var local = LinkSettings.local

  /// Routers of the core say nothing of packets that die there.
  package var coreIsSilent = false

  static let hosts = 1 << 16
  /// Hosts that are no nodes.
  static let attacker = 60_000
  static let server = 60_001
  /// The first of the plain hosts.
  static let plain = 61_000

  init() {}

  mutating func link(_ from: Int, _ to: Int) -> Link {
    if let link = links[from * Self.hosts + to] { return link }
    let home = homes[from]
    let link = Link(home != nil && home == homes[to] ? local : usual)
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
