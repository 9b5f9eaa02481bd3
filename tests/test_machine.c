/* test_machine.c - a profile that is measured while other programs compute counts only as long as
 * they do. The machine's use is invented. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/libs.h"
#include "engine/machine.h"
#include "ggml.h"
#include "os/cpu_use.h"

static atomic_int used_by_others; /* of four processors */

static void invented_use(struct fb_cpu_use *out)
{
    static _Atomic uint64_t now, idle;
    uint64_t second = 1000000000;
    atomic_fetch_add(&idle, (uint64_t)(4 - atomic_load(&used_by_others)) * second);
    *out = (struct fb_cpu_use){
        .now_ns = atomic_fetch_add(&now, second) + second, .idle_ns = idle, .n_cpus = 4};
}

static struct fb_profile profile_when(int used)
{
    static const struct fb_machine_kind kind = {.type = GGML_TYPE_Q8_0};
    const struct fb_machine_request rq = {
        .kinds = &kind, .n_kinds = 1, .threads = 1, .room_bytes = 64u << 20};
    struct fb_profile profile;
    struct forebay_error err;
    atomic_store(&used_by_others, used);
    if (fb_machine_profile(&rq, &profile, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(profile.op_s > 0 && profile.n_rates >= 2);
    return profile;
}

static bool same(const struct fb_profile *a, const struct fb_profile *b)
{
    char *x = fb_profile_json(a), *y = fb_profile_json(b);
    bool equal = strcmp(x, y) == 0;
    free(x);
    free(y);
    return equal;
}

static void test_measured_while_busy(void **state)
{
    (void)state;
    struct fb_profile busy = profile_when(2);
    assert_float_equal(busy.other_cores, 2, 1e-9);
    struct fb_profile still = profile_when(1); /* not better than what there is */
    assert_true(same(&busy, &still));
    struct fb_profile idle = profile_when(0);
    assert_float_equal(idle.other_cores, 0, 1e-9);
    assert_false(same(&busy, &idle));
    struct fb_profile later = profile_when(3); /* a good profile stays */
    assert_true(same(&idle, &later));
}

static char directory[] = "/tmp/forebay-machine-XXXXXX";

static int begin(void **state)
{
    struct forebay_error err;
    (void)state;
    fb_cpu_use_override(invented_use);
    return mkdtemp(directory) && setenv("FOREBAY_CACHE_DIR", directory, 1) == 0 &&
                   fb_libs_load(&err) == FOREBAY_OK
               ? 0
               : -1;
}

static int end(void **state)
{
    char path[128];
    (void)state;
    fb_cpu_use_override(NULL);
    snprintf(path, sizeof path, "%s/profile.json", directory);
    unlink(path);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measured_while_busy)};
    return cmocka_run_group_tests_name("machine", tests, begin, end);
}
