/// Hashes, message authentication and key derivation: BLAKE2s (RFC 7693) with
/// WireGuard's KDF, SHA-256, HMAC (RFC 2104), HKDF (RFC 5869), scrypt (RFC 7914);
/// HMAC-SHA1 and MD5 because STUN's wire format has them (RFC 8489 §14.5, §9.2.2).
/// Called per handshake, never per packet.

internal import COpenSSL

public enum BLAKE2s {
  /// BLAKE2s-256 of the parts one after another; 32 bytes.
  public static func hash(_ parts: [UInt8]...) -> [UInt8] {
    digest(Algorithms.shared.blake2s, parts.count == 1 ? parts[0] : Array(parts.joined()))
  }

  /// Keyed BLAKE2s with 16 bytes of output (WireGuard's Mac).
  /// - Parameter key: 1 to 32 bytes.
  public static func mac(key: [UInt8], _ data: [UInt8]) -> [UInt8] {
    data.withUnsafeBytes { unsafe mac(key: key, $0) }
  }

  /// Keyed BLAKE2s over borrowed bytes; 16 bytes of output.
  public static func mac(key: [UInt8], _ data: RawSpan) -> [UInt8] {
    unsafe data.withUnsafeBytes { unsafe mac(key: key, $0) }
  }

  private static func mac(key: [UInt8], _ data: UnsafeRawBufferPointer) -> [UInt8] {
    precondition((1...32).contains(key.count))
    guard let context = unsafe EVP_MAC_CTX_new(Algorithms.shared.blake2sMAC) else {
      preconditionFailure("out of memory")
    }
    defer { unsafe EVP_MAC_CTX_free(context) }
    mustSucceed(unsafe martlet_blake2s_mac_init(context, key, key.count, 16))
    if let base = data.baseAddress, data.count > 0 {
      mustSucceed(unsafe EVP_MAC_update(context, base, data.count))
    }
    var output = [UInt8](repeating: 0, count: 16)
    var size = 0
    mustSucceed(unsafe EVP_MAC_final(context, &output, &size, 16))
    return output
  }

  /// HMAC-BLAKE2s; 32 bytes.
  public static func hmac(key: [UInt8], _ data: [UInt8]) -> [UInt8] {
    keyedHash(Algorithms.shared.blake2s, key: key, data)
  }

  /// WireGuard's KDFn: `n` outputs of 32 bytes, n = 1…3.
  public static func kdf(n: Int, key: [UInt8], _ input: [UInt8]) -> [[UInt8]] {
    precondition((1...3).contains(n))
    let secret = hmac(key: key, input)
    var outputs: [[UInt8]] = []
    var last: [UInt8] = []
    for i in 1...n {
      last.append(UInt8(i))
      last = hmac(key: secret, last)
      outputs.append(last)
    }
    return outputs
  }
}

public enum SHA256 {
  /// 32 bytes.
  public static func hash(_ data: [UInt8]) -> [UInt8] { digest(Algorithms.shared.sha256, data) }
}

public enum HMACSHA256 {
  /// 32 bytes.
  public static func authenticate(key: [UInt8], _ data: [UInt8]) -> [UInt8] {
    keyedHash(Algorithms.shared.sha256, key: key, data)
  }

  /// Compares in constant time.
  public static func verify(_ code: [UInt8], key: [UInt8], _ data: [UInt8]) -> Bool {
    constantTimeEqual(code, authenticate(key: key, data))
  }
}

/// For STUN's MESSAGE-INTEGRITY only.
public enum HMACSHA1 {
  /// 20 bytes.
  public static func authenticate(key: [UInt8], _ data: [UInt8]) -> [UInt8] {
    keyedHash(OldAlgorithms.shared.sha1, size: 20, key: key, data)
  }
}

/// For STUN's long-term credentials only.
public enum MD5 {
  /// 16 bytes.
  public static func hash(_ data: [UInt8]) -> [UInt8] {
    digest(OldAlgorithms.shared.md5, size: 16, data)
  }
}

public enum HKDFSHA256 {
  /// RFC 5869 §2.2; 32 bytes.
  public static func extract(salt: [UInt8], _ input: [UInt8]) -> [UInt8] {
    HMACSHA256.authenticate(key: salt, input)
  }

  /// RFC 5869 §2.3.
  /// - Parameter count: 1…8160 bytes wanted.
  public static func expand(_ key: [UInt8], info: [UInt8], count: Int) -> [UInt8] {
    precondition((1...(255 * 32)).contains(count))
    var output: [UInt8] = []
    var block: [UInt8] = []
    var number: UInt8 = 1
    while output.count < count {
      block = HMACSHA256.authenticate(key: key, block + info + [number])
      output += block
      if output.count < count { number += 1 }
    }
    output.removeLast(output.count - count)
    return output
  }

  /// Extract, then expand.
  public static func derive(
    _ input: [UInt8], salt: [UInt8] = [], info: [UInt8], count: Int
  ) -> [UInt8] {
    expand(extract(salt: salt, input), info: info, count: count)
  }
}

public enum Scrypt {
  /// RFC 7914. Needs 128 · n · r bytes of memory while it runs.
  /// - Parameters:
  ///   - n: cost, a power of two above 1.
  ///   - length: bytes wanted.
  public static func derive(
    password: [UInt8], salt: [UInt8], n: UInt64, r: UInt64, p: UInt64, length: Int
  ) -> [UInt8] {
    var output = [UInt8](repeating: 0, count: length)
    let memory = 128 * r * (n + p + 2) + (1 << 20)
    let text = password.map(CChar.init(bitPattern:))
    let done = unsafe EVP_PBE_scrypt(
      text, text.count, salt, salt.count, n, r, p, memory, &output, length)
    precondition(done == 1, "scrypt: parameters are not valid, or out of memory")
    return output
  }
}
