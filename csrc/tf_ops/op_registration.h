// Defining ops and their kernels, once, when the library is loaded.
#ifndef FASTNEG_TF_OPS_OP_REGISTRATION_H_
#define FASTNEG_TF_OPS_OP_REGISTRATION_H_

#include <initializer_list>

#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

// Every string is written in the form that REGISTER_OP takes: "user_emb: T", "T: {float, double}".
struct OpDefinition {
  const char* name;
  std::initializer_list<const char*> inputs;
  std::initializer_list<const char*> outputs;
  std::initializer_list<const char*> attrs;
  void (*infer_shapes)(TF_ShapeInferenceContext* context, TF_Status* status);
};

struct KernelFunctions {
  void* (*create)(TF_OpKernelConstruction* construction);
  void (*compute)(void* kernel, TF_OpKernelContext* context);
  void (*destroy)(void* kernel);
};

// Registers the op and its CPU kernel. Trouble is reported on stderr, since nothing can be returned or
// thrown while a library loads; using the op then fails with TensorFlow's own message. Returns true so that
// a namespace-scope constant can hold the result.
bool RegisterOp(const OpDefinition& definition, const KernelFunctions& kernel);

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_OP_REGISTRATION_H_
