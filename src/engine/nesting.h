/*
 * nesting.h - bounds on grammars, schemas and templates. llama.cpp reads all by recursion, so
 * deep nesting would overflow its stack and end the process; some short ones take unbounded time or
 * memory. The bounds are far above those of honest requests.
 */
#ifndef FB_ENGINE_NESTING_H
#define FB_ENGINE_NESTING_H

#include <string>

#include "common/chat.h"

/* Levels of schemas in schemas, and of values in messages. */
const int fb_levels_max = 200;

/* Each throws std::invalid_argument when a bound is exceeded. */
void fb_check_grammar(const std::string &grammar);
void fb_check_schema(const common_json &schema);
void fb_check_template(const std::string &source);
void fb_check_json(const std::string &text); /* before it is parsed; need not be valid JSON */

#endif
