/// Where TCP from the listening port leaves the NAT.
import Bytes
import STUN
import Testing

private let start = Instant(nanoseconds: 1_000_000_000)
private let server = NATProbeServer(
  IPAddress(192, 0, 2, 1), udp1: 27_182, udp2: 27_183, tcp: [27_180, 27_181])
private let outside = Endpoint(IPAddress(203, 0, 113, 9), 41_000)

private struct Asker {
  var mapping = StreamMapping(server: server, random: SeededRandom(testSeed: 3))
  var dialled: [UInt32] = []
  var endpoints: [Endpoint] = []
  var hungUp: [UInt32] = []
  var mapped: [Endpoint] = []
  var isSilent = false
  var sent: [UInt32: [UInt8]] = [:]

  mutating func drain() {
    while let event = mapping.pollEvent() {
      switch event {
      case .dial(let connection, let endpoint):
        dialled.append(connection)
        endpoints.append(endpoint)
      case .send(let connection, let bytes): sent[connection] = bytes
      case .hangUp(let connection): hungUp.append(connection)
      case .mapped(let endpoint): mapped.append(endpoint)
      case .silent: isSilent = true
      }
    }
  }

  mutating func answer(_ connection: UInt32, _ endpoint: Endpoint, at: Instant) {
    guard let request = sent[connection], let message = STUNMessage.decode(request) else { return }
    var response = STUNMessage(.success, message.transaction)
    response.xorMappedAddress = endpoint
    mapping.received(response.encode().span.bytes, on: connection, now: at)
    drain()
  }
}

@Test func theFirstAnswerIsTheMappingAndStaysOpenForAWhile() {
  var asker = Asker()
  asker.mapping.ask(now: start)
  asker.drain()
  #expect(asker.endpoints.map(\.port) == [27_180, 27_181])
  for connection in asker.dialled { asker.mapping.connected(connection, now: start) }
  asker.drain()
  asker.answer(asker.dialled[1], outside, at: start)
  asker.answer(asker.dialled[0], Endpoint(outside.address, 41_001), at: start)
  #expect(asker.mapped == [outside])
  #expect(asker.hungUp == [])
  asker.mapping.advance(to: start + .seconds(7))
  asker.drain()
  #expect(asker.hungUp == [])
  asker.mapping.advance(to: start + .seconds(8))
  asker.drain()
  #expect(asker.hungUp == asker.dialled)
  #expect(!asker.isSilent && asker.mapping.nextDeadline == .distantFuture)
}

@Test func nobodyAnswers() {
  var asker = Asker()
  asker.mapping.ask(now: start)
  asker.drain()
  asker.mapping.failed(asker.dialled[0], now: start)
  asker.drain()
  #expect(!asker.isSilent)
  asker.mapping.advance(to: start + .seconds(2))
  asker.drain()
  #expect(asker.isSilent)
  #expect(asker.hungUp == [asker.dialled[1]])
}

@Test func askingAgainHangsUpFirst() {
  var asker = Asker()
  asker.mapping.ask(now: start)
  asker.drain()
  let old = asker.dialled
  asker.mapping.ask(now: start + .seconds(3))
  asker.drain()
  #expect(asker.hungUp == old)
  #expect(asker.dialled.count == 4)
}

@Test func anAnswerToSomebodyElseTellsNothing() {
  var asker = Asker()
  asker.mapping.ask(now: start)
  asker.drain()
  let connection = asker.dialled[0]
  asker.mapping.connected(connection, now: start)
  asker.drain()
  var random = SeededRandom(testSeed: 9)
  var response = STUNMessage(.success, STUNTransaction(&random))
  response.xorMappedAddress = outside
  asker.mapping.received(response.encode().span.bytes, on: connection, now: start)
  asker.drain()
  #expect(asker.mapped == [])
  #expect(asker.hungUp == [connection])
}
