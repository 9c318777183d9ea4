/// Counts failed token logins, per address and per mesh, and says how long the
/// next one has to wait. Never looks at logins with a node secret: nothing can be
/// guessed there, and a known node must not be locked out by its neighbours.

#if canImport(Bytes)
  package import Bytes
#endif

package struct LoginThrottle: Sendable {
  private var addresses: [IPAddress: TokenBucket] = [:]
  private var meshes: [TokenBucket]
  /// Shared by all addresses that found the table full.
  private var crowd = Self.addressBucket

  /// - Parameter meshCount: meshes of this server, named by their index.
  package init(meshCount: Int) {
    precondition((1...LoginLimits.meshes).contains(meshCount))
    meshes = Array(
      repeating: TokenBucket(
        ratePerSecond: Double(LoginLimits.failuresPerMesh) / 60,
        burst: Double(LoginLimits.failuresPerMesh)),
      count: meshCount)
  }

  /// How long a token login from `address` has to wait; zero = go on.
  package func delay(for address: IPAddress, now: Instant) -> TimeAmount {
    var buckets = meshes
    if let bucket = addresses[Self.network(of: address)] {
      buckets.append(bucket)
    } else if addresses.count >= LoginLimits.throttledAddresses {
      buckets.append(crowd)
    }
    return buckets.reduce(.zero) { longest, bucket in
      var bucket = bucket
      return max(longest, bucket.wait(for: 1, now: now))
    }
  }

  /// A token login from `address` was tried against every mesh, and failed.
  package mutating func failed(_ address: IPAddress, now: Instant) {
    for index in meshes.indices { _ = meshes[index].take(now: now) }
    let key = Self.network(of: address)
    if addresses[key] == nil, addresses.count >= LoginLimits.throttledAddresses {
      forgetRecovered(now: now)
      if addresses.count >= LoginLimits.throttledAddresses {
        _ = crowd.take(now: now)
        return
      }
    }
    _ = addresses[key, default: Self.addressBucket].take(now: now)
  }

  /// Addresses remembered; for the server's statistics.
  package var addressCount: Int { addresses.count }

  private mutating func forgetRecovered(now: Instant) {
    addresses = addresses.filter { _, bucket in
      var bucket = bucket
      return bucket.wait(for: bucket.burst, now: now) > .zero
    }
  }

  private static var addressBucket: TokenBucket {
    TokenBucket(
      ratePerSecond: Double(LoginLimits.failuresPerAddress) / 60,
      burst: Double(LoginLimits.failuresPerAddress))
  }

  /// Who has one IPv6 address has its /64.
  private static func network(of address: IPAddress) -> IPAddress {
    address.isV4 ? address : IPAddress(high: address.high, low: 0)
  }
}
