/// What can go wrong with TLS, with the library's own words where it has some.

/// Why a context cannot be made or a session was given up.
package enum TLSFailure: Error, Sendable, Hashable {
  /// A certificate or key file: not PEM, not a pair.
  case badIdentity(String)
  /// The peer's certificate was refused (only where authorities are checked).
  case untrusted(String)
  /// No agreement with the peer, or it does not speak TLS at all.
  case handshake(String)
  /// A record that does not open, an alert, a rule broken after the handshake.
  case broken(String)
  /// The library refused something it should not have.
  case library(String)
  /// More ciphertext came than is held for a reader that does not read.
  case inputTooLong
}

extension TLSFailure: CustomStringConvertible {
  package var description: String {
    switch self {
    case .badIdentity(let words): "certificate or key: \(words)"
    case .untrusted(let words): "the server's certificate is not trusted: \(words)"
    case .handshake(let words): "no agreement on TLS: \(words)"
    case .broken(let words): "\(words)"
    case .library(let words): "OpenSSL: \(words)"
    case .inputTooLong: "more came than was read"
    }
  }
}

/// Limits of one session.
package enum TLSLimits {
  /// Plain bytes of a record (RFC 8446 §5.1).
  package static let record = 16_384
  /// Ciphertext held until it is read.
  package static let input = 4 << 20
  /// Ciphertext waiting to leave beyond which `write` refuses.
  package static let output = 1 << 20
  /// Certificates of a chain that are read from a file.
  package static let chain = 10
}
