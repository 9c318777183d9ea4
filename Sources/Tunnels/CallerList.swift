/// Who may use a listener, by address: "ip, cidr, a-b". Parsed once, asked
/// once per connection.

#if canImport(Bytes)
  package import Bytes
#endif

/// Ranges of addresses; an empty list admits everyone.
package struct CallerList: Hashable, Sendable, CustomStringConvertible {
  struct Range: Hashable, Sendable {
    var first: IPAddress
    var last: IPAddress
  }
  var ranges: [Range] = []
  /// The text it was made from.
  package let description: String

  /// Entries separated by commas (or semicolons); spaces do not matter.
  package init(_ text: String) throws(DefinitionError) {
    description = text
    for entry in text.split(whereSeparator: { $0 == "," || $0 == ";" }) {
      let trimmed = Self.trimmed(entry)
      if trimmed.isEmpty { continue }
      guard let range = Self.range(trimmed) else {
        throw DefinitionError(.whitelist, .malformed, value: TunnelNaming.printable(trimmed))
      }
      guard ranges.count < TunnelLimits.callerRanges else {
        throw DefinitionError(.whitelist, .tooMany(limit: TunnelLimits.callerRanges))
      }
      ranges.append(range)
    }
    // "," is not "everyone": that would open what somebody meant to close.
    guard !ranges.isEmpty || text.allSatisfy(\.isWhitespace) else {
      throw DefinitionError(.whitelist, .malformed, value: TunnelNaming.printable(text))
    }
  }

  package var isEmpty: Bool { ranges.isEmpty }

  package func admits(_ caller: IPAddress) -> Bool {
    ranges.isEmpty
      || ranges.contains { range in
        range.first.isV4 == caller.isV4 && !caller.precedes(range.first)
          && !range.last.precedes(caller)
      }
  }

  private static func trimmed(_ text: Substring) -> Substring {
    var text = text
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return text
  }

  private static func range(_ text: Substring) -> Range? {
    if let network = AddressBlock(text) { return Range(first: network.first, last: network.last) }
    guard let dash = text.firstIndex(of: "-"),
      let first = IPAddress(trimmed(text[..<dash])),
      let last = IPAddress(trimmed(text[text.index(after: dash)...])),
      first.isV4 == last.isV4, !last.precedes(first)
    else { return nil }
    return Range(first: first, last: last)
  }
}

/// An address with a prefix length; a bare address is a block of one.
package struct AddressBlock: Hashable, Sendable, CustomStringConvertible {
  package let address: IPAddress
  /// 0…32 or 0…128.
  package let prefix: Int

  /// `IP` or `IP/PREFIX`; bits beyond the prefix may be set and are ignored.
  package init?(_ text: some StringProtocol) {
    guard let slash = text.firstIndex(of: "/") else {
      guard let address = IPAddress(text) else { return nil }
      self.address = address
      prefix = address.isV4 ? 32 : 128
      return
    }
    let digits = text[text.index(after: slash)...]
    guard let address = IPAddress(text[..<slash]), (1...3).contains(digits.utf8.count),
      digits.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }), let prefix = Int(digits),
      prefix <= (address.isV4 ? 32 : 128)
    else { return nil }
    self.address = address
    self.prefix = prefix
  }

  package func contains(_ other: IPAddress) -> Bool { address.matches(other, prefix: prefix) }

  var first: IPAddress {
    let (high, low) = mask
    return IPAddress(high: address.high & high, low: address.low & low)
  }
  var last: IPAddress {
    let (high, low) = mask
    return IPAddress(high: address.high | ~high, low: address.low | ~low)
  }
  private var mask: (UInt64, UInt64) {
    let bits = address.isV4 ? prefix + 96 : prefix
    func ones(_ count: Int) -> UInt64 {
      count <= 0 ? 0 : count >= 64 ? .max : ~(UInt64.max >> UInt64(count))
    }
    return (ones(bits), ones(bits - 64))
  }

  package var description: String {
    prefix == (address.isV4 ? 32 : 128) ? "\(address)" : "\(address)/\(prefix)"
  }
}

extension IPAddress {
  func precedes(_ other: IPAddress) -> Bool {
    high != other.high ? high < other.high : low < other.low
  }
}
