// Port mapping by UPnP-IGD through miniupnpc: which routers there are, and what
// one of them is asked. Every call here blocks for seconds: a worker thread's
// work, never the loop's. Believes only routers on our own link, and talks to
// the address that answered, wherever a description points. UPnP IGD 1 and 2.

package import Bytes
internal import CMiniUPnPc

package enum UPnPLimits {
  /// How long answers to the search are waited for.
  static let searchMilliseconds: Int32 = 2000
  /// Answers looked at, and descriptions read; anybody on the link may answer.
  static let answers = 64
  static let routers = 4
  /// Other ports outside that are tried when one is taken.
  package static let alternatives = 4
  static let descriptionBytes = 64
}

/// Why there is no mapping by UPnP.
package enum UPnPFailure: Error, Hashable, Sendable {
  /// Nobody on the link says that it is a router.
  case noRouter
  /// The time given was up between two calls.
  case late
  /// The router has no address outside.
  case noExternalAddress
  /// Every port tried outside belongs to another host.
  case conflict
  /// The router's own code, or miniupnpc's (below zero).
  case refused(code: Int32)

  package var words: String {
    switch self {
    case .noRouter: return "no router on this link speaks it"
    case .late: return "the router takes too long"
    case .noExternalAddress: return "the router has no address outside"
    case .conflict: return "the router's ports are taken by other hosts"
    case .refused(let code):
      guard let text = unsafe strupnperror(code) else { return "refused with code \(code)" }
      return unsafe "refused with code \(code) (\(String(cString: text)))"
    }
  }
}

/// What is to be mapped.
package struct UPnPRequest: Sendable {
  /// Asked first when several routers answer.
  package var gateway: IPAddress
  /// Our address on the link, and the bits of its network: routers elsewhere
  /// are not believed.
  package var client: IPAddress
  package var prefix: Int
  /// "UDP" or "TCP".
  package var transport: String
  package var internalPort: UInt16
  /// Outside, best first; the first is what we had, if anything.
  package var externalPorts: [UInt16]
  /// Seconds.
  package var lifetime: UInt32
  /// Shown by the router to its owner.
  package var description: String

  package init(
    gateway: IPAddress, client: IPAddress, prefix: Int, transport: String, internalPort: UInt16,
    externalPorts: [UInt16], lifetime: UInt32, description: String
  ) {
    self.gateway = gateway
    self.client = client
    self.prefix = prefix
    self.transport = transport
    self.internalPort = internalPort
    self.externalPorts = externalPorts
    self.lifetime = lifetime
    // Text that no router's XML can stumble over.
    self.description = String(
      decoding: description.utf8.map { byte in
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
          || [0x20, 0x2d, 0x2e, 0x5f].contains(byte) ? byte : UInt8(ascii: "_")
      }.prefix(UPnPLimits.descriptionBytes), as: UTF8.self)
  }
}

/// A mapping that the router made, and how to reach the router again.
package struct UPnPMapping: Sendable {
  package var external: Endpoint
  /// Seconds; 0: until it is removed.
  package var lifetime: UInt32
  package var router: UPnPRouter
  var internalPort: UInt16
  var transport: String

  /// Takes it back. Blocks. Another host's mapping at the same port stays.
  package func remove() {
    let port = String(external.port)
    if let owner = router.owner(of: port, transport) {
      guard owner.client == router.localAddress, owner.port == String(internalPort) else { return }
    }
    _ = unsafe UPNP_DeletePortMapping(
      router.controlURL, router.serviceType, port, transport, nil)
  }
}

/// A router that answered, by the address it answered from.
package struct UPnPRouter: Hashable, Sendable {
  package let address: IPAddress
  let controlURL: String
  let serviceType: String
  /// Ours, as the router's connection has it.
  let localAddress: String

  /// Makes or renews a mapping. Blocks.
  /// - Parameters:
  ///   - known: the router of the last mapping; asked without a new search.
  ///   - isWanted: asked between calls; false ends with `.late`.
  package static func map(
    _ request: UPnPRequest, known: UPnPRouter?, isWanted: () -> Bool
  ) -> Result<UPnPMapping, UPnPFailure> {
    var failure = UPnPFailure.noRouter
    if let known {
      do throws(UPnPFailure) {
        return .success(try known.map(request, isWanted: isWanted))
      } catch {
        // It may have moved, or be another machine by now: a search will tell.
        failure = error
      }
    }
    do throws(UPnPFailure) {
      for router in try search(request, isWanted: isWanted) {
        do throws(UPnPFailure) {
          return .success(try router.map(request, isWanted: isWanted))
        } catch {
          failure = error
          if error == .late { break }
        }
      }
    } catch {
      failure = error
    }
    return .failure(failure)
  }

  // MARK: Search

  /// Routers of our link: connected ones with a public address first, among
  /// equals the default gateway.
  private static func search(
    _ request: UPnPRequest, isWanted: () -> Bool
  ) throws(UPnPFailure) -> [UPnPRouter] {
    var urls: [(url: String, host: IPAddress)] = []
    let list = unsafe martlet_igd_discover(
      request.client.description, UPnPLimits.searchMilliseconds)
    var device = unsafe list
    var seen = 0
    while let entry = unsafe device, seen < UPnPLimits.answers {
      seen += 1
      if let text = unsafe entry.pointee.descURL {
        let url = unsafe String(cString: text)
        if let host = host(of: url), isOnLink(host, request),
          !urls.contains(where: { $0.url == url })
        {
          urls.append((url, host))
        }
      }
      unsafe device = entry.pointee.pNext
    }
    unsafe freeUPNPDevlist(list)
    // Stable: the gateway's come first whoever answered faster.
    let ordered =
      urls.filter { $0.host == request.gateway } + urls.filter { $0.host != request.gateway }
    var found: [(rank: Int, router: UPnPRouter)] = []
    for (url, host) in ordered.prefix(UPnPLimits.routers) {
      guard isWanted() else { throw .late }
      guard let router = UPnPRouter(url: url, host: host),
        !found.contains(where: { $0.router == router })
      else { continue }
      found.append((router.rank, router))
    }
    return found.enumerated().sorted {
      ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset)
    }.map(\.element.router)
  }

  private static func isOnLink(_ host: IPAddress, _ request: UPnPRequest) -> Bool {
    host == request.gateway
      || request.prefix > 0 && host.matches(request.client, prefix: request.prefix)
        && host != request.client
  }

  /// The literal IPv4 address in `http://ADDRESS[:PORT]/…`.
  static func host(of url: String) -> IPAddress? {
    guard url.hasPrefix("http://") else { return nil }
    let host = url.dropFirst(7).prefix { $0 != "/" && $0 != ":" }
    guard let address = IPAddress(host), address.isV4 else { return nil }
    return address
  }

  /// Reads the description; nil when it has no service for ports, or sends us
  /// to another host.
  private init?(url: String, host: IPAddress) {
    var control = [CChar](repeating: 0, count: Int(MARTLET_IGD_URL))
    var service = [CChar](repeating: 0, count: Int(MARTLET_IGD_SERVICE))
    var local = [CChar](repeating: 0, count: Int(MARTLET_IGD_ADDRESS))
    guard unsafe martlet_igd_describe(url, &control, &service, &local) == 1 else { return nil }
    address = host
    controlURL = Self.text(control)
    serviceType = Self.text(service)
    localAddress = Self.text(local)
    guard Self.host(of: controlURL) == host, IPAddress(localAddress)?.isV4 == true else {
      return nil
    }
  }

  /// 0: connected, public; 1: connected, private; 2: not connected.
  private var rank: Int {
    var status = [CChar](repeating: 0, count: 128)
    var error = [CChar](repeating: 0, count: 128)
    var uptime: UInt32 = 0
    guard
      unsafe UPNP_GetStatusInfo(controlURL, serviceType, &status, &uptime, &error)
        == UPNPCOMMAND_SUCCESS, Self.text(status) == "Connected", let address = externalAddress
    else { return 2 }
    return address.isPrivate || address.isUnspecified ? 1 : 0
  }

  // MARK: Mapping

  private func map(
    _ request: UPnPRequest, isWanted: () -> Bool
  ) throws(UPnPFailure) -> UPnPMapping {
    guard let address = externalAddress, !address.isUnspecified else { throw .noExternalAddress }
    var failure = UPnPFailure.conflict
    for port in request.externalPorts.prefix(1 + UPnPLimits.alternatives) {
      guard isWanted() else { throw .late }
      do throws(UPnPFailure) {
        let (port, lifetime) = try add(port, request)
        return UPnPMapping(
          external: Endpoint(address, port), lifetime: lifetime, router: self,
          internalPort: request.internalPort, transport: request.transport)
      } catch {
        failure = error
        guard error == .conflict else { break }
      }
    }
    throw failure
  }

  private func add(
    _ port: UInt16, _ request: UPnPRequest
  ) throws(UPnPFailure) -> (port: UInt16, lifetime: UInt32) {
    let wanted = String(port)
    let inside = String(request.internalPort)
    let owner = owner(of: wanted, request.transport)
    // Some routers would give away another host's port without a word.
    if let owner, owner.client != localAddress || owner.port != inside { throw .conflict }
    // Only what is new may be given another port.
    if serviceType.hasSuffix(":2"), owner == nil {
      var reserved = [CChar](repeating: 0, count: 64)
      let code = unsafe UPNP_AddAnyPortMapping(
        controlURL, serviceType, wanted, inside, localAddress, request.description,
        request.transport, nil, String(request.lifetime), &reserved)
      if code == UPNPCOMMAND_SUCCESS {
        return (UInt16(Self.text(reserved)) ?? port, request.lifetime)
      }
    }
    var lifetime = request.lifetime
    var code = addExactly(wanted, request, lifetime)
    if code == 725 {
      // OnlyPermanentLeasesSupported; removed when the agent stops.
      lifetime = 0
      code = addExactly(wanted, request, lifetime)
    }
    switch code {
    case UPNPCOMMAND_SUCCESS: return (port, lifetime)
    // ConflictInMappingEntry, SamePortValuesRequired, ConflictWithOtherMechanisms.
    case 718, 724, 729: throw .conflict
    default: throw .refused(code: code)
    }
  }

  private func addExactly(_ port: String, _ request: UPnPRequest, _ lifetime: UInt32) -> Int32 {
    unsafe UPNP_AddPortMapping(
      controlURL, serviceType, port, String(request.internalPort), localAddress,
      request.description, request.transport, nil, String(lifetime))
  }

  private var externalAddress: IPAddress? {
    var text = [CChar](repeating: 0, count: 64)
    guard
      unsafe UPNP_GetExternalIPAddress(controlURL, serviceType, &text) == UPNPCOMMAND_SUCCESS
    else { return nil }
    return IPAddress(Self.text(text))
  }

  /// Whose mapping stands at a port outside; nil when there is none, or the
  /// router does not say.
  fileprivate func owner(of port: String, _ transport: String) -> (client: String, port: String)? {
    // The library writes up to 16, 6, 80, 4 and 16 bytes.
    var client = [CChar](repeating: 0, count: 64)
    var inside = [CChar](repeating: 0, count: 64)
    var description = [CChar](repeating: 0, count: 128)
    var enabled = [CChar](repeating: 0, count: 64)
    var lease = [CChar](repeating: 0, count: 64)
    guard
      unsafe UPNP_GetSpecificPortMappingEntry(
        controlURL, serviceType, port, transport, nil, &client, &inside, &description, &enabled,
        &lease) == UPNPCOMMAND_SUCCESS
    else { return nil }
    return (Self.text(client), Self.text(inside))
  }

  /// What a C function left in a buffer; the last byte is never its to use.
  private static func text(_ buffer: [CChar]) -> String {
    String(
      decoding: buffer.dropLast().prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
