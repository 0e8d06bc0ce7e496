// What the kernels of all losses do with inputs and outputs. Eager mode runs no shape function, and a
// SavedModel may feed anything, so kernels check everything themselves; every message states the requirement and then
// what was received.
#ifndef FASTNEG_TF_OPS_CHECKS_H_
#define FASTNEG_TF_OPS_CHECKS_H_

#include <cstdint>
#include <string>

#include "tf_ops/kernel_context.h"

namespace fastneg::tf_ops {

std::string Text(int64_t value);

// Two matrices [batch_size, embedding_dim] of one shape. (They share one type attribute.)
void CheckEmbeddings(KernelContext& context, const char* left_name, const Tensor& left, const char* right_name,
                     const Tensor& right);

// [batch_size], or also [batch_size, 1] where `column_allowed`. An empty `tensor` was not given.
void CheckPerRow(KernelContext& context, const char* name, const Tensor& tensor, int64_t batch_size,
                 bool column_allowed);

void CheckScalar(KernelContext& context, const char* name, const Tensor& tensor);

// The compute type (float64 or float32) has to be that of `dtype`. `names`, quoted, are the inputs it is about.
void CheckComputeType(KernelContext& context, const char* names, TF_DataType compute_dtype, TF_DataType dtype);

// Of a scalar float32 or float64 tensor.
double ScalarValue(const Tensor& tensor);

// Scratch memory that starts at a 64-byte boundary.
class AlignedTemp {
 public:
  AlignedTemp(KernelContext& context, size_t num_bytes) : tensor_(context.AllocateTemp(num_bytes + kAlignment)) {}

  void* data() const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(tensor_.data());
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr size_t kAlignment = 64;

  Tensor tensor_;
};

// What the shape function knows of one input.
struct InputRank {
  int input;
  int64_t min_rank, max_rank;
  const char* requirement;
};

// Refuses an input whose static rank is not as it must be; false if so.
bool CheckRank(const InputRank& rank, TF_ShapeInferenceContext* context, TF_Status* status);

template <int kCount>
bool CheckRanks(const InputRank (&ranks)[kCount], TF_ShapeInferenceContext* context, TF_Status* status) {
  for (const InputRank& rank : ranks) {
    if (!CheckRank(rank, context, status)) return false;
  }
  return true;
}

// Output 0 is a scalar; the shapes of the gradients depend on attributes that the C API cannot read, and stay unknown.
void SetScalarLossShapes(TF_ShapeInferenceContext* context, TF_Status* status);

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_CHECKS_H_
