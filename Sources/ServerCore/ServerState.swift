/// The server's own records of connections, members and meetings. Plain
/// holders: the rules are in CoordinationServer.
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(NAT)
  internal import NAT
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

/// One WebSocket connection, as long as the machine cares about it.
final class ServerConnection {
  enum Phase {
    /// Signalling, the login is under way.
    case login(LoginServer)
    /// Signalling, logged in.
    case online(ServerMember)
    /// Relay leg, its first message has not come.
    case legHello
    /// Relay leg with channels.
    case leg(ServerMember)
  }
  let id: UInt32
  let address: Endpoint
  /// Whether messages are sealed after the login (no TLS).
  let seals: Bool
  let opened: Instant
  var heard: Instant
  var phase: Phase
  var sealer: SignalSealer?
  var faults = 0
  /// Relay leg: when it was last asked whether it is there.
  var pinged = Instant.distantPast
  var sharesSent: Instant?
  /// The shortest seen, from the login (shares to confirm) and of questions since
  /// then. Half of it is the way to the node.
  var roundTrip = TimeAmount.zero
  /// The question that is out, and how many there were.
  var echo: (request: UInt32, sent: Instant)?
  var echoes: UInt32 = 0
  var messages = TokenBucket(
    ratePerSecond: ServerLimits.messagesPerSecond, burst: ServerLimits.messageBurst)
  var connects = TokenBucket(
    ratePerSecond: ServerLimits.connectsPerSecond, burst: ServerLimits.connectBurst)

  init(id: UInt32, address: Endpoint, seals: Bool, phase: Phase, now: Instant) {
    self.id = id
    self.address = address
    self.seals = seals
    self.phase = phase
    opened = now
    heard = now
  }

  var isPending: Bool {
    switch phase {
    case .login, .legHello: true
    case .online, .leg: false
    }
  }
}

/// A node name of one mesh and everything known of its owner.
final class ServerMember {
  let number: UInt32
  let mesh: Int
  var name: String
  var staticKey: [UInt8]
  var secret: [UInt8]
  var certificate: Certificate
  var certificateBytes: [UInt8]

  /// The one live session; nil = offline.
  var connection: ServerConnection?
  var leg: ServerConnection?
  /// The session has sent its ReportBasic.
  var hasReported = false
  var report = ReportBasic(
    os: "", version: "", incarnation: 0, nat: .unknown, port: 0, interfaces: [], offers: [])
  var since = Instant.distantPast
  var offlineSince = Instant.distantPast
  var replacements: [Instant] = []
  var ticket: RelayTicket?
  var legCounter: UInt64 = 0

  init(
    number: UInt32, mesh: Int, name: String, staticKey: [UInt8], secret: [UInt8],
    certificate: Certificate
  ) {
    self.number = number
    self.mesh = mesh
    self.name = name
    self.staticKey = staticKey
    self.secret = secret
    self.certificate = certificate
    certificateBytes = certificate.encoded()
  }

  var seenAt: Endpoint { connection?.address ?? .none }

  var signalled: SignalledMember {
    SignalledMember(
      certificate: certificateBytes, isOnline: connection != nil && hasReported,
      incarnation: report.incarnation, seenAt: seenAt, version: report.version,
      offers: report.offers)
  }
}

/// One mesh at run time.
struct ServerMesh {
  let name: String
  var authority: CertificateAuthority
  let seed: [UInt8]
  var serialCeiling: UInt64
  var members: [String: ServerMember] = [:]
  var memberOfKey: [[UInt8]: ServerMember] = [:]
  var online = 0
  var usageStored: UInt64 = 0
  var quotaLogged = false
}

/// Two members, whichever asked.
struct PairKey: Hashable {
  let low: UInt32
  let high: UInt32
  init(_ a: ServerMember, _ b: ServerMember) {
    low = min(a.number, b.number)
    high = max(a.number, b.number)
  }
}

/// A pair being brought together.
final class Meeting {
  enum State {
    /// Waits for legs and reports until then; nobody has been told.
    case waits(until: Instant)
    case started(Instant)
  }
  let session: UInt64
  let initiator: ServerMember
  let responder: ServerMember
  var state: State
  var initiation: [UInt8]
  var candidates: [[SignalledCandidate]] = [[], []]
  var nats: [NATFacts]
  /// Requests to answer with PunchStart: (which side, request id).
  var requests: [(side: Int, request: UInt32)] = []
  /// The sessions that were told.
  var told: [UInt32?] = [nil, nil]
  var channel: OpenedChannel?
  /// The legs `channel` joins: initiator's, responder's.
  var legs: [UInt32] = []

  init(
    session: UInt64, initiator: ServerMember, responder: ServerMember, initiation: [UInt8],
    state: State
  ) {
    self.session = session
    self.initiator = initiator
    self.responder = responder
    self.initiation = initiation
    self.state = state
    nats = [initiator.report.nat, responder.report.nat]
  }

  func side(of member: ServerMember) -> Int? {
    if member === initiator { return 0 }
    return member === responder ? 1 : nil
  }
  func member(_ side: Int) -> ServerMember { side == 0 ? initiator : responder }
}
