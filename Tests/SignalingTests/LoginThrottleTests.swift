import Bytes
import Signaling
import Testing

@Suite struct LoginThrottleTests {
  private let start = Instant(nanoseconds: 0)

  @Test func theSixthWrongTokenOfAMinuteWaits() {
    var world = LoginWorld()
    world.verifier = LoginWorld.wrong
    for _ in 0..<5 { #expect(world.run().refusals == [.wrongToken]) }
    let sixth = world.run()
    #expect(sixth.refusals == [.throttled])
    #expect(sixth.failure == .refused(LoginRefusal(.throttled, retryAfterSeconds: 12)))
    #expect(sixth.serverIsOver)
    // The right token from there waits as well; from elsewhere it does not.
    world.verifier = LoginWorld.verifiers[0]
    #expect(world.run().refusals == [.throttled])
    world.address = IPAddress(192, 0, 2, 2)
    #expect(world.run().client != nil)
    world.address = IPAddress(192, 0, 2, 1)
    world.now += .seconds(12)
    #expect(world.run().client != nil)
  }

  @Test func aKnownNodeIsNeverLockedOutByItsNeighbours() {
    var world = LoginWorld()
    world.keep(world.run())
    for _ in 0..<100 { world.throttle.failed(world.address, now: world.now) }
    #expect(world.throttle.delay(for: world.address, now: world.now) > .zero)
    #expect(world.run().client?.mode == .nodeSecret)
  }

  @Test func sixtyFailuresOfAMeshDelayEverybody() {
    var throttle = LoginThrottle(meshCount: 2)
    for i in 0..<60 {
      #expect(throttle.delay(for: address(i), now: start) == .zero, "failure \(i)")
      throttle.failed(address(i), now: start)
    }
    #expect(throttle.delay(for: address(1000), now: start) == .seconds(1))
    #expect(throttle.delay(for: address(1000), now: start + .seconds(1)) == .zero)
  }

  @Test func oneNetworkOfIPv6IsOneAddress() throws {
    var throttle = LoginThrottle(meshCount: 1)
    for i in 0..<5 {
      throttle.failed(IPAddress(high: 0x2001_0db8_0000_0001, low: UInt64(i)), now: start)
    }
    #expect(
      throttle.delay(for: IPAddress(high: 0x2001_0db8_0000_0001, low: 99), now: start) > .zero)
    #expect(
      throttle.delay(for: IPAddress(high: 0x2001_0db8_0000_0002, low: 0), now: start) == .zero)
  }

  @Test func theTableIsBoundedAndRecovers() {
    var throttle = LoginThrottle(meshCount: 1)
    for i in 0..<(LoginLimits.throttledAddresses + 50) { throttle.failed(address(i), now: start) }
    #expect(throttle.addressCount == LoginLimits.throttledAddresses)
    let later = start + .minutes(2)
    // Strangers shared one count while it was full.
    #expect(throttle.delay(for: address(9_000), now: start + .seconds(2)) > .zero)
    throttle.failed(address(9_000), now: later)
    #expect(throttle.addressCount == 1)
    #expect(throttle.delay(for: address(9_001), now: later + .seconds(1)) == .zero)
  }

  private func address(_ i: Int) -> IPAddress {
    IPAddress(10, UInt8(i >> 16 & 255), UInt8(i >> 8 & 255), UInt8(i & 255))
  }
}
