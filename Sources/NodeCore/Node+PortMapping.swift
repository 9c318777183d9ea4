/// What a router opened for us becomes a candidate. The asking is the driver's
/// business (PortMapping, Agent); here is only the result.

#if canImport(Bytes)
  package import Bytes
  internal import Signaling
#endif

extension Node {
  /// The endpoint outside that leads to our UDP port, or nil when there is none
  /// any more. The server and relayed peers hear of a change at once.
  package func setPortMapping(_ endpoint: Endpoint?, now: Instant) {
    clock = now
    guard endpoint != portMapping else { return }
    portMapping = endpoint
    candidatesChanged(now: now)
    settle(now: now)
  }

  /// The same for the TCP port.
  package func setStreamPortMapping(_ endpoint: Endpoint?, now: Instant) {
    clock = now
    guard endpoint != streamPortMapping else { return }
    streamPortMapping = endpoint
    candidatesChanged(now: now)
    settle(now: now)
  }

  /// Told ahead of the reflexive ones: where the router kept the port both are
  /// one endpoint, the first name counts, and this one needs no punch.
  var portMappedCandidates: [SignalledCandidate] {
    guard let portMapping else { return [] }
    return [SignalledCandidate(kind: .portMapped, transport: .udp, endpoint: portMapping)]
  }

  var streamPortMappedCandidates: [SignalledCandidate] {
    guard let streamPortMapping, settings.listensTCP else { return [] }
    return [SignalledCandidate(kind: .portMapped, transport: .tcp, endpoint: streamPortMapping)]
  }
}
