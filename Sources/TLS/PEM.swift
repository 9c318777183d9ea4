/// PEM text to OpenSSL's objects and back, in memory, and the library's error
/// queue in words. Encrypted keys are refused, never asked a passphrase for:
/// nobody sits at a server's terminal.

internal import COpenSSL

enum PEM {
  /// Every certificate in the text; at least one. The caller frees them.
  static func certificates(_ pem: [UInt8]) throws(TLSFailure) -> [OpaquePointer] {
    TLSErrors.clear()
    let source = try reader(pem)
    defer { BIO_free(source) }
    var found: [OpaquePointer] = []
    while found.count < TLSLimits.chain, let next = unsafe PEM_read_bio_X509(source, nil, nil, nil)
    {
      found.append(next)
    }
    // The end of the text is "no start line": the only error that is none.
    let words = TLSErrors.take()
    guard !found.isEmpty else {
      throw .badIdentity(
        pem.isEmpty ? "the certificate file is empty" : "no PEM certificate (\(words))")
    }
    return found
  }

  static func privateKey(_ pem: [UInt8]) throws(TLSFailure) -> OpaquePointer {
    TLSErrors.clear()
    let source = try reader(pem)
    defer { BIO_free(source) }
    guard let key = unsafe PEM_read_bio_PrivateKey(source, nil, { _, _, _, _ in -1 }, nil) else {
      throw .badIdentity("no unencrypted PEM key (\(TLSErrors.take()))")
    }
    return key
  }

  private static func reader(_ pem: [UInt8]) throws(TLSFailure) -> OpaquePointer {
    guard pem.count <= 1 << 20 else { throw .badIdentity("the file is too large") }
    // A memory BIO of its own copy, as the array need not stay in place.
    guard let source = BIO_new(BIO_s_mem()) else { throw .library(TLSErrors.take()) }
    guard unsafe pem.isEmpty || BIO_write(source, pem, Int32(pem.count)) == Int32(pem.count) else {
      BIO_free(source)
      throw .library(TLSErrors.take())
    }
    return source
  }

  /// What `body` writes; it returns 1 for success.
  static func write(_ body: (OpaquePointer) -> Int32) throws(TLSFailure) -> [UInt8] {
    guard let target = BIO_new(BIO_s_mem()) else { throw .library(TLSErrors.take()) }
    defer { BIO_free(target) }
    guard body(target) == 1 else { throw .library(TLSErrors.take()) }
    var bytes = [UInt8](repeating: 0, count: Int(martlet_bio_pending(target)))
    let count = unsafe BIO_read(target, &bytes, Int32(bytes.count))
    guard count == bytes.count else { throw .library(TLSErrors.take()) }
    return bytes
  }

  /// SHA-256 of the certificate's DER.
  static func fingerprint(_ certificate: OpaquePointer) -> [UInt8]? {
    var digest = [UInt8](repeating: 0, count: 32)
    var count: UInt32 = 0
    guard unsafe X509_digest(certificate, EVP_sha256(), &digest, &count) == 1, count == 32 else {
      return nil
    }
    return digest
  }
}

enum TLSErrors {
  static func clear() { ERR_clear_error() }

  /// The first error of this thread's queue in words; the queue is emptied.
  static func take() -> String {
    defer { ERR_clear_error() }
    let code = ERR_get_error()
    guard code != 0 else { return "no reason given" }
    if let reason = unsafe ERR_reason_error_string(code) { return unsafe String(cString: reason) }
    return "error \(String(code, radix: 16))"
  }
}
