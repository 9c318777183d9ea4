/// Where scenarios come from: a pair of kinds, a file, or a name in the Lab
/// directory here or beside the programs.

internal import NAT
internal import Reactor

struct ScenarioLibrary {
  let programs: String
  private static let limit = 1 << 20

  private var directories: [String] {
    ["Lab", "\(programs)/../Lab", "\(programs)/../share/martlet/Lab"]
  }

  /// Names of the scenarios there are, without the grid.
  var names: [String] {
    for directory in directories {
      do throws(FileFailure) {
        return try Files.list(directory).filter { $0.hasSuffix(".lab") && $0 != "grid.lab" }
          .map { String($0.dropLast(4)) }
      } catch {
        continue
      }
    }
    return []
  }

  func scenario(_ text: String) throws(LabFailure) -> Scenario {
    let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    if parts.count == 2 {
      var kinds: [NATKind] = []
      for part in parts {
        guard let kind = NATKind.named(part) else {
          throw .failed(ScenarioLines.unknownKind(part))
        }
        kinds.append(kind)
      }
      return .cell(kinds[0], kinds[1])
    }
    let (contents, path) = try file(text)
    let name = path.split(separator: "/").last.map(String.init) ?? path
    do throws(ScenarioFault) {
      var scenario = try Scenario.parse(
        contents, name: name.hasSuffix(".lab") ? String(name.dropLast(4)) : name)
      scenario.source = path
      return scenario
    } catch {
      throw .failed("\(path), line \(error.line): \(error.words)")
    }
  }

  func grid() throws(LabFailure) -> GridPlan {
    let (contents, _) = try file("grid")
    return try GridPlan.parse(contents) { name throws(LabFailure) in try scenario(name) }
  }

  private func file(_ name: String) throws(LabFailure) -> (contents: String, path: String) {
    var candidates = [name]
    if !name.contains("/") { candidates += directories.map { "\($0)/\(name).lab" } }
    for path in candidates where Files.exists(path) && !Files.isDirectory(path) {
      do throws(FileFailure) {
        return (String(decoding: try Files.read(path, limit: Self.limit), as: UTF8.self), path)
      } catch {
        throw .failed("\(error)")
      }
    }
    let known = names.joined(separator: ", ")
    throw .failed(
      "there is no scenario \(name): neither a pair of kinds (A,B), a file, nor one of: \(known)")
  }
}
