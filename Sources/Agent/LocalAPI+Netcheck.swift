/// `/api/netcheck`: what this node knows of its own network. GET answers with
/// what is known; POST probes anew and answers when that is over, in < 6 s.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import NAT
internal import NodeCore
internal import Reactor
internal import STUN

extension LocalAPI {
  /// How often a running probe is looked at, and how long at most.
  static let netcheckStep = TimeAmount.milliseconds(50)
  static let netcheckSteps = 130

  func netcheck(_ request: HTTPRequest, _ answer: @escaping Answer) {
    switch request.method {
    case .get: answer(.json(networkReport))
    case .post:
      agent.node.probeNetwork(now: agent.loop.now)
      answerWhenProbed(stepsLeft: Self.netcheckSteps, answer)
    default: answer(Self.error(405, "only GET and POST"))
    }
  }

  private func answerWhenProbed(stepsLeft: Int, _ answer: @escaping Answer) {
    let isRunning = agent.node.networkReports().contains { $0.isRunning }
    guard isRunning, stepsLeft > 0 else { return answer(.json(networkReport)) }
    _ = agent.loop.schedule(after: Self.netcheckStep) { [weak self] in
      self?.answerWhenProbed(stepsLeft: stepsLeft - 1, answer)
    }
  }

  private var networkReport: JSONValue {
    let now = agent.loop.now
    let reports = agent.node.networkReports()
    return [
      "port": JSONValue(agent.node.settings.port),
      "server": .string(agent.options.serverHost),
      "portMapping": PortMappingManager.describe(agent.portMapping),
      "families": .array(
        reports.map { report in
          var value: JSONObject = [
            "family": .string(report.isV4 ? "IPv4" : "IPv6"), "present": .bool(report.isPresent),
            "stun": report.server.map { .string($0.address.description) } ?? .null,
            "running": .bool(report.isRunning),
            "mapped": report.mapped.map { .string($0.description) } ?? .null,
            "rttMs": report.report?.roundTrip.map { JSONValue($0.inMilliseconds) } ?? .null,
            "tcpMapped": .array(
              (report.report?.tcpMapped ?? []).map { .string($0.description) }),
            "ageMs": report.probedAt.map { JSONValue((now - $0).nanoseconds / 1_000_000) } ?? .null,
            "idlePingSeconds": JSONValue(report.idlePing.inSeconds.rounded()),
            "forgottenAfterSeconds": report.forgottenAfter.map {
              JSONValue($0.inSeconds.rounded())
            } ?? .null,
            "routers": Self.describe(report.report?.hops), "nat": Self.describe(report.facts),
          ]
          if report.isPresent, report.server != nil, !report.isRunning {
            let advice = NetworkText.advice(report.facts)
            value["advice"] = .string(advice.rawValue)
            value["adviceWords"] = NetworkText.words(advice).map { .string($0) } ?? .null
          }
          return .object(value)
        }),
    ]
  }

  /// How many routers of ours stand before the public network, as openers use it.
  static func describe(_ hops: HopReport?) -> JSONValue {
    [
      "ours": hops?.opener.map { JSONValue($0 - 1) } ?? .null,
      "openerTimeToLive": JSONValue(hops?.opener ?? HopLimits.openers.lowerBound),
      "answered": .array(
        (hops?.routers ?? []).map { $0.map { .string($0.description) } ?? .null }),
    ]
  }

  /// NAT facts as JSON; `type` is the number INP2P knows.
  static func describe(_ facts: NATFacts) -> JSONValue {
    [
      "type": JSONValue(facts.type), "mapping": .string(facts.mapping.code),
      "filtering": .string(facts.filtering.code),
      "preservesPort": facts.preservesPort.map { .bool($0) } ?? .null,
      "allocatorStep": JSONValue(facts.allocatorStep),
      "hairpins": facts.hairpins.map { .bool($0) } ?? .null,
      "udpBlocked": .bool(facts.isUDPBlocked), "words": .string(NetworkText.words(facts)),
    ]
  }
}
