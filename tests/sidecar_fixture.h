/*
 * sidecar_fixture.h - small models for sidecars, capture of warnings, and deliberate damage to
 * files.
 */
#ifndef TESTS_SIDECAR_FIXTURE_H
#define TESTS_SIDECAR_FIXTURE_H

#include "exact.h"

#include <fcntl.h>

#include "base/units.h"
#include "synth/synth.h"

/* The last warning. */
static char said[1024];
static int n_said;

static inline void note_warning(enum forebay_log_level level, const char *line, void *user)
{
    (void)user;
    if (level == FOREBAY_LOG_WARN) {
        snprintf(said, sizeof said, "%s", line);
        n_said++;
    }
}

static inline void forget_warnings(void)
{
    said[0] = 0;
    n_said = 0;
}

struct kind {
    const char *arch, *type;
    int experts; /* 0: dense */
    int ff;
    bool fused;
};

static inline void make_kind(const char *path, const struct kind *kind, uint64_t seed)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = kind->arch;
    s.type = kind->type;
    s.layers = 2;
    s.embd = 256;
    s.heads = 4;
    s.ff = kind->ff;
    s.vocab = 320;
    s.experts = kind->experts;
    s.experts_used = kind->experts ? 2 : 0;
    s.fused_experts = kind->fused;
    s.output.seed = seed;
    if (fb_synth_random(&s, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

/* Inverts the bits of `mask` in the byte at `at` of the file. */
static inline void flip(const char *path, uint64_t at, unsigned char mask)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= mask;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static inline uint64_t size_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

#endif
