/// Lines on stderr: ISO time, level, words. Nothing secret is ever handed in;
/// one message repeated is said once a minute, so that nobody floods it.

internal import Bytes
package import CommandLine
internal import NodeCore
internal import Reactor

package final class AgentLog {
  private let minimum: LogLevel
  private let write: (String) -> Void
  private var lastLine = ""
  private var lastAt = Instant.distantPast
  private var repeats = 0
  private var bucket = TokenBucket(ratePerSecond: 20, burst: 500)
  private var suppressed = 0

  /// - Parameter write: takes a whole line, without its newline.
  package init(minimum: LogLevel, write: @escaping (String) -> Void) {
    self.minimum = minimum
    self.write = write
  }

  package func debug(_ words: @autoclosure () -> String) { say(.debug, words()) }
  package func info(_ words: @autoclosure () -> String) { say(.info, words()) }
  package func warn(_ words: @autoclosure () -> String) { say(.warn, words()) }
  package func error(_ words: @autoclosure () -> String) { say(.error, words()) }

  func write(_ line: NodeLog) {
    let level: LogLevel =
      switch line.level {
      case .debug: .debug
      case .info: .info
      case .warning: .warn
      case .error: .error
      }
    say(level, "\(line.words) [\(line.code)]")
  }

  private func say(_ level: LogLevel, _ words: @autoclosure () -> String) {
    guard level >= minimum else { return }
    let now = EventLoop.clock()
    guard bucket.take(now: now) else {
      suppressed += 1
      return
    }
    if suppressed > 0 {
      write("\(ISOTime.now()) warn \(suppressed) lines were left out")
      suppressed = 0
    }
    // Names and words of peers must not move the reader's cursor.
    let plain = String(
      String.UnicodeScalarView(
        words().unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }))
    let line = "\(level.rawValue) \(plain)"
    if line == lastLine, now - lastAt < .minutes(1) {
      repeats += 1
      return
    }
    if repeats > 0 {
      write("\(ISOTime.now()) info the last message came \(repeats) more times")
      repeats = 0
    }
    lastLine = line
    lastAt = now
    write("\(ISOTime.now()) \(line)")
  }
}
