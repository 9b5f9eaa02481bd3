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
    assert_int_equal(fb_kv_store_put(store, tokens, n, write_bytes, &bytes, &err), FOREBAY_OK);
}

static uint32_t common(
    const struct fb_kv_store *store, const int32_t *tokens, uint32_t n, bool whole)
{
    uint32_t have;
    fb_kv_store_find(store, tokens, n, whole, &have);
    return have;
}

static const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 9, 9}, c[] = {7, 7, 7};

static void test_found_again(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(1 << 20, PRINT);
    uint32_t have, n;
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
    int i = fb_kv_store_find(store, a, 6, true, &have);
    assert_int_equal(have, 6);
    assert_memory_equal(fb_kv_store_tokens(store, i, &n), a, sizeof a);
    const char *path = fb_kv_store_check(store, i);
    assert_non_null(path);
    FILE *f = fopen(path, "rb");
    assert_int_equal(fgetc(f), 1002 % 256);
    fclose(f);
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
    snprintf(path, sizeof path, "%s",
        fb_kv_store_check(store, fb_kv_store_find(store, a, 6, true, &have)));
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
        int i = fb_kv_store_find(store, a, 6, true, &have);
        if (i >= 0 && fb_kv_store_check(store, i)) {
            fail_msg("damage at byte %zu was not noticed", at);
        }
        fb_kv_store_free(store);
    }
}

static void test_bound(void **state)
{
    (void)state;
    struct fb_kv_store *store = open_store(2500, PRINT);
    uint32_t have;
    int n;
    put(store, a, 6, 1000);
    put(store, b, 4, 1000);
    assert_non_null(fb_kv_store_check(store, fb_kv_store_find(store, a, 6, true, &have)));
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
    assert_int_equal(fb_kv_store_put(store, a, 6, write_bytes, &fails, &err), FOREBAY_E_IO);
    fb_kv_store_bytes(store, &n);
    assert_int_equal(n, 0);
    put(store, a, 6, 100);
    fb_kv_store_drop(store, fb_kv_store_find(store, a, 6, true, &(uint32_t){0}));
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
        cmocka_unit_test_setup_teardown(test_bound, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_failures, make_dir, remove_dir),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
