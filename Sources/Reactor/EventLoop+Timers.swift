// Deadlines and what runs once per batch. Deadlines are kept to the kernel's
// timer slack (50 µs), never early.

package import Bytes
internal import Glibc

/// Names a scheduled call. Worthless after the call was made or cancelled.
package struct TimerToken: Hashable, Sendable {
  let token: DeadlineHeap.Token
}

/// A deadline that is moved often: one slot, no allocation when set.
package final class LoopTimer {
  private let loop: EventLoop
  private let token: DeadlineHeap.Token

  /// - Parameter body: called on the loop when the deadline has come; the timer
  ///   is then unset. It should hold its owner weakly or unowned.
  package init(_ loop: EventLoop, _ body: @escaping () -> Void) {
    self.loop = loop
    token = loop.deadlines.make(isOneShot: false, body)
  }

  deinit { loop.deadlines.remove(token) }

  /// Sets or moves the deadline; `distantFuture` unsets it.
  package func set(at deadline: Instant) { loop.deadlines.set(token, to: deadline) }
  package func cancel() { loop.deadlines.set(token, to: .distantFuture) }
}

/// Something to run once after each batch.
struct BatchObserver {
  var id: UInt32
  var body: () -> Void
}

/// Names a batch observer.
package struct ObserverToken: Hashable, Sendable {
  let id: UInt32
}

extension EventLoop {
  /// Calls `body` once when `deadline` has come; at once in the next round when
  /// it has passed.
  @discardableResult
  package func schedule(at deadline: Instant, _ body: @escaping () -> Void) -> TimerToken {
    let token = deadlines.make(isOneShot: true, body)
    deadlines.set(token, to: min(deadline, Instant.distantFuture - .nanoseconds(1)))
    return TimerToken(token: token)
  }

  @discardableResult
  package func schedule(after delay: TimeAmount, _ body: @escaping () -> Void) -> TimerToken {
    schedule(at: now + delay, body)
  }

  /// Harmless when the call was made already.
  package func cancel(_ timer: TimerToken) { deadlines.remove(timer.token) }

  /// Timers that are set.
  package var timerCount: Int { deadlines.count }

  /// Calls `body` once at the end of every batch of events, timers and jobs:
  /// drivers drain their machines here. In the order of the calls.
  @discardableResult
  package func afterEachBatch(_ body: @escaping () -> Void) -> ObserverToken {
    observerCount &+= 1
    observers.append(BatchObserver(id: observerCount, body: body))
    return ObserverToken(id: observerCount)
  }

  package func removeObserver(_ token: ObserverToken) {
    guard let index = observers.firstIndex(where: { $0.id == token.id }) else { return }
    let removed = observers.remove(at: index)
    withExtendedLifetime(removed) {}
  }

  func notifyObservers() {
    // By index: an observer may add one or remove itself.
    var index = 0
    while index < observers.count {
      let observer = observers[index]
      observer.body()
      if index < observers.count, observers[index].id == observer.id { index += 1 }
    }
  }
}

extension EventLoop {
  /// Blocks the calling thread: for programs that run one command and end.
  package static func sleep(_ amount: TimeAmount) {
    let until = clock() + amount
    while true {
      let left = until - clock()
      guard left > .zero else { return }
      usleep(UInt32(clamping: left.nanoseconds / 1_000))
    }
  }
}
