/// What the gateway says: who said it, whether it was asked, and what follows.
/// Everything that fits no question of ours is dropped and counted.

#if canImport(Bytes)
  package import Bytes
#endif

extension PortMapper {
  /// A datagram that came to the socket the questions left from.
  package mutating func receive(_ bytes: RawSpan, from remote: Endpoint, now: Instant) {
    guard remote == Endpoint(settings.gateway, PCPConstants.serverPort) else {
      drops.stranger += 1
      return
    }
    switch state {
    case .idle, .stopped:
      drops.unexpected += 1
      return
    case .asking, .mapped, .recovering, .resting: break
    }
    if let response = PCPResponse.decode(bytes) {
      take(response, now: now)
    } else if let response = NATPMPResponse.decode(bytes) {
      take(response, now: now)
    } else if state == .asking(.pcp), refusesVersion(bytes) {
      fail(.pcp, .unsupported, now: now)
    } else {
      drops.malformed += 1
    }
  }

  /// A datagram that came to port 5350, where gateways tell everybody that they
  /// began anew or have another address (RFC 6887 §14.1, RFC 6886 §3.2.1).
  package mutating func receiveAnnouncement(
    _ bytes: RawSpan, from remote: Endpoint, now: Instant
  ) {
    // Not all send from 5351; the port would prove nothing either.
    guard remote.address == settings.gateway else {
      drops.stranger += 1
      return
    }
    if let response = PCPResponse.decode(bytes), response.content == .announce {
      announced(response, now: now)
    } else if let response = NATPMPResponse.decode(bytes), response.result == .success,
      case .externalAddress(let address) = response.content
    {
      announced(address, epoch: response.epoch, now: now)
    } else {
      drops.malformed += 1
    }
  }

  // MARK: PCP

  private mutating func take(_ response: PCPResponse, now: Instant) {
    switch response.content {
    case .announce:
      guard response.result == .success else {
        drops.unexpected += 1
        return
      }
      announced(response, now: now)
    case .map(let answer): take(answer, of: response, now: now)
    case .other:
      // Version 2, but not this version's question: only a refusal of the
      // version may lack the copy of the question.
      if state == .asking(.pcp), response.result == .unsupportedVersion {
        fail(.pcp, .unsupported, now: now)
      } else {
        drops.unexpected += 1
      }
    }
  }

  private mutating func take(_ answer: PCPMapAnswer, of response: PCPResponse, now: Instant) {
    guard answer.nonce == settings.nonce, answer.transport == settings.transport.rawValue,
      answer.internalPort == settings.internalPort
    else {
      drops.mismatch += 1
      return
    }
    if let lease, lease.port.protocol != .pcp {
      drops.unexpected += 1
      return
    }
    guard awaitsPCP else {
      takeUpdate(answer, of: response, now: now)
      return
    }
    awaitsPCP = false
    // The mapping is there whatever the clock says; the clock is only kept.
    _ = follow(response.epoch, now: now)
    guard response.result != .success else {
      grant(answer.external, seconds: response.lifetime, by: .pcp, now: now)
      return
    }
    let error = response.result
    if lease != nil {
      switch error {
      case .networkFailure, .noResources, .userQuotaExceeded:
        // Short-lived (§7.4); the lease stands and its next renewal will tell.
        return
      case .success, .unsupportedVersion, .notAuthorized, .malformedRequest, .unsupportedOpcode,
        .unsupportedOption, .malformedOption, .unsupportedProtocol, .cannotProvideExternal,
        .addressMismatch, .excessiveRemotePeers, nil:
        lose(.refused(code: UInt16(response.resultCode)), now: now)
        return
      }
    }
    guard state == .asking(.pcp) else {
      drops.unexpected += 1
      return
    }
    let said = TimeAmount.seconds(Int64(response.lifetime))
    refusedUntil = now + min(said, PortMapperLimits.longestRest)
    switch error {
    case .unsupportedVersion, .unsupportedOpcode: fail(.pcp, .unsupported, now: now)
    default: fail(.pcp, .refused(code: UInt16(response.resultCode)), now: now)
    }
  }

  /// Not an answer: a repeated one, or the server telling of a change (§14.2).
  /// The change is asked for, so that it has no effect more often than we ask.
  private mutating func takeUpdate(
    _ answer: PCPMapAnswer, of response: PCPResponse, now: Instant
  ) {
    let isNews =
      lease != nil
      && (response.result != .success || response.lifetime == 0
        || lease?.port.external != answer.external)
    if isNews { recoverLater(now: now) } else { drops.unexpected += 1 }
  }

  /// A server of another version of PCP: nothing but its refusal can be read
  /// (§9). NAT-PMP's own refusal has been read before.
  private func refusesVersion(_ bytes: RawSpan) -> Bool {
    var reader = ByteReader(bytes)
    guard let version = reader.uint8(), version != 0, let first = reader.uint8(),
      first & 0x80 != 0, reader.skip(1), let result = reader.uint8()
    else { return false }
    return result == PCPResult.unsupportedVersion.rawValue
  }

  private mutating func follow(_ epoch: UInt32, now: Instant) -> Bool {
    guard pcpEpoch != nil else {
      pcpEpoch = PCPEpoch(epoch, at: now)
      return true
    }
    return pcpEpoch?.follow(epoch, at: now) ?? true
  }

  // MARK: NAT-PMP

  private mutating func take(_ response: NATPMPResponse, now: Instant) {
    if response.result == .unsupportedVersion, state == .asking(.pcp) {
      fail(.pcp, .unsupported, now: now)
      return
    }
    // A late answer is as good as one in time; no answer is one unasked.
    let isMine = lease.map { $0.port.protocol == .natPMP } ?? true
    guard isMine, awaitsAddress || awaitsPort else {
      drops.unexpected += 1
      return
    }
    switch response.content {
    case .map(let transport, let inside, _, _)
    where transport != settings.transport || inside != settings.internalPort:
      drops.mismatch += 1
    case .externalAddress where !awaitsAddress, .map where !awaitsPort:
      drops.unexpected += 1
    case .externalAddress, .map, .bare:
      guard response.result == .success else {
        awaitsAddress = false
        awaitsPort = false
        refused(response.resultCode, now: now)
        return
      }
      follow(natPMP: response.epoch, now: now)
      takeGrant(response.content, now: now)
    }
  }

  /// Port and address come in two answers, in any order.
  private mutating func takeGrant(_ content: NATPMPResponse.Content, now: Instant) {
    switch content {
    case .externalAddress(let address):
      awaitsAddress = false
      natPMPAddress = address
    case .map(_, _, let outside, let lifetime):
      awaitsPort = false
      natPMPGrant = (outside, lifetime)
    case .bare: return
    }
    guard let address = natPMPAddress else { return }
    if let granted = natPMPGrant {
      natPMPGrant = nil
      grant(Endpoint(address, granted.port), seconds: granted.lifetime, by: .natPMP, now: now)
    } else if let former = lease, former.port.external.address != address {
      // The port was renewed before the new address was told.
      let left = (former.expiresAt - now).nanoseconds / 1_000_000_000
      grant(
        Endpoint(address, former.port.external.port), seconds: UInt32(clamping: left),
        by: .natPMP, now: now)
    }
  }

  private mutating func refused(_ code: UInt16, now: Instant) {
    let isShort =
      code == NATPMPResult.networkFailure.rawValue || code == NATPMPResult.outOfResources.rawValue
    if lease != nil {
      if !isShort { lose(.refused(code: code), now: now) }
    } else if state == .asking(.natPMP) {
      let isUnknown =
        code == NATPMPResult.unsupportedVersion.rawValue
        || code == NATPMPResult.unsupportedOpcode.rawValue
      fail(.natPMP, isUnknown ? .unsupported : .refused(code: code), now: now)
    } else {
      drops.unexpected += 1
    }
  }

  /// The clock of an answer to our own question: the answer itself renews.
  private mutating func follow(natPMP epoch: UInt32, now: Instant) {
    if natPMPEpoch == nil {
      natPMPEpoch = NATPMPEpoch(epoch, at: now)
    } else {
      _ = natPMPEpoch?.follow(epoch, at: now)
    }
  }

  // MARK: Announcements

  private mutating func announced(_ response: PCPResponse, now: Instant) {
    // Without a former value the server is new to us: worth a question.
    let isFirst = pcpEpoch == nil
    let isSteady = follow(response.epoch, now: now)
    if isFirst || !isSteady || lease?.port.protocol != .pcp { recoverLater(now: now) }
  }

  private mutating func announced(_ address: IPAddress, epoch: UInt32, now: Instant) {
    // A gateway that speaks PCP tells of a loss by that, and has its clock there.
    var isSteady = lease?.port.protocol == .pcp
    if var former = natPMPEpoch { isSteady = former.follow(epoch, at: now) }
    follow(natPMP: epoch, now: now)
    if !isSteady || lease?.port.external.address != address { recoverLater(now: now) }
  }

  private mutating func recoverLater(now: Instant) {
    // Everybody on the link heard it; not all may ask at once (RFC 6887 §14.1.3).
    let spread = PCPConstants.recoverySpread.nanoseconds
    recover(after: .nanoseconds(Int64.random(in: 0...spread, using: &random)), now: now)
  }
}
