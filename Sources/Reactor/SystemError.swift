// A system call that did not work: which one, and what the kernel said. The
// C shims give -errno; nothing here reads the global errno.

internal import CLinux
internal import Glibc

/// A failed system call.
package struct SystemError: Error, Sendable, Hashable {
  /// The errno value, always positive.
  package let code: Int32
  private let callName: String

  /// The call, as in its manual page: "bind".
  package var call: String { callName }

  package init(_ code: Int32, _ call: StaticString) {
    self.code = code
    self.callName = "\(call)"
  }

  package static func == (a: SystemError, b: SystemError) -> Bool { a.code == b.code }
  package func hash(into hasher: inout Hasher) { hasher.combine(code) }

  /// The errno's name, "ECONNREFUSED".
  package var name: String { unsafe String(cString: martlet_error_name(code)) }

  package var isConnectionRefused: Bool { code == ECONNREFUSED }
  package var isConnectionReset: Bool { code == ECONNRESET || code == EPIPE }
  package var isTimeout: Bool { code == ETIMEDOUT }
  package var isUnreachable: Bool {
    code == ENETUNREACH || code == EHOSTUNREACH || code == ENETDOWN || code == EADDRNOTAVAIL
  }
  package var isMessageTooLarge: Bool { code == EMSGSIZE }
  package var isAddressInUse: Bool { code == EADDRINUSE }
  package var isNotFound: Bool { code == ENOENT }
  package var isPermissionDenied: Bool { code == EACCES || code == EPERM }
  package var isTooManyFiles: Bool { code == EMFILE || code == ENFILE }
  package var isWouldBlock: Bool { code == EAGAIN }

  /// For limits of our own that have the meaning of an errno.
  package static let timedOut = SystemError(ETIMEDOUT, "connect")
}

extension SystemError: CustomStringConvertible {
  package var description: String {
    unsafe "\(callName): \(String(cString: martlet_error_text(code))) (\(name))"
  }
}

/// Turns a shim's result into a value or a thrown error.
@discardableResult
func check(_ result: Int32, _ call: StaticString) throws(SystemError) -> Int32 {
  guard result >= 0 else { throw SystemError(-result, call) }
  return result
}
