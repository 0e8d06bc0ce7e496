# _xla.so: what the ops of the losses become where XLA compiles them (csrc/tf_cxx/xla_*). It fits the TensorFlow that it was
# built for, and no other.
#
# FASTNEG_XLA says whether to build it:
#   OFF      no
#   AUTO     if a TensorFlow that it can be built for is installed
#   ON       yes; configuring fails without one
#   DEFAULT  AUTO if _ops_cuda.so is built, because Keras compiles with XLA where there is a GPU; else OFF, because the
#            result would depend on the TensorFlow of the moment, whose headers take the compiler half a minute

set(fastneg_xla "${FASTNEG_XLA}")
if(fastneg_xla STREQUAL "DEFAULT")
  if(TARGET fastneg_ops_cuda)
    set(fastneg_xla AUTO)
  else()
    set(fastneg_xla OFF)
  endif()
endif()

if(fastneg_xla)
  fastneg_find_tensorflow()
  set(FASTNEG_XLA_PROBLEM "${FASTNEG_TENSORFLOW_PROBLEM}")
else()
  set(FASTNEG_XLA_PROBLEM "FASTNEG_XLA is OFF, its default (CMAKE_ARGS=-DFASTNEG_XLA=ON pip install . builds it)")
endif()
if(FASTNEG_XLA_PROBLEM AND fastneg_xla STREQUAL "ON")
  message(FATAL_ERROR "fastneg: FASTNEG_XLA is ON, and ${FASTNEG_XLA_PROBLEM}.")
endif()

if(NOT FASTNEG_XLA_PROBLEM)
  file(GLOB xla_sources CONFIGURE_DEPENDS csrc/tf_cxx/xla_*.cc)
  fastneg_add_tensorflow_library(fastneg_xla _xla ${xla_sources})
  if(TARGET fastneg_ops_cuda)
    target_compile_definitions(fastneg_xla PRIVATE FASTNEG_HAVE_CUDA)
    fastneg_link_loaded_library(fastneg_xla fastneg_cuda)
  endif()
endif()
