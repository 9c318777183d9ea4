/// Who may have a leg of a relay: opens sealed requests and judges them.
/// spec/inp2p.md "Relay", docs/protocol/relay.md. It compares codes in constant
/// time, remembers only requests that held (so garbage costs no memory), and
/// never decides how many sessions there may be: RelayNode does.

#if canImport(Bytes)
  package import Bytes
  package import Crypto
#endif

/// Figures of admission: the first four are the specification's.
package enum RelayAdmissionLimits {
  /// How long a nonce or a used token is remembered.
  package static let memoryTime = TimeAmount.seconds(120)
  /// No request may be valid for longer than it is remembered.
  package static let longestValiditySeconds: UInt64 = 120
  /// Secrets of the server that are valid at once.
  package static let secrets = 2
  /// How far back a wrong code is tried, to say that it is an old one.
  static let oldSteps: Int64 = 20
  /// Requests remembered; when so many held in `memoryTime`, no more are let in.
  package static let remembered = 16_384
}

/// Why a request was refused, and the secret shared with who sent it, if any.
package struct RelayRefused: Error, Sendable {
  package let reason: RelayRefusal
  package let secret: [UInt8]?
}

/// A request that held.
package struct RelayAdmitted: Sendable {
  package let handshake: RelayHandshake
  /// Of the leg: known to the relay and the node only.
  package let legSecret: [UInt8]
  package let isOneTime: Bool
}

/// Things seen in the last two minutes.
private struct RelayMemory<Key: Hashable & Sendable>: Sendable {
  private var keys: Set<Key> = []
  private var order: [(key: Key, until: Instant)] = []
  private var position = 0

  var count: Int { keys.count }

  func contains(_ key: Key) -> Bool { keys.contains(key) }

  mutating func insert(_ key: Key, until: Instant) {
    keys.insert(key)
    order.append((key, until))
  }

  mutating func forget(now: Instant) {
    while position < order.count, order[position].until <= now {
      keys.remove(order[position].key)
      position += 1
    }
    if position > 1_024, position > order.count / 2 {
      order.removeFirst(position)
      position = 0
    }
  }
}

package struct RelayAdmission: Sendable {
  private struct Nonce: Hashable, Sendable {
    let high: UInt64
    let low: UInt64
  }
  private struct Use: Hashable, Sendable {
    let session: UInt64
    let leg: UInt8
  }

  private let key: KeyPair
  private let token: UInt64?
  private let macKey: [UInt8]
  /// One-time tokens hold here: a super relay, or one of a permit mesh.
  private let acceptsTokens: Bool
  /// Newest first.
  private var secrets: [RelaySecret] = []
  private var retired: [UInt32] = []
  private var nonces = RelayMemory<Nonce>()
  private var uses = RelayMemory<Use>()
  private var serverTime: (seconds: UInt64, taken: Instant)?

  /// - Parameters:
  ///   - key: the relay's static key in its mesh.
  ///   - token: of its mesh; nil in a permit mesh.
  package init(key: KeyPair, token: UInt64?, acceptsTokens: Bool) {
    self.key = key
    self.token = token
    self.acceptsTokens = acceptsTokens
    macKey = token.map { RelayHandshake.macKey(token: $0) } ?? []
  }

  /// What the server gave with the welcome, or when it rotated.
  package mutating func setSecrets(_ secrets: [RelaySecret]) {
    let kept = Array(secrets.prefix(RelayAdmissionLimits.secrets))
    for old in self.secrets where !kept.contains(where: { $0.number == old.number }) {
      retired.append(old.number)
    }
    retired = Array(retired.suffix(8))
    self.secrets = kept
  }

  /// Server time, known from a welcome or heartbeat; the monotonic clock moves it on.
  package mutating func setServerTime(unixNanoseconds: UInt64, now: Instant) {
    serverTime = (unixNanoseconds / 1_000_000_000, now)
  }

  /// Requests remembered.
  package var rememberedCount: Int { nonces.count + uses.count }

  private func seconds(_ now: Instant) -> UInt64? {
    serverTime.map { $0.seconds + UInt64(max(0, (now - $0.taken).nanoseconds) / 1_000_000_000) }
  }

  /// Judges a sealed request; two curve operations.
  package mutating func admit(
    _ sealed: [UInt8], now: Instant
  ) throws(RelayRefused) -> RelayAdmitted {
    guard let opened = NoiseX.open(sealed, receiver: key, prologue: RelayWire.prologue) else {
      throw RelayRefused(reason: .unreadable, secret: nil)
    }
    do throws(RelayRefusal) {
      guard let handshake = RelayHandshake(decoding: opened.payload) else { throw .malformed }
      let isOneTime = try judge(handshake, sender: opened.sender, now: now)
      return RelayAdmitted(
        handshake: handshake, legSecret: opened.secret, isOneTime: isOneTime)
    } catch {
      throw RelayRefused(reason: error, secret: opened.secret)
    }
  }

  /// - Returns: whether it came with a one-time token.
  private mutating func judge(
    _ handshake: RelayHandshake, sender: [UInt8], now: Instant
  ) throws(RelayRefusal) -> Bool {
    guard handshake.relay == key.publicKey else { throw .otherRelay }
    guard handshake.from == sender else { throw .wrongSender }
    guard handshake.from != handshake.to else { throw .malformed }
    // No relay is one for its own sessions.
    guard handshake.from != key.publicKey, handshake.to != key.publicKey else { throw .notServed }
    guard let time = seconds(now) else { throw .notServed }
    guard handshake.expiry >= time else { throw .expired }
    nonces.forget(now: now)
    uses.forget(now: now)
    guard rememberedCount < RelayAdmissionLimits.remembered else { throw .busy }
    let until = now + RelayAdmissionLimits.memoryTime
    switch handshake.admission {
    case .code(let code):
      try judge(code: code, handshake, time: time)
      var reader = ByteReader(handshake.nonce.span.bytes)
      let nonce = Nonce(high: reader.uint64() ?? 0, low: reader.uint64() ?? 0)
      guard !nonces.contains(nonce) else { throw .replayed }
      nonces.insert(nonce, until: until)
      return false
    case .token(let token):
      try judge(token: token, handshake, time: time)
      let use = Use(session: handshake.session, leg: handshake.leg)
      guard !uses.contains(use) else { throw .replayed }
      uses.insert(use, until: until)
      return true
    }
  }

  private func judge(
    code: UInt64, _ handshake: RelayHandshake, time: UInt64
  ) throws(RelayRefusal) {
    guard let token else { throw .notServed }
    let unixTime = Int64(clamping: time)
    guard TOTP.verify(code, token: token, unixTime: unixTime) else {
      for step in 2...RelayAdmissionLimits.oldSteps
      where TOTP.code(token: token, unixTime: unixTime - step * TOTP.stepSeconds) == code {
        throw .expired
      }
      throw .wrong
    }
    guard handshake.isSigned(macKey: macKey) else { throw .altered }
    guard handshake.expiry - time <= RelayAdmissionLimits.longestValiditySeconds else {
      throw .altered
    }
  }

  private func judge(
    token: RelayToken, _ handshake: RelayHandshake, time: UInt64
  ) throws(RelayRefusal) {
    guard acceptsTokens else { throw .notServed }
    guard let secret = secrets.first(where: { $0.number == token.secretNumber }) else {
      throw retired.contains(token.secretNumber) ? .expired : .wrong
    }
    let signed = RelayToken.signed(
      session: handshake.session, leg: handshake.leg, relay: handshake.relay,
      from: handshake.from, to: handshake.to, expiry: handshake.expiry)
    guard HMACSHA256.verify(token.code, key: secret.key, signed) else { throw .altered }
    guard handshake.expiry - time <= RelayAdmissionLimits.longestValiditySeconds else {
      throw .altered
    }
  }
}
