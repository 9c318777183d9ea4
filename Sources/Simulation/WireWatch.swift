/// Watches what one process sends to whom, at the wire: to an address from
/// which nothing ever came, no more than the probe budget (DESIGN §2).

#if canImport(Bytes)
  package import Bytes
#endif

package struct WireWatch {
  private struct Unanswered {
    var times: [Instant] = []
    var sizes: [Int] = []
    var bytes = 0
  }
  private var heard: Set<IPAddress> = []
  private var unanswered: [IPAddress: Unanswered] = [:]

  /// DESIGN §2, not the node's own constants: the watch must not move with them.
  static let packets = 20
  static let bytes = 3_000
  static let window = TimeAmount.seconds(10)

  init() {}

  /// A new process owes nothing for the old one.
  mutating func restart() { self = WireWatch() }

  mutating func received(from address: IPAddress, bytes: Int) {
    guard address != Attacker.address else { return }
    heard.insert(address)
    unanswered[address] = nil
  }

  /// - Returns: words when a limit is broken.
  mutating func sent(to address: IPAddress, bytes: Int, now: Instant) -> String? {
    guard !heard.contains(address), address != Attacker.address else { return nil }
    var entry = unanswered[address, default: Unanswered()]
    while let first = entry.times.first, now - first >= Self.window {
      entry.bytes -= entry.sizes[0]
      entry.times.removeFirst()
      entry.sizes.removeFirst()
    }
    entry.times.append(now)
    entry.sizes.append(bytes)
    entry.bytes += bytes
    unanswered[address] = entry
    guard entry.times.count > Self.packets || entry.bytes > Self.bytes else { return nil }
    return
      "\(entry.times.count) packets and \(entry.bytes) bytes in 10 s to \(address), which never answered"
  }
}
