/// `martlet lab …`: what each command does, and how it ends.

internal import Bytes
package import CommandLine
internal import Glibc
internal import HTTP
internal import NAT
internal import Reactor

package enum LabCommand {
  package static func run(
    _ invocation: LabInvocation, environment: [String: String]
  ) -> Int32 {
    do throws(LabFailure) {
      return try perform(invocation, environment)
    } catch {
      Output.write("martlet lab: \(error.words)\n", to: 2)
      switch error {
      case .refused: return ExitStatus.refused
      case .failed: return ExitStatus.failure
      case .interrupted: return 130
      }
    }
  }

  private static func perform(
    _ invocation: LabInvocation, _ environment: [String: String]
  ) throws(LabFailure) -> Int32 {
    switch invocation.action {
    case .checkKinds(let names, let hairpin):
      let entry = try LabEntry(invocation, environment: environment, needsNamespaces: true)
      return try CheckKinds(entry: entry).run(names, hairpin)
    default: throw .failed("not yet")
    }
  }
}
