/// One relay node with guests on TCP connections and UDP addresses, under a
/// virtual clock. Streams arrive whole; datagrams may be lost.
import Bytes
import Crypto
import Mux
import Relay

/// 2023-11-14, in seconds since 1970.
let someTime: UInt64 = 1_700_000_000

func request(_ bytes: [UInt8]) -> RelayRequest? { RelayRequest(decoding: bytes.span.bytes) }
func reply(_ bytes: [UInt8]) -> RelayReply? { RelayReply(decoding: bytes.span.bytes) }

/// A node's end: its guest, where it is, and what has come.
final class TestGuest {
  let name: String
  let key: KeyPair
  var guest: RelayGuest
  var kind: LegKind
  /// TCP: its connection, while there is one.
  var connection: UInt32?
  /// UDP: where it sends from.
  var address: Endpoint
  var news: [RelayGuestNews] = []
  var packets: [[UInt8]] = []
  var bytesIn = 0
  var sentBytes = 0
  var gotBytes = 0

  init(_ name: String, key: KeyPair, guest: RelayGuest, kind: LegKind, address: Endpoint) {
    self.name = name
    self.key = key
    self.guest = guest
    self.kind = kind
    self.address = address
  }
}

final class RelayWorld {
  let relay: RelayNode
  let relayKey: KeyPair
  var random: SeededRandom
  var now = at(1_000)
  var guests: [TestGuest] = []
  var events: [RelayNodeEvent] = []
  var nextConnection: UInt32 = 1
  var nextHost: UInt8 = 1
  /// TCP connections the relay closed.
  var closed: Set<UInt32> = []
  /// What a connection got that belongs to no guest.
  var streams: [UInt32: [UInt8]] = [:]
  var datagrams: [(to: Endpoint, bytes: [UInt8])] = []
  /// Of 100 datagrams so many get lost, each way.
  var loss = 0
  let token: UInt64 = 12_345_678
  let batch = TransmitBatch()

  init(
    seed: UInt64 = 1, isSuper: Bool = false, megabits: Double? = nil,
    edit: (inout RelayNodeSettings) -> Void = { _ in }
  ) {
    random = SeededRandom(testSeed: seed)
    relayKey = X25519.generate(using: &random)
    var settings = RelayNodeSettings(
      key: relayKey, token: token, isSuper: isSuper, megabits: megabits, seed: random.bytes(32))
    edit(&settings)
    relay = RelayNode(settings)
    relay.setServerTime(unixNanoseconds: someTime * 1_000_000_000, now: now)
  }

  var unixTime: UInt64 { someTime + UInt64((now - at(1_000)).nanoseconds / 1_000_000_000) }

  func invitation(
    session: UInt64, leg: UInt8, peer: [UInt8], token: UInt64? = nil
  ) -> RelayInvitation {
    RelayInvitation(
      session: session, leg: leg, relay: relayKey.publicKey, peer: peer, expiry: unixTime + 60,
      admission: .ownToken(token ?? self.token))
  }

  /// A guest that has not asked yet.
  func guest(
    _ name: String, key: KeyPair, _ invitation: RelayInvitation, over kind: LegKind
  ) -> TestGuest {
    guard let guest = RelayGuest(invitation, key: key, unixTime: unixTime, using: &random) else {
      preconditionFailure("bad relay key")
    }
    nextHost &+= 1
    let made = TestGuest(
      name, key: key, guest: guest, kind: kind,
      address: Endpoint(IPAddress(198, 51, 100, nextHost), 5_000))
    guests.append(made)
    return made
  }

  /// Two guests of one session that have joined; an address of its own each.
  func pair(
    session: UInt64, over kinds: (LegKind, LegKind) = (.tcp, .tcp)
  ) -> (TestGuest, TestGuest) {
    let a = X25519.generate(using: &random)
    let b = X25519.generate(using: &random)
    let first = guest(
      "a\(session)", key: a, invitation(session: session, leg: 0, peer: b.publicKey), over: kinds.0)
    let second = guest(
      "b\(session)", key: b, invitation(session: session, leg: 1, peer: a.publicKey), over: kinds.1)
    connect(first)
    connect(second)
    return (first, second)
  }

  func connect(_ guest: TestGuest, over kind: LegKind? = nil) {
    if let kind { guest.kind = kind }
    if guest.kind == .tcp {
      let id = nextConnection
      nextConnection += 1
      guard relay.connectionOpened(id, from: guest.address, now: now) else { return }
      guest.connection = id
    }
    guest.guest.connected(over: guest.kind, now: now)
    pump()
  }

  /// The guest's connection breaks, as both ends notice.
  func cut(_ guest: TestGuest) {
    guest.guest.connectionLost(now: now)
    if let id = guest.connection {
      guest.connection = nil
      relay.connectionClosed(id, now: now)
    }
    pump()
  }

  func send(_ packet: [UInt8], from guest: TestGuest) {
    guard guest.guest.isOpen else { return }
    deliver(
      CarrierFrame.bytes(channel: guest.guest.channel, kind: .data, body: packet), from: guest)
  }

  /// Bytes of a guest reach the relay.
  func deliver(_ bytes: [UInt8], from guest: TestGuest) {
    switch guest.kind {
    case .tcp:
      guard let id = guest.connection else { return }
      relay.receive(connection: id, bytes.span.bytes, now: now)
    case .udp:
      if Int.random(in: 0..<100, using: &random) < loss { return }
      guest.sentBytes += bytes.count
      relay.receive(bytes.span.bytes, from: .udp(socket: 7, remote: guest.address), now: now)
    }
  }

  /// Everything that is ready moves; legs take all they get unless stalled.
  func pump(stalled: Set<String> = []) {
    for _ in 0..<100 {
      var moved = false
      for guest in guests {
        while let message = guest.guest.pollMessage() {
          deliver(message, from: guest)
          moved = true
        }
        while let news = guest.guest.pollNews() { guest.news.append(news) }
      }
      while let event = relay.pollEvent() {
        events.append(event)
        moved = true
        if case .close(let id) = event {
          take(id, stalled: [])
          closed.insert(id)
          relay.connectionClosed(id, now: now)
          for guest in guests where guest.connection == id {
            guest.connection = nil
            guest.guest.connectionLost(now: now)
          }
        }
      }
      while let id = relay.pollReady() {
        if let guest = guests.first(where: { $0.connection == id }), stalled.contains(guest.name) {
          continue
        }
        take(id, stalled: stalled)
        moved = true
      }
      if takeDatagrams() { moved = true }
      if !moved { return }
    }
    preconditionFailure("no end to it")
  }

  private func take(_ id: UInt32, stalled: Set<String>) {
    var more = true
    while more {
      let bytes = [UInt8](unsafeUninitializedCapacity: 1 << 17) { buffer, count in
        let raw = UnsafeMutableRawBufferPointer(buffer)
        var output = OutputRawSpan(buffer: raw, initializedCount: 0)
        more = relay.fill(connection: id, into: &output, budget: 32_768, now: now)
        count = output.finalize(for: raw)
      }
      if let guest = guests.first(where: { $0.connection == id }) {
        for frame in frames(bytes) { receive(frame, guest) }
      } else {
        streams[id, default: []] += bytes
      }
    }
  }

  private func takeDatagrams() -> Bool {
    var any = false
    while true {
      batch.removeAll()
      let more = relay.pollTransmit(into: batch, now: now)
      for segment in batch.segments {
        any = true
        let bytes = batch.withSegment(segment) { [UInt8]($0) }
        if Int.random(in: 0..<100, using: &random) < loss { continue }
        let owners = guests.filter { $0.kind == .udp && $0.address == segment.carrier.remote }
        if owners.isEmpty { datagrams.append((segment.carrier.remote, bytes)) }
        for guest in owners {
          guest.gotBytes += bytes.count
          for frame in frames(bytes) { receive(frame, guest) }
        }
      }
      if !more { return any }
    }
  }

  private func receive(_ frame: OutFrame, _ guest: TestGuest) {
    let isControl = frame.number & 0x7fff_ffff == 0
    switch CarrierFrame.Kind(rawValue: frame.flags) {
    case .open where isControl:
      _ = guest.guest.receive(frame.data.span.bytes, now: now)
      while let news = guest.guest.pollNews() { guest.news.append(news) }
    case .ping:
      deliver(
        CarrierFrame.bytes(channel: frame.number, kind: .pong, body: frame.data), from: guest)
    case .data:
      guest.bytesIn += frame.data.count
      if guest.packets.count < 1_000 { guest.packets.append(frame.data) }
    default: break
    }
  }

  func run(_ amount: TimeAmount, stalled: Set<String> = []) {
    let end = now + amount
    while true {
      var deadline = relay.nextDeadline
      for guest in guests { deadline = min(deadline, guest.guest.nextDeadline) }
      guard deadline <= end else { break }
      now = max(now, deadline)
      relay.advance(to: now)
      for guest in guests where guest.guest.nextDeadline <= now { guest.guest.advance(to: now) }
      pump(stalled: stalled)
    }
    now = end
    relay.advance(to: now)
    pump(stalled: stalled)
  }

  /// Sends raw bytes on a connection of nobody.
  @discardableResult
  func strangerConnects(_ bytes: [UInt8], from address: Endpoint) -> UInt32? {
    let id = nextConnection
    nextConnection += 1
    guard relay.connectionOpened(id, from: address, now: now) else { return nil }
    relay.receive(connection: id, bytes.span.bytes, now: now)
    pump()
    return id
  }

  /// The refusals among what a stranger's connection got.
  func refusals(_ id: UInt32) -> [RelayRefusal] {
    frames(streams[id] ?? []).compactMap {
      if case .refused(let notice)? = reply($0.data) {
        notice.reason
      } else {
        nil
      }
    }
  }
}

extension TestGuest {
  var isOpen: Bool { guest.isOpen }
  var refusal: RelayRefusal? {
    for case .refused(let reason) in news { return reason }
    return nil
  }
}
