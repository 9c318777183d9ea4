/// What a lane sent and has not heard the end of: one record per packet number
/// in a ring, the frames inside it, and a bit per number so that a range of an
/// acknowledgement is walked 64 numbers a step. RFC 9002 §A.1.

#if canImport(Bytes)
import Bytes
#endif

/// One frame of a sent packet, enough to send its newest form again.
struct FrameRecord: BitwiseCopyable {
  /// Offset of data; final offset of FIN; limit of CREDIT; largest of an ACK.
  var offset: UInt64 = 0
  var id: UInt32 = 0
  /// Where the stream was; the id there tells whether it still is.
  var slot: Int32 = 0
  var length: UInt16 = 0
  /// Wire flags of the frame; 0x10 (PONG, not used inside a session) is an ACK.
  var flags: UInt8 = 0
}

struct SentPacket: BitwiseCopyable {
  enum State: UInt8 { case unused, outstanding, acknowledged, lost, notEliciting }

  static let frameLimit = 4

  var sentAt = Instant(nanoseconds: 0)
  /// Delivery-rate bookkeeping at the time of sending.
  var delivered: UInt64 = 0
  var deliveredAt = Instant(nanoseconds: 0)
  var firstSentAt = Instant(nanoseconds: 0)
  var lostAt = Instant(nanoseconds: 0)
  var size: Int32 = 0
  var lossEpoch: UInt32 = 0
  var state = State.unused
  var frameCount: UInt8 = 0
  var isAppLimited = false
  /// Its frames were queued again though it is not (yet) lost.
  var isRequeued = false
  var frames = InlineArray<4, FrameRecord>(repeating: FrameRecord())

  mutating func append(_ frame: FrameRecord) {
    frames[Int(frameCount)] = frame
    frameCount += 1
  }
}

/// The ring of records of a lane, from `base` to `next`.
struct SentPackets {
  private var entries: [SentPacket]
  /// One bit per entry: outstanding, or lost and still remembered.
  private var tracked: [UInt64]
  private var mask: Int
  /// The oldest number kept.
  private(set) var base: UInt64
  /// The next number to be sent.
  private(set) var next: UInt64

  init(next: UInt64) {
    entries = [SentPacket](repeating: SentPacket(), count: 64)
    tracked = [0]
    mask = 63
    base = next
    self.next = next
  }

  var count: Int { Int(next - base) }

  subscript(number: UInt64) -> SentPacket {
    get { entries[Int(truncatingIfNeeded: number) & mask] }
    _modify { yield &entries[Int(truncatingIfNeeded: number) & mask] }
  }

  func isTracked(_ number: UInt64) -> Bool {
    guard number >= base, number < next else { return false }
    let at = Int(truncatingIfNeeded: number) & mask
    return tracked[at >> 6] >> UInt64(at & 63) & 1 == 1
  }

  mutating func append(_ packet: SentPacket) {
    if count > mask { grow() }
    let at = Int(truncatingIfNeeded: next) & mask
    entries[at] = packet
    if packet.state == .outstanding { tracked[at >> 6] |= 1 << UInt64(at & 63) }
    next += 1
    if base + 1 == next, packet.state == .notEliciting { base = next }
  }

  mutating func untrack(_ number: UInt64) {
    let at = Int(truncatingIfNeeded: number) & mask
    tracked[at >> 6] &= ~(1 << UInt64(at & 63))
  }

  /// The first tracked number in `from...through`, or nil.
  func nextTracked(from: UInt64, through: UInt64) -> UInt64? {
    var number = max(from, base)
    let end = min(through, next &- 1)
    guard next > base else { return nil }
    while number <= end {
      let at = Int(truncatingIfNeeded: number) & mask
      let word = tracked[at >> 6] >> UInt64(at & 63)
      if word != 0 {
        number += UInt64(word.trailingZeroBitCount)
        return number <= end ? number : nil
      }
      number += UInt64(64 - (at & 63))
    }
    return nil
  }

  /// Moves the base over what is settled: acknowledged, never to be
  /// acknowledged, or lost before `expiry`.
  mutating func settle(lostBefore expiry: Instant) {
    while base < next {
      let at = Int(truncatingIfNeeded: base) & mask
      switch entries[at].state {
      case .outstanding: return
      case .lost:
        guard entries[at].lostAt < expiry else { return }
        tracked[at >> 6] &= ~(1 << UInt64(at & 63))
      case .unused, .acknowledged, .notEliciting: break
      }
      base += 1
    }
  }

  private mutating func grow() {
    var bigger = [SentPacket](repeating: SentPacket(), count: entries.count * 2)
    var bits = [UInt64](repeating: 0, count: tracked.count * 2)
    let wide = bigger.count - 1
    var number = base
    while number < next {
      let to = Int(truncatingIfNeeded: number) & wide
      bigger[to] = self[number]
      if isTracked(number) { bits[to >> 6] |= 1 << UInt64(to & 63) }
      number += 1
    }
    entries = bigger
    tracked = bits
    mask = wide
  }

  /// Bytes of memory held.
  var memory: Int { entries.count * MemoryLayout<SentPacket>.stride }
}
