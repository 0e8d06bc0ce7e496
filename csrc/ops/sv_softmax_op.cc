// Fastneg>SvSoftmax: support_vector_guided_softmax_loss, forward and, on request, all its gradients, for an upstream
// gradient of 1; Fastneg>ScaleGrad turns them into the real ones. Where that is 1, the scores' gradients can be had in
// the scores' type at once: `narrow_grads`. `weights` is a list of zero or one tensor.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::sv_softmax {
namespace {

enum InputIndex { kPosScore, kNegScores, kSmooth, kMargin, kT, kThreshold, kWeights };
enum OutputIndex { kLoss, kGradPos, kGradNeg, kGradWeights, kGradScalars, kNarrowGradPos, kNarrowGradNeg };

struct SvSoftmaxKernel {
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool has_weights = false;
  bool narrow_grads = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

struct Inputs {
  Tensor pos_score, neg_scores, smooth, margin, t, threshold;
  Tensor weights;  // Empty where not given.
};

std::vector<Attribute> SvSoftmaxKernel::Attributes() {
  return {
      MemberAttribute<&SvSoftmaxKernel::with_grad>("with_grad", AttributeKind::kFlag),
      MemberAttribute<&SvSoftmaxKernel::with_scalar_grad>("with_scalar_grad", AttributeKind::kFlag),
      MemberAttribute<&SvSoftmaxKernel::has_weights>("num_weights", AttributeKind::kPresence),
      MemberAttribute<&SvSoftmaxKernel::narrow_grads>("narrow_grads", AttributeKind::kFlag),
  };
}

Inputs ReadInputs(const SvSoftmaxKernel& kernel, KernelContext& context) {
  Inputs inputs;
  inputs.pos_score = context.Input(kPosScore);
  inputs.neg_scores = context.Input(kNegScores);
  inputs.smooth = context.Input(kSmooth);
  inputs.margin = context.Input(kMargin);
  inputs.t = context.Input(kT);
  inputs.threshold = context.Input(kThreshold);
  if (kernel.has_weights) inputs.weights = context.Input(kWeights);
  return inputs;
}

void Validate(const Inputs& inputs, KernelContext& context) {
  const Tensor& neg_scores = inputs.neg_scores;
  if (neg_scores.rank() != 2) {
    context.Refuse("`neg_scores` must have rank 2, [num_rows, num_negatives]. Received: " + neg_scores.ShapeText() +
                   ".");
    return;
  }
  CheckPerRow(context, "pos_score", inputs.pos_score, neg_scores.dim(0), true);
  CheckPerRow(context, "weights", inputs.weights, neg_scores.dim(0), true);
  CheckComputeType(context, "`smooth`, `margin`, `t`, `threshold` and `weights`", inputs.smooth.dtype(),
                   neg_scores.dtype());
  CheckScalar(context, "smooth", inputs.smooth);
  CheckScalar(context, "margin", inputs.margin);
  CheckScalar(context, "t", inputs.t);
  CheckScalar(context, "threshold", inputs.threshold);
}

// Outputs that were not asked for have no elements and stay null for the core. grad_pos and grad_neg are one of the two
// pairs.
struct Outputs {
  Tensor loss, grad_pos, grad_neg, grad_weights, grad_scalars;
};

// The gradient of the scores takes their place in memory where TensorFlow needs them no longer and their types agree.
Tensor GradNegBuffer(DType dtype, int output, Inputs* inputs, KernelContext& context) {
  const int64_t dims[] = {inputs->neg_scores.dim(0), inputs->neg_scores.dim(1)};
  if (inputs->neg_scores.dtype() != dtype) return context.AllocateOutput(output, dtype, dims, 2);
  inputs->neg_scores = Tensor();  // No buffer is given away while there is another reference to it.
  bool forwarded = false;
  Tensor grad = context.ForwardInputOrAllocateOutput(kNegScores, output, dims, 2, &forwarded);
  if (!forwarded) inputs->neg_scores = context.Input(kNegScores);
  return grad;
}

Outputs AllocateOutputs(const SvSoftmaxKernel& kernel, Inputs* inputs, KernelContext& context) {
  const DType dtype = inputs->smooth.dtype(), narrow_dtype = inputs->neg_scores.dtype();
  const int64_t num_rows = inputs->neg_scores.dim(0);
  const bool narrow = kernel.with_grad && kernel.narrow_grads, wide = kernel.with_grad && !narrow;
  Outputs outputs;
  outputs.loss = context.AllocateOutput(kLoss, dtype, {});
  Tensor wide_pos = context.AllocateOutputIf(wide, kGradPos, dtype, {num_rows});
  Tensor narrow_pos = context.AllocateOutputIf(narrow, kNarrowGradPos, narrow_dtype, {num_rows});
  outputs.grad_pos = std::move(narrow ? narrow_pos : wide_pos);
  const bool with_weights = kernel.with_grad && kernel.has_weights;
  outputs.grad_weights = context.AllocateOutputIf(with_weights, kGradWeights, dtype, {num_rows});
  const bool with_scalars = kernel.with_grad && kernel.with_scalar_grad;
  outputs.grad_scalars = context.AllocateOutputIf(with_scalars, kGradScalars, dtype, {3});
  if (!wide) context.AllocateOutput(kGradNeg, dtype, {0});
  if (!narrow) context.AllocateOutput(kNarrowGradNeg, narrow_dtype, {0});
  if (wide) outputs.grad_neg = GradNegBuffer(dtype, kGradNeg, inputs, context);
  if (narrow) outputs.grad_neg = GradNegBuffer(narrow_dtype, kNarrowGradNeg, inputs, context);
  return outputs;
}

void Run(const Inputs& inputs, const Outputs& outputs, KernelContext& context, SvSoftmaxArgs* args) {
  args->pos_score = inputs.pos_score.data();
  args->neg_scores = inputs.neg_scores ? inputs.neg_scores.data() : outputs.grad_neg.data();
  ReadScalar(inputs.smooth, &args->smooth, &args->on_device.smooth);
  ReadScalar(inputs.margin, &args->margin, &args->on_device.margin);
  ReadScalar(inputs.t, &args->t, &args->on_device.t);
  ReadScalar(inputs.threshold, &args->threshold, &args->on_device.threshold);
  args->weights = DataOrNull(inputs.weights);
  args->loss = outputs.loss.data();
  args->grad_pos = DataOrNull(outputs.grad_pos);
  args->grad_neg = DataOrNull(outputs.grad_neg);
  args->grad_weights = DataOrNull(outputs.grad_weights);
  args->grad_scalars = DataOrNull(outputs.grad_scalars);
  const Status status = RunLoss(context, &SvSoftmaxWorkspaceBytes, &SvSoftmax, args);
  if (status == Status::kInvalidSize) {
    context.Refuse("`neg_scores` must have sizes whose product is below 2^48. Received: [" + Text(args->num_rows) +
                   ", " + Text(args->num_negatives) + "].");
  } else {
    CheckStatus(context, "SvSoftmax", status);
  }
}

void SvSoftmaxKernel::Compute(KernelContext& context) const {
  Inputs inputs = ReadInputs(*this, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  SvSoftmaxArgs args;
  args.num_rows = inputs.neg_scores.dim(0);
  args.num_negatives = inputs.neg_scores.dim(1);
  args.dtype = inputs.neg_scores.dtype();
  args.narrow_grads = narrow_grads;
  const Outputs outputs = AllocateOutputs(*this, &inputs, context);
  if (context.ok()) Run(inputs, outputs, context, &args);
}

[[maybe_unused]] const bool kRegistered = KernelOp<SvSoftmaxKernel>::Register({
    "Fastneg>SvSoftmax",
    {{"pos_score", "T"},
     {"neg_scores", "T"},
     {"smooth", "Tc"},
     {"margin", "Tc"},
     {"t", "Tc"},
     {"threshold", "Tc"},
     {"weights", "Tc", "num_weights"}},
    {{"loss", "Tc", kScalarShape},
     {"grad_pos", "Tc"},
     {"grad_neg", "Tc"},
     {"grad_weights", "Tc"},
     {"grad_scalars", "Tc"},
     {"narrow_grad_pos", "T"},
     {"narrow_grad_neg", "T"}},
    {FloatTypes("T"), ComputeTypes("Tc")},
    {{kPosScore, 1, 2, "`pos_score` must have shape [num_rows] or [num_rows, 1]"},
     {kNegScores, 2, 2, "`neg_scores` must have rank 2, [num_rows, num_negatives]"},
     {kSmooth, 0, 0, "`smooth` must be a scalar"},
     {kMargin, 0, 0, "`margin` must be a scalar"},
     {kT, 0, 0, "`t` must be a scalar"},
     {kThreshold, 0, 0, "`threshold` must be a scalar"}},
    /*runs_on_devices=*/true,
});

}  // namespace
}  // namespace fastneg::ops::sv_softmax
