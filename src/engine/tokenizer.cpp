/*
 * tokenizer.cpp - see tokenizer.h.
 *
 * Dividing. llama.cpp goes through the special tokens (control, unknown, user-defined), the longest
 * names first, and cuts each out of the parts of the text that are left. We find at each position
 * the longest name in a trie, and process these places in llama.cpp's order: by the token's rank,
 * then by position. A place that overlaps an earlier one is replaced by the next shorter name at
 * the same position, if any. So there is at most one place for each byte.
 *
 * Stack. Pre-tokenizers that are std::regex take the same number of bytes of stack for each
 * character of a run (352 in the pinned library on x86-64), others none. Which characters make a
 * run depends on the regex, so the tokenizer is tried with texts of each kind on a stack filled
 * with a pattern:
 *
 *      letters | numerals | marks and symbols | white space  most
 *      everything but white space                            bloom, viking, poro-chat
 *      letters and spaces                                    exaone-moe
 *      lines                                                 none at present
 *
 * A character that is not ASCII counts as a letter, a numeral and a symbol.
 */
#include "engine/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "engine/guard.h"

extern "C" {
#include "base/error.h"
#include "os/thread.h"
}

/* --- Limits -------------------------------------------------------------------------------- */

static const size_t run_max = 1 << 16; /* characters; takes 22 MiB of stack, 0.4 s at most */
/* Digits, where they recurse: superbpe takes the square of their number, 1.1 s for these. */
static const size_t digits_max = 1 << 12;
static const size_t tokens_counted = 1 << 15; /* beyond the context: counted up to here */
static const size_t bytes_counted = 1 << 20;  /* the same for a text that is sure not to fit */
static const int seconds_max = 30;            /* for one text */

static const size_t plain_stack = 128u << 10; /* what any thread has left */
static const size_t spare_stack = 256u << 10; /* for all but the recursion */
static const size_t shared_stack = 2u << 20;  /* at most one thread at a time has a larger one */

static const size_t probe_chars = 1000;
static const size_t probe_stack = 1u << 20; /* 1 KiB for each of them */

/* Sets of characters whose runs may recurse. */
enum run_kind {
    RUN_LETTERS,
    RUN_DIGITS,
    RUN_NUMERALS,
    RUN_MARKS,
    RUN_SPACE,
    RUN_WORD,
    RUN_SPACED,
    RUN_LINE,
};
static const int n_run_kinds = RUN_LINE + 1;

/* Of each kind: a text whose repetition is one run. */
static const char *const probes[n_run_kinds][5] = {
    {"a", "A", "\xe4\xb8\xad", "\xc3\xa9", "aA"},
    {"1"},
    {"1"},
    {"!", "$", "_", "\xf0\x9f\x98\x80", "!$"},
    {" ", "\n", " \n", "\t"},
    {"a1", "a_", "a1_\xe4\xb8\xad"},
    {"a b ", "ab cd "},
    {"a1, b! ", "(a) 1; "},
};

struct trie_node {
    int rank = -1;           /* of the token whose name ends here */
    bool to_control = false; /* the name of a control token goes on from here */
};

struct special_token {
    std::string name;
    llama_token id;
    bool control;                 /* or unknown; else user-defined */
    bool strip_left, strip_right; /* swallows white space before, behind it */
};

struct fb_tokenizer {
    const llama_vocab *vocab;
    size_t n_ctx;
    size_t longest = 1;                  /* bytes of a token's name */
    std::vector<special_token> specials; /* by rank */
    std::vector<trie_node> nodes{1};
    std::unordered_map<uint64_t, int> edges; /* node and byte to node */
    bool begins[256] = {};                   /* bytes that some name begins with */
    std::vector<llama_token> before, after;  /* BOS, EOS and their like */

    /* Bytes of stack for each character of a run; measured when they are first needed. */
    mutable std::once_flag measured;
    mutable size_t stack_per_char[n_run_kinds] = {};
};

/* --- Special tokens ------------------------------------------------------------------------ */

static int next_node(const fb_tokenizer *t, int node, char c)
{
    auto edge = t->edges.find((uint64_t)node << 8 | (unsigned char)c);
    return edge == t->edges.end() ? -1 : edge->second;
}

static void add_name(fb_tokenizer *t, int rank)
{
    const special_token &token = t->specials[rank];
    int node = 0;
    t->begins[(unsigned char)token.name[0]] = true;
    for (char c : token.name) {
        t->nodes[node].to_control |= token.control;
        int next = next_node(t, node, c);
        if (next < 0) {
            next = (int)t->nodes.size();
            t->edges[(uint64_t)node << 8 | (unsigned char)c] = next;
            t->nodes.emplace_back();
        }
        node = next;
    }
    if (t->nodes[node].rank < 0) { /* of equal names, llama.cpp finds the first */
        t->nodes[node].rank = rank;
    }
}

static void read_specials(fb_tokenizer *t)
{
    for (llama_token id = 0; id < llama_vocab_n_tokens(t->vocab); id++) {
        const char *name = llama_vocab_get_text(t->vocab, id);
        int attr = llama_vocab_get_attr(t->vocab, id);
        size_t length = name ? strlen(name) : 0;
        t->longest = std::max(t->longest, length);
        bool control = attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN);
        if (length > 0 && (control || attr & LLAMA_TOKEN_ATTR_USER_DEFINED)) {
            t->specials.push_back({name, id, control, (attr & LLAMA_TOKEN_ATTR_LSTRIP) != 0,
                (attr & LLAMA_TOKEN_ATTR_RSTRIP) != 0});
        }
    }
    /* The call by which llama.cpp sorts them, so that equal lengths end up in the same order. */
    std::sort(
        t->specials.begin(), t->specials.end(), [](const special_token &a, const special_token &b) {
            return a.name.size() > b.name.size();
        });
    for (size_t rank = 0; rank < t->specials.size(); rank++) {
        add_name(t, (int)rank);
    }
}

size_t fb_tokenizer_control_at(const fb_tokenizer *t, const std::string &text, size_t pos)
{
    size_t found = 0;
    int node = 0;
    for (size_t i = pos; i < text.size() && t->nodes[node].to_control; i++) {
        node = next_node(t, node, text[i]);
        if (node < 0) {
            break;
        }
        int rank = t->nodes[node].rank;
        found = rank >= 0 && t->specials[rank].control ? i + 1 - pos : found;
    }
    return found;
}

size_t fb_tokenizer_begun_at_end(const fb_tokenizer *t, const std::string &text)
{
    size_t longest = t->specials.empty() ? 0 : t->specials[0].name.size();
    for (size_t pos = text.size() - std::min(text.size(), longest); pos < text.size(); pos++) {
        int node = 0;
        for (size_t i = pos; i < text.size() && node >= 0; i++) {
            node = next_node(t, node, text[i]);
        }
        if (node >= 0 && t->nodes[node].to_control) {
            return pos;
        }
    }
    return text.size();
}

/* --- Dividing ------------------------------------------------------------------------------ */

/* A name in the text. Places are processed by rank, then from left to right. */
struct special_place {
    int rank;
    size_t pos;

    bool operator>(const special_place &other) const
    {
        return rank != other.rank ? rank > other.rank : pos > other.pos;
    }
};

/* A piece of text, or a special token. */
struct text_part {
    llama_token token; /* -1: the bytes */
    size_t begin, end;
};

struct divider {
    const fb_tokenizer *t;
    const std::string &text;
    bool special;
    const std::vector<fb_byte_range> &plain;
    std::vector<bool> taken; /* bytes that belong to a special token, or were swallowed */
    std::vector<std::pair<size_t, int>> found; /* position and rank of the tokens cut out */
    std::priority_queue<special_place, std::vector<special_place>, std::greater<special_place>>
        places;

    bool is_plain(size_t begin, size_t end) const
    {
        auto range = std::upper_bound(plain.begin(), plain.end(), begin,
            [](size_t pos, const fb_byte_range &r) { return pos < r.end; });
        return range != plain.end() && range->begin < end;
    }

    /* Notes the longest name at `pos` that is shorter than `limit` bytes. */
    void note(size_t pos, size_t limit)
    {
        int best = -1;
        int node = 0;
        for (size_t i = pos;
             t->begins[(unsigned char)text[pos]] && i < text.size() && i - pos + 1 < limit; i++) {
            node = next_node(t, node, text[i]);
            if (node < 0) {
                break;
            }
            int rank = t->nodes[node].rank;
            if (rank >= 0 && (!t->specials[rank].control || (special && !is_plain(pos, i + 1)))) {
                best = rank;
            }
        }
        if (best >= 0) {
            places.push({best, pos});
        }
    }

    void cut_out(const special_place &at)
    {
        const special_token &token = t->specials[at.rank];
        size_t begin = at.pos, end = at.pos + token.name.size();
        found.push_back({begin, at.rank});
        std::fill(taken.begin() + (long)begin, taken.begin() + (long)end, true);
        while (token.strip_left && begin > 0 && !taken[begin - 1] &&
               isspace((unsigned char)text[begin - 1])) {
            taken[--begin] = true;
        }
        while (token.strip_right && end < text.size() && !taken[end] &&
               isspace((unsigned char)text[end])) {
            taken[end++] = true;
        }
    }

    std::vector<text_part> parts()
    {
        std::vector<text_part> out;
        std::sort(found.begin(), found.end());
        size_t next = 0;
        for (size_t pos = 0; pos < text.size();) {
            size_t begin = pos;
            if (next < found.size() && found[next].first == pos) {
                const special_token &token = t->specials[found[next++].second];
                pos += token.name.size();
                out.push_back({token.id, begin, pos});
            } else if (taken[pos]) {
                pos++;
            } else {
                while (pos < text.size() && !taken[pos]) {
                    pos++;
                }
                out.push_back({-1, begin, pos});
            }
        }
        return out;
    }
};

static std::vector<text_part> divide(const fb_tokenizer *t, const std::string &text, bool special,
    const std::vector<fb_byte_range> &plain)
{
    divider d{t, text, special, plain, std::vector<bool>(text.size()), {}, {}};
    for (size_t pos = 0; pos < text.size(); pos++) {
        d.note(pos, SIZE_MAX);
    }
    while (!d.places.empty()) {
        special_place at = d.places.top();
        size_t length = t->specials[at.rank].name.size();
        d.places.pop();
        if (d.taken[at.pos]) {
            continue;
        }
        /* What is taken is at least as long, so it covers one end. */
        if (d.taken[at.pos + length - 1]) {
            d.note(at.pos, length);
        } else {
            d.cut_out(at);
        }
    }
    return d.parts();
}

/* --- Stack --------------------------------------------------------------------------------- */

static void call_llama(
    const llama_vocab *vocab, const char *text, size_t length, std::vector<llama_token> &out)
{
    size_t before = out.size();
    out.resize(before + length + 16);
    int32_t n = llama_tokenize(
        vocab, text, (int32_t)length, out.data() + before, (int32_t)(length + 16), false, false);
    if (n < 0 && n != INT32_MIN) { /* more tokens than bytes */
        out.resize(before + (size_t)-n);
        n = llama_tokenize(vocab, text, (int32_t)length, out.data() + before, -n, false, false);
    }
    out.resize(before + (size_t)std::max(n, 0));
}

/* llama.cpp looks up the token of a byte without asking whether there is one. */
static void tokenize_here(
    const llama_vocab *vocab, const char *text, size_t length, std::vector<llama_token> &out)
{
    try {
        call_llama(vocab, text, length, out);
    } catch (const std::out_of_range &) {
        throw fb_refusal(FOREBAY_E_USAGE,
            "the vocabulary has no token for a byte of the text (a space counts, too)",
            "Use another model, or give token ids (--tokens).");
    }
}

struct stack_call {
    const llama_vocab *vocab;
    const char *text;
    size_t length;
    std::vector<llama_token> *out;
    bool ok;
    std::string why;
    std::exception_ptr refusal; /* ours, where it was not ok */
};

static void *tokenize_there(void *arg)
{
    auto call = (stack_call *)arg;
    call->ok = fb_guarded(
        [&] {
            try {
                tokenize_here(call->vocab, call->text, call->length, *call->out);
            } catch (const fb_refusal &) {
                call->refusal = std::current_exception();
            }
            return call->refusal == nullptr;
        },
        call->why);
    return nullptr;
}

/* Bytes of stack that the text takes for each of its characters. */
static size_t measure(const fb_tokenizer *t, const char *repeated, std::vector<char> &memory)
{
    std::string text;
    for (size_t n = 0; n < probe_chars;) {
        for (const char *c = repeated; *c; c++) {
            text += *c;
            n += ((unsigned char)*c & 0xc0) != 0x80;
        }
    }
    const uint64_t pattern = 0xa5a5a5a5a5a5a5a5;
    const size_t page = 1 << 16; /* a multiple of any page size */
    auto stack = (uint64_t *)(memory.data() + (page - (uintptr_t)memory.data() % page) % page);
    std::fill(stack, stack + probe_stack / sizeof *stack, pattern);
    std::vector<llama_token> tokens;
    stack_call call = {t->vocab, text.data(), text.size(), &tokens, false, "", nullptr};
    if (fb_thread_call(stack, probe_stack, tokenize_there, &call) != 0) {
        throw std::runtime_error("a thread cannot be started");
    }
    size_t unused = 0;
    while (unused < probe_stack / sizeof *stack && stack[unused] == pattern) {
        unused++;
    }
    size_t used = probe_stack - unused * sizeof *stack;
    return used > plain_stack ? used / probe_chars + 1 : 0;
}

static void measure_all(const fb_tokenizer *t)
{
    std::vector<char> memory(probe_stack + (1 << 16));
    for (int kind = 0; kind < n_run_kinds; kind++) {
        for (const char *probe : probes[kind]) {
            t->stack_per_char[kind] =
                std::max(t->stack_per_char[kind], probe ? measure(t, probe, memory) : 0);
        }
    }
}

/* The longest run of each kind, in characters. */
struct run_lengths {
    size_t longest[n_run_kinds] = {};
};

static bool is_wide_space(const std::string &text, size_t pos)
{
    static const char *const spaces[] = {"\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    for (const char *space : spaces) {
        if (text.compare(pos, strlen(space), space) == 0) {
            return true;
        }
    }
    return text.compare(pos, 2, "\xe2\x80") == 0 && pos + 2 < text.size() && /* U+2000 to 200A */
           (unsigned char)text[pos + 2] >= 0x80 && (unsigned char)text[pos + 2] <= 0x8a;
}

static run_lengths measure_runs(const std::string &text, size_t begin, size_t end)
{
    run_lengths runs;
    size_t now[n_run_kinds] = {};
    for (size_t pos = begin; pos < end; pos++) {
        unsigned char c = (unsigned char)text[pos];
        if ((c & 0xc0) == 0x80) {
            continue; /* counted with its first byte */
        }
        bool wide = c >= 0x80, space = wide ? is_wide_space(text, pos) : isspace(c);
        bool other = wide && !space;
        const bool in[n_run_kinds] = {isalpha(c) || other, isdigit(c) != 0, isdigit(c) || other,
            (!wide && !isalnum(c) && !space) || other, space, !space,
            isalpha(c) || other || c == ' ', c != '\n'};
        for (int kind = 0; kind < n_run_kinds; kind++) {
            now[kind] = in[kind] ? now[kind] + 1 : 0;
            runs.longest[kind] = std::max(runs.longest[kind], now[kind]);
        }
    }
    return runs;
}

/* Bytes of stack for the runs; 0: those of any thread suffice. */
static size_t stack_needed(const fb_tokenizer *t, const run_lengths &runs)
{
    size_t most = *std::max_element(runs.longest, runs.longest + n_run_kinds);
    if (most * sizeof(void *) * 64 <= plain_stack) { /* 512 bytes for each */
        return 0;
    }
    std::call_once(t->measured, measure_all, t);
    size_t needed = 0;
    for (int kind = 0; kind < n_run_kinds; kind++) {
        size_t n = runs.longest[kind], per_char = t->stack_per_char[kind];
        size_t max = kind == RUN_DIGITS ? digits_max : run_max;
        if (per_char > 0 && n > max) {
            throw fb_refusal(FOREBAY_E_USAGE,
                "the text has a run of " + std::to_string(n) +
                    " characters without a break; this model's tokenizer "
                    "takes at most " +
                    std::to_string(max),
                "Break it up.");
        }
        needed = std::max(needed, n * per_char);
    }
    /* Twice: a word and the white space behind it may be one match. */
    return needed == 0 ? 0 : 2 * needed + spare_stack;
}

static void tokenize_piece(const fb_tokenizer *t, const std::string &text, size_t begin, size_t end,
    std::vector<llama_token> &out)
{
    static std::mutex large; /* whoever has a large stack */
    size_t stack = stack_needed(t, measure_runs(text, begin, end));
    if (stack == 0) {
        tokenize_here(t->vocab, text.data() + begin, end - begin, out);
        return;
    }
    std::unique_lock<std::mutex> lock(large, std::defer_lock);
    if (stack > shared_stack) {
        lock.lock();
    }
    stack_call call = {t->vocab, text.data() + begin, end - begin, &out, false, "", nullptr};
    const size_t unit = 1 << 16; /* a multiple of any page size */
    if (fb_thread_call(nullptr, (stack + unit - 1) / unit * unit, tokenize_there, &call) != 0) {
        throw std::runtime_error(
            "no memory for a stack of " + std::to_string(stack >> 20) + " MiB");
    }
    if (call.refusal) {
        std::rethrow_exception(call.refusal);
    }
    if (!call.ok) {
        throw std::runtime_error(call.why);
    }
}

/* --- All of it ----------------------------------------------------------------------------- */

struct fb_tokenizer *fb_tokenizer_new(const struct llama_vocab *vocab, uint32_t n_ctx)
{
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return nullptr;
    }
    auto t = new fb_tokenizer;
    t->vocab = vocab;
    t->n_ctx = n_ctx;
    read_specials(t);
    llama_token around[16];
    int32_t n = llama_tokenize(vocab, "", 0, around, 16, true, true);
    size_t n_before = n > 1 ? 1 : n == 1 && llama_vocab_get_add_bos(vocab);
    for (int32_t i = 0; i < n; i++) {
        ((size_t)i < n_before ? t->before : t->after).push_back(around[i]);
    }
    return t;
}

void fb_tokenizer_free(struct fb_tokenizer *t)
{
    delete t;
}

[[noreturn]] static void refuse(const fb_tokenizer *t, size_t at_least)
{
    throw fb_refusal(FOREBAY_E_CONTEXT,
        "the text has more than " + std::to_string(at_least) + " tokens; at most " +
            std::to_string(t->n_ctx - 1) + " fit into the context of " + std::to_string(t->n_ctx),
        "Shorten it, or use a larger --ctx.");
}

std::vector<llama_token> fb_tokenizer_run(const fb_tokenizer *t, const std::string &text,
    bool special, const std::vector<fb_byte_range> &plain, const std::function<void()> &check)
{
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds_max);
    if (text.size() > bytes_counted && text.size() / t->longest > t->n_ctx) {
        refuse(t, text.size() / t->longest);
    }
    std::vector<llama_token> out;
    if (special) {
        out = t->before;
    }
    for (const text_part &p : divide(t, text, special, plain)) {
        check();
        if (out.size() > std::max(tokens_counted, 4 * t->n_ctx)) {
            refuse(t, out.size());
        }
        if (std::chrono::steady_clock::now() > deadline) {
            throw fb_refusal(FOREBAY_E_USAGE,
                "the text takes longer to tokenize than " + std::to_string(seconds_max) + " s");
        }
        if (p.token >= 0) {
            out.push_back(p.token);
        } else {
            tokenize_piece(t, text, p.begin, p.end, out);
        }
    }
    if (special) {
        out.insert(out.end(), t->after.begin(), t->after.end());
    }
    return out;
}

enum forebay_status fb_tokenizer_count(const struct fb_tokenizer *t, const char *text,
    size_t length, bool special, int32_t *tokens, size_t cap, size_t *n, struct forebay_error *err)
{
    std::vector<llama_token> got;
    enum forebay_status status = fb_guarded_status(FOREBAY_E_USAGE, err,
        "Shorten the text, or give token ids (--tokens).", "tokenize the text", [&] {
            got = fb_tokenizer_run(t, std::string(text, length), special, {});
            return true;
        });
    if (status == FOREBAY_OK) {
        *n = got.size();
        if (got.size() <= cap) {
            std::copy(got.begin(), got.end(), tokens);
        }
    }
    return status;
}
