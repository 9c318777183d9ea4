/// What `ztm` prints, from the objects of the agent's API: the columns and
/// layouts of the ZTM face. Pure text; what an endpoint chose to call itself
/// cannot reach the terminal as control characters.

#if canImport(Bytes)
  package import HTTP
#endif

package enum ZTMText {
  // MARK: Tables

  /// NAME, JOINED AS, USER, HUBS, STATUS
  package static func meshes(_ list: JSONValue) -> String {
    var table = TextTable(["NAME", "JOINED AS", "USER", "HUBS", "STATUS"])
    for mesh in list.array ?? [] {
      table.add([
        text(mesh["name"]), text(mesh["agent"]?["name"] ?? mesh["endpoint"]?["name"]),
        text(mesh["agent"]?["username"]), texts(mesh["bootstraps"]).joined(separator: ", "),
        status(mesh),
      ])
    }
    return table.text
  }

  /// NAME, USER, IP, PORT, STATUS, PING, ID, EDITION, VERSION, LABELS, then ours.
  package static func endpoints(_ list: JSONValue) -> String {
    var table = TextTable([
      "NAME", "USER", "IP", "PORT", "STATUS", "PING", "ID", "EDITION", "VERSION", "LABELS", "PATH",
      "RTT",
    ])
    for endpoint in list.array ?? [] {
      table.add([
        text(endpoint["name"]) + (endpoint["isLocal"]?.bool == true ? " (local)" : ""),
        text(endpoint["username"]), text(endpoint["ip"]), text(endpoint["port"]),
        endpoint["online"]?.bool == true ? "Online" : "Offline", milliseconds(endpoint["ping"]),
        text(endpoint["id"]), text(endpoint["agent"]?["edition"] ?? endpoint["edition"]),
        text(endpoint["agent"]?["version"] ?? endpoint["version"]),
        texts(endpoint["labels"]).joined(separator: " "), text(endpoint["path"]),
        milliseconds(endpoint["rtt"]),
      ])
    }
    return table.text
  }

  /// NAME, TAG, STATE
  package static func apps(_ list: JSONValue) -> String {
    var table = TextTable(["NAME", "TAG", "STATE"])
    for app in list.array ?? [] { table.add([text(app["name"]), text(app["tag"]), state(app)]) }
    return table.text
  }

  /// NAME, INBOUND, OUTBOUND
  package static func tunnels(_ list: JSONValue) -> String {
    var table = TextTable(["NAME", "INBOUND", "OUTBOUND"])
    for tunnel in list.array ?? [] {
      table.add([
        key(tunnel), names(tunnel["inbound"]).joined(separator: ", "),
        names(tunnel["outbound"]).joined(separator: ", "),
      ])
    }
    return table.text
  }

  /// NAME, LISTENS, EXITS
  package static func inbounds(_ list: JSONValue) -> String {
    var table = TextTable(["NAME", "LISTENS", "EXITS"])
    for inbound in list.array ?? [] {
      table.add([
        key(inbound), listens(inbound).joined(separator: ", "),
        orAll(texts(inbound["exits"]), "(all endpoints)").joined(separator: ", "),
      ])
    }
    return table.text
  }

  /// NAME, TARGETS, ENTRANCES, USERS
  package static func outbounds(_ list: JSONValue) -> String {
    var table = TextTable(["NAME", "TARGETS", "ENTRANCES", "USERS"])
    for outbound in list.array ?? [] {
      table.add([
        key(outbound), targets(outbound).joined(separator: ", "),
        orAll(texts(outbound["entrances"]), "(all endpoints)").joined(separator: ", "),
        orAll(texts(outbound["users"]), "(all users)").joined(separator: ", "),
      ])
    }
    return table.text
  }

  // MARK: Descriptions

  package static func describeMesh(_ mesh: JSONValue) -> String {
    var lines = Lines()
    lines.add("Mesh: \(text(mesh["name"]))")
    let own = mesh["agent"] ?? mesh["endpoint"]
    lines.add("Joined as: \(text(own?["name"])) (\(text(own?["id"])))")
    lines.add("User: \(text(own?["username"]))")
    lines.add("Hubs:", texts(mesh["bootstraps"]), none: "(none)")
    lines.add("Status: \(status(mesh))")
    return lines.text
  }

  package static func describeEndpoint(_ endpoint: JSONValue) -> String {
    var lines = Lines()
    lines.add(
      "Endpoint: \(text(endpoint["name"]))\(endpoint["isLocal"]?.bool == true ? " (local)" : "")")
    lines.add("ID: \(text(endpoint["id"]))")
    lines.add("User: \(text(endpoint["username"]))")
    lines.add("IP: \(text(endpoint["ip"]))")
    lines.add("Port: \(text(endpoint["port"]))")
    lines.add("Status: \(endpoint["online"]?.bool == true ? "Online" : "Offline")")
    lines.add("Ping: \(milliseconds(endpoint["ping"]))")
    lines.add("Version: \(text(endpoint["agent"]?["version"] ?? endpoint["version"]))")
    lines.add("Labels:", texts(endpoint["labels"]), none: "(none)")
    if let path = endpoint["path"], !path.isNull { lines.add("Path: \(text(path))") }
    return lines.text
  }

  package static func describeApp(_ app: JSONValue) -> String {
    "App: \(TextTable.cell(text(app["name"])))\nTag: \(TextTable.cell(text(app["tag"])))\nState: \(state(app))\n"
  }

  package static func describeTunnel(_ tunnel: JSONValue) -> String {
    var lines = Lines()
    lines.add("Tunnel: \(key(tunnel))")
    lines.add("Inbound:", endpointLines(tunnel["inbound"]), none: "(none)")
    lines.add("Outbound:", endpointLines(tunnel["outbound"]), none: "(none)")
    return lines.text
  }

  /// - Parameter endpoint: the local endpoint, "NAME (ID)".
  package static func describeInbound(_ inbound: JSONValue, endpoint: String) -> String {
    var lines = Lines()
    lines.add("Inbound \(key(inbound))")
    lines.add("Endpoint: \(endpoint)")
    lines.add("Listens:", listens(inbound), none: "(none)")
    lines.add("Exits:", texts(inbound["exits"]), none: "(all endpoints)")
    if let relay = inbound["relay"] { lines.add("Relay: \(text(relay))") }
    if let policy = inbound["policy"] { lines.add("Policy: \(text(policy))") }
    counters(inbound["stats"], &lines)
    return lines.text
  }

  package static func describeOutbound(_ outbound: JSONValue, endpoint: String) -> String {
    var lines = Lines()
    lines.add("Outbound \(key(outbound))")
    lines.add("Endpoint: \(endpoint)")
    lines.add("Targets:", targets(outbound), none: "(none)")
    lines.add("Entrances:", texts(outbound["entrances"]), none: "(all endpoints)")
    lines.add("Users:", texts(outbound["users"]), none: "(all users)")
    counters(outbound["stats"], &lines)
    return lines.text
  }

  /// `[{"time":"ISO","message":"…"}]` → lines, time first.
  package static func log(_ entries: JSONValue) -> String {
    (entries.array ?? []).map { entry in
      let line = entry.string ?? "\(text(entry["time"])) \(text(entry["message"]))"
      return TextTable.cell(line) + "\n"
    }.joined()
  }

  // MARK: Pieces

  /// Lines and indented lists.
  private struct Lines {
    var text = ""
    mutating func add(_ line: String) { text += TextTable.cell(line) + "\n" }
    mutating func add(_ title: String, _ items: [String], none: String) {
      add(title)
      for item in items.isEmpty ? [none] : items { add("  " + item) }
    }
  }

  private static func counters(_ stats: JSONValue?, _ lines: inout Lines) {
    guard let stats, stats.object != nil else { return }
    let (now, total) = (stats["connections"]?.uint64 ?? 0, stats["connectionsTotal"]?.uint64 ?? 0)
    lines.add("Connections: \(now) now, \(total) in all")
    let (there, back) = (stats["bytesToTarget"]?.uint64 ?? 0, stats["bytesToCaller"]?.uint64 ?? 0)
    lines.add("Bytes: \(Show.bytes(there)) to the target, \(Show.bytes(back)) to the caller")
    lines.add(
      "Failures:",
      (stats["failures"]?.array ?? []).map {
        "\(text($0["count"])) × \(text($0["words"] ?? $0["reason"]))"
      }, none: "(none)")
    let path = text(stats["path"])
    lines.add("Path: \(path.isEmpty ? "(none yet)" : path)")
  }

  private static func key(_ value: JSONValue) -> String {
    "\(text(value["protocol"]))/\(text(value["name"]))"
  }

  private static func status(_ mesh: JSONValue) -> String {
    if mesh["connected"]?.bool == true { return "Connected" }
    let error = mesh["errors"]?.array?.last?["message"] ?? mesh["error"]
    if let words = error?.string, !words.isEmpty { return "ERROR: \(words)" }
    return "Offline"
  }

  private static func state(_ app: JSONValue) -> String {
    var words: [String] = []
    if app["isBuiltin"]?.bool == true { words.append("builtin") }
    words.append(app["isRunning"]?.bool == true ? "running" : "stopped")
    return words.joined(separator: ", ")
  }

  private static func listens(_ inbound: JSONValue) -> [String] {
    (inbound["listens"]?.array ?? []).map { listen in
      let ip = text(listen["ip"])
      let address = (ip.contains(":") ? "[\(ip)]" : ip) + ":" + text(listen["port"])
      guard listen["open"]?.bool == false else { return address }
      let error = text(listen["error"])
      return address + (error.isEmpty ? " (not open)" : " (not open: \(error))")
    }
  }

  private static func targets(_ outbound: JSONValue) -> [String] {
    (outbound["targets"]?.array ?? []).map { target in
      if let text = target.string { return text }
      if let path = target["unix"]?.string { return "unix:" + path }
      let host = text(target["host"])
      return (host.contains(":") ? "[\(host)]" : host) + ":" + text(target["port"])
    }
  }

  private static func endpointLines(_ list: JSONValue?) -> [String] {
    (list?.array ?? []).map { endpoint in
      endpoint.string ?? "Endpoint: \(text(endpoint["name"])) (\(text(endpoint["id"])))"
    }
  }

  private static func names(_ list: JSONValue?) -> [String] {
    (list?.array ?? []).map { $0.string ?? text($0["name"] ?? $0["id"]) }
  }

  private static func orAll(_ list: [String], _ all: String) -> [String] {
    list.isEmpty ? [all] : list
  }

  private static func milliseconds(_ value: JSONValue?) -> String {
    value?.double.map(Show.milliseconds) ?? ""
  }

  private static func texts(_ value: JSONValue?) -> [String] {
    (value?.array ?? []).map { text($0) }
  }

  /// A scalar as text; anything else is nothing.
  static func text(_ value: JSONValue?) -> String {
    switch value {
    case .string(let text): text
    case .number(let number): number.text
    case .bool(let flag): flag ? "true" : "false"
    case .null, .array, .object, nil: ""
    }
  }
}
