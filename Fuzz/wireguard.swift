// sources: Bytes Crypto WireGuard
/// A script of packets, mutations, seals and time steps against two keepers
/// with a session: nothing may trap, and no counter may open twice.

#if canImport(Bytes)
  import Bytes
  import Crypto
  import WireGuard
#endif

private struct FuzzWorld {
  let near: SessionKeeper
  let far: SessionKeeper
  let nearPeer: PeerHandle
  let farPeer: PeerHandle
  var now = Instant(nanoseconds: 1_000_000_000)
  let carrier = Carrier.udp(socket: 1, remote: Endpoint(.loopbackV4, 9))
  var opened: Set<[UInt64]> = []

  static let keys: [KeyPair] = {
    var random = SeededRandom(testSeed: 1)
    return (0..<2).map { _ in X25519.generate(using: &random) }
  }()

  init?() {
    near = SessionKeeper(localKeys: [Self.keys[0]], random: SeededRandom(testSeed: 2))
    far = SessionKeeper(localKeys: [Self.keys[1]], random: SeededRandom(testSeed: 3))
    guard
      let first = try? near.addPeer(publicKey: Self.keys[1].publicKey, kind: .agent, now: now),
      let second = try? far.addPeer(publicKey: Self.keys[0].publicKey, kind: .agent, now: now)
    else { return nil }
    nearPeer = first
    farPeer = second
    near.initiate(nearPeer, now: now)
    pass(from: near, to: far)
    pass(from: far, to: near)
    precondition(near.canSeal(nearPeer, now: now))
  }

  func pass(from: SessionKeeper, to: SessionKeeper) {
    while let transmit = from.pollTransmit(now: now, wallClock: UInt64(now.nanoseconds)) {
      _ = give(transmit.bytes, to: to)
    }
    while from.pollEvent() != nil {}
  }

  func give(_ packet: [UInt8], to keeper: SessionKeeper) -> Receipt {
    var bytes = packet
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    return keeper.receive(&raw, from: carrier, now: now)
  }

  mutating func judge(_ receipt: Receipt) {
    let mark: [UInt64]
    switch receipt {
    case .data(_, let id, let payload, let counter, _):
      precondition(payload.lowerBound == 16 && payload.count % 16 <= 15)
      mark = [id.rawValue, counter]
    case .keepalive(_, let id, let counter): mark = [id.rawValue, counter]
    case .dropped, .handshake, .unknownInitiator: return
    }
    precondition(opened.insert(mark).inserted, "opened twice")
  }

  func sealed(_ payload: [UInt8]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: payload.count + 64)
    let count = bytes.withUnsafeMutableBytes { buffer in
      var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
      _ = near.seal(nearPeer, into: &output, now: now) { $0.write(payload.span.bytes) }
      return output.finalize(for: buffer)
    }
    return Array(bytes[..<count])
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  guard var world = FuzzWorld() else { return 0 }
  var input = Array(UnsafeBufferPointer(start: data, count: min(size, 4096)))[...]
  var last: [UInt8] = []
  while let action = input.popFirst(), let length = input.popFirst() {
    var chunk = Array(input.prefix(Int(length)))
    input = input.dropFirst(Int(length))
    switch action % 8 {
    case 0: world.judge(world.give(chunk, to: world.far))
    case 1:
      last = world.sealed(chunk)
      if action & 0x80 == 0 { world.judge(world.give(last, to: world.far)) }
    case 2: world.judge(world.give(last, to: world.far))
    case 3:
      for (i, byte) in chunk.enumerated() where i < last.count { last[i] ^= byte }
      world.judge(world.give(last, to: world.far))
    case 4:
      // A handshake message with a mac1 as anybody can make it.
      chunk += [UInt8](repeating: 0, count: 148)
      var body = Array(chunk[..<(action & 8 == 0 ? 116 : 60)])
      body[0...3] = [action & 8 == 0 ? 1 : 2, 0, 0, 0]
      body += BLAKE2s.mac(key: MessageMacs.mac1Key(FuzzWorld.keys[1].publicKey), body)
      world.judge(world.give(body + [UInt8](repeating: 0, count: 16), to: world.far))
    case 5:
      world.now += .milliseconds(Int64(length) * Int64(length))
      world.near.advance(to: world.now)
      world.far.advance(to: world.now)
    case 6:
      if action & 8 == 0 {
        world.far.initiate(world.farPeer, now: world.now)
      } else {
        world.near.initiate(world.nearPeer, now: world.now)
      }
      world.pass(from: world.far, to: world.near)
      world.pass(from: world.near, to: world.far)
      world.pass(from: world.far, to: world.near)
    default: world.far.widenWindow(world.farPeer)
    }
    while world.far.pollTransmit(now: world.now, wallClock: 1) != nil {}
    while world.far.pollEvent() != nil {}
  }
  return 0
}
