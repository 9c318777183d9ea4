/// `inp2ps` and `martlet server`: configuration file, then the server until a
/// signal; and `martlet server forget`.

internal import CommandLine
internal import Reactor
internal import Server

enum ServerCommand {
  private static let configLimit = 4 << 20

  static func run(_ arguments: ServerArguments, environment: [String: String]) -> Int32 {
    var config: [UInt8]?
    if let path = arguments.configPath {
      do throws(FileFailure) {
        config = try Files.read(path, limit: configLimit)
      } catch {
        return Entry.fail("inp2ps", "-config \(path) cannot be read: \(error)")
      }
    }
    switch arguments.resolve(config: config) {
    case .exit(let exit):
      return Entry.finish(exit)
    case .run(let options):
      guard let directory = directory(options.dataDirectory, environment) else {
        return Entry.fail("inp2ps", "there is no home directory for the state; give -data DIR")
      }
      return serve(options, directory)
    }
  }

  private static func directory(_ given: String?, _ environment: [String: String]) -> String? {
    given
      ?? ServerOptions.defaultDataDirectory(
        environment: environment, isRoot: ProcessSettings.effectiveUserID == 0)
  }

  private static func serve(_ options: ServerOptions, _ directory: String) -> Int32 {
    let log = ServerLog(minimum: options.logLevel) { Entry.write($0 + "\n", to: 2) }
    do {
      let loop = try EventLoop(name: "server")
      let server = try ServerRuntime(options: options, directory: directory, loop: loop, log: log)
      server.start()
      let signals = try SignalSource(loop, [.terminate, .interrupt]) { _ in
        server.stop()
        loop.stop()
      }
      loop.run()
      signals.close()
      return ExitStatus.success
    } catch {
      return Entry.fail("inp2ps", "\(error)")
    }
  }

  static func forget(
    _ node: String, mesh: String?, directory given: String?, environment: [String: String]
  ) -> Int32 {
    guard let directory = directory(given, environment) else {
      return Entry.fail("martlet", "there is no home directory; give -data DIR")
    }
    switch ForgetCommand.run(node: node, mesh: mesh, directory: directory) {
    case .forgotten:
      Entry.write("\(node) is forgotten; the name is free\n", to: 1)
      return ExitStatus.success
    case .unknown:
      return Entry.fail("martlet", "no node is called \(node) in \(directory)")
    case .failed(let words):
      return Entry.fail("martlet", words)
    }
  }
}
