/// Encoding and strict decoding of the signalling messages. Every decoder
/// wants exactly its bytes: one too few or one too many is malformed.
/// Byte tables: docs/protocol/signaling.md.

#if canImport(Bytes)
internal import Bytes
internal import NAT
#endif

/// Message types on the wire. Nodes speak below 0x80, the server above.
enum MessageType {
  static let clientLogin: UInt16 = 0x01
  static let report: UInt16 = 0x10
  static let heartbeat: UInt16 = 0x11
  static let connect: UInt16 = 0x12
  static let clientCandidates: UInt16 = 0x13
  static let offers: UInt16 = 0x14
  static let ticketRequest: UInt16 = 0x15
  static let forward: UInt16 = 0x16
  static let answer: UInt16 = 0x17
  static let relayNodeRequest: UInt16 = 0x18
  static let relayMeasured: UInt16 = 0x19

  static let serverLogin: UInt16 = 0x81
  static let welcome: UInt16 = 0x82
  static let ok: UInt16 = 0x83
  static let error: UInt16 = 0x84
  static let heartbeatReply: UInt16 = 0x85
  static let punchStart: UInt16 = 0x86
  static let serverCandidates: UInt16 = 0x87
  static let memberChanged: UInt16 = 0x88
  static let memberRemoved: UInt16 = 0x89
  static let evictions: UInt16 = 0x8a
  static let ticket: UInt16 = 0x8b
  static let forwarded: UInt16 = 0x8c
  static let notice: UInt16 = 0x8d
  static let relayNodeResponse: UInt16 = 0x8e
  static let pushRelayOffer: UInt16 = 0x8f
  static let relaySecrets: UInt16 = 0x90
  static let relayAnnounced: UInt16 = 0x91
}

extension ClientEnvelope {
  package func encoded() -> [UInt8] {
    var out = MessageWriter(request: request)
    switch message {
    case .login(let payload):
      out.begin(MessageType.clientLogin)
      out.bytes.appendArray16(payload)
    case .report(let report):
      out.begin(MessageType.report)
      out.string(report.os)
      out.string(report.version)
      out.bytes.appendUInt64(report.incarnation)
      out.nat(report.nat)
      out.bytes.appendUInt16(report.port)
      out.list(report.interfaces) { out, address in out.address(address) }
      out.list(report.candidates) { out, candidate in out.candidate(candidate) }
      out.list(report.offers) { out, offer in out.offer(offer) }
      out.relayReport(report.relay)
    case .heartbeat:
      out.begin(MessageType.heartbeat)
    case .connect(let connect):
      out.begin(MessageType.connect)
      out.string(connect.peer)
      out.list(connect.candidates) { out, candidate in out.candidate(candidate) }
      out.nat(connect.nat)
      out.bytes.appendArray16(connect.initiation)
    case .candidates(let update):
      out.begin(MessageType.clientCandidates)
      out.meetingUpdate(update)
    case .offers(let offers):
      out.begin(MessageType.offers)
      out.list(offers) { out, offer in out.offer(offer) }
    case .ticket:
      out.begin(MessageType.ticketRequest)
    case .forward(let to, let kind, let payload):
      out.begin(MessageType.forward)
      out.string(to)
      out.bytes.appendUInt16(kind)
      out.bytes.appendArray16(payload)
    case .answer(let ok, let words):
      out.begin(MessageType.answer)
      out.flag(ok)
      out.string(words)
    case .relayNodeRequest(let wanted):
      out.begin(MessageType.relayNodeRequest)
      out.relayNodeRequest(wanted)
    case .relayMeasured(let measured):
      out.begin(MessageType.relayMeasured)
      out.relayMeasurements(measured)
    }
    return out.bytes
  }

  package init(decoding bytes: [UInt8]) throws(MessageFault) {
    guard bytes.count <= SignalLimits.message else { throw .tooLong }
    var reader = ByteReader(bytes.span.bytes)
    guard let type = reader.uint16(), let request = reader.uint32() else { throw .tooShort }
    let message: ClientMessage? =
      switch type {
      case MessageType.clientLogin:
        reader.array16(limit: SignalLimits.login).map { .login($0) }
      case MessageType.report: reader.report().map { .report($0) }
      case MessageType.heartbeat: .heartbeat
      case MessageType.connect: reader.connect().map { .connect($0) }
      case MessageType.clientCandidates: reader.meetingUpdate().map { .candidates($0) }
      case MessageType.offers: reader.offers().map { .offers($0) }
      case MessageType.ticketRequest: .ticket
      case MessageType.forward:
        reader.forward().map { .forward(to: $0.0, kind: $0.1, payload: $0.2) }
      case MessageType.answer: reader.answer().map { .answer(ok: $0.0, words: $0.1) }
      case MessageType.relayNodeRequest:
        reader.relayNodeRequest().map { .relayNodeRequest($0) }
      case MessageType.relayMeasured:
        reader.relayMeasurements().map { .relayMeasured($0) }
      default: throw .unknownType(type, request: request)
      }
    guard let message, reader.isAtEnd else {
      throw .malformed(type: type, request: request)
    }
    self.init(request: request, message: message)
  }
}

extension ServerEnvelope {
  package func encoded() -> [UInt8] {
    var out = MessageWriter(request: request)
    switch message {
    case .login(let payload):
      out.begin(MessageType.serverLogin)
      out.bytes.appendArray16(payload)
    case .welcome(let welcome):
      out.begin(MessageType.welcome)
      out.bytes.appendUInt64(welcome.serverTimeNanoseconds)
      out.string(welcome.version)
      out.bytes.appendArray16(welcome.certificate)
      out.endpoint(welcome.seenAt)
      out.ticket(welcome.ticket)
      out.bytes.appendArray16(welcome.evictions)
      out.list(welcome.members) { out, member in out.member(member) }
      out.list(welcome.relaySecrets) { out, secret in out.relaySecret(secret) }
    case .ok:
      out.begin(MessageType.ok)
    case .error(let code, let words):
      out.begin(MessageType.error)
      out.bytes.appendUInt16(code.rawValue)
      out.string(words)
    case .heartbeat(let time):
      out.begin(MessageType.heartbeatReply)
      out.bytes.appendUInt64(time)
    case .punchStart(let punch):
      out.begin(MessageType.punchStart)
      out.bytes.appendUInt64(punch.session)
      out.bytes.appendUInt32(punch.channel)
      out.bytes.appendArray16(punch.certificate)
      out.bytes.appendUInt64(punch.incarnation)
      out.list(punch.candidates) { out, candidate in out.candidate(candidate) }
      out.nat(punch.nat)
      out.bytes.appendUInt16(punch.delayMilliseconds)
      out.flag(punch.isNamedInitiator)
      out.bytes.appendArray16(punch.initiation)
    case .candidates(let update):
      out.begin(MessageType.serverCandidates)
      out.meetingUpdate(update)
    case .memberChanged(let member):
      out.begin(MessageType.memberChanged)
      out.member(member)
    case .memberRemoved(let node):
      out.begin(MessageType.memberRemoved)
      out.string(node)
    case .evictions(let list):
      out.begin(MessageType.evictions)
      out.bytes.appendArray16(list)
    case .ticket(let ticket):
      out.begin(MessageType.ticket)
      out.ticket(ticket)
    case .forwarded(let from, let kind, let payload):
      out.begin(MessageType.forwarded)
      out.string(from)
      out.bytes.appendUInt16(kind)
      out.bytes.appendArray16(payload)
    case .notice(let code, let words):
      out.begin(MessageType.notice)
      out.bytes.appendUInt16(code.rawValue)
      out.string(words)
    case .relayNodeResponse(let grant):
      out.begin(MessageType.relayNodeResponse)
      out.relayGrant(grant)
    case .pushRelayOffer(let grant):
      out.begin(MessageType.pushRelayOffer)
      out.relayGrant(grant)
    case .relaySecrets(let secrets):
      out.begin(MessageType.relaySecrets)
      out.list(secrets) { out, secret in out.relaySecret(secret) }
    case .relayAnnounced(let announcement):
      out.begin(MessageType.relayAnnounced)
      out.relayAnnouncement(announcement)
    }
    return out.bytes
  }

  package init(decoding bytes: [UInt8]) throws(MessageFault) {
    guard bytes.count <= SignalLimits.message else { throw .tooLong }
    var reader = ByteReader(bytes.span.bytes)
    guard let type = reader.uint16(), let request = reader.uint32() else { throw .tooShort }
    let message: ServerMessage? =
      switch type {
      case MessageType.serverLogin:
        reader.array16(limit: SignalLimits.login).map { .login($0) }
      case MessageType.welcome: reader.welcome().map { .welcome($0) }
      case MessageType.ok: .ok
      case MessageType.error: reader.codeAndWords().map { .error($0.0, $0.1) }
      case MessageType.heartbeatReply:
        reader.uint64().map { .heartbeat(serverTimeNanoseconds: $0) }
      case MessageType.punchStart: reader.punchStart().map { .punchStart($0) }
      case MessageType.serverCandidates: reader.meetingUpdate().map { .candidates($0) }
      case MessageType.memberChanged: reader.member().map { .memberChanged($0) }
      case MessageType.memberRemoved:
        reader.string16(limit: SignalLimits.name).map { .memberRemoved(node: $0) }
      case MessageType.evictions:
        reader.array16(limit: SignalLimits.payload).map { .evictions($0) }
      case MessageType.ticket: reader.ticket().map { .ticket($0) }
      case MessageType.forwarded:
        reader.forward().map { .forwarded(from: $0.0, kind: $0.1, payload: $0.2) }
      case MessageType.notice: reader.codeAndWords().map { .notice($0.0, $0.1) }
      case MessageType.relayNodeResponse: reader.relayGrant().map { .relayNodeResponse($0) }
      case MessageType.pushRelayOffer: reader.relayGrant().map { .pushRelayOffer($0) }
      case MessageType.relaySecrets: reader.relaySecrets().map { .relaySecrets($0) }
      case MessageType.relayAnnounced:
        reader.relayAnnouncement().map { .relayAnnounced($0) }
      default: throw .unknownType(type, request: request)
      }
    guard let message, reader.isAtEnd else {
      throw .malformed(type: type, request: request)
    }
    self.init(request: request, message: message)
  }
}

/// Builds one message.
struct MessageWriter {
  var bytes: [UInt8] = []
  let request: UInt32

  init(request: UInt32) { self.request = request }

  mutating func begin(_ type: UInt16) {
    bytes.appendUInt16(type)
    bytes.appendUInt32(request)
  }
  /// Text longer than 65,535 bytes cannot occur: limits are checked where text enters.
  mutating func string(_ text: String) { bytes.appendString16(text) }
  mutating func flag(_ value: Bool) { bytes.append(value ? 1 : 0) }
  mutating func address(_ address: IPAddress) {
    bytes.appendUInt64(address.high)
    bytes.appendUInt64(address.low)
  }
  mutating func endpoint(_ endpoint: Endpoint) {
    address(endpoint.address)
    bytes.appendUInt16(endpoint.port)
  }
  mutating func candidate(_ candidate: SignalledCandidate) {
    bytes.append(candidate.kind.rawValue)
    bytes.append(candidate.transport.rawValue)
    endpoint(candidate.endpoint)
  }
  fileprivate mutating func meetingUpdate(_ update: MeetingUpdate) {
    bytes.appendUInt64(update.session)
    list(update.candidates) { out, candidate in out.candidate(candidate) }
    nat(update.nat)
    flag(update.isDialling)
  }
  mutating func nat(_ nat: NATFacts) {
    bytes.appendUInt16(nat.type)
    bytes.append(nat.mapping.rawValue)
    bytes.append(nat.filtering.rawValue)
    bytes.append(
      NATFlag.pair(nat.preservesPort, NATFlag.preservesPort)
        | NATFlag.pair(nat.hairpins, NATFlag.hairpins)
        | (nat.isUDPBlocked ? NATFlag.isUDPBlocked : 0))
    bytes.appendUInt16(UInt16(bitPattern: nat.allocatorStep))
  }
  mutating func offer(_ offer: SignalledOffer) {
    string(offer.tunnel)
    flag(offer.isInbound)
  }
  mutating func ticket(_ ticket: RelayTicket) {
    bytes.appendUInt64(ticket.id)
    precondition(ticket.secret.count == 32)
    bytes += ticket.secret
  }
  mutating func member(_ member: SignalledMember) {
    bytes.appendArray16(member.certificate)
    flag(member.isOnline)
    bytes.appendUInt64(member.incarnation)
    endpoint(member.seenAt)
    string(member.version)
    list(member.offers) { out, offer in out.offer(offer) }
  }
  mutating func list<T>(_ items: [T], _ write: (inout MessageWriter, T) -> Void) {
    precondition(items.count <= 0xffff)
    bytes.appendUInt16(UInt16(items.count))
    for item in items { write(&self, item) }
  }
}

/// Field readers of this codec. nil = malformed.
extension ByteReader {
  mutating func flag() -> Bool? {
    switch uint8() {
    case 0: false
    case 1: true
    default: nil
    }
  }
  fileprivate mutating func address() -> IPAddress? {
    guard let high = uint64(), let low = uint64() else { return nil }
    return IPAddress(high: high, low: low)
  }
  fileprivate mutating func endpoint() -> Endpoint? {
    guard let address = address(), let port = uint16() else { return nil }
    return Endpoint(address, port)
  }
  /// The type is for others to read; it follows from the mapping. A value of a
  /// later version is one we do not know.
  fileprivate mutating func nat() -> NATFacts? {
    guard uint16() != nil, let mapping = uint8(), let filtering = uint8(), let flags = uint8(),
      let step = uint16()
    else { return nil }
    return NATFacts(
      mapping: NATMapping(rawValue: mapping) ?? .unknown,
      filtering: NATFiltering(rawValue: filtering) ?? .unknown,
      preservesPort: NATFlag.value(flags, NATFlag.preservesPort),
      allocatorStep: Int16(bitPattern: step),
      hairpins: NATFlag.value(flags, NATFlag.hairpins),
      isUDPBlocked: flags & NATFlag.isUDPBlocked != 0)
  }
  mutating func candidates() -> [SignalledCandidate]? {
    guard let count = count(limit: SignalLimits.candidates) else { return nil }
    var result: [SignalledCandidate] = []
    for _ in 0..<count {
      guard let kind = uint8().flatMap(SignalledCandidate.Kind.init),
        let transport = uint8().flatMap(SignalledCandidate.Transport.init),
        let endpoint = endpoint()
      else { return nil }
      result.append(SignalledCandidate(kind: kind, transport: transport, endpoint: endpoint))
    }
    return result
  }
  fileprivate mutating func offers() -> [SignalledOffer]? {
    guard let count = count(limit: SignalLimits.offers) else { return nil }
    var result: [SignalledOffer] = []
    for _ in 0..<count {
      guard let tunnel = string16(limit: SignalLimits.name), let inbound = flag() else {
        return nil
      }
      result.append(SignalledOffer(tunnel: tunnel, isInbound: inbound))
    }
    return result
  }
  fileprivate mutating func ticket() -> RelayTicket? {
    guard let id = uint64(), let secret = array(32) else { return nil }
    return RelayTicket(id: id, secret: secret)
  }
  fileprivate mutating func member() -> SignalledMember? {
    guard let certificate = array16(limit: SignalLimits.certificate), let online = flag(),
      let incarnation = uint64(), let seenAt = endpoint(),
      let version = string16(limit: SignalLimits.name), let offers = offers()
    else { return nil }
    return SignalledMember(
      certificate: certificate, isOnline: online, incarnation: incarnation, seenAt: seenAt,
      version: version, offers: offers)
  }
  fileprivate mutating func report() -> ReportBasic? {
    guard let os = string16(limit: SignalLimits.name),
      let version = string16(limit: SignalLimits.name), let incarnation = uint64(),
      let nat = nat(), let port = uint16(),
      let count = count(limit: SignalLimits.candidates)
    else { return nil }
    var interfaces: [IPAddress] = []
    for _ in 0..<count {
      guard let address = address() else { return nil }
      interfaces.append(address)
    }
    guard let candidates = candidates(), let offers = offers(), let relay = relayReport() else {
      return nil
    }
    return ReportBasic(
      os: os, version: version, incarnation: incarnation, nat: nat, port: port,
      interfaces: interfaces, candidates: candidates, offers: offers, relay: relay.report)
  }
  fileprivate mutating func connect() -> ConnectRequest? {
    guard let peer = string16(limit: SignalLimits.name), let candidates = candidates(),
      let nat = nat(), let initiation = array16(limit: SignalLimits.handshake)
    else { return nil }
    return ConnectRequest(peer: peer, candidates: candidates, nat: nat, initiation: initiation)
  }
  fileprivate mutating func meetingUpdate() -> MeetingUpdate? {
    guard let session = uint64(), let candidates = candidates(), let nat = nat(),
      let isDialling = flag()
    else { return nil }
    return MeetingUpdate(
      session: session, candidates: candidates, nat: nat, isDialling: isDialling)
  }
  fileprivate mutating func forward() -> (String, UInt16, [UInt8])? {
    guard let name = string16(limit: SignalLimits.name), let kind = uint16(),
      let payload = array16(limit: SignalLimits.payload)
    else { return nil }
    return (name, kind, payload)
  }
  fileprivate mutating func answer() -> (Bool, String)? {
    guard let ok = flag(), let words = string16(limit: SignalLimits.words) else {
      return nil
    }
    return (ok, words)
  }
  fileprivate mutating func codeAndWords() -> (SignalErrorCode, String)? {
    guard let code = uint16().flatMap(SignalErrorCode.init),
      let words = string16(limit: SignalLimits.words)
    else { return nil }
    return (code, words)
  }
  fileprivate mutating func punchStart() -> PunchStart? {
    guard let session = uint64(), let channel = uint32(),
      let certificate = array16(limit: SignalLimits.certificate),
      let incarnation = uint64(), let candidates = candidates(), let nat = nat(),
      let delay = uint16(), let named = flag(),
      let initiation = array16(limit: SignalLimits.handshake)
    else { return nil }
    return PunchStart(
      session: session, channel: channel, certificate: certificate, incarnation: incarnation,
      candidates: candidates, nat: nat, delayMilliseconds: delay, isNamedInitiator: named,
      initiation: initiation)
  }
  fileprivate mutating func welcome() -> Welcome? {
    guard let time = uint64(), let version = string16(limit: SignalLimits.name),
      let certificate = array16(limit: SignalLimits.certificate),
      let seenAt = endpoint(), let ticket = ticket(),
      let evictions = array16(limit: SignalLimits.payload),
      let count = count(limit: SignalLimits.members)
    else { return nil }
    var members: [SignalledMember] = []
    for _ in 0..<count {
      guard let member = member() else { return nil }
      members.append(member)
    }
    guard let secrets = relaySecrets() else { return nil }
    return Welcome(
      serverTimeNanoseconds: time, version: version, certificate: certificate, seenAt: seenAt,
      ticket: ticket, evictions: evictions, members: members, relaySecrets: secrets)
  }
  mutating func count(limit: Int) -> Int? {
    guard let count = uint16(), Int(count) <= limit else { return nil }
    return Int(count)
  }
}

/// Bits of the flags of a NAT report: of a pair the lower one says that the
/// fact is known, the upper one what it is.
private enum NATFlag {
  static let preservesPort: UInt8 = 0x01
  static let hairpins: UInt8 = 0x04
  static let isUDPBlocked: UInt8 = 0x10

  static func pair(_ fact: Bool?, _ bit: UInt8) -> UInt8 {
    guard let fact else { return 0 }
    return fact ? bit | bit << 1 : bit
  }
  static func value(_ flags: UInt8, _ bit: UInt8) -> Bool? {
    flags & bit == 0 ? nil : flags & bit << 1 != 0
  }
}
