// Fastneg>ShuffledCosine: negative_cosine_loss over softmax-normalised candidates, forward and, on request, all its
// gradients, for an upstream gradient of 1; Fastneg>ScaleGrad turns them into the real ones. Optional inputs are lists
// of zero or one tensor.
#include <cstdint>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::shuffled_cosine {
namespace {

enum InputIndex { kQuery, kDoc, kPermutations, kGamma, kNegativeWeight, kFirstOptional };
enum OutputIndex { kLoss, kGradQuery, kGradDoc, kGradScalars };

struct ShuffledCosineKernel {
  bool refined = false;
  bool positive_in_softmax = true;
  bool with_grad = false;
  bool with_scalar_grad = false;
  bool has_sampling_probability = false;
  bool has_candidate_ids = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

struct Inputs {
  Tensor query, doc, permutations, gamma, negative_weight;
  Tensor sampling_probability, candidate_ids;  // Empty where not given.
};

std::vector<Attribute> ShuffledCosineKernel::Attributes() {
  return {
      MemberAttribute<&ShuffledCosineKernel::refined>("refined", AttributeKind::kFlag),
      MemberAttribute<&ShuffledCosineKernel::positive_in_softmax>("positive_in_softmax", AttributeKind::kFlag, 1),
      MemberAttribute<&ShuffledCosineKernel::with_grad>("with_grad", AttributeKind::kFlag),
      MemberAttribute<&ShuffledCosineKernel::with_scalar_grad>("with_scalar_grad", AttributeKind::kFlag),
      MemberAttribute<&ShuffledCosineKernel::has_sampling_probability>("num_sampling_probabilities",
                                                                       AttributeKind::kPresence),
      MemberAttribute<&ShuffledCosineKernel::has_candidate_ids>("num_candidate_ids", AttributeKind::kPresence),
  };
}

Inputs ReadInputs(const ShuffledCosineKernel& kernel, KernelContext& context) {
  Inputs inputs;
  inputs.query = context.Input(kQuery);
  inputs.doc = context.Input(kDoc);
  inputs.permutations = context.Input(kPermutations);
  inputs.gamma = context.Input(kGamma);
  inputs.negative_weight = context.Input(kNegativeWeight);
  int next = kFirstOptional;
  if (kernel.has_sampling_probability) inputs.sampling_probability = context.Input(next++);
  if (kernel.has_candidate_ids) inputs.candidate_ids = context.Input(next++);
  return inputs;
}

void Validate(const Inputs& inputs, KernelContext& context) {
  CheckEmbeddings(context, "query", inputs.query, "doc", inputs.doc);
  if (!context.ok()) return;
  CheckComputeType(context, "`scale` and `t`", inputs.gamma.dtype(), inputs.query.dtype());
  CheckScalar(context, "scale", inputs.gamma);
  CheckScalar(context, "negative_weight", inputs.negative_weight);
  const int64_t batch_size = inputs.query.dim(0);
  CheckPerRow(context, "candidate_sampling_probability", inputs.sampling_probability, batch_size, false);
  CheckPerRow(context, "candidate_ids", inputs.candidate_ids, batch_size, false);
  const Tensor& permutations = inputs.permutations;
  if (permutations.rank() != 2 || permutations.dim(1) != batch_size) {
    context.Refuse("`permutations` must have shape [num_negatives, " + Text(batch_size) +
                   "]. Received: " + permutations.ShapeText() + ".");
  } else if (permutations.dim(0) < 1) {
    context.Refuse("`num_negatives` must be at least 1. Received: 0.");
  }
}

void FillArguments(const ShuffledCosineKernel& kernel, const Inputs& inputs, ShuffledCosineArgs* args) {
  args->batch_size = inputs.query.dim(0);
  args->embedding_dim = inputs.query.dim(1);
  args->num_negatives = inputs.permutations.dim(0);
  args->dtype = inputs.query.dtype();
  args->user_emb = inputs.query.data();
  args->item_emb = inputs.doc.data();
  args->user_row_stride = args->embedding_dim;
  args->item_row_stride = args->embedding_dim;
  args->permutation_dtype = inputs.permutations.dtype();
  args->permutations = inputs.permutations.data();
  ReadScalar(inputs.gamma, &args->gamma, &args->on_device.gamma);
  args->refined = kernel.refined;
  args->positive_in_softmax = kernel.positive_in_softmax;
  ReadScalar(inputs.negative_weight, &args->negative_weight, &args->on_device.negative_weight);
  args->sampling_probability = DataOrNull(inputs.sampling_probability);
  args->candidate_ids = static_cast<const int64_t*>(DataOrNull(inputs.candidate_ids));
}

// Outputs that were not asked for have no elements and stay null for the core.
struct Outputs {
  Tensor loss, grad_query, grad_doc, grad_scalars;
};

Outputs AllocateOutputs(const ShuffledCosineKernel& kernel, const Inputs& inputs, KernelContext& context) {
  const DType dtype = inputs.gamma.dtype();
  Outputs outputs;
  outputs.loss = context.AllocateOutput(kLoss, dtype, {});
  const int64_t batch_size = inputs.query.dim(0), embedding_dim = inputs.query.dim(1);
  outputs.grad_query = context.AllocateOutputIf(kernel.with_grad, kGradQuery, dtype, {batch_size, embedding_dim});
  outputs.grad_doc = context.AllocateOutputIf(kernel.with_grad, kGradDoc, dtype, {batch_size, embedding_dim});
  const bool with_scalars = kernel.with_grad && kernel.with_scalar_grad;
  outputs.grad_scalars = context.AllocateOutputIf(with_scalars, kGradScalars, dtype, {3});
  return outputs;
}

std::string EntryText(const Tensor& permutations, int64_t index) {
  const int64_t batch_size = permutations.dim(1);
  const int64_t value = permutations.dtype() == DType::kInt32 ? static_cast<const int32_t*>(permutations.data())[index]
                                                              : static_cast<const int64_t*>(permutations.data())[index];
  return "permutations[" + Text(index / batch_size) + ", " + Text(index % batch_size) + "] = " + Text(value);
}

void Run(const Inputs& inputs, const Outputs& outputs, KernelContext& context, ShuffledCosineArgs* args) {
  args->loss = outputs.loss.data();
  args->grad_user = DataOrNull(outputs.grad_query);
  args->grad_item = DataOrNull(outputs.grad_doc);
  args->grad_scalars = DataOrNull(outputs.grad_scalars);
  int64_t bad_entry = 0;
  if (context.device() == nullptr) args->error_index = &bad_entry;
  const Status status = RunLoss(context, &ShuffledCosineWorkspaceBytes, &ShuffledCosine, args);
  if (status == Status::kNotAPermutation) {
    context.Refuse("`permutations` must hold each of 0 .. " + Text(args->batch_size - 1) +
                   " once in every row. Received: " + EntryText(inputs.permutations, bad_entry) + ".");
  } else if (status == Status::kInvalidSize) {
    context.Refuse(
        "`query` and `num_negatives` must have sizes whose product fits 63 bits, and less than 2^31 - 1 rows. "
        "Received: " +
        inputs.query.ShapeText() + " and " + Text(args->num_negatives) + ".");
  } else {
    CheckStatus(context, "ShuffledCosine", status);
  }
}

void ShuffledCosineKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(*this, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  ShuffledCosineArgs args;
  FillArguments(*this, inputs, &args);
  CheckRowOptions(context, {refined, positive_in_softmax, args.negative_weight}, has_sampling_probability);
  if (!context.ok()) return;
  const Outputs outputs = AllocateOutputs(*this, inputs, context);
  if (!context.ok()) return;
  if (inputs.query.dim(0) == 0) {
    context.SetZero(outputs.loss);
    context.SetZero(outputs.grad_scalars);
    return;
  }
  Run(inputs, outputs, context, &args);
}

[[maybe_unused]] const bool kRegistered = KernelOp<ShuffledCosineKernel>::Register({
    "Fastneg>ShuffledCosine",
    {{"query", "T"},
     {"doc", "T"},
     {"permutations", "Tperm"},
     {"gamma", "Tc"},
     {"negative_weight", "Tc"},
     {"sampling_probability", "Tc", "num_sampling_probabilities"},
     {"candidate_ids", "int64", "num_candidate_ids"}},
    {{"loss", "Tc", kScalarShape}, {"grad_query", "Tc"}, {"grad_doc", "Tc"}, {"grad_scalars", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc"), {"Tperm", {"int32", "int64"}}},
    {{kQuery, 2, 2, "`query` must have rank 2, [batch_size, embedding_dim]"},
     {kDoc, 2, 2, "`doc` must have the shape of `query`, [batch_size, embedding_dim]"},
     {kPermutations, 2, 2, "`permutations` must have rank 2, [num_negatives, batch_size]"},
     {kGamma, 0, 0, "`scale` must be a scalar"},
     {kNegativeWeight, 0, 0, "`negative_weight` must be a scalar"}},
    /*runs_on_devices=*/true,
});

}  // namespace
}  // namespace fastneg::ops::shuffled_cosine
