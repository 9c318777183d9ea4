/// What stands before a curve operation: a budget, cookies and limits per
/// source (whitepaper §5.3, §5.4.7). While handshakes are few everybody is let
/// in; under load only those who can show a cookie, which only a source that
/// receives our replies can have.

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
#endif

struct HandshakeGate {
  enum Verdict {
    case admitted
    case cookieRequired
    case refused
  }

  /// Where a packet came from, as far as a limit is concerned: an IPv4 address,
  /// an IPv6 /64, or a relay channel.
  private struct Source: Hashable {
    var high: UInt64
    var low: UInt64

    init(_ carrier: Carrier) {
      if carrier.kind == .relay {
        high = .max
        low = UInt64(carrier.socket) << 32 | UInt64(carrier.channel)
      } else {
        let address = carrier.remote.address
        high = address.high
        low = address.isV4 ? address.low : 0
      }
    }
  }

  private var calm = TokenBucket(
    ratePerSecond: SessionLimits.calmOperationsPerSecond,
    burst: SessionLimits.calmOperationsBurst)
  private var loaded = TokenBucket(
    ratePerSecond: SessionLimits.loadedOperationsPerSecond,
    burst: SessionLimits.loadedOperationsBurst)
  private var loadedUntil = Instant.distantPast
  private var sources: [Source: TokenBucket] = [:]
  private var secret: [UInt8] = []
  private var secretMade = Instant.distantPast

  func isUnderLoad(_ now: Instant) -> Bool { now < loadedUntil }

  /// May `cost` curve operations be spent on `bytes`, an initiation or response
  /// with a good mac1?
  mutating func admit(
    _ bytes: [UInt8], from carrier: Carrier, cost: Double, now: Instant
  ) -> Verdict {
    if now >= loadedUntil {
      if calm.take(cost, now: now) { return .admitted }
      loadedUntil = now + SessionLimits.loadLinger
    }
    guard now - secretMade < WireGuardConstants.cookieLifetime,
      MessageMacs.hasMac2(bytes, cookie: cookie(for: carrier))
    else { return .cookieRequired }
    if sources.count >= SessionLimits.sources { sources.removeAll(keepingCapacity: true) }
    let source = Source(carrier)
    var bucket =
      sources[source]
      ?? TokenBucket(
        ratePerSecond: SessionLimits.initiationsPerSourcePerSecond,
        burst: SessionLimits.initiationsPerSourceBurst)
    let allowed = bucket.take(now: now)
    sources[source] = bucket
    return allowed && loaded.take(cost, now: now) ? .admitted : .refused
  }

  /// The cookie reply to `bytes`, which did not show a cookie.
  mutating func reply(
    to bytes: [UInt8], sender: UInt32, from carrier: Carrier, cookieKey: [UInt8], now: Instant,
    random: inout SeededRandom
  ) -> [UInt8] {
    if now - secretMade >= WireGuardConstants.cookieLifetime {
      secret = random.bytes(32)
      secretMade = now
    }
    let nonce = random.bytes(24)
    let sealed = XChaCha20Poly1305.sealBox(
      key: cookieKey, nonce: nonce, cookie(for: carrier), aad: MessageMacs.mac1(of: bytes))
    return CookieReplyMessage(receiver: sender, nonce: nonce, sealedCookie: sealed).encoded
  }

  private func cookie(for carrier: Carrier) -> [UInt8] {
    var source = carrier.remote.address.octets
    source.appendUInt16(carrier.remote.port)
    if carrier.kind != .udp {
      source.append(carrier.kind.rawValue)
      source.appendUInt32(carrier.socket)
      source.appendUInt32(carrier.channel)
    }
    return BLAKE2s.mac(key: secret, source)
  }
}
