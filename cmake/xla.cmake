# _xla.so: what the ops of the losses become where XLA compiles them (csrc/tf_xla). It fits the TensorFlow that it was
# built for, and no other.
#
# FASTNEG_XLA says whether to build it:
#   OFF   no (the default: the result would depend on the TensorFlow of the moment, and its headers take half a minute)
#   AUTO  if a TensorFlow that it can be built for is installed
#   ON    yes; configuring fails without one

function(fastneg_find_xla)
  set(FASTNEG_XLA_PROBLEM "" PARENT_SCOPE)
  if(NOT FASTNEG_XLA)
    set(FASTNEG_XLA_PROBLEM
      "FASTNEG_XLA is OFF, its default (CMAKE_ARGS=-DFASTNEG_XLA=ON pip install . builds it)" PARENT_SCOPE)
    return()
  endif()
  fastneg_find_tensorflow()
  set(FASTNEG_XLA_PROBLEM "${FASTNEG_TENSORFLOW_PROBLEM}" PARENT_SCOPE)
  set(FASTNEG_TENSORFLOW "${FASTNEG_TENSORFLOW}" PARENT_SCOPE)
endfunction()

fastneg_find_xla()
if(FASTNEG_XLA_PROBLEM AND FASTNEG_XLA STREQUAL "ON")
  message(FATAL_ERROR "fastneg: FASTNEG_XLA is ON, and ${FASTNEG_XLA_PROBLEM}.")
endif()

if(NOT FASTNEG_XLA_PROBLEM)
  file(GLOB xla_sources CONFIGURE_DEPENDS csrc/tf_xla/*.cc)
  fastneg_add_tensorflow_library(fastneg_xla _xla ${xla_sources})
endif()
