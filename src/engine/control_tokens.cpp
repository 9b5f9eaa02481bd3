/* control_tokens.cpp - see control_tokens.h. */
#include "engine/control_tokens.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

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
    size_t begun = fb_tokenizer_begun_at_end(tokenizer, text);
    for (size_t pos = 0; pos < text.size();) {
        size_t length = fb_tokenizer_control_at(tokenizer, text, pos);
        if (pos >= begun) {
            out += marks.open + text.substr(pos) + marks.close;
            break;
        }
        if (length > 0) {
            out += marks.open + text.substr(pos, length) + marks.close;
            pos += length;
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

std::vector<llama_token> ControlTokens::tokenize(
    std::string &text, const Marks &marks, const std::function<void()> &check) const
{
    std::string clean;
    std::vector<fb_byte_range> guarded;
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
    return fb_tokenizer_run(tokenizer, text, true, guarded, check);
}
