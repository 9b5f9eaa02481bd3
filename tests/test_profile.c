/*
 * test_profile.c - the profile of a machine: its file, refusals, queries and replacement; and that
 * fb_file_replace is atomic.
 */
#include "weights_fixture.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "hw/profile.h"
#include "os/dirs.h"
#include "os/save.h"

#define MACHINE "some processor; 4 cores; 16 GiB"
#define NOW     ((int64_t)1800000000)
#define DAY     ((int64_t)86400)

static char dir[256], path[300];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/forebay_profile_XXXXXX", disk_dir());
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/profile.json", dir);
    return 0;
}

static int files_in_dir(void)
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        n += e->d_name[0] != '.';
    }
    closedir(d);
    return n;
}

static int remove_dir(void **state)
{
    (void)state;
    remove(path);
    assert_int_equal(rmdir(dir), 0); /* no temporary file is left */
    return 0;
}

static void write_text(const char *text, size_t n)
{
    remove(path); /* truncating a file with data would wait for the disk */
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static struct fb_profile_rate rate(const char *type, bool repacked, int threads, double decode)
{
    struct fb_profile_rate r = {.repacked = repacked,
        .threads = threads,
        .decode = decode,
        .batch = 5e10,
        .experts = 2e10,
        .unpack = 3e9};
    snprintf(r.type, sizeof r.type, "%s", type);
    return r;
}

static struct fb_profile_disk disk(uint64_t device, int64_t measured)
{
    struct fb_profile_disk d = {
        .device = device, .bytes_per_s = 2.5e9, .latency_s = 0.00015, .measured = measured};
    for (int b = 0; b < 4; b++) {
        for (int q = 0; q < 3; q++) {
            d.grid[b][q] = 1e8 * (3 * b + q);
        }
    }
    return d;
}

static void example(struct fb_profile *p)
{
    *p = (struct fb_profile){.machine = MACHINE,
        .measured = NOW,
        .cores = 4,
        .memory_bytes_per_s = {1.25e10, 3.5e10},
        .other_cores = 0.125,
        .op_s = 2.5e-6};
    struct fb_profile_rate a = rate("q4_K", false, 1, 6e9), b = rate("q4_K", true, 4, 2.5e10);
    struct fb_profile_disk c = disk(1, NOW), d = disk(UINT64_MAX - 7, NOW - DAY);
    fb_profile_put_rate(p, &a);
    fb_profile_put_rate(p, &b);
    fb_profile_put_disk(p, &c);
    fb_profile_put_disk(p, &d);
    struct fb_profile_rate e = rate("q4_K", false, 1, 3e11);
    struct fb_profile_device f = {"Vulkan0: A card", 1.25e10, 2e-6, 3e-5};
    snprintf(e.device, sizeof e.device, "%s", f.name);
    fb_profile_put_rate(p, &e);
    fb_profile_put_device(p, &f);
}

/* Loading fails with a reason, and gives an empty profile of this machine. */
static void check_refused(const char *what)
{
    static struct fb_profile none, got;
    const char *why = NULL;
    memset(&none, 0, sizeof none);
    memset(&got, 0xaa, sizeof got);
    none.measured = NOW;
    snprintf(none.machine, sizeof none.machine, "%s", MACHINE);
    if (fb_profile_load(path, MACHINE, NOW, &got, &why) || !why) {
        fail_msg("%s: accepted, or no reason", what);
    }
    assert_memory_equal(&got, &none, sizeof none);
}

static const char *reason(int64_t now, const char *machine)
{
    static struct fb_profile got;
    const char *why;
    return fb_profile_load(path, machine, now, &got, &why) ? NULL : why;
}

/* --- The file ------------------------------------------------------------------------------ */

static void test_a_saved_profile_is_loaded_unchanged(void **state)
{
    (void)state;
    static struct fb_profile saved, loaded;
    const char *why = "";
    example(&saved);
    assert_true(fb_profile_save(path, &saved));
    memset(&loaded, 0xaa, sizeof loaded);
    assert_true(fb_profile_load(path, MACHINE, NOW, &loaded, &why));
    assert_null(why);
    assert_memory_equal(&loaded, &saved, sizeof saved);
}

static void test_an_empty_profile_is_valid(void **state)
{
    (void)state;
    static struct fb_profile saved, loaded;
    const char *why;
    saved = (struct fb_profile){.machine = MACHINE, .measured = NOW};
    assert_true(fb_profile_save(path, &saved));
    assert_true(fb_profile_load(path, MACHINE, NOW, &loaded, &why));
    assert_memory_equal(&loaded, &saved, sizeof saved);
}

static void test_no_file_is_no_profile(void **state)
{
    (void)state;
    remove(path);
    check_refused("no file");
    assert_string_equal(reason(NOW, MACHINE), "there is none yet");
    assert_int_equal(mkdir(path, 0700), 0);
    check_refused("a directory");
    assert_int_equal(rmdir(path), 0);
    write_text("", 0);
    check_refused("an empty file");
}

static void test_a_profile_is_valid_for_one_machine_and_a_month(void **state)
{
    (void)state;
    static struct fb_profile saved;
    example(&saved);
    assert_true(fb_profile_save(path, &saved));
    assert_non_null(strstr(reason(NOW, "another"), "another machine"));
    assert_non_null(strstr(reason(NOW, ""), "another machine"));
    assert_null(reason(NOW + FB_PROFILE_DAYS * DAY - 1, MACHINE));
    assert_string_equal(reason(NOW + FB_PROFILE_DAYS * DAY, MACHINE), "it is too old");
    assert_null(reason(NOW - DAY, MACHINE)); /* the clock may have been set */
    assert_string_equal(reason(NOW - DAY - 1, MACHINE), "it is too old");
}

static void test_a_truncated_profile_is_refused(void **state)
{
    (void)state;
    static struct fb_profile saved;
    example(&saved);
    char *text = fb_profile_json(&saved);
    size_t n = strlen(text);
    for (size_t keep = 0; keep < n; keep++) {
        write_text(text, keep);
        check_refused("truncated");
    }
    write_text(text, n);
    assert_null(reason(NOW, MACHINE)); /* only the missing end was wrong */
    free(text);
}

/* Replaces the first `old` in a good profile and loads that. */
static void check_refused_with(const char *old, const char *new)
{
    static struct fb_profile saved;
    char text[8192];
    example(&saved);
    char *good = fb_profile_json(&saved), *at = strstr(good, old);
    if (!at) {
        fail_msg("%s is not in a profile", old);
        return;
    }
    int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, new, at + strlen(old));
    assert_in_range(n, 1, sizeof text - 1);
    write_text(text, (size_t)n);
    check_refused(new);
    free(good);
}

static void test_values_out_of_range_are_refused(void **state)
{
    (void)state;
    static const char *const damage[][2] = {
        {"{", "["},
        {"{", ""},
        {"{", "{}{"},
        {"\"format\": 6", "\"format\": 4"},
        {"\"format\": 6", "\"format\": \"5\""},
        {"\"format\"", "\"farmat\""},
        {"\"machine\": \"some", "\"machine\": 1, \"was\": \"some"},
        {"\"machine\"", "\"other\""},
        {"\"measured\": 1800000000", "\"measured\": \"today\""},
        {"\"measured\": 1800000000", "\"measured\": -9223372036854775808"},
        {"\"measured\": 1800000000", "\"measured\": 9223372036854775807"},
        {"\"cores\": 4", "\"cores\": -4"},
        {"\"cores\": 4", "\"cores\": \"four\""},
        {"\"cores\": 4", "\"cores\": 1e300"},
        {"\"op_s\": ", "\"op_s\": -"},
        {"\"other_cores\": ", "\"other_cores\": -"},
        {"\"other_cores\"", "\"others\""},
        {"\"op_s\"", "\"ops\""},
        {"\"memory_bytes_per_s\": ", "\"memory_bytes_per_s\": -"},
        {"\"memory_bytes_per_s_1\": ", "\"memory_bytes_per_s_1\": null, \"x\": "},
        {"\"compute\": [", "\"compute\": 7, \"x\": ["},
        {"\"compute\": [", "\"compute\": [7, "},
        {"\"type\": \"q4_K\"", "\"type\": 12"},
        {"\"repacked\": false", "\"repacked\": \"no\""},
        {"\"threads\": 1", "\"threads\": 0"},
        {"\"threads\": 1", "\"threads\": -1"},
        {"\"threads\": 1", "\"threads\": 1e9"},
        {"\"threads\": 1", "\"threads\": {}"},
        {"\"decode_bytes_per_s\": 6", "\"decode_bytes_per_s\": -6"},
        {"\"decode_bytes_per_s\": 6", "\"decode_bytes_per_s\": 0, \"x\": 6"},
        {"\"decode_bytes_per_s\": 6", "\"decode_bytes_per_s\": 6e400, \"x\": 6"},
        {"\"batch_madds_per_s\": ", "\"batch_madds_per_s\": -"},
        {"\"experts_madds_per_s\": ", "\"experts_madds_per_s\": -"},
        {"\"used\": 0", "\"used\": -1"},
        {"\"used\": 0", "\"used\": 8"},
        {"\"columns\": 0", "\"columns\": 256"},
        {"\"rows\": 0", "\"rows\": 1e10"},
        {"\"unpack_bytes_per_s\": ", "\"unpack_bytes_per_s\": -"},
        {"\"devices\": [", "\"devices\": 7, \"x\": ["},
        {"\"devices\": [", "\"devices\": [7, "},
        {"\"device\": \"\"", "\"device\": 1"},
        {"\"upload_bytes_per_s\": 1", "\"upload_bytes_per_s\": 0, \"x\": 1"},
        {"\"turn_s\": ", "\"turn_s\": -"},
        {"\"disks\": [", "\"disks\": {\"x\": 1}, \"x\": ["},
        {"\"device\": 1", "\"device\": \"sda\""},
        {"\"bytes_per_s\": 2", "\"bytes_per_s\": -2"},
        {"\"latency_s\": ", "\"latency_s\": -"},
        {"\"grid_bytes_per_s\": [", "\"grid_bytes_per_s\": 1, \"x\": ["},
        {"\"grid_bytes_per_s\": [", "\"grid_bytes_per_s\": [[1.0, 2.0], "},
        {"\"grid_bytes_per_s\": [", "\"grid_bytes_per_s\": [[1.0, 2.0, -3.0], "},
    };
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        check_refused_with(damage[i][0], damage[i][1]);
    }
}

/* A file with any one byte changed is accepted or refused, never with an impossible figure. */
static void test_a_changed_byte_does_no_harm(void **state)
{
    (void)state;
    static struct fb_profile saved, got;
    example(&saved);
    char *text = fb_profile_json(&saved);
    size_t n = strlen(text);
    int refused = 0;
    random_state = 1;
    for (size_t at = 0; at < n; at++) {
        const char *why;
        char was = text[at];
        text[at] = (char)rnd();
        write_text(text, n);
        refused += !fb_profile_load(path, MACHINE, NOW, &got, &why);
        assert_true(got.op_s >= 0 && got.cores >= 0);
        for (int i = 0; i < got.n_rates; i++) {
            assert_true(got.rates[i].decode > 0 && got.rates[i].threads > 0);
        }
        for (int i = 0; i < got.n_disks; i++) {
            assert_true(got.disks[i].bytes_per_s > 0 && got.disks[i].latency_s >= 0);
        }
        text[at] = was;
    }
    assert_true(refused > (int)n / 4);
    free(text);
}

/* --- Looking up ---------------------------------------------------------------------------- */

static void test_rates_are_found_by_type_layout_and_threads(void **state)
{
    (void)state;
    static struct fb_profile p;
    example(&p);
    assert_true(fb_profile_rate(&p, "q4_K", false, 1)->decode == 6e9);
    assert_true(fb_profile_rate(&p, "q4_K", true, 4)->decode == 2.5e10);
    assert_null(fb_profile_rate(&p, "q4_K", true, 1));
    assert_true(fb_profile_device_rate(&p, "Vulkan0: A card", "q4_K", 0, 0, 0)->decode == 3e11);
    assert_null(fb_profile_device_rate(&p, "Vulkan1: A card", "q4_K", 0, 0, 0));
    assert_true(fb_profile_device(&p, "Vulkan0: A card")->turn_s == 3e-5);
    assert_null(fb_profile_device(&p, "Vulkan1: A card"));
    fb_profile_drop_cpu(&p); /* what the device measured stays */
    assert_null(fb_profile_rate(&p, "q4_K", false, 1));
    assert_int_equal(p.n_rates, 1);
    example(&p);
    assert_null(fb_profile_rate(&p, "q4_K", false, 4));
    assert_null(fb_profile_rate(&p, "q4", false, 1));
    struct fb_profile_rate again = rate("q4_K", false, 1, 7e9);
    fb_profile_put_rate(&p, &again);
    assert_int_equal(p.n_rates, 3);
    assert_true(fb_profile_rate(&p, "q4_K", false, 1)->decode == 7e9);
    struct fb_profile_rate small = rate("q4_K", false, 1, 5e9);
    small.columns = 256;
    small.rows = 2048;
    small.used = 8;
    fb_profile_put_rate(&p, &small);
    assert_int_equal(p.n_rates, 4);
    assert_true(fb_profile_rate(&p, "q4_K", false, 1)->decode == 7e9);
    assert_true(fb_profile_expert_rate(&p, "q4_K", false, 1, 256, 2048, 8)->decode == 5e9);
    assert_null(fb_profile_expert_rate(&p, "q4_K", false, 1, 256, 2048, 6));
    assert_null(fb_profile_expert_rate(&p, "q4_K", false, 1, 2048, 256, 8));
}

static void test_the_oldest_rate_is_dropped_when_full(void **state)
{
    (void)state;
    static struct fb_profile p, loaded;
    const char *why;
    p = (struct fb_profile){.machine = MACHINE, .measured = NOW};
    for (int i = 1; i <= FB_PROFILE_RATES + 3; i++) {
        struct fb_profile_rate r = rate("f16", false, i, i);
        fb_profile_put_rate(&p, &r);
    }
    assert_int_equal(p.n_rates, FB_PROFILE_RATES);
    assert_null(fb_profile_rate(&p, "f16", false, 3));
    for (int i = 4; i <= FB_PROFILE_RATES + 3; i++) {
        assert_true(fb_profile_rate(&p, "f16", false, i)->decode == i);
    }
    assert_true(fb_profile_save(path, &p));
    assert_true(fb_profile_load(path, MACHINE, NOW, &loaded, &why));
    assert_memory_equal(&loaded, &p, sizeof p);
}

static void test_disks_are_found_while_they_are_fresh(void **state)
{
    (void)state;
    static struct fb_profile p;
    example(&p);
    assert_int_equal(fb_profile_disk(&p, 1, NOW)->measured, NOW);
    assert_null(fb_profile_disk(&p, 2, NOW));
    assert_null(fb_profile_disk(&p, 1, NOW + FB_PROFILE_DAYS * DAY));
    assert_null(fb_profile_disk(&p, 1, NOW - 2 * DAY)); /* of the future */
    struct fb_profile_disk again = disk(1, NOW + 5);
    fb_profile_put_disk(&p, &again);
    assert_int_equal(p.n_disks, 2);
    assert_int_equal(fb_profile_disk(&p, 1, NOW)->measured, NOW + 5);
}

static void test_the_oldest_disk_is_dropped_when_full(void **state)
{
    (void)state;
    static struct fb_profile p;
    p = (struct fb_profile){0};
    for (uint64_t i = 1; i <= FB_PROFILE_DISKS + 2; i++) {
        struct fb_profile_disk d = disk(i, NOW);
        fb_profile_put_disk(&p, &d);
    }
    assert_int_equal(p.n_disks, FB_PROFILE_DISKS);
    assert_null(fb_profile_disk(&p, 2, NOW));
    for (uint64_t i = 3; i <= FB_PROFILE_DISKS + 2; i++) {
        assert_int_equal(fb_profile_disk(&p, i, NOW)->device, i);
    }
}

/* --- Atomic replacement ------------------------------------------------------------------- */

static void check_holds(const char *want)
{
    char got[64] = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(got, 1, sizeof got - 1, f), strlen(want));
    fclose(f);
    assert_string_equal(got, want);
    assert_int_equal(files_in_dir(), 1); /* and no other file */
}

static void test_a_file_is_replaced_atomically(void **state)
{
    (void)state;
    char *large = calloc(1, FB_MIB), nowhere[400];
    struct rlimit usual, small;
    remove(path);
    assert_true(fb_file_replace(path, "one", 3));
    check_holds("one");
    assert_true(fb_file_replace(path, "another", 7));
    check_holds("another");
    /* A limit on the size of files simulates a disk that is full half-way. */
    getrlimit(RLIMIT_FSIZE, &usual);
    small = (struct rlimit){64 * FB_KIB, usual.rlim_max};
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    bool replaced = fb_file_replace(path, large, FB_MIB);
    setrlimit(RLIMIT_FSIZE, &usual);
    signal(SIGXFSZ, before);
    assert_false(replaced);
    check_holds("another");
    snprintf(nowhere, sizeof nowhere, "%s/none/profile.json", dir);
    assert_false(fb_file_replace(nowhere, "one", 3));
    remove(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(fb_file_replace(path, "one", 3));
    assert_int_equal(files_in_dir(), 1);
    assert_int_equal(rmdir(path), 0);
    free(large);
}

/* Anything else under the name of a cache file neither blocks nor is read, and a file that is
 * written belongs to the user alone. */
static void test_a_cache_file_is_a_file(void **state)
{
    (void)state;
    struct fb_profile p;
    const char *why;
    remove(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_null(fb_file_open_text(path));
    assert_false(fb_profile_load(path, "machine", 1, &p, &why));
    assert_string_equal(why, "it is damaged");
    mode_t mask = umask(0);
    assert_true(fb_private_replace(path, "{}", 2)); /* the FIFO is replaced, too */
    umask(mask);
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    remove(path);
}

static void test_a_failure_to_write_is_reported(void **state)
{
    (void)state;
    static struct fb_profile p;
    char nowhere[400];
    example(&p);
    snprintf(nowhere, sizeof nowhere, "%s/none/profile.json", dir);
    assert_false(fb_profile_save(nowhere, &p));
    assert_int_equal(files_in_dir(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_saved_profile_is_loaded_unchanged),
        cmocka_unit_test(test_an_empty_profile_is_valid),
        cmocka_unit_test(test_no_file_is_no_profile),
        cmocka_unit_test(test_a_profile_is_valid_for_one_machine_and_a_month),
        cmocka_unit_test(test_a_truncated_profile_is_refused),
        cmocka_unit_test(test_values_out_of_range_are_refused),
        cmocka_unit_test(test_a_changed_byte_does_no_harm),
        cmocka_unit_test(test_rates_are_found_by_type_layout_and_threads),
        cmocka_unit_test(test_the_oldest_rate_is_dropped_when_full),
        cmocka_unit_test(test_disks_are_found_while_they_are_fresh),
        cmocka_unit_test(test_the_oldest_disk_is_dropped_when_full),
        cmocka_unit_test(test_a_file_is_replaced_atomically),
        cmocka_unit_test(test_a_cache_file_is_a_file),
        cmocka_unit_test(test_a_failure_to_write_is_reported),
    };
    return cmocka_run_group_tests_name("profile", tests, make_dir, remove_dir);
}
