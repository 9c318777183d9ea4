/// What a relay does by itself as time goes by: turns away who does not ask,
/// asks silent legs, ends sessions that wait too long, changes its cookie key.
#if canImport(Bytes)
  package import Bytes
  internal import Mux
#endif

extension RelayNode {
  /// The next instant at which `advance` has something to do.
  package var nextDeadline: Instant {
    min(router.nextDeadline, min(sweepDeadline, repeatDeadline))
  }

  package func advance(to now: Instant) {
    router.advance(to: now)
    if now >= repeatDeadline { repeatStates(now: now) }
    if now >= sweepDeadline { sweep(now: now) }
    drainRouter(now: now)
  }

  /// There is something that time may end.
  func keepTime(_ now: Instant) {
    if cookieDeadline == .distantFuture { cookieDeadline = now + limits.cookieTime }
    if now >= cookieDeadline { rotateCookieKey(now: now) }
    if sweepDeadline == .distantFuture {
      sweepDeadline = now + limits.sweep
      loadTaken = now
      loadBytes = router.statistics.bytesRelayed
    }
  }

  private func rotateCookieKey(now: Instant) {
    // Nobody asked for longer than both keys last: neither is worth keeping.
    let isStale = now - cookieDeadline >= limits.cookieTime
    cookieKeys = [random.bytes(32), isStale ? random.bytes(32) : cookieKeys[0]]
    cookieDeadline = now + limits.cookieTime
  }

  private func sweep(now: Instant) {
    requestsOfNetwork.removeAll(keepingCapacity: true)
    if now >= cookieDeadline { rotateCookieKey(now: now) }
    measure(now: now)
    for connection in connections.values.sorted(by: { $0.id < $1.id })
    where !connection.isClosing {
      sweep(connection, now: now)
    }
    for session in sessions.values.sorted(by: { $0.number < $1.number }) {
      sweep(session, now: now)
    }
    let isBusy = !connections.isEmpty || !sessions.isEmpty
    sweepDeadline = isBusy ? now + limits.sweep : .distantFuture
    if !isBusy { usedShare = 0 }
  }

  private func sweep(_ connection: RelayConnection, now: Instant) {
    if connection.owner == nil {
      if now - connection.opened >= limits.pendingTime { close(connection, now: now) }
      return
    }
    if !connection.legs.isEmpty {
      connection.emptySince = nil
    } else if connection.emptySince == nil {
      connection.emptySince = now
    }
    if now - connection.heard >= limits.legSilence
      || now - (connection.emptySince ?? now) >= limits.otherLegTime
    {
      close(connection, now: now)
    } else if now - max(connection.heard, connection.pinged) >= limits.legPing {
      connection.pinged = now
      router.ping(connection: connection.id)
    }
    if connection.kind == .tcp { connection.decoder.releaseMemory() }
  }

  private func sweep(_ session: RelaySession, now: Instant) {
    guard session.channel == nil else { return }
    for leg in session.legs {
      // A seat that nobody took yet has waited as long as the session.
      guard let leg else { continue }
      let wait = leg.connection == nil ? limits.resumeTime : limits.otherLegTime
      let isOver =
        leg.connection == nil
        ? now - leg.lostAt >= wait : session.legs.contains { $0 == nil } && now - leg.lostAt >= wait
      if isOver {
        end(session, .otherLegMissing, now: now)
        return
      }
    }
  }

  private func measure(now: Instant) {
    let elapsed = (now - loadTaken).inSeconds
    guard elapsed > 0 else { return }
    let bytes = router.statistics.bytesRelayed
    let rate = Double(bytes - loadBytes) / elapsed
    loadBytes = bytes
    loadTaken = now
    guard let megabits = settings.megabits, megabits > 0 else {
      usedShare = 0
      return
    }
    // Smoothed, so that one second's burst sends nobody away.
    usedShare += (min(1, rate / (megabits * 125_000)) - usedShare) / 4
  }
}
