/// Packets out: whole frames for one leg, channels in deficit round robin,
/// CoDel at the front of each queue. The driver calls `fill` when the leg can
/// take bytes; a leg that takes none only fills its own bounded queues.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Mux)
  internal import Mux
#endif

extension ChannelRouter {
  /// The next connection that has something to send; said once, and again
  /// when something new comes after `fill` has said that nothing is left.
  package func pollReady() -> UInt32? {
    while readyPosition < readyConnections.count {
      let connection = readyConnections[readyPosition]
      readyPosition += 1
      if legOfConnection[connection] != nil { return connection }
    }
    readyConnections.removeAll(keepingCapacity: true)
    readyPosition = 0
    return nil
  }

  /// Writes whole frames for a leg until `budget` bytes are reached, `output`
  /// cannot hold the next one, or nothing may be sent now.
  /// - Parameter output: at least 65,542 bytes free, or a large packet never fits.
  /// - Returns: whether more is ready at once. If not, `pollReady` names the
  ///   leg again when there is.
  package func fill(
    connection: UInt32, into output: inout OutputRawSpan, budget: Int, now: Instant
  ) -> Bool {
    guard let leg = legOfConnection[connection] else { return false }
    let i = Int(leg)
    let capacityAtStart = output.freeCapacity
    if !writeControl(leg: i, into: &output) { return true }
    while !legs[i].ready.isEmpty {
      guard capacityAtStart - output.freeCapacity < budget else {
        measure(leg: i, bytes: capacityAtStart - output.freeCapacity, now: now)
        return true
      }
      guard serve(legs[i].ready.first, leg: i, into: &output, now: now) else {
        measure(leg: i, bytes: capacityAtStart - output.freeCapacity, now: now)
        return true
      }
    }
    legs[i].isSignalled = false
    measure(leg: i, bytes: capacityAtStart - output.freeCapacity, now: now)
    return false
  }

  /// Whether `fill` would write something now.
  package func hasPending(connection: UInt32) -> Bool {
    guard let leg = legOfConnection[connection] else { return false }
    let state = legs[Int(leg)]
    return !state.ready.isEmpty || state.controlSent < state.control.count || state.pong != nil
  }

  /// One turn of the flow at the front of the leg's list.
  /// - Returns: false when `output` cannot hold its next packet.
  private func serve(
    _ flow: Int32, leg: Int, into output: inout OutputRawSpan, now: Instant
  ) -> Bool {
    let f = Int(flow)
    let queue = flows[f].queue
    let isAlone = legs[leg].ready.first == legs[leg].ready.last
    let cost = frontCost(flow)
    if flows[f].deficit < cost {
      flows[f].deficit += isAlone ? cost - flows[f].deficit : limits.quantum
      if flows[f].deficit < cost {
        legs[leg].ready.removeFirst(in: &flows)
        legs[leg].ready.append(flow, in: &flows)
        return true
      }
    }
    guard output.freeCapacity >= cost else { return false }
    dropStale(flow, now: now)
    let target = delayTarget(flow)
    let dropped = flows[f].control.admit(
      queue, largest: flows[f].largestSeen, target: target, now: now)
    if dropped > 0 {
      flows[f].statistics.droppedDelay += UInt64(dropped)
      statistics.packetsDropped += UInt64(dropped)
    }
    guard !queue.isEmpty else {
      rest(flow, leg: leg)
      return true
    }
    let length = queue.frontCount
    // After drops the packet may be a larger one than was asked for.
    guard output.freeCapacity >= length + RelaySpecification.headSize else { return false }
    CarrierFrame(channel: flows[f].number, kind: .data, length: length).write(into: &output)
    queue.removeFront(into: &output)
    account(flow, length: length)
    guard !queue.isEmpty else {
      rest(flow, leg: leg)
      return true
    }
    if isCapped(flow), flows[f].grant < frontCost(flow) {
      legs[leg].ready.removeFirst(in: &flows)
      queueForShare(flow, now: now)
    } else if flows[f].deficit < frontCost(flow) {
      legs[leg].ready.removeFirst(in: &flows)
      legs[leg].ready.append(flow, in: &flows)
    }
    return true
  }

  /// The queue is empty: the flow leaves its list.
  private func rest(_ flow: Int32, leg: Int) {
    legs[leg].ready.removeFirst(in: &flows)
    flows[Int(flow)].stage = .idle
    // What is left of a turn is not kept; what is owed is.
    flows[Int(flow)].deficit = min(0, flows[Int(flow)].deficit)
    busyFlows -= 1
    returnGrant(flow)
  }

  private func account(_ flow: Int32, length: Int) {
    let f = Int(flow)
    let cost = length + RelaySpecification.headSize
    flows[f].deficit -= cost
    if isCapped(flow) { flows[f].grant -= cost }
    flows[f].statistics.packetsOut += 1
    flows[f].statistics.bytesOut += UInt64(length)
    meshes[Int(flows[f].mesh)].used += UInt64(cost)
    statistics.packetsRelayed += 1
    statistics.bytesRelayed += UInt64(length)
  }

  private func dropStale(_ flow: Int32, now: Instant) {
    let queue = flows[Int(flow)].queue
    // The last packet stays: it may be the only word of an interactive peer.
    while queue.count > 1, now - queue.frontStamp > limits.maximumAge {
      queue.removeFront()
      flows[Int(flow)].statistics.droppedAge += 1
      statistics.packetsDropped += 1
    }
  }

  /// 10 ms, or the time two packets of this flow take at its share of the cap:
  /// below that a queue is no sign of a fault (RFC 8289 §4.2, RFC 8290 §4.2).
  private func delayTarget(_ flow: Int32) -> TimeAmount {
    guard let rate = slowestRate(flow), rate > 0 else { return RelaySpecification.target }
    let bytes = Double(2 * (flows[Int(flow)].largestSeen + RelaySpecification.headSize))
    let turn = min(bytes * Double(max(1, busyFlows)) / rate, 1)
    return max(RelaySpecification.target, .nanoseconds(Int64(turn * 1e9)))
  }

  private func slowestRate(_ flow: Int32) -> Double? {
    let mesh = meshes[Int(flows[Int(flow)].mesh)].limiter.bytesPerSecond
    guard let all = total.bytesPerSecond else { return mesh }
    return mesh.map { min($0, all) } ?? all
  }

  /// Control frames first: they are few and a channel's end must not wait.
  /// - Returns: false when `output` is full.
  private func writeControl(leg i: Int, into output: inout OutputRawSpan) -> Bool {
    if let pong = legs[i].pong {
      guard write(pong, into: &output) else { return false }
      legs[i].pong = nil
    }
    while legs[i].controlSent < legs[i].control.count {
      guard write(legs[i].control[legs[i].controlSent], into: &output) else { return false }
      legs[i].controlSent += 1
    }
    if legs[i].controlSent > 0 {
      legs[i].control.removeAll(keepingCapacity: true)
      legs[i].controlSent = 0
    }
    return true
  }

  private func write(_ frame: RelayControlFrame, into output: inout OutputRawSpan) -> Bool {
    guard output.freeCapacity >= RelaySpecification.headSize + frame.data.count else {
      return false
    }
    output.writeUInt32(frame.number)
    output.writeUInt8(frame.kind)
    output.writeUInt16(UInt16(frame.data.count))
    output.write(frame.data.span.bytes)
    return true
  }

  // MARK: The kernel's queue

  private func measure(leg i: Int, bytes: Int, now: Instant) {
    legs[i].windowBytes += bytes
    let elapsed = now - legs[i].windowStart
    guard elapsed >= .milliseconds(250) else { return }
    if elapsed < .seconds(5) {
      let rate = Double(legs[i].windowBytes) / elapsed.inSeconds
      legs[i].bytesPerSecond += (rate - legs[i].bytesPerSecond) / 2
    }
    legs[i].windowStart = now
    legs[i].windowBytes = 0
  }

  /// What TCP_NOTSENT_LOWAT of a TCP leg should be, bytes: 5 ms of its rate,
  /// 4 KB to 64 KB, so that the kernel hides no queue.
  package func notSentLimit(connection: UInt32) -> Int {
    guard let leg = legOfConnection[connection] else { return 65_536 }
    let rate = legs[Int(leg)].bytesPerSecond
    guard rate > 0 else { return 65_536 }
    return min(65_536, max(4_096, Int(rate * 0.005)))
  }
}
