/// What a lab leaves on disk so that anybody can take it down later, its runner
/// killed or not: a directory per prefix with a journal of process ids. Never
/// ends a process it has no record of, and never one that only has the same
/// number. docs/lab.md, "What is left behind".
///
///     PARENT/PREFIX/journal      runner PID BOOT-MS
///                                scenario NAME
///                                process PID BOOT-MS
///     PARENT/PREFIX/HOST/…       state and logs of the host's programs

internal import CLinux
internal import Glibc
internal import Reactor

package struct LabStore: Sendable {
  package let parent: String
  package let prefix: String

  package var directory: String { "\(parent)/\(prefix)" }
  package var journal: String { "\(directory)/journal" }

  package init(parent: String, prefix: String) {
    self.parent = parent
    self.prefix = prefix
  }

  /// Where labs of this user are kept.
  package static func parent(environment: [String: String], user: UInt32) -> String {
    let base = environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/tmp"
    return "\(base)/martlet-lab-\(user)"
  }

  /// A prefix is part of namespace names and of a path.
  package static func isPrefix(_ text: String) -> Bool {
    (1...24).contains(text.utf8.count)
      && text.utf8.allSatisfy {
        (97...122).contains($0) || (48...57).contains($0)
      }
  }

  static let journalLimit = 1 << 20
  /// Between a prefix and the number of one of its runs: side by side, alone,
  /// and the kinds of check-kinds.
  static let partLetters: Set<Character> = ["r", "t", "k"]

  // MARK: Writing

  /// Makes the directory and opens the journal with the runner's line in it.
  /// - Throws: when the parent belongs to somebody else, or the prefix is taken.
  func begin(scenario: String) throws(LabFailure) -> Int32 {
    do throws(FileFailure) {
      try Files.makeDirectory(parent, mode: 0o700)
    } catch {
      throw .failed("\(error)")
    }
    var facts = stat()
    guard unsafe lstat(parent, &facts) == 0, facts.st_mode & S_IFMT == S_IFDIR,
      facts.st_uid == geteuid()
    else { throw .failed("\(parent) is not a directory of ours") }
    guard unsafe mkdir(directory, 0o700) == 0 else {
      throw .failed(
        errno == EEXIST
          ? "there is a lab \(prefix) already; take it down with: martlet lab down --prefix \(prefix)"
          : "\(directory) cannot be made")
    }
    let fd = unsafe open(journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard fd >= 0 else { throw .failed("\(journal) cannot be written") }
    let lines =
      "runner \(ProcessSettings.processID) \(martlet_clock(2) / 1_000_000)\nscenario \(scenario)\n"
    let bytes = Array(lines.utf8)
    _ = unsafe bytes.withUnsafeBytes { unsafe write(fd, $0.baseAddress, $0.count) }
    return fd
  }

  // MARK: Reading

  struct Record {
    var runner: LabProcessRecord?
    var scenario = ""
    var processes: [LabProcessRecord] = []
  }

  func read() -> Record {
    var record = Record()
    let text: String
    do throws(FileFailure) {
      text = String(decoding: try Files.read(journal, limit: Self.journalLimit), as: UTF8.self)
    } catch {
      return record
    }
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 1).map(String.init)
      guard words.count == 2 else { continue }
      switch words[0] {
      case "runner": record.runner = LabProcessRecord(words[1])
      case "scenario": record.scenario = words[1]
      case "process":
        if let process = LabProcessRecord(words[1]) { record.processes.append(process) }
      default: continue
      }
    }
    return record
  }

  /// Prefixes that have a directory.
  static func prefixes(in parent: String) -> [String] {
    do throws(FileFailure) {
      return try Files.list(parent).filter { isPrefix($0) && Files.isDirectory("\(parent)/\($0)") }
    } catch {
      return []
    }
  }
}

/// A process as the journal knows it.
struct LabProcessRecord: Hashable, Sendable {
  let pid: Int32
  /// When the line was written, in milliseconds since boot: the process had
  /// been started by then, one that took the number later has not.
  let writtenAt: Int64

  init?(_ text: String) {
    let words = text.split(separator: " ")
    guard words.count == 2, let pid = Int32(words[0]), pid > 1, let time = Int64(words[1]) else {
      return nil
    }
    self.pid = pid
    writtenAt = time
  }

  /// The recorded process itself still runs (a zombie does not).
  var isAlive: Bool {
    let text: String
    do throws(FileFailure) {
      text = String(decoding: try Files.read("/proc/\(pid)/stat", limit: 4096), as: UTF8.self)
    } catch {
      return false
    }
    // Field 2 is the name in parentheses and may hold anything; 3 is the state,
    // 22 the start in hundredths of a second since boot.
    guard let end = text.lastIndex(of: ")") else { return false }
    let fields = text[text.index(after: end)...].split(separator: " ")
    guard fields.count > 19, let start = Int64(fields[19]) else { return false }
    return fields[0] != "Z" && start * 10 <= writtenAt
  }

  func signal(_ number: Int32) {
    if isAlive { _ = martlet_signal_process(pid, number) }
  }
}
