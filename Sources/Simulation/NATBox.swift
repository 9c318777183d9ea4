/// A home's router as packets see it: which outside port a local one gets,
/// which packets from outside come in, and for how long. One type for every
/// `NATKind`; a firewall without translation is one of them. It knows no
/// links, hosts or clock, and draws from its own seed, so that the same calls
/// give the same answers. RFC 4787 §4–6; time-outs as Linux's conntrack has
/// them; `masq-open` as RECIPES R10 found it. Two routers in a row are two
/// boxes (`Site`).

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// How long a router remembers.
package struct NATTimers: Sendable {
  /// Until something came back (nf_conntrack_udp_timeout).
  package var unreplied = TimeAmount.seconds(30)
  /// After that (nf_conntrack_udp_timeout_stream).
  package var replied = TimeAmount.seconds(120)
  /// Only a flow older than this gets the longer time (nf_conntrack_proto_udp.c).
  package var streamAfter = TimeAmount.seconds(2)
  /// Packets from outside keep a mapping alive as well (RFC 4787 REQ-6 leaves it open).
  package var incomingRefreshes = true
  /// How long an unsolicited packet holds a port of a `masq-open` router.
  package var occupied = TimeAmount.seconds(30)

  package init() {}
}

package enum NATLimits {
  /// Mappings of one router at a time; more are refused.
  package static let mappings = 65_536
  /// Ports a router gives that does not keep the local one.
  package static let ports: ClosedRange<UInt16> = 1_024...65_535
  /// Draws before a free port is searched for in order.
  package static let draws = 32
}

/// Why a router dropped a packet.
package enum NATDrop: Int, CaseIterable, Sendable {
  case udpBlocked
  /// From outside, to a port nobody inside has.
  case noMapping
  /// From outside, to a mapped port, from somebody it is closed for.
  case filtered
  /// From inside to its own outside address, which it does not send back.
  case noHairpin
  case tooManyMappings
  case noPortLeft
  /// Not its address.
  case notMine
}

package enum NATVerdict: Hashable, Sendable {
  /// On towards the outside, with these addresses.
  case outside(source: Endpoint, destination: Endpoint)
  /// To a host inside.
  case inside(source: Endpoint, destination: Endpoint)
  case dropped(NATDrop)
}

package struct NATBox: Sendable {
  /// Whose mapping, and towards whom: `.none` for everybody, port 0 for every
  /// port of an address.
  private struct Key: Hashable {
    var inside: Endpoint
    var scope: Endpoint
  }

  /// One conversation over a mapping: what conntrack calls a connection.
  private struct Flow {
    var began: Instant
    var expires: Instant
    /// The first packet went out.
    var isOurs: Bool
    var isReplied = false
  }

  private struct Mapping {
    var outside: Endpoint
    var expires: Instant
    var flows: [Endpoint: Flow] = [:]
    /// Addresses that were sent to.
    var addresses: [IPAddress: Instant] = [:]
    var purgeAt = 64
  }

  /// A port that an unsolicited packet holds, towards its sender.
  private struct Occupation: Hashable {
    var port: UInt16
    var remote: Endpoint
  }

  package let kind: NATKind
  package var timers = NATTimers()
  package var maximumMappings = NATLimits.mappings
  /// The address outside; nil when nothing is translated.
  package private(set) var address: IPAddress?
  private var random: SeededRandom
  private var mappings: [Key: Mapping] = [:]
  private var keys: [UInt16: Key] = [:]
  private var occupied: [Occupation: Instant] = [:]
  /// Outside ports opened for good at a host's wish (docs/protocol/port-mapping.md).
  private var forwards: [UInt16: Endpoint] = [:]
  private var nextPort: UInt16?
  private var purgeAt = 256
  private var dropped = [UInt64](repeating: 0, count: NATDrop.allCases.count)

  /// - Parameter address: the router's own, outside; needed by kinds that translate IPv4.
  package init(kind: NATKind, address: IPAddress?, seed: UInt64) {
    precondition(kind.mapping != .unknown && kind.filtering != .unknown)
    precondition(!kind.translates || address != nil)
    self.kind = kind
    self.address = kind.translates ? address : nil
    random = SeededRandom(testSeed: seed)
  }

  // MARK: Packets

  /// A packet from inside that is not for a host inside.
  package mutating func outgoing(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> NATVerdict {
    guard kind.passesUDP else { return drop(.udpBlocked) }
    guard translates(source) else {
      return passFirewall(source: source, destination: destination, now: now)
    }
    if let address, let opened = forwards.first(where: { $0.value == source }) {
      return .outside(source: Endpoint(address, opened.key), destination: destination)
    }
    let isOwn = destination.address == address
    if isOwn, !kind.hairpins { return drop(.noHairpin) }
    let outside: Endpoint
    switch open(source, towards: destination, now: now) {
    case .success(let endpoint): outside = endpoint
    case .failure(let reason): return drop(reason)
    }
    // Who is called back sees the outside endpoint (RFC 4787 REQ-9a).
    if isOwn { return incoming(source: outside, destination: destination, now: now) }
    return .outside(source: outside, destination: destination)
  }

  /// A packet from outside.
  package mutating func incoming(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> NATVerdict {
    guard kind.passesUDP else { return drop(.udpBlocked) }
    guard translates(destination) else {
      return enterFirewall(source: source, destination: destination, now: now)
    }
    guard destination.address == address else { return drop(.notMine) }
    if let inside = forwards[destination.port] {
      return .inside(source: source, destination: inside)
    }
    let key = liveKey(of: destination.port, now: now)
    if let key, admits(key, source, kind.filtering, now: now) {
      touch(key, remote: source, isOutgoing: false, now: now)
      return .inside(source: source, destination: key.inside)
    }
    if kind.isOpen { occupy(destination.port, by: source, now: now) }
    return drop(key == nil ? .noMapping : .filtered)
  }

  /// The host that a packet to `outside` would go to if it were let in.
  package func host(behind outside: Endpoint, now: Instant) -> IPAddress? {
    guard translates(outside) else { return outside.address }
    return liveKey(of: outside.port, now: now)?.inside.address
  }

  package func drops(_ reason: NATDrop) -> UInt64 { dropped[reason.rawValue] }

  /// Mappings that are alive.
  package func mappingCount(now: Instant) -> Int {
    mappings.values.count { $0.expires > now }
  }

  /// Opens an outside port to everybody, as by PCP.
  package mutating func forward(port: UInt16, to inside: Endpoint) {
    precondition(kind.translates)
    forwards[port] = inside
  }

  // MARK: What happens to a router

  /// Switched off and on: it remembers nothing, and may have another address.
  package mutating func reboot(address new: IPAddress? = nil) {
    mappings.removeAll()
    keys.removeAll()
    occupied.removeAll()
    forwards.removeAll()
    nextPort = nil
    if let new, kind.translates { address = new }
  }

  /// Every mapping gets another port; who could come in still can.
  package mutating func rebind(now: Instant) {
    guard kind.translates else { return }
    let old = keys.values.filter { isAlive($0, now: now) && translates($0.inside) }
      .sorted { (mappings[$0]?.outside.port ?? 0) < (mappings[$1]?.outside.port ?? 0) }
    let former = keys
    for key in old {
      // Nobody's old port is given to another: a late packet would be misled.
      guard let port = drawPort(now: now, avoiding: { former[$0] != nil }),
        let mapping = mappings[key]
      else { continue }
      keys[mapping.outside.port] = nil
      mappings[key]?.outside.port = port
      keys[port] = key
    }
  }

  // MARK: Firewall

  private func translates(_ inside: Endpoint) -> Bool { kind.translates && inside.address.isV4 }

  /// A router that translates IPv4 still keeps strangers out of IPv6 (RFC 6092).
  private var firewallFiltering: NATFiltering {
    kind.translates ? .addressAndPortDependent : kind.filtering
  }

  private mutating func passFirewall(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> NATVerdict {
    if firewallFiltering != .endpointIndependent {
      let key = Key(inside: source, scope: .none)
      if !isAlive(key, now: now) {
        guard hasRoom(now: now) else { return drop(.tooManyMappings) }
        mappings[key] = Mapping(outside: source, expires: now)
      }
      touch(key, remote: destination, isOutgoing: true, now: now)
    }
    return .outside(source: source, destination: destination)
  }

  private mutating func enterFirewall(
    source: Endpoint, destination: Endpoint, now: Instant
  ) -> NATVerdict {
    if firewallFiltering != .endpointIndependent {
      let key = Key(inside: destination, scope: .none)
      guard isAlive(key, now: now) else { return drop(.noMapping) }
      guard admits(key, source, firewallFiltering, now: now) else { return drop(.filtered) }
      touch(key, remote: source, isOutgoing: false, now: now)
    }
    return .inside(source: source, destination: destination)
  }

  // MARK: Mappings

  private enum Opening {
    case success(Endpoint)
    case failure(NATDrop)
  }

  /// The outside endpoint of `inside` for a packet to `remote`.
  private mutating func open(
    _ inside: Endpoint, towards remote: Endpoint, now: Instant
  ) -> Opening {
    guard let address else { return .failure(.notMine) }
    let scope: Endpoint =
      switch kind.mapping {
      case .addressDependent: Endpoint(remote.address, 0)
      case .addressAndPortDependent: remote
      case .endpointIndependent, .none, .unknown: .none
      }
    var key = Key(inside: inside, scope: scope)
    // The way round an occupied port, once taken, is kept.
    let detour = Key(inside: inside, scope: remote)
    if kind.isOpen, isAlive(detour, now: now) { key = detour }
    if !isAlive(key, now: now) {
      guard hasRoom(now: now) else { return .failure(.tooManyMappings) }
      guard let port = allocatePort(for: inside, now: now) else { return .failure(.noPortLeft) }
      insert(key, Endpoint(address, port), now: now)
    }
    if kind.isOpen, key != detour, let port = mappings[key]?.outside.port,
      isOccupied(port, by: remote, now: now)
    {
      guard hasRoom(now: now) else { return .failure(.tooManyMappings) }
      guard let other = drawPort(now: now, avoiding: { $0 == port }) else {
        return .failure(.noPortLeft)
      }
      key = detour
      insert(key, Endpoint(address, other), now: now)
    }
    touch(key, remote: remote, isOutgoing: true, now: now)
    return .success(mappings[key]?.outside ?? .none)
  }

  private mutating func insert(_ key: Key, _ outside: Endpoint, now: Instant) {
    if let old = mappings[key], keys[old.outside.port] == key { keys[old.outside.port] = nil }
    if let dead = keys[outside.port] { mappings[dead] = nil }
    mappings[key] = Mapping(outside: outside, expires: now)
    keys[outside.port] = key
  }

  private func isAlive(_ key: Key, now: Instant) -> Bool {
    mappings[key].map { $0.expires > now } ?? false
  }

  private func liveKey(of port: UInt16, now: Instant) -> Key? {
    guard let key = keys[port], isAlive(key, now: now) else { return nil }
    return key
  }

  private func admits(
    _ key: Key, _ remote: Endpoint, _ filtering: NATFiltering, now: Instant
  ) -> Bool {
    guard let mapping = mappings[key] else { return false }
    switch filtering {
    case .endpointIndependent: return true
    case .addressDependent: return (mapping.addresses[remote.address] ?? .distantPast) > now
    case .addressAndPortDependent, .unknown:
      return (mapping.flows[remote]?.expires ?? .distantPast) > now
    }
  }

  /// A packet passed: the conversation is younger again.
  private mutating func touch(_ key: Key, remote: Endpoint, isOutgoing: Bool, now: Instant) {
    guard var mapping = mappings.removeValue(forKey: key) else { return }
    defer { mappings[key] = mapping }
    var flow = Flow(began: now, expires: now, isOurs: isOutgoing)
    if let known = mapping.flows[remote], known.expires > now { flow = known }
    if flow.isOurs != isOutgoing { flow.isReplied = true }
    if isOutgoing || timers.incomingRefreshes {
      let isStream = flow.isReplied && now - flow.began >= timers.streamAfter
      flow.expires = now + (isStream ? timers.replied : timers.unreplied)
      mapping.expires = max(mapping.expires, flow.expires)
      if isOutgoing || mapping.addresses[remote.address] != nil {
        mapping.addresses[remote.address] = max(
          mapping.addresses[remote.address] ?? .distantPast, flow.expires)
      }
    }
    mapping.flows[remote] = flow
    if mapping.flows.count >= mapping.purgeAt {
      mapping.flows = mapping.flows.filter { $0.value.expires > now }
      mapping.addresses = mapping.addresses.filter { $0.value > now }
      mapping.purgeAt = max(64, 2 * mapping.flows.count)
    }
  }

  /// Room for one more mapping, after the dead ones are swept out.
  private mutating func hasRoom(now: Instant) -> Bool {
    if mappings.count >= min(purgeAt, maximumMappings) {
      mappings = mappings.filter { $0.value.expires > now }
      let alive = mappings
      keys = keys.filter { alive[$0.value] != nil }
      occupied = occupied.filter { $0.value > now }
      purgeAt = max(256, 2 * mappings.count)
    }
    return mappings.count < maximumMappings
  }

  // MARK: Ports

  private func isFree(_ port: UInt16, now: Instant) -> Bool { liveKey(of: port, now: now) == nil }

  private mutating func allocatePort(for inside: Endpoint, now: Instant) -> UInt16? {
    switch kind.allocator {
    case .preserving:
      if isFree(inside.port, now: now) { return inside.port }
      return drawPort(now: now, avoiding: { $0 == inside.port })
    case .random:
      return drawPort(now: now, avoiding: { $0 == inside.port })
    case .sequential(let step):
      return countPort(step, now: now)
    }
  }

  /// A random free port; the next free one after it when most are taken.
  private mutating func drawPort(now: Instant, avoiding isUnwanted: (UInt16) -> Bool) -> UInt16? {
    var port = UInt16.random(in: NATLimits.ports, using: &random)
    for _ in 0..<NATLimits.draws {
      if isFree(port, now: now), !isUnwanted(port) { return port }
      port = .random(in: NATLimits.ports, using: &random)
    }
    for _ in NATLimits.ports {
      if isFree(port, now: now), !isUnwanted(port) { return port }
      port = Self.port(port, plus: 1)
    }
    return nil
  }

  private mutating func countPort(_ step: Int, now: Instant) -> UInt16? {
    var port = nextPort ?? .random(in: NATLimits.ports, using: &random)
    for _ in NATLimits.ports {
      nextPort = Self.port(port, plus: step)
      if isFree(port, now: now) { return port }
      port = Self.port(port, plus: step)
    }
    return nil
  }

  private static func port(_ port: UInt16, plus step: Int) -> UInt16 {
    let range = NATLimits.ports
    let count = Int(range.upperBound) - Int(range.lowerBound) + 1
    let moved = (Int(port) - Int(range.lowerBound) + step) % count
    return UInt16(Int(range.lowerBound) + (moved < 0 ? moved + count : moved))
  }

  // MARK: The open router

  private func isOccupied(_ port: UInt16, by remote: Endpoint, now: Instant) -> Bool {
    (occupied[Occupation(port: port, remote: remote)] ?? .distantPast) > now
  }

  private mutating func occupy(_ port: UInt16, by remote: Endpoint, now: Instant) {
    if occupied.count >= maximumMappings { occupied = occupied.filter { $0.value > now } }
    guard occupied.count < maximumMappings else { return }
    occupied[Occupation(port: port, remote: remote)] = now + timers.occupied
  }

  private mutating func drop(_ reason: NATDrop) -> NATVerdict {
    dropped[reason.rawValue] += 1
    return .dropped(reason)
  }
}
