/// Finds out how a home's way out behaves with nothing but sockets inside and
/// outside, as a STUN client with two server addresses would (RFC 5780 §4.3,
/// §4.4, §4.5). The same questions are put to the boxes of the simulator and
/// to the routers of the lab, so that one table holds for both. Must never
/// look into what it probes.

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(NAT)
  package import NAT
#endif

/// Where the questions are asked.
package protocol NATGround {
  /// The host inside.
  var inside: IPAddress { get }
  /// Two addresses outside, two ports each: a1p1, a1p2, a2p1, a2p2.
  var remotes: [Endpoint] { get }
  /// A local port never used before.
  mutating func freshPort() -> UInt16
  /// The inside host sends to one of `remotes`. What that one sees as the source.
  mutating func sendOut(from port: UInt16, to remote: Endpoint) -> Endpoint?
  /// One of `remotes` sends. The local port at which it arrives.
  mutating func sendIn(from remote: Endpoint, to outside: Endpoint) -> UInt16?
  /// The inside host sends to an outside endpoint of its own. Where it comes
  /// back, and as whose.
  mutating func sendBack(from port: UInt16, to outside: Endpoint) -> (
    port: UInt16, source: Endpoint
  )?
}

/// What was seen.
package struct NATBehaviour: Hashable, Sendable {
  package var passesUDP = true
  package var mapping = NATMapping.unknown
  package var filtering = NATFiltering.unknown
  package var preservesPort = false
  /// Difference of successive outside ports where it is constant; else 0.
  package var step = 0
  package var hairpins = false
  /// What comes back from its own outside shows the outside as its source.
  package var hairpinShowsOutside = false
  /// A packet that nobody asked for takes the port away, towards its sender.
  package var losesPort = false

  package init() {}

  package init(
    _ mapping: NATMapping, _ filtering: NATFiltering, preservesPort: Bool = true, step: Int = 0,
    hairpins: Bool = false, losesPort: Bool = false
  ) {
    self.mapping = mapping
    self.filtering = filtering
    self.preservesPort = preservesPort
    self.step = step
    self.hairpins = hairpins
    hairpinShowsOutside = hairpins
    self.losesPort = losesPort
  }

  package static var blocked: NATBehaviour {
    var result = NATBehaviour()
    result.passesUDP = false
    return result
  }
}

package enum NATProber {
  /// Fresh ports asked whether they are kept.
  static let portsAsked = 3

  package static func probe<Ground: NATGround>(_ ground: inout Ground) -> NATBehaviour {
    var found = NATBehaviour()
    let remotes = ground.remotes
    precondition(remotes.count == 4)

    // Mapping: one port, three remotes that differ in port, then in address.
    let port = ground.freshPort()
    guard let first = ground.sendOut(from: port, to: remotes[0]),
      let otherPort = ground.sendOut(from: port, to: remotes[1]),
      let otherAddress = ground.sendOut(from: port, to: remotes[2]),
      let last = ground.sendOut(from: port, to: remotes[3])
    else { return .blocked }
    if first == Endpoint(ground.inside, port) {
      found.mapping = .none
    } else if first == otherAddress, first == otherPort {
      found.mapping = .endpointIndependent
    } else {
      found.mapping = first == otherPort ? .addressDependent : .addressAndPortDependent
    }
    if found.mapping == .addressAndPortDependent {
      let ports = [first, otherPort, otherAddress, last].map { Int($0.port) }
      let steps = zip(ports, ports.dropFirst()).map { $1 - $0 }
      if steps.allSatisfy({ $0 == steps[0] }) { found.step = steps[0] }
    }

    // Filtering: who may come in where one remote was sent to.
    let open = ground.freshPort()
    if let outside = ground.sendOut(from: open, to: remotes[0]) {
      if ground.sendIn(from: remotes[3], to: outside) == open {
        found.filtering = .endpointIndependent
      } else if ground.sendIn(from: remotes[1], to: outside) == open {
        found.filtering = .addressDependent
      } else if ground.sendIn(from: remotes[0], to: outside) == open {
        found.filtering = .addressAndPortDependent
      }
    }

    var kept = 0
    for _ in 0..<portsAsked {
      let local = ground.freshPort()
      if ground.sendOut(from: local, to: remotes[0])?.port == local { kept += 1 }
    }
    found.preservesPort = kept == portsAsked

    // A stranger knocks before we speak to it.
    let late = ground.freshPort()
    if found.mapping.isStable, let before = ground.sendOut(from: late, to: remotes[0]),
      ground.sendIn(from: remotes[3], to: before) == nil,
      let after = ground.sendOut(from: late, to: remotes[3])
    {
      found.losesPort = after != before
    }

    let own = ground.freshPort()
    if let outside = ground.sendOut(from: own, to: remotes[0]),
      let back = ground.sendBack(from: own, to: outside)
    {
      found.hairpins = back.port == own
      found.hairpinShowsOutside = back.source == outside
    }
    return found
  }
}
