/* control_tokens.cpp - see control_tokens.h. */
#include "engine/control_tokens.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <stdexcept>

ControlTokens::ControlTokens(const llama_vocab *v) : vocab(v)
{
    for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
        int attr = llama_vocab_get_attr(vocab, id);
        const char *name = llama_vocab_get_text(vocab, id);
        if ((attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) && name && name[0]) {
            by_lead[(unsigned char)name[0]].push_back({name, id,
                (attr & LLAMA_TOKEN_ATTR_LSTRIP) != 0, (attr & LLAMA_TOKEN_ATTR_RSTRIP) != 0});
        }
    }
    for (auto &list : by_lead) {
        std::stable_sort(list.begin(), list.end(),
            [](const Token &a, const Token &b) { return a.name.size() > b.name.size(); });
    }
}

/* The control token whose name stands at `pos`, or NULL. */
const ControlTokens::Token *ControlTokens::at(const std::string &text, size_t pos) const
{
    for (const Token &token : by_lead[(unsigned char)text[pos]]) {
        if (text.compare(pos, token.name.size(), token.name) == 0) {
            return &token;
        }
    }
    return nullptr;
}

/* Position of a name that is cut off by the end of the text; its length if there is none. */
size_t ControlTokens::begun_at_end(const std::string &text) const
{
    size_t longest = 0;
    for (const auto &list : by_lead) {
        longest = list.empty() ? longest : std::max(longest, list.front().name.size());
    }
    for (size_t pos = text.size() - std::min(text.size(), longest); pos < text.size(); pos++) {
        size_t left = text.size() - pos;
        for (const Token &token : by_lead[(unsigned char)text[pos]]) {
            if (token.name.size() > left && text.compare(pos, left, token.name, 0, left) == 0) {
                return pos;
            }
        }
    }
    return text.size();
}

ControlTokens::Marks ControlTokens::choose_marks(const std::string &request)
{
    std::string lower(request); /* JSON's \u escapes may mix cases */
    std::transform(lower.begin(), lower.end(), lower.begin(),
        [](char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c; });
    std::vector<std::string> free;
    for (int i = 0; i < 32 && free.size() < 2; i++) { /* U+FDD0 to U+FDEF */
        std::string mark = {(char)0xef, (char)0xb7, (char)(0x90 + i)};
        char escaped[8];
        snprintf(escaped, sizeof escaped, "fd%02x", 0xd0 + i);
        if (lower.find(mark) == std::string::npos && lower.find(escaped) == std::string::npos) {
            free.push_back(mark);
        }
    }
    if (free.size() < 2) {
        throw std::invalid_argument("the messages contain all of Unicode's noncharacters");
    }
    return {free[0], free[1]};
}

std::string ControlTokens::protect(const std::string &text, const Marks &marks) const
{
    std::string out;
    size_t begun = begun_at_end(text);
    for (size_t pos = 0; pos < text.size();) {
        const Token *token = at(text, pos);
        if (pos >= begun) {
            out += marks.open + text.substr(pos) + marks.close;
            break;
        }
        if (token) {
            out += marks.open + token->name + marks.close;
            pos += token->name.size();
        } else {
            out += text[pos++];
        }
    }
    return out;
}

std::string ControlTokens::without_marks(const std::string &text, const Marks &marks)
{
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
        if (text.compare(pos, marks.open.size(), marks.open) == 0 ||
            text.compare(pos, marks.close.size(), marks.close) == 0) {
            pos += marks.open.size();
        } else {
            out += text[pos++];
        }
    }
    return out;
}

static std::vector<llama_token> tokenize_plain(
    const llama_vocab *vocab, const std::string &text, bool special)
{
    int32_t n =
        -llama_tokenize(vocab, text.data(), (int32_t)text.size(), nullptr, 0, special, special);
    std::vector<llama_token> tokens(n > 0 ? (size_t)n : 0);
    if (n > 0) {
        llama_tokenize(
            vocab, text.data(), (int32_t)text.size(), tokens.data(), n, special, special);
    }
    return tokens;
}

std::vector<llama_token> ControlTokens::tokenize(std::string &text, const Marks &marks) const
{
    std::string clean;
    std::vector<Range> guarded;
    size_t open = std::string::npos;
    for (size_t pos = 0; pos < text.size();) {
        if (text.compare(pos, marks.open.size(), marks.open) == 0) {
            open = clean.size();
            pos += marks.open.size();
        } else if (text.compare(pos, marks.close.size(), marks.close) == 0) {
            if (open != std::string::npos && open < clean.size()) {
                guarded.push_back({open, clean.size()});
            }
            open = std::string::npos;
            pos += marks.close.size();
        } else {
            clean += text[pos++];
        }
    }
    text = clean;
    return guarded.empty() ? tokenize_plain(vocab, text, true) : tokenize_apart(text, guarded);
}

/* As in llama.cpp: the text is divided at control tokens, some of which swallow the white space
 * around them, then each piece is tokenized by itself. Control tokens in guarded ranges do not
 * divide it. */
std::vector<llama_token> ControlTokens::tokenize_apart(
    const std::string &text, const std::vector<Range> &guarded) const
{
    std::vector<llama_token> out;
    std::string piece;
    auto flush = [&] {
        if (!piece.empty()) {
            auto tokens = tokenize_plain(vocab, piece, false);
            out.insert(out.end(), tokens.begin(), tokens.end());
            piece.clear();
        }
    };
    if (llama_vocab_get_add_bos(vocab)) {
        out.push_back(llama_vocab_bos(vocab));
    }
    size_t next = 0; /* guarded range not yet passed */
    for (size_t pos = 0; pos < text.size();) {
        while (next < guarded.size() && guarded[next].end <= pos) {
            next++;
        }
        const Token *token = at(text, pos);
        if (!token || (next < guarded.size() && guarded[next].begin < pos + token->name.size())) {
            piece += text[pos++];
            continue;
        }
        while (token->strip_left && !piece.empty() && isspace((unsigned char)piece.back())) {
            piece.pop_back();
        }
        flush();
        out.push_back(token->id);
        pos += token->name.size();
        while (token->strip_right && pos < text.size() && isspace((unsigned char)text[pos])) {
            pos++;
        }
    }
    flush();
    if (llama_vocab_get_add_eos(vocab)) {
        out.push_back(llama_vocab_eos(vocab));
    }
    return out;
}
