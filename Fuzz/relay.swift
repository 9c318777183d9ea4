// sources: Bytes Crypto Mux Relay
/// A script of frames, fills, closes and time steps against one router with a
/// cap: nothing may trap, memory stays bounded, what leaves is whole frames,
/// and at the end no byte of memory is left behind.

#if canImport(Bytes)
  import Bytes
  import Mux
  import Relay
#endif

private final class RelayScript {
  let router: ChannelRouter
  var now = Instant(nanoseconds: 1_000_000_000)
  var ids: [ChannelID] = []
  let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 64)

  init(capped: Bool) {
    var limits = RelayLimits()
    limits.queueBytes = 8_192
    limits.totalQueueBytes = 64 << 10
    limits.channelsPerLeg = 8
    limits.controlFrames = 64
    router = ChannelRouter(limits: limits, capMegabits: capped ? 1 : nil)
    for connection: UInt32 in 1...3 {
      _ = router.addLeg(connection: connection, kind: .tcp, largestPacket: 65_535, now: now)
    }
    // Numbers 0x0001_0001 … on every leg: the fuzzer finds them quickly.
    open(1, 2)
    open(2, 3)
    open(3, 3)
  }
  deinit { room.deallocate() }

  func open(_ a: UInt32, _ b: UInt32) {
    if let opened = try? router.open(mesh: a, connectionA: a, connectionB: b, now: now) {
      ids.append(opened.id)
    }
  }

  func drain(_ connection: UInt32, room limit: Int, budget: Int) {
    let part = UnsafeMutableRawBufferPointer(rebasing: room[..<limit])
    var output = OutputRawSpan(buffer: part, initializedCount: 0)
    _ = router.fill(connection: connection, into: &output, budget: budget, now: now)
    let count = output.finalize(for: part)
    var reader = ByteReader(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: part[..<count])))
    while !reader.isAtEnd {
      guard reader.uint32() != nil, let kind = reader.uint8(),
        CarrierFrame.Kind(rawValue: kind) != nil,
        let length = reader.uint16(), reader.skip(Int(length))
      else { fatalError("not a whole frame") }
    }
  }

  func step(_ op: UInt8, _ reader: inout ByteReader) {
    switch op & 7 {
    case 0, 1, 2:
      let count = Int(reader.uint8() ?? 0) * 4
      let bytes = reader.array(min(count, reader.remaining)) ?? []
      router.receiveFrames(connection: UInt32(op >> 3 & 3), bytes.span.bytes, now: now)
    case 3:
      // A packet to a channel that is likely there.
      let number = UInt32(op >> 6) + 1 | UInt32(reader.uint8() ?? 1) << 16
      let bytes = [UInt8](repeating: 7, count: Int(reader.uint8() ?? 0) * 64)
      router.receive(
        connection: UInt32(op >> 3 & 3), channel: number, bytes.span.bytes, now: now)
    case 4:
      drain(
        UInt32(op >> 3 & 3), room: 1 + Int(reader.uint16() ?? 0), budget: Int(reader.uint16() ?? 0))
    case 5:
      now = now + .microseconds(Int64(reader.uint16() ?? 0) * (op & 0x80 != 0 ? 10_000 : 50))
      router.advance(to: now)
    case 6:
      open(UInt32(op >> 3 & 3), UInt32(op >> 5 & 3))
    default:
      if op & 8 != 0, let id = ids.popLast() {
        router.close(id, now: now)
      } else {
        while router.pollEvent() != nil {}
        while router.pollReady() != nil {}
      }
    }
    precondition(router.queueMemory <= 64 << 10)
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = [UInt8](UnsafeBufferPointer(start: data, count: size))
  var reader = ByteReader(bytes.span.bytes)
  let script = RelayScript(capped: (reader.uint8() ?? 0) & 1 == 1)
  while let op = reader.uint8() { script.step(op, &reader) }
  for connection: UInt32 in 1...3 {
    script.router.removeLeg(connection: connection, now: script.now)
  }
  precondition(script.router.queueMemory == 0 && script.router.openChannelCount == 0)
  return 0
}
