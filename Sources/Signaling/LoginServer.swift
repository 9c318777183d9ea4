/// The server's half of the login, one value per connection: bytes in, bytes and
/// decisions out. It stops before the last word: whether this name may have this
/// key, and whether there is room, is the server core's to say (`accept` or
/// `refuse`). It never stores anything.
///
/// ```
///  waitsForHello ──shares──► waitsForConfirm ──verified──► waitsForDecision ──► over
///        ▲                         │                            accept / refuse
///        └─────────────────────────┘ unknownNode, wrongToken in mode 2: once
/// ```

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

/// One mesh as logins see it.
package struct LoginMesh: Sendable {
  package let name: String
  package let verifier: LoginVerifier
  /// Ed25519 key that signs the mesh's certificates; 32 bytes.
  package let authority: [UInt8]

  /// - Parameter name: at most 255 bytes.
  package init(name: String, verifier: LoginVerifier, authority: [UInt8]) {
    precondition(authority.count == 32 && name.utf8.count <= LoginLimits.name)
    self.name = name
    self.verifier = verifier
    self.authority = authority
  }
}

/// What the server keeps of a node that logged in before.
package struct LoginKnownNode: Sendable {
  /// Index into the meshes given to `LoginServer`.
  package let mesh: Int
  /// 32 bytes.
  package let secret: [UInt8]

  package init(mesh: Int, secret: [UInt8]) {
    precondition(secret.count == 32)
    self.mesh = mesh
    self.secret = secret
  }
}

/// A login whose proofs all held, before the last word.
package struct LoginVerified: Equatable, Sendable {
  /// Index into the meshes given to `LoginServer`.
  package let mesh: Int
  package let node: String
  /// Proven: its owner computed the exchange with our ephemeral key.
  package let staticKey: [UInt8]
  package let mode: LoginMode
  /// As stated; goes into the certificate. ChaCha20-Poly1305 is always in it.
  package let ciphers: CipherSet
  package let attachment: [UInt8]
}

/// A login that was accepted.
package struct LoginAccepted: Equatable, Sendable {
  /// The last message to send, in clear; everything after it may be sealed.
  package let reply: [UInt8]
  package let verified: LoginVerified
  /// To be kept with (mesh, static key).
  package let nodeSecret: [UInt8]
  package let nodeSecretIsNew: Bool
  /// For `SignalSealer` where there is no TLS.
  package let keys: SignalKeys
}

package enum LoginServerStep: Equatable, Sendable {
  case send([UInt8])
  /// Call `accept` or `refuse`.
  case verified(LoginVerified)
  /// Send the bytes; close when `isOver`. The refusal is for counters and the log.
  case refused([UInt8], LoginRefusal)
}

package struct LoginServer: Sendable {
  private struct Offer: Sendable {
    let mesh: Int
    let spake: SPAKE2
  }
  private struct Pending: Sendable {
    let hello: LoginHello
    let offers: [Offer]
    let transcript: LoginTranscript
    let knownSecret: [UInt8]?
  }
  private struct Decision: Sendable {
    let verified: LoginVerified
    let index: Int
    let code: [UInt8]
    let signal: SignalKeys
    let box: [UInt8]
    let knownSecret: [UInt8]?
  }
  private enum State: Sendable {
    case waitsForHello
    case waitsForConfirm(Pending)
    case waitsForDecision(Decision)
    case over
  }

  private let meshes: [LoginMesh]
  private let exporter: [UInt8]
  private let address: IPAddress
  private var hellos = 0
  private var state = State.waitsForHello

  /// - Parameters:
  ///   - meshes: 1…16.
  ///   - exporter: RFC 9266 exporter of the TLS connection; empty without TLS
  ///     or behind a TLS proxy.
  ///   - address: where the connection comes from, for the throttle.
  package init(meshes: [LoginMesh], exporter: [UInt8], address: IPAddress) {
    precondition((1...LoginLimits.meshes).contains(meshes.count))
    self.meshes = meshes
    self.exporter = exporter
    self.address = address
  }

  /// Nothing more can come of this login; close unless it was accepted.
  package var isOver: Bool {
    if case .over = state { return true }
    return false
  }

  /// A login message of the node.
  /// - Parameter known: what is kept for a static key; asked only by a login
  ///   with a node secret.
  package mutating func receive(
    _ bytes: [UInt8], now: Instant, throttle: inout LoginThrottle,
    using random: inout SeededRandom, known: (_ staticKey: [UInt8]) -> LoginKnownNode?
  ) -> LoginServerStep {
    let message: LoginMessage
    do { message = try LoginMessage(decoding: bytes) } catch {
      switch error {
      case .version: return refused(LoginRefusal(.badVersion), isFinal: true)
      case .malformed: return refused(LoginRefusal(.malformed), isFinal: true)
      }
    }
    switch (state, message) {
    case (.waitsForHello, .hello(let hello)):
      return answer(
        hello, bytes, now: now, throttle: &throttle, using: &random, known: known)
    case (.waitsForConfirm(let pending), .confirm(let confirm)):
      return verify(pending, confirm, now: now, throttle: &throttle)
    default:
      return refused(LoginRefusal(.malformed), isFinal: true)
    }
  }

  /// The last word: yes. Only after `.verified`.
  package mutating func accept(using random: inout SeededRandom) -> LoginAccepted {
    guard case .waitsForDecision(let decision) = state else {
      preconditionFailure("accept without a verified login")
    }
    state = .over
    // A token login gives a new secret even to a node that had one: it lost it.
    let secret = decision.knownSecret ?? random.bytes(32)
    let isNew = decision.knownSecret == nil
    let gift = LoginGift(
      nodeSecret: isNew ? secret : [], mesh: meshes[decision.verified.mesh].name)
    let reply = LoginMessage.accept(
      LoginAccept(
        index: UInt8(decision.index), code: decision.code,
        box: sealBox(key: decision.box, counter: 0, gift.encoded()))
    ).encoded()
    return LoginAccepted(
      reply: reply, verified: decision.verified, nodeSecret: secret, nodeSecretIsNew: isNew,
      keys: decision.signal)
  }

  /// The last word: no. Only after `.verified`.
  /// - Returns: what to send before closing.
  package mutating func refuse(_ refusal: LoginRefusal) -> [UInt8] {
    guard case .waitsForDecision = state else {
      preconditionFailure("refuse without a verified login")
    }
    state = .over
    return LoginMessage.refusal(refusal).encoded()
  }

  /// A refusal outside any login, e.g. a full server before the first message.
  package static func refusal(_ refusal: LoginRefusal) -> [UInt8] {
    LoginMessage.refusal(refusal).encoded()
  }

  private mutating func answer(
    _ hello: LoginHello, _ bytes: [UInt8], now: Instant, throttle: inout LoginThrottle,
    using random: inout SeededRandom, known: (_ staticKey: [UInt8]) -> LoginKnownNode?
  ) -> LoginServerStep {
    hellos += 1
    var passwords: [(mesh: Int, password: SPAKE2Password)] = []
    var knownSecret: [UInt8]?
    switch hello.mode {
    case .nodeSecret:
      guard let node = known(hello.staticKey) else {
        return refused(LoginRefusal(.unknownNode), isFinal: hellos >= LoginLimits.hellos)
      }
      passwords = [
        (node.mesh, meshes[node.mesh].verifier.password(nodeSecret: node.secret))
      ]
      knownSecret = node.secret
    case .token:
      let wait = throttle.delay(for: address, now: now)
      guard wait == .zero else {
        let seconds = min(Int64(UInt16.max), (wait.nanoseconds + 999_999_999) / 1_000_000_000)
        return refused(
          LoginRefusal(.throttled, retryAfterSeconds: UInt16(seconds)), isFinal: true)
      }
      passwords = meshes.enumerated().map { ($0.offset, $0.element.verifier.password) }
    }
    let ephemeral = X25519.generate(using: &random)
    guard let dh = X25519.shared(secret: ephemeral.secret, publicKey: hello.staticKey) else {
      return refused(LoginRefusal(.badKeyProof), isFinal: true)
    }
    // Each share has its own scalar: with one for all, the difference of two
    // shares would depend on the tokens alone.
    let offers = passwords.map { mesh, password in
      Offer(
        mesh: mesh,
        spake: SPAKE2(
          role: .b, identityA: Array(hello.node.utf8), identityB: LoginWire.serverIdentity,
          password: password, using: &random))
    }
    let reply = LoginMessage.shares(
      LoginShares(
        isBound: !exporter.isEmpty, ephemeral: ephemeral.publicKey,
        shares: offers.map {
          LoginShares.Share(share: $0.spake.share, authority: meshes[$0.mesh].authority)
        })
    ).encoded()
    state = .waitsForConfirm(
      Pending(
        hello: hello, offers: offers,
        transcript: LoginTranscript(exporter: exporter, hello: bytes, shares: reply, dh: dh),
        knownSecret: knownSecret))
    return .send(reply)
  }

  private mutating func verify(
    _ pending: Pending, _ confirm: LoginConfirm, now: Instant, throttle: inout LoginThrottle
  ) -> LoginServerStep {
    let hello = pending.hello
    let transcript = pending.transcript
    guard confirm.codes.count == pending.offers.count else {
      return refused(LoginRefusal(.malformed), isFinal: true)
    }
    guard constantTimeEqual(confirm.proof, transcript.proof) else {
      return refused(LoginRefusal(.badKeyProof), isFinal: true)
    }
    var decision: Decision?
    for (index, offer) in pending.offers.enumerated() {
      let additional = transcript.additional(
        index: index, authority: meshes[offer.mesh].authority)
      guard
        let outcome = offer.spake.finish(peerShare: hello.share, additional: additional)
      else { return refused(LoginRefusal(.malformed), isFinal: true) }
      guard outcome.verify(confirm.codes[index]), decision == nil else { continue }
      let keys = transcript.keys(outcome.key, additional: additional)
      decision = Decision(
        verified: LoginVerified(
          mesh: offer.mesh, node: hello.node, staticKey: hello.staticKey, mode: hello.mode,
          ciphers: CipherSet(rawValue: hello.ciphers).union(.chaCha20Poly1305),
          attachment: hello.attachment),
        index: index, code: outcome.confirmation, signal: keys.signal, box: keys.box,
        knownSecret: pending.knownSecret)
    }
    guard let decision else {
      if hello.mode == .token { throttle.failed(address, now: now) }
      return refused(
        LoginRefusal(.wrongToken),
        isFinal: hello.mode == .token || hellos >= LoginLimits.hellos)
    }
    state = .waitsForDecision(decision)
    return .verified(decision.verified)
  }

  private mutating func refused(_ refusal: LoginRefusal, isFinal: Bool) -> LoginServerStep {
    state = isFinal ? .over : .waitsForHello
    return .refused(LoginMessage.refusal(refusal).encoded(), refusal)
  }
}
