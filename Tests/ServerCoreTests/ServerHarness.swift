/// A server under a virtual clock with nodes that run the real LoginClient.
/// Effects are carried out in order; `disk` holds what was stored, so that a
/// test can kill the server after any effect and start another on it.
import Bytes
import NAT
import Crypto
import Relay
import ServerCore
import Signaling

func at(_ milliseconds: Int64) -> Instant { Instant(nanoseconds: 0) + .milliseconds(milliseconds) }

/// 2026-11-21 in seconds since 1970.
let someDay: UInt64 = 1_795_219_200

final class TestNode {
  let name: String
  let key: KeyPair
  let token: UInt64
  var secret: [UInt8]?
  var incarnation: UInt64 = 1
  let seals: Bool
  var address: Endpoint

  var connection: UInt32?
  var leg: UInt32?
  var login: LoginClient?
  var result: LoginClientResult?
  var failure: LoginFailure?
  var sealer: SignalSealer?
  var welcome: Welcome?
  var inbox: [ServerEnvelope] = []
  var legMessages: [[UInt8]] = []
  var ticket: RelayTicket?
  var legCounter: UInt64 = 0
  var closed: [CloseReason] = []
  var legClosed: [CloseReason] = []
  var request: UInt32 = 0

  init(
    _ name: String, token: UInt64 = 7, key: KeyPair? = nil, seals: Bool = true,
    address: Endpoint = Endpoint(IPAddress(203, 0, 113, 5), 40_000),
    random: inout SeededRandom
  ) {
    self.name = name
    self.token = token
    self.key = key ?? X25519.generate(using: &random)
    self.seals = seals
    self.address = address
  }

  /// The last message that answers `request`.
  func answer(_ request: UInt32) -> ServerMessage? {
    inbox.last { $0.request == request }?.message
  }
  var pushes: [ServerMessage] { inbox.filter { $0.request == 0 }.map(\.message) }
  var punches: [PunchStart] {
    inbox.compactMap { if case .punchStart(let punch) = $0.message { punch } else { nil } }
  }
  var members: [SignalledMember] {
    inbox.compactMap { if case .memberChanged(let member) = $0.message { member } else { nil } }
  }
  var notices: [SignalErrorCode] {
    pushes.compactMap { if case .notice(let code, _) = $0 { code } else { nil } }
  }
}

class World {
  var server: CoordinationServer
  var random: SeededRandom
  var now: Instant = at(0)
  var nodes: [UInt32: TestNode] = [:]
  var legs: [UInt32: TestNode] = [:]
  var disk: [StoreRecord] = []
  var logged: [ServerLogEvent] = []
  var nextConnection: UInt32 = 1
  let settings: ServerSettings
  var wall: UInt64 = someDay * 1_000_000_000
  var sends = 0
  /// Effects carried out so far, and after how many the power goes.
  var carried = 0
  var diesAfter = Int.max

  init(seed: UInt64 = 1, tokens: [UInt64] = [7], edit: (inout ServerSettings) -> Void = { _ in }) {
    random = SeededRandom(testSeed: seed)
    var settings = ServerSettings(
      meshes: tokens.enumerated().map {
        MeshSettings(
          name: $0.offset == 0 ? "default" : "mesh\($0.offset)",
          verifier: LoginVerifier(token: $0.element, cost: .cheap))
      }, version: "0.1.0")
    edit(&settings)
    self.settings = settings
    server = CoordinationServer(
      settings: settings, records: [], seed: random.bytes(32), unixNanoseconds: wall, now: now)
    pump()
  }

  var isDead: Bool { carried >= diesAfter }

  /// Kills the server and starts another on what was stored.
  func restart() {
    for node in nodes.values { node.connection = nil }
    for node in legs.values { node.leg = nil }
    nodes = [:]
    legs = [:]
    diesAfter = .max
    server = CoordinationServer(
      settings: settings, records: disk, seed: random.bytes(32),
      unixNanoseconds: wall + UInt64(now.nanoseconds), now: now)
    pump()
  }

  func run(_ amount: TimeAmount) {
    let end = now + amount
    while true {
      let deadline = server.nextDeadline
      guard deadline <= end else { break }
      now = max(now, deadline)
      server.advance(to: now)
      pump()
    }
    now = end
    server.advance(to: now)
    pump()
  }

  func pump() {
    while carried < diesAfter, let effect = server.pollEffect() {
      carried += 1
      switch effect {
      case .send(let connection, let bytes):
        sends += 1
        if let node = nodes[connection] { deliver(bytes, to: node) }
        if let node = legs[connection] { node.legMessages.append(bytes) }
      case .close(let connection, let reason):
        if let node = nodes.removeValue(forKey: connection) {
          node.closed.append(reason)
          if node.connection == connection { node.connection = nil }
        }
        if let node = legs.removeValue(forKey: connection) {
          node.legClosed.append(reason)
          if node.leg == connection { node.leg = nil }
        }
      case .store(let record):
        disk.removeAll { $0.kind == record.kind && $0.key == record.key }
        if record.value != nil { disk.append(record) }
      case .log(let event):
        logged.append(event)
      }
    }
  }

  private func deliver(_ bytes: [UInt8], to node: TestNode) {
    var plain = bytes
    if let sealer = node.sealer {
      guard let opened = sealer.open(bytes) else { preconditionFailure("server seals wrongly") }
      plain = opened
    }
    guard let envelope = try? ServerEnvelope(decoding: plain) else {
      preconditionFailure("server sends nonsense")
    }
    node.inbox.append(envelope)
    switch envelope.message {
    case .login(let payload):
      guard var login = node.login else { return }
      switch login.receive(payload, using: &random) {
      case .send(let reply):
        node.login = login
        send(.login(reply), from: node)
      case .done(let result):
        node.login = login
        node.result = result
        node.secret = result.nodeSecret
        if node.seals { node.sealer = SignalSealer(result.keys, side: .node) }
      case .failed(let failure):
        node.failure = failure
      }
    case .welcome(let welcome):
      node.welcome = welcome
      node.ticket = welcome.ticket
      node.legCounter = 0
    case .ticket(let ticket):
      node.ticket = ticket
      node.legCounter = 0
    default: break
    }
  }

  /// Opens a connection and says hello; the exchange runs to its end.
  func connect(_ node: TestNode) {
    let id = nextConnection
    nextConnection += 1
    node.connection = id
    node.sealer = nil
    node.result = nil
    node.failure = nil
    node.welcome = nil
    nodes[id] = node
    let exporter = node.seals ? [] : [UInt8](repeating: 9, count: 32)
    server.connectionOpened(
      id, kind: .signalling, address: node.address, exporter: exporter, seals: node.seals, now: now)
    var login = LoginClient(
      node: node.name, staticKey: node.key,
      verifier: LoginVerifier(token: node.token, cost: .cheap), nodeSecret: node.secret,
      exporter: exporter)
    let hello = login.start(using: &random)
    node.login = login
    send(.login(hello), from: node)
  }

  /// A whole log-in: login, report, relay leg.
  func bringUp(_ node: TestNode, leg: Bool = true, offers: [SignalledOffer] = []) {
    connect(node)
    guard node.welcome != nil else { return }
    report(node, offers: offers)
    if leg { openLeg(node) }
  }

  @discardableResult
  func report(_ node: TestNode, offers: [SignalledOffer] = []) -> UInt32 {
    ask(
      .report(
        ReportBasic(
          os: "linux", version: "0.1.0", incarnation: node.incarnation, nat: .unknown,
          port: 30_000, interfaces: [node.address.address], offers: offers)), from: node)
  }

  /// A request with a fresh id.
  @discardableResult
  func ask(_ message: ClientMessage, from node: TestNode) -> UInt32 {
    node.request += 1
    send(message, request: node.request, from: node)
    return node.request
  }

  func send(_ message: ClientMessage, request: UInt32 = 0, from node: TestNode) {
    raw(ClientEnvelope(request: request, message: message).encoded(), from: node)
  }

  func raw(_ bytes: [UInt8], from node: TestNode) {
    guard let connection = node.connection else { return }
    let sealed = node.sealer?.seal(bytes) ?? bytes
    server.receive(sealed, connection: connection, now: now)
    pump()
  }

  func openLeg(_ node: TestNode, counter: UInt64? = nil, proof: [UInt8]? = nil) {
    guard let ticket = node.ticket else { return }
    let id = nextConnection
    nextConnection += 1
    node.leg = id
    legs[id] = node
    node.legCounter += 1
    server.connectionOpened(
      id, kind: .relayLeg, address: node.address, exporter: [], seals: false, now: now)
    var hello = LegHello(id: ticket.id, counter: counter ?? node.legCounter, proof: [])
    hello.proof = proof ?? HMACSHA256.authenticate(key: ticket.secret, hello.signed)
    server.receive(hello.encoded(), connection: id, now: now)
    pump()
  }

  /// The node's end breaks; the server hears of it.
  func breakConnection(_ node: TestNode) {
    guard let connection = node.connection else { return }
    nodes[connection] = nil
    node.connection = nil
    server.connectionClosed(connection, now: now)
    pump()
  }

  func breakLeg(_ node: TestNode) {
    guard let leg = node.leg else { return }
    legs[leg] = nil
    node.leg = nil
    server.connectionClosed(leg, now: now)
    pump()
  }

  func meet(_ node: TestNode, _ peer: String, initiation: [UInt8] = [1, 2, 3]) -> UInt32 {
    ask(
      .connect(
        ConnectRequest(peer: peer, candidates: [], nat: .unknown, initiation: initiation)),
      from: node)
  }

  /// What a leg would get on its WebSocket now, as (number, flags, data).
  func legFrames(_ node: TestNode) -> [(number: UInt32, flags: UInt8, data: [UInt8])] {
    guard let leg = node.leg else { return [] }
    var bytes = [UInt8](repeating: 0, count: 1 << 17)
    var filled: [UInt8] = []
    bytes.withUnsafeMutableBytes { buffer in
      var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
      _ = server.router.fill(connection: leg, into: &output, budget: 65_536, now: now)
      let count = output.finalize(for: buffer)
      filled = Array(buffer[..<count])
    }
    var reader = ByteReader(filled.span.bytes)
    var result: [(number: UInt32, flags: UInt8, data: [UInt8])] = []
    while let number = reader.uint32(), let flags = reader.uint8(), let length = reader.uint16(),
      let data = reader.array(Int(length))
    {
      result.append((number, flags, data))
    }
    return result
  }
}

func errorCode(_ message: ServerMessage?) -> SignalErrorCode? {
  if case .error(let code, _) = message { code } else { nil }
}
