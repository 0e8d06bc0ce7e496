// Carves typed arrays out of one caller-owned block; measures the block when there is none.
#ifndef FASTNEG_CORE_WORKSPACE_H_
#define FASTNEG_CORE_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

namespace fastneg {

constexpr size_t kAlignment = 64;

class Workspace {
 public:
  // `base` null: only the size is counted.
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  // Room for rows * columns elements, 64-byte aligned; null while measuring or after an overflow.
  void* Take(int64_t rows, int64_t columns, size_t element_bytes) {
    size_t bytes = 0;
    overflow_ |= __builtin_mul_overflow(static_cast<size_t>(rows), static_cast<size_t>(columns), &bytes);
    overflow_ |= __builtin_mul_overflow(bytes, element_bytes, &bytes);
    overflow_ |= __builtin_add_overflow(bytes, kAlignment - 1, &bytes);
    bytes -= bytes % kAlignment;
    void* taken = base_ == nullptr || overflow_ ? nullptr : base_ + used_;
    overflow_ |= __builtin_add_overflow(used_, bytes, &used_);
    overflow_ |= used_ > static_cast<size_t>(INT64_MAX);
    return taken;
  }

  bool overflow() const { return overflow_; }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
  bool overflow_ = false;
};

}  // namespace fastneg

#endif  // FASTNEG_CORE_WORKSPACE_H_
