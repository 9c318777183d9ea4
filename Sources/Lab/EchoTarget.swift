/// The service behind the tunnel, and the client that uses it: numbered lines
/// that must come back in order. Both are sockets of this process in the
/// namespaces of the hosts, so that nothing else has to be installed.

internal import Bytes
internal import CLinux
internal import Glibc
internal import Reactor

/// Answers with what it gets, on loopback of one host.
final class EchoTarget {
  private let listener: Int32
  private var connections: [Int32] = []

  init(_ namespace: String, port: UInt16) throws(LabFailure) {
    var local = martlet_endpoint(
      high: IPAddress.loopbackV4.high, low: IPAddress.loopbackV4.low, port: port)
    var options = martlet_socket_options()
    options.reuse_address = 1
    listener = try Namespaces.inside(namespace) { () throws(LabFailure) in
      unsafe martlet_listen(&local, &options, 16)
    }
    guard listener >= 0 else {
      throw .failed("\(namespace): \(SystemError(-listener, "listen"))")
    }
  }

  deinit {
    _ = martlet_close(listener)
    for connection in connections { _ = martlet_close(connection) }
  }

  var descriptors: [Int32] { [listener] + connections }

  /// What `descriptors` said of itself.
  func serve(_ ready: [Bool]) {
    for (index, connection) in connections.enumerated().reversed() where ready[index + 1] {
      let bytes = Workshop.readSome(connection)
      if bytes.isEmpty || !Descriptors.write(connection, bytes) {
        _ = martlet_close(connection)
        connections.remove(at: index)
      }
    }
    guard ready[0] else { return }
    var remote = martlet_endpoint()
    let accepted = unsafe martlet_accept(listener, &remote)
    if accepted >= 0 { connections.append(accepted) }
  }
}

/// One connection through the tunnel, asked something every so often.
struct EchoClient {
  let descriptor: Int32
  private(set) var sent: UInt32 = 0
  private var received: [UInt8] = []
  /// A line did not come back, or came back wrong, or the stream ended.
  private(set) var isBroken = false
  private(set) var firstByteAt: Instant?
  private(set) var longestSilence = TimeAmount.zero
  private var lastAsked: Instant?

  init(_ descriptor: Int32) { self.descriptor = descriptor }

  private static func line(_ number: UInt32) -> [UInt8] { Array("line \(number)\n".utf8) }

  /// The line before has come back.
  var isAnswered: Bool { lastAsked == nil }

  mutating func ask(now: Instant) {
    guard !isBroken else { return }
    sent += 1
    lastAsked = now
    if !Descriptors.write(descriptor, Self.line(sent)) { isBroken = true }
  }

  mutating func receive(now: Instant) {
    let bytes = Workshop.readSome(descriptor)
    if bytes.isEmpty {
      isBroken = true
      return
    }
    if firstByteAt == nil { firstByteAt = now }
    received += bytes
    let wanted = Self.line(sent)
    guard received.count >= wanted.count else { return }
    if received != wanted { isBroken = true }
    received.removeAll()
    if let asked = lastAsked {
      longestSilence = max(
        longestSilence, TimeAmount(nanoseconds: now.nanoseconds - asked.nanoseconds))
    }
    lastAsked = nil
  }
}
