/// A hostile host: hears some packets pass, sends copies, broken copies and
/// rubbish from its own address or a forged one. Counts what comes back.

#if canImport(Bytes)
  package import Bytes
#endif

package struct Attacker {
  static let address = IPAddress(198, 51, 100, 66)
  private var heard: [Datagram] = []
  private var next = 0
  /// Share of passing packets it hears; 0 = nobody attacks.
  package var hearing = 0.0
  package private(set) var sentBytes: [Int: Int] = [:]
  package private(set) var receivedBytes: [Int: Int] = [:]

  /// Packets it has heard → the process that read them.
  private var readers: [UInt64: Int] = [:]
  /// Ports from which only worthless packets were sent: nobody may answer.
  private var silentPorts: Set<UInt16> = []
  private var lastPort: UInt16 = 1_024

  static let memory = 128
  /// First byte of a transport packet. Copies of handshakes may be answered.
  static let transportType: UInt8 = 4

  init() {}

  mutating func overhears(_ datagram: Datagram, random: inout SeededRandom) {
    guard hearing > 0, Double(random.next() >> 11) * 0x1p-53 < hearing else { return }
    if heard.count < Self.memory {
      heard.append(datagram)
    } else {
      readers[heard[next % Self.memory].name] = nil
      heard[next % Self.memory] = datagram
    }
    readers[datagram.name] = -1
    next += 1
  }

  func any(random: inout SeededRandom) -> Datagram? {
    heard.isEmpty ? nil : heard[Int(random.next() % UInt64(heard.count))]
  }

  /// A process reads a packet: the original, or what the attacker sends.
  mutating func isRead(_ datagram: Datagram, by process: Int) {
    guard datagram.from == Network.attacker else {
      if readers[datagram.name] != nil { readers[datagram.name] = process }
      return
    }
    guard datagram.source.address == Self.address, datagram.bytes.first == Self.transportType else {
      return
    }
    // Name 0: broken or made up. Otherwise a copy of what this process had.
    if datagram.name == 0 || readers[datagram.name] == process {
      silentPorts.insert(datagram.source.port)
    }
  }

  /// A port for one packet.
  mutating func freshPort() -> UInt16 {
    lastPort = lastPort == .max ? 1_024 : lastPort + 1
    silentPorts.remove(lastPort)
    return lastPort
  }

  /// A datagram comes to a node: what the attacker sent under its own name counts.
  mutating func reaches(_ node: Int, _ datagram: Datagram) {
    guard datagram.from == Network.attacker, datagram.source.address == Self.address else { return }
    sentBytes[node, default: 0] += datagram.bytes.count
  }

  mutating func received(_ datagram: Datagram, world: World) {
    let from = datagram.from
    receivedBytes[from, default: 0] += datagram.bytes.count
    if silentPorts.contains(datagram.destination.port) {
      world.violation("node\(from) answers a replayed or broken packet of the attacker")
    }
    if receivedBytes[from, default: 0] > 3 * sentBytes[from, default: 0] {
      world.violation(
        "node\(from) sent \(receivedBytes[from, default: 0]) bytes to the attacker for \(sentBytes[from, default: 0])"
      )
    }
  }
}

extension World {
  /// Sends `count` hostile packets to a node.
  package func attack(_ target: Int, count: Int) {
    guard let own = nodes[target].addresses.first(where: \.isV4) else { return }
    let destination = network.outsideAddress(of: own, in: network.home(of: target))
    network.attach(host: Network.attacker, addresses: [Attacker.address], to: nil)
    for _ in 0..<count {
      statistics.attacks += 1
      var bytes: [UInt8]
      var source = Endpoint(Attacker.address, attacker.freshPort())
      var name: UInt64 = 0
      var to = Endpoint(destination, nodes[target].port)
      let kind = pick(0...9)
      if kind < 8, let copy = attacker.any(random: &random) {
        bytes = copy.bytes
        name = copy.name
        switch kind {
        case 0, 1:
          // To whom it was meant, but from here.
          to = copy.destination
        case 2:
          // The exact packet once more.
          source = copy.source
          to = copy.destination
        case 3:
          bytes.removeLast(Int(pick(1...Int64(bytes.count))))
          name = 0
        case 4, 5:
          if !bytes.isEmpty {
            bytes[Int(pick(0...Int64(bytes.count - 1)))] ^= UInt8(1 << pick(0...7))
          }
          name = 0
          to = copy.destination
          if kind == 5 { source = copy.source }
        default:
          // To somebody else.
          break
        }
      } else {
        bytes = random.bytes(Int(pick(0...1_400)))
        if kind == 8, bytes.count >= 4 {
          bytes[0] = UInt8(pick(1...4))
          bytes[1] = 0
          bytes[2] = 0
          bytes[3] = 0
        }
      }
      guard let owner = network.owner(of: to.address, in: nil),
        let host = network.likelyHost(owner, to, now: now), host < nodes.count
      else { continue }
      var datagram = Datagram(source: source, destination: to, bytes: bytes, from: Network.attacker)
      datagram.name = name
      schedule(.datagram(datagram), after: time(.milliseconds(1), .milliseconds(40)))
    }
  }
}
