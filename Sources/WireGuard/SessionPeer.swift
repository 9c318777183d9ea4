/// Everything kept about one peer: keys, the two handshake slots, keypairs,
/// cookies, timers. A record without behaviour of its own; `SessionKeeper` acts.

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
#endif

/// Names a peer of one `SessionKeeper`; never names another after removal.
package struct PeerHandle: Hashable, Sendable {
  package let rawValue: UInt32

  package init(rawValue: UInt32) { self.rawValue = rawValue }

  init(slot: Int, generation: UInt16) {
    rawValue = UInt32(generation) << 16 | UInt32(slot)
  }
  var slot: Int { Int(rawValue & 0xffff) }
}

package enum PeerKind: Sendable {
  /// Runs this program: many carriers, repeats, either side rekeys.
  case agent
  /// Runs WireGuard itself: one endpoint, the whitepaper's timers.
  case stock
}

final class SessionPeer {
  /// An initiation of ours that waits for its response.
  struct Outstanding {
    var serial: UInt64
    var index: UInt32
    var ephemeralSecret: [UInt8]
    var state: HandshakeState
    var bytes: [UInt8]
    var expiresAt: Instant
    var nextRepeat: Instant
    var repeatDelay: TimeAmount

    var mac1: [UInt8] { MessageMacs.mac1(of: bytes) }
  }

  /// The last initiation of the peer that we answered, and the answer.
  struct Answer {
    var initiationMac1: [UInt8]
    var bytes: [UInt8]
    var index: UInt32
    var made: Instant
    var repeats: Int
  }

  struct Cookie {
    var carrier: Carrier
    var value: [UInt8]
    var received: Instant
  }

  /// Whitepaper §6.5; used for stock peers only.
  struct StockTimers {
    /// We sent data and have heard nothing: initiate.
    var initiateAt = Instant.distantFuture
    /// We received data and have sent nothing: send an empty packet.
    var keepaliveAt = Instant.distantFuture
    var anotherKeepalive = false
    var persistentInterval: TimeAmount?
    var persistentAt = Instant.distantFuture

    var earliest: Instant { min(initiateAt, min(keepaliveAt, persistentAt)) }
  }

  let handle: PeerHandle
  let kind: PeerKind
  let cipher: AEADCipher
  let localKey: Int
  let identity: Handshake.Identity
  let localIsSmaller: Bool
  /// For messages to the peer, and for cookies from it.
  let mac1Key: [UInt8]
  let cookieKey: [UInt8]

  // Handshakes.
  var outstanding: Outstanding?
  var answer: Answer?
  /// mac1 of the initiation answered before `answer`'s.
  var formerMac1: [UInt8]?
  var greatestStamp: Stamp?
  var lastAccepted: Instant?
  var lastStaleReply: Instant?
  var lastStampSent: UInt64
  var cookies: [Cookie] = []

  // The wish for a handshake.
  var wanted = false
  var wantedSince = Instant.distantPast
  var nextInitiation = Instant.distantPast
  var buildQueued = false
  var repeatQueued = false

  // Keypairs. `next` is ours as responder, not yet confirmed.
  var current: Keypair?
  var next: Keypair?
  var former: [Keypair] = []

  var pathDelay = TimeAmount.zero
  var windowBits = SessionLimits.narrowWindow
  var lastReceived: Instant?
  var timers = StockTimers()
  var counters = PeerCounters()

  init(
    handle: PeerHandle, kind: PeerKind, cipher: AEADCipher, localKey: Int,
    identity: Handshake.Identity, stampFloor: UInt64
  ) {
    self.handle = handle
    self.kind = kind
    self.cipher = cipher
    self.localKey = localKey
    self.identity = identity
    localIsSmaller = identity.local.publicKey.lexicographicallyPrecedes(identity.peerPublicKey)
    mac1Key = MessageMacs.mac1Key(identity.peerPublicKey)
    cookieKey = MessageMacs.cookieKey(identity.peerPublicKey)
    lastStampSent = stampFloor
  }

  /// How long after birth a keypair may seal.
  var sealingTime: TimeAmount {
    switch kind {
    case .agent:
      max(SessionLimits.sealingTime - pathDelay, WireGuardConstants.rekeyAfterTime)
    case .stock: WireGuardConstants.rejectAfterTime
    }
  }

  /// How long after birth sending on a keypair calls for a new one; nil = never.
  func rekeyTime(initiator: Bool) -> TimeAmount? {
    switch (kind, initiator) {
    case (_, true): WireGuardConstants.rekeyAfterTime
    case (.agent, false):
      WireGuardConstants.rekeyAfterTime + SessionLimits.responderRekeyDelay
    case (.stock, false): nil
    }
  }

  func freshCookie(for carrier: Carrier, now: Instant) -> [UInt8]? {
    cookies.first {
      $0.carrier == carrier && now - $0.received < WireGuardConstants.cookieLifetime
    }?.value
  }

  func remember(cookie: [UInt8], from carrier: Carrier, now: Instant) {
    cookies.removeAll { $0.carrier == carrier }
    if cookies.count >= SessionLimits.cookiesPerPeer { cookies.removeFirst() }
    cookies.append(Cookie(carrier: carrier, value: cookie, received: now))
  }

  /// When `advance` must look at this peer again, apart from `buildQueued` work.
  var deadline: Instant {
    var earliest = timers.earliest
    if let outstanding {
      earliest = min(earliest, outstanding.expiresAt)
      if wanted { earliest = min(earliest, outstanding.nextRepeat) }
    } else if wanted, !buildQueued {
      earliest = min(earliest, nextInitiation)
    }
    if let current { earliest = min(earliest, current.expiresAt) }
    if let next { earliest = min(earliest, next.expiresAt) }
    for keypair in former { earliest = min(earliest, keypair.expiresAt) }
    return earliest
  }
}
