// How the rows of a batch are cut into blocks and rounds, and how far apart prepared rows lie.
#ifndef FASTNEG_CORE_CPU_SHARED_BLOCKS_H_
#define FASTNEG_CORE_CPU_SHARED_BLOCKS_H_

#include <algorithm>
#include <cstdint>

#include "core/cpu/shared/plan.h"
#include "core/sizes.h"

namespace fastneg::cpu {

struct Blocks {
  int64_t rows = 0;  // Of all but the last.
  int64_t count = 0;
  int64_t per_round = 0;  // As many slots.
};

// Bytes that decide how a batch is cut.
struct BlockBytes {
  int64_t scores_of_row = 0;  // Scores that a slot keeps of a row.
  int64_t others_of_row = 0;  // All else that it has of a row.
  int64_t others = 0;         // What it has besides rows.
  int64_t kept_scores = 0;    // One round does everything where all scores together are no more than this.
  double inputs = 0;          // Of the whole call.
};

inline Blocks CutIntoBlocks(int64_t batch_size, int num_threads, const BlockBytes& bytes) {
  // Every block reads all candidates, so it should have many rows; but its scores, which are written and read once
  // more, may not take the memory that they are to save. No bound of a block depends on the number of threads: results
  // do not.
  constexpr int64_t kMaxScoresBytes = 20 << 20;
  // Scratch of a round, or twice as many blocks as there are threads if that is more; but then not so much more that
  // they would outgrow the larger bound and what the inputs take, unless a thread would have no block.
  constexpr int64_t kRoundBytes = 2 << 20, kBlocksPerThread = 2;
  // Alone a thread waits for nobody at the end of a round: what it has written should still be close by.
  constexpr int64_t kRoundBytesAlone = 128 << 10;
  constexpr double kMaxRoundBytes = 64 << 20;
  // Nor beyond this, whatever the number of threads.
  constexpr int64_t kMostRoundBytes = 256 << 20;

  Blocks blocks;
  // Fewer rows where the batch is too small to occupy several threads.
  blocks.rows = batch_size >= 16 * kMaxBlockRows ? kMaxBlockRows : kMaxBlockRows / 2;
  while (blocks.rows > kMinBlockRows &&
         (blocks.rows * 8 > batch_size || blocks.rows * bytes.scores_of_row > kMaxScoresBytes)) {
    blocks.rows /= 2;
  }
  blocks.count = CeilDiv(batch_size, blocks.rows);
  const int64_t threads = std::max(num_threads, 1);
  const int64_t block_bytes = blocks.rows * (bytes.scores_of_row + bytes.others_of_row) + bytes.others;
  const int64_t round_bytes = threads == 1 ? kRoundBytesAlone : kRoundBytes;
  const int64_t wanted = std::max(round_bytes / block_bytes, kBlocksPerThread * threads);
  const int64_t allowed =
      static_cast<int64_t>(std::max(kMaxRoundBytes, bytes.inputs) / static_cast<double>(block_bytes));
  // As many blocks for every thread.
  const int64_t even = std::max(std::min(wanted, allowed) / threads, int64_t{1}) * threads;
  const bool keeps_all = blocks.count * blocks.rows <= bytes.kept_scores / std::max(bytes.scores_of_row, int64_t{1});
  blocks.per_round = keeps_all ? blocks.count : std::min({even, blocks.count, kMostRoundBytes / block_bytes});
  blocks.per_round = std::max(blocks.per_round, int64_t{1});
  return blocks;
}

// f(round, first block, number of blocks) for every round of a plan.
template <typename F>
void ForRounds(const SharedPlan& plan, F f) {
  for (int64_t block = 0, round = 0; block < plan.num_blocks; block += plan.blocks_per_round, ++round) {
    const int64_t left = plan.num_blocks - block;
    f(round, block, left < plan.blocks_per_round ? left : plan.blocks_per_round);
  }
}

// Whether rows at such a distance fall into so few sets of the first-level cache that those of a tile push each other
// out: products are up to a sixth slower then.
constexpr bool ShareSets(int64_t row_bytes) { return row_bytes % (4 * kLineBytes) == 0; }

// Elements from row to row of prepared rows: whole lines that hold `dim` elements, and one more where rows would share
// sets.
constexpr int64_t PreparedStride(int64_t dim, int64_t element_bytes) {
  const int64_t line = kLineBytes / element_bytes;
  const int64_t stride = RoundUp(dim < 1 ? 1 : dim, line);
  return ShareSets(stride * element_bytes) ? stride + line : stride;
}

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_BLOCKS_H_
