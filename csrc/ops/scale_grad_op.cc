// Fastneg>ScaleGrad: the chain rule behind every scalar loss. The forward op computes gradients for an
// upstream gradient of 1; this op multiplies them by the real one and casts them to the inputs' dtype.
#include <cstring>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::scale_grad {
namespace {

struct ScaleGradKernel {
  int64_t num_grads = 0;

  static std::vector<Attribute> Attributes() {
    return {MemberAttribute<&ScaleGradKernel::num_grads>("N", AttributeKind::kNumber)};
  }
  void Compute(KernelContext& context) const;
};

void ScaleOne(KernelContext& context, int index, DType dtype, double scale) {
  const int input = index + 1;
  Tensor unit_grad = context.Input(input);
  if (!context.ok()) return;
  const DType compute_dtype = unit_grad.dtype();
  if (dtype == compute_dtype && scale == 1.0) {
    context.PassOn(input, index);
    return;
  }
  const std::vector<int64_t> dims(unit_grad.dims(), unit_grad.dims() + unit_grad.rank());
  const int64_t size = unit_grad.num_elements();

  Tensor grad;
  if (dtype == compute_dtype) {
    // TensorFlow gives a buffer away only if this kernel holds no reference to it.
    unit_grad = Tensor();
    bool forwarded = false;
    grad = context.ForwardInputOrAllocateOutput(input, index, dims.data(), static_cast<int>(dims.size()), &forwarded);
    if (!forwarded) unit_grad = context.Input(input);
  } else {
    grad = context.AllocateOutput(index, dtype, dims.data(), static_cast<int>(dims.size()));
  }
  if (!context.ok()) return;
  if (scale == 0.0) {
    // Not 0 * unit_grad: a loss that does not count has gradient 0 whatever its value is.
    std::memset(grad.data(), 0, static_cast<size_t>(size) * SizeOf(dtype));
    return;
  }
  ScaleGradArgs args;
  args.size = size;
  args.dtype = dtype;
  args.unit_grad = unit_grad ? unit_grad.data() : grad.data();
  args.out = grad.data();
  args.scale = scale;
  args.executor = PoolExecutor(context.num_threads());
  CheckStatus(context, "ScaleGrad", ScaleGrad(args));
}

void ScaleGradKernel::Compute(KernelContext& context) const {
  const Tensor scale = context.Input(0);
  if (!context.ok()) return;
  CheckScalar(context, "scale", scale);
  for (int i = 0; context.ok() && i < num_grads; ++i) {
    const DType dtype = context.OutputType(i);
    CheckComputeType(context, "`scale`", scale.dtype(), dtype);
    if (context.ok()) ScaleOne(context, i, dtype, ScalarValue(scale));
  }
}

[[maybe_unused]] const bool kRegistered = KernelOp<ScaleGradKernel>::Register({
    "Fastneg>ScaleGrad",
    {{"scale", "Tc"}, {"unit_grads", "Tc", "N"}},
    {{"grads", "T", 1, "N"}},
    {FloatTypes("T"), ComputeTypes("Tc")},
    {},
});

}  // namespace
}  // namespace fastneg::ops::scale_grad
