/// Keeps one port of this host open at one gateway: asks by PCP (RFC 6887),
/// then NAT-PMP (RFC 6886), then has its driver ask by UPnP; renews what it got,
/// makes it anew when the gateway forgot it, removes it at the end. Pure: bytes
/// and time in, packets and events out. Never believes anybody but the gateway
/// it asked, and keeps nothing for bytes that fit no question.
///
/// ```
///  idle ── start ──▶ asking(pcp) ──▶ asking(natPMP) ──▶ asking(upnp) ──▶ resting
///                         │                │                 │            │
///                         └───── granted ──┴──── granted ────┘            │
///                                    ▼                                    │
///                   recovering ◀── mapped ── expired, refused ──▶ asking ◀┘
///                        └── again ──▶│
/// ```
/// `stop` leads to `stopped` from everywhere. docs/protocol/port-mapping.md.

#if canImport(Bytes)
  package import Bytes
#endif

package struct PortMapperSettings: Sendable {
  /// Who is asked; nobody else's answers count.
  package var gateway: IPAddress
  /// Our address as the gateway sees it: the driver's socket is bound to it.
  package var client: IPAddress
  package var internalPort: UInt16
  package var transport: MappedTransport
  /// 12 bytes that only this host knows. The same one after a restart: a server
  /// refuses the port of a living mapping to any other nonce (RFC 6887 §11.3).
  package var nonce: [UInt8]
  /// The driver can ask by UPnP (IPv4 only).
  package var usesUPnP: Bool

  package init(
    gateway: IPAddress, client: IPAddress, internalPort: UInt16,
    transport: MappedTransport = .udp, nonce: [UInt8], usesUPnP: Bool
  ) {
    precondition(nonce.count == PCPConstants.nonceBytes)
    precondition(gateway.isV4 == client.isV4)
    self.gateway = gateway
    self.client = client
    self.internalPort = internalPort
    self.transport = transport
    self.nonce = nonce
    self.usesUPnP = usesUPnP && gateway.isV4
  }
}

package struct PortMapper: Sendable {
  enum State: Hashable, Sendable {
    /// Not started.
    case idle
    /// A question is out.
    case asking(PortMappingProtocol)
    /// `lease` stands and is renewed.
    case mapped
    /// The gateway seems to have forgotten `lease`; it is asked for it again.
    case recovering
    /// Nothing worked; the next round begins at `sendAt`.
    case resting
    case stopped
  }

  /// What was granted.
  struct Lease: Hashable, Sendable {
    var port: MappedPort
    /// When the first of an unbroken row was granted.
    var since: Instant
    var grantedAt: Instant
    var expiresAt: Instant
    /// Renewals tried since it was granted.
    var step = 0
  }

  package let settings: PortMapperSettings
  package internal(set) var drops = PortMapperDrops()
  /// Announcements and changes that had to wait for `refreshHold`.
  package internal(set) var heldBack: UInt64 = 0
  /// Grants that followed a first one without a loss between.
  package internal(set) var renewals: UInt64 = 0

  var random: SeededRandom
  var state = State.idle
  var lease: Lease?
  /// The next transmission, order, or round.
  var sendAt = Instant.distantFuture
  /// When the present question counts as not answered.
  var giveUpAt = Instant.distantFuture
  /// The wait before the last transmission.
  var interval = TimeAmount.zero
  var lastSent = Instant.distantPast
  var lastRecovery = Instant.distantPast
  var rest = PortMapperLimits.shortestRest
  /// An error said that it lasts until then.
  var refusedUntil = Instant.distantPast
  var attempts: [PortMappingAttempt] = []
  var pcpEpoch: PCPEpoch?
  var natPMPEpoch: NATPMPEpoch?
  /// The gateway's outside address as NAT-PMP told it.
  var natPMPAddress: IPAddress?
  /// A port granted before the address was known.
  var natPMPGrant: (port: UInt16, lifetime: UInt32)?
  /// Questions whose answers have not come: others are not taken for answers.
  var awaitsPCP = false
  var awaitsAddress = false
  var awaitsPort = false
  /// The driver has an order and has not answered.
  var isOrderOpen = false
  /// What was outside before: asked for again.
  var suggested: Endpoint?

  private var outgoing: [[UInt8]] = []
  private var events: [PortMapperEvent] = []

  package init(_ settings: PortMapperSettings, random: SeededRandom) {
    self.settings = settings
    self.random = random
  }

  /// The mapping that stands now.
  package var current: MappedPort? { lease?.port }

  // MARK: What the driver calls

  package mutating func start(now: Instant) {
    precondition(state == .idle)
    begin(now: now)
  }

  /// When `advance` must be called at the latest.
  package var nextDeadline: Instant {
    var next = min(sendAt, giveUpAt)
    if let lease { next = min(next, lease.expiresAt) }
    return next
  }

  /// Lets everything due happen.
  package mutating func advance(to now: Instant) {
    if let lease, lease.expiresAt <= now {
      lose(.expired, now: now)
      return
    }
    switch state {
    case .idle, .stopped: return
    case .asking(let way):
      if giveUpAt <= now {
        fail(way, .silent, now: now)
      } else if sendAt <= now {
        transmit(way, now: now)
        planRetransmission(way, now: now)
      }
    case .mapped:
      guard sendAt <= now, let way = lease?.port.protocol else { return }
      transmit(way, now: now)
      lease?.step += 1
      planRenewal(now: now)
    case .recovering:
      guard let way = lease?.port.protocol else { return }
      if giveUpAt <= now {
        lose(.stateLost, now: now)
      } else if sendAt <= now {
        transmit(way, now: now)
        planRetransmission(way, now: now)
      }
    case .resting:
      if sendAt <= now { begin(now: now) }
    }
  }

  /// The network changed, but the gateway and our address did not: the gateway
  /// may be another machine, or the same one after a restart.
  package mutating func refresh(now: Instant) { recover(after: .zero, now: now) }

  /// The gateway's kernel refused a packet (ICMP, not authenticated): nothing
  /// is given up for it, only a wait for the next protocol cut short.
  package mutating func unreachable(now: Instant) {
    guard case .asking(let way) = state, way != .upnp else { return }
    attempts.append(PortMappingAttempt(protocol: way, failure: .unreachable))
    // NAT-PMP is asked at the same port.
    askUPnP(now: now)
  }

  /// The driver's UPnP order succeeded.
  /// - Parameter lifetime: seconds; 0: the router knows permanent mappings only.
  package mutating func upnpMapped(_ external: Endpoint, lifetime: UInt32, now: Instant) {
    isOrderOpen = false
    switch state {
    case .asking(.upnp), .resting: break
    case .mapped, .recovering:
      guard lease?.port.protocol == .upnp else {
        drops.unexpected += 1
        return
      }
    case .idle, .stopped, .asking(.pcp), .asking(.natPMP):
      drops.unexpected += 1
      return
    }
    // A permanent one is looked after as often: a router that restarts forgets it too.
    let seconds = lifetime == 0 ? PortMapperLimits.requestedLifetime : lifetime
    grant(external, seconds: seconds, by: .upnp, now: now)
  }

  package mutating func upnpFailed(_ failure: PortMappingFailure, now: Instant) {
    isOrderOpen = false
    switch state {
    case .asking(.upnp): fail(.upnp, failure, now: now)
    case .recovering where lease?.port.protocol == .upnp: lose(.stateLost, now: now)
    case .idle, .stopped, .asking, .mapped, .recovering, .resting:
      // A renewal that failed is tried again before the lease ends.
      break
    }
  }

  /// Removes the mapping as far as one packet can, and ends for good. The
  /// driver sends what `pollTransmit` and `pollEvent` still give.
  package mutating func stop(now: Instant) {
    let asked: PortMappingProtocol? =
      if case .asking(let way) = state { way } else { nil }
    let way = lease?.port.protocol ?? asked
    outgoing.removeAll()
    switch way {
    case .pcp: remove(.pcp)
    case .natPMP: remove(.natPMP)
    case .upnp:
      if let port = lease?.port.external.port { emit(.upnp(.remove(externalPort: port))) }
    case nil: break
    }
    state = .stopped
    lease = nil
    sendAt = .distantFuture
    giveUpAt = .distantFuture
  }

  /// The next datagram for the gateway's port 5351, or nil.
  package mutating func pollTransmit() -> [UInt8]? {
    outgoing.isEmpty ? nil : outgoing.removeFirst()
  }

  package mutating func pollEvent() -> PortMapperEvent? {
    events.isEmpty ? nil : events.removeFirst()
  }

  // MARK: Rounds

  /// Begins a round with the best protocol.
  mutating func begin(now: Instant) {
    attempts.removeAll()
    natPMPAddress = nil
    natPMPGrant = nil
    awaitsPCP = false
    awaitsAddress = false
    awaitsPort = false
    ask(.pcp, patience: PortMapperLimits.pcpPatience, now: now)
  }

  private mutating func ask(
    _ way: PortMappingProtocol, patience: TimeAmount, now: Instant
  ) {
    state = .asking(way)
    giveUpAt = now + patience
    interval = .zero
    transmit(way, now: now)
    planRetransmission(way, now: now)
  }

  mutating func fail(_ way: PortMappingProtocol, _ failure: PortMappingFailure, now: Instant) {
    attempts.append(PortMappingAttempt(protocol: way, failure: failure))
    switch way {
    case .pcp:
      // Who refused by PCP has NAT-PMP's answer in the same table.
      let isRefusal = failure != .silent && failure != .unsupported
      if !settings.gateway.isV4 || isRefusal {
        askUPnP(now: now)
      } else {
        ask(.natPMP, patience: PortMapperLimits.natPMPPatience, now: now)
      }
    case .natPMP: askUPnP(now: now)
    case .upnp: takeRest(now: now)
    }
  }

  private mutating func askUPnP(now: Instant) {
    if settings.usesUPnP {
      ask(.upnp, patience: PortMapperLimits.upnpPatience, now: now)
    } else {
      takeRest(now: now)
    }
  }

  private mutating func takeRest(now: Instant) {
    state = .resting
    giveUpAt = .distantFuture
    let said = min(refusedUntil, now + PortMapperLimits.longestRest)
    sendAt = max(now + rest, said)
    emit(.unavailable(attempts, rest: sendAt - now))
    rest = min(rest * 2, PortMapperLimits.longestRest)
  }

  // MARK: Leases

  /// The gateway granted or renewed.
  mutating func grant(
    _ external: Endpoint, seconds: UInt32, by way: PortMappingProtocol, now: Instant
  ) {
    guard isUsable(external), seconds > 0 else {
      if lease != nil {
        lose(.noExternalAddress, now: now)
      } else if state == .asking(way) {
        fail(way, .noExternalAddress, now: now)
      } else {
        drops.unexpected += 1
      }
      return
    }
    if lease != nil { renewals += 1 }
    let lifetime = min(.seconds(Int64(seconds)), PortMapperLimits.longestLifetime)
    let port = MappedPort(external: external, lifetime: lifetime, protocol: way)
    lease = Lease(
      port: port, since: lease?.since ?? now, grantedAt: now, expiresAt: now + lifetime)
    suggested = external
    state = .mapped
    giveUpAt = .distantFuture
    rest = PortMapperLimits.shortestRest
    refusedUntil = .distantPast
    attempts.removeAll()
    planRenewal(now: now)
    emit(.mapped(port))
  }

  mutating func lose(_ failure: PortMappingFailure, now: Instant) {
    let stood = lease.map { now - $0.since } ?? .zero
    lease = nil
    emit(.lost(failure))
    if stood >= PortMapperLimits.briefLease {
      begin(now: now)
    } else {
      // A gateway that gives and takes must not make us ask without pause.
      takeRest(now: now)
    }
  }

  /// Asks for the mapping again, or begins a round: the gateway may have lost
  /// its state.
  mutating func recover(after delay: TimeAmount, now: Instant) {
    switch state {
    case .idle, .stopped, .asking, .recovering: return
    case .mapped, .resting: break
    }
    let allowed = lastRecovery + PortMapperLimits.refreshHold
    if allowed > now { heldBack += 1 }
    if lastRecovery <= now { lastRecovery = max(now + delay, allowed) }
    sendAt = min(lastRecovery, sendAt)
    // At rest: the round begins then.
    guard state == .mapped, let way = lease?.port.protocol else { return }
    state = .recovering
    interval = .zero
    giveUpAt =
      sendAt + (way == .upnp ? PortMapperLimits.upnpPatience : PortMapperLimits.recoveryPatience)
  }

  /// Somebody out there can send to it.
  private func isUsable(_ external: Endpoint) -> Bool {
    let address = external.address
    return external.port != 0 && address.isV4 == settings.gateway.isV4 && !address.isUnspecified
      && !address.isLoopback && !address.isMulticast && !address.isBroadcast
      && !address.isLinkLocal
  }

  // MARK: Times

  /// RFC 6887 §11.2.1: uniformly in 1/2…5/8 of the lifetime, then 3/4…13/16,
  /// 7/8…29/32 and so on, never closer than four seconds.
  private mutating func planRenewal(now: Instant) {
    guard let lease else { return }
    let length = lease.port.lifetime.nanoseconds
    let part = length >> Int64(min(lease.step, 40) + 1)
    let jitter = Int64.random(in: 0...max(0, part / 4), using: &random)
    let wanted = lease.grantedAt + .nanoseconds(length - part + jitter)
    sendAt = max(wanted, (lease.step == 0 ? now : lastSent) + PCPConstants.renewalGap)
    // Too late to help: what is left is its end.
    if sendAt >= lease.expiresAt { sendAt = .distantFuture }
  }

  private mutating func planRetransmission(_ way: PortMappingProtocol, now: Instant) {
    switch way {
    case .pcp:
      // §8.1.1: RT = (1 + RAND) * MIN (2 * RTprev, MRT), RAND in ±0.1.
      let base =
        interval == .zero
        ? PCPConstants.firstRetransmission
        : min(interval * 2, PCPConstants.longestRetransmission)
      let tenth = base.nanoseconds / 10
      interval = base + .nanoseconds(Int64.random(in: -tenth...tenth, using: &random))
    case .natPMP:
      interval = interval == .zero ? NATPMPConstants.firstRetransmission : interval * 2
    case .upnp:
      // An order is given once.
      sendAt = .distantFuture
      return
    }
    sendAt = now + interval
  }

  // MARK: Packets

  private mutating func transmit(_ way: PortMappingProtocol, now: Instant) {
    lastSent = now
    let lifetime = PortMapperLimits.requestedLifetime
    switch way {
    case .pcp:
      awaitsPCP = true
      queue(pcpRequest(lifetime: lifetime))
    case .natPMP:
      // The address is asked for every time: it may have changed.
      awaitsAddress = true
      awaitsPort = true
      queue(NATPMPRequest.externalAddress.encoded())
      queue(natPMPRequest(lifetime: lifetime))
    case .upnp:
      guard !isOrderOpen else { return }
      isOrderOpen = true
      emit(
        .upnp(
          .map(suggestedPort: suggested?.port ?? settings.internalPort, lifetime: lifetime)))
    }
  }

  private mutating func remove(_ way: PortMappingProtocol) {
    for _ in 0..<PortMapperLimits.removalCopies {
      queue(way == .pcp ? pcpRequest(lifetime: 0) : natPMPRequest(lifetime: 0))
    }
  }

  private func pcpRequest(lifetime: UInt32) -> [UInt8] {
    let isRemoval = lifetime == 0
    let anywhere = settings.client.isV4 ? IPAddress.anyV4 : .anyV6
    return PCPMapRequest(
      lifetime: lifetime, client: settings.client, nonce: settings.nonce,
      transport: settings.transport, internalPort: settings.internalPort,
      suggestedPort: isRemoval ? 0 : suggested?.port ?? settings.internalPort,
      suggestedAddress: isRemoval ? anywhere : suggested?.address ?? anywhere
    ).encoded()
  }

  private func natPMPRequest(lifetime: UInt32) -> [UInt8] {
    // RFC 6886 §3.4: removal has lifetime 0 and no wish.
    NATPMPRequest.map(
      transport: settings.transport, internalPort: settings.internalPort,
      suggestedPort: lifetime == 0 ? 0 : suggested?.port ?? settings.internalPort,
      lifetime: lifetime
    ).encoded()
  }

  private mutating func queue(_ bytes: [UInt8]) {
    precondition(outgoing.count < PortMapperLimits.outgoing, "packets are not drained")
    outgoing.append(bytes)
  }

  mutating func emit(_ event: PortMapperEvent) {
    precondition(events.count < PortMapperLimits.events, "events are not drained")
    events.append(event)
  }
}
