/*
 * test_hostile_run.c - models with damaged headers, run with llama.cpp: every run ends with tokens
 * or with an error message, never by a signal or a timeout.
 *
 * Each damaged file is run in a child process. A failure names the model and the changed bytes, so
 * that it can be repeated.
 */
#include "model_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/random.h"
#include "base/units.h"
#include "forebay.h"
#include "synth/synth.h"

#define RUNS_OF_A_MODEL 60
#define MAX_CHANGES     3
#define MAX_SECONDS     30
#define MAX_MEMORY      (6 * FB_GIB)

struct change {
    uint64_t at;
    unsigned char from, to;
};

/* --- The child ----------------------------------------------------------------------------- */

static void limit_child(void)
{
    alarm(MAX_SECONDS);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    setrlimit(RLIMIT_AS, &(struct rlimit){MAX_MEMORY, MAX_MEMORY});
#endif
}

static enum forebay_status run_model(
    const char *path, uint64_t weights_mem_bytes, struct forebay_error *err)
{
    static const int32_t prompt[] = {1, 2, 3, 4, 5};
    struct forebay_model_options options;
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    forebay_model_options_init(&options);
    options.ctx = 32;
    options.batch = 4;
    options.threads = 1;
    options.weights_mem_bytes = weights_mem_bytes;
    enum forebay_status status = forebay_model_load(path, &options, &model, err);
    if (status == FOREBAY_OK) {
        status = forebay_session_new(model, &session, err);
    }
    if (status == FOREBAY_OK) {
        status = forebay_eval(session, prompt, 5, false, err);
    }
    if (status == FOREBAY_OK) {
        int32_t token = forebay_sample(session);
        char text[256];
        forebay_token_bytes(model, token, text, sizeof text);
        status = forebay_eval(session, &token, 1, false, err);
    }
    forebay_session_free(session);
    forebay_model_free(model);
    return status;
}

/* Exit code: 0 the model ran; 1 it was refused; 2 it was refused without a message. */
static int child(const char *path, uint64_t weights_mem_bytes)
{
    struct forebay_error err = {0};
    limit_child();
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    if (run_model(path, weights_mem_bytes, &err) == FOREBAY_OK) {
        return 0;
    }
    return err.status != FOREBAY_OK && err.message[0] ? 1 : 2;
}

/* --- The parent ---------------------------------------------------------------------------- */

/* Bytes before the data of the first tensor. *memory: enough for most of the weights. */
static uint64_t header_bytes(const char *path, uint64_t *weights_mem_bytes)
{
    struct forebay_file *file;
    struct forebay_file_info info;
    struct forebay_tensor_info tensor;
    uint64_t bytes = UINT64_MAX;
    assert_int_equal(forebay_file_open(path, &file, NULL), FOREBAY_OK);
    forebay_file_describe(file, &info);
    for (int i = 0; i < info.n_tensors; i++) {
        forebay_file_tensor(file, i, &tensor);
        bytes = fb_min(bytes, tensor.offset);
    }
    forebay_file_free(file);
    *weights_mem_bytes = info.tensor_bytes * 3 / 4;
    return bytes;
}

/* Chooses up to MAX_CHANGES bytes of the header and their new values. */
static int choose_changes(
    struct change *changes, const unsigned char *header, uint64_t size, uint64_t *random)
{
    int n = 1 + (int)(fb_random_next(random) % MAX_CHANGES);
    for (int i = 0; i < n; i++) {
        uint64_t r = fb_random_next(random);
        struct change *c = &changes[i];
        c->at = fb_random_next(random) % size;
        c->from = header[c->at];
        c->to = r % 3 == 0   ? (unsigned char)(c->from ^ 1u << (r >> 8) % 8)
                : r % 3 == 1 ? (unsigned char)(r >> 16)
                             : (r >> 24 & 1 ? 0xff : 0);
    }
    return n;
}

/* Writes the new bytes, or restores the old ones, in reverse because a byte may be chosen twice. */
static void apply(int fd, const struct change *changes, int n, bool undo)
{
    for (int i = 0; i < n; i++) {
        const struct change *c = &changes[undo ? n - 1 - i : i];
        assert_int_equal(pwrite(fd, undo ? &c->from : &c->to, 1, (off_t)c->at), 1);
    }
}

/* Runs the file in a child. False when it did not exit with 0 or 1. */
static bool ends_well(const char *path, uint64_t weights_mem_bytes, int *n_ran)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        exit(child(path, weights_mem_bytes));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    *n_ran += status == 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) {
        return true;
    }
    fprintf(stderr, "# ended with wait status 0x%x\n", (unsigned)status);
    return false;
}

static void damage(const char *name, const char *path)
{
    uint64_t memory, size = header_bytes(path, &memory), random = size;
    unsigned char *header = malloc(size);
    int fd = open(path, O_RDWR | O_CLOEXEC), n_ran = 0, n_bad = 0;
    assert_true(fd >= 0 && header);
    assert_int_equal(pread(fd, header, size, 0), size);
    assert_true(ends_well(path, memory, &n_ran));
    assert_int_equal(n_ran, 1);
    for (int run = 0; run < RUNS_OF_A_MODEL; run++) {
        struct change changes[MAX_CHANGES];
        int n = choose_changes(changes, header, size, &random);
        apply(fd, changes, n, false);
        if (!ends_well(path, memory, &n_ran)) {
            n_bad++;
            for (int i = 0; i < n; i++) {
                fprintf(stderr, "# %s: byte %llu: %02x -> %02x\n", name,
                    (unsigned long long)changes[i].at, changes[i].from, changes[i].to);
            }
        }
        apply(fd, changes, n, true);
    }
    close(fd);
    free(header);
    printf("# %s: %d of %d damaged files still ran\n", name, n_ran - 1, RUNS_OF_A_MODEL);
    assert_int_equal(n_bad, 0);
}

static void test_synthetic_models(void **state)
{
    static const char *const archs[] = {"llama", "qwen3moe", "gpt-oss", "deepseek2", "jamba"};
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        struct fb_synth_shape shape;
        const char *path = temp_path("made.gguf");
        fb_synth_shape_init(&shape);
        shape.arch = archs[i];
        shape.layers = 2;
        shape.embd = 256;
        shape.heads = 4;
        shape.ff = 256;
        shape.vocab = 280;
        shape.experts = fb_synth_arch_has_experts(archs[i]) ? 4 : 0;
        shape.experts_used = shape.experts ? 1 : 0;
        assert_int_equal(fb_synth_random(&shape, path, NULL, NULL), FOREBAY_OK);
        damage(archs[i], path);
    }
}

static void test_shared_models(void **state)
{
    static const char *const names[] = {"models/stories260K-moe4-slice.gguf",
        "models/archs/gemma3-dense-Q4_K_M.gguf", "models/archs/llama4-moe-Q4_K_M.gguf",
        "models/archs/qwen3next-moe-Q4_K_M.gguf", "models/archs/kimi-linear-moe-Q4_K_M.gguf"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t size;
        char *bytes = read_whole(shared_file(names[i]), &size);
        const char *path = temp_path("copy.gguf");
        write_file(path, bytes, size);
        free(bytes);
        damage(names[i], path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synthetic_models),
        cmocka_unit_test(test_shared_models),
    };
    return cmocka_run_group_tests_name("hostile_run", tests, NULL, temp_remove);
}
