/// Packets in: from a leg into the queue of the other direction.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Mux)
  package import Mux
#endif

extension ChannelRouter {
  /// Whole frames from a leg: one binary message, or what a stream decoder
  /// found. What follows a bad head, or a cut frame, is nonsense.
  package func receiveFrames(
    connection: UInt32, _ message: RawSpan, now: Instant
  ) {
    guard let leg = legOfConnection[connection] else {
      statistics.unknownLeg += 1
      return
    }
    var offset = 0
    while offset < message.byteCount {
      let head: CarrierFrame?
      do throws(CarrierFailure) {
        head = try CarrierFrame(headOf: message.extracting(offset..<message.byteCount))
      } catch {
        head = nil
      }
      guard let head, head.length <= message.byteCount - offset - CarrierFrame.headBytes else {
        violation(leg)
        return
      }
      let start = offset + CarrierFrame.headBytes
      offset = start + head.length
      let body = message.extracting(start..<offset)
      if head.kind == .data {
        forward(leg: leg, number: head.channel, body, now: now)
      } else {
        control(leg: leg, head, body, now: now)
      }
    }
  }

  /// One sealed packet from a leg.
  package func receive(
    connection: UInt32, channel number: UInt32, _ packet: RawSpan, now: Instant
  ) {
    guard let leg = legOfConnection[connection] else {
      statistics.unknownLeg += 1
      return
    }
    forward(leg: leg, number: number, packet, now: now)
  }

  /// One frame of a leg whose driver, or machine, has cut it out already.
  package func receiveFrame(
    connection: UInt32, _ head: CarrierFrame, _ body: RawSpan, now: Instant
  ) {
    guard let leg = legOfConnection[connection] else {
      statistics.unknownLeg += 1
      return
    }
    if head.kind == .data {
      forward(leg: leg, number: head.channel, body, now: now)
    } else {
      control(leg: leg, head, body, now: now)
    }
  }

  private func violation(_ leg: Int32) {
    statistics.malformed += 1
    guard legs[Int(leg)].violations != .max else { return }
    legs[Int(leg)].violations += 1
    if legs[Int(leg)].violations > limits.violationsPerLeg { misbehaves(leg) }
  }

  private func channelSlot(leg: Int32, number: UInt32) -> Int32? {
    let slot = Int(number & 0xffff)
    guard slot < legs[Int(leg)].slots.count else { return nil }
    let channel = legs[Int(leg)].slots[slot]
    guard channel >= 0 else { return nil }
    let known = channels[Int(channel)]
    // A leg joined to itself has both numbers in one table.
    let isA = known.legA == leg && known.numberA == number
    let isB = known.legB == leg && known.numberB == number
    return isA || isB ? channel : nil
  }

  private func forward(leg: Int32, number: UInt32, _ packet: RawSpan, now: Instant) {
    guard let slot = channelSlot(leg: leg, number: number) else {
      // Ordinary after a close: packets were under way. Not a violation.
      statistics.unknownChannel += 1
      return
    }
    channels[Int(slot)].lastUsed = now
    let isFromA = channels[Int(slot)].numberA == number && channels[Int(slot)].legA == leg
    let flow = isFromA ? 2 * slot + 1 : 2 * slot
    let i = Int(flow)
    let length = packet.byteCount
    flows[i].statistics.packetsIn += 1
    flows[i].statistics.bytesIn += UInt64(length)
    guard length > 0, length <= channels[Int(slot)].largestPacket else {
      flows[i].statistics.droppedSize += 1
      statistics.packetsDropped += 1
      return
    }
    let mesh = Int(flows[i].mesh)
    if let quota = meshes[mesh].quota, meshes[mesh].used >= quota {
      flows[i].statistics.droppedQuota += 1
      statistics.packetsDropped += 1
      return
    }
    let queue = flows[i].queue
    guard let growth = queue.growth(for: length) else {
      flows[i].statistics.droppedFull += 1
      statistics.packetsDropped += 1
      return
    }
    guard queueMemory + growth <= limits.totalQueueBytes else {
      flows[i].statistics.droppedMemory += 1
      statistics.packetsDropped += 1
      return
    }
    queueMemory += growth
    queue.append(packet, stamp: now)
    if length > flows[i].largestSeen { flows[i].largestSeen = length }
    if queue.byteCount > flows[i].statistics.highestQueuedBytes {
      flows[i].statistics.highestQueuedBytes = queue.byteCount
    }
    if flows[i].stage == .idle { activate(flow, now: now) }
  }

  private func control(leg: Int32, _ head: CarrierFrame, _ body: RawSpan, now: Instant) {
    switch head.kind {
    case .ping:
      legs[Int(leg)].pong = RelayControlFrame(
        number: head.channel, kind: CarrierFrame.Kind.pong.rawValue, data: [UInt8](body))
      signal(leg)
    case .pong:
      break
    case .end, .refuse:
      guard let slot = channelSlot(leg: leg, number: head.channel) else {
        statistics.unknownChannel += 1
        return
      }
      let channel = channels[Int(slot)]
      // Joined to itself, a leg hears of the end on its other number.
      end(
        slot, head.kind == .end ? .finished : .reset,
        by: channel.legA == channel.legB ? nil : leg, words: [UInt8](body))
    case .open:
      // Channels are opened by the relay only.
      violation(leg)
    case .data:
      break
    }
  }
}
