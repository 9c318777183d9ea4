/// What every command of the lab needs first: somewhere to keep its records,
/// the tools, and a kernel that lets us have namespaces: as root, or as an
/// ordinary user in namespaces of our own.

internal import Bytes
internal import CLinux
internal import CommandLine
internal import Glibc
internal import Reactor

struct LabEntry {
  let invocation: LabInvocation
  let workshop: Workshop
  /// Directory of all labs of this user.
  let parent: String
  /// Directory of martlet, inp2ps and the rest.
  let programs: String
  /// As an ordinary user: we are in namespaces of our own, gone at our end.
  let isPrivate: Bool

  /// The parent of a lab's processes tells them where labs are kept: inside
  /// namespaces of our own we all seem to be root.
  static let stateVariable = "MARTLET_LAB_STATE"

  init(
    _ invocation: LabInvocation, environment: [String: String], needsNamespaces: Bool
  ) throws(LabFailure) {
    self.invocation = invocation
    // Debian keeps ip and nft where ordinary users do not look.
    let path = (environment["PATH"] ?? "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    unsafe setenv("PATH", path, 1)
    let user = ProcessSettings.effectiveUserID
    parent =
      environment[Self.stateVariable] ?? LabStore.parent(environment: environment, user: user)
    var isPrivate = false
    if needsNamespaces, user != 0 {
      let result = martlet_own_namespaces()
      guard result >= 0 else {
        throw .refused(
          "no network namespaces for ordinary users here (\(SystemError(-result, "unshare"))); try as root"
        )
      }
      isPrivate = true
    }
    self.isPrivate = isPrivate
    var variables = environment
    variables["PATH"] = path
    variables[Self.stateVariable] = parent
    workshop = try Workshop(environment: variables)
    programs = invocation.programs ?? Self.ownDirectory
    if needsNamespaces { try probe() }
  }

  private static var ownDirectory: String {
    program.lastIndex(of: "/").map { String(program[..<$0]) } ?? "."
  }

  /// The path of this very program as it was at the start: a build that
  /// replaces it under a long run is then taken up, not missed.
  static let program: String = {
    var bytes = [CChar](repeating: 0, count: 4096)
    let count = unsafe readlink("/proc/self/exe", &bytes, bytes.count - 1)
    guard count > 0 else { return "martlet" }
    return String(decoding: bytes.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }()

  /// A namespace can be made, and nftables works in it.
  private func probe() throws(LabFailure) {
    let name = "\(freePrefix)-probe"
    let made: Workshop.Result
    do throws(LabFailure) {
      made = try workshop.run(["ip", "netns", "add", name])
    } catch {
      if case .interrupted = error { throw error }
      throw .refused(error.words)
    }
    guard made.status == 0 else {
      throw .refused("no network namespaces here: \(Self.line(made.error))")
    }
    let script = """
      table ip lab {
        map m { type ipv4_addr . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; }
        chain c {
          type nat hook postrouting priority srcnat; policy accept;
          snat ip addr . port to ip saddr . udp sport map @m
        }
      }

      """
    var refusal: String?
    do throws(LabFailure) {
      let result = try workshop.run(["nft", "-f", "-"], in: name, input: script)
      if result.status != 0 { refusal = "no nftables here: \(Self.line(result.error))" }
    } catch {
      refusal = error.words
    }
    _ = try workshop.run(["ip", "netns", "delete", name])
    if let refusal { throw .refused(refusal) }
  }

  static func line(_ text: String) -> String {
    text.split(separator: "\n").first.map(String.init) ?? "no reason given"
  }

  /// One that no other lab of ours has.
  var freePrefix: String { "mlab\(ProcessSettings.processID)" }

  func store() throws(LabFailure) -> LabStore {
    let prefix = invocation.prefix ?? freePrefix
    guard LabStore.isPrefix(prefix) else {
      throw .failed("--prefix \(prefix): 1 to 24 small letters and digits")
    }
    return LabStore(parent: parent, prefix: prefix)
  }

  /// At most so many at a time.
  var jobs: Int { invocation.jobs ?? max(2, 2 * Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }
}
