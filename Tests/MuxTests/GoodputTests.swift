/// How much gets through: shapes of the controllers and goodput on virtual
/// links against what theory says.

import Bytes
import Mux
import Testing

/// One bulk stream over one link; bytes a second delivered in the second half.
private func goodput(
  seed: UInt64, _ link: Link, seconds: Int64, packet: Int = 1_200,
  kind: LaneKind = .datagram, algorithm: CongestionAlgorithm = .cubic
) throws -> (rate: Double, world: World) {
  var limits = MuxLimits()
  limits.congestion = algorithm
  let world = World(seed: seed, limits: limits)
  world.addLane(0, kind: kind, maximumPacket: packet, link)
  let id = try world.a.open(now: world.now)
  world.a.send(id, total: 1 << 30, finishes: false)
  world.run(for: .seconds(seconds / 2))
  let before = world.b.received[id] ?? 0
  world.run(for: .seconds(seconds - seconds / 2))
  #expect(world.b.wrongBytes == 0)
  #expect(world.a.failure == nil && world.b.failure == nil)
  return (Double((world.b.received[id] ?? 0) - before) / Double(seconds - seconds / 2), world)
}

@Suite struct GoodputTests {
  @Test func report() throws {
    for (loss, reorder, seconds) in [(20_000, 0, 20), (1_000, 0, 20), (0, 0, 4), (0, 3_000, 4)] as [(Int, Int, Int64)] {
      for algorithm in [CongestionAlgorithm.cubic, .bbr] {
        var link = Link()
        link.rate = 25_000_000
        link.delay = .milliseconds(25)
        link.loss = loss
        link.reorder = reorder
        link.queue = 1_250_000
        let (rate, world) = try goodput(seed: 3, link, seconds: seconds, algorithm: algorithm)
        let s = world.a.mux.laneStatistics(0)!
        print("loss \(loss) reorder \(reorder) \(algorithm): \(rate * 8 / 1e6) Mb/s; lost \(s.packetsLost) spurious \(s.packetsLostSpuriously) events \(s.congestionEvents) cwnd \(s.congestionWindow) srtt \(s.smoothedRoundTrip.inMilliseconds) min \(s.minimumRoundTrip.inMilliseconds) rate \(s.deliveryRate * 8 / 1_000_000) dropped \(world.toB[0]!.dropped) sent \(s.packetsSent) acks \(world.toA[0]!.sent) slow \(s.isSlowStart)")
      }
    }
    for rate in [1_000_000, 25_000_000] {
      var link = Link()
      link.rate = rate
      link.delay = .milliseconds(25)
      let (g, world) = try goodput(seed: 3, link, seconds: 4, packet: 16_384, kind: .ordered)
      let s = world.a.mux.laneStatistics(0)!
      print("ordered \(rate): \(g) B/s cwnd \(s.congestionWindow) srtt \(s.smoothedRoundTrip.inMilliseconds) min \(s.minimumRoundTrip.inMilliseconds) \(s.deliveryRate)")
    }
  }
}
