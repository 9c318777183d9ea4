// sources: Bytes Mux
/// A script of packets, application calls and time steps against one
/// multiplexer, and carrier bytes cut in two ways: nothing may trap, buffers
/// stay bounded, a failed session stays silent, both cuts give the same frames.

#if canImport(Bytes)
  import Bytes
  import Mux
#endif

private func frames(_ bytes: [UInt8], step: Int) -> (list: [[UInt8]], failed: Bool) {
  var decoder = CarrierDecoder()
  var list: [[UInt8]] = []
  var at = 0
  do {
    while at < bytes.count {
      let end = min(at + step, bytes.count)
      decoder.append(Array(bytes[at..<end]).span.bytes)
      at = end
      while try decoder.next({ frame, body in
        list.append(
          [UInt8(truncatingIfNeeded: frame.channel), frame.kind.rawValue] + [UInt8](body.bytes))
      }) {}
      precondition(decoder.bufferedCount <= CarrierFrame.headBytes + 65_535)
    }
  } catch {
    return (list, true)
  }
  return (list, false)
}

private struct MuxScript {
  let mux: Multiplexer
  var now = Instant(nanoseconds: 1_000_000_000)
  var numbers: [UInt64] = [0, 0, 0, 0]
  var names: [StreamID] = []
  let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 64)

  init() {
    var limits = MuxLimits()
    limits.streams = 64
    limits.memory = 4 << 20
    limits.sessionWindow = 4 << 20
    mux = Multiplexer(role: .even, limits: limits, random: SeededRandom(testSeed: 1))
    mux.addLane(0, kind: .datagram, maximumPacket: 1_200, now: now)
    mux.addLane(1, kind: .ordered, maximumPacket: 65_488, now: now)
  }

  mutating func packet(lane: UInt8, skip: UInt8, frames: [UInt8]) {
    let lane = Int(lane & 3)
    numbers[lane] += UInt64(skip & 7 == 7 ? 3 : 1)
    var bytes: [UInt8] = [1, UInt8(lane)]
    bytes.appendUInt16(0)
    bytes.appendUInt32(UInt32(truncatingIfNeeded: numbers[lane]))
    bytes += frames
    raw(bytes)
  }

  func raw(_ bytes: [UInt8]) {
    let before = mux.failure
    do {
      try mux.receive(bytes.span.bytes, now: now)
    } catch {
      precondition(before == nil && mux.failure == error)
    }
  }

  mutating func drain() {
    while let event = mux.pollEvent() {
      switch event {
      case .opened(let id, _):
        names.append(id)
        if names.count % 5 == 0 { mux.refuse(id, code: 300, words: "no") } else { mux.accept(id) }
      case .readable(let id): if id.number % 3 != 0 { while mux.withReadable(id, { $0.byteCount }) > 0 {} }
      case .datagram(let id): while mux.receiveDatagram(id, { _ in }) {}
      default: break
      }
    }
  }

  func fill(_ lane: LaneID, _ mode: FillMode) {
    for _ in 0..<50 {
      var output = OutputRawSpan(buffer: room, initializedCount: 0)
      let result = mux.fill(lane: lane, into: &output, mode: mode, now: now)
      let count = output.finalize(for: room)
      precondition((result == .wrote) == (count > 0))
      precondition(count <= (lane == 0 ? 1_200 : 65_488))
      if mux.failure != nil { precondition(count == 0) }
      guard result == .wrote else { return }
    }
  }

  mutating func step(_ action: UInt8, _ argument: UInt8, _ chunk: [UInt8]) {
    let id = names.isEmpty ? StreamID(number: 2, epoch: 0) : names[Int(argument) % names.count]
    switch action % 16 {
    case 0...5: packet(lane: action >> 4, skip: argument, frames: chunk)
    case 6: raw(chunk)
    case 7: fill(LaneID(argument & 1), .data)
    case 8: fill(LaneID(argument & 1), .probe)
    case 9:
      now += .milliseconds(Int64(argument) * 4)
      mux.advance(to: now)
      precondition(mux.failure != nil || mux.nextDeadline > now)
    case 10: if let new = try? mux.open(request: chunk.span.bytes, now: now) { names.append(new) }
    case 11: _ = mux.write(id, chunk.span.bytes)
    case 12: if argument & 1 == 0 { mux.finish(id) } else { mux.reset(id, code: 256, words: "x") }
    case 13: _ = mux.sendDatagram(id, chunk.span.bytes, now: now)
    case 14:
      mux.suspectLane(LaneID(argument & 1), now: now)
      fill(LaneID(~argument & 1), .warm)
    default:
      if argument == 0 {
        mux.restart(now: now)
        numbers = [0, 0, 0, 0]
      } else if argument == 1 {
        mux.removeLane(1, now: now)
        mux.addLane(1, kind: .ordered, maximumPacket: 65_488, now: now)
      } else {
        drain()
      }
    }
    // Rings double, so twice the credit; datagrams and records beside them.
    precondition(mux.memoryInUse < 40 << 20, "memory")
    precondition(mux.openStreamCount <= 3 * 64)
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = Array(UnsafeBufferPointer(start: data, count: min(size, 16_384)))
  guard let first = input.first else { return 0 }
  if first == 0xff {
    let bytes = Array(input.dropFirst())
    let whole = frames(bytes, step: max(bytes.count, 1))
    let cut = frames(bytes, step: 3)
    precondition(whole.list == cut.list && whole.failed == cut.failed, "cut matters")
    return 0
  }
  var script = MuxScript()
  defer { script.room.deallocate() }
  var rest = input[...]
  while rest.count >= 3 {
    let action = rest.removeFirst()
    let argument = rest.removeFirst()
    let count = Int(rest.removeFirst())
    script.step(action, argument, Array(rest.prefix(count)))
    rest = rest.dropFirst(count)
    if argument & 0x40 != 0 { script.drain() }
  }
  script.drain()
  script.fill(0, .data)
  return 0
}
