/// The agent's HTTP API on loopback: who may call it, and the connections.
/// What it answers is in `LocalAPI+Routes.swift`. spec/ztm.md "Agent HTTP API".
///
/// A caller on loopback is looked up by its socket's owner: only this agent's
/// own user, root and `-api-users` may call. Host and Origin are checked, so
/// that no page in a browser (DNS rebinding, cross-site requests) gets in.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import Reactor
internal import Transport
internal import Tunnels

final class LocalAPI: WebChannelDelegate {
  unowned let agent: AgentRuntime
  private var listeners: [StreamListener] = []
  private var channels: [UInt32: WebChannel] = [:]
  private var lastNumber: UInt32 = 0
  private(set) var endpoint: Endpoint
  private var allowedUsers: Set<UInt32> = []

  static let connections = 64
  static let defaultPort: UInt16 = 7777
  /// Ports tried after the default one when it is taken and none was given.
  static let portTries: UInt16 = 100

  init(_ agent: AgentRuntime) throws(AgentStartFailure) {
    self.agent = agent
    endpoint = .none
    allowedUsers = [0, ProcessSettings.effectiveUserID]
    for user in agent.options.apiUsers {
      guard let id = UInt32(user) ?? ProcessSettings.userID(named: user) else {
        throw AgentStartFailure("-api-users: there is no user \(user) on this machine")
      }
      allowedUsers.insert(id)
    }
    try listen()
  }

  func stop() {
    for listener in listeners { listener.close() }
    for channel in channels.values { channel.abort() }
  }

  /// Given and taken is an error; otherwise the port of last time, the default
  /// one, or the next free one, which is said and kept.
  private func listen() throws(AgentStartFailure) {
    if let given = agent.options.listen {
      do throws(SystemError) {
        listeners.append(try open(given.endpoint))
        endpoint = listeners[0].local ?? given.endpoint
      } catch {
        throw AgentStartFailure("-listen \(given): \(error)")
      }
      return
    }
    let kept: UInt16? = agent.state["apiPort"]?.integer()
    var ports: [UInt16] = kept.map { [$0] } ?? []
    ports += (0..<Self.portTries).map { Self.defaultPort + $0 }
    for port in ports {
      do throws(SystemError) {
        listeners = [try open(Endpoint(.loopbackV4, port))]
        endpoint = Endpoint(.loopbackV4, port)
        if port != Self.defaultPort {
          agent.log.warn("127.0.0.1:\(Self.defaultPort) is taken; the API is on \(endpoint) (ztm --agent \(endpoint) …)")
        }
        if kept != port {
          agent.state["apiPort"] = JSONValue(port)
          agent.state.save()
        }
        return
      } catch {
        guard error.isAddressInUse else { throw AgentStartFailure("-listen 127.0.0.1:\(port): \(error)") }
      }
    }
    throw AgentStartFailure("no port from \(Self.defaultPort) on is free for the API; give one with -listen")
  }

  private func open(_ endpoint: Endpoint) throws(SystemError) -> StreamListener {
    try StreamListener(agent.loop, on: endpoint) { [weak self] connection in
      guard let self, channels.count < Self.connections else {
        connection.close()
        return
      }
      lastNumber &+= 1
      let channel = WebChannel(
        number: lastNumber, connection: connection, delegate: self)
      if !channel.isClosed { channels[lastNumber] = channel }
    }
  }

  // MARK: Access

  /// nil when the caller may call; else the answer it gets.
  private func refusal(_ channel: WebChannel, _ request: HTTPRequest) -> HTTPResponse? {
    if channel.remote.address.isLoopback {
      let owner: UInt32?
      do throws(SystemError) {
        owner = try channel.local.flatMap { local throws(SystemError) in
          try NetworkInterfaces.userID(ofLoopbackConnection: local, remote: channel.remote)
        }
      } catch {
        return Self.error(403, "the owner of this connection cannot be looked up: \(error)")
      }
      guard let owner, allowedUsers.contains(owner) else {
        return Self.error(
          403,
          "only the agent's own user and root may call; others by -api-users\(owner.map { " (you are user \($0))" } ?? "")")
      }
    } else {
      return Self.error(403, "the API answers loopback callers only")
    }
    guard let authority = request.authority, authority.isLoopback || authority.address != nil else {
      return Self.error(403, "the Host is not this machine's loopback")
    }
    guard request.isSameOrigin(isSecure: false) else {
      return Self.error(403, "requests from web pages are refused")
    }
    return nil
  }

  static func error(_ status: Int, _ message: String) -> HTTPResponse {
    .json(["status": JSONValue(status), "message": .string(message)], status: status)
  }

  // MARK: WebChannelDelegate

  func channel(_ channel: WebChannel, request: HTTPRequest) {
    if let refusal = refusal(channel, request) {
      channel.respond(refusal, close: true)
      return
    }
    guard let target = HTTPTarget(request) else {
      channel.respond(Self.error(400, "the path is malformed"))
      return
    }
    route(request, target) { response in channel.respond(response) }
  }

  func channel(_ channel: WebChannel, message: inout MutableRawSpan) {}
  func channelWritable(_ channel: WebChannel) {}
  func channelClosed(_ channel: WebChannel) { channels[channel.number] = nil }
}
