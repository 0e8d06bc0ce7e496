#include "core/cpu/pairwise/cut.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/sizes.h"

namespace fastneg::cpu {
namespace {

constexpr int64_t kChunkRows = 2048;  // Rows whose moments one task adds up, at least.
constexpr int64_t kMaxChunks = 64;
constexpr int64_t kDirectRows = 64;  // Rows of one task where rows are paired one by one.
constexpr int64_t kEvaluateRows = 1024;
constexpr double kFarthestBox = 1e9;  // Beyond it float64 has few digits left for places in boxes.

// Measured, in nanoseconds of one thread with AVX-512; other instruction sets keep the proportions.
constexpr double kPairCost = 4.0;      // Of a pair in a block that is direct: it is computed twice.
constexpr double kRowCost = 10.0;      // Of a row's moments and polynomial.
constexpr double kBoxPairCost = 35.0;  // Of two boxes' translations.

}  // namespace

PairwiseCapacity::PairwiseCapacity(int64_t batch_size)
    : leaves(batch_size / 2 + 1),
      ranges(batch_size / kLeafRows + 1),
      // Of one depth: its blocks share no row and have more than kLeafRows each.
      tasks(batch_size / kDirectRows + 2 * ranges + 1),
      numbers((int64_t{1} << 17) + 8 * batch_size) {}

PairwiseCut::PairwiseCut(int64_t batch_size, Workspace* workspace)
    : capacity_(batch_size),
      leaves_(static_cast<RowRange*>(workspace->Take(capacity_.leaves, 1, sizeof(RowRange)))),
      ranges_(static_cast<RowRange*>(workspace->Take(capacity_.ranges, 1, sizeof(RowRange)))),
      next_ranges_(static_cast<RowRange*>(workspace->Take(capacity_.ranges, 1, sizeof(RowRange)))),
      blocks_(static_cast<PairwiseBlock*>(workspace->Take(capacity_.ranges, 1, sizeof(PairwiseBlock)))),
      moment_tasks_(static_cast<PairwiseTask*>(workspace->Take(capacity_.tasks, 1, sizeof(PairwiseTask)))),
      evaluate_tasks_(static_cast<PairwiseTask*>(workspace->Take(capacity_.tasks, 1, sizeof(PairwiseTask)))),
      numbers_(static_cast<double*>(workspace->Take(capacity_.numbers, 1, sizeof(double)))) {}

void PairwiseCut::AddRange(const PairwisePlan& plan, RowRange rows, int64_t* num_ranges, RowRange* ranges) {
  if (plan.level_begin[rows.end - 1] == rows.begin) return;  // One level, no pair.
  if (rows.end - rows.begin <= kLeafRows) {
    leaves_[num_leaves_++] = rows;
  } else {
    ranges[(*num_ranges)++] = rows;
  }
}

// The boundary between levels that is nearest to the middle.
uint32_t PairwiseCut::FindCut(const PairwisePlan& plan, RowRange rows) const {
  const uint32_t middle = rows.begin + (rows.end - rows.begin) / 2;
  const uint32_t* levels = plan.level_begin;
  const uint32_t before = levels[middle];
  const auto after = static_cast<uint32_t>(std::upper_bound(levels + middle, levels + rows.end, before) - levels);
  if (before == rows.begin) return after;
  return after == rows.end || middle - before <= after - middle ? before : after;
}

bool PairwiseCut::NextDepth(const PairwiseKernels& kernels, PairwisePlan* plan) {
  num_blocks_ = num_moment_tasks_ = num_evaluate_tasks_ = num_numbers_ = 0;
  int64_t num_next = 0;
  for (int64_t r = 0; r < num_ranges_; ++r) {
    const RowRange rows = ranges_[r];
    PairwiseBlock* block = blocks_ + num_blocks_++;
    *block = PairwiseBlock();
    block->begin = rows.begin;
    block->middle = FindCut(*plan, rows);
    block->end = rows.end;
    block->direct = !PlaceBoxes(kernels, *plan, block);
    for (const Side side : {kBelow, kAbove}) {
      if (!block->direct) AddMomentTasks(block, side);
      if (side == kAbove || plan->want_slopes) AddEvaluateTasks(block, side);
    }
    AddRange(*plan, {block->begin, block->middle}, &num_next, next_ranges_);
    AddRange(*plan, {block->middle, block->end}, &num_next, next_ranges_);
  }
  std::swap(ranges_, next_ranges_);
  num_ranges_ = num_next;
  plan->blocks = blocks_;
  plan->moment_tasks = moment_tasks_;
  plan->evaluate_tasks = evaluate_tasks_;
  return num_blocks_ > 0;
}

// False if the rows are to be paired one by one: because a position is not finite, there is no room, or it is cheaper.
bool PairwiseCut::PlaceBoxes(const PairwiseKernels& kernels, const PairwisePlan& plan, PairwiseBlock* block) {
  const double width = plan.series->box_width;
  double counts[2], firsts[2], lasts[2];
  for (const Side side : {kBelow, kAbove}) {
    const RowRange rows = block->rows(side);
    double low, high;
    if (!kernels.extent(plan, rows, &low, &high)) return false;
    const double shift = side == kAbove ? plan.margin : 0.0;
    firsts[side] = std::floor((low - shift) / width);
    lasts[side] = std::floor((high - shift) / width);
    counts[side] = rows.end - rows.begin;
    block->num_chunks[side] = std::min(CeilDiv(static_cast<int64_t>(counts[side]), kChunkRows), kMaxChunks);
  }
  // A row that is farther from all rows of the other side than any series reaches may be in any box that is as well:
  // a single outlier does not ask for boxes all the way to it.
  const auto nearest = static_cast<double>(plan.series->first_distance - 1);
  const auto farthest = static_cast<double>(plan.series->last_distance + 1);
  const double reach[2][2] = {{firsts[kAbove] + nearest, lasts[kAbove] + farthest},
                              {firsts[kBelow] - farthest, lasts[kBelow] - nearest}};
  for (const Side side : {kBelow, kAbove}) {
    const double first = std::min(std::max(firsts[side], reach[side][0]), lasts[side]);
    const double last = std::max(std::min(lasts[side], reach[side][1]), first);
    if (!(first > -kFarthestBox && last < kFarthestBox)) return false;
    block->first_box[side] = static_cast<int64_t>(first);
    block->num_boxes[side] = static_cast<int64_t>(last - first) + 1;
  }
  if (!plan.want_slopes) block->num_chunks[kAbove] = 0;

  const double pairs = counts[kBelow] * counts[kAbove];
  const double box_pairs = static_cast<double>(block->num_boxes[kAbove]) *
                           static_cast<double>(std::min(block->num_boxes[kBelow], plan.series->num_distances()));
  if (pairs * kPairCost < (counts[kBelow] + counts[kAbove]) * kRowCost + box_pairs * kBoxPairCost) return false;

  int64_t num_numbers = num_numbers_;
  for (const Side side : {kBelow, kAbove}) {
    const int64_t size = block->num_boxes[side] * kSeriesTerms;
    const int64_t num_arrays = block->num_chunks[side] + (plan.want_slopes ? 1 : 0) + (side == kAbove ? 1 : 0);
    if (size * num_arrays > capacity_.numbers - num_numbers) return false;
    double* numbers = numbers_ + num_numbers;
    num_numbers += size * num_arrays;
    block->moments[side] = numbers;
    block->slopes[side] = numbers += size * block->num_chunks[side];
    if (side == kAbove) block->values = numbers + (plan.want_slopes ? size : 0);
  }
  num_numbers_ = num_numbers;
  return true;
}

void PairwiseCut::AddMomentTasks(const PairwiseBlock* block, Side side) {
  const RowRange rows = block->rows(side);
  const int64_t num_rows = rows.end - rows.begin, num_chunks = block->num_chunks[side];
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const auto begin = static_cast<uint32_t>(rows.begin + num_rows * chunk / num_chunks);
    const auto end = static_cast<uint32_t>(rows.begin + num_rows * (chunk + 1) / num_chunks);
    double* moments = block->moments[side] + chunk * block->num_boxes[side] * kSeriesTerms;
    moment_tasks_[num_moment_tasks_++] = {block, side, {begin, end}, moments};
  }
}

void PairwiseCut::AddEvaluateTasks(const PairwiseBlock* block, Side side) {
  const RowRange rows = block->rows(side);
  const int64_t step = block->direct ? kDirectRows : kEvaluateRows;
  for (int64_t begin = rows.begin; begin < rows.end; begin += step) {
    const auto end = static_cast<uint32_t>(std::min<int64_t>(begin + step, rows.end));
    evaluate_tasks_[num_evaluate_tasks_++] = {block, side, {static_cast<uint32_t>(begin), end}, nullptr};
  }
}

}  // namespace fastneg::cpu
