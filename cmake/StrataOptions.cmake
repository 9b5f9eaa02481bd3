# Options, compiler flags and system libraries. Targets link the interface libraries
#   strata_options   language, warnings, sanitizers
#   strata_system    jansson, liburing (Linux), threads, maths
#   strata_terminal  libedit
#   strata_http      libmicrohttpd
# Flags are set on our targets only, so that a llama.cpp built beside us keeps its own.

option(STRATA_TESTS "Build the tests (needs cmocka)" ON)
set(STRATA_SANITIZE "" CACHE STRING "Sanitizers, as in -fsanitize=: address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(strata_options INTERFACE)
target_include_directories(strata_options INTERFACE
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
# -UNDEBUG: assertions stay. _GNU_SOURCE is empty so that a file may say `#define _GNU_SOURCE` too.
target_compile_options(strata_options INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-std=gnu11> $<$<COMPILE_LANGUAGE:CXX>:-std=gnu++17>
    $<$<AND:$<PLATFORM_ID:Linux>,$<COMPILE_LANGUAGE:C>>:-D_GNU_SOURCE=>
    -UNDEBUG -fPIC -fvisibility=hidden
    -Wall -Wextra $<$<COMPILE_LANGUAGE:C>:-Wshadow>
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>)
if(STRATA_SANITIZE)
    target_compile_options(strata_options INTERFACE
        -fsanitize=${STRATA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(strata_options INTERFACE -fsanitize=${STRATA_SANITIZE})
endif()

find_package(Threads REQUIRED)
add_library(strata_system INTERFACE)
target_link_libraries(strata_system INTERFACE Threads::Threads m ${CMAKE_DL_LIBS})

# strata_need(TARGET NAME HEADER PACKAGE): links a system library, or says what to install.
function(strata_need target name header package)
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

strata_need(strata_system jansson jansson.h libjansson-dev)
add_library(strata_http INTERFACE)
strata_need(strata_http microhttpd microhttpd.h libmicrohttpd-dev)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    strata_need(strata_system uring liburing.h liburing-dev)
    target_compile_definitions(strata_system INTERFACE ST_HAVE_LIBURING)
endif()

# Only the program edits lines. On macOS, libedit is part of the system.
add_library(strata_terminal INTERFACE)
strata_need(strata_terminal edit histedit.h libedit-dev)

# strata_export_only(TARGET PATTERN...): a shared library exports these symbols and nothing else.
function(strata_export_only target)
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

# strata_resolve_all(TARGET): a shared library without undefined symbols.
function(strata_resolve_all target)
    if(NOT APPLE AND NOT STRATA_SANITIZE) # a sanitizer's runtime is found in the program
        target_link_options(${target} PRIVATE -Wl,-z,defs)
    endif()
endfunction()
