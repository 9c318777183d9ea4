// Reading straight into somebody else's output span: a send buffer's free room.

internal import Bytes
internal import CLinux

extension StreamConnection {
  /// Reads once into the free room of `output`; what came counts as written.
  package func read(into output: inout OutputRawSpan) -> ReadResult {
    guard isOpen else { return isClosed ? .end : .wouldBlock }
    var asked = 0
    let result = unsafe output.withUnsafeMutableBytes { buffer, initialized in
      asked = buffer.count - initialized
      guard asked > 0, let base = buffer.baseAddress else { return Int64(0) }
      let count = unsafe martlet_read(fd, base + initialized, asked)
      if count > 0 { initialized += Int(count) }
      return count
    }
    return finishRead(result, asked)
  }
}
