import HTTP
import Testing

@Test func pathsAreSplitBeforeTheyAreDecoded() throws {
  let target = try #require(HTTPTarget(path: "/api/meshes/a%2Fb/x%20y/", query: "q=1+2&r=%26&s&t="))
  #expect(target.segments == ["api", "meshes", "a/b", "x y"])
  #expect(target["q"] == "1 2" && target["r"] == "&" && target["s"] == "" && target["t"] == "")
  #expect(target["u"] == nil)
  #expect(HTTPTarget(path: "/", query: nil as String?)?.segments == [])
  #expect(HTTPTarget(path: "//a", query: nil as String?)?.segments == ["", "a"])
  for bad in [
    "", "a", "/..", "/a/../b", "/%2e%2E/x", "/./a", "/%", "/%4", "/%zz", "/%ff", "/a%00b",
  ] {
    #expect(HTTPTarget(path: bad, query: nil as String?) == nil, "\(bad)")
  }
  #expect(HTTPTarget(path: "/a", query: "x=%g1") == nil)
}

@Test func builtTargetsReadBack() throws {
  let segments = ["api", "é/ö", "a b", "100%", "?#&=+"]
  let text = HTTPTarget.build(segments, query: ["k&": "v =", "é": "+"])
  #expect(text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f })
  for odd in [[], [""], ["", ""], ["a", ""], ["", "a"]] {
    #expect(HTTPTarget(path: HTTPTarget.build(odd), query: nil as String?)?.segments == odd)
  }
  let request = HTTPRequest(.get, text)
  let target = try #require(HTTPTarget(request))
  #expect(target.segments == segments)
  #expect(target["k&"] == "v =" && target["é"] == "+")
}

@Test func authoritiesAreReadStrictly() throws {
  #expect(HTTPAuthority("LocalHost:80") == HTTPAuthority(host: "localhost", port: 80))
  #expect(HTTPAuthority("h")?.port == nil)
  #expect(HTTPAuthority("h:")?.port == nil)
  #expect(HTTPAuthority("[::1]:7777")?.host == "::1")
  #expect(HTTPAuthority("[::1]")?.isLoopback == true)
  #expect(HTTPAuthority("127.9.9.9:1")?.isLoopback == true)
  #expect(HTTPAuthority("localhost.evil.com")?.isLoopback == false)
  #expect(HTTPAuthority("127.0.0.1.evil.com")?.isLoopback == false)
  #expect(try #require(HTTPAuthority("[::1]:7777")).description == "[::1]:7777")
  for bad in [
    "", ":80", "[::1", "::1", "a:b", "a:-1", "a:65536", "a:+1", "a b", "a/b", "u@h", "[h]", "[]",
    "a:1:2", "[::1]x",
  ] {
    #expect(HTTPAuthority(bad) == nil, "\(bad)")
  }
}

@Test func foreignPagesAreKeptOut() {
  func request(_ fields: KeyValuePairs<String, String>) -> HTTPRequest {
    HTTPRequest(.get, "/", headers: HTTPHeaders(fields))
  }
  #expect(request(["Host": "localhost:7777"]).isSameOrigin(isSecure: false))
  #expect(
    request(["Host": "localhost:7777", "Origin": "http://localhost:7777"]).isSameOrigin(
      isSecure: false))
  #expect(request(["Host": "h", "Origin": "https://h:443"]).isSameOrigin(isSecure: true))
  #expect(request(["Host": "h:80", "Origin": "http://H"]).isSameOrigin(isSecure: false))
  for origin in [
    "http://evil.com", "null", "https://localhost:7777", "http://localhost:7778",
    "http://localhost", "junk", "", "chrome-extension://x",
  ] {
    #expect(
      !request(["Host": "localhost:7777", "Origin": origin]).isSameOrigin(isSecure: false),
      "\(origin)")
  }
  #expect(!request(["Host": "h", "Sec-Fetch-Site": "cross-site"]).isSameOrigin(isSecure: false))
}

@Test func mediaTypesAreRead() throws {
  let type = try #require(HTTPMediaType("Application/JSON; charset=\"UTF-8\" ; x=y"))
  #expect(type.isJSON && type.parameters == ["charset": "UTF-8", "x": "y"])
  #expect(HTTPMediaType("application/problem+json")?.isJSON == true)
  #expect(HTTPMediaType("text/plain")?.isJSON == false)
  for bad in ["", "json", "a/", "/b", "a/b/c", "a/b; c", "a/b; c=", "a/b; c=\"x", "a b/c"] {
    #expect(HTTPMediaType(bad) == nil, "\(bad)")
  }
}

@Test func datesAreWrittenWithoutACalendarLibrary() {
  #expect(HTTPDate.text(unixTime: 0) == "Thu, 01 Jan 1970 00:00:00 GMT")
  #expect(HTTPDate.text(unixTime: 784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT")
  #expect(HTTPDate.text(unixTime: 951_782_400) == "Tue, 29 Feb 2000 00:00:00 GMT")
  #expect(HTTPDate.text(unixTime: -1) == "Wed, 31 Dec 1969 23:59:59 GMT")
  #expect(HTTPDate.iso(unixTime: 4_102_444_799) == "2099-12-31T23:59:59Z")
  #expect(HTTPDate.iso(unixTime: .max) == "9999-12-31T23:59:59Z")
  #expect(HTTPDate.iso(unixTime: .min) == "0000-01-01T00:00:00Z")
}

@Test func headersKeepOrderAndIgnoreCase() {
  var headers = HTTPHeaders(["A": "1", "b": "2", "a": "3"])
  #expect(headers["a"] == "1" && headers.values("A") == ["1", "3"])
  headers["a"] = "9"
  #expect(headers.fields.map(\.name) == ["A", "b"] && headers["A"] == "9")
  headers["B"] = nil
  #expect(headers.count == 1)
  headers.add("Connection", "keep-alive, Upgrade")
  headers.add("connection", "x")
  #expect(headers.lists("upgrade", in: "Connection") && headers.lists("X", in: "connection"))
}

@Test func base64FollowsTheRFCsVectors() {
  for (plain, text) in [
    ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="),
    ("fooba", "Zm9vYmE="),
    ("foobar", "Zm9vYmFy"),
  ] {
    #expect(Base64.encode(Array(plain.utf8)) == text)
    #expect(Base64.decode(text) == Array(plain.utf8))
  }
  for bad in [
    "Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 9v", "Zm9v\n",
  ] {
    #expect(Base64.decode(bad) == nil, "\(bad)")
  }
}
