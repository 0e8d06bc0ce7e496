# _cuda.so: the kernels of csrc/core/cuda behind the C entries of c_api.h, with CUDA's runtime inside. It loads where
# there is neither a GPU nor a driver, and says so when called.
#
# FASTNEG_CUDA says whether to build it:
#   OFF   no (the default: all architectures take minutes)
#   AUTO  if nvcc is found
#   ON    yes; configuring fails without nvcc
# CMAKE_CUDA_ARCHITECTURES chooses the architectures: all major ones, and PTX for those to come, unless it is set.

# Sets FASTNEG_CUDA_PROBLEM to why it is not built; empty if it is.
function(fastneg_find_cuda)
  set(FASTNEG_CUDA_PROBLEM "" PARENT_SCOPE)
  if(NOT FASTNEG_CUDA)
    set(FASTNEG_CUDA_PROBLEM
      "FASTNEG_CUDA is OFF, its default (CMAKE_ARGS=-DFASTNEG_CUDA=ON pip install . builds them)" PARENT_SCOPE)
    return()
  endif()
  if(CMAKE_VERSION VERSION_LESS 3.23)
    set(FASTNEG_CUDA_PROBLEM "CMake 3.23 or newer was not found when fastneg was built" PARENT_SCOPE)
    return()
  endif()
  if(DEFINED CMAKE_CUDA_COMPILER AND NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(FASTNEG_CUDA_PROBLEM "no working nvcc was found when fastneg was built" PARENT_SCOPE)
  endif()
endfunction()

fastneg_find_cuda()
if(FASTNEG_CUDA_PROBLEM AND FASTNEG_CUDA STREQUAL "ON")
  message(FATAL_ERROR "fastneg: FASTNEG_CUDA is ON, and ${FASTNEG_CUDA_PROBLEM}.")
endif()

if(NOT FASTNEG_CUDA_PROBLEM)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES all-major)
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  add_library(fastneg_cuda_options INTERFACE)
  target_include_directories(fastneg_cuda_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
  target_compile_options(fastneg_cuda_options INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Wall,-Wextra,-fvisibility=hidden>)
  file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/core/cuda/*.cu csrc/core/cuda/*/*.cu)
  add_library(fastneg_cuda_kernels OBJECT ${cuda_sources})
  target_link_libraries(fastneg_cuda_kernels PRIVATE fastneg_cuda_options)
  add_library(fastneg_cuda MODULE $<TARGET_OBJECTS:fastneg_cuda_kernels>)
  # Nothing but the C entries is to be seen from outside: other libraries in a process bring a CUDA runtime too.
  target_link_options(fastneg_cuda PRIVATE -Wl,--exclude-libs,ALL)
  set_target_properties(fastneg_cuda PROPERTIES LINKER_LANGUAGE CUDA
    PREFIX "" OUTPUT_NAME _cuda SUFFIX .so LIBRARY_OUTPUT_DIRECTORY "${FASTNEG_OUTPUT_DIR}" SKIP_BUILD_RPATH ON)
  # The kernels against the CPU core, on a GPU; no part of the default build.
  add_executable(fastneg_cuda_test EXCLUDE_FROM_ALL
    tests/core/cuda_on_host/cuda_test.cu $<TARGET_OBJECTS:fastneg_cuda_kernels> ${FASTNEG_CORE_OBJECTS})
  target_include_directories(fastneg_cuda_test PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(fastneg_cuda_test PRIVATE fastneg_cuda_options Threads::Threads)
  if(NOT FASTNEG_IN_PLACE)
    install(TARGETS fastneg_cuda LIBRARY DESTINATION fastneg)
  endif()
endif()
