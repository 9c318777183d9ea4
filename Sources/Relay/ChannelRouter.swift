/// The router of channels: DESIGN §1.3 "a relay is a router", spec/inp2p.md
/// "Relay", docs/protocol/relay.md. Connections (legs) carry channels; a
/// channel joins two legs; what comes in on one leaves on the other through a
/// bounded queue with CoDel and deficit round robin. It drops sealed packets
/// when it must, and never stops reading a connection for one channel's sake.
/// It never opens a packet, knows no key, and does not decide who may open a
/// channel (ServerCore at the server, RelayNode at every other relay, do).
///
///     receive → queue of the direction → hungry (waits for a share of the cap)
///             → ready (waits for its turn on the leg) → fill → leg
#if canImport(Bytes)
  package import Bytes
#endif

/// What a leg runs over.
package enum LegKind: UInt8, Sendable {
  case tcp = 1
  case udp = 2
}

/// The name of a channel inside one router; never used twice.
package struct ChannelID: Hashable, Sendable {
  let slot: Int32
  let serial: UInt32
}

/// The two numbers under which the legs know a channel.
package struct OpenedChannel: Sendable {
  package let id: ChannelID
  package let numberA: UInt32
  package let numberB: UInt32
  /// The smaller of what both legs carry in one packet.
  package let largestPacket: Int

  package init(id: ChannelID, numberA: UInt32, numberB: UInt32, largestPacket: Int) {
    self.id = id
    self.numberA = numberA
    self.numberB = numberB
    self.largestPacket = largestPacket
  }
}

package enum OpenChannelFailure: Error, Sendable {
  case unknownLeg
  case tooManyChannels
  case meshQuotaUsed
}

/// Why a channel ended.
package enum ChannelEnding: Sendable {
  /// A leg sent FIN.
  case finished
  /// A leg sent RST.
  case reset
  /// The connection under a leg is gone.
  case legLost
  /// Nothing came for `RelayLimits.idleTime`.
  case idle
  /// `close(_:)` was called.
  case closed
}

package enum RouterEvent: Sendable {
  case channelEnded(ChannelID, ChannelEnding)
  /// The leg sent nonsense too often: close its connection.
  case legMisbehaves(connection: UInt32)
}

/// What one direction of a channel has done.
package struct FlowStatistics: Sendable, Equatable {
  package var packetsIn: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var packetsOut: UInt64 = 0
  package var bytesOut: UInt64 = 0
  /// Dropped because the queue was at its limit.
  package var droppedFull: UInt64 = 0
  /// Dropped because all queues together were at theirs.
  package var droppedMemory: UInt64 = 0
  /// Dropped by CoDel.
  package var droppedDelay: UInt64 = 0
  /// Dropped because they waited longer than anybody waits for them.
  package var droppedAge: UInt64 = 0
  /// Dropped because the mesh has used its quota.
  package var droppedQuota: UInt64 = 0
  /// Larger than the other leg carries.
  package var droppedSize: UInt64 = 0
  /// Still queued when the channel ended.
  package var flushed: UInt64 = 0
  package var queuedBytes = 0
  package var highestQueuedBytes = 0
}

package struct ChannelStatistics: Sendable {
  package var aToB: FlowStatistics
  package var bToA: FlowStatistics
}

/// Sums over everything the router ever did, and drops that belong to no flow.
package struct RouterStatistics: Sendable, Equatable {
  package var channelsOpened: UInt64 = 0
  package var packetsRelayed: UInt64 = 0
  package var bytesRelayed: UInt64 = 0
  package var packetsDropped: UInt64 = 0
  package var unknownLeg: UInt64 = 0
  package var unknownChannel: UInt64 = 0
  package var malformed: UInt64 = 0
}

/// One direction of a channel.
struct RelayFlow {
  enum Stage {
    /// Nothing queued.
    case idle
    /// In its mesh's list, waiting for a share of the cap.
    case hungry
    /// In its leg's list, waiting for its turn.
    case ready
  }
  var queue: PacketRing
  var control = DelayControl()
  var stage = Stage.idle
  /// The leg it leaves by, and its number there.
  var leg: Int32
  var number: UInt32
  var mesh: Int32
  var next: Int32 = -1
  /// Bytes it may send in this turn; below zero it owes.
  var deficit = 0
  /// Bytes of the cap it holds; below zero it owes.
  var grant = 0
  var largestSeen = 0
  var statistics = FlowStatistics()
}

struct RelayChannel {
  var serial: UInt32 = 0
  var isOpen = false
  var mesh: Int32 = 0
  /// Legs and numbers of the A and the B side.
  var legA: Int32 = -1
  var legB: Int32 = -1
  var numberA: UInt32 = 0
  var numberB: UInt32 = 0
  var largestPacket = 0
  var lastUsed = Instant.distantPast
}

/// A list threaded through `next` of its members.
struct FlowList {
  var first: Int32 = -1
  var last: Int32 = -1
  var isEmpty: Bool { first < 0 }

  mutating func append(_ flow: Int32, in flows: inout [RelayFlow]) {
    flows[Int(flow)].next = -1
    if last >= 0 { flows[Int(last)].next = flow } else { first = flow }
    last = flow
  }

  mutating func removeFirst(in flows: inout [RelayFlow]) {
    let flow = first
    first = flows[Int(flow)].next
    if first < 0 { last = -1 }
    flows[Int(flow)].next = -1
  }
}

/// A control frame waiting to leave.
struct RelayControlFrame {
  var number: UInt32
  /// `CarrierFrame.Kind`.
  var kind: UInt8
  var data: [UInt8]
}

struct RelayLeg {
  var connection: UInt32
  var kind: LegKind
  var largestPacket: Int
  /// Low 16 bits of a number → channel slot, -1 = free.
  var slots: [Int32] = []
  var freeSlots: [UInt16] = []
  var generation: UInt32 = 0
  var ready = FlowList()
  var control: [RelayControlFrame] = []
  var controlSent = 0
  /// The newest PING not yet answered.
  var pong: RelayControlFrame?
  /// Whether the driver has been told that there is something to send.
  var isSignalled = false
  var violations = 0
  var isOpen = true
  // Bytes out over the last second or so, for `notSentLimit`.
  var windowStart = Instant.distantPast
  var windowBytes = 0
  var bytesPerSecond = 0.0
}

struct RelayMesh {
  var id: UInt32
  var limiter: RateLimiter
  var quota: UInt64?
  var used: UInt64 = 0
  var channels = 0
  var hungry = FlowList()
  var hungryCount = 0
  var isActive = false
}

/// The machine. Verbs: `addLeg`, `removeLeg`, `open`, `close`, `receive`,
/// `receiveFrames`, `pollReady`, `fill`, `nextDeadline`, `advance`, `pollEvent`.
/// One loop owns it; it never calls out, so its fields need no dynamic
/// exclusivity checks.
package final class ChannelRouter {
  package let limits: RelayLimits
  @exclusivity(unchecked) package internal(set) var statistics = RouterStatistics()
  /// Bytes of memory in all queues.
  @exclusivity(unchecked) package internal(set) var queueMemory = 0
  @exclusivity(unchecked) package internal(set) var openChannelCount = 0

  @exclusivity(unchecked) var legs: [RelayLeg] = []
  @exclusivity(unchecked) var freeLegs: [Int32] = []
  @exclusivity(unchecked) var legOfConnection: [UInt32: Int32] = [:]
  @exclusivity(unchecked) var channels: [RelayChannel] = []
  @exclusivity(unchecked) var freeChannels: [Int32] = []
  /// Flow 2c leads to the A side of channel c, flow 2c + 1 to its B side.
  @exclusivity(unchecked) var flows: [RelayFlow] = []
  @exclusivity(unchecked) var meshes: [RelayMesh] = []
  @exclusivity(unchecked) var meshOfID: [UInt32: Int32] = [:]

  /// The cap on everything relayed.
  @exclusivity(unchecked) var total: RateLimiter
  /// Meshes with hungry flows, in turn.
  @exclusivity(unchecked) var activeMeshes: [Int32] = []
  /// Whether every active mesh waits for tokens.
  @exclusivity(unchecked) var grantDeadline = Instant.distantFuture
  /// Flows that are not idle: how many share the cap.
  @exclusivity(unchecked) var busyFlows = 0

  @exclusivity(unchecked) var readyConnections: [UInt32] = []
  @exclusivity(unchecked) var readyPosition = 0
  @exclusivity(unchecked) var events: [RouterEvent] = []
  @exclusivity(unchecked) var eventPosition = 0
  @exclusivity(unchecked) var sweepDeadline = Instant.distantFuture
  @exclusivity(unchecked) var nextSerial: UInt32 = 1

  /// - Parameter capMegabits: Mbit/s relayed in all; nil = no cap.
  package init(limits: RelayLimits = RelayLimits(), capMegabits: Double? = nil) {
    self.limits = limits
    total = RateLimiter(bytesPerSecond: capMegabits.map { $0 * 125_000 })
  }

  // MARK: Legs and channels

  /// A connection may now carry channels. Its id is never reused.
  /// - Parameter generation: from where its channels are numbered: random on
  ///   UDP, so that a stranger who fakes its address must guess.
  /// - Returns: false when there are too many legs (the driver closes it).
  package func addLeg(
    connection: UInt32, kind: LegKind, largestPacket: Int, generation: UInt32 = 0, now: Instant
  ) -> Bool {
    precondition(legOfConnection[connection] == nil, "connection used twice")
    guard legOfConnection.count < limits.legs else { return false }
    var leg = RelayLeg(
      connection: connection, kind: kind,
      largestPacket: min(largestPacket, RelaySpecification.largestPacket))
    leg.generation = generation & 0x7fff
    if let slot = freeLegs.popLast() {
      legs[Int(slot)] = leg
      legOfConnection[connection] = slot
    } else {
      legOfConnection[connection] = Int32(legs.count)
      legs.append(leg)
    }
    return true
  }

  package func hasLeg(_ connection: UInt32) -> Bool { legOfConnection[connection] != nil }

  /// The connection is gone: its channels end, their other legs are told.
  package func removeLeg(connection: UInt32, now: Instant) {
    guard let leg = legOfConnection.removeValue(forKey: connection) else { return }
    legs[Int(leg)].isOpen = false
    for slot in legs[Int(leg)].slots where slot >= 0 {
      end(slot, .legLost, by: leg)
    }
    legs[Int(leg)].slots = []
    legs[Int(leg)].control = []
    legs[Int(leg)].pong = nil
    freeLegs.append(leg)
  }

  /// What a mesh may use: Mbit/s, and bytes until `resetQuotas`; nil = no limit.
  package func setMesh(_ id: UInt32, capMegabits: Double?, quotaBytes: UInt64?) {
    let slot = Int(meshSlot(id))
    meshes[slot].limiter.setRate(capMegabits.map { $0 * 125_000 })
    meshes[slot].quota = quotaBytes
  }

  /// Begins a new quota period for every mesh.
  package func resetQuotas() {
    for i in meshes.indices { meshes[i].used = 0 }
  }

  /// Bytes relayed for a mesh in this quota period.
  package func bytesUsed(mesh id: UInt32) -> UInt64 {
    meshOfID[id].map { meshes[Int($0)].used } ?? 0
  }

  /// Takes up the count of an earlier run.
  package func setBytesUsed(_ bytes: UInt64, mesh id: UInt32) {
    meshes[Int(meshSlot(id))].used = bytes
  }

  func meshSlotIfKnown(_ id: UInt32) -> Int32? { meshOfID[id] }

  func meshSlot(_ id: UInt32) -> Int32 {
    if let slot = meshOfID[id] { return slot }
    let slot = Int32(meshes.count)
    meshes.append(RelayMesh(id: id, limiter: RateLimiter(bytesPerSecond: nil)))
    meshOfID[id] = slot
    return slot
  }

  /// Joins two legs by a new channel. Both are told by a SYN frame; packets
  /// may be sent at once by whoever learns the number otherwise.
  package func open(
    mesh: UInt32, connectionA: UInt32, connectionB: UInt32, now: Instant
  ) throws(OpenChannelFailure) -> OpenedChannel {
    guard let legA = legOfConnection[connectionA], let legB = legOfConnection[connectionB] else {
      throw .unknownLeg
    }
    let mesh = meshSlot(mesh)
    if let quota = meshes[Int(mesh)].quota, meshes[Int(mesh)].used >= quota {
      throw .meshQuotaUsed
    }
    guard openChannelCount < limits.channels else { throw .tooManyChannels }
    let slot = freeChannels.last ?? Int32(channels.count)
    guard let numberA = takeNumber(leg: legA, channel: slot) else { throw .tooManyChannels }
    guard let numberB = takeNumber(leg: legB, channel: slot) else {
      releaseNumber(leg: legA, number: numberA)
      throw .tooManyChannels
    }
    if freeChannels.popLast() == nil {
      channels.append(RelayChannel())
      for _ in 0..<2 {
        flows.append(
          RelayFlow(queue: PacketRing(limit: limits.queueBytes), leg: -1, number: 0, mesh: 0))
      }
    }
    let largest = min(legs[Int(legA)].largestPacket, legs[Int(legB)].largestPacket)
    channels[Int(slot)] = RelayChannel(
      serial: nextSerial, isOpen: true, mesh: mesh, legA: legA, legB: legB, numberA: numberA,
      numberB: numberB, largestPacket: largest, lastUsed: now)
    nextSerial &+= 1
    prepare(flow: 2 * slot, leg: legA, number: numberA, mesh: mesh)
    prepare(flow: 2 * slot + 1, leg: legB, number: numberB, mesh: mesh)
    meshes[Int(mesh)].channels += 1
    openChannelCount += 1
    statistics.channelsOpened += 1
    announce(slot)
    sweepDeadline = min(sweepDeadline, now + Self.sweepInterval)
    return OpenedChannel(
      id: ChannelID(slot: slot, serial: channels[Int(slot)].serial), numberA: numberA,
      numberB: numberB, largestPacket: largest)
  }

  /// Ends a channel; both legs are told.
  package func close(_ id: ChannelID, now: Instant) {
    guard let slot = resolve(id) else { return }
    end(slot, .closed, by: nil)
  }

  package func isOpen(_ id: ChannelID) -> Bool { resolve(id) != nil }

  package func statistics(of id: ChannelID) -> ChannelStatistics? {
    guard let slot = resolve(id) else { return nil }
    return ChannelStatistics(
      aToB: snapshot(2 * slot + 1), bToA: snapshot(2 * slot))
  }

  private func snapshot(_ flow: Int32) -> FlowStatistics {
    var statistics = flows[Int(flow)].statistics
    statistics.queuedBytes = flows[Int(flow)].queue.byteCount
    return statistics
  }

  func resolve(_ id: ChannelID) -> Int32? {
    guard id.slot < channels.count else { return nil }
    let channel = channels[Int(id.slot)]
    return channel.isOpen && channel.serial == id.serial ? id.slot : nil
  }

  private func prepare(flow: Int32, leg: Int32, number: UInt32, mesh: Int32) {
    flows[Int(flow)] = RelayFlow(
      queue: flows[Int(flow)].queue, leg: leg, number: number, mesh: mesh)
  }

  package func pollEvent() -> RouterEvent? {
    guard eventPosition < events.count else {
      events.removeAll(keepingCapacity: true)
      eventPosition = 0
      return nil
    }
    eventPosition += 1
    return events[eventPosition - 1]
  }
}
