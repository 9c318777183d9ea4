/// The small structures under the machine, each against a plain model.

import Bytes
import Mux
import Testing

@Suite struct StructureTests {
  @Test func offsetRangesBehaveLikeASet() {
    for seed in UInt64(1)...20 {
      var random = SeededRandom(testSeed: seed)
      var ranges = OffsetRanges()
      var model = Set<UInt64>()
      for step in 0..<300 {
        let lower = random.next() % 200
        let upper = lower + random.next() % 30
        if random.next() % 3 == 0 {
          ranges.remove(lower, upper)
          for value in lower..<upper { model.remove(value) }
        } else {
          ranges.insert(lower, upper)
          for value in lower..<upper { model.insert(value) }
        }
        var listed = Set<UInt64>()
        var previous: UInt64?
        for range in ranges.ranges {
          #expect(range.lower < range.upper, "seed \(seed) step \(step)")
          if let previous { #expect(range.lower > previous, "seed \(seed) step \(step)") }
          previous = range.upper
          listed.formUnion(range.lower..<range.upper)
        }
        #expect(listed == model, "seed \(seed) step \(step)")
        var gaps = Set<UInt64>()
        ranges.forEachGap(50, 120) { gaps.formUnion($0..<$1) }
        #expect(gaps == Set(50..<120).subtracting(model), "seed \(seed) step \(step)")
      }
      while let range = ranges.takeFirst(7) {
        #expect(range.upper - range.lower <= 7)
        #expect(model.min() == range.lower, "seed \(seed)")
        model.subtract(range.lower..<range.upper)
      }
      #expect(model.isEmpty)
    }
  }

  @Test func ackRangesKeepTheNewestThirtyTwo() {
    for seed in UInt64(1)...20 {
      var random = SeededRandom(testSeed: seed)
      var ranges = AckRanges()
      var model = Set<UInt64>()
      for step in 0..<600 {
        let number = UInt64(step) * 2 / 3 + random.next() % 60
        let arrival = ranges.insert(number)
        switch arrival {
        case .duplicate: #expect(model.contains(number), "seed \(seed) step \(step)")
        case .inOrder, .newGap, .late:
          #expect(!model.contains(number), "seed \(seed) step \(step)")
          model.insert(number)
        case .forgotten: break
        }
        #expect(ranges.count <= 32)
        var listed = Set<UInt64>()
        for index in 0..<ranges.count {
          let span = ranges.spans[index]
          #expect(span.lower <= span.upper)
          if index > 0 { #expect(ranges.spans[index - 1].lower > span.upper + 1) }
          listed.formUnion(span.lower...span.upper)
        }
        let lowest = ranges.spans[ranges.count - 1].lower
        #expect(listed == model.filter { $0 >= lowest }, "seed \(seed) step \(step)")
      }
      let top = ranges.largest!
      ranges.forget(through: top - 3)
      #expect(ranges.count >= 1)
      #expect(ranges.spans[ranges.count - 1].lower > top - 3 || ranges.count == 1)
    }
  }

  @Test func seenStreamsNeverForget() {
    for role in [MuxRole.odd, .even] {
      let parity: UInt32 = role == .odd ? 1 : 0
      let starts: [UInt32] = [2 - parity, 0xffff_ff00 | parity]
      for start in starts {
        var random = SeededRandom(testSeed: UInt64(start))
        var seen = SeenStreams(role: role, startingAt: start)
        var ids: [UInt32] = []
        var id = start
        for _ in 0..<2_000 {
          if id == 0 { id = 2 }
          ids.append(id)
          id &+= 2
        }
        // In windows of 100, shuffled: each id is new once and seen for ever.
        var known = Set<UInt32>()
        for window in stride(from: 0, to: ids.count, by: 100) {
          for id in ids[window..<(window + 100)].shuffled(using: &random) {
            #expect(seen.find(id) == .new, "\(role) \(start) \(id)")
            seen.insert(id)
            known.insert(id)
            #expect(seen.find(id) == .seen, "\(role) \(start) \(id)")
          }
        }
        for id in known { #expect(seen.find(id) == .seen, "\(role) \(start) \(id)") }
        let next = seen.id(seen.watermark)
        #expect(seen.find(next) == .new)
        #expect(seen.find(next &+ 65_536) == .new)
        #expect(seen.find(next &+ 65_538) == .tooFar)
      }
    }
  }

  @Test func streamTableBehavesLikeADictionary() {
    var random = SeededRandom(testSeed: 5)
    var table = StreamTable()
    var model: [UInt32: Int] = [:]
    for step in 0..<20_000 {
      let id = UInt32(1 + random.next() % 700) &* 2
      if let slot = model[id] {
        #expect(table.find(id) == slot)
        if random.next() % 2 == 0 {
          table.remove(id)
          model[id] = nil
        }
      } else {
        #expect(table.find(id) == nil, "step \(step)")
        table.insert(id, step)
        model[id] = step
      }
      #expect(table.count == model.count)
    }
    for (id, slot) in model { #expect(table.find(id) == slot) }
  }

  @Test func ringKeepsBytesThroughGrowthAndWrapping() {
    var random = SeededRandom(testSeed: 9)
    var ring = ByteRing()
    var start: UInt64 = 0
    var end: UInt64 = 0
    for _ in 0..<3_000 {
      let count = Int(random.next() % 3_000)
      if end - start < 60_000 {
        let bytes = (0..<count).map { patternByte(1, Int(end) + $0) }
        ring.reserve(through: end + UInt64(count), keeping: end)
        ring.store(bytes.span.bytes, at: end)
        end += UInt64(count)
      }
      let taken = Int(random.next() % 3_000)
      var offset = start
      let stop = min(end, start + UInt64(taken))
      while offset < stop {
        let got = ring.withBytes(from: offset, to: stop) { span in [UInt8](span) }
        #expect(got == (0..<got.count).map { patternByte(1, Int(offset) + $0) })
        offset += UInt64(got.count)
      }
      start = stop
      ring.discard(before: start, isEmpty: start == end)
    }
    #expect(ring.capacity <= 131_072)
  }
}
