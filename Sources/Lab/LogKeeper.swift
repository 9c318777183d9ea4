/// Copies what a cell's programs left behind to where a person will look.
/// Keys and certificates of the cell's mesh are not copied.

internal import Glibc
internal import Reactor

enum LogKeeper {
  private static let limit = 16 << 20

  static func copy(_ from: String, to: String) {
    do throws(FileFailure) {
      for host in try Files.list(from) where Files.isDirectory("\(from)/\(host)") {
        for name in try Files.list("\(from)/\(host)") where name.hasSuffix(".log") {
          try Files.makeDirectory(to, mode: 0o755)
          let bytes = try Files.read("\(from)/\(host)/\(name)", limit: limit)
          try Files.write("\(to)/\(host)-\(name)", bytes, mode: 0o644)
        }
      }
    } catch {
      Output.write("martlet lab: logs are not kept: \(error)\n", to: 2)
    }
  }
}
