/*
 * vgguf.h - the virtual GGUF: a model, split or not, as one read-only stream.
 *
 * llama.cpp loads from a FILE *. This one has the model's keys (without split.*), all tensors as if
 * they were in one file, and the real bytes of every tensor. Seeking to a tensor without reading it
 * costs nothing. (The stream cannot skip bytes that are asked for: glibc copies every byte of an
 * fread out of its buffer. So the backend makes llama.cpp read no bytes of the weights that it
 * claims.)
 *
 * Load with load_mode NONE and lazy_mode OFF: there is no descriptor to map.
 */
#ifndef FB_MODEL_VGGUF_H
#define FB_MODEL_VGGUF_H

#include <stdio.h>

#include "model/catalog.h"

struct fb_vgguf_stats {
    uint64_t read_bytes; /* tensor data read from the files; headers do not count */
};

/* A seekable, read-only stream; fclose it after loading. The catalogue must outlive it. `stats`
 * (may be NULL) is updated while reading. A read error sets ferror and fills *io_error (may be
 * NULL); llama.cpp's own message does not name the file. One thread at a time. E_IO when a file has
 * changed, E_FORMAT when llama.cpp would abort on the model (runnable.h), E_NOMEM. */
enum forebay_status fb_vgguf_open(struct fb_catalog *catalog, struct fb_vgguf_stats *stats,
    struct forebay_error *io_error, FILE **out, struct forebay_error *err);

#endif
