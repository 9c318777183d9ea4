/// The two ends of a session as OpenSSL sees them: ciphertext that came and
/// ciphertext that must go, in queues of ours instead of sockets. A BIO of our
/// own rather than the library's memory BIO: that one cannot be drained without
/// a copy and never gives memory back.

#if canImport(Bytes)
  internal import Bytes
#endif
internal import COpenSSL

final class TLSPipe {
  var input = ByteQueue(kept: 0)
  var output = ByteQueue(kept: 0)
  /// No more input will come.
  var inputEnded = false

  /// A BIO over this pipe, which must outlive it.
  func makeBIO() -> OpaquePointer? {
    guard let bio = BIO_new(Self.method) else { return nil }
    unsafe BIO_set_data(bio, Unmanaged.passUnretained(self).toOpaque())
    BIO_set_init(bio, 1)
    return bio
  }

  /// Made once; never changed afterwards.
  nonisolated(unsafe) private static let method: OpaquePointer? = {
    let kind = BIO_get_new_index() | BIO_TYPE_SOURCE_SINK
    guard let method = BIO_meth_new(kind, "martlet pipe") else { return nil }
    BIO_meth_set_write(method) { bio, bytes, count in
      guard let pipe = TLSPipe.of(bio), let bytes, count > 0 else { return 0 }
      let source = unsafe UnsafeRawBufferPointer(start: bytes, count: Int(count))
      pipe.output.append(unsafe source.bytes)
      return count
    }
    BIO_meth_set_read(method) { bio, bytes, count in
      guard let pipe = TLSPipe.of(bio), let bytes, count > 0 else { return 0 }
      BIO_clear_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY)
      let taken = min(Int(count), pipe.input.byteCount)
      guard taken > 0 else {
        if pipe.inputEnded { return 0 }
        BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
        return -1
      }
      let target = unsafe UnsafeMutableRawBufferPointer(start: bytes, count: taken)
      pipe.input.withBytes(0..<taken) { source in
        unsafe source.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
      }
      pipe.input.consume(taken)
      return Int32(taken)
    }
    BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
    return method
  }()

  private static func of(_ bio: OpaquePointer?) -> TLSPipe? {
    guard let raw = unsafe BIO_get_data(bio) else { return nil }
    return unsafe Unmanaged<TLSPipe>.fromOpaque(raw).takeUnretainedValue()
  }
}
