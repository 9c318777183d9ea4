/// Re-reads `apps` of config.json while the agent runs (spec/inp2p.md: a
/// running agent re-reads only `apps`). A file that cannot be read or does not
/// parse changes nothing: the running apps stay, and the fault is said once.

internal import Bytes
internal import CommandLine
internal import NodeCore
internal import Reactor
internal import Tunnels

final class ConfigWatcher {
  private unowned let agent: AgentRuntime
  private let path: String
  private var content: [UInt8]?
  private var fault = ""
  private var timer: TimerToken?

  /// The file is small and mostly in the page cache: reading it once a second
  /// costs less than keeping an inotify watch right across renames.
  static let interval = TimeAmount.seconds(1)
  static let limit = 1 << 20

  init(_ agent: AgentRuntime) {
    self.agent = agent
    path = agent.options.configPath
    content = try? Files.read(path, limit: Self.limit)
    schedule()
  }

  func stop() {
    if let timer { agent.loop.cancel(timer) }
    timer = nil
  }

  private func schedule() {
    timer = agent.loop.schedule(after: Self.interval) { [weak self] in
      guard let self else { return }
      look()
      schedule()
    }
  }

  private func look() {
    do {
      let bytes = try Files.read(path, limit: Self.limit)
      // An editor that writes in place empties the file first.
      guard bytes != content, !bytes.isEmpty else { return }
      let apps = try ConfigFile(parsing: bytes).apps(for: agent.options.node).apps
      content = bytes
      fault = ""
      if Set(apps) != Set(agent.node.tunnels.apps.values) {
        try agent.tunnels.replaceApps(apps)
        agent.log.info("\(path) has changed: \(apps.count) apps")
      }
    } catch let failure as FileFailure where failure.isNotFound {
      // Being replaced, or removed: the apps stay.
      return
    } catch {
      let words = "\(error)"
      guard words != fault else { return }
      fault = words
      agent.log.warn("\(path): \(words); the running apps stay")
    }
  }
}
