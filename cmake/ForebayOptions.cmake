# Options, compiler flags and system libraries. Targets link these interface libraries:
#   forebay_options   language, warnings, sanitizers
#   forebay_system    jansson, liburing (Linux), threads, maths
#   forebay_terminal  libedit
#   forebay_http      libmicrohttpd
# Flags are set on our targets only, so that a llama.cpp built as a subdirectory keeps its own.

option(FOREBAY_TESTS "Build the tests (needs cmocka)" ON)
set(FOREBAY_SANITIZE "" CACHE STRING "Sanitizers, as in -fsanitize=: address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(forebay_options INTERFACE)
target_include_directories(forebay_options INTERFACE
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
# -UNDEBUG keeps assertions. _GNU_SOURCE is defined as empty, so that a file with an own
# `#define _GNU_SOURCE` compiles without a warning.
target_compile_options(forebay_options INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-std=gnu11> $<$<COMPILE_LANGUAGE:CXX>:-std=gnu++17>
    $<$<AND:$<PLATFORM_ID:Linux>,$<COMPILE_LANGUAGE:C>>:-D_GNU_SOURCE=>
    -UNDEBUG -fPIC -fvisibility=hidden
    -Wall -Wextra $<$<COMPILE_LANGUAGE:C>:-Wshadow>
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>)
if(FOREBAY_SANITIZE)
    target_compile_options(forebay_options INTERFACE
        -fsanitize=${FOREBAY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(forebay_options INTERFACE -fsanitize=${FOREBAY_SANITIZE})
endif()

find_package(Threads REQUIRED)
add_library(forebay_system INTERFACE)
target_link_libraries(forebay_system INTERFACE Threads::Threads m ${CMAKE_DL_LIBS})

# forebay_need(TARGET NAME HEADER PACKAGE): links a system library; an error if it is missing.
function(forebay_need target name header package)
    string(TOUPPER ${name} var)
    find_path(${var}_INCLUDE_DIR ${header})
    find_library(${var}_LIBRARY ${name})
    mark_as_advanced(${var}_INCLUDE_DIR ${var}_LIBRARY)
    if(NOT ${var}_INCLUDE_DIR OR NOT ${var}_LIBRARY)
        message(FATAL_ERROR "${header} or lib${name} is missing. "
            "Run scripts/setup.sh, or install ${package}.")
    endif()
    target_include_directories(${target} SYSTEM INTERFACE ${${var}_INCLUDE_DIR})
    target_link_libraries(${target} INTERFACE ${${var}_LIBRARY})
endfunction()

forebay_need(forebay_system jansson jansson.h libjansson-dev)
add_library(forebay_http INTERFACE)
forebay_need(forebay_http microhttpd microhttpd.h libmicrohttpd-dev)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    forebay_need(forebay_system uring liburing.h liburing-dev)
    target_compile_definitions(forebay_system INTERFACE FB_HAVE_LIBURING)
endif()

# libedit is for the program only. On macOS it is part of the system.
add_library(forebay_terminal INTERFACE)
forebay_need(forebay_terminal edit histedit.h libedit-dev)

# forebay_export_only(TARGET PATTERN...): limits the exports of a shared library to these symbols.
function(forebay_export_only target)
    set(file ${CMAKE_CURRENT_BINARY_DIR}/${target}.exports)
    if(APPLE)
        list(TRANSFORM ARGN PREPEND "_")
        list(JOIN ARGN "\n" lines)
        file(CONFIGURE OUTPUT ${file} CONTENT "${lines}\n")
        target_link_options(${target} PRIVATE -Wl,-exported_symbols_list,${file})
    else()
        list(JOIN ARGN "; " symbols)
        file(CONFIGURE OUTPUT ${file} CONTENT "{ global: ${symbols}; local: *; };\n")
        target_link_options(${target} PRIVATE -Wl,--version-script=${file} -Wl,--as-needed)
    endif()
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${file})
endfunction()

# forebay_resolve_all(TARGET): makes undefined symbols in a shared library a link error.
function(forebay_resolve_all target)
    if(NOT APPLE AND NOT FOREBAY_SANITIZE) # a sanitizer's runtime is linked into the program
        target_link_options(${target} PRIVATE -Wl,-z,defs)
    endif()
endfunction()
