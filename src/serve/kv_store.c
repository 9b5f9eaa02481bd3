/*
 * kv_store.c - an index of the directory in memory, and files that are verified before use.
 *
 * Opening reads each file's trailer and tokens, so that finding needs no reads. The checksum of the
 * whole file is verified only when a state is about to be loaded.
 */
#include "serve/kv_store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "serve/prefix.h"

#define MAGIC      0x31766b6265726f66u /* "forebkv1" */
#define NAME_CHARS 16
#define SUFFIX     ".kv"
#define TMP_SUFFIX ".kv.tmp"
#define STALE_S    3600 /* a temporary file that old is a leftover: deleted */

struct state_trailer {
    uint64_t magic, fingerprint;
    uint64_t state_bytes, n_tokens;
    uint64_t sum;        /* of state and tokens */
    uint64_t header_sum; /* of the fields above */
};

struct stored_state {
    char name[NAME_CHARS + sizeof SUFFIX];
    int32_t *tokens; /* NULL: of another model or other settings */
    uint32_t n;
    uint64_t bytes;
    uint64_t used; /* order of use */
};

struct fb_kv_store {
    char *dir;
    char *path; /* returned by the last call */
    uint64_t max_bytes, fingerprint, clock, bytes;
    struct stored_state *entries;
    int n, cap;
};

/* --- Sums ---------------------------------------------------------------------------------- */

#define PRIME_1 0x9e3779b185ebca87u
#define PRIME_2 0xc2b2ae3d27d4eb4fu

/* A checksum of bytes, independent of how they are divided into pieces: words of eight bytes are
 * added, the rest is carried over. */
struct state_checksum {
    uint64_t sum, length;
    unsigned char rest[8];
};

static void sum_word(struct state_checksum *s, uint64_t word)
{
    s->sum ^= word * PRIME_2;
    s->sum = ((s->sum << 31) | (s->sum >> 33)) * PRIME_1;
}

static void sum_add(struct state_checksum *s, const void *data, size_t n)
{
    const unsigned char *at = data;
    size_t begun = s->length % 8;
    uint64_t word;
    s->length += n;
    if (begun > 0) {
        size_t fill = n < 8 - begun ? n : 8 - begun;
        memcpy(s->rest + begun, at, fill);
        at += fill;
        n -= fill;
        if (begun + fill < 8) {
            return;
        }
        memcpy(&word, s->rest, 8);
        sum_word(s, word);
    }
    for (; n >= 8; at += 8, n -= 8) {
        memcpy(&word, at, 8);
        sum_word(s, word);
    }
    memcpy(s->rest, at, n);
}

static uint64_t sum_end(const struct state_checksum *s)
{
    struct state_checksum last = *s;
    uint64_t word = 0;
    memcpy(&word, s->rest, s->length % 8);
    sum_word(&last, word);
    sum_word(&last, s->length);
    return last.sum ^ (last.sum >> 32);
}

static uint64_t sum_of(const void *data, size_t n)
{
    struct state_checksum s = {0};
    sum_add(&s, data, n);
    return sum_end(&s);
}

/* Adds the next `n` bytes of the file. False if there are fewer. */
static bool sum_file(struct state_checksum *s, FILE *f, uint64_t n)
{
    size_t cap = 1 << 18;
    char *buf = fb_xmalloc(cap);
    while (n > 0) {
        size_t want = n < cap ? (size_t)n : cap;
        size_t got = fread(buf, 1, want, f);
        if (got == 0) {
            break;
        }
        sum_add(s, buf, got);
        n -= got;
    }
    free(buf);
    return n == 0;
}

/* --- Names --------------------------------------------------------------------------------- */

static const char *path_of(struct fb_kv_store *store, const char *name)
{
    size_t cap = strlen(store->dir) + NAME_CHARS + 32;
    store->path = fb_xrealloc(store->path, cap);
    snprintf(store->path, cap, "%s/%s", store->dir, name);
    return store->path;
}

static void make_name(
    const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, char *name, size_t cap)
{
    struct state_checksum s = {0};
    sum_add(&s, &store->fingerprint, sizeof store->fingerprint);
    sum_add(&s, tokens, n * sizeof *tokens);
    snprintf(name, cap, "%016llx" SUFFIX, (unsigned long long)sum_end(&s));
}

static bool is_name(const char *name, const char *suffix)
{
    return strlen(name) == NAME_CHARS + strlen(suffix) &&
           strspn(name, "0123456789abcdef") == NAME_CHARS && strcmp(name + NAME_CHARS, suffix) == 0;
}

/* --- The index ----------------------------------------------------------------------------- */

static void forget(struct fb_kv_store *store, int i)
{
    store->bytes -= store->entries[i].bytes;
    free(store->entries[i].tokens);
    store->entries[i] = store->entries[--store->n];
}

static void delete_entry(struct fb_kv_store *store, int i)
{
    unlink(path_of(store, store->entries[i].name));
    forget(store, i);
}

static struct stored_state *new_entry(struct fb_kv_store *store, const char *name, uint64_t bytes)
{
    if (store->n == store->cap) {
        store->cap = store->cap ? 2 * store->cap : 16;
        store->entries = fb_xrealloc(store->entries, (size_t)store->cap * sizeof *store->entries);
    }
    struct stored_state *e = &store->entries[store->n++];
    *e = (struct stored_state){.bytes = bytes, .used = ++store->clock};
    snprintf(e->name, sizeof e->name, "%s", name);
    store->bytes += bytes;
    return e;
}

static void enforce_bound(struct fb_kv_store *store)
{
    while (store->bytes > store->max_bytes && store->n > 0) {
        int oldest = 0;
        for (int i = 1; i < store->n; i++) {
            oldest = store->entries[i].used < store->entries[oldest].used ? i : oldest;
        }
        delete_entry(store, oldest);
    }
}

/* --- Opening ------------------------------------------------------------------------------- */

/* Reads the trailer and moves to the first token. False unless the trailer is intact. */
static bool read_trailer(FILE *f, uint64_t size, struct state_trailer *t)
{
    return size >= sizeof *t && fseeko(f, (off_t)(size - sizeof *t), SEEK_SET) == 0 &&
           fread(t, sizeof *t, 1, f) == 1 && t->magic == MAGIC &&
           t->header_sum == sum_of(t, offsetof(struct state_trailer, header_sum)) &&
           t->n_tokens > 0 && t->n_tokens <= INT32_MAX && t->state_bytes <= size &&
           t->state_bytes + t->n_tokens * sizeof(int32_t) + sizeof *t == size &&
           fseeko(f, (off_t)t->state_bytes, SEEK_SET) == 0;
}

static void add_file(struct fb_kv_store *store, const char *name, const struct stat *st)
{
    const char *path = path_of(store, name);
    FILE *f = fopen(path, "rb");
    struct state_trailer t;
    if (!f) {
        return;
    }
    uint64_t size = (uint64_t)st->st_size;
    int32_t *tokens = NULL;
    bool good = read_trailer(f, size, &t);
    if (good && t.fingerprint == store->fingerprint) {
        tokens = fb_xcalloc(t.n_tokens, sizeof *tokens);
        good = fread(tokens, sizeof *tokens, t.n_tokens, f) == t.n_tokens;
    }
    fclose(f);
    if (!good) {
        fb_log(FOREBAY_LOG_WARN, "%s is damaged: deleted it", path);
        unlink(path);
        free(tokens);
        return;
    }
    struct stored_state *e = new_entry(store, name, size);
    e->tokens = tokens;
    e->n = tokens ? (uint32_t)t.n_tokens : 0;
    e->used = (uint64_t)st->st_mtime; /* scan() makes an order of it */
}

static int by_use(const void *a, const void *b)
{
    const struct stored_state *x = a, *y = b;
    return x->used < y->used ? -1 : x->used > y->used;
}

static void scan(struct fb_kv_store *store, DIR *dir)
{
    struct dirent *d;
    time_t now = time(NULL);
    while ((d = readdir(dir))) {
        struct stat st;
        bool tmp = is_name(d->d_name, TMP_SUFFIX);
        if ((!tmp && !is_name(d->d_name, SUFFIX)) || lstat(path_of(store, d->d_name), &st) != 0 ||
            !S_ISREG(st.st_mode)) {
            continue;
        }
        if (!tmp) {
            add_file(store, d->d_name, &st);
        } else if (now - st.st_mtime > STALE_S) {
            unlink(store->path);
        }
    }
    if (store->n > 0) {
        qsort(store->entries, (size_t)store->n, sizeof *store->entries, by_use);
    }
    for (int i = 0; i < store->n; i++) {
        store->entries[i].used = (uint64_t)i;
    }
    store->clock = (uint64_t)store->n;
    enforce_bound(store);
}

enum forebay_status fb_kv_store_open(const char *dir, uint64_t max_bytes, uint64_t fingerprint,
    struct fb_kv_store **out, struct forebay_error *err)
{
    DIR *d = mkdir(dir, 0700) == 0 || errno == EEXIST ? opendir(dir) : NULL;
    if (!d || access(dir, R_OK | W_OK | X_OK) != 0) {
        int errnum = errno;
        if (d) {
            closedir(d);
        }
        return fb_fail_errno(err, FOREBAY_E_IO, errnum,
            "Give a directory that can be written with --kv-dir.", "cannot use the directory %s",
            dir);
    }
    struct fb_kv_store *store = fb_xcalloc(1, sizeof *store);
    store->dir = fb_xstrdup(dir);
    store->max_bytes = max_bytes;
    store->fingerprint = fingerprint;
    scan(store, d);
    closedir(d);
    *out = store;
    return FOREBAY_OK;
}

void fb_kv_store_free(struct fb_kv_store *store)
{
    if (store) {
        while (store->n > 0) {
            forget(store, store->n - 1);
        }
        free(store->entries);
        free(store->dir);
        free(store->path);
        free(store);
    }
}

/* --- Reading ------------------------------------------------------------------------------- */

int fb_kv_store_find(const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, bool whole,
    uint32_t *common)
{
    int best = -1;
    *common = 0;
    for (int i = 0; i < store->n; i++) {
        const struct stored_state *e = &store->entries[i];
        uint32_t length = e->tokens ? fb_prefix_common(e->tokens, e->n, tokens, n) : 0;
        if (length > *common && (!whole || length == e->n)) {
            best = i;
            *common = length;
        }
    }
    return best;
}

const int32_t *fb_kv_store_tokens(const struct fb_kv_store *store, int state, uint32_t *n)
{
    *n = store->entries[state].n;
    return store->entries[state].tokens;
}

/* True if the whole file is as it was written. */
static bool intact(const struct fb_kv_store *store, const struct stored_state *e, const char *path)
{
    FILE *f = fopen(path, "rb");
    struct state_trailer t;
    struct state_checksum s = {0};
    bool good = f && read_trailer(f, e->bytes, &t) && t.fingerprint == store->fingerprint &&
                t.n_tokens == e->n && fseeko(f, 0, SEEK_SET) == 0 &&
                sum_file(&s, f, t.state_bytes + t.n_tokens * sizeof(int32_t)) &&
                sum_end(&s) == t.sum && fseeko(f, 0, SEEK_END) == 0 &&
                (uint64_t)ftello(f) == e->bytes;
    if (f) {
        fclose(f);
    }
    return good;
}

const char *fb_kv_store_check(struct fb_kv_store *store, int state)
{
    struct stored_state *e = &store->entries[state];
    const char *path = path_of(store, e->name);
    if (!intact(store, e, path)) {
        fb_log(
            FOREBAY_LOG_WARN, "%s is damaged or missing: its prompt will be computed again", path);
        delete_entry(store, state);
        return NULL;
    }
    e->used = ++store->clock;
    return path;
}

void fb_kv_store_drop(struct fb_kv_store *store, int state)
{
    delete_entry(store, state);
}

/* --- Writing ------------------------------------------------------------------------------- */

/* Appends tokens and trailer to a file that holds a state. *bytes: its complete size. */
static enum forebay_status complete(const struct fb_kv_store *store, const char *path,
    const int32_t *tokens, uint32_t n, uint64_t *bytes, struct forebay_error *err)
{
    FILE *f = fopen(path, "r+b");
    struct state_checksum s = {0};
    struct state_trailer t = {.magic = MAGIC, .fingerprint = store->fingerprint, .n_tokens = n};
    bool ok = f && fseeko(f, 0, SEEK_END) == 0;
    if (ok) {
        t.state_bytes = (uint64_t)ftello(f);
        ok = fseeko(f, 0, SEEK_SET) == 0 && sum_file(&s, f, t.state_bytes) &&
             fseeko(f, 0, SEEK_END) == 0;
        sum_add(&s, tokens, n * sizeof *tokens);
        t.sum = sum_end(&s);
        t.header_sum = sum_of(&t, offsetof(struct state_trailer, header_sum));
        ok = ok && fwrite(tokens, sizeof *tokens, n, f) == n && fwrite(&t, sizeof t, 1, f) == 1 &&
             fflush(f) == 0 && fsync(fileno(f)) == 0;
    }
    *bytes = t.state_bytes + n * sizeof *tokens + sizeof t;
    int errnum = errno;
    if (f && fclose(f) != 0) {
        ok = false;
    }
    return ok ? FOREBAY_OK
              : fb_fail_errno(err, FOREBAY_E_IO, errnum, "Check the space on that disk.",
                    "cannot write %s", path);
}

/* Deletes the states that this one continues: it can be used in place of each. */
static void delete_shorter(struct fb_kv_store *store, const int32_t *tokens, uint32_t n)
{
    for (int i = store->n - 1; i >= 0; i--) {
        const struct stored_state *e = &store->entries[i];
        if (e->tokens && e->n <= n && fb_prefix_common(e->tokens, e->n, tokens, n) == e->n) {
            delete_entry(store, i);
        }
    }
}

enum forebay_status fb_kv_store_put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    fb_kv_write write, void *user, struct forebay_error *err)
{
    char name[NAME_CHARS + sizeof SUFFIX], tmp_name[sizeof name + 8];
    uint64_t bytes = 0;
    make_name(store, tokens, n, name, sizeof name);
    snprintf(tmp_name, sizeof tmp_name, "%.*s" TMP_SUFFIX, NAME_CHARS, name);
    char *tmp = fb_xstrdup(path_of(store, tmp_name));
    enum forebay_status status = write(user, tmp, err);
    if (status == FOREBAY_OK) {
        status = complete(store, tmp, tokens, n, &bytes, err);
    }
    if (status == FOREBAY_OK && bytes > store->max_bytes) {
        unlink(tmp); /* larger than the bound: not stored, and no error */
    } else if (status == FOREBAY_OK) {
        delete_shorter(store, tokens, n);
        if (rename(tmp, path_of(store, name)) != 0) {
            status = fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot rename %s", tmp);
        } else {
            struct stored_state *e = new_entry(store, name, bytes);
            e->tokens = fb_xmalloc(n * sizeof *tokens);
            memcpy(e->tokens, tokens, n * sizeof *tokens);
            e->n = n;
            enforce_bound(store);
        }
    }
    if (status != FOREBAY_OK) {
        unlink(tmp);
    }
    free(tmp);
    return status;
}

uint64_t fb_kv_store_bytes(const struct fb_kv_store *store, int *n)
{
    *n = 0;
    for (int i = 0; i < store->n; i++) {
        *n += store->entries[i].tokens != NULL;
    }
    return store->bytes;
}
