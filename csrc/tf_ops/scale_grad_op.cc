// Fastneg>ScaleGrad: the chain rule behind every scalar loss. The forward op computes gradients for an
// upstream gradient of 1; this op multiplies them by the real one and casts them to the inputs' dtype.
#include <cstring>
#include <vector>

#include "core/api.h"
#include "tf_ops/op_registration.h"
#include "tf_ops/run_loss.h"
#include "tf_ops/runtime.h"
#include "tf_ops/tf_kernel_context.h"

namespace fastneg::tf_ops {
namespace {

void* Create(TF_OpKernelConstruction* construction) {
  ScopedStatus status;
  TF_DataType dtype = TF_FLOAT;
  TF_OpKernelConstruction_GetAttrType(construction, "T", &dtype, status.get());
  if (!status.ok()) {
    TF_OpKernelConstruction_Failure(construction, status.get());
    return nullptr;
  }
  return new TF_DataType(dtype);
}

void Destroy(void* kernel) { delete static_cast<TF_DataType*>(kernel); }

void ScaleOne(TfKernelContext& context, int index, TF_DataType dtype, double scale) {
  const int input = index + 1;
  Tensor unit_grad = context.Input(input);
  if (!context.ok()) return;
  const TF_DataType compute_dtype = unit_grad.dtype();
  if (dtype == compute_dtype && scale == 1.0) {
    context.SetOutput(index, unit_grad);  // The same buffer, nothing is touched.
    return;
  }
  std::vector<int64_t> dims(static_cast<size_t>(unit_grad.rank()));
  for (int i = 0; i < unit_grad.rank(); ++i) dims[static_cast<size_t>(i)] = unit_grad.dim(i);
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
  ToCoreType(dtype, &args.dtype);
  args.unit_grad = unit_grad ? unit_grad.data() : grad.data();
  args.out = grad.data();
  args.scale = scale;
  args.executor = PoolExecutor(NumThreads());
  CheckStatus(context, "ScaleGrad", ScaleGrad(args));
}

void Compute(void* kernel, TF_OpKernelContext* tf_context) {
  const TF_DataType dtype = *static_cast<const TF_DataType*>(kernel);
  TfKernelContext context(tf_context);
  const Tensor scale = context.Input(0);
  if (!context.ok() || !RuntimeIsUsable(context)) return;
  if (scale.rank() != 0) {
    context.Fail(TF_INVALID_ARGUMENT, "`scale` must be a scalar. Received: " + scale.ShapeText() + ".");
    return;
  }
  const bool is_double = scale.dtype() == TF_DOUBLE;
  if (is_double != (dtype == TF_DOUBLE)) {
    context.Fail(TF_INVALID_ARGUMENT, "`scale` must be float64 exactly when the gradients are.");
    return;
  }
  const double value = is_double ? *static_cast<const double*>(scale.data()) : *static_cast<const float*>(scale.data());
  for (int i = 0; context.ok() && i + 1 < context.num_inputs(); ++i) ScaleOne(context, i, dtype, value);
}

void InferShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  const int num_grads = static_cast<int>(TF_ShapeInferenceContextNumInputs(context)) - 1;
  for (int i = 0; i < num_grads && TF_GetCode(status) == TF_OK; ++i) {
    TF_ShapeInferenceContextGetInput(context, i + 1, shape, status);
    if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, i, shape, status);
  }
  TF_DeleteShapeHandle(shape);
}

[[maybe_unused]] const bool kRegistered = RegisterOp(
    {
        "Fastneg>ScaleGrad",
        {"scale: Tc", "unit_grads: N * Tc"},
        {"grads: N * T"},
        {"T: {half, bfloat16, float, double}", "Tc: {float, double}", "N: int >= 1"},
        &InferShapes,
    },
    {&Create, &Compute, &Destroy});

}  // namespace
}  // namespace fastneg::tf_ops
