/// Watches what one process sends to whom, at the wire: to an address from
/// which nothing ever came, no more than the probe budget; to one at which the
/// server itself saw a node, as much as bounded birthday rounds take (DESIGN §2).
/// The server is its owner's choice and no third party.

#if canImport(Bytes)
  package import Bytes
#endif

package struct WireWatch {
  private struct Unanswered {
    var times: [Instant] = []
    var sizes: [Int] = []
  }
  private var heard: Set<IPAddress> = []
  private var unanswered: [IPAddress: Unanswered] = [:]

  /// DESIGN §2, not the node's own constants: the watch must not move with them.
  static let packets = 20
  static let bytes = 3_000
  static let window = TimeAmount.seconds(10)
  /// Two rounds of 1024 probes and of 256 sockets, then ten minutes of rest;
  /// besides what any address may get.
  static let volleyPackets = 2 * (1_024 + 256) + 60 * packets
  static let volleyBytes = volleyPackets * 150
  static let volleyWindow = TimeAmount.minutes(10)

  init() {}

  /// A new process owes nothing for the old one.
  mutating func restart() { self = WireWatch() }

  mutating func received(from address: IPAddress, bytes: Int) {
    guard address != Attacker.address else { return }
    heard.insert(address)
    unanswered[address] = nil
  }

  /// - Parameter isVouchedFor: the server saw a node at this address.
  /// - Returns: words when a limit is broken.
  mutating func sent(
    to address: IPAddress, bytes: Int, isVouchedFor: Bool = false, now: Instant
  ) -> String? {
    guard !heard.contains(address), address != Attacker.address,
      !SimulatedServer.addresses.contains(address)
    else { return nil }
    var entry = unanswered[address, default: Unanswered()]
    // What is older than both windows counts for neither.
    let old = entry.times.prefix { now - $0 >= Self.volleyWindow }.count
    if old > 0 {
      entry.times.removeFirst(old)
      entry.sizes.removeFirst(old)
    }
    entry.times.append(now)
    entry.sizes.append(bytes)
    unanswered[address] = entry
    let window = isVouchedFor ? Self.volleyWindow : Self.window
    var packets = 0
    var sum = 0
    for i in entry.times.indices.reversed() {
      if now - entry.times[i] >= window { break }
      packets += 1
      sum += entry.sizes[i]
    }
    let (mostPackets, mostBytes) =
      isVouchedFor ? (Self.volleyPackets, Self.volleyBytes) : (Self.packets, Self.bytes)
    guard packets > mostPackets || sum > mostBytes else { return nil }
    return
      "\(packets) packets and \(sum) bytes in \(window.inSeconds) s to \(address), which never answered"
  }
}
