// Kernels for TensorFlow's GPU device of the ops that _ops.so defines: the same checks and outputs, CUDA's kernels on
// TensorFlow's stream. They are registered through the C++ API, because the C API does not tell the stream.
//
// Scalars are in host memory, where constants are made for them; everything else is on the device. The host waits for
// nothing but the values of scalars that are on the device, as those of variables are.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tf_cxx/cuda_device.h"
#include "tf_cxx/loss_flags.h"
#include "xla/stream_executor/stream.h"

// Where the tests register the kernels: for the CPU, with kernels that run on the host.
#ifdef FASTNEG_CUDA_ON_HOST
#define FASTNEG_GPU_DEVICE Device(::tensorflow::DEVICE_CPU).Label("fastneg_cuda_on_host")
#else
#define FASTNEG_GPU_DEVICE Device(::tensorflow::DEVICE_GPU)
#endif

namespace fastneg::tf_cxx {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::TensorShape;
using tf_ops::Buffer;
using tf_ops::Tensor;

void* StreamOf([[maybe_unused]] OpKernelContext* context) {
#ifdef FASTNEG_CUDA_ON_HOST
  return nullptr;
#else
  return context->op_device_context()->stream()->platform_specific_handle().stream;
#endif
}

// A tensor as Buffer wants it: with its sizes in a row. Takes no part in owning it, because TensorFlow gives away the
// buffer of an input only if nobody else does.
class TensorView {
 public:
  explicit TensorView(const tensorflow::Tensor& tensor) {
    const auto sizes = tensor.shape().dim_sizes();
    dims_.assign(sizes.begin(), sizes.end());
    buffer_ = {static_cast<TF_DataType>(tensor.dtype()), tensor.dims(), dims_.data(), tensor.data()};
  }
  TensorView(const TensorView&) = delete;
  TensorView& operator=(const TensorView&) = delete;

  const Buffer* buffer() const { return &buffer_; }

 private:
  std::vector<int64_t> dims_;
  Buffer buffer_;
};

class GpuContext final : public tf_ops::KernelContext {
 public:
  explicit GpuContext(OpKernelContext* context) : context_(context), device_(StreamOf(context)) {}

  Tensor Input(int index) override { return View(context_->input(index)); }

  Tensor AllocateOutput(int index, TF_DataType, const int64_t* dims, int rank) override {
    tensorflow::Tensor* output = nullptr;
    if (!ok()) return Tensor();
    return Check(context_->allocate_output(index, TensorShape({dims, static_cast<size_t>(rank)}), &output))
               ? View(*output)
               : Tensor();
  }

  Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank, bool* forwarded) override {
    tensorflow::Tensor* tensor = nullptr;
    int forwarded_input = -1;
    if (!ok()) return Tensor();
    const TensorShape shape({dims, static_cast<size_t>(rank)});
    if (!Check(context_->forward_input_or_allocate_output({input}, output, shape, &tensor, &forwarded_input))) {
      return Tensor();
    }
    *forwarded = forwarded_input >= 0;
    return View(*tensor);
  }

  // TensorFlow hands the memory out again in the order of the stream, so that nobody gets it too early.
  Tensor AllocateTemp(size_t num_bytes) override {
    if (!ok()) return Tensor();
    const TensorShape shape({static_cast<int64_t>(num_bytes)});
    tensorflow::Tensor memory;
    if (!Check(context_->allocate_temp(tensorflow::DT_UINT8, shape, &memory))) return Tensor();
    temporaries_.push_back(memory);
    return View(memory);
  }

  int num_threads() const override { return 1; }
  const tf_ops::Device* device() const override { return &device_; }

 private:
  void Report(TF_Code code, const char* message) override {
    context_->CtxFailure(absl::Status(static_cast<absl::StatusCode>(code), message));
  }

  bool Check(const absl::Status& status) {
    if (!status.ok()) Fail(static_cast<TF_Code>(status.code()), std::string(status.message()));
    return ok();
  }

  Tensor View(const tensorflow::Tensor& tensor) {
    views_.push_back(std::make_unique<TensorView>(tensor));
    return Tensor(views_.back()->buffer());
  }

  OpKernelContext* context_;
  CudaDevice device_;
  std::vector<std::unique_ptr<TensorView>> views_;
  std::vector<tensorflow::Tensor> temporaries_;
};

class LossKernel final : public OpKernel {
 public:
  explicit LossKernel(OpKernelConstruction* construction) : OpKernel(construction), call_(ReadLossCall(construction)) {}

  void Compute(OpKernelContext* tf_context) override {
    GpuContext context(tf_context);
    call_.op->compute(call_.flags, context);
  }

 private:
  const LossCall call_;
};

class ScaleGradKernel final : public OpKernel {
 public:
  explicit ScaleGradKernel(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    const tensorflow::Tensor& scale = context->input(0);
    OP_REQUIRES(context, scale.dims() == 0,
                absl::InvalidArgumentError("`scale` must be a scalar. Received: " + scale.shape().DebugString() + "."));
    const bool is_double = scale.dtype() == tensorflow::DT_DOUBLE;
    OP_REQUIRES(context, is_double == (context->expected_output_dtype(0) == tensorflow::DT_DOUBLE),
                absl::InvalidArgumentError("`scale` must be float64 exactly when the gradients are."));
    for (int i = 1; i < context->num_inputs(); ++i) {
      const tensorflow::Tensor& unit_grad = context->input(i);
      ScaleGradArgs args;
      args.unit_grad = unit_grad.data();
      tensorflow::Tensor* grad = nullptr;
      // Types that differ are never forwarded.
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({i}, i - 1, unit_grad.shape(), &grad, nullptr));
      args.size = grad->NumElements();
      tf_ops::ToCoreType(static_cast<TF_DataType>(grad->dtype()), &args.dtype);
      args.out = grad->data();
      const CudaDevice device(StreamOf(context));
      const Status status = device.ScaleGrad(args, scale.data());
      OP_REQUIRES(context, status == Status::kOk,
                  absl::InternalError("Fastneg>ScaleGrad: " + tf_ops::CoreStatusText(status, &device)));
    }
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Fastneg>RolledSoftmax").FASTNEG_GPU_DEVICE.HostMemory("gamma").HostMemory("margin").HostMemory("t"),
    LossKernel);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ShuffledCosine").FASTNEG_GPU_DEVICE.HostMemory("gamma"), LossKernel);
REGISTER_KERNEL_BUILDER(Name("Fastneg>SvSoftmax")
                            .FASTNEG_GPU_DEVICE.HostMemory("smooth")
                            .HostMemory("margin")
                            .HostMemory("t")
                            .HostMemory("threshold"),
                        LossKernel);
REGISTER_KERNEL_BUILDER(Name("Fastneg>ScaleGrad").FASTNEG_GPU_DEVICE, ScaleGradKernel);

}  // namespace
}  // namespace fastneg::tf_cxx
