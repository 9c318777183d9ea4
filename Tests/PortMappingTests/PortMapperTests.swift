import Bytes
import PortMapping
import Testing

/// A mapper, a gateway whose answers the test writes, and virtual time.
private struct Bench {
  static let gateway = IPAddress(192, 168, 1, 1)
  static let client = IPAddress(192, 168, 1, 20)
  static let server = Endpoint(gateway, 5351)
  static let nonce: [UInt8] = Array(21...32)
  static let outside = IPAddress(203, 0, 113, 5)

  var mapper: PortMapper
  var now = Instant(nanoseconds: 1_000_000_000_000)
  let began: Instant
  var sent: [(at: TimeAmount, bytes: [UInt8])] = []
  var events: [PortMapperEvent] = []

  init(seed: UInt64 = 1, transport: MappedTransport = .udp, usesUPnP: Bool = true) {
    mapper = PortMapper(
      PortMapperSettings(
        gateway: Self.gateway, client: Self.client, internalPort: 27190, transport: transport,
        nonce: Self.nonce, usesUPnP: usesUPnP), random: SeededRandom(testSeed: seed))
    began = now
    mapper.start(now: now)
    drain()
  }

  mutating func drain() {
    while let bytes = mapper.pollTransmit() { sent.append((now - began, bytes)) }
    while let event = mapper.pollEvent() { events.append(event) }
  }

  /// Lets time pass, with every deadline on its way.
  mutating func pass(_ amount: TimeAmount) {
    let end = now + amount
    var rounds = 0
    while mapper.nextDeadline <= end {
      now = max(now, mapper.nextDeadline)
      mapper.advance(to: now)
      drain()
      rounds += 1
      precondition(rounds < 10_000, "time stands still")
    }
    now = end
  }

  mutating func hear(_ bytes: [UInt8], from: Endpoint = Bench.server) {
    mapper.receive(bytes.span.bytes, from: from, now: now)
    drain()
  }

  mutating func announce(_ bytes: [UInt8], from: Endpoint = Bench.server) {
    mapper.receiveAnnouncement(bytes.span.bytes, from: from, now: now)
    drain()
  }

  mutating func clear() {
    sent.removeAll()
    events.removeAll()
  }

  static func pcp(
    result: UInt8 = 0, lifetime: UInt32 = 7200, epoch: UInt32 = 100, nonce: [UInt8] = nonce,
    transport: UInt8 = 17, port: UInt16 = 27190,
    external: Endpoint = Endpoint(outside, 4000)
  ) -> [UInt8] {
    var bytes: [UInt8] = [2, 0x81, 0, result]
    bytes.appendUInt32(lifetime)
    bytes.appendUInt32(epoch)
    bytes += [UInt8](repeating: 0, count: 12)
    bytes += nonce
    bytes += [transport, 0, 0, 0]
    bytes.appendUInt16(port)
    bytes.appendUInt16(external.port)
    bytes.appendUInt64(external.address.high)
    bytes.appendUInt64(external.address.low)
    return bytes
  }

  static func pcpAnnouncement(epoch: UInt32) -> [UInt8] {
    var bytes: [UInt8] = [2, 0x80, 0, 0, 0, 0, 0, 0]
    bytes.appendUInt32(epoch)
    return bytes + [UInt8](repeating: 0, count: 12)
  }

  static func natPMPAddress(
    _ address: IPAddress = outside, result: UInt16 = 0, epoch: UInt32 = 100
  ) -> [UInt8] {
    var bytes: [UInt8] = [0, 0x80]
    bytes.appendUInt16(result)
    bytes.appendUInt32(epoch)
    bytes.appendUInt32(address.v4)
    return bytes
  }

  static func natPMPMap(
    result: UInt16 = 0, port: UInt16 = 27190, external: UInt16 = 4000, lifetime: UInt32 = 7200,
    epoch: UInt32 = 100, opcode: UInt8 = 0x81
  ) -> [UInt8] {
    var bytes: [UInt8] = [0, opcode]
    bytes.appendUInt16(result)
    bytes.appendUInt32(epoch)
    bytes.appendUInt16(port)
    bytes.appendUInt16(external)
    bytes.appendUInt32(lifetime)
    return bytes
  }

  static let refusedVersion: [UInt8] = [0, 0, 0, 1, 0, 0, 0, 100]

  static func port(
    _ way: PortMappingProtocol, seconds: Int64 = 7200,
    external: Endpoint = Endpoint(outside, 4000)
  ) -> MappedPort {
    MappedPort(external: external, lifetime: .seconds(seconds), protocol: way)
  }

  var pcpSent: [TimeAmount] { sent.filter { $0.bytes[0] == 2 }.map(\.at) }
  var natPMPMapsSent: [TimeAmount] {
    sent.filter { $0.bytes[0] == 0 && $0.bytes[1] == 1 }.map(\.at)
  }
}

extension TimeAmount {
  fileprivate func isWithin(_ low: Double, _ high: Double) -> Bool {
    inSeconds >= low && inSeconds <= high
  }
}

@Suite struct PortMapperTests {
  @Test func pcpIsAskedFirstAndTaken() {
    var bench = Bench()
    #expect(bench.pcpSent == [.zero])
    #expect(bench.sent.count == 1)
    bench.hear(Bench.pcp())
    #expect(bench.events == [.mapped(Bench.port(.pcp))])
    #expect(bench.mapper.current == Bench.port(.pcp))
  }

  @Test func aGatewayOfNATPMPIsAskedInItsOwnWordsAtOnce() {
    var bench = Bench()
    bench.hear(Bench.refusedVersion)
    #expect(bench.sent.map(\.bytes.count) == [60, 2, 12])
    // The answers may come in any order; one alone is no mapping.
    bench.hear(Bench.natPMPMap())
    #expect(bench.events.isEmpty)
    bench.hear(Bench.natPMPAddress())
    #expect(bench.events == [.mapped(Bench.port(.natPMP))])
  }

  @Test func theTCPPortIsAskedForRenewedAndRemovedByItsOwnName() throws {
    var bench = Bench(transport: .tcp)
    #expect(bench.sent.map { $0.bytes[36] } == [6])
    bench.hear(Bench.pcp())
    #expect(bench.events.isEmpty && bench.mapper.drops.mismatch == 1)
    bench.hear(Bench.pcp(transport: 6))
    #expect(bench.events == [.mapped(Bench.port(.pcp))])
    bench.pass(.seconds(5_000))
    #expect(bench.pcpSent.count == 2 && bench.sent.allSatisfy { $0.bytes[36] == 6 })
    bench.hear(Bench.pcp(epoch: 5_100, transport: 6))
    bench.clear()
    bench.mapper.stop(now: bench.now)
    bench.drain()
    #expect(bench.sent.map { $0.bytes[36] } == [6, 6])

    var elder = Bench(transport: .tcp)
    elder.hear(Bench.refusedVersion)
    #expect(elder.sent.last?.bytes.prefix(2) == [0, 2])
    elder.hear(Bench.natPMPAddress())
    elder.hear(Bench.natPMPMap())
    #expect(elder.events.isEmpty && elder.mapper.drops.mismatch == 1)
    elder.hear(Bench.natPMPMap(opcode: 0x82))
    #expect(elder.events == [.mapped(Bench.port(.natPMP))])
    elder.clear()
    elder.mapper.stop(now: elder.now)
    elder.drain()
    #expect(elder.sent.map { Array($0.bytes.prefix(2)) } == [[0, 2], [0, 2]])
  }

  @Test func everyWayOfRefusingTheVersionLeadsToNATPMP() {
    let table: [(String, [UInt8])] = [
      ("NAT-PMP", Bench.refusedVersion),
      ("NAT-PMP with 128", [0, 0x81, 0, 1, 0, 0, 0, 9]),
      ("PCP 1", [1, 0x81, 0, 1] + [UInt8](repeating: 0, count: 20)),
      ("PCP 3, eight bytes", [3, 0x81, 0, 1, 0, 0, 0, 0]),
      ("PCP 2, header only", [2, 0x81, 0, 1] + [UInt8](repeating: 0, count: 20)),
      ("PCP 2 without MAP", Bench.pcp(result: 4)),
    ]
    for (name, bytes) in table {
      var bench = Bench()
      bench.hear(bytes)
      #expect(bench.natPMPMapsSent == [.zero], "\(name)")
    }
  }

  @Test func silenceLeadsThroughAllThreeAndToRest() {
    var bench = Bench()
    bench.pass(.seconds(80))
    #expect(bench.pcpSent.count == 2)
    #expect(bench.pcpSent[1].isWithin(2.7, 3.3))
    let natPMP = bench.natPMPMapsSent.map(\.inSeconds)
    #expect(natPMP == [4.5, 4.75, 5.25, 6.25])
    #expect(
      bench.events == [
        .upnp(.map(suggestedPort: 27190, lifetime: 7200)),
        .unavailable(
          [
            PortMappingAttempt(protocol: .pcp, failure: .silent),
            PortMappingAttempt(protocol: .natPMP, failure: .silent),
            PortMappingAttempt(protocol: .upnp, failure: .silent),
          ], rest: .minutes(2)),
      ])
  }

  @Test func aClosedPortSparesTheWait() {
    var bench = Bench()
    bench.mapper.unreachable(now: bench.now)
    bench.drain()
    #expect(bench.events == [.upnp(.map(suggestedPort: 27190, lifetime: 7200))])
    // It is a hint: an answer that comes all the same is taken.
    bench.hear(Bench.pcp())
    #expect(bench.mapper.current == Bench.port(.pcp))
    bench.mapper.unreachable(now: bench.now)
    #expect(bench.mapper.current == Bench.port(.pcp))
  }

  @Test func restsGrowToAnHourAndNoFurther() {
    var bench = Bench(usesUPnP: false)
    bench.pass(.hours(8))
    let rests = bench.events.compactMap { event -> Double? in
      if case .unavailable(_, let rest) = event { rest.inSeconds } else { nil }
    }
    #expect(rests.prefix(6) == [120, 240, 480, 960, 1920, 3600])
    #expect(rests.dropFirst(5).allSatisfy { $0 == 3600 })
    #expect(bench.sent.count < 150)
  }

  @Test func anErrorThatLastsLengthensTheRest() {
    var bench = Bench(usesUPnP: false)
    bench.hear(Bench.pcp(result: 2, lifetime: 1800))
    #expect(
      bench.events == [
        .unavailable(
          [PortMappingAttempt(protocol: .pcp, failure: .refused(code: 2))], rest: .minutes(30))
      ])
    var endless = Bench(usesUPnP: false)
    endless.hear(Bench.pcp(result: 2, lifetime: .max))
    guard case .unavailable(_, let rest)? = endless.events.first else {
      Issue.record("no rest")
      return
    }
    #expect(rest == .hours(1))
  }

  @Test func everyPCPErrorLeadsOn() {
    for code in UInt8(1)...20 {
      var bench = Bench()
      bench.hear(Bench.pcp(result: code, lifetime: 30))
      let isUnknown = code == 1 || code == 4
      #expect((bench.natPMPMapsSent.count == 1) == isUnknown, "code \(code)")
      #expect(
        (bench.events == [.upnp(.map(suggestedPort: 27190, lifetime: 7200))]) == !isUnknown,
        "code \(code)")
    }
  }

  @Test func everyNATPMPErrorLeadsToUPnP() {
    for code in UInt16(1)...7 {
      for bytes in [Bench.natPMPMap(result: code), Bench.natPMPAddress(result: code)] {
        var bench = Bench()
        bench.hear(Bench.refusedVersion)
        bench.hear(bytes)
        #expect(
          bench.events == [.upnp(.map(suggestedPort: 27190, lifetime: 7200))], "code \(code)")
      }
    }
  }

  @Test func strangersAndMismatchesAreNotBelieved() {
    var bench = Bench()
    let table: [(String, [UInt8], Endpoint)] = [
      ("another host", Bench.pcp(), Endpoint(IPAddress(192, 168, 1, 66), 5351)),
      ("another port", Bench.pcp(), Endpoint(Bench.gateway, 5352)),
      ("another nonce", Bench.pcp(nonce: Array(1...12)), Bench.server),
      ("another transport", Bench.pcp(transport: 6), Bench.server),
      ("another port inside", Bench.pcp(port: 27191), Bench.server),
      ("NAT-PMP unasked", Bench.natPMPMap(), Bench.server),
      ("NAT-PMP unasked", Bench.natPMPAddress(), Bench.server),
      ("an error with another nonce", Bench.pcp(result: 2, nonce: Array(1...12)), Bench.server),
      ("nothing", [], Bench.server),
      ("one byte", [2], Bench.server),
    ]
    for (name, bytes, from) in table {
      bench.hear(bytes, from: from)
      #expect(bench.events.isEmpty, "\(name)")
      #expect(bench.sent.count == 1, "\(name)")
    }
    #expect(bench.mapper.drops.stranger == 2)
    #expect(bench.mapper.drops.mismatch == 4)
    #expect(bench.mapper.drops.unexpected == 2)
    #expect(bench.mapper.drops.malformed == 2)
    bench.hear(Bench.pcp())
    #expect(bench.mapper.current != nil)
  }

  @Test func anAddressNobodyCanSendToIsNoMapping() {
    let addresses: [IPAddress] = [
      .anyV4, .loopbackV4, IPAddress(224, 0, 0, 1), IPAddress(255, 255, 255, 255),
      IPAddress(169, 254, 1, 1), IPAddress(high: 0x2001_0db8_0000_0000, low: 1),
    ]
    for address in addresses {
      var bench = Bench()
      bench.hear(Bench.pcp(external: Endpoint(address, 4000)))
      #expect(bench.mapper.current == nil, "\(address)")
      #expect(bench.events == [.upnp(.map(suggestedPort: 27190, lifetime: 7200))], "\(address)")
    }
    var bench = Bench()
    bench.hear(Bench.pcp(external: Endpoint(Bench.outside, 0)))
    #expect(bench.mapper.current == nil)
  }

  @Test func aPrivateAddressOutsideIsToldAsAnotherNAT() {
    for (address, isPrivate) in [
      (IPAddress(192, 168, 100, 2), true), (IPAddress(100, 64, 3, 4), true), (Bench.outside, false),
    ] {
      var bench = Bench()
      bench.hear(Bench.pcp(external: Endpoint(address, 4000)))
      #expect(bench.mapper.current?.isBehindAnotherNAT == isPrivate)
    }
  }

  @Test func renewalsKeepTheTimesOfTheRFC() {
    for seed in UInt64(1)...50 {
      var bench = Bench(seed: seed)
      bench.hear(Bench.pcp(lifetime: 1000))
      bench.clear()
      bench.pass(.seconds(999))
      let times = bench.pcpSent.map(\.inSeconds)
      #expect(times.count >= 6, "seed \(seed)")
      var part = 500.0
      for time in times.prefix(5) {
        let low = 1000 - part
        #expect(time >= low && time <= low + part / 4 + 4.001, "seed \(seed): \(times)")
        part /= 2
      }
      for (a, b) in zip(times, times.dropFirst()) {
        #expect(b - a >= 4, "seed \(seed): \(times)")
      }
      #expect(bench.events.isEmpty, "seed \(seed)")
      bench.pass(.seconds(1))
      #expect(bench.events == [.lost(.expired)], "seed \(seed)")
      // The search has begun anew.
      #expect(bench.pcpSent.last == .seconds(1000), "seed \(seed)")
    }
  }

  @Test func anAnsweredRenewalBeginsTheNextLifetime() {
    var bench = Bench()
    bench.hear(Bench.pcp(lifetime: 1000))
    for round in 1...20 {
      bench.clear()
      while bench.sent.isEmpty { bench.pass(.seconds(1)) }
      bench.hear(
        Bench.pcp(lifetime: 1000, epoch: UInt32(100 + (bench.now - bench.began).inSeconds)))
      #expect(bench.events == [.mapped(Bench.port(.pcp, seconds: 1000))], "round \(round)")
      #expect(bench.mapper.renewals == UInt64(round))
    }
  }

  @Test func aRenewalAsksForWhatItHad() throws {
    var bench = Bench()
    bench.hear(Bench.pcp(lifetime: 1000, external: Endpoint(Bench.outside, 50123)))
    bench.clear()
    bench.pass(.seconds(630))
    let renewal = try #require(bench.sent.first).bytes
    #expect(renewal[24..<36].elementsEqual(Bench.nonce))
    #expect(renewal[42..<44].elementsEqual([0xc3, 0xcb]))
    #expect(renewal[56..<60].elementsEqual(Bench.outside.octets))
  }

  @Test func aShortErrorToARenewalWaitsAndALongOneEnds() {
    for code in UInt8(1)...13 {
      var bench = Bench()
      bench.hear(Bench.pcp(lifetime: 1000))
      bench.clear()
      bench.pass(.seconds(630))
      bench.hear(Bench.pcp(result: code, lifetime: 30))
      let isShort = [7, 8, 10].contains(code)
      #expect(
        bench.events == (isShort ? [] : [.lost(.refused(code: UInt16(code)))]), "code \(code)")
    }
  }

  @Test func aRestartedServerIsAskedAgainWithinSeconds() {
    for seed in UInt64(1)...50 {
      var bench = Bench(seed: seed)
      bench.hear(Bench.pcp(epoch: 5000))
      bench.pass(.seconds(100))
      bench.clear()
      bench.announce(Bench.pcpAnnouncement(epoch: 5100))
      bench.pass(.seconds(6))
      #expect(bench.sent.isEmpty, "seed \(seed): a steady clock is no news")
      bench.announce(Bench.pcpAnnouncement(epoch: 0))
      bench.pass(.seconds(5))
      #expect(bench.sent.count >= 1, "seed \(seed)")
      bench.hear(Bench.pcp(epoch: 5, external: Endpoint(Bench.outside, 4001)))
      #expect(
        bench.events == [.mapped(Bench.port(.pcp, external: Endpoint(Bench.outside, 4001)))],
        "seed \(seed)")
    }
  }

  @Test func theElderProtocolsAnnouncementIsNoNewsToAMappingByPCP() {
    // A gateway of both announces by both, several times, when it begins.
    var bench = Bench()
    bench.hear(Bench.pcp(epoch: 5000))
    bench.clear()
    bench.announce(Bench.natPMPAddress(epoch: 5000))
    bench.pass(.seconds(20))
    #expect(bench.sent.isEmpty)
    // Another address is, and so is a clock that went back.
    bench.announce(Bench.natPMPAddress(IPAddress(203, 0, 113, 9), epoch: 5020))
    bench.pass(.seconds(5))
    bench.hear(Bench.pcp(epoch: 5025))
    #expect(!bench.sent.isEmpty)
    bench.pass(.seconds(20))
    bench.clear()
    bench.announce(Bench.natPMPAddress(epoch: 3))
    bench.pass(.seconds(5))
    #expect(!bench.sent.isEmpty)
  }

  @Test func aServerThatForgetsAndStaysSilentLosesTheMapping() {
    var bench = Bench()
    bench.hear(Bench.pcp(epoch: 5000))
    bench.pass(.minutes(5))
    bench.clear()
    bench.announce(Bench.pcpAnnouncement(epoch: 0))
    bench.pass(.seconds(36))
    #expect(bench.events == [.lost(.stateLost)])
    // 0…5 s after, then after 3 and 6 and 12 seconds, then the new round (one or two).
    #expect((5...6).contains(bench.pcpSent.count))
  }

  @Test func forgedAnnouncementsBringNoFlood() {
    var bench = Bench()
    bench.hear(Bench.pcp(epoch: 5000))
    bench.clear()
    for second in 0..<600 {
      bench.announce(Bench.pcpAnnouncement(epoch: UInt32(second % 2) * 4000))
      bench.announce(Bench.natPMPAddress(IPAddress(v4: UInt32(second)), epoch: 0))
      bench.announce(Bench.pcpAnnouncement(epoch: 0), from: Endpoint(IPAddress(1, 2, 3, 4), 5351))
      bench.pass(.seconds(1))
      if !bench.sent.isEmpty, bench.pcpSent.last == bench.now - bench.began {
        bench.hear(Bench.pcp(epoch: 5000 + UInt32(second)))
      }
    }
    #expect(bench.mapper.drops.stranger == 600)
    // Every 10 s at most, with what is repeated until it is answered.
    #expect(bench.sent.count <= 200)
  }

  @Test func anAnnouncementEndsARest() {
    for bytes in [Bench.pcpAnnouncement(epoch: 0), Bench.natPMPAddress(epoch: 0)] {
      var bench = Bench(usesUPnP: false)
      bench.pass(.seconds(30))
      bench.clear()
      bench.announce(bytes)
      bench.pass(.seconds(5))
      #expect(bench.pcpSent.count >= 1)
      bench.hear(Bench.pcp())
      #expect(bench.mapper.current != nil)
    }
  }

  @Test func aChangeOfTheNetworkAsksAgain() {
    var bench = Bench()
    bench.hear(Bench.pcp())
    bench.clear()
    bench.mapper.refresh(now: bench.now)
    bench.pass(.zero)
    #expect(bench.pcpSent.count == 1)
    bench.hear(Bench.pcp())
    // The second one within the hold waits for its end.
    bench.clear()
    bench.pass(.seconds(4))
    bench.mapper.refresh(now: bench.now)
    bench.pass(.seconds(5))
    #expect(bench.sent.isEmpty)
    bench.pass(.seconds(2))
    #expect(bench.pcpSent.count == 1)
    #expect(bench.mapper.heldBack == 1)
  }

  @Test func aServerMayTellOfAChange() {
    var bench = Bench()
    bench.hear(Bench.pcp())
    bench.clear()
    bench.hear(Bench.pcp())
    #expect(bench.mapper.drops.unexpected == 1)
    bench.pass(.seconds(10))
    #expect(bench.sent.isEmpty)
    bench.hear(Bench.pcp(external: Endpoint(Bench.outside, 4444)))
    bench.pass(.seconds(5))
    bench.hear(Bench.pcp(external: Endpoint(Bench.outside, 4444)))
    #expect(bench.mapper.current?.external.port == 4444)
  }

  @Test func natPMPTellsANewAddressAtARenewal() {
    var bench = Bench()
    bench.hear(Bench.refusedVersion)
    bench.hear(Bench.natPMPAddress())
    bench.hear(Bench.natPMPMap(lifetime: 1000))
    bench.clear()
    bench.pass(.seconds(630))
    #expect(bench.sent.map(\.bytes.count) == [2, 12])
    let other = IPAddress(203, 0, 113, 77)
    bench.hear(Bench.natPMPMap(lifetime: 1000, epoch: 730))
    bench.hear(Bench.natPMPAddress(other, epoch: 730))
    #expect(
      bench.mapper.current == Bench.port(.natPMP, seconds: 1000, external: Endpoint(other, 4000)))
    // Told once is told: the same again changes nothing.
    bench.clear()
    bench.hear(Bench.natPMPAddress(Bench.outside, epoch: 730))
    #expect(bench.events.isEmpty)
    #expect(bench.mapper.drops.unexpected == 1)
  }

  @Test func upnpIsRenewedAndItsFailureIsOutlived() {
    var bench = Bench()
    bench.mapper.unreachable(now: bench.now)
    bench.mapper.upnpMapped(Endpoint(Bench.outside, 4000), lifetime: 1000, now: bench.now)
    bench.drain()
    #expect(bench.events.last == .mapped(Bench.port(.upnp, seconds: 1000)))
    bench.clear()
    bench.pass(.seconds(630))
    let order = PortMapperEvent.upnp(.map(suggestedPort: 4000, lifetime: 7200))
    #expect(bench.events == [order])
    bench.mapper.upnpFailed(.upnp(words: "busy"), now: bench.now)
    bench.pass(.seconds(190))
    #expect(bench.events == [order, order])
    bench.mapper.upnpMapped(Endpoint(Bench.outside, 4000), lifetime: 1000, now: bench.now)
    bench.drain()
    #expect(bench.events.last == .mapped(Bench.port(.upnp, seconds: 1000)))
  }

  @Test func aPermanentUPnPMappingIsLookedAfterAllTheSame() {
    var bench = Bench()
    bench.mapper.unreachable(now: bench.now)
    bench.mapper.upnpMapped(Endpoint(Bench.outside, 4000), lifetime: 0, now: bench.now)
    bench.drain()
    bench.clear()
    bench.pass(.minutes(76))
    #expect(bench.events == [.upnp(.map(suggestedPort: 4000, lifetime: 7200))])
  }

  @Test func oneOrderIsOpenAtATime() {
    var bench = Bench()
    bench.pass(.hours(5))
    let orders = bench.events.filter { if case .upnp = $0 { true } else { false } }
    #expect(orders.count == 1)
    // The driver's late answer is taken, or frees the next order.
    bench.mapper.upnpFailed(.upnp(words: "late"), now: bench.now)
    bench.pass(.hours(2))
    #expect(bench.events.filter { if case .upnp = $0 { true } else { false } }.count == 2)
  }

  @Test func aMappingOfSecondsIsNotChasedForEver() {
    var bench = Bench()
    for _ in 0..<3600 {
      if bench.sent.last?.at == bench.now - bench.began { bench.hear(Bench.pcp(lifetime: 1)) }
      bench.pass(.seconds(1))
    }
    #expect(bench.sent.count < 100)
    #expect(bench.events.count < 200)
  }

  @Test func stopRemovesWhatWasMade() {
    var pcp = Bench()
    pcp.hear(Bench.pcp())
    pcp.clear()
    pcp.mapper.stop(now: pcp.now)
    pcp.drain()
    #expect(pcp.sent.count == PortMapperLimits.removalCopies)
    for (_, bytes) in pcp.sent {
      #expect(bytes[4..<8].elementsEqual([0, 0, 0, 0]))
      #expect(bytes[24..<36].elementsEqual(Bench.nonce))
      #expect(
        bytes[42..<60].elementsEqual(Array(repeating: 0, count: 12) + [0xff, 0xff, 0, 0, 0, 0]))
    }
    #expect(pcp.mapper.nextDeadline == .distantFuture)
    pcp.hear(Bench.pcp())
    #expect(pcp.events.isEmpty && pcp.mapper.current == nil)

    var natPMP = Bench()
    natPMP.hear(Bench.refusedVersion)
    natPMP.hear(Bench.natPMPAddress())
    natPMP.hear(Bench.natPMPMap())
    natPMP.clear()
    natPMP.mapper.stop(now: natPMP.now)
    natPMP.drain()
    #expect(natPMP.sent.first?.bytes == [0, 1, 0, 0, 0x6a, 0x36, 0, 0, 0, 0, 0, 0])

    var upnp = Bench()
    upnp.mapper.unreachable(now: upnp.now)
    upnp.mapper.upnpMapped(Endpoint(Bench.outside, 4000), lifetime: 1000, now: upnp.now)
    upnp.drain()
    upnp.clear()
    upnp.mapper.stop(now: upnp.now)
    upnp.drain()
    #expect(upnp.events == [.upnp(.remove(externalPort: 4000))])
    #expect(upnp.sent.isEmpty)
  }

  @Test func aQuestionWithoutAnswerIsTakenBackAtStop() {
    // The grant may be on its way, or lost.
    var bench = Bench()
    bench.clear()
    bench.mapper.stop(now: bench.now)
    bench.drain()
    #expect(bench.sent.count == PortMapperLimits.removalCopies)
    var resting = Bench(usesUPnP: false)
    resting.pass(.seconds(30))
    resting.clear()
    resting.mapper.stop(now: resting.now)
    resting.drain()
    #expect(resting.sent.isEmpty)
  }

  @Test func overIPv6OnlyPCPIsAsked() {
    let gateway = IPAddress(high: 0xfe80_0000_0000_0000, low: 1)
    let client = IPAddress(high: 0x2001_0db8_0000_0000, low: 7)
    var mapper = PortMapper(
      PortMapperSettings(
        gateway: gateway, client: client, internalPort: 27190, nonce: Bench.nonce, usesUPnP: true),
      random: SeededRandom(testSeed: 1))
    var now = Instant(nanoseconds: 0)
    mapper.start(now: now)
    #expect(mapper.pollTransmit()?.count == 60)
    mapper.receive(
      Bench.pcp(external: Endpoint(client, 27190)).span.bytes,
      from: Endpoint(gateway, 5351), now: now)
    #expect(mapper.current?.external == Endpoint(client, 27190))
    #expect(mapper.current?.isBehindAnotherNAT == false)

    var silent = PortMapper(mapper.settings, random: SeededRandom(testSeed: 1))
    silent.start(now: now)
    while silent.nextDeadline < Instant(nanoseconds: 60_000_000_000) {
      now = silent.nextDeadline
      silent.advance(to: now)
      while let bytes = silent.pollTransmit() { #expect(bytes.count == 60) }
    }
    #expect(
      silent.pollEvent()
        == .unavailable(
          [PortMappingAttempt(protocol: .pcp, failure: .silent)], rest: .minutes(2)))
  }

  /// Random bytes, real answers, time and commands in any order: the machine
  /// stays within its bounds and its clock goes on.
  @Test func anythingInAnyOrder() {
    for seed in UInt64(1)...400 {
      var bench = Bench(seed: seed, usesUPnP: seed % 3 != 0)
      var random = SeededRandom(testSeed: seed &* 77)
      for _ in 0..<300 {
        switch Int.random(in: 0..<10, using: &random) {
        case 0: bench.hear(random.bytes(Int.random(in: 0...70, using: &random)))
        case 1:
          bench.hear(
            Bench.pcp(
              result: UInt8.random(in: 0...3, using: &random),
              lifetime: UInt32.random(in: 0...200, using: &random),
              epoch: UInt32.random(in: 0...9, using: &random),
              external: Endpoint(
                IPAddress(v4: UInt32.random(in: 0 ... .max, using: &random)), 99)))
        case 2: bench.hear(Bench.natPMPMap(result: UInt16.random(in: 0...3, using: &random)))
        case 3: bench.hear(Bench.natPMPAddress())
        case 4: bench.hear(Bench.refusedVersion)
        case 5: bench.announce(Bench.pcpAnnouncement(epoch: 0))
        case 6: bench.mapper.refresh(now: bench.now)
        case 7: bench.mapper.unreachable(now: bench.now)
        case 8:
          if Bool.random(using: &random) {
            bench.mapper.upnpMapped(Endpoint(Bench.outside, 7), lifetime: 90, now: bench.now)
          } else {
            bench.mapper.upnpFailed(.upnp(words: ""), now: bench.now)
          }
        default: break
        }
        bench.drain()
        bench.pass(.seconds(Int64.random(in: 0...20, using: &random)))
        if let port = bench.mapper.current {
          #expect(!port.external.address.isUnspecified && port.external.port != 0, "seed \(seed)")
        }
      }
      // 50 minutes: no flood whatever is said.
      #expect(bench.sent.count < 1500, "seed \(seed)")
      bench.mapper.stop(now: bench.now)
      bench.drain()
      #expect(bench.mapper.nextDeadline == .distantFuture, "seed \(seed)")
    }
  }
}
