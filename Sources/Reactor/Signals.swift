// Signals as events of a loop (signalfd), and the settings a process makes
// once, before its first thread.

internal import CLinux
internal import Glibc

/// A signal a program reacts to.
package enum ProcessSignal: Int32, Sendable, CaseIterable {
  case hangUp = 1
  case interrupt = 2
  case terminate = 15
  case user1 = 10
  case user2 = 12
}

/// Delivers signals to a loop. Keep it as long as they are wanted.
package final class SignalSource: ReadinessHandler {
  private let loop: EventLoop
  private let fd: Int32
  private let body: (ProcessSignal) -> Void

  /// Blocks `signals` in the calling thread; `ProcessSettings.prepare` must
  /// have done so before other threads were started.
  package init(
    _ loop: EventLoop, _ signals: [ProcessSignal], _ body: @escaping (ProcessSignal) -> Void
  ) throws(SystemError) {
    self.loop = loop
    self.body = body
    let numbers = signals.map(\.rawValue)
    fd = try check(martlet_signalfd(numbers, Int32(numbers.count)), "signalfd")
    try loop.register(fd, self, for: .readable)
  }

  /// Stops delivery; the signals stay blocked.
  package func close() {
    loop.deregister(fd)
    _ = martlet_close(fd)
  }

  package func ready(_ events: Readiness) {
    while true {
      let number = martlet_signalfd_read(fd)
      guard number >= 0 else { return }
      if let signal = ProcessSignal(rawValue: number) { body(signal) }
    }
  }
}

/// What a process sets up once.
package enum ProcessSettings {
  /// Blocks the signals that loops take, ignores SIGPIPE, raises the limit of
  /// open files to the hard limit, sets umask 077. Call first in main.
  /// - Returns: how many files may be open.
  @discardableResult
  package static func prepare(
    blocking signals: [ProcessSignal] = [.hangUp, .interrupt, .terminate]
  ) -> Int {
    let numbers = signals.map(\.rawValue)
    _ = martlet_block_signals(numbers, Int32(numbers.count))
    _ = martlet_ignore_sigpipe()
    umask(0o077)
    return Int(martlet_raise_file_limit())
  }

  /// Sends a signal to the calling thread.
  package static func raiseInThread(_ signal: ProcessSignal) {
    pthread_kill(pthread_self(), signal.rawValue)
  }

  /// Whether AES-256-GCM is cheap on this CPU.
  package static var hasAES: Bool { martlet_has_aes() != 0 }

  package static var processID: Int32 { getpid() }
  package static var userID: UInt32 { getuid() }
  package static var effectiveUserID: UInt32 { geteuid() }

  /// The node name of uname(2); empty when it cannot be had.
  package static var hostName: String { uname(1) }
  /// "Linux".
  package static var systemName: String { uname(0) }
  /// "6.1.0-13-amd64".
  package static var kernelRelease: String { uname(2) }
  /// "x86_64".
  package static var machine: String { uname(4) }

  private static func uname(_ which: Int32) -> String {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
      guard unsafe martlet_uname(which, buffer.baseAddress, 128) >= 0 else { return "" }
      return unsafe String(cString: buffer.baseAddress!)
    }
  }

  /// `count` bytes from the kernel's generator (getrandom).
  package static func randomBytes(_ count: Int) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let result = unsafe bytes.withUnsafeMutableBytes { buffer in
      unsafe martlet_random(buffer.baseAddress, count)
    }
    try check(result, "getrandom")
    return bytes
  }
}

extension ProcessSettings {
  /// One whole text to stderr, from any thread; what cannot be written is lost.
  package static func writeError(_ text: String) {
    let bytes = Array(text.utf8)
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(2, $0.baseAddress, $0.count) }
  }

  /// The numeric id of a user of this machine; nil when there is none.
  package static func userID(named name: String) -> UInt32? {
    // /etc/passwd itself: getpwnam of a static binary would need the dynamic
    // loader for NSS.
    guard let bytes = try? Files.read("/etc/passwd", limit: 4 << 20) else { return nil }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let fields = line.split(separator: ":", omittingEmptySubsequences: false)
      if fields.count > 2, fields[0] == name { return UInt32(fields[2]) }
    }
    return nil
  }
}
