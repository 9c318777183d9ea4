/// How much gets through virtual links, against what theory says.

import Bytes
import Mux
import Testing

@Suite struct GoodputTests {
  /// One bulk stream over one link; bytes a second delivered after `warmUp`.
  private func goodput(
    seed: UInt64, loss: Int = 0, reorder: Int = 0, warmUp: Int64 = 2, seconds: Int64,
    algorithm: CongestionAlgorithm = .cubic
  ) throws -> (rate: Double, lane: LaneStatistics) {
    var limits = MuxLimits()
    limits.congestion = algorithm
    let world = World(seed: seed, limits: limits)
    var link = Link()
    link.rate = 25_000_000
    link.delay = .milliseconds(25)
    link.loss = loss
    link.reorder = reorder
    link.queue = 1_250_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 1 << 30, finishes: false)
    world.run(for: .seconds(warmUp))
    let before = world.b.received[id] ?? 0
    world.run(for: .seconds(seconds))
    #expect(world.b.wrongBytes == 0)
    #expect(world.a.failure == nil && world.b.failure == nil)
    let rate = Double((world.b.received[id] ?? 0) - before) / Double(seconds)
    return (rate, world.a.mux.laneStatistics(0)!)
  }

  /// RFC 9438 §5.1, §5.2: the larger of CUBIC's response function and that of
  /// its Reno-friendly region, in bytes a second.
  private func theory(loss p: Double, roundTrip: Double) -> Double {
    func root(_ x: Double) -> Double {
      var y = max(x, 1)
      for _ in 0..<60 { y = (y + x / y) / 2 }
      return y
    }
    let beta = CubicConstants.beta
    let c = CubicConstants.c
    // The fourth root of (RTT/p)³ · C(3+β) / (4(1−β)).
    let cubic = root(
      root((roundTrip / p) * (roundTrip / p) * (roundTrip / p) * c * (3 + beta) / (4 * (1 - beta))))
    let reno = root(CubicConstants.renoAlpha * (1 + beta) / (2 * (1 - beta) * p))
    return max(cubic, reno) * 1_177 / roundTrip
  }

  @Test func randomLossFollowsTheResponseFunction() throws {
    for (loss, seconds) in [(20_000, 60), (1_000, 60)] as [(Int, Int64)] {
      var sum = 0.0
      for seed in UInt64(1)...4 {
        sum += try goodput(seed: seed, loss: loss, warmUp: 10, seconds: seconds).rate
      }
      let expected = theory(loss: Double(loss) / 1e6, roundTrip: 0.05)
      let ratio = sum / 4 / expected
      #expect(ratio > 0.8 && ratio < 1.5, "loss \(loss): \(ratio) of \(expected)")
    }
  }

  @Test func cleanPathIsFilled() throws {
    let (rate, _) = try goodput(seed: 3, seconds: 3)
    #expect(rate > 0.95 * 25_000_000 * 1_177 / 1_260, "\(rate)")
  }

  @Test func reorderingCostsNothing() throws {
    let (rate, lane) = try goodput(seed: 3, reorder: 3_000, seconds: 3)
    #expect(rate > 0.95 * 25_000_000 * 1_177 / 1_260, "\(rate)")
    #expect(lane.packetsLostSpuriously < 20)
  }

  @Test func secondControllerDoesNotMindRandomLoss() throws {
    let (rate, lane) = try goodput(seed: 3, loss: 20_000, seconds: 4, algorithm: .bbr)
    #expect(rate > 0.7 * 25_000_000, "\(rate)")
    #expect(lane.smoothedRoundTrip < .milliseconds(75), "and keeps the queue short")
  }

  /// Others have filled the queue: every round trip takes twice the shortest
  /// one. Acknowledgements come late beside that, and what waits for them at the
  /// far end must not be taken out of the window, or the rate falls and falls.
  @Test func secondControllerKeepsItsRateInAQueueOfOthers() throws {
    var limits = MuxLimits()
    limits.congestion = .bbr
    let world = World(seed: 5, limits: limits)
    var link = Link()
    link.rate = 5_000_000
    link.delay = .milliseconds(25)
    link.queue = 250_000
    world.addLane(0, link)
    let id = try world.a.open(now: world.now)
    world.a.send(id, total: 1 << 30, finishes: false)
    func rate(over seconds: Int64) -> Double {
      let before = world.b.received[id] ?? 0
      world.run(for: .seconds(seconds))
      return Double((world.b.received[id] ?? 0) - before) / Double(seconds)
    }
    world.run(for: .seconds(2))
    let alone = rate(over: 2)
    world.toB[0]?.delay += .milliseconds(50)
    world.run(for: .seconds(1))
    // Less than what a minimum round trip is remembered.
    let beside = rate(over: 6)
    #expect(beside > 0.8 * alone, "\(beside) of \(alone)")
  }
}
