/// What many TLS sessions share: the certificate of a server, or how a client
/// checks the server it meets. Opens no sockets and no files; PEM comes and
/// goes as bytes. TLS 1.3, or 1.2 with forward secrecy and extended master
/// secret (RFC 7627: without it the exporter binds nothing). No tickets, no
/// resumption, no renegotiation, no compression, no ALPN.

internal import COpenSSL

/// One side's settings; sessions are made from it, on any thread.
package final class TLSContext: @unchecked Sendable {
  // Sendable: written by `init` alone; OpenSSL counts references atomically
  // and locks what a context shares.
  let context: OpaquePointer
  let isServer: Bool
  let verification: Verification

  /// How a client judges the server's certificate.
  package enum Verification: Sendable, Hashable {
    /// Any certificate will do: the caller looks at `peerFingerprintSHA256`
    /// or proves the channel by `channelBinding` (the login does both). The
    /// authorities' opinion is still there as `isAuthorityVerified`.
    case callerDecides
    /// The system's authorities and the server's name, or no session.
    case authorities
    /// As `authorities`, with these PEM certificates in their place.
    case only([UInt8])
  }

  private init(_ context: OpaquePointer, isServer: Bool, verification: Verification) {
    self.context = context
    self.isServer = isServer
    self.verification = verification
  }

  deinit { SSL_CTX_free(context) }

  // MARK: Making

  package static func client(
    _ verification: Verification = .callerDecides
  ) throws(TLSFailure) -> TLSContext {
    let context = try make(TLS_client_method())
    let made = TLSContext(context, isServer: false, verification: verification)
    switch verification {
    case .callerDecides:
      // The directory is looked into only when a certificate asks for it; the
      // bundle would be parsed whole, 30 ms and a megabyte for an opinion.
      // Without either the opinion is simply "no".
      SSL_CTX_set_default_verify_dir(context)
      SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nil)
    case .authorities:
      guard let store = authorities else {
        throw .library("the system's certificate authorities cannot be read")
      }
      SSL_CTX_set1_cert_store(context, store)
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
    case .only(let pem):
      let store = SSL_CTX_get_cert_store(context)
      let certificates = try PEM.certificates(pem)
      defer { for certificate in certificates { X509_free(certificate) } }
      for certificate in certificates {
        guard X509_STORE_add_cert(store, certificate) == 1 else {
          throw .badIdentity(TLSErrors.take())
        }
      }
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
    }
    return made
  }

  /// The system's authorities, read once in the life of the process. Its
  /// certificates are added here only; OpenSSL locks the store when it looks.
  nonisolated(unsafe) private static let authorities: OpaquePointer? = {
    guard let store = X509_STORE_new() else { return nil }
    guard X509_STORE_set_default_paths(store) == 1 else {
      X509_STORE_free(store)
      TLSErrors.clear()
      return nil
    }
    TLSErrors.clear()
    return store
  }()

  /// - Parameters:
  ///   - certificate: PEM, the leaf first, then what leads to an authority.
  ///   - key: PEM, unencrypted, of the leaf.
  package static func server(
    certificate: [UInt8], key: [UInt8]
  ) throws(TLSFailure) -> TLSContext {
    let context = try make(TLS_server_method())
    let made = TLSContext(context, isServer: true, verification: .callerDecides)
    let certificates = try PEM.certificates(certificate)
    defer { for certificate in certificates { X509_free(certificate) } }
    guard let leaf = certificates.first else { throw .badIdentity("no certificate in the file") }
    guard SSL_CTX_use_certificate(context, leaf) == 1 else { throw .badIdentity(TLSErrors.take()) }
    for intermediate in certificates.dropFirst() {
      // SSL_CTX_add1_chain_cert, which is a macro.
      let raw = unsafe UnsafeMutableRawPointer(intermediate)
      guard SSL_CTX_ctrl(context, SSL_CTRL_CHAIN_CERT, 1, raw) == 1 else {
        throw .badIdentity(TLSErrors.take())
      }
    }
    let privateKey = try PEM.privateKey(key)
    defer { EVP_PKEY_free(privateKey) }
    guard SSL_CTX_use_PrivateKey(context, privateKey) == 1, SSL_CTX_check_private_key(context) == 1
    else {
      TLSErrors.clear()
      throw .badIdentity("the key does not belong to the certificate")
    }
    return made
  }

  private static func make(_ method: OpaquePointer?) throws(TLSFailure) -> OpaquePointer {
    TLSErrors.clear()
    guard let context = SSL_CTX_new(method) else { throw .library(TLSErrors.take()) }
    var isReady = false
    defer { if !isReady { SSL_CTX_free(context) } }
    guard martlet_ssl_ctx_set_min_proto_version(context, TLS1_2_VERSION) == 1,
      SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1,
      SSL_CTX_set_num_tickets(context, 0) == 1
    else { throw .library(TLSErrors.take()) }
    let options =
      UInt64(1 << 14)  // SSL_OP_NO_TICKET
      | UInt64(1 << 30)  // SSL_OP_NO_RENEGOTIATION
      | UInt64(1 << 17)  // SSL_OP_NO_COMPRESSION
      | UInt64(1 << 22)  // SSL_OP_CIPHER_SERVER_PREFERENCE
    SSL_CTX_set_options(context, options)
    SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_OFF), nil)
    // Idle sessions give their buffers back: thousands of them just wait.
    _ = martlet_ssl_ctx_set_mode(
      context, Int(SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER))
    isReady = true
    return context
  }

  /// A session that has not begun.
  /// - Parameter serverName: client: whom we want (SNI, and the name that the
  ///   certificate must bear where it is checked); a name or an IP address.
  package func session(serverName: String? = nil) throws(TLSFailure) -> TLSSession {
    try TLSSession(self, serverName: serverName)
  }
}

/// A server's certificate and key.
package struct TLSIdentity: Sendable, Equatable {
  /// PEM.
  package let certificate: [UInt8]
  /// PEM, unencrypted (PKCS#8): to be kept 0600.
  package let key: [UInt8]

  package init(certificate: [UInt8], key: [UInt8]) {
    self.certificate = certificate
    self.key = key
  }

  /// SHA-256 of the leaf certificate.
  package func fingerprintSHA256() throws(TLSFailure) -> [UInt8] {
    let certificates = try PEM.certificates(certificate)
    defer { for certificate in certificates { X509_free(certificate) } }
    guard let leaf = certificates.first, let digest = PEM.fingerprint(leaf) else {
      throw .badIdentity("no certificate in the file")
    }
    return digest
  }

  /// Makes a key (P-256) and a certificate signed by itself.
  /// - Parameters:
  ///   - name: common name and DNS name; at most 64 bytes.
  ///   - unixTime: seconds since 1970. Valid from the day before, as clocks
  ///     differ, for ten years. Our own clients do not look at it.
  package static func selfSigned(
    name: String, unixTime: Int64
  ) throws(TLSFailure) -> TLSIdentity {
    TLSErrors.clear()
    let key = try makeKey()
    defer { EVP_PKEY_free(key) }
    guard let certificate = X509_new() else { throw .library(TLSErrors.take()) }
    defer { X509_free(certificate) }
    try describe(certificate, name: name, unixTime: unixTime)
    guard X509_set_pubkey(certificate, key) == 1, X509_sign(certificate, key, EVP_sha256()) > 0
    else { throw .library(TLSErrors.take()) }
    return TLSIdentity(
      certificate: try PEM.write { PEM_write_bio_X509($0, certificate) },
      key: try PEM.write { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) })
  }

  private static func makeKey() throws(TLSFailure) -> OpaquePointer {
    guard let generator = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nil) else {
      throw .library(TLSErrors.take())
    }
    defer { EVP_PKEY_CTX_free(generator) }
    var key: OpaquePointer?
    guard EVP_PKEY_keygen_init(generator) == 1,
      EVP_PKEY_CTX_set_ec_paramgen_curve_nid(generator, NID_X9_62_prime256v1) == 1,
      unsafe EVP_PKEY_keygen(generator, &key) == 1, let key
    else { throw .library(TLSErrors.take()) }
    return key
  }

  private static func describe(
    _ certificate: OpaquePointer, name: String, unixTime: Int64
  ) throws(TLSFailure) {
    // 16 random bytes with the top bit clear: unique, positive (RFC 5280 §4.1.2.2).
    var serial = [UInt8](repeating: 0, count: 16)
    guard unsafe RAND_bytes(&serial, 16) == 1 else { throw .library(TLSErrors.take()) }
    serial[0] = serial[0] & 0x7f | 1
    guard let number = unsafe BN_bin2bn(serial, 16, nil) else { throw .library(TLSErrors.take()) }
    defer { BN_free(number) }
    let day = 86_400
    let begin = Int(clamping: max(unixTime, 0)) - day
    guard X509_set_version(certificate, 2) == 1,
      unsafe BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nil,
      unsafe ASN1_TIME_set(X509_getm_notBefore(certificate), begin) != nil,
      unsafe ASN1_TIME_set(X509_getm_notAfter(certificate), begin + 3653 * day) != nil,
      let subject = X509_get_subject_name(certificate)
    else { throw .library(TLSErrors.take()) }
    // A common name holds 64 characters and at least one.
    let text =
      name.isEmpty ? "martlet" : String(String.UnicodeScalarView(name.unicodeScalars.prefix(64)))
    let utf8 = 0x1000  // MBSTRING_UTF8
    let bytes = Array(text.utf8)
    guard
      unsafe X509_NAME_add_entry_by_txt(
        subject, "CN", Int32(utf8), bytes, Int32(bytes.count), -1, 0) == 1,
      X509_set_issuer_name(certificate, subject) == 1
    else { throw .library(TLSErrors.take()) }
    try addExtension(certificate, NID_basic_constraints, "critical,CA:FALSE")
    try addExtension(certificate, NID_key_usage, "critical,digitalSignature")
    try addExtension(certificate, NID_ext_key_usage, "serverAuth")
    // Names that could be read as extension syntax are left to the subject.
    let isPlain = text.utf8.allSatisfy {
      $0 == 0x2d || $0 == 0x2e || ($0 >= 0x30 && $0 <= 0x39)
        || (($0 | 0x20) >= 0x61 && ($0 | 0x20) <= 0x7a)
    }
    if isPlain, !text.isEmpty {
      try addExtension(certificate, NID_subject_alt_name, "DNS:" + text)
    }
  }

  private static func addExtension(
    _ certificate: OpaquePointer, _ identifier: Int32, _ value: String
  ) throws(TLSFailure) {
    guard let made = unsafe X509V3_EXT_conf_nid(nil, nil, identifier, value) else {
      throw .library(TLSErrors.take())
    }
    defer { X509_EXTENSION_free(made) }
    guard X509_add_ext(certificate, made, -1) == 1 else { throw .library(TLSErrors.take()) }
  }
}
