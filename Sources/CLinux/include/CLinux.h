// What Swift's Glibc overlay lacks or gets wrong, as plain C: process start,
// epoll, UDP batches with segmentation offload, stream sockets, netlink.
// Declarations and own structs only: a header that pulled in system headers
// with _GNU_SOURCE could not be imported beside Glibc. Bodies are in the .c
// files. Never keeps state of its own except the arguments of the process.
//
// Every function that returns int gives 0 or more on success and -errno on
// failure; none leaves its result in errno.

#ifndef MARTLET_CLINUX_H
#define MARTLET_CLINUX_H

#include <stddef.h>
#include <stdint.h>

// MARK: process.c

/// Arguments as the kernel gave them; kept by a constructor, so they are there
/// without /proc too.
int martlet_argc(void);
/// Argument `index`, or NULL outside 0 ..< argc.
const char *martlet_argv(int index);
/// Overwrites argument `index` from byte `offset` on with 'x', so that a token
/// no longer shows in ps. The caller has copied it before.
void martlet_wipe_argument(int index, size_t offset);

/// "ECONNREFUSED", or "E?" when unknown. Never NULL.
const char *martlet_error_name(int error);
/// "Connection refused". Never NULL.
const char *martlet_error_text(int error);

/// Fills `bytes` from the kernel's generator.
int martlet_random(void *bytes, size_t count);
/// Raises the soft limit of open files to the hard one; returns it.
int martlet_raise_file_limit(void);
int martlet_ignore_sigpipe(void);
/// Names the calling thread (at most 15 bytes are kept).
void martlet_name_thread(const char *name);
/// The kernel's id of the calling thread.
int martlet_thread_id(void);
/// 1 when this CPU has instructions for AES and for GCM's multiplication, so
/// that AES-GCM is cheap and takes the same time for all data.
int martlet_has_aes(void);
/// Which: 0 system, 1 node name, 2 release, 3 version, 4 machine.
int martlet_uname(int which, char *text, size_t size);
int martlet_flock(int fd);
/// 0 realtime, 1 monotonic, 2 boot time; nanoseconds.
int64_t martlet_clock(int which);

// MARK: epoll.c

struct martlet_event {
  uint64_t data;
  uint32_t events;
};

enum { MARTLET_ADD = 1, MARTLET_DELETE = 2, MARTLET_MODIFY = 3 };
enum { MARTLET_IN = 0x001, MARTLET_OUT = 0x004, MARTLET_ERR = 0x008, MARTLET_HUP = 0x010, MARTLET_RDHUP = 0x2000 };

int martlet_epoll_create(void);
int martlet_epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t data);
/// Waits up to `timeout` nanoseconds (negative: for ever); at most 256 events.
int martlet_epoll_wait(int epoll, struct martlet_event *out, int limit, int64_t timeout);
int martlet_eventfd(void);
int martlet_eventfd_ring(int fd);
int martlet_eventfd_drain(int fd);
/// Blocks the signals in the calling thread and makes a descriptor of them.
int martlet_signalfd(const int *signals, int count);
/// The next signal's number, or -EAGAIN.
int martlet_signalfd_read(int fd);
/// Blocks the signals in the calling thread and those it starts.
int martlet_block_signals(const int *signals, int count);
/// A descriptor that becomes readable when the wall clock is set or the
/// machine wakes from sleep.
int martlet_clock_watch(void);
/// Rearms it after an event.
int martlet_clock_watch_rearm(int fd);

// MARK: sockets.c

/// An address as Bytes.IPAddress holds it (IPv4 mapped) and a port.
struct martlet_endpoint {
  uint64_t high;
  uint64_t low;
  uint16_t port;
};

/// Options of a new socket; 0 = leave alone.
struct martlet_socket_options {
  uint32_t mark;
  int receive_buffer;
  int send_buffer;
  uint8_t reuse_address;
  uint8_t reuse_port;
  /// IPv6 wildcard only: take IPv4 too.
  uint8_t dual_stack;
  uint8_t packet_info;
  char interface[16];
};

int martlet_close(int fd);
/// SO_LINGER 0, then close: the peer sees a reset.
int martlet_close_reset(int fd);
int martlet_local_endpoint(int fd, struct martlet_endpoint *out);
int martlet_remote_endpoint(int fd, struct martlet_endpoint *out);
/// Takes and clears SO_ERROR: 0 or a positive errno, negative on failure.
int martlet_socket_error(int fd);
int martlet_get_buffer(int fd, int send);

// MARK: udp.c

enum { MARTLET_UDP_GSO = 1, MARTLET_UDP_GRO = 2, MARTLET_UDP_MARK_FAILED = 4 };

/// A bound, nonblocking datagram socket with DF always set.
/// `features` receives MARTLET_UDP_* bits.
int martlet_udp_open(
  const struct martlet_endpoint *local, const struct martlet_socket_options *options,
  int *features);

struct martlet_datagram {
  uint8_t *bytes;
  uint32_t count;
  /// Bytes of each segment but the last; `count` when there is one.
  uint32_t segment;
  struct martlet_endpoint remote;
  /// The address it arrived at; unspecified when not known.
  struct martlet_endpoint local;
  uint8_t truncated;
};

struct martlet_receiver;
struct martlet_receiver *martlet_receiver_create(unsigned slots);
void martlet_receiver_destroy(struct martlet_receiver *receiver);
/// Receives up to `slots` (coalesced) datagrams; how many.
int martlet_receiver_receive(struct martlet_receiver *receiver, int fd);
const struct martlet_datagram *martlet_receiver_datagrams(const struct martlet_receiver *receiver);

struct martlet_send {
  const uint8_t *bytes;
  uint32_t count;
  /// UDP_SEGMENT size; 0 = a single datagram.
  uint16_t segment;
  /// 0 = the socket's.
  uint8_t hop_limit;
  uint8_t has_source;
  struct martlet_endpoint remote;
  struct martlet_endpoint source;
};

enum { MARTLET_SEND_LIMIT = 64 };

/// Sends up to MARTLET_SEND_LIMIT messages; how many left, or the first one's -errno.
int martlet_send_batch(int fd, int is_v6, const struct martlet_send *sends, int count);

struct martlet_datagram_error {
  int error;
  /// Next-hop MTU with EMSGSIZE, when told.
  uint32_t info;
  struct martlet_endpoint remote;
  /// Who complained; unspecified when the kernel itself did.
  struct martlet_endpoint offender;
  /// By ICMP: its time to live was over there.
  int expired;
};

/// The next entry of the socket's error queue, or -EAGAIN.
int martlet_udp_error(int fd, struct martlet_datagram_error *out);

// MARK: stream.c

/// A nonblocking listening socket.
int martlet_listen(
  const struct martlet_endpoint *local, const struct martlet_socket_options *options, int backlog);
int martlet_listen_unix(const char *path, int backlog);
/// A nonblocking connection, or -EAGAIN. `remote` is unspecified for Unix sockets.
int martlet_accept(int fd, struct martlet_endpoint *remote);
/// Starts a connection; `in_progress` is 1 when it is not there yet.
int martlet_connect(
  const struct martlet_endpoint *remote, const struct martlet_endpoint *local,
  const struct martlet_socket_options *options, int *in_progress);
int martlet_connect_unix(const char *path, int *in_progress);
int64_t martlet_read(int fd, void *bytes, size_t count);
/// Sends the two runs as one (either may be empty); bytes taken.
int64_t martlet_write2(int fd, const void *a, size_t a_count, const void *b, size_t b_count);
int martlet_shutdown_write(int fd);

enum {
  MARTLET_TCP_NODELAY = 1,
  MARTLET_TCP_NOTSENT_LOWAT = 2,
  MARTLET_TCP_USER_TIMEOUT = 3,
  MARTLET_TCP_KEEPALIVE_IDLE = 4,
  MARTLET_TCP_KEEPALIVE_INTERVAL = 5,
  MARTLET_TCP_KEEPALIVE_COUNT = 6,
  MARTLET_TCP_QUICKACK = 7,
};
/// Bytes, milliseconds (user time-out) or seconds (keepalive).
int martlet_tcp_option(int fd, int option, int value);
int martlet_tcp_congestion(int fd, const char *name);

struct martlet_tcp_info {
  uint32_t rtt_us;
  uint32_t rtt_variance_us;
  uint32_t minimum_rtt_us;
  uint32_t send_mss;
  uint32_t unacknowledged_packets;
  uint32_t congestion_window_packets;
  uint32_t retransmits;
  uint32_t total_retransmits;
  uint64_t delivery_rate;
  uint64_t pacing_rate;
  uint64_t bytes_acknowledged;
  uint64_t bytes_received;
  uint32_t unsent_bytes;
  uint32_t queued_bytes;
  uint32_t send_buffer;
};
int martlet_tcp_info(int fd, struct martlet_tcp_info *out);
/// The user of a connected Unix peer.
int martlet_unix_peer_uid(int fd, uint32_t *uid);

// MARK: names.c

/// Addresses of `host` (blocking); how many of at most `limit`, or
/// -1000 - EAI code.
int martlet_lookup(const char *host, struct martlet_endpoint *out, int limit);
const char *martlet_lookup_text(int code);

// MARK: netlink.c

struct martlet_interface_address {
  uint32_t index;
  /// IFF_* bits.
  uint32_t link_flags;
  /// IFA_F_* bits.
  uint32_t address_flags;
  uint32_t mtu;
  uint8_t prefix;
  uint8_t has_address;
  char name[16];
  struct martlet_endpoint address;
};

/// Every interface (one entry without address each) and every address.
int martlet_interfaces(struct martlet_interface_address *out, int limit);
struct martlet_route {
  /// The next hop; its port is 0.
  struct martlet_endpoint gateway;
  uint32_t interface;
  uint32_t metric;
};

/// Default routes of both families, best metric first.
int martlet_default_routes(struct martlet_route *out, int limit);
/// A netlink socket that becomes readable when links, addresses or routes change.
int martlet_network_monitor(void);
/// Empties it; how many messages there were.
int martlet_network_monitor_drain(int fd);
/// The user that owns the TCP socket local = `local`, remote = `remote` on this
/// machine. -ENOENT when there is none.
int martlet_socket_owner(
  const struct martlet_endpoint *local, const struct martlet_endpoint *remote, uint32_t *uid);

// MARK: lab.c

/// Moves the calling thread into the network namespace at `path` (its file
/// below /run/netns); a descriptor of the one it was in.
int martlet_netns_enter(const char *path);
/// Back to where `martlet_netns_enter` came from; closes the descriptor.
int martlet_netns_return(int before);
/// As an ordinary user: root in user, network and mount namespaces of one's
/// own, with an empty /run. Single-threaded processes only.
int martlet_own_namespaces(void);

/// How a program is started; a descriptor of -1 is /dev/null.
struct martlet_spawn {
  /// NULL: where we are.
  const char *namespace_path;
  const char *directory;
  int input;
  int output;
  int error;
  /// Gets "process PID BOOT-MILLISECONDS" before the program runs; -1: no record.
  int journal;
  /// Sent to it when the thread that started it ends; 0: none.
  int death_signal;
  /// Set by martlet_spawn.
  int parent;
};

/// Starts a program (found by PATH) in a session of its own, with no signal
/// blocked; its process id. Both arrays end with NULL.
int martlet_spawn(
  const struct martlet_spawn *what, const char *const *argv, const char *const *environment);
/// A descriptor that becomes readable when the process ends.
int martlet_pidfd(int pid);
/// 1 and the exit status (128 + signal) of a child that ended, 0 while it runs.
int martlet_reap(int pid, int *status);
int martlet_signal_process(int pid, int signal);
int martlet_signal_group(int pid, int signal);
int martlet_pipe(int *reading, int *writing);
/// A descriptor that reads as these bytes.
int martlet_memory_file(const void *bytes, size_t count);
/// Waits until one of at most 64 descriptors is readable (`timeout` in
/// nanoseconds, negative: for ever); how many are, and a bit for each.
int martlet_readable_set(const int *fds, int count, int64_t timeout, uint64_t *ready);

#endif
