/// The two transport keys that one handshake made, with their counters. A
/// keypair we made as initiator can seal at once; one we made as responder only
/// after the peer's first packet on it (whitepaper §6.1: confirmation).

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
#endif

/// Names a keypair for the life of the process; greater = born later.
package struct KeypairID: Hashable, Comparable, Sendable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }

  package static func < (a: KeypairID, b: KeypairID) -> Bool { a.rawValue < b.rawValue }
}

final class Keypair {
  let id: KeypairID
  let peer: SessionPeer
  /// Whether we sent the initiation.
  let initiator: Bool
  let localIndex: UInt32
  let remoteIndex: UInt32
  let sealing: AEADKey
  let opening: AEADKey
  let born: Instant
  /// The initiation of ours that this keypair completes (initiator), or that
  /// was outstanding when we answered the peer's (responder); 0 = none.
  let initiation: UInt64

  /// Next counter to seal with.
  var counter: UInt64 = 0
  var window: ReplayWindow
  var confirmed: Bool
  var sealUntil: Instant
  let rekeyAt: Instant
  let expiresAt: Instant
  var lastReceived: Instant
  /// Whether sending has already gone back to this older keypair once.
  var resumed = false

  init(
    id: KeypairID, peer: SessionPeer, initiator: Bool, localIndex: UInt32, remoteIndex: UInt32,
    sendKey: [UInt8], receiveKey: [UInt8], now: Instant, initiation: UInt64
  ) {
    self.id = id
    self.peer = peer
    self.initiator = initiator
    self.localIndex = localIndex
    self.remoteIndex = remoteIndex
    sealing = AEADKey(
      peer.cipher, key: Handshake.packetKey(sendKey, cipher: peer.cipher), direction: .seal)
    opening = AEADKey(
      peer.cipher, key: Handshake.packetKey(receiveKey, cipher: peer.cipher), direction: .open)
    born = now
    self.initiation = initiation
    window = ReplayWindow(bits: peer.windowBits)
    confirmed = initiator
    expiresAt = now + WireGuardConstants.rejectAfterTime
    sealUntil = now + peer.sealingTime
    rekeyAt = peer.rekeyTime(initiator: initiator).map { now + $0 } ?? .distantFuture
    lastReceived = .distantPast
  }

  func canSeal(_ now: Instant) -> Bool {
    confirmed && now < sealUntil && counter < WireGuardConstants.rejectAfterMessages
  }

  /// Whether the two were made by initiations that met on the way: one ours,
  /// one the peer's, neither knowing of the other.
  func crosses(_ other: Keypair) -> Bool {
    initiator != other.initiator && initiation != 0 && initiation == other.initiation
  }

  /// Of two crossing keypairs data goes on that of the smaller static key.
  var isFavourite: Bool { initiator == peer.localIsSmaller }
}
