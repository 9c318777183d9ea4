/// UPnP's part of port mapping: orders of a mapper become jobs of one worker
/// thread, because miniupnpc blocks. Nobody waits for it but `finish`, after the
/// loop has ended, and that for a moment only.

internal import Bytes
internal import CommandLine
internal import NodeCore
internal import PortMapping
internal import Reactor
internal import UPnP

extension PortMappingManager {
  /// Blocks for a moment; the loop has ended.
  func finish() {
    guard let worker else { return }
    let deadline = EventLoop.clock() + PortMappingLimits.removal
    while work.withLock({ $0.open }) > 0, EventLoop.clock() < deadline {
      EventLoop.sleep(.milliseconds(5))
    }
    worker.abandon()
    self.worker = nil
  }

  func mapByUPnP(_ entry: Entry, port: UInt16, lifetime: UInt32) {
    var ports = [port]
    // Another port for TCP would be of no use.
    for _ in 0..<(entry.transport == .udp ? UPnPLimits.alternatives : 0) {
      ports.append(UInt16.random(in: 20_000...60_000, using: &agent.random))
    }
    let place = entry.place
    let request = UPnPRequest(
      gateway: place.gateway, client: place.client, prefix: place.prefix,
      transport: entry.transport.words, internalPort: agent.node.settings.port,
      externalPorts: ports, lifetime: lifetime,
      description: "martlet \(agent.options.node)")
    let known = entry.upnp?.router
    let deadline = EventLoop.clock() + PortMapperLimits.upnpPatience
    let work = work
    upnpOrders += 1
    let order = upnpOrders
    let isQueued = submit { () -> Result<UPnPMapping, UPnPFailure> in
      let isWanted = { !work.withLock { $0.isStopping } && EventLoop.clock() < deadline }
      guard isWanted() else { return .failure(.late) }
      let result = UPnPRouter.map(request, known: known, isWanted: isWanted)
      guard case .success(let mapping) = result else { return result }
      // It must not stay when nobody waits for it any more: either the loop has
      // stopped already, or `stop` finds it here when it comes before our answer.
      let isAwaited = work.withLock { work in
        if !work.isStopping { work.unheard[order] = mapping }
        return !work.isStopping
      }
      if isAwaited { return result }
      mapping.remove()
      return .failure(.late)
    } completion: { [weak self, weak entry] result in
      work.withLock { $0.unheard[order] = nil }
      self?.upnpAnswered(entry, result)
    }
    if !isQueued {
      entry.mapper.upnpFailed(.upnp(words: "the worker thread is busy"), now: loop.now)
    }
  }

  private func upnpAnswered(_ entry: Entry?, _ result: Result<UPnPMapping, UPnPFailure>) {
    guard !isStopped else { return }
    guard let entry, entries.contains(where: { $0 === entry }) else {
      if case .success(let mapping) = result {
        submit { mapping.remove() }
      }
      return
    }
    switch result {
    case .success(let mapping):
      entry.upnp = mapping
      entry.mapper.upnpMapped(mapping.external, lifetime: mapping.lifetime, now: loop.now)
    case .failure(let failure):
      entry.mapper.upnpFailed(.upnp(words: failure.words), now: loop.now)
    }
    drain(entry)
  }

  /// Gives the worker thread a job; makes the thread when it is the first.
  @discardableResult
  func submit<Value: Sendable>(
    _ job: @escaping @Sendable () -> Value,
    completion: @escaping (Value) -> Void = { (_: Value) in }
  ) -> Bool {
    if worker == nil {
      do throws(SystemError) {
        worker = try WorkerThread(name: "upnp", limit: PortMappingLimits.orders)
      } catch {
        agent.log.warn("no thread for UPnP: \(error)")
        return false
      }
    }
    let work = work
    work.withLock { $0.open += 1 }
    let isQueued =
      worker?.submit(
        for: loop,
        {
          defer { work.withLock { $0.open -= 1 } }
          return job()
        }, completion: completion) ?? false
    if !isQueued { work.withLock { $0.open -= 1 } }
    return isQueued
  }
}
