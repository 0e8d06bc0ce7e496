// Attributes that a kernel reads once, when TensorFlow constructs it.
#ifndef FASTNEG_TF_OPS_KERNEL_ATTRIBUTES_H_
#define FASTNEG_TF_OPS_KERNEL_ATTRIBUTES_H_

#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

// Reads an attribute of type bool; false, with the reason in `status`, on failure.
bool ReadFlag(TF_OpKernelConstruction* construction, const char* name, bool* value, const ScopedStatus& status);

// Whether an optional input is there: the attribute counts the tensors of a list of at most one.
bool ReadPresence(TF_OpKernelConstruction* construction, const char* name, bool* present, const ScopedStatus& status);

// Where `Kernel` keeps an attribute, and how that is read.
template <typename Kernel>
struct Attribute {
  const char* name;
  bool Kernel::* value;
  decltype(&ReadFlag) read;
};

template <typename Kernel, int kCount>
void* CreateKernel(TF_OpKernelConstruction* construction, const Attribute<Kernel> (&attributes)[kCount]) {
  const ScopedStatus status;
  Kernel kernel;
  for (const Attribute<Kernel>& attribute : attributes) {
    if (!attribute.read(construction, attribute.name, &(kernel.*attribute.value), status)) {
      TF_OpKernelConstruction_Failure(construction, status.get());
      return nullptr;
    }
  }
  return new Kernel(kernel);
}

template <typename Kernel>
void DestroyKernel(void* kernel) {
  delete static_cast<Kernel*>(kernel);
}

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_KERNEL_ATTRIBUTES_H_
