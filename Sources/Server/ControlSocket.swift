/// A Unix socket in the state directory for `martlet server …`: one line of
/// tab-separated words in, one line out. Only the directory's owner gets there.

internal import Bytes
internal import Reactor

final class ControlSocket: ConnectionDelegate {
  private let listener: StreamListener
  private let box: Box

  /// The listener's closure needs somebody to hold before `self` is there.
  private final class Box {
    weak var socket: ControlSocket?
    let answer: ([String]) -> String
    var input: [ObjectIdentifier: [UInt8]] = [:]
    var open: [ObjectIdentifier: StreamConnection] = [:]
    init(_ answer: @escaping ([String]) -> String) { self.answer = answer }
  }

  static let lineLimit = 1024
  static let connections = 8

  init(
    _ loop: EventLoop, path: String, _ answer: @escaping ([String]) -> String
  ) throws(SystemError) {
    let box = Box(answer)
    self.box = box
    listener = try StreamListener(loop, unixPath: path) { connection in
      guard let socket = box.socket, box.open.count < Self.connections else {
        connection.close()
        return
      }
      box.open[ObjectIdentifier(connection)] = connection
      connection.delegate = socket
    }
    box.socket = self
  }

  func close() {
    listener.close()
    for connection in box.open.values { connection.close() }
    box.open.removeAll()
  }

  func connectionReadable(_ connection: StreamConnection) {
    let id = ObjectIdentifier(connection)
    let result = connection.read { bytes in box.input[id, default: []].append(bytes.bytes) }
    let input = box.input[id] ?? []
    if let end = input.firstIndex(of: 0x0a), end < Self.lineLimit {
      let words = String(decoding: input[..<end], as: UTF8.self)
        .split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
      _ = connection.writeAll(Array((box.answer(words) + "\n").utf8))
      connection.closeWhenFlushed()
      forget(id)
      return
    }
    switch result {
    case .end, .failed:
      connection.close()
      forget(id)
    case .bytes, .wouldBlock:
      if input.count > Self.lineLimit {
        connection.close()
        forget(id)
      }
    }
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    forget(ObjectIdentifier(connection))
  }

  private func forget(_ id: ObjectIdentifier) {
    box.open[id] = nil
    box.input[id] = nil
  }
}
