/// What the machine wants done: one ordered queue. The driver carries effects
/// out in order; a crash may lose any tail of them, and nothing breaks (a node
/// whose record was lost logs in by token again; certificate serials are
/// reserved on disk long before their use).
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Signaling)
  package import Signaling
#endif

package enum ServerEffect: Equatable, Sendable {
  /// One binary WebSocket message.
  case send(connection: UInt32, [UInt8])
  /// Close when what was sent before has left. Ends in no `connectionClosed`
  /// that matters: the machine has forgotten the connection already.
  case close(connection: UInt32, CloseReason)
  /// Write it to stable storage.
  case store(StoreRecord)
  case log(ServerLogEvent)
}

package enum CloseReason: String, Sendable {
  case loginRefused = "login refused"
  case loginLate = "no login in time"
  case replaced = "replaced by a newer session"
  case silent = "no heartbeat"
  case faults = "too many malformed messages"
  case flood = "too many messages"
  case notAuthentic = "a sealed message did not open"
  case kicked = "kicked"
  case forgotten = "forgotten"
  case full = "server full"
  case badLegTicket = "relay ticket refused"
  case legReplaced = "replaced by a newer relay leg"
  case relayMisuse = "relay leg misused"
  case idle = "owner gone"
}

/// What happened, for people and for tests. The driver puts it into words.
package enum ServerLogEvent: Equatable, Sendable {
  case started(mesh: String, members: Int, newAuthority: Bool)
  case badRecord(kind: StoreRecord.Kind)
  case loggedIn(mesh: String, node: String, address: Endpoint, isNew: Bool)
  case loginRefused(node: String?, address: Endpoint, LoginRefusalReason)
  /// The name is bound to another key: `martlet server forget NODE` frees it.
  case nameTaken(mesh: String, node: String, address: Endpoint)
  case replaced(mesh: String, node: String, old: Endpoint, new: Endpoint)
  case duplicateKey(mesh: String, node: String, old: Endpoint, new: Endpoint)
  case wentOffline(mesh: String, node: String, CloseReason?)
  case renamed(mesh: String, from: String, to: String)
  case forgotten(mesh: String, node: String)
  case closed(address: Endpoint, CloseReason)
  case legOpened(mesh: String, node: String, address: Endpoint)
  case meeting(mesh: String, from: String, to: String, hasChannel: Bool)
  case relayQuotaUsed(mesh: String)
}

/// Counters since start.
package struct ServerStatistics: Equatable, Sendable {
  package var connectionsOpened: UInt64 = 0
  package var loginsAccepted: UInt64 = 0
  /// By `LoginRefusalReason.rawValue`.
  package var loginsRefused: [UInt8: UInt64] = [:]
  package var messages: UInt64 = 0
  package var errorsAnswered: UInt64 = 0
  package var malformed: UInt64 = 0
  package var unknownConnection: UInt64 = 0
  package var meetings: UInt64 = 0
  package var crossings: UInt64 = 0
  package var candidatesFiltered: UInt64 = 0
  package var legsRefused: UInt64 = 0
  package var sessionsReplaced: UInt64 = 0

  package init() {}
}
