/// The node's half of the login: bytes in, bytes and a result out. It never
/// retries by itself beyond the one step from the node secret to the token, and
/// never decides about TLS fingerprints: the result says which proof held.
///
/// ```
///  start ──hello──► waitsForShares ──confirm──► waitsForAccept ──► done
///                       │  ▲                        │
///                       └──┘ unknownNode, wrongToken in mode 2: once, by token
/// ```

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  package import Crypto
#endif

/// Why a login ended without success.
package enum LoginFailure: Error, Equatable, Sendable {
  case refused(LoginRefusal)
  /// The server does not know the token, or somebody sits in between.
  case serverNotAuthentic
  /// The server leaves TLS out of the transcript, and its name was not verified.
  case unboundTLS
  case malformed
  case outOfOrder
}

package struct LoginClientResult: Equatable, Sendable {
  /// The server's index of the share that verified; for display only.
  package let meshIndex: Int
  /// The mesh's name on the server.
  package let mesh: String
  /// Which proof held: `.nodeSecret` shows that it is the server of last time.
  package let mode: LoginMode
  /// Ed25519 key that signs this mesh's certificates; 32 bytes.
  package let authority: [UInt8]
  /// To be kept for the next login; 32 bytes.
  package let nodeSecret: [UInt8]
  /// It differs from the one given to `init`: write it to disk.
  package let nodeSecretIsNew: Bool
  /// For `SignalSealer` where there is no TLS.
  package let keys: SignalKeys
}

package enum LoginClientStep: Equatable, Sendable {
  case send([UInt8])
  case done(LoginClientResult)
  case failed(LoginFailure)
}

package struct LoginClient: Sendable {
  private struct Run: Sendable {
    let mode: LoginMode
    let spake: SPAKE2
    let hello: [UInt8]
  }
  private struct Candidate: Sendable {
    let outcome: SPAKE2Outcome
    let authority: [UInt8]
    let signal: SignalKeys
    let box: [UInt8]
  }
  private enum State: Sendable {
    case idle
    case waitsForShares(Run)
    case waitsForAccept(Run, [Candidate])
    case over
  }

  private let node: String
  private let staticKey: KeyPair
  private let verifier: LoginVerifier
  private let nodeSecret: [UInt8]?
  private let exporter: [UInt8]
  private let allowsUnbound: Bool
  private let ciphers: CipherSet
  private let attachment: [UInt8]
  private var state = State.idle

  /// - Parameters:
  ///   - node: 1…255 bytes, no control characters.
  ///   - nodeSecret: 32 bytes from an earlier login's result, or nil.
  ///   - exporter: RFC 9266 exporter of the TLS connection; empty without TLS.
  ///   - allowsUnbound: the server's name was verified by a CA, so a TLS proxy
  ///     before it is acceptable. Means nothing without TLS.
  ///   - attachment: at most 1024 bytes for the server core (identity proof).
  package init(
    node: String, staticKey: KeyPair, verifier: LoginVerifier, nodeSecret: [UInt8]?,
    exporter: [UInt8], allowsUnbound: Bool = false, ciphers: CipherSet = [.chaCha20Poly1305],
    attachment: [UInt8] = []
  ) {
    precondition(isLoginName(node) && attachment.count <= LoginLimits.attachment)
    precondition(nodeSecret == nil || nodeSecret?.count == 32)
    self.node = node
    self.staticKey = staticKey
    self.verifier = verifier
    self.nodeSecret = nodeSecret
    self.exporter = exporter
    self.allowsUnbound = allowsUnbound
    self.ciphers = ciphers
    self.attachment = attachment
  }

  /// The first message. Once per value.
  package mutating func start(using random: inout SeededRandom) -> [UInt8] {
    guard case .idle = state else { preconditionFailure("a login starts once") }
    return begin(nodeSecret == nil ? .token : .nodeSecret, using: &random)
  }

  /// A login message of the server.
  package mutating func receive(
    _ bytes: [UInt8], using random: inout SeededRandom
  ) -> LoginClientStep {
    let message: LoginMessage
    do { message = try LoginMessage(decoding: bytes) } catch {
      return end(.malformed)
    }
    switch (state, message) {
    case (.waitsForShares(let run), .shares(let shares)):
      return confirm(run, shares, bytes)
    case (.waitsForAccept(let run, let candidates), .accept(let accept)):
      return finish(run, candidates, accept)
    case (.waitsForShares(let run), .refusal(let refusal)),
      (.waitsForAccept(let run, _), .refusal(let refusal)):
      if run.mode == .nodeSecret,
        refusal.reason == .unknownNode || refusal.reason == .wrongToken
      {
        return .send(begin(.token, using: &random))
      }
      return end(.refused(refusal))
    default:
      return end(.outOfOrder)
    }
  }

  private mutating func begin(_ mode: LoginMode, using random: inout SeededRandom) -> [UInt8] {
    let password =
      if mode == .nodeSecret, let nodeSecret {
        verifier.password(nodeSecret: nodeSecret)
      } else {
        verifier.password
      }
    let spake = SPAKE2(
      role: .a, identityA: Array(node.utf8), identityB: LoginWire.serverIdentity,
      password: password, using: &random)
    let hello = LoginMessage.hello(
      LoginHello(
        mode: mode, ciphers: ciphers.rawValue, staticKey: staticKey.publicKey, share: spake.share,
        node: node, attachment: attachment)
    ).encoded()
    state = .waitsForShares(Run(mode: mode, spake: spake, hello: hello))
    return hello
  }

  private mutating func confirm(
    _ run: Run, _ shares: LoginShares, _ bytes: [UInt8]
  ) -> LoginClientStep {
    guard run.mode == .token || shares.shares.count == 1 else { return end(.malformed) }
    guard shares.isBound || exporter.isEmpty || allowsUnbound else { return end(.unboundTLS) }
    guard let dh = X25519.shared(secret: staticKey.secret, publicKey: shares.ephemeral) else {
      return end(.malformed)
    }
    let transcript = LoginTranscript(
      exporter: shares.isBound ? exporter : [], hello: run.hello, shares: bytes, dh: dh)
    var candidates: [Candidate] = []
    for (index, share) in shares.shares.enumerated() {
      let additional = transcript.additional(index: index, authority: share.authority)
      guard let outcome = run.spake.finish(peerShare: share.share, additional: additional) else {
        return end(.malformed)
      }
      let keys = transcript.keys(outcome.key, additional: additional)
      candidates.append(
        Candidate(
          outcome: outcome, authority: share.authority, signal: keys.signal, box: keys.box))
    }
    state = .waitsForAccept(run, candidates)
    return .send(
      LoginMessage.confirm(
        LoginConfirm(proof: transcript.proof, codes: candidates.map(\.outcome.confirmation))
      ).encoded())
  }

  private mutating func finish(
    _ run: Run, _ candidates: [Candidate], _ accept: LoginAccept
  ) -> LoginClientStep {
    guard Int(accept.index) < candidates.count else { return end(.malformed) }
    let candidate = candidates[Int(accept.index)]
    guard candidate.outcome.verify(accept.code),
      let plain = openBox(key: candidate.box, counter: 0, accept.box)
    else { return end(.serverNotAuthentic) }
    guard let gift = LoginGift(decoding: plain) else { return end(.malformed) }
    guard let kept = gift.nodeSecret.isEmpty ? nodeSecret : gift.nodeSecret else {
      return end(.malformed)
    }
    state = .over
    return .done(
      LoginClientResult(
        meshIndex: Int(accept.index), mesh: gift.mesh, mode: run.mode,
        authority: candidate.authority, nodeSecret: kept, nodeSecretIsNew: kept != nodeSecret,
        keys: candidate.signal))
  }

  private mutating func end(_ failure: LoginFailure) -> LoginClientStep {
    state = .over
    return .failed(failure)
  }
}
