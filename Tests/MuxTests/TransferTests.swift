/// Whole transfers through simulated links: every byte once, in order,
/// whatever the links do.

import Bytes
import Mux
import Testing

@Suite struct TransferTests {
  @Test func openCarriesRequestAndFirstBytes() throws {
    let world = World()
    world.addLane(0)
    let id = try world.a.open("tcp 127.0.0.1:22", now: world.now)
    world.a.send(id, total: 100)
    #expect(world.run(for: .milliseconds(11)) { world.b.finished.count == 1 })
    #expect(world.b.openedRequests[id.number] == Array("tcp 127.0.0.1:22".utf8))
    #expect(world.packetsFilled <= 2, "SYN, bytes and FIN in one packet, an answer")
    #expect(world.b.wrongBytes == 0)
    world.run(for: .seconds(5)) { world.a.closed.contains(id) && world.b.closed.contains(id) }
    #expect(world.a.closed == [id])
    #expect(world.b.closed == [id])
    #expect(world.a.mux.openStreamCount == 0)
    #expect(world.b.mux.openStreamCount == 0)
    world.run(for: .seconds(30))
    #expect(world.isQuiet, "no timer is left behind")
  }

  @Test func everyByteArrivesWhateverTheLinkDoes() throws {
    for seed in UInt64(1)...12 {
      let world = World(seed: seed)
      var link = Link()
      link.delay = .milliseconds(Int64(seed * 3))
      link.loss = [0, 10_000, 50_000, 200_000][Int(seed % 4)]
      link.reorder = [0, 30_000, 200_000][Int(seed % 3)]
      link.rate = [0, 1_000_000, 10_000_000][Int(seed % 3)]
      link.queue = 64 << 10
      world.addLane(0, link)
      let total = 400_000
      world.b.echoTotal = total
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: total)
      let done = world.run(for: .seconds(300)) {
        world.a.closed.contains(id) && world.b.closed.contains(id)
      }
      #expect(done, "seed \(seed)")
      #expect(world.b.received[id] == total, "seed \(seed)")
      #expect(world.a.received[id] == total, "seed \(seed)")
      #expect(world.a.wrongBytes + world.b.wrongBytes == 0, "seed \(seed)")
      #expect(world.a.failure == nil && world.b.failure == nil, "seed \(seed)")
      world.run(for: .seconds(60))
      #expect(world.isQuiet, "seed \(seed)")
    }
  }
}
