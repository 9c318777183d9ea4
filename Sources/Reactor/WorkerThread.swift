// Threads for calls that block (SQLite, getaddrinfo, fsync): a bounded queue
// of jobs, done in order by each thread, and completions that come back on the
// loop that asked. Never runs anything on the loop itself.

internal import Glibc

/// One or more threads that do blocking jobs. Thread-safe.
package final class WorkerThread: @unchecked Sendable {
  private let limit: Int
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  // Under the mutex.
  private var queue: [@Sendable () -> Void] = []
  private var head = 0
  private var isClosing = false
  private var threads: [LoopThread] = []

  /// - Parameters:
  ///   - threads: more than one: jobs may overtake each other.
  ///   - limit: jobs waiting, at most.
  package init(
    name: String, threads count: Int = 1, limit: Int = ReactorLimits.workerQueue
  ) throws(SystemError) {
    self.limit = limit
    unsafe mutex = .allocate(capacity: 1)
    unsafe condition = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
    unsafe pthread_cond_init(condition, nil)
    for _ in 0..<count {
      do throws(SystemError) {
        threads.append(try LoopThread(name: name) { [self] in work() })
      } catch {
        close()
        throw error
      }
    }
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  /// Jobs waiting, not counting those being done.
  package var queued: Int { locked { queue.count - head } }

  /// Queues a job.
  /// - Returns: false when the queue is full or closed; the job is not done then.
  package func submit(_ job: @escaping @Sendable () -> Void) -> Bool {
    locked {
      guard !isClosing, queue.count - head < limit else { return false }
      queue.append(job)
      unsafe pthread_cond_signal(condition)
      return true
    }
  }

  /// Queues a job whose result goes to `completion` on `loop`. Call on that loop.
  /// - Returns: false when the queue is full or closed; `completion` is not
  ///   called then.
  package func submit<Value: Sendable>(
    for loop: EventLoop, _ job: @escaping @Sendable () -> Value,
    completion: @escaping (Value) -> Void
  ) -> Bool {
    let box = LoopBound(completion)
    return submit {
      let value = job()
      loop.post { box.value(value) }
    }
  }

  /// Does what is queued, then ends the threads and waits for them. Needed once:
  /// the threads keep the object alive.
  package func close() {
    locked {
      isClosing = true
      unsafe pthread_cond_broadcast(condition)
    }
    let ended = locked {
      let all = threads
      threads = []
      return all
    }
    for thread in ended { thread.join() }
  }

  /// Forgets what is queued and lets the threads end by themselves when they
  /// come back from whatever they are blocked in. Does not wait.
  package func abandon() {
    let (dropped, left) = locked {
      isClosing = true
      let dropped = queue
      queue = []
      head = 0
      let left = threads
      threads = []
      unsafe pthread_cond_broadcast(condition)
      return (dropped, left)
    }
    for thread in left { thread.detach() }
    withExtendedLifetime(dropped) {}
  }

  private func work() {
    while true {
      unsafe pthread_mutex_lock(mutex)
      while head == queue.count && !isClosing { unsafe pthread_cond_wait(condition, mutex) }
      guard head < queue.count else {
        unsafe pthread_mutex_unlock(mutex)
        return
      }
      let job = queue[head]
      queue[head] = {}
      head += 1
      if head == queue.count || head >= 1024 {
        queue.removeFirst(head)
        head = 0
      }
      unsafe pthread_mutex_unlock(mutex)
      job()
    }
  }

  private func locked<R>(_ body: () -> R) -> R {
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    return body()
  }
}

/// Something only its loop touches, carried by another thread.
struct LoopBound<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}
