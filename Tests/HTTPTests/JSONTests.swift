import HTTP
import Testing

/// What must parse, and what it prints as when written compactly.
private let accepted: [(String, String)] = [
  ("null", "null"), (" true ", "true"), ("\tfalse\r\n", "false"), ("0", "0"), ("-0", "-0"),
  ("[]", "[]"), ("{}", "{}"), ("[ 1 , 2 ]", "[1,2]"),
  ("{ \"b\" : 1 , \"a\" : [ ] }", "{\"b\":1,\"a\":[]}"),
  ("1.50", "1.50"), ("1E+2", "1E+2"), ("1e-400", "1e-400"),
  ("18446744073709551615", "18446744073709551615"),
  ("123456789012345678901234567890", "123456789012345678901234567890"),
  ("\"\"", "\"\""), ("\"\\u0041\\n\\/\"", "\"A\\n/\""), ("\"\\ud83d\\ude00\"", "\"😀\""),
  ("\"é\u{7f}<\"", "\"é\\u007f\\u003c\""),
  ("\"\\u2028\\u2029\\u2027\"", "\"\\u2028\\u2029\u{2027}\""),
  ("\"\\u0000\"", "\"\\u0000\""), ("\u{feff}[1]", "[1]"),
]

private let refused: [String] = [
  "", " ", "nul", "tru", "True", "nullx", "+1", "01", "-", "-01", "1.", ".5", "1.e1", "1e", "1e+",
  "0x10",
  "NaN", "Infinity", "-Infinity", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1,,2]", "{",
  "}", "{\"a\"",
  "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{'a':1}", "{\"a\" 1}", "{1:1}",
  "{\"a\":1 \"b\":2}",
  "\"", "\"a", "'a'", "\"\\", "\"\\x41\"", "\"\\u12\"", "\"\\u12G4\"", "\"\\ud800\"",
  "\"\\ud800x\"",
  "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\\ud800\\ud800\"", "\"a\nb\"", "\"a\tb\"", "\"\u{0}\"",
  "1 1", "[] []",
  "// c\n1", "/* */1", "{\"a\":1,\"a\":2}", "\u{a0}1", "[1]\u{feff}", "\u{feff}\u{feff}1",
]

@Test func whatIsJSONIsReadAndWrittenBack() throws {
  for (text, written) in accepted {
    let value = try JSONValue.parse(text)
    #expect(value.text() == written, "\(text)")
    #expect(try JSONValue.parse(written) == value, "\(text)")
    #expect(try JSONValue.parse(value.text(.pretty)) == value, "\(text)")
  }
}

@Test func whatIsNotJSONIsRefused() {
  for text in refused {
    #expect(throws: JSONError.self, "\(text)") { try JSONValue.parse(text) }
  }
}

@Test func invalidUTF8IsRefusedEverywhere() {
  for bad: [UInt8] in [
    [0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82],
  ] {
    #expect(throws: JSONError.self) { try JSONValue.parse([0x22] + bad + [0x22]) }
    #expect(throws: JSONError.self) { try JSONValue.parse([0x22, 0x5c, 0x6e] + bad + [0x22]) }
    #expect(throws: JSONError.self) {
      try JSONValue.parse([0x7b, 0x22] + bad + Array("\":1}".utf8))
    }
  }
}

@Test func everyTruncationIsAnErrorAndNeverATrap() throws {
  let text =
    #"{"network":{"token":"12\u00e9","relay":true,"port":-1.5e3},"apps":[null,false,{"x":[]}]}"#
  let bytes = Array(text.utf8)
  _ = try JSONValue.parse(bytes)
  for count in 0..<bytes.count {
    #expect(throws: JSONError.self, "cut at \(count)") {
      try JSONValue.parse(Array(bytes[..<count]))
    }
  }
}

@Test func healthIsExactlyWhatTheSpecificationPrints() {
  let health: JSONValue = ["status": "ok", "version": "0.1.0", "nodes": 0]
  #expect(health.text() == #"{"status":"ok","version":"0.1.0","nodes":0}"#)
}

@Test func tokensKeepAllTheirDigits() throws {
  let value = try JSONValue.parse(
    #"{"Token":18446744073709551615,"s":"18446744073709551615","n":-9223372036854775808}"#)
  #expect(value[ignoringCase: "token"]?.uint64 == .max)
  #expect(value["token"] == nil)
  #expect(value["s"]?.lenientInteger(as: UInt64.self) == .max)
  #expect(value["s"]?.uint64 == nil)
  #expect(value["n"]?.integer(as: Int64.self) == .min)
  #expect(value["n"]?.uint64 == nil)
  #expect(try JSONValue.parse("18446744073709551616").uint64 == nil)
  #expect(try JSONValue.parse("12.0").int == 12)
  #expect(try JSONValue.parse("1e3").int == 1000)
  #expect(try JSONValue.parse("12.5").int == nil)
  #expect(try JSONValue.parse("1e400").int == nil)
  #expect(JSONValue(UInt64.max).text() == "18446744073709551615")
  #expect(JSONValue(1.0).text() == "1")
  #expect(JSONValue(0.1).text() == "0.1")
  #expect(JSONValue(1e300).text() == "1e+300")
  #expect(JSONValue(Double.infinity) == .null)
  for text in ["+5", "abc", "-1", "", " 1"] {
    #expect(JSONValue.string(text).lenientInteger(as: UInt64.self) == nil, "\(text)")
  }
}

@Test func savingKeepsUnknownMembersTheirOrderAndSpelling() throws {
  var config = try JSONValue.parse(
    #"{"future":{"x":[1,2]},"LogLevel":1,"network":{"Token":5,"zone":"a"}}"#)
  config[ignoringCase: "loglevel"] = 2
  var network = try #require(config["network"])
  network[ignoringCase: "token"] = JSONValue(UInt64.max)
  network["node"] = "n"
  config["network"] = network
  #expect(
    config.text()
      == #"{"future":{"x":[1,2]},"LogLevel":2,"network":{"Token":18446744073709551615,"zone":"a","node":"n"}}"#
  )
  config["future"] = nil
  #expect(config.object?.names == ["LogLevel", "network"])
}

@Test func prettyLayoutIsStable() throws {
  let value: JSONValue = ["a": [1, ["b": nil]], "e": [], "o": [:]]
  #expect(
    value.text(.pretty)
      == "{\n  \"a\": [\n    1,\n    {\n      \"b\": null\n    }\n  ],\n  \"e\": [],\n  \"o\": {}\n}\n"
  )
}

@Test func manyMembersAreFoundReplacedAndRemoved() throws {
  var object = JSONObject()
  for i in 0..<1000 { object["k\(i)"] = JSONValue(i) }
  for i in stride(from: 0, to: 1000, by: 2) { object["k\(i)"] = nil }
  #expect(object.count == 500)
  #expect(object["k1"]?.int == 1)
  #expect(object["k999"]?.int == 999)
  #expect(object["k2"] == nil)
  object["k3"] = "x"
  #expect(object.members[1].value == "x")
  let again = try JSONValue.parse(JSONValue.object(object).text())
  #expect(again == .object(object))
}

@Test func limitsHold() {
  var limits = JSONLimits()
  limits.depth = 3
  #expect(throws: Never.self) { try JSONValue.parse("[[[1]]]", limits: limits) }
  #expect(throws: JSONError.self) { try JSONValue.parse("[[[[1]]]]", limits: limits) }
  #expect(throws: Never.self) { try JSONValue.parse("[[],[],[],[],[]]", limits: limits) }
  limits.byteCount = 5
  #expect(throws: JSONError.self) { try JSONValue.parse("[1,2,3]", limits: limits) }
  limits = JSONLimits()
  limits.valueCount = 3
  #expect(throws: JSONError.self) { try JSONValue.parse("[1,2,3]", limits: limits) }
  #expect(throws: JSONError.self) {
    try JSONValue.parse(String(repeating: "[", count: 1_000_000))
  }
}

@Test func errorsSayWhere() {
  do throws(JSONError) {
    _ = try JSONValue.parse("{\n  \"a\": 1,\n  \"a\": 2\n}")
    Issue.record("a name given twice was accepted")
  } catch {
    #expect(error.reason == .duplicateName("a"))
    #expect(error.line == 3 && error.column == 3)
    #expect(error.description == "line 3, column 3: “a” is given twice in one object")
  }
}

@Test func filesWrittenByHandMayBeRelaxed() throws {
  let text = #"""
    // a comment
    { gateway: { mode: 'remote', /* here */ "port": +18789, hex: 0xFF, half: .5, five: 5., },
      list: [1, 2,], 'q\'uote': "line\
    joined \x41\v", $a_1: -0x10, }
    """#
  let written =
    #"{"gateway":{"mode":"remote","port":18789,"hex":255,"half":0.5,"five":5},"#
    + #""list":[1,2],"q'uote":"linejoined A\u000b","$a_1":-16}"#
  #expect(try JSONValue.parse(text, dialect: .relaxed).text() == written)
  for (plain, written) in accepted {
    #expect(try JSONValue.parse(plain, dialect: .relaxed).text() == written)
  }
  for bad in [
    "{,}", "[,]", "/* open", "{a b:1}", "0x", ".", "+", "NaN", "Infinity", "'a", "01", "{1a:1}",
    "'\\1'",
  ] {
    #expect(throws: JSONError.self, "\(bad)") { try JSONValue.parse(bad, dialect: .relaxed) }
  }
}

@Test func mutatedTextsNeverTrap() {
  let seedText = Array(#"{"a":[1,-2.5e3,"x\u00e9\\",true,null],"b":{"c":[[]],"d":"é"}}"#.utf8)
  var state: UInt64 = 1
  func random(_ n: Int) -> Int {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int(state >> 33) % n
  }
  for round in 0..<5000 {
    var bytes = seedText
    for _ in 0...random(4) { bytes[random(bytes.count)] = UInt8(random(256)) }
    for dialect in [JSONValue.Dialect.strict, .relaxed] {
      guard let value = try? JSONValue.parse(bytes, dialect: dialect) else { continue }
      #expect((try? JSONValue.parse(value.bytes())) == value, "round \(round)")
    }
  }
}
