/// What a node and a relay say to each other beside packets: the bodies of SYN
/// frames on channel 0 of a leg. docs/protocol/relay.md holds the tables. A
/// codec: it proves nothing.
///
///     to the relay                            from the relay
///     1 join    cookie 16, sealed request     0x81 cookie   cookie 16
///     2 resume  cookie 16, leg 8,             0x82 state    leg 8, session 8, side 1, number 4,
///               counter 8, proof 32                         channel 4, kind 1, largest 2, proof 16
///     3 leave   the same                      0x83 refused  reason 1, subject 8, proof 16

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
  internal import Mux
#endif

/// Why a relay did not let somebody in, or let go of it.
package enum RelayRefusal: UInt8, Error, CaseIterable, Sendable {
  /// Not sealed for this relay, or damaged.
  case unreadable = 1
  case malformed = 2
  /// The code is no code of this token, or the token's secret is none of ours.
  case wrong = 3
  /// Code, token or request are too old.
  case expired = 4
  /// Code or token were used before.
  case replayed = 5
  /// Signed by somebody else, or changed since.
  case altered = 6
  /// Made out to another relay.
  case otherRelay = 7
  /// The session is another pair's.
  case otherSession = 8
  /// The sender is not the one the request names.
  case wrongSender = 9
  /// This relay is not one for such requests.
  case notServed = 10
  /// No room for another session.
  case full = 11
  /// Too many requests just now.
  case busy = 12
  /// No such leg: it waited too long, or never was.
  case unknownLeg = 13
  /// The session is over.
  case ended = 14
}

/// Proof of the secret of a leg.
package struct RelayLegProof: Hashable, Sendable {
  /// 16 bytes; zeros where none was given.
  package var cookie: [UInt8]
  package var leg: UInt64
  /// Accepted once, and only greater than the last.
  package var counter: UInt64
  /// HMAC-SHA256(leg secret, context ‖ leg ‖ counter).
  package var proof: [UInt8]

  package init(cookie: [UInt8], leg: UInt64, counter: UInt64, proof: [UInt8]) {
    self.cookie = cookie
    self.leg = leg
    self.counter = counter
    self.proof = proof
  }

  init(cookie: [UInt8], leg: UInt64, counter: UInt64, secret: [UInt8], context: [UInt8]) {
    self.init(
      cookie: cookie, leg: leg, counter: counter,
      proof: HMACSHA256.authenticate(
        key: secret, Self.signed(leg: leg, counter: counter, context)))
  }

  func holds(secret: [UInt8], context: [UInt8]) -> Bool {
    HMACSHA256.verify(proof, key: secret, Self.signed(leg: leg, counter: counter, context))
  }

  private static func signed(leg: UInt64, counter: UInt64, _ context: [UInt8]) -> [UInt8] {
    var bytes = context
    bytes.appendUInt64(leg)
    bytes.appendUInt64(counter)
    return bytes
  }
}

/// How a leg stands; the newest number counts.
package struct RelayLegState: Hashable, Sendable {
  package var leg: UInt64
  package var session: UInt64
  package var side: UInt8
  package var number: UInt32
  /// 0: the other side is not there.
  package var channel: UInt32
  /// What the other side's leg runs over; nil with channel 0.
  package var otherKind: LegKind?
  /// Largest packet of the channel.
  package var largestPacket: Int
  /// HMAC-SHA256(leg secret, context ‖ all fields), its first 16 bytes.
  package var proof: [UInt8] = []

  package init(
    leg: UInt64, session: UInt64, side: UInt8, number: UInt32, channel: UInt32,
    otherKind: LegKind?, largestPacket: Int
  ) {
    self.leg = leg
    self.session = session
    self.side = side
    self.number = number
    self.channel = channel
    self.otherKind = otherKind
    self.largestPacket = largestPacket
  }

  fileprivate var fields: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendUInt64(leg)
    bytes.appendUInt64(session)
    bytes.append(side)
    bytes.appendUInt32(number)
    bytes.appendUInt32(channel)
    bytes.append(otherKind?.rawValue ?? 0)
    bytes.appendUInt16(UInt16(largestPacket))
    return bytes
  }

  mutating func sign(secret: [UInt8]) {
    proof = Array(
      HMACSHA256.authenticate(key: secret, RelayWire.stateContext + fields)
        .prefix(RelayWire.proofBytes))
  }

  func holds(secret: [UInt8]) -> Bool {
    let code = HMACSHA256.authenticate(key: secret, RelayWire.stateContext + fields)
    return constantTimeEqual(proof, Array(code.prefix(RelayWire.proofBytes)))
  }
}

/// A refusal, or the end of a session.
package struct RelayRefusalNotice: Hashable, Sendable {
  package var reason: RelayRefusal
  /// The leg; for a join the first 8 bytes of its ephemeral key.
  package var subject: UInt64
  /// As in a state; zeros where relay and node share no secret.
  package var proof: [UInt8]

  package init(reason: RelayRefusal, subject: UInt64, secret: [UInt8]?) {
    self.reason = reason
    self.subject = subject
    proof =
      secret.map { Self.code(reason, subject, $0) }
      ?? [UInt8](repeating: 0, count: RelayWire.proofBytes)
  }

  fileprivate init(reason: RelayRefusal, subject: UInt64, proof: [UInt8]) {
    self.reason = reason
    self.subject = subject
    self.proof = proof
  }

  func holds(secret: [UInt8]) -> Bool {
    constantTimeEqual(proof, Self.code(reason, subject, secret))
  }

  private static func code(_ reason: RelayRefusal, _ subject: UInt64, _ secret: [UInt8]) -> [UInt8]
  {
    var bytes = RelayWire.refusedContext
    bytes.append(reason.rawValue)
    bytes.appendUInt64(subject)
    return Array(HMACSHA256.authenticate(key: secret, bytes).prefix(RelayWire.proofBytes))
  }
}

/// From node to relay.
package enum RelayRequest: Hashable, Sendable {
  case join(cookie: [UInt8], sealed: [UInt8])
  case resume(RelayLegProof)
  case leave(RelayLegProof)

  var cookie: [UInt8] {
    switch self {
    case .join(let cookie, _): cookie
    case .resume(let proof), .leave(let proof): proof.cookie
    }
  }

  package func encoded() -> [UInt8] {
    switch self {
    case .join(let cookie, let sealed): [1] + cookie + sealed
    case .resume(let proof): [2] + Self.encoded(proof)
    case .leave(let proof): [3] + Self.encoded(proof)
    }
  }

  private static func encoded(_ proof: RelayLegProof) -> [UInt8] {
    var bytes = proof.cookie
    bytes.appendUInt64(proof.leg)
    bytes.appendUInt64(proof.counter)
    return bytes + proof.proof
  }

  package init?(decoding body: RawSpan) {
    var reader = ByteReader(body)
    guard let type = reader.uint8(), let cookie = reader.array(RelayWire.cookieBytes) else {
      return nil
    }
    switch type {
    case 1:
      self = .join(cookie: cookie, sealed: [UInt8](reader.rest()))
    case 2, 3:
      guard let leg = reader.uint64(), let counter = reader.uint64(),
        let code = reader.array(32), reader.isAtEnd
      else { return nil }
      let proof = RelayLegProof(cookie: cookie, leg: leg, counter: counter, proof: code)
      self = type == 2 ? .resume(proof) : .leave(proof)
    default: return nil
    }
  }

  /// The whole frame.
  package func frame(over kind: LegKind) -> [UInt8] {
    CarrierFrame.bytes(channel: kind.controlChannel, kind: .open, body: encoded())
  }
}

/// From relay to node.
package enum RelayReply: Hashable, Sendable {
  case cookie([UInt8])
  case state(RelayLegState)
  case refused(RelayRefusalNotice)

  package func encoded() -> [UInt8] {
    switch self {
    case .cookie(let cookie): return [0x81] + cookie
    case .state(let state): return [0x82] + state.fields + state.proof
    case .refused(let notice):
      var bytes: [UInt8] = [0x83, notice.reason.rawValue]
      bytes.appendUInt64(notice.subject)
      return bytes + notice.proof
    }
  }

  package init?(decoding body: RawSpan) {
    var reader = ByteReader(body)
    switch reader.uint8() {
    case 0x81:
      guard let cookie = reader.array(RelayWire.cookieBytes) else { return nil }
      self = .cookie(cookie)
    case 0x82:
      guard let leg = reader.uint64(), let session = reader.uint64(), let side = reader.uint8(),
        side <= 1, let number = reader.uint32(), let channel = reader.uint32(),
        let kind = reader.uint8(), let largest = reader.uint16(),
        let proof = reader.array(RelayWire.proofBytes)
      else { return nil }
      let otherKind = LegKind(rawValue: kind)
      guard kind == 0 || otherKind != nil else { return nil }
      var state = RelayLegState(
        leg: leg, session: session, side: side, number: number, channel: channel,
        otherKind: otherKind, largestPacket: Int(largest))
      state.proof = proof
      self = .state(state)
    case 0x83:
      guard let reason = reader.uint8().flatMap(RelayRefusal.init), let subject = reader.uint64(),
        let proof = reader.array(RelayWire.proofBytes)
      else { return nil }
      self = .refused(RelayRefusalNotice(reason: reason, subject: subject, proof: proof))
    default: return nil
    }
    guard reader.isAtEnd else { return nil }
  }

  /// The whole frame.
  package func frame(over kind: LegKind) -> [UInt8] {
    CarrierFrame.bytes(channel: kind.controlChannel, kind: .open, body: encoded())
  }
}

extension LegKind {
  /// What marks every channel number on such a leg.
  var mark: UInt32 {
    switch self {
    case .tcp: 0
    case .udp: RelayWire.udpMark
    }
  }
  /// The number of a leg's own messages.
  package var controlChannel: UInt32 { RelayWire.controlChannel | mark }
}
