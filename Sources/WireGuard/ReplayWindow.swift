/// Which counters of a keypair have been seen (RFC 6479): a ring of 64-bit
/// words, cleared word by word as the greatest counter advances. One word is
/// always spare, so a window of n bits accepts counters at most n − 64 behind.

package struct ReplayWindow {
  private var words: [UInt64]
  private var greatest: UInt64 = 0

  /// - Parameter bits: a power of two, at least 128.
  package init(bits: Int) {
    precondition(bits >= 128 && bits & (bits - 1) == 0)
    words = [UInt64](repeating: 0, count: bits / 64)
  }

  package var bits: Int { words.count * 64 }

  /// How far behind the greatest counter one may be.
  private var reach: UInt64 { UInt64(words.count - 1) << 6 }

  /// Whether `counter` is new. Asked before decryption; changes nothing.
  package func admits(_ counter: UInt64) -> Bool {
    if counter > greatest { return true }
    guard greatest - counter <= reach else { return false }
    return words[slot(counter)] & bit(counter) == 0
  }

  /// Remembers an authenticated counter. False when it was seen before.
  package mutating func mark(_ counter: UInt64) -> Bool {
    if counter > greatest {
      let steps = (counter >> 6) - (greatest >> 6)
      if steps >= UInt64(words.count) {
        for i in words.indices { words[i] = 0 }
      } else if steps > 0 {
        var word = greatest >> 6
        for _ in 0..<steps {
          word += 1
          words[Int(truncatingIfNeeded: word) & (words.count - 1)] = 0
        }
      }
      greatest = counter
    } else {
      guard greatest - counter <= reach, words[slot(counter)] & bit(counter) == 0 else {
        return false
      }
    }
    words[slot(counter)] |= bit(counter)
    return true
  }

  /// Makes the ring larger without forgetting what it holds. Counters that had
  /// already fallen out of the small window stay refused.
  package mutating func widen(to bits: Int) {
    precondition(bits & (bits - 1) == 0)
    guard bits > self.bits else { return }
    // Everything unknown counts as seen; then the words the ring holds follow.
    var wide = [UInt64](repeating: .max, count: bits / 64)
    let newest = greatest >> 6
    let oldest = newest >= UInt64(words.count - 1) ? newest - UInt64(words.count - 1) : 0
    for word in oldest...newest {
      wide[Int(truncatingIfNeeded: word) & (wide.count - 1)] =
        words[Int(truncatingIfNeeded: word) & (words.count - 1)]
    }
    words = wide
  }

  private func slot(_ counter: UInt64) -> Int {
    Int(truncatingIfNeeded: counter >> 6) & (words.count - 1)
  }
  private func bit(_ counter: UInt64) -> UInt64 { 1 << (counter & 63) }
}
