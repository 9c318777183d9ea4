// Memory for stream sockets: what a connection could not write yet, and the
// block that a loop's connections read into one after the other.

internal import Bytes

/// Bytes on their way into a socket: a ring that grows up to what its owner
/// allows and is given back when empty and large.
struct WriteBuffer: ~Copyable {
  private var memory: UnsafeMutableRawBufferPointer
  private var head = 0
  private(set) var count = 0

  init() { unsafe memory = UnsafeMutableRawBufferPointer(start: nil, count: 0) }

  deinit { unsafe memory.deallocate() }

  /// The caller has checked its own limit.
  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    if count + bytes.count > memory.count { grow(count + bytes.count) }
    let capacity = memory.count
    let tail = (head + count) % capacity
    let first = min(bytes.count, capacity - tail)
    unsafe (memory.baseAddress! + tail).copyMemory(from: bytes.baseAddress!, byteCount: first)
    if first < bytes.count {
      unsafe memory.baseAddress!.copyMemory(
        from: bytes.baseAddress! + first, byteCount: bytes.count - first)
    }
    count += bytes.count
  }

  /// The one or two runs in order; the second may be empty.
  func withRuns<R>(_ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> R) -> R {
    let first = min(count, memory.count - head)
    return unsafe body(
      UnsafeRawBufferPointer(rebasing: memory[head..<(head + first)]),
      UnsafeRawBufferPointer(rebasing: memory[0..<(count - first)]))
  }

  mutating func removeFirst(_ taken: Int) {
    precondition(taken <= count)
    count -= taken
    guard count > 0 else {
      head = 0
      if memory.count > ReactorLimits.idleRingBytes { replace(with: 0) }
      return
    }
    head = (head + taken) % memory.count
  }

  mutating func removeAll() {
    head = 0
    count = 0
    replace(with: 0)
  }

  private mutating func grow(_ needed: Int) {
    var capacity = max(4096, memory.count)
    while capacity < needed { capacity *= 2 }
    replace(with: capacity)
  }

  private mutating func replace(with capacity: Int) {
    let new =
      capacity == 0
      ? UnsafeMutableRawBufferPointer(start: nil, count: 0)
      : UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 64)
    if count > 0 {
      unsafe withRuns { a, b in
        unsafe new.baseAddress!.copyMemory(from: a.baseAddress!, byteCount: a.count)
        if b.count > 0 {
          unsafe (new.baseAddress! + a.count).copyMemory(from: b.baseAddress!, byteCount: b.count)
        }
      }
    }
    unsafe memory.deallocate()
    unsafe memory = new
    head = 0
  }
}

/// One block that connections read into; worthless after the call.
final class ReadBuffer {
  let memory: UnsafeMutableRawBufferPointer
  /// A read inside a read's body would overwrite its bytes.
  var isInUse = false

  init(capacity: Int) { unsafe memory = .allocate(byteCount: capacity, alignment: 64) }

  deinit { unsafe memory.deallocate() }
}
