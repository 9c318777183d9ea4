/// Everything at once, from a seed: lanes of three kinds come, go, stall and
/// are suspected while streams open, finish and are reset. What was not reset
/// must arrive whole, nothing may be told twice, nothing may be left behind.

import Bytes
import Mux
import Testing

@Suite struct StormTests {
  private final class Storm {
    let world: World
    var random: SeededRandom
    var lanes: [LaneID] = []
    var nextLane: LaneID = 0
    var expected: [(StreamID, Int, Bool)] = []
    var reset: Set<StreamID> = []

    init(seed: UInt64) {
      random = SeededRandom(testSeed: seed &* 7_919)
      world = World(seed: seed)
      for _ in 0..<2 { addLane() }
      world.setPrimary(lanes[0])
    }

    func roll(_ sides: Int) -> Int { Int(random.next() % UInt64(sides)) }

    func addLane() {
      var link = Link()
      link.delay = .milliseconds(Int64(1 + roll(60)))
      link.loss = [0, 1_000, 20_000, 100_000][roll(4)]
      link.reorder = [0, 3_000, 100_000][roll(3)]
      link.rate = [0, 300_000, 3_000_000][roll(3)]
      link.queue = 30_000 + roll(200_000)
      let kind: LaneKind = roll(3) == 0 ? .ordered : .datagram
      let size = kind == .ordered ? 65_488 : [512, 1_200, 1_408][roll(3)]
      world.addLane(nextLane, kind: kind, maximumPacket: size, link)
      lanes.append(nextLane)
      nextLane += 1
    }

    func choosePrimary() {
      guard !lanes.isEmpty else { return }
      world.a.primary = lanes[roll(lanes.count)]
      world.b.primary = lanes[roll(lanes.count)]
    }

    func step() throws {
      switch roll(12) {
      case 0...3:
        let side = roll(2) == 0 ? world.a : world.b
        let id = try side.open("r\(roll(100))", now: world.now)
        let total = [0, 1, 500, 5_000, 80_000, 300_000][roll(6)]
        side.send(id, total: total)
        expected.append((id, total, side === world.a))
      case 4: choosePrimary()
      case 5:
        if let (id, _, _) = expected.randomElement(using: &random), !reset.contains(id) {
          let side = roll(2) == 0 ? world.a : world.b
          if side.mux.isOpen(id) {
            side.mux.reset(id, code: 300, words: "storm")
            side.sending[id] = nil
            reset.insert(id)
          }
        }
      case 6: if lanes.count < 4 { addLane() }
      case 7:
        if lanes.count > 1 {
          let lane = lanes.remove(at: roll(lanes.count))
          world.a.mux.removeLane(lane, now: world.now)
          world.run(for: .milliseconds(Int64(roll(20))))
          world.b.mux.removeLane(lane, now: world.now)
          choosePrimary()
        }
      case 8:
        let lane = lanes[roll(lanes.count)]
        (roll(2) == 0 ? world.a : world.b).mux.suspectLane(lane, now: world.now)
      case 9:
        let lane = lanes[roll(lanes.count)]
        world.toB[lane]!.isDown.toggle()
        // An ordered carrier that lost something does not come back.
        world.toA[lane]!.isDown = world.toB[lane]!.isDown
      case 10: world.fill(world.a, lanes[roll(lanes.count)], .warm, limit: 3)
      default: break
      }
      world.run(for: .milliseconds(Int64(roll(80))))
    }

    /// One good lane, and all must end.
    func calm() {
      addLane()
      let last = lanes.removeLast()
      var link = Link()
      link.rate = 5_000_000
      world.toB[last] = link
      world.toA[last] = link
      world.setPrimary(last)
      for lane in lanes {
        world.a.mux.removeLane(lane, now: world.now)
        world.b.mux.removeLane(lane, now: world.now)
      }
    }
  }

  @Test func nothingIsLostInAStorm() throws {
    for seed in UInt64(1)...100 {
      let storm = Storm(seed: seed)
      let world = storm.world
      for _ in 0..<80 { try storm.step() }
      storm.calm()
      let done = world.run(for: .seconds(120)) {
        world.a.mux.openStreamCount + world.b.mux.openStreamCount == 0
      }
      #expect(done, "seed \(seed): \(world.a.mux.openStreamCount) \(world.b.mux.openStreamCount)")
      #expect(world.a.failure == nil && world.b.failure == nil, "seed \(seed)")
      #expect(world.a.wrongBytes + world.b.wrongBytes == 0, "seed \(seed)")
      for (id, total, fromA) in storm.expected {
        let (sender, receiver) = fromA ? (world.a, world.b) : (world.b, world.a)
        let got = receiver.received[id] ?? 0
        let opened = receiver.count { if case .opened(id, _) = $0 { true } else { false } }
        #expect(opened <= 1, "seed \(seed) stream \(id.number)")
        if storm.reset.contains(id) {
          #expect(got <= total, "seed \(seed) stream \(id.number)")
        } else {
          #expect(got == total && opened == 1, "seed \(seed) stream \(id.number)")
          #expect(receiver.finished.contains(id), "seed \(seed) stream \(id.number)")
        }
        #expect(sender.count { $0 == .closed(id) } == 1, "seed \(seed) stream \(id.number)")
      }
      world.run(for: .seconds(60))
      #expect(world.isQuiet, "seed \(seed)")
      // No credit was lost on the way.
      let id = try world.a.open(now: world.now)
      world.a.send(id, total: 3_000_000)
      #expect(world.run(for: .seconds(60)) { world.b.received[id] == 3_000_000 }, "seed \(seed)")
    }
  }
}
