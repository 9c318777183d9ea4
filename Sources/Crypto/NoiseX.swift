/// Noise_X_25519_ChaChaPoly_BLAKE2s (Noise §7.4): one message from a known
/// sender to a known receiver, sealed so that only the receiver reads it and
/// learns who sent it. It gives no protection from replay: whoever opens it
/// must remember what it has seen.
///
///     0          32                80            96 + n
///     +----------+-----------------+-------------+
///     | ephemeral| static, sealed  | payload,    |   es, then ss
///     |       32 |              48 | sealed n+16 |
///     +----------+-----------------+-------------+

public enum NoiseX {
  /// Bytes a message is longer than its payload.
  public static let overhead = 96
  /// Bytes of the ephemeral key in front.
  public static let ephemeralBytes = 32

  // 32 bytes, so that Noise takes the name itself and not its hash.
  private static let construction = Array("Noise_X_25519_ChaChaPoly_BLAKE2s".utf8)

  public struct Sealed: Sendable {
    public let message: [UInt8]
    /// 32 bytes that only sender and receiver know: the key that Noise §5.2
    /// Split gives the responder, which a one-way pattern never uses. For the
    /// authentication of what follows the message.
    public let secret: [UInt8]
  }

  public struct Opened: Sendable {
    public let payload: [UInt8]
    /// The sender's static public key, proven.
    public let sender: [UInt8]
    /// As `Sealed.secret`.
    public let secret: [UInt8]
  }

  /// - Parameters:
  ///   - ephemeral: fresh for every message.
  ///   - prologue: what both agree on beforehand; not sent.
  /// - Returns: nil when the receiver's key is of low order.
  public static func seal(
    _ payload: [UInt8], from sender: KeyPair, to receiver: [UInt8], ephemeral: KeyPair,
    prologue: [UInt8]
  ) -> Sealed? {
    var state = start(receiver: receiver, prologue: prologue)
    guard let es = X25519.shared(secret: ephemeral.secret, publicKey: receiver),
      let ss = X25519.shared(secret: sender.secret, publicKey: receiver)
    else { return nil }
    state.mixHash(ephemeral.publicKey)
    let staticKey = state.mixKeyForCipher(es)
    let sealedStatic = state.seal(key: staticKey, sender.publicKey)
    let payloadKey = state.mixKeyForCipher(ss)
    let sealedPayload = state.seal(key: payloadKey, payload)
    return Sealed(
      message: ephemeral.publicKey + sealedStatic + sealedPayload, secret: state.transportKeys.1)
  }

  /// Two curve operations, one when the first box is not authentic.
  /// - Returns: nil when the message is not one for `receiver`.
  public static func open(
    _ message: [UInt8], receiver: KeyPair, prologue: [UInt8]
  ) -> Opened? {
    guard message.count >= overhead else { return nil }
    let ephemeral = Array(message[..<32])
    var state = start(receiver: receiver.publicKey, prologue: prologue)
    guard let es = X25519.shared(secret: receiver.secret, publicKey: ephemeral) else { return nil }
    state.mixHash(ephemeral)
    let staticKey = state.mixKeyForCipher(es)
    guard let sender = state.open(key: staticKey, Array(message[32..<80])),
      let ss = X25519.shared(secret: receiver.secret, publicKey: sender)
    else { return nil }
    let payloadKey = state.mixKeyForCipher(ss)
    guard let payload = state.open(key: payloadKey, Array(message[80...])) else { return nil }
    return Opened(payload: payload, sender: sender, secret: state.transportKeys.1)
  }

  private static func start(receiver: [UInt8], prologue: [UInt8]) -> NoiseState {
    var state = NoiseState(construction: construction)
    state.mixHash(prologue)
    state.mixHash(receiver)
    return state
  }
}
