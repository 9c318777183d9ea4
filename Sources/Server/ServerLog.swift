/// The server's lines on stderr: ISO time, level, words. Names and addresses
/// only; never a token, a key or a ticket. Bounded by rate, so that a flood of
/// bad logins is not a flood of lines.

internal import Bytes
package import CommandLine
internal import Reactor
internal import ServerCore

package final class ServerLog {
  private let minimum: LogLevel
  private let write: (String) -> Void
  private var bucket = TokenBucket(ratePerSecond: 20, burst: 200)
  private var suppressed = 0

  /// - Parameter write: takes a whole line, without its newline.
  package init(minimum: LogLevel, write: @escaping (String) -> Void) {
    self.minimum = minimum
    self.write = write
  }

  package func info(_ words: @autoclosure () -> String) { say(.info, words()) }
  package func warn(_ words: @autoclosure () -> String) { say(.warn, words()) }

  /// From any thread: what must not be lost.
  static func emergency(_ words: String) { ProcessSettings.writeError("inp2ps: \(words)\n") }

  private func say(_ level: LogLevel, _ words: @autoclosure () -> String) {
    guard level >= minimum else { return }
    guard bucket.take(now: EventLoop.clock()) else {
      suppressed += 1
      return
    }
    if suppressed > 0 {
      write("\(ISOTime.now()) warn \(suppressed) lines were left out")
      suppressed = 0
    }
    write("\(ISOTime.now()) \(level.rawValue) \(words())")
  }

  func write(_ event: ServerLogEvent) {
    switch event {
    case .started(let mesh, let members, let newAuthority):
      say(.info, "\(mesh): \(members) members known\(newAuthority ? ", new authority made" : "")")
    case .badRecord(let kind):
      say(.error, "a stored \(kind) record cannot be read; it is ignored")
    case .loggedIn(let mesh, let node, let address, let isNew):
      say(.info, "\(mesh): \(node) logged in from \(address)\(isNew ? " for the first time" : "")")
    case .loginRefused(let node, let address, let reason):
      say(.warn, "login\(node.map { " of \($0)" } ?? "") from \(address) refused: \(reason)")
    case .nameTaken(let mesh, let node, let address):
      say(
        .warn,
        "\(mesh): \(address) asks for the name \(node), which belongs to another key; `martlet server forget \(node)` frees it")
    case .replaced(let mesh, let node, let old, let new):
      say(.info, "\(mesh): \(node) from \(new) replaces its session from \(old)")
    case .duplicateKey(let mesh, let node, let old, let new):
      say(.warn, "\(mesh): two machines (\(old), \(new)) use the key of \(node); the newer is refused")
    case .wentOffline(let mesh, let node, let reason):
      say(.info, "\(mesh): \(node) went offline\(reason.map { " (\($0.rawValue))" } ?? "")")
    case .renamed(let mesh, let from, let to):
      say(.info, "\(mesh): \(from) is now called \(to)")
    case .forgotten(let mesh, let node):
      say(.info, "\(mesh): \(node) was forgotten")
    case .closed(let address, let reason):
      say(.debug, "connection of \(address) closed: \(reason.rawValue)")
    case .legOpened(let mesh, let node, let address):
      say(.debug, "\(mesh): relay leg of \(node) from \(address)")
    case .meeting(let mesh, let from, let to, let hasChannel):
      say(.debug, "\(mesh): \(from) meets \(to)\(hasChannel ? "" : " without a relay channel")")
    case .relayQuotaUsed(let mesh):
      say(.warn, "\(mesh): the relay quota of today is used up")
    }
  }
}
