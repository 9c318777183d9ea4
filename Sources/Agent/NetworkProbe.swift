/// A NAT probe without an agent: `martlet netcheck -serverhost HOST`. Its own
/// loop and sockets, one server address per family, over in < 6 s.

internal import Bytes
package import CommandLine
package import HTTP
internal import NAT
internal import Reactor
internal import STUN

package enum NetworkProbe {
  package struct Failure: Error {
    package let words: String
  }

  /// - Returns: the object that `/api/netcheck` answers with.
  package static func run(_ host: String, _ ports: NetcheckPorts) -> Result<JSONValue, Failure> {
    do throws(SystemError) {
      let loop = try EventLoop()
      let names = try NameLookup(loop)
      defer { names.close() }
      var found: [IPAddress]?
      var words = ""
      _ = names.resolve(host) { result in
        switch result {
        case .success(let addresses): found = addresses
        case .failure(let failure): words = "\(host) cannot be resolved (\(failure))"
        }
        loop.stop()
      }
      loop.run()
      guard let found else { return .failure(Failure(words: words)) }
      var local: [IPAddress] = []
      for interface in try NetworkInterfaces.current() where interface.isUp {
        local += interface.addresses.map(\.address)
      }
      let families = try [true, false].map { isV4 throws(SystemError) in
        try FamilyProbe(
          loop, isV4: isV4, server: found.first { $0.isV4 == isV4 }, ports: ports,
          local: local.filter { $0.isV4 == isV4 && !$0.isLinkLocal })
      }
      for family in families { family.start { if families.allSatisfy(\.isOver) { loop.stop() } } }
      if !families.allSatisfy(\.isOver) { loop.run() }
      return .success([
        "server": .string(host), "families": .array(families.map(\.value)),
      ])
    } catch {
      return .failure(Failure(words: "\(error)"))
    }
  }
}

/// One family: sockets, timer and the pure probe.
private final class FamilyProbe: UDPSocketDelegate, ConnectionDelegate {
  private let loop: EventLoop
  private let isV4: Bool
  private let server: NATProbeServer?
  private let isPresent: Bool
  private var sockets: [UInt32: UDPSocket] = [:]
  private var connections: [UInt32: StreamConnection] = [:]
  private var probe: NATProbe?
  private var timer: LoopTimer?
  private var report: NATProbeReport?
  private var whenOver: () -> Void = {}

  init(
    _ loop: EventLoop, isV4: Bool, server: IPAddress?, ports: NetcheckPorts, local: [IPAddress]
  ) throws(SystemError) {
    self.loop = loop
    self.isV4 = isV4
    isPresent = local.contains { !$0.isLoopback } || server?.isLoopback == true && !local.isEmpty
    self.server = server.map {
      NATProbeServer(
        $0, udp1: ports.stunUDP1, udp2: ports.stunUDP2, tcp: [ports.stunTCP1, ports.stunTCP2])
    }
    guard let server = self.server, isPresent else { return }
    var named: [NATProbeSocket] = []
    for number in 0..<(1 + UInt32(NATProbeLimits.auxiliarySockets)) {
      let socket = try UDPSocket(loop, bind: Endpoint(isV4 ? .anyV4 : .anyV6, 0), number: number)
      socket.delegate = self
      sockets[number] = socket
      named.append(NATProbeSocket(number: number, localPort: socket.local.port))
    }
    let seed = try ProcessSettings.randomBytes(32)
    probe = NATProbe(
      settings: NATProbeSettings(
        server: server, main: named[0], auxiliary: Array(named.dropFirst()),
        localAddresses: local),
      random: SeededRandom(seed: seed))
  }

  var isOver: Bool { probe == nil || report != nil }

  func start(_ whenOver: @escaping () -> Void) {
    guard probe != nil else { return }
    self.whenOver = whenOver
    timer = LoopTimer(loop) { [weak self] in
      guard let self else { return }
      probe?.advance(to: loop.refreshNow())
      drain()
    }
    probe?.start(now: loop.refreshNow())
    drain()
  }

  private func drain() {
    while let transmit = probe?.pollTransmit() {
      sockets[transmit.socket]?.send(
        transmit.bytes.span.bytes, to: transmit.destination,
        hopLimit: transmit.timeToLive == 0 ? nil : transmit.timeToLive)
    }
    while let event = probe?.pollEvent() {
      switch event {
      case .mapped, .learnt, .refreshed: break
      case .dial(let number, let endpoint):
        do throws(SystemError) {
          let connection = try StreamConnection.connect(loop, to: endpoint)
          connection.delegate = self
          connections[number] = connection
        } catch {
          probe?.failed(number, now: loop.now)
        }
      case .send(let number, let bytes): _ = connections[number]?.write(bytes.span.bytes)
      case .hangUp(let number): connections.removeValue(forKey: number)?.close()
      case .finished(let found): finish(found)
      }
    }
    if report == nil { timer?.set(at: probe?.nextDeadline ?? .distantFuture) }
  }

  private func finish(_ found: NATProbeReport) {
    report = found
    timer?.cancel()
    for socket in sockets.values { socket.close() }
    sockets.removeAll()
    for connection in connections.values { connection.close() }
    connections.removeAll()
    whenOver()
  }

  func socketReadable(_ socket: UDPSocket) {
    let now = loop.refreshNow()
    socket.receive { bytes, info in
      if STUNMessage.isSTUN(bytes.bytes) {
        self.probe?.receive(bytes.bytes, from: info.remote, socket: socket.number, now: now)
      }
    }
    drain()
  }

  func socket(_ socket: UDPSocket, failed failure: DatagramFailure) {
    guard let router = failure.expiredAt else { return }
    probe?.expired(
      at: router, destination: failure.remote, socket: socket.number, now: loop.refreshNow())
    drain()
  }

  private func number(of connection: StreamConnection) -> UInt32? {
    connections.first { $0.value === connection }?.key
  }

  func connectionOpened(_ connection: StreamConnection) {
    guard let number = number(of: connection) else { return }
    probe?.connected(number, now: loop.now)
    drain()
  }

  func connectionReadable(_ connection: StreamConnection) {
    guard let number = number(of: connection) else { return }
    let result = connection.read(limit: 1024) { bytes in
      self.probe?.received(bytes.bytes, on: number, now: self.loop.now)
    }
    switch result {
    case .bytes, .wouldBlock: drain()
    case .end, .failed: lost(connection)
    }
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { lost(connection) }

  private func lost(_ connection: StreamConnection) {
    guard let number = number(of: connection) else { return }
    connections.removeValue(forKey: number)?.close()
    probe?.failed(number, now: loop.now)
    drain()
  }

  var value: JSONValue {
    let facts = report?.facts ?? .unknown
    var value: JSONObject = [
      "family": .string(isV4 ? "IPv4" : "IPv6"), "present": .bool(isPresent),
      "stun": server.map { .string($0.address.description) } ?? .null, "running": .bool(false),
      "mapped": report?.mapped.map { .string($0.description) } ?? .null,
      "rttMs": report?.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
      "tcpMapped": .array((report?.tcpMapped ?? []).map { .string($0.description) }),
      "routers": LocalAPI.describe(report?.hops), "nat": LocalAPI.describe(facts),
    ]
    if report != nil {
      let advice = NetworkText.advice(facts)
      value["advice"] = .string(advice.rawValue)
      value["adviceWords"] = NetworkText.words(advice).map { .string($0) } ?? .null
    }
    return .object(value)
  }
}
