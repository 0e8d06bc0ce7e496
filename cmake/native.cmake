# Everything that needs a C++ compiler.
include(CheckCXXCompilerFlag)
include(CheckCXXSourceRuns)
include(ProcessorCount)
find_package(Threads REQUIRED)

# As many compilers at once as there are processors. Ninja begins one or two more, which take each other's caches.
ProcessorCount(num_processors)
if(num_processors GREATER 0 AND NOT DEFINED CMAKE_JOB_POOLS AND NOT DEFINED CMAKE_JOB_POOL_COMPILE)
  set_property(GLOBAL PROPERTY JOB_POOLS fastneg_compilers=${num_processors})
  set(CMAKE_JOB_POOL_COMPILE fastneg_compilers)
endif()

set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O3")

# What all of fastneg's own objects share.
add_library(fastneg_options INTERFACE)
target_include_directories(fastneg_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
target_compile_options(fastneg_options INTERFACE -Wall -Wextra)
if(FASTNEG_SANITIZE)
  target_compile_definitions(fastneg_options INTERFACE FASTNEG_SMALL)  # Halves the time of compiling.
  target_compile_options(fastneg_options INTERFACE
    -fsanitize=${FASTNEG_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(fastneg_options INTERFACE -fsanitize=${FASTNEG_SANITIZE})
endif()

# The core neither throws nor asks for types at run time, and contracts a * b + c wherever the machine can.
add_library(fastneg_core_options INTERFACE)
target_link_libraries(fastneg_core_options INTERFACE fastneg_options Threads::Threads)
target_compile_options(fastneg_core_options INTERFACE
  -fno-exceptions -fno-rtti -ffp-contract=fast -fno-math-errno -fno-trapping-math)

# The core for NumPy; the core's objects come to it further down. Distributions pack Python's headers separately
# (python3-dev), so they may be missing, even where scikit-build-core says that they should be.
if(Python_INCLUDE_DIR AND NOT EXISTS "${Python_INCLUDE_DIR}/Python.h")
  set(Python_Development.Module_FOUND FALSE)
else()
  find_package(Python COMPONENTS Interpreter Development.Module)
endif()
if(Python_Development.Module_FOUND)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(PYBIND11_FINDPYTHON ON)
  find_package(pybind11 CONFIG QUIET)
endif()
if(NOT Python_Development.Module_FOUND)
  set(FASTNEG_CORE_PROBLEM "Python's headers (python3-dev) were not found when fastneg was installed")
elseif(NOT pybind11_FOUND)
  set(FASTNEG_CORE_PROBLEM "pybind11 was not found when fastneg was built")
elseif(FASTNEG_SANITIZE)
  set(FASTNEG_CORE_PROBLEM "it is not built with sanitizers, which are for the C++ tests")
else()
  # One unit: reading pybind11's headers takes the compiler far longer than all the rest.
  file(GLOB python_sources CONFIGURE_DEPENDS csrc/python/*.cc)
  add_library(fastneg_bindings OBJECT ${python_sources})
  target_link_libraries(fastneg_bindings PRIVATE fastneg_options pybind11::pybind11)
  target_compile_options(fastneg_bindings PRIVATE $<$<CONFIG:Release>:-O0>)  # Checks and calls, for tests.
  set_target_properties(fastneg_bindings PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  pybind11_add_module(fastneg_python MODULE NO_EXTRAS $<TARGET_OBJECTS:fastneg_bindings>)
  target_link_libraries(fastneg_python PRIVATE fastneg_options Threads::Threads)
  set_target_properties(fastneg_python PROPERTIES
    OUTPUT_NAME _core LIBRARY_OUTPUT_DIRECTORY "${FASTNEG_OUTPUT_DIR}" SKIP_BUILD_RPATH ON)
  if(NOT APPLE)
    target_link_options(fastneg_python PRIVATE -Wl,-z,nodelete)
  endif()
endif()
if(FASTNEG_CORE_PROBLEM)
  message(STATUS "fastneg: _core is left out: ${FASTNEG_CORE_PROBLEM}.")
endif()

# What is compiled once for each instruction set.
file(GLOB kernel_sources CONFIGURE_DEPENDS csrc/core/cpu/*/*_kernels.cc csrc/core/cpu/kernel_table.cc)
file(GLOB bfloat16_sources CONFIGURE_DEPENDS csrc/core/cpu/*/*_bfloat16.cc)

# Vectors are written out and loops unrolled by hand. What -O3 adds to -O2 comes from peeling, and the rest of it takes
# the compiler half as long again. Only the pairwise kernels are faster for it.
set(pairwise_kernels ${kernel_sources})
list(FILTER pairwise_kernels INCLUDE REGEX "pairwise_kernels")
set_source_files_properties(${pairwise_kernels} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O3>")

# One unit for all of a large family: its losses share much code.
set(joined_kernels ${kernel_sources})
list(FILTER joined_kernels INCLUDE REGEX "/(gathered|shared)/")
foreach(source IN LISTS joined_kernels)
  get_filename_component(family "${source}" DIRECTORY)
  get_filename_component(family "${family}" NAME)
  set_source_files_properties("${source}" PROPERTIES UNITY_GROUP "${family}")
endforeach()

# fastneg_add_kernels(<name> <namespace> <list of sources> <flags>...): one object library with kernels of one
# instruction set. Adds it to FASTNEG_CORE_OBJECTS, and its name to FASTNEG_ISAS unless that is empty.
function(fastneg_add_kernels name namespace sources)
  add_library(fastneg_${namespace} OBJECT ${${sources}})
  target_link_libraries(fastneg_${namespace} PRIVATE fastneg_core_options)
  set_target_properties(fastneg_${namespace} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  target_compile_definitions(fastneg_${namespace} PRIVATE FASTNEG_ISA_NAMESPACE=${namespace})
  target_compile_options(fastneg_${namespace} PRIVATE
    "$<$<AND:$<CONFIG:Release>,$<CXX_COMPILER_ID:GNU>>:-O2;-fpeel-loops>" ${ARGN})
  set(FASTNEG_CORE_OBJECTS ${FASTNEG_CORE_OBJECTS} $<TARGET_OBJECTS:fastneg_${namespace}> PARENT_SCOPE)
  string(STRIP "${FASTNEG_ISAS} ${name}" isas)
  set(FASTNEG_ISAS "${isas}" PARENT_SCOPE)
endfunction()

# fastneg_require_features(<variable> <feature>...): sets the variable to OFF if this machine lacks one of them.
function(fastneg_require_features variable)
  list(TRANSFORM ARGN REPLACE "(.+)" "__builtin_cpu_supports(\"\\1\")")
  list(JOIN ARGN " && " has_all)
  check_cxx_source_runs("int main() { return ${has_all} ? 0 : 1; }" ${variable}_HERE)
  if(NOT ${variable}_HERE)
    set(${variable} OFF PARENT_SCOPE)
  endif()
endfunction()

# What does not depend on the instruction set.
file(GLOB core_sources CONFIGURE_DEPENDS csrc/core/cpu/*.cc csrc/core/cpu/*/*.cc)
list(REMOVE_ITEM core_sources ${kernel_sources} ${bfloat16_sources})
add_library(fastneg_core OBJECT ${core_sources})
target_link_libraries(fastneg_core PRIVATE fastneg_core_options)
target_compile_options(fastneg_core PRIVATE $<$<CONFIG:Release>:-O2>)
set_target_properties(fastneg_core PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
set(FASTNEG_CORE_OBJECTS $<TARGET_OBJECTS:fastneg_core>)

fastneg_add_kernels(baseline isa_baseline kernel_sources)
check_cxx_source_compiles("#ifndef __x86_64__\n#error\n#endif\nint main() {}" FASTNEG_IS_X86_64)
if(FASTNEG_IS_X86_64)
  # Compilers that know the last of these know the others. Those before GCC 10 and Clang 12 do not know the levels by
  # name.
  set(v3_flags -march=x86-64-v3)
  set(v4_flags -march=x86-64-v4)
  check_cxx_compiler_flag("-march=x86-64-v4 -mavx512bf16 -mamx-tile -mamx-bf16" FASTNEG_COMPILES_AMX)
  if(FASTNEG_COMPILES_AMX)
    set(FASTNEG_COMPILES_V3 ON)
    set(FASTNEG_COMPILES_V4 ON)
    set(FASTNEG_COMPILES_BF16 ON)
  else()
    check_cxx_compiler_flag(-march=x86-64-v4 FASTNEG_KNOWS_LEVELS)
    if(NOT FASTNEG_KNOWS_LEVELS)
      set(v3_flags -mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt -mmovbe -mpopcnt)
      set(v4_flags ${v3_flags} -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl)
    endif()
    list(JOIN v3_flags " " flags)
    check_cxx_compiler_flag("${flags}" FASTNEG_COMPILES_V3)
    list(JOIN v4_flags " " flags)
    check_cxx_compiler_flag("${flags}" FASTNEG_COMPILES_V4)
    check_cxx_compiler_flag("${flags} -mavx512bf16" FASTNEG_COMPILES_BF16)
  endif()
  if(FASTNEG_SANITIZE MATCHES "thread")
    # How threads meet is the same for all instruction sets but for products of bfloat16, which x86-64-v3-bf16 has.
    set(FASTNEG_COMPILES_V4 OFF)
  endif()
  if(FASTNEG_ONLY_LOCAL_ISAS)
    fastneg_require_features(FASTNEG_COMPILES_V3 avx2 fma)
    fastneg_require_features(FASTNEG_COMPILES_V4 avx512f avx512bw avx512cd avx512dq avx512vl)
    fastneg_require_features(FASTNEG_COMPILES_BF16 avx512bf16)
    if(NOT FASTNEG_COMPILES_BF16)
      set(FASTNEG_COMPILES_AMX OFF)
    endif()
  endif()
  # Processors since 2013 use one of the other two. Here the baseline has to be right, and may be slow.
  target_compile_definitions(fastneg_isa_baseline PRIVATE FASTNEG_SMALL)
  target_compile_options(fastneg_isa_baseline PRIVATE $<$<CONFIG:Release>:-O1>)
  if(FASTNEG_COMPILES_V3)
    fastneg_add_kernels(x86-64-v3 isa_v3 kernel_sources ${v3_flags})
    target_compile_definitions(fastneg_core PRIVATE FASTNEG_HAVE_X86_64_V3)
    if(FASTNEG_BUILD_TESTS)
      # The products of bfloat16 step by step, so that all that is around them is tested on every machine.
      fastneg_add_kernels("" isa_v3_bf16 bfloat16_sources ${v3_flags})
      target_compile_definitions(fastneg_core PRIVATE FASTNEG_HAVE_EMULATED_BF16)
    endif()
  endif()
  if(FASTNEG_COMPILES_V3 AND FASTNEG_COMPILES_V4)
    fastneg_add_kernels(x86-64-v4 isa_v4 kernel_sources ${v4_flags} -mprefer-vector-width=512)
    target_compile_definitions(fastneg_core PRIVATE FASTNEG_HAVE_X86_64_V4)
    if(FASTNEG_COMPILES_BF16)
      fastneg_add_kernels(x86-64-v4-bf16 isa_v4_bf16 bfloat16_sources
        ${v4_flags} -mavx512bf16 -mprefer-vector-width=512)
      target_compile_definitions(fastneg_core PRIVATE FASTNEG_HAVE_X86_64_V4_BF16)
    endif()
    if(FASTNEG_COMPILES_BF16 AND FASTNEG_COMPILES_AMX)
      fastneg_add_kernels(x86-64-v4-amx isa_v4_amx bfloat16_sources
        ${v4_flags} -mavx512bf16 -mamx-tile -mamx-bf16 -mprefer-vector-width=512)
      target_compile_definitions(fastneg_core PRIVATE FASTNEG_HAVE_X86_64_V4_AMX)
    endif()
  endif()
endif()

# The ops, without any framework: what XLA's custom calls run and what _ops.so offers to TensorFlow.
file(GLOB library_sources CONFIGURE_DEPENDS csrc/ops/*.cc csrc/xla_ffi/*.cc)
add_library(fastneg_library SHARED ${library_sources} ${FASTNEG_CORE_OBJECTS})
target_link_libraries(fastneg_library PRIVATE fastneg_core_options ${CMAKE_DL_LIBS})
target_compile_options(fastneg_library PRIVATE -O1)  # Checks and calls: -O3 takes the compiler twice as long.
set_target_properties(fastneg_library PROPERTIES
  OUTPUT_NAME fastneg LIBRARY_OUTPUT_DIRECTORY "${FASTNEG_OUTPUT_DIR}" SKIP_BUILD_RPATH ON
  UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 11)
if(TARGET fastneg_bindings)
  # Ninja begins with what most has to wait for. The bindings' unit is a long one, and these are short.
  add_dependencies(fastneg_library fastneg_bindings)
endif()

# TensorFlow's ops. The functions of the C API come from the libtensorflow_framework that is already loaded when
# TensorFlow loads this library; an empty stand-in with its name gives the reference at link time.
file(GLOB ops_sources CONFIGURE_DEPENDS csrc/tf_ops/*.cc)
add_library(fastneg_ops MODULE ${ops_sources})
target_link_libraries(fastneg_ops PRIVATE fastneg_core_options fastneg_library)
target_compile_options(fastneg_ops PRIVATE -O1)
set_target_properties(fastneg_ops PROPERTIES
  UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0
  PREFIX "" OUTPUT_NAME _ops SUFFIX .so LIBRARY_OUTPUT_DIRECTORY "${FASTNEG_OUTPUT_DIR}"
  BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$<IF:$<PLATFORM_ID:Darwin>,@loader_path,$ORIGIN>")
if(APPLE)
  target_link_options(fastneg_ops PRIVATE -undefined dynamic_lookup)
else()
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/tensorflow_stub.cc" "")
  add_library(fastneg_tensorflow_stub SHARED "${CMAKE_CURRENT_BINARY_DIR}/tensorflow_stub.cc")
  set_target_properties(fastneg_tensorflow_stub PROPERTIES
    OUTPUT_NAME tensorflow_framework SUFFIX .so.2 LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/stub")
  target_link_libraries(fastneg_ops PRIVATE -Wl,--no-as-needed fastneg_tensorflow_stub)
  # The pool's threads run this code until the process ends, so it must never be unmapped.
  target_link_options(fastneg_library PRIVATE -Wl,-z,nodelete)
  target_link_options(fastneg_ops PRIVATE -Wl,-z,nodelete)
endif()
set(native_modules fastneg_library fastneg_ops)
if(TARGET fastneg_python)
  target_sources(fastneg_python PRIVATE ${FASTNEG_CORE_OBJECTS})
  list(APPEND native_modules fastneg_python)
endif()

if(NOT FASTNEG_IN_PLACE)
  install(TARGETS ${native_modules} LIBRARY DESTINATION fastneg)
endif()

if(FASTNEG_BUILD_TESTS)
  enable_testing()
  add_custom_target(core_tests)  # All of them, without the libraries, which they do not need.
  file(GLOB test_sources CONFIGURE_DEPENDS tests/core/*_test.cc)
  foreach(source IN LISTS test_sources)
    get_filename_component(test "${source}" NAME_WE)
    add_executable(${test} "${source}" ${FASTNEG_CORE_OBJECTS})
    target_include_directories(${test} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
    if(CMAKE_CROSSCOMPILING_EMULATOR)
      target_compile_definitions(${test} PRIVATE FASTNEG_UNDER_QEMU)
    endif()
    target_link_libraries(${test} PRIVATE fastneg_options Threads::Threads)
    add_test(NAME ${test} COMMAND ${test})
    add_dependencies(core_tests ${test})
  endforeach()
  # Under the address sanitizer alone: tests/test_cuda_*.py run the same kernels without one, and compiling them takes
  # minutes. The thread sanitizer does not know the fibers that the kernels' threads are.
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND FASTNEG_SANITIZE MATCHES "address")
    add_subdirectory(tests/core/cuda_on_host)
  endif()
endif()
