/// The messages about relays that clients are: who is one, which of them a pair
/// may use, and what lets it in there. Layouts only: ServerCore's directory
/// chooses, the Relay module admits. docs/protocol/signaling.md.

#if canImport(Bytes)
  internal import Bytes
#endif

/// Limits of these messages, beside `SignalLimits`.
package enum RelaySignalLimits {
  package static let keyBytes = 32
  /// Relays offered at once.
  package static let offers = 4
  package static let endpoints = 8
  package static let exclusions = 16
  package static let measurements = 16
  /// Keys of one-time tokens valid at once.
  package static let secrets = 2
}

/// What a node is as a relay, in its ReportBasic.
package struct RelayReport: Hashable, Sendable {
  /// For every token, not only its own.
  package var isSuper: Bool
  /// Where it listens; 0 = not with that transport.
  package var tcpPort: UInt16
  package var udpPort: UInt16
  /// What it relays in all, kbit/s; 0 = no cap.
  package var kilobits: UInt32
  /// How much of that, or of its sessions, is used: 0 to 1000.
  package var load: UInt16

  package init(
    isSuper: Bool, tcpPort: UInt16, udpPort: UInt16, kilobits: UInt32, load: UInt16
  ) {
    self.isSuper = isSuper
    self.tcpPort = tcpPort
    self.udpPort = udpPort
    self.kilobits = kilobits
    self.load = load
  }
}

/// A key of one-time tokens, as the server gives it to one relay.
package struct SignalledRelaySecret: Hashable, Sendable {
  package var number: UInt32
  /// 32 bytes.
  package var key: [UInt8]

  package init(number: UInt32, key: [UInt8]) {
    precondition(key.count == RelaySignalLimits.keyBytes)
    self.number = number
    self.key = key
  }
}

/// A round trip that a node measured to a relay.
package struct RelayMeasurement: Hashable, Sendable {
  /// The relay's static key.
  package var relay: [UInt8]
  package var microseconds: UInt32

  package init(relay: [UInt8], microseconds: UInt32) {
    precondition(relay.count == RelaySignalLimits.keyBytes)
    self.relay = relay
    self.microseconds = microseconds
  }
}

/// RelayNodeReq: which relays may `peer` and I use?
package struct RelayNodeRequest: Hashable, Sendable {
  /// Node name in the same mesh.
  package var peer: String
  /// Only this one, by its node's name; empty: any.
  package var only: String
  /// Static keys of relays that failed, or that a policy rules out.
  package var exclusions: [[UInt8]]
  package var measured: [RelayMeasurement]

  package init(
    peer: String, only: String = "", exclusions: [[UInt8]] = [],
    measured: [RelayMeasurement] = []
  ) {
    self.peer = peer
    self.only = only
    self.exclusions = exclusions
    self.measured = measured
  }
}

/// One relay, and what lets this node in.
package struct RelayOffer: Hashable, Sendable {
  package enum Admission: Hashable, Sendable {
    /// It has our token: the code of the time is enough.
    case code
    /// Made out for this leg of this session at this relay.
    case oneTime(secretNumber: UInt32, code: [UInt8])
  }

  /// Its static key, 32 bytes.
  package var relay: [UInt8]
  package var isSuper: Bool
  package var load: UInt16
  package var endpoints: [SignalledCandidate]
  package var admission: Admission

  package init(
    relay: [UInt8], isSuper: Bool, load: UInt16, endpoints: [SignalledCandidate],
    admission: Admission
  ) {
    precondition(relay.count == RelaySignalLimits.keyBytes)
    self.relay = relay
    self.isSuper = isSuper
    self.load = load
    self.endpoints = endpoints
    self.admission = admission
  }
}

/// RelayNodeRsp and PushRelayOffer: one node's half of what its pair may use.
package struct RelayGrant: Hashable, Sendable {
  package var peer: String
  /// Of the pair at the relay; not the meeting's.
  package var session: UInt64
  /// 0 or 1: which end this node is.
  package var leg: UInt8
  /// Seconds since 1970, server time.
  package var expiry: UInt64
  /// Best first.
  package var offers: [RelayOffer]

  package init(peer: String, session: UInt64, leg: UInt8, expiry: UInt64, offers: [RelayOffer]) {
    self.peer = peer
    self.session = session
    self.leg = leg
    self.expiry = expiry
    self.offers = offers
  }
}

/// A relay that this node might use came, changed or went.
package struct RelayAnnouncement: Hashable, Sendable {
  /// Its static key, 32 bytes. Nothing else of it is told to other meshes.
  package var relay: [UInt8]
  package var isSuper: Bool
  package var isPresent: Bool

  package init(relay: [UInt8], isSuper: Bool, isPresent: Bool) {
    precondition(relay.count == RelaySignalLimits.keyBytes)
    self.relay = relay
    self.isSuper = isSuper
    self.isPresent = isPresent
  }
}

extension MessageWriter {
  mutating func relayReport(_ report: RelayReport?) {
    guard let report else {
      bytes.append(0)
      return
    }
    bytes.append(report.isSuper ? 2 : 1)
    bytes.appendUInt16(report.tcpPort)
    bytes.appendUInt16(report.udpPort)
    bytes.appendUInt32(report.kilobits)
    bytes.appendUInt16(report.load)
  }
  mutating func relaySecret(_ secret: SignalledRelaySecret) {
    bytes.appendUInt32(secret.number)
    bytes += secret.key
  }
  mutating func relayNodeRequest(_ request: RelayNodeRequest) {
    string(request.peer)
    string(request.only)
    list(request.exclusions) { out, key in
      precondition(key.count == RelaySignalLimits.keyBytes)
      out.bytes += key
    }
    relayMeasurements(request.measured)
  }
  mutating func relayMeasurements(_ measured: [RelayMeasurement]) {
    list(measured) { out, measurement in
      out.bytes += measurement.relay
      out.bytes.appendUInt32(measurement.microseconds)
    }
  }
  mutating func relayGrant(_ grant: RelayGrant) {
    string(grant.peer)
    bytes.appendUInt64(grant.session)
    bytes.append(grant.leg)
    bytes.appendUInt64(grant.expiry)
    list(grant.offers) { out, offer in
      out.bytes += offer.relay
      out.flag(offer.isSuper)
      out.bytes.appendUInt16(offer.load)
      out.list(offer.endpoints) { out, candidate in out.candidate(candidate) }
      switch offer.admission {
      case .code: out.bytes.append(1)
      case .oneTime(let number, let code):
        precondition(code.count == RelaySignalLimits.keyBytes)
        out.bytes.append(2)
        out.bytes.appendUInt32(number)
        out.bytes += code
      }
    }
  }
  mutating func relayAnnouncement(_ announcement: RelayAnnouncement) {
    bytes += announcement.relay
    flag(announcement.isSuper)
    flag(announcement.isPresent)
  }
}

/// nil = malformed.
extension ByteReader {
  /// The outer optional: whether it could be read.
  mutating func relayReport() -> (report: RelayReport?, Void)? {
    guard let kind = uint8(), kind <= 2 else { return nil }
    guard kind > 0 else { return (nil, ()) }
    guard let tcpPort = uint16(), let udpPort = uint16(), let kilobits = uint32(),
      let load = uint16(), load <= 1_000
    else { return nil }
    return (
      RelayReport(
        isSuper: kind == 2, tcpPort: tcpPort, udpPort: udpPort, kilobits: kilobits, load: load), ()
    )
  }
  mutating func relaySecrets() -> [SignalledRelaySecret]? {
    guard let count = count(limit: RelaySignalLimits.secrets) else { return nil }
    var result: [SignalledRelaySecret] = []
    for _ in 0..<count {
      guard let number = uint32(), let key = relayKey() else { return nil }
      result.append(SignalledRelaySecret(number: number, key: key))
    }
    return result
  }
  mutating func relayNodeRequest() -> RelayNodeRequest? {
    guard let peer = string16(limit: SignalLimits.name),
      let only = string16(limit: SignalLimits.name),
      let exclusionCount = count(limit: RelaySignalLimits.exclusions)
    else { return nil }
    var request = RelayNodeRequest(peer: peer, only: only)
    for _ in 0..<exclusionCount {
      guard let key = relayKey() else { return nil }
      request.exclusions.append(key)
    }
    guard let measured = relayMeasurements() else { return nil }
    request.measured = measured
    return request
  }
  mutating func relayMeasurements() -> [RelayMeasurement]? {
    guard let count = count(limit: RelaySignalLimits.measurements) else { return nil }
    var result: [RelayMeasurement] = []
    for _ in 0..<count {
      guard let relay = relayKey(), let microseconds = uint32() else { return nil }
      result.append(RelayMeasurement(relay: relay, microseconds: microseconds))
    }
    return result
  }
  mutating func relayGrant() -> RelayGrant? {
    guard let peer = string16(limit: SignalLimits.name), let session = uint64(),
      let leg = uint8(), leg <= 1, let expiry = uint64(),
      let count = count(limit: RelaySignalLimits.offers)
    else { return nil }
    var grant = RelayGrant(peer: peer, session: session, leg: leg, expiry: expiry, offers: [])
    for _ in 0..<count {
      guard let offer = relayOffer() else { return nil }
      grant.offers.append(offer)
    }
    return grant
  }
  private mutating func relayOffer() -> RelayOffer? {
    guard let relay = relayKey(), let isSuper = flag(), let load = uint16(), load <= 1_000,
      let endpoints = candidates(), endpoints.count <= RelaySignalLimits.endpoints
    else { return nil }
    let admission: RelayOffer.Admission
    switch uint8() {
    case 1: admission = .code
    case 2:
      guard let number = uint32(), let code = relayKey() else { return nil }
      admission = .oneTime(secretNumber: number, code: code)
    default: return nil
    }
    return RelayOffer(
      relay: relay, isSuper: isSuper, load: load, endpoints: endpoints, admission: admission)
  }
  mutating func relayAnnouncement() -> RelayAnnouncement? {
    guard let relay = relayKey(), let isSuper = flag(), let isPresent = flag() else { return nil }
    return RelayAnnouncement(relay: relay, isSuper: isSuper, isPresent: isPresent)
  }
  private mutating func relayKey() -> [UInt8]? { array(RelaySignalLimits.keyBytes) }
}
