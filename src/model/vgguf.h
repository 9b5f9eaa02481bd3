/*
 * vgguf.h - the virtual GGUF: all splits as one file, without the bytes that will be streamed.
 *
 * llama.cpp loads from a FILE*. This one presents the real header (for a split set: the headers
 * merged, the split.* keys removed) and the real bytes of every tensor, except those that `skip`
 * claims: reads of these return at once and leave the destination as it was. So a 40 GB model
 * loads in the time its resident part takes to read.
 */
#ifndef ST_MODEL_VGGUF_H
#define ST_MODEL_VGGUF_H

#include <stdio.h>

#include "model/catalog.h"

/* True when the tensor's bytes must not be read. Asked once per tensor, at open. */
typedef bool (*st_vgguf_skip)(void *user, int tensor);

struct st_vgguf_stats {
    uint64_t read_bytes;    /* from disk, header included */
    uint64_t skipped_bytes; /* asked for and not read */
};

/* A seekable, read-only stream; fclose it after loading. The catalogue must outlive it. `stats`
 * (may be NULL) is updated while reading. A read error sets ferror and, if `io_error` is not NULL,
 * describes it there (llama.cpp's own message does not name the file). One thread at a time. */
enum strata_status st_vgguf_open(struct st_catalog *catalog, st_vgguf_skip skip, void *user,
    struct st_vgguf_stats *stats, struct strata_error *io_error, FILE **out,
    struct strata_error *err);

#endif
