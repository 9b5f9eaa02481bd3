/* test_save.c - writing files that are links, read-only, shared by several names, or not files. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/save.h"

#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[256];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int enter_scratch(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/forebay-save-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void)state;
    return chdir("/") == 0 ? nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS) : -1;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void check_file(const char *path, const char *want)
{
    char got[64] = {0};
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fread(got, 1, sizeof got - 1, f), strlen(want));
    fclose(f);
    assert_string_equal(got, want);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void test_resolve(void **state)
{
    char out[64], small[4];
    (void)state;
    assert_int_equal(mkdir("sub", 0700), 0);
    assert_int_equal(symlink("../far", "sub/a"), 0);
    assert_int_equal(symlink("sub/a", "b"), 0);
    assert_int_equal(symlink("circle", "circle"), 0);
    assert_true(fb_path_resolve("plain", out, sizeof out));
    assert_string_equal(out, "plain");
    assert_true(fb_path_resolve("b", out, sizeof out));
    assert_string_equal(out, "./sub/../far");
    assert_false(fb_path_resolve("circle", out, sizeof out));
    assert_int_equal(errno, ELOOP);
    assert_false(fb_path_resolve("plain", small, sizeof small));
}

static void test_same_file(void **state)
{
    (void)state;
    write_file("one", "1");
    write_file("two", "1");
    assert_int_equal(link("one", "one-again"), 0);
    assert_int_equal(symlink("./one", "to-one"), 0);
    assert_int_equal(symlink("missing", "to-missing"), 0);
    assert_true(fb_path_same_file("one", "one"));
    assert_true(fb_path_same_file("one", "one-again"));
    assert_true(fb_path_same_file("to-one", "one-again"));
    assert_false(fb_path_same_file("one", "two"));
    assert_false(fb_path_same_file("one", "missing"));
    assert_true(fb_path_same_file("missing", "./missing"));
    assert_true(fb_path_same_file("to-missing", "missing"));
    assert_false(fb_path_same_file("missing", "missing-2"));
    assert_false(fb_path_same_file("/dev/null", "/dev/null"));
}

static void test_check_output(void **state)
{
    (void)state;
    assert_int_equal(fb_path_check_output("new"), 0);
    assert_int_equal(access("new", F_OK), -1);
    assert_int_equal(fb_path_check_output("to-missing"), 0);
    assert_int_equal(access("missing", F_OK), -1);
    assert_int_equal(fb_path_check_output("sub"), EISDIR);
    assert_int_equal(fb_path_check_output("new/"), EISDIR);
    assert_int_equal(fb_path_check_output("none/new"), ENOENT);
    assert_int_equal(fb_path_check_output("one/new"), ENOTDIR);
    assert_int_equal(fb_path_check_output("circle"), ELOOP);
    assert_int_equal(fb_path_check_output(""), ENOENT);
    assert_int_equal(fb_path_check_output("/dev/null"), 0);
    if (geteuid() != 0) { /* root may write everywhere */
        write_file("read-only", "old");
        assert_int_equal(chmod("read-only", 0444), 0);
        assert_int_equal(fb_path_check_output("read-only"), EACCES);
        assert_false(fb_file_replace("read-only", "new", 3));
        check_file("read-only", "old");
    }
}

static void test_replace(void **state)
{
    (void)state;
    write_file("old", "old");
    assert_int_equal(chmod("old", 0640), 0);
    assert_int_equal(symlink("old", "to-old"), 0);
    assert_true(fb_file_replace("to-old", "new", 3));
    check_file("old", "new");
    assert_int_equal(mode_of("old"), 0640);
    assert_true(fb_file_replace("to-missing", "made", 4));
    check_file("missing", "made");
    assert_true(fb_file_replace("one-again", "both", 4)); /* a file of two names stays one file */
    check_file("one", "both");
    assert_true(fb_file_replace("/dev/null", "text", 4));
    if (access("/dev/full", F_OK) == 0) {
        assert_false(fb_file_replace("/dev/full", "text", 4));
        assert_int_equal(errno, ENOSPC);
    }
}

static void test_temporary_names(void **state)
{
    char a[64], b[64], small[8];
    (void)state;
    assert_true(fb_temporary_create("x", a, sizeof a));
    assert_true(fb_temporary_create("x", b, sizeof b));
    assert_string_not_equal(a, b);
    assert_int_equal(access(a, F_OK) | access(b, F_OK), 0);
    assert_false(fb_temporary_create("x", small, sizeof small));
    assert_false(fb_temporary_create("none/x", a, sizeof a));
}

static void test_private_append(void **state)
{
    (void)state;
    assert_true(fb_private_append("history", "a\n", 2));
    assert_true(fb_private_append("history", "b\n", 2));
    check_file("history", "a\nb\n");
    assert_int_equal(mode_of("history"), 0600);
    assert_false(fb_private_append("sub", "a\n", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_same_file),
        cmocka_unit_test(test_check_output),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_temporary_names),
        cmocka_unit_test(test_private_append),
    };
    return cmocka_run_group_tests_name("save", tests, enter_scratch, remove_scratch);
}
