/*
 * nesting.h - what a client may not send. llama.cpp reads grammars and schemas by recursion: what
 * nests deep enough ends the process. No honest one comes near these bounds.
 */
#ifndef ST_ENGINE_NESTING_H
#define ST_ENGINE_NESTING_H

#include <string>

#include "common/chat.h"

/* Throw std::invalid_argument. */
void st_check_grammar(const std::string &grammar);
void st_check_schema(const common_json &schema);

#endif
