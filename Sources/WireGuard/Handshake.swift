/// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard runs it (whitepaper §5.4):
/// pure functions from keys and messages to keys and messages. Nothing here
/// knows peers, time or carriers; ephemeral keys are given by the caller.

#if canImport(Bytes)
  package import Crypto
#endif

/// The running key and transcript hash of one handshake.
package typealias HandshakeState = NoiseState

extension NoiseState {
  private static let construction = BLAKE2s.hash(
    Array("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".utf8))

  /// The state before the first message.
  init(responder publicKey: [UInt8]) {
    self.init(construction: Self.construction)
    mixHash(Array("WireGuard v1 zx2c4 Jason@zx2c4.com".utf8))
    mixHash(publicKey)
  }
}

package enum Handshake {
  /// What both ends know of each other before a handshake.
  package struct Identity {
    var local: KeyPair
    var peerPublicKey: [UInt8]
    /// X25519 of the two static keys; the same for every handshake.
    var staticShared: [UInt8]
    /// 32 bytes; zeros when there is none.
    var presharedKey: [UInt8]

    package init(
      local: KeyPair, peerPublicKey: [UInt8], staticShared: [UInt8], presharedKey: [UInt8]
    ) {
      self.local = local
      self.peerPublicKey = peerPublicKey
      self.staticShared = staticShared
      self.presharedKey = presharedKey
    }
  }

  /// Initiator: the first message and the state that awaits the second. Nil
  /// when the peer's key is of low order.
  package static func initiate(
    _ identity: Identity, ephemeral: KeyPair, sender: UInt32, stamp: Stamp
  ) -> (message: InitiationMessage, state: HandshakeState)? {
    var state = HandshakeState(responder: identity.peerPublicKey)
    state.mixKey(ephemeral.publicKey)
    state.mixHash(ephemeral.publicKey)
    guard
      let shared = X25519.shared(secret: ephemeral.secret, publicKey: identity.peerPublicKey)
    else { return nil }
    let staticKey = state.mixKeyForCipher(shared)
    let sealedStatic = state.seal(key: staticKey, identity.local.publicKey)
    let stampKey = state.mixKeyForCipher(identity.staticShared)
    let sealedStamp = state.seal(key: stampKey, stamp.bytes)
    let message = InitiationMessage(
      sender: sender, ephemeral: ephemeral.publicKey, sealedStatic: sealedStatic,
      sealedStamp: sealedStamp)
    return (message, state)
  }

  /// Responder, first step: who initiates? One curve operation.
  package static func readInitiator(
    _ message: InitiationMessage, local: KeyPair
  ) -> (publicKey: [UInt8], state: HandshakeState)? {
    var state = HandshakeState(responder: local.publicKey)
    state.mixKey(message.ephemeral)
    state.mixHash(message.ephemeral)
    guard let shared = X25519.shared(secret: local.secret, publicKey: message.ephemeral) else {
      return nil
    }
    let key = state.mixKeyForCipher(shared)
    guard let publicKey = state.open(key: key, message.sealedStatic) else { return nil }
    return (publicKey, state)
  }

  /// Responder, second step: proves that the initiator owns its key.
  package static func readStamp(
    _ message: InitiationMessage, _ identity: Identity, state: inout HandshakeState
  ) -> Stamp? {
    let key = state.mixKeyForCipher(identity.staticShared)
    return state.open(key: key, message.sealedStamp).flatMap(Stamp.init)
  }

  /// Responder, last step: the answer; `state` then yields the transport keys.
  package static func respond(
    to message: InitiationMessage, _ identity: Identity, ephemeral: KeyPair, sender: UInt32,
    state: inout HandshakeState
  ) -> ResponseMessage? {
    state.mixKey(ephemeral.publicKey)
    state.mixHash(ephemeral.publicKey)
    guard
      let first = X25519.shared(secret: ephemeral.secret, publicKey: message.ephemeral),
      let second = X25519.shared(secret: ephemeral.secret, publicKey: identity.peerPublicKey)
    else { return nil }
    state.mixKey(first)
    state.mixKey(second)
    let key = state.mixPresharedKey(identity.presharedKey)
    let nothing = state.seal(key: key, [])
    return ResponseMessage(
      sender: sender, receiver: message.sender, ephemeral: ephemeral.publicKey,
      sealedNothing: nothing)
  }

  /// Initiator, last step: the finished state, or nil when not authentic.
  package static func finish(
    _ message: ResponseMessage, _ identity: Identity, ephemeralSecret: [UInt8],
    state: HandshakeState
  ) -> HandshakeState? {
    var state = state
    state.mixKey(message.ephemeral)
    state.mixHash(message.ephemeral)
    guard
      let first = X25519.shared(secret: ephemeralSecret, publicKey: message.ephemeral),
      let second = X25519.shared(secret: identity.local.secret, publicKey: message.ephemeral)
    else { return nil }
    state.mixKey(first)
    state.mixKey(second)
    let key = state.mixPresharedKey(identity.presharedKey)
    guard state.open(key: key, message.sealedNothing) != nil else { return nil }
    return state
  }

  /// The key a packet cipher uses. ChaCha20-Poly1305 takes WireGuard's own;
  /// AES gets one derived from it, so that no key serves two ciphers.
  package static func packetKey(_ transportKey: [UInt8], cipher: AEADCipher) -> [UInt8] {
    switch cipher {
    case .chaCha20Poly1305: transportKey
    case .aes256GCM:
      BLAKE2s.kdf(n: 1, key: transportKey, Array("martlet aes-256-gcm v1".utf8))[0]
    }
  }
}
