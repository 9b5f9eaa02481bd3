/*
 * io_fixture.h - shared by the tests of io: files with known contents, an engine over them, and the
 * check that a request returned the bytes that were written to the file.
 */
#ifndef FOREBAY_TESTS_IO_FIXTURE_H
#define FOREBAY_TESTS_IO_FIXTURE_H

#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/io.h"
#include "os/memory.h"
#include "random.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES  (3 * FB_MIB + 12345) /* not a multiple of any block */
#define CHUNK_BYTES (64u * 1024)
#define GUARD_BYTES 4096u
#define GUARD       0xa7

static unsigned char *contents; /* of every test file */
static int n_warnings;
static char last_warning[1024];

static inline void note_log(enum forebay_log_level level, const char *line, void *user)
{
    (void)user;
    if (level <= FOREBAY_LOG_WARN) {
        n_warnings++;
        snprintf(last_warning, sizeof last_warning, "%s", line);
    }
}

static inline int make_contents(void **state)
{
    (void)state;
    forebay_log_set_sink(note_log, NULL);
    random_state = 1;
    contents = malloc(FILE_BYTES);
    for (uint64_t i = 0; i < FILE_BYTES; i++) {
        contents[i] = (unsigned char)rnd();
    }
    return 0;
}

static inline int free_contents(void **state)
{
    (void)state;
    free(contents);
    return 0;
}

static inline const char *disk_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    return tmp ? tmp : "/tmp";
}

/* A new file in `dir` with `contents`, opened; `path` gets its name, the caller unlinks it. */
static inline struct fb_file *make_file(const char *dir, bool direct, char *path, size_t cap)
{
    struct forebay_error err;
    struct fb_file *file = NULL;
    snprintf(path, cap, "%s/forebay-io-XXXXXX", dir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (uint64_t at = 0; at < FILE_BYTES;) {
        ssize_t n = write(fd, contents + at, FILE_BYTES - at);
        assert_true(n > 0);
        at += (uint64_t)n;
    }
    close(fd);
    assert_int_equal(fb_file_open(path, direct, &file, &err), FOREBAY_OK);
    return file;
}

enum place { DIRECT, BUFFERED, SHM };

struct variant {
    const char *method;
    enum place place;
    bool arena; /* most buffers are in the engine's arena */
};

/* The state of one test of the suite. */
struct rig {
    const struct variant *variant;
    char path[256];
    struct fb_file *file;
    struct fb_io_engine *io;
    unsigned char *memory; /* buffers are parts of it */
    uint64_t memory_bytes;
};

static inline void open_engine(struct rig *rig, uint32_t depth)
{
    struct forebay_error err = {0};
    struct fb_io_options options;
    fb_io_options_init(&options);
    options.method = rig->variant->method;
    options.chunk_bytes = CHUNK_BYTES;
    options.queue_depth = depth;
    options.direct = rig->variant->place != BUFFERED;
    if (rig->variant->arena) {
        options.arena = rig->memory;
        options.arena_bytes = rig->memory_bytes / 2; /* some buffers lie outside */
    }
    if (fb_io_open(&options, &rig->io, &err) != FOREBAY_OK) {
        fail_msg("%s: %s", options.method, err.message);
    }
}

/* Prepares a request on a buffer at `memory + place`, with guard bytes after its envelope. */
static inline void prepare(
    struct rig *rig, struct fb_io_request *r, uint64_t place, uint64_t offset, uint64_t length)
{
    *r = (struct fb_io_request){
        .file = rig->file, .offset = offset, .length = length, .buffer = rig->memory + place};
    uint64_t size = fb_io_envelope(offset, length);
    assert_true(place + size + GUARD_BYTES <= rig->memory_bytes);
    memset(r->buffer, 0x11, size);
    memset((char *)r->buffer + size, GUARD, GUARD_BYTES);
}

/* The bytes are those of the file, and nothing was written after the envelope. */
static inline void check_bytes(const struct fb_io_request *r)
{
    const unsigned char *got = (unsigned char *)r->buffer + fb_io_delta(r->offset);
    const unsigned char *end = (unsigned char *)r->buffer + fb_io_envelope(r->offset, r->length);
    if (memcmp(got, contents + r->offset, r->length)) {
        uint64_t i = 0;
        while (got[i] == contents[r->offset + i]) {
            i++;
        }
        fail_msg("byte %llu of %llu at offset %llu is wrong", (unsigned long long)i,
            (unsigned long long)r->length, (unsigned long long)r->offset);
    }
    for (unsigned i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(end[i], GUARD);
    }
}

static inline void check_done(const struct fb_io_request *r)
{
    if (r->state == FB_IO_FAILED) {
        fail_msg("FAILED: %s", r->error.message);
    }
    assert_int_equal(r->state, FB_IO_DONE);
    check_bytes(r);
}

#endif
