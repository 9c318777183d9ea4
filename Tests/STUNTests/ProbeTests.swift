import Bytes
import NAT
import STUN
import Testing

/// What a probe finds out behind every kind of NAT.
@Suite struct ProbeFactsTests {
  static let allocators: [PortAllocator] = [
    .preserving, .random, .sequential(step: 1), .sequential(step: 2), .sequential(step: -1),
  ]
  static let mappings: [NATMapping] = [
    .endpointIndependent, .addressDependent, .addressAndPortDependent,
  ]
  static let filterings: [NATFiltering] = [
    .endpointIndependent, .addressDependent, .addressAndPortDependent,
  ]

  @Test func everyNATIsToldAsItIs() throws {
    for mapping in Self.mappings {
      for filtering in Self.filterings {
        for allocator in Self.allocators {
          for (isV6, addresses, auxiliary) in [
            (false, 2, 2), (false, 1, 2), (true, 2, 3), (true, 1, 3),
          ] {
            let what = "\(mapping) \(filtering) \(allocator) v6 \(isV6) addresses \(addresses)"
            var world = FakeInternet(
              FakeNAT(mapping, filtering, allocator), addresses: addresses, isV6: isV6,
              auxiliary: auxiliary)
            world.run()
            let (taken, report) = try #require(world.finished, "\(what)")
            // One address cannot tell "by address" from "by anything".
            let seen: NATMapping =
              mapping == .addressDependent && addresses == 1 ? .endpointIndependent : mapping
            let let_in: NATFiltering =
              filtering == .endpointIndependent && addresses == 1 ? .addressDependent : filtering
            #expect(report.facts.mapping == seen, "\(what)")
            #expect(report.facts.filtering == let_in, "\(what)")
            #expect(report.facts.preservesPort == (allocator == .preserving), "\(what)")
            #expect(report.facts.allocatorStep == step(allocator), "\(what)")
            #expect(
              report.facts.hairpins == (seen == .addressAndPortDependent ? nil : false), "\(what)")
            #expect(!report.facts.isUDPBlocked && report.heardUDP && !report.heardTCP, "\(what)")
            #expect((report.otherServer != nil) == (addresses == 2), "\(what)")
            #expect(taken < .seconds(2), "\(what): \(taken.inMilliseconds) ms")
            #expect(world.mapped?.1 == report.mapped, "\(what)")
          }
        }
      }
    }
  }

  private func step(_ allocator: PortAllocator) -> Int16 {
    if case .sequential(let step) = allocator { return Int16(step) }
    return 0
  }

  @Test func withoutNATFilteringTellsAnOpenHostFromAFirewall() throws {
    for isV6 in [false, true] {
      for addresses in [1, 2] {
        for filtering in [NATFiltering.endpointIndependent, .addressAndPortDependent] {
          var world = FakeInternet(FakeNAT(.none, filtering), addresses: addresses, isV6: isV6)
          world.run()
          let facts = try #require(world.facts)
          #expect(facts.mapping == .none && facts.type == 0)
          #expect(facts.filtering == filtering, "\(filtering), \(addresses) addresses")
          #expect(facts.preservesPort == true && facts.hairpins == true)
          #expect(facts.allocatorStep == 0, "neighbouring local ports are no step")
        }
      }
    }
  }

  @Test func hairpinIsSeenWhereThereIsOne() throws {
    for filtering in Self.filterings {
      var world = FakeInternet(FakeNAT(.endpointIndependent, filtering, hairpins: true))
      world.run()
      #expect(try #require(world.facts).hairpins == true, "\(filtering)")
    }
  }

  /// Neighbours make connections between ours: a step where half agree.
  @Test func aStepIsSeenThroughForeignConnections() throws {
    for (foreign, step) in [([3], 1), ([2, 5], 1), ([2, 3, 4, 5], 2), ([2, 3, 4], 0)]
      as [(Set<Int>, Int16)]
    {
      var world = FakeInternet(
        FakeNAT(.addressAndPortDependent, .addressAndPortDependent, .sequential(step: 1)),
        addresses: 1, auxiliary: 3)
      world.foreignBefore = foreign
      world.run()
      #expect(try #require(world.facts).allocatorStep == step, "\(foreign)")
    }
  }

  /// The second question is lost; its mapping is made last, not second.
  @Test func aStepIsSeenThoughAMappingCameLate() throws {
    var world = FakeInternet(
      FakeNAT(.addressAndPortDependent, .addressAndPortDependent, .sequential(step: 1)),
      addresses: 1, auxiliary: 3)
    world.lostSends = [2]
    world.run()
    #expect(try #require(world.facts).allocatorStep == 1)
  }

  @Test func twoPortsMakeNoStep() throws {
    var world = FakeInternet(
      FakeNAT(.endpointIndependent, .endpointIndependent, .sequential(step: 1)), addresses: 1,
      auxiliary: 1)
    world.run()
    #expect(try #require(world.facts).allocatorStep == 0)
  }

  /// Which sending an answer belongs to is not known: no round trip follows.
  @Test func anAnswerToARepeatedQuestionIsNoMeasurement() throws {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .endpointIndependent))
    world.lostSends = [1, 2, 3, 4]
    world.run()
    let told = world.events.compactMap { event -> TimeAmount?? in
      if case .mapped(_, let roundTrip) = event.1 { .some(roundTrip) } else { nil }
    }
    #expect(told == [nil] && world.mapped?.at == .milliseconds(550))
    #expect(world.finished?.1.roundTrip == .milliseconds(50), "of the questions that followed")
  }

  @Test func randomPortsAreNoStep() throws {
    for seed in 1...2_000 as ClosedRange<UInt64> {
      var world = FakeInternet(
        FakeNAT(.addressAndPortDependent, .addressAndPortDependent, .random, seed: seed),
        addresses: 1, seed: seed)
      world.run()
      #expect(world.facts?.allocatorStep == 0, "seed \(seed)")
    }
  }

  /// The first outside endpoint is there after one round trip, whatever the NAT,
  /// and the report agrees with it.
  @Test func theMappedEndpointIsKnownAfterOneRoundTrip() throws {
    for mapping in [NATMapping.none] + Self.mappings {
      var world = FakeInternet(FakeNAT(mapping, .addressAndPortDependent))
      world.run()
      let mapped = try #require(world.mapped)
      #expect(mapped.at == .milliseconds(50))
      let told = world.events.filter { if case .mapped = $0.1 { true } else { false } }
      #expect(told.count == 1, "\(mapping): told once")
      // Mapping and step a round trip after the start, long before the filter.
      let learnt = world.events.compactMap { entry -> (TimeAmount, NATFacts)? in
        if case .learnt(let facts) = entry.1 { (entry.0 - world.started, facts) } else { nil }
      }
      #expect(learnt.count == 1 && learnt[0].0 <= .milliseconds(60), "\(mapping)")
      // Only a second address tells by address from by nothing.
      if mapping != .addressDependent {
        #expect(learnt.first?.1.mapping == world.facts?.mapping, "\(mapping)")
      }
    }
  }

  @Test func slowNetworksAreWaitedFor() throws {
    for oneWay in [100, 150, 250, 400] as [Int64] {
      var world = FakeInternet(FakeNAT(.endpointIndependent, .addressAndPortDependent))
      world.oneWay = .milliseconds(oneWay)
      world.run()
      let (taken, report) = try #require(world.finished)
      #expect(report.facts.mapping == .endpointIndependent, "\(oneWay) ms")
      #expect(report.facts.filtering == .addressAndPortDependent, "\(oneWay) ms")
      #expect(taken <= NATProbeLimits.whole, "\(oneWay) ms")
    }
  }

  /// A lost answer may leave a fact unknown; it must hardly ever make one wrong.
  @Test func lossSeldomLies() throws {
    var wrong = 0
    var unknown = 0
    for seed in 1...400 as ClosedRange<UInt64> {
      for filtering in Self.filterings {
        var world = FakeInternet(FakeNAT(.endpointIndependent, filtering, .random), seed: seed)
        world.loss = 0.1
        world.run()
        let (taken, report) = try #require(world.finished, "seed \(seed)")
        #expect(taken <= NATProbeLimits.whole, "seed \(seed)")
        let facts = report.facts
        if facts.mapping == .unknown || facts.filtering == .unknown { unknown += 1 }
        if facts.mapping != .unknown, facts.mapping != .endpointIndependent { wrong += 1 }
        if facts.filtering != .unknown, facts.filtering != filtering { wrong += 1 }
        #expect(facts.allocatorStep == 0, "seed \(seed)")
      }
    }
    #expect(wrong <= 12, "of 1,200 probes \(wrong) were wrong, \(unknown) did not know")
    #expect(unknown <= 12, "of 1,200 probes \(unknown) did not know")
  }

  @Test func withoutAuxiliarySocketsTheRestIsUnknown() throws {
    var world = FakeInternet(
      FakeNAT(.endpointIndependent, .endpointIndependent, .random), auxiliary: 0)
    world.run()
    let facts = try #require(world.facts)
    #expect(facts.mapping == .endpointIndependent && facts.filtering == .unknown)
    #expect(facts.hairpins == nil && facts.allocatorStep == 0 && facts.preservesPort == false)
  }

  @Test func sameSeedSameProbe() {
    func trace(_ seed: UInt64) -> [[UInt8]] {
      var world = FakeInternet(
        FakeNAT(.endpointIndependent, .addressDependent, .random), seed: seed)
      world.loss = 0.2
      world.run()
      return world.sent.map(\.1.bytes)
    }
    #expect(trace(5) == trace(5))
    #expect(trace(5) != trace(6))
  }
}

/// What a probe does when nobody answers, or somebody else does.
@Suite struct ProbeConductTests {
  static func cone() -> FakeNAT { FakeNAT(.endpointIndependent, .addressAndPortDependent) }

  @Test func silenceEndsInTime() throws {
    var world = FakeInternet(Self.cone())
    world.passesUDP = false
    world.passesTCP = false
    world.run()
    let (taken, report) = try #require(world.finished)
    #expect(taken < .seconds(6) && taken == NATProbeLimits.whole)
    #expect(report == NATProbeReport())
    #expect(report.facts.type == 314 && !report.facts.isUDPBlocked)
    // Questions at 0, 0.5, 1.5 and 3.5 s; both TCP ports meanwhile.
    let first = world.sent.filter { $0.1.socket == 1 && $0.1.destination.port == 3_478 }
    #expect(first.map { ($0.at - world.started).inMilliseconds } == [0, 500, 1_500, 3_500])
    let dialled = world.events.compactMap { (event) -> Endpoint? in
      if case .dial(_, let remote) = event.1 { remote } else { nil }
    }
    #expect(dialled == [Endpoint(world.server[0], 3_480), Endpoint(world.server[0], 3_481)])
    // Nothing stays behind.
    #expect(hungUp(world) == 2)
    #expect(!world.probe.isRunning && world.probe.nextDeadline == .distantFuture)
  }

  private func hungUp(_ world: FakeInternet) -> Int {
    world.events.filter { if case .hangUp = $0.1 { true } else { false } }.count
  }

  @Test func whereUDPIsBlockedTCPTells() throws {
    var world = FakeInternet(Self.cone())
    world.passesUDP = false
    world.run()
    let (taken, report) = try #require(world.finished)
    #expect(taken == NATProbeTunables.blockedAfter)
    #expect(report.facts.isUDPBlocked && report.facts.mapping == .unknown)
    #expect(report.heardTCP && !report.heardUDP && report.mapped == nil)
    #expect(report.tcpMapped == [at("203.0.113.7:20001"), at("203.0.113.7:20002")])
    #expect(hungUp(world) == 2)
  }

  @Test func refusedTCPEndsTheWaitForIt() throws {
    var world = FakeInternet(Self.cone())
    world.passesUDP = false
    world.refusesTCP = true
    world.run()
    let (taken, report) = try #require(world.finished)
    #expect(report == NATProbeReport())
    #expect(taken == .milliseconds(4_500), "UDP is asked to its end")
  }

  @Test func onTCPOnlyTheAnswerToOurQuestionCounts() throws {
    let tables: [(String, (inout FakeInternet.Packet) -> Bool)] = [
      (
        "another transaction",
        {
          $0.bytes[12] ^= 1; return true
        }
      ),
      (
        "garbage",
        {
          $0.bytes = ascii("HTTP/1.1 400 Bad Request\r\n\r\n"); return true
        }
      ),
      (
        "an endless message",
        {
          $0.bytes[2] = 0xff; return true
        }
      ),
      (
        "a refusal",
        {
          $0.bytes[1] = 0x11; return true
        }
      ),
    ]
    for (name, meddle) in tables {
      var world = FakeInternet(Self.cone())
      world.passesUDP = false
      world.meddle = meddle
      world.run()
      let (_, report) = try #require(world.finished, "\(name)")
      #expect(!report.heardTCP && !report.facts.isUDPBlocked, "\(name)")
      #expect(world.probe.drops.useless == 2, "\(name)")
    }
  }

  @Test func aLateUDPAnswerMakesTCPUnnecessary() throws {
    var world = FakeInternet(Self.cone())
    world.oneWay = .milliseconds(700)
    world.passesTCP = false
    world.run()
    let (_, report) = try #require(world.finished)
    #expect(report.heardUDP && !report.facts.isUDPBlocked)
    #expect(report.facts.mapping == .endpointIndependent)
    #expect(hungUp(world) == 2)
    let hangUp = try #require(
      world.events.first { if case .hangUp = $0.1 { true } else { false } })
    #expect(hangUp.at - world.started == .milliseconds(1_400))
  }

  /// Whoever does not know the transaction, or answers from elsewhere, is not
  /// believed.
  @Test func madeUpAnswersAreNotBelieved() throws {
    let lie = at("6.6.6.6:666")
    let tables: [(String, (inout FakeInternet.Packet) -> Bool)] = [
      (
        "from another port",
        {
          $0.from.port += 7; return true
        }
      ),
      (
        "from another address",
        {
          $0.from.address = address("6.6.6.6"); return true
        }
      ),
      (
        "with another transaction",
        {
          $0.bytes[19] ^= 1; return true
        }
      ),
      (
        "without an address",
        {
          $0.bytes = Array($0.bytes[..<20]); $0.bytes[3] = 0; return true
        }
      ),
      (
        "cut",
        {
          $0.bytes.removeLast(4); return true
        }
      ),
      (
        "as a request",
        {
          $0.bytes[0] = 0; return true
        }
      ),
    ]
    for (name, meddle) in tables {
      var world = FakeInternet(FakeNAT(.none, .endpointIndependent), addresses: 1)
      world.passesTCP = false
      world.meddle = meddle
      world.run()
      let (_, report) = try #require(world.finished, "\(name)")
      #expect(report == NATProbeReport(), "\(name)")
      let drops = world.probe.drops
      #expect(
        drops.malformed + drops.unknown + drops.wrongSource + drops.useless > 0, "\(name)")
    }
    // The right transaction and source, at the wrong socket, or an absurd address.
    for (name, mapped, socket) in [
      ("other socket", lie, 2), ("port 0", at("6.6.6.6:0"), 1), ("multicast", at("224.0.0.1:9"), 1),
      ("nothing", at("0.0.0.0:9"), 1), ("other family", at("[2001:db8::1]:9"), 1),
    ] as [(String, Endpoint, UInt32)] {
      var world = FakeInternet(Self.cone())
      world.passesUDP = false
      world.passesTCP = false
      world.probe.start(now: world.now)
      world.drain()
      let question = try #require(world.sent.first)
      var answer = try #require(STUNMessage.decode(question.1.bytes))
      answer.kind = .success
      answer.xorMappedAddress = mapped
      world.inject(answer.encode(), from: question.1.destination, toSocket: socket)
      world.settle()
      #expect(world.mapped == nil && world.finished?.1.mapped == nil, "\(name)")
      #expect(world.probe.drops.wrongSource + world.probe.drops.useless == 1, "\(name)")
    }
  }

  /// The second address is only what the server says it is.
  @Test func aServerCannotPointUsAtAnybody() throws {
    for named in [
      "127.0.0.1:80", "10.0.0.1:53", "224.0.0.251:5353", "255.255.255.255:9", "198.51.100.1:9",
      "198.51.100.2:0", "169.254.1.1:3479", "[2001:db8::1]:3479",
    ] {
      var world = FakeInternet(Self.cone())
      world.meddle = { packet in
        guard var message = STUNMessage.decode(packet.bytes) else { return true }
        message.otherAddress = at(named)
        packet.bytes = message.encode()
        return true
      }
      world.run()
      #expect(world.finished?.1.facts.mapping == .endpointIndependent, "\(named)")
      let strangers = world.sent.filter {
        $0.1.destination.address != world.server[0] && $0.1.destination.address != world.nat.outside
      }
      #expect(strangers.isEmpty, "\(named)")
    }
    // A plausible stranger gets four small questions.
    var world = FakeInternet(Self.cone())
    world.meddle = { packet in
      guard var message = STUNMessage.decode(packet.bytes) else { return true }
      message.otherAddress = at("192.0.2.99:53")
      packet.bytes = message.encode()
      return true
    }
    world.run()
    let victim = world.sent.filter { $0.1.destination.address == address("192.0.2.99") }
    #expect(victim.count == 4 && victim.allSatisfy { $0.1.bytes.count == 20 })
    #expect(world.facts?.mapping == .endpointIndependent)
    #expect(world.facts?.filtering == .addressAndPortDependent)
  }

  @Test func aServerThatCannotChangePortsLeavesFilteringUnknown() throws {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .endpointIndependent), addresses: 1)
    world.meddle = { packet in
      // An answer from the second port to a socket that never asked it: 420.
      guard packet.from.port == 3_479, packet.to.port != FakeInternet.main,
        let message = STUNMessage.decode(packet.bytes)
      else { return true }
      var refusal = STUNMessage(.failure, message.transaction)
      refusal.refusal = STUNRefusal(code: 420, reason: [])
      refusal.unknownAttributes = [3]
      packet.bytes = refusal.encode()
      packet.from.port = 3_478
      return true
    }
    world.run()
    let (taken, report) = try #require(world.finished)
    #expect(report.facts.mapping == .endpointIndependent && report.facts.filtering == .unknown)
    #expect(taken < .seconds(2))
  }

  /// Silence of the second port is no filtering.
  @Test func aBlockedSecondPortLeavesMappingAndFilteringUnknown() throws {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .endpointIndependent), addresses: 1)
    world.meddle = { $0.from.port != 3_479 }
    world.run()
    let (_, report) = try #require(world.finished)
    #expect(report.mapped != nil && report.heardUDP)
    #expect(report.facts.mapping == .unknown && report.facts.filtering == .unknown)
  }

  /// Whatever happens, so much is sent and no more.
  @Test func theProbeIsBounded() throws {
    for seed in 1...100 as ClosedRange<UInt64> {
      var world = FakeInternet(
        FakeNAT(.endpointIndependent, .addressAndPortDependent, .random), auxiliary: 3, seed: seed)
      world.loss = 0.3
      world.run()
      #expect(
        world.sent.count <= 8 * NATProbeLimits.attempts + 6 + HopLimits.packets, "seed \(seed)")
      #expect(world.sent.allSatisfy { $0.1.bytes.count <= 28 }, "seed \(seed)")
      let own = world.sent.filter { $0.1.destination.address == world.nat.outside }
      #expect(own.count <= 6, "seed \(seed)")
    }
    // On a good network much less.
    var world = FakeInternet(Self.cone())
    world.run()
    #expect(world.sent.count == 5 + 2 * 4 + 6 + 1, "\(world.sent.count)")
  }

  @Test func hairpinTokensCountOnlyAtTheOtherSocket() throws {
    var world = FakeInternet(Self.cone())
    world.probe.start(now: world.now)
    while !world.sent.contains(where: { $0.1.destination.address == world.nat.outside }) {
      world.now = world.now + .milliseconds(1)
      world.probe.advance(to: world.now)
      world.settleOnce()
    }
    let token = try #require(
      world.sent.last { $0.1.socket == 1 && $0.1.destination.address == world.nat.outside })
    // Our own token at the socket it left from is an echo of somebody.
    world.inject(token.1.bytes, from: at("6.6.6.6:6"), toSocket: 1)
    world.settle()
    #expect(world.facts?.hairpins == false)
  }

  // MARK: Again

  @Test func aRefreshSaysNothingHasChanged() throws {
    var world = FakeInternet(FakeNAT(.endpointIndependent, .addressAndPortDependent, .random))
    world.run()
    let before = world.sent.count
    let begun = world.probe.refresh(now: world.now)
    let again = world.probe.refresh(now: world.now)
    #expect(begun && !again, "one at a time")
    world.settle()
    #expect(world.sent.count == before + 2)
    let refresh = try #require(world.refreshed)
    #expect(refresh.outcome == .same && !refresh.wantsProbe)
    #expect(refresh.mapped == world.finished?.1.mapped)
    let told = world.events.filter { if case .mapped = $0.1 { true } else { false } }
    #expect(told.count == 1, "nothing new to tell")
  }

  @Test func aRefreshSeesARebinding() throws {
    var world = FakeInternet(Self.cone())
    world.run()
    let before = try #require(world.finished?.1.mapped)
    world.nat.reboot()
    world.probe.refresh(now: world.now)
    world.settle()
    let refresh = try #require(world.refreshed)
    let after = try #require(refresh.mapped)
    #expect(refresh.outcome == .moved && !refresh.wantsProbe && after != before)
    #expect(after.address == before.address)
    #expect(world.probe.report?.mapped == after)
    // The next one compares with this.
    world.probe.refresh(now: world.now)
    world.settle()
    #expect(world.refreshed?.outcome == .same)
  }

  /// The main socket's mapping stays while others' move the counter on: a socket
  /// that is new shows where it stands.
  @Test func aNewSocketShowsWhereACounterStands() throws {
    var world = FakeInternet(
      FakeNAT(.addressAndPortDependent, .addressAndPortDependent, .sequential(step: 1)))
    world.run()
    let before = try #require(world.finished?.1.mapped)
    for port: UInt16 in 1...500 {
      _ = world.nat.leave(at("192.168.1.77:\(port)"), to: at("192.0.2.9:1"))
    }
    let told = world.events.count
    world.probe.refresh(counter: 9, now: world.now)
    world.settle()
    let mapped = world.events[told...].compactMap {
      if case .mapped(let endpoint, _) = $0.1 { endpoint } else { nil }
    }
    #expect(mapped.count == 1)
    #expect(mapped.first.map { $0.port > before.port &+ 500 } == true)
    #expect(world.refreshed?.outcome == .same && world.refreshed?.wantsProbe == false)
  }

  @Test func anotherAddressOrKindWantsAProbe() throws {
    var world = FakeInternet(Self.cone())
    world.run()
    world.nat.reboot(outside: address("203.0.113.99"))
    world.probe.refresh(now: world.now)
    world.settle()
    #expect(world.refreshed?.outcome == .moved && world.refreshed?.wantsProbe == true)

    world = FakeInternet(Self.cone())
    world.run()
    world.nat.reboot()
    world.nat.mapping = .addressAndPortDependent
    world.probe.refresh(now: world.now)
    world.settle()
    #expect(world.refreshed?.wantsProbe == true)
  }

  @Test func aRefreshIntoSilenceEnds() throws {
    var world = FakeInternet(Self.cone())
    world.run()
    world.passesUDP = false
    let began = world.now
    world.probe.refresh(now: world.now)
    world.settle()
    #expect(world.refreshed == NATRefresh(outcome: .silent, mapped: nil, wantsProbe: false))
    #expect(world.now - began < .seconds(4))
    #expect(world.probe.report?.mapped != nil, "the report stays")
  }

  @Test func aRefreshBeforeAnyProbeTellsTheEndpoint() throws {
    var world = FakeInternet(Self.cone())
    world.probe.refresh(now: world.now)
    world.settle()
    #expect(world.mapped?.1 == at("203.0.113.7:40000"))
    #expect(world.refreshed?.wantsProbe == true)
  }

  @Test func aNewStartForgetsTheOldOne() throws {
    var world = FakeInternet(Self.cone())
    world.passesUDP = false
    world.passesTCP = false
    world.probe.start(now: world.now)
    world.drain()
    world.now = world.now + .seconds(2)
    world.probe.advance(to: world.now)
    world.drain()
    world.passesUDP = true
    world.probe.start(now: world.now)
    world.settle()
    #expect(hungUp(world) == 2)
    let ended = world.events.filter { if case .finished = $0.1 { true } else { false } }
    #expect(ended.count == 1 && world.facts?.mapping == .endpointIndependent)
  }

  @Test func stoppedItIsQuiet() {
    var world = FakeInternet(Self.cone())
    world.probe.start(now: world.now)
    world.probe.stop()
    world.settle()
    #expect(world.sent.isEmpty && world.events.isEmpty && !world.probe.isRunning)
  }
}
