/*
 * nesting.h - what a client may not send. llama.cpp reads grammars and schemas by recursion: what
 * nests deep enough ends the process. It also takes time, or memory, without a bound for some that
 * are short. No honest one comes near these bounds.
 */
#ifndef FB_ENGINE_NESTING_H
#define FB_ENGINE_NESTING_H

#include <string>

#include "common/chat.h"

const int fb_levels_max = 200; /* of brackets, schemas in schemas, messages */

/* Throw std::invalid_argument. */
void fb_check_grammar(const std::string &grammar);
void fb_check_paths(const std::string &grammar); /* a part of it: brackets, and ways to begin */
void fb_check_schema(const common_json &schema);
void fb_check_json(const std::string &text); /* that is to be parsed */

#endif
