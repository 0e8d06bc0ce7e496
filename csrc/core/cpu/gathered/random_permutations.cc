// Permutations from seeds, by the inside-out form of the Fisher-Yates shuffle.
#include <utility>

#include "core/api.h"
#include "core/cpu/runtime/phases.h"
#include "core/sizes.h"

namespace fastneg {
namespace {

// Numbers from a seed: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
class Generator {
 public:
  explicit Generator(int64_t seed) : state_(static_cast<uint64_t>(seed)) {}

  // Uniform on 0 .. bound-1, without a bias: the multiplication maps 2^32 numbers to `bound` intervals, and numbers
  // from the part that is left over are drawn anew (Lemire, "Fast random integer generation in an interval", 2019).
  uint32_t Below(uint32_t bound) {
    uint64_t product = uint64_t{Next()} * bound;
    if (static_cast<uint32_t>(product) < bound) {
      const uint32_t left_over = -bound % bound;
      while (static_cast<uint32_t>(product) < left_over) product = uint64_t{Next()} * bound;
    }
    return static_cast<uint32_t>(product >> 32);
  }

 private:
  uint32_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }

  uint64_t state_;
};

void DrawPermutation(void* context, int64_t k) {
  const auto& args = *static_cast<const RandomPermutationsArgs*>(context);
  int32_t* permutation = args.permutations + k * args.size;
  Generator generator(args.seeds[k]);
  for (int32_t i = 0; i < static_cast<int32_t>(args.size); ++i) {
    const uint32_t j = generator.Below(static_cast<uint32_t>(i) + 1);
    permutation[i] = i;  // Also where j is i.
    std::swap(permutation[i], permutation[j]);
  }
}

}  // namespace

Status RandomPermutations(const RandomPermutationsArgs& args) {
  if (!IsSize(args.count) || args.size < 0 || args.size > INT32_MAX) return Status::kInvalidSize;
  if (args.count == 0 || args.size == 0) return Status::kOk;
  if (args.seeds == nullptr || args.permutations == nullptr) return Status::kNullPointer;
  const Phase phase{args.count, DrawPermutation};
  RandomPermutationsArgs context = args;
  cpu::RunPhases(args.executor, &phase, 1, &context);
  return Status::kOk;
}

}  // namespace fastneg
