/// Starting programs and waiting, for a lab that runs as one blocking thread:
/// every wait ends early when a signal asks for the end, so that tear-down
/// always happens on the way out. Owns the journal's descriptor.

internal import Bytes
internal import CLinux
internal import Glibc
internal import Reactor

/// A program that was started.
package final class LabProcess {
  let pid: Int32
  let words: String
  let log: String?
  private let ended: Int32
  private(set) var status: Int32?

  init(pid: Int32, words: String, log: String?) {
    self.pid = pid
    self.words = words
    self.log = log
    ended = martlet_pidfd(pid)
  }

  deinit { if ended >= 0 { _ = martlet_close(ended) } }

  /// Descriptor that becomes readable at its end.
  var endDescriptor: Int32 { ended }

  /// Whether it still runs; takes its status when not.
  var isRunning: Bool {
    guard status == nil else { return false }
    var value: Int32 = 0
    let result = unsafe martlet_reap(pid, &value)
    if result == 0 { return true }
    status = result > 0 ? value : 255
    return false
  }

  /// To it and whatever it started in its session.
  func signal(_ number: Int32) {
    if isRunning { _ = martlet_signal_group(pid, number) }
  }
}

package final class Workshop {
  /// What a program said and how it ended.
  struct Result {
    var status: Int32
    var output: String
    var error: String
  }

  let environment: [String: String]
  private let signals: Int32
  private(set) var isInterrupted = false
  /// While tearing down nothing interrupts any more.
  var ignoresSignals = false
  var journal: Int32 = -1

  init(environment: [String: String]) throws(LabFailure) {
    self.environment = environment
    let numbers: [Int32] = [SIGHUP, SIGINT, SIGTERM]
    signals = martlet_signalfd(numbers, Int32(numbers.count))
    guard signals >= 0 else { throw .failed("signalfd: \(SystemError(-signals, "signalfd"))") }
  }

  deinit { _ = martlet_close(signals) }

  static var now: Instant { Instant(nanoseconds: martlet_clock(1)) }

  // MARK: Waiting

  /// Waits until one of `descriptors` (at most 60) is readable.
  /// - Returns: which of them are; none when the time is over.
  func wait(_ descriptors: [Int32], until deadline: Instant) throws(LabFailure) -> [Bool] {
    while true {
      var fds = descriptors
      if !ignoresSignals { fds.append(signals) }
      var ready: UInt64 = 0
      let left = max(0, (deadline.nanoseconds - Self.now.nanoseconds))
      let result = unsafe martlet_readable_set(fds, Int32(fds.count), left, &ready)
      if result < 0 { throw .failed("\(SystemError(-result, "poll"))") }
      if !ignoresSignals, ready & 1 << UInt64(descriptors.count) != 0 {
        while martlet_signalfd_read(signals) > 0 {}
        isInterrupted = true
      }
      if isInterrupted, !ignoresSignals { throw .interrupted }
      let flags = descriptors.indices.map { ready & 1 << UInt64($0) != 0 }
      if flags.contains(true) || Self.now >= deadline { return flags }
    }
  }

  func sleep(_ time: TimeAmount) throws(LabFailure) {
    _ = try wait([], until: Instant(nanoseconds: Self.now.nanoseconds + time.nanoseconds))
  }

  static func after(_ time: TimeAmount) -> Instant {
    Instant(nanoseconds: now.nanoseconds + time.nanoseconds)
  }

  /// - Returns: false when it still runs at the end of `within`.
  func wait(for process: LabProcess, within: TimeAmount) throws(LabFailure) -> Bool {
    let deadline = Self.after(within)
    while process.isRunning {
      if Self.now >= deadline { return false }
      if process.endDescriptor >= 0 {
        _ = try wait([process.endDescriptor], until: deadline)
      } else {
        try sleep(.milliseconds(10))
      }
    }
    return true
  }

  // MARK: Starting

  private func spawn(
    _ arguments: [String], namespace: String?, directory: String?, environment: [String: String],
    input: Int32, output: Int32, error: Int32, log: String?, recorded: Bool,
    deathSignal: Int32 = SIGKILL
  ) throws(LabFailure) -> LabProcess {
    let path = namespace.map { Namespaces.path($0) }
    let variables = environment.map { "\($0.key)=\($0.value)" }
    var words = arguments.map { unsafe strdup($0) }
    unsafe words.append(nil)
    var settings = variables.map { unsafe strdup($0) }
    unsafe settings.append(nil)
    let pathCopy = path.map { unsafe strdup($0) } ?? nil
    let directoryCopy = directory.map { unsafe strdup($0) } ?? nil
    defer {
      for word in unsafe words { unsafe free(word) }
      for setting in unsafe settings { unsafe free(setting) }
      unsafe free(pathCopy)
      unsafe free(directoryCopy)
    }
    var what = unsafe martlet_spawn(
      namespace_path: pathCopy, directory: directoryCopy, input: input, output: output,
      error: error, journal: recorded ? journal : -1, death_signal: deathSignal, parent: 0)
    let constWords = unsafe words.map { unsafe UnsafePointer($0) }
    let constSettings = unsafe settings.map { unsafe UnsafePointer($0) }
    let pid = unsafe martlet_spawn(&what, constWords, constSettings)
    guard pid > 0 else {
      throw .failed("\(arguments[0]) cannot be started: \(SystemError(-pid, "exec"))")
    }
    return LabProcess(pid: pid, words: arguments.joined(separator: " "), log: log)
  }

  /// A program that stays, its words in a log.
  func start(
    _ arguments: [String], in namespace: String?, directory: String, log: String,
    environment extra: [String: String] = [:]
  ) throws(LabFailure) -> LabProcess {
    let path = "\(directory)/\(log)"
    let fd = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard fd >= 0 else { throw .failed("\(path) cannot be written") }
    defer { _ = martlet_close(fd) }
    return try spawn(
      arguments, namespace: namespace, directory: directory,
      environment: variables(extra), input: -1, output: fd, error: fd, log: path, recorded: true)
  }

  /// A program with its output in a pipe; the caller reads it.
  /// - Parameters:
  ///   - log: for what it says on standard error; nil: as ours.
  ///   - deathSignal: the kernel sends it when we end, however; 0: none.
  func startPiped(
    _ arguments: [String], log: String?, deathSignal: Int32,
    environment extra: [String: String] = [:]
  ) throws(LabFailure) -> (process: LabProcess, output: Int32) {
    var reading: Int32 = -1
    var writing: Int32 = -1
    let result = unsafe martlet_pipe(&reading, &writing)
    guard result >= 0 else { throw .failed("\(SystemError(-result, "pipe"))") }
    defer { _ = martlet_close(writing) }
    var errors: Int32 = 2
    if let log { errors = unsafe open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600) }
    defer { if errors > 2 { _ = martlet_close(errors) } }
    do throws(LabFailure) {
      let process = try spawn(
        arguments, namespace: nil, directory: nil, environment: variables(extra), input: -1,
        output: writing, error: errors, log: log, recorded: true, deathSignal: deathSignal)
      return (process, reading)
    } catch {
      _ = martlet_close(reading)
      throw error
    }
  }

  /// Runs a program to its end.
  func run(
    _ arguments: [String], in namespace: String? = nil, directory: String? = nil,
    input: String = "", within: TimeAmount = .seconds(20), environment extra: [String: String] = [:]
  ) throws(LabFailure) -> Result {
    var pipes: [(reading: Int32, writing: Int32)] = []
    defer {
      for pipe in pipes {
        if pipe.reading >= 0 { _ = martlet_close(pipe.reading) }
        if pipe.writing >= 0 { _ = martlet_close(pipe.writing) }
      }
    }
    for _ in 0..<2 {
      var reading: Int32 = -1
      var writing: Int32 = -1
      let result = unsafe martlet_pipe(&reading, &writing)
      guard result >= 0 else { throw .failed("\(SystemError(-result, "pipe"))") }
      pipes.append((reading, writing))
    }
    let given = try inputDescriptor(input)
    defer { if given >= 0 { _ = martlet_close(given) } }
    let process = try spawn(
      arguments, namespace: namespace, directory: directory, environment: variables(extra),
      input: given, output: pipes[0].writing, error: pipes[1].writing, log: nil, recorded: false)
    for index in pipes.indices {
      _ = martlet_close(pipes[index].writing)
      pipes[index].writing = -1
    }
    var texts: [[UInt8]] = [[], []]
    let deadline = Self.after(within)
    var open = [0, 1]
    do throws(LabFailure) {
      while !open.isEmpty {
        let ready = try wait(open.map { pipes[$0].reading }, until: deadline)
        guard ready.contains(true) else {
          throw .failed("\(process.words): no end within \(within.inSeconds) s")
        }
        for (position, index) in open.enumerated().reversed() where ready[position] {
          let bytes = Self.readSome(pipes[index].reading)
          if bytes.isEmpty { open.remove(at: position) }
          texts[index] += bytes
        }
      }
      guard try wait(for: process, within: .seconds(5)) else {
        throw .failed("\(process.words): no end after its output")
      }
    } catch {
      process.signal(SIGKILL)
      throw error
    }
    return Result(
      status: process.status ?? 255, output: String(decoding: texts[0], as: UTF8.self),
      error: String(decoding: texts[1], as: UTF8.self))
  }

  /// A text of any length as standard input.
  private func inputDescriptor(_ text: String) throws(LabFailure) -> Int32 {
    guard !text.isEmpty else { return -1 }
    let bytes = Array(text.utf8)
    let fd = unsafe bytes.withUnsafeBytes {
      unsafe martlet_memory_file($0.baseAddress, $0.count)
    }
    guard fd >= 0 else { throw .failed("\(SystemError(-fd, "memfd_create"))") }
    return fd
  }

  static func readSome(_ fd: Int32) -> [UInt8] {
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe chunk.withUnsafeMutableBytes {
        unsafe Glibc.read(fd, $0.baseAddress, $0.count)
      }
      if count < 0, errno == EINTR { continue }
      return Array(chunk.prefix(max(0, count)))
    }
  }

  /// Ours, without what would configure the programs behind our back.
  private func variables(_ extra: [String: String]) -> [String: String] {
    var result = environment.filter { entry in
      !entry.key.hasPrefix("INP2P_") && !entry.key.hasPrefix("ZTM_")
        && !entry.key.lowercased().hasSuffix("_proxy")
    }
    for (key, value) in extra { result[key] = value }
    return result
  }
}

/// Names of network namespaces and being in one.
enum Namespaces {
  static func path(_ name: String) -> String { "/run/netns/\(name)" }

  /// Runs `body` with this thread in a namespace; a socket made there stays.
  static func inside<Value>(
    _ name: String, _ body: () throws(LabFailure) -> Value
  ) throws(LabFailure) -> Value {
    let before = unsafe martlet_netns_enter(path(name))
    guard before >= 0 else {
      throw .failed("namespace \(name): \(SystemError(-before, "setns"))")
    }
    let result: Result<Value, LabFailure>
    do throws(LabFailure) {
      result = .success(try body())
    } catch {
      result = .failure(error)
    }
    // Going on in the wrong network would make every later step a lie.
    precondition(martlet_netns_return(before) >= 0, "cannot leave namespace \(name)")
    return try result.get()
  }

  /// Those there are.
  static func all() -> [String] {
    do throws(FileFailure) {
      return try Files.list("/run/netns", limit: 65_536)
    } catch {
      return []
    }
  }
}
