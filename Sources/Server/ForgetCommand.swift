/// `martlet server forget NODE`: asks the running server by its control socket,
/// or changes the database of a stopped one.

internal import Bytes
internal import Reactor
internal import Storage

package enum ForgetCommand {
  package enum Outcome: Sendable {
    case forgotten
    case unknown
    case failed(String)
  }

  package static func run(
    node: String, mesh: String?, directory: String
  ) -> Outcome {
    let path = directory + "/control.sock"
    if Files.exists(path) {
      do throws(SystemError) {
        let exchange = try Exchange(path, "forget\t\(node)\t\(mesh ?? "")\n")
        if let line = exchange.run() {
          switch line {
          case "forgotten": return .forgotten
          case "unknown": return .unknown
          default: return .failed(line)
          }
        }
      } catch {
        // Nobody answers on it: the server is stopped.
      }
    }
    guard Files.exists(directory + "/server.db") else {
      return .failed("\(directory) holds no server's state; give -data DIR")
    }
    do {
      let lock = try LockFile(directory + "/lock")
      defer { lock.release() }
      let count = try ServerStorage.forget(
        node: node, mesh: mesh, path: directory + "/server.db")
      return count > 0 ? .forgotten : .unknown
    } catch {
      return .failed("\(error)")
    }
  }

  private final class Exchange: ConnectionDelegate {
    private let loop: EventLoop
    private var connection: StreamConnection?
    private let line: String
    private var input: [UInt8] = []
    private var answer: String?

    init(_ path: String, _ line: String) throws(SystemError) {
      self.line = line
      loop = try EventLoop(name: "control")
      connection = try StreamConnection.connect(loop, unixPath: path, delegate: self)
      if connection?.isOpen == true { begin() }
    }

    func run() -> String? {
      loop.schedule(after: .seconds(5)) { [weak self] in self?.loop.stop() }
      if answer == nil { loop.run() }
      connection?.close()
      return answer
    }

    private func begin() { _ = connection?.writeAll(Array(line.utf8)) }

    func connectionOpened(_ connection: StreamConnection) { begin() }

    func connectionReadable(_ connection: StreamConnection) {
      switch connection.read({ input.append($0.bytes) }) {
      case .bytes:
        guard let end = input.firstIndex(of: 0x0a) else { return }
        answer = String(decoding: input[..<end], as: UTF8.self)
        loop.stop()
      case .wouldBlock: break
      case .end, .failed: loop.stop()
      }
    }

    func connectionFailed(_ connection: StreamConnection, _ error: SystemError) { loop.stop() }
  }
}
