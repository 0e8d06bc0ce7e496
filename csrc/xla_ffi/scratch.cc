#include "xla_ffi/scratch.h"

#include <atomic>
#include <cstdlib>

namespace fastneg::xla_ffi {
namespace {

// What stands in front of the memory.
struct alignas(std::max_align_t) Block {
  size_t num_bytes;
};

// Smaller blocks malloc keeps itself, larger ones nobody should.
constexpr size_t kLeastKept = size_t{1} << 20;
constexpr size_t kMostKept = size_t{128} << 20;

std::atomic<Block*> g_kept{nullptr};

bool MayBeKept(size_t num_bytes) { return num_bytes >= kLeastKept && num_bytes <= kMostKept; }

}  // namespace

void* TakeScratch(size_t num_bytes) {
  if (MayBeKept(num_bytes)) {
    Block* kept = g_kept.exchange(nullptr);
    if (kept != nullptr && kept->num_bytes >= num_bytes) return kept + 1;
    std::free(kept);
  }
  auto* block = static_cast<Block*>(std::malloc(sizeof(Block) + num_bytes));
  if (block == nullptr) return nullptr;
  block->num_bytes = num_bytes;
  return block + 1;
}

void GiveBackScratch(void* memory) {
  Block* block = static_cast<Block*>(memory) - 1;
  const size_t num_bytes = block->num_bytes;  // Once it is kept, somebody else may have it.
  if (MayBeKept(num_bytes)) {
    block = g_kept.exchange(block);
    if (block != nullptr && block->num_bytes > num_bytes) block = g_kept.exchange(block);
  }
  std::free(block);
}

}  // namespace fastneg::xla_ffi
