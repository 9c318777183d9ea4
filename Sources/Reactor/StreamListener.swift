// A listening TCP or Unix socket of a loop: accepts in bounded batches. When
// the process has no descriptors left it rests for a moment instead of
// spinning on a connection it cannot take.

package import Bytes
internal import CLinux
internal import Glibc

/// A listening socket.
package final class StreamListener: ReadinessHandler {
  package let loop: EventLoop
  /// Where it listens; nil for a Unix socket.
  package let local: Endpoint?
  package private(set) var accepted: UInt64 = 0
  /// Connections that could not be taken (no descriptors and such).
  package private(set) var refused: UInt64 = 0

  private let fd: Int32
  private let options: StreamOptions
  private let unixPath: String?
  private var body: ((StreamConnection) -> Void)?
  private var isClosed = false

  /// Listens on a TCP endpoint; port 0 = any. The IPv6 wildcard takes IPv4 too
  /// when `isDualStack`. Accepted connections get `options` and are open; `body`
  /// must set their delegate or close them. `backlog`: connections the kernel
  /// keeps until they are accepted.
  package init(
    _ loop: EventLoop, on endpoint: Endpoint, isDualStack: Bool = false,
    backlog: Int32 = ReactorLimits.listenBacklog, options: StreamOptions = StreamOptions(),
    _ body: @escaping (StreamConnection) -> Void
  ) throws(SystemError) {
    var raw = options.raw
    raw.reuse_address = 1
    raw.dual_stack = isDualStack ? 1 : 0
    var address = martlet_endpoint(endpoint)
    let fd = try check(
      unsafe martlet_listen(&address, &raw, backlog), "listen")
    self.loop = loop
    self.fd = fd
    self.options = options
    self.body = body
    unixPath = nil
    local = localEndpoint(of: fd) ?? endpoint
    try loop.register(fd, self, for: .readable)
  }

  /// Listens on a Unix socket, replacing a dead one at `path` (one that nobody
  /// answers). The file gets the process's umask.
  package init(
    _ loop: EventLoop, unixPath path: String, options: StreamOptions = StreamOptions(),
    _ body: @escaping (StreamConnection) -> Void
  ) throws(SystemError) {
    var result = unsafe martlet_listen_unix(path, ReactorLimits.listenBacklog)
    if result == -EADDRINUSE, !path.hasPrefix("@") {
      var inProgress: Int32 = 0
      let probe = unsafe martlet_connect_unix(path, &inProgress)
      if probe >= 0 { _ = martlet_close(probe) }
      if probe == -ECONNREFUSED {
        _ = unsafe unlink(path)
        result = unsafe martlet_listen_unix(path, ReactorLimits.listenBacklog)
      }
    }
    let fd = try check(result, "listen")
    self.loop = loop
    self.fd = fd
    self.options = options
    self.body = body
    unixPath = path
    local = nil
    try loop.register(fd, self, for: .readable)
  }

  deinit { if !isClosed { _ = martlet_close(fd) } }

  package func close() {
    guard !isClosed else { return }
    isClosed = true
    loop.deregister(fd)
    _ = martlet_close(fd)
    if let unixPath, !unixPath.hasPrefix("@") { _ = unsafe unlink(unixPath) }
    body = nil
  }

  package func ready(_ events: Readiness) {
    for _ in 0..<ReactorLimits.acceptsPerEvent {
      guard !isClosed, let body else { return }
      var address = martlet_endpoint()
      let result = unsafe martlet_accept(fd, &address)
      if result >= 0 {
        do throws(SystemError) {
          let connection = try StreamConnection(
            loop, adopting: result, remote: local == nil ? nil : address.endpoint,
            isConnecting: false, options: options)
          accepted &+= 1
          body(connection)
        } catch {
          refused &+= 1
        }
        continue
      }
      switch -result {
      case EAGAIN: return
      case EMFILE, ENFILE, ENOBUFS, ENOMEM:
        refused &+= 1
        rest()
        return
      // The connection ended before it was taken, or its network did.
      default: refused &+= 1
      }
    }
  }

  private func rest() {
    loop.modify(fd, for: [])
    loop.schedule(after: ReactorLimits.acceptPause) { [weak self] in
      guard let self, !isClosed else { return }
      loop.modify(fd, for: .readable)
    }
  }
}
