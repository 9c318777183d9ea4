// The machine's links and addresses, read from the kernel by netlink, and a
// monitor that tells when they, or the routes, have changed. Host candidates
// come from here (DESIGN §2).

package import Bytes
internal import CLinux

/// An address of an interface.
package struct InterfaceAddress: Hashable, Sendable {
  package var address: IPAddress
  /// Bits of the network part: 0…32 or 0…128.
  package var prefix: Int
  /// Duplicate detection has not ended yet; cannot be bound.
  package var isTentative: Bool
  /// Duplicate detection found another owner.
  package var isDuplicate: Bool
  /// A privacy address (RFC 8981); changes within a day.
  package var isTemporary: Bool
  /// Not for new connections any more.
  package var isDeprecated: Bool
}

/// A link and its addresses.
package struct NetworkInterface: Hashable, Sendable {
  package var index: UInt32
  package var name: String
  package var isUp: Bool
  /// Has a carrier.
  package var isRunning: Bool
  package var isLoopback: Bool
  package var isPointToPoint: Bool
  package var mtu: Int
  package var addresses: [InterfaceAddress]
}

/// The way out of this machine.
package struct DefaultRoute: Hashable, Sendable {
  package var gateway: IPAddress
  /// Its `NetworkInterface.index`; an IPv6 gateway is mostly link-local and
  /// names nothing without it.
  package var interface: UInt32
}

package enum NetworkInterfaces {
  /// Every interface with its addresses, in the kernel's order. Some 100 µs.
  package static func current() throws(SystemError) -> [NetworkInterface] {
    let limit = ReactorLimits.interfaceEntries
    let entries = UnsafeMutablePointer<martlet_interface_address>.allocate(capacity: limit)
    defer { unsafe entries.deallocate() }
    let count = try check(unsafe martlet_interfaces(entries, Int32(limit)), "netlink")
    var result: [NetworkInterface] = []
    var places: [UInt32: Int] = [:]
    for at in 0..<Int(count) {
      let entry = unsafe entries[at]
      if entry.has_address == 0 {
        places[entry.index] = result.count
        result.append(NetworkInterface(entry))
      } else if let place = places[entry.index] {
        result[place].addresses.append(InterfaceAddress(entry))
      }
    }
    return result
  }

  /// Default routes through a gateway, both families, best metric first.
  package static func defaultRoutes() throws(SystemError) -> [DefaultRoute] {
    let limit = ReactorLimits.gateways
    let out = UnsafeMutablePointer<martlet_route>.allocate(capacity: limit)
    defer { unsafe out.deallocate() }
    let count = try check(unsafe martlet_default_routes(out, Int32(limit)), "netlink")
    return (0..<Int(count)).map {
      let route = unsafe out[$0]
      return DefaultRoute(gateway: route.gateway.address, interface: route.interface)
    }
  }

  /// The user that owns the far end of a loopback connection of ours; nil when
  /// that socket is gone or is not on this machine.
  /// - Parameters:
  ///   - local: our end (where the listener accepted it).
  ///   - remote: the far end.
  package static func userID(
    ofLoopbackConnection local: Endpoint, remote: Endpoint
  ) throws(SystemError) -> UInt32? {
    var far = martlet_endpoint(remote)
    var near = martlet_endpoint(local)
    var uid: UInt32 = 0
    let result = unsafe martlet_socket_owner(&far, &near, &uid)
    if result < 0, SystemError(-result, "netlink").isNotFound { return nil }
    try check(result, "netlink")
    return uid
  }
}

extension NetworkInterface {
  init(_ entry: martlet_interface_address) {
    // IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_RUNNING of <net/if.h>.
    let flags = entry.link_flags
    self.init(
      index: entry.index,
      name: unsafe withUnsafeBytes(of: entry.name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }, isUp: flags & 0x1 != 0, isRunning: flags & 0x40 != 0, isLoopback: flags & 0x8 != 0,
      isPointToPoint: flags & 0x10 != 0, mtu: Int(entry.mtu), addresses: [])
  }
}

extension InterfaceAddress {
  init(_ entry: martlet_interface_address) {
    // IFA_F_* of <linux/if_addr.h>; 0x01 means "secondary" with IPv4.
    let flags = entry.address_flags
    let address = entry.address.address
    self.init(
      address: address, prefix: Int(entry.prefix), isTentative: flags & 0x40 != 0,
      isDuplicate: flags & 0x08 != 0, isTemporary: !address.isV4 && flags & 0x01 != 0,
      isDeprecated: flags & 0x20 != 0)
  }
}

/// Tells a loop that links, addresses or routes have changed.
package final class NetworkMonitor: ReadinessHandler {
  private let loop: EventLoop
  private let fd: Int32
  private let settle: TimeAmount
  private var timer: LoopTimer?
  private var isSet = false

  /// - Parameters:
  ///   - settle: changes come in showers; `body` is called this long after the
  ///     first one.
  ///   - body: called on the loop; asks `NetworkInterfaces.current()` itself.
  package init(
    _ loop: EventLoop, settle: TimeAmount = .milliseconds(200), _ body: @escaping () -> Void
  ) throws(SystemError) {
    self.loop = loop
    self.settle = settle
    fd = try check(martlet_network_monitor(), "netlink")
    try loop.register(fd, self, for: .readable)
    timer = LoopTimer(loop) { [unowned self] in
      isSet = false
      body()
    }
  }

  package func close() {
    guard timer != nil else { return }
    timer = nil
    loop.deregister(fd)
    _ = martlet_close(fd)
  }

  package func ready(_ events: Readiness) {
    guard martlet_network_monitor_drain(fd) > 0, !isSet else { return }
    isSet = true
    timer?.set(at: loop.now + settle)
  }
}
