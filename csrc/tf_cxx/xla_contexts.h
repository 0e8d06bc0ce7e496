// The two sides of a loss's op inside XLA: when XLA compiles, shapes are all there is; when the compiled program runs,
// the op finds its buffers laid out.
#ifndef FASTNEG_TF_CXX_XLA_CONTEXTS_H_
#define FASTNEG_TF_CXX_XLA_CONTEXTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tf_ops/kernel_context.h"

namespace fastneg::tf_cxx {

using tf_ops::Buffer;
using tf_ops::Tensor;

// Whether it is one of the scalars that ops read on the host.
inline bool IsFloatScalar(const Buffer& buffer) {
  return buffer.rank == 0 && (buffer.dtype == TF_FLOAT || buffer.dtype == TF_DOUBLE);
}

struct OutputShape {
  TF_DataType dtype = TF_FLOAT;
  std::vector<int64_t> dims;
};

// What went wrong; `code` is TF_OK if nothing did.
struct Failure {
  TF_Code code = TF_OK;
  std::string message;
};

// Learns the shapes of the outputs and the size of the workspace.
class ShapeContext final : public tf_ops::KernelContext {
 public:
  ShapeContext(std::vector<Buffer> inputs, int num_outputs, int num_threads, const tf_ops::Device* device);

  Tensor Input(int index) override { return Tensor(&inputs_[static_cast<size_t>(index)]); }
  Tensor AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) override;
  Tensor AllocateTemp(size_t num_bytes) override;
  bool only_shapes() const override { return true; }
  int num_threads() const override { return num_threads_; }
  const tf_ops::Device* device() const override { return device_; }

  const Failure& failure() const { return failure_; }
  const std::vector<OutputShape>& outputs() const { return outputs_; }
  size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  void Report(TF_Code code, const char* message) override { failure_ = {code, message}; }

  std::vector<Buffer> inputs_;
  std::vector<OutputShape> outputs_;
  std::vector<Buffer> output_buffers_;
  size_t workspace_bytes_ = 0;
  int num_threads_;
  const tf_ops::Device* device_;
  Failure failure_;
};

// Runs in the buffers that ShapeContext has asked for: the last output is the workspace.
class RunContext final : public tf_ops::KernelContext {
 public:
  RunContext(const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs, int num_threads,
             const tf_ops::Device* device)
      : inputs_(inputs), outputs_(outputs), num_threads_(num_threads), device_(device) {}

  Tensor Input(int index) override { return Tensor(&inputs_[static_cast<size_t>(index)]); }
  Tensor AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) override;
  Tensor AllocateTemp(size_t num_bytes) override;
  int num_threads() const override { return num_threads_; }
  const tf_ops::Device* device() const override { return device_; }

  const Failure& failure() const { return failure_; }

 private:
  void Report(TF_Code code, const char* message) override { failure_ = {code, message}; }

  const std::vector<Buffer>& inputs_;
  const std::vector<Buffer>& outputs_;
  int num_threads_;
  const tf_ops::Device* device_;
  Failure failure_;
};

}  // namespace fastneg::tf_cxx

#endif  // FASTNEG_TF_CXX_XLA_CONTEXTS_H_
