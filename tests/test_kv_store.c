/* test_kv_store.c - states on disk: found again, bounded, and never returned if damaged. */
#include "model_files.h"
#include "serve/kv_store.h"
#include "forebay.h"

#define PRINT 0x1234u

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/forebay-kv-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    struct dirent *e;
    while ((e = readdir(d))) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    closedir(d);
    return rmdir(dir);
}

static struct fb_kv_store *open_store(uint64_t max_bytes, uint64_t print)
{
    struct fb_kv_store *store;
    struct forebay_error err;
    if (fb_kv_store_open(dir, max_bytes, print, &store, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return store;
}

/* Writes a state of *user bytes, which begin with the low byte of that number. */
static enum forebay_status write_bytes(void *user, const char *path, struct forebay_error *err)
{
    int n = *(int *)user;
    FILE *f = n >= 0 ? fopen(path, "wb") : NULL;
    if (!f) {
        err->status = FOREBAY_E_IO;
        return FOREBAY_E_IO;
    }
    for (int i = 0; i < n; i++) {
        fputc(n + i, f);
    }
    fclose(f);
    return FOREBAY_OK;
}

static void put(struct fb_kv_store *store, const int32_t *tokens, uint32_t n, int bytes)
{
    struct forebay_error err;
    assert_int_equal(
        fb_kv_store_put(store, tokens, n, n / 2, write_bytes, &bytes, &err), FOREBAY_OK);
}

static uint32_t common(
    const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, bool whole)
{
    uint32_t have;
    fb_kv_store_find(store, tokens, n, whole ? 0 : UINT32_MAX, 0, &have);
    return have;
}

/* Path of the only file in the directory. */
static void only_file(char *path, size_t cap)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int n = 0;
    while ((e = readdir(d))) {
        if (e->d_name[0] != '.') {
            snprintf(path, cap, "%s/%s", dir, e->d_name);
            n++;
        }
    }
    closedir(d);
    assert_int_equal(n, 1);
}

static const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 9, 9}, c[] = {7, 7, 7};

static void test_found_again(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    uint32_t have;
    int count;
    put(store, a, 4, 1000);
    put(store, b, 4, 1001);
    assert_int_equal(common(store, a, 6, true), 4);
    assert_int_equal(common(store, b, 3, true), 0);
    assert_int_equal(common(store, b, 3, false), 3);
    put(store, a, 6, 1002); /* continues the first, and replaces it */
    fb_kv_store_bytes(store, &count);
    assert_int_equal(count, 2);
    fb_kv_store_free(store);

    store = open_store(1 << 20, PRINT);
    int i = fb_kv_store_find(store, a, 6, 0, 0, &have);
    assert_int_equal(have, 6);
    const struct fb_kv_state *found = fb_kv_store_get(store, i);
    assert_int_equal(found->n, 6);
    assert_int_equal(found->n_exact, 3);
    assert_int_equal(found->bytes, 1002);
    assert_memory_equal(found->tokens, a, sizeof a);
    const char *path = fb_kv_store_claim(store, i);
    assert_non_null(path);
    FILE *f = fopen(path, "rb");
    assert_int_equal(fgetc(f), 1002 % 256);
    fclose(f);
    fb_kv_store_release(store, i);
    fb_kv_store_free(store);

    store = open_store(1 << 20, PRINT + 1); /* another model: not found, and not deleted */
    assert_int_equal(common(store, a, 6, false), 0);
    fb_kv_store_free(store);
    store = open_store(1 << 20, PRINT);
    assert_int_equal(common(store, a, 6, false), 6);
    fb_kv_store_free(store);
}

/* A state is not returned if any byte is changed or the end is missing. */
static void test_damaged(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    uint32_t have;
    put(store, a, 6, 37);
    char path[512];
    int found = fb_kv_store_find(store, a, 6, 0, 0, &have);
    assert_non_null(fb_kv_store_claim(store, found));
    fb_kv_store_release(store, found);
    only_file(path, sizeof path);
    fb_kv_store_free(store);
    char whole[512];
    FILE *f = fopen(path, "rb");
    size_t size = fread(whole, 1, sizeof whole, f);
    fclose(f);
    for (size_t at = 0; at < 2 * size; at++) {
        f = fopen(path, "wb"); /* one byte changed, or the end missing */
        whole[at % size] ^= at < size;
        fwrite(whole, 1, at < size ? size : at - size, f);
        whole[at % size] ^= at < size;
        fclose(f);
        store = open_store(1 << 20, PRINT);
        int i = fb_kv_store_find(store, a, 6, 0, 0, &have);
        if (i >= 0 && fb_kv_store_claim(store, i)) {
            fail_msg("damage at byte %zu was not noticed", at);
        }
        fb_kv_store_free(store);
    }
}

/* Exact reuse: whole pieces of the exact tokens only. And states that cannot be cut. */
static void test_pieces(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    uint32_t have;
    put(store, a, 6, 100); /* three of them are exact */
    fb_kv_store_find(store, a, 6, UINT32_MAX, 1, &have);
    assert_int_equal(have, 3);
    fb_kv_store_find(store, a, 6, UINT32_MAX, 2, &have);
    assert_int_equal(have, 2);
    assert_int_equal(fb_kv_store_find(store, a, 6, UINT32_MAX, 4, &have), -1);
    assert_int_equal(have, 0);
    fb_kv_store_find(store, a, 5, 6, 0, &have); /* of up to six tokens: can be cut */
    assert_int_equal(have, 5);
    fb_kv_store_find(store, a, 5, 5, 0, &have);
    assert_int_equal(have, 0);
    assert_int_equal(fb_kv_store_find(store, a, 6, 0, 2, &have), -1); /* not all of it is exact */
    fb_kv_store_free(store);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 0777;
}

/* Prompts are private, whatever the umask; files of older versions become so. */
static void test_private(void **state)
{
    (void)state;
    char path[512], inner[128];
    mode_t mask = umask(0);
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    put(store, a, 6, 100);
    only_file(path, sizeof path);
    assert_int_equal(mode_of(path), 0600);
    fb_kv_store_free(store);
    assert_int_equal(chmod(path, 0644), 0);
    fb_kv_store_free(open_store(1 << 20, PRINT));
    assert_int_equal(mode_of(path), 0600);
    unlink(path);

    snprintf(inner, sizeof inner, "%s/new", dir);
    struct forebay_error err;
    assert_int_equal(fb_kv_store_open(inner, 1, PRINT, &store, &err), FOREBAY_OK);
    assert_int_equal(mode_of(inner), 0700);
    fb_kv_store_free(store);
    rmdir(inner);
    umask(mask);
}

/* A process that dies while it loads a state leaves a file that the next one does not load. */
static void test_died_loading(void **state)
{
    (void)state;
    uint32_t have;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    put(store, a, 6, 100);
    assert_non_null(fb_kv_store_claim(store, fb_kv_store_find(store, a, 6, 0, 0, &have)));
    fb_kv_store_free(store); /* as if it had died */
    store = open_store(1 << 20, PRINT);
    assert_int_equal(fb_kv_store_find(store, a, 6, 0, 0, &have), -1);
    put(store, a, 6, 100); /* the prompt is computed and stored again */
    int i = fb_kv_store_find(store, a, 6, 0, 0, &have);
    assert_non_null(fb_kv_store_claim(store, i));
    fb_kv_store_release(store, i);
    i = fb_kv_store_find(store, a, 6, 0, 0, &have);
    assert_non_null(fb_kv_store_claim(store, i));
    fb_kv_store_drop(store, i);
    assert_int_equal(fb_kv_store_find(store, a, 6, 0, 0, &have), -1);
    fb_kv_store_free(store);
    DIR *d = opendir(dir);
    struct dirent *e;
    while ((e = readdir(d))) {
        assert_true(e->d_name[0] == '.');
    }
    closedir(d);
}

/* A FIFO, a directory or a link under the name of a state neither blocks nor is followed. */
static void test_not_files(void **state)
{
    (void)state;
    char path[512];
    uint32_t have;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    put(store, a, 6, 100);
    only_file(path, sizeof path);
    assert_int_equal(unlink(path), 0); /* while the store is open */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_null(fb_kv_store_claim(store, fb_kv_store_find(store, a, 6, 0, 0, &have)));
    fb_kv_store_free(store);
    for (int kind = 0; kind < 3; kind++) {
        unlink(path);
        assert_int_equal(kind == 0   ? mkfifo(path, 0600)
                         : kind == 1 ? symlink("/dev/zero", path)
                                     : mkdir(path, 0700),
            0);
        store = open_store(1 << 20, PRINT);
        assert_int_equal(fb_kv_store_find(store, a, 6, 0, 0, &have), -1);
        fb_kv_store_free(store);
    }
    rmdir(path);
}

static void test_bound(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(2500, PRINT);
    uint32_t have;
    int n;
    put(store, a, 6, 1000);
    put(store, b, 4, 1000);
    int i = fb_kv_store_find(store, a, 6, 0, 0, &have);
    assert_non_null(fb_kv_store_claim(store, i));
    fb_kv_store_release(store, i);
    put(store, c, 3, 1000); /* b is the least recently used */
    assert_true(fb_kv_store_bytes(store, &n) <= 2500);
    assert_int_equal(n, 2);
    assert_int_equal(common(store, b, 4, false), 2); /* what b shares with a */
    assert_int_equal(common(store, a, 6, true), 6);
    assert_int_equal(common(store, c, 3, true), 3);
    put(store, b, 4, 9999); /* larger than the bound */
    assert_int_equal(common(store, b, 4, true), 0);
    fb_kv_store_free(store);
}

static void test_failures(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    struct forebay_error err;
    int fails = -1, n;
    char foreign[512];
    assert_int_equal(fb_kv_store_put(store, a, 6, 0, write_bytes, &fails, &err), FOREBAY_E_IO);
    fb_kv_store_bytes(store, &n);
    assert_int_equal(n, 0);
    put(store, a, 6, 100);
    fb_kv_store_drop(store, fb_kv_store_find(store, a, 6, 0, 0, &(uint32_t){0}));
    assert_int_equal(common(store, a, 6, true), 0);
    fb_kv_store_free(store);

    snprintf(foreign, sizeof foreign, "%s/letter.txt", dir);
    FILE *f = fopen(foreign, "wb");
    fputs("not ours", f);
    fclose(f);
    store = open_store(1, PRINT);
    assert_int_equal(access(foreign, F_OK), 0);
    fb_kv_store_free(store);
    assert_int_equal(fb_kv_store_open("/dev/null/x", 1, 1, &store, &err), FOREBAY_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_found_again, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_damaged, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_pieces, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_private, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_died_loading, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_not_files, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_bound, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_failures, make_dir, remove_dir),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
