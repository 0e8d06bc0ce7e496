// The blocks of threads that a pass is cut into.
#ifndef FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_
#define FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_

namespace fastneg::cuda {

constexpr int kBlockThreads = 256;

// What the blocks of a call tell each other. All zero before the first kernel.
struct Control {
  // 0, or the complement of the first offending index, so that a maximum finds it; kBadParameter below all of these.
  unsigned long long error;
  unsigned int count;    // Rows with a weight.
  unsigned int tickets;  // Blocks of the row pass that are done.
};

// A parameter that only the device knows is not what it has to be.
constexpr unsigned long long kBadParameter = 1;

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_BLOCKS_H_
