#include "tf_cxx/xla_contexts.h"

#include <utility>

namespace fastneg::tf_cxx {

ShapeContext::ShapeContext(std::vector<Buffer> inputs, int num_outputs, int num_threads, const tf_ops::Device* device)
    : inputs_(std::move(inputs)),
      outputs_(static_cast<size_t>(num_outputs)),
      output_buffers_(static_cast<size_t>(num_outputs)),
      num_threads_(num_threads),
      device_(device) {
  // Scalars are read, and 1 is right for each of them.
  static double one_double = 1.0;
  static float one_float = 1.0f;
  for (Buffer& input : inputs_) {
    if (IsFloatScalar(input)) input.data = input.dtype == TF_DOUBLE ? static_cast<void*>(&one_double) : &one_float;
  }
}

Tensor ShapeContext::AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) {
  if (!ok()) return Tensor();
  OutputShape& output = outputs_[static_cast<size_t>(index)];
  output = {dtype, std::vector<int64_t>(dims, dims + rank)};
  Buffer& buffer = output_buffers_[static_cast<size_t>(index)];
  buffer = {dtype, rank, output.dims.data(), nullptr};
  return Tensor(&buffer);
}

Tensor ShapeContext::AllocateTemp(size_t num_bytes) {
  workspace_bytes_ = num_bytes;
  return Tensor();
}

Tensor RunContext::AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) {
  const Buffer& output = outputs_[static_cast<size_t>(index)];
  bool same = output.dtype == dtype && output.rank == rank;
  for (int i = 0; same && i < rank; ++i) same = output.dims[i] == dims[i];
  if (same) return Tensor(&output);
  Fail(TF_INTERNAL, "fastneg: the shapes must be those that XLA compiled for.");
  return Tensor();
}

Tensor RunContext::AllocateTemp(size_t num_bytes) {
  const Buffer& workspace = outputs_.back();
  if (static_cast<size_t>(workspace.dims[0]) >= num_bytes) return Tensor(&workspace);
  Fail(TF_INTERNAL, "fastneg: the workspace must be as large as XLA was told.");
  return Tensor();
}

}  // namespace fastneg::tf_cxx
