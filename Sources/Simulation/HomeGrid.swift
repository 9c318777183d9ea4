/// One cell of the grid: two homes with nothing in common but the internet, a
/// node in each, an application that wants bytes. Which road they end on is
/// compared with what theory wrote down before (`PunchTheory`). The lab runs
/// the same cells over real routers.

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

package struct GridCell: Sendable {
  package var near: NATKind
  package var far: NATKind
  package var seed: UInt64
  /// The application wants bytes as soon as the nodes see each other: neither
  /// has found out anything about its network.
  package var isFresh: Bool

  package init(near: NATKind, far: NATKind, seed: UInt64, isFresh: Bool = false) {
    self.near = near
    self.far = far
    self.seed = seed
    self.isFresh = isFresh
  }

  package var expected: ExpectedRoad { PunchTheory.expected(near, far) }
}

package struct GridResult: Sendable {
  package var cell: GridCell
  /// In the end, at both ends; nil: not connected.
  package var nearTier: String?
  package var farTier: String?
  /// From the application's wish.
  package var firstByte: TimeAmount?
  package var direct: TimeAmount?
  package var violations: [String]

  package var isAsExpected: Bool {
    guard let nearTier, let farTier, violations.isEmpty else { return false }
    return Self.fits(nearTier, cell.expected) && Self.fits(farTier, cell.expected)
  }

  static func fits(_ tier: String, _ road: ExpectedRoad) -> Bool {
    switch road {
    case .direct, .punched, .guessed: tier.hasPrefix("udp-")
    case .tcpDirect, .tcpPunched: tier.hasPrefix("tcp-")
    case .relayed: tier.hasSuffix("-relay")
    }
  }

  package var words: String {
    "seed \(cell.seed)\(cell.isFresh ? ", fresh" : ""): \(cell.near.name) → \(cell.far.name) should be \(cell.expected.rawValue), is \(nearTier ?? "not connected") and \(farTier ?? "not connected") \(violations)"
  }
}

extension GridCell {
  /// Logged in, and everything found out that a node can find out by itself.
  static let settled = TimeAmount.seconds(16)
  /// A road is there by then, or there is none.
  static let patience: [ExpectedRoad: TimeAmount] = [
    .direct: .seconds(15), .punched: .seconds(15), .guessed: .seconds(45),
    .tcpDirect: .seconds(15), .tcpPunched: .seconds(15), .relayed: .seconds(20),
  ]

  package func run(print: ((String) -> Void)? = nil) -> GridResult {
    let world = World(seed: seed)
    world.print = print
    let homes = [near, far].map { world.addHome(kind: $0, nodes: 1) }
    let (one, other) = (homes[0].nodes[0], homes[1].nodes[0])
    for node in world.nodes {
      node.uplinkSettings.delay = .milliseconds(world.pick(5...40))
      node.uplinkSettings.jitter = .milliseconds(world.pick(0...5))
    }
    world.network.change(0, 1) {
      $0.delay = .milliseconds(world.pick(5...60))
      $0.jitter = .milliseconds(world.pick(0...5))
    }
    world.server.start()
    for node in world.nodes { node.start() }
    if isFresh {
      world.run(for: Self.settled) { _ in one.sees(other) && other.sees(one) }
    } else {
      world.run(for: Self.settled)
    }
    var result = GridResult(cell: self, violations: [])
    // A little, and again and again, as long as the cell is watched.
    var script = ApplicationScript()
    script.bytes = 100_000
    script.chunk = 200
    script.pause = .milliseconds(100)
    let began = world.now
    let stream = world.converse(near: 0, far: 1, nearScript: script, farScript: script)
    let patience = Self.patience[expected] ?? .seconds(45)
    world.run(for: patience, checkEvery: .milliseconds(5)) { world in
      let isDirect = [one.tier(to: other), other.tier(to: one)].allSatisfy {
        $0.map { expected.isDirect && GridResult.fits($0, expected) } == true
      }
      if isDirect, result.direct == nil { result.direct = world.now - began }
      return isDirect
    }
    // It must stay so.
    world.run(for: .seconds(5))
    result.nearTier = one.tier(to: other)
    result.farTier = other.tier(to: one)
    result.firstByte = stream.firstByteAt.map { $0 - began }
    result.violations = world.violations
    if let print, !result.isAsExpected {
      for (node, peer) in [(one, other), (other, one)] {
        for line in node.roads(to: peer) { print("\(node.name): \(line)") }
      }
    }
    if stream.isOver { result.violations.append("the stream ended: \(stream.nearState)") }
    return result
  }
}
