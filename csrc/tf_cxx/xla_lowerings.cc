// The ops of the losses inside XLA: a custom call each, with the shapes that are known when XLA compiles. ScaleGrad
// becomes plain arithmetic, which XLA fuses with what uses the gradients.
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tf_cxx/loss_flags.h"
#include "tf_cxx/xla_contexts.h"
#include "tf_cxx/xla_custom_call.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

#ifdef FASTNEG_HAVE_CUDA
#include "tf_cxx/cuda_device.h"
#endif

extern "C" int FastnegNumThreads();

namespace fastneg::tf_cxx {
namespace {

using tensorflow::DataType;
using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernelContext;

xla::Shape RowMajor(TF_DataType dtype, const std::vector<int64_t>& dims) {
  xla::PrimitiveType type;
  TF_CHECK_OK(tensorflow::DataTypeToPrimitiveType(static_cast<DataType>(dtype), &type));
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(type, dims);
}

// Inputs as ops and as XLA want them.
struct Inputs {
  std::vector<std::vector<int64_t>> dims;
  std::vector<int64_t> sizes;  // The values of those that are sizes, which shapes of outputs depend on.
  std::vector<Buffer> buffers;
  std::vector<xla::XlaOp> operands;
  std::vector<xla::Shape> shapes;
};

absl::Status ReadInputs(XlaOpKernelContext* context, Inputs* inputs) {
  const auto count = static_cast<size_t>(context->num_inputs());
  inputs->dims.resize(count);
  inputs->sizes.resize(count);
  for (int i = 0; i < context->num_inputs(); ++i) {
    const absl::StatusOr<xla::Shape> shape = context->InputXlaShape(i);
    if (!shape.ok()) return shape.status();
    if (!shape->is_static()) {
      return absl::UnimplementedError(
          "The inputs of fastneg's losses must have static shapes inside XLA, or the losses be traced with "
          "fastneg.use_backend(\"reference\"). Received: " +
          shape->ToString() + ".");
    }
    std::vector<int64_t>& dims = inputs->dims[static_cast<size_t>(i)];
    dims.assign(shape->dimensions().begin(), shape->dimensions().end());
    Buffer buffer{static_cast<TF_DataType>(context->input_type(i)), static_cast<int>(dims.size()), dims.data()};
    if (buffer.rank == 0 && buffer.dtype == TF_INT64) {
      buffer.data = &inputs->sizes[static_cast<size_t>(i)];
      const absl::Status status = context->ConstantInputAsIntScalar(i, &inputs->sizes[static_cast<size_t>(i)]);
      if (!status.ok()) return status;
    }
    inputs->buffers.push_back(buffer);
    inputs->operands.push_back(context->Input(i));
    inputs->shapes.push_back(RowMajor(buffer.dtype, dims));
  }
  return absl::OkStatus();
}

#ifdef FASTNEG_HAVE_CUDA
// The attributes `known` and `scalars` of the custom call.
std::string ScalarAttributes(XlaOpKernelContext* context, const std::vector<Buffer>& inputs) {
  uint64_t known = 0;
  std::string scalars;
  for (size_t i = 0; i < inputs.size(); ++i) {
    double value = 0.0;
    if (IsFloatScalar(inputs[i]) && context->ConstantInputAsFloatScalar(static_cast<int>(i), &value).ok()) {
      known |= uint64_t{1} << i;
    }
    int64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    scalars += (i == 0 ? "" : ", ") + std::to_string(bits);
  }
  return "known = " + std::to_string(known) + " : i64, scalars = array<i64: " + scalars + ">";
}
#endif

enum class Platform { kCpu, kCuda };

template <Platform kPlatform>
class LossLowering final : public tensorflow::XlaOpKernel {
 public:
  explicit LossLowering(OpKernelConstruction* construction)
      : XlaOpKernel(construction), call_(ReadLossCall(construction)) {}

  void Compile(XlaOpKernelContext* context) override {
    Inputs inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, &inputs));
    const int num_threads = FastnegNumThreads();
    std::string attributes =
        "{op = \"" + std::string(call_.op->name) + "\", flags = " + std::to_string(call_.flags) + " : i64, ";
    const tf_ops::Device* device = nullptr;
#ifdef FASTNEG_HAVE_CUDA
    const CudaDevice cuda;
    if (kPlatform == Platform::kCuda) {
      device = &cuda;
      attributes += ScalarAttributes(context, inputs.buffers) + "}";
    }
#endif
    if (kPlatform == Platform::kCpu) attributes += "num_threads = " + std::to_string(num_threads) + " : i64}";

    ShapeContext shapes(inputs.buffers, call_.op->num_outputs, num_threads, device);
    call_.op->compute(call_.flags, shapes);
    OP_REQUIRES(context, shapes.ok(),
                absl::Status(static_cast<absl::StatusCode>(shapes.failure().code), shapes.failure().message));
    std::vector<xla::Shape> results;
    for (const OutputShape& output : shapes.outputs()) results.push_back(RowMajor(output.dtype, output.dims));
    results.push_back(RowMajor(TF_UINT8, {static_cast<int64_t>(shapes.workspace_bytes())}));
    const xla::XlaOp call = xla::CustomCallWithLayout(
        context->builder(), kTarget, inputs.operands, xla::ShapeUtil::MakeTupleShape(results), inputs.shapes,
        attributes, /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < call_.op->num_outputs; ++i) context->SetOutput(i, xla::GetTupleElement(call, i));
  }

 private:
  const LossCall call_;
};

class ScaleGradLowering final : public tensorflow::XlaOpKernel {
 public:
  explicit ScaleGradLowering(OpKernelConstruction* construction) : XlaOpKernel(construction) {
    DataType dtype = tensorflow::DT_FLOAT;
    OP_REQUIRES_OK(construction, construction->GetAttr("T", &dtype));
    OP_REQUIRES_OK(construction, tensorflow::DataTypeToPrimitiveType(dtype, &type_));
  }

  void Compile(XlaOpKernelContext* context) override {
    const xla::XlaOp scale = context->Input(0);
    const xla::XlaOp is_zero = xla::Eq(scale, xla::ZerosLike(scale));
    for (int i = 1; i < context->num_inputs(); ++i) {
      const absl::StatusOr<xla::Shape> shape = context->InputXlaShape(i);
      OP_REQUIRES_OK(context, shape.status());
      // Not 0 times the gradient: a loss that does not count has gradient 0 whatever its value is.
      const xla::XlaOp unit_grad = context->Input(i);
      const xla::XlaOp grad = xla::Select(xla::Broadcast(is_zero, shape->dimensions()), xla::ZerosLike(unit_grad),
                                          xla::Mul(unit_grad, scale));
      context->SetOutput(i - 1, xla::ConvertElementType(grad, type_));
    }
  }

 private:
  xla::PrimitiveType type_ = xla::F32;
};

// Straight into the registry of kernels: what REGISTER_XLA_OP notes down is not looked at any more once XLA has
// compiled anything, and the library may be loaded later.
using CpuLowering = LossLowering<Platform::kCpu>;
REGISTER_KERNEL_BUILDER(Name("Fastneg>RolledSoftmax").Device("XLA_CPU_JIT"), CpuLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ShuffledCosine").Device("XLA_CPU_JIT"), CpuLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>SvSoftmax").Device("XLA_CPU_JIT"), CpuLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>PairwiseLogistic").Device("XLA_CPU_JIT"), CpuLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>RandomPermutations").Device("XLA_CPU_JIT"), CpuLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ScaleGrad").Device("XLA_CPU_JIT"), ScaleGradLowering);

#ifdef FASTNEG_HAVE_CUDA
using CudaLowering = LossLowering<Platform::kCuda>;
REGISTER_KERNEL_BUILDER(Name("Fastneg>RolledSoftmax").Device("XLA_GPU_JIT"), CudaLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ShuffledCosine").Device("XLA_GPU_JIT"), CudaLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>SvSoftmax").Device("XLA_GPU_JIT"), CudaLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ScaleGrad").Device("XLA_GPU_JIT"), ScaleGradLowering);
#endif

}  // namespace
}  // namespace fastneg::tf_cxx
