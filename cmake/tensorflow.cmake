# The TensorFlow that is installed beside this Python: its C++ headers and libraries, which fit no other version. Only
# what cannot be built on the stable C API needs them (cmake/cuda.cmake, cmake/xla.cmake).

# Looks for it, once. Sets
#   FASTNEG_TENSORFLOW_PROBLEM  why it cannot be built against; empty if it can
#   FASTNEG_TENSORFLOW          what it is: version and git version
# and adds the target fastneg_tensorflow, which brings headers, libraries and flags.
function(fastneg_find_tensorflow)
  set(FASTNEG_TENSORFLOW_PROBLEM "" PARENT_SCOPE)
  if(TARGET fastneg_tensorflow)
    return()
  endif()
  set(oldest 2.20)  # Headers of earlier ones are not complete.
  if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set(FASTNEG_TENSORFLOW_PROBLEM "it needs Linux" PARENT_SCOPE)
    return()
  endif()
  find_package(Python COMPONENTS Interpreter QUIET)
  # pip builds in an environment of its own; -I and no PYTHONPATH lead back to the one that is installed into.
  string(CONCAT code
    "import tensorflow as tf\n"
    "flags = [flag for flag in tf.sysconfig.get_compile_flags() if flag.startswith('-D')]\n"
    "print(tf.__version__, tf.version.GIT_VERSION, tf.sysconfig.get_include(), tf.sysconfig.get_lib(), '|'.join(flags),"
    " sep=';')")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
      "${Python_EXECUTABLE}" -I -c "${code}"
    OUTPUT_VARIABLE found ERROR_VARIABLE error OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    string(REGEX REPLACE ".*\n" "" error "${error}")
    string(REPLACE "\"" "'" error "${error}")
    set(FASTNEG_TENSORFLOW_PROBLEM
      "TensorFlow could not be imported by ${Python_EXECUTABLE} when fastneg was built (${error})" PARENT_SCOPE)
    return()
  endif()
  list(GET found 0 version)
  list(GET found 1 git_version)
  list(GET found 2 include)
  list(GET found 3 lib)
  list(GET found 4 definitions)
  string(REPLACE "|" ";" definitions "${definitions}")
  if(version VERSION_LESS oldest)
    set(FASTNEG_TENSORFLOW_PROBLEM
      "TensorFlow ${version} was found when fastneg was built, and ${oldest} or newer is needed" PARENT_SCOPE)
    return()
  endif()
  if(NOT EXISTS "${lib}/libtensorflow_cc.so.2" OR NOT EXISTS "${include}/tensorflow/core/framework/op_kernel.h")
    set(FASTNEG_TENSORFLOW_PROBLEM "the TensorFlow in ${lib} lacks its C++ headers or libtensorflow_cc.so.2"
      PARENT_SCOPE)
    return()
  endif()
  add_library(fastneg_tensorflow INTERFACE)
  target_include_directories(fastneg_tensorflow SYSTEM INTERFACE "${include}"
    "${include}/external/highwayhash" "${include}/external/farmhash_archive/src")
  target_compile_options(fastneg_tensorflow INTERFACE ${definitions})
  target_link_libraries(fastneg_tensorflow INTERFACE
    "${lib}/libtensorflow_cc.so.2" "${lib}/libtensorflow_framework.so.2")
  set(FASTNEG_TENSORFLOW "${version} ${git_version}" PARENT_SCOPE)
endfunction()

# fastneg_link_loaded_library(<target> <library>): links with a library of ours that is loaded whenever the target is.
function(fastneg_link_loaded_library target library)
  target_link_libraries(${target} PRIVATE "-Wl,--no-as-needed,$<TARGET_FILE:${library}>,--as-needed")
  add_dependencies(${target} ${library})
endfunction()

# fastneg_add_tensorflow_library(<target> <output name> <sources>...): a library that brings the ops of _ops.so to
# another part of TensorFlow. Nothing in it but what TensorFlow looks for is to be seen from outside.
function(fastneg_add_tensorflow_library target output_name)
  add_library(${target} MODULE ${ARGN} csrc/tf_ops/kernel_context.cc)
  target_link_libraries(${target} PRIVATE fastneg_options fastneg_tensorflow)
  fastneg_link_loaded_library(${target} fastneg_ops)
  # The headers are large and their code does not run often.
  target_compile_options(${target} PRIVATE -O1)
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,nodelete)
  set_target_properties(${target} PROPERTIES
    PREFIX "" OUTPUT_NAME ${output_name} SUFFIX .so LIBRARY_OUTPUT_DIRECTORY "${FASTNEG_OUTPUT_DIR}"
    SKIP_BUILD_RPATH ON)
  if(NOT FASTNEG_IN_PLACE)
    install(TARGETS ${target} LIBRARY DESTINATION fastneg)
  endif()
endfunction()
