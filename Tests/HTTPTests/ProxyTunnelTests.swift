import Bytes
import HTTP
import Testing

@Suite struct ProxyTunnelTests {
  private let server = HTTPAuthority(host: "server.example", port: 27183)

  private func tunnel(_ proxy: String = "http://p:3128") throws -> ProxyTunnel {
    ProxyTunnel(through: try #require(HTTPProxy(proxy)), to: server)
  }

  private func feed(_ tunnel: inout ProxyTunnel, _ text: String) -> ProxyTunnel.Progress {
    feed(&tunnel, Array(text.utf8))
  }

  private func feed(_ tunnel: inout ProxyTunnel, _ bytes: [UInt8]) -> ProxyTunnel.Progress {
    tunnel.receive(bytes.span.bytes)
  }

  @Test func proxiesAreReadFromTheirURL() throws {
    let plain = try #require(HTTPProxy("http://Proxy.example:3128/"))
    #expect(plain.host == "proxy.example" && plain.port == 3128)
    #expect(HTTPProxy("http://p")?.port == 80)
    #expect(HTTPProxy("http://[2001:db8::1]:8080")?.host == "2001:db8::1")
    for bad in [
      "p:1", "https://p", "http://", "http://a b", "http://p:0x1", "http://%zz@p", "http://p/x",
    ] {
      #expect(HTTPProxy(bad) == nil, "\(bad)")
    }
  }

  @Test func theRequestNamesTheServerAndWhoAsks() throws {
    let words = try String(decoding: tunnel().request, as: UTF8.self)
    #expect(
      words == "CONNECT server.example:27183 HTTP/1.1\r\nHost: server.example:27183\r\n\r\n")
    // "ann:p@ss" (RFC 7617).
    let known = try String(decoding: tunnel("http://ann:p%40ss@p").request, as: UTF8.self)
    #expect(known.contains("\r\nProxy-Authorization: Basic YW5uOnBAc3M=\r\n"))
    // A name alone has an empty password.
    let named = try String(decoding: tunnel("http://ann@p").request, as: UTF8.self)
    #expect(named.contains("Basic YW5uOg==\r\n"))
  }

  @Test func whatFollowsTheAnswerIsOfTheServer() throws {
    let answer = Array("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello".utf8)
    for cut in 0..<answer.count - 5 {
      var tunnel = try tunnel()
      #expect(feed(&tunnel, Array(answer[..<cut])) == .more, "cut at \(cut)")
      #expect(
        feed(&tunnel, Array(answer[cut...])) == .open(leftover: Array("hello".utf8)),
        "cut at \(cut)")
    }
  }

  @Test func refusalsAreSaidInWords() throws {
    for (answer, word) in [
      ("HTTP/1.1 407 Who are you\r\n\r\n", "password"), ("HTTP/1.0 403\r\n\r\n", "(403)"),
      ("HTTP/1.1 2000 x\r\n\r\n", "not HTTP"), ("SSH-2.0-x\r\n\r\n", "not HTTP"),
      ("\r\n\r\n", "not HTTP"), (String(repeating: "x", count: 20_000), "too long"),
    ] {
      var tunnel = try tunnel()
      guard case .failed(let words) = feed(&tunnel, answer) else {
        Issue.record("taken: \(answer.prefix(30))")
        continue
      }
      #expect(words.contains(word), "\(words)")
    }
  }
}
