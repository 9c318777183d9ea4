/// How channels get their numbers, end, and give their memory back.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Mux)
  internal import Mux
#endif

extension ChannelRouter {
  /// How often idle queues and channels are looked for.
  static var sweepInterval: TimeAmount { .seconds(1) }

  // A number is slot(16) | generation(15) | whether the leg is UDP, the top bit.
  // The generation keeps late packets of an ended channel out of the next one in
  // its slot. Slot 0 is not used: it is the leg's own messages'.

  func takeNumber(leg: Int32, channel: Int32) -> UInt32? {
    let i = Int(leg)
    let slot: Int
    if let free = legs[i].freeSlots.popLast() {
      slot = Int(free)
    } else {
      if legs[i].slots.isEmpty { legs[i].slots.append(-1) }
      guard legs[i].slots.count <= limits.channelsPerLeg, legs[i].slots.count <= 0xffff else {
        return nil
      }
      slot = legs[i].slots.count
      legs[i].slots.append(-1)
    }
    legs[i].slots[slot] = channel
    legs[i].generation = (legs[i].generation + 1) & 0x7fff
    return UInt32(slot) | legs[i].generation << 16 | legs[i].kind.mark
  }

  func releaseNumber(leg: Int32, number: UInt32) {
    let slot = Int(number & 0xffff)
    guard slot < legs[Int(leg)].slots.count else { return }
    legs[Int(leg)].slots[slot] = -1
    legs[Int(leg)].freeSlots.append(UInt16(slot))
  }

  /// Tells both legs: SYN with the other leg's kind and the largest packet.
  func announce(_ slot: Int32) {
    let channel = channels[Int(slot)]
    for (leg, other, number) in [
      (channel.legA, channel.legB, channel.numberA), (channel.legB, channel.legA, channel.numberB),
    ] {
      var data = [legs[Int(other)].kind.rawValue]
      data.appendUInt16(UInt16(channel.largestPacket))
      queueControl(leg: leg, number: number, kind: .open, data: data)
    }
  }

  func queueControl(leg: Int32, number: UInt32, kind: CarrierFrame.Kind, data: [UInt8]) {
    let i = Int(leg)
    guard legs[i].isOpen else { return }
    guard legs[i].control.count - legs[i].controlSent < limits.controlFrames else {
      // A leg that reads nothing while thousands of channels come and go.
      misbehaves(leg)
      return
    }
    legs[i].control.append(RelayControlFrame(number: number, kind: kind.rawValue, data: data))
    signal(leg)
  }

  /// Asks a leg whether it is still there; its PONG comes in as a frame.
  package func ping(connection: UInt32) {
    guard let leg = legOfConnection[connection] else { return }
    queueControl(
      leg: leg, number: legs[Int(leg)].kind.controlChannel, kind: .ping, data: [])
  }

  func misbehaves(_ leg: Int32) {
    guard legs[Int(leg)].violations != .max else { return }
    legs[Int(leg)].violations = .max
    events.append(.legMisbehaves(connection: legs[Int(leg)].connection))
  }

  /// Ends a channel: both queues are thrown away, memory goes back, and each
  /// leg but the one that ended it gets FIN (RST if the other sent RST).
  /// - Parameter words: the body of that RST.
  func end(_ slot: Int32, _ ending: ChannelEnding, by leg: Int32?, words: [UInt8] = []) {
    let channel = channels[Int(slot)]
    guard channel.isOpen else { return }
    channels[Int(slot)].isOpen = false
    for flow in [2 * slot, 2 * slot + 1] { flush(flow) }
    var kind = CarrierFrame.Kind.end
    if case .reset = ending { kind = .refuse }
    if channel.legA != leg {
      queueControl(leg: channel.legA, number: channel.numberA, kind: kind, data: words)
    }
    if channel.legB != leg {
      queueControl(leg: channel.legB, number: channel.numberB, kind: kind, data: words)
    }
    releaseNumber(leg: channel.legA, number: channel.numberA)
    releaseNumber(leg: channel.legB, number: channel.numberB)
    meshes[Int(channel.mesh)].channels -= 1
    openChannelCount -= 1
    freeChannels.append(slot)
    events.append(.channelEnded(ChannelID(slot: slot, serial: channel.serial), ending))
  }

  private func flush(_ flow: Int32) {
    let i = Int(flow)
    unlink(flow)
    let dropped = UInt64(flows[i].queue.count)
    flows[i].statistics.flushed += dropped
    statistics.packetsDropped += dropped
    releaseMemory(flow)
  }

  private func releaseMemory(_ flow: Int32) {
    queueMemory -= flows[Int(flow)].queue.capacity
    flows[Int(flow)].queue.removeAll()
  }

  /// The next instant at which `advance` has something to do.
  package var nextDeadline: Instant { min(grantDeadline, sweepDeadline) }

  /// Hands out what the cap allows by now, and once a second closes idle
  /// channels and takes back the memory of idle queues.
  package func advance(to now: Instant) {
    if now >= grantDeadline { share(now: now) }
    guard now >= sweepDeadline else { return }
    for slot in channels.indices where channels[slot].isOpen {
      if now - channels[slot].lastUsed >= limits.idleTime {
        end(Int32(slot), .idle, by: nil)
      } else if now - channels[slot].lastUsed >= Self.sweepInterval {
        for flow in [2 * slot, 2 * slot + 1]
        where flows[flow].queue.isEmpty && flows[flow].queue.capacity > 0 {
          releaseMemory(Int32(flow))
        }
      }
    }
    sweepDeadline = openChannelCount > 0 ? now + Self.sweepInterval : .distantFuture
  }
}
