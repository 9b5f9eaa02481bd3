/*
 * test_device_slots.c - how many slots a device's memory has room for while the model runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plan/device_slots.h"
#include "random.h"

static void test_fewer_at_once_more_in_steps(void **state)
{
    (void)state;
    assert_int_equal(fb_device_slots_heed(32, 32, 10, 320), 32);
    assert_int_equal(fb_device_slots_heed(32, 32, 10, 319), 31);
    assert_int_equal(fb_device_slots_heed(32, 32, 10, 57), 5);
    assert_int_equal(fb_device_slots_heed(5, 32, 10, 88), 5); /* 3 more are not worth it */
    assert_int_equal(fb_device_slots_heed(5, 32, 10, 90), 9);
    assert_int_equal(fb_device_slots_heed(30, 32, 10, 320), 32); /* the last ones are */
    assert_int_equal(fb_device_slots_heed(2, 4, 10, 30), 3);
    assert_int_equal(fb_device_slots_heed(4, 4, 10, 0), 1); /* at least one */
    assert_int_equal(fb_device_slots_heed(1, 1, 0, 0), 1);
}

/* Whatever the target does: within the limits, never more than it allows (but one), and all slots
 * are regained once it allows all. */
static void test_any_target(void **state)
{
    (void)state;
    random_state = 1;
    for (int k = 0; k < 20000; k++) {
        int most = 1 + random_below(300), now = 1 + random_below(most);
        uint64_t each = (uint64_t)1 + (uint64_t)random_below(1000);
        uint64_t target = (uint64_t)random_below(2 * most * 1000);
        int n = fb_device_slots_heed(now, most, each, target);
        assert_in_range(n, 1, most);
        assert_true(n == 1 || (uint64_t)n * each <= target);
        assert_int_equal(fb_device_slots_heed(n, most, each, UINT64_MAX), most);
        assert_int_equal(fb_device_slots_heed(n, most, each, target), n); /* settled */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fewer_at_once_more_in_steps),
        cmocka_unit_test(test_any_target),
    };
    return cmocka_run_group_tests_name("device_slots", tests, NULL, NULL);
}
