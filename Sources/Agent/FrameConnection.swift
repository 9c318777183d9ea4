/// A TCP connection that carries frames (docs/protocol/carrier.md): between two
/// agents, or to a relay; where need be through an HTTP proxy. What a frame means
/// is its owner's; here are bytes in and out, and when there is no room for more.

internal import Bytes
internal import HTTP
internal import Mux
internal import NodeCore
internal import Reactor

protocol FrameConnectionOwner: AnyObject {
  func opened(_ connection: FrameConnection)
  /// Several may come before the node is told that the batch is over.
  func receive(
    _ frame: CarrierFrame, _ body: inout MutableRawSpan, from connection: FrameConnection,
    now: Instant)
  /// Over, by the other end or a fault; told once, and not after `close` or `reset`.
  func ended(_ connection: FrameConnection)
}

final class FrameConnection: ConnectionDelegate {
  let number: UInt32
  private let connection: StreamConnection
  private unowned let agent: AgentRuntime
  private unowned let owner: any FrameConnectionOwner
  /// Of the log's words.
  private let name: StaticString
  private let backlog: Int
  private var decoder = CarrierDecoder()
  private var tunnel: ProxyTunnel?
  private var isOver = false
  private var isBlocked = false
  private var wrote = false

  static let reads = 8
  static let readBytes = 128 * 1024

  /// - Parameters:
  ///   - backlog: unsent bytes beside the kernel's from which on it counts as
  ///     blocked.
  ///   - tunnel: asked for the way before anything else is sent.
  init(
    _ agent: AgentRuntime, _ owner: any FrameConnectionOwner, _ connection: StreamConnection,
    number: UInt32, name: StaticString, backlog: Int, through tunnel: ProxyTunnel? = nil
  ) {
    self.agent = agent
    self.owner = owner
    self.connection = connection
    self.number = number
    self.name = name
    self.backlog = backlog
    self.tunnel = tunnel
    connection.delegate = self
  }

  var remote: Endpoint? { connection.remote }

  // MARK: Out

  /// One whole frame that must not be lost.
  func send(_ frame: [UInt8]) { _ = connection.writeAll(frame) }

  /// One sealed packet; without room it is dropped: the session's recovery is for that.
  func send(_ batch: TransmitBatch, _ segment: TransmitBatch.Segment) {
    let head = CarrierFrame.head(channel: segment.carrier.channel, length: segment.count)
    batch.withSegment(segment) { packet in _ = connection.write(head.span.bytes, packet) }
    wrote = true
  }

  /// After each batch: says when there is no room for more.
  func flush() {
    guard wrote else { return }
    wrote = false
    if !isBlocked, connection.backlog > backlog {
      isBlocked = true
      agent.node.setConnectionBlocked(number, true)
      connection.notify(below: backlog / 4)
    }
  }

  func close() {
    isOver = true
    connection.delegate = nil
    connection.close()
  }

  func closeWhenFlushed() {
    isOver = true
    connection.delegate = nil
    connection.closeWhenFlushed()
  }

  /// Its ends may be wanted again at once.
  func reset() {
    isOver = true
    connection.reset()
  }

  /// - Parameter addresses: all that this host has.
  func endWhenStranded(_ addresses: Set<IPAddress>) {
    if addresses.strand(connection.local?.address) { end() }
  }

  // MARK: ConnectionDelegate

  func connectionOpened(_ connection: StreamConnection) {
    if let tunnel { send(tunnel.request) } else { owner.opened(self) }
  }

  func connectionReadable(_ connection: StreamConnection) {
    let now = agent.loop.now
    for _ in 0..<Self.reads {
      if tunnel != nil {
        guard readAnswer() else { break }
        continue
      }
      var result = ReadResult.wouldBlock
      decoder.append(minimum: Self.readBytes) { result = connection.read(into: &$0) }
      guard case .bytes = result else {
        switch result {
        case .end, .failed: end()
        case .bytes, .wouldBlock: break
        }
        break
      }
      guard takeFrames(now: now) else { break }
    }
    agent.node.finishReceiving(now: now)
  }

  /// - Returns: whether the connection may be read on.
  private func takeFrames(now: Instant) -> Bool {
    do throws(CarrierFailure) {
      while try decoder.next({ frame, body in
        owner.receive(frame, &body, from: self, now: now)
      }) {
        if isOver { return false }
      }
      return true
    } catch {
      agent.log.debug("\(name): \(error)")
      end()
      return false
    }
  }

  /// The proxy's word.
  private func readAnswer() -> Bool {
    var progress = ProxyTunnel.Progress.more
    let result = connection.read { bytes in
      progress = tunnel?.receive(bytes.bytes) ?? .more
    }
    switch result {
    case .wouldBlock: return false
    case .end, .failed:
      end()
      return false
    case .bytes: break
    }
    switch progress {
    case .more: return true
    case .failed(let words):
      agent.log.debug("\(name): \(words)")
      end()
      return false
    case .open(let leftover):
      tunnel = nil
      owner.opened(self)
      guard !isOver else { return false }
      guard !leftover.isEmpty else { return true }
      decoder.append(leftover.span.bytes)
      return takeFrames(now: agent.loop.now)
    }
  }

  func connectionWritable(_ connection: StreamConnection) {
    guard isBlocked else { return }
    isBlocked = false
    agent.node.setConnectionBlocked(number, false)
  }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    agent.log.debug("\(name) to \(connection.remote ?? .none): \(error)")
    end()
  }

  private func end() {
    guard !isOver else { return }
    close()
    owner.ended(self)
  }
}

extension CarrierFrame {
  /// The head of a data frame.
  static func head(channel: UInt32, length: Int) -> InlineArray<7, UInt8> {
    [
      UInt8(truncatingIfNeeded: channel >> 24), UInt8(truncatingIfNeeded: channel >> 16),
      UInt8(truncatingIfNeeded: channel >> 8), UInt8(truncatingIfNeeded: channel),
      Kind.data.rawValue, UInt8(truncatingIfNeeded: length >> 8),
      UInt8(truncatingIfNeeded: length),
    ]
  }
}
