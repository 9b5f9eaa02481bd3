/*
 * work_limit.h - bounds a call into llama.cpp that cannot be interrupted: its processor time, its
 * memory and its stack.
 *
 * llama.cpp's grammars keep a set of stacks that can double with each character, so a grammar of 50
 * bytes makes the choice of a token take hours; a chat template can loop for ever, recurse without
 * end, or make a list of a billion numbers. An honest one takes seconds for 100,000 messages, and
 * the client may leave meanwhile. Such code allocates all the time, and C++ lets a program replace
 * the function that it allocates with: while a limit is in force on a thread, our operator new
 * counts, looks at the clock now and then, asks whether the result is still wanted, and throws.
 *
 * It needs the replaced operator new to be the one that libllama uses, which holds in our programs;
 * libforebay keeps its own to itself, and no call is interrupted there. Neither is one under a
 * sanitizer, which has its own. An exception out of a destructor would end the process: the only
 * destructors that allocate, as far as we know, are those of the JSON library, so nothing is thrown
 * inside of it.
 */
#ifndef FB_ENGINE_WORK_LIMIT_H
#define FB_ENGINE_WORK_LIMIT_H

#include <cstddef>
#include <cstdint>
#include <new>

/* Processor time, memory that is allocated and not freed, and stack of a call; and whether anybody
 * still wants its result, which is asked often. */
struct fb_work {
    int64_t cpu_ns;
    int64_t live_bytes;
    size_t stack_bytes;
    bool (*wanted)(void *user) = nullptr; /* neither allocates nor throws; NULL: it is wanted */
    void *user = nullptr;
};

/* Thrown by operator new. */
class fb_too_much_work : public std::bad_alloc
{
  public:
    explicit fb_too_much_work(const char *what) : text(what)
    {
    }
    const char *what() const noexcept override
    {
        return text;
    }

  private:
    const char *text; /* "it takes too long", "it was cancelled", ... */
};

/* In force on this thread during its life. Not nested. */
class fb_work_limit
{
  public:
    explicit fb_work_limit(const fb_work &most);
    ~fb_work_limit();
    fb_work_limit(const fb_work_limit &) = delete;
    fb_work_limit &operator=(const fb_work_limit &) = delete;

    int64_t cpu_left_ns() const; /* negative once it was exceeded */
    const char *broken() const;  /* text of the exception, even if the callee caught it; or NULL */
    bool cancelled() const;      /* it was thrown because the result is not wanted */
};

#endif
