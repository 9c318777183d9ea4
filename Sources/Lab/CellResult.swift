/// One run of one cell as a value, and whether it is what theory says. Pure.

package import HTTP
package import NAT

/// What came out of it.
package struct CellResult: Sendable {
  package var cell: String
  package var expected: ExpectedRoad
  /// At the fetching host, and at the other; "none" without a path.
  package var tier = "none"
  package var tierBack = "none"
  package var onlineMs: Double?
  package var firstByteMs: Double?
  package var finalTierMs: Double?
  package var longestSilenceMs: Double?
  package var isStreamWhole = false
  /// What both ends said of the road in the end, and what they had to say; empty
  /// where nothing is demanded.
  package var verdict = ""
  package var verdictBack = ""
  package var expectedVerdict = ""
  package var expectedVerdictBack = ""
  /// Words when it did not come so far.
  package var failure: String?
  package var why: JSONValue = .null
  package var whyBack: JSONValue = .null

  package init(_ cell: String, expected: ExpectedRoad) {
    self.cell = cell
    self.expected = expected
  }

  /// Both ends are on a road that theory gives them, the stream lived, and both
  /// know why.
  package var isAsExpected: Bool {
    failure == nil && isStreamWhole && Self.fits(tier, expected) && Self.fits(tierBack, expected)
      && isVerdictRight
  }

  package var isVerdictRight: Bool {
    (expectedVerdict.isEmpty || verdict == expectedVerdict)
      && (expectedVerdictBack.isEmpty || verdictBack == expectedVerdictBack)
  }

  /// What is said of a run that is not as expected.
  package var words: String {
    if let failure { return failure }
    let tiers = "\(tier) and \(tierBack)"
    if isVerdictRight { return tiers }
    return "\(tiers); why: \(verdict) and \(verdictBack), "
      + "expected \(expectedVerdict) and \(expectedVerdictBack)"
  }

  package static func fits(_ tier: String, _ road: ExpectedRoad) -> Bool {
    switch road {
    case .direct, .punched, .guessed: tier.hasPrefix("udp-")
    // Which of the two it was is known only where the firewall is.
    case .tcpDirect, .tcpPunched: tier.hasPrefix("tcp-")
    case .relayed: tier == "server-relay"
    }
  }
}

extension CellResult {
  package var json: JSONValue {
    [
      "cell": .string(cell), "expected": .string(expected.rawValue), "tier": .string(tier),
      "tierBack": .string(tierBack), "asExpected": .bool(isAsExpected),
      "onlineMs": Self.number(onlineMs), "firstByteMs": Self.number(firstByteMs),
      "finalTierMs": Self.number(finalTierMs), "longestSilenceMs": Self.number(longestSilenceMs),
      "streamWhole": .bool(isStreamWhole), "failure": JSONValue(failure),
      "verdict": .string(verdict), "verdictBack": .string(verdictBack),
      "expectedVerdict": .string(expectedVerdict),
      "expectedVerdictBack": .string(expectedVerdictBack), "why": why, "whyBack": whyBack,
    ]
  }

  private static func number(_ value: Double?) -> JSONValue {
    value.map { JSONValue(($0 * 1000).rounded() / 1000) } ?? .null
  }

  /// From the output of a child; nil when it is not a result.
  package init?(_ json: JSONValue) {
    guard let cell = json["cell"]?.string,
      let expected = json["expected"]?.string.flatMap({ ExpectedRoad(rawValue: $0) })
    else { return nil }
    self.init(cell, expected: expected)
    tier = json["tier"]?.string ?? "none"
    tierBack = json["tierBack"]?.string ?? "none"
    onlineMs = json["onlineMs"]?.double
    firstByteMs = json["firstByteMs"]?.double
    finalTierMs = json["finalTierMs"]?.double
    longestSilenceMs = json["longestSilenceMs"]?.double
    isStreamWhole = json["streamWhole"]?.bool ?? false
    failure = json["failure"]?.string
    verdict = json["verdict"]?.string ?? ""
    verdictBack = json["verdictBack"]?.string ?? ""
    expectedVerdict = json["expectedVerdict"]?.string ?? ""
    expectedVerdictBack = json["expectedVerdictBack"]?.string ?? ""
    why = json["why"] ?? .null
    whyBack = json["whyBack"] ?? .null
  }
}
