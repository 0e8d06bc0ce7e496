// Fastneg>RolledSoftmax: softmax_loss_with_negative_mining, forward and, on request, all its gradients.
//
// Optional inputs are lists of zero or one tensor. The gradients are those for an upstream gradient
// of 1; Fastneg>ScaleGrad turns them into the real ones.
#include <cstdint>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::rolled_softmax {
namespace {

enum InputIndex { kUserEmb, kItemEmb, kLabels, kShifts, kGamma, kMargin, kT, kNegativeWeight, kFirstOptional };
enum OutputIndex { kLoss, kGradUser, kGradItem, kGradWeights, kGradScalars };

struct RolledSoftmaxKernel {
  bool embed_normed = false;
  bool refined = false;
  bool positive_in_softmax = true;
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool has_weights = false;
  bool has_sampling_probability = false;
  bool has_candidate_ids = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

// Tensors of one execution. Optional ones are empty where the caller gave none.
struct Inputs {
  Tensor user_emb, item_emb, labels, shifts, gamma, margin, t, negative_weight;
  Tensor weights, sampling_probability, candidate_ids;

  int64_t batch_size() const { return user_emb.dim(0); }
  int64_t embedding_dim() const { return user_emb.dim(1); }
  int64_t num_negatives() const { return shifts.dim(0); }
};

std::vector<Attribute> RolledSoftmaxKernel::Attributes() {
  return {
      MemberAttribute<&RolledSoftmaxKernel::embed_normed>("embed_normed", AttributeKind::kFlag),
      MemberAttribute<&RolledSoftmaxKernel::refined>("refined", AttributeKind::kFlag),
      MemberAttribute<&RolledSoftmaxKernel::positive_in_softmax>("positive_in_softmax", AttributeKind::kFlag, 1),
      MemberAttribute<&RolledSoftmaxKernel::with_grad>("with_grad", AttributeKind::kFlag),
      MemberAttribute<&RolledSoftmaxKernel::with_scalar_grad>("with_scalar_grad", AttributeKind::kFlag),
      MemberAttribute<&RolledSoftmaxKernel::has_weights>("num_weights", AttributeKind::kPresence),
      MemberAttribute<&RolledSoftmaxKernel::has_sampling_probability>("num_sampling_probabilities",
                                                                      AttributeKind::kPresence),
      MemberAttribute<&RolledSoftmaxKernel::has_candidate_ids>("num_candidate_ids", AttributeKind::kPresence),
  };
}

Inputs ReadInputs(const RolledSoftmaxKernel& kernel, KernelContext& context) {
  Inputs inputs;
  inputs.user_emb = context.Input(kUserEmb);
  inputs.item_emb = context.Input(kItemEmb);
  inputs.labels = context.Input(kLabels);
  inputs.shifts = context.Input(kShifts);
  inputs.gamma = context.Input(kGamma);
  inputs.margin = context.Input(kMargin);
  inputs.t = context.Input(kT);
  inputs.negative_weight = context.Input(kNegativeWeight);
  int next = kFirstOptional;
  if (kernel.has_weights) inputs.weights = context.Input(next++);
  if (kernel.has_sampling_probability) inputs.sampling_probability = context.Input(next++);
  if (kernel.has_candidate_ids) inputs.candidate_ids = context.Input(next++);
  return inputs;
}

void Validate(const Inputs& inputs, KernelContext& context) {
  CheckEmbeddings(context, "user_emb", inputs.user_emb, "item_emb", inputs.item_emb);
  if (!context.ok()) return;
  CheckComputeType(context, "`gamma`, `margin`, `t` and `weights`", inputs.gamma.dtype(), inputs.user_emb.dtype());
  const int64_t batch_size = inputs.batch_size();
  CheckPerRow(context, "labels", inputs.labels, batch_size, true);
  CheckPerRow(context, "weights", inputs.weights, batch_size, true);
  CheckPerRow(context, "candidate_sampling_probability", inputs.sampling_probability, batch_size, false);
  CheckPerRow(context, "candidate_ids", inputs.candidate_ids, batch_size, false);
  CheckScalar(context, "gamma", inputs.gamma);
  CheckScalar(context, "margin", inputs.margin);
  CheckScalar(context, "t", inputs.t);
  CheckScalar(context, "negative_weight", inputs.negative_weight);
  if (inputs.shifts.rank() != 1) {
    context.Refuse("`shifts` must have rank 1, [num_negatives]. Received: " + inputs.shifts.ShapeText() + ".");
    return;
  }
  const int64_t num_negatives = inputs.num_negatives();
  if (batch_size > 0 && (num_negatives < 1 || num_negatives >= batch_size)) {
    context.Refuse("`num_negative_samples` must be at least 1 and less than the batch size, " + Text(batch_size) +
                   ". Received: " + Text(num_negatives) + ".");
  }
}

void FillArguments(const RolledSoftmaxKernel& kernel, const Inputs& inputs, RolledSoftmaxArgs* args) {
  args->batch_size = inputs.batch_size();
  args->embedding_dim = inputs.embedding_dim();
  args->num_negatives = inputs.num_negatives();
  args->dtype = inputs.user_emb.dtype();
  args->user_emb = inputs.user_emb.data();
  args->item_emb = inputs.item_emb.data();
  args->user_row_stride = inputs.embedding_dim();
  args->item_row_stride = inputs.embedding_dim();
  args->embed_normed = kernel.embed_normed;
  args->label_dtype = inputs.labels.dtype();
  args->labels = inputs.labels.data();
  args->shifts = static_cast<const int64_t*>(inputs.shifts.data());
  ReadScalar(inputs.gamma, &args->gamma, &args->on_device.gamma);
  ReadScalar(inputs.margin, &args->margin, &args->on_device.margin);
  ReadScalar(inputs.t, &args->t, &args->on_device.t);
  args->refined = kernel.refined;
  args->positive_in_softmax = kernel.positive_in_softmax;
  ReadScalar(inputs.negative_weight, &args->negative_weight, &args->on_device.negative_weight);
  args->weights = DataOrNull(inputs.weights);
  args->sampling_probability = DataOrNull(inputs.sampling_probability);
  args->candidate_ids = static_cast<const int64_t*>(DataOrNull(inputs.candidate_ids));
}

// Outputs that were not asked for have no elements and stay null for the core.
struct Outputs {
  Tensor loss, grad_user, grad_item, grad_weights, grad_scalars;
};

Outputs AllocateOutputs(const RolledSoftmaxKernel& kernel, const Inputs& inputs, KernelContext& context) {
  const DType dtype = inputs.gamma.dtype();
  const int64_t batch_size = inputs.batch_size();
  const int64_t embedding_dim = inputs.embedding_dim();
  Outputs outputs;
  outputs.loss = context.AllocateOutput(kLoss, dtype, {});
  outputs.grad_user = context.AllocateOutputIf(kernel.with_grad, kGradUser, dtype, {batch_size, embedding_dim});
  outputs.grad_item = context.AllocateOutputIf(kernel.with_grad, kGradItem, dtype, {batch_size, embedding_dim});
  const bool with_weights = kernel.with_grad && kernel.has_weights;
  outputs.grad_weights = context.AllocateOutputIf(with_weights, kGradWeights, dtype, {batch_size});
  const bool with_scalars = kernel.with_grad && kernel.with_scalar_grad;
  outputs.grad_scalars = context.AllocateOutputIf(with_scalars, kGradScalars, dtype, {3});
  return outputs;
}

void Run(const Inputs& inputs, const Outputs& outputs, KernelContext& context, RolledSoftmaxArgs* args) {
  args->loss = outputs.loss.data();
  args->grad_user = DataOrNull(outputs.grad_user);
  args->grad_item = DataOrNull(outputs.grad_item);
  args->grad_weights = DataOrNull(outputs.grad_weights);
  args->grad_scalars = DataOrNull(outputs.grad_scalars);
  int64_t bad_shift = 0;
  if (context.device() == nullptr) args->error_index = &bad_shift;
  const Status status = RunLoss(context, &RolledSoftmaxWorkspaceBytes, &RolledSoftmax, args);
  if (status == Status::kShiftIsMultiple) {
    const int64_t shift = static_cast<const int64_t*>(inputs.shifts.data())[bad_shift];
    context.Refuse("`shifts` must not be 0 modulo the batch size, " + Text(args->batch_size) + ". Received: shifts[" +
                   Text(bad_shift) + "] = " + Text(shift) + ".");
  } else if (status == Status::kInvalidSize) {
    context.Refuse(
        "`user_emb` and `num_negative_samples` must have sizes whose product fits 63 "
        "bits. Received: " +
        inputs.user_emb.ShapeText() + " and " + Text(args->num_negatives) + ".");
  } else {
    CheckStatus(context, "RolledSoftmax", status);
  }
}

void RolledSoftmaxKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(*this, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  RolledSoftmaxArgs args;
  FillArguments(*this, inputs, &args);
  CheckRowOptions(context, {refined, positive_in_softmax, args.negative_weight}, has_sampling_probability);
  if (!context.ok()) return;
  const Outputs outputs = AllocateOutputs(*this, inputs, context);
  if (!context.ok()) return;
  if (inputs.batch_size() == 0) {
    // The end of a filtered data set: nothing to learn, nothing to complain about.
    context.SetZero(outputs.loss);
    context.SetZero(outputs.grad_scalars);
    return;
  }
  Run(inputs, outputs, context, &args);
}

[[maybe_unused]] const bool kRegistered = KernelOp<RolledSoftmaxKernel>::Register({
    "Fastneg>RolledSoftmax",
    {{"user_emb", "T"},
     {"item_emb", "T"},
     {"labels", "Tlabels"},
     {"shifts", "int64"},
     {"gamma", "Tc"},
     {"margin", "Tc"},
     {"t", "Tc"},
     {"negative_weight", "Tc"},
     {"weights", "Tc", "num_weights"},
     {"sampling_probability", "Tc", "num_sampling_probabilities"},
     {"candidate_ids", "int64", "num_candidate_ids"}},
    {{"loss", "Tc", kScalarShape},
     {"grad_user", "Tc"},
     {"grad_item", "Tc"},
     {"grad_weights", "Tc"},
     {"grad_scalars", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc"), RealTypes("Tlabels")},
    {{kUserEmb, 2, 2, "`user_emb` must have rank 2, [batch_size, embedding_dim]"},
     {kItemEmb, 2, 2, "`item_emb` must have the shape of `user_emb`, [batch_size, embedding_dim]"},
     {kLabels, 1, 2, "`labels` must have shape [batch_size] or [batch_size, 1]"},
     {kShifts, 1, 1, "`shifts` must have rank 1, [num_negatives]"},
     {kGamma, 0, 0, "`gamma` must be a scalar"},
     {kMargin, 0, 0, "`margin` must be a scalar"},
     {kT, 0, 0, "`t` must be a scalar"},
     {kNegativeWeight, 0, 0, "`negative_weight` must be a scalar"}},
    /*runs_on_devices=*/true,
});

}  // namespace
}  // namespace fastneg::ops::rolled_softmax
