/// One other member as this node knows it: who it is, the roads to it, the
/// session's multiplexer. Owned by `Node`; a class because every aspect of the
/// node changes parts of it in place.

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
  internal import Mux
  internal import NAT
  internal import Paths
  internal import Signaling
  internal import Tunnels
  internal import WireGuard
#endif

final class Peer {
  /// Where bringing the pair together through the server stands.
  enum Meeting {
    case none
    /// The ConnectReq leaves with the next initiation.
    case wanted
    /// Asked; the answer is due.
    case asked(Instant)
    /// PunchStart came.
    case met(session: UInt64)
  }

  let index: Int
  let name: String
  let publicKey: [UInt8]
  let isStock: Bool
  var isRemoved = false
  /// An end of the connection to ourselves.
  var isOwn = false
  var handle: PeerHandle
  var mux: Multiplexer
  var paths: PeerPaths
  let role: MuxRole
  let cipher: AEADCipher

  // Who it is
  var endpointID = ""
  var userName = ""
  var certificate: [UInt8] = []
  var serial: UInt64 = 0
  var isOnline = false
  var announcedIncarnation: UInt64 = 0
  var seenAt = Endpoint.none
  var version = ""
  var offers: [SignalledOffer] = []

  var evictions = EvictionExchange()
  /// Its certificate is over; a new one is waited for.
  var expiredSince: Instant?

  // Meeting
  var meeting = Meeting.none
  /// The keypair that was followed by another without a packet asking for it.
  var rekeyed: UInt64?
  var lastAsked = Instant.distantPast
  /// A meeting that waits for STUN's answer.
  var meetAt: Instant?
  /// Our outside port is another one than the peer is being told.
  var announcesWhenMet = false
  /// The server's number of the last meeting; candidates go under it. 0 = none.
  var lastSession: UInt64 = 0
  var channel: UInt32 = 0
  /// Through the server's relay.
  var relayCarrier: Carrier?
  /// Through relays that nodes are.
  var relays = PeerRelays()
  /// What its streams want of the road (Node+Terms.swift).
  var terms = TermCounts()
  var aimAt = Instant.distantFuture
  /// Flows that wait for another road before they are opened.
  var heldOpens: Set<UInt32> = []
  /// Since when open flows may not go by the road in use.
  var forbiddenSince: Instant?
  /// Its TCP connections, on trial or proven, and attempts at more.
  var streams: [PeerStream] = []
  var dialer = StreamDialer()
  /// Of the dialer's punches: it has been told that they are under way.
  var toldPunches: UInt64 = 0
  /// Where it listens for TCP, as it says.
  var streamHosts: [Endpoint] = []
  /// Its NAT, as it says.
  var nat = NATFacts.unknown
  /// Its candidates, as it named them last.
  var named: [SignalledCandidate] = []
  /// Families of the addresses it has named; nil before it has.
  var families: AddressFamilies?
  /// Sockets opened to guess with, that have not been closed.
  var guessSockets: [UInt32] = []
  /// The crossing side initiates by itself only after this much silence.
  var initiateAt: Instant?
  /// Somebody waits for this session (an open, a ping, streams).
  var isWanted = false

  // Session
  var hello = Hello()
  /// What our HELLOs to this peer say; grows when we end the session ourselves.
  var localIncarnation: UInt64
  var incarnation: UInt64 = 0
  /// The keypair whose HELLO first told of `incarnation`. What comes on an older
  /// one is of a process that is gone.
  var incarnationKeypair: UInt64 = 0
  /// Keypairs are numbered as they come; two may cross and be used in turn.
  var newestKeypair: UInt64 = 0
  /// Our numbers started anew when this was the newest one: on it and on older
  /// ones there may be packets of the time before.
  var brokenThrough: UInt64 = 0
  /// Where our first numbered packet left.
  var firstNumbered: UInt64?
  /// We sent numbered packets before we knew to whom, on another keypair than
  /// that of the first HELLO: perhaps they went to a process that is gone.
  var isUnsure = false
  /// Where the numbers of this incarnation of the peer were first found to be
  /// meant for this process.
  var acceptedOn: UInt64?
  /// Keypairs whose HELLO has come, newest first.
  var heardKeypairs: [HeardKeypair] = []
  var held: [HeldPacket] = []
  var handshakeCarrier: Carrier?
  /// Tells the first copy of an initiation from its repeats.
  var lastInitiation: [UInt8] = []
  var initiationRepeats = 0
  var connectedSince: Instant?
  /// When the newest keypair was made.
  var keysSince = Instant.distantPast
  var deadSince: Instant?
  /// Its streams were given up; their resets wait for a path.
  var hasLingered = false
  var isRecorded = false

  // Lanes
  /// When a packet with frames was last sealed for it.
  var lastDataSealed = Instant.distantPast
  var lastAcknowledged: Instant?
  var reportedLost: UInt64 = 0
  /// Whose figures the two are; another lane counts from its own.
  var reportedLane: UInt8?
  var reportedSent: UInt64 = 0

  var isTouched = false
  /// Stream number → flow.
  var flows: [UInt32: UInt32] = [:]

  /// A keypair whose HELLO for this process has come.
  struct HeardKeypair {
    var keypair: UInt64
    /// Numbered packets below it were meant for a former process.
    var firstCounter: UInt64
  }

  struct HeldPacket {
    var keypair: UInt64
    var counter: UInt64
    var bytes: [UInt8]
  }

  init(
    index: Int, name: String, publicKey: [UInt8], isStock: Bool, handle: PeerHandle,
    role: MuxRole, cipher: AEADCipher, mux: Multiplexer, paths: PeerPaths, localIncarnation: UInt64
  ) {
    self.index = index
    self.name = name
    self.publicKey = publicKey
    self.isStock = isStock
    self.handle = handle
    self.role = role
    self.cipher = cipher
    self.mux = mux
    self.paths = paths
    self.localIncarnation = localIncarnation
  }

  /// Of several TCP connections this end says which one lives: it has the smaller
  /// static key.
  var decidesStreams: Bool { role == .odd }

  /// A path is up: data can flow.
  var isConnected: Bool { paths.primary != nil }

  /// What our HELLO says of its keypair.
  var helloFlags: HelloMessage.Flags {
    guard let keypair = hello.keypair else { return [] }
    var flags: HelloMessage.Flags = []
    if hello.isHeard { flags.insert(.heard) }
    if keypair > brokenThrough { flags.insert(.unbroken) }
    if incarnation == 0 || isUnsure, let firstNumbered, firstNumbered != keypair {
      flags.insert(.older)
    }
    if acceptedOn != nil { flags.insert(.accepted) }
    switch relays.policy.use {
    case .any: break
    case .never: flags.insert(.noRelay)
    case .only: flags.insert(.onlyRelay)
    }
    return flags
  }

  /// Whether what the sender of this HELLO numbers is meant for this process.
  func isForUs(_ message: HelloMessage) -> Bool {
    guard message.seen == localIncarnation || message.seen == 0 else { return false }
    // It sent to somebody it did not know: to us only if we took it then.
    return !message.flags.contains(.older) || acceptedOn != nil
  }

  /// Whether an incarnation is of an earlier process than the one known. A
  /// process that ends a session itself counts its number up.
  func isStale(_ other: UInt64, on keypair: UInt64) -> Bool {
    guard incarnation != 0 else { return false }
    let step = Int64(bitPattern: other &- incarnation)
    if abs(step) < 1 << 16 { return step < 0 }
    return keypair <= incarnationKeypair
  }

  /// The first counter that counts on this keypair; nil before its HELLO.
  func firstCounter(on keypair: UInt64) -> UInt64? {
    for heard in heardKeypairs where heard.keypair == keypair { return heard.firstCounter }
    return nil
  }

  var isMeeting: Bool {
    switch meeting {
    case .wanted, .asked: true
    case .none, .met: false
    }
  }

  var primarySnapshot: PathSnapshot? { paths.snapshots.first { $0.isPrimary } }

  /// "udp-direct 10.0.0.2:4711", or words for none.
  var pathWords: String {
    if isOwn { return "this endpoint" }
    guard let lane = paths.primary, let tier = paths.tier(of: lane),
      let carrier = paths.carrier(of: lane)
    else { return "no path" }
    return "\(tier.code) \(carrier.remote)"
  }

  func exitCandidate(for service: OpenRequest) -> ExitCandidate {
    var offered: Bool?
    if case .tunnel(let key) = service {
      offered = offers.contains { !$0.isInbound && $0.tunnel == key.description }
      // A tunnel opened a moment ago may not have been announced yet.
      if offered == false, isConnected { offered = nil }
    }
    return ExitCandidate(
      id: endpointID, name: name, isOnline: !isRemoved && (isOnline || isConnected),
      tier: paths.primary.flatMap { paths.tier(of: $0)?.rawValue } ?? 8,
      roundTrip: paths.primary.flatMap { mux.laneStatistics($0)?.smoothedRoundTrip },
      connections: flows.count, offers: offered)
  }
}
