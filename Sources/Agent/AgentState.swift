/// What an agent keeps between its runs, in one directory of its own: the
/// static key, what the node asked to be stored, the port it chose, tunnels
/// opened by `ztm`. One JSON file, written atomically; a directory that cannot
/// be written is said and the agent runs with what it has in memory.

internal import Bytes
internal import Crypto
internal import HTTP
internal import NodeCore
internal import Reactor
internal import Tunnels

/// Why an agent cannot start on its state directory.
enum AgentStateFailure: Error {
  case locked(String)
  case unreadable(String)
}

final class AgentState {
  let directory: String
  private let lock: LockFile?
  /// False: nothing is kept.
  let isWritable: Bool
  private(set) var content: JSONValue
  private var isDirty = false
  private(set) var lastFailure: String?

  static let limit = 16 << 20

  private var path: String { directory + "/state.json" }

  /// Reads the directory; makes it (0700) when it is missing.
  /// - Parameter say: told what does not end the start.
  init(directory: String, say: (String) -> Void) throws(AgentStateFailure) {
    self.directory = directory
    var lock: LockFile?
    var writable = true
    do throws(FileFailure) {
      try Files.makeDirectory(directory, mode: 0o700)
      lock = try LockFile(directory + "/lock")
    } catch {
      if case .locked(_, let by) = error {
        throw .locked(
          "another agent\(by.map { " (process \($0))" } ?? "") is running on \(directory); stop it, or give this one its own -data DIR or -node NAME"
        )
      }
      writable = false
      say("\(directory) cannot be written (\(error)); this run keeps its key in memory only")
    }
    self.lock = lock
    isWritable = writable
    content = .object(JSONObject())
    guard Files.exists(directory + "/state.json") else { return }
    do {
      content = try JSONValue.parse(try Files.read(directory + "/state.json", limit: Self.limit))
    } catch {
      throw unusable("\(error)")
    }
    guard content.object != nil else { throw unusable("it is not an object") }
    // A damaged key must not silently become a new one: the name would be lost.
    if let key = self["key"], key.string.flatMap({ Hex.decode($0) })?.count != 32 {
      throw unusable("its key is damaged")
    }
  }

  private func unusable(_ why: String) -> AgentStateFailure {
    .unreadable(
      "\(path) cannot be used (\(why)); it was left as it is. Restore it, or remove it to start with a new key"
    )
  }

  subscript(_ key: String) -> JSONValue? {
    get { content[key] }
    set {
      guard content[key] != newValue else { return }
      content[key] = newValue
      isDirty = true
    }
  }

  /// Writes what changed.
  func save() {
    guard isDirty, isWritable else { return }
    do throws(FileFailure) {
      try Files.write(path, content.bytes(.pretty), mode: 0o600)
      isDirty = false
      lastFailure = nil
    } catch {
      lastFailure = "\(error)"
    }
  }

  func bytes(_ key: String) -> [UInt8]? { self[key]?.string.flatMap { Hex.decode($0) } }
  func setBytes(_ key: String, _ bytes: [UInt8]) { self[key] = .string(Hex.encode(bytes)) }

  // MARK: Records of the node

  var records: [NodeRecord] {
    var result: [NodeRecord] = []
    if let bytes = bytes("nodeSecret") { result.append(.nodeSecret(bytes)) }
    if let bytes = bytes("authority") { result.append(.authorityKey(bytes)) }
    if let time = self["authorityTime"]?.uint64 { result.append(.authorityTime(time)) }
    if let bytes = bytes("evictions") { result.append(.evictions(bytes)) }
    if let stamp = self["stampCeiling"]?.uint64 { result.append(.stampCeiling(stamp)) }
    if let members = self["members"]?.object {
      for member in members.members {
        if let bytes = member.value.string.flatMap({ Hex.decode($0) }) {
          result.append(.member(node: member.name, certificate: bytes))
        }
      }
    }
    if let names = self["sessionPeers"]?.array {
      result.append(.sessionPeers(names.compactMap(\.string)))
    }
    return result
  }

  func keep(_ record: NodeRecord) {
    switch record {
    case .nodeSecret(let bytes): setBytes("nodeSecret", bytes)
    case .authorityKey(let bytes): setBytes("authority", bytes)
    case .authorityTime(let time): self["authorityTime"] = JSONValue(time)
    case .evictions(let bytes): setBytes("evictions", bytes)
    case .stampCeiling(let stamp): self["stampCeiling"] = JSONValue(stamp)
    case .sessionPeers(let names): self["sessionPeers"] = .array(names.map { .string($0) })
    case .member(let node, let certificate):
      var members = self["members"] ?? .object(JSONObject())
      members[node] = .string(Hex.encode(certificate))
      self["members"] = members
    case .memberRemoved(let node):
      var members = self["members"] ?? .object(JSONObject())
      members[node] = nil
      self["members"] = members
    }
  }
}

enum Hex {
  static func encode(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count * 2)
    for byte in bytes {
      text.append(digits[Int(byte >> 4)])
      text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
  }

  static func decode(_ text: String) -> [UInt8]? {
    let utf8 = Array(text.utf8)
    guard utf8.count % 2 == 0 else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(utf8.count / 2)
    for index in stride(from: 0, to: utf8.count, by: 2) {
      guard let high = digit(utf8[index]), let low = digit(utf8[index + 1]) else { return nil }
      bytes.append(high << 4 | low)
    }
    return bytes
  }

  private static func digit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 48...57: byte - 48
    case 97...102: byte - 87
    case 65...70: byte - 55
    default: nil
    }
  }
}
