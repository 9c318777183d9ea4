/// What a node and the server say to each other: one message is one binary
/// WebSocket message (sealed with the login's key when there is no TLS). Pure
/// codec; who may say what, and when, is NodeCore's and ServerCore's business.
/// Byte tables: docs/protocol/signaling.md.
///
/// ```
///  0      2            6
///  +------+------------+---------------------
///  | type | request id | body, by type
///  +------+------------+---------------------
/// ```
/// Big endian. A request carries a non-zero id, which its answer repeats; a
/// push from the server that wants an answer does the same. 0 = no answer.
/// Strings and byte strings are preceded by a 16-bit length.

#if canImport(Bytes)
package import Bytes
package import NAT
#endif

/// Limits of the signalling codec. A message beyond one of them is malformed.
package enum SignalLimits {
  package static let message = 2 * 1024 * 1024
  package static let name = 255
  package static let words = 512
  package static let candidates = 32
  package static let offers = 256
  package static let members = 4096
  package static let certificate = 1024
  package static let login = 8192
  package static let handshake = 192
  package static let payload = 16 * 1024
}

/// Where a node might be reached, as it says itself or the server saw.
package struct SignalledCandidate: Hashable, Sendable {
  package enum Kind: UInt8, Sendable {
    case host = 1
    case serverReflexive = 2
    case portMapped = 3
  }
  package enum Transport: UInt8, Sendable {
    case udp = 1
    case tcp = 2
  }
  package var kind: Kind
  package var transport: Transport
  package var endpoint: Endpoint

  package init(kind: Kind, transport: Transport, endpoint: Endpoint) {
    self.kind = kind
    self.transport = transport
    self.endpoint = endpoint
  }
}

/// A named outbound that a node offers to its mesh.
package struct SignalledOffer: Hashable, Sendable {
  /// "tcp/NAME" or "udp/NAME".
  package var tunnel: String
  /// An inbound (the caller's half) rather than an outbound.
  package var isInbound: Bool

  package init(tunnel: String, isInbound: Bool) {
    self.tunnel = tunnel
    self.isInbound = isInbound
  }
}

/// One member of the mesh, as the server announces it.
package struct SignalledMember: Hashable, Sendable {
  /// Encoded `Certificate`; proves name, user and static key.
  package var certificate: [UInt8]
  package var isOnline: Bool
  /// Drawn at each process start; 0 when never heard of.
  package var incarnation: UInt64
  /// The address the server sees it at; `.none` when offline.
  package var seenAt: Endpoint
  package var version: String
  package var offers: [SignalledOffer]

  package init(
    certificate: [UInt8], isOnline: Bool, incarnation: UInt64, seenAt: Endpoint, version: String,
    offers: [SignalledOffer]
  ) {
    self.certificate = certificate
    self.isOnline = isOnline
    self.incarnation = incarnation
    self.seenAt = seenAt
    self.version = version
    self.offers = offers
  }
}

/// Why a request was refused. The words beside it are for people.
package enum SignalErrorCode: UInt16, Sendable {
  case malformed = 1
  case unknownType = 2
  case notLoggedIn = 3
  case peerOffline = 4
  case peerUnknown = 5
  case limit = 6
  case notPermitted = 7
  case replaced = 8
  case duplicateKey = 9
  case evicted = 10
  case notActive = 11
  case serverFault = 12
}

/// ReportBasic: what a node tells about itself right after login.
package struct ReportBasic: Hashable, Sendable {
  package var os: String
  package var version: String
  package var incarnation: UInt64
  package var nat: NATFacts
  /// UDP and TCP port for direct connections.
  package var port: UInt16
  package var interfaces: [IPAddress]
  /// Where it can be reached besides: reflexive, mapped by a router.
  package var candidates: [SignalledCandidate]
  package var offers: [SignalledOffer]
  /// What it is as a relay for others; nil: it is none (any more).
  package var relay: RelayReport?

  package init(
    os: String, version: String, incarnation: UInt64, nat: NATFacts, port: UInt16,
    interfaces: [IPAddress], candidates: [SignalledCandidate] = [], offers: [SignalledOffer],
    relay: RelayReport? = nil
  ) {
    self.os = os
    self.version = version
    self.incarnation = incarnation
    self.nat = nat
    self.port = port
    self.interfaces = interfaces
    self.candidates = candidates
    self.offers = offers
    self.relay = relay
  }
}

/// ConnectReq: bring me together with `peer`.
package struct ConnectRequest: Hashable, Sendable {
  /// Node name in the same mesh.
  package var peer: String
  package var candidates: [SignalledCandidate]
  package var nat: NATFacts
  /// A WireGuard initiation for the peer, forwarded unread; may be empty.
  package var initiation: [UInt8]

  package init(
    peer: String, candidates: [SignalledCandidate], nat: NATFacts, initiation: [UInt8]
  ) {
    self.peer = peer
    self.candidates = candidates
    self.nat = nat
    self.initiation = initiation
  }
}

/// PunchStart: both ends get one, the requester as the answer to ConnectReq.
package struct PunchStart: Hashable, Sendable {
  /// The server's number of this pair's meeting.
  package var session: UInt64
  /// Channel on this node's relay leg to the server; 0 = none to be had.
  package var channel: UInt32
  package var certificate: [UInt8]
  package var incarnation: UInt64
  package var candidates: [SignalledCandidate]
  package var nat: NATFacts
  /// Send the first direct probes this many milliseconds after receipt.
  package var delayMilliseconds: UInt16
  /// True for the side whose ConnectReq came first (DESIGN §1.1).
  package var isNamedInitiator: Bool
  /// The other side's initiation, when this side is the responder.
  package var initiation: [UInt8]

  package init(
    session: UInt64, channel: UInt32, certificate: [UInt8], incarnation: UInt64,
    candidates: [SignalledCandidate], nat: NATFacts, delayMilliseconds: UInt16,
    isNamedInitiator: Bool, initiation: [UInt8]
  ) {
    self.session = session
    self.channel = channel
    self.certificate = certificate
    self.incarnation = incarnation
    self.candidates = candidates
    self.nat = nat
    self.delayMilliseconds = delayMilliseconds
    self.isNamedInitiator = isNamedInitiator
    self.initiation = initiation
  }
}

/// What an end of a running meeting has found out since it began: the whole of it.
package struct MeetingUpdate: Hashable, Sendable {
  package var session: UInt64
  package var candidates: [SignalledCandidate]
  package var nat: NATFacts
  /// It is asking for a TCP connection through the NATs: its own lets the other
  /// end in now (docs/protocol/punching.md "TCP").
  package var isDialling: Bool

  package init(
    session: UInt64, candidates: [SignalledCandidate], nat: NATFacts, isDialling: Bool = false
  ) {
    self.session = session
    self.candidates = candidates
    self.nat = nat
    self.isDialling = isDialling
  }

  /// Of no meeting: only its answer is wanted.
  package static let none = MeetingUpdate(session: 0, candidates: [], nat: .unknown)
}

/// Welcome: the server's first word after a login that held.
package struct Welcome: Hashable, Sendable {
  package var serverTimeNanoseconds: UInt64
  package var version: String
  /// This node's own certificate, encoded.
  package var certificate: [UInt8]
  /// Where the server sees this node.
  package var seenAt: Endpoint
  package var ticket: RelayTicket
  package var evictions: [UInt8]
  package var members: [SignalledMember]
  /// For who is a relay: keys of the one-time tokens made out to it, newest first.
  package var relaySecrets: [SignalledRelaySecret]

  package init(
    serverTimeNanoseconds: UInt64, version: String, certificate: [UInt8], seenAt: Endpoint,
    ticket: RelayTicket, evictions: [UInt8], members: [SignalledMember],
    relaySecrets: [SignalledRelaySecret] = []
  ) {
    self.serverTimeNanoseconds = serverTimeNanoseconds
    self.version = version
    self.certificate = certificate
    self.seenAt = seenAt
    self.ticket = ticket
    self.evictions = evictions
    self.members = members
    self.relaySecrets = relaySecrets
  }
}

/// Opens relay legs to the server: the second WebSocket's first message proves
/// it (`LegHello`).
package struct RelayTicket: Hashable, Sendable {
  package var id: UInt64
  /// 32 bytes.
  package var secret: [UInt8]

  package init(id: UInt64, secret: [UInt8]) {
    self.id = id
    self.secret = secret
  }
}

/// First binary message of a relay leg (own layout, no request id):
/// `ticket id(8) | counter(8) | HMAC-SHA256(secret, "martlet leg v1" | id | counter)(32)`.
/// The server accepts a counter once and only a greater one.
package struct LegHello: Hashable, Sendable {
  package static let context = Array("martlet leg v1".utf8)
  package static let byteCount = 48
  package var id: UInt64
  package var counter: UInt64
  package var proof: [UInt8]

  package init(id: UInt64, counter: UInt64, proof: [UInt8]) {
    self.id = id
    self.counter = counter
    self.proof = proof
  }

  /// The bytes the proof is over.
  package var signed: [UInt8] {
    var bytes = Self.context
    bytes.appendUInt64(id)
    bytes.appendUInt64(counter)
    return bytes
  }

  package func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendUInt64(id)
    bytes.appendUInt64(counter)
    return bytes + proof
  }

  package init?(decoding bytes: [UInt8]) {
    guard bytes.count == Self.byteCount else { return nil }
    var reader = ByteReader(bytes.span.bytes)
    guard let id = reader.uint64(), let counter = reader.uint64(), let proof = reader.array(32)
    else { return nil }
    self.init(id: id, counter: counter, proof: proof)
  }
}

/// From node to server.
package enum ClientMessage: Hashable, Sendable {
  /// A step of the login exchange; opaque here (docs/protocol/login.md).
  case login([UInt8])
  case report(ReportBasic)
  case heartbeat
  case connect(ConnectRequest)
  /// News of ours for a running meeting.
  case candidates(MeetingUpdate)
  /// The set of named tunnels of this node changed.
  case offers([SignalledOffer])
  /// A fresh relay ticket, please.
  case ticket
  /// To another node, by name; forwarded as `.forwarded` or refused.
  case forward(to: String, kind: UInt16, payload: [UInt8])
  /// Answer to a push: done, or refused with words.
  case answer(ok: Bool, words: String)
  /// RelayNodeReq; answered by `relayNodeResponse`.
  case relayNodeRequest(RelayNodeRequest)
  /// Round trips to relays, measured since the last word.
  case relayMeasured([RelayMeasurement])
}

/// From server to node.
package enum ServerMessage: Hashable, Sendable {
  case login([UInt8])
  case welcome(Welcome)
  case ok
  case error(SignalErrorCode, String)
  case heartbeat(serverTimeNanoseconds: UInt64)
  case punchStart(PunchStart)
  /// News of the peer's.
  case candidates(MeetingUpdate)
  case memberChanged(SignalledMember)
  case memberRemoved(node: String)
  case evictions([UInt8])
  case ticket(RelayTicket)
  case forwarded(from: String, kind: UInt16, payload: [UInt8])
  /// For the log: e.g. this session was replaced.
  case notice(SignalErrorCode, String)
  /// RelayNodeRsp: relays to try, best first; none is an answer too.
  case relayNodeResponse(RelayGrant)
  /// PushRelayOffer: the peer asked for relays; these are our legs of them.
  case pushRelayOffer(RelayGrant)
  /// To a relay, when the keys of one-time tokens were changed.
  case relaySecrets([SignalledRelaySecret])
  /// A relay came or went.
  case relayAnnounced(RelayAnnouncement)
}

/// A message with its request id.
package struct ClientEnvelope: Hashable, Sendable {
  package var request: UInt32
  package var message: ClientMessage

  package init(request: UInt32, message: ClientMessage) {
    self.request = request
    self.message = message
  }
}

/// A message with its request id.
package struct ServerEnvelope: Hashable, Sendable {
  package var request: UInt32
  package var message: ServerMessage

  package init(request: UInt32, message: ServerMessage) {
    self.request = request
    self.message = message
  }
}

/// Why bytes are no message.
package enum MessageFault: Error, Equatable, Sendable {
  /// The type is not defined; the request id, where it could be read, lets the
  /// receiver answer.
  case unknownType(UInt16, request: UInt32)
  case malformed(type: UInt16, request: UInt32)
  case tooShort
  case tooLong
}
