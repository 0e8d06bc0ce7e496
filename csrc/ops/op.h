// What an op is: its name, inputs, outputs and attributes, and a function that computes it. It knows no framework;
// tf_ops/ and xla_ffi/ offer every op that is registered here to theirs.
#ifndef FASTNEG_OPS_OP_H_
#define FASTNEG_OPS_OP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/kernel_context.h"
#include "ops/runtime.h"

namespace fastneg::ops {

enum class AttributeKind : int32_t {
  kFlag,      // 0 or 1.
  kPresence,  // Whether an optional input is there: the number of tensors in a list of at most one.
  kNumber,    // At least 1.
  kLength,    // The number of tensors in a list, which may be empty.
};

struct OpAttribute {
  const char* name;
  AttributeKind kind;
  int64_t default_value;
};

// `type` is a name that `Op::types` explains, or a type that needs no explanation, as "int64".
struct OpInput {
  const char* name;
  const char* type;
  const char* count = nullptr;  // The attribute that says how many tensors there are; null for one.
};

constexpr int kUnknownShape = -1;
constexpr int kScalarShape = -2;

struct OpOutput {
  const char* name;
  const char* type;
  // What can be known of its shape before it is computed: that of the input of this number, or one of the constants.
  int shape = kUnknownShape;
  const char* count = nullptr;  // As for inputs; the tensors have the shapes of as many inputs.
};

// The ranks that an input may have.
struct InputRank {
  int input;
  int64_t min_rank, max_rank;
  const char* requirement;
};

// "Tc", {"float", "double"}
struct OpType {
  const char* name;
  std::vector<const char*> allowed;
};

struct OpDefinition {
  const char* name;  // "Fastneg>RolledSoftmax"
  std::vector<OpInput> inputs;
  std::vector<OpOutput> outputs;
  std::vector<OpType> types;
  std::vector<InputRank> ranks;
  bool runs_on_devices = false;  // Whether it computes where KernelContext::device() says; else on the CPU alone.
};

constexpr int kMostAttributes = 16;

struct Op : OpDefinition {
  // Whether `dtype` is among what the type named `type` may be.
  bool Allows(const char* type, DType dtype) const;

  std::vector<OpAttribute> attributes;
  // The value of attribute number i is attributes[i].
  void (*compute)(const int64_t* attributes, KernelContext& context) = nullptr;
};

// Every op, in no particular order.
const std::vector<Op>& AllOps();

// What embeddings and scores may be, what the core computes in, and what labels may be.
OpType FloatTypes(const char* name);
OpType ComputeTypes(const char* name);
OpType RealTypes(const char* name);

bool RegisterOp(Op op);

// An attribute whose value is a member of a struct.
struct Attribute {
  OpAttribute description;
  void (*set)(void* kernel, int64_t value);
};

template <typename Kernel, typename T>
void SetMember(T Kernel::* member, void* kernel, int64_t value) {
  static_cast<Kernel*>(kernel)->*member = static_cast<T>(value);
}

template <auto kMember>
Attribute MemberAttribute(const char* name, AttributeKind kind, int64_t default_value = 0) {
  return {{name, kind, default_value}, [](void* kernel, int64_t value) { SetMember(kMember, kernel, value); }};
}

// An op whose attributes are members of `Kernel`: `Kernel::Attributes()` lists them, `Kernel::Compute` computes.
template <typename Kernel>
struct KernelOp {
  static void Compute(const int64_t* values, KernelContext& context) {
    static const std::vector<Attribute> attributes = Kernel::Attributes();
    if (context.device() == nullptr && !RuntimeIsUsable(context)) return;
    Kernel kernel;
    for (const Attribute& attribute : attributes) attribute.set(&kernel, *values++);
    kernel.Compute(context);
  }

  static bool Register(OpDefinition definition) {
    Op op;
    static_cast<OpDefinition&>(op) = static_cast<OpDefinition&&>(definition);
    op.compute = &Compute;
    for (const Attribute& attribute : Kernel::Attributes()) op.attributes.push_back(attribute.description);
    return RegisterOp(static_cast<Op&&>(op));
  }
};

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_OP_H_
