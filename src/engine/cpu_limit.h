/*
 * cpu_limit.h - bounds the processor time of a call into llama.cpp that cannot be interrupted.
 *
 * llama.cpp's grammars keep a set of stacks that can double with each character, so a grammar of 50
 * bytes makes the choice of a token take hours. Code that grows like this allocates all the time,
 * and C++ lets a program replace the function that it allocates with: while a limit is in force on
 * a thread, our operator new looks at the thread's processor time now and then, and throws.
 *
 * Only for calls in which every allocation may fail, such as llama.cpp's samplers: an exception out
 * of a destructor would end the process. It needs the replaced operator new to be the one that
 * libllama uses, which holds in our programs; libforebay keeps its own to itself, and no call is
 * interrupted there. Neither is one under a sanitizer, which has its own.
 */
#ifndef FB_ENGINE_CPU_LIMIT_H
#define FB_ENGINE_CPU_LIMIT_H

#include <cstdint>
#include <new>

/* What operator new throws. */
class fb_out_of_time : public std::bad_alloc
{
  public:
    const char *what() const noexcept override
    {
        return "it takes too long";
    }
};

/* In force on this thread during its life. Not nested. */
class fb_cpu_limit
{
  public:
    explicit fb_cpu_limit(int64_t ns);
    ~fb_cpu_limit();
    fb_cpu_limit(const fb_cpu_limit &) = delete;
    fb_cpu_limit &operator=(const fb_cpu_limit &) = delete;

    int64_t left_ns() const; /* negative once it was exceeded */
};

#endif
