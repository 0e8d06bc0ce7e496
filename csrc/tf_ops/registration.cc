// Offers every op to TensorFlow, when the library is loaded: its definition, a shape function and a kernel for the CPU.
//
// TensorFlow's C API hands no data of ours to the functions of a kernel, so each op has its own instance of them.
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "ops/op.h"
#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"
#include "tf_ops/tf_kernel_context.h"

// In libfastneg.so.
extern "C" const std::vector<fastneg::ops::Op>* FastnegAllOps();

namespace fastneg::tf_ops {
namespace {

using ops::AttributeKind;
using ops::Op;
using ops::OpAttribute;
using ops::OpOutput;

constexpr int kMostOps = 24;

const Op& OpAt(int index) { return (*FastnegAllOps())[static_cast<size_t>(index)]; }

// An op with certain attributes.
struct Kernel {
  int64_t attributes[ops::kMostAttributes] = {};
};

bool ReadAttribute(TF_OpKernelConstruction* construction, const OpAttribute& attribute, int64_t* value,
                   const ScopedStatus& status) {
  if (attribute.kind == AttributeKind::kFlag) {
    TF_Bool flag = 0;
    TF_OpKernelConstruction_GetAttrBool(construction, attribute.name, &flag, status.get());
    *value = flag != 0;
    return status.ok();
  }
  TF_OpKernelConstruction_GetAttrInt64(construction, attribute.name, value, status.get());
  if (status.ok() && attribute.kind == AttributeKind::kPresence && *value > 1) {
    const std::string message =
        std::string("`") + attribute.name + "` must be 0 or 1. Received: " + std::to_string(*value) + ".";
    TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, message.c_str());
  }
  return status.ok();
}

void* CreateKernel(const Op& op, TF_OpKernelConstruction* construction) {
  const ScopedStatus status;
  Kernel kernel;
  int64_t* value = kernel.attributes;
  for (const OpAttribute& attribute : op.attributes) {
    if (ReadAttribute(construction, attribute, value++, status)) continue;
    TF_OpKernelConstruction_Failure(construction, status.get());
    return nullptr;
  }
  return new Kernel(kernel);
}

void DestroyKernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

// Refuses an input whose static rank is not as it must be.
void CheckRank(const ops::InputRank& rank, TF_ShapeInferenceContext* context, TF_ShapeHandle* shape,
               TF_Status* status) {
  TF_ShapeInferenceContextGetInput(context, rank.input, shape, status);
  if (TF_GetCode(status) != TF_OK || !TF_ShapeInferenceContextRankKnown(context, shape)) return;
  const int64_t actual = TF_ShapeInferenceContextRank(context, shape);
  if (actual >= rank.min_rank && actual <= rank.max_rank) return;
  const std::string message = std::string(rank.requirement) + ". Received: rank " + std::to_string(actual) + ".";
  TF_SetStatus(status, TF_INVALID_ARGUMENT, message.c_str());
}

// The shapes of most gradients depend on attributes, which shape functions of the C API cannot read: they stay unknown.
void InferShapes(const Op& op, TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  for (const ops::InputRank& rank : op.ranks) {
    if (TF_GetCode(status) == TF_OK) CheckRank(rank, context, shape, status);
  }
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetUnknownShape(context, status);
  const auto num_inputs = static_cast<int>(TF_ShapeInferenceContextNumInputs(context));
  int index = 0;
  for (const OpOutput& output : op.outputs) {
    // A list of outputs ends where the inputs do that it is like.
    const int count = output.count == nullptr ? 1 : num_inputs - output.shape;
    for (int i = 0; i < count && TF_GetCode(status) == TF_OK; ++i, ++index) {
      if (output.shape == ops::kScalarShape) {
        TF_ShapeHandle* scalar = TF_ShapeInferenceContextScalar(context);
        TF_ShapeInferenceContextSetOutput(context, index, scalar, status);
        TF_DeleteShapeHandle(scalar);
      } else if (output.shape >= 0) {
        TF_ShapeInferenceContextGetInput(context, output.shape + i, shape, status);
        if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, index, shape, status);
      }
    }
  }
  TF_DeleteShapeHandle(shape);
}

// Strings in the form that REGISTER_OP takes: "user_emb: T", "weights: num_weights * Tc", "T: {float, double}".
std::string Argument(const char* name, const char* type, const char* count) {
  return std::string(name) + ": " + (count != nullptr ? std::string(count) + " * " : "") + type;
}

std::string AttributeSpec(const OpAttribute& attribute) {
  std::string spec = attribute.name;
  switch (attribute.kind) {
    case AttributeKind::kFlag:
      return spec + ": bool = " + (attribute.default_value != 0 ? "true" : "false");
    case AttributeKind::kNumber:
      return spec + ": int >= 1";
    case AttributeKind::kPresence:
    case AttributeKind::kLength:
      return spec + ": int >= 0";
  }
  return spec;
}

std::string TypeSpec(const ops::OpType& type) {
  std::string spec = std::string(type.name) + ": {";
  for (const char* allowed : type.allowed) spec += (spec.back() == '{' ? "" : ", ") + std::string(allowed);
  return spec + "}";
}

void DefineOp(const Op& op, void (*infer_shapes)(TF_ShapeInferenceContext*, TF_Status*), TF_Status* status) {
  TF_OpDefinitionBuilder* builder = TF_NewOpDefinitionBuilder(op.name);
  for (const ops::OpInput& input : op.inputs) {
    TF_OpDefinitionBuilderAddInput(builder, Argument(input.name, input.type, input.count).c_str());
  }
  for (const OpOutput& output : op.outputs) {
    TF_OpDefinitionBuilderAddOutput(builder, Argument(output.name, output.type, output.count).c_str());
  }
  for (const ops::OpType& type : op.types) TF_OpDefinitionBuilderAddAttr(builder, TypeSpec(type).c_str());
  for (const OpAttribute& attribute : op.attributes) {
    TF_OpDefinitionBuilderAddAttr(builder, AttributeSpec(attribute).c_str());
  }
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, infer_shapes);
  TF_RegisterOpDefinition(builder, status);  // Takes the builder over.
}

// Trouble is reported on stderr, since nothing can be returned or thrown while a library loads; using the op then fails
// with TensorFlow's own message.
void Report(const char* what, const Op& op, const ScopedStatus& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "fastneg: %s of %s could not be registered: %s\n", what, op.name, TF_Message(status.get()));
}

template <int kIndex>
struct Binding {
  static void* Create(TF_OpKernelConstruction* construction) { return CreateKernel(OpAt(kIndex), construction); }

  static void Compute(void* kernel, TF_OpKernelContext* tf_context) {
    TfKernelContext context(tf_context);
    OpAt(kIndex).compute(static_cast<const Kernel*>(kernel)->attributes, context);
  }

  static void InferShapesOfThis(TF_ShapeInferenceContext* context, TF_Status* status) {
    InferShapes(OpAt(kIndex), context, status);
  }

  static void Register() {
    if (kIndex >= static_cast<int>(FastnegAllOps()->size())) return;
    const Op& op = OpAt(kIndex);
    ScopedStatus definition;
    DefineOp(op, &InferShapesOfThis, definition.get());
    Report("the definition", op, definition);
    ScopedStatus kernel;
    TF_RegisterKernelBuilder(op.name, TF_NewKernelBuilder(op.name, "CPU", &Create, &Compute, &DestroyKernel),
                             kernel.get());  // Takes the builder over.
    Report("the CPU kernel", op, kernel);
  }
};

template <int... kIndices>
bool RegisterAll(std::integer_sequence<int, kIndices...>) {
  (Binding<kIndices>::Register(), ...);
  return true;
}

[[maybe_unused]] const bool kRegistered = RegisterAll(std::make_integer_sequence<int, kMostOps>());

}  // namespace
}  // namespace fastneg::tf_ops
