/// What `why` says of a tier where silence has a reason that is known: private
/// addresses of another home, which happens to have our range. It decides nothing.

#if canImport(Bytes)
  package import Bytes
#endif

extension PeerPaths {
  /// `whyNotBetter`, with a tier whose candidates are all addresses of another
  /// private network told apart from one that does not answer.
  package func whyNotBetterExplained(now: Instant) -> [(tier: Tier, reason: PathReason)] {
    whyNotBetter(now: now).map { line in
      guard line.reason == .noAnswer || line.reason == .notProbedYet else { return line }
      let of = records.indices.filter { records[$0].tier == line.tier }
      return (line.tier, of.allSatisfy(isElsewhere) ? .privateElsewhere : line.reason)
    }
  }

  /// A private address of a peer that the server sees at another public address
  /// than us: it is within our own range by chance, and means a host of ours, or
  /// nobody. It is asked all the same: a tunnel between the two networks may exist.
  func isElsewhere(_ i: Int) -> Bool {
    let record = records[i]
    guard record.isDatagram, record.source == .signalled, !record.wasProven,
      record.kind == .host, record.carrier.remote.address.isPrivate,
      let us = context.serverSeesUs, let peer = context.serverSeesPeer
    else { return false }
    return us != peer && us.isV4 == peer.isV4 && !us.isPrivate && !peer.isPrivate
      && !us.isLoopback && !peer.isLoopback
  }
}
