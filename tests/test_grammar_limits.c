/* test_grammar_limits.c - grammars and schemas on which llama.cpp's sampler would not return. */
#include "own_model.h"
#include "base/units.h"

/* The token of a text that is one token. */
static int32_t token_of(const char *text)
{
    int32_t tokens[8];
    size_t n;
    assert_int_equal(
        forebay_tokenize(model, text, strlen(text), false, tokens, 8, &n, NULL), FOREBAY_OK);
    assert_int_equal(n, 1);
    return tokens[0];
}

/* Generates at most n tokens by a grammar, and gets `favourite` wherever it is allowed (NULL:
 * none). The status of the first pick that fails. */
static enum forebay_status generate(
    const char *grammar, const char *favourite, int n, struct forebay_error *err)
{
    struct forebay_session *session;
    struct forebay_sampler *sampler;
    struct forebay_sampling sampling;
    struct forebay_bias bias = {favourite ? token_of(favourite) : 0, 100};
    int32_t token = token_of("a");
    forebay_sampling_init(&sampling);
    sampling.temp = 0;
    sampling.grammar = grammar;
    sampling.biases = &bias;
    sampling.n_biases = favourite ? 1 : 0;
    enum forebay_status status = forebay_sampler_new(model, &sampling, NULL, &sampler, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    assert_int_equal(forebay_session_new(model, &session, NULL), FOREBAY_OK);
    for (int i = 0; i < n && status == FOREBAY_OK; i++) {
        assert_int_equal(forebay_eval(session, &token, 1, false, NULL), FOREBAY_OK);
        status = forebay_sampler_pick(sampler, session, 0, &token, err);
        if (status == FOREBAY_OK && forebay_model_is_eog(model, token)) {
            break;
        }
    }
    forebay_sampler_free(sampler);
    forebay_session_free(session);
    return status;
}

static char *grammar_of(const char *schema)
{
    char *grammar;
    struct forebay_error err;
    if (forebay_schema_grammar(schema, strlen(schema), &grammar, &err) != FOREBAY_OK) {
        fail_msg("%s: %s", schema, err.message);
    }
    return grammar;
}

static void refuse(const char *grammar, const char *favourite)
{
    struct forebay_error err;
    uint64_t before = fb_now_ns();
    enum forebay_status status = generate(grammar, favourite, 200, &err);
    if (status != FOREBAY_E_USAGE) {
        fail_msg("not refused: %s", grammar);
    }
    assert_non_null(strstr(err.message, "the grammar "));
    assert_true(fb_now_ns() - before < 60 * (uint64_t)1000000000); /* 0.6 s on an idle machine */
}

static void ambiguous_grammars_end_their_job(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* no limit there (cpu_limit.h) */
#endif
    refuse("root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"a\"", "a");
    refuse("root ::= s\ns ::= \"a\" (s \"b\" | s \"c\") | \"a\"", "a");
    refuse("root ::= s\ns ::= [a-z] s [0-9] | [a-y] s [0-8] | \"a\"", "a");
    refuse("root ::= s\ns ::= \"a\" s s s | \"a\"", "a");
    char *grammar = grammar_of("{\"$defs\":{\"s\":{\"anyOf\":[{\"type\":\"array\",\"prefixItems\":["
                               "{\"$ref\":\"#/$defs/s\"},"
                               "{\"const\":1}]},{\"type\":\"array\",\"prefixItems\":[{\"$ref\":\"#/"
                               "$defs/s\"},{\"const\":2}]},"
                               "{\"const\":0}]}},\"$ref\":\"#/$defs/s\"}");
    refuse(grammar, "[");
    free(grammar);
}

static void huge_repetitions_are_refused(void **state)
{
    (void)state;
    refuse("root ::= \"a\"{1,1000000}{1000000}", "a");
    refuse("root ::= (\"a\"{1,900}){900}", "a");
    refuse("root ::= \"a\"{99999999999999999999}", "a");
    refuse("root ::= root \"a\" | \"b\"", "a");
    refuse("root ::= s* \ns ::= t*\nt ::= u?\nu ::= s", "a");
}

/* --- Schemas ------------------------------------------------------------------------------- */

/* What a schema is made of: head, `times` pieces with their number in place of each '@' and the
 * next number in place of '^', middle, as many closings, tail. */
struct hostile {
    const char *head, *piece;
    int times;
    const char *middle, *closing, *tail;
    const char *why; /* of the refusal; NULL: it is converted */
};

static size_t add_numbered(char *to, const char *piece, int number)
{
    size_t n = 0;
    for (; *piece; piece++) {
        bool number_here = *piece == '@' || *piece == '^';
        n += number_here ? (size_t)sprintf(to + n, "%d", number + (*piece == '^'))
                         : (size_t)sprintf(to + n, "%c", *piece);
    }
    return n;
}

static char *write_schema(const struct hostile *h)
{
    char *text = malloc(8u << 20);
    size_t n = (size_t)sprintf(text, "%s", h->head);
    for (int i = 0; i < h->times; i++) {
        n += add_numbered(text + n, h->piece, i);
        assert_true(n < 7u << 20);
    }
    n += (size_t)sprintf(text + n, "%s", h->middle);
    for (int i = 0; i < h->times; i++) {
        n += (size_t)sprintf(text + n, "%s", h->closing);
    }
    sprintf(text + n, "%s", h->tail);
    return text;
}

/* In at most 0.6 s on an idle machine. */
static void convert(const struct hostile *h)
{
    char *schema = write_schema(h), *grammar = NULL;
    struct forebay_error err;
    uint64_t before = fb_now_ns();
    enum forebay_status status = forebay_schema_grammar(schema, strlen(schema), &grammar, &err);
    if (fb_now_ns() - before > 20 * (uint64_t)1000000000) {
        fail_msg("%s takes too long", h->head);
    }
    if (h->why && (status != FOREBAY_E_USAGE || !strstr(err.message, h->why))) {
        fail_msg("%s: %s", h->head, status == FOREBAY_OK ? "converted" : err.message);
    }
    if (!h->why && status != FOREBAY_OK) {
        fail_msg("%s: %s", h->head, err.message);
    }
    free(grammar);
    free(schema);
}

static void hostile_schemas_are_refused_soon(void **state)
{
    (void)state;
    static const struct hostile schemas[] = {
        {"{\"enum\":[0", ",@", 100000, "]}", "", "", "too large"},
        {"{\"enum\":[0", ",\"v@\"", 4000, "]}", "", "", NULL},
        {"{\"anyOf\":[{}", ",{\"const\":@}", 100000, "]}", "", "", "too large"},
        {"{\"allOf\":[{}", ",{\"properties\":{\"p@\":{\"const\":1}}}", 4000, "]}", "", "", NULL},
        {"{\"$defs\":{", "\"d@\":{\"items\":{\"$ref\":\"#/$defs/d^\"}},", 250,
            "\"d250\":{}},\"$ref\":\"#/$defs/d0\"}", "", "", NULL},
        {"{\"anyOf\":[{}", ",{\"$ref\":\"#/$defs/a\"}", 300, "]}", "", "", "too many references"},
        {"", "{\"type\":\"array\",\"minItems\":2000,\"items\":", 90, "{}", "}", "", NULL},
        {"", "{\"type\":\"array\",\"minItems\":2000,\"items\":", 300, "{}", "}", "",
            "nests too deeply"},
        {"{\"type\":[\"string\"", ",\"object\"", 4000, "]}", "", "", "too many types"},
        {"{\"anyOf\":[{}",
            ",{\"properties\":{\"a\":{},\"b\":{},\"c\":{},\"d\":{},\"e\":{},\"f\":{},\"g\":{},"
            "\"h\":{},\"i\":{},\"j\":{},\"k\":{},\"l\":{},\"m\":{},\"n\":{},\"o\":{},\"p\":{},"
            "\"q\":{},\"r\":{},\"s\":{},\"t\":{},\"u\":{},\"v\":{},\"w\":{},\"x\":{},\"y\":{}}}",
            1000, "]}", "", "", "too many properties"},
    };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        convert(&schemas[i]);
    }
    char *name = malloc(1 << 20);
    memset(name, 'x', (1 << 20) - 1);
    name[(1 << 20) - 1] = 0;
    convert(&(struct hostile){
        "{\"properties\":{\"", name, 1, "\":{}}}", "", "", "a name of 1048575 bytes"});
    free(name);
}

/* What is small as a schema, and large as a grammar. */
static void long_conversions_are_ended(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* no limit there (work_limit.h) */
#endif
    static const struct hostile schemas[] = {
        {"{\"prefixItems\":[{}",
            ",{\"type\":\"integer\",\"minimum\":-9000000000000000001,"
            "\"maximum\":9000000000000000001}",
            4000, "]}", "", "", "it takes too"},
        {"{\"allOf\":[{\"anyOf\":[{}", ",{\"properties\":{\"p@\":{}}}", 4000, "]}]}", "", "",
            "it takes too"},
    };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        convert(&schemas[i]);
    }
}

/* --- All ----------------------------------------------------------------------------------- */

/* Deep nesting alone is no reason. */
static void honest_grammars_are_not_limited(void **state)
{
    (void)state;
    static const char *const grammars[] = {
        "root ::= s\ns ::= \"a\" s \"b\" | \"c\"",
        "root ::= value\nvalue ::= [a-z]+ | \"[\" value (\",\" value)* \"]\" | \"\\\"\" [^\"]* "
        "\"\\\"\"",
        "root ::= ([a-z]+ [ .,]?)+",
    };
    for (size_t i = 0; i < sizeof grammars / sizeof grammars[0]; i++) {
        struct forebay_error err;
        if (generate(grammars[i], "a", 200, &err) != FOREBAY_OK) {
            fail_msg("%s: %s", grammars[i], err.message);
        }
    }
    struct forebay_error err;
    char *grammar = grammar_of("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},"
                               "\"b\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}}}");
    assert_int_equal(generate(grammar, NULL, 200, &err), FOREBAY_OK);
    free(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ambiguous_grammars_end_their_job),
        cmocka_unit_test(huge_repetitions_are_refused),
        cmocka_unit_test(hostile_schemas_are_refused_soon),
        cmocka_unit_test(long_conversions_are_ended),
        cmocka_unit_test(honest_grammars_are_not_limited),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
