// A UDP socket of a loop: receives and sends many datagrams per system call,
// and many segments per datagram where the kernel can (UDP_GRO, UDP_SEGMENT).
// Never fragments (DF is always set), never blocks, allocates nothing per
// packet. What the kernel says about a destination is reported, not thrown.

package import Bytes
internal import CLinux
internal import Glibc

/// How a UDP socket is made.
package struct UDPOptions: Sendable {
  /// Bytes; 0 = the system's.
  package var receiveBuffer = ReactorLimits.udpReceiveBuffer
  package var sendBuffer = ReactorLimits.udpSendBuffer
  /// SO_MARK, so that an exit route never swallows a carrier; 0 = none. Needs
  /// CAP_NET_ADMIN; see `UDPSocket.isMarked`.
  package var mark: UInt32 = 0
  /// Bind to this interface (SO_BINDTODEVICE); empty = any.
  package var interface = ""
  /// Tell at which local address each datagram arrived.
  package var wantsLocalAddress = false
  package var reuseAddress = false
  package var reusePort = false
  /// Off: never ask the kernel to join or cut segments (for tests).
  package var usesOffload = true

  package init() {}
}

/// What came with a datagram.
package struct DatagramInfo: Sendable {
  package var remote: Endpoint
  /// The address it arrived at; unspecified unless `wantsLocalAddress`.
  package var local: IPAddress
}

/// What a UDP socket has done so far.
package struct UDPCounters: Sendable {
  package var datagramsReceived: UInt64 = 0
  package var bytesReceived: UInt64 = 0
  package var receiveCalls: UInt64 = 0
  package var datagramsSent: UInt64 = 0
  package var bytesSent: UInt64 = 0
  package var sendCalls: UInt64 = 0
  /// Datagrams kept because the kernel took no more.
  package var delayed: UInt64 = 0
  /// Dropped: the backlog was full.
  package var droppedBacklog: UInt64 = 0
  /// Dropped: larger than the path or the device takes (EMSGSIZE).
  package var droppedTooLarge: UInt64 = 0
  /// Dropped: refused or unreachable, told by the kernel.
  package var droppedUnreachable: UInt64 = 0
  package var droppedOther: UInt64 = 0
  /// Dropped on receipt: cut off by the kernel.
  package var truncated: UInt64 = 0
  /// ICMP errors and such, from the error queue.
  package var errorsReported: UInt64 = 0
  /// Offloaded sends that had to be repeated one by one.
  package var offloadRefused: UInt64 = 0

  package init() {}
}

/// A destination that does not work, as the kernel tells. ICMP is not
/// authenticated: a hint, never a proof.
package struct DatagramFailure: Sendable {
  package var remote: Endpoint
  package var error: SystemError
  /// The next hop's MTU when the error says so, else 0.
  package var maximumSize: Int
  /// The router at which its time to live was over, when that is what happened.
  package var expiredAt: IPAddress?
}

/// Told by a UDP socket.
package protocol UDPSocketDelegate: AnyObject {
  /// Datagrams wait: call `socket.receive`. Called again while they do.
  func socketReadable(_ socket: UDPSocket)
  /// The backlog has been sent; `isBlocked` is false again.
  func socketWritable(_ socket: UDPSocket)
  func socket(_ socket: UDPSocket, failed: DatagramFailure)
}

extension UDPSocketDelegate {
  package func socketWritable(_ socket: UDPSocket) {}
  package func socket(_ socket: UDPSocket, failed: DatagramFailure) {}
}

/// A bound UDP socket.
package final class UDPSocket: ReadinessHandler {
  package let loop: EventLoop
  /// The driver's number, as in `Carrier.socket`.
  package let number: UInt32
  /// The address and port it is bound to.
  package let local: Endpoint
  /// False when SO_MARK was asked for and refused.
  package let isMarked: Bool
  /// Kept by the socket until it is closed.
  package var delegate: (any UDPSocketDelegate)?
  package internal(set) var counters = UDPCounters()

  /// A test hook: the kernel takes nothing while it is set.
  package var isHeld = false

  let fd: Int32
  let isV6: Bool
  var sendsSegments: Bool
  var backlog = DatagramBacklog()
  var failures: [DatagramFailure] = []
  package private(set) var isClosed = false

  /// Binds to `endpoint`: IPv4 or IPv6 by its address (IPv6 only, never both);
  /// port 0 = any.
  package init(
    _ loop: EventLoop, bind endpoint: Endpoint, number: UInt32, options: UDPOptions = UDPOptions()
  ) throws(SystemError) {
    var raw = martlet_socket_options(options.receiveBuffer, options.sendBuffer, options.interface)
    raw.mark = options.mark
    raw.reuse_address = options.reuseAddress ? 1 : 0
    raw.reuse_port = options.reusePort ? 1 : 0
    raw.packet_info = options.wantsLocalAddress ? 1 : 0
    var features: Int32 = 0
    var address = martlet_endpoint(endpoint)
    let fd = try check(unsafe martlet_udp_open(&address, &raw, &features), "bind")
    self.loop = loop
    self.number = number
    self.fd = fd
    isV6 = !endpoint.address.isV4
    local = localEndpoint(of: fd) ?? endpoint
    isMarked = features & Int32(MARTLET_UDP_MARK_FAILED) == 0
    sendsSegments = options.usesOffload && features & Int32(MARTLET_UDP_GSO) != 0
    do throws(SystemError) {
      try loop.register(fd, self, for: .readable)
    } catch {
      // The deinit closes it.
      throw error
    }
  }

  deinit { if !isClosed { _ = martlet_close(fd) } }

  /// Closes it; nothing is called afterwards.
  package func close() {
    guard !isClosed else { return }
    isClosed = true
    loop.deregister(fd)
    _ = martlet_close(fd)
    delegate = nil
    backlog = DatagramBacklog()
  }

  /// Bytes of the kernel's buffers (as the kernel counts, overhead included).
  package var receiveBufferBytes: Int { Int(martlet_get_buffer(fd, 0)) }
  package var sendBufferBytes: Int { Int(martlet_get_buffer(fd, 1)) }

  package func ready(_ events: Readiness) {
    if events.contains(.error) { drainErrors() }
    if events.contains(.writable), !isClosed { flushBacklog() }
    if events.contains(.readable), !isClosed { delegate?.socketReadable(self) }
  }

  /// Takes what waits, up to a bounded number of system calls, and calls `body`
  /// for each datagram (coalesced ones cut apart again) with its bytes, which
  /// may be overwritten and are worthless after the call. What is left is told
  /// by another `socketReadable`.
  /// - Returns: datagrams taken.
  @discardableResult
  package func receive(
    _ body: (_ bytes: inout MutableRawSpan, _ info: DatagramInfo) -> Void
  ) -> Int {
    var total = 0
    let scratch = loop.datagrams
    precondition(!scratch.isInUse, "a receive inside a receive")
    scratch.isInUse = true
    defer { scratch.isInUse = false }
    let receiver = unsafe scratch.receiver
    for _ in 0..<ReactorLimits.receivesPerEvent {
      guard !isClosed else { break }
      var result = unsafe martlet_receiver_receive(receiver, fd)
      if result < 0, result != -EAGAIN {
        // An ICMP error of an earlier datagram is told once by whatever call
        // comes next; the datagrams are behind it.
        result = unsafe martlet_receiver_receive(receiver, fd)
      }
      counters.receiveCalls &+= 1
      guard result > 0 else { break }
      total += unsafe deliver(martlet_receiver_datagrams(receiver), Int(result), body)
      if result < ReactorLimits.datagramsPerReceive { break }
    }
    return total
  }

  private func deliver(
    _ datagrams: UnsafePointer<martlet_datagram>, _ count: Int,
    _ body: (_ bytes: inout MutableRawSpan, _ info: DatagramInfo) -> Void
  ) -> Int {
    var packets = 0
    var received = 0
    for index in 0..<count {
      let datagram = unsafe datagrams[index]
      if datagram.truncated != 0 {
        counters.truncated &+= 1
        continue
      }
      let info = DatagramInfo(
        remote: datagram.remote.endpoint, local: datagram.local.address)
      let size = Int(datagram.count)
      let segment = max(1, Int(datagram.segment))
      var offset = 0
      repeat {
        let end = min(offset + segment, size)
        let slice = unsafe UnsafeMutableRawBufferPointer(
          start: datagram.bytes + offset, count: end - offset)
        var span = unsafe slice.mutableBytes
        body(&span, info)
        offset = end
        packets += 1
      } while offset < size && !isClosed
      received += size
      if isClosed { break }
    }
    counters.datagramsReceived &+= UInt64(packets)
    counters.bytesReceived &+= UInt64(received)
    return packets
  }

  /// Reads the error queue and tells the delegate.
  func drainErrors() {
    for _ in 0..<ReactorLimits.errorsPerEvent {
      var entry = martlet_datagram_error()
      guard !isClosed, unsafe martlet_udp_error(fd, &entry) >= 0 else { break }
      guard entry.error != 0 else { continue }
      counters.errorsReported &+= 1
      delegate?.socket(
        self,
        failed: DatagramFailure(
          remote: entry.remote.endpoint, error: SystemError(entry.error, "send"),
          maximumSize: entry.error == EMSGSIZE ? Int(entry.info) : 0,
          expiredAt: entry.expired != 0 ? entry.offender.address : nil))
    }
    // An error without an entry would otherwise ring for ever.
    if !isClosed { _ = martlet_socket_error(fd) }
  }
}

/// What all sockets of a loop share: the receive block and the send table.
final class DatagramScratch {
  let receiver: OpaquePointer
  let sends: UnsafeMutablePointer<martlet_send>
  /// A receive inside a receive's body would overwrite its bytes.
  var isInUse = false

  init() {
    guard let made = unsafe martlet_receiver_create(ReactorLimits.datagramsPerReceive) else {
      fatalError("out of memory")
    }
    unsafe receiver = made
    unsafe sends = .allocate(capacity: Int(MARTLET_SEND_LIMIT))
    unsafe sends.initialize(repeating: martlet_send(), count: Int(MARTLET_SEND_LIMIT))
  }

  deinit {
    unsafe martlet_receiver_destroy(receiver)
    unsafe sends.deallocate()
  }
}

extension martlet_socket_options {
  init(_ receiveBuffer: Int32, _ sendBuffer: Int32, _ interface: String) {
    self.init()
    receive_buffer = receiveBuffer
    send_buffer = sendBuffer
    unsafe withUnsafeMutableBytes(of: &self.interface) { bytes in
      for (index, byte) in interface.utf8.prefix(15).enumerated() { unsafe bytes[index] = byte }
    }
  }
}
