/// A topology made real, and taken away again: runs a plan's steps in
/// namespaces whose names begin with the lab's prefix. Tear-down is the same
/// for a lab of this process and for one whose runner was killed.

internal import Bytes
internal import CLinux
internal import Glibc
internal import Reactor

package final class LiveLab {
  let plan: NetworkPlan
  let store: LabStore
  let workshop: Workshop
  private var processes: [LabProcess] = []
  private var isUp = false

  init(_ topology: LabTopology, store: LabStore, workshop: Workshop) {
    plan = NetworkPlan(topology, prefix: store.prefix)
    self.store = store
    self.workshop = workshop
  }

  // MARK: Up

  /// Makes everything; on failure nothing is left.
  func up() throws(LabFailure) {
    if let fault = plan.topology.fault { throw .failed("\(plan.topology.name): \(fault)") }
    workshop.journal = try store.begin(scenario: plan.topology.name)
    isUp = true
    do throws(LabFailure) {
      for step in plan.steps { try perform(step) }
    } catch {
      down()
      throw error
    }
  }

  func perform(_ step: LabStep) throws(LabFailure) {
    switch step {
    case .ip(let namespace, let lines):
      // Not `ip -n`, which fails where / is no mount point (a plain chroot).
      let result = try workshop.run(
        ["ip", "-batch", "-"], in: namespace, input: lines.joined(separator: "\n") + "\n")
      guard result.status == 0 else {
        throw .failed("ip (\(namespace ?? "host")): \(result.error)")
      }
    case .nft(let namespace, let script):
      let result = try workshop.run(["nft", "-f", "-"], in: namespace, input: script)
      guard result.status == 0 else { throw .failed("nft (\(namespace)): \(result.error)") }
    case .sysctl(let namespace, let key, let value):
      try Namespaces.inside(namespace) { () throws(LabFailure) in
        let fd = unsafe open("/proc/sys/\(key)", O_WRONLY | O_CLOEXEC)
        if fd < 0, errno == ENOENT, key.hasPrefix("net/bridge/") { return }
        guard fd >= 0 else { throw .failed("/proc/sys/\(key) cannot be written") }
        defer { _ = martlet_close(fd) }
        let bytes = Array(value.utf8)
        let count = unsafe bytes.withUnsafeBytes { unsafe write(fd, $0.baseAddress, $0.count) }
        guard count == bytes.count else { throw .failed("/proc/sys/\(key) takes no \(value)") }
      }
    }
  }

  // MARK: Programs

  func directory(_ host: String) throws(LabFailure) -> String {
    let path = "\(store.directory)/\(host)"
    do throws(FileFailure) {
      try Files.makeDirectory(path, mode: 0o700)
    } catch {
      throw .failed("\(error)")
    }
    return path
  }

  func start(
    _ arguments: [String], on host: String, log: String
  ) throws(LabFailure) -> LabProcess {
    let directory = try directory(host)
    let process = try workshop.start(
      arguments, in: plan.namespace(host), directory: directory, log: log,
      environment: ["HOME": directory])
    processes.append(process)
    return process
  }

  func run(
    _ arguments: [String], on host: String, within: TimeAmount = .seconds(20)
  ) throws(LabFailure) -> Workshop.Result {
    let directory = try directory(host)
    return try workshop.run(
      arguments, in: plan.namespace(host), directory: directory, within: within,
      environment: ["HOME": directory])
  }

  // MARK: Down

  /// - Parameter keepingFiles: logs stay where they are.
  func down(keepingFiles: Bool = false) {
    guard isUp else { return }
    isUp = false
    workshop.ignoresSignals = true
    defer { workshop.ignoresSignals = false }
    Self.end(processes, workshop)
    if workshop.journal >= 0 {
      _ = martlet_close(workshop.journal)
      workshop.journal = -1
    }
    _ = TearDown.run(store, workshop: workshop, keepingFiles: keepingFiles)
  }

  /// SIGTERM, a moment, SIGKILL: to processes we started.
  static func end(_ processes: [LabProcess], _ workshop: Workshop) {
    for process in processes { process.signal(SIGTERM) }
    let deadline = Workshop.after(TearDown.patience)
    for process in processes {
      let left = TimeAmount(nanoseconds: max(0, deadline.nanoseconds - Workshop.now.nanoseconds))
      do throws(LabFailure) {
        if try workshop.wait(for: process, within: left) { continue }
      } catch {}  // only the wait failed; the end comes all the same
      process.signal(SIGKILL)
      do throws(LabFailure) { _ = try workshop.wait(for: process, within: .seconds(2)) } catch {}
    }
  }
}

/// Ends what a journal names and removes what has the prefix.
enum TearDown {
  static let patience = TimeAmount.seconds(3)

  struct Outcome {
    var processes = 0
    var namespaces = 0
    /// There was one, it lived, and took its lab down when asked.
    var runnerEnded = false
    var isRemoved = false

    var foundSomething: Bool { runnerEnded || isRemoved || namespaces > 0 }
  }

  static func run(_ store: LabStore, workshop: Workshop, keepingFiles: Bool = false) -> Outcome {
    var outcome = Outcome()
    let record = store.read()
    // A runner that lives takes its lab down itself when asked to.
    if let runner = record.runner, runner.pid != ProcessSettings.processID, runner.isAlive {
      runner.signal(SIGTERM)
      waitUntil(workshop, .seconds(8)) { !runner.isAlive }
      outcome.runnerEnded = !runner.isAlive
      runner.signal(SIGKILL)
    }
    let living = record.processes.filter(\.isAlive)
    outcome.processes += living.count
    for process in living { process.signal(SIGTERM) }
    waitUntil(workshop, patience) { !living.contains { $0.isAlive } }
    for process in living { process.signal(SIGKILL) }
    for name in Namespaces.all() where name.hasPrefix(store.prefix + "-") {
      do throws(LabFailure) {
        let result = try workshop.run(["ip", "netns", "delete", name])
        if result.status == 0 { outcome.namespaces += 1 }
      } catch {}  // what stays is seen by the next `down`, and said there
    }
    if !keepingFiles, Files.isDirectory(store.directory) {
      remove(store.directory)
      outcome.isRemoved = true
    }
    return outcome
  }

  private static func waitUntil(_ workshop: Workshop, _ time: TimeAmount, _ condition: () -> Bool) {
    let deadline = Workshop.after(time)
    while !condition(), Workshop.now < deadline {
      do throws(LabFailure) {
        try workshop.sleep(.milliseconds(20))
      } catch {
        return
      }
    }
  }

  /// A directory of ours with everything in it; links are not followed.
  static func remove(_ path: String) {
    do throws(FileFailure) {
      for name in try Files.list(path, limit: 65_536) {
        let inside = "\(path)/\(name)"
        var facts = stat()
        guard unsafe lstat(inside, &facts) == 0 else { continue }
        if facts.st_mode & S_IFMT == S_IFDIR {
          remove(inside)
        } else {
          _ = unsafe unlink(inside)
        }
      }
    } catch {}  // what cannot be listed cannot be removed, and stays visible
    _ = unsafe rmdir(path)
  }
}
