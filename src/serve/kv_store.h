/*
 * kv_store.h - states of sequences on disk, for the next turn of a conversation after a restart.
 *
 * A directory of files NAME.kv. Each holds the state of one sequence as llama.cpp writes it, and a
 * trailer:
 *
 *      [ llama.cpp's state ][ tokens, int32 each ][ trailer: magic, fingerprint, sizes, sums ]
 *
 * NAME is a hash of fingerprint and tokens. A file appears by rename: complete or not at all. A
 * damaged file is ignored and deleted. Files of other models or settings are not used, but count:
 * when all NAME.kv together exceed the bound, the least recently used are deleted (those of earlier
 * runs count as used when they were written). Other files in the directory are never touched.
 *
 * States are numbered; numbers are valid until the next call that may add or delete: put, drop, and
 * check if it returns NULL. Not thread-safe.
 */
#ifndef FB_SERVE_KV_STORE_H
#define FB_SERVE_KV_STORE_H

#include "forebay.h"

struct fb_kv_store;

/* Makes the directory if it is missing, and reads the trailers of all files in it. `fingerprint`
 * names the model and its settings. E_IO: the directory cannot be used. */
enum forebay_status fb_kv_store_open(const char *dir, uint64_t max_bytes, uint64_t fingerprint,
    struct fb_kv_store **out, struct forebay_error *err);
/* The files stay. NULL is ignored. */
void fb_kv_store_free(struct fb_kv_store *store);

/* Returns the state of this model with the longest common beginning with `tokens`, and its
 * length in *common. `whole`: only states of which all tokens are common. -1, and *common is 0,
 * if none. */
int fb_kv_store_find(const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, bool whole,
    uint32_t *common);

/* The tokens of a state that was found; valid as long as its number. */
const int32_t *fb_kv_store_tokens(const struct fb_kv_store *store, int state, uint32_t *n);

/* Verifies the checksum of a state's file and notes a use. Returns the path for reading, valid
 * until the next call; NULL if the file is missing or damaged: then the state is deleted. */
const char *fb_kv_store_check(struct fb_kv_store *store, int state);
/* Deletes a state, for one that could not be loaded. */
void fb_kv_store_drop(struct fb_kv_store *store, int state);

/* Writes a state to `path`. */
typedef enum forebay_status (*fb_kv_write)(void *user, const char *path, struct forebay_error *err);

/* Stores a state that `write` writes. Deletes shorter states that it continues, and the least
 * recently used ones beyond the bound; a state that alone exceeds it is not stored, which is no
 * error. E_IO, and what `write` returns. */
enum forebay_status fb_kv_store_put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    fb_kv_write write, void *user, struct forebay_error *err);

/* Bytes of all files, and in *n the number of states of this model. */
uint64_t fb_kv_store_bytes(const struct fb_kv_store *store, int *n);

#endif
