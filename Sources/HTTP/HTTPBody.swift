/// Bodies: Content-Length, chunked, and "until the connection ends". The
/// decoder takes bytes from the front of an input and hands out body bytes; it
/// keeps no data of its own. RFC 9112 §6, §7.
///
/// ```
/// chunked = *( size [ ext ] CRLF data CRLF ) "0" [ ext ] CRLF trailer CRLF
/// ```

/// Bytes not yet parsed. Taking from the front is cheap.
struct HTTPInput: Sendable {
  private(set) var bytes: [UInt8] = []
  private(set) var start = 0

  var count: Int { bytes.count - start }
  var isEmpty: Bool { bytes.count == start }
  var slice: ArraySlice<UInt8> { bytes[start...] }
  subscript(offset: Int) -> UInt8 { bytes[start + offset] }

  mutating func append(_ more: [UInt8]) {
    if start > 0, start >= bytes.count / 2 {
      bytes.removeFirst(start)
      start = 0
    }
    bytes += more
  }

  mutating func drop(_ count: Int) {
    start += count
    if start == bytes.count {
      // The memory of a large body is not kept for the idle time after it.
      if bytes.capacity > 16_384 { bytes = [] } else { bytes.removeAll(keepingCapacity: true) }
      start = 0
    }
  }

  mutating func take(_ count: Int) -> [UInt8] {
    let result = Array(bytes[start..<(start + count)])
    drop(count)
    return result
  }
}

struct HTTPBodyDecoder: Sendable {
  private enum State: Sendable {
    /// Bytes left of the body or of the chunk.
    case fixed(Int)
    case chunkSize
    case chunkData(Int)
    case chunkEnd
    case trailer(HTTPHeadScanner)
    case untilClose
    case finished
  }

  enum Step: Sendable {
    case needMore
    case data([UInt8])
    case end
  }

  private var state: State
  /// Body bytes still allowed.
  private var allowance: Int
  private var overhead: Int
  private let fields: Int

  /// - Parameter limit: bytes of the body; a Content-Length beyond it fails here.
  init(_ length: HTTPBodyLength, limit: Int, limits: HTTPLimits) throws(HTTPFailure) {
    allowance = limit
    overhead = limits.chunkOverhead
    fields = limits.fields
    switch length {
    case .none: state = .finished
    case .fixed(let count):
      guard count <= limit else { throw .bodyTooLarge }
      state = count == 0 ? .finished : .fixed(count)
    case .chunked: state = .chunkSize
    case .untilClose: state = .untilClose
    }
  }

  mutating func step(_ input: inout HTTPInput) throws(HTTPFailure) -> Step {
    while true {
      switch state {
      case .finished: return .end
      case .untilClose:
        guard !input.isEmpty else { return .needMore }
        return .data(try take(input.count, &input))
      case .fixed(let left):
        guard !input.isEmpty else { return .needMore }
        let count = min(left, input.count)
        state = count == left ? .finished : .fixed(left - count)
        return .data(try take(count, &input))
      case .chunkData(let left):
        guard !input.isEmpty else { return .needMore }
        let count = min(left, input.count)
        state = count == left ? .chunkEnd : .chunkData(left - count)
        return .data(try take(count, &input))
      case .chunkEnd:
        guard input.count >= 2 else {
          guard input.isEmpty || input[0] == 0x0d else { throw .badChunk }
          return .needMore
        }
        guard input[0] == 0x0d, input[1] == 0x0a else { throw .badChunk }
        input.drop(2)
        state = .chunkSize
      case .chunkSize:
        guard let size = try chunkSize(&input) else { return .needMore }
        guard size <= allowance else { throw .bodyTooLarge }
        state = size == 0 ? .trailer(HTTPHeadScanner()) : .chunkData(size)
      case .trailer(var scanner):
        guard let length = try trailer(&input, &scanner) else {
          state = .trailer(scanner)
          return .needMore
        }
        input.drop(length)
        state = .finished
      }
    }
  }

  /// The connection ended.
  /// - Returns: whether the body ends with it.
  mutating func end() -> Bool {
    switch state {
    case .untilClose, .finished:
      state = .finished
      return true
    case .fixed, .chunkSize, .chunkData, .chunkEnd, .trailer: return false
    }
  }

  private mutating func take(_ count: Int, _ input: inout HTTPInput) throws(HTTPFailure) -> [UInt8]
  {
    guard count <= allowance else { throw .bodyTooLarge }
    allowance -= count
    return input.take(count)
  }

  /// `1A;ext=value CRLF`; nil when the line is not whole.
  private mutating func chunkSize(_ input: inout HTTPInput) throws(HTTPFailure) -> Int? {
    var digits = 0
    var size = 0
    var position = 0
    while position < input.count, let digit = HTTPSyntax.hexadecimalValue(input[position]) {
      digits += 1
      // 15 digits hold any size that can be meant and cannot overflow.
      guard digits <= 15 else { throw .badChunk }
      size = size << 4 | Int(digit)
      position += 1
    }
    guard position < input.count else { return nil }
    guard digits > 0 else { throw .badChunk }
    let extensionStart = position
    // An extension begins with `;`, perhaps after white space; its content is
    // skipped. What it may not hold is a line end of some other kind.
    if input[position] != 0x0d {
      guard
        input[position] == UInt8(ascii: ";") || input[position] == 0x20 || input[position] == 0x09
      else { throw .badChunk }
      while position < input.count, HTTPSyntax.isFieldByte(input[position]) {
        position += 1
        guard position - extensionStart <= overhead else { throw .badChunk }
      }
      guard position < input.count else { return nil }
      let content = input.slice[(input.start + extensionStart)..<(input.start + position)]
      guard HTTPSyntax.trimmed(content).first == UInt8(ascii: ";") else { throw .badChunk }
    }
    guard input[position] == 0x0d else { throw .badChunk }
    guard position + 1 < input.count else { return nil }
    guard input[position + 1] == 0x0a else { throw .badChunk }
    overhead -= position - extensionStart
    input.drop(position + 2)
    return size
  }

  /// The trailer section is checked and thrown away.
  private mutating func trailer(
    _ input: inout HTTPInput, _ scanner: inout HTTPHeadScanner
  ) throws(HTTPFailure) -> Int? {
    var limits = HTTPLimits()
    limits.head = overhead
    limits.target = overhead
    limits.fields = fields
    guard let length = try scanner.scan(input.slice, limits: limits) else { return nil }
    _ = try HTTPHead.fields(input.slice.prefix(length))
    return length
  }
}

/// Body bytes as one chunk.
enum HTTPChunkWriter {
  static let last = Array("0\r\n\r\n".utf8)

  /// - Parameter count: bytes that follow; 0 would end the body.
  static func head(_ count: Int) -> [UInt8] {
    precondition(count > 0)
    return Array((String(count, radix: 16) + "\r\n").utf8)
  }
}
