// Fastneg>SampledRows: the distinct table rows that labels and sampled classes name, and where each of them is among
// these. It is what refuses ids that name no class, before anything is gathered. With `padded`, there are as many ids
// as labels and samples, the first one again behind the last distinct one: where shapes must not depend on values.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::sampled_rows {
namespace {

enum InputIndex { kLabels, kSampled, kTableRows };
enum OutputIndex { kIds, kLabelRows, kSampledRows };

struct SampledRowsKernel {
  int64_t num_classes = 0;
  int64_t num_true = 0;
  int64_t num_table_rows = 0;
  bool padded = false;

  static std::vector<Attribute> Attributes() {
    return {MemberAttribute<&SampledRowsKernel::num_classes>("num_classes", AttributeKind::kNumber),
            MemberAttribute<&SampledRowsKernel::num_true>("num_true", AttributeKind::kNumber),
            MemberAttribute<&SampledRowsKernel::num_table_rows>("num_table_rows", AttributeKind::kLength),
            MemberAttribute<&SampledRowsKernel::padded>("padded", AttributeKind::kFlag)};
  }
  void Compute(KernelContext& context) const;
};

void Validate(const SampledRowsKernel& kernel, const Tensor& labels, const Tensor& sampled, KernelContext& context) {
  if (labels.rank() != 2 || labels.dim(1) != kernel.num_true) {
    context.Refuse("`labels` must have shape [batch_size, " + Text(kernel.num_true) +
                   "]. Received: " + labels.ShapeText() + ".");
  } else if (sampled.rank() != 1 || sampled.dim(0) < 1) {
    context.Refuse("`sampled_values[0]` must have shape [num_sampled], at least [1]. Received: " + sampled.ShapeText() +
                   ".");
  }
  for (int t = 0; context.ok() && t < kernel.num_table_rows; ++t) {
    const Tensor table_rows = context.Input(kTableRows + t);
    if (!context.ok()) return;
    CheckScalar(context, "table_rows", table_rows);
    if (!context.ok()) return;
    const int64_t rows = *static_cast<const int64_t*>(table_rows.data());
    if (rows == kernel.num_classes) continue;
    context.Refuse("`weights` and `biases` must have `num_classes`, " + Text(kernel.num_classes) +
                   ", rows. Received: " + Text(rows) + ".");
  }
}

void FailForId(const SampledRowsArgs& args, KernelContext& context) {
  const int64_t index = *args.error_index;
  const bool is_label = index < args.num_labels;
  const int64_t id = is_label ? args.labels[index] : args.sampled[index - args.num_labels];
  context.Refuse(std::string(is_label ? "`labels`" : "`sampled_values[0]`") + " must be in 0 .. " +
                 Text(args.num_classes - 1) + ", as `num_classes` says. Received: " + Text(id) + ".");
}

void SampledRowsKernel::Compute(KernelContext& context) const {
  const Tensor labels = context.Input(kLabels);
  const Tensor sampled = context.Input(kSampled);
  if (context.ok()) Validate(*this, labels, sampled, context);
  if (!context.ok()) return;

  SampledRowsArgs args;
  args.num_labels = labels.num_elements();
  args.num_sampled = sampled.dim(0);
  args.num_classes = num_classes;
  args.labels = static_cast<const int64_t*>(labels.data());
  args.sampled = static_cast<const int64_t*>(sampled.data());
  int64_t num_rows = 0, bad_index = 0;
  args.num_rows = &num_rows;
  args.error_index = &bad_index;
  args.workspace_bytes = SampledRowsWorkspaceBytes(args);
  if (args.workspace_bytes == 0) {
    context.Refuse("`labels` and `sampled_values[0]` must have less than 2^31 entries. Received: " +
                   labels.ShapeText() + " and " + sampled.ShapeText() + ".");
    return;
  }
  // How many ids are distinct is known at the end only.
  const size_t ids_bytes = static_cast<size_t>(args.num_labels + args.num_sampled) * sizeof(int64_t);
  const AlignedTemp ids(context, ids_bytes);
  const AlignedTemp workspace(context, args.workspace_bytes);
  const Tensor label_rows = context.AllocateOutput(kLabelRows, DType::kInt32, {labels.dim(0), labels.dim(1)});
  const Tensor sampled_rows = context.AllocateOutput(kSampledRows, DType::kInt32, {sampled.dim(0)});
  if (!context.ok()) return;
  args.ids = static_cast<int64_t*>(ids.data());
  args.workspace = workspace.data();
  args.label_rows = static_cast<int32_t*>(label_rows.data());
  args.sampled_rows = static_cast<int32_t*>(sampled_rows.data());
  const Status status = SampledRows(args);
  if (status == Status::kIdOutOfRange) return FailForId(args, context);
  CheckStatus(context, "SampledRows", status);
  if (!context.ok()) return;
  const int64_t num_ids = padded ? args.num_labels + args.num_sampled : num_rows;
  const Tensor found = context.AllocateOutput(kIds, DType::kInt64, {num_ids});
  if (!context.ok()) return;
  const auto out = static_cast<int64_t*>(found.data());
  std::memcpy(out, args.ids, static_cast<size_t>(num_rows) * sizeof(int64_t));
  std::fill(out + num_rows, out + num_ids, args.ids[0]);
}

[[maybe_unused]] const bool kRegistered = KernelOp<SampledRowsKernel>::Register({
    "Fastneg>SampledRows",
    {{"labels", "int64"}, {"sampled", "int64"}, {"table_rows", "int64", "num_table_rows"}},
    {{"ids", "int64"}, {"label_rows", "int32", kLabels}, {"sampled_rows", "int32", kSampled}},
    {},
    {{kLabels, 2, 2, "`labels` must have rank 2, [batch_size, num_true]"},
     {kSampled, 1, 1, "`sampled_values[0]` must have rank 1, [num_sampled]"}},
});

}  // namespace
}  // namespace fastneg::ops::sampled_rows
