// The blocks of threads that a pass is cut into.
#ifndef FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_
#define FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_

namespace fastneg::cuda {

constexpr int kBlockThreads = 256;

// What the blocks of a call tell each other. All zero before the first kernel.
struct Control {
  unsigned long long error;  // 0, or the complement of the first offending index, so that a maximum finds it.
  unsigned int count;        // Rows with a weight.
  unsigned int tickets;      // Blocks of the row pass that are done.
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_
