// Loops run inside the test's own thread until a condition holds. A watchdog
// deadline ends a test that would hang; nothing sleeps.

import Bytes
import Reactor

extension EventLoop {
  /// Runs until `condition` holds after a batch; false when the watchdog came first.
  func run(
    within limit: TimeAmount = .seconds(20), until condition: @escaping () -> Bool
  ) -> Bool {
    var isMet = false
    let watchdog = schedule(at: EventLoop.clock() + limit) { self.stop() }
    let observer = afterEachBatch {
      if condition() {
        isMet = true
        self.stop()
      }
    }
    run()
    cancel(watchdog)
    removeObserver(observer)
    return isMet
  }
}

let loopback4 = Endpoint(.loopbackV4, 0)
let loopback6 = Endpoint(.loopbackV6, 0)

/// Counted, and the same for the same seed.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
  var state = UInt64(truncatingIfNeeded: seed) &* 0x9e37_79b9_7f4a_7c15 | 1
  return (0..<count).map { _ in
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return UInt8(truncatingIfNeeded: state >> 24)
  }
}

/// Collects what sockets tell.
final class UDPCollector: UDPSocketDelegate {
  var packets: [[UInt8]] = []
  var count = 0
  var bytes = 0
  var keeps = true
  var infos: [DatagramInfo] = []
  var failures: [DatagramFailure] = []
  var writables = 0
  var onPacket: ((UDPSocket, RawSpan, DatagramInfo) -> Void)?

  func socketReadable(_ socket: UDPSocket) {
    socket.receive { span, info in
      count += 1
      bytes += span.byteCount
      if keeps {
        packets.append([UInt8](span.bytes))
        infos.append(info)
      }
      onPacket?(socket, span.bytes, info)
    }
  }
  func socketWritable(_ socket: UDPSocket) { writables += 1 }
  func socket(_ socket: UDPSocket, failed: DatagramFailure) { failures.append(failed) }
}

/// A connection's delegate made of closures.
final class StreamScript: ConnectionDelegate {
  var opened: (StreamConnection) -> Void = { _ in }
  var readable: (StreamConnection) -> Void = { _ in }
  var writable: (StreamConnection) -> Void = { _ in }
  var failure: SystemError?
  var isOpened = false

  func connectionOpened(_ connection: StreamConnection) {
    isOpened = true
    opened(connection)
  }
  func connectionReadable(_ connection: StreamConnection) { readable(connection) }
  func connectionWritable(_ connection: StreamConnection) { writable(connection) }
  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { failure = error }
}
