/// The layouts of WireGuard's four messages (whitepaper §5.4) and the two macs
/// that end the first two. All integers are little endian.
///
///     initiation (148)                    response (92)
///      0  type = 1, three zero bytes       0  type = 2, three zero bytes
///      4  sender index             4       4  sender index             4
///      8  ephemeral               32       8  receiver index           4
///     40  static, sealed          48      12  ephemeral               32
///     88  stamp, sealed           28      44  nothing, sealed         16
///    116  mac1                    16      60  mac1                    16
///    132  mac2                    16      76  mac2                    16
///
///     cookie reply (64)                   transport data (32 + 16 n)
///      0  type = 3, three zero bytes       0  type = 4, three zero bytes
///      4  receiver index           4       4  receiver index           4
///      8  nonce                   24       8  counter                  8
///     32  cookie, sealed          32      16  packet, padded to 16, sealed

#if canImport(Bytes)
  internal import Bytes
  internal import Crypto
#endif

enum MessageType {
  static let initiation: UInt32 = 1
  static let response: UInt32 = 2
  static let cookieReply: UInt32 = 3
  static let transport: UInt32 = 4
}

enum MessageSize {
  static let initiation = 148
  static let response = 92
  static let cookieReply = 64
  static let transportHeader = 16
  static let tag = 16
  static let keepalive = 32
  static let mac = 16
}

/// The fields of a message that starts a handshake.
package struct InitiationMessage {
  package var sender: UInt32
  var ephemeral: [UInt8]
  var sealedStatic: [UInt8]
  var sealedStamp: [UInt8]

  init(sender: UInt32, ephemeral: [UInt8], sealedStatic: [UInt8], sealedStamp: [UInt8]) {
    self.sender = sender
    self.ephemeral = ephemeral
    self.sealedStatic = sealedStatic
    self.sealedStamp = sealedStamp
  }

  /// - Parameter bytes: exactly 148 bytes of type 1.
  package init?(_ bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    guard bytes.count == MessageSize.initiation,
      reader.uint32LittleEndian() == MessageType.initiation,
      let sender = reader.uint32LittleEndian(), let ephemeral = reader.array(32),
      let sealedStatic = reader.array(48), let sealedStamp = reader.array(28)
    else { return nil }
    self.init(
      sender: sender, ephemeral: ephemeral, sealedStatic: sealedStatic, sealedStamp: sealedStamp)
  }

  /// The message with mac1 and an empty mac2.
  package func encoded(mac1Key: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(MessageSize.initiation)
    bytes.appendUInt32(MessageType.initiation.byteSwapped)
    bytes.appendUInt32(sender.byteSwapped)
    bytes += ephemeral + sealedStatic + sealedStamp
    MessageMacs.append(to: &bytes, mac1Key: mac1Key)
    return bytes
  }
}

/// The fields of the answer to an initiation.
package struct ResponseMessage {
  package var sender: UInt32
  package var receiver: UInt32
  var ephemeral: [UInt8]
  var sealedNothing: [UInt8]

  init(sender: UInt32, receiver: UInt32, ephemeral: [UInt8], sealedNothing: [UInt8]) {
    self.sender = sender
    self.receiver = receiver
    self.ephemeral = ephemeral
    self.sealedNothing = sealedNothing
  }

  /// - Parameter bytes: exactly 92 bytes of type 2.
  package init?(_ bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    guard bytes.count == MessageSize.response,
      reader.uint32LittleEndian() == MessageType.response,
      let sender = reader.uint32LittleEndian(), let receiver = reader.uint32LittleEndian(),
      let ephemeral = reader.array(32), let sealedNothing = reader.array(16)
    else { return nil }
    self.init(
      sender: sender, receiver: receiver, ephemeral: ephemeral, sealedNothing: sealedNothing)
  }

  package func encoded(mac1Key: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(MessageSize.response)
    bytes.appendUInt32(MessageType.response.byteSwapped)
    bytes.appendUInt32(sender.byteSwapped)
    bytes.appendUInt32(receiver.byteSwapped)
    bytes += ephemeral + sealedNothing
    MessageMacs.append(to: &bytes, mac1Key: mac1Key)
    return bytes
  }
}

/// What is sent under load in place of an answer.
package struct CookieReplyMessage {
  package var receiver: UInt32
  var nonce: [UInt8]
  var sealedCookie: [UInt8]

  init(receiver: UInt32, nonce: [UInt8], sealedCookie: [UInt8]) {
    self.receiver = receiver
    self.nonce = nonce
    self.sealedCookie = sealedCookie
  }

  /// - Parameter bytes: exactly 64 bytes of type 3.
  package init?(_ bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    guard bytes.count == MessageSize.cookieReply,
      reader.uint32LittleEndian() == MessageType.cookieReply,
      let receiver = reader.uint32LittleEndian(), let nonce = reader.array(24),
      let sealedCookie = reader.array(32)
    else { return nil }
    self.init(receiver: receiver, nonce: nonce, sealedCookie: sealedCookie)
  }

  package var encoded: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendUInt32(MessageType.cookieReply.byteSwapped)
    bytes.appendUInt32(receiver.byteSwapped)
    return bytes + nonce + sealedCookie
  }
}

/// mac1 proves that the sender knows whom it addresses, mac2 that it lives
/// where it says. Both are the last 32 bytes of initiation and response.
package enum MessageMacs {
  package static func mac1Key(_ publicKey: [UInt8]) -> [UInt8] {
    BLAKE2s.hash(Array("mac1----".utf8), publicKey)
  }
  package static func cookieKey(_ publicKey: [UInt8]) -> [UInt8] {
    BLAKE2s.hash(Array("cookie--".utf8), publicKey)
  }

  static func append(to bytes: inout [UInt8], mac1Key: [UInt8]) {
    bytes += BLAKE2s.mac(key: mac1Key, bytes)
    bytes += [UInt8](repeating: 0, count: MessageSize.mac)
  }

  static func mac1(of bytes: [UInt8]) -> [UInt8] {
    Array(bytes[(bytes.count - 32)..<(bytes.count - 16)])
  }

  static func hasMac1(_ bytes: [UInt8], key: [UInt8]) -> Bool {
    constantTimeEqual(
      BLAKE2s.mac(key: key, Array(bytes[..<(bytes.count - 32)])), mac1(of: bytes))
  }

  static func hasMac2(_ bytes: [UInt8], cookie: [UInt8]) -> Bool {
    constantTimeEqual(
      BLAKE2s.mac(key: cookie, Array(bytes[..<(bytes.count - 16)])),
      Array(bytes[(bytes.count - 16)...]))
  }

  /// `bytes` with mac2 filled in from the receiver's cookie.
  static func filled(_ bytes: [UInt8], cookie: [UInt8]) -> [UInt8] {
    let body = Array(bytes[..<(bytes.count - 16)])
    return body + BLAKE2s.mac(key: cookie, body)
  }
}
