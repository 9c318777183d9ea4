/// The only source of randomness of a machine: ChaCha20 in counter mode
/// (RFC 8439 §2.3) with fast key erasure, seeded with 32 bytes. The driver
/// seeds it from the kernel; the simulator from a test's seed, so that a run
/// repeats to the byte.

/// A cryptographic random generator whose whole output follows from its seed.
public struct SeededRandom: RandomNumberGenerator, Sendable {
  private var key: InlineArray<8, UInt32>
  private var block = InlineArray<16, UInt32>(repeating: 0)
  /// Next unused word of `block`; 16 = none left. Words 0…7 become the key.
  private var position = 16

  /// - Parameter seed: 32 bytes.
  public init(seed: [UInt8]) {
    precondition(seed.count == 32)
    key = InlineArray<8, UInt32> { i in
      UInt32(seed[4 * i]) | UInt32(seed[4 * i + 1]) << 8 | UInt32(seed[4 * i + 2]) << 16
        | UInt32(seed[4 * i + 3]) << 24
    }
  }

  /// For tests and simulations.
  public init(testSeed: UInt64) {
    var seed: [UInt8] = []
    seed.appendUInt64(testSeed)
    self.init(seed: seed + [UInt8](repeating: 0, count: 24))
  }

  public mutating func next() -> UInt64 {
    if position > 14 { refill() }
    let low = UInt64(block[position])
    let high = UInt64(block[position + 1])
    block[position] = 0
    block[position + 1] = 0
    position += 2
    return high << 32 | low
  }

  /// `count` random bytes.
  public mutating func bytes(_ count: Int) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(count + 8)
    while result.count < count { result.appendUInt64(next()) }
    result.removeLast(result.count - count)
    return result
  }

  private mutating func refill() {
    var state = InlineArray<16, UInt32>(repeating: 0)
    state[0] = 0x6170_7865
    state[1] = 0x3320_646e
    state[2] = 0x7962_2d32
    state[3] = 0x6b20_6574
    for i in 0..<8 { state[4 + i] = key[i] }
    let input = state
    for _ in 0..<10 {
      Self.quarter(&state, 0, 4, 8, 12)
      Self.quarter(&state, 1, 5, 9, 13)
      Self.quarter(&state, 2, 6, 10, 14)
      Self.quarter(&state, 3, 7, 11, 15)
      Self.quarter(&state, 0, 5, 10, 15)
      Self.quarter(&state, 1, 6, 11, 12)
      Self.quarter(&state, 2, 7, 8, 13)
      Self.quarter(&state, 3, 4, 9, 14)
    }
    for i in 0..<16 { block[i] = state[i] &+ input[i] }
    for i in 0..<8 {
      key[i] = block[i]
      block[i] = 0
    }
    position = 8
  }

  @inline(__always)
  private static func quarter(
    _ s: inout InlineArray<16, UInt32>, _ a: Int, _ b: Int, _ c: Int, _ d: Int
  ) {
    s[a] &+= s[b]
    s[d] = rotate(s[d] ^ s[a], 16)
    s[c] &+= s[d]
    s[b] = rotate(s[b] ^ s[c], 12)
    s[a] &+= s[b]
    s[d] = rotate(s[d] ^ s[a], 8)
    s[c] &+= s[d]
    s[b] = rotate(s[b] ^ s[c], 7)
  }

  @inline(__always)
  private static func rotate(_ x: UInt32, _ n: UInt32) -> UInt32 { x << n | x >> (32 - n) }
}
