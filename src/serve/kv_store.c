/*
 * kv_store.c - an index of the directory in memory, and files that are verified before use.
 *
 * Opening reads each file's trailer and tokens, so that finding needs no reads. The checksum of the
 * whole file is verified only when a state is about to be loaded. While it is loaded it has another
 * name: a state that ends the process does not end the next one, too.
 */
#include "serve/kv_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "serve/prefix.h"

#define MAGIC       0x32766b6265726f66u /* "forebkv2" */
#define NAME_CHARS  16
#define SUFFIX      ".kv"
#define TMP_SUFFIX  ".kv.tmp"
#define LOAD_SUFFIX ".kv.load"
#define OTHERS      0077u /* what others than the owner may do: prompts are private */
#define STALE_S     3600  /* a file of another suffix that old is a leftover: deleted */

struct state_trailer {
    uint64_t magic, fingerprint;
    uint64_t state_bytes;
    uint32_t n_tokens, n_exact;
    uint64_t sum;        /* of state and tokens */
    uint64_t header_sum; /* of the fields above */
};

struct stored_state {
    char name[NAME_CHARS + sizeof SUFFIX];
    int32_t *tokens; /* NULL: of another model or other settings */
    struct fb_kv_state state;
    uint64_t bytes; /* of the file */
    uint64_t used;  /* order of use */
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

/* Name of a state's file while it is loaded. */
static char *loading_path(const struct fb_kv_store *store, const struct stored_state *e)
{
    size_t cap = strlen(store->dir) + NAME_CHARS + 32;
    char *path = fb_xmalloc(cap);
    snprintf(path, cap, "%s/%.*s" LOAD_SUFFIX, store->dir, NAME_CHARS, e->name);
    return path;
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

/* Takes `tokens`; NULL for a file of another model. */
static struct stored_state *new_entry(struct fb_kv_store *store, const char *name, uint64_t bytes,
    int32_t *tokens, const struct state_trailer *t)
{
    if (store->n == store->cap) {
        store->cap = store->cap ? 2 * store->cap : 16;
        store->entries = fb_xrealloc(store->entries, (size_t)store->cap * sizeof *store->entries);
    }
    struct stored_state *e = &store->entries[store->n++];
    *e = (struct stored_state){.tokens = tokens, .bytes = bytes, .used = ++store->clock};
    if (tokens) {
        e->state = (struct fb_kv_state){tokens, t->n_tokens, t->n_exact, t->state_bytes};
    }
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

/* Opens a regular file. A FIFO does not block, a link is not followed. */
static FILE *open_file(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    FILE *f = fd >= 0 && fstat(fd, st) == 0 && S_ISREG(st->st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f && fd >= 0) {
        close(fd);
    }
    return f;
}

/* Reads the trailer and moves to the first token. False unless the trailer is intact. */
static bool read_trailer(FILE *f, uint64_t size, struct state_trailer *t)
{
    return size >= sizeof *t && fseeko(f, (off_t)(size - sizeof *t), SEEK_SET) == 0 &&
           fread(t, sizeof *t, 1, f) == 1 && t->magic == MAGIC &&
           t->header_sum == sum_of(t, offsetof(struct state_trailer, header_sum)) &&
           t->n_tokens > 0 && t->n_tokens <= INT32_MAX && t->n_exact <= t->n_tokens &&
           t->state_bytes <= size &&
           t->state_bytes + t->n_tokens * sizeof(int32_t) + sizeof *t == size &&
           fseeko(f, (off_t)t->state_bytes, SEEK_SET) == 0;
}

static void add_file(struct fb_kv_store *store, const char *name)
{
    const char *path = path_of(store, name);
    struct stat st;
    FILE *f = open_file(path, &st);
    struct state_trailer t;
    if (!f) {
        return;
    }
    if (st.st_mode & OTHERS) { /* an older version made it readable */
        fchmod(fileno(f), 0600);
    }
    uint64_t size = (uint64_t)st.st_size;
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
    struct stored_state *e = new_entry(store, name, size, tokens, &t);
    e->used = (uint64_t)st.st_mtime; /* scan() makes an order of it */
}

/* A file that was being written or loaded when a process died, unless one is doing it now. */
static void delete_leftover(struct fb_kv_store *store, const char *name)
{
    const char *path = path_of(store, name);
    struct stat st;
    time_t now = time(NULL);
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && now - st.st_mtime > STALE_S &&
        now - st.st_ctime > STALE_S) {
        unlink(path);
    }
}

static int by_use(const void *a, const void *b)
{
    const struct stored_state *x = a, *y = b;
    return x->used < y->used ? -1 : x->used > y->used;
}

static void scan(struct fb_kv_store *store, DIR *dir)
{
    struct dirent *d;
    while ((d = readdir(dir))) {
        if (is_name(d->d_name, SUFFIX)) {
            add_file(store, d->d_name);
        } else if (is_name(d->d_name, TMP_SUFFIX) || is_name(d->d_name, LOAD_SUFFIX)) {
            delete_leftover(store, d->d_name);
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
    struct stat st;
    if (fstat(dirfd(d), &st) == 0 && (st.st_mode & OTHERS)) {
        fb_warn(
            "other users can access %s, where prompts are stored: chmod 700 protects them", dir);
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

int fb_kv_store_find(const struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    uint32_t cut_max, uint32_t piece, uint32_t *common)
{
    int best = -1;
    *common = 0;
    for (int i = 0; i < store->n; i++) {
        const struct fb_kv_state *s = &store->entries[i].state;
        uint32_t length = s->tokens ? fb_prefix_common(s->tokens, s->n, tokens, n) : 0;
        length = fb_prefix_exact(length, s->n_exact, piece);
        if (length > *common && (s->n <= cut_max || length == s->n)) {
            best = i;
            *common = length;
        }
    }
    return best;
}

const struct fb_kv_state *fb_kv_store_get(const struct fb_kv_store *store, int state)
{
    return &store->entries[state].state;
}

/* True if the whole file is as it was written. */
static bool intact(const struct fb_kv_store *store, const struct stored_state *e, const char *path)
{
    struct stat st;
    FILE *f = open_file(path, &st);
    struct state_trailer t;
    struct state_checksum s = {0};
    bool good = f && (uint64_t)st.st_size == e->bytes && read_trailer(f, e->bytes, &t) &&
                t.fingerprint == store->fingerprint && t.n_tokens == e->state.n &&
                t.n_exact == e->state.n_exact && fseeko(f, 0, SEEK_SET) == 0 &&
                sum_file(&s, f, t.state_bytes + t.n_tokens * sizeof(int32_t)) &&
                sum_end(&s) == t.sum;
    if (f) {
        fclose(f);
    }
    return good;
}

const char *fb_kv_store_claim(struct fb_kv_store *store, int state)
{
    struct stored_state *e = &store->entries[state];
    char *loading = loading_path(store, e);
    bool moved = rename(path_of(store, e->name), loading) == 0;
    if (!moved || !intact(store, e, loading)) {
        fb_warn("%s is damaged or missing: its prompt will be computed again", store->path);
        fb_kv_store_drop(store, state);
        free(loading);
        return NULL;
    }
    e->used = ++store->clock;
    free(store->path);
    store->path = loading;
    return loading;
}

void fb_kv_store_release(struct fb_kv_store *store, int state)
{
    struct stored_state *e = &store->entries[state];
    char *loading = loading_path(store, e);
    if (rename(loading, path_of(store, e->name)) != 0) {
        forget(store, state); /* another process deleted it */
    }
    free(loading);
}

void fb_kv_store_drop(struct fb_kv_store *store, int state)
{
    char *loading = loading_path(store, &store->entries[state]);
    unlink(loading);
    free(loading);
    delete_entry(store, state);
}

/* --- Writing ------------------------------------------------------------------------------- */

/* Appends tokens and trailer to a file that holds a state. Fills in the rest of the trailer. */
static enum forebay_status complete(const char *path, const int32_t *tokens,
    struct state_trailer *trailer, struct forebay_error *err)
{
    FILE *f = fopen(path, "r+b");
    struct state_checksum s = {0};
    struct state_trailer t = *trailer;
    uint32_t n = t.n_tokens;
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
    *trailer = t;
    int errnum = errno;
    if (f && fclose(f) != 0) {
        ok = false;
    }
    return ok ? FOREBAY_OK
              : fb_fail_errno(err, FOREBAY_E_IO, errnum, "Check the space on that disk.",
                    "cannot write %s", path);
}

/* Makes an empty file that only its owner can access, for others to write to by its name. */
static enum forebay_status make_private(const char *path, struct forebay_error *err)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fb_fail_errno(
            err, FOREBAY_E_IO, errno, "Check the space on that disk.", "cannot write %s", path);
    }
    close(fd);
    return FOREBAY_OK;
}

/* Deletes the states that this one continues: it can be used in place of each. */
static void delete_shorter(struct fb_kv_store *store, const int32_t *tokens, uint32_t n)
{
    for (int i = store->n - 1; i >= 0; i--) {
        const struct fb_kv_state *s = &store->entries[i].state;
        if (s->tokens && s->n <= n && fb_prefix_common(s->tokens, s->n, tokens, n) == s->n) {
            delete_entry(store, i);
        }
    }
}

enum forebay_status fb_kv_store_put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n,
    uint32_t n_exact, fb_kv_write write, void *user, struct forebay_error *err)
{
    char name[NAME_CHARS + sizeof SUFFIX], tmp_name[sizeof name + 8];
    struct state_trailer t = {
        .magic = MAGIC, .fingerprint = store->fingerprint, .n_tokens = n, .n_exact = n_exact};
    make_name(store, tokens, n, name, sizeof name);
    snprintf(tmp_name, sizeof tmp_name, "%.*s" TMP_SUFFIX, NAME_CHARS, name);
    char *tmp = fb_xstrdup(path_of(store, tmp_name));
    enum forebay_status status = make_private(tmp, err);
    if (status == FOREBAY_OK) {
        status = write(user, tmp, err);
    }
    if (status == FOREBAY_OK) {
        status = complete(tmp, tokens, &t, err);
    }
    uint64_t bytes = t.state_bytes + n * sizeof *tokens + sizeof t;
    if (status == FOREBAY_OK && bytes > store->max_bytes) {
        unlink(tmp); /* larger than the bound: not stored, and no error */
    } else if (status == FOREBAY_OK) {
        delete_shorter(store, tokens, n);
        if (rename(tmp, path_of(store, name)) != 0) {
            status = fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot rename %s", tmp);
        } else {
            int32_t *own = fb_xmalloc(n * sizeof *tokens);
            memcpy(own, tokens, n * sizeof *tokens);
            new_entry(store, name, bytes, own, &t);
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
