/// A local stream connection and the flow it belongs to: bytes both ways with
/// back-pressure, half-closes as half-closes, resets as resets.

internal import Bytes
internal import NodeCore
internal import Reactor

final class FlowBridge: ConnectionDelegate {
  let flow: FlowID
  let connection: StreamConnection
  private unowned let agent: AgentRuntime
  /// The local end has sent its last byte.
  private var isInputDone = false
  private var isOutputDone = false

  /// Bytes unsent to the local socket; more would only hide a slow reader.
  static let backlogLimit = 256 * 1024
  /// Reads of one connection in one batch, so that others get their turn.
  private static let readsPerEvent = 4

  init(_ agent: AgentRuntime, flow: FlowID, connection: StreamConnection) {
    self.agent = agent
    self.flow = flow
    self.connection = connection
    connection.backlogLimit = Self.backlogLimit
    connection.delegate = self
  }

  // MARK: From the local socket

  func connectionOpened(_ connection: StreamConnection) {
    agent.dialed(self)
  }

  func connectionReadable(_ connection: StreamConnection) { readIn() }

  func connectionWritable(_ connection: StreamConnection) { writeOut() }

  func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
    agent.bridgeFailed(self, error)
  }

  /// Socket → flow, as much as the flow takes.
  func readIn() {
    guard !isInputDone else { return }
    for _ in 0..<Self.readsPerEvent {
      let room = min(agent.node.flowWriteCapacity(flow), 65_536)
      guard room > 0 else {
        // `flowWritable` resumes.
        connection.pauseReading()
        return
      }
      var result = ReadResult.wouldBlock
      let count = agent.node.withFlowWritable(flow, limit: room) { output in
        result = connection.read(into: &output)
      }
      switch result {
      case .bytes:
        if count == 0 { return }
      case .wouldBlock:
        return
      case .end:
        isInputDone = true
        agent.node.flowFinish(flow)
        return
      case .failed(let error):
        agent.bridgeFailed(self, error)
        return
      }
    }
  }

  // MARK: From the flow

  func flowWritable() {
    connection.resumeReading()
    readIn()
  }

  /// Flow → socket, as much as the socket takes.
  func writeOut() {
    guard !connection.isClosed, !connection.isConnecting else { return }
    while true {
      var isShort = false
      let taken = agent.node.withFlowReadable(flow) { bytes in
        let count = connection.write(bytes)
        isShort = count < bytes.byteCount
        return count
      }
      if taken == 0 || isShort { break }
    }
    if !isOutputDone, agent.node.flowIsFinished(flow) {
      isOutputDone = true
      connection.shutdownWrite()
    }
  }
}
