import Bytes
import Testing

/// Random operations on a queue and on an array must agree at every step.
@Test func aQueueBehavesLikeAnArray() {
  for seed: UInt64 in 0..<50 {
    var random = SeededRandom(testSeed: seed)
    var queue = ByteQueue(kept: seed % 2 == 0 ? 0 : 4096)
    var model: [UInt8] = []
    for step in 0..<400 {
      let amount = Int(random.next() % (step % 7 == 0 ? 5000 : 60))
      switch random.next() % 7 {
      case 0, 1:
        let bytes = random.bytes(amount)
        queue.append(bytes.span.bytes)
        model += bytes
      case 2:
        let bytes = random.bytes(amount)
        queue.append(limit: amount + 10) { $0.write(bytes.span.bytes) }
        model += bytes
      case 3:
        let count = min(amount, model.count)
        queue.consume(count)
        model.removeFirst(count)
      case 4:
        let count = min(amount, model.count)
        queue.truncate(count)
        model.removeLast(count)
      case 5 where model.count > 4:
        let low = Int(random.next() % UInt64(model.count))
        let high = low + Int(random.next() % UInt64(model.count - low + 1))
        queue.xor(low..<high, key: 0x0102_0304)
        for i in low..<high { model[i] ^= UInt8((i - low) % 4 + 1) }
        queue.overwrite(at: low, with: 7)
        model[low] = 7
      case 6 where model.count > 4:
        let low = 2 + Int(random.next() % UInt64(model.count - 2))
        queue.slide(low..<model.count, by: 2)
        queue.truncate(2)
        model.removeSubrange((low - 2)..<low)
      default:
        var other = ByteQueue()
        let bytes = random.bytes(amount % 20)
        other.append(bytes.span.bytes)
        queue.append(other)
        model += bytes
      }
      let count = queue.byteCount
      let same = queue.withBytes(0..<count) { [UInt8]($0) == model }
      #expect(same && count == model.count, "seed \(seed), step \(step)")
      if model.isEmpty, seed % 2 == 0 {
        let held = queue.capacity
        #expect(held == 0, "seed \(seed), step \(step)")
      }
    }
  }
}

@Test func onlyUTF8IsUTF8() {
  func judged(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.isUTF8 }
  #expect(judged([]))
  // Every sequence of up to three bytes of a telling alphabet, against the
  // standard library's judgement, at several distances from a word's start.
  let alphabet: [UInt8] = [
    0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec,
    0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
  ]
  var wrong: [[UInt8]] = []
  for a in alphabet {
    for b in alphabet {
      for c in alphabet {
        for tail: [UInt8] in [[], [0x80], [0x41]] {
          let bytes = [a, b, c] + tail
          let expected = String(validating: bytes, as: UTF8.self) != nil
          if judged(bytes) != expected { wrong.append(bytes) }
          let padded =
            [UInt8](repeating: 0x61, count: 6) + bytes + [UInt8](repeating: 0x61, count: 9)
          if judged(padded) != (String(validating: padded, as: UTF8.self) != nil) {
            wrong.append(padded)
          }
        }
      }
    }
  }
  #expect(wrong.isEmpty)
}
