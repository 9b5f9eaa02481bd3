/*
 * test_server.c - the HTTP server over real sockets: answers, errors, limits, keys, clients that
 * leave or are slow.
 */
#include <jansson.h>

#include "base/units.h"
#include "serve/server.h"
#include "serve_fixture.h"

#include "http_client.h"

#ifndef MSG_MORE
#define MSG_MORE 0
#endif

#define MODEL "fable-moe.gguf"
#define NAME  "fable"

static struct fixture f;
static struct fb_server *server;

static const char *origins; /* --origins of the next server */
static const char *chat_template;
static const char *model_file = MODEL;

static void start_with(const char *api_key, bool client_templates)
{
    struct forebay_model_options model = small_model(2);
    struct fb_server_options options;
    struct forebay_error err;
    model.weights_mem_bytes = 3u << 20;
    fixture_start(
        &f, model_file, &model, &(struct fb_service_options){.parallel = 2, .queue_max = 2});
    fb_server_options_init(&options);
    options.port = 0;
    options.name = NAME;
    options.path = shared_model(model_file);
    options.api_key = api_key;
    options.origins = origins;
    options.chat_template = chat_template;
    options.client_templates = client_templates;
    options.body_max_bytes = 64 << 10;
    options.timeout_s = 2;
    options.connections_max = 16;
    if (fb_server_open(&options, &server, &err) != FOREBAY_OK ||
        fb_server_serve(server, f.service, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static void start(const char *api_key)
{
    start_with(api_key, false);
}

static void stop(void)
{
    fb_server_stop(server);
    fixture_stop(&f);
}

static int dial(void)
{
    return dial_port(fb_server_port(server));
}

static struct answer ask_with(
    const char *method, const char *path, const char *headers, const char *body, size_t n)
{
    char head[1024];
    int fd = dial();
    snprintf(head, sizeof head,
        "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
        method, path, headers, n);
    send_all(fd, head, strlen(head));
    send_all(fd, body, n);
    return read_answer(fd);
}

static struct answer post(const char *path, const char *body)
{
    return ask_with("POST", path, "", body, strlen(body));
}

static json_t *json_of(const struct answer *a)
{
    json_t *value = json_loads(a->body, 0, NULL);
    if (!value) {
        fail_msg("no JSON: %s", a->all);
    }
    return value;
}

/* Checks the status and the shape of an error in the API of the path. Frees the answer. */
static void assert_error(struct answer a, const char *path, int status)
{
    json_t *value = json_of(&a), *error = json_object_get(value, "error");
    if (a.status != status) {
        fail_msg("%s: %d instead of %d: %s", path, a.status, status, a.body);
    }
    if (strncmp(path, "/api", 4) == 0) {
        assert_true(json_is_string(error));
    } else {
        assert_true(json_is_string(json_object_get(error, "message")));
        assert_true(json_is_string(json_object_get(error, "type")));
    }
    if (strncmp(path, "/v1/messages", 12) == 0) {
        assert_string_equal(json_string_value(json_object_get(value, "type")), "error");
    }
    json_decref(value);
    free(a.all);
}

/* --- Answers ------------------------------------------------------------------------------- */

static void test_answers(void **state)
{
    (void)state;
    char want[2048];
    struct forebay_model_options options = small_model(1);
    options.weights_mem_bytes = 3u << 20;
    run_alone(MODEL, &options, "Once upon a time", 12, want, sizeof want);
    start(NULL);
    struct answer a = post(
        "/v1/completions", "{\"prompt\":\"Once upon a time\",\"max_tokens\":12,\"temperature\":0}");
    json_t *value = json_of(&a);
    const char *text, *reason;
    assert_int_equal(
        json_unpack(value, "{s:[{s:s,s:s}]}", "choices", "text", &text, "finish_reason", &reason),
        0);
    assert_string_equal(text, want);
    assert_string_equal(reason, "length");
    json_decref(value);
    free(a.all);

    a = post("/api/generate", "{\"model\":\"" NAME ":latest\",\"prompt\":\"Once upon a time\","
                              "\"raw\":true,\"stream\":false,\"options\":{\"num_predict\":12,"
                              "\"temperature\":0}}");
    value = json_of(&a);
    assert_int_equal(json_unpack(value, "{s:s,s:s}", "response", &text, "done_reason", &reason), 0);
    assert_string_equal(text, want);
    assert_string_equal(reason, "length");
    json_decref(value);
    free(a.all);

    a = post("/v1/chat/completions",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":4,\"stream\":true}");
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.all, "text/event-stream"));
    assert_non_null(strstr(a.body, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(a.body, "data: [DONE]"));
    free(a.all);

    static const char *const gets[] = {
        "/", "/health", "/metrics", "/v1/models", "/api/tags", "/api/ps", "/api/version"};
    for (size_t i = 0; i < sizeof gets / sizeof *gets; i++) {
        a = ask_with("GET", gets[i], "", "", 0);
        assert_int_equal(a.status, 200);
        free(a.all);
    }
    stop();
}

/* --- Errors -------------------------------------------------------------------------------- */

#define CHAT   "/v1/chat/completions"
#define USER   "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define OLLAMA "\"model\":\"" NAME "\""

static const struct {
    const char *path, *body;
    int status;
} mistakes[] = {
    {CHAT, "", 400},
    {CHAT, "{", 400},
    {CHAT, "[]", 400},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}", 400},
    {CHAT, "{}", 400},
    {CHAT, "{\"messages\":[]}", 400},
    {CHAT, "{\"messages\":\"Hi\"}", 400},
    {CHAT, "{\"messages\":[1]}", 400},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400},
    {CHAT, "{" USER ",\"max_tokens\":0}", 400},
    {CHAT, "{" USER ",\"max_tokens\":-2}", 400},
    {CHAT, "{" USER ",\"max_tokens\":1e300}", 400},
    {CHAT, "{" USER ",\"max_tokens\":\"5\"}", 400},
    {CHAT, "{" USER ",\"temperature\":-1}", 400},
    {CHAT, "{" USER ",\"temperature\":1e30}", 400},
    {CHAT, "{" USER ",\"top_p\":2}", 400},
    {CHAT, "{" USER ",\"n\":1000}", 400},
    {CHAT, "{" USER ",\"stop\":[1]}", 400},
    {CHAT, "{" USER ",\"stop\":{}}", 400},
    {CHAT, "{" USER ",\"stream\":\"yes\"}", 400},
    {CHAT, "{" USER ",\"seed\":\"x\"}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"x\":1}}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"99999\":1}}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"5\":1000}}", 400},
    {CHAT, "{" USER ",\"top_logprobs\":3}", 400},
    {CHAT, "{" USER ",\"logprobs\":true,\"top_logprobs\":99}", 400},
    {CHAT, "{" USER ",\"tools\":{}}", 400},
    {CHAT, "{" USER ",\"tool_choice\":\"required\"}", 400},
    {CHAT, "{" USER ",\"response_format\":{\"type\":\"nonsense\"}}", 400},
    {CHAT, "{" USER ",\"grammar\":\"root ::= (\"}", 400},
    {CHAT, "{" USER ",\"stream_options\":{\"include_usage\":1}}", 400},
    {"/v1/completions", "{\"prompt\":3}", 400},
    {"/v1/completions", "{\"prompt\":\"\"}", 200},
    {"/v1/completions", "{\"prompt\":[1,99999]}", 400},
    {"/v1/completions", "{\"prompt\":[-1]}", 400},
    {"/v1/completions", "{\"prompt\":\"x\",\"echo\":true}", 400},
    {"/v1/embeddings", "{\"input\":\"x\"}", 400},
    {"/v1/nothing", "{}", 404},
    {"/v1/models", "{}", 405},
    {"/nothing", "{}", 404},
    {"/api/chat", "{}", 400},
    {"/api/chat", "{\"model\":\"other\"}", 404},
    {"/api/chat", "{" OLLAMA ",\"messages\":[1]}", 400},
    {"/api/chat",
        "{" OLLAMA ",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"images\":[\"a\"]}]}",
        400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":[]}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":{\"num_predict\":-3}}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":{\"num_ctx\":\"x\"}}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"format\":\"xml\"}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"keep_alive\":[]}", 400},
    {"/api/show", "{" OLLAMA "}", 200},
    {"/api/show", "{\"model\":\"other\"}", 404},
    {"/api/embed", "{" OLLAMA "}", 400},
    {"/api/pull", "{\"model\":\"other\"}", 404},
    {"/api/pull", "{}", 400},
    {"/v1/messages", "{}", 400},
    {"/v1/messages", "{" USER "}", 400},
    {"/v1/messages", "{\"max_tokens\":5,\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}",
        400},
    {"/v1/messages",
        "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
        "\"image\"}]}]}",
        400},
    {"/v1/messages/count_tokens", "{" USER "}", 200},
};

static void test_mistakes(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        struct answer a = post(mistakes[i].path, mistakes[i].body);
        if (mistakes[i].status == 200) {
            assert_int_equal(a.status, 200);
            free(a.all);
        } else {
            assert_error(a, mistakes[i].path, mistakes[i].status);
        }
    }
    /* A prompt longer than the context, and a body longer than allowed. */
    char *large = malloc(200 << 10);
    size_t n = (size_t)sprintf(large, "{\"prompt\":\"");
    memset(large + n, 'x', 4000);
    memcpy(large + n + 4000, "\"}", 3);
    struct answer long_one = post("/v1/completions", large);
    assert_non_null(strstr(long_one.body, "at most 255 fit into the context of 256"));
    assert_error(long_one, "/v1/completions", 400);
    memset(large + n, 'x', 150 << 10);
    memcpy(large + n + (150 << 10), "\"}", 3);
    assert_error(post("/v1/completions", large), "/v1/completions", 413);
    free(large);
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200); /* the server goes on */
    free(a.all);
    stop();
}

/* A 405 names the methods of the path, and a HEAD is answered where a GET is. */
static void test_methods(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *allow;
        int status;
    } requests[] = {
        {"HEAD", "/v1/models", NULL, 200},
        {"DELETE", "/v1/models/" NAME, "\r\nAllow: GET, HEAD\r\n", 405},
        {"GET", CHAT, "\r\nAllow: POST\r\n", 405},
        {"POST", "/api/delete", "\r\nAllow: DELETE\r\n", 405},
        {"GET", "/nothing", NULL, 404},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct answer a = ask_with(requests[i].method, requests[i].path, "", "", 0);
        assert_int_equal(a.status, requests[i].status);
        if (requests[i].allow) {
            assert_non_null(strstr(a.all, requests[i].allow));
        } else {
            assert_null(strstr(a.all, "\r\nAllow:"));
        }
        free(a.all);
    }
    stop();
}

/* --- What clients send --------------------------------------------------------------------- */

#define MESSAGES   "/v1/messages"
#define TEXT       "/v1/completions"
#define SAYS(text) "{\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}],\"max_tokens\":2}"
#define REPLAYED(member)                                                                           \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","               \
    "\"content\":\"Yo\",\"" member                                                                 \
    "\":null},{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":2}"
#define FORMAT_OF(schema)                                                                          \
    "{" USER ",\"max_tokens\":150,\"temperature\":0,\"response_format\":{\"type\":\"json_"         \
    "schema\",\"json_schema\":"                                                                    \
    "{\"name\":\"x\",\"schema\":" schema "}}}"
#define FOX                                                                                        \
    "{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":[\"fox\"]}},\"required\":[\"kind\"]}"

/* Shapes of requests as clients send them, each with what the answer contains. */
static const struct {
    const char *path, *body;
    int status;
    const char *has;
} shapes[] = {
    /* what is odd, and valid JSON */
    {CHAT, SAYS("a\\u0000b"), 200, "\"prompt_tokens\":6"},
    {CHAT, SAYS("\\ud83d"), 200, "choices"},
    {TEXT, "{\"prompt\":\"a\\u0000b\",\"max_tokens\":2}", 200, "\"prompt_tokens\":4"},
    {"/api/chat",
        "{" OLLAMA ",\"stream\":false,\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}],"
        "\"options\":{\"num_predict\":2}}",
        200, "\"prompt_eval_count\":6"},
    {MESSAGES, SAYS("a\\u0000b"), 200, "content"},
    {CHAT, "{" USER ",\"stop\":\"\\u0000\"}", 400, "U+0000"},
    {CHAT, "{" USER ",\"stop\":[\"\\u0000\"]}", 400, "U+0000"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"seed\":18446744073709551615}", 200, "choices"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"seed\":-18446744073709551615}", 200, "choices"},
    {CHAT, "{" USER ",\"max_tokens\":18446744073709551615,\"stop\":[\" \"]}", 200, "choices"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"metadata\":{\"x\":1e400}}", 200, "choices"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"temperature\":1e400}", 400, "temperature"},
    /* fields */
    {CHAT, "{" USER ",\"max_tokens\":-1,\"stop\":[\" \"]}", 200, "choices"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"model\":\"\"}", 200, "\"" NAME "\""},
    {CHAT, "{" USER ",\"max_tokens\":2,\"logit_bias\":[[5,1],[\"a\",false],[6,-100.0]]}", 200,
        "choices"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"logit_bias\":[[99999,1]]}", 400, "logit_bias"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"logit_bias\":[5]}", 400, "logit_bias"},
    {CHAT,
        "{" USER
        ",\"max_tokens\":2,\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\","
        "\"10\",\"11\",\"12\",\"13\",\"14\",\"15\",\"16\",\"17\",\"18\"]}",
        200, "choices"},
    {TEXT, "{\"prompt\":\"x\",\"max_tokens\":2,\"suffix\":\"\"}", 200, "choices"},
    {TEXT, "{\"prompt\":\"x\",\"max_tokens\":2,\"suffix\":\"y\"}", 400, "infilling"},
    {TEXT, "{\"prompt\":\"x\",\"max_tokens\":2,\"best_of\":1}", 200, "choices"},
    {TEXT, "{\"prompt\":\"x\",\"max_tokens\":2,\"best_of\":2}", 400, "best_of is not supported"},
    {CHAT, "{" USER ",\"functions\":[{\"name\":\"f\"}]}", 400, "send tools"},
    {CHAT, "{" USER ",\"modalities\":[\"text\",\"audio\"]}", 400, "modalities"},
    {CHAT, "{" USER ",\"reasoning_effort\":3}", 400, "reasoning_effort must be a string"},
    /* messages */
    {CHAT, REPLAYED("name"), 200, "choices"},
    {CHAT, REPLAYED("tool_calls"), 200, "choices"},
    {CHAT, REPLAYED("reasoning_content"), 200, "choices"},
    {CHAT, REPLAYED("refusal"), 200, "choices"},
    {CHAT, REPLAYED("function_call"), 200, "choices"},
    {CHAT, REPLAYED("audio"), 200, "choices"},
    {CHAT, REPLAYED("annotations"), 200, "choices"},
    {CHAT, REPLAYED("tool_call_id"), 200, "choices"},
    {CHAT, "{\"messages\":[{\"content\":\"Hi\"}]}", 400, "messages[0] has no role"},
    {CHAT, "{\"messages\":[{\"role\":null,\"content\":\"Hi\"}]}", 400, "messages[0] has no role"},
    {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0] has no content"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":3}]}", 400, "content must be"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400,
        "image_url are not supported"},
    {CHAT,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"tool\",\"tool_call_id\":"
        "\"a\",\"content\":[{\"type\":\"image_url\"}]}],\"max_tokens\":2}",
        200, "choices"},
    {CHAT,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":"
        "null},{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":2}",
        200, "choices"},
    /* tools, of which this template knows none */
    {CHAT, "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}", 400,
        "template knows none"},
    {"/api/chat",
        "{" OLLAMA ",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"function\":"
        "{\"name\":\"f\"}}]}",
        400, "template knows none"},
    {MESSAGES,
        "{\"max_tokens\":2," USER
        ",\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}]}",
        400, "template knows none"},
    {CHAT, "{" USER ",\"max_tokens\":2,\"tools\":[]}", 200, "choices"},
    /* formats */
    {CHAT, FORMAT_OF(FOX), 200, "fox"},
    {CHAT, FORMAT_OF("true"), 400, "must be an object"},
    {CHAT, FORMAT_OF("false"), 400, "must be an object"},
    {CHAT, FORMAT_OF("{\"type\":\"string\",\"minLength\":5000}"), 400, "minLength of 5000"},
    {CHAT, FORMAT_OF("{\"type\":\"string\",\"maxLength\":5000}"), 400, "maxLength of 5000"},
    {CHAT, FORMAT_OF("{\"type\":\"integer\",\"minimum\":5,\"maximum\":18446744073709551615}"), 200,
        "choices"},
    {CHAT, FORMAT_OF("{\"type\":\"string\",\"maxLength\":18446744073709551615}"), 200, "choices"},
    {CHAT, FORMAT_OF("{\"anyOf\":[true,{\"type\":\"string\"}]}"), 200, "choices"},
    {CHAT, FORMAT_OF("{\"type\":\"object\",\"properties\":{\"a\":false}}"), 400,
        "schema must be an object"},
    {CHAT, "{" USER ",\"response_format\":{}}", 400, "response_format needs a type"},
    {CHAT, "{" USER ",\"response_format\":\"json\"}", 400, "response_format must be an object"},
    {CHAT,
        "{" USER
        ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\"}}}",
        400, "needs a schema"},
    {CHAT, "{" USER ",\"json_schema\":true}", 400, "must be an object"},
    {CHAT,
        "{" USER
        ",\"grammar\":\"root ::= \\\"yes\\\"\",\"response_format\":{\"type\":\"json_object\"}}",
        400, "exclude each other"},
    {CHAT,
        "{" USER ",\"grammar\":\"root ::= \\\"yes\\\"\",\"response_format\":{\"type\":\"text\"}}",
        200, "\"yes\""},
    {TEXT,
        "{\"prompt\":\"Once\",\"max_tokens\":150,\"temperature\":0,\"response_format\":{\"type\":"
        "\"json_schema\","
        "\"json_schema\":{\"schema\":" FOX "}}}",
        200, "fox"},
    {TEXT, "{\"prompt\":\"Once\",\"max_tokens\":150,\"temperature\":0,\"json_schema\":" FOX "}",
        200, "fox"},
    {TEXT, "{\"prompt\":\"Once\",\"temperature\":0,\"response_format\":{\"type\":\"json_object\"}}",
        200, "\"text\":\"{"},
    {TEXT, "{\"prompt\":\"Once\",\"json_schema\":false}", 400, "must be an object"},
    {MESSAGES,
        "{\"max_tokens\":150,\"temperature\":0," USER
        ",\"output_config\":{\"format\":{\"type\":\"json_schema\","
        "\"schema\":" FOX "}}}",
        200, "fox"},
    {MESSAGES,
        "{\"max_tokens\":150,\"temperature\":0," USER
        ",\"output_format\":{\"type\":\"json_schema\",\"schema\":" FOX "}}",
        200, "fox"},
    {MESSAGES,
        "{\"max_tokens\":150,\"temperature\":0," USER ",\"output_format\":{\"type\":\"xml\"}}", 400,
        "json_schema"},
    /* Anthropic's messages */
    {MESSAGES,
        "{\"max_tokens\":2,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":"
        "\"system\","
        "\"content\":\"Be short.\"}]}",
        200, "\"text\""},
    {MESSAGES,
        "{\"max_tokens\":2,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\","
        "\"tool_use_id\":\"a\",\"content\":[{\"type\":\"image\",\"source\":{}},{\"type\":"
        "\"tool_reference\",\"tool_name\":\"f\"}]},{\"type\":\"text\",\"text\":\"Hi\"}]}]}",
        200, "\"text\""},
    {MESSAGES,
        "{\"max_tokens\":2," USER ",\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"w\"}]}",
        400, "web_search_20250305"},
    /* Ollama */
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"Hi\",\"context\":[5,6,7]}", 400,
        "context is not supported"},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"Hi\",\"suffix\":\"x\"}", 400, "infilling"},
    {"/api/generate",
        "{" OLLAMA ",\"prompt\":\"Hi\",\"context\":[],\"stream\":false,\"logprobs\":true,"
        "\"top_logprobs\":2,\"options\":{\"num_predict\":2}}",
        200, "\"top_logprobs\":[{"},
    {"/api/chat",
        "{" OLLAMA ",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"logprobs\":true,"
        "\"options\":{\"num_predict\":2}}",
        200, "\"logprobs\":[{"},
    {"/api/chat",
        "{" OLLAMA ",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"top_logprobs\":2}",
        400, "top_logprobs needs logprobs"},
    {"/api/pull", "{" OLLAMA "}", 200, "{\"status\":\"success\"}\n"},
    {"/api/pull", "{\"name\":\"" NAME ":latest\",\"stream\":false}", 200,
        "{\"status\":\"success\"}"},
    {"/api/pull", "{\"model\":\"other\"}", 404, "cannot pull 'other'"},
    /* llama.cpp */
    {"/tokenize", "{\"content\":\"<|user|>Once\"}", 200, "{\"tokens\":[1,505]}"},
    {"/tokenize", "{\"content\":\"Once\",\"add_special\":true}", 200, ",505]}"},
    {"/tokenize", "{\"content\":\"a\\u0000b\",\"with_pieces\":true}", 200, "\"piece\":\"\\u0000\""},
    {"/tokenize", "{\"content\":3}", 400, "content"},
    {"/detokenize", "{\"tokens\":[1,505]}", 200, "{\"content\":\"<|user|>Once\"}"},
    {"/detokenize", "{\"tokens\":[99999]}", 400, "tokens must be"},
    {"/apply-template", "{" USER "}", 200, "{\"prompt\":\"<|user|>Hi<|story|>\"}"},
    {"/completion", "{\"prompt\":\"Once\",\"n_predict\":2,\"temperature\":0}", 200,
        "\"content\":\" upon a\""},
    {TEXT, "{\"prompt\":[\"Once\",505]}", 400, "prompt must be"},
    {"/completion", "{\"prompt\":[\"Once\",506],\"n_predict\":2}", 200, "\"tokens_evaluated\":2"},
    {"/completions", "{\"prompt\":[\"Once\",[505,\"x\"]],\"n_predict\":2}", 200, "},{\"index\":1,"},
    {"/completion", "{\"prompt\":\"Once\",\"n_predict\":2,\"stream\":true}", 200,
        "\"stop_type\":\"limit\""},
    {"/completion", "{\"prompt\":\"Once\",\"n_predict\":2,\"n_probs\":2}", 200,
        "completion_probabilities"},
    {"/completion", "{\"prompt\":\"Once\",\"grammar\":\"root ::= \\\"yes\\\"\"}", 200,
        "\"content\":\"yes\""},
    {"/completion", "{\"prompt\":\"Once\",\"n_predict\":0}", 200, "\"content\":\"\""},
    {"/infill", "{\"input_prefix\":\"a\",\"input_suffix\":\"b\"}", 501, "infilling"},
    {"/chat/completions", "{" USER ",\"max_tokens\":2}", 200, "choices"},
    {"//v1//chat/completions/", "{" USER ",\"max_tokens\":2}", 200, "choices"},
    {"http://localhost/v1/chat/completions", "{" USER ",\"max_tokens\":2}", 200, "choices"},
};

static void test_shapes(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct answer a = post(shapes[i].path, shapes[i].body);
        if (a.status != shapes[i].status || !strstr(a.body, shapes[i].has)) {
            fail_msg("%s %s: %d: %s", shapes[i].path, shapes[i].body, a.status, a.body);
        }
        free(a.all);
    }
    struct answer a = ask_with("GET", "/api/version", "", "", 0);
    assert_non_null(strstr(a.body, "\"0.13.4\""));
    free(a.all);
    a = ask_with("GET", "/props", "", "", 0);
    assert_non_null(strstr(a.body, "\"n_ctx\":256"));
    assert_non_null(strstr(a.body, "<|story|>"));
    free(a.all);
    stop();
}

#define QUESTION "{\"role\":\"user\",\"content\":\"Tell me a story.\"}"
#define BEGUN    "{\"role\":\"assistant\",\"content\":\"Many years ago, a tiny purple\"}"

/* On each API the reply is what follows a last message of the assistant, not all of it. */
static void test_prefill(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body, *has;
    } begun[] = {
        {CHAT, "", "\"content\":\" lived in\""},
        {CHAT, ",\"continue_final_message\":true,\"add_generation_prompt\":false",
            "\"content\":\" lived in\""},
        {CHAT, ",\"stream\":true", "\"delta\":{\"content\":\" lived\"}"},
        {"/api/chat",
            "," OLLAMA ",\"stream\":false,\"options\":{\"num_predict\":2,\"temperature\":0}",
            "\"content\":\" lived in\""},
        {MESSAGES, "", "\"text\":\" lived in\""},
        {MESSAGES, ",\"stream\":true", "\"text\":\" lived\""},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof begun / sizeof *begun; i++) {
        char body[512];
        snprintf(body, sizeof body,
            "{\"messages\":[" QUESTION "," BEGUN "],\"max_tokens\":2,\"temperature\":0%s}",
            begun[i].body);
        struct answer a = post(begun[i].path, body);
        if (a.status != 200 || !strstr(a.body, begun[i].has) || strstr(a.body, "purple")) {
            fail_msg("%s %s: %d: %s", begun[i].path, body, a.status, a.body);
        }
        free(a.all);
    }
    static const char *const bad[] = {"[" QUESTION "],\"continue_final_message\":true",
        "[" QUESTION "," BEGUN "],\"continue_final_message\":true,\"add_generation_prompt\":true"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[512];
        snprintf(body, sizeof body, "{\"messages\":%s}", bad[i]);
        assert_error(post(CHAT, body), CHAT, 400);
    }
    stop();
}

/* The text that a choice has, of an answer in one piece. New string. */
static char *text_of_choice(const struct answer *a, size_t index)
{
    json_t *value = json_of(a), *choice = json_array_get(json_object_get(value, "choices"), index);
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), index);
    char *text = strdup(json_string_value(json_object_get(choice, "text")));
    json_decref(value);
    return text;
}

/* Each of many prompts gets the reply that it gets alone, though more than may wait. */
static void test_prompt_lists(void **state)
{
    (void)state;
    enum { N = 20 };
    char body[1024];
    size_t n =
        (size_t)snprintf(body, sizeof body, "{\"max_tokens\":3,\"temperature\":0,\"prompt\":[");
    for (int i = 0; i < N; i++) {
        n += (size_t)snprintf(
            body + n, sizeof body - n, "%s%s", i ? "," : "", i % 2 ? "[0,505,506]" : "\"Many\"");
    }
    snprintf(body + n, sizeof body - n, "]}");
    start(NULL);
    struct answer one = post(TEXT, "{\"max_tokens\":3,\"temperature\":0,\"prompt\":\"Many\"}");
    struct answer two = post(TEXT, "{\"max_tokens\":3,\"temperature\":0,\"prompt\":[0,505,506]}");
    struct answer all = post(TEXT, body);
    char *want[2] = {text_of_choice(&one, 0), text_of_choice(&two, 0)};
    for (size_t i = 0; i < N; i++) {
        char *text = text_of_choice(&all, i);
        assert_string_equal(text, want[i % 2]);
        free(text);
    }
    assert_non_null(strstr(all.body, "\"prompt_tokens\":50,\"completion_tokens\":60"));
    free(one.all);
    free(two.all);
    free(all.all);
    free(want[0]);
    free(want[1]);

    all = post(TEXT, "{\"max_tokens\":2,\"temperature\":0,\"n\":2,\"prompt\":[\"Many\",\"Once\"],"
                     "\"stream\":true}");
    for (int i = 0; i < 4; i++) {
        char has[64];
        snprintf(
            has, sizeof has, "{\"index\":%d,\"text\":\"\",\"logprobs\":null,\"finish_reason\"", i);
        assert_non_null(strstr(all.body, has));
    }
    assert_non_null(strstr(all.body, "data: [DONE]"));
    free(all.all);
    assert_error(post(TEXT, "{\"prompt\":[\"a\",[]]}"), TEXT, 400);
    assert_error(post(TEXT, "{\"prompt\":[\"a\",null]}"), TEXT, 400);
    assert_error(post(TEXT, "{\"prompt\":[]}"), TEXT, 400);
    stop();
}

/* A reply with NULs is not cut at them, and may be sent back. */
static void test_nul_in_replies(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
    } asks[] = {
        {CHAT, "{" USER ",\"max_tokens\":3,\"logit_bias\":{\"4\":100},\"temperature\":0}"},
        {CHAT, "{\"messages\":[" QUESTION
               ",{\"role\":\"assistant\",\"content\":\"\\u0000a\\u0000\"}," QUESTION
               "],\"max_tokens\":3,\"logit_bias\":{\"4\":100},\"temperature\":0}"},
        {TEXT, "{\"prompt\":\"x\\u0000\",\"max_tokens\":3,\"logit_bias\":{\"4\":100},"
               "\"temperature\":0}"},
        {"/completion",
            "{\"prompt\":\"x\\u0000\",\"n_predict\":3,\"logit_bias\":[[4,100]],\"temperature\":0}"},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        struct answer a = post(asks[i].path, asks[i].body);
        if (a.status != 200 || !strstr(a.body, "\"\\u0000\\u0000\\u0000\"")) {
            fail_msg("%s: %d: %s", asks[i].body, a.status, a.body);
        }
        free(a.all);
    }
    stop();
}

#define TOOL(parameters)                                                                           \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":null,"         \
    "\"parameters\":" parameters "}}]"
#define U64                                                                                        \
    "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\",\"maximum\":"                \
    "18446744073709551615}}}"
#define LONG_TEXTS                                                                                 \
    "{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\",\"minLength\":4000,"          \
    "\"maxLength\":65536},\"p\":{\"type\":\"string\",\"pattern\":\"^[a-z]{1,9000}$\"}}}"

/* Tools as agents send them, with a template that knows tools and refuses a late system message. */
static void test_tools(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
        int status;
        const char *has;
    } asks[] = {
        {"/apply-template", "{" USER "," TOOL(U64) "}", 200, "9223372036854775807"},
        {CHAT, "{" USER ",\"max_tokens\":2," TOOL(U64) "}", 200, "choices"},
        {CHAT, "{" USER ",\"max_tokens\":2,\"tool_choice\":\"required\"," TOOL(U64) "}", 200,
            "choices"},
        {CHAT, "{" USER ",\"max_tokens\":2," TOOL(LONG_TEXTS) "}", 200, "choices"},
        {CHAT, "{" USER ",\"tool_choice\":\"any\"," TOOL(U64) "}", 400, "tool_choice must be"},
        {CHAT, "{" USER ",\"grammar\":\"root ::= \\\"a\\\"\"," TOOL(U64) "}", 400,
            "exclude each other"},
        {CHAT, "{" USER "," TOOL("3") "}", 400, "tools[0]: parameters"},
        {CHAT, "{" USER ",\"tools\":[{\"type\":\"web_search\"}]}", 400, "type web_search"},
        {CHAT, "{" USER ",\"tools\":[{\"type\":\"function\"}]}", 400, "tools[0] needs"},
        {"/apply-template", "{" USER ",\"tools\":[{\"type\":\"function\",\"name\":\"flat\"}]}", 200,
            "\\\"name\\\": \\\"flat\\\""},
        {MESSAGES,
            "{\"max_tokens\":2,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":"
            "\"system\","
            "\"content\":\"Be short.\"}],\"tools\":[{\"name\":\"f\",\"input_schema\":" U64 "}]}",
            200, "\"text\""},
        {MESSAGES,
            "{\"max_tokens\":2,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":"
            "\"assistant\","
            "\"content\":[{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{\"n\":"
            "18446744073709551615}}]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\","
            "\"tool_use_id\":\"a\",\"content\":\"a\\u0000b\"}]}],\"tools\":[{\"name\":\"f\","
            "\"input_schema\":" U64 "}]}",
            200, "\"text\""},
    };
    chat_template =
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
        "{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
        "<|user|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
        "{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|story|>{% endif %}";
    start(NULL);
    chat_template = NULL;
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        struct answer a = post(asks[i].path, asks[i].body);
        if (a.status != asks[i].status || !strstr(a.body, asks[i].has)) {
            fail_msg("%s %s: %d: %s", asks[i].path, asks[i].body, a.status, a.body);
        }
        free(a.all);
    }
    stop();
}

/* Requests with a piece repeated many times between head and tail. */
static const struct {
    const char *path, *head, *piece, *tail;
    int times, status;
} excesses[] = {
#define SCHEMA(schema)                                                                             \
    CHAT, "{" USER ",\"max_tokens\":4,\"response_format\":{\"type\":\"json_schema\","              \
          "\"json_schema\":{\"name\":\"x\",\"schema\":" schema
#define FORMAT(schema)                                                                             \
    "/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"stream\":false,"                              \
                     "\"options\":{\"num_predict\":4},\"format\":" schema
#define GRAMMAR "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":4,\"grammar\":\"root ::= "
#define CALL                                                                                       \
    CHAT, "{\"max_tokens\":4,\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_"       \
          "calls\":[{"                                                                             \
          "\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\""
#define CALL_END "\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"x\"}]}"
    {SCHEMA("{\"$ref\":\"#\""), "", "}}}}", 0, 400},
    {SCHEMA("{\"anyOf\":[{\"$ref\":\"#\"}]"), "", "}}}}", 0, 400},
    {SCHEMA("{\"type\":\"array\",\"minItems\":5,\"maxItems\":2,\"items\":{\"type\":\"string\"}"),
        "", "}}}}", 0, 400},
    {SCHEMA("{\"type\":\"array\",\"minItems\":100000,\"items\":{\"type\":\"string\"}"), "", "}}}}",
        0, 400},
    {SCHEMA("{\"enum\":[1"), ",1", "]}}}}", 500, 200},
    {SCHEMA("{\"enum\":[1"), ",1", "]}}}}", 10000, 400},
    {SCHEMA(""), "{\"anyOf\":[", "", 500, 400},
    {SCHEMA("{\"type\":\"string\",\"pattern\":\"^"), "x|", "x$\"}}}}", 10000, 400},
    {SCHEMA("{\"type\":\"string\",\"pattern\":\"^"), "(", "x$\"}}}}", 10000,
        200}, /* not a valid pattern: any text */
    {FORMAT("{\"$ref\":\"#\""), "", "}}", 0, 400},
    {FORMAT("{\"enum\":[1"), ",1", "]}}", 10000, 400},
    {FORMAT("{\"type\":\"array\",\"minItems\":5,\"maxItems\":2,\"items\":{\"type\":\"string\"}"),
        "", "}}", 0, 400},
    {GRAMMAR, "\\\"a\\\" | ", "\\\"b\\\"\"}", 1000, 200},
    {GRAMMAR, "\\\"a\\\" | ", "\\\"b\\\"\"}", 5000, 400},
    {GRAMMAR, "\\\"a\\\"? ", "\\\"b\\\"\"}", 50, 200},
    {GRAMMAR, "\\\"a\\\"? ", "\\\"b\\\"\"}", 200, 400},
    {GRAMMAR, "(", "\"}", 5000, 400},
    {GRAMMAR "\\\"a\\\"{5,2}", "", "\"}", 0, 400},
    {GRAMMAR "\\\"a\\\"{100000}", "", "\"}", 0, 400},
    {GRAMMAR "[z-a]", "", "\"}", 0, 400},
    {CALL, "[", CALL_END, 50000, 400},
    {CALL, "{\\\"a\\\":", CALL_END, 5000, 400},
    {CHAT, "{\"max_tokens\":4,\"messages\":[{\"role\":\"user\",\"content\":", "[", "}]}", 5000,
        400},
};

static void test_excesses(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof excesses / sizeof *excesses; i++) {
        char body[64 << 10];
        size_t n = (size_t)snprintf(body, sizeof body, "%s", excesses[i].head);
        for (int k = 0; k < excesses[i].times; k++) {
            n += (size_t)snprintf(body + n, sizeof body - n, "%s", excesses[i].piece);
            assert_true(n < sizeof body);
        }
        snprintf(body + n, sizeof body - n, "%s", excesses[i].tail);
        uint64_t began = fb_now_ns();
        struct answer a = post(excesses[i].path, body);
        if (a.status != excesses[i].status || fb_now_ns() - began > 10 * (uint64_t)1000000000) {
            fail_msg("%zu, %s: %d: %s", i, excesses[i].head, a.status, a.body);
        }
        free(a.all);
    }
    stop();
}

/* A grammar of 40 rules, each of which begins with the next in two ways: 2^40 ways in all. */
static void test_doubling(void **state)
{
    (void)state;
    char body[4096];
    size_t n =
        (size_t)snprintf(body, sizeof body, "{\"prompt\":\"x\",\"grammar\":\"root ::= r0\\n");
    for (int i = 0; i < 40; i++) {
        n += (size_t)snprintf(body + n, sizeof body - n, "r%d ::= r%d | r%d\\n", i, i + 1, i + 1);
    }
    snprintf(body + n, sizeof body - n, "r40 ::= \\\"a\\\"\"}");
    start(NULL);
    assert_error(post("/v1/completions", body), "/v1/completions", 400);
    stop();
}

/* Sends a template; the answer must have this status and contain `has`. */
static void assert_templated(const char *template, int status, const char *has)
{
    char body[512];
    snprintf(body, sizeof body,
        "{" OLLAMA ",\"prompt\":\"Once\",\"template\":\"%s\",\"stream\":false,"
        "\"options\":{\"num_predict\":2}}",
        template);
    struct answer a = post("/api/generate", body);
    if (a.status != status || !strstr(a.body, has)) {
        fail_msg("%s: %d: %s", template, a.status, a.body);
    }
    free(a.all);
}

static void test_templates(void **state)
{
    (void)state;
    static const char endless[] =
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    start(NULL);
    assert_templated("", 200, "\"response\":");
    assert_templated(endless, 400, "--client-templates");
    assert_templated("{{ .Prompt }}", 400, "Jinja");
    stop();
    start_with(NULL, true);
    assert_templated("{% for m in messages %}{{ m.content }}{% endfor %}", 200,
        "\"prompt_eval_count\":2,"); /* BOS and "Once" alone */
    assert_templated("{% for %}", 400, "template");
    assert_templated("{{ .Prompt }}", 400, "Jinja");
    stop();
}

/* Writes a copy of the model to a new file, with pairs of strings of equal length replaced (once
 * each). Returns its path, to be unlinked and freed. */
static char *write_changed(const char *const pairs[][2], size_t n_pairs)
{
    size_t cap = 16u << 20;
    char *bytes = malloc(cap), *path = strdup("/tmp/forebay-test-XXXXXX");
    FILE *from = fopen(shared_model(MODEL), "rb"), *to = fdopen(mkstemp(path), "wb");
    assert_non_null(from);
    assert_non_null(to);
    size_t n = fread(bytes, 1, cap, from);
    for (size_t i = 0; i < n_pairs; i++) {
        char *at = memmem(bytes, n, pairs[i][0], strlen(pairs[i][0]));
        assert_non_null(at);
        memcpy(at, pairs[i][1], strlen(pairs[i][1]));
    }
    assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(from);
    fclose(to);
    free(bytes);
    return path;
}

/* Starts a server on a file, which is then removed. */
static void start_on(char *path)
{
    model_file = path;
    start(NULL);
    model_file = MODEL;
    unlink(path);
    free(path);
}

static void test_infill(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"arket", "<PRE>"}, {"inute", "<SUF>"}, {"aired", "<MID>"}};
    static const struct {
        const char *path, *body, *has;
    } asks[] = {
        {"/infill", "{\"input_prefix\":\"Once\",\"input_suffix\":\" upon\",\"n_predict\":2}",
            "\"tokens_evaluated\":6"}, /* BOS, three tokens for infilling, two of text */
        {"/infill",
            "{\"input_prefix\":\"Once\",\"prompt\":\" upon\",\"input_extra\":[{\"filename\":\"x\","
            "\"text\":\"y\"}],\"n_predict\":2}",
            "\"stop_type\":\"limit\""},
        {TEXT, "{\"prompt\":\"Once\",\"suffix\":\" upon\",\"max_tokens\":2}",
            "\"prompt_tokens\":6"},
        {"/api/generate",
            "{" OLLAMA ",\"prompt\":\"Once\",\"suffix\":\" upon\",\"stream\":false,"
            "\"options\":{\"num_predict\":2}}",
            "\"prompt_eval_count\":6"},
    };
    start_on(write_changed(pairs, 3));
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        struct answer a = post(asks[i].path, asks[i].body);
        if (a.status != 200 || !strstr(a.body, asks[i].has)) {
            fail_msg("%s %s: %d: %s", asks[i].path, asks[i].body, a.status, a.body);
        }
        free(a.all);
    }
    assert_error(post("/infill", "{}"), "/infill", 400);
    assert_error(post("/infill", "{\"input_prefix\":\"x\",\"input_extra\":[1]}"), "/infill", 400);
    stop();
}

static void test_broken_template(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"{%- if", "{{- if"}};
    start_on(write_changed(pairs, 1));
    struct answer a = post(TEXT, "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    free(a.all);
    a = post(CHAT, "{" USER "}");
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.body, "chat is not available: the chat template is invalid"));
    free(a.all);
    a = post("/api/show", "{" OLLAMA "}");
    assert_int_equal(a.status, 200);
    free(a.all);
    stop();
}

static void test_keys(void **state)
{
    (void)state;
    start("secret");
    static const char *const wrong[] = {"", "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrets\r\n", "Authorization: Bearer \r\n",
        "Authorization: Basic secret\r\n", "x-api-key: Secret\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_error(ask_with("GET", "/v1/models", wrong[i], "", 0), "/v1/models", 401);
        assert_error(ask_with("POST", "/nothing", wrong[i], "", 0), "/nothing", 401);
    }
    static const char *const right[] = {
        "Authorization: Bearer secret\r\n", "x-api-key: secret\r\n"};
    for (size_t i = 0; i < 2; i++) {
        struct answer a = ask_with("GET", "/v1/models", right[i], "", 0);
        assert_int_equal(a.status, 200);
        free(a.all);
    }
    struct answer a = ask_with("GET", "/health", "", "", 0);
    assert_int_equal(a.status, 200);
    free(a.all);
    stop();
}

/* Pages of other sites are refused, by Origin or by Host. */
static void test_foreign_pages(void **state)
{
    (void)state;
    start(NULL);
    assert_error(
        ask_with("GET", "/v1/models", "Origin: http://evil.example\r\n", "", 0), "/v1/models", 403);
    struct answer a = ask_with("GET", "/v1/models", "Origin: http://localhost:3000\r\n", "", 0);
    assert_int_equal(a.status, 200);
    free(a.all);
    static const char *const rebound[] = {"evil.example", "127.0.0.1.evil.example"};
    for (int i = 0; i < 2; i++) {
        char head[128];
        int fd = dial();
        snprintf(head, sizeof head,
            "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rebound[i]);
        send_all(fd, head, strlen(head));
        assert_error(read_answer(fd), "/v1/models", 403);
    }
    stop();
}

/* Headers for pages that may use the server, on every answer, and the question before it. */
static void test_cross_origin(void **state)
{
    (void)state;
    static const char listed[] = "Origin: app://obsidian.md\r\n";
    static const char *const pages[] = {
        listed, "Origin: http://localhost:3000\r\n", "Origin: chrome-extension://abc\r\n"};
    static const char asking[] =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type, "
        "authorization\r\nOrigin: http://localhost:3000\r\n";
    for (int keyed = 0; keyed < 2; keyed++) {
        origins = "app://, https://a.example, chrome-extension://*";
        start(keyed ? "secret" : NULL);
        origins = NULL;
        for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
            char want[128];
            snprintf(want, sizeof want, "\r\nAccess-Control-Allow-%s", pages[i]);
            struct answer a = ask_with("GET", "/v1/models", pages[i], "", 0);
            assert_int_equal(a.status, keyed ? 401 : 200);
            assert_non_null(strstr(a.all, want));
            free(a.all);
        }
        struct answer a = ask_with("OPTIONS", CHAT, asking, "", 0);
        assert_int_equal(a.status, 204);
        assert_non_null(
            strstr(a.all, "\r\nAccess-Control-Allow-Origin: http://localhost:3000\r\n"));
        assert_non_null(strstr(a.all, "\r\nAccess-Control-Allow-Methods: POST, OPTIONS\r\n"));
        assert_non_null(
            strstr(a.all, "\r\nAccess-Control-Allow-Headers: content-type, authorization\r\n"));
        free(a.all);
        a = ask_with("OPTIONS", CHAT, "Origin: http://evil.example\r\n", "", 0);
        assert_int_equal(a.status, keyed ? 204 : 403);
        assert_null(strstr(a.all, "Access-Control"));
        free(a.all);
        stop();
    }
    start(NULL);
    assert_error(ask_with("GET", "/v1/models", listed, "", 0), "/v1/models", 403);
    const char stream[] = "{\"prompt\":\"x\",\"max_tokens\":2,\"stream\":true}";
    struct answer a =
        ask_with("POST", TEXT, "Origin: http://127.0.0.1:5173\r\n", stream, strlen(stream));
    assert_non_null(strstr(a.all, "\r\nAccess-Control-Allow-Origin: http://127.0.0.1:5173\r\n"));
    assert_non_null(strstr(a.body, "[DONE]"));
    free(a.all);
    a = ask_with("POST", TEXT, "Origin: http://localhost\r\n", "{", 1);
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.all, "\r\nAccess-Control-Allow-Origin: http://localhost\r\n"));
    free(a.all);
    assert_error(ask_with("OPTIONS", "/nothing", "", "", 0), "/nothing", 404);
    static const char *const hosts[] = {"host.docker.internal:8080", "app.localhost"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        char head[128];
        int fd = dial();
        snprintf(head, sizeof head,
            "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", hosts[i]);
        send_all(fd, head, strlen(head));
        a = read_answer(fd);
        assert_int_equal(a.status, 200);
        free(a.all);
    }
    stop();
}

/* --- Busy servers, leaving and slow clients ------------------------------------------------ */

#define LONG_STREAM                                                                                \
    "{\"prompt\":\"Once\",\"max_tokens\":240,\"ignore_eos\":true,\"stream\":true,\"temperature\":" \
    "0}"

static int begin_stream(void)
{
    char head[256];
    int fd = dial();
    snprintf(head, sizeof head,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Content-Length: %zu\r\n\r\n",
        strlen(LONG_STREAM));
    send_all(fd, head, strlen(head));
    send_all(fd, LONG_STREAM, strlen(LONG_STREAM));
    return fd;
}

static void wait_until_empty(void)
{
    for (int i = 0; i < 2000 && !fb_service_is_empty(f.service); i++) {
        usleep(5000);
    }
    assert_true(fb_service_is_empty(f.service));
}

static void test_leaving(void **state)
{
    (void)state;
    struct fb_service_stats stats;
    start(NULL);
    for (int i = 0; i < 6; i++) {
        int fd = begin_stream();
        char some[64];
        if (i % 2) {
            assert_true(receive(fd, some, sizeof some) > 0);
        }
        close(fd);
    }
    wait_until_empty();
    fb_service_stats(f.service, &stats);
    assert_int_equal(stats.failed, 0);
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    free(a.all);
    stop();
}

/* A client that closes only its sending half cannot be told from one that has left: its request is
 * cancelled, and a 400 says so, as it may still read. */
static void test_half_closing(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
    } requests[] = {
        {"/v1/completions", LONG_STREAM},
        {"/v1/completions", "{\"prompt\":\"Once\",\"max_tokens\":240,\"ignore_eos\":true}"},
        {"/api/generate", "{" OLLAMA ",\"prompt\":\"Once\"}"},
        {"/api/generate", "{" OLLAMA ",\"prompt\":\"Once\",\"stream\":false}"},
    };
    struct fb_service_stats stats;
    start(NULL);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        char request[512];
        int fd = dial(), n = snprintf(request, sizeof request,
                             "POST %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s", requests[i].path,
                             strlen(requests[i].body), requests[i].body);
        assert_int_equal(send(fd, request, (size_t)n, MSG_NOSIGNAL | MSG_MORE), n);
        shutdown(fd, SHUT_WR); /* arrives together with the request */
        struct answer a = read_answer(fd);
        assert_non_null(strstr(a.body, "closed its half of the connection"));
        assert_error(a, requests[i].path, 400);
    }
    wait_until_empty();
    fb_service_stats(f.service, &stats);
    assert_true(stats.cancelled > 0);
    stop();
}

static void test_busy(void **state)
{
    (void)state;
    int fds[12], refused = 0;
    start(NULL);
    for (int i = 0; i < 12; i++) {
        fds[i] = begin_stream();
    }
    for (int i = 0; i < 12; i++) {
        struct answer a = read_answer(fds[i]);
        assert_true(a.status == 200 || a.status == 429);
        if (a.status == 429) {
            assert_non_null(strstr(a.all, "Retry-After:"));
            refused++;
        } else {
            assert_non_null(strstr(a.body, "data: [DONE]"));
        }
        free(a.all);
    }
    assert_true(refused > 0);
    stop();
}

/* Clients that send nothing more are disconnected, and do not hold up others. */
static void test_slow(void **state)
{
    (void)state;
    start(NULL);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        const char *part = i % 2 ? "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
                                 : "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                   "Content-Length: 1000\r\n\r\n{\"prompt\"";
        fds[i] = dial();
        send_all(fds[i], part, strlen(part));
    }
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    free(a.all);
    for (int i = 0; i < 4; i++) {
        char some[256];
        ssize_t n;
        while ((n = receive(fds[i], some, sizeof some)) > 0) {
        }
        assert_true(n == 0 || errno == ECONNRESET); /* closed by the server */
        close(fds[i]);
    }
    stop();
}

/* Trickling bytes do not extend the deadline: of headers, of a body, of a chunk's extension. */
static void test_dripping(void **state)
{
    (void)state;
    static const char *const beginnings[] = {"GET /health HTTP/1.1\r\nX-Filler: ",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5;",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX-Filler: "};
    enum { N = sizeof beginnings / sizeof *beginnings };
    int fds[N], open = N;
    start(NULL);
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        send_all(fds[i], beginnings[i], strlen(beginnings[i]));
    }
    uint64_t end = fb_now_ns() + (uint64_t)PATIENCE_S * 1000000000u;
    while (open > 0 && fb_now_ns() < end) {
        usleep(200000); /* often enough for the timeout of silence never to expire */
        for (int i = 0; i < N; i++) {
            char some[4096];
            if (fds[i] < 0) {
                continue;
            }
            send(fds[i], "x", 1, MSG_NOSIGNAL);
            ssize_t n = recv(fds[i], some, sizeof some, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno == ECONNRESET)) {
                close(fds[i]);
                fds[i] = -1;
                open--;
            }
        }
    }
    assert_int_equal(open, 0);
    stop();
}

static void test_draining(void **state)
{
    (void)state;
    start(NULL);
    int fd = begin_stream();
    while (fb_service_is_empty(f.service)) {
        usleep(1000);
    }
    fb_service_drain(f.service);
    assert_error(
        post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}"), "/v1/completions", 503);
    struct answer a = read_answer(fd);
    assert_non_null(strstr(a.body, "data: [DONE]"));
    free(a.all);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_prefill),
        cmocka_unit_test(test_prompt_lists),
        cmocka_unit_test(test_nul_in_replies),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_excesses),
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_infill),
        cmocka_unit_test(test_broken_template),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_foreign_pages),
        cmocka_unit_test(test_cross_origin),
        cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_half_closing),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_dripping),
        cmocka_unit_test(test_draining),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
