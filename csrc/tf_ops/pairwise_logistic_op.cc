// Fastneg>PairwiseLogistic: pairwise_loss, forward and, on request, all its gradients.
//
// Optional inputs are lists of zero or one tensor. The gradients are those for an upstream gradient of 1;
// Fastneg>ScaleGrad turns them into the real ones. Columns [batch_size, 1] are taken as vectors, and gradients are
// vectors.
#include <array>
#include <cstdint>
#include <string>

#include "core/api.h"
#include "tf_ops/checks.h"
#include "tf_ops/kernel_context.h"
#include "tf_ops/loss_op.h"
#include "tf_ops/run_loss.h"

namespace fastneg::tf_ops {
namespace {

enum InputIndex { kLabels, kLogits, kMargin, kTemperature, kFirstOptional };
enum OutputIndex { kLoss, kGradLogits, kGradWeights, kGradScalars };

struct PairwiseLogisticKernel {
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool has_session_ids = false;
  bool has_weights = false;
};

// Tensors of one execution. Optional ones are empty where the caller gave none.
struct Inputs {
  Tensor labels, logits, margin, temperature;
  Tensor session_ids, weights;

  int64_t batch_size() const { return logits.dim(0); }
};

constexpr std::array<Attribute<PairwiseLogisticKernel>, 4> kAttributes = {{
    {"with_grad", &PairwiseLogisticKernel::with_grad, AttributeKind::kFlag},
    {"with_scalar_grad", &PairwiseLogisticKernel::with_scalar_grad, AttributeKind::kFlag},
    {"num_session_ids", &PairwiseLogisticKernel::has_session_ids, AttributeKind::kPresence},
    {"num_weights", &PairwiseLogisticKernel::has_weights, AttributeKind::kPresence},
}};

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
    context.Fail(TF_INVALID_ARGUMENT,
                 "`logits` must have shape [batch_size] or [batch_size, 1]. Received: " + logits.ShapeText() + ".");
    return;
  }
  CheckComputeType(context, "`margin`, `temperature` and `weights`", inputs.margin.dtype(), logits.dtype());
  CheckPerRow(context, "labels", inputs.labels, inputs.batch_size(), true);
  CheckPerRow(context, "session_ids", inputs.session_ids, inputs.batch_size(), true);
  CheckPerRow(context, "weights", inputs.weights, inputs.batch_size(), true);
  CheckScalar(context, "margin", inputs.margin);
  CheckScalar(context, "temperature", inputs.temperature);
  if (context.ok() && ScalarValue(inputs.temperature) == 0) {
    context.Fail(TF_INVALID_ARGUMENT, "`temperature` must not be 0. Received: 0.");
  }
}

// Outputs that were not asked for have no elements and stay null for the core.
struct Outputs {
  Tensor loss, grad_logits, grad_weights, grad_scalars;
};

Outputs AllocateOutputs(const PairwiseLogisticKernel& kernel, const Inputs& inputs, KernelContext& context) {
  const TF_DataType dtype = inputs.margin.dtype();
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
  ToCoreType(inputs.logits.dtype(), &args.dtype);
  args.logits = inputs.logits.data();
  ToCoreType(inputs.labels.dtype(), &args.label_dtype);
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
    context.Fail(TF_INVALID_ARGUMENT,
                 "`logits` must have less than 2^31 rows. Received: " + Text(args.batch_size) + ".");
  } else {
    CheckStatus(context, "PairwiseLogistic", status);
  }
}

void Compute(const PairwiseLogisticKernel& kernel, KernelContext& context) {
  const Inputs inputs = ReadInputs(kernel, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  const Outputs outputs = AllocateOutputs(kernel, inputs, context);
  if (context.ok()) Run(inputs, outputs, context);
}

void InferShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  constexpr InputRank kRanks[] = {
      {kLabels, 1, 2, "`labels` must have shape [batch_size] or [batch_size, 1]"},
      {kLogits, 1, 2, "`logits` must have shape [batch_size] or [batch_size, 1]"},
      {kMargin, 0, 0, "`margin` must be a scalar"},
      {kTemperature, 0, 0, "`temperature` must be a scalar"},
  };
  if (CheckRanks(kRanks, context, status)) SetScalarLossShapes(context, status);
}

[[maybe_unused]] const bool kRegistered = LossKernel<PairwiseLogisticKernel, kAttributes, &Compute>::Register({
    "Fastneg>PairwiseLogistic",
    {"labels: Tlabels", "logits: T", "margin: Tc", "temperature: Tc", "session_ids: num_session_ids * int64",
     "weights: num_weights * Tc"},
    {"loss: Tc", "grad_logits: Tc", "grad_weights: Tc", "grad_scalars: Tc"},
    {"T: {half, bfloat16, float, double}", "Tc: {float, double}",
     "Tlabels: {bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64, half, bfloat16, float, double}",
     "num_session_ids: int >= 0", "num_weights: int >= 0", "with_grad: bool = false", "with_scalar_grad: bool = false"},
    &InferShapes,
});

}  // namespace
}  // namespace fastneg::tf_ops
