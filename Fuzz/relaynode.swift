// sources: Bytes Crypto Mux Relay
/// A script of connections, bytes, datagrams and time against a relay that has
/// one session: nothing may trap, its two nodes keep their session unless they
/// end it, strangers get no leg, and at the end nothing is left behind.

#if canImport(Bytes)
  import Bytes
  import Crypto
  import Mux
  import Relay
#endif

private nonisolated(unsafe) var seeds = SeededRandom(testSeed: 1)
private nonisolated(unsafe) let keys = (0..<3).map { _ in X25519.generate(using: &seeds) }
private nonisolated(unsafe) let batch = TransmitBatch(capacity: 65_536)
private nonisolated(unsafe) let room = UnsafeMutableRawBufferPointer.allocate(
  byteCount: 1 << 17, alignment: 64)

private final class Script {
  let relay: RelayNode
  var now = Instant(nanoseconds: 1_000_000_000)
  var open: Set<UInt32> = []
  var nextConnection: UInt32 = 1
  var sent = 0
  var got = 0

  init() {
    var settings = RelayNodeSettings(
      key: keys[2], token: 7, isSuper: true, megabits: 10, seed: [UInt8](repeating: 4, count: 32))
    settings.limits.pending = 8
    settings.limits.pendingPerAddress = 8
    relay = RelayNode(settings)
    relay.setServerTime(unixNanoseconds: 1_700_000_000_000_000_000, now: now)
    var random = SeededRandom(testSeed: 2)
    for leg in 0..<2 {
      let invitation = RelayInvitation(
        session: 1, leg: UInt8(leg), relay: keys[2].publicKey, peer: keys[1 - leg].publicKey,
        expiry: 1_700_000_060, admission: .ownToken(7))
      guard
        var guest = RelayGuest(
          invitation, key: keys[leg], unixTime: 1_700_000_000, using: &random),
        relay.connectionOpened(nextConnection, from: Endpoint(.loopbackV4, 1), now: now)
      else { fatalError("no guest") }
      guest.connected(over: .tcp, now: now)
      while let message = guest.pollMessage() {
        relay.receive(connection: nextConnection, message.span.bytes, now: now)
      }
      open.insert(nextConnection)
      nextConnection += 1
    }
    precondition(relay.sessionCount == 1 && relay.channelCount == 1)
    drain()
    sent = 0
    got = 0
  }

  func drain() {
    while let event = relay.pollEvent() {
      if case .close(let id) = event {
        fill(id)
        relay.connectionClosed(id, now: now)
        open.remove(id)
      }
    }
    while let id = relay.pollReady() { fill(id) }
    var more = true
    while more {
      batch.removeAll()
      more = relay.pollTransmit(into: batch, now: now)
      sent += batch.byteCount
    }
  }

  func fill(_ id: UInt32) {
    var more = true
    while more {
      var output = OutputRawSpan(buffer: room, initializedCount: 0)
      more = relay.fill(connection: id, into: &output, budget: 16_384, now: now)
      let count = output.finalize(for: room)
      var reader = ByteReader(
        RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: room[..<count])))
      while !reader.isAtEnd {
        guard reader.uint32() != nil, let kind = reader.uint8(),
          CarrierFrame.Kind(rawValue: kind) != nil, let length = reader.uint16(),
          reader.skip(Int(length))
        else { fatalError("not a whole frame") }
      }
    }
  }

  func step(_ op: UInt8, _ reader: inout ByteReader) {
    let count = min(reader.remaining, Int(reader.uint8() ?? 0) * 2)
    switch op & 7 {
    case 0:
      let address = Endpoint(IPAddress(10, 0, 0, op >> 3), 1)
      if relay.connectionOpened(nextConnection, from: address, now: now) {
        open.insert(nextConnection)
      }
      nextConnection += 1
    case 1, 2:
      let bytes = reader.array(min(count, reader.remaining)) ?? []
      // Strangers' connections, and now and then one of the two.
      let id = 1 + UInt32(op >> 3) % max(1, nextConnection - 1)
      relay.receive(connection: id, bytes.span.bytes, now: now)
    case 3, 4:
      let bytes = [0x80] + (reader.array(min(count, reader.remaining)) ?? [])
      got += bytes.count
      relay.receive(
        bytes.span.bytes,
        from: .udp(socket: 1, remote: Endpoint(IPAddress(10, 1, 0, op >> 3), 9)), now: now)
    case 5:
      now = now + .milliseconds(Int64(count) * (op & 0x80 != 0 ? 100 : 1))
      relay.advance(to: now)
    case 6:
      if let id = open.filter({ $0 > 2 }).min() {
        relay.connectionClosed(id, now: now)
        open.remove(id)
      }
    default:
      break
    }
    drain()
    precondition(sent <= got, "more to strangers than came from them")
    precondition(relay.sessionCount <= 1 && relay.connectionCount <= 2 + 8)
    precondition(relay.rememberedCount <= 2)
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = [UInt8](UnsafeBufferPointer(start: data, count: size))
  var reader = ByteReader(bytes.span.bytes)
  let script = Script()
  while let op = reader.uint8() { script.step(op, &reader) }
  for id in script.open { script.relay.connectionClosed(id, now: script.now) }
  script.now = script.now + .minutes(30)
  for _ in 0..<4 {
    script.relay.advance(to: script.now)
    script.now = script.now + .minutes(5)
  }
  precondition(script.relay.sessionCount == 0 && script.relay.connectionCount == 0)
  precondition(script.relay.queueMemory == 0)
  return 0
}
