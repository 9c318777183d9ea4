/// The symmetric half of a Noise handshake with ChaCha20-Poly1305 and BLAKE2s
/// (Noise §5.2): running key and transcript hash. WireGuard's handshake and the
/// sealed requests to relays (`NoiseX`) are made of it. It knows no patterns, no
/// peers and no time. Called per handshake, never per packet.

/// Chaining key and transcript hash of one handshake.
public struct NoiseState: Sendable {
  public private(set) var chainingKey: [UInt8]
  public private(set) var hash: [UInt8]

  /// - Parameter construction: 32 bytes: the protocol's name, padded with zeros
  ///   or hashed (Noise §5.2 InitializeSymmetric).
  public init(construction: [UInt8]) {
    precondition(construction.count == 32)
    chainingKey = construction
    hash = construction
  }

  public mutating func mixHash(_ bytes: [UInt8]) { hash = BLAKE2s.hash(hash, bytes) }

  /// For ephemeral keys and results of which no cipher key is taken.
  public mutating func mixKey(_ bytes: [UInt8]) {
    chainingKey = BLAKE2s.kdf(n: 1, key: chainingKey, bytes)[0]
  }

  public mutating func mixKeyForCipher(_ bytes: [UInt8]) -> [UInt8] {
    let keys = BLAKE2s.kdf(n: 2, key: chainingKey, bytes)
    chainingKey = keys[0]
    return keys[1]
  }

  public mutating func mixPresharedKey(_ bytes: [UInt8]) -> [UInt8] {
    let keys = BLAKE2s.kdf(n: 3, key: chainingKey, bytes)
    chainingKey = keys[0]
    mixHash(keys[1])
    return keys[2]
  }

  /// - Parameter counter: how often this key was used before.
  public mutating func seal(
    key: [UInt8], counter: UInt64 = 0, _ plaintext: [UInt8]
  ) -> [UInt8] {
    let box = sealBox(key: key, counter: counter, plaintext, aad: hash)
    mixHash(box)
    return box
  }

  /// Nil when `box` is not authentic; the state is then as before.
  public mutating func open(key: [UInt8], counter: UInt64 = 0, _ box: [UInt8]) -> [UInt8]? {
    guard let plaintext = openBox(key: key, counter: counter, box, aad: hash) else { return nil }
    mixHash(box)
    return plaintext
  }

  /// (the initiator's sending key, the responder's sending key)
  public var transportKeys: ([UInt8], [UInt8]) {
    let keys = BLAKE2s.kdf(n: 2, key: chainingKey, [])
    return (keys[0], keys[1])
  }
}
