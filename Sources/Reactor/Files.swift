// Small files that must survive a crash or must not be read by others: written
// beside, synced, read back, renamed; never larger than the caller allows.
// Blocking: small files at start and stop only, everything else on a worker.

internal import CLinux
internal import Glibc

/// Why a file operation failed.
package enum FileFailure: Error, Equatable, Sendable {
  case system(SystemError, path: String)
  /// Longer than the caller's limit.
  case tooLarge(path: String, limit: Int)
  /// What was written did not read back the same.
  case damaged(path: String)
  /// Another process holds the lock; its process id when it wrote one.
  case locked(path: String, by: Int32?)
}

extension FileFailure: CustomStringConvertible {
  package var description: String {
    switch self {
    case .system(let error, let path): "\(path): \(error)"
    case .tooLarge(let path, let limit): "\(path): larger than \(limit) bytes"
    case .damaged(let path): "\(path): did not read back as written"
    case .locked(let path, let by): "\(path): held by process \(by.map { "\($0)" } ?? "?")"
    }
  }

  /// True when the file or a directory of its path does not exist.
  package var isNotFound: Bool {
    if case .system(let error, _) = self { error.isNotFound } else { false }
  }
}

package enum Files {
  /// The whole of a file.
  /// - Throws: `tooLarge` when it has more than `limit` bytes.
  package static func read(_ path: String, limit: Int) throws(FileFailure) -> [UInt8] {
    let fd = try open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0)
    defer { _ = martlet_close(fd) }
    return try read(fd, path, limit)
  }

  /// Replaces a file's contents so that after a crash the old or the new ones
  /// are there, whole: writes beside, syncs, reads back and compares, renames,
  /// syncs the directory.
  /// - Parameter mode: of the new file; the umask does not weaken it.
  package static func write(
    _ path: String, _ bytes: [UInt8], mode: UInt32 = 0o600
  ) throws(FileFailure) {
    let beside = "\(path).\(getpid()).new"
    _ = unsafe unlink(beside)
    do throws(FileFailure) {
      let fd = try open(beside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode)
      defer { _ = martlet_close(fd) }
      guard fchmod(fd, mode) == 0 else { throw failure(beside, "fchmod") }
      try writeAll(fd, bytes, beside)
      guard fsync(fd) == 0 else { throw failure(beside, "fsync") }
      guard lseek(fd, 0, SEEK_SET) == 0 else { throw failure(beside, "lseek") }
      guard try read(fd, beside, bytes.count) == bytes else { throw .damaged(path: beside) }
      guard unsafe rename(beside, path) == 0 else { throw failure(path, "rename") }
      try syncDirectory(of: path)
    } catch {
      _ = unsafe unlink(beside)
      throw error
    }
  }

  /// Removes a file; one that does not exist is fine.
  package static func remove(_ path: String) throws(FileFailure) {
    guard unsafe unlink(path) != 0 else { return }
    let code = errno
    guard code == ENOENT else { throw .system(SystemError(code, "unlink"), path: path) }
  }

  /// Makes a directory and those above it. What exists is left as it is.
  package static func makeDirectory(
    _ path: String, mode: UInt32 = 0o700
  ) throws(FileFailure) {
    var parts = ""
    for part in path.split(separator: "/", omittingEmptySubsequences: false) {
      parts += parts.isEmpty && part.isEmpty ? "" : part
      if !part.isEmpty {
        if unsafe mkdir(parts, mode) != 0 {
          let code = errno
          guard code == EEXIST || code == EISDIR || code == EROFS && exists(parts) else {
            throw .system(SystemError(code, "mkdir"), path: parts)
          }
        }
      }
      parts += "/"
    }
    guard isDirectory(path) else { throw .system(SystemError(ENOTDIR, "mkdir"), path: path) }
  }

  package static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

  package static func isDirectory(_ path: String) -> Bool {
    mode(of: path).map { $0 & S_IFMT == S_IFDIR } ?? false
  }

  /// Permission bits; nil when there is no such file.
  package static func permissions(_ path: String) -> UInt32? { mode(of: path).map { $0 & 0o7777 } }

  /// Names in a directory, sorted, without `.` and `..`.
  package static func list(_ path: String, limit: Int = 4096) throws(FileFailure) -> [String] {
    guard let directory = unsafe opendir(path) else { throw failure(path, "opendir") }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) {
          unsafe String(cString: $0)
        }
      }
      if name == "." || name == ".." { continue }
      guard names.count < limit else { throw .tooLarge(path: path, limit: limit) }
      names.append(name)
    }
    return names.sorted()
  }

  // MARK: Parts

  private static func mode(of path: String) -> UInt32? {
    var facts = stat()
    return unsafe stat(path, &facts) == 0 ? facts.st_mode : nil
  }

  static func open(_ path: String, _ flags: Int32, _ mode: UInt32) throws(FileFailure) -> Int32 {
    let fd = unsafe Glibc.open(path, flags, mode)
    guard fd >= 0 else { throw failure(path, "open") }
    return fd
  }

  static func read(_ fd: Int32, _ path: String, _ limit: Int) throws(FileFailure) -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(max(limit + 1, 1), 65_536))
    while true {
      let count = unsafe chunk.withUnsafeMutableBytes { buffer in
        unsafe martlet_read(fd, buffer.baseAddress, buffer.count)
      }
      guard count >= 0 else { throw .system(SystemError(Int32(-count), "read"), path: path) }
      if count == 0 { return bytes }
      guard bytes.count + Int(count) <= limit else { throw .tooLarge(path: path, limit: limit) }
      bytes.append(contentsOf: chunk[0..<Int(count)])
    }
  }

  static func writeAll(_ fd: Int32, _ bytes: [UInt8], _ path: String) throws(FileFailure) {
    var done = 0
    while done < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.write(fd, buffer.baseAddress! + done, buffer.count - done)
      }
      if count < 0 {
        let code = errno
        if code == EINTR { continue }
        throw .system(SystemError(code, "write"), path: path)
      }
      done += count
    }
  }

  private static func syncDirectory(of path: String) throws(FileFailure) {
    let parent: String
    if let slash = path.lastIndex(of: "/") {
      parent = slash == path.startIndex ? "/" : String(path[..<slash])
    } else {
      parent = "."
    }
    let fd = try open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
    defer { _ = martlet_close(fd) }
    // Some file systems cannot sync a directory; the rename is done all the same.
    guard fsync(fd) == 0 || errno == EINVAL else { throw failure(parent, "fsync") }
  }

  /// Reads errno: call at once after the failed call.
  private static func failure(_ path: String, _ call: StaticString) -> FileFailure {
    .system(SystemError(errno, call), path: path)
  }
}

/// A lock that a process holds while it lives: one agent per state directory.
package final class LockFile {
  package let path: String
  private let fd: Int32
  private var isReleased = false

  /// Takes the lock and writes our process id into the file.
  package init(_ path: String) throws(FileFailure) {
    self.path = path
    let fd = try Files.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    let result = martlet_flock(fd)
    guard result >= 0 else {
      let holder = Self.holder(fd, path)
      _ = martlet_close(fd)
      if result == -EWOULDBLOCK { throw .locked(path: path, by: holder) }
      throw .system(SystemError(-result, "flock"), path: path)
    }
    do throws(FileFailure) {
      _ = ftruncate(fd, 0)
      try Files.writeAll(fd, Array("\(getpid())\n".utf8), path)
    } catch {
      _ = martlet_close(fd)
      throw error
    }
    self.fd = fd
  }

  deinit { release() }

  /// Gives the lock back; the file stays.
  package func release() {
    guard !isReleased else { return }
    isReleased = true
    _ = martlet_close(fd)
  }

  private static func holder(_ fd: Int32, _ path: String) -> Int32? {
    do throws(FileFailure) {
      let bytes = try Files.read(fd, path, 32)
      return Int32(String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self))
    } catch {
      return nil
    }
  }
}
