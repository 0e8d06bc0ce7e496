// Fastneg>InBatchSoftmax: in_batch_softmax_loss, forward and, on request, all its gradients.
//
// Optional inputs are lists of zero or one tensor. The gradients of a scalar loss are those for an upstream gradient of
// 1; Fastneg>ScaleGrad turns them into the real ones. A loss per row has none: its gradients are those of a sum with
// other weights.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/in_batch_inputs.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::in_batch_softmax {
namespace {

enum InputIndex {
  kQuery,
  kCandidate,
  kTemperature,
  kMargin,
  kT,
  kLabelSmoothing,
  kNegativeWeight,
  kFirstOptional,
};
enum OutputIndex { kLoss, kGradQuery, kGradCandidate, kGradWeight, kGradScalars };

struct InBatchSoftmaxKernel {
  bool normalize = false;
  bool refined = false;
  bool positive_in_softmax = true;
  bool bidirectional = false;
  bool per_row = false;   // A loss for every row,
  bool averages = false;  // or the mean of those that count, else the sum.
  int64_t num_hard_negatives = 0;
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool with_t_grad = true;  // Among them.
  bool has_weights = false;
  bool has_sampling_probability = false;
  bool has_positives = false;
  bool has_candidate_ids = false;
  bool has_candidate_mask = false;
  bool has_score_mask = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

std::vector<Attribute> InBatchSoftmaxKernel::Attributes() {
  using Kernel = InBatchSoftmaxKernel;
  return {
      MemberAttribute<&Kernel::normalize>("normalize", AttributeKind::kFlag),
      MemberAttribute<&Kernel::refined>("refined", AttributeKind::kFlag),
      MemberAttribute<&Kernel::positive_in_softmax>("positive_in_softmax", AttributeKind::kFlag, 1),
      MemberAttribute<&Kernel::bidirectional>("bidirectional", AttributeKind::kFlag),
      MemberAttribute<&Kernel::per_row>("per_row", AttributeKind::kFlag),
      MemberAttribute<&Kernel::averages>("averages", AttributeKind::kFlag),
      MemberAttribute<&Kernel::num_hard_negatives>("num_hard_negatives", AttributeKind::kNumber),
      MemberAttribute<&Kernel::with_grad>("with_grad", AttributeKind::kFlag),
      MemberAttribute<&Kernel::with_scalar_grad>("with_scalar_grad", AttributeKind::kFlag),
      MemberAttribute<&Kernel::with_t_grad>("with_t_grad", AttributeKind::kFlag, 1),
      MemberAttribute<&Kernel::has_weights>("num_weights", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_sampling_probability>("num_sampling_probabilities", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_positives>("num_positives", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_candidate_ids>("num_candidate_ids", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_candidate_mask>("num_candidate_masks", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_score_mask>("num_score_masks", AttributeKind::kPresence),
  };
}

struct Inputs : InBatchInputs {
  Tensor temperature, margin, t, label_smoothing, negative_weight;
  Tensor weights, sampling_probability;
};

Inputs ReadInputs(const InBatchSoftmaxKernel& kernel, KernelContext& context) {
  Inputs inputs;
  inputs.query = context.Input(kQuery);
  inputs.candidate = context.Input(kCandidate);
  inputs.temperature = context.Input(kTemperature);
  inputs.margin = context.Input(kMargin);
  inputs.t = context.Input(kT);
  inputs.label_smoothing = context.Input(kLabelSmoothing);
  inputs.negative_weight = context.Input(kNegativeWeight);
  int next = kFirstOptional;
  if (kernel.has_weights) inputs.weights = context.Input(next++);
  if (kernel.has_sampling_probability) inputs.sampling_probability = context.Input(next++);
  if (kernel.has_positives) inputs.positives = context.Input(next++);
  if (kernel.has_candidate_ids) inputs.candidate_ids = context.Input(next++);
  if (kernel.has_candidate_mask) inputs.candidate_mask = context.Input(next++);
  if (kernel.has_score_mask) inputs.score_mask = context.Input(next++);
  return inputs;
}

void CheckOptions(const InBatchSoftmaxKernel& kernel, const InBatchSoftmaxArgs& args, KernelContext& context) {
  const auto refuse = [&](const char* requirement, double received) {
    context.Refuse(std::string(requirement) + " Received: " + std::to_string(received) + ".");
  };
  if (!(args.temperature > 0) || !std::isfinite(args.temperature)) {
    return refuse("`temperature` must be positive and finite.", args.temperature);
  }
  if (!(args.label_smoothing >= 0 && args.label_smoothing < 1)) {
    return refuse("`label_smoothing` must be in [0, 1).", args.label_smoothing);
  }
  if (!args.positive_in_softmax && args.label_smoothing != 0) {
    return refuse("`label_smoothing` must be 0 where the positive is not in the softmax.", args.label_smoothing);
  }
  CheckRowOptions(context, {kernel.refined, args.positive_in_softmax, args.negative_weight},
                  kernel.has_sampling_probability);
  if (kernel.bidirectional && (kernel.has_positives || kernel.refined || args.num_hard_negatives != 0)) {
    context.Refuse(
        "`bidirectional` must be alone. Received: positives, hard negatives or the refined correction with it.");
  }
}

void Validate(const Inputs& inputs, KernelContext& context) {
  CheckInBatchShapes(inputs, context);
  if (!context.ok()) return;
  CheckComputeType(context, "`temperature`, `margin`, `t` and `sample_weight`", inputs.temperature.dtype(),
                   inputs.query.dtype());
  CheckPerRow(context, "sample_weight", inputs.weights, inputs.batch_size(), true);
  CheckPerRow(context, "candidate_sampling_probability", inputs.sampling_probability, inputs.num_candidates(), false);
  CheckScalar(context, "temperature", inputs.temperature);
  CheckScalar(context, "margin", inputs.margin);
  CheckScalar(context, "t", inputs.t);
  CheckScalar(context, "label_smoothing", inputs.label_smoothing);
  CheckScalar(context, "negative_weight", inputs.negative_weight);
}

void FillArguments(const InBatchSoftmaxKernel& kernel, const Inputs& inputs, InBatchSoftmaxArgs* args) {
  FillInBatchArguments(inputs, kernel.normalize, args);
  args->weights = DataOrNull(inputs.weights);
  args->sampling_probability = DataOrNull(inputs.sampling_probability);
  args->temperature = ScalarValue(inputs.temperature);
  args->margin = ScalarValue(inputs.margin);
  args->t = ScalarValue(inputs.t);
  args->label_smoothing = ScalarValue(inputs.label_smoothing);
  args->negative_weight = ScalarValue(inputs.negative_weight);
  // As many as there are candidates: all.
  const bool selects = kernel.num_hard_negatives < inputs.num_candidates();
  args->num_hard_negatives = selects ? kernel.num_hard_negatives : 0;
  args->refined = kernel.refined;
  args->positive_in_softmax = kernel.positive_in_softmax;
  args->bidirectional = kernel.bidirectional;
  args->t_is_trained = kernel.with_t_grad;
  args->reduction = kernel.per_row ? Reduction::kNone : kernel.averages ? Reduction::kMean : Reduction::kSum;
}

void InBatchSoftmaxKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(*this, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  InBatchSoftmaxArgs args;
  FillArguments(*this, inputs, &args);
  CheckOptions(*this, args, context);
  if (!context.ok()) return;

  const DType dtype = inputs.temperature.dtype();
  const int64_t b = args.batch_size, c = args.num_candidates, d = args.embedding_dim;
  const bool grads = with_grad && !per_row;
  const Tensor loss = per_row ? context.AllocateOutput(kLoss, dtype, {b}) : context.AllocateOutput(kLoss, dtype, {});
  const Tensor grad_query = context.AllocateOutputIf(grads, kGradQuery, dtype, {b, d});
  const Tensor grad_candidate = context.AllocateOutputIf(grads, kGradCandidate, dtype, {c, d});
  const Tensor grad_weight = context.AllocateOutputIf(grads && has_weights, kGradWeight, dtype, {b});
  const Tensor grad_scalars = context.AllocateOutputIf(grads && with_scalar_grad, kGradScalars, dtype, {3});
  if (!context.ok()) return;
  args.loss = loss.data();
  args.grad_queries = DataOrNull(grad_query);
  args.grad_candidates = DataOrNull(grad_candidate);
  args.grad_weights = DataOrNull(grad_weight);
  args.grad_scalars = DataOrNull(grad_scalars);
  int64_t bad = 0;
  args.error_index = &bad;
  const Status status = RunLoss(context, &InBatchSoftmaxWorkspaceBytes, &InBatchSoftmax, &args);
  CheckInBatchStatus(context, "InBatchSoftmax", args, status, bad);
}

[[maybe_unused]] const bool kRegistered = KernelOp<InBatchSoftmaxKernel>::Register({
    "Fastneg>InBatchSoftmax",
    {{"query_embeddings", "T"},
     {"candidate_embeddings", "T"},
     {"temperature", "Tc"},
     {"margin", "Tc"},
     {"t", "Tc"},
     {"label_smoothing", "Tc"},
     {"negative_weight", "Tc"},
     {"weights", "Tc", "num_weights"},
     {"sampling_probability", "Tc", "num_sampling_probabilities"},
     {"positives", "int64", "num_positives"},
     {"candidate_ids", "int64", "num_candidate_ids"},
     {"candidate_mask", "bool", "num_candidate_masks"},
     {"score_mask", "bool", "num_score_masks"}},
    {{"loss", "Tc"}, {"grad_query", "Tc"}, {"grad_candidate", "Tc"}, {"grad_weight", "Tc"}, {"grad_scalars", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc")},
    {{kQuery, 2, 2, "`query_embeddings` must have rank 2"},
     {kCandidate, 2, 2, "`candidate_embeddings` must have rank 2"},
     {kTemperature, 0, 0, "`temperature` must be a scalar"},
     {kMargin, 0, 0, "`margin` must be a scalar"},
     {kT, 0, 0, "`t` must be a scalar"}},
});

}  // namespace
}  // namespace fastneg::ops::in_batch_softmax
