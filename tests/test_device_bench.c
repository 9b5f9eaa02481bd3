/* test_device_bench.c - rates of a device, measured on the CPU's: possible figures, for kinds that
 * fit and none for those that do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/device_bench.h"
#include "base/units.h"
#include "engine/libs.h"
#include "ggml.h"

static struct fb_device_bench *new_bench(uint64_t room)
{
    return fb_device_bench_new(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), room, 4);
}

static int load(void **state)
{
    (void)state;
    return fb_libs_load(NULL);
}

static void test_kinds_have_rates(void **state)
{
    (void)state;
    static const struct {
        int type, columns, rows, used;
        bool measured;
    } kinds[] = {
        {GGML_TYPE_Q8_0, 0, 0, 0, true},
        {GGML_TYPE_F32, 0, 0, 0, true},
        {GGML_TYPE_Q4_0, 256, 64, 4, true},
        {GGML_TYPE_Q4_0, 64, 256, 4, true},
        {GGML_TYPE_F16, 256, 64, 1, true},
        {GGML_TYPE_Q4_K, 64, 64, 4, false},    /* no whole blocks */
        {GGML_TYPE_F32, 4096, 4096, 4, false}, /* too large */
        {GGML_TYPE_Q8_0, 256, 64, 0, false},
    };
    struct fb_device_bench *bench = new_bench(6 * FB_MIB);
    assert_non_null(bench);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        double decode = 0, batch = 0;
        assert_int_equal(fb_device_bench_kind(bench, kinds[i].type, kinds[i].columns, kinds[i].rows,
                             kinds[i].used, &decode, &batch),
            kinds[i].measured);
        if (kinds[i].measured) { /* no processor is as fast as that, and none as slow */
            assert_true(decode > 1e5 && decode < 1e13);
            assert_true(batch > 1e4 && batch < 1e15);
        }
    }
    fb_device_bench_free(bench);
}

static void test_what_else_takes_time(void **state)
{
    (void)state;
    struct fb_device_bench *bench = new_bench(6 * FB_MIB);
    assert_true(fb_device_bench_upload(bench) > 1e6);
    double op = fb_device_bench_op(bench), turn = fb_device_bench_turn(bench);
    assert_true(op > 0 && op < 1);
    assert_true(turn > 0 && turn < 1);
    fb_device_bench_free(bench);
}

static void test_no_room(void **state)
{
    (void)state;
    assert_null(new_bench(FB_MIB));
    fb_device_bench_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds_have_rates),
        cmocka_unit_test(test_what_else_takes_time),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests_name("device_bench", tests, load, NULL);
}
