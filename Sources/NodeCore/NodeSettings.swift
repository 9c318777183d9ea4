/// What a node is told at its start and never changes by itself. Values only;
/// where they come from (flags, files) is the driver's business.

#if canImport(Bytes)
  package import Bytes
  package import Crypto
  package import Mux
  package import Signaling
  package import Tunnels
#endif

/// Bounds of a node's tables and its waiting times.
package enum NodeLimits {
  package static let peers = 4096
  package static let flows = 32_768
  /// Numbered packets kept per keypair until its HELLO has come (DESIGN §1.1).
  package static let heldPackets = 64
  package static let parkedOpens = 1024
  /// Open streams wait this long for a path (DESIGN §1.3).
  package static let linger: TimeAmount = .minutes(5)
  package static let lingerAfterSleep: TimeAmount = .hours(12)
  package static let heartbeat: TimeAmount = .seconds(30)
  /// Between two of them, whatever happens.
  package static let heartbeatGap: TimeAmount = .seconds(1)
  /// A heartbeat or request without an answer for this long ends the connection.
  package static let answerDue: TimeAmount = .seconds(15)
  /// The server is given this long from connection to welcome.
  package static let loginDue: TimeAmount = .seconds(15)
  /// A ConnectReq is not repeated sooner than this.
  package static let connectRetry: TimeAmount = .seconds(2)
  /// Keys younger than this are believed in though no path is up: handshakes
  /// would use up what pings need of the probe budget.
  package static let keyTrust: TimeAmount = .seconds(10)
  /// An open to a peer that cannot be reached fails after this.
  package static let connectDue: TimeAmount = .seconds(15)
  /// A list of evictions is asked for, and sent, at most this often per peer.
  package static let evictionsRetry: TimeAmount = .seconds(1)
  /// Statements of our number without the list coming; the next HELLO starts anew.
  package static let evictionStatements = 5
  /// Statements of a number that is new: its owner may have it from the server.
  package static let evictionNews = 3
  /// Members whose certificate is over have this long to show a new one.
  package static let expiryGrace: TimeAmount = .minutes(2)
  /// Certificates are looked at, and authority time is kept, at least this often
  /// and at most once in the pause.
  package static let expiryLook: TimeAmount = .hours(6)
  package static let expiryPause: TimeAmount = .seconds(1)
  /// A login that did not renew our certificate is tried again after this.
  package static let renewalRetry: TimeAmount = .hours(24)
  package static let helloRetryFloor: TimeAmount = .milliseconds(100)
  package static let requests = 4608
  /// Own addresses that are told: room for UDP and TCP, and for what routers map.
  package static let hostAddresses = 14
  /// Sockets of a NAT probe besides the main one.
  package static let probeSockets = 3
  /// A mapping confirmed longer ago than this may have gone: half of the
  /// shortest usual time-out (RFC 4787 §4.3 REQ-5 allows no less than 2 min,
  /// Linux gives an unanswered one 30 s).
  package static let mappingMemory: TimeAmount = .seconds(15)
  /// Repeats of an initiation (100, 200 … 1600 ms) after which it goes to
  /// holes that may not be open.
  package static let lateInitiation = 5
  package static let events = 65_536
}

package struct NodeSettings: Sendable {
  /// The node's name in the mesh, as given with `-node`.
  package var name: String
  package var staticKey: KeyPair
  /// Drawn anew at each process start (DESIGN §1.1).
  package var incarnation: UInt64
  package var version: String
  package var os: String
  /// UDP and TCP port for direct connections.
  package var port: UInt16
  /// 32 random bytes.
  package var seed: [UInt8]
  package var token: UInt64
  /// `.cheap` for the simulator only.
  package var loginCost: LoginCost
  /// Ciphers this node states in its certificate.
  package var ciphers: CipherSet
  /// The driver listens for TCP on `port`: TCP carriers are offered and dialled.
  package var listensTCP = false
  /// No UDP carriers at all. A test hook: benchmarks measure TCP ones with it.
  package var usesTCPCarriers = false
  /// `-relay-policy`.
  package var relayPolicies: [PeerRelayPolicy] = []
  /// The controller of what this node sends over UDP and through relays
  /// (docs/decisions/0026-congestion-control.md).
  package var congestion = CongestionAlgorithm.cubic
  /// Guess the ports of NATs that map anew for every address.
  package var guessesPorts = true
  /// Proof of the agent's own identity key for the certificate; may be empty.
  package var identityProof: [UInt8]
  /// Protections switched off, so that a mutation check can show that the
  /// simulator notices. Empty and false in every program.
  package var mutations: MuxMutations = []
  package var acceptsReplays = false

  package init(
    name: String, staticKey: KeyPair, incarnation: UInt64, version: String, os: String,
    port: UInt16, seed: [UInt8], token: UInt64, loginCost: LoginCost = .full,
    ciphers: CipherSet = .chaCha20Poly1305, identityProof: [UInt8] = []
  ) {
    precondition(seed.count == 32)
    self.name = name
    self.staticKey = staticKey
    self.incarnation = incarnation
    self.version = version
    self.os = os
    self.port = port
    self.seed = seed
    self.token = token
    self.loginCost = loginCost
    self.ciphers = ciphers
    self.identityProof = identityProof
  }
}
