// One thread that waits for descriptors, deadlines and jobs, and is at the
// same time a Swift executor: actors and tasks pinned to it run here and
// nowhere else (DESIGN §4.4, docs/decisions/0002). Level-triggered epoll.
// Everything not marked thread-safe is for the loop's own thread only.
//
//   wait ─→ events ─→ due timers ─→ posted jobs ─→ batch observers ─┐
//     ↑─────────────────────────────────────────────────────────────┘

package import Bytes
internal import CLinux
internal import Glibc
internal import Synchronization

/// What a descriptor is ready for.
package struct Readiness: OptionSet, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  package static let readable = Readiness(rawValue: 0x001)
  package static let writable = Readiness(rawValue: 0x004)
  /// Told without asking.
  package static let error = Readiness(rawValue: 0x008)
  /// Both directions have ended; told without asking.
  package static let hangUp = Readiness(rawValue: 0x010)
}

/// Something registered for a descriptor.
package protocol ReadinessHandler: AnyObject {
  /// Called while the descriptor is ready; again in the next batch if it still is.
  func ready(_ events: Readiness)
}

/// Work handed to a loop.
enum LoopWork {
  case job(UnownedJob)
  case call(@Sendable () -> Void)
}

/// One event loop. Made anywhere, run by one thread, for ever or until `stop`.
package final class EventLoop: @unchecked Sendable {
  struct Registration {
    var handler: (any ReadinessHandler)?
    var interest: Readiness = []
    var generation: UInt32 = 0
  }

  struct Inbox {
    var work: [LoopWork] = []
    var isStopped = false
  }

  package let name: String

  // Shared between threads.
  let inbox = Lock(Inbox())
  /// The kernel's id of the running thread; 0 = not running.
  let threadID = Atomic<Int32>(0)
  let bell: Int32

  // The loop's own.
  let epoll: Int32
  var registrations: [Registration] = []
  var registeredCount = 0
  var deadlines = DeadlineHeap()
  var observers: [BatchObserver] = []
  var clockObservers: [() -> Void] = []
  var observerCount: UInt32 = 0
  var wantsAnotherBatch = false
  private var running: [LoopWork] = []
  private var cachedNow: Instant
  private let clockWatch: Int32
  private var clockWatcher: ClockWatcher?
  private let events: UnsafeMutablePointer<martlet_event>
  lazy var datagrams = DatagramScratch()
  lazy var readBuffer = ReadBuffer(capacity: ReactorLimits.readBufferBytes)

  /// Batches run so far, and jobs and events in them: what wake-ups cost.
  package private(set) var batchCount: UInt64 = 0
  package private(set) var eventCount: UInt64 = 0

  /// - Parameter name: of the thread, as ps and a debugger show it (15 bytes).
  package init(name: String = "loop") throws(SystemError) {
    self.name = name
    epoll = try check(martlet_epoll_create(), "epoll_create1")
    bell = try check(martlet_eventfd(), "eventfd")
    clockWatch = martlet_clock_watch()
    cachedNow = Self.clock()
    unsafe events = .allocate(capacity: ReactorLimits.eventsPerBatch)
    try check(
      martlet_epoll_control(epoll, Int32(MARTLET_ADD), bell, UInt32(MARTLET_IN), Self.bellData),
      "epoll_ctl")
    if clockWatch >= 0 {
      let watcher = ClockWatcher(self, clockWatch)
      clockWatcher = watcher
      try register(clockWatch, watcher, for: .readable)
    }
  }

  deinit {
    if clockWatch >= 0 { _ = martlet_close(clockWatch) }
    _ = martlet_close(bell)
    _ = martlet_close(epoll)
    unsafe events.deallocate()
  }

  // MARK: Clock

  /// The time of this batch: CLOCK_BOOTTIME, which never goes back and counts
  /// sleep, so that keys age while the machine does.
  package var now: Instant { cachedNow }

  /// Reads the clock again; for long batches.
  @discardableResult
  package func refreshNow() -> Instant {
    cachedNow = Self.clock()
    return cachedNow
  }

  /// CLOCK_BOOTTIME. Thread-safe.
  package static func clock() -> Instant { Instant(nanoseconds: martlet_clock(2)) }
  /// CLOCK_MONOTONIC, which stands still in sleep; `clock() - awakeClock()`
  /// grows by the length of each sleep. Thread-safe.
  package static func awakeClock() -> Instant { Instant(nanoseconds: martlet_clock(1)) }
  /// Nanoseconds since 1970 as the machine believes; may jump. Thread-safe.
  package static var wallClockNanoseconds: Int64 { martlet_clock(0) }

  /// Calls `body` when the wall clock was set or the machine woke from sleep.
  package func onClockChange(_ body: @escaping () -> Void) { clockObservers.append(body) }

  // MARK: Running

  /// Runs on the calling thread until `stop()`. May be called again afterwards.
  package func run() {
    precondition(threadID.load(ordering: .acquiring) == 0, "the loop runs already")
    threadID.store(martlet_thread_id(), ordering: .releasing)
    refreshNow()
    while !turn() {}
    threadID.store(0, ordering: .releasing)
    inbox.withLock { $0.isStopped = false }
  }

  /// Ends `run()` after the current batch. Thread-safe.
  package func stop() {
    let wasEmpty = inbox.withLock { inbox in
      inbox.isStopped = true
      return inbox.work.isEmpty
    }
    if wasEmpty { ring() }
  }

  /// True on the thread that runs the loop. Thread-safe.
  package var isCurrent: Bool {
    threadID.load(ordering: .acquiring) == martlet_thread_id()
  }

  /// Runs `body` on the loop, in the order of the calls. Thread-safe.
  package func post(_ body: @escaping @Sendable () -> Void) { add(.call(body)) }

  /// Starts a task whose synchronous parts all run on this loop. Thread-safe.
  @discardableResult
  package func spawn(_ body: sending @escaping () async -> Void) -> Task<Void, Never> {
    Task(executorPreference: self, operation: body)
  }

  /// Makes the loop go round once more without waiting: for work that was cut
  /// short to let others have a turn.
  package func requestAnotherBatch() { wantsAnotherBatch = true }

  func add(_ work: LoopWork) {
    let wasEmpty = inbox.withLock { inbox in
      let wasEmpty = inbox.work.isEmpty
      inbox.work.append(work)
      return wasEmpty
    }
    // On its own thread the loop looks before it waits.
    if wasEmpty && !isCurrent { ring() }
  }

  private func ring() { _ = martlet_eventfd_ring(bell) }

  /// One round; true when it was the last.
  private func turn() -> Bool {
    let count = unsafe martlet_epoll_wait(
      epoll, events, Int32(ReactorLimits.eventsPerBatch), waitTime())
    refreshNow()
    wantsAnotherBatch = false
    batchCount &+= 1
    var index = 0
    while index < Int(count) {
      let event = unsafe events[index]
      index += 1
      dispatch(event)
    }
    runTimers()
    let isStopped = runJobs()
    notifyObservers()
    return isStopped
  }

  /// Nanoseconds to wait; negative = for ever.
  private func waitTime() -> Int64 {
    if wantsAnotherBatch || inbox.withLock({ !$0.work.isEmpty || $0.isStopped }) { return 0 }
    let next = deadlines.next
    if next == .distantFuture { return -1 }
    return max(0, (next - Self.clock()).nanoseconds)
  }

  private func dispatch(_ event: martlet_event) {
    if event.data == Self.bellData {
      _ = martlet_eventfd_drain(bell)
      return
    }
    eventCount &+= 1
    let fd = Int(UInt32(truncatingIfNeeded: event.data))
    // A handler deregistered earlier in this batch is not called, nor is a new
    // one that got the same descriptor.
    guard registrations[fd].generation == UInt32(event.data >> 32),
      let handler = registrations[fd].handler
    else { return }
    handler.ready(Readiness(rawValue: event.events))
  }

  private func runTimers() {
    // Timers set for the past by these bodies wait for the next round.
    let due = cachedNow
    var budget = deadlines.count
    while budget > 0, let body = deadlines.popDue(due) {
      budget -= 1
      body()
    }
  }

  /// Returns whether the loop is to stop.
  private func runJobs() -> Bool {
    for _ in 0..<ReactorLimits.jobRoundsPerBatch {
      var work: [LoopWork] = []
      swap(&work, &running)
      let isStopped = inbox.withLock { inbox in
        swap(&inbox.work, &work)
        return inbox.isStopped
      }
      if work.isEmpty {
        swap(&work, &running)
        return isStopped
      }
      for item in work {
        switch item {
        case .job(let job):
          job.runSynchronously(
            isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
        case .call(let body): body()
        }
      }
      work.removeAll(keepingCapacity: work.count <= 1024)
      swap(&work, &running)
    }
    return false
  }

  static let bellData: UInt64 = .max
}

/// Hears of clock changes and wake-ups from sleep.
private final class ClockWatcher: ReadinessHandler {
  unowned let loop: EventLoop
  let fd: Int32

  init(_ loop: EventLoop, _ fd: Int32) {
    self.loop = loop
    self.fd = fd
  }

  func ready(_ events: Readiness) {
    _ = martlet_clock_watch_rearm(fd)
    for observer in loop.clockObservers { observer() }
  }
}
