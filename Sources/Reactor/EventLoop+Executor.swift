// The loop as Swift's executor: an actor whose `unownedExecutor` is the loop,
// or a task with it as preference, runs on the loop's thread and can use the
// loop's own classes without a hop. Loops outlive their actors.

internal import CLinux

extension EventLoop: SerialExecutor, TaskExecutor {
  package func enqueue(_ job: consuming ExecutorJob) { add(.job(UnownedJob(job))) }

  package func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: self)
  }

  package func asUnownedTaskExecutor() -> UnownedTaskExecutor {
    UnownedTaskExecutor(ordinary: self)
  }

  package func checkIsolated() { precondition(isCurrent, "not on the loop's thread") }

  package func isIsolatingCurrentContext() -> Bool? { isCurrent }
}
