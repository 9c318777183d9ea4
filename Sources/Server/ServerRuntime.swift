/// One server at work: the pure `CoordinationServer` with its one port (ws,
/// wss, REST), the STUN ports beside it, its storage thread and its files.
/// Everything but storage runs on one event loop. spec/inp2p.md;
/// docs/protocol/server.md.

internal import Bytes
package import CommandLine
internal import Crypto
package import HTTP
package import Reactor
internal import Relay
internal import ServerCore
internal import Signaling
internal import Storage
internal import TLS
package import Transport

/// Why a server does not start. Words for stderr; the exit status is 1.
package struct ServerStartFailure: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

package final class ServerRuntime {
  package static let version = ProductVersion.text
  let options: ServerOptions
  let loop: EventLoop
  let log: ServerLog
  let core: CoordinationServer
  private let storage: ServerStorage
  private let lock: LockFile
  private let tls: TLSContext
  private let timer: LoopTimer
  private var random: SeededRandom
  private var listeners: [StreamListener] = []
  private var stun: STUNService?
  private var control: ControlSocket?
  private var channels: [UInt32: WebChannel] = [:]
  private var lastNumber: UInt32 = 0
  /// Legs whose connection takes no more for now.
  private var blockedLegs: Set<UInt32> = []
  private var legs: Set<UInt32> = []
  /// Upgraded, and neither logged in nor a proven leg.
  private var unproven: Set<UInt32> = []
  private var isStopped = false

  /// Connections of all kinds on the port; more are closed at once.
  static let connections = 16_000
  /// Relayed bytes that wait for one connection's kernel: no queue hides there.
  static let legBacklog = 64 * 1024
  static let fillBytes = 16 * 1024
  /// Bytes of a WebSocket message before and after its sender has proven itself.
  static let strangerMessage = 16 * 1024
  static let memberMessage = 1 << 20

  /// What HTTP may cost before anybody has proven anything.
  private static var strangers: HTTPLimits {
    var limits = HTTPLimits()
    limits.head = 8 * 1024
    limits.collectedBody = 4 * 1024
    limits.readAhead = 16 * 1024
    return limits
  }

  package init(
    options: ServerOptions, directory: String, loop: EventLoop, log: ServerLog
  ) throws(ServerStartFailure) {
    self.options = options
    self.loop = loop
    self.log = log
    do throws(FileFailure) {
      try Files.makeDirectory(directory, mode: 0o700)
      lock = try LockFile(directory + "/lock")
    } catch {
      if case .locked(_, let by) = error {
        throw ServerStartFailure(
          "another server\(by.map { " (process \($0))" } ?? "") is running on \(directory); stop it, or give this one its own -data DIR"
        )
      }
      throw ServerStartFailure("-data \(directory): \(error)")
    }
    let seed: [UInt8]
    do throws(SystemError) {
      seed = try ProcessSettings.randomBytes(32)
    } catch {
      throw ServerStartFailure("no random bytes from the kernel: \(error)")
    }
    var random = SeededRandom(seed: seed)
    storage = try ServerStorage(path: directory + "/server.db", random: &random)
    tls = try Self.tlsContext(options, directory)
    let salt = storage.salt
    let meshes = options.tokens.map { token in
      MeshSettings(
        name: Self.meshName(token.value, salt: salt), verifier: LoginVerifier(token: token.value))
    }
    core = CoordinationServer(
      settings: ServerSettings(meshes: meshes, version: Self.version),
      records: storage.initialRecords, seed: random.bytes(32), unixNanoseconds: Self.wallClock,
      now: loop.now)
    self.random = random
    weak var me: ServerRuntime?
    timer = LoopTimer(loop) { me?.tick() }
    me = self
    // A new authority's key must be on disk before anything it signs leaves.
    try storeBeforeListening()
    try listen()
    stun = try STUNService(
      loop, options: options, log: log, random: SeededRandom(seed: self.random.bytes(32)))
    stun?.onStreamSource = { source in
      guard let me else { return }
      me.core.streamSeen(from: source, now: me.loop.now)
    }
    do throws(SystemError) {
      control = try ControlSocket(loop, path: directory + "/control.sock") { words in
        me?.control(words) ?? "stopping"
      }
    } catch {
      log.warn(
        "no control socket: \(error); `martlet server forget` works only while this server is stopped"
      )
    }
  }

  package func start() {
    loop.afterEachBatch { [weak self] in self?.drain() }
    for notice in options.notices { log.warn(notice) }
    log.info("listening on port \(options.webSocketPort) (ws, wss, REST)")
    log.info(
      "STUN on UDP ports \(options.stunUDP1) and \(options.stunUDP2), TCP ports \(options.stunTCP1) and \(options.stunTCP2)\(options.stunAlternateAddress.map { ", second address \($0)" } ?? "")"
    )
    drain()
  }

  /// Closes sockets in order; what was stored before is on disk afterwards.
  package func stop() {
    guard !isStopped else { return }
    isStopped = true
    for listener in listeners { listener.close() }
    stun?.close()
    control?.close()
    for channel in Array(channels.values) { channel.close(code: 1001, reason: "the server stops") }
    carryOutEffects()
    storage.close()
    timer.cancel()
  }

  private func storeBeforeListening() throws(ServerStartFailure) {
    var records: [StoreRecord] = []
    while let effect = core.pollEffect() {
      switch effect {
      case .store(let record): records.append(record)
      case .log(let event): log.write(event)
      case .send, .close: break
      }
    }
    do throws(StorageFailure) {
      try storage.applyAtStart(records)
    } catch {
      throw ServerStartFailure("\(error)")
    }
  }

  private static var wallClock: UInt64 { UInt64(max(0, EventLoop.wallClockNanoseconds)) }

  /// A name that stays the token's own without telling it.
  private static func meshName(_ token: UInt64, salt: [UInt8]) -> String {
    var bytes: [UInt8] = []
    bytes.appendUInt64(token)
    return "mesh-"
      + HMACSHA256.authenticate(key: salt, bytes).prefix(4).map { byte in
        let digits = String(byte, radix: 16)
        return digits.count == 1 ? "0" + digits : digits
      }.joined()
  }

  // MARK: TLS

  private static func tlsContext(
    _ options: ServerOptions, _ directory: String
  ) throws(ServerStartFailure) -> TLSContext {
    if let certificate = options.tlsCertificate, let key = options.tlsKey {
      do {
        return try TLSContext.server(
          certificate: try Files.read(certificate, limit: 1 << 20),
          key: try Files.read(key, limit: 1 << 20))
      } catch {
        throw ServerStartFailure("-tls-cert \(certificate), -tls-key \(key): \(error)")
      }
    }
    let certificatePath = directory + "/tls-cert.pem"
    let keyPath = directory + "/tls-key.pem"
    do {
      if !Files.exists(certificatePath) || !Files.exists(keyPath) {
        let identity = try TLSIdentity.selfSigned(
          name: "martlet", unixTime: EventLoop.wallClockNanoseconds / 1_000_000_000)
        try Files.write(keyPath, identity.key, mode: 0o600)
        try Files.write(certificatePath, identity.certificate, mode: 0o600)
      }
      return try TLSContext.server(
        certificate: try Files.read(certificatePath, limit: 1 << 20),
        key: try Files.read(keyPath, limit: 1 << 20))
    } catch {
      throw ServerStartFailure(
        "the self-signed pair in \(directory) cannot be used (\(error)); remove both files to have a new one made"
      )
    }
  }

  // MARK: The port

  private func listen() throws(ServerStartFailure) {
    let port = options.webSocketPort
    do throws(SystemError) {
      do throws(SystemError) {
        listeners = [try open(Endpoint(.anyV6, port), isDualStack: true)]
      } catch {
        if error.isAddressInUse { throw error }
        // No IPv6 on this machine.
        listeners = [try open(Endpoint(.anyV4, port), isDualStack: false)]
      }
    } catch {
      throw ServerStartFailure("-ws-port \(port): \(error)")
    }
  }

  private func open(
    _ endpoint: Endpoint, isDualStack: Bool
  ) throws(SystemError) -> StreamListener {
    var options = StreamOptions()
    options.keepalive = .seconds(60)
    options.userTimeout = .seconds(60)
    options.backlogBytes = 4 << 20
    return try StreamListener(loop, on: endpoint, isDualStack: isDualStack, options: options) {
      [weak self] connection in
      guard let self, !isStopped, channels.count < Self.connections else {
        connection.close()
        return
      }
      repeat { lastNumber &+= 1 } while lastNumber == 0 || channels[lastNumber] != nil
      let tls = tls
      let channel = WebChannel(
        number: lastNumber, connection: connection,
        acceptor: { () throws(TLSFailure) in try tls.session() }, limits: Self.strangers,
        delegate: self)
      if !channel.isClosed { channels[lastNumber] = channel }
    }
  }

  // MARK: Drain

  private func tick() {
    core.setClock(unixNanoseconds: Self.wallClock, now: loop.refreshNow())
    core.advance(to: loop.now)
  }

  private func drain() {
    guard !isStopped else { return }
    carryOutEffects()
    while let number = core.router.pollReady() { fill(number) }
    timer.set(at: core.nextDeadline)
  }

  private func carryOutEffects() {
    while let effect = core.pollEffect() {
      switch effect {
      case .send(let number, let bytes):
        guard let channel = channels[number] else { continue }
        if !channel.send(bytes), !channel.isClosed { channel.abort() }
      case .close(let number, let reason):
        channels[number]?.close(reason: reason.rawValue)
      case .store(let record):
        storage.write(record)
      case .log(let event):
        log.write(event)
      }
    }
    storage.flush()
  }

  /// Relayed frames for one leg, as many as its connection takes.
  private func fill(_ number: UInt32) {
    guard let channel = channels[number] else { return }
    let now = loop.now
    while true {
      guard channel.backlog < Self.legBacklog else {
        blockedLegs.insert(number)
        channel.notify(below: Self.legBacklog)
        break
      }
      var hasMore = false
      let written = channel.append(limit: Self.fillBytes + 66_000) { output in
        hasMore = core.router.fill(
          connection: number, into: &output, budget: Self.fillBytes, now: now)
      }
      guard written != nil else {
        blockedLegs.insert(number)
        channel.notify(below: Self.legBacklog)
        break
      }
      channel.flush()
      if !hasMore { break }
    }
  }

  // MARK: Control

  private func control(_ words: [String]) -> String {
    guard words.count >= 2, words[0] == "forget" else { return "unknown command" }
    let mesh = words.count > 2 && !words[2].isEmpty ? words[2] : nil
    return core.forget(node: words[1], mesh: mesh, now: loop.now) ? "forgotten" : "unknown"
  }
}

extension ServerRuntime: WebChannelDelegate {
  package func channel(_ channel: WebChannel, request: HTTPRequest) {
    guard let target = HTTPTarget(request) else {
      channel.respond(.problem(400, "Bad Request", detail: "the path is malformed"))
      return
    }
    switch target.segments {
    case ["signal"]: upgrade(channel, request, .signalling)
    case ["relay"]: upgrade(channel, request, .relayLeg)
    case let path where path.starts(with: ["api", "v1"]):
      channel.respond(rest(Array(path.dropFirst(2)), request))
    default:
      channel.respond(.problem(404, "Not Found", detail: "no such path"))
    }
  }

  private func upgrade(
    _ channel: WebChannel, _ request: HTTPRequest, _ kind: CoordinationServer.ConnectionKind
  ) {
    // A page in a browser has no business here, whatever it claims to be.
    guard request.headers.values("Origin").isEmpty else {
      channel.respond(.problem(403, "Forbidden", detail: "not for web pages"))
      return
    }
    var limits = kind == .relayLeg ? WebSocketLimits.bulk : WebSocketLimits()
    limits.message = Self.strangerMessage
    guard channel.upgrade(request, seed: random.bytes(32), limits: limits) else { return }
    unproven.insert(channel.number)
    if kind == .relayLeg { channel.stream.connection.setNotSentLowWater(Self.legBacklog) }
    let session = channel.stream.tls
    core.connectionOpened(
      channel.number, kind: kind, address: channel.remote,
      exporter: session.map { $0.channelBinding } ?? [], seals: session == nil, now: loop.now)
    if kind == .relayLeg { legs.insert(channel.number) }
  }

  package func channel(_ channel: WebChannel, message: inout MutableRawSpan) {
    if legs.contains(channel.number) {
      core.receiveLeg(message.bytes, connection: channel.number, now: loop.now)
    } else {
      core.receive([UInt8](message.bytes), connection: channel.number, now: loop.now)
    }
    if unproven.contains(channel.number), core.isProven(channel.number) {
      unproven.remove(channel.number)
      channel.setMessageLimit(Self.memberMessage)
    }
  }

  package func channelWritable(_ channel: WebChannel) {
    if blockedLegs.remove(channel.number) != nil { fill(channel.number) }
  }

  package func channelClosed(_ channel: WebChannel) {
    channels[channel.number] = nil
    blockedLegs.remove(channel.number)
    legs.remove(channel.number)
    unproven.remove(channel.number)
    core.connectionClosed(channel.number, now: loop.now)
  }

  private func rest(_ path: [String], _ request: HTTPRequest) -> HTTPResponse {
    switch path {
    case ["health"]:
      guard request.method == .get || request.method == .head else {
        return .problem(405, "Method Not Allowed", detail: "only GET")
      }
      return .json([
        "status": "ok", "version": .string(Self.version), "nodes": JSONValue(core.onlineCount),
      ])
    default:
      return .problem(
        404, "Not Found",
        detail: "this version answers /api/v1/health; the rest of REST is not active yet")
    }
  }
}
