/// One connection through the mesh as its two applications see it. Each side
/// follows a script drawn from the seed; each byte is a function of the
/// conversation, the direction and its position, so a byte that is lost,
/// repeated, or strays from another stream or process is seen at once.

#if canImport(Bytes)
  package import Bytes
  package import NodeCore
  internal import Tunnels
#endif

/// What one side does.
package struct ApplicationScript: Sendable {
  package enum Begin: Sendable {
    case atOnce
    /// After so many bytes of the other side.
    case afterBytes(UInt64)
    case afterEnd
  }
  package var begin = Begin.atOnce
  package var bytes: UInt64 = 0
  package var chunk = 16_384
  package var pause = TimeAmount.zero
  /// Bytes a second read; 0 = whatever there is.
  package var readRate = 0
  /// Resets the connection after so many bytes read and written.
  package var resetAfter: UInt64?

  package init() {}
}

/// What the target does when it is dialled.
package enum DialScript: Sendable {
  case accept(after: TimeAmount)
  case refuse
  case hang
}

package enum SideState: Hashable, Sendable {
  /// The far side before its target was dialled.
  case absent
  case open
  case closedInOrder
  /// This side's own script reset it.
  case resetByScript
  case ended(FlowEnd)
  /// Its process was killed.
  case killed
}

struct ApplicationSide {
  var script: ApplicationScript
  var flow: FlowID?
  var process = 0
  var state = SideState.absent
  var written: UInt64 = 0
  var read: UInt64 = 0
  var hasFinished = false
  /// The far end's end was seen after every byte.
  var hasSeenEnd = false
  var nextWrite = Instant.distantPast
  var nextRead = Instant.distantPast
  var isWaiting = false
  var isOpen: Bool { state == .open }
}

package final class Conversation {
  unowned let world: World
  package let number: Int
  package let nearNode: Int
  package let farNode: Int
  package let dial: DialScript
  var near: ApplicationSide
  var far: ApplicationSide
  package internal(set) var dials = 0
  package let startedAt: Instant
  /// When the near side got the exit's answer.
  package internal(set) var openedAt: Instant?
  package internal(set) var firstByteAt: Instant?
  package internal(set) var lastProgress: Instant
  /// The longest time between two bytes, for tests of switching.
  package internal(set) var longestStall = TimeAmount.zero

  init(
    world: World, number: Int, near: Int, far: Int, nearScript: ApplicationScript,
    farScript: ApplicationScript, dial: DialScript
  ) {
    self.world = world
    self.number = number
    nearNode = near
    farNode = far
    self.dial = dial
    self.near = ApplicationSide(script: nearScript)
    self.far = ApplicationSide(script: farScript)
    startedAt = world.now
    lastProgress = world.now
  }

  package var nearState: SideState { near.state }
  package var farState: SideState { far.state }
  package var nearRead: UInt64 { near.read }
  package var farRead: UInt64 { far.read }
  package var isOver: Bool { !near.isOpen && !far.isOpen }
  package var isInOrder: Bool {
    near.state == .closedInOrder && (far.state == .closedInOrder)
  }

  /// The host an open asks for; unique, so that dials can be counted.
  var host: String { "c\(number).test" }
  static let port: UInt16 = 80

  static func number(ofHost host: String) -> Int? {
    guard host.hasPrefix("c"), host.hasSuffix(".test") else { return nil }
    return Int(host.dropFirst().dropLast(5))
  }

  // MARK: Bytes

  private func key(towardsFar: Bool) -> UInt64 {
    (UInt64(number) &* 2 &+ (towardsFar ? 1 : 0)) &* 0xd134_2543_de82_ef95 ^ world.seed
  }

  @inline(__always)
  private static func word(_ key: UInt64, _ index: UInt64) -> UInt64 {
    var z = key &+ index &* 0x9e37_79b9_7f4a_7c15
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  @inline(__always)
  private static func byte(_ key: UInt64, _ position: UInt64) -> UInt8 {
    UInt8(truncatingIfNeeded: word(key, position / 8) >> (8 * (position % 8)))
  }

  private static func write(
    _ key: UInt64, _ position: UInt64, _ count: Int, into output: inout OutputRawSpan
  ) {
    var position = position
    let end = position + UInt64(count)
    while position < end, position % 8 != 0 {
      output.append(byte(key, position), as: UInt8.self)
      position += 1
    }
    while end - position >= 8 {
      output.append(word(key, position / 8).littleEndian, as: UInt64.self)
      position += 8
    }
    while position < end {
      output.append(byte(key, position), as: UInt8.self)
      position += 1
    }
  }

  /// - Returns: the first position that differs.
  private static func firstDifference(_ key: UInt64, _ position: UInt64, _ bytes: RawSpan) -> Int? {
    var i = 0
    while i < bytes.byteCount {
      let at = position + UInt64(i)
      if at % 8 == 0, bytes.byteCount - i >= 8 {
        let found = UInt64(
          littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: i, as: UInt64.self))
        if found == word(key, at / 8) {
          i += 8
          continue
        }
      }
      if bytes.unsafeLoadUnaligned(fromByteOffset: i, as: UInt8.self) != byte(key, at) { return i }
      i += 1
    }
    return nil
  }

  // MARK: Work

  /// Reads and writes what can be read and written now.
  func pump(isNear: Bool) {
    var side = isNear ? near : far
    let other = isNear ? far : near
    guard side.isOpen, let flow = side.flow,
      let node = world.nodes[isNear ? nearNode : farNode].node
    else { return }
    var wake = Instant.distantFuture
    read(&side, other: other, flow: flow, node: node, isNear: isNear, wake: &wake)
    write(&side, flow: flow, node: node, isNear: isNear, wake: &wake)
    if let limit = side.script.resetAfter, side.read + side.written >= limit {
      side.state = .resetByScript
      node.flowReset(flow, words: "as the script says")
    }
    if wake < .distantFuture, !side.isWaiting, side.isOpen {
      side.isWaiting = true
      world.schedule(.application(number, isNear: isNear), at: wake)
    }
    if isNear { near = side } else { far = side }
  }

  func wake(isNear: Bool) {
    if isNear { near.isWaiting = false } else { far.isWaiting = false }
    let host = world.nodes[isNear ? nearNode : farNode]
    guard (isNear ? near : far).process == host.process else { return }
    guard !host.isSuspended else {
      if isNear { near.isWaiting = true } else { far.isWaiting = true }
      world.schedule(.application(number, isNear: isNear), after: .milliseconds(500))
      return
    }
    pump(isNear: isNear)
    host.drain()
  }

  private func read(
    _ side: inout ApplicationSide, other: ApplicationSide, flow: FlowID, node: Node, isNear: Bool,
    wake: inout Instant
  ) {
    let key = key(towardsFar: !isNear)
    while true {
      if side.script.readRate > 0, world.now < side.nextRead {
        if node.flowReadableCount(flow) > 0 { wake = min(wake, side.nextRead) }
        break
      }
      var difference: Int?
      let position = side.read
      let limit = side.script.readRate > 0 ? max(64, side.script.readRate / 20) : Int.max
      let taken = node.withFlowReadable(flow) { bytes in
        let count = min(bytes.byteCount, limit)
        difference = Self.firstDifference(key, position, bytes.extracting(0..<count))
        return count
      }
      guard taken > 0 else { break }
      if let difference {
        world.violation(
          "conversation \(number) \(isNear ? "near" : "far"): byte \(position + UInt64(difference)) is not what was written"
        )
      }
      side.read += UInt64(taken)
      world.statistics.streamBytes += UInt64(taken)
      if firstByteAt == nil { firstByteAt = world.now }
      longestStall = max(longestStall, world.now - lastProgress)
      lastProgress = world.now
      if side.read > other.written {
        world.violation(
          "conversation \(number) \(isNear ? "near" : "far"): read \(side.read) of \(other.written) bytes"
        )
      }
      if side.script.readRate > 0 {
        side.nextRead =
          world.now + .nanoseconds(Int64(Double(taken) / Double(side.script.readRate) * 1e9))
      }
    }
    if !side.hasSeenEnd, node.flowIsFinished(flow) {
      side.hasSeenEnd = true
      if !other.hasFinished || side.read != other.written {
        world.violation(
          "conversation \(number) \(isNear ? "near" : "far"): end after \(side.read) bytes, \(other.written) were written, \(other.hasFinished ? "finished" : "not finished")"
        )
      }
    }
  }

  private func write(
    _ side: inout ApplicationSide, flow: FlowID, node: Node, isNear: Bool, wake: inout Instant
  ) {
    guard !side.hasFinished else { return }
    switch side.script.begin {
    case .atOnce: break
    case .afterBytes(let count): guard side.read >= count || side.hasSeenEnd else { return }
    case .afterEnd: guard side.hasSeenEnd else { return }
    }
    let key = key(towardsFar: isNear)
    while side.written < side.script.bytes {
      if side.script.pause > .zero, world.now < side.nextWrite {
        wake = min(wake, side.nextWrite)
        return
      }
      let wanted = Int(min(side.script.bytes - side.written, UInt64(side.script.chunk)))
      let room = min(wanted, node.flowWriteCapacity(flow))
      guard room > 0 else { return }
      let position = side.written
      let count = node.withFlowWritable(flow, limit: room) {
        Self.write(key, position, min(room, $0.freeCapacity), into: &$0)
      }
      guard count > 0 else { return }
      side.written += UInt64(count)
      if side.script.pause > .zero { side.nextWrite = world.now + side.script.pause }
    }
    side.hasFinished = true
    node.flowFinish(flow)
  }

  // MARK: What the nodes tell

  func opened() {
    if openedAt == nil { openedAt = world.now }
  }

  func closed(isNear: Bool) {
    let side = isNear ? near : far
    let other = isNear ? far : near
    // The end and the close may come together; then the close tells both.
    if !side.hasFinished || !other.hasFinished || side.read != other.written {
      world.violation(
        "conversation \(number) \(isNear ? "near" : "far"): closed in order with \(near.written)→\(far.read), \(far.written)→\(near.read) bytes, finished \(near.hasFinished), \(far.hasFinished)"
      )
    }
    if isNear { near.state = .closedInOrder } else { far.state = .closedInOrder }
    if other.state == .closedInOrder {
      if side.read != other.written || other.read != side.written {
        world.violation(
          "conversation \(number): closed in order with \(near.written)→\(far.read), \(far.written)→\(near.read) bytes"
        )
      }
      world.statistics.finishedInOrder += 1
    }
  }

  func ended(isNear: Bool, _ end: FlowEnd) {
    world.note("conversation \(number) \(isNear ? "near" : "far") ended: \(end.words)")
    if isNear { near.state = .ended(end) } else { far.state = .ended(end) }
    if case .refused = end, isNear, case .refuse = dial {
      if far.read > 0 { world.violation("conversation \(number): refused, yet bytes arrived") }
    }
  }

  func killed(isNear: Bool) {
    if isNear { near.state = .killed } else { far.state = .killed }
  }

  var summary: String {
    "\(number) \(nearNode)→\(farNode): near \(near.state) w\(near.written) r\(near.read)/\(far.script.bytes), far \(far.state) w\(far.written) r\(far.read)/\(near.script.bytes), dials \(dials)"
  }
}

extension World {
  package var isAllOver: Bool { conversations.allSatisfy(\.isOver) }
  package var isAllInOrder: Bool { conversations.allSatisfy(\.isInOrder) }
}
