/*
 * test_gpu_shared.c - the stream's slots as buffers of a device: a fake one, made of the CPU's,
 * which counts the buffers that exist and notes what is in their memory when they are freed.
 */
#include "weights_fixture.h"

#include "backend/binding.h"
#include "engine/libs.h"
#include "ggml-backend-impl.h"
#include "gpu/gpu_shared.h"
#include "os/memory.h"
#include "plan/plan.h"

#define N_LAYERS  2
#define N_EXPERTS 8
#define N_SLOTS   6
#define ALL_PARTS 7u

/* Rows and columns of 4-byte numbers. One part is read in place (whole blocks, aligned in the
 * file), the others are copied. */
static const int64_t columns[] = {64, 32, 64}, rows[] = {32, 17, 33};

static struct model model;
static struct fb_stream *stream;
static struct fb_binding binding;
static struct fb_gpu_shared *shared;
static struct fb_lease lease;

/* --- The device ------------------------------------------------------------------------------- */

static struct {
    struct ggml_backend_device device;
    ggml_backend_dev_t cpu;
    ggml_backend_buffer_t (*wrap)(ggml_backend_dev_t dev, void *ptr, size_t size, size_t tensor);
    int n_buffers, n_wrapped; /* exist; were ever made */
    uint64_t bytes;           /* of those that exist */
    bool refuses;
    bool intact; /* the last page of every buffer that was freed was not given back yet */
} fake;

static void free_wrapped(ggml_backend_buffer_t buffer)
{
    const unsigned char *memory = ggml_backend_buffer_get_base(buffer);
    bool used = false;
    for (size_t i = buffer->size - fb_vm_page_size(); i < buffer->size; i++) {
        used |= memory[i] != 0;
    }
    fake.intact = fake.intact && used;
    fake.n_buffers--;
    fake.bytes -= buffer->size;
}

static ggml_backend_buffer_t wrap(ggml_backend_dev_t dev, void *ptr, size_t size, size_t tensor)
{
    (void)dev;
    if (fake.refuses) {
        return NULL;
    }
    assert_int_equal((uintptr_t)ptr % fb_vm_page_size(), 0);
    assert_int_equal(size % fb_vm_page_size(), 0);
    ggml_backend_buffer_t buffer = fake.wrap(fake.cpu, ptr, size, tensor);
    buffer->iface.free_buffer = free_wrapped;
    fake.n_buffers++;
    fake.n_wrapped++;
    fake.bytes += size;
    return buffer;
}

/* A driver that keeps the pages it found. */
static ggml_backend_buffer_t wrap_copy(
    ggml_backend_dev_t dev, void *ptr, size_t size, size_t tensor)
{
    (void)dev, (void)tensor;
    ggml_backend_buffer_t copy =
        ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(fake.cpu), size);
    memcpy(ggml_backend_buffer_get_base(copy), ptr, size);
    return copy;
}

static void make_fake(void)
{
    fake.cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    assert_non_null(fake.cpu);
    fake.device = *fake.cpu;
    fake.wrap = fake.cpu->iface.buffer_from_host_ptr;
    fake.device.iface.buffer_from_host_ptr = wrap;
    fake.n_buffers = fake.n_wrapped = 0;
    fake.bytes = 0;
    fake.refuses = false;
    fake.intact = true;
}

/* --- Rig -------------------------------------------------------------------------------------- */

static int make_files(void **state)
{
    struct forebay_error err;
    make_contents(state);
    if (fb_libs_load(&err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return 0;
}

/* `wider`: one layer has larger units than the other. */
static void make_model(bool wider)
{
    static const enum fb_role roles[] = {
        FB_ROLE_EXPERT_GATE, FB_ROLE_EXPERT_UP, FB_ROLE_EXPERT_DOWN};
    model_init(&model, 4096);
    model.catalog.n_expert_used = 2;
    for (int l = 0; l < N_LAYERS; l++) {
        for (int p = 0; p < 3; p++) {
            int64_t n_rows = rows[p] + (wider && l == 1 ? 32 : 0);
            uint64_t bytes = 4 * (uint64_t)(columns[p] * n_rows);
            int t = add_weight(&model, roles[p], l, N_EXPERTS, bytes, false);
            model.tensors[t].ne[0] = columns[p];
            model.tensors[t].ne[1] = n_rows;
            model.claims[t].packed = true;
        }
        model.end = fb_round_up(model.end, 4096);
    }
    model_open(&model);
}

static void start(bool wider, int shared_slots)
{
    bool resident[MAX_TENSORS] = {false};
    int slots[N_LAYERS] = {N_SLOTS, N_SLOTS};
    struct fb_plan plan = {.resident = resident,
        .slots = shared_slots ? NULL : slots,
        .shared_slots = shared_slots,
        .staging_bytes = FB_MIB};
    struct fb_stream_options options = {
        .policy = "lru", .cold = true, .unpack = unpack_units, .user = &model.weights};
    struct forebay_error err;
    make_fake();
    make_model(wider);
    small_io_options(&options.io, "sync");
    if (fb_stream_new(model.weights, &plan, &options, &stream, &err) != FOREBAY_OK ||
        fb_stream_load(stream, NULL, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    lease = (struct fb_lease){.group = -1};
    binding = (struct fb_binding){.catalog = &model.catalog,
        .weights = model.weights,
        .stream = stream,
        .gpu_end_layer = N_LAYERS,
        .shares_slots = true};
    shared = fb_gpu_shared_new(&binding, &fake.device);
}

static void stop(void)
{
    fb_gpu_shared_free(shared);
    shared = NULL;
    assert_int_equal(fake.n_buffers, 0);
    assert_int_equal(fake.bytes, 0);
    fb_stream_set_target(stream, 0); /* nobody is asked to let go any more */
    fb_stream_adapt(stream, true);
    fb_lease_clear(&lease);
    fb_stream_free(stream);
    model_close(&model);
}

static int weight_of(int group, int part)
{
    return model.weights->groups[group].weight[part];
}

static void open_lease(int group, const int *experts, int n)
{
    struct forebay_error err;
    fb_stream_lease_begin(stream, &lease, group, experts, NULL, n, ALL_PARTS);
    for (int p = 0; p < 3; p++) {
        if (fb_stream_lease_wait(stream, &lease, p, &err) != FOREBAY_OK) {
            fail_msg("%s", err.message);
        }
    }
}

/* What the device sees in the lease's slots are the experts' units, at the distance that it expects
 * of a stack. */
static void check_lease(int group)
{
    for (int p = 0; p < 3; p++) {
        int w = weight_of(group, p);
        const struct ggml_tensor *stack = fb_gpu_shared_stack(shared, w);
        assert_non_null(stack);
        assert_int_equal(stack->nb[2], model.weights->weights[w].unit_bytes);
        assert_int_equal(ggml_nbytes(stack), (size_t)stack->ne[2] * stack->nb[2]);
        for (int i = 0; i < lease.n; i++) {
            assert_true(lease.slots[i] < stack->ne[2]);
            assert_true(form_is_right(&model, w, lease.experts[i],
                (const char *)stack->data + (size_t)lease.slots[i] * stack->nb[2]));
        }
    }
}

/* Slots of each pool after the stream was given room for these. */
static int resize(int n_slots)
{
    fb_stream_set_target(
        stream, (uint64_t)n_slots * N_LAYERS * model.weights->groups[0].slot_bytes);
    fb_stream_adapt(stream, true);
    return fb_stream_n_slots(stream) / N_LAYERS;
}

/* --- Tests ------------------------------------------------------------------------------------ */

static void test_slots_are_a_stack(void **state)
{
    (void)state;
    start(false, 0);
    assert_int_equal(model.weights->weights[weight_of(0, 0)].unpack, FB_UNPACK_DIRECT);
    assert_int_equal(model.weights->weights[weight_of(0, 1)].unpack, FB_UNPACK_COPY);
    assert_int_equal(fake.n_buffers, 3 * N_LAYERS); /* at once */
    assert_int_equal(fb_gpu_shared_total(shared), N_SLOTS * N_LAYERS);
    for (int g = 0; g < N_LAYERS; g++) {
        for (int e = 0; e < N_EXPERTS; e += 4) {
            open_lease(g, (const int[]){e, e + 1, e + 2, e + 3}, 4);
            check_lease(g);
            fb_stream_lease_end(stream, &lease);
        }
    }
    assert_int_equal(fake.n_wrapped, 3 * N_LAYERS); /* once */
    stop();
}

static void test_lets_go_before_the_pool_changes(void **state)
{
    (void)state;
    start(false, 0);
    for (int g = 0; g < N_LAYERS; g++) {
        open_lease(g, (const int[]){0, 1, 2, 3, 4, 5}, N_SLOTS);
        fb_stream_lease_end(stream, &lease);
    }
    assert_int_equal(resize(3), 3);
    assert_int_equal(fake.n_buffers, 0);
    assert_true(fake.intact); /* their memory was there when they were freed */
    open_lease(1, (const int[]){5, 2}, 2);
    check_lease(1);
    assert_int_equal(fb_gpu_shared_stack(shared, weight_of(1, 0))->ne[2], 3);
    assert_int_equal(fake.n_buffers, 3);
    fb_stream_lease_end(stream, &lease);
    assert_int_equal(resize(N_SLOTS), N_SLOTS); /* more memory is another buffer, too */
    assert_int_equal(fake.n_buffers, 0);
    open_lease(1, (const int[]){0, 1, 2, 3, 4, 5}, N_SLOTS);
    check_lease(1);
    fb_stream_lease_end(stream, &lease);
    stop();
}

static void test_keeps_what_is_in_use(void **state)
{
    (void)state;
    start(false, 0);
    open_lease(0, (const int[]){7, 1, 3, 5}, 4);
    resize(2);
    assert_int_equal(fake.n_buffers, 3); /* of the other group: gone */
    check_lease(0);
    fb_stream_lease_end(stream, &lease);
    assert_int_equal(resize(2), 2);
    assert_int_equal(fake.n_buffers, 0);
    stop();
}

static void test_a_device_may_refuse(void **state)
{
    (void)state;
    start(false, 0);
    resize(4);
    fake.refuses = true;
    assert_false(fb_gpu_shared_group(shared, 0));
    assert_null(fb_gpu_shared_stack(shared, weight_of(0, 0)));
    fake.refuses = false;
    assert_false(fb_gpu_shared_group(shared, 0)); /* it is asked once for each size */
    assert_true(fb_gpu_shared_group(shared, 1));
    resize(5);
    assert_true(fb_gpu_shared_group(shared, 0));
    stop();
    start(false, 0);
    assert_non_null(fb_gpu_shared_stack(shared, weight_of(0, 0)));
    stop();
}

/* Groups that share one pool share its buffers, where their units are of the same size. */
static void test_a_pool_of_all_groups(void **state)
{
    (void)state;
    start(false, N_SLOTS);
    assert_int_equal(fake.n_buffers, 3);
    assert_int_equal(fb_gpu_shared_total(shared), N_SLOTS);
    for (int g = 0; g < N_LAYERS; g++) {
        open_lease(g, (const int[]){6, 1, 2}, 3);
        check_lease(g);
        fb_stream_lease_end(stream, &lease);
    }
    stop();
    start(true, N_SLOTS);
    assert_false(fb_gpu_shared_group(shared, 0)); /* gaps between its slots */
    assert_true(fb_gpu_shared_group(shared, 1));
    stop();
}

static void test_trial(void **state)
{
    (void)state;
    make_fake();
    assert_true(fb_gpu_shared_works(&fake.device));
    assert_int_equal(fake.n_wrapped, 1);
    assert_int_equal(fake.n_buffers, 0);
    fake.device.iface.buffer_from_host_ptr = wrap_copy;
    assert_false(fb_gpu_shared_works(&fake.device));
    fake.device.iface.buffer_from_host_ptr = wrap;
    fake.refuses = true;
    assert_false(fb_gpu_shared_works(&fake.device));
    fake.device.iface.buffer_from_host_ptr = NULL;
    assert_false(fb_gpu_shared_works(&fake.device));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trial),
        cmocka_unit_test(test_slots_are_a_stack),
        cmocka_unit_test(test_lets_go_before_the_pool_changes),
        cmocka_unit_test(test_keeps_what_is_in_use),
        cmocka_unit_test(test_a_device_may_refuse),
        cmocka_unit_test(test_a_pool_of_all_groups),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests_name("gpu_shared", tests, make_files, free_contents);
}
