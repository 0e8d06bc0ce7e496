// Fastneg>SampledRows: the distinct table rows that labels and sampled classes name, and where each of them is among
// these. It is what refuses ids that name no class, before anything is gathered.
#include <cstdint>
#include <cstring>
#include <string>

#include "core/api.h"
#include "tf_ops/checks.h"
#include "tf_ops/op_registration.h"
#include "tf_ops/run_loss.h"
#include "tf_ops/runtime.h"
#include "tf_ops/tf_kernel_context.h"

namespace fastneg::tf_ops {
namespace {

enum InputIndex { kLabels, kSampled, kTableRows };
enum OutputIndex { kIds, kLabelRows, kSampledRows };

struct SampledRowsKernel {
  int64_t num_classes = 0;
  int64_t num_true = 0;
  int64_t num_table_rows = 0;
};

void* Create(TF_OpKernelConstruction* construction) {
  ScopedStatus status;
  SampledRowsKernel kernel;
  TF_OpKernelConstruction_GetAttrInt64(construction, "num_classes", &kernel.num_classes, status.get());
  if (status.ok()) TF_OpKernelConstruction_GetAttrInt64(construction, "num_true", &kernel.num_true, status.get());
  if (status.ok()) {
    TF_OpKernelConstruction_GetAttrInt64(construction, "num_table_rows", &kernel.num_table_rows, status.get());
  }
  if (!status.ok()) {
    TF_OpKernelConstruction_Failure(construction, status.get());
    return nullptr;
  }
  return new SampledRowsKernel(kernel);
}

void Destroy(void* kernel) { delete static_cast<SampledRowsKernel*>(kernel); }

void Validate(const SampledRowsKernel& kernel, const Tensor& labels, const Tensor& sampled, KernelContext& context) {
  if (labels.rank() != 2 || labels.dim(1) != kernel.num_true) {
    context.Fail(TF_INVALID_ARGUMENT, "`labels` must have shape [batch_size, " + Text(kernel.num_true) +
                                          "]. Received: " + labels.ShapeText() + ".");
  } else if (sampled.rank() != 1 || sampled.dim(0) < 1) {
    context.Fail(TF_INVALID_ARGUMENT, "`sampled_values[0]` must have shape [num_sampled], at least [1]. Received: " +
                                          sampled.ShapeText() + ".");
  }
  for (int t = 0; context.ok() && t < kernel.num_table_rows; ++t) {
    const Tensor table_rows = context.Input(kTableRows + t);
    if (!context.ok()) return;
    CheckScalar(context, "table_rows", table_rows);
    if (!context.ok()) return;
    const int64_t rows = *static_cast<const int64_t*>(table_rows.data());
    if (rows == kernel.num_classes) continue;
    context.Fail(TF_INVALID_ARGUMENT, "`weights` and `biases` must have `num_classes`, " + Text(kernel.num_classes) +
                                          ", rows. Received: " + Text(rows) + ".");
  }
}

void FailForId(const SampledRowsArgs& args, KernelContext& context) {
  const int64_t index = *args.error_index;
  const bool is_label = index < args.num_labels;
  const int64_t id = is_label ? args.labels[index] : args.sampled[index - args.num_labels];
  context.Fail(TF_INVALID_ARGUMENT, std::string(is_label ? "`labels`" : "`sampled_values[0]`") + " must be in 0 .. " +
                                        Text(args.num_classes - 1) + ", as `num_classes` says. Received: " + Text(id) +
                                        ".");
}

void Compute(void* opaque, TF_OpKernelContext* tf_context) {
  const SampledRowsKernel& kernel = *static_cast<const SampledRowsKernel*>(opaque);
  TfKernelContext context(tf_context);
  const Tensor labels = context.Input(kLabels);
  const Tensor sampled = context.Input(kSampled);
  if (context.ok()) Validate(kernel, labels, sampled, context);
  if (!context.ok()) return;

  SampledRowsArgs args;
  args.num_labels = labels.num_elements();
  args.num_sampled = sampled.dim(0);
  args.num_classes = kernel.num_classes;
  args.labels = static_cast<const int64_t*>(labels.data());
  args.sampled = static_cast<const int64_t*>(sampled.data());
  int64_t num_rows = 0, bad_index = 0;
  args.num_rows = &num_rows;
  args.error_index = &bad_index;
  args.workspace_bytes = SampledRowsWorkspaceBytes(args);
  if (args.workspace_bytes == 0) {
    context.Fail(TF_INVALID_ARGUMENT, "`labels` and `sampled_values[0]` must have less than 2^31 entries. Received: " +
                                          labels.ShapeText() + " and " + sampled.ShapeText() + ".");
    return;
  }
  // How many ids are distinct is known at the end only.
  const size_t ids_bytes = static_cast<size_t>(args.num_labels + args.num_sampled) * sizeof(int64_t);
  const AlignedTemp ids(context, ids_bytes);
  const AlignedTemp workspace(context, args.workspace_bytes);
  const Tensor label_rows = context.AllocateOutput(kLabelRows, TF_INT32, {labels.dim(0), labels.dim(1)});
  const Tensor sampled_rows = context.AllocateOutput(kSampledRows, TF_INT32, {sampled.dim(0)});
  if (!context.ok()) return;
  args.ids = static_cast<int64_t*>(ids.data());
  args.workspace = workspace.data();
  args.label_rows = static_cast<int32_t*>(label_rows.data());
  args.sampled_rows = static_cast<int32_t*>(sampled_rows.data());
  const Status status = SampledRows(args);
  if (status == Status::kIdOutOfRange) return FailForId(args, context);
  CheckStatus(context, "SampledRows", status);
  if (!context.ok()) return;
  const Tensor found = context.AllocateOutput(kIds, TF_INT64, {num_rows});
  if (context.ok()) std::memcpy(found.data(), args.ids, static_cast<size_t>(num_rows) * sizeof(int64_t));
}

void InferShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  constexpr InputRank kRanks[] = {
      {kLabels, 2, 2, "`labels` must have rank 2, [batch_size, num_true]"},
      {kSampled, 1, 1, "`sampled_values[0]` must have rank 1, [num_sampled]"},
  };
  if (!CheckRanks(kRanks, context, status)) return;
  TF_ShapeInferenceContextSetUnknownShape(context, status);
  // Rows of labels and samples have the shape of labels and samples.
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  for (int i = 0; i < 2 && TF_GetCode(status) == TF_OK; ++i) {
    TF_ShapeInferenceContextGetInput(context, kLabels + i, shape, status);
    if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, kLabelRows + i, shape, status);
  }
  TF_DeleteShapeHandle(shape);
}

[[maybe_unused]] const bool kRegistered =
    RegisterOp({"Fastneg>SampledRows",
                {"labels: int64", "sampled: int64", "table_rows: num_table_rows * int64"},
                {"ids: int64", "label_rows: int32", "sampled_rows: int32"},
                {"num_classes: int >= 1", "num_true: int >= 1", "num_table_rows: int >= 0"},
                &InferShapes},
               {&Create, &Compute, &Destroy});

}  // namespace
}  // namespace fastneg::tf_ops
