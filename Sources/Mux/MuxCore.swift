/// The state behind `Multiplexer`, as one struct so that a call costs one
/// exclusivity check: streams in a slab, lanes of both directions, credit of
/// the session, queues of the scheduler. Aspects are in `MuxCore+….swift`.

#if canImport(Bytes)
  import Bytes
#endif

struct MuxCore {
  let role: MuxRole
  let limits: MuxLimits
  var random: SeededRandom
  var failure: MuxFailure?
  var drops = MuxDrops()
  /// The newest instant seen.
  var clock = Instant(nanoseconds: 0)
  var epoch: UInt32 = 0

  // Streams.
  var streams: [MuxStream] = []
  var freeSlots: [Int32] = []
  var table = StreamTable()
  var openStreamCount = 0
  var peerStreamCount = 0
  /// Peer's ids that were seen; ours that the peer has confirmed.
  var seen: SeenStreams
  var confirmed: SeenStreams
  /// Index of the next id we open.
  var nextIndex: UInt32 = 0

  // Scheduler: streams with data, deficit round robin with a head start for
  // those that were idle; streams with states to send.
  var lines = StreamLines()
  /// Bytes of urgent streams since another one had a turn.
  var urgentRun = 0
  /// Of the lane that data leaves on.
  var marksInUse: LaneMarks = []
  var control = SlotList()
  var sendsDatagramNext = false

  // Session credit.
  var sessionSent: UInt64 = 0
  var sessionSendLimit = UInt64(MuxProtocol.initialSessionCredit)
  var sessionReceived: UInt64 = 0
  var sessionConsumed: UInt64 = 0
  var sessionReceiveLimit = UInt64(MuxProtocol.initialSessionCredit)
  var sessionWindow = MuxProtocol.initialSessionCredit
  var sessionLastGrant = Instant.distantPast
  var sessionCreditPending = false

  // Datagrams.
  var datagramQueue = ContiguousQueue()
  var datagramProgress = 0
  var datagramNumber: UInt32 = 0
  var datagramBytesUnread = 0
  var reassemblies: [Reassembly] = []
  var reassemblyBytes = 0

  // Lanes.
  var lanes: [SendLane] = []
  var laneIndex = [Int16](repeating: -1, count: 256)
  var nextNumbers = [UInt64](repeating: 0, count: 256)
  var primary: LaneID?
  var warmCursor: UInt64 = 0
  var receivers: [ReceiveLane] = []
  var receiverIndex = [Int16](repeating: -1, count: 256)
  var lanesOwingAck = 0

  // Scratch, kept so that the packet path does not allocate.
  var ackedFrames: [FrameRecord] = []
  var lostFrames: [FrameRecord] = []

  // Events.
  var events: [MuxEvent] = []
  var eventHead = 0

  /// Bytes of the streams' rings.
  var ringMemory = 0

  init(role: MuxRole, limits: MuxLimits, random: SeededRandom) {
    self.role = role
    self.limits = limits
    self.random = random
    if limits.firstStream == 0 {
      seen = SeenStreams(role: role.other)
      confirmed = SeenStreams(role: role)
    } else {
      let even = limits.firstStream & ~1
      seen = SeenStreams(role: role.other, startingAt: even | UInt32(role.other.rawValue))
      confirmed = SeenStreams(role: role, startingAt: even | UInt32(role.rawValue))
      nextIndex = confirmed.watermark
    }
    ackedFrames.reserveCapacity(1024)
    lostFrames.reserveCapacity(1024)
    events.reserveCapacity(64)
  }

  var memoryInUse: Int {
    var sum = ringMemory + datagramQueue.capacity + datagramBytesUnread + reassemblyBytes
    for lane in lanes.indices { sum += lanes[lane].sent.memory }
    return sum
  }

  mutating func advanceClock(_ now: Instant) { if now > clock { clock = now } }

  // MARK: Events

  mutating func tell(_ event: MuxEvent) { events.append(event) }

  mutating func pollEvent() -> MuxEvent? {
    guard eventHead < events.count else { return nil }
    let event = events[eventHead]
    eventHead += 1
    if eventHead == events.count {
      events.removeAll(keepingCapacity: true)
      eventHead = 0
    }
    return event
  }

  // MARK: Slab

  func slot(of id: StreamID) -> Int? {
    guard id.epoch == epoch else { return nil }
    return table.find(id.number)
  }

  func name(_ slot: Int) -> StreamID { StreamID(number: streams[slot].id, epoch: epoch) }

  mutating func addStream(_ id: UInt32, isOurs: Bool) -> Int {
    let slot: Int
    if let free = freeSlots.popLast() {
      slot = Int(free)
    } else {
      slot = streams.count
      streams.append(MuxStream())
    }
    streams[slot].id = id
    streams[slot].isOurs = isOurs
    if limits.mutations.contains(.ignorePeerCredit) { streams[slot].sendLimit = .max }
    table.insert(id, slot)
    openStreamCount += 1
    if !isOurs { peerStreamCount += 1 }
    return slot
  }

  /// Forgets a stream both of whose directions are over.
  mutating func closeIfOver(_ slot: Int) {
    guard streams[slot].isOver else { return }
    let wasVisible = streams[slot].isOurs || streams[slot].isAnnounced
    if wasVisible { tell(.closed(name(slot))) }
    unschedule(slot)
    unscheduleControl(slot)
    if streams[slot].isOurs {
      if confirmed.find(streams[slot].id) == .new { confirmed.insert(streams[slot].id) }
    } else {
      peerStreamCount -= 1
    }
    dropDatagrams(slot)
    ringMemory -= streams[slot].sendRing.capacity + streams[slot].receiveRing.capacity
    table.remove(streams[slot].id)
    streams[slot] = MuxStream()
    freeSlots.append(Int32(slot))
    openStreamCount -= 1
  }

  // MARK: Restart

  mutating func restart(code: UInt16, now: Instant) {
    advanceClock(now)
    for slot in streams.indices where streams[slot].id != 0 {
      let stream = streams[slot]
      guard stream.isOurs || stream.isAnnounced else { continue }
      if !stream.isDiscarding, stream.receiveSide != .reset {
        tell(.reset(name(slot), code: code, words: ""))
      }
      tell(.closed(name(slot)))
    }
    var anew = MuxCore(role: role, limits: limits, random: random)
    anew.epoch = epoch &+ 1
    anew.events = events
    anew.eventHead = eventHead
    anew.clock = clock
    anew.drops = drops
    for lane in lanes {
      anew.addLane(
        lane.id, kind: lane.kind, maximumPacket: lane.maximumPacket,
        roundTrip: lane.hasSample ? lane.smoothed : nil, marks: lane.marks, now: now)
    }
    self = anew
  }
}

/// A doubly linked list of slots; the links are in the streams.
struct SlotList {
  var head: Int32 = -1
  var tail: Int32 = -1
  var isEmpty: Bool { head < 0 }
}

/// The lists of the scheduler, by name.
struct StreamLines {
  private var lists = InlineArray<6, SlotList>(repeating: SlotList())

  subscript(queue: MuxStream.Queue) -> SlotList {
    get { lists[Int(queue.rawValue)] }
    set { lists[Int(queue.rawValue)] = newValue }
  }
}
