// Fastneg>RandomPermutations: one permutation of 0 .. size-1 for each seed. Seeds come from TensorFlow's random
// operations, so that its rules for seeds hold.
#include <cstdint>
#include <string>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::random_permutations {
namespace {

enum InputIndex { kSeeds, kSize };

struct RandomPermutationsKernel {
  static std::vector<Attribute> Attributes() { return {}; }
  void Compute(KernelContext& context) const;
};

void RandomPermutationsKernel::Compute(KernelContext& context) const {
  const Tensor seeds = context.Input(kSeeds);
  const Tensor size_tensor = context.Input(kSize);
  if (!context.ok()) return;
  CheckScalar(context, "size", size_tensor);
  if (seeds.rank() != 1) {
    context.Refuse("`seeds` must have rank 1, [num_permutations]. Received: " + seeds.ShapeText() + ".");
  }
  if (!context.ok()) return;
  const int64_t size = *static_cast<const int64_t*>(size_tensor.data());
  if (size < 0 || size > INT32_MAX) {
    context.Refuse("`size` must be at least 0 and below 2^31. Received: " + Text(size) + ".");
    return;
  }
  int64_t num_elements = 0;
  if (__builtin_mul_overflow(seeds.dim(0), size * 4, &num_elements)) {
    context.Refuse("`size` times the number of `seeds` must fit 63 bits. Received: " + Text(size) + " and " +
                   Text(seeds.dim(0)) + ".");
    return;
  }
  const Tensor permutations = context.AllocateOutput(0, DType::kInt32, {seeds.dim(0), size});
  if (!context.ok()) return;
  RandomPermutationsArgs args;
  args.count = seeds.dim(0);
  args.size = size;
  args.seeds = static_cast<const int64_t*>(seeds.data());
  args.permutations = static_cast<int32_t*>(permutations.data());
  // A permutation of 2^14 rows takes as long as waking a thread.
  constexpr double kSavedEntries = 1 << 14;
  const int threads = context.num_threads();
  const double entries = static_cast<double>(args.count) * static_cast<double>(size);
  args.executor = PoolExecutor(entries - entries / threads < kSavedEntries ? 1 : threads);
  CheckStatus(context, "RandomPermutations", RandomPermutations(args));
}

[[maybe_unused]] const bool kRegistered = KernelOp<RandomPermutationsKernel>::Register({
    "Fastneg>RandomPermutations",
    {{"seeds", "int64"}, {"size", "int64"}},
    {{"permutations", "int32"}},
    {},
    {{kSeeds, 1, 1, "`seeds` must have rank 1, [num_permutations]"}, {kSize, 0, 0, "`size` must be a scalar"}},
});

}  // namespace
}  // namespace fastneg::ops::random_permutations
