/* schema.h - makes schemas of clients into such as llama.cpp can read. */
#ifndef FB_ENGINE_SCHEMA_H
#define FB_ENGINE_SCHEMA_H

#include "common/chat.h"

/* Reduces the limits in a value with schemas in it: integers to 64 bits, where the largest ones
 * mean no limit, and repetitions. Those of a tool are advice to the model; of a reply, a repetition
 * that is too large throws std::invalid_argument. */
void fb_clamp_schema(common_json &schemas, bool of_tool);

/* Replaces the schemas within a schema that are just `true` (anything is valid) by {}. `false` is
 * left to llama.cpp, which refuses it; of a tool, it becomes {} as well, and so do properties that
 * are null or an empty list. */
void fb_complete_schema(common_json &schema, bool of_tool);

#endif
