/// What a node tells its driver. Values only; polled with `Node.pollEvent()`.

#if canImport(Bytes)
  package import Bytes
  package import Relay
  package import Tunnels
#endif

/// One tunnelled connection as this node sees it, near or far end. The
/// generation makes a stale name harmless.
package struct FlowID: Hashable, Sendable {
  package let index: UInt32
  package let generation: UInt32

  package init(index: UInt32, generation: UInt32) {
    self.index = index
    self.generation = generation
  }
}

/// Why a flow ended without both sides finishing.
package enum FlowEnd: Hashable, Sendable {
  /// The far application (or its agent) reset it.
  case reset(code: UInt16, words: String)
  /// Every exit refused, or there was none; nothing was delivered.
  case refused(words: String)
  /// The peer's process was started anew; the old connection is gone.
  case peerRestarted
  /// No path for longer than `NodeLimits.linger`.
  case peerLost

  package var words: String {
    switch self {
    case .reset(_, let words): words.isEmpty ? "reset by the far end" : words
    case .refused(let words): words
    case .peerRestarted: "the peer's agent was restarted"
    case .peerLost: "no path to the peer"
    }
  }
}

/// What the driver shall dial for a peer.
package struct DialRequest: Hashable, Sendable {
  package var target: TunnelTarget
  /// The host as asked by an app: each resolved address goes through
  /// `Node.mayReach`. nil: the target was named by this node's owner.
  package var requestedHost: String?

  package init(target: TunnelTarget, requestedHost: String?) {
    self.target = target
    self.requestedHost = requestedHost
  }
}

/// What must outlive the process. The driver writes it atomically.
package enum NodeRecord: Hashable, Sendable {
  /// Given at the first login; later logins prove it (DESIGN §3).
  case nodeSecret([UInt8])
  case authorityKey([UInt8])
  /// Encoded certificate of a member; replaces the one of that name.
  case member(node: String, certificate: [UInt8])
  case memberRemoved(node: String)
  case evictions([UInt8])
  /// Largest TAI64N stamp this node may have used, an hour ahead.
  case stampCeiling(UInt64)
  /// Greatest authority time seen.
  case authorityTime(UInt64)
  /// Names of peers with a session, so that a restarted agent finds them again.
  case sessionPeers([String])
}

/// A line for the log, with a code for machines.
package struct NodeLog: Hashable, Sendable {
  package enum Level: UInt8, Sendable, Comparable {
    case debug, info, warning, error
    package static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }
  }
  package var level: Level
  package var code: String
  package var words: String

  package init(_ level: Level, _ code: String, _ words: String) {
    self.level = level
    self.code = code
    self.words = words
  }
}

package enum NodeEvent: Hashable, Sendable {
  // Signalling
  /// Login held and the welcome has come.
  case online
  /// The connection to the server is over, or should be closed now.
  case signalClosed(reason: String)
  /// Refused; the driver retries after 60 s (never exits).
  case loginRefused(code: UInt16, words: String)

  // Flows
  /// Far end: dial this, then `dialSucceeded` or `dialFailed`.
  case dial(FlowID, DialRequest)
  /// Near end: the exit accepted.
  case flowOpened(FlowID)
  case flowReadable(FlowID)
  case flowWritable(FlowID)
  /// The far side will send no more; what is buffered can still be read.
  case flowFinished(FlowID)
  /// Over at once; the name is dead. The driver resets its socket.
  case flowEnded(FlowID, FlowEnd)
  /// Both directions are over in good order; the name is dead.
  case flowClosed(FlowID)

  /// Open `count` UDP sockets of the family with any port, numbered from
  /// `first`, then `socketsOpened` with those that could be had.
  case openSockets(first: UInt32, count: Int, isV4: Bool)
  case closeSocket(UInt32)
  /// A TCP connection to a STUN port: then `stunConnected` or `stunFailed`.
  case dialSTUN(connection: UInt32, Endpoint, fromListeningPort: Bool)
  case sendSTUN(connection: UInt32, [UInt8])
  case hangUpSTUN(connection: UInt32)

  /// Connect to a peer from the listening port, then `carrierDialed` or
  /// `carrierClosed`.
  case dialCarrier(connection: UInt32, Endpoint)
  /// Close a connection that was dialled or accepted, or give its attempt up, so
  /// that its ends can be used again at once (a reset); nothing need be told.
  case closeCarrier(UInt32)

  /// Connect to a relay, then `relayConnected` or `relayClosed`; as datagrams, from
  /// the socket that direct paths use, it is there at once and nothing need be told.
  case dialRelay(connection: UInt32, Endpoint, isDatagram: Bool)
  /// One whole frame for it.
  case sendRelay(connection: UInt32, [UInt8])
  /// Close it when everything has left; nothing need be told.
  case closeRelay(UInt32)
  /// For who is a relay: the server's clock, and the keys of one-time tokens.
  case serverTime(unixNanoseconds: UInt64)
  case relaySecrets([RelaySecret])

  case pong(token: UInt32, roundTrip: TimeAmount, path: String)
  case pingFailed(token: UInt32, words: String)
  case store(NodeRecord)
  case log(NodeLog)
}
