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
  double inputs = 0;          // Of the whole call.
};

inline Blocks CutIntoBlocks(int64_t batch_size, int num_threads, const BlockBytes& bytes) {
  // A block's scores should not be larger: they are read once more, best from the last-level cache.
  constexpr int64_t kMaxScoresBytes = 4 << 20;
  // Scratch of a round, or twice as many blocks as there are threads if that is more; but not so much more that they
  // would outgrow the larger bound and what the inputs take.
  constexpr int64_t kRoundBytes = 2 << 20, kBlocksPerThread = 2;
  constexpr double kMaxRoundBytes = 64 << 20;

  Blocks blocks;
  // As many rows as make reading all candidates worth it, fewer where the batch is too small to occupy several threads
  // or the candidates so many that their scores would not stay in a cache.
  blocks.rows = batch_size >= 16 * kMaxBlockRows ? kMaxBlockRows : kMaxBlockRows / 2;
  while (blocks.rows > kMinBlockRows &&
         (blocks.rows * 8 > batch_size || blocks.rows * bytes.scores_of_row > kMaxScoresBytes)) {
    blocks.rows /= 2;
  }
  blocks.count = CeilDiv(batch_size, blocks.rows);
  const int64_t block_bytes = blocks.rows * (bytes.scores_of_row + bytes.others_of_row) + bytes.others;
  const int64_t wanted = std::max(kRoundBytes / block_bytes, kBlocksPerThread * std::max(num_threads, 1));
  const double allowed = std::max(kMaxRoundBytes, bytes.inputs) / static_cast<double>(block_bytes);
  const int64_t most = std::min(blocks.count, static_cast<int64_t>(allowed));
  blocks.per_round = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(most, 1));
  return blocks;
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
