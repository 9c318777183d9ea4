/// A simulator that finds nothing when a protection is missing is worth
/// nothing. Each protection is switched off in turn; some seed must fail.
import Bytes
import Mux
import Simulation
import Testing

/// The first failing seed of the first fifty, and what it says.
private func firstFailure(_ mutations: NodeMutations) async -> (UInt64, String)? {
  var settings = ScenarioSettings()
  settings.mutations = mutations
  settings.calm = .seconds(120)
  for batch in 0..<25 {
    let seeds = [UInt64(2 * batch + 1), UInt64(2 * batch + 2)]
    for result in await runStorms(seeds, settings: settings) {
      if let words = result.violations.first { return (result.seed, words) }
    }
  }
  return nil
}

@Test func aMissingReplayWindowIsNoticed() async {
  let failure = await firstFailure(NodeMutations(acceptsReplays: true))
  #expect(failure != nil)
}

@Test func missingRetransmissionIsNoticed() async {
  let failure = await firstFailure(NodeMutations(multiplexer: .noRetransmission))
  #expect(failure != nil)
}

@Test func creditThatIsNotObeyedIsNoticed() async {
  let failure = await firstFailure(NodeMutations(multiplexer: .ignorePeerCredit))
  #expect(failure != nil)
}

@Test func repeatedOpensThatAreNotRecognisedAreNoticed() async {
  let failure = await firstFailure(NodeMutations(multiplexer: .noSeenSet))
  #expect(failure != nil)
}
