/// The end of a log, for a report.

internal import Reactor

enum LogTail {
  private static let limit = 8 << 20

  static func read(_ path: String, lines: Int = 8) -> String {
    do throws(FileFailure) {
      let text = String(decoding: try Files.read(path, limit: limit), as: UTF8.self)
      return text.split(separator: "\n").suffix(lines).joined(separator: "\n")
    } catch {
      return "\(error)"
    }
  }
}
