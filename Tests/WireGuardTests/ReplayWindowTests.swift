/// Edges of the replay window in both sizes, against a plain model.

import Bytes
import Testing
import WireGuard

@Test func windowEdges() {
  for bits in [8_192, 65_536] {
    let reach = UInt64(bits - 64)
    var window = ReplayWindow(bits: bits)
    func mark(_ counter: UInt64) -> Bool { window.mark(counter) }
    #expect(window.admits(0) && mark(0))
    #expect(!window.admits(0) && !mark(0))
    #expect(mark(1))
    #expect(mark(9) && mark(8) && !mark(9) && !mark(8))
    #expect(mark(reach) && mark(reach - 1) && !mark(reach))
    // 0 … reach is exactly inside; one further pushes 0 and 1 out.
    #expect(mark(2))
    #expect(mark(reach + 3))
    #expect(!window.admits(2) && !mark(2))
    #expect(window.admits(3) && mark(3))
    // Far jumps, up to the last counter of the protocol.
    #expect(mark(10 * UInt64(bits)))
    #expect(!window.admits(reach + 4))
    #expect(mark(10 * UInt64(bits) - reach))
    #expect(!mark(10 * UInt64(bits) - reach - 1))
    let last = UInt64.max - (1 << 13) - 1
    #expect(mark(last) && !mark(last))
    #expect(mark(last - reach) && !mark(last - reach - 1))
    #expect(mark(.max) && !mark(.max))
  }
}

@Test func windowAgreesWithAModel() {
  for seed in 0..<40 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed)
    let bits = seed % 2 == 0 ? 128 : 8_192
    var window = ReplayWindow(bits: bits)
    var seen: Set<UInt64> = []
    var greatest: UInt64 = 0
    for step in 0..<4_000 {
      let spread = UInt64(bits) * (random.next() % 20 == 0 ? 3 : 1)
      let base = greatest > spread ? greatest - spread : 0
      let counter = base + random.next() % (spread + spread / 8 + 3)
      let expected =
        !seen.contains(counter)
        && (counter > greatest || greatest - counter <= UInt64(bits - 64))
      let admitted = window.admits(counter)
      let marked = window.mark(counter)
      guard admitted == expected, marked == expected else {
        Issue.record("seed \(seed) step \(step) counter \(counter)")
        return
      }
      if marked {
        seen.insert(counter)
        greatest = max(greatest, counter)
      }
    }
  }
}

@Test func wideningForgetsNothing() {
  for seed in 0..<20 as Range<UInt64> {
    var random = SeededRandom(testSeed: seed)
    var window = ReplayWindow(bits: 8_192)
    var marked: Set<UInt64> = []
    var next = random.next() % 20_000
    for _ in 0..<3_000 {
      next += random.next() % 9
      if window.mark(next) { marked.insert(next) }
    }
    let fresh = (0..<8_128).map { next - UInt64($0) }.filter { !marked.contains($0) && $0 <= next }
    window.widen(to: 65_536)
    #expect(window.bits == 65_536)
    for counter in marked {
      guard !window.admits(counter) else {
        Issue.record("seed \(seed): \(counter) opens twice")
        return
      }
    }
    for counter in fresh.prefix(500) {
      guard window.admits(counter) else {
        Issue.record("seed \(seed): \(counter) was lost")
        return
      }
    }
    // What had left the small window is not let in again.
    if next > 9_000 { #expect(!window.admits(next - 8_300), "seed \(seed)") }
    // And the wide window really is wide.
    let far = window.mark(next + 60_000)
    #expect(far)
    let near = window.mark(next + 1)
    #expect(near, "seed \(seed)")
    window.widen(to: 8_192)
    #expect(window.bits == 65_536)
  }
}
