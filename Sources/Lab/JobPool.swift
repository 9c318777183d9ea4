/// Runs children of this program side by side and hands over what each printed.
/// A child is a whole lab of its own: it takes itself down, also on SIGTERM.

internal import Bytes
internal import CLinux
internal import Glibc

struct LabJob {
  /// For the one who asked.
  var number: Int
  var arguments: [String]
  var within: TimeAmount
}

struct JobOutcome {
  var number: Int
  /// Nil: it was ended because it took too long.
  var status: Int32?
  var output: String
  /// The end of what it said on standard error.
  var errors: String
}

final class JobPool {
  private let workshop: Workshop
  private let limit: Int
  private let directory: String

  private struct Running {
    var job: LabJob
    var process: LabProcess
    var pipe: Int32
    var log: String
    var text: [UInt8] = []
    var deadline: Instant
    var isOverdue = false
  }

  init(_ workshop: Workshop, limit: Int, directory: String) {
    self.workshop = workshop
    self.limit = min(limit, 32)
    self.directory = directory
  }

  /// Calls `done` as each ends; on a signal ends all and throws.
  func run(_ jobs: [LabJob], _ done: (JobOutcome) -> Void) throws(LabFailure) {
    var waiting = jobs[...]
    var running: [Running] = []
    do throws(LabFailure) {
      while !waiting.isEmpty || !running.isEmpty {
        while running.count < limit, let job = waiting.popFirst() {
          running.append(try start(job))
        }
        let next = running.map(\.deadline.nanoseconds).min() ?? 0
        let ready = try workshop.wait(
          running.map(\.pipe), until: Instant(nanoseconds: next))
        for index in running.indices.reversed() {
          if ready[index] {
            let bytes = Workshop.readSome(running[index].pipe)
            running[index].text += bytes
            if bytes.isEmpty { done(try finish(running.remove(at: index))) }
          } else if Workshop.now >= running[index].deadline {
            // Time to take its lab down, then no more.
            running[index].process.signal(running[index].isOverdue ? SIGKILL : SIGTERM)
            running[index].isOverdue = true
            running[index].deadline = Workshop.after(.seconds(8))
          }
        }
      }
    } catch {
      workshop.ignoresSignals = true
      for child in running { child.process.signal(SIGTERM) }
      LiveLab.end(running.map(\.process), workshop)
      for child in running { _ = martlet_close(child.pipe) }
      workshop.ignoresSignals = false
      throw error
    }
  }

  private func start(_ job: LabJob) throws(LabFailure) -> Running {
    let log = "\(directory)/job-\(job.number).log"
    let (process, pipe) = try workshop.startPiped(
      [LabEntry.program] + job.arguments, log: log, deathSignal: SIGTERM)
    return Running(
      job: job, process: process, pipe: pipe, log: log, deadline: Workshop.after(job.within))
  }

  private func finish(_ child: Running) throws(LabFailure) -> JobOutcome {
    _ = martlet_close(child.pipe)
    if try !workshop.wait(for: child.process, within: .seconds(10)) {
      child.process.signal(SIGKILL)
    }
    let errors = LogTail.read(child.log)
    _ = unsafe unlink(child.log)
    return JobOutcome(
      number: child.job.number, status: child.isOverdue ? nil : child.process.status,
      output: String(decoding: child.text, as: UTF8.self), errors: errors)
  }
}
