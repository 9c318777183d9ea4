/// `inp2pc` and `martlet agent`: config.json, then the agent until a signal.

internal import Agent
internal import CommandLine
internal import Reactor

enum AgentCommand {
  private static let configLimit = 4 << 20

  static func run(
    _ arguments: AgentArguments, environment: [String: String]
  ) -> Int32 {
    let config: [UInt8]?
    do throws(FileFailure) {
      config =
        arguments.ignoresConfig ? nil : try Files.read(arguments.configPath, limit: configLimit)
    } catch {
      guard error.isNotFound else {
        return Entry.fail("inp2pc", "-config \(arguments.configPath) cannot be read: \(error)")
      }
      config = nil
    }
    switch arguments.resolve(config: config) {
    case .exit(let exit):
      return Entry.finish(exit)
    case .run(let resolved):
      let log = AgentLog(minimum: resolved.options.logLevel) { Entry.write($0 + "\n", to: 2) }
      for notice in resolved.options.notices { log.warn(notice) }
      if let bytes = resolved.configToSave {
        do throws(FileFailure) {
          if let slash = resolved.options.configPath.lastIndex(of: "/"),
            slash != resolved.options.configPath.startIndex
          {
            try Files.makeDirectory(String(resolved.options.configPath[..<slash]), mode: 0o700)
          }
          try Files.write(resolved.options.configPath, bytes, mode: 0o600)
        } catch {
          log.warn(
            "\(resolved.options.configPath) cannot be written: \(error); running all the same")
        }
      }
      return serve(
        resolved.options, log,
        usesTCPCarriers: environment["MARTLET_TEST_TCP_CARRIER"] == "1",
        congestion: environment["MARTLET_CONGESTION"])
    }
  }

  private static func serve(
    _ options: AgentOptions, _ log: AgentLog, usesTCPCarriers: Bool, congestion: String?
  ) -> Int32 {
    do throws(SystemError) {
      let loop = try EventLoop(name: "agent")
      do throws(AgentStartFailure) {
        let agent = try AgentRuntime(
          options: options, loop: loop, log: log, usesTCPCarriers: usesTCPCarriers,
          congestion: congestion)
        try agent.start()
        let signals: SignalSource
        do throws(SystemError) {
          signals = try SignalSource(loop, [.terminate, .interrupt]) { _ in
            agent.stop()
            loop.stop()
          }
        } catch {
          return Entry.fail("inp2pc", "\(error)")
        }
        loop.run()
        signals.close()
        agent.finishStopping()
        return ExitStatus.success
      } catch {
        return Entry.fail("inp2pc", error.description)
      }
    } catch {
      return Entry.fail("inp2pc", "\(error)")
    }
  }
}
