/*
 * header.h - reads the header of one GGUF file into memory and checks it, before gguf.h sees it.
 *
 * gguf.h's parser is trusted with files that passed this walk, and only with those, because
 *   - it compares every tensor name and key with all earlier ones: a file of a few MB with a
 *     million of them keeps it busy for hours;
 *   - it takes several times the memory of a hostile string array, outside of any try block;
 *   - the size check of a tensor and the padding of its size overflow, so that a shape whose
 *     product wraps around to 0 passes;
 *   - what it refuses it explains on its own log, not in our error.
 * The walk is bounds-checked, linear in the header's size, and limits counts and sizes to many
 * times what real models have.
 */
#ifndef FB_MODEL_HEADER_H
#define FB_MODEL_HEADER_H

#include "os/file.h"

struct gguf_context;

#define FB_HEADER_MAX_BYTES     (128u << 20)
#define FB_HEADER_MAX_KV        16384u
#define FB_HEADER_MAX_TENSORS   16384u
#define FB_HEADER_MAX_STRINGS   (4u << 20) /* elements of string arrays, all together */
#define FB_HEADER_MAX_ALIGNMENT (16u << 20)

/* Reads, checks and parses. Every tensor of *out is known to lie inside the file, and no two keys
 * or tensors have the same name. The caller frees *out with gguf_free. E_FORMAT names what is
 * wrong; E_IO as fb_file_read. */
enum forebay_status fb_header_parse(
    struct fb_file *file, struct gguf_context **out, struct forebay_error *err);

/* A GGUF string for a message: at most 63 bytes, control characters replaced. Returns `buf`. */
const char *fb_header_printable(const char *s, size_t length, char buf[64]);

#endif
