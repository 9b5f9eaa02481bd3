/* small_synth.h - a random model of four layers, for tests that compare whole runs. */
#ifndef FOREBAY_TESTS_SMALL_SYNTH_H
#define FOREBAY_TESTS_SMALL_SYNTH_H

#include "exact.h"
#include "synth/synth.h"

/* Makes it, with 16 experts of which 4 are used if the architecture has experts. Returns the bytes
 * of its weights. */
static inline uint64_t make_small_model(const char *path, const char *arch, int ff)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.type = "Q4_K_M";
    s.layers = 4;
    s.embd = 256;
    s.heads = 4;
    s.ff = ff;
    s.vocab = 300;
    s.experts = fb_synth_arch_has_experts(arch) ? 16 : 0;
    s.experts_used = s.experts ? 4 : 0;
    if (fb_synth_random(&s, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return weights_bytes_of(path);
}

#endif
