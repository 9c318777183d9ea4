import Bytes
import Testing
import Tunnels

/// The error a definition is refused with, or nil.
func fault(_ body: () throws(DefinitionError) -> Void) -> DefinitionError? {
  do {
    try body()
    return nil
  } catch { return error }
}

@Suite struct DefinitionTests {
  @Test func tunnelNamesFollowTheRules() {
    for good in [
      "web", "my-tunnel", "home_server.2", "9p", "Büro", "网页", String(repeating: "a", count: 64),
    ] {
      #expect(
        fault { () throws(DefinitionError) in _ = try TunnelKey(.tcp, good) } == nil, "\(good)")
    }
    for bad in [
      "", "-web", ".web", "a/b", "a b", "a\u{7}", "a\"", "é\u{200b}",
      String(repeating: "a", count: 65),
    ] {
      #expect(
        fault { () throws(DefinitionError) in _ = try TunnelKey(.tcp, bad) }?.field == .name,
        "\(bad)")
    }
  }

  @Test func aBareNameMeansBothProtocols() throws {
    #expect(try TunnelReference("web").keys.map(\.description) == ["tcp/web", "udp/web"])
    #expect(try TunnelReference("udp/web").keys.map(\.description) == ["udp/web"])
    #expect(try TunnelReference("TCP/web").keys.map(\.description) == ["tcp/web"])
    #expect(
      fault { () throws(DefinitionError) in _ = try TunnelReference("sctp/web") }?.field
        == .protocol)
    #expect(
      fault { () throws(DefinitionError) in _ = try TunnelReference("tcp/") }?.problem == .missing)
    #expect(
      fault { () throws(DefinitionError) in _ = try TunnelReference("tcp/a/b") }?.field == .name)
  }

  @Test func listenAddressesParse() throws {
    let table: [(String, String?)] = [
      ("9000", "127.0.0.1:9000"), (":9000", "127.0.0.1:9000"), ("0.0.0.0:9000", "0.0.0.0:9000"),
      ("localhost:22", "127.0.0.1:22"), ("*:80", "0.0.0.0:80"), ("[::]:53", "[::]:53"),
      ("[::1]:65535", "[::1]:65535"), ("0", nil), ("65536", nil), ("", nil), ("a:1", nil),
      ("1.2.3.4", nil), ("::1:53", nil), ("1.2.3.4:+5", nil), ("1.2.3.4:5 ", nil),
      ("[1.2.3.4]:5", nil),
      ("224.0.0.1:5", nil), ("-1", nil), ("1.2.3.4:", nil),
    ]
    for (text, wanted) in table {
      #expect((try? ListenAddress(text))?.description == wanted, "\(text)")
    }
  }

  @Test func targetsParse() throws {
    let table: [(String, String?)] = [
      ("192.168.1.100:8080", "192.168.1.100:8080"), ("nas.lan:22", "nas.lan:22"),
      ("[fd00::1]:80", "[fd00::1]:80"), ("unix:/run/x.sock", "unix:/run/x.sock"),
      ("localhost:1", "localhost:1"), ("unix:run/x", nil), ("unix:/", nil), ("unix:", nil),
      (":80", nil), ("host", nil), ("host:0", nil), ("host:65536", nil), ("-h:80", nil),
      ("a..b:80", nil), ("300.1.1.1:80", nil), ("1.2.3:80", nil), ("fd00::1:80", nil),
      ("a b:80", nil), ("host:80x", nil), ("[]:80", nil), ("[host]:80", nil),
    ]
    for (text, wanted) in table {
      #expect((try? TunnelTarget(text))?.description == wanted, "\(text)")
    }
  }

  @Test func halvesRefuseWhatTheyCannotDo() throws {
    let tcp = try TunnelKey(.tcp, "t")
    let udp = try TunnelKey(.udp, "t")
    #expect(
      fault { () throws(DefinitionError) in
        _ = try TunnelInbound(tcp, listens: [String](), exits: [])
      }
        == DefinitionError(.listen, .missing))
    #expect(
      fault { () throws(DefinitionError) in
        _ = try TunnelInbound(tcp, listens: ["1", "127.0.0.1:1"], exits: [])
      }
        == DefinitionError(.listen, .duplicate, value: "127.0.0.1:1"))
    #expect(
      fault { () throws(DefinitionError) in
        _ = try TunnelOutbound(udp, targets: ["unix:/x"], entrances: [], users: [])
      }?.problem == .unixNeedsTCP)
    let many = (1...65).map { "\($0)" }
    #expect(
      fault { () throws(DefinitionError) in _ = try TunnelInbound(tcp, listens: many, exits: []) }?
        .problem
        == .tooMany(limit: 64))
    #expect(
      fault { () throws(DefinitionError) in
        _ = try TunnelOutbound(tcp, targets: ["a:1"], entrances: [" x"], users: [])
      }?.field == .entrance)
  }

  @Test func theExitAdmitsByCertifiedIdentity() throws {
    let id = "0123ABCD-0000-1111-2222-333344445555"
    let out = try TunnelOutbound(
      TunnelKey(.tcp, "t"), targets: ["a:1"], entrances: [id, "laptop"], users: ["ann"])
    #expect(out.admits(endpointID: id.lowercased(), endpointName: "x", user: "ann"))
    #expect(out.admits(endpointID: "other", endpointName: "laptop", user: "ann"))
    #expect(!out.admits(endpointID: "other", endpointName: "laptop", user: "bob"))
    #expect(!out.admits(endpointID: "other", endpointName: "phone", user: "ann"))
    let open = try TunnelOutbound(TunnelKey(.tcp, "t"), targets: ["a:1"], entrances: [], users: [])
    #expect(open.admits(endpointID: "", endpointName: "", user: ""))
  }

  @Test func appsAreCheckedFieldByField() throws {
    let app = try AppDefinition(srcPort: 2222, peerNode: "nodeB", dstHost: "[fd00::1]", dstPort: 22)
    #expect(app.appName == "tcp:2222")
    #expect(app.dstHost == "fd00::1")
    #expect(app.relayNode == nil && app.enabled && app.whitelist.isEmpty)
    #expect(app.listenAddress.description == "0.0.0.0:2222")
    let faults: [(DefinitionError.Field, () throws(DefinitionError) -> Void)] = [
      (
        .protocol,
        { () throws(DefinitionError) in
          _ = try AppDefinition(protocol: "sctp", srcPort: 1, peerNode: "b", dstPort: 1)
        }
      ),
      (
        .protocol,
        { () throws(DefinitionError) in
          _ = try AppDefinition(protocol: "", srcPort: 1, peerNode: "b", dstPort: 1)
        }
      ),
      (
        .srcPort,
        { () throws(DefinitionError) in _ = try AppDefinition(srcPort: 0, peerNode: "b", dstPort: 1)
        }
      ),
      (
        .dstPort,
        { () throws(DefinitionError) in
          _ = try AppDefinition(srcPort: 1, peerNode: "b", dstPort: 65536)
        }
      ),
      (
        .peerNode,
        { () throws(DefinitionError) in _ = try AppDefinition(srcPort: 1, peerNode: "", dstPort: 1)
        }
      ),
      (
        .dstHost,
        { () throws(DefinitionError) in
          _ = try AppDefinition(srcPort: 1, peerNode: "b", dstHost: "a b", dstPort: 1)
        }
      ),
      (
        .whitelist,
        { () throws(DefinitionError) in
          _ = try AppDefinition(srcPort: 1, peerNode: "b", dstPort: 1, whitelist: "x")
        }
      ),
      (
        .appName,
        { () throws(DefinitionError) in
          _ = try AppDefinition(appName: "a\n", srcPort: 1, peerNode: "b", dstPort: 1)
        }
      ),
    ]
    for (field, body) in faults { #expect(fault(body)?.field == field, "\(field)") }
  }

  @Test func callerListsAdmitWhatTheySay() throws {
    let list = try CallerList("10.0.0.1, 192.168.1.0/24;172.16.0.5-172.16.0.9 , fd00::/8")
    for (text, admitted) in [
      ("10.0.0.1", true), ("10.0.0.2", false), ("192.168.1.0", true), ("192.168.1.255", true),
      ("192.168.2.0", false), ("172.16.0.4", false), ("172.16.0.5", true), ("172.16.0.9", true),
      ("172.16.0.10", false), ("fd12::1", true), ("fe80::1", false), ("::1", false),
    ] {
      #expect(list.admits(try #require(IPAddress(text))) == admitted, "\(text)")
    }
    #expect(try CallerList("").admits(.loopbackV4))
    #expect(try CallerList("  ").admits(.loopbackV4))
    #expect(try !CallerList("::/0").admits(.loopbackV4), "an IPv6 rule says nothing about IPv4")
    #expect(try CallerList("0.0.0.0/0").admits(.loopbackV4))
    for bad in [
      ",", "x", "1.2.3.4/33", "1.2.3.4/", "1.2.3.9-1.2.3.4", "1.2.3.4-::1", "1.2.3.4/+8",
      "fd00::/129",
    ] {
      #expect(
        fault { () throws(DefinitionError) in _ = try CallerList(bad) }?.field == .whitelist,
        "\(bad)")
    }
    let tooMany = (0..<257).map { "10.0.\($0 / 256).\($0 % 256)" }.joined(separator: ",")
    #expect(
      fault { () throws(DefinitionError) in _ = try CallerList(tooMany) }?.problem
        == .tooMany(limit: 256))
  }
}

@Suite struct ExitPolicyTests {
  private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

  @Test func byDefaultOnlyThisNode() throws {
    let policy = ExitPolicy(
      ownAddresses: [try address("192.168.1.7")], protectedPorts: [7777])
    let table: [(String, UInt16, ExitVerdict)] = [
      ("127.0.0.1", 22, .ownAddress), ("127.8.8.8", 22, .ownAddress), ("::1", 22, .ownAddress),
      ("192.168.1.7", 80, .ownAddress), ("192.168.1.8", 80, .refusedNoRule),
      ("8.8.8.8", 53, .refusedNoRule), ("127.0.0.1", 7777, .refusedOwnService),
      ("192.168.1.7", 7777, .refusedOwnService), ("0.0.0.0", 22, .refusedAddressClass),
      ("::", 22, .refusedAddressClass), ("224.0.0.1", 22, .refusedAddressClass),
      ("255.255.255.255", 22, .refusedAddressClass), ("127.0.0.1", 0, .refusedAddressClass),
      ("::ffff:127.0.0.1", 7777, .refusedOwnService),
    ]
    for (text, port, verdict) in table {
      #expect(
        policy.mayReach(requested: text, resolved: try address(text), port: port) == verdict,
        "\(text):\(port)")
    }
  }

  @Test func rulesOpenWhatTheyName() throws {
    let rules = try ["192.168.1.0/24:80,443", "nas.lan:8000-8010", "[fd00::/8]:*", "10.0.0.1:22"]
      .map {
        try AllowRule($0)
      }
    let policy = ExitPolicy(rules: rules, protectedPorts: [7777])
    let table: [(String, String, UInt16, Bool)] = [
      ("192.168.1.9", "192.168.1.9", 80, true), ("192.168.1.9", "192.168.1.9", 443, true),
      ("192.168.1.9", "192.168.1.9", 81, false), ("192.168.2.9", "192.168.2.9", 80, false),
      ("NAS.lan.", "10.9.9.9", 8005, true), ("nas.lan", "10.9.9.9", 8011, false),
      ("evil.lan", "10.9.9.9", 8005, false), ("x", "fd01::1", 1, true), ("x", "fe80::1", 1, false),
      ("10.0.0.1", "10.0.0.1", 22, true), ("10.0.0.1", "10.0.0.1", 23, false),
      ("nas.lan", "224.0.0.1", 8005, false),
    ]
    for (requested, resolved, port, allowed) in table {
      #expect(
        policy.mayReach(requested: requested, resolved: try address(resolved), port: port).isAllowed
          == allowed, "\(requested) = \(resolved):\(port)")
    }
    let everything = ExitPolicy(rules: [try AllowRule("*:*")], protectedPorts: [7777])
    #expect(
      everything.mayReach(requested: "x", resolved: try address("8.8.8.8"), port: 1).isAllowed)
    #expect(!everything.mayReach(requested: "x", resolved: .loopbackV4, port: 7777).isAllowed)
    #expect(!everything.mayReach(requested: "x", resolved: .anyV4, port: 7777).isAllowed)
  }

  @Test func malformedRulesAreRefused() {
    for bad in [
      "", "80", "host", "host:", "host:0", "host:65536", "host:1-", "host:9-8", "host:1,,2", ":80",
      "fd00::1:80", "[host]:80", "1.2.3.0/33:80", "a b:80", "host:80 ", "host:1,", "300.1.1.1:1",
    ] {
      #expect(
        fault { () throws(DefinitionError) in _ = try AllowRule(bad) }?.field == .allow, "\(bad)")
    }
  }
}

@Suite struct PolicyTests {
  @Test func relayPoliciesSayWhatTheyRead() throws {
    for text in ["", "never", "only", "via:c", "only,via:c,not:d", "not:c,not:d"] {
      #expect(try RelayPolicy(text).description == text)
    }
    #expect(try RelayPolicy("not:d,only").description == "only,not:d")
    let own = try PeerRelayPolicy("to:b,never")
    #expect(own.peer == .name("b") && own.policy.use == .never && own.description == "to:b,never")
    #expect(try PeerRelayPolicy("via:c").peer == nil)
  }

  @Test func contradictionsAndNonsenseAreRefused() {
    let table: [(String, DefinitionError.Problem)] = [
      ("sometimes", .malformed), ("never,", .malformed), (",", .malformed),
      ("never,only", .contradictory), ("never,never", .contradictory),
      ("never,via:c", .contradictory), ("via:c,via:d", .contradictory),
      ("via:c,not:c", .contradictory), ("not:c,not:c", .duplicate), ("via:", .missing),
      ((0...8).map { "not:\($0)" }.joined(separator: ","), .tooMany(limit: 8)),
    ]
    for (text, problem) in table {
      do throws(DefinitionError) {
        _ = try RelayPolicy(text)
        Issue.record("\(text) must be refused")
      } catch {
        #expect(error.problem == problem && error.field == .relay, "\(text): \(error)")
        #expect(!error.description.isEmpty)
      }
    }
    for text in ["to:b", "to:,never", "never,to:b"] {
      #expect(throws: DefinitionError.self, "\(text)") { try PeerRelayPolicy(text) }
    }
    #expect(throws: DefinitionError.self) { try TrafficPolicy("fast") }
    #expect(throws: DefinitionError.self) {
      try AppDefinition(
        srcPort: 1, peerNode: "b", dstPort: 1, relayNode: "c", relay: "via:d")
    }
  }

  @Test func twoThatLeadToOnePeerMustNotDemandOpposites() throws {
    var table = TunnelTable()
    let key = try TunnelKey(.tcp, "web")
    _ = try table.setInbounds([
      try TunnelInbound(key, listens: ["1000"], exits: ["b", "c"], relay: "never")
    ])
    do {
      _ = try table.replaceApps([
        try AppDefinition(srcPort: 2_000, peerNode: "b", dstPort: 22, forceRelay: true)
      ])
      Issue.record("must be refused")
    } catch {
      #expect("\(error)".contains("contradicts"), "\(error)")
    }
    #expect(table.apps.isEmpty)
    _ = try table.replaceApps([
      try AppDefinition(srcPort: 2_000, peerNode: "d", dstPort: 22, forceRelay: true)
    ])
  }

  @Test func termsTravelInTheRequest() throws {
    let request = OpenRequest.tunnel(try TunnelKey(.tcp, "a"))
    for traffic in TrafficPolicy.allCases {
      for use in [RelayUse.any, .never, .only] {
        let terms = StreamTerms(traffic, relays: use)
        let bytes = request.encoded(terms)
        #expect(bytes[3] == traffic.rawValue | use.rawValue << 2)
        #expect(try OpenRequest.decode(bytes.span.bytes) == (request, terms))
      }
    }
  }
}

@Suite struct OpenRequestTests {
  @Test func requestsRoundTripInTheirOneEncoding() throws {
    let samples: [(OpenRequest, [UInt8])] = [
      (.tunnel(try TunnelKey(.tcp, "web")), [1, 1, 1, 0, 3] + Array("web".utf8)),
      (.tunnel(try TunnelKey(.udp, "网")), [1, 1, 2, 0, 3] + Array("网".utf8)),
      (.app(.tcp, host: "127.0.0.1", port: 22), [1, 2, 1, 0, 0, 22, 9] + Array("127.0.0.1".utf8)),
      (
        .app(.udp, host: "fd00::1", port: 65535), [1, 2, 2, 0, 255, 255, 7] + Array("fd00::1".utf8)
      ),
    ]
    for (request, bytes) in samples {
      #expect(request.encoded() == bytes)
      #expect(try OpenRequest.decode(bytes.span.bytes) == (request, .usual))
      for count in 0..<bytes.count {
        let short = Array(bytes[..<count])
        #expect(throws: OpenRequestFault.truncated) { try OpenRequest.decode(short.span.bytes) }
      }
      let long = bytes + [0]
      #expect(throws: OpenRequestFault.trailingBytes) { try OpenRequest.decode(long.span.bytes) }
    }
  }

  @Test func hostileRequestsAreRefusedByName() {
    let table: [([UInt8], OpenRequestFault)] = [
      ([0, 1, 1, 0, 1, 97], .version), ([2, 1, 1, 0, 1, 97], .version),
      ([1, 0, 1, 0, 1, 97], .kind),
      ([1, 3, 1, 0, 1, 97], .kind), ([1, 1, 0, 0, 1, 97], .protocol),
      ([1, 1, 3, 0, 1, 97], .protocol),
      ([1, 1, 1, 12, 1, 97], .flags), ([1, 1, 1, 16, 1, 97], .flags), ([1, 1, 1, 0, 0], .name),
      ([1, 1, 1, 0, 1, 0xff], .name),
      ([1, 1, 1, 0, 1, 0x2f], .name), ([1, 2, 1, 0, 0, 0, 1, 97], .port),
      ([1, 2, 1, 0, 0, 1, 0], .host),
      ([1, 2, 1, 0, 0, 1, 1, 0x20], .host), ([1, 2, 1, 0, 0, 1, 1, 0xff], .host),
      ([1, 1, 1, 0, 65] + [UInt8](repeating: 97, count: 65), .name),
      ([1, 2, 1, 0, 0, 1, 255] + [UInt8](repeating: 97, count: 255), .host),
    ]
    for (bytes, fault) in table {
      #expect(throws: fault, "\(bytes)") { try OpenRequest.decode(bytes.span.bytes) }
    }
  }

  @Test func randomBytesNeverDecodeToAnotherEncoding() {
    var random = SeededRandom(testSeed: 7)
    var decoded = 0
    for round in 0..<20_000 {
      var bytes: [UInt8] = [1, UInt8(random.next() % 3), UInt8(random.next() % 3)]
      bytes.append(UInt8(random.next() % 20))
      bytes += [UInt8(random.next() % 4)] + random.bytes(Int(random.next() % 4)).map { $0 % 128 }
      guard let (request, terms) = try? OpenRequest.decode(bytes.span.bytes) else { continue }
      decoded += 1
      #expect(request.encoded(terms) == bytes, "round \(round)")
    }
    #expect(decoded > 10)
  }

  @Test func refusalsHaveShortWordsAndAFailure() {
    for refusal in OpenRefusal.allCases {
      #expect(refusal.words.utf8.count <= 256)
      #expect(TunnelFailure(refusal).words == refusal.words)
    }
  }
}
