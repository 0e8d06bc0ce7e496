#include "tf_ops/op_registration.h"

#include <cstdio>

#include "tf_ops/status.h"

namespace fastneg::tf_ops {
namespace {

void Report(const char* what, const char* op, const ScopedStatus& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "fastneg: %s of %s could not be registered: %s\n", what, op, TF_Message(status.get()));
}

}  // namespace

bool RegisterOp(const OpDefinition& definition, const KernelFunctions& kernel) {
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(definition.name);
  for (const char* spec : definition.inputs) TF_OpDefinitionBuilderAddInput(op, spec);
  for (const char* spec : definition.outputs) TF_OpDefinitionBuilderAddOutput(op, spec);
  for (const char* spec : definition.attrs) TF_OpDefinitionBuilderAddAttr(op, spec);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, definition.infer_shapes);
  ScopedStatus status;
  TF_RegisterOpDefinition(op, status.get());  // Takes the builder over.
  Report("the definition", definition.name, status);

  TF_KernelBuilder* builder =
      TF_NewKernelBuilder(definition.name, "CPU", kernel.create, kernel.compute, kernel.destroy);
  ScopedStatus kernel_status;
  TF_RegisterKernelBuilder(definition.name, builder, kernel_status.get());  // Takes the builder over.
  Report("the CPU kernel", definition.name, kernel_status);
  return status.ok() && kernel_status.ok();
}

}  // namespace fastneg::tf_ops
