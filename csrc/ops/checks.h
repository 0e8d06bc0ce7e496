// What all ops do with inputs and outputs. Whoever calls an op may feed it anything, so ops check everything
// themselves; every message states the requirement and then what was received.
#ifndef FASTNEG_OPS_CHECKS_H_
#define FASTNEG_OPS_CHECKS_H_

#include <cstdint>
#include <string>

#include "ops/kernel_context.h"

namespace fastneg::ops {

std::string Text(int64_t value);

// Two matrices [batch_size, embedding_dim] of one shape. (They share one type attribute.)
void CheckEmbeddings(KernelContext& context, const char* left_name, const Tensor& left, const char* right_name,
                     const Tensor& right);

// [batch_size], or also [batch_size, 1] where `column_allowed`. An empty `tensor` was not given.
void CheckPerRow(KernelContext& context, const char* name, const Tensor& tensor, int64_t batch_size,
                 bool column_allowed);

void CheckScalar(KernelContext& context, const char* name, const Tensor& tensor);

// The compute type (float64 or float32) has to be that of `dtype`. `names`, quoted, are the inputs it is about.
void CheckComputeType(KernelContext& context, const char* names, DType compute_dtype, DType dtype);

// The row options that softmax losses have in common.
struct RowOptions {
  bool refined = false;
  bool positive_in_softmax = true;
  double negative_weight = 1.0;
};
void CheckRowOptions(KernelContext& context, const RowOptions& options, bool has_probabilities);

// Of a scalar float32 or float64 tensor on the host.
double ScalarValue(const Tensor& tensor);

// A scalar's value, or where the device has it: one of the two is set.
void ReadScalar(const Tensor& tensor, double* value, const void** on_device);

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

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_CHECKS_H_
