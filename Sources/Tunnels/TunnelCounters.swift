/// What a tunnel or app has done so far, and the bounded log of what happened.
/// Instants only: ISO times are added at the edge.

#if canImport(Bytes)
  package import Bytes
#endif

/// Why a connection was not carried, or ended badly.
package enum TunnelFailure: UInt8, CaseIterable, Hashable, Sendable {
  // At the listener.
  case noExitOnline, exitUnreachable, noPermittedRoad, exitLost, callerNotAdmitted,
    tooManyConnections
  case listenFailed
  // While open.
  case peerRestarted, peerLost, targetReset, callerReset
  // Refusals of the exit.
  case malformedRequest, noSuchTunnel, notAdmitted, notAllowed, nameNotResolved
  case targetRefused, targetUnreachable, targetTimedOut, exitBusy, protocolNotActive, exitClosing
  case refusedOtherwise

  package init(_ refusal: OpenRefusal) {
    switch refusal {
    case .malformedRequest: self = .malformedRequest
    case .noSuchTunnel: self = .noSuchTunnel
    case .notAdmitted: self = .notAdmitted
    case .notAllowed: self = .notAllowed
    case .nameNotResolved: self = .nameNotResolved
    case .targetRefused: self = .targetRefused
    case .targetUnreachable: self = .targetUnreachable
    case .targetTimedOut: self = .targetTimedOut
    case .exitBusy: self = .exitBusy
    case .protocolNotActive: self = .protocolNotActive
    case .exitClosing: self = .exitClosing
    }
  }

  /// The name in JSON.
  package var code: String { "\(self)" }

  package var words: String {
    switch self {
    case .noExitOnline: "no exit is online"
    case .exitUnreachable: "no path to the exit"
    case .noPermittedRoad: "no road to the exit that the tunnel's policy lets it take"
    case .exitLost: "the exit went away while the connection was being opened"
    case .callerNotAdmitted: "the caller's address is not in the whitelist"
    case .tooManyConnections: "too many connections"
    case .listenFailed: "cannot listen"
    case .peerRestarted: "the peer restarted"
    case .peerLost: "the peer was away for too long"
    case .targetReset: "the target reset the connection"
    case .callerReset: "the caller reset the connection"
    case .malformedRequest: OpenRefusal.malformedRequest.words
    case .noSuchTunnel: OpenRefusal.noSuchTunnel.words
    case .notAdmitted: OpenRefusal.notAdmitted.words
    case .notAllowed: OpenRefusal.notAllowed.words
    case .nameNotResolved: OpenRefusal.nameNotResolved.words
    case .targetRefused: OpenRefusal.targetRefused.words
    case .targetUnreachable: OpenRefusal.targetUnreachable.words
    case .targetTimedOut: OpenRefusal.targetTimedOut.words
    case .exitBusy: OpenRefusal.exitBusy.words
    case .protocolNotActive: OpenRefusal.protocolNotActive.words
    case .exitClosing: OpenRefusal.exitClosing.words
    case .refusedOtherwise: "the exit refused"
    }
  }
}

/// Counts of one tunnel half or app. Only ever grows, but for
/// `connectionsNow`.
package struct TunnelCounters: Sendable, Hashable {
  package private(set) var connectionsNow = 0
  package private(set) var connectionsTotal: UInt64 = 0
  /// From the caller towards the target.
  package private(set) var bytesToTarget: UInt64 = 0
  package private(set) var bytesToCaller: UInt64 = 0
  private var failureCounts = [UInt64](repeating: 0, count: TunnelFailure.allCases.count)
  /// The path of the newest connection, for display ("udp direct 1.2.3.4:5").
  package var path = ""

  package init() {}

  package mutating func opened() {
    connectionsNow += 1
    connectionsTotal += 1
  }
  package mutating func closed() {
    precondition(connectionsNow > 0)
    connectionsNow -= 1
  }
  package mutating func carried(toTarget: Int, toCaller: Int) {
    bytesToTarget &+= UInt64(toTarget)
    bytesToCaller &+= UInt64(toCaller)
  }
  package mutating func failed(_ reason: TunnelFailure) {
    failureCounts[Int(reason.rawValue)] += 1
  }

  /// Reasons that have happened, commonest first.
  package var failures: [(reason: TunnelFailure, count: UInt64)] {
    TunnelFailure.allCases.map { ($0, failureCounts[Int($0.rawValue)]) }
      .filter { $0.1 > 0 }
      .sorted { $0.1 != $1.1 ? $0.1 > $1.1 : $0.0.rawValue < $1.0.rawValue }
  }
  package var failureTotal: UInt64 { failureCounts.reduce(0, &+) }
}

/// What listens: a tunnel's inbound or an app.
package enum TunnelOwner: Hashable, Sendable, CustomStringConvertible {
  case tunnel(TunnelKey)
  case app(AppKey)

  package var description: String {
    switch self {
    case .tunnel(let key): key.description
    case .app(let key): "app \(key)"
    }
  }
}

/// One line of `ztm log app tunnel`.
package struct TunnelEvent: Sendable, Hashable {
  package enum What: Sendable, Hashable {
    case listening(ListenAddress)
    case listeningStopped(ListenAddress)
    /// The system's own words.
    case listenFailed(ListenAddress, String)
    case opened(peer: String, target: String, path: String)
    case closed(
      peer: String, target: String, bytesToTarget: UInt64, bytesToCaller: UInt64, path: String)
    /// A caller that was turned away; the peer may not be known.
    case refused(peer: String, reason: TunnelFailure)
    case defined(String)
    case removed(String)
  }
  /// Counts from 1; gaps are events the ring has lost.
  package var sequence: UInt64
  package var at: Instant
  package var owner: TunnelOwner
  package var what: What

  /// The line after its time.
  package var words: String {
    switch what {
    case .listening(let address): "\(owner): listening on \(address) started"
    case .listeningStopped(let address): "\(owner): listening on \(address) stopped"
    case .listenFailed(let address, let why): "\(owner): cannot listen on \(address): \(why)"
    case .opened(let peer, let target, let path):
      "\(owner): connection opened: peer \(peer), target \(target), path \(path)"
    case .closed(let peer, let target, let toTarget, let toCaller, let path):
      "\(owner): connection closed: peer \(peer), target \(target), "
        + "\(toTarget) bytes to the target, \(toCaller) bytes to the caller, path \(path)"
    case .refused(let peer, let reason):
      "\(owner): refused\(peer.isEmpty ? "" : ": peer \(peer)"): \(reason.words)"
    case .defined(let half): "\(owner): \(half) opened"
    case .removed(let half): "\(owner): \(half) closed"
    }
  }
}

/// The newest events, bounded.
package struct TunnelEventLog: Sendable {
  package static let capacity = 1000
  private var ring: [TunnelEvent] = []
  private var start = 0
  private var next: UInt64 = 1

  package init() {}

  package mutating func record(_ owner: TunnelOwner, _ what: TunnelEvent.What, now: Instant) {
    let event = TunnelEvent(sequence: next, at: now, owner: owner, what: what)
    next += 1
    if ring.count < Self.capacity {
      ring.append(event)
    } else {
      ring[start] = event
      start = (start + 1) % Self.capacity
    }
  }

  /// Events after `sequence` (0: all that are kept), oldest first.
  package func events(after sequence: UInt64 = 0) -> [TunnelEvent] {
    (ring[start...] + ring[..<start]).filter { $0.sequence > sequence }
  }
}
