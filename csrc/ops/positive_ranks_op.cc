// Fastneg>PositiveRanks: how many negatives each row's positive does not beat. Optional inputs are lists of zero or one
// tensor.
#include <vector>

#include "ops/in_batch_inputs.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::positive_ranks {
namespace {

struct PositiveRanksKernel {
  bool normalize = false;
  bool has_positives = false;
  bool has_candidate_ids = false;
  bool has_candidate_mask = false;
  bool has_score_mask = false;

  static std::vector<Attribute> Attributes();
  void Compute(KernelContext& context) const;
};

std::vector<Attribute> PositiveRanksKernel::Attributes() {
  using Kernel = PositiveRanksKernel;
  return {
      MemberAttribute<&Kernel::normalize>("normalize", AttributeKind::kFlag),
      MemberAttribute<&Kernel::has_positives>("num_positives", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_candidate_ids>("num_candidate_ids", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_candidate_mask>("num_candidate_masks", AttributeKind::kPresence),
      MemberAttribute<&Kernel::has_score_mask>("num_score_masks", AttributeKind::kPresence),
  };
}

void PositiveRanksKernel::Compute(KernelContext& context) const {
  InBatchInputs inputs;
  int next = 0;
  inputs.query = context.Input(next++);
  inputs.candidate = context.Input(next++);
  if (has_positives) inputs.positives = context.Input(next++);
  if (has_candidate_ids) inputs.candidate_ids = context.Input(next++);
  if (has_candidate_mask) inputs.candidate_mask = context.Input(next++);
  if (has_score_mask) inputs.score_mask = context.Input(next++);
  if (context.ok()) CheckInBatchShapes(inputs, context);
  if (!context.ok()) return;
  const Tensor ranks = context.AllocateOutput(0, DType::kInt32, {inputs.batch_size()});
  if (!context.ok()) return;
  PositiveRanksArgs args;
  FillInBatchArguments(inputs, normalize, &args);
  args.ranks = static_cast<int32_t*>(ranks.data());
  int64_t bad = 0;
  args.error_index = &bad;
  const Status status = RunLoss(context, &PositiveRanksWorkspaceBytes, &PositiveRanks, &args);
  CheckInBatchStatus(context, "PositiveRanks", args, status, bad);
}

[[maybe_unused]] const bool kRegistered = KernelOp<PositiveRanksKernel>::Register({
    "Fastneg>PositiveRanks",
    {{"query_embeddings", "T"},
     {"candidate_embeddings", "T"},
     {"positives", "int64", "num_positives"},
     {"candidate_ids", "int64", "num_candidate_ids"},
     {"candidate_mask", "bool", "num_candidate_masks"},
     {"score_mask", "bool", "num_score_masks"}},
    {{"ranks", "int32"}},
    {FloatTypes("T")},
    {{0, 2, 2, "`query_embeddings` must have rank 2"}, {1, 2, 2, "`candidate_embeddings` must have rank 2"}},
});

}  // namespace
}  // namespace fastneg::ops::positive_ranks
