/// What may come in a packet and what may not: tables of frames, truncation at
/// every byte, credit, final offsets, ids.

import Bytes
import Mux
import Testing

/// Builds packets by hand, as a hostile or foreign peer would.
struct PacketBuilder {
  var bytes: [UInt8] = []

  init(lane: LaneID = 0, number: UInt64 = 0, type: UInt8 = 1) {
    bytes = [type, lane]
    for shift in stride(from: 40, through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: number >> UInt64(shift)))
    }
  }

  func frame(_ id: UInt32, _ flags: UInt8, _ body: [UInt8]) -> PacketBuilder {
    var copy = self
    copy.bytes.appendUInt32(id)
    copy.bytes.append(flags)
    copy.bytes.appendUInt16(UInt16(body.count))
    copy.bytes += body
    return copy
  }
  func syn(_ id: UInt32, _ request: [UInt8] = [1], data: [UInt8] = [], fin: Bool = false)
    -> PacketBuilder
  {
    var body: [UInt8] = []
    body.appendUInt16(UInt16(request.count))
    return frame(id, 1 | (data.isEmpty ? 0 : 4) | (fin ? 2 : 0), body + request + data)
  }
  func data(_ id: UInt32, _ offset: UInt64, _ count: Int, fin: Bool = false) -> PacketBuilder {
    var body: [UInt8] = []
    body.appendUInt64(offset)
    return frame(id, fin ? 6 : 4, body + pattern(id, Int(offset)..<(Int(offset) + count)))
  }
  func value(_ id: UInt32, _ flags: UInt8, _ value: UInt64) -> PacketBuilder {
    var body: [UInt8] = []
    body.appendUInt64(value)
    return frame(id, flags, body)
  }
  func rst(_ id: UInt32, kind: UInt8 = 0, final: UInt64 = 0, words: [UInt8] = []) -> PacketBuilder {
    var body: [UInt8] = [kind]
    body.appendUInt64(final)
    body.appendUInt16(7)
    return frame(id, 0x20, body + words)
  }
  func datagram(_ id: UInt32, _ number: UInt32, _ offset: UInt16, _ total: UInt16, _ data: [UInt8])
    -> PacketBuilder
  {
    var body: [UInt8] = []
    body.appendUInt32(number)
    body.appendUInt16(offset)
    body.appendUInt16(total)
    return frame(id, 0x80, body + data)
  }
  func ack(lane: LaneID = 0, largest: UInt64, first: UInt32 = 0, ranges: [(UInt32, UInt32)] = [])
    -> PacketBuilder
  {
    var body: [UInt8] = [lane, 0, 0, 0]
    body.appendUInt16(UInt16(truncatingIfNeeded: largest >> 32))
    body.appendUInt32(UInt32(truncatingIfNeeded: largest))
    body.append(UInt8(1 + ranges.count))
    body.appendUInt32(first)
    for (gap, length) in ranges {
      body.appendUInt32(gap)
      body.appendUInt32(length)
    }
    return frame(0, 4, body)
  }
}

/// A fresh even side (the peer opens odd ids) with one lane.
func victim(limits: MuxLimits = MuxLimits()) -> Multiplexer {
  let mux = Multiplexer(role: .even, limits: limits, random: SeededRandom(testSeed: 1))
  mux.addLane(0, kind: .datagram, maximumPacket: 1_200, now: start)
  return mux
}
let start = Instant(nanoseconds: 5_000_000_000)

/// Feeds packets; the failure of the first that is refused, or nil.
func feed(_ mux: Multiplexer, _ packets: [PacketBuilder]) -> MuxFailure? {
  for packet in packets {
    do throws(MuxFailure) {
      try mux.receive(packet.bytes.span.bytes, now: start)
    } catch {
      return error
    }
  }
  return nil
}

func events(_ mux: Multiplexer) -> [MuxEvent] {
  var list: [MuxEvent] = []
  while let event = mux.pollEvent() { list.append(event) }
  return list
}

/// One packet out of the multiplexer, if it has one.
func takePacket(_ mux: Multiplexer, lane: LaneID = 0, mode: FillMode = .data, now: Instant = start)
  -> [UInt8]?
{
  let batch = TransmitBatch(capacity: 1 << 16)
  var result = FillResult.nothing
  batch.append(carrier: .udp(socket: 0, remote: .none), limit: 65_536) {
    result = mux.fill(lane: lane, into: &$0, mode: mode, now: now)
  }
  guard result == .wrote else { return nil }
  return unsafe batch.withBytes(0..<batch.byteCount) { unsafe [UInt8]($0) }
}

@Suite struct WireTests {
  @Test func openingPacketIsLaidOutAsDocumented() throws {
    let mux = Multiplexer(role: .odd, random: SeededRandom(testSeed: 1))
    mux.addLane(3, kind: .datagram, maximumPacket: 1_200, now: start)
    let request: [UInt8] = [0xaa, 0xbb]
    let id = try mux.open(request, now: start)
    let first: [UInt8] = [1, 2, 3]
    #expect(mux.write(id, first) == 3)
    mux.finish(id)
    #expect(
      takePacket(mux, lane: 3) == [1, 3, 0, 0, 0, 0, 0, 0] + [0, 0, 0, 1, 0x07, 0, 7]
        + [0, 2, 0xaa, 0xbb, 1, 2, 3])
    #expect(takePacket(mux, lane: 3) == nil)
  }

  @Test func acknowledgementIsLaidOutAsDocumented() throws {
    let mux = victim()
    #expect(feed(mux, [PacketBuilder(lane: 9, number: 0).syn(1)]) == nil)
    #expect(feed(mux, [PacketBuilder(lane: 9, number: 4).data(1, 0, 5)]) == nil)
    let packet = try #require(takePacket(mux))
    #expect(
      packet == [1, 0, 0, 0, 0, 0, 0, 0] + [0, 0, 0, 0, 0x04, 0, 23]
        + [9, 0, 0, 0] + [0, 0, 0, 0, 0, 4] + [2] + [0, 0, 0, 0] + [0, 0, 0, 2, 0, 0, 0, 0])
  }

  static let refused: [(String, [PacketBuilder], MuxFailure)] = {
    let p = PacketBuilder()
    let long = [UInt8](repeating: 0, count: 481)
    let words = [UInt8](repeating: 0x61, count: 257)
    var list: [(String, [PacketBuilder], MuxFailure)] = [
      ("type", [PacketBuilder(type: 2).syn(1)], .malformed),
      ("frame longer than packet", [PacketBuilder().syn(1)].map { cut($0, 1) }, .malformed),
      ("nonzero padding", [tail(p.syn(1), [0, 0, 1])], .malformed),
      ("nonzero long padding", [tail(p.syn(1), [0, 0, 0, 0, 0, 0, 0, 0, 1])], .malformed),
      ("padding with length", [tail(p.syn(1), [0, 0, 0, 0, 0, 0, 1, 0])], .malformed),
      ("SYN of our parity", [p.syn(2)], .wrongSide),
      ("request too long", [p.syn(1, long)], .malformed),
      ("SYN without length", [p.frame(1, 1, [0])], .malformed),
      ("SYN with short request", [p.frame(1, 1, [0, 5, 1])], .malformed),
      ("SYN|DATA without data", [p.frame(1, 5, [0, 1, 1])], .malformed),
      ("SYN with data unflagged", [p.frame(1, 1, [0, 1, 1, 1])], .malformed),
      ("DATA without offset", [p.syn(1).frame(1, 4, [0, 0, 0])], .malformed),
      ("DATA without bytes", [p.syn(1).value(1, 4, 0)], .malformed),
      ("DATA|FIN without bytes", [p.syn(1).value(1, 6, 0)], .malformed),
      ("offset beyond 2^62", [p.syn(1).data1(1, 1 << 62)], .malformed),
      ("offset that overflows", [p.syn(1).data1(1, .max)], .malformed),
      ("FIN with a tail", [p.syn(1).frame(1, 2, [UInt8](repeating: 0, count: 9))], .malformed),
      ("CREDIT short", [p.syn(1).frame(1, 0x40, [0, 0])], .malformed),
      ("CREDIT for an unseen stream", [p.value(1, 0x40, 9)], .streamNeverOpened),
      ("CREDIT for ours unopened", [p.value(2, 0x40, 9)], .streamNeverOpened),
      ("DATA for ours unopened", [p.data(2, 0, 1)], .streamNeverOpened),
      ("RST for ours unopened", [p.rst(2)], .streamNeverOpened),
      ("OPENED for theirs", [p.syn(1).value(1, 0x41, 9)], .wrongSide),
      ("OPENED for ours unopened", [p.value(2, 0x41, 9)], .streamNeverOpened),
      ("RST kind", [p.syn(1).rst(1, kind: 2)], .malformed),
      ("RST short", [p.syn(1).frame(1, 0x20, [0, 0])], .malformed),
      ("RST words too long", [p.syn(1).rst(1, words: words)], .malformed),
      ("DATAGRAM beyond total", [p.syn(1).datagram(1, 0, 3, 4, [1, 2])], .malformed),
      ("DATAGRAM empty piece", [p.syn(1).datagram(1, 0, 3, 4, [])], .malformed),
      ("DATAGRAM short", [p.syn(1).frame(1, 0x80, [0, 0])], .malformed),
      ("session SYN", [p.frame(0, 1, [])], .badFlags),
      ("session FIN", [p.value(0, 2, 0)], .badFlags),
      ("session RST", [p.rst(0)], .badFlags),
      ("session DATAGRAM", [p.datagram(0, 0, 0, 1, [1])], .badFlags),
      ("session DATA empty", [p.frame(0, 4, [])], .malformed),
      ("session CREDIT short", [p.frame(0, 0x40, [0])], .malformed),
      ("ACK of nothing sent", [p.ack(largest: 0)], .acknowledgedUnsent),
      ("ACK of a lane never used", [p.ack(lane: 200, largest: 0)], .acknowledgedUnsent),
      ("ACK below zero", [p.ack(largest: 3, first: 4)], .malformed),
      ("ACK gap below zero", [p.ack(largest: 9, first: 0, ranges: [(9, 0)])], .malformed),
      ("ACK length below zero", [p.ack(largest: 9, first: 0, ranges: [(0, 9)])], .malformed),
      ("id too far", [p.syn(65_539)], .streamTooFar),
      ("data outside stream credit", [p.syn(1).data(1, 65_536, 1)], .creditExceeded),
      ("RST outside stream credit", [p.syn(1).rst(1, final: 65_537)], .creditExceeded),
      ("FIN outside stream credit", [p.syn(1).value(1, 2, 65_537)], .creditExceeded),
      ("data behind FIN", [p.syn(1).data(1, 0, 4, fin: true).data(1, 4, 1)], .finalOffset),
      ("FIN before data", [p.syn(1).data(1, 0, 4).value(1, 2, 3)], .finalOffset),
      ("two FINs", [p.syn(1).value(1, 2, 4).value(1, 2, 5)], .finalOffset),
      ("RST against FIN", [p.syn(1).value(1, 2, 4).rst(1, final: 5)], .finalOffset),
      ("RST before data", [p.syn(1).data(1, 0, 4).rst(1, final: 3)], .finalOffset),
    ]
    // Every set of flags that is not in the table.
    let allowed: Set<UInt8> = [0x01, 0x05, 0x07, 0x04, 0x06, 0x02, 0x20, 0x40, 0x41, 0x80]
    for flags in UInt8.min...(.max) where !allowed.contains(flags) {
      list.append(("flags \(flags)", [p.frame(1, flags, [0, 0, 0, 0, 0, 0, 0, 0])], .badFlags))
      if flags != 0 {
        list.append(("session flags \(flags)", [p.frame(0, flags, [0, 0])], .badFlags))
      }
    }
    return list
  }()

  @Test func brokenRulesEndTheSessionWithTheirCode() {
    for (name, packets, reason) in Self.refused {
      let mux = victim()
      #expect(feed(mux, packets) == reason, "\(name)")
      #expect(mux.failure == reason, "\(name)")
      // A failed session takes nothing more and says nothing more.
      #expect(feed(mux, [PacketBuilder(number: 9).syn(3)]) == nil)
      #expect(mux.drops.closedSession == 1)
      #expect(takePacket(mux) == nil)
      #expect(mux.nextDeadline == .distantFuture)
    }
  }

  @Test func sessionCreditIsEnforcedOverAllStreams() {
    // 16 streams of 64 KB are exactly the session's first megabyte; none is
    // read, and the credit that follows arrivals is taken away here.
    var limits = MuxLimits()
    limits.sessionWindow = 1 << 20
    let mux = victim(limits: limits)
    var number: UInt64 = 0
    var result: MuxFailure?
    for id in stride(from: UInt32(1), through: 31, by: 2) {
      for offset in stride(from: 0, to: 65_536, by: 32_768) {
        var packet = PacketBuilder(number: number)
        if offset == 0 { packet = packet.syn(id) }
        result = feed(mux, [packet.data(id, UInt64(offset), 32_768)])
        #expect(result == nil)
        number += 1
      }
    }
    #expect(feed(mux, [PacketBuilder(number: number).syn(33).data(33, 0, 1)]) == .creditExceeded)
  }

  @Test func truncationAtEveryByteIsAFailureOrHarmless() {
    let whole = PacketBuilder().syn(1, [1, 2, 3], data: [4, 5]).data(1, 2, 10).value(1, 2, 12)
      .datagram(3, 0, 0, 4, [1, 2, 3, 4]).rst(5, words: [0x61]).value(0, 0x40, 1 << 21).bytes
    for count in 0..<whole.count {
      let mux = victim()
      var packet = PacketBuilder()
      packet.bytes = Array(whole[..<count])
      _ = feed(mux, [packet])
      _ = events(mux)
      _ = takePacket(mux)
    }
    let mux = victim()
    var packet = PacketBuilder()
    packet.bytes = whole
    #expect(feed(mux, [packet]) == nil)
  }

  @Test func flippedBytesNeverTrap() {
    let whole = PacketBuilder().syn(1, [1, 2, 3], data: [4, 5]).data(1, 2, 10)
      .datagram(1, 0, 0, 4, [1, 2]).rst(3, words: [0x61]).ack(largest: 0).bytes
    for seed in UInt64(1)...3_000 {
      var random = SeededRandom(testSeed: seed)
      let mux = victim()
      let request: [UInt8] = [1]
      _ = try? mux.open(request, now: start)
      _ = takePacket(mux)
      for number in 0..<4 {
        var packet = PacketBuilder()
        packet.bytes = whole
        packet.bytes[7] = UInt8(number)
        for _ in 0..<Int(random.next() % 4) {
          packet.bytes[Int(random.next() % UInt64(whole.count))] = UInt8(random.next() & 255)
        }
        if feed(mux, [packet]) != nil { break }
        _ = events(mux)
        _ = takePacket(mux)
      }
    }
  }

  @Test func paddingIsIgnored() {
    for count in 0..<40 {
      let mux = victim()
      #expect(feed(mux, [tail(PacketBuilder().syn(1), [UInt8](repeating: 0, count: count))]) == nil)
      #expect(events(mux).count == 1)
    }
  }

  @Test func duplicatePacketIsDroppedAndRepeatedFramesChangeNothing() {
    let mux = victim()
    let packet = PacketBuilder().syn(1, data: pattern(1, 0..<50))
    #expect(feed(mux, [packet, packet]) == nil)
    #expect(mux.drops.duplicatePackets == 1)
    #expect(feed(mux, [PacketBuilder(number: 1).syn(1, data: pattern(1, 0..<50))]) == nil)
    #expect(mux.readableCount(StreamID(number: 1, epoch: 0)) == 50)
    #expect(
      events(mux) == [
        .opened(StreamID(number: 1, epoch: 0), request: [1]), .readable(StreamID(number: 1, epoch: 0)),
      ])
  }
}

/// Helpers of the table.
private func cut(_ packet: PacketBuilder, _ count: Int) -> PacketBuilder {
  var copy = packet
  copy.bytes.removeLast(count)
  return copy
}
private func tail(_ packet: PacketBuilder, _ bytes: [UInt8]) -> PacketBuilder {
  var copy = packet
  copy.bytes += bytes
  return copy
}
extension PacketBuilder {
  fileprivate func data1(_ id: UInt32, _ offset: UInt64) -> PacketBuilder {
    var body: [UInt8] = []
    body.appendUInt64(offset)
    return frame(id, 4, body + [1])
  }
}
