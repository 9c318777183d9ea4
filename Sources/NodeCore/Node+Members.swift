/// Who is a member: certificates checked, peers made and removed, and what the
/// server says of them. DESIGN §3; docs/protocol/signaling.md.

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  internal import Mux
  internal import Paths
  internal import Signaling
  internal import WireGuard
#endif

extension Node {
  /// Checks a certificate and makes its owner known.
  func admit(_ bytes: [UInt8], now: Instant) -> Peer? {
    guard let authority else { return nil }
    let certificate: Certificate
    do throws(CertificateFault) {
      certificate = try Certificate(verifying: bytes, authority: authority)
    } catch {
      drops.badCertificate += 1
      return nil
    }
    guard accepts(certificate, now: now),
      evictions?.evicts(certificate) != true,
      certificate.staticKey != settings.staticKey.publicKey
    else {
      drops.badCertificate += 1
      return nil
    }
    if let index = peerNames[certificate.node] {
      let peer = peers[index]
      if peer.publicKey == certificate.staticKey {
        if peer.certificate != bytes, certificate.serial > peer.serial {
          peer.certificate = bytes
          peer.serial = certificate.serial
          peer.userName = certificate.user
          emit(.store(.member(node: peer.name, certificate: bytes)))
        }
        return peer
      }
      removePeer(peer, now: now)
    }
    if let handle = keeper.handle(publicKey: certificate.staticKey), let old = self.peer(handle) {
      // The same key under a new name: the member was renamed while we were away.
      guard !old.isStock, certificate.serial > old.serial else {
        drops.badCertificate += 1
        return nil
      }
      removePeer(old, now: now)
      emit(.store(.memberRemoved(node: old.name)))
    }
    guard
      let peer = addPeer(
        name: certificate.node, publicKey: certificate.staticKey, isStock: false,
        cipher: settings.ciphers.common(with: certificate.ciphers), now: now)
    else { return nil }
    peer.certificate = bytes
    peer.serial = certificate.serial
    peer.userName = certificate.user
    emit(.store(.member(node: peer.name, certificate: bytes)))
    return peer
  }

  func memberChanged(_ member: SignalledMember, now: Instant) {
    guard let peer = admit(member.certificate, now: now) else { return }
    let returned = member.isOnline && !peer.isOnline
    let restarted =
      member.incarnation != 0 && member.incarnation != peer.announcedIncarnation
    peer.isOnline = member.isOnline
    peer.seenAt = member.seenAt
    peer.version = member.version
    peer.offers = member.offers
    applyRelayPolicy(to: peer, now: now)
    if member.incarnation != 0 { peer.announcedIncarnation = member.incarnation }
    updateContext(of: peer)
    guard returned || (restarted && member.isOnline) else { return }
    log(.info, "member-online", "\(peer.name) is online")
    guard peer.connectedSince != nil else { return }
    peer.paths.peerReturned(now: now)
    if member.incarnation != 0, member.incarnation != peer.incarnation {
      // Also when we never heard the one we have keys with: it may be gone. The announcement alone proves nothing; a handshake will.
      peer.meeting = .wanted
      peer.lastAsked = .distantPast
      keeper.initiate(peer.handle, now: now)
    } else {
      meet(peer, now: now)
    }
    touch(peer)
  }

  private var pathSettings: PathSettings {
    var result = PathSettings()
    result.guessesPorts = settings.guessesPorts
    return result
  }

  func addPeer(
    name: String, publicKey: [UInt8], isStock: Bool, cipher: AEADCipher = .chaCha20Poly1305,
    now: Instant
  ) -> Peer? {
    guard peers.count(where: { !$0.isRemoved }) < NodeLimits.peers else {
      log(.error, "limit", "more than \(NodeLimits.peers) members")
      return nil
    }
    do throws(PeerRefusal) {
      let handle = try keeper.addPeer(
        publicKey: publicKey, kind: isStock ? .stock : .agent, cipher: cipher, now: now)
      let role: MuxRole = keeper.localIsSmaller(handle) ? .odd : .even
      let peer = Peer(
        index: peers.count, name: name, publicKey: publicKey, isStock: isStock, handle: handle,
        role: role, cipher: cipher, mux: newMultiplexer(role: role),
        paths: PeerPaths(
          settings: pathSettings, random: SeededRandom(seed: random.bytes(32))),
        localIncarnation: settings.incarnation)
      peer.endpointID = EndpointIdentifier.make(staticKey: publicKey)
      peers.append(peer)
      peerNames[name] = peer.index
      peerHandles[handle] = peer.index
      updateContext(of: peer)
      setOpenerHops(of: peer)
      setKeepalive(of: peer, now: now)
      applyRelayPolicy(to: peer, now: now)
      return peer
    } catch {
      log(.error, "member-refused", "\(name) cannot be a peer: \(error)")
      return nil
    }
  }

  /// Makes a stock WireGuard peer known (`martlet wg add`). With an endpoint
  /// the handshake begins at once.
  /// - Parameter publicKey: 32 bytes.
  /// - Returns: why it was refused; nil when it was not.
  package func addStockPeer(
    name: String, publicKey: [UInt8], endpoint: Endpoint?, now: Instant
  ) -> String? {
    clock = now
    if let index = peerNames[name] {
      guard peers[index].isStock else { return "\(name) is a member of the mesh" }
      removePeer(peers[index], now: now)
    }
    guard let peer = addPeer(name: name, publicKey: publicKey, isStock: true, now: now) else {
      return "the key is not usable, or already known"
    }
    if let endpoint, let socket = endpoint.address.isV4 ? socketV4 : socketV6 {
      let carrier = Carrier.udp(socket: socket, remote: endpoint)
      peer.handshakeCarrier = carrier
      peer.paths.addCandidate(
        carrier, kind: .host, tier: .udpDirect, source: .configured, now: now)
      keeper.initiate(peer.handle, now: now)
    }
    settle(now: now)
    return nil
  }

  func removePeer(_ peer: Peer, now: Instant) {
    guard !peer.isRemoved else { return }
    for socket in peer.guessSockets { closeSocket(socket) }
    peer.guessSockets = []
    closeStreams(of: peer, now: now)
    leaveRelays(of: peer, now: now)
    advanceStreams(of: peer, now: now)
    peer.mux.resetAll(code: ResetCode.peerLost, words: "the member was removed")
    drainMux(of: peer, now: now)
    for flow in peer.flows.values.sorted() { endOrphan(flow) }
    peer.isRemoved = true
    keeper.removePeer(peer.handle)
    peerHandles[peer.handle] = nil
    lastPeer = nil
    peerNames[peer.name] = nil
  }

  private func endOrphan(_ index: UInt32) {
    let slot = Int(index)
    guard flows[slot].phase != .free else { return }
    emit(.flowEnded(flowID(slot), .peerLost))
    release(slot)
  }

  func removeAllMembers(now: Instant) {
    for peer in peers where !peer.isStock && !peer.isRemoved {
      removePeer(peer, now: now)
      emit(.store(.memberRemoved(node: peer.name)))
    }
  }
}
