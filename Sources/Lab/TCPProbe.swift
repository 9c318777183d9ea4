/// A TCP connection made inside a namespace, as a descriptor, blocking with a
/// time limit. For looking at routers, for fetching through tunnels and for
/// asking an agent's API.

internal import Bytes
internal import CLinux
internal import Glibc
internal import Reactor

enum TCPProbe {
  enum Outcome {
    /// The caller closes it.
    case connected(Int32)
    case refused
    case silent
  }

  static func connect(
    _ namespace: String, _ endpoint: Endpoint, until deadline: Instant, _ workshop: Workshop
  ) throws(LabFailure) -> Outcome {
    var remote = martlet_endpoint(
      high: endpoint.address.high, low: endpoint.address.low, port: endpoint.port)
    var options = martlet_socket_options()
    var inProgress: Int32 = 0
    let fd = try Namespaces.inside(namespace) { () throws(LabFailure) in
      unsafe martlet_connect(&remote, nil, &options, &inProgress)
    }
    if fd == -ECONNREFUSED { return .refused }
    guard fd >= 0 else { return .silent }
    guard inProgress != 0 else { return .connected(fd) }
    let epoll = martlet_epoll_create()
    defer { if epoll >= 0 { _ = martlet_close(epoll) } }
    var isOurs = true
    defer { if isOurs { _ = martlet_close(fd) } }
    guard epoll >= 0 else { throw .failed("epoll: \(SystemError(-epoll, "epoll_create1"))") }
    let writable = UInt32(MARTLET_OUT)
    _ = martlet_epoll_control(epoll, Int32(MARTLET_ADD), fd, writable, 0)
    guard try workshop.wait([epoll], until: deadline).contains(true) else { return .silent }
    switch martlet_socket_error(fd) {
    case 0:
      isOurs = false
      return .connected(fd)
    case ECONNREFUSED: return .refused
    default: return .silent
    }
  }

  /// Something at that port answers. A refusal is an answer too: the network
  /// let both packets through.
  static func answers(
    _ namespace: String, _ endpoint: Endpoint, within: TimeAmount, _ workshop: Workshop
  ) throws(LabFailure) -> Bool {
    switch try connect(namespace, endpoint, until: Workshop.after(within), workshop) {
    case .connected(let fd):
      _ = martlet_close(fd)
      return true
    case .refused: return true
    case .silent: return false
    }
  }
}
