/// Everything that can be wrong with what a peer sends, and the limits it is
/// held to. A server answers a failure with `status` and closes; a client only
/// reports it.

#if canImport(Bytes)
  package import Bytes
#endif

/// Why a connection was given up.
package enum HTTPFailure: Error, Sendable, Hashable, CaseIterable {
  case badRequestLine
  case badStatusLine
  case badTarget
  case targetTooLong
  case badVersion
  case unsupportedVersion
  /// A line feed without its carriage return, or a control character.
  case bareControl
  case badField
  case headTooLong
  case tooManyFields
  case badHost
  /// Content-Length twice, as a list, or not a number.
  case badContentLength
  /// Content-Length beside Transfer-Encoding: somebody smuggles.
  case twoLengths
  case badTransferEncoding
  case unsupportedTransferEncoding
  case unsupportedExpectation
  case bodyTooLarge
  case badChunk
  case headTimeout
  case bodyTimeout
  case idleTimeout
  case responseTimeout
  case pipelineTooLong
  /// The connection ended inside a message.
  case truncated
  /// Bytes after a response that nobody asked for.
  case unexpectedBytes

  /// The status a server answers with; nil where it just closes.
  package var status: Int? {
    switch self {
    case .badRequestLine, .badTarget, .badVersion, .bareControl, .badField, .badHost,
      .badContentLength, .twoLengths, .badTransferEncoding, .badChunk:
      400
    case .targetTooLong: 414
    case .headTooLong, .tooManyFields: 431
    case .unsupportedVersion: 505
    case .unsupportedTransferEncoding: 501
    case .unsupportedExpectation: 417
    case .bodyTooLarge: 413
    case .headTimeout, .bodyTimeout: 408
    case .pipelineTooLong: 429
    case .badStatusLine, .idleTimeout, .responseTimeout, .truncated, .unexpectedBytes: nil
    }
  }

  /// What happened, for a message or a log line.
  package var words: String {
    switch self {
    case .badRequestLine: "the request line is not HTTP"
    case .badStatusLine: "the answer is not HTTP"
    case .badTarget: "the request target is malformed"
    case .targetTooLong: "the request target is too long"
    case .badVersion: "the protocol version is malformed"
    case .unsupportedVersion: "this is an HTTP/1.1 server"
    case .bareControl: "a control character or a line feed alone stands in the head"
    case .badField: "a header field is malformed"
    case .headTooLong: "the header fields are too long"
    case .tooManyFields: "there are too many header fields"
    case .badHost: "the Host field is missing, repeated or malformed"
    case .badContentLength: "the Content-Length is malformed or repeated"
    case .twoLengths: "Content-Length and Transfer-Encoding exclude each other"
    case .badTransferEncoding: "the Transfer-Encoding is malformed"
    case .unsupportedTransferEncoding: "only the chunked transfer encoding is known"
    case .unsupportedExpectation: "only Expect: 100-continue is known"
    case .bodyTooLarge: "the body is too large"
    case .badChunk: "the chunked body is malformed"
    case .headTimeout: "the request did not arrive in time"
    case .bodyTimeout: "the body arrives too slowly"
    case .idleTimeout: "nothing was asked for a long time"
    case .responseTimeout: "no answer came in time"
    case .pipelineTooLong: "too much was sent ahead of the answers"
    case .truncated: "the connection ended in the middle of a message"
    case .unexpectedBytes: "the peer sent something nobody asked for"
    }
  }
}

/// Limits of one HTTP connection.
package struct HTTPLimits: Sendable {
  /// Bytes of a request target.
  package var target = 8 * 1024
  /// Bytes of a whole head, first line included.
  package var head = 32 * 1024
  /// Field lines of a head or a trailer.
  package var fields = 100
  /// Bytes of a body that the connection collects.
  package var collectedBody = 1 << 20
  /// Bytes of a body handed on piece by piece. The consumer has its own limits.
  package var streamedBody = Int.max
  /// Bytes of chunk extensions and trailers in one body: pure overhead.
  package var chunkOverhead = 4 * 1024
  /// Bytes read ahead of the request being answered.
  package var readAhead = 256 * 1024

  package init() {}
}

/// How long a peer may take. The machine only names the deadlines.
package struct HTTPTimeouts: Sendable {
  /// From the first byte of a head (or the start of the connection) to its end.
  package var head = TimeAmount.seconds(10)
  /// Between requests on a kept connection.
  package var idle = TimeAmount.seconds(75)
  /// A body may pause that long, once.
  package var bodyGrace = TimeAmount.seconds(10)
  /// Bytes a second that a body must reach on average after the grace.
  package var bodyRate = 512
  /// After the last byte of an error: time for the peer to read it before
  /// unread input turns the close into a reset.
  package var linger = TimeAmount.seconds(2)
  /// Client: from the request to the head of its final response.
  package var response = TimeAmount.seconds(30)

  package init() {}
}
