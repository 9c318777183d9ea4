/// Every kind of NAT is asked by its behaviour only, as a STUN client asks, and
/// compared with a table. The same prober is put to the lab's routers.
import Bytes
import NAT
import Simulation
import Testing

/// What RFC 4787's words mean for each kind, written down by hand.
let expectedBehaviour: [String: NATBehaviour] = [
  "public": NATBehaviour(.none, .endpointIndependent),
  "firewalled": NATBehaviour(.none, .addressAndPortDependent),
  "full-cone": NATBehaviour(.endpointIndependent, .endpointIndependent),
  "address-restricted": NATBehaviour(.endpointIndependent, .addressDependent),
  "port-restricted": NATBehaviour(.endpointIndependent, .addressAndPortDependent),
  "port-restricted-random-port": NATBehaviour(
    .endpointIndependent, .addressAndPortDependent, preservesPort: false),
  "masq-open": NATBehaviour(.endpointIndependent, .addressAndPortDependent, losesPort: true),
  "symmetric-random": NATBehaviour(
    .addressAndPortDependent, .addressAndPortDependent, preservesPort: false),
  "symmetric-sequential": NATBehaviour(
    .addressAndPortDependent, .addressAndPortDependent, preservesPort: false, step: 1),
  "double-nat": NATBehaviour(.endpointIndependent, .addressAndPortDependent),
  "udp-blocked": .blocked,
  "tcp-443-only": .blocked,
  "ipv6-only": NATBehaviour(.none, .addressAndPortDependent),
]

private let v4Remotes = [
  Endpoint(IPAddress(198, 51, 100, 1), 3_478), Endpoint(IPAddress(198, 51, 100, 1), 3_479),
  Endpoint(IPAddress(198, 51, 100, 2), 3_478), Endpoint(IPAddress(198, 51, 100, 2), 3_479),
]
private let v6Remotes = [
  Endpoint(IPAddress(high: 0x2001_0db8_00ff_0000, low: 1), 3_478),
  Endpoint(IPAddress(high: 0x2001_0db8_00ff_0000, low: 1), 3_479),
  Endpoint(IPAddress(high: 0x2001_0db8_00ff_0000, low: 2), 3_478),
  Endpoint(IPAddress(high: 0x2001_0db8_00ff_0000, low: 2), 3_479),
]

/// One box, or two in a row, and nothing else.
private struct BoxGround: NATGround {
  let inside: IPAddress
  let remotes: [Endpoint]
  /// The innermost first.
  var boxes: [NATBox]
  var now = Instant(nanoseconds: 0)
  private var lastPort: UInt16 = 5_000

  init(kind: NATKind, seed: UInt64) {
    inside =
      kind.hasIPv4
      ? kind.translates ? IPAddress(192, 168, 1, 10) : IPAddress(198, 18, 1, 10)
      : IPAddress(high: 0x2001_0db8_0001_0001, low: 0x10)
    remotes = kind.hasIPv4 ? v4Remotes : v6Remotes
    var plain = kind
    plain.isDouble = false
    boxes = [NATBox(kind: plain, address: IPAddress(198, 18, 1, 1), seed: seed)]
    if kind.isDouble {
      boxes.insert(
        NATBox(kind: .portRestricted, address: IPAddress(192, 168, 0, 10), seed: seed), at: 0)
    }
  }

  mutating func freshPort() -> UInt16 {
    lastPort += 7
    return lastPort
  }

  mutating func sendOut(from port: UInt16, to remote: Endpoint) -> Endpoint? {
    now += .milliseconds(10)
    var source = Endpoint(inside, port)
    for i in boxes.indices {
      guard
        case .outside(let next, let destination) = boxes[i].outgoing(
          source: source, destination: remote, now: now), destination == remote
      else { return nil }
      source = next
    }
    return source
  }

  mutating func sendIn(from remote: Endpoint, to outside: Endpoint) -> UInt16? {
    now += .milliseconds(10)
    return descend(from: boxes.count - 1, source: remote, destination: outside)?.port
  }

  mutating func sendBack(
    from port: UInt16, to outside: Endpoint
  ) -> (port: UInt16, source: Endpoint)? {
    now += .milliseconds(10)
    var source = Endpoint(inside, port)
    for i in boxes.indices {
      switch boxes[i].outgoing(source: source, destination: outside, now: now) {
      case .outside(let next, _): source = next
      case .inside(let source, let destination):
        return descend(from: i - 1, source: source, destination: destination)
      case .dropped: return nil
      }
    }
    return nil
  }

  private mutating func descend(
    from last: Int, source: Endpoint, destination: Endpoint
  ) -> (port: UInt16, source: Endpoint)? {
    var (source, destination) = (source, destination)
    for i in stride(from: last, through: 0, by: -1) {
      guard
        case .inside(let s, let d) = boxes[i].incoming(
          source: source, destination: destination, now: now)
      else { return nil }
      (source, destination) = (s, d)
    }
    return destination.address == inside ? (destination.port, source) : nil
  }
}

/// A home of a whole world, asked by hosts that are no nodes.
private struct WorldGround: NATGround {
  let world: World
  let host: PlainHost
  let outsiders: [PlainHost]
  let remotes: [Endpoint]
  private var lastPort: UInt16 = 5_000

  init(kind: NATKind, seed: UInt64) {
    world = World(seed: seed)
    let home = world.addHome(kind: kind)
    host = world.addPlainHost(
      addresses: world.freshAddresses(in: home.site, kind: kind), in: home.site)
    let remotes = kind.hasIPv4 ? v4Remotes : v6Remotes
    self.remotes = remotes
    outsiders = [world, world].enumerated().map { index, world in
      world.addPlainHost(addresses: [remotes[2 * index].address])
    }
  }

  var inside: IPAddress { host.addresses[0] }

  mutating func freshPort() -> UInt16 {
    lastPort += 7
    return lastPort
  }

  private func settle() { world.run(for: .milliseconds(200)) }

  mutating func sendOut(from port: UInt16, to remote: Endpoint) -> Endpoint? {
    let outsider = outsiders[remote.address == outsiders[0].addresses[0] ? 0 : 1]
    outsider.forget()
    world.send(from: host, source: Endpoint(inside, port), to: remote, bytes: [1])
    settle()
    return outsider.received.first { $0.destination == remote }?.source
  }

  mutating func sendIn(from remote: Endpoint, to outside: Endpoint) -> UInt16? {
    let outsider = outsiders[remote.address == outsiders[0].addresses[0] ? 0 : 1]
    host.forget()
    world.send(from: outsider, source: remote, to: outside, bytes: [2])
    settle()
    return host.received.first { $0.source == remote }?.destination.port
  }

  mutating func sendBack(
    from port: UInt16, to outside: Endpoint
  ) -> (port: UInt16, source: Endpoint)? {
    host.forget()
    world.send(from: host, source: Endpoint(inside, port), to: outside, bytes: [3])
    settle()
    return host.received.first.map { ($0.destination.port, $0.source) }
  }
}

@Suite struct NATKindTests {
  @Test func everyKindBehavesAsTheTableSays() {
    for kind in NATKind.all {
      for seed: UInt64 in 1...20 {
        var ground = BoxGround(kind: kind, seed: seed)
        #expect(
          NATProber.probe(&ground) == expectedBehaviour[kind.name], "\(kind.name), seed \(seed)")
      }
    }
  }

  @Test func everyHomeOfAWorldBehavesAsTheTableSays() {
    for kind in NATKind.all {
      for seed: UInt64 in 1...3 {
        var ground = WorldGround(kind: kind, seed: seed)
        #expect(
          NATProber.probe(&ground) == expectedBehaviour[kind.name], "\(kind.name), seed \(seed)")
      }
    }
  }

  @Test func hairpinsShowTheOutside() {
    for var kind in NATKind.all where kind.translates && kind.passesUDP && !kind.isDouble {
      kind.hairpins = true
      var expected = expectedBehaviour[kind.name]
      // Behind address-and-port-dependent mapping the packet back to itself
      // comes from yet another port, which was never sent to.
      expected?.hairpins = kind.mapping.isStable
      expected?.hairpinShowsOutside = kind.mapping.isStable
      var box = BoxGround(kind: kind, seed: 1)
      #expect(NATProber.probe(&box) == expected, "\(kind.name)")
      var world = WorldGround(kind: kind, seed: 1)
      #expect(NATProber.probe(&world) == expected, "\(kind.name)")
    }
  }

  @Test func everyMappingGoesWithEveryFilteringAndAllocator() {
    let mappings: [NATMapping] = [
      .endpointIndependent, .addressDependent, .addressAndPortDependent,
    ]
    let filterings: [NATFiltering] = [
      .endpointIndependent, .addressDependent, .addressAndPortDependent,
    ]
    for mapping in mappings {
      for filtering in filterings {
        for allocator: PortAllocator in [.random, .sequential(step: 2), .sequential(step: -3)] {
          let kind = NATKind("made", mapping: mapping, filtering: filtering, allocator: allocator)
          var step = 0
          if case .sequential(let wanted) = allocator, mapping == .addressAndPortDependent {
            step = wanted
          }
          var ground = BoxGround(kind: kind, seed: 3)
          #expect(
            NATProber.probe(&ground)
              == NATBehaviour(mapping, filtering, preservesPort: false, step: step),
            "\(mapping), \(filtering), \(allocator)")
        }
      }
    }
  }
}

/// Single promises of a box.
@Suite struct NATBoxTests {
  private let outside = IPAddress(198, 18, 1, 1)
  private let start = Instant(nanoseconds: 0)

  private func local(_ last: UInt8, _ port: UInt16) -> Endpoint {
    Endpoint(IPAddress(192, 168, 1, last), port)
  }

  private func box(_ kind: NATKind) -> NATBox { NATBox(kind: kind, address: outside, seed: 9) }

  /// The outside endpoint; nil when the packet was dropped.
  private func out(
    _ box: inout NATBox, _ source: Endpoint, _ remote: Endpoint, _ now: Instant
  ) -> Endpoint? {
    guard
      case .outside(let endpoint, _) = box.outgoing(source: source, destination: remote, now: now)
    else { return nil }
    return endpoint
  }

  private func isLetIn(
    _ box: inout NATBox, _ remote: Endpoint, _ to: Endpoint, _ now: Instant
  ) -> Bool {
    guard case .inside = box.incoming(source: remote, destination: to, now: now) else {
      return false
    }
    return true
  }

  @Test func anUnansweredMappingLastsThirtySecondsAnAnsweredOneTwoMinutes() {
    for seconds: Int64 in [29, 31] {
      var box = box(.portRestricted)
      let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(seconds)) == (seconds < 30))
    }
    for seconds: Int64 in [119, 121] {
      var box = box(.portRestricted)
      let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(1)))
      // A conversation younger than two seconds is not taken for a stream.
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(3)))
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(3 + seconds)) == (seconds < 120))
    }
  }

  @Test func packetsFromOutsideKeepAMappingOnlyWhereTheRouterSaysSo() {
    for keeps in [true, false] {
      var box = box(.portRestricted)
      box.timers.incomingRefreshes = keeps
      let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(20)))
      #expect(isLetIn(&box, v4Remotes[0], x, start + .seconds(45)) == keeps)
    }
  }

  @Test func timersCanBeShortened() {
    var box = box(.fullCone)
    box.timers.unreplied = .seconds(5)
    box.timers.replied = .seconds(10)
    let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
    #expect(isLetIn(&box, v4Remotes[3], x, start + .seconds(4)))
    #expect(!isLetIn(&box, v4Remotes[3], x, start + .seconds(10)))
  }

  @Test func aTakenPortIsNotGivenTwice() {
    var box = box(.portRestricted)
    let first = out(&box, local(10, 5_000), v4Remotes[0], start)
    let second = out(&box, local(11, 5_000), v4Remotes[0], start)
    #expect(first?.port == 5_000)
    #expect(second != nil && second?.port != 5_000)
    // Free again when the first is silent.
    #expect(out(&box, local(12, 5_000), v4Remotes[0], start + .seconds(31))?.port == 5_000)
  }

  @Test func aRouterHasRoomForItsQuotaOnly() {
    var box = box(.symmetricRandom)
    box.maximumMappings = 100
    for port: UInt16 in 1...100 {
      #expect(out(&box, local(10, 5_000), Endpoint(v4Remotes[0].address, port), start) != nil)
    }
    #expect(out(&box, local(10, 5_000), v4Remotes[0], start + .seconds(29)) == nil)
    #expect(box.drops(.tooManyMappings) == 1)
    #expect(out(&box, local(10, 5_000), v4Remotes[0], start + .seconds(31)) != nil)
    #expect(box.mappingCount(now: start + .seconds(31)) == 1)
  }

  @Test func symmetricPortsDiffer() {
    var box = box(.symmetricRandom)
    var ports: Set<UInt16> = []
    for port: UInt16 in 1...1_000 {
      let x = out(&box, local(10, 5_000), Endpoint(v4Remotes[0].address, port), start)
      ports.insert(x?.port ?? 0)
    }
    #expect(ports.count == 1_000 && !ports.contains(0))
    // The same remote keeps its port.
    let again = out(&box, local(10, 5_000), Endpoint(v4Remotes[0].address, 7), start)
    #expect(again == out(&box, local(10, 5_000), Endpoint(v4Remotes[0].address, 7), start))
  }

  @Test func anUnsolicitedPacketTakesThePortOfAnOpenRouterForThirtySeconds() {
    let peer = v4Remotes[3]
    var box = box(.masqueradeOpen)
    let mapped = out(&box, local(10, 5_000), v4Remotes[0], start)
    #expect(mapped?.port == 5_000)
    #expect(!isLetIn(&box, peer, mapped ?? .none, start))
    let moved = out(&box, local(10, 5_000), peer, start + .seconds(1))
    #expect(moved != nil && moved?.port != 5_000)
    // Others are met as before, and the peer is heard on the new port alone.
    #expect(out(&box, local(10, 5_000), v4Remotes[1], start + .seconds(1))?.port == 5_000)
    #expect(!isLetIn(&box, peer, mapped ?? .none, start + .seconds(1)))
    #expect(isLetIn(&box, peer, moved ?? .none, start + .seconds(1)))
    // The way round is kept while it is used, though the port is free by then.
    #expect(out(&box, local(10, 5_000), peer, start + .seconds(29)) == moved)
    #expect(out(&box, local(10, 5_000), peer, start + .seconds(50)) == moved)
    // Whoever waits long enough gets the port itself.
    #expect(out(&box, local(10, 5_000), peer, start + .seconds(200))?.port == 5_000)
  }

  @Test func whoSpeaksFirstThroughAnOpenRouterKeepsThePort() {
    let peer = v4Remotes[3]
    var box = box(.masqueradeOpen)
    _ = out(&box, local(10, 5_000), v4Remotes[0], start)
    let x = out(&box, local(10, 5_000), peer, start)
    #expect(x?.port == 5_000)
    #expect(isLetIn(&box, peer, x ?? .none, start + .seconds(1)))
    #expect(out(&box, local(10, 5_000), peer, start + .seconds(2)) == x)
  }

  @Test func aRebootedRouterKnowsNobody() {
    var box = box(.portRestrictedRandomPort)
    let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
    box.reboot(address: IPAddress(198, 18, 2, 1))
    #expect(!isLetIn(&box, v4Remotes[0], x, start))
    #expect(
      out(&box, local(10, 5_000), v4Remotes[0], start)?.address == IPAddress(198, 18, 2, 1))
  }

  @Test func aReboundRouterKeepsWhoMayComeIn() {
    for kind in [NATKind.portRestricted, .symmetricRandom, .fullCone] {
      var box = box(kind)
      let x = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
      box.rebind(now: start)
      let y = out(&box, local(10, 5_000), v4Remotes[0], start) ?? .none
      #expect(x != y, "\(kind.name)")
      #expect(!isLetIn(&box, v4Remotes[0], x, start), "\(kind.name)")
      #expect(isLetIn(&box, v4Remotes[0], y, start), "\(kind.name)")
    }
  }

  @Test func aRouterThatTranslatesKeepsStrangersOutOfIPv6() {
    var box = box(.fullCone)
    let host = Endpoint(IPAddress(high: 0x2001_0db8_0001_0001, low: 0x10), 5_000)
    #expect(!isLetIn(&box, v6Remotes[0], host, start))
    #expect(out(&box, host, v6Remotes[0], start) == host)
    #expect(isLetIn(&box, v6Remotes[0], host, start))
    #expect(!isLetIn(&box, v6Remotes[1], host, start))
  }
}
