// Between Bytes' addresses and the C shims' struct.

internal import Bytes
internal import CLinux

extension martlet_endpoint {
  @inline(__always)
  init(_ endpoint: Endpoint) {
    self.init(high: endpoint.address.high, low: endpoint.address.low, port: endpoint.port)
  }

  @inline(__always)
  init(_ address: IPAddress) {
    self.init(high: address.high, low: address.low, port: 0)
  }

  @inline(__always)
  var endpoint: Endpoint { Endpoint(address, port) }
  @inline(__always)
  var address: IPAddress { IPAddress(high: high, low: low) }
}

/// The endpoint a socket is bound to.
func localEndpoint(of fd: Int32) -> Endpoint? {
  var out = martlet_endpoint()
  return unsafe martlet_local_endpoint(fd, &out) >= 0 ? out.endpoint : nil
}

/// The endpoint a socket is connected to.
func remoteEndpoint(of fd: Int32) -> Endpoint? {
  var out = martlet_endpoint()
  return unsafe martlet_remote_endpoint(fd, &out) >= 0 ? out.endpoint : nil
}
