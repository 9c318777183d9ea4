/// What a server is started with, and the bounds it keeps. Values only: reading
/// flags and files is the driver's business.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Relay)
  package import Relay
#endif
#if canImport(Signaling)
  package import Signaling
#endif

/// Bounds of the server machine.
package enum ServerLimits {
  /// Connections of all kinds.
  package static let connections = 16_384
  /// Connections whose login (or leg hello) has not held yet.
  package static let pendingConnections = 2_048
  package static let pendingPerAddress = 128
  /// Members of one mesh, online or not.
  package static let members = SignalLimits.members
  /// A login takes at most so long from the connection's start.
  package static let loginTime = TimeAmount.seconds(15)
  package static let legHelloTime = TimeAmount.seconds(5)
  /// Nodes send a heartbeat every 30 s; one that said nothing for so long is gone.
  package static let silence = TimeAmount.seconds(70)
  /// A relay leg that said nothing for so long is asked whether it is there.
  package static let legPing = TimeAmount.seconds(30)
  /// How often silent connections are looked for: silence + sweep ≤ 75 s.
  package static let sweep = TimeAmount.seconds(1)
  /// The same key may replace its own live session so often in `replacementTime`.
  package static let replacements = 3
  package static let replacementTime = TimeAmount.seconds(60)
  /// Messages of one node.
  package static let messagesPerSecond = 100.0
  package static let messageBurst = 1_000.0
  /// ConnectReqs of one node.
  package static let connectsPerSecond = 20.0
  package static let connectBurst = 300.0
  /// Malformed or unknown messages of one connection before it is closed.
  package static let faults = 32
  /// A ConnectReq within this time after the other side's is the same meeting.
  package static let crossing = TimeAmount.seconds(2)
  /// How long an answer waits for the other side's relay leg and report.
  package static let legWait = TimeAmount.milliseconds(1_500)
  /// A meeting without a channel is forgotten after this time.
  package static let meetingTime = TimeAmount.seconds(60)
  package static let meetings = 65_536
  /// A relay leg outlives its node's signalling connection by this much.
  package static let legGrace = TimeAmount.minutes(10)
  /// Bytes of members in a welcome; the rest follows one by one.
  package static let welcomeBytes = 1 << 20
  /// Serial numbers reserved on disk ahead of their use.
  package static let serialsAhead: UInt64 = 1_024
}

/// One mesh of the server.
package struct MeshSettings: Sendable {
  /// Unique on this server and stable: what is stored is stored under it.
  package var name: String
  package var verifier: LoginVerifier
  /// Mbit/s of server relay for this mesh; nil = only the server's cap.
  package var relayMegabits: Double?
  /// Bytes of server relay per day; nil = no quota.
  package var relayQuotaBytes: UInt64?
  /// Its members know a token, so that its own relays need nothing else.
  package var hasToken = true

  package init(
    name: String, verifier: LoginVerifier, relayMegabits: Double? = nil,
    relayQuotaBytes: UInt64? = nil
  ) {
    self.name = name
    self.verifier = verifier
    self.relayMegabits = relayMegabits
    self.relayQuotaBytes = relayQuotaBytes
  }
}

package struct ServerSettings: Sendable {
  /// 1…16 meshes with different names.
  package var meshes: [MeshSettings]
  /// What the server says it is.
  package var version: String
  /// Mbit/s relayed for everybody together; nil = no cap.
  package var relayMegabits: Double?
  package var relayLimits = RelayLimits()

  package init(meshes: [MeshSettings], version: String, relayMegabits: Double? = nil) {
    self.meshes = meshes
    self.version = version
    self.relayMegabits = relayMegabits
  }
}
