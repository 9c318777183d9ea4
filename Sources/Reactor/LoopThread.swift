// A thread of our own: pthreads, because nothing here may use the global pool.

internal import CLinux
internal import Glibc

/// Starts threads. A thread runs its body and ends; `join` waits for it.
package struct LoopThread: @unchecked Sendable {
  private let thread: pthread_t

  private final class Box {
    let name: String
    let body: @Sendable () -> Void
    init(_ name: String, _ body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }

  /// - Parameters:
  ///   - name: at most 15 bytes of it are shown.
  ///   - stackBytes: at least 64 KB.
  package init(
    name: String, stackBytes: Int = 1 << 20, _ body: @escaping @Sendable () -> Void
  ) throws(SystemError) {
    let box = Unmanaged.passRetained(Box(name, body))
    var attributes = pthread_attr_t()
    unsafe pthread_attr_init(&attributes)
    unsafe pthread_attr_setstacksize(&attributes, max(stackBytes, 65_536))
    var thread = pthread_t()
    let result = unsafe pthread_create(
      &thread, &attributes,
      { argument in
        let box = unsafe Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue()
        martlet_name_thread(box.name)
        box.body()
        return nil
      }, box.toOpaque())
    unsafe pthread_attr_destroy(&attributes)
    guard result == 0 else {
      box.release()
      throw SystemError(result, "pthread_create")
    }
    self.thread = thread
  }

  /// Makes a loop and a thread that runs it.
  package static func running(
    name: String
  ) throws(SystemError) -> (loop: EventLoop, thread: LoopThread) {
    let loop = try EventLoop(name: name)
    let thread = try LoopThread(name: name) { loop.run() }
    return (loop, thread)
  }

  /// Waits until the body has ended. Once per thread.
  package func join() { pthread_join(thread, nil) }

  /// Gives up the right to join.
  func detach() { pthread_detach(thread) }
}
