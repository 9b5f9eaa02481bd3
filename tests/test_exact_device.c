/*
 * test_exact_device.c - logits stay bit-identical to llama.cpp's on the same device while the slots
 * that the device computes with give memory back and regain it (governed.h).
 *
 * Skipped without the device that FOREBAY_TEST_DEVICE names (tests/device.sh sets it).
 */
#include "governed.h"
#include "synth/synth.h"

static const char *device;

struct on_device {
    const char *form; /* of the slots */
    uint32_t batch;
    int percent; /* of the weights, in RAM */
};

/* Shared: tokens alone, sets, and one pool for all layers. Copies: what is below the device's slots
 * shrinks and grows. */
static const struct on_device cases[] = {
    {"slots", 1, 60},
    {"slots", 7, 60},
    {"slots", 7, 10},
    {"copies", 7, 60},
};

/* Experts of 51 KiB, no multiple of a page: slots of neighbours share one. */
static uint64_t make_model(const char *path)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = "qwen3moe";
    s.type = "Q8_0";
    s.layers = 4;
    s.embd = 256;
    s.heads = 4;
    s.ff = 192;
    s.vocab = 500;
    s.experts = 16;
    s.experts_used = 4;
    if (fb_synth_random(&s, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return weights_bytes_of(path);
}

/* Memory on the device of the whole model. */
static uint64_t device_bytes(const char *path, struct forebay_model_options options)
{
    struct forebay_model *model;
    struct forebay_placement placement;
    struct forebay_error err;
    options.n_device_mem = 1;
    options.device_mem_bytes[0] = FB_GIB;
    if (forebay_model_load(path, &options, &model, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    forebay_model_placement(model, &placement);
    forebay_model_free(model);
    return placement.devices[0].bytes;
}

static void test_case(void **state)
{
    const struct on_device *c = *state;
    const struct shape shape = {
        .batch = c->batch, .threads = 1, .prompt = 40, .generated = 30, .last_row = true};
    struct forebay_model_options options = shape_options(&shape);
    const char *path = temp_path("device.gguf");
    struct forebay_stats stats;
    uint64_t bytes = make_model(path);
    options.ctx = 128;
    options.device = device;
    options.n_device_mem = 1;
    options.device_mem_bytes[0] = device_bytes(path, options) - bytes / 2;
    options.device_experts = c->form;
    options.weights_mem_bytes = bytes * (uint64_t)c->percent / 100;
    options.plain = true;
    struct rows want = run_governed(path, &shape, &options, &stats);
    options.plain = false;
    check_governed(path, &shape, &options, &want, &stats);
    assert_string_equal(
        stats.device_slots_form, strcmp(c->form, "slots") == 0 ? "shared" : "copies");
    rows_free(&want);
}

int main(void)
{
    struct CMUnitTest tests[COUNT(cases)];
    char names[COUNT(cases)][96];
    device = getenv("FOREBAY_TEST_DEVICE");
    if (!device) {
        printf("1..0 # SKIP no device\n");
        return 0;
    }
    for (int i = 0; i < COUNT(cases); i++) {
        snprintf(names[i], sizeof names[i], "%s, batch %u, %d %% in RAM", cases[i].form,
            cases[i].batch, cases[i].percent);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = test_case, .initial_state = (void *)&cases[i]};
    }
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    govern_quickly();
    return _cmocka_run_group_tests("exact_device", tests, COUNT(tests), NULL, temp_remove);
}
