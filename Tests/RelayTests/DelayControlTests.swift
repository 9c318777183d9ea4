import Bytes
import Relay
import Testing

@Suite struct DelayControlTests {
  static func ring(_ count: Int, stamp: Instant) -> PacketRing {
    let ring = PacketRing(limit: 1 << 20)
    for _ in 0..<count { ring.append([UInt8](repeating: 0, count: 100).span.bytes, stamp: stamp) }
    return ring
  }

  /// RFC 8289 §5.4: while the delay stays above target, drop n+1 follows
  /// drop n by interval/√n.
  @Test func dropsFollowTheControlLaw() {
    let ring = Self.ring(5_000, stamp: at(-1_000))
    var control = DelayControl()
    var drops: [Instant] = []
    var now = at(0)
    while drops.count < 40 {
      let dropped = control.admit(ring, largest: 100, target: .milliseconds(10), now: now)
      for _ in 0..<dropped { drops.append(now) }
      // A standing queue: what leaves is replaced.
      now += .microseconds(100)
    }
    // Nothing before a whole interval above target.
    #expect(drops[0] >= at(100) && drops[0] < at(101))
    var expected = drops[0]
    for n in 1..<drops.count {
      expected = DelayControl.next(after: expected, count: n)
      let error = abs((drops[n] - expected).inMilliseconds)
      #expect(error <= 0.11, "drop \(n) is \(error) ms off")
    }
    #expect((DelayControl.next(after: at(0), count: 4) - at(0)) == .milliseconds(50))
    #expect((DelayControl.next(after: at(0), count: 100) - at(0)) == .milliseconds(10))
  }

  @Test func aShortDelayOrASinglePacketIsNeverDropped() {
    var control = DelayControl()
    for ms in 0..<1_000 {
      let fresh = Self.ring(50, stamp: at(Int64(ms)) - .milliseconds(9))
      let dropped = control.admit(
        fresh, largest: 100, target: .milliseconds(10), now: at(Int64(ms)))
      #expect(dropped == 0)
      let lone = Self.ring(2, stamp: at(-5_000))
      let droppedLone = control.admit(
        lone, largest: 100, target: .milliseconds(10), now: at(Int64(ms)))
      #expect(droppedLone == 0)
    }
    #expect(!control.isDropping && control.firstAbove == nil)
  }

  /// RFC 8289 §5.5: dropping resumed within 16 intervals goes on at its rate.
  @Test func droppingAgainSoonGoesOnWhereItStopped() {
    var control = DelayControl()
    let old = Self.ring(5_000, stamp: at(-1_000))
    var now = at(0)
    while control.count < 20 {
      _ = control.admit(old, largest: 100, target: .milliseconds(10), now: now)
      now += .milliseconds(1)
    }
    let fresh = Self.ring(10, stamp: now)
    _ = control.admit(fresh, largest: 100, target: .milliseconds(10), now: now)
    #expect(!control.isDropping)
    for _ in 0..<150 {
      _ = control.admit(old, largest: 100, target: .milliseconds(10), now: now)
      now += .milliseconds(1)
    }
    #expect(control.isDropping && control.count > 15)
  }
}
