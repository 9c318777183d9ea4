/// `martlet netcheck`: what kind of network this machine is in, by the agent's
/// probe, or, with `-serverhost`, by one of its own without an agent.

internal import Agent
internal import Bytes
internal import CommandLine
internal import HTTP
internal import Reactor

extension MartletCommands {
  static func netcheck(
    _ serverHost: String?, _ ports: NetcheckPorts, _ invocation: MartletInvocation
  ) -> Int32 {
    if let serverHost {
      switch NetworkProbe.run(serverHost, ports) {
      case .failure(let failure): return Entry.fail("martlet", failure.words)
      case .success(let value): return tell(value, invocation)
      }
    }
    switch ask("POST", "/api/netcheck", invocation) {
    case .failure(let failure):
      return Entry.fail("martlet", "\(failure.words); or name a server with -serverhost")
    case .success(let value): return tell(value, invocation)
    }
  }

  private static func tell(_ value: JSONValue, _ invocation: MartletInvocation) -> Int32 {
    if invocation.json {
      Entry.write(value.text(.pretty), to: 1)
      return ExitStatus.success
    }
    var text = ""
    for family in value["families"]?.array ?? [] {
      let name = word(family["family"])
      guard family["present"]?.bool == true else {
        text += "\(name): no address\n"
        continue
      }
      guard !word(family["stun"]).isEmpty else {
        text += "\(name): the server has no \(name) address, nothing can be found out\n"
        continue
      }
      let nat = family["nat"]
      text += "\(name): NAT: \(word(nat?["words"])) (type \(word(nat?["type"])))\n"
      text += "  seen from outside at   \(orUnknown(family["mapped"]))\n"
      text += "  keeps the port number  \(yesOrNo(nat?["preservesPort"]))\n"
      text += "  turns packets round    \(yesOrNo(nat?["hairpins"])) (hairpinning)\n"
      if nat?["mapping"]?.string != "unknown" {
        let ours = word(family["routers"]?["ours"])
        text += "  routers of our own     \(ours.isEmpty ? "unknown: they do not say" : ours)\n"
      }
      if let interval = family["idlePingSeconds"]?.int {
        let shut = family["forgottenAfterSeconds"]?.int
        text +=
          "  idle paths are pinged   every \(interval) s"
          + (shut.map { "; a router had forgotten one after \($0) s" } ?? "") + "\n"
      }
      if let roundTrip = family["rttMs"]?.double {
        text += "  round trip to server   \(rounded(roundTrip)) ms\n"
      }
      for mapped in family["tcpMapped"]?.array ?? [] {
        text += "  by TCP seen at         \(word(mapped))\n"
      }
      if !word(family["adviceWords"]).isEmpty {
        text += "  what would help        \(word(family["adviceWords"]))\n"
      }
    }
    text += portMapping(value)
    Entry.write(text, to: 1)
    return ExitStatus.success
  }

  /// A line on ports that routers opened for the agent; none without an agent.
  static func portMapping(_ value: JSONValue) -> String {
    let words = word(value["portMapping"]?["words"])
    return words.isEmpty ? "" : "Port mapping: \(words)\n"
  }

  private static func orUnknown(_ value: JSONValue?) -> String {
    let text = word(value)
    return text.isEmpty ? "unknown" : text
  }

  private static func yesOrNo(_ value: JSONValue?) -> String {
    value?.bool.map { $0 ? "yes" : "no" } ?? "unknown"
  }
}
