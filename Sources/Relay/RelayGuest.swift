/// A node's end of one leg at a relay: joins, repeats itself where packets get
/// lost, resumes after a lost connection or a changed address, leaves. What the
/// relay does with it: RelayNode. docs/protocol/relay.md. It moves no packets:
/// those go as DATA on the channel it learns.
///
///     joining ──state──► seated ──connection lost──► resuming ──state──► seated
///        │                  │                            │
///        └── refused, silence, `leave`, ended ───────────┴──► over
#if canImport(Bytes)
  package import Bytes
  package import Crypto
  internal import Mux
#endif

/// Timers of a guest.
package enum RelayGuestLimits {
  /// A request without an answer is repeated after this, doubling (UDP).
  package static let retry = TimeAmount.milliseconds(250)
  /// And given up after this (any leg).
  package static let answerTime = TimeAmount.seconds(4)
  /// Cookies answered in that time: a flood of faked ones makes no flood of ours.
  package static let cookies = 4
  /// How long a request holds, seconds: no longer than the relay remembers it.
  package static let validitySeconds: UInt64 = 60
}

/// What lets a node into one leg of one session at one relay.
package struct RelayInvitation: Hashable, Sendable {
  package enum Admission: Hashable, Sendable {
    /// The relay's mesh is ours: our token is enough.
    case ownToken(UInt64)
    case oneTime(RelayToken)
  }

  package var session: UInt64
  package var leg: UInt8
  /// The relay's static key and the peer's.
  package var relay: [UInt8]
  package var peer: [UInt8]
  /// Seconds since 1970, server time; as the server gave it with a one-time
  /// token, else now + `RelayGuestLimits.validitySeconds`.
  package var expiry: UInt64
  package var admission: Admission

  package init(
    session: UInt64, leg: UInt8, relay: [UInt8], peer: [UInt8], expiry: UInt64,
    admission: Admission
  ) {
    self.session = session
    self.leg = leg
    self.relay = relay
    self.peer = peer
    self.expiry = expiry
    self.admission = admission
  }
}

package enum RelayGuestNews: Equatable, Sendable {
  /// Let in; the peer is not there (yet, or any more). Its channel, if it had
  /// one, is void.
  case waiting
  /// Packets may go both ways, as DATA with this number.
  case open(channel: UInt32, otherKind: LegKind, largestPacket: Int)
  /// It is over: the relay said so.
  case refused(RelayRefusal)
  /// It is over: the relay does not answer.
  case silent
}

package struct RelayGuest: Sendable {
  private enum State {
    case joining
    case seated
    /// Let in once; now without a connection, or asking on a new one.
    case resuming
    case over
  }

  package let invitation: RelayInvitation
  /// What the present connection runs over; nil: there is none.
  package private(set) var kind: LegKind?
  private var state = State.joining
  private let sealed: [UInt8]
  private let subject: UInt64
  private let secret: [UInt8]
  private var cookie = [UInt8](repeating: 0, count: RelayWire.cookieBytes)
  private var cookiesTaken = 0
  private var leg: UInt64 = 0
  private var counter: UInt64 = 0
  private var stateNumber: UInt32 = 0
  /// The channel of the newest state; 0 = none.
  package private(set) var channel: UInt32 = 0
  private var retryAt = Instant.distantFuture
  private var retryWait = RelayGuestLimits.retry
  private var due = Instant.distantFuture
  private var messages: [[UInt8]] = []
  private var news: [RelayGuestNews] = []

  /// - Parameters:
  ///   - key: our static key in the mesh.
  ///   - unixTime: seconds, server time.
  /// - Returns: nil when the relay's key is of low order.
  package init?(
    _ invitation: RelayInvitation, key: KeyPair, unixTime: UInt64,
    using random: inout SeededRandom
  ) {
    let admission: RelayHandshake.Admission
    switch invitation.admission {
    case .ownToken(let token):
      admission = .code(TOTP.code(token: token, unixTime: Int64(clamping: unixTime)))
    case .oneTime(let token): admission = .token(token)
    }
    var handshake = RelayHandshake(
      session: invitation.session, leg: invitation.leg, from: key.publicKey, to: invitation.peer,
      relay: invitation.relay, expiry: invitation.expiry,
      nonce: random.bytes(RelayWire.nonceBytes), admission: admission)
    if case .ownToken(let token) = invitation.admission {
      handshake.sign(macKey: RelayHandshake.macKey(token: token))
    }
    let ephemeral = X25519.generate(using: &random)
    guard let sealed = handshake.sealed(from: key, ephemeral: ephemeral) else { return nil }
    self.invitation = invitation
    self.sealed = sealed.message
    secret = sealed.legSecret
    var reader = ByteReader(sealed.message.span.bytes)
    subject = reader.uint64() ?? 0
  }

  /// Whether packets may go.
  package var isOpen: Bool { channel != 0 && kind != nil }
  package var isOver: Bool { state == .over }

  // MARK: Connections

  /// There is a connection to the relay, or a UDP socket that may be used; also
  /// after `connectionLost`, and on UDP when our address may have changed.
  package mutating func connected(over kind: LegKind, now: Instant) {
    guard state != .over else { return }
    self.kind = kind
    messages = []
    if state == .seated { state = .resuming }
    begin(now: now)
  }

  /// The connection is gone. Nothing is sent before the next `connected`.
  package mutating func connectionLost(now: Instant) {
    guard state != .over else { return }
    kind = nil
    messages = []
    retryAt = .distantFuture
    due = .distantFuture
    if state == .seated { state = .resuming }
    if channel != 0 {
      channel = 0
      news.append(.waiting)
    }
  }

  /// The session is over for us; one message goes out if there is a connection.
  package mutating func leave() {
    if state == .seated || state == .resuming, let kind {
      counter += 1
      messages.append(
        RelayRequest.leave(
          RelayLegProof(
            cookie: cookie, leg: leg, counter: counter, secret: secret,
            context: RelayWire.leaveContext)
        ).frame(over: kind))
    }
    finish()
  }

  private mutating func begin(now: Instant) {
    due = now + RelayGuestLimits.answerTime
    retryWait = RelayGuestLimits.retry
    cookiesTaken = 0
    ask(now: now)
  }

  private mutating func ask(now: Instant) {
    guard let kind else { return }
    retryAt = kind == .udp ? now + retryWait : .distantFuture
    switch state {
    case .joining:
      messages.append(RelayRequest.join(cookie: cookie, sealed: sealed).frame(over: kind))
    case .resuming:
      counter += 1
      messages.append(
        RelayRequest.resume(
          RelayLegProof(
            cookie: cookie, leg: leg, counter: counter, secret: secret,
            context: RelayWire.resumeContext)
        ).frame(over: kind))
    case .seated, .over: break
    }
  }

  private mutating func finish() {
    state = .over
    channel = 0
    retryAt = .distantFuture
    due = .distantFuture
  }

  // MARK: In

  /// A SYN's body on channel 0 of the connection. Several guests may share one.
  /// - Returns: whether it was for this guest alone.
  package mutating func receive(_ body: RawSpan, now: Instant) -> Bool {
    guard state != .over, let reply = RelayReply(decoding: body) else { return false }
    switch reply {
    case .cookie(let given):
      if kind == .udp, given != cookie, state == .joining || state == .resuming,
        cookiesTaken < RelayGuestLimits.cookies
      {
        cookiesTaken += 1
        cookie = given
        ask(now: now)
      }
      return false
    case .state(let told):
      return receive(told)
    case .refused(let notice):
      return receive(notice)
    }
  }

  private mutating func receive(_ told: RelayLegState) -> Bool {
    guard told.session == invitation.session, told.side == invitation.leg,
      leg == 0 || told.leg == leg, told.holds(secret: secret)
    else { return false }
    guard told.number > stateNumber else { return true }
    leg = told.leg
    stateNumber = told.number
    state = .seated
    retryAt = .distantFuture
    due = .distantFuture
    channel = told.channel
    if let otherKind = told.otherKind, channel != 0 {
      news.append(
        .open(channel: channel, otherKind: otherKind, largestPacket: told.largestPacket))
    } else {
      channel = 0
      news.append(.waiting)
    }
    return true
  }

  private mutating func receive(_ notice: RelayRefusalNotice) -> Bool {
    let isOurs = state == .joining ? notice.subject == subject : notice.subject == leg
    // An end must be proven. Other refusals answer what we asked just now.
    guard isOurs, notice.holds(secret: secret) || notice.reason != .ended && state != .seated
    else { return false }
    finish()
    news.append(.refused(notice.reason))
    return true
  }

  // MARK: Time and out

  package var nextDeadline: Instant { min(retryAt, due) }

  package mutating func advance(to now: Instant) {
    if now >= due {
      finish()
      news.append(.silent)
      return
    }
    guard now >= retryAt else { return }
    retryWait = retryWait * 2
    ask(now: now)
  }

  /// The next frame for the relay, whole.
  package mutating func pollMessage() -> [UInt8]? {
    messages.isEmpty ? nil : messages.removeFirst()
  }

  package mutating func pollNews() -> RelayGuestNews? { news.isEmpty ? nil : news.removeFirst() }
}
