// Fastneg>SampledSoftmax: sampled_softmax_loss on gathered table rows, forward and, on request, its gradients for an
// upstream gradient of 1 in every row; and Fastneg>SampledSoftmaxGrad, which turns these into the real ones. Biases are
// a list of zero or one tensor.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::sampled_softmax {
namespace {

enum OutputIndex { kLoss, kGradRows, kGradInputs, kGradBiases };

struct SampledSoftmaxKernel {
  bool remove_accidental_hits = true;
  bool has_biases = false;
  bool with_grad = false;

  static std::vector<Attribute> Attributes() {
    return {MemberAttribute<&SampledSoftmaxKernel::remove_accidental_hits>("remove_accidental_hits",
                                                                           AttributeKind::kFlag, 1),
            MemberAttribute<&SampledSoftmaxKernel::has_biases>("num_biases", AttributeKind::kPresence),
            MemberAttribute<&SampledSoftmaxKernel::with_grad>("with_grad", AttributeKind::kFlag)};
  }
  void Compute(KernelContext& context) const;
};

struct SampledSoftmaxGradKernel {
  bool remove_accidental_hits = true;
  bool has_biases = false;

  static std::vector<Attribute> Attributes() {
    return {MemberAttribute<&SampledSoftmaxGradKernel::remove_accidental_hits>("remove_accidental_hits",
                                                                               AttributeKind::kFlag, 1),
            MemberAttribute<&SampledSoftmaxGradKernel::has_biases>("num_biases", AttributeKind::kPresence)};
  }
  void Compute(KernelContext& context) const;
};

struct Inputs {
  Tensor rows, inputs, label_rows, sampled_rows, true_expected_count, sampled_expected_count;
  Tensor biases;  // Empty where not given.
};

// The inputs of the forward operation, from number `next` on.
Inputs ReadInputs(bool has_biases, int next, KernelContext& context) {
  Inputs inputs;
  inputs.rows = context.Input(next++);
  inputs.inputs = context.Input(next++);
  inputs.label_rows = context.Input(next++);
  inputs.sampled_rows = context.Input(next++);
  inputs.true_expected_count = context.Input(next++);
  inputs.sampled_expected_count = context.Input(next++);
  if (has_biases) inputs.biases = context.Input(next++);
  return inputs;
}

void CheckShape(KernelContext& context, const char* name, const Tensor& tensor, const char* requirement, bool fits) {
  if (!context.ok() || fits) return;
  context.Refuse(std::string("`") + name + "` must have shape " + requirement + ". Received: " + tensor.ShapeText() +
                 ".");
}

void Validate(const Inputs& inputs, KernelContext& context) {
  const Tensor& rows = inputs.rows;
  const Tensor& labels = inputs.label_rows;
  const Tensor& sampled = inputs.sampled_rows;
  CheckShape(context, "inputs", inputs.inputs, "[batch_size, embedding_dim]", inputs.inputs.rank() == 2);
  if (!context.ok()) return;
  const int64_t batch_size = inputs.inputs.dim(0);
  const std::string width =
      "[num_classes, embedding_dim], with the embedding_dim of `inputs`, " + Text(inputs.inputs.dim(1));
  CheckShape(context, "weights", rows, width.c_str(), rows.rank() == 2 && rows.dim(1) == inputs.inputs.dim(1));
  const std::string label_shape = "[batch_size, num_true], with the batch_size of `inputs`, " + Text(batch_size);
  CheckShape(context, "labels", labels, label_shape.c_str(),
             labels.rank() == 2 && labels.dim(0) == batch_size && labels.dim(1) >= 1);
  CheckShape(context, "sampled_values[0]", sampled, "[num_sampled], at least [1]",
             sampled.rank() == 1 && sampled.dim(0) >= 1);
  if (!context.ok()) return;
  const Tensor& true_count = inputs.true_expected_count;
  const std::string true_shape = "of `labels`, " + labels.ShapeText();
  CheckShape(context, "sampled_values[1]", true_count, true_shape.c_str(),
             true_count.rank() == 2 && true_count.dim(0) == batch_size && true_count.dim(1) == labels.dim(1));
  const Tensor& sampled_count = inputs.sampled_expected_count;
  const std::string sampled_shape = "[num_sampled], " + sampled.ShapeText();
  CheckShape(context, "sampled_values[2]", sampled_count, sampled_shape.c_str(),
             sampled_count.rank() == 1 && sampled_count.dim(0) == sampled.dim(0));
  if (inputs.biases) {
    CheckShape(context, "biases", inputs.biases, "[num_classes]",
               inputs.biases.rank() == 1 && inputs.biases.dim(0) == rows.dim(0));
  }
  if (context.ok()) CheckComputeType(context, "Expected counts and biases", true_count.dtype(), rows.dtype());
}

SampledSoftmaxArgs Arguments(bool remove_accidental_hits, const Inputs& inputs) {
  SampledSoftmaxArgs args;
  args.batch_size = inputs.inputs.dim(0);
  args.embedding_dim = inputs.inputs.dim(1);
  args.num_true = inputs.label_rows.dim(1);
  args.num_sampled = inputs.sampled_rows.dim(0);
  args.num_rows = inputs.rows.dim(0);
  args.dtype = inputs.rows.dtype();
  args.inputs = inputs.inputs.data();
  args.rows = inputs.rows.data();
  args.input_row_stride = args.embedding_dim;
  args.row_stride = args.embedding_dim;
  args.biases = DataOrNull(inputs.biases);
  args.label_rows = static_cast<const int32_t*>(inputs.label_rows.data());
  args.sampled_rows = static_cast<const int32_t*>(inputs.sampled_rows.data());
  args.true_expected_count = inputs.true_expected_count.data();
  args.sampled_expected_count = inputs.sampled_expected_count.data();
  args.remove_accidental_hits = remove_accidental_hits;
  return args;
}

void Run(const Inputs& inputs, KernelContext& context, SampledSoftmaxArgs* args) {
  int64_t bad_index = 0;
  args->error_index = &bad_index;
  const Status status = RunLoss(context, &SampledSoftmaxWorkspaceBytes, &SampledSoftmax, args);
  if (status == Status::kIdOutOfRange) {
    context.Refuse("`label_rows` and `sampled_rows` must be in 0 .. " + Text(args->num_rows - 1) +
                   ". Received another value as number " + Text(bad_index) + " of both together.");
  } else if (status == Status::kInvalidSize) {
    context.Refuse(
        "`labels` and `sampled_values[0]` must have less than 2^31 entries, and all sizes must fit memory. "
        "Received: " +
        inputs.label_rows.ShapeText() + " and " + inputs.sampled_rows.ShapeText() + ".");
  } else {
    CheckStatus(context, "SampledSoftmax", status);
  }
}

void SampledSoftmaxKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(has_biases, 0, context);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  SampledSoftmaxArgs args = Arguments(remove_accidental_hits, inputs);
  const DType dtype = inputs.true_expected_count.dtype();
  const Tensor loss = context.AllocateOutput(kLoss, dtype, {args.batch_size});
  const bool with_biases = with_grad && has_biases;
  const Tensor grad_rows = context.AllocateOutputIf(with_grad, kGradRows, dtype, {args.num_rows, args.embedding_dim});
  const Tensor grad_inputs =
      context.AllocateOutputIf(with_grad, kGradInputs, dtype, {args.batch_size, args.embedding_dim});
  const Tensor grad_biases = context.AllocateOutputIf(with_biases, kGradBiases, dtype, {args.num_rows});
  if (!context.ok()) return;
  args.loss = loss.data();
  args.grad_rows = DataOrNull(grad_rows);
  args.grad_inputs = DataOrNull(grad_inputs);
  args.grad_biases = DataOrNull(grad_biases);
  Run(inputs, context, &args);
}

// Inputs of the gradient operation in front of those of the forward one.
enum GradInputIndex { kUpstream, kUnitRows, kUnitInputs, kUnitBiases, kFirstForward };

double Element(const Tensor& tensor, int64_t index) {
  return tensor.dtype() == DType::kFloat64 ? static_cast<const double*>(tensor.data())[index]
                                           : static_cast<double>(static_cast<const float*>(tensor.data())[index]);
}

bool AllEqual(const Tensor& upstream) {
  for (int64_t i = 1; i < upstream.dim(0); ++i) {
    if (Element(upstream, i) != Element(upstream, 0)) return false;
  }
  return true;
}

void* At(const Tensor& tensor, int64_t index) {
  return static_cast<char*>(tensor.data()) + static_cast<size_t>(index) * SizeOf(tensor.dtype());
}

// `size` elements from number `first` on of `out`, which may be `unit` itself, as scale * unit.
void Scale(KernelContext& context, const Tensor& unit, const Tensor& out, double scale, int64_t first, int64_t size) {
  if (scale == 0.0) {
    // Not 0 * unit: a loss that does not count has gradient 0 whatever its value is.
    std::memset(At(out, first), 0, static_cast<size_t>(size) * SizeOf(out.dtype()));
    return;
  }
  ScaleGradArgs args;
  args.size = size;
  args.dtype = out.dtype();
  args.unit_grad = At(unit, first);
  args.out = At(out, first);
  args.scale = scale;
  constexpr int64_t kWorthThreads = 1 << 19;
  if (size >= kWorthThreads) args.executor = PoolExecutor(context.num_threads());
  CheckStatus(context, "SampledSoftmaxGrad", ScaleGrad(args));
}

// The unit gradient times `scale` as an output, in the same buffer where that can be.
void ScaleOutput(KernelContext& context, int input, int output, DType dtype, double scale) {
  Tensor unit = context.Input(input);
  if (!context.ok()) return;
  if (dtype == unit.dtype() && scale == 1.0) {
    context.PassOn(input, output);
    return;
  }
  const int64_t dims[2] = {unit.dim(0), unit.dim(1)};
  const int rank = unit.rank();
  const int64_t size = unit.num_elements();
  Tensor out;
  if (dtype == unit.dtype()) {
    // TensorFlow gives a buffer away only if this kernel holds no reference to it.
    unit = Tensor();
    bool forwarded = false;
    out = context.ForwardInputOrAllocateOutput(input, output, dims, rank, &forwarded);
    if (!forwarded) unit = context.Input(input);
  } else {
    out = context.AllocateOutput(output, dtype, dims, rank);
  }
  if (context.ok()) Scale(context, unit ? unit : out, out, scale, 0, size);
}

enum GradOutputIndex { kRowsOut, kInputsOut, kBiasesOut };

// Upstream gradients that differ: the inputs' gradients are scaled row by row, those of the table are computed again.
void ComputeWeighted(bool remove_accidental_hits, const Inputs& inputs, const Tensor& upstream,
                     KernelContext& context) {
  const DType dtype = inputs.rows.dtype(), compute_dtype = upstream.dtype();
  SampledSoftmaxArgs args = Arguments(remove_accidental_hits, inputs);
  const Tensor unit_inputs = context.Input(kUnitInputs);
  const Tensor inputs_out = context.AllocateOutput(kInputsOut, dtype, {args.batch_size, args.embedding_dim});
  const Tensor rows_out = context.AllocateOutput(kRowsOut, dtype, {args.num_rows, args.embedding_dim});
  const Tensor biases_out = context.AllocateOutput(kBiasesOut, compute_dtype, {inputs.biases ? args.num_rows : 0});
  if (!context.ok()) return;
  for (int64_t i = 0; i < args.batch_size; ++i) {
    Scale(context, unit_inputs, inputs_out, Element(upstream, i), i * args.embedding_dim, args.embedding_dim);
  }
  const bool narrow = dtype != compute_dtype;
  const size_t row_bytes = static_cast<size_t>(args.num_rows * args.embedding_dim) * SizeOf(compute_dtype);
  const Tensor wide = narrow ? context.AllocateTemp(row_bytes) : Tensor();
  if (!context.ok()) return;
  args.row_weights = upstream.data();
  args.grad_rows = narrow ? wide.data() : rows_out.data();
  if (inputs.biases) args.grad_biases = biases_out.data();
  Run(inputs, context, &args);
  if (!context.ok() || !narrow) return;
  ScaleGradArgs cast;
  cast.size = args.num_rows * args.embedding_dim;
  cast.dtype = args.dtype;
  cast.unit_grad = wide.data();
  cast.out = rows_out.data();
  ScaleGrad(cast);
}

void SampledSoftmaxGradKernel::Compute(KernelContext& context) const {
  const Inputs inputs = ReadInputs(has_biases, kFirstForward, context);
  const Tensor upstream = context.Input(kUpstream);
  if (context.ok()) Validate(inputs, context);
  if (!context.ok()) return;
  CheckPerRow(context, "grad_loss", upstream, inputs.inputs.dim(0), false);
  CheckComputeType(context, "`grad_loss`", upstream.dtype(), inputs.rows.dtype());
  {
    const Tensor unit_rows = context.Input(kUnitRows), unit_inputs = context.Input(kUnitInputs);
    const Tensor unit_biases = context.Input(kUnitBiases);
    if (!context.ok()) return;
    const auto same = [](const Tensor& unit, const Tensor& tensor) {
      return unit.rank() == 2 && unit.dim(0) == tensor.dim(0) && unit.dim(1) == tensor.dim(1);
    };
    CheckShape(context, "grad_rows", unit_rows, "of the rows", same(unit_rows, inputs.rows));
    CheckShape(context, "grad_inputs", unit_inputs, "of `inputs`", same(unit_inputs, inputs.inputs));
    const int64_t num_biases = has_biases ? inputs.rows.dim(0) : 0;
    CheckShape(context, "grad_biases", unit_biases, "of the biases",
               unit_biases.rank() == 1 && unit_biases.dim(0) == num_biases);
  }
  if (!context.ok()) return;
  if (!AllEqual(upstream)) return ComputeWeighted(remove_accidental_hits, inputs, upstream, context);
  const double scale = upstream.dim(0) > 0 ? Element(upstream, 0) : 1.0;
  ScaleOutput(context, kUnitRows, kRowsOut, inputs.rows.dtype(), scale);
  ScaleOutput(context, kUnitInputs, kInputsOut, inputs.rows.dtype(), scale);
  ScaleOutput(context, kUnitBiases, kBiasesOut, upstream.dtype(), scale);
}

// Of the forward operation's inputs, from number `first` on.
std::vector<InputRank> Ranks(int first) {
  return {{first, 2, 2, "`weights` must have rank 2, [num_classes, embedding_dim]"},
          {first + 1, 2, 2, "`inputs` must have rank 2, [batch_size, embedding_dim]"},
          {first + 2, 2, 2, "`labels` must have rank 2, [batch_size, num_true]"},
          {first + 3, 1, 1, "`sampled_values[0]` must have rank 1, [num_sampled]"},
          {first + 4, 2, 2, "`sampled_values[1]` must have rank 2, [batch_size, num_true]"},
          {first + 5, 1, 1, "`sampled_values[2]` must have rank 1, [num_sampled]"}};
}

[[maybe_unused]] const bool kRegistered = KernelOp<SampledSoftmaxKernel>::Register({
    "Fastneg>SampledSoftmax",
    {{"rows", "T"},
     {"inputs", "T"},
     {"label_rows", "int32"},
     {"sampled_rows", "int32"},
     {"true_expected_count", "Tc"},
     {"sampled_expected_count", "Tc"},
     {"biases", "Tc", "num_biases"}},
    {{"loss", "Tc"}, {"grad_rows", "Tc"}, {"grad_inputs", "Tc"}, {"grad_biases", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc")},
    Ranks(0),
});

[[maybe_unused]] const bool kGradRegistered = KernelOp<SampledSoftmaxGradKernel>::Register({
    "Fastneg>SampledSoftmaxGrad",
    {{"grad_loss", "Tc"},
     {"unit_rows", "Tc"},
     {"unit_inputs", "Tc"},
     {"unit_biases", "Tc"},
     {"rows", "T"},
     {"inputs", "T"},
     {"label_rows", "int32"},
     {"sampled_rows", "int32"},
     {"true_expected_count", "Tc"},
     {"sampled_expected_count", "Tc"},
     {"biases", "Tc", "num_biases"}},
    {{"grad_rows", "T"}, {"grad_inputs", "T"}, {"grad_biases", "Tc"}},
    {FloatTypes("T"), ComputeTypes("Tc")},
    Ranks(kFirstForward),
});

}  // namespace
}  // namespace fastneg::ops::sampled_softmax
