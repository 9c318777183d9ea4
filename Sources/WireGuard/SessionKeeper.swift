/// WireGuard's handshake and transport for any number of peers and carriers
/// (DESIGN §1.1; docs/protocol/session.md; the WireGuard whitepaper). One
/// machine per agent: packets and time in, packets and events out. It never
/// chooses a carrier: answers go back the way the question came, initiations to
/// wherever the caller sends them, data where the caller puts it.
///
/// After any call the driver drains: `pollTransmit` until nil, `pollEvent` until
/// nil, then sleeps until `nextDeadline` and calls `advance`.

#if canImport(Bytes)
  package import Bytes
  package import Crypto
#endif

/// What `SessionKeeper.receive` made of a packet.
package enum Receipt {
  /// Counted under its reason; nothing else happened.
  case dropped(SessionDrop)
  /// A handshake message of this peer was good.
  case handshake(PeerHandle, HandshakeStep)
  /// `payload` is the range of the given span that now holds the plaintext with
  /// its padding. `current`: sealing uses the same keypair.
  case data(PeerHandle, KeypairID, payload: Range<Int>, counter: UInt64, current: Bool)
  /// An authentic packet without content.
  case keepalive(PeerHandle, KeypairID, counter: UInt64)
  /// An initiation by a key no peer was added for. It waits two seconds for
  /// `addPeer`; the key is not proven yet, only claimed.
  case unknownInitiator(publicKey: [UInt8], localKey: Int)
}

package enum HandshakeStep: Sendable {
  /// The peer's initiation was accepted; our response is in the outbox.
  case answered
  /// A copy of the initiation answered last; the same response goes out again.
  case repeated
  /// The response to our initiation: a keypair is ready.
  case completed
  /// A cookie for the carrier it came by; the next repeat carries it.
  case cookie
}

/// A handshake packet (or a stock peer's empty packet) on its way out.
package struct HandshakeTransmit: Sendable {
  package enum Kind: Sendable { case initiation, response, cookieReply, keepalive }
  package enum Route: Sendable, Equatable {
    /// Through this carrier and no other.
    case reply(Carrier)
    /// To each carrier the caller sees fit, each copy through `finish` first.
    case everyCarrier
    /// Where the caller sends this peer's data.
    case data
  }
  package var kind: Kind
  /// Nil only for a cookie reply.
  package var peer: PeerHandle?
  /// At most 148 bytes.
  package var bytes: [UInt8]
  package var route: Route

  package init(kind: Kind, peer: PeerHandle?, bytes: [UInt8], route: Route) {
    self.kind = kind
    self.peer = peer
    self.bytes = bytes
    self.route = route
  }
}

package enum SessionEvent: Sendable, Equatable {
  /// The peer can be sealed to with this keypair: the response came
  /// (`initiator`), or the peer's first packet on it did.
  case keypairReady(PeerHandle, KeypairID, initiator: Bool)
  /// The keypair no longer opens anything.
  case keypairExpired(PeerHandle, KeypairID)
  /// The last keypair is gone.
  case sessionDead(PeerHandle)
  /// A good initiation had an old stamp: the peer's clock went back and it lost
  /// its ceiling, or somebody replays. We initiate ourselves, seldom.
  case peerStale(PeerHandle)
  /// No answer for 90 s; `initiate` starts over.
  case handshakeGaveUp(PeerHandle)
  /// Keep this on disk and give it back at the next start, before the next drain ends
  /// if possible: no stamp sent will exceed it. Nanoseconds since 1970.
  case storeStampCeiling(UInt64)
}

package enum SealOutcome: Equatable {
  case sealed(KeypairID, counter: UInt64)
  /// `body` wrote nothing, or not even an empty packet would fit: nothing consumed.
  case nothing
  /// No usable keypair (for a stock peer a handshake is now under way).
  case noKeys
}

package enum PeerRefusal: Error, Equatable {
  /// Not 32 bytes, of low order, or our own key.
  case badKey
  case badLocalKey
  case alreadyKnown
  case tableFull
}

package final class SessionKeeper {
  enum Outgoing {
    case initiation(PeerHandle)
    case answer(PeerHandle, Carrier)
    case cookieReply([UInt8], Carrier)
    case keepalive(PeerHandle)
  }

  struct LocalKey {
    var pair: KeyPair
    var mac1Key: [UInt8]
    var cookieKey: [UInt8]
  }

  struct PeerName: Hashable {
    var localKey: Int
    var publicKey: [UInt8]
  }

  /// An initiation by an unknown key.
  struct Parked {
    var publicKey: [UInt8]
    var localKey: Int
    var bytes: [UInt8]
    var carrier: Carrier
    var until: Instant
  }

  var localKeys: [LocalKey] = []
  var random: SeededRandom
  var peers: [SessionPeer?] = []
  var generations: [UInt16] = []
  var freeSlots: [Int] = []
  var names: [PeerName: PeerHandle] = [:]
  var table = IndexTable()
  /// First eight bytes of the mac1 of each peer's last two good initiations.
  var recentInitiations: [UInt64: PeerHandle] = [:]
  var parked: [Parked] = []
  var gate = HandshakeGate()
  var outbox = BoundedQueue<Outgoing>(limit: SessionLimits.outbox)
  var events = BoundedQueue<SessionEvent>(limit: SessionLimits.events)
  var stampFloor: UInt64
  var stampCeiling: UInt64
  var lastSerial: UInt64 = 0
  var lastKeypair: UInt64 = 0
  /// Never later than the earliest deadline of any peer.
  var earliest = Instant.distantFuture

  /// Packets dropped, by reason.
  package internal(set) var drops = SessionDropCounters()
  /// For the test that proves that tests notice: opens replayed packets too.
  package var acceptsReplaysForTest = false

  /// - Parameters:
  ///   - localKeys: at most 16 static key pairs, one per mesh.
  ///   - random: this machine's own; drawn for keys, indices and nonces.
  ///   - stampCeiling: what `storeStampCeiling` last said, 0 when there is none.
  package init(localKeys: [KeyPair], random: SeededRandom, stampCeiling: UInt64 = 0) {
    self.random = random
    self.stampFloor = stampCeiling
    self.stampCeiling = stampCeiling
    for key in localKeys { precondition(addLocalKey(key) != nil) }
  }

  deinit {
    for case let peer? in peers { dropKeypairs(of: peer) }
  }

  /// - Returns: the number by which `addPeer` names it; nil beyond 16.
  package func addLocalKey(_ pair: KeyPair) -> Int? {
    guard localKeys.count < SessionLimits.localKeys else { return nil }
    localKeys.append(
      LocalKey(
        pair: pair, mac1Key: MessageMacs.mac1Key(pair.publicKey),
        cookieKey: MessageMacs.cookieKey(pair.publicKey)))
    return localKeys.count - 1
  }

  // MARK: Peers

  /// Makes a peer known; an initiation of it that waits is processed at once.
  /// - Parameters:
  ///   - presharedKey: 32 bytes, or nil for none.
  ///   - localKey: position of our key in `localKeys`.
  ///   - cipher: what both certificates allow; stock peers always ChaCha20-Poly1305.
  package func addPeer(
    publicKey: [UInt8], presharedKey: [UInt8]? = nil, kind: PeerKind, localKey: Int = 0,
    cipher: AEADCipher = .chaCha20Poly1305, now: Instant
  ) throws(PeerRefusal) -> PeerHandle {
    guard localKeys.indices.contains(localKey) else { throw .badLocalKey }
    let pair = localKeys[localKey].pair
    guard publicKey.count == 32, publicKey != pair.publicKey,
      presharedKey == nil || presharedKey?.count == 32,
      let shared = X25519.shared(secret: pair.secret, publicKey: publicKey)
    else { throw .badKey }
    let name = PeerName(localKey: localKey, publicKey: publicKey)
    guard names[name] == nil else { throw .alreadyKnown }
    let slot: Int
    if let free = freeSlots.popLast() {
      slot = free
    } else {
      guard peers.count < SessionLimits.peers else { throw .tableFull }
      slot = peers.count
      peers.append(nil)
      generations.append(0)
    }
    let handle = PeerHandle(slot: slot, generation: generations[slot])
    peers[slot] = SessionPeer(
      handle: handle, kind: kind, cipher: kind == .stock ? .chaCha20Poly1305 : cipher,
      localKey: localKey,
      identity: Handshake.Identity(
        local: pair, peerPublicKey: publicKey, staticShared: shared,
        presharedKey: presharedKey ?? [UInt8](repeating: 0, count: 32)),
      stampFloor: stampFloor)
    names[name] = handle
    unpark(publicKey: publicKey, localKey: localKey, now: now)
    return handle
  }

  /// Forgets the peer and its keys. Its handle means nothing afterwards.
  package func removePeer(_ handle: PeerHandle) {
    guard let peer = find(handle) else { return }
    if let outstanding = peer.outstanding { table.remove(outstanding.index) }
    dropKeypairs(of: peer)
    if let answer = peer.answer { forgetInitiation(answer.initiationMac1) }
    if let mac1 = peer.formerMac1 { forgetInitiation(mac1) }
    names[PeerName(localKey: peer.localKey, publicKey: peer.identity.peerPublicKey)] = nil
    peers[handle.slot] = nil
    generations[handle.slot] &+= 1
    freeSlots.append(handle.slot)
  }

  package func handle(publicKey: [UInt8], localKey: Int = 0) -> PeerHandle? {
    names[PeerName(localKey: localKey, publicKey: publicKey)]
  }

  package func publicKey(of handle: PeerHandle) -> [UInt8]? {
    find(handle)?.identity.peerPublicKey
  }

  /// Whether our static key is the smaller of the two: then we open odd streams.
  package func localIsSmaller(_ handle: PeerHandle) -> Bool {
    find(handle)?.localIsSmaller ?? false
  }

  func find(_ handle: PeerHandle) -> SessionPeer? {
    guard handle.slot < peers.count, let peer = peers[handle.slot], peer.handle == handle else {
      return nil
    }
    return peer
  }

  // MARK: Questions and settings

  /// When an authentic packet of the peer last came, handshakes included.
  package func lastReceived(_ handle: PeerHandle) -> Instant? { find(handle)?.lastReceived }

  package func counters(_ handle: PeerHandle) -> PeerCounters {
    find(handle)?.counters ?? PeerCounters()
  }

  /// The keypair `seal` would use.
  package func currentKeypair(_ handle: PeerHandle) -> KeypairID? { find(handle)?.current?.id }

  /// From when on a packet sent would bring new keys; nil without keys.
  package func rekeyAt(_ handle: PeerHandle) -> Instant? { find(handle)?.current?.rekeyAt }

  /// Whether an initiation of ours is out or about to be.
  package func isInitiating(_ handle: PeerHandle) -> Bool { find(handle)?.wanted ?? false }

  package func canSeal(_ handle: PeerHandle, now: Instant) -> Bool {
    find(handle)?.current?.canSeal(now) ?? false
  }

  /// With the second path: the replay window of this peer grows to 65,536 for
  /// good, so that a switch to a faster path loses nothing still in flight.
  package func widenWindow(_ handle: PeerHandle) {
    guard let peer = find(handle), peer.kind == .agent else { return }
    peer.windowBits = SessionLimits.wideWindow
    peer.current?.window.widen(to: peer.windowBits)
    peer.next?.window.widen(to: peer.windowBits)
    for keypair in peer.former { keypair.window.widen(to: peer.windowBits) }
  }

  /// The one-way delay of the path data takes: sealing stops that much earlier
  /// than 165 s, so that nothing arrives after the keypair's end.
  package func setPathDelay(_ handle: PeerHandle, _ delay: TimeAmount) {
    guard let peer = find(handle), peer.pathDelay != delay else { return }
    peer.pathDelay = max(delay, .zero)
    let time = peer.sealingTime
    for keypair in [peer.current, peer.next].compactMap({ $0 }) + peer.former {
      keypair.sealUntil = keypair.born + time
    }
  }

  /// Stock peers: an empty packet whenever nothing moved for `interval`; nil = off.
  package func setPersistentKeepalive(
    _ handle: PeerHandle, _ interval: TimeAmount?, now: Instant
  ) {
    guard let peer = find(handle), peer.kind == .stock else { return }
    peer.timers.persistentInterval = interval
    peer.timers.persistentAt = interval == nil ? .distantFuture : now
    note(peer.timers.persistentAt)
  }

  // MARK: Receive

  /// Takes one packet as it came from a carrier; transport data is opened in
  /// place. Allocates nothing for transport data.
  package func receive(
    _ packet: inout MutableRawSpan, from carrier: Carrier, now: Instant
  ) -> Receipt {
    let count = packet.byteCount
    guard count >= MessageSize.keepalive, let type = Self.type(of: packet.bytes) else {
      return drop(.badLength)
    }
    switch type {
    case MessageType.transport:
      return receiveTransport(&packet, now: now)
    case MessageType.initiation:
      guard count == MessageSize.initiation else { return drop(.badLength) }
      return receiveInitiation([UInt8](packet.bytes), from: carrier, now: now)
    case MessageType.response:
      guard count == MessageSize.response else { return drop(.badLength) }
      return receiveResponse([UInt8](packet.bytes), from: carrier, now: now)
    case MessageType.cookieReply:
      guard count == MessageSize.cookieReply else { return drop(.badLength) }
      return receiveCookie([UInt8](packet.bytes), from: carrier, now: now)
    default:
      return drop(.unknownType)
    }
  }

  private static func type(of bytes: RawSpan) -> UInt32? {
    var reader = ByteReader(bytes)
    return reader.uint32LittleEndian()
  }

  // MARK: Drain

  /// The next packet to send, or nil. Initiations are made here, so that their
  /// stamp is as fresh as can be.
  /// - Parameter wallClock: nanoseconds since 1970; may be wrong by any amount.
  package func pollTransmit(now: Instant, wallClock: UInt64) -> HandshakeTransmit? {
    while let item = outbox.popFirst() {
      switch item {
      case .initiation(let handle):
        guard let peer = find(handle) else { continue }
        if let transmit = initiation(of: peer, now: now, wallClock: wallClock) {
          return transmit
        }
      case .answer(let handle, let carrier):
        guard let peer = find(handle), let answer = peer.answer else { continue }
        let cookie = peer.freshCookie(for: carrier, now: now)
        let bytes = cookie.map { MessageMacs.filled(answer.bytes, cookie: $0) }
        return HandshakeTransmit(
          kind: .response, peer: handle, bytes: bytes ?? answer.bytes, route: .reply(carrier))
      case .cookieReply(let bytes, let carrier):
        return HandshakeTransmit(
          kind: .cookieReply, peer: nil, bytes: bytes, route: .reply(carrier))
      case .keepalive(let handle):
        guard let peer = find(handle), let bytes = keepalive(to: peer, now: now) else { continue }
        return HandshakeTransmit(kind: .keepalive, peer: handle, bytes: bytes, route: .data)
      }
    }
    return nil
  }

  package func pollEvent() -> SessionEvent? { events.popFirst() }

  // MARK: Small helpers of all aspects

  func drop(_ reason: SessionDrop) -> Receipt {
    drops.count(reason)
    return .dropped(reason)
  }

  func emit(_ event: SessionEvent) {
    if !events.append(event) { drops.count(.eventsFull) }
  }

  func send(_ item: Outgoing) -> Bool {
    if outbox.append(item) { return true }
    drops.count(.outboxFull)
    return false
  }

  /// Something is due at `deadline`.
  func note(_ deadline: Instant) { if deadline < earliest { earliest = deadline } }

  func newIndex() -> UInt32 {
    while true {
      let index = UInt32(truncatingIfNeeded: random.next())
      if index != 0, !table.contains(index) { return index }
    }
  }
}
