/// `ztm`: a conversation with the agent's API, and starting and stopping an
/// agent itself.

internal import CommandLine
internal import Reactor

enum ZTMClient {
  private static let settingsLimit = 1 << 20

  static func run(_ arguments: ZTMArguments, environment: [String: String]) -> Int32 {
    var settings: [UInt8]?
    if let path = arguments.settingsPath {
      do throws(FileFailure) {
        settings = try Files.read(path, limit: settingsLimit)
      } catch {
        guard error.isNotFound else { return Entry.fail("ztm", "\(path): \(error)") }
      }
    }
    switch arguments.resolve(settings: settings) {
    case .exit(let exit): return Entry.finish(exit)
    case .run(let invocation):
      guard ZTMConversation.handles(invocation.command) else { return agent(invocation) }
      return converse(invocation, settings, arguments.settingsPath)
    }
  }

  private static func converse(
    _ invocation: ZTMInvocation, _ settings: [UInt8]?, _ settingsPath: String?
  ) -> Int32 {
    var conversation = ZTMConversation(invocation)
    var step = conversation.start(settings: settings)
    while true {
      switch step {
      case .finished(let exit): return Entry.finish(exit)
      case .save(let bytes, let exit):
        guard let settingsPath else { return Entry.fail("ztm", "there is no HOME for .ztm.conf") }
        do throws(FileFailure) {
          try Files.write(settingsPath, bytes, mode: 0o600)
        } catch {
          return Entry.fail("ztm", "\(settingsPath) cannot be written: \(error)")
        }
        return Entry.finish(exit)
      case .request(let request):
        do throws(AgentClient.Failure) {
          let answer = try AgentClient.send(request, to: invocation.agent)
          step = conversation.receive(status: answer.status, body: answer.body)
        } catch {
          step = conversation.unreachable(error.words)
        }
      }
    }
  }

  /// `start agent` when one runs already is fine; joining needs a permit, which
  /// is not active yet, so an agent without a mesh is started by `inp2pc`.
  private static func agent(_ invocation: ZTMInvocation) -> Int32 {
    switch invocation.command {
    case .runAgent, .startAgent:
      do throws(AgentClient.Failure) {
        _ = try AgentClient.send(
          AgentRequest(method: "GET", path: "/api/version"), to: invocation.agent)
        Entry.write("an agent is already running at \(invocation.agent)\n", to: 1)
        return ExitStatus.success
      } catch {
        return Entry.fail(
          "ztm",
          "no agent runs at \(invocation.agent); in this version it is started with inp2pc (permits are not active yet)"
        )
      }
    default:
      return Entry.fail("ztm", "stop the agent where it was started (it ends on SIGTERM)")
    }
  }
}
