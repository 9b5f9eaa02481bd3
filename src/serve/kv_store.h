/*
 * kv_store.h - states of sequences on disk, for the next turn after a restart.
 *
 * A directory of files NAME.kv, each the state of one sequence as llama.cpp writes it, and a trailer
 * of ours:
 *
 *      [ llama.cpp's state ][ tokens, int32 each ][ struct trailer: magic, fingerprint, sizes, sums ]
 *
 * NAME is a hash of fingerprint and tokens. A file appears by rename, complete or not at all. One
 * that is damaged is ignored and deleted; one of another model or other settings is left for it,
 * but counts: when all files together are more than the bound, those not used for longest go. Other
 * files in the directory are never touched.
 */
#ifndef FB_SERVE_KV_STORE_H
#define FB_SERVE_KV_STORE_H

#include "forebay.h"

struct fb_kv_store;

/* Makes the directory if it is missing, and looks at what is there. E_IO. */
enum forebay_status fb_kv_store_open(const char *dir, uint64_t max_bytes, uint64_t fingerprint,
    struct fb_kv_store **out, struct forebay_error *err);
void fb_kv_store_free(struct fb_kv_store *store);

/* The stored state that has most in common with these tokens, or -1; *common is how much. `whole`:
 * only states of which all is common. The number is good until the next call that deletes or adds. */
int fb_kv_store_find(const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, bool whole,
    uint32_t *common);

/* The tokens of a state that was found. */
const int32_t *fb_kv_store_tokens(const struct fb_kv_store *store, int state, uint32_t *n);

/* Checks the file of a state, and returns its path for reading; NULL when it is gone or damaged (it
 * is deleted and forgotten). */
const char *fb_kv_store_check(struct fb_kv_store *store, int state);
/* The state could not be taken up: deletes it. */
void fb_kv_store_drop(struct fb_kv_store *store, int state);

/* Writes a state to `path`. */
typedef enum forebay_status (*fb_kv_write)(void *user, const char *path, struct forebay_error *err);

/* Stores a state. Shorter ones that it continues are deleted, and what exceeds the bound. E_IO. */
enum forebay_status fb_kv_store_put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    fb_kv_write write, void *user, struct forebay_error *err);

/* Bytes of all states, and how many of them are of this model. */
uint64_t fb_kv_store_bytes(const struct fb_kv_store *store, int *n);

#endif
