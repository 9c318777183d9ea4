/// The applications at both ends of a node's flows: opening conversations,
/// dialling their targets, counting dials.

#if canImport(Bytes)
  internal import Bytes
  internal import NodeCore
  internal import Tunnels
#endif

extension World {
  /// A local program at `near` connects to a service at `far`.
  @discardableResult
  package func converse(
    near: Int, far: Int, nearScript: ApplicationScript, farScript: ApplicationScript,
    dial: DialScript = .accept(after: .milliseconds(1)), app: UInt16 = 8_080
  ) -> Conversation {
    let conversation = Conversation(
      world: self, number: conversations.count, near: near, far: far, nearScript: nearScript,
      farScript: farScript, dial: dial)
    conversations.append(conversation)
    statistics.conversations += 1
    nodes[near].open(conversation, app: app)
    return conversation
  }
}

extension SimulatedNode {
  fileprivate func open(_ conversation: Conversation, app: UInt16) {
    guard let node, !isSuspended else {
      conversation.near.state = .killed
      return
    }
    world.note("\(name): opens \(conversation.number) to \(world.nodes[conversation.farNode].name)")
    conversation.near.process = process
    let flow = node.openFlow(
      .app(AppKey(.tcp, app)),
      service: .app(.tcp, host: conversation.host, port: Conversation.port),
      exits: [.name(world.nodes[conversation.farNode].name)], now: world.now)
    guard let flow else {
      conversation.near.state = .ended(.refused(words: "no room"))
      return
    }
    conversation.near.flow = flow
    conversation.near.state = .open
    flows[flow] = (conversation.number, true)
    conversation.pump(isNear: true)
    drain()
  }

  func dial(_ flow: FlowID, _ request: DialRequest) {
    guard case .host(let host, _) = request.target, let number = Conversation.number(ofHost: host),
      number < world.conversations.count
    else {
      world.violation("\(name): dials a target that nobody asked for: \(request.target)")
      node?.dialFailed(flow, reason: .nameNotResolved, now: world.now)
      return
    }
    let conversation = world.conversations[number]
    conversation.dials += 1
    if conversation.farNode != index || conversation.dials > 1 {
      world.violation(
        "conversation \(number): target dialled \(conversation.dials) times, now by \(name)")
    }
    world.note("\(name): dials for \(number)")
    let process = process
    let wait: TimeAmount
    switch conversation.dial {
    case .accept(let delay): wait = delay
    case .refuse: wait = .milliseconds(1)
    case .hang: wait = .seconds(10)
    }
    flows[flow] = (number, false)
    conversation.far.flow = flow
    conversation.far.process = process
    world.after(wait) { world in
      let me = world.nodes[self.index]
      guard me.process == process, let node = me.node, me.flows[flow] != nil else { return }
      switch conversation.dial {
      case .accept:
        conversation.far.state = .open
        node.dialSucceeded(flow, now: world.now)
        conversation.pump(isNear: false)
      case .refuse, .hang:
        me.flows[flow] = nil
        if case .hang = conversation.dial {
          node.dialFailed(flow, reason: .targetTimedOut, now: world.now)
        } else {
          node.dialFailed(flow, reason: .targetRefused, now: world.now)
        }
      }
      me.drain()
    }
  }
}
