/* grammar_paths.h - the number of ways in which a grammar may begin. */
#ifndef FB_ENGINE_GRAMMAR_PATHS_H
#define FB_ENGINE_GRAMMAR_PATHS_H

#include <string>

/* Brackets in brackets. llama.cpp reads them by recursion. */
const int fb_brackets_max = 200;

/* Throws std::invalid_argument when the grammar (GBNF) nests too deeply, is left-recursive, or can
 * begin in too many ways. Syntax errors are left to llama.cpp. */
void fb_check_paths(const std::string &grammar);

#endif
