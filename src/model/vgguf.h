/*
 * vgguf.h - the virtual GGUF: all splits as one file.
 *
 * llama.cpp loads from a FILE *. This one presents the model's keys (without split.*), all tensors
 * as if they were in one file, and the real bytes of every tensor. Only what is read costs: the
 * stream touches nothing of a tensor that llama.cpp seeks to and reads no byte of. (A stream cannot
 * skip on its own: glibc copies every byte of a fread out of its buffer, read or not. The backend
 * makes llama.cpp ask for no bytes of the weights that it will stream.)
 *
 * Load with load_mode NONE and lazy_mode OFF: there is no descriptor to map.
 */
#ifndef FB_MODEL_VGGUF_H
#define FB_MODEL_VGGUF_H

#include <stdio.h>

#include "model/catalog.h"

struct fb_vgguf_stats {
    uint64_t read_bytes; /* tensor data, from the files; the catalogue has read the headers */
};

/* A seekable, read-only stream; fclose it after loading. The catalogue must outlive it. `stats`
 * (may be NULL) is updated while reading. A read error sets ferror and, if `io_error` is not NULL,
 * describes it there (llama.cpp's own message does not name the file). One thread at a time. */
enum forebay_status fb_vgguf_open(struct fb_catalog *catalog, struct fb_vgguf_stats *stats,
    struct forebay_error *io_error, FILE **out, struct forebay_error *err);

#endif
