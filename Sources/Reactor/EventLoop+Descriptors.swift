// Descriptors and their handlers. All of it may be called from inside
// callbacks; a handler that was deregistered is never called again.

internal import CLinux
internal import Glibc

extension EventLoop {
  /// Descriptors registered.
  package var descriptorCount: Int { registeredCount }

  /// Calls `handler` while `fd` is ready for `interest`. The loop keeps the
  /// handler until `deregister`. Errors and hang-ups are told without asking.
  package func register(
    _ fd: Int32, _ handler: any ReadinessHandler, for interest: Readiness
  ) throws(SystemError) {
    let index = Int(fd)
    while registrations.count <= index { registrations.append(Registration()) }
    precondition(registrations[index].handler == nil, "descriptor registered twice")
    registrations[index].generation &+= 1
    try check(
      martlet_epoll_control(
        epoll, Int32(MARTLET_ADD), fd, interest.rawValue, eventData(index)), "epoll_ctl")
    registrations[index].handler = handler
    registrations[index].interest = interest
    registeredCount += 1
  }

  /// Changes what a registered descriptor is watched for.
  package func modify(_ fd: Int32, for interest: Readiness) {
    let index = Int(fd)
    precondition(index < registrations.count && registrations[index].handler != nil)
    guard registrations[index].interest != interest else { return }
    registrations[index].interest = interest
    _ = martlet_epoll_control(
      epoll, Int32(MARTLET_MODIFY), fd, interest.rawValue, eventData(index))
  }

  /// Forgets a descriptor; call before closing it. Harmless when not registered.
  package func deregister(_ fd: Int32) {
    let index = Int(fd)
    guard index >= 0, index < registrations.count, registrations[index].handler != nil else {
      return
    }
    // Released last: its deinit may come back here.
    let handler = registrations[index].handler
    defer { withExtendedLifetime(handler) {} }
    registrations[index].handler = nil
    registrations[index].interest = []
    registrations[index].generation &+= 1
    registeredCount -= 1
    _ = martlet_epoll_control(epoll, Int32(MARTLET_DELETE), fd, 0, 0)
  }

  private func eventData(_ index: Int) -> UInt64 {
    UInt64(registrations[index].generation) << 32 | UInt64(index)
  }
}
