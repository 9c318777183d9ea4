import Bytes
import PortMapping
import Testing

private func hex(_ text: String) -> [UInt8] {
  let digits = text.filter { !$0.isWhitespace }
  var bytes: [UInt8] = []
  var rest = digits[...]
  while let byte = UInt8(rest.prefix(2), radix: 16) {
    bytes.append(byte)
    rest = rest.dropFirst(2)
  }
  return bytes
}

/// For `#require`, which takes no spans.
private func decoded(_ bytes: [UInt8]) -> PCPResponse? { PCPResponse.decode(bytes.span.bytes) }

/// Vectors laid out by hand from the figures of RFC 6887 §7, §11 and RFC 6886 §3.
@Suite struct PortMappingCodecTests {
  static let nonce: [UInt8] = Array(1...12)

  @Test func mapRequestIsWrittenAsTheFiguresShow() {
    let request = PCPMapRequest(
      lifetime: 7200, client: IPAddress(192, 168, 1, 20), nonce: Self.nonce, transport: .udp,
      internalPort: 27190, suggestedPort: 4000, suggestedAddress: .anyV4)
    let wanted = hex(
      """
      02 01 0000  00001c20
      00000000000000000000ffffc0a80114
      0102030405060708090a0b0c
      11 000000 6a36 0fa0
      00000000000000000000ffff00000000
      """)
    #expect(request.encoded() == wanted)
    #expect(wanted.count == PCPConstants.mapBytes)
  }

  @Test func removalOverIPv6IsWrittenAsTheFiguresShow() {
    let request = PCPMapRequest(
      lifetime: 0, client: IPAddress(high: 0x2001_0db8_0000_0000, low: 7), nonce: Self.nonce,
      transport: .tcp, internalPort: 443, suggestedPort: 0, suggestedAddress: .anyV6)
    let wanted = hex(
      """
      02 01 0000  00000000
      20010db8000000000000000000000007
      0102030405060708090a0b0c
      06 000000 01bb 0000
      00000000000000000000000000000000
      """)
    #expect(request.encoded() == wanted)
  }

  static let mapResponse = hex(
    """
    02 81 00 00  00000e10 00000123 000000000000000000000000
    0102030405060708090a0b0c
    11 000000 6a36 0fa1
    00000000000000000000ffffcb007105
    """)

  @Test func mapResponseIsReadFieldByField() throws {
    let response = try #require(decoded(Self.mapResponse))
    #expect(response.result == .success)
    #expect(response.lifetime == 3600)
    #expect(response.epoch == 0x123)
    #expect(
      response.content
        == .map(
          PCPMapAnswer(
            nonce: Self.nonce, transport: 17, internalPort: 27190,
            external: Endpoint(IPAddress(203, 0, 113, 5), 4001))))
  }

  @Test func optionsBehindAMapResponseAreSkipped() throws {
    let bytes = Self.mapResponse + hex("01 00 0004 deadbeef")
    let response = try #require(decoded(bytes))
    #expect(response == PCPResponse.decode(Self.mapResponse.span.bytes))
  }

  @Test func announcementIsReadWithAndWithoutMore() {
    let bytes = hex("02 80 00 00 00000000 00000007 000000000000000000000000")
    let response = PCPResponse.decode(bytes.span.bytes)
    #expect(response?.content == .announce)
    #expect(response?.epoch == 7)
  }

  @Test func everyTruncationOfAMapResponseIsRefusedOrOnlyItsHeader() {
    for count in 0..<Self.mapResponse.count {
      let cut = Array(Self.mapResponse[..<count])
      let response = PCPResponse.decode(cut.span.bytes)
      if count < 24 || count % 4 != 0 {
        #expect(response == nil, "\(count) bytes")
      } else {
        #expect(response?.content == .other(opcode: 1), "\(count) bytes")
      }
    }
  }

  @Test func hostilePCPBytesAreRefused() {
    let table: [(String, [UInt8])] = [
      ("a request", [0x02, 0x01] + Self.mapResponse[2...]),
      ("version 0", [0x00] + Self.mapResponse[1...]),
      ("version 1", [0x01] + Self.mapResponse[1...]),
      ("version 3", [0x03] + Self.mapResponse[1...]),
      ("longer than 1100", Self.mapResponse + [UInt8](repeating: 0, count: 1044)),
      ("not of four", Self.mapResponse + [0, 0]),
      ("nothing", []),
    ]
    for (name, bytes) in table {
      #expect(PCPResponse.decode(bytes.span.bytes) == nil, "\(name)")
    }
  }

  @Test func everyPCPResultCodeHasItsName() {
    for code in UInt8(0)...255 {
      var bytes = Self.mapResponse
      bytes[3] = code
      let response = PCPResponse.decode(bytes.span.bytes)
      #expect(response?.resultCode == code)
      #expect((response?.result != nil) == (code <= 13))
    }
  }

  @Test func natPMPRequestsAreWrittenAsTheFiguresShow() {
    #expect(NATPMPRequest.externalAddress.encoded() == [0, 0])
    #expect(
      NATPMPRequest.map(
        transport: .udp, internalPort: 27190, suggestedPort: 4000, lifetime: 7200
      ).encoded() == hex("00 01 0000 6a36 0fa0 00001c20"))
    #expect(
      NATPMPRequest.map(transport: .tcp, internalPort: 443, suggestedPort: 0, lifetime: 0)
        .encoded() == hex("00 02 0000 01bb 0000 00000000"))
  }

  @Test func natPMPResponsesAreReadFieldByField() {
    let address = hex("00 80 0000 00000064 cb007105")
    #expect(
      NATPMPResponse.decode(address.span.bytes)
        == NATPMPResponse(
          resultCode: 0, epoch: 100, content: .externalAddress(IPAddress(203, 0, 113, 5))))
    let map = hex("00 81 0000 00000064 6a36 0fa1 00000e10")
    #expect(
      NATPMPResponse.decode(map.span.bytes)?.content
        == .map(transport: .udp, internalPort: 27190, externalPort: 4001, lifetime: 3600))
    let tcp = hex("00 82 0000 00000064 01bb 01bb 00000e10")
    #expect(
      NATPMPResponse.decode(tcp.span.bytes)?.content
        == .map(transport: .tcp, internalPort: 443, externalPort: 443, lifetime: 3600))
  }

  @Test func natPMPRefusalsMayBeShort() {
    // To a version it does not speak a gateway answers with eight bytes.
    let version = hex("00 00 0001 00000064")
    #expect(NATPMPResponse.decode(version.span.bytes)?.result == .unsupportedVersion)
    let refused = hex("00 81 0002 00000064")
    #expect(NATPMPResponse.decode(refused.span.bytes)?.result == .notAuthorized)
    #expect(NATPMPResponse.decode(refused.span.bytes)?.content == .bare(opcode: 1))
  }

  @Test func everyTruncationOfANATPMPSuccessIsRefused() {
    for whole in [
      hex("00 80 0000 00000064 cb007105"), hex("00 81 0000 00000064 6a36 0fa1 00000e10"),
    ] {
      for count in 0..<whole.count {
        #expect(
          NATPMPResponse.decode(Array(whole[..<count]).span.bytes) == nil, "\(count) bytes")
      }
    }
  }

  @Test func hostileNATPMPBytesAreRefused() {
    let table: [(String, [UInt8])] = [
      ("a request", hex("00 01 0000 6a36 0fa0 00001c20")),
      ("version 1", hex("01 81 0000 00000064 6a36 0fa1 00000e10")),
      ("success of an unknown opcode", hex("00 83 0000 00000064 6a36 0fa1 00000e10")),
    ]
    for (name, bytes) in table {
      #expect(NATPMPResponse.decode(bytes.span.bytes) == nil, "\(name)")
    }
  }

  /// RFC 6887 §8.5, both inequalities at their edges.
  @Test func pcpClockTable() {
    let table: [(server: UInt32, elapsed: Int64, holds: Bool, why: String)] = [
      (1000, 0, true, "the same packet again"),
      (999, 0, true, "back by one second: reordered"),
      (998, 0, false, "back by two"),
      (0, 3600, false, "began anew"),
      (4600, 3600, true, "in step"),
      (1000, 2, true, "stood for two seconds"),
      (1000, 3, false, "stood for three"),
      (1000 + 3373, 3600, true, "slow by a sixteenth"),
      (1000 + 3372, 3600, false, "slower"),
      (1000 + 3842, 3600, true, "fast by a sixteenth"),
      (1000 + 3843, 3600, false, "faster"),
    ]
    for row in table {
      var epoch = PCPEpoch(1000, at: Instant(nanoseconds: 0))
      let holds = epoch.follow(row.server, at: Instant(nanoseconds: row.elapsed * 1_000_000_000))
      #expect(holds == row.holds, "\(row.why)")
    }
  }

  /// RFC 6886 §3.6: seven eighths of what passed here, less two seconds.
  @Test func natPMPClockTable() {
    let table: [(server: UInt32, elapsed: Int64, holds: Bool, why: String)] = [
      (1000, 0, true, "the same"),
      (998, 0, true, "two seconds less"),
      (997, 0, false, "three less"),
      (1698, 800, true, "slow by an eighth and two seconds"),
      (1697, 800, false, "slower"),
      (9000, 800, true, "faster is no loss"),
      (0, 800, false, "began anew"),
    ]
    for row in table {
      var epoch = NATPMPEpoch(1000, at: Instant(nanoseconds: 0))
      let holds = epoch.follow(row.server, at: Instant(nanoseconds: row.elapsed * 1_000_000_000))
      #expect(holds == row.holds, "\(row.why)")
    }
  }
}
