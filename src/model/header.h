/*
 * header.h - reads the header of one GGUF file into memory and checks it before gguf.h parses it.
 *
 * Only files that pass this check are given to gguf.h's parser, because the parser
 *   - compares every tensor name and key with all earlier ones: a file of a few MB with a million
 *     of them keeps it busy for hours;
 *   - allocates several times the size of a hostile string array, outside any try block;
 *   - overflows in the size check of a tensor and in the padding of its size, so that a shape whose
 *     product wraps around to 0 passes;
 *   - explains a refusal on its own log, not in our error.
 * The check is bounds-checked, linear in the header's size, and limits counts and sizes to many
 * times those of real models.
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

/* Reads, checks and parses. Every tensor of *out lies inside the file, and no two keys or tensors
 * have the same name. The caller frees *out with gguf_free. E_FORMAT with the reason; E_IO as
 * fb_file_read. */
enum forebay_status fb_header_parse(
    struct fb_file *file, struct gguf_context **out, struct forebay_error *err);

/* A GGUF string for a message: at most 63 bytes, control characters replaced. Returns `buf`. */
const char *fb_header_printable(const char *s, size_t length, char buf[64]);

#endif
