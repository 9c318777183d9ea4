/// One request to an agent's local API and its answer, blocking: for programs
/// that run a command and end. Runs an event loop of its own meanwhile.

internal import Bytes
internal import CommandLine
internal import HTTP
internal import Reactor

enum AgentClient {
  struct Answer {
    var status: Int
    var body: [UInt8]
  }

  struct Failure: Error {
    let words: String
  }

  private static let within = TimeAmount.seconds(30)

  static func send(_ request: AgentRequest, to agent: HostPortPair) throws(Failure) -> Answer {
    let exchange: Exchange
    do throws(SystemError) {
      exchange = try Exchange(request, agent)
    } catch {
      throw Failure(words: "\(error)")
    }
    switch exchange.run(within: within) {
    case .success(let answer): return answer
    case .failure(let failure): throw failure
    }
  }

  private final class Exchange: ConnectionDelegate {
    private let loop: EventLoop
    private let names: NameLookup
    private let request: AgentRequest
    private let agent: HostPortPair
    private var http = HTTPClientConnection()
    private var connection: StreamConnection?
    private var addresses: [IPAddress] = []
    private var result: Result<Answer, Failure>?

    init(_ request: AgentRequest, _ agent: HostPortPair) throws(SystemError) {
      self.request = request
      self.agent = agent
      loop = try EventLoop(name: "client")
      names = try NameLookup(loop)
    }

    func run(within: TimeAmount) -> Result<Answer, Failure> {
      loop.schedule(after: within) { [weak self] in self?.end(.failure(Failure(words: "no answer")))
      }
      names.resolve(agent.host) { [weak self] found in
        guard let self else { return }
        switch found {
        case .success(let addresses):
          self.addresses = addresses
          connectNext(SystemError.timedOut)
        case .failure(let failure):
          end(.failure(Failure(words: "\(agent.host) cannot be resolved (\(failure))")))
        }
      }
      loop.run()
      connection?.close()
      names.close()
      return result ?? .failure(Failure(words: "interrupted"))
    }

    private func connectNext(_ last: SystemError) {
      guard !addresses.isEmpty else {
        end(.failure(Failure(words: "\(last)")))
        return
      }
      let endpoint = Endpoint(addresses.removeFirst(), agent.port)
      do throws(SystemError) {
        connection = try StreamConnection.connect(loop, to: endpoint, delegate: self)
      } catch {
        connectNext(error)
      }
    }

    func connectionOpened(_ connection: StreamConnection) {
      var outgoing = HTTPRequest(HTTPMethod(rawValue: request.method), request.path)
      if let body = request.body {
        outgoing.headers["Content-Type"] = "application/json"
        outgoing.body = body
      }
      http.send(
        outgoing, authority: HTTPAuthority(host: agent.host, port: agent.port), now: loop.now)
      let bytes = http.takeOutput()
      connection.backlogLimit = max(connection.backlogLimit, bytes.count)
      if !connection.writeAll(bytes) { end(.failure(Failure(words: "the request cannot be sent"))) }
    }

    func connectionReadable(_ connection: StreamConnection) {
      while result == nil {
        let read = connection.read { http.receive($0.bytes, now: loop.now) }
        switch read {
        case .bytes: break
        case .wouldBlock: return
        case .end: http.receiveEnd(now: loop.now)
        case .failed(let error):
          end(.failure(Failure(words: "\(error)")))
          return
        }
        while let event = http.pollEvent() {
          switch event {
          case .response(let response):
            end(.success(Answer(status: response.status, body: response.body)))
          case .failed(let failure):
            end(.failure(Failure(words: "the answer is not HTTP (\(failure))")))
          case .body, .end, .switched: break
          }
        }
        if case .end = read {
          end(.failure(Failure(words: "the connection was closed without an answer")))
        }
      }
    }

    func connectionFailed(_ connection: StreamConnection, _ error: SystemError) {
      connectNext(error)
    }

    private func end(_ outcome: Result<Answer, Failure>) {
      guard result == nil else { return }
      result = outcome
      loop.stop()
    }
  }
}
