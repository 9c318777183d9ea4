#if canImport(Bytes)
import Bytes
#endif
struct MuxCore {
  init(role: MuxRole, limits: MuxLimits, random: SeededRandom) {}
  mutating func addLane(_ id: LaneID, kind: LaneKind, maximumPacket: Int, roundTrip: TimeAmount?, now: Instant) {}
  mutating func removeLane(_ id: LaneID, now: Instant) {}
  mutating func suspectLane(_ id: LaneID, now: Instant) {}
  mutating func setMaximumPacket(_ id: LaneID, _ bytes: Int) {}
  func hasLane(_ id: LaneID) -> Bool { false }
  func laneStatistics(_ id: LaneID) -> LaneStatistics? { nil }
  func peerLaneStatistics(_ id: LaneID) -> PeerLaneStatistics? { nil }
  mutating func receive(_ packet: RawSpan, now: Instant) throws(MuxFailure) {}
  mutating func fill(lane: LaneID, into output: inout OutputRawSpan, mode: FillMode, now: Instant) -> FillResult { .nothing }
  var pendingLanes: [LaneID] { [] }
  func hasWork(now: Instant) -> Bool { false }
  var nextDeadline: Instant { .distantFuture }
  mutating func advance(to now: Instant) {}
  mutating func pollEvent() -> MuxEvent? { nil }
  mutating func restart(code: UInt16, now: Instant) {}
  mutating func resetAll(code: UInt16, words: String) {}
  var failure: MuxFailure? { nil }
  mutating func open(request: RawSpan, now: Instant) throws(OpenFailure) -> StreamID { throw .sessionClosed }
  mutating func accept(_ id: StreamID) {}
  mutating func reset(_ id: StreamID, code: UInt16, words: String, refused: Bool) {}
  mutating func write(_ id: StreamID, _ bytes: RawSpan) -> Int { 0 }
  mutating func writeCapacity(_ id: StreamID) -> Int { 0 }
  mutating func withWritable(_ id: StreamID, limit: Int, _ body: (inout OutputRawSpan) -> Void) -> Int { 0 }
  func unacknowledgedCount(_ id: StreamID) -> Int { 0 }
  mutating func finish(_ id: StreamID) {}
  mutating func withReadable(_ id: StreamID, _ body: (RawSpan) -> Int) -> Int { 0 }
  func readableCount(_ id: StreamID) -> Int { 0 }
  func isFinished(_ id: StreamID) -> Bool { false }
  func slot(of id: StreamID) -> Int? { nil }
  mutating func sendDatagram(_ id: StreamID, _ bytes: RawSpan, now: Instant) -> Bool { false }
  mutating func receiveDatagram(_ id: StreamID, _ body: (RawSpan) -> Void) -> Bool { false }
  var openStreamCount: Int { 0 }
  var memoryInUse: Int { 0 }
  var drops: MuxDrops { MuxDrops() }
}
