/* test_exact_models.c - every shared model is exact with every budget (exact.h). */
#include "exact.h"

static struct model_list models;

static void test_model(void **state)
{
    if (!*state) {
        skip();
    }
    char **path = *state;
    assert_exact(*path, (int)(path - models.path));
}

int main(void)
{
    struct CMUnitTest tests[MAX_MODELS] = {{.name = "no shared models", .test_func = test_model}};
    find_models(&models);
    for (int i = 0; i < models.n; i++) {
        tests[i] = (struct CMUnitTest){
            .name = models.path[i], .test_func = test_model, .initial_state = &models.path[i]};
    }
    size_t n = models.n ? (size_t)models.n : 1;
    int failed = _cmocka_run_group_tests("exact_models", tests, n, NULL, NULL);
    free_models(&models);
    return failed;
}
