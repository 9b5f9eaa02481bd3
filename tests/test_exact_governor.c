/*
 * test_exact_governor.c - logits stay bit-identical while weights give memory back and regain it:
 * the governor sees an invented machine, which is short of memory every other moment.
 */
#include "governed.h"
#include "small_synth.h"

struct governed {
    const char *arch, *name;
    bool repack;
    int percent; /* of the weights; 0: the smallest budget that works */
    uint32_t batch;
};

/* Own pools at 60 %, everything resident at 100, one pool for all layers and a small ring at 0. */
static const struct governed cases[] = {
    {"qwen3moe", "own pools, repacked", true, 60, 37},
    {"qwen3moe", "own pools, as stored", false, 60, 7},
    {"qwen3moe", "shared pool, repacked", true, 0, 37},
    {"qwen3moe", "shared pool, as stored", false, 0, 7},
    {"qwen3moe", "all resident, repacked", true, 100, 37},
    {"mixtral", "all resident, as stored", false, 100, 37},
    {"gpt-oss", "own pools, repacked", true, 50, 37},
    {"llama", "dense, half resident, repacked", true, 60, 37},
    {"llama", "dense, half resident, as stored", false, 60, 7},
    {"llama", "dense, all resident, repacked", true, 100, 37},
    {"llama", "dense, all resident, as stored", false, 100, 37},
};

/* The smallest budget for weights that is not refused, to 1 KiB. */
static uint64_t least_budget(const char *path, struct forebay_model_options options)
{
    uint64_t low = 1, high = 64 * FB_MIB; /* low is too little, high is enough */
    while (high - low > 1024) {
        struct forebay_model *model = NULL;
        options.weights_mem_bytes = (low + high) / 2;
        enum forebay_status status = forebay_model_load(path, &options, &model, NULL);
        assert_true(status == FOREBAY_OK || status == FOREBAY_E_NOFIT);
        *(status == FOREBAY_OK ? &high : &low) = (low + high) / 2;
        forebay_model_free(model);
    }
    return high;
}

static void test_case(void **state)
{
    const struct governed *c = *state;
    const struct shape shape = {.batch = c->batch,
        .threads = 1,
        .prompt = 80,
        .generated = 60,
        .repack = c->repack,
        .last_row = true};
    struct forebay_model_options options = shape_options(&shape);
    const char *path = temp_path("governed.gguf");
    struct forebay_stats stats;
    uint64_t bytes = make_small_model(path, c->arch, 512);
    options.plain = true;
    struct rows want = run_governed(path, &shape, &options, &stats);
    options.plain = false;
    options.weights_mem_bytes =
        c->percent ? bytes * (uint64_t)c->percent / 100 : least_budget(path, options);
    for (int m = 0; m < COUNT(methods); m++) {
        options.io_method = methods[m];
        check_governed(path, &shape, &options, &want, &stats);
    }
    rows_free(&want);
}

int main(void)
{
    struct CMUnitTest tests[COUNT(cases)];
    char names[COUNT(cases)][96];
    for (int i = 0; i < COUNT(cases); i++) {
        snprintf(names[i], sizeof names[i], "%s: %s", cases[i].arch, cases[i].name);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = test_case, .initial_state = (void *)&cases[i]};
    }
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    govern_quickly();
    return _cmocka_run_group_tests("exact_governor", tests, COUNT(tests), NULL, temp_remove);
}
