import Bytes
import Testing
import Tunnels

private func at(_ seconds: Int64) -> Instant { Instant(nanoseconds: 0) + .seconds(seconds) }

@Suite struct ExitChoiceTests {
  private func candidate(
    _ name: String, tier: UInt8, milliseconds: Int64?, connections: Int = 0, online: Bool = true,
    offers: Bool? = nil
  ) -> ExitCandidate {
    ExitCandidate(
      id: "id-\(name)", name: name, isOnline: online, tier: tier,
      roundTrip: milliseconds.map { .milliseconds($0) }, connections: connections, offers: offers)
  }
  private func web() throws -> OpenRequest { .tunnel(try TunnelKey(.tcp, "web")) }

  @Test func tierThenRoundTripThenLoad() throws {
    var chooser = ExitChooser(random: SeededRandom(testSeed: 1))
    let all = [
      candidate("relayed", tier: 7, milliseconds: 1), candidate("far", tier: 1, milliseconds: 100),
      candidate("busy", tier: 1, milliseconds: 20, connections: 9),
      candidate("near", tier: 1, milliseconds: 22, connections: 2),
      candidate("off", tier: 1, milliseconds: 1, online: false),
      candidate("without", tier: 1, milliseconds: 1, offers: false),
      candidate("unknown", tier: 8, milliseconds: nil),
    ]
    let order = chooser.order(for: try web(), exits: [], candidates: all, now: at(0))
    #expect(order.map { all[$0].name } == ["near", "busy", "far", "relayed", "unknown"])
  }

  @Test func listedExitsAreTheOnlyOnes() throws {
    var chooser = ExitChooser(random: SeededRandom(testSeed: 1))
    let all = [
      candidate("a", tier: 1, milliseconds: 1),
      candidate("b", tier: 7, milliseconds: 90, offers: false),
      candidate("c", tier: 7, milliseconds: 200, online: false),
    ]
    let exits = try [EndpointReference("b", field: .exit), EndpointReference("c", field: .exit)]
    let order = chooser.order(for: try web(), exits: exits, candidates: all, now: at(0))
    #expect(order == [1], "a listed exit is asked even if it is not known to offer it")
  }

  @Test func equalsShareTheConnections() throws {
    var chooser = ExitChooser(random: SeededRandom(testSeed: 3))
    let all = (0..<3).map { candidate("n\($0)", tier: 2, milliseconds: 30 + Int64($0)) }
    var first = [0, 0, 0]
    for _ in 0..<3000 {
      first[chooser.order(for: try web(), exits: [], candidates: all, now: at(0))[0]] += 1
    }
    #expect(first.allSatisfy { (800...1200).contains($0) }, "\(first)")
  }

  @Test func aRefuserIsAskedLastForAWhile() throws {
    var chooser = ExitChooser(random: SeededRandom(testSeed: 3))
    let all = [candidate("a", tier: 1, milliseconds: 1), candidate("b", tier: 7, milliseconds: 90)]
    chooser.refused(try web(), byExit: "id-a", now: at(0))
    #expect(chooser.order(for: try web(), exits: [], candidates: all, now: at(1)) == [1, 0])
    let other = OpenRequest.tunnel(try TunnelKey(.tcp, "ssh"))
    #expect(chooser.order(for: other, exits: [], candidates: all, now: at(1)) == [0, 1])
    #expect(chooser.order(for: try web(), exits: [], candidates: all, now: at(11)) == [0, 1])
    chooser.refused(try web(), byExit: "id-a", now: at(20))
    chooser.forget(exit: "id-a")
    #expect(chooser.order(for: try web(), exits: [], candidates: all, now: at(20)) == [0, 1])
    for n in 0..<5000 {
      chooser.refused(.app(.tcp, host: "h\(n)", port: 1), byExit: "x", now: at(30))
    }
  }

  @Test func theNextExitOnlyWhenNothingWasDelivered() {
    var attempt = ExitAttempt(order: [4, 2, 7])
    #expect(attempt.start() == .tryExit(4))
    #expect(attempt.report(.refused(.targetRefused)) == .tryExit(2))
    #expect(attempt.report(.neverSent) == .tryExit(7))
    #expect(attempt.report(.opened) == .carry)

    var lost = ExitAttempt(order: [4, 2])
    _ = lost.start()
    #expect(lost.report(.lost) == .giveUp(.exitLost))

    var none = ExitAttempt(order: [])
    #expect(none.start() == .giveUp(.noExitOnline))

    var refused = ExitAttempt(order: [1, 2])
    _ = refused.start()
    _ = refused.report(.refused(.targetRefused))
    #expect(refused.report(.neverSent) == .giveUp(.targetRefused))
  }
}

@Suite struct TargetChoiceTests {
  @Test func roundRobinOverHealthyTargets() {
    var chooser = TargetChooser(count: 3)
    var counts = [0, 0, 0]
    for _ in 0..<30 {
      var tried = TargetChooser.Tried()
      counts[chooser.pick(&tried, now: at(0)) ?? 0] += 1
    }
    #expect(counts == [10, 10, 10])
  }

  @Test func oneDeadOfThreeFailsNoConnection() {
    var chooser = TargetChooser(count: 3)
    var dials = 0
    for second in 0..<60 {
      var tried = TargetChooser.Tried()
      var connected = false
      while let target = chooser.pick(&tried, now: at(Int64(second))) {
        dials += 1
        if target == 1 {
          chooser.failed(target, now: at(Int64(second)))
        } else {
          chooser.succeeded(target)
          connected = true
          break
        }
      }
      #expect(connected, "second \(second)")
    }
    // Retried after 5, 10, 20 … seconds: a handful of wasted dials, not twenty.
    #expect((61...66).contains(dials), "\(dials)")
  }

  @Test func withoutAHealthyOneTheSoonestIsTriedOnceEach() {
    var chooser = TargetChooser(count: 2)
    chooser.failed(0, now: at(0))
    chooser.failed(0, now: at(0))
    chooser.failed(1, now: at(0))
    var tried = TargetChooser.Tried()
    #expect(chooser.pick(&tried, now: at(1)) == 1)
    #expect(chooser.pick(&tried, now: at(1)) == 0)
    #expect(chooser.pick(&tried, now: at(1)) == nil)
    #expect(!chooser.isHealthy(0, now: at(9)) && chooser.isHealthy(0, now: at(10)))
    for _ in 0..<40 { chooser.failed(0, now: at(10)) }
    #expect(chooser.isHealthy(0, now: at(70)))
  }
}

@Suite struct TunnelTableTests {
  private func inbound(_ name: String, _ listens: [String]) throws -> TunnelInbound {
    try TunnelInbound(TunnelKey(.tcp, name), listens: listens, exits: [])
  }
  private func app(_ port: Int, enabled: Bool = true, to dst: Int = 22) throws -> AppDefinition {
    try AppDefinition(srcPort: port, peerNode: "b", dstPort: dst, enabled: enabled)
  }

  @Test func changingOneTunnelTouchesOnlyItsListeners() throws {
    var table = TunnelTable()
    _ = try table.setInbounds([try inbound("a", ["1000"])])
    let opened = try table.setInbounds([try inbound("b", ["1001", "1002"])])
    #expect(opened.stop.isEmpty && opened.start.map(\.address.port) == [1001, 1002])
    let changed = try table.setInbounds([try inbound("b", ["1002", "1003"])])
    #expect(changed.stop.map(\.address.port) == [1001])
    #expect(changed.start.map(\.address.port) == [1003])
    let closed = try table.removeInbounds(TunnelReference("b").keys)
    #expect(closed.stop.map(\.address.port) == [1002, 1003] && closed.start.isEmpty)
    #expect(throws: TunnelTableError.noSuchInbound(try TunnelKey(.tcp, "b"))) {
      try table.removeInbounds(TunnelReference("b").keys)
    }
  }

  @Test func aTakenAddressChangesNothing() throws {
    var table = TunnelTable()
    _ = try table.setInbounds([try inbound("a", ["0.0.0.0:1000"])])
    do {
      _ = try table.setInbounds([try inbound("b", ["1001"]), try inbound("c", ["127.0.0.1:1000"])])
      Issue.record("must be refused")
    } catch {
      #expect("\(error)".contains("already used by tcp/a"))
    }
    #expect(table.inbounds.count == 1)
    // Another protocol and another family do not collide.
    _ = try table.setInbounds([
      try TunnelInbound(TunnelKey(.udp, "u"), listens: ["0.0.0.0:1000"], exits: []),
      try inbound("six", ["[::1]:1000"]),
    ])
    #expect(throws: TunnelTableError.self) { try table.replaceApps([try app(1000)]) }
  }

  @Test func appsReloadLive() throws {
    var table = TunnelTable()
    #expect(
      try table.replaceApps([app(1), app(2, enabled: false)]).start.map(\.address.port) == [1])
    #expect(try table.replaceApps([app(1, to: 80), app(2)]).start.map(\.address.port) == [2])
    #expect(table.apps[AppKey(.tcp, 1)]?.dstPort == 80)
    #expect(throws: TunnelTableError.self) { try table.replaceApps([app(3), app(3)]) }
    #expect(table.apps.count == 2)
    #expect(try table.replaceApps([]).stop.count == 2)
  }

  @Test func outboundsComeAndGo() throws {
    var table = TunnelTable()
    let key = try TunnelKey(.tcp, "a")
    try table.setOutbounds([try TunnelOutbound(key, targets: ["h:1"], entrances: [], users: [])])
    try table.removeOutbounds(TunnelReference("a").keys)
    #expect(throws: TunnelTableError.noSuchOutbound(key)) { try table.removeOutbounds([key]) }
  }
}

@Suite struct CounterTests {
  @Test func countersAddUp() {
    var counters = TunnelCounters()
    counters.opened()
    counters.opened()
    counters.closed()
    counters.carried(toTarget: 5, toCaller: 7)
    counters.failed(.targetRefused)
    counters.failed(.notAdmitted)
    counters.failed(.notAdmitted)
    #expect(counters.connectionsNow == 1 && counters.connectionsTotal == 2)
    #expect(counters.bytesToTarget == 5 && counters.bytesToCaller == 7)
    #expect(counters.failures.map(\.reason) == [.notAdmitted, .targetRefused])
    #expect(counters.failures.map(\.count) == [2, 1] && counters.failureTotal == 3)
    #expect(Set(TunnelFailure.allCases.map(\.code)).count == TunnelFailure.allCases.count)
  }

  @Test func theLogKeepsTheNewest() throws {
    var log = TunnelEventLog()
    let owner = TunnelOwner.tunnel(try TunnelKey(.tcp, "web"))
    for n in 1...1500 {
      log.record(owner, .refused(peer: "p\(n)", reason: .noSuchTunnel), now: at(Int64(n)))
    }
    let events = log.events()
    #expect(events.count == TunnelEventLog.capacity)
    #expect(events.map(\.sequence) == Array(501...1500))
    #expect(
      log.events(after: 1499).map(\.words) == [
        "tcp/web: refused: peer p1500: no outbound of this name at the exit"
      ])
  }
}

@Suite struct DatagramSessionTests {
  private func key(_ n: Int) -> DatagramSessions<Int>.Key {
    .init(listener: 1, caller: Endpoint(IPAddress(10, 0, UInt8(n / 256), UInt8(n % 256)), 5000))
  }

  @Test func idleSessionsEndOldestFirst() {
    var sessions = DatagramSessions<Int>()
    for n in 0..<5 { #expect(sessions.insert(key(n), n, now: at(Int64(n))) == true) }
    #expect(sessions.use(key(0), now: at(10)) == 0)
    #expect(sessions.use(key(9), now: at(10)) == nil)
    #expect(sessions.nextDeadline == at(301))
    #expect(sessions.pollExpired(now: at(300)) == nil)
    var ended: [Int] = []
    while let (_, handle) = sessions.pollExpired(now: at(305)) { ended.append(handle) }
    #expect(ended == [1, 2, 3, 4])
    #expect(sessions.count == 1 && sessions.nextDeadline == at(310))
    #expect(sessions.remove(key(0)) == 0)
    #expect(sessions.nextDeadline == .distantFuture)
  }

  @Test func aFullTableRefusesAndCounts() {
    var sessions = DatagramSessions<Int>(limit: 2, idle: .seconds(1))
    #expect(sessions.insert(key(0), 0, now: at(0)) == true)
    #expect(sessions.insert(key(1), 1, now: at(0)) == true)
    #expect(sessions.insert(key(2), 2, now: at(0)) == false)
    #expect(sessions.refusedCount == 1)
    sessions.remove(key(0))
    #expect(sessions.insert(key(2), 2, now: at(0)) == true)
  }

  @Test func behavesLikeTheObviousModel() {
    for seed in 0..<20 as Range<UInt64> {
      var random = SeededRandom(testSeed: seed)
      var sessions = DatagramSessions<Int>(limit: 16, idle: .seconds(5))
      var model: [Int: Int64] = [:]
      var now: Int64 = 0
      for _ in 0..<2000 {
        now += Int64(random.next() % 2)
        let n = Int(random.next() % 24)
        switch random.next() % 4 {
        case 0:
          #expect(
            sessions.remove(key(n)) == (model.removeValue(forKey: n) == nil ? nil : n),
            "seed \(seed)")
        case 1:
          while let (_, handle) = sessions.pollExpired(now: at(now)) {
            #expect(model[handle].map { $0 + 5 <= now } == true, "seed \(seed)")
            model[handle] = nil
          }
          #expect(model.values.allSatisfy { $0 + 5 > now }, "seed \(seed)")
        default:
          if sessions.use(key(n), now: at(now)) != nil {
            #expect(model[n] != nil, "seed \(seed)")
            model[n] = now
          } else {
            #expect(model[n] == nil, "seed \(seed)")
            if sessions.insert(key(n), n, now: at(now)) { model[n] = now }
          }
        }
        #expect(sessions.count == model.count, "seed \(seed)")
      }
    }
  }
}
