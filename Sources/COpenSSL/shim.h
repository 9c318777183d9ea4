// OpenSSL 3 as Swift sees it. Only Crypto and TLS import this. Function-like
// macros do not cross into Swift, so those we need are inline functions here.
#ifndef MARTLET_COPENSSL_SHIM_H
#define MARTLET_COPENSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/obj_mac.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

/// Keys `context` for BLAKE2s-MAC with `size` bytes of output; 1 = done.
static inline int martlet_blake2s_mac_init(EVP_MAC_CTX *context, const unsigned char *key,
                                           size_t key_size, size_t size) {
  OSSL_PARAM params[2];
  params[0] = OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size);
  params[1] = OSSL_PARAM_construct_end();
  return EVP_MAC_init(context, key, key_size, params);
}

static inline unsigned long martlet_ssl_set_mode(SSL *ssl, long mode) {
  return (unsigned long)SSL_set_mode(ssl, mode);
}
static inline unsigned long martlet_ssl_ctx_set_mode(SSL_CTX *context, long mode) {
  return (unsigned long)SSL_CTX_set_mode(context, mode);
}
static inline int martlet_ssl_set_tlsext_host_name(SSL *ssl, const char *name) {
  return (int)SSL_set_tlsext_host_name(ssl, (char *)name);
}
static inline int martlet_ssl_ctx_set_min_proto_version(SSL_CTX *context, int version) {
  return (int)SSL_CTX_set_min_proto_version(context, version);
}
static inline int martlet_bio_pending(BIO *bio) { return (int)BIO_pending(bio); }
static inline long martlet_bio_get_mem_data(BIO *bio, char **data) {
  return BIO_get_mem_data(bio, data);
}

#endif
