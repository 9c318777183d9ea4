/// Protections of a node switched off on purpose: a simulator that does not
/// notice is worth nothing. Only tests set any of them.

#if canImport(Bytes)
  package import Mux
  internal import NodeCore
#endif

package struct NodeMutations: Sendable {
  package var multiplexer: MuxMutations = []
  package var acceptsReplays = false

  package init(multiplexer: MuxMutations = [], acceptsReplays: Bool = false) {
    self.multiplexer = multiplexer
    self.acceptsReplays = acceptsReplays
  }

  func apply(to settings: inout NodeSettings) {
    settings.mutations = multiplexer
    settings.acceptsReplays = acceptsReplays
  }
}
