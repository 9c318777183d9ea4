/// Questions of a NAT probe: sending and repeating them, believing their
/// answers, and which questions follow. RFC 8489 §6.2.1, §6.3; RFC 5780 §4.3, §4.4.

#if canImport(Bytes)
  internal import Bytes
#endif

extension NATProbe {
  var hasHeardUDP: Bool {
    asks.contains {
      switch $0.outcome {
      case .answered, .refused: true
      case .waiting, .silent: false
      }
    }
  }

  func outcome(_ role: Role) -> Outcome? { asks.first { $0.role == role }?.outcome }

  func answer(_ role: Role) -> Endpoint? {
    guard case .answered(let mapped) = outcome(role) else { return nil }
    return mapped
  }

  // MARK: Asking

  mutating func ask(
    _ role: Role, from socket: UInt32, _ destination: Endpoint, answerFrom source: Endpoint? = nil,
    now: Instant
  ) {
    asks.append(
      Ask(
        role: role, socket: socket, destination: destination, source: source ?? destination,
        transaction: STUNTransaction(&random), timeout: timeout, firstSent: now, lastSent: now,
        due: now))
    transmit(asks.count - 1, now: now)
  }

  private var timeout: TimeAmount {
    guard let roundTrip else { return NATProbeTunables.firstTimeout }
    return min(
      max(roundTrip * 3, NATProbeTunables.shortestTimeout), NATProbeTunables.longestTimeout)
  }

  /// Sends a question once more: at 0, 1, 3 and 7 time-outs, over after 9.
  mutating func transmit(_ index: Int, now: Instant) {
    var ask = asks[index]
    var message = STUNMessage(.request, ask.transaction)
    switch ask.role {
    case .changePort: message.change = .port
    case .changeBoth: message.change = [.address, .port]
    case .mainFirst, .mainSecond, .mainOther, .auxiliary, .counter: break
    }
    queue(
      NATProbeTransmit(
        socket: ask.socket, destination: ask.destination, bytes: message.encode()))
    ask.attempts += 1
    ask.lastSent = now
    let isLast = ask.attempts == allowedAttempts
    ask.due = now + (isLast ? ask.timeout * 2 : ask.timeout * (1 << Int64(ask.attempts - 1)))
    asks[index] = ask
  }

  // MARK: Answers

  /// A message of the right transaction for the question at `index`.
  mutating func receive(
    _ message: STUNMessage, for index: Int, from source: Endpoint, socket: UInt32, now: Instant
  ) {
    let ask = asks[index]
    guard socket == ask.socket else {
      drops.wrongSource &+= 1
      return
    }
    switch message.kind {
    case .success:
      guard source == ask.source else {
        drops.wrongSource &+= 1
        return
      }
      guard message.notUnderstood.isEmpty, let mapped = message.reflexive, isPlausible(mapped)
      else {
        drops.useless &+= 1
        return
      }
      asks[index].outcome = .answered(mapped)
      learn(ask, now: now)
      follow(ask.role, mapped, message, now: now)
    case .failure:
      // A refusal comes from whom we asked, not from where the answer should.
      guard source == ask.destination else {
        drops.wrongSource &+= 1
        return
      }
      asks[index].outcome = .refused
    case .request, .indication:
      drops.useless &+= 1
    }
  }

  /// An endpoint that could be ours outside.
  func isPlausible(_ mapped: Endpoint) -> Bool {
    let address = mapped.address
    return mapped.port != 0 && address.isV4 == settings.server.address.isV4
      && !address.isUnspecified && !address.isMulticast && !address.isBroadcast
  }

  /// A round trip, and with it a shorter wait for what is still open.
  private mutating func learn(_ ask: Ask, now: Instant) {
    // An answer to a repeated question may be to either sending (RFC 6298 §3).
    guard ask.attempts == 1 else { return }
    let sample = now - ask.firstSent
    roundTrip = min(roundTrip ?? sample, sample)
    for index in asks.indices where asks[index].outcome == .waiting {
      guard asks[index].timeout == NATProbeTunables.firstTimeout else { continue }
      asks[index].timeout = timeout
      let sooner = asks[index].lastSent + timeout * (1 << Int64(asks[index].attempts - 1))
      asks[index].due = max(now, min(asks[index].due, sooner))
    }
  }

  private mutating func follow(
    _ role: Role, _ mapped: Endpoint, _ message: STUNMessage, now: Instant
  ) {
    switch role {
    case .mainFirst, .mainSecond:
      tellMapped(mapped, role)
      hangUpAll()
      if phase == .probing, role == .mainFirst {
        askFurther(message, now: now)
        measureHops(mapped, now: now)
      }
    case .counter:
      hasToldMapped = true
      tell(.mapped(mapped, roundTrip: roundTrip))
    case .mainOther, .auxiliary, .changePort, .changeBoth:
      break
    }
  }

  /// Behind a symmetric NAT the two ports see different endpoints: one is told.
  private mutating func tellMapped(_ mapped: Endpoint, _ role: Role) {
    guard !hasToldMapped, phase == .probing || lastSeen(role) != mapped,
      outcome(.counter) == nil
    else { return }
    hasToldMapped = true
    tell(.mapped(mapped, roundTrip: roundTrip))
  }

  /// What the same question was answered by in the last probe.
  func lastSeen(_ role: Role) -> Endpoint? {
    let port = role == .mainFirst ? settings.server.udp1 : settings.server.udp2
    return report?.observations.first {
      $0.socket == settings.main.number
        && $0.server == Endpoint(settings.server.address, port)
    }?.mapped
  }

  /// The first port has answered: it can be asked to answer from elsewhere, at
  /// sockets that have sent nothing there.
  private mutating func askFurther(_ message: STUNMessage, now: Instant) {
    let server = settings.server
    let first = Endpoint(server.address, server.udp1)
    other = message.otherAddress.flatMap { isSecondAddress($0) ? $0 : nil }
    if let other { ask(.mainOther, from: settings.main.number, other, now: now) }
    guard let one = settings.auxiliary.first else { return }
    ask(
      .changePort, from: one.number, first, answerFrom: Endpoint(server.address, server.udp2),
      now: now)
    if let other {
      let two = settings.auxiliary.dropFirst().first ?? one
      ask(.changeBoth, from: two.number, first, answerFrom: other, now: now)
    }
  }

  /// The auxiliary sockets have spoken to the first port already: nothing that
  /// shows a NAT's behaviour is changed by more of it.
  private mutating func measureHops(_ mapped: Endpoint, now: Instant) {
    guard hops == nil, !settings.auxiliary.isEmpty else { return }
    hops = HopProbe(
      destination: Endpoint(settings.server.address, settings.server.udp1),
      sockets: settings.auxiliary.map(\.number), outside: mapped.address,
      localAddresses: settings.localAddresses, roundTrip: roundTrip, random: &random, now: now)
  }

  /// Nobody vouches for what the server names: one question to an address of
  /// the server's own kind, no more.
  private func isSecondAddress(_ named: Endpoint) -> Bool {
    let server = settings.server.address
    return isPlausible(named) && named.address != server
      && named.address.isLoopback == server.isLoopback
      && named.address.isPrivate == server.isPrivate
      && named.address.isLinkLocal == server.isLinkLocal
  }

  // MARK: Hairpin

  mutating func beginHairpin(_ now: Instant) {
    guard hairpin == nil, let last = settings.auxiliary.indices.last,
      let first = answer(.mainFirst), first == answer(.mainSecond), !isOwn(first, settings.main),
      let auxiliary = answer(.auxiliary(last))
    else { return }
    hairpin = Hairpin(
      auxiliary: settings.auxiliary[last].number, mainMapped: first, auxiliaryMapped: auxiliary,
      mainToken: STUNTransaction(&random), auxiliaryToken: STUNTransaction(&random), due: now)
    advanceHairpin(now)
  }

  mutating func advanceHairpin(_ now: Instant) {
    guard var pin = hairpin, pin.works == nil, pin.due <= now else { return }
    if pin.attempts == NATProbeTunables.hairpinAttempts {
      pin.works = false
    } else {
      // Each side's packet opens its own way in, as two peers' would.
      queue(
        NATProbeTransmit(
          socket: settings.main.number, destination: pin.auxiliaryMapped,
          bytes: STUNMessage(.indication, pin.mainToken).encode()))
      queue(
        NATProbeTransmit(
          socket: pin.auxiliary, destination: pin.mainMapped,
          bytes: STUNMessage(.indication, pin.auxiliaryToken).encode()))
      pin.due = now + NATProbeTunables.hairpinTimeout * (1 << Int64(pin.attempts))
      pin.attempts += 1
    }
    hairpin = pin
  }

  /// Whether this is one of our tokens, come back at the other socket. Any
  /// source is right: some NATs show the inside one.
  mutating func receiveToken(
    _ transaction: STUNTransaction, _ bytes: RawSpan, socket: UInt32
  ) -> Bool {
    guard let pin = hairpin else { return false }
    let isMain = socket == settings.main.number && transaction == pin.auxiliaryToken
    let isAuxiliary = socket == pin.auxiliary && transaction == pin.mainToken
    guard isMain || isAuxiliary else { return false }
    hairpin?.works = true
    return true
  }

  func isOwn(_ mapped: Endpoint, _ socket: NATProbeSocket) -> Bool {
    mapped.port == socket.localPort && settings.localAddresses.contains(mapped.address)
  }
}
