/// Carrier frames: heads, hostile bytes, and a stream cut anywhere.

import Bytes
import Mux
import Testing

@Suite struct CarrierTests {
  private func decode(_ chunks: [[UInt8]]) throws(CarrierFailure) -> [(CarrierFrame, [UInt8])] {
    var decoder = CarrierDecoder()
    var result: [(CarrierFrame, [UInt8])] = []
    for chunk in chunks {
      decoder.append(chunk.span.bytes)
      while try decoder.next({ frame, body in result.append((frame, [UInt8](body.bytes))) }) {}
    }
    return result
  }

  @Test func headIsSevenBytesBigEndian() {
    let bytes = CarrierFrame.bytes(channel: 0x0102_0304, kind: .data, body: [9, 8, 7])
    #expect(bytes == [1, 2, 3, 4, 0x04, 0, 3, 9, 8, 7])
    #expect(CarrierFrame.bytes(channel: 7, kind: .end) == [0, 0, 0, 7, 0x02, 0, 0])
    #expect(
      CarrierFrame.refusal(channel: 1, code: 0x0203, words: "no")
        == [0, 0, 0, 1, 0x20, 0, 4, 2, 3, 0x6e, 0x6f])
  }

  @Test func framesSurviveAnyCutting() throws {
    var random = SeededRandom(testSeed: 4)
    var stream: [UInt8] = []
    var sent: [(CarrierFrame.Kind, [UInt8])] = []
    for index in 0..<200 {
      let kind: CarrierFrame.Kind = [.data, .open, .ping, .pong, .end, .refuse][index % 6]
      let most = kind == .data ? 3_000 : kind.maximumLength
      let count = kind.minimumLength + Int(random.next() % UInt64(most - kind.minimumLength + 1))
      let body = random.bytes(count)
      sent.append((kind, body))
      stream += CarrierFrame.bytes(channel: UInt32(index), kind: kind, body: body)
    }
    for cut in [1, 2, 7, 13, 1_000, 65_536, stream.count] {
      var chunks: [[UInt8]] = []
      var at = 0
      while at < stream.count {
        chunks.append(Array(stream[at..<min(at + cut, stream.count)]))
        at += cut
      }
      let got = try decode(chunks)
      #expect(got.count == sent.count, "cut \(cut)")
      for (index, (frame, body)) in got.enumerated() {
        #expect(frame.channel == UInt32(index) && frame.kind == sent[index].0)
        #expect(body == sent[index].1, "cut \(cut) frame \(index)")
      }
    }
  }

  @Test func largestPacketPassesAndIsLentInPlace() throws {
    let body = [UInt8](repeating: 0xab, count: 65_535)
    var decoder = CarrierDecoder()
    let bytes = CarrierFrame.bytes(channel: 0, kind: .data, body: body)
    var seen = 0
    for _ in 0..<20 {
      decoder.append(minimum: bytes.count) { $0.write(bytes.span.bytes) }
      let more = try decoder.next { frame, body in
        seen += body.byteCount
        // Opened in place: the bytes can be changed where they lie.
        body.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self)
      }
      #expect(more)
      #expect(try !decoder.next { _, _ in })
    }
    #expect(seen == 20 * 65_535)
    #expect(decoder.capacity <= 262_144, "no growth while frames are taken")
  }

  @Test(arguments: [
    ([0, 0, 0, 0, 0x00, 0, 0], CarrierFailure.badFlags),
    ([0, 0, 0, 0, 0x05, 0, 4], .badFlags),
    ([0, 0, 0, 0, 0x40, 0, 0], .badFlags),
    ([0, 0, 0, 0, 0x80, 0, 8], .badFlags),
    ([0, 0, 0, 0, 0xff, 0, 0], .badFlags),
    ([0, 0, 0, 0, 0x04, 0, 0], .badLength),
    ([0, 0, 0, 0, 0x02, 0, 1], .badLength),
    ([0, 0, 0, 0, 0x01, 4, 1], .badLength),
    ([0, 0, 0, 0, 0x20, 0, 1], .badLength),
    ([0, 0, 0, 0, 0x20, 1, 3], .badLength),
    ([0, 0, 0, 0, 0x08, 0, 65], .badLength),
  ] as [([UInt8], CarrierFailure)])
  func hostileHeadsEndTheCarrier(bytes: [UInt8], reason: CarrierFailure) {
    var decoder = CarrierDecoder()
    decoder.append(bytes.span.bytes)
    for _ in 0..<2 {
      do throws(CarrierFailure) {
        _ = try decoder.next { _, _ in }
        Issue.record("accepted \(bytes)")
      } catch {
        #expect(error == reason)
      }
    }
  }
}
