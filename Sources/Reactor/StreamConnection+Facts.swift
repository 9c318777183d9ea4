// What the kernel knows of a TCP connection, and the settings that may change
// while it lives.

package import Bytes
internal import CLinux

/// TCP_INFO, the part we use.
package struct TCPFacts: Sendable {
  package var roundTrip: TimeAmount
  package var roundTripVariation: TimeAmount
  package var minimumRoundTrip: TimeAmount
  /// Bytes a second the peer acknowledged lately.
  package var deliveryRate: UInt64
  package var pacingRate: UInt64
  /// Bytes in the send queue, sent or not, that are not acknowledged.
  package var queuedBytes: Int
  /// Of these, bytes not sent yet.
  package var unsentBytes: Int
  package var sendBufferBytes: Int
  package var maximumSegment: Int
  package var congestionWindowBytes: Int
  package var retransmissions: Int
  package var bytesAcknowledged: UInt64
  package var bytesReceived: UInt64
}

extension StreamConnection {
  /// Nil when closed, connecting or not TCP. One or two microseconds.
  package var tcpFacts: TCPFacts? {
    guard state == .open, remote != nil else { return nil }
    var info = martlet_tcp_info()
    guard unsafe martlet_tcp_info(fd, &info) >= 0 else { return nil }
    return TCPFacts(
      roundTrip: .microseconds(Int64(info.rtt_us)),
      roundTripVariation: .microseconds(Int64(info.rtt_variance_us)),
      // All ones: not measured yet.
      minimumRoundTrip: .microseconds(
        Int64(info.minimum_rtt_us == .max ? info.rtt_us : info.minimum_rtt_us)),
      deliveryRate: info.delivery_rate, pacingRate: info.pacing_rate,
      queuedBytes: Int(info.queued_bytes), unsentBytes: Int(info.unsent_bytes),
      sendBufferBytes: Int(info.send_buffer), maximumSegment: Int(info.send_mss),
      congestionWindowBytes: Int(info.congestion_window_packets) * Int(info.send_mss),
      retransmissions: Int(info.total_retransmits), bytesAcknowledged: info.bytes_acknowledged,
      bytesReceived: info.bytes_received)
  }

  /// Changes TCP_NOTSENT_LOWAT.
  package func setNotSentLowWater(_ bytes: Int) {
    guard state != .closed, remote != nil else { return }
    _ = martlet_tcp_option(fd, Int32(MARTLET_TCP_NOTSENT_LOWAT), Int32(clamping: bytes))
  }
}
