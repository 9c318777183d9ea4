/// A UDP socket in a namespace, blocking with a time limit, for looking at a
/// router from both sides. No part of the product's own networking.

internal import Bytes
internal import CLinux
internal import Glibc
internal import Reactor

final class ProbeSocket {
  let local: Endpoint
  private let fd: Int32
  private let workshop: Workshop
  /// Arrived, and asked for by nobody yet.
  private var kept: [(token: UInt64, from: Endpoint)] = []

  /// - Parameter port: 0 takes any.
  init(
    _ namespace: String, _ address: IPAddress, _ port: UInt16, _ workshop: Workshop
  ) throws(LabFailure) {
    self.workshop = workshop
    var features: Int32 = 0
    var where_ = Self.raw(Endpoint(address, port))
    var options = martlet_socket_options()
    let opened = try Namespaces.inside(namespace) { () throws(LabFailure) in
      unsafe martlet_udp_open(&where_, &options, &features)
    }
    guard opened >= 0 else {
      throw .failed("\(namespace), UDP \(address):\(port): \(SystemError(-opened, "bind"))")
    }
    fd = opened
    var bound = martlet_endpoint()
    _ = unsafe martlet_local_endpoint(fd, &bound)
    local = Endpoint(IPAddress(high: bound.high, low: bound.low), bound.port)
  }

  deinit { _ = martlet_close(fd) }

  private static func raw(_ endpoint: Endpoint) -> martlet_endpoint {
    martlet_endpoint(
      high: endpoint.address.high, low: endpoint.address.low, port: endpoint.port)
  }

  /// Sends a token; what the network does with it is the question.
  func send(_ token: UInt64, to endpoint: Endpoint, hopLimit: UInt8 = 0) {
    let bytes = (0..<8).map { UInt8(truncatingIfNeeded: token >> UInt64(56 - 8 * $0)) }
    unsafe bytes.withUnsafeBytes { buffer in
      var send = unsafe martlet_send(
        bytes: buffer.baseAddress?.assumingMemoryBound(to: UInt8.self), count: 8, segment: 0,
        hop_limit: hopLimit, has_source: 0, remote: Self.raw(endpoint), source: martlet_endpoint())
      // An ICMP error about an earlier packet fails the next send, once.
      for _ in 0..<4 {
        if unsafe martlet_send_batch(fd, local.address.isV4 ? 0 : 1, &send, 1) == 1 { return }
        drainErrors()
      }
    }
  }

  /// Where a token came from; nil when it does not come in time.
  func source(of token: UInt64, within: TimeAmount) throws(LabFailure) -> Endpoint? {
    let deadline = Workshop.after(within)
    while true {
      if let index = kept.firstIndex(where: { $0.token == token }) {
        return kept.remove(at: index).from
      }
      guard try workshop.wait([fd], until: deadline).contains(true) else { return nil }
      receive()
    }
  }

  private func drainErrors() {
    var error = martlet_datagram_error()
    while unsafe martlet_udp_error(fd, &error) >= 0 {}
  }

  private func receive() {
    guard let receiver = unsafe martlet_receiver_create(8) else { return }
    defer { unsafe martlet_receiver_destroy(receiver) }
    let count = unsafe martlet_receiver_receive(receiver, fd)
    if count < 0 {
      drainErrors()
      return
    }
    guard count > 0, let datagrams = unsafe martlet_receiver_datagrams(receiver) else { return }
    for index in 0..<Int(count) {
      let datagram = unsafe datagrams[index]
      guard datagram.count == 8 else { continue }
      var token: UInt64 = 0
      for at in 0..<8 { token = unsafe token << 8 | UInt64(datagram.bytes[at]) }
      kept.append(
        (
          token,
          Endpoint(
            IPAddress(high: datagram.remote.high, low: datagram.remote.low), datagram.remote.port)
        ))
    }
  }
}
