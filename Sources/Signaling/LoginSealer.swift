/// Seals signalling messages on a connection without TLS, with the keys of its
/// login. Order and loss are the connection's business: numbers are counted,
/// not sent. docs/protocol/login.md "Transcript and keys".

#if canImport(Crypto)
  internal import Crypto
#endif

/// One end of one connection. A class, because two copies would use a number twice.
package final class SignalSealer {
  package enum Side: Sendable { case node, server }

  private let sealing: AEADKey
  private let opening: AEADKey
  private var sent: UInt64 = 0
  private var received: UInt64 = 0
  private var isBroken = false

  package init(_ keys: SignalKeys, side: Side) {
    let own = side == .node ? keys.fromNode : keys.fromServer
    let peer = side == .node ? keys.fromServer : keys.fromNode
    sealing = AEADKey(.chaCha20Poly1305, key: own, direction: .seal)
    opening = AEADKey(.chaCha20Poly1305, key: peer, direction: .open)
  }

  /// The message to send: 16 bytes longer.
  package func seal(_ message: [UInt8]) -> [UInt8] {
    var bytes = message
    bytes.append(contentsOf: repeatElement(0, count: AEADLimits.tagBytes))
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    sealing.seal(counter: sent, &raw)
    sent += 1
    return bytes
  }

  /// The message received, or nil: not authentic, lost or out of order. The
  /// connection is then to be closed; nothing opens any more.
  package func open(_ sealed: [UInt8]) -> [UInt8]? {
    guard !isBroken else { return nil }
    var bytes = sealed
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    guard opening.open(counter: received, &raw) else {
      isBroken = true
      return nil
    }
    received += 1
    bytes.removeLast(AEADLimits.tagBytes)
    return bytes
  }
}
