/// Datagrams: whole, cut, lost, overlapping, bounded.

import Bytes
import Mux
import Testing

private func stream(_ number: UInt32) -> StreamID { StreamID(number: number, epoch: 0) }

@Suite struct DatagramTests {
  @Test func smallAndLargeArriveWhole() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open("udp", now: world.now)
    var sent: [[UInt8]] = []
    for count in [0, 1, 500, 1_150, 1_170, 1_500, 9_000, 65_507] {
      let bytes = pattern(id.number, 0..<count)
      #expect(world.a.mux.sendDatagram(id, bytes, now: world.now))
      sent.append(bytes)
    }
    let long = [UInt8](repeating: 0, count: 65_508)
    #expect(!world.a.mux.sendDatagram(id, long, now: world.now))
    world.run(for: .milliseconds(400))
    #expect(world.b.datagrams[id]?.sorted { $0.count < $1.count } == sent)
    // The other way too, beside stream data.
    world.b.send(id, total: 50_000, finishes: false)
    #expect(world.b.mux.sendDatagram(id, sent[3], now: world.now))
    world.run(for: .milliseconds(400))
    #expect(world.a.datagrams[id] == [sent[3]])
    #expect(world.a.received[id] == 50_000)
  }

  @Test func lossLosesDatagramsButNothingElse() throws {
    let world = World(seed: 3)
    var link = Link()
    link.loss = 100_000
    link.reorder = 100_000
    world.addLane(0, link)
    let id = try world.a.open("udp", now: world.now)
    world.a.send(id, total: 100_000, finishes: false)
    world.run(for: .milliseconds(50))
    for round in 0..<200 {
      _ = world.a.mux.sendDatagram(id, pattern(id.number, 0..<3_000), now: world.now)
      world.run(for: .milliseconds(60))
      if round == 100 { #expect(world.a.failure == nil) }
    }
    world.run(for: .seconds(5))
    let got = world.b.datagrams[id] ?? []
    #expect(got.count > 60 && got.count < 200, "\(got.count)")
    #expect(got.allSatisfy { $0 == pattern(id.number, 0..<3_000) })
    #expect(world.b.received[id] == 100_000)
    #expect(world.b.mux.drops.datagramReassemblyExpired > 0)
    world.a.mux.reset(id, code: 256)
    world.run(for: .seconds(10))
    #expect(world.isQuiet, "no reassembly timer is left")
  }

  @Test func overlapAndContradictionDropTheDatagram() {
    let mux = victim()
    var packet = PacketBuilder(number: 0).syn(1)
    packet = packet.datagram(1, 0, 0, 10, [0, 1, 2, 3]).datagram(1, 0, 3, 10, [3, 4])
    packet = packet.datagram(1, 1, 0, 10, [0, 1, 2, 3]).datagram(1, 1, 4, 11, [3, 4])
    packet = packet.datagram(1, 2, 6, 8, [6, 7]).datagram(1, 2, 0, 8, [0, 1, 2, 3, 4, 5])
    #expect(feed(mux, [packet]) == nil)
    #expect(mux.drops.datagramBadFragment == 2)
    var got: [[UInt8]] = []
    while mux.receiveDatagram(stream(1), { got.append([UInt8]($0)) }) {}
    #expect(got == [[0, 1, 2, 3, 4, 5, 6, 7]])
  }

  @Test func reassemblyAndQueuesAreBounded() {
    let mux = victim()
    #expect(feed(mux, [PacketBuilder(number: 0).syn(1)]) == nil)
    var number: UInt64 = 1
    for datagram in 0..<UInt32(100) {
      let packet = PacketBuilder(number: number).datagram(1, datagram, 0, 1_000, [1])
      #expect(feed(mux, [packet]) == nil)
      number += 1
    }
    #expect(mux.drops.datagramQueueFull == 36, "64 are open")
    mux.advance(to: start + .seconds(3))
    #expect(mux.drops.datagramReassemblyExpired == 64)
    let big = [UInt8](repeating: 1, count: 1_000)
    for datagram in 0..<UInt32(2_000) {
      let packet = PacketBuilder(number: number).datagram(1, 1_000 + datagram, 0, 1_000, big)
      #expect(feed(mux, [packet]) == nil)
      number += 1
    }
    var count = 0
    while mux.receiveDatagram(stream(1), { _ in count += 1 }) {}
    #expect(count == (256 << 10) / 1_004)
    #expect(events(mux).filter { $0 == .datagram(stream(1)) }.count == 1, "told once")
  }

  @Test func staleDatagramsAreNotSent() throws {
    let mux = Multiplexer(role: .odd, random: SeededRandom(testSeed: 1))
    mux.addLane(0, kind: .datagram, maximumPacket: 1_200, now: start)
    let id = try mux.open([1], now: start)
    #expect(mux.sendDatagram(id, [1, 2], now: start))
    let late = start + .seconds(2)
    #expect(mux.sendDatagram(id, [3, 4], now: late))
    let packet = try #require(takePacket(mux, now: late))
    #expect(mux.drops.datagramTooOld == 1)
    #expect(packet.suffix(2) == [3, 4])
    var refused = 0
    let big = [UInt8](repeating: 0, count: 60_000)
    for _ in 0..<20 where !mux.sendDatagram(id, big, now: late) { refused += 1 }
    #expect(refused == 3)
  }
}
