// The op of a loss: attributes that are all flags, and a function from inputs to outputs that knows no particular
// framework, so that not only TensorFlow's kernels run it (FindLossOp).
#ifndef FASTNEG_TF_OPS_LOSS_OP_H_
#define FASTNEG_TF_OPS_LOSS_OP_H_

#include <cstddef>
#include <cstdint>

#include "tf_ops/kernel_context.h"
#include "tf_ops/op_registration.h"
#include "tf_ops/runtime.h"
#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"
#include "tf_ops/tf_kernel_context.h"

namespace fastneg::tf_ops {

enum class AttributeKind : int32_t {
  kFlag,      // bool
  kPresence,  // Whether an optional input is there: int, the number of tensors in a list of at most one.
};

// Where `Kernel` keeps an attribute.
template <typename Kernel>
struct Attribute {
  const char* name;
  bool Kernel::* value;
  AttributeKind kind;
};

// An op for whoever wants to run it: attribute number i is bit i of `flags`.
struct LossOp {
  const char* name;  // "Fastneg>RolledSoftmax"
  int num_outputs;
  int num_attributes;
  const char* (*attribute_name)(int index);
  AttributeKind (*attribute_kind)(int index);
  void (*compute)(uint64_t flags, KernelContext& context);
};

// Reads an attribute of the given kind; false, with the reason in `status`, on failure.
bool ReadAttribute(TF_OpKernelConstruction* construction, const char* name, AttributeKind kind, bool* value,
                   const ScopedStatus& status);

bool RegisterLossOp(const LossOp& op);

// Makes kernels with the members of `Kernel` from the attributes of an op.
template <typename Kernel, const auto& kAttributes>
struct KernelFactory {
  static void* Create(TF_OpKernelConstruction* construction) {
    const ScopedStatus status;
    Kernel kernel;
    for (const Attribute<Kernel>& attribute : kAttributes) {
      if (!ReadAttribute(construction, attribute.name, attribute.kind, &(kernel.*attribute.value), status)) {
        TF_OpKernelConstruction_Failure(construction, status.get());
        return nullptr;
      }
    }
    return new Kernel(kernel);
  }

  static void Destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }
};

// What the C API and LossOp want to have of a loss.
template <typename Kernel, const auto& kAttributes, void (*kCompute)(const Kernel&, KernelContext&)>
struct LossKernel : KernelFactory<Kernel, kAttributes> {
  static constexpr int kNumAttributes = static_cast<int>(kAttributes.size());

  static void Compute(void* kernel, TF_OpKernelContext* tf_context) {
    TfKernelContext context(tf_context);
    if (RuntimeIsUsable(context)) kCompute(*static_cast<const Kernel*>(kernel), context);
  }

  static void ComputeWithFlags(uint64_t flags, KernelContext& context) {
    Kernel kernel;
    for (const Attribute<Kernel>& attribute : kAttributes) {
      kernel.*attribute.value = (flags & 1) != 0;
      flags >>= 1;
    }
    if (context.device() != nullptr || RuntimeIsUsable(context)) kCompute(kernel, context);
  }

  static const char* AttributeName(int index) { return kAttributes[static_cast<size_t>(index)].name; }
  static AttributeKind KindOfAttribute(int index) { return kAttributes[static_cast<size_t>(index)].kind; }

  static bool Register(const OpDefinition& definition) {
    return RegisterOp(definition, {&LossKernel::Create, &Compute, &LossKernel::Destroy}) &&
           RegisterLossOp({definition.name, static_cast<int>(definition.outputs.size()), kNumAttributes, &AttributeName,
                           &KindOfAttribute, &ComputeWithFlags});
  }
};

}  // namespace fastneg::tf_ops

// The op of this name; null if there is none. For the libraries that bring the losses to XLA and to GPUs.
extern "C" const fastneg::tf_ops::LossOp* FastnegFindLossOp(const char* name);

#endif  // FASTNEG_TF_OPS_LOSS_OP_H_
