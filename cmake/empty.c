/* empty.c - stands in for a module that has no source file yet; archives may not be empty. */
extern int st_empty_module;
