import Bytes
import NAT
import STUN
import Testing

/// How far our own NATs reach, told by routers at which packets die.
@Suite struct HopTests {
  private static let home = address("192.168.1.1")
  private static let second = address("192.168.0.1")
  private static let carrier = address("100.64.0.1")
  private static let first = address("198.51.100.129")
  private static let core = address("198.51.100.130")

  private func run(
    _ routers: [IPAddress?], isV6: Bool = false, seed: UInt64 = 1, loss: Double = 0
  ) -> (report: HopReport?, sent: [NATProbeTransmit], took: TimeAmount?) {
    var world = FakeInternet(
      FakeNAT(.endpointIndependent, .endpointIndependent), isV6: isV6, auxiliary: 3, seed: seed)
    world.routers = routers
    world.loss = loss
    world.run()
    return (
      world.finished?.1.hops, world.sent.map(\.1).filter { $0.timeToLive > 0 },
      world.finished?.at
    )
  }

  @Test func theFirstPublicRouterIsFound() {
    let table: [(routers: [IPAddress?], opener: UInt8?, packets: Int)] = [
      ([Self.home, Self.first, Self.core], 2, 1),
      // A public host: its first router is public, and 1 would die before a firewall.
      ([Self.first, Self.core], 2, 1),
      ([Self.home, Self.second, Self.first, Self.core], 3, 2),
      ([Self.home, Self.second, Self.carrier, Self.first, Self.core], 4, 3),
      // Further than openers may go.
      ([Self.home, Self.second, Self.carrier, Self.carrier, Self.carrier, Self.first], 5, 4),
      // Silent ones are asked twice once, then passed over.
      ([Self.home, nil, Self.first, Self.core], 3, 3),
      ([Self.home, Self.second, nil, Self.first], 4, 4),
      ([nil, nil, nil, nil, nil, nil], nil, 5),
      // Ours answer, the others do not: one further than ours.
      ([Self.home, Self.second, nil, nil, nil, nil], 3, 5),
      // The server is near.
      ([Self.home], nil, 1),
      ([Self.home, Self.second], 3, 2),
    ]
    for (routers, opener, packets) in table {
      let (report, sent, took) = run(routers)
      let words = "\(routers.map { $0?.description ?? "-" })"
      #expect(report?.opener == opener, "\(words)")
      #expect(sent.count == packets, "\(words)")
      #expect(sent.map(\.timeToLive) == sent.map(\.timeToLive).sorted(), "\(words)")
      #expect(sent.allSatisfy { $0.bytes.count == 20 }, "\(words)")
      #expect((took ?? .seconds(9)) < NATProbeLimits.whole, "\(words)")
    }
  }

  @Test func aRouterThatAnswersWithOurOutsideAddressIsOurs() {
    #expect(run([Self.home, address("203.0.113.7"), Self.first]).report?.opener == 3)
  }

  @Test func inIPv6RoutersOfOurSiteAreOurs() {
    // The host has fd00::10; what it shares with routers is that they are no part
    // of the public network.
    let site = address("fd00::1")
    let first = address("2001:db8:900::1")
    #expect(run([site, first], isV6: true).report?.opener == 2)
    #expect(run([site, site, first], isV6: true).report?.opener == 3)
    #expect(run([site, address("fe80::1"), first], isV6: true).report?.opener == 3)
  }

  @Test func withAGlobalIPv6AddressItsSiteIsOurs() {
    var world = FakeInternet(
      FakeNAT(.none, .addressAndPortDependent), isV6: true, auxiliary: 3)
    // The host has 2001:db8:7::7.
    world.routers = [
      address("2001:db8:7:1::1"), address("2001:db8:7:2::1"), address("2001:db8:8::1"),
    ]
    world.run()
    #expect(world.finished?.1.hops?.opener == 3)
  }

  @Test func lossMakesItLongerButNeverMore() {
    for seed in 1...100 as ClosedRange<UInt64> {
      let (report, sent, _) = run(
        [Self.home, Self.second, Self.first, Self.core], seed: seed, loss: 0.2)
      #expect(sent.count <= HopLimits.packets, "seed \(seed)")
      guard let opener = report?.opener else { continue }
      #expect(HopLimits.openers.contains(opener), "seed \(seed)")
      #expect(opener >= 3, "seed \(seed): it would die inside")
    }
  }

  @Test func routersThatWereNotAskedAreNotBelieved() {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .endpointIndependent), auxiliary: 3)
    world.routers = [nil, nil, nil, nil, nil, nil]
    world.probe.start(now: world.now)
    world.drain()
    func lie(_ world: inout FakeInternet, _ destination: Endpoint, _ socket: UInt32) {
      world.probe.expired(
        at: address("203.0.113.99"), destination: destination, socket: socket, now: world.now)
    }
    let asked = Endpoint(world.server[0], FakeInternet.ports.0)
    // Before anything was asked with a short time to live.
    for socket in 1...4 as ClosedRange<UInt32> { lie(&world, asked, socket) }
    world.now += .milliseconds(25)
    world.settleOnce()
    world.now += .milliseconds(25)
    world.settleOnce()
    guard let first = world.sent.map(\.1).first(where: { $0.timeToLive > 0 }) else {
      Issue.record("nothing was asked")
      return
    }
    // Another destination, other sockets.
    lie(&world, Endpoint(world.server[1], FakeInternet.ports.0), first.socket)
    for socket in 1...4 as ClosedRange<UInt32> where socket != first.socket {
      lie(&world, asked, socket)
    }
    world.settle()
    #expect(world.finished?.1.hops?.opener == nil)
    // The right one is believed, and bounded whatever it says.
    lie(&world, asked, first.socket)
    #expect(world.finished?.1.hops?.opener == nil, "it is over")
  }

  @Test func blockedUDPMeasuresNothing() {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .addressAndPortDependent))
    world.passesUDP = false
    world.run()
    #expect(world.finished?.1.hops == nil)
    #expect(world.sent.allSatisfy { $0.1.timeToLive == 0 })
  }

  @Test func pairsLearnTheRestWhileSilentRoutersAreWaitedFor() {
    var world = FakeInternet(
      FakeNAT(.endpointIndependent, .endpointIndependent, hairpins: true), auxiliary: 3)
    world.routers = [nil, nil, nil, nil, nil, nil]
    world.run()
    var learnt: (at: Instant, NATFacts)?
    for (at, event) in world.events {
      if case .learnt(let facts) = event { learnt = (at, facts) }
    }
    #expect(learnt?.1.filtering == .endpointIndependent)
    #expect((learnt.map { $0.at - world.started } ?? .seconds(9)) < .seconds(1))
    #expect((world.finished?.at ?? .zero) > .milliseconds(700))
  }
}
