/*
 * kv_store.h - states of sequences on disk, for the next turn of a conversation after a restart.
 *
 * A directory of files NAME.kv. Each holds the state of one sequence as llama.cpp writes it, and a
 * trailer:
 *
 *      [ llama.cpp's state ][ tokens, int32 each ][ trailer: magic, fingerprint, sizes, sums ]
 *
 * NAME is a hash of fingerprint and tokens. A file appears by rename: complete or not at all.
 * Prompts are private: files have mode 0600 and a new directory 0700. A damaged file is ignored and
 * deleted; one that is being loaded is called NAME.kv.load, so that it is not found again by the
 * next process if it should end this one. Checksums find damage, not forgery: whoever can write to
 * the directory can change what is computed. Files of other models or settings are not used, but
 * count: when all NAME.kv together exceed the bound, the least recently used are deleted (those of
 * earlier runs count as used when they were written). Other files in the directory are never
 * touched.
 *
 * States are numbered; numbers are valid until the next call that may add or delete: put, release,
 * drop, and claim if it returns NULL. Not thread-safe.
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
 * length in *common. `piece`: as in fb_prefix_exact. States of more than `cut_max` tokens only if
 * all of them are common. -1, and *common is 0, if none. */
int fb_kv_store_find(const struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    uint32_t cut_max, uint32_t piece, uint32_t *common);

struct fb_kv_state {
    const int32_t *tokens;
    uint32_t n, n_exact; /* n_exact: as in prefix.h */
    uint64_t bytes;      /* of llama.cpp's part of the file */
};

/* A state that was found; valid as long as its number. */
const struct fb_kv_state *fb_kv_store_get(const struct fb_kv_store *store, int state);

/* Moves a state's file away for loading, verifies its checksum and notes a use. Returns its path,
 * valid until the next call; NULL if the file is missing or damaged: then the state is deleted. */
const char *fb_kv_store_claim(struct fb_kv_store *store, int state);
/* After claim: puts the file back. Must be called before a call that may add or delete states. */
void fb_kv_store_release(struct fb_kv_store *store, int state);
/* Deletes a state, claimed or not. */
void fb_kv_store_drop(struct fb_kv_store *store, int state);

/* Writes a state to `path`. */
typedef enum forebay_status (*fb_kv_write)(void *user, const char *path, struct forebay_error *err);

/* Stores a state that `write` writes. Deletes shorter states that it continues, and the least
 * recently used ones beyond the bound; a state that alone exceeds it is not stored, which is no
 * error. E_IO, and what `write` returns. */
enum forebay_status fb_kv_store_put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    uint32_t n_exact, fb_kv_write write, void *user, struct forebay_error *err);

/* Bytes of all files, and in *n the number of states of this model. */
uint64_t fb_kv_store_bytes(const struct fb_kv_store *store, int *n);

#endif
