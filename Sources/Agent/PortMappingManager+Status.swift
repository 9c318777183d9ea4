/// What is known of port mapping, for people and programs: who was asked, what
/// was opened by which protocol and for how long still, or why nothing was.
/// docs/protocol/port-mapping.md "Shown".

internal import Bytes
internal import HTTP
internal import NodeCore
internal import PortMapping
internal import Reactor

extension PortMappingManager {
  /// One gateway, asked from one of our addresses.
  struct Status {
    var gateway: IPAddress
    var client: Endpoint
    var transport: MappedTransport
    var mapped: MappedPort?
    /// Offered in place of the TCP port we listen at, and not taken.
    var otherPort: UInt16?
    /// What is left of the lease.
    var left: TimeAmount?
    /// Of the last round without a mapping.
    var attempts: [PortMappingAttempt]
    /// Until the next round.
    var rest: TimeAmount?
    /// Why the last mapping ended, when none stands.
    var lost: PortMappingFailure?
  }

  var statuses: [Status] {
    let now = loop.now
    let port = agent.node.settings.port
    return entries.map { entry in
      let mapped = entry.reported
      return Status(
        gateway: entry.place.gateway, client: Endpoint(entry.place.client, port),
        transport: entry.transport, mapped: mapped, otherPort: entry.otherPort,
        left: mapped.map { max(.zero, entry.grantedAt + $0.lifetime - now) },
        attempts: mapped == nil ? entry.attempts : [],
        rest: mapped == nil && entry.asksAgainAt < .distantFuture
          ? max(.zero, entry.asksAgainAt - now) : nil,
        lost: mapped == nil ? entry.lost : nil)
    }
  }

  /// `portMapping` of the API; with `manager` nil it is switched off.
  static func describe(_ manager: PortMappingManager?) -> JSONValue {
    guard let manager else {
      return ["enabled": false, "gateways": .array([]), "words": "off (-no-port-mapping)"]
    }
    let statuses = manager.statuses
    let words =
      statuses.isEmpty
      ? "nobody to ask: no default gateway, or our address is public"
      : statuses.map(words).joined(separator: "; ")
    return [
      "enabled": true, "gateways": .array(statuses.map(describe)), "words": .string(words),
    ]
  }

  private static func describe(_ status: Status) -> JSONValue {
    let isAsked = status.attempts.isEmpty && status.otherPort == nil
    let state = status.mapped != nil ? "mapped" : isAsked ? "asking" : "unavailable"
    return [
      "gateway": .string(status.gateway.description),
      "internal": .string(status.client.description),
      "transport": .string(status.transport.words), "state": .string(state),
      "protocol": status.mapped.map { .string($0.protocol.words) } ?? .null,
      "external": status.mapped.map { .string($0.external.description) } ?? .null,
      "lifetimeLeftSeconds": status.left.map { JSONValue(Int($0.inSeconds)) } ?? .null,
      "behindAnotherNAT": .bool(status.mapped?.isBehindAnotherNAT ?? false),
      "attempts": .array(
        status.attempts.map {
          ["protocol": .string($0.protocol.words), "failure": .string($0.failure.words)]
        }),
      "lost": status.lost.map { .string($0.words) } ?? .null,
      "askedAgainInSeconds": status.rest.map { JSONValue(Int($0.inSeconds)) } ?? .null,
      "words": .string(words(status)),
    ]
  }

  private static func words(_ status: Status) -> String {
    let tcp = status.transport == .tcp ? "TCP " : ""
    if let mapped = status.mapped, let left = status.left {
      return
        "\(status.gateway) opened \(tcp)\(mapped.external) by \(mapped.protocol.words), \(Int(left.inSeconds)) s left"
        + (mapped.isBehindAnotherNAT ? " (a private address: another NAT is in front of it)" : "")
    }
    if let other = status.otherPort {
      return "\(status.gateway) opens no TCP port but \(other), which peers may not dial"
    }
    if status.attempts.isEmpty {
      let lost = status.lost.map { "; the last mapping was lost: \($0.words)" } ?? ""
      return "\(status.gateway) is being asked\(tcp.isEmpty ? "" : " for TCP")\(lost)"
    }
    let tried = status.attempts.map { "\($0.protocol.words): \($0.failure.words)" }
      .joined(separator: ", ")
    let again = status.rest.map { "; asked again in \(Int($0.inSeconds)) s" } ?? ""
    return "\(status.gateway) opened \(tcp.isEmpty ? "nothing" : "no TCP port") (\(tried))\(again)"
  }
}
