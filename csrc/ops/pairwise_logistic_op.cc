// Fastneg>PairwiseLogistic: pairwise_loss, forward and, on request, all its gradients.
//
// Optional inputs are lists of zero or one tensor. The gradients are those for an upstream gradient of 1;
// Fastneg>ScaleGrad turns them into the real ones. Columns [batch_size, 1] are taken as vectors, and gradients are
// vectors.
#include <cstdint>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::pairwise_logistic {
namespace {

enum InputIndex { kLabels, kLogits, kMargin, kTemperature, kFirstOptional };
enum OutputIndex { kLoss, kGradLogits, kGradWeights, kGradScalars };

struct PairwiseLogisticKernel {
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool has_session_ids = false;
  bool has_weights = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

// Tensors of one execution. Optional ones are empty where the caller gave none.
struct Inputs {
  Tensor labels, logits, margin, temperature;
  Tensor session_ids, weights;

  int64_t batch_size() const { return logits.dim(0); }
};

std::vector<Attribute> PairwiseLogisticKernel::Attributes() {
  return {
      MemberAttribute<&PairwiseLogisticKernel::with_grad>("with_grad", AttributeKind::kFlag),
      MemberAttribute<&PairwiseLogisticKernel::with_scalar_grad>("with_scalar_grad", AttributeKind::kFlag),
      MemberAttribute<&PairwiseLogisticKernel::has_session_ids>("num_session_ids", AttributeKind::kPresence),
      MemberAttribute<&PairwiseLogisticKernel::has_weights>("num_weights", AttributeKind::kPresence),
  };
}

Inputs ReadInputs(const PairwiseLogisticKernel& kernel, KernelContext& context) {
  Inputs inputs;
  inputs.labels = context.Input(kLabels);
  inputs.logits = context.Input(kLogits);
  inputs.margin = context.Input(kMargin);
  inputs.temperature = context.Input(kTemperature);
  int next = kFirstOptional;
  if (kernel.has_session_ids) inputs.session_ids = context.Input(next++);
  if (kernel.has_weights) inputs.weights = context.Input(next++);
  return inputs;
}

void Validate(const Inputs& inputs, KernelContext& context) {
  const Tensor& logits = inputs.logits;
  if (logits.rank() != 1 && !(logits.rank() == 2 && logits.dim(1) == 1)) {
    context.Refuse("`logits` must have shape [batch_size] or [batch_size, 1]. Received: " + logits.ShapeText() + ".");
    return;
  }
  CheckComputeType(context, "`margin`, `temperature` and `weights`", inputs.margin.dtype(), logits.dtype());
  CheckPerRow(context, "labels", inputs.labels, inputs.batch_size(), true);
  CheckPerRow(context, "session_ids", inputs.session_ids, inputs.batch_size(), true);
  CheckPerRow(context, "weights", inputs.weights, inputs.batch_size(), true);
  CheckScalar(context, "margin", inputs.margin);
  CheckScalar(context, "temperature", inputs.temperature);
  if (context.ok() && ScalarValue(inputs.temperature) == 0) {
    context.Refuse("`temperature` must not be 0. Received: 0.");
  }
}

// Outputs that were not asked for have no elements and stay null for the core.
struct Outputs {
  Tensor loss, grad_logits, grad_weights, grad_scalars;
};

Outputs AllocateOutputs(const PairwiseLogisticKernel& kernel, const Inputs& inputs, KernelContext& context) {
  const DType dtype = inputs.margin.dtype();
  const int64_t batch_size = inputs.batch_size();
  Outputs outputs;
  outputs.loss = context.AllocateOutput(kLoss, dtype, {});
  outputs.grad_logits = context.AllocateOutputIf(kernel.with_grad, kGradLogits, dtype, {batch_size});
  const bool with_weights = kernel.with_grad && kernel.has_weights;
  outputs.grad_weights = context.AllocateOutputIf(with_weights, kGradWeights, dtype, {batch_size});
  // The attribute says that they have a gradient; it is another question whether anyone asks for it.
  const bool with_scalars = kernel.with_grad && kernel.with_scalar_grad;
  outputs.grad_scalars = context.AllocateOutputIf(with_scalars, kGradScalars, dtype, {2});
  return outputs;
}

void Run(const Inputs& inputs, const Outputs& outputs, KernelContext& context) {
  PairwiseLogisticArgs args;
  args.batch_size = inputs.batch_size();
  args.dtype = inputs.logits.dtype();
  args.logits = inputs.logits.data();
  args.label_dtype = inputs.labels.dtype();
  args.labels = inputs.labels.data();
  args.margin = ScalarValue(inputs.margin);
  args.temperature = ScalarValue(inputs.temperature);
  args.session_ids = static_cast<const int64_t*>(DataOrNull(inputs.session_ids));
  args.weights = DataOrNull(inputs.weights);
  args.loss = outputs.loss.data();
  args.grad_logits = DataOrNull(outputs.grad_logits);
  args.grad_weights = DataOrNull(outputs.grad_weights);
  args.grad_scalars = DataOrNull(outputs.grad_scalars);
  const Status status = RunLoss(context, &PairwiseLogisticWorkspaceBytes, &PairwiseLogistic, &args);
  if (status == Status::kInvalidSize) {
    context.Refuse("`logits` must have less than 2^31 rows. Received: " + Text(args.batch_size) + ".");
  } else {
    CheckStatus(context, "PairwiseLogistic", status);
  }
}

void PairwiseLogisticKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(*this, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  const Outputs outputs = AllocateOutputs(*this, inputs, context);
  if (context.ok()) Run(inputs, outputs, context);
}

[[maybe_unused]] const bool kRegistered = KernelOp<PairwiseLogisticKernel>::Register({
    "Fastneg>PairwiseLogistic",
    {{"labels", "Tlabels"},
     {"logits", "T"},
     {"margin", "Tc"},
     {"temperature", "Tc"},
     {"session_ids", "int64", "num_session_ids"},
     {"weights", "Tc", "num_weights"}},
    {{"loss", "Tc", kScalarShape}, {"grad_logits", "Tc"}, {"grad_weights", "Tc"}, {"grad_scalars", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc"), RealTypes("Tlabels")},
    {{kLabels, 1, 2, "`labels` must have shape [batch_size] or [batch_size, 1]"},
     {kLogits, 1, 2, "`logits` must have shape [batch_size] or [batch_size, 1]"},
     {kMargin, 0, 0, "`margin` must be a scalar"},
     {kTemperature, 0, 0, "`temperature` must be a scalar"}},
});

}  // namespace
}  // namespace fastneg::ops::pairwise_logistic
