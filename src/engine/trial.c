#include "engine/trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "engine/guard.h"
#include "os/child.h"
#include "os/dirs.h"
#include "os/save.h"

/* --- Models that loaded ---------------------------------------------------------------------- */

#define KNOWN_MAX 128 /* models remembered */
#define KEY_TEXT  17  /* 16 hexadecimal digits and a newline */

/* Names the file as it is on the disk, and this llama.cpp. */
static uint64_t key_of(const struct fb_catalog *catalog)
{
    uint64_t key = fb_hash64(llama_version(), strlen(llama_version()), 0);
    for (int i = 0; i < catalog->n_files; i++) {
        const struct fb_file *file = catalog->files[i];
        key = fb_hash64(file->identity, sizeof file->identity, key);
        key = fb_hash64(&file->size, sizeof file->size, key);
    }
    return key;
}

/* Reads the file of known keys: lines, the latest last. Returns their length. */
static size_t read_known(const char *path, char *text, size_t cap)
{
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(text, 1, cap - 1, f) : 0;
    if (f) {
        fclose(f);
    }
    n -= n % KEY_TEXT;
    text[n] = 0;
    return n;
}

/* Adds the key; forgets the oldest one when there are too many. */
static void remember(const char *path, char *text, size_t n, const char *key)
{
    char *from = n >= KNOWN_MAX * KEY_TEXT ? text + KEY_TEXT : text;
    n -= (size_t)(from - text);
    memcpy(from + n, key, KEY_TEXT);
    if (!fb_private_replace(path, from, n + KEY_TEXT)) {
        fb_debug("cannot write %s", path);
    }
}

/* --- The child ------------------------------------------------------------------------------- */

struct trial {
    enum forebay_status (*call)(void *user, struct forebay_error *err);
    void *user;
};

/* The result that the child leaves in shared memory. */
struct outcome {
    enum forebay_status status;
    char last_words[256];
};

static void run(void *shared, void *user)
{
    struct outcome *out = shared;
    const struct trial *trial = user;
    fb_guard_note_death(out->last_words, sizeof out->last_words);
    out->status = trial->call(trial->user, NULL);
}

static enum forebay_status fail_dead(const struct fb_catalog *catalog, const struct outcome *out,
    int death, struct forebay_error *err)
{
    char how[64];
    snprintf(how, sizeof how, out->last_words[0] ? "it aborted" : "it crashed (signal %d)", death);
    return fb_fail(err, FOREBAY_E_LLAMA,
        "Download the model again, or convert it again for this version of llama.cpp.",
        "llama.cpp cannot load %s: %s%s%s", catalog->files[0]->path, how,
        out->last_words[0] ? ": " : "", out->last_words);
}

enum forebay_status fb_trial(const struct fb_catalog *catalog,
    enum forebay_status (*call)(void *user, struct forebay_error *err), void *user,
    struct forebay_error *err)
{
    static uint64_t last_known; /* by this process, where there is no cache directory */
    char path[1024], known[(KNOWN_MAX + 1) * KEY_TEXT + 1], text[KEY_TEXT + 1];
    uint64_t key = key_of(catalog);
    bool place = fb_cache_path("loaded-models", path, sizeof path);
    size_t n = place ? read_known(path, known, KNOWN_MAX * KEY_TEXT + 1) : 0;
    snprintf(text, sizeof text, "%016llx\n", (unsigned long long)key);
    if (key == last_known || (n > 0 && strstr(known, text))) {
        return FOREBAY_OK;
    }
    struct trial trial = {call, user};
    struct outcome *out = fb_xcalloc(1, sizeof *out);
    int death;
    enum fb_child_end end = fb_child_run(run, &trial, out, sizeof *out, &death);
    enum forebay_status status = FOREBAY_OK;
    if (end == FB_CHILD_DIED) {
        status = fail_dead(catalog, out, death, err);
    } else if (end == FB_CHILD_RETURNED && out->status == FOREBAY_OK) {
        last_known = key;
        if (place) {
            remember(path, known, n, text);
        }
    }
    free(out);
    return status;
}
