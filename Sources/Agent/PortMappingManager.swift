/// Keeps this agent's port open at the routers in front of it, for UDP and, where
/// that was granted, for TCP: finds the default gateways, ties a `PortMapper` for
/// each to a socket and the loop, has a worker thread do UPnP, and hands what was
/// opened to the node. Never asks
/// from a public IPv4 address (no NAT is there, and data centres take searches
/// for attacks), and never asks any host but a default gateway or, by UPnP, a
/// router of the same link. docs/protocol/port-mapping.md, decision 0017.

internal import Bytes
internal import CommandLine
internal import Crypto
internal import NodeCore
internal import PortMapping
internal import Reactor
internal import UPnP

enum PortMappingLimits {
  /// Our global IPv6 addresses on the way out that get a pinhole each: the
  /// stable one and a temporary one.
  static let addressesV6 = 2
  /// Messages are at most 1100 bytes and few.
  static let socketBuffer: Int32 = 65_536
  /// Removal by UPnP is waited for so long when the agent stops.
  static let removal = TimeAmount.seconds(3)
  /// Orders for the worker thread: one mapping at a time, and removals.
  static let orders = 8
}

final class PortMappingManager {
  /// A gateway and the address of ours that it sees.
  struct Place: Hashable {
    var gateway: IPAddress
    var client: IPAddress
    /// Bits of the link's network.
    var prefix: Int
    var interface: String
  }

  /// One mapper at work.
  final class Entry {
    let place: Place
    let transport: MappedTransport
    let socket: UDPSocket
    var mapper: PortMapper
    var timer: LoopTimer?
    /// What was handed on last.
    var reported: MappedPort?
    var grantedAt = Instant.distantPast
    /// Of the last round that ended without a mapping, and when the next begins.
    var attempts: [PortMappingAttempt] = []
    var asksAgainAt = Instant.distantFuture
    /// Why the last mapping ended.
    var lost: PortMappingFailure?
    var saidUnavailable = false
    /// What the router offered in place of the TCP port we listen at.
    var otherPort: UInt16?
    /// By UPnP; what a removal needs.
    var upnp: UPnPMapping?

    init(
      _ place: Place, _ transport: MappedTransport, _ socket: UDPSocket, _ mapper: PortMapper
    ) {
      self.place = place
      self.transport = transport
      self.socket = socket
      self.mapper = mapper
    }

    /// For people, to whom a port is one of UDP unless it is said.
    func name(_ external: Endpoint) -> String {
      transport == .tcp ? "TCP \(external)" : "\(external)"
    }
  }

  unowned let agent: AgentRuntime
  let loop: EventLoop
  private let secret: [UInt8]
  var entries: [Entry] = []
  private var announcements: [UDPSocket] = []
  var worker: WorkerThread?
  /// Shared with the worker thread.
  let work = Lock(UPnPWork())
  var isStopped = false

  struct UPnPWork {
    var isStopping = false
    /// Jobs queued or being done.
    var open = 0
    /// Made, and not yet heard of by the loop: by number of the order.
    var unheard: [UInt64: UPnPMapping] = [:]
  }
  var upnpOrders: UInt64 = 0

  init(_ agent: AgentRuntime) {
    self.agent = agent
    loop = agent.loop
    // Kept: a server gives the port of a living mapping to nobody with another
    // nonce, not even to the same agent after a crash (RFC 6887 §11.3).
    if let kept = agent.state.bytes("portMappingSecret"), kept.count == 32 {
      secret = kept
    } else {
      secret = agent.random.bytes(32)
      agent.state.setBytes("portMappingSecret", secret)
      agent.saveSoon()
    }
    listen()
  }

  // MARK: The network

  /// Looks at the routes again. Mappers whose gateway and address are still
  /// there ask again soon; others end and begin.
  func networkChanged(_ interfaces: [NetworkInterface]) {
    guard !isStopped else { return }
    let places: [Place]
    do throws(SystemError) {
      places = Self.places(try NetworkInterfaces.defaultRoutes(), interfaces)
    } catch {
      agent.log.warn("the routes cannot be read, no port is mapped: \(error)")
      return
    }
    for entry in entries where !places.contains(entry.place) { end(entry) }
    entries.removeAll { !places.contains($0.place) }
    for entry in entries {
      entry.mapper.refresh(now: loop.now)
      drain(entry)
    }
    for place in places where !entries.contains(where: { $0.place == place }) { begin(place, .udp) }
  }

  /// Whom to ask, from which address.
  static func places(_ routes: [DefaultRoute], _ interfaces: [NetworkInterface]) -> [Place] {
    var result: [Place] = []
    if let route = routes.first(where: { $0.gateway.isV4 }),
      let link = interfaces.first(where: { $0.index == route.interface && $0.isUp })
    {
      let own = link.addresses.filter { $0.address.isV4 }
      let near = own.first { $0.address.matches(route.gateway, prefix: $0.prefix) } ?? own.first
      if let near, near.address.isPrivate {
        result.append(
          Place(
            gateway: route.gateway, client: near.address, prefix: near.prefix,
            interface: link.name))
      }
    }
    if let route = routes.first(where: { !$0.gateway.isV4 }),
      let link = interfaces.first(where: { $0.index == route.interface && $0.isUp })
    {
      let own = link.addresses.filter {
        let address = $0.address
        return !address.isV4 && !address.isLinkLocal && !address.isPrivate && !address.isLoopback
          && !$0.isTentative && !$0.isDuplicate && !$0.isDeprecated
      }
      for address in own.prefix(PortMappingLimits.addressesV6) {
        result.append(
          Place(
            gateway: route.gateway, client: address.address, prefix: address.prefix,
            interface: link.name))
      }
    }
    return result
  }

  private func begin(_ place: Place, _ transport: MappedTransport) {
    var options = UDPOptions()
    options.receiveBuffer = PortMappingLimits.socketBuffer
    options.sendBuffer = PortMappingLimits.socketBuffer
    // A link-local gateway has no meaning without its link.
    if place.gateway.isLinkLocal { options.interface = place.interface }
    let socket: UDPSocket
    do throws(SystemError) {
      socket = try UDPSocket(loop, bind: Endpoint(place.client, 0), number: 0, options: options)
    } catch {
      agent.log.debug("no port mapping at \(place.gateway): \(error)")
      return
    }
    socket.delegate = self
    let port = agent.node.settings.port
    var name = place.gateway.octets + place.client.octets
    name.appendUInt16(port)
    name.append(transport.rawValue)
    let nonce = BLAKE2s.hmac(key: secret, name).prefix(PCPConstants.nonceBytes)
    let mapper = PortMapper(
      PortMapperSettings(
        gateway: place.gateway, client: place.client, internalPort: port, transport: transport,
        nonce: Array(nonce), usesUPnP: true), random: SeededRandom(seed: agent.random.bytes(32)))
    let entry = Entry(place, transport, socket, mapper)
    entry.timer = LoopTimer(loop) { [weak self, weak entry] in
      guard let self, let entry else { return }
      entry.mapper.advance(to: loop.refreshNow())
      drain(entry)
    }
    entries.append(entry)
    agent.log.debug(
      "asking \(place.gateway) to open \(transport.words) port \(port) of \(place.client)")
    entry.mapper.start(now: loop.now)
    drain(entry)
  }

  /// The gateway or our address is gone.
  private func end(_ entry: Entry) {
    entry.mapper.stop(now: loop.now)
    drain(entry)
    if entry.reported != nil { report(entry, nil, "the network changed") }
    close(entry)
  }

  private func close(_ entry: Entry) {
    entry.timer = nil
    entry.socket.close()
  }

  /// Removes the mappings; `finish` waits for those that take more than a packet.
  func stop() {
    guard !isStopped else { return }
    isStopped = true
    let unheard = work.withLock { work in
      work.isStopping = true
      defer { work.unheard = [:] }
      return Array(work.unheard.values)
    }
    for mapping in unheard { submit { mapping.remove() } }
    for entry in entries {
      entry.mapper.stop(now: loop.now)
      drain(entry)
      close(entry)
    }
    entries.removeAll()
    for socket in announcements { socket.close() }
    announcements.removeAll()
  }

  // MARK: Packets

  /// Port 5350, where gateways announce that they began anew. Multicast to all
  /// hosts of the link reaches every socket there; without it a restarted
  /// gateway is noticed at the next renewal only.
  private func listen() {
    for address in [IPAddress.anyV4, .anyV6] {
      var options = UDPOptions()
      options.receiveBuffer = PortMappingLimits.socketBuffer
      options.sendBuffer = PortMappingLimits.socketBuffer
      options.reuseAddress = true
      do throws(SystemError) {
        let socket = try UDPSocket(
          loop, bind: Endpoint(address, PCPConstants.announcementPort), number: 1,
          options: options)
        socket.delegate = self
        announcements.append(socket)
      } catch {
        agent.log.debug("announcements of routers are not heard: \(error)")
      }
    }
  }

  func drain(_ entry: Entry) {
    let gateway = Endpoint(entry.place.gateway, PCPConstants.serverPort)
    while let event = entry.mapper.pollEvent() { handle(event, of: entry) }
    while let bytes = entry.mapper.pollTransmit() {
      entry.socket.send(bytes.span.bytes, to: gateway)
    }
    entry.timer?.set(at: entry.mapper.nextDeadline)
  }

  private func handle(_ event: PortMapperEvent, of entry: Entry) {
    switch event {
    case .mapped(let port):
      entry.saidUnavailable = false
      entry.grantedAt = loop.now
      entry.attempts = []
      entry.asksAgainAt = .distantFuture
      entry.lost = nil
      guard entry.transport == .udp || port.external.port == agent.node.settings.port else {
        refuse(entry, port)
        return
      }
      report(entry, port, "")
      openTCP(beside: entry)
    case .lost(let failure):
      entry.lost = failure
      report(entry, nil, failure.words)
    case .unavailable(let attempts, let rest):
      entry.attempts = attempts
      entry.asksAgainAt = loop.now + rest
      let words =
        "no\(entry.transport == .tcp ? " TCP" : "") port mapping at \(entry.place.gateway): "
        + attempts.map { "\($0.protocol.words): \($0.failure.words)" }.joined(separator: "; ")
      // Once; a router does not learn it in an hour.
      if entry.saidUnavailable {
        agent.log.debug("\(words); again after \(Int(rest.inSeconds)) s")
      } else {
        agent.log.info(words)
      }
      entry.saidUnavailable = true
    case .upnp(.map(let port, let lifetime)):
      mapByUPnP(entry, port: port, lifetime: lifetime)
    case .upnp(.remove):
      guard let mapping = entry.upnp else { return }
      entry.upnp = nil
      submit { mapping.remove() }
    }
  }

  // MARK: TCP

  /// A router that opened the port for datagrams is asked for connections as well;
  /// one that did not is left alone.
  private func openTCP(beside entry: Entry) {
    guard entry.transport == .udp, agent.node.settings.listensTCP,
      !entries.contains(where: { $0.place == entry.place && $0.transport == .tcp })
    else { return }
    begin(entry.place, .tcp)
  }

  /// Peers dial no TCP port but the one we listen at (DESIGN §2 "We must not be a
  /// weapon"): another one outside is of no use, and is given back.
  private func refuse(_ entry: Entry, _ port: MappedPort) {
    entry.otherPort = port.external.port
    entry.mapper.stop(now: loop.now)
    if entry.reported != nil {
      report(entry, nil, "the router moved it to port \(port.external.port)")
    } else {
      agent.log.info(
        "\(entry.place.gateway) would open TCP port \(port.external.port), not \(agent.node.settings.port): given back, peers are not told of it"
      )
    }
  }

  // MARK: What came of it

  private func report(_ entry: Entry, _ port: MappedPort?, _ why: String) {
    let former = entry.reported
    entry.reported = port
    let inside = Endpoint(entry.place.client, agent.node.settings.port)
    guard let port else {
      let kind = entry.transport == .tcp ? "TCP port mapping" : "port mapping"
      say(entry, nil, "the \(kind) at \(entry.place.gateway) is lost: \(why)")
      return
    }
    let words =
      "\(entry.place.gateway) opened \(entry.name(port.external)) to \(inside) by \(port.protocol.words)"
      + " for \(Int(port.lifetime.inSeconds)) s"
      + (port.isBehindAnotherNAT
        ? "; that address is private: another NAT is in front of this router (double NAT)" : "")
    if former?.external == port.external, former?.protocol == port.protocol {
      agent.log.debug("renewed: \(words)")
    } else {
      say(entry, port.external, words)
    }
  }

  /// An IPv6 pinhole leads to a host candidate that the node has already.
  private func say(_ entry: Entry, _ external: Endpoint?, _ words: String) {
    if entry.place.client.isV4 {
      agent.portMapped(external, isTCP: entry.transport == .tcp, words)
    } else {
      agent.log.info(words)
    }
  }
}

extension PortMappingManager: UDPSocketDelegate {
  func socketReadable(_ socket: UDPSocket) {
    let now = loop.refreshNow()
    if socket.number == 1 {
      socket.receive { bytes, info in
        for entry in entries where entry.place.gateway == info.remote.address {
          entry.mapper.receiveAnnouncement(bytes.bytes, from: info.remote, now: now)
        }
      }
      for entry in entries { drain(entry) }
      return
    }
    guard let entry = entries.first(where: { $0.socket === socket }) else { return }
    socket.receive { bytes, info in
      entry.mapper.receive(bytes.bytes, from: info.remote, now: now)
    }
    drain(entry)
  }

  func socket(_ socket: UDPSocket, failed failure: DatagramFailure) {
    guard failure.error.isConnectionRefused,
      let entry = entries.first(where: { $0.socket === socket })
    else { return }
    entry.mapper.unreachable(now: loop.now)
    drain(entry)
  }
}
