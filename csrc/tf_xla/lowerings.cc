// The ops of the losses inside XLA: a custom call each, with the shapes that are known when XLA compiles. ScaleGrad
// becomes plain arithmetic, which XLA fuses with what uses the gradients.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tf_ops/loss_op.h"
#include "tf_xla/contexts.h"
#include "tf_xla/custom_call.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

extern "C" int FastnegNumThreads();

namespace fastneg::tf_xla {
namespace {

using tensorflow::DataType;
using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernelContext;

xla::Shape RowMajor(TF_DataType dtype, const std::vector<int64_t>& dims) {
  xla::PrimitiveType type;
  TF_CHECK_OK(tensorflow::DataTypeToPrimitiveType(static_cast<DataType>(dtype), &type));
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(type, dims);
}

class LossLowering final : public tensorflow::XlaOpKernel {
 public:
  explicit LossLowering(OpKernelConstruction* construction) : XlaOpKernel(construction) {
    const std::string& name = construction->def().op();
    op_ = FastnegFindLossOp(name.c_str());
    OP_REQUIRES(construction, op_ != nullptr, absl::InternalError("fastneg has no op " + name + "."));
    for (int i = 0; i < op_->num_attributes; ++i) {
      bool value = false;
      if (op_->attribute_kind(i) == tf_ops::AttributeKind::kFlag) {
        OP_REQUIRES_OK(construction, construction->GetAttr(op_->attribute_name(i), &value));
      } else {
        int32_t count = 0;
        OP_REQUIRES_OK(construction, construction->GetAttr(op_->attribute_name(i), &count));
        value = count > 0;
      }
      flags_ |= static_cast<uint64_t>(value) << i;
    }
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Buffer> inputs;
    std::vector<std::vector<int64_t>> dims(static_cast<size_t>(context->num_inputs()));
    std::vector<int64_t> sizes_given(dims.size());
    std::vector<xla::XlaOp> operands;
    std::vector<xla::Shape> operand_shapes;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const absl::StatusOr<xla::Shape> shape = context->InputXlaShape(i);
      OP_REQUIRES_OK(context, shape.status());
      OP_REQUIRES(context, shape->is_static(),
                  absl::UnimplementedError("The inputs of fastneg's losses must have static shapes inside XLA, or the "
                                           "losses be traced with fastneg.use_backend(\"reference\"). Received: " +
                                           shape->ToString() + "."));
      dims[static_cast<size_t>(i)].assign(shape->dimensions().begin(), shape->dimensions().end());
      const std::vector<int64_t>& sizes = dims[static_cast<size_t>(i)];
      const auto dtype = static_cast<TF_DataType>(context->input_type(i));
      inputs.push_back({dtype, static_cast<int>(sizes.size()), sizes.data(), nullptr});
      if (dtype == TF_INT64 && sizes.empty()) {
        // A size, which shapes of outputs depend on.
        OP_REQUIRES_OK(context, context->ConstantInputAsIntScalar(i, &sizes_given[static_cast<size_t>(i)]));
        inputs.back().data = &sizes_given[static_cast<size_t>(i)];
      }
      operands.push_back(context->Input(i));
      operand_shapes.push_back(RowMajor(dtype, sizes));
    }
    const int num_threads = FastnegNumThreads();
    ShapeContext shapes(std::move(inputs), op_->num_outputs, num_threads, nullptr);
    op_->compute(flags_, shapes);
    OP_REQUIRES(context, shapes.ok(),
                absl::Status(static_cast<absl::StatusCode>(shapes.failure().code), shapes.failure().message));

    std::vector<xla::Shape> result_shapes;
    for (const OutputShape& output : shapes.outputs()) result_shapes.push_back(RowMajor(output.dtype, output.dims));
    result_shapes.push_back(RowMajor(TF_UINT8, {static_cast<int64_t>(shapes.workspace_bytes())}));
    const std::string attributes = "{op = \"" + std::string(op_->name) + "\", flags = " + std::to_string(flags_) +
                                   " : i64, num_threads = " + std::to_string(num_threads) + " : i64}";
    const xla::XlaOp call = xla::CustomCallWithLayout(
        context->builder(), kTarget, operands, xla::ShapeUtil::MakeTupleShape(result_shapes), operand_shapes,
        attributes, /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < op_->num_outputs; ++i) context->SetOutput(i, xla::GetTupleElement(call, i));
  }

 private:
  const tf_ops::LossOp* op_ = nullptr;
  uint64_t flags_ = 0;
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
REGISTER_KERNEL_BUILDER(Name("Fastneg>RolledSoftmax").Device("XLA_CPU_JIT"), LossLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ShuffledCosine").Device("XLA_CPU_JIT"), LossLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>SvSoftmax").Device("XLA_CPU_JIT"), LossLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>PairwiseLogistic").Device("XLA_CPU_JIT"), LossLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>RandomPermutations").Device("XLA_CPU_JIT"), LossLowering);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ScaleGrad").Device("XLA_CPU_JIT"), ScaleGradLowering);

}  // namespace
}  // namespace fastneg::tf_xla
