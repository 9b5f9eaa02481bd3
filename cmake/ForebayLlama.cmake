# Finds or builds llama.cpp. It comes from one of three places:
#   default                       deps/llama, written by scripts/fetch-llama.sh
#   FOREBAY_LLAMA_SOURCE=DIR      your checkout, if there are shared libraries in DIR/build/bin
#   FOREBAY_LLAMA_SOURCE=DIR      else your checkout, built as a part of this build
# Defines
#   ggml_libs, llama_libs         interface libraries with headers and libraries
#   FOREBAY_LLAMA_LIB_DIR         directory of the libraries and of the back ends loaded at run time
#   FOREBAY_LLAMA_LICENSE         llama.cpp's licence file
set(FOREBAY_LLAMA_DIR ${PROJECT_SOURCE_DIR}/deps/llama CACHE PATH
    "llama.cpp as written by scripts/fetch-llama.sh (include/ and lib/)")
set(FOREBAY_LLAMA_SOURCE "" CACHE PATH
    "Your own llama.cpp checkout, used instead of FOREBAY_LLAMA_DIR")

add_library(ggml_libs INTERFACE)
add_library(llama_libs INTERFACE)
target_link_libraries(llama_libs INTERFACE ggml_libs)

# llama_import(DIR OUT): imports the libraries in DIR as targets; OUT is true if all were found.
function(llama_import dir out)
    set(${out} FALSE PARENT_SCOPE)
    foreach(stem llama-common llama ggml ggml-base)
        set(name ${dir}/${CMAKE_SHARED_LIBRARY_PREFIX}${stem})
        # The npm packages' file names have a version: libllama.v1.2.3.so, libllama.vulkan.v1.2.3.so
        file(GLOB found ${name}${CMAKE_SHARED_LIBRARY_SUFFIX}
            ${name}.v[0-9]*${CMAKE_SHARED_LIBRARY_SUFFIX}
            ${name}.[a-z]*.v[0-9]*${CMAKE_SHARED_LIBRARY_SUFFIX})
        list(LENGTH found n)
        if(NOT n EQUAL 1)
            return()
        endif()
        list(APPEND files ${found})
    endforeach()
    foreach(stem llama-common llama ggml ggml-base)
        list(POP_FRONT files file)
        add_library(${stem} SHARED IMPORTED GLOBAL)
        set_target_properties(${stem} PROPERTIES IMPORTED_LOCATION ${file})
    endforeach()
    set(${out} TRUE PARENT_SCOPE)
endfunction()

# llama_build(DIR): builds llama.cpp as a subdirectory: shared libraries for this machine's CPU, no
# programs. Other options of ggml (GGML_CUDA, GGML_VULKAN, ...) go to cmake: -DGGML_CUDA=ON.
function(llama_build dir)
    set(BUILD_SHARED_LIBS ON)
    foreach(part TESTS TOOLS EXAMPLES SERVER APP)
        set(LLAMA_BUILD_${part} OFF)
    endforeach()
    set(LLAMA_BUILD_COMMON ON)
    set(GGML_OPENMP OFF) # ggml's own thread pool, as in the pinned libraries
    set(CMAKE_BUILD_RPATH_USE_ORIGIN ON) # the libraries are installed into one directory
    set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g -DNDEBUG")
    set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O3 -g -DNDEBUG")
    add_subdirectory(${dir} ${CMAKE_BINARY_DIR}/llama EXCLUDE_FROM_ALL)
endfunction()

if(NOT FOREBAY_LLAMA_SOURCE)
    if(NOT EXISTS ${FOREBAY_LLAMA_DIR}/include/llama.h)
        message(FATAL_ERROR "llama.cpp is missing from ${FOREBAY_LLAMA_DIR}.\n"
            "Run scripts/fetch-llama.sh, or use your own checkout: -DFOREBAY_LLAMA_SOURCE=DIR.")
    endif()
    set(FOREBAY_LLAMA_LIB_DIR ${FOREBAY_LLAMA_DIR}/lib)
    set(FOREBAY_LLAMA_LICENSE ${FOREBAY_LLAMA_DIR}/LICENSE)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${FOREBAY_LLAMA_DIR}/.stamp)
    target_include_directories(ggml_libs SYSTEM INTERFACE ${FOREBAY_LLAMA_DIR}/include)
    llama_import(${FOREBAY_LLAMA_LIB_DIR} found)
    if(NOT found)
        message(FATAL_ERROR "libllama, libllama-common, libggml or libggml-base is missing from "
            "${FOREBAY_LLAMA_LIB_DIR}.\nRemove ${FOREBAY_LLAMA_DIR} and run "
            "scripts/fetch-llama.sh.")
    endif()
else()
    get_filename_component(llama_dir ${FOREBAY_LLAMA_SOURCE} ABSOLUTE BASE_DIR ${CMAKE_SOURCE_DIR})
    if(NOT EXISTS ${llama_dir}/include/llama.h)
        message(FATAL_ERROR "FOREBAY_LLAMA_SOURCE=${llama_dir} is not a checkout of llama.cpp: "
            "it has no include/llama.h.")
    endif()
    set(FOREBAY_LLAMA_LICENSE ${llama_dir}/LICENSE)
    # Copied, because ggml/src contains many other headers that must not be found.
    configure_file(${llama_dir}/ggml/src/ggml-backend-impl.h
        ${CMAKE_BINARY_DIR}/llama-include/ggml-backend-impl.h COPYONLY)
    target_include_directories(ggml_libs SYSTEM INTERFACE ${llama_dir}/include
        ${llama_dir}/ggml/include ${CMAKE_BINARY_DIR}/llama-include)
    # The headers of libllama-common are copied for the same reason.
    file(GLOB headers RELATIVE ${llama_dir} ${llama_dir}/common/*.h ${llama_dir}/common/jinja/*.h)
    foreach(header ${headers})
        configure_file(${llama_dir}/${header}
            ${CMAKE_BINARY_DIR}/llama-include/${header} COPYONLY)
    endforeach()
    set(FOREBAY_LLAMA_LIB_DIR ${llama_dir}/build/bin)
    llama_import(${FOREBAY_LLAMA_LIB_DIR} found)
    if(found)
        message(STATUS "llama.cpp: using the libraries in ${FOREBAY_LLAMA_LIB_DIR}")
    else()
        message(STATUS "llama.cpp: building ${llama_dir} (no shared libraries in its build/bin)")
        llama_build(${llama_dir})
        set(FOREBAY_LLAMA_LIB_DIR ${CMAKE_BINARY_DIR}/bin)
    endif()
endif()
target_link_libraries(ggml_libs INTERFACE ggml ggml-base)
target_link_libraries(llama_libs INTERFACE llama-common llama)
