import Bytes
import STUN

/// Bytes from hexadecimal text; blanks are skipped.
func hex(_ text: String) -> [UInt8] {
  let digits = text.utf8.compactMap { byte -> UInt8? in
    switch byte {
    case 48...57: byte - 48
    case 97...102: byte - 87
    default: nil
    }
  }
  precondition(digits.count.isMultiple(of: 2))
  return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

func ascii(_ text: String) -> [UInt8] { Array(text.utf8) }

/// A literal endpoint.
func at(_ text: String) -> Endpoint {
  guard let endpoint = Endpoint(text) else { preconditionFailure("not an endpoint: \(text)") }
  return endpoint
}

func address(_ text: String) -> IPAddress {
  guard let address = IPAddress(text) else { preconditionFailure("not an address: \(text)") }
  return address
}

extension STUNMessage {
  static func decode(_ bytes: [UInt8]) -> STUNMessage? {
    guard case .success(let message) = decode(bytes.span.bytes) else { return nil }
    return message
  }
  static func fault(_ bytes: [UInt8]) -> STUNFault? {
    guard case .failure(let fault) = decode(bytes.span.bytes) else { return nil }
    return fault
  }
  static func isSTUN(_ bytes: [UInt8]) -> Bool { isSTUN(bytes.span.bytes) }
  func isAuthentic(_ bytes: [UInt8], key: [UInt8]) -> Bool {
    isAuthentic(bytes.span.bytes, key: key)
  }
}

extension STUNStream {
  /// Takes bytes; the messages that came out, and whether it goes on.
  mutating func receive(_ bytes: [UInt8], limit: Int = .max) -> (found: [[UInt8]], goesOn: Bool) {
    var found: [[UInt8]] = []
    let goesOn = receive(bytes.span.bytes) { message in
      found.append([UInt8](message))
      return found.count < limit
    }
    return (found, goesOn)
  }
}

/// A message by hand: type, transaction of ones, then what is given.
func raw(type: UInt16 = 0x0001, cookie: UInt32 = 0x2112_a442, _ attributes: [UInt8]) -> [UInt8] {
  var bytes: [UInt8] = []
  bytes.appendUInt16(type)
  bytes.appendUInt16(UInt16(attributes.count))
  bytes.appendUInt32(cookie)
  return bytes + [UInt8](repeating: 1, count: 12) + attributes
}
