// The in-batch loss where queries and candidates are bfloat16 and the machine multiplies it: the passes of
// in_batch_rows.h, with products of pairs of numbers.
//
// Scores are products of the numbers as they came, added up in float and scaled after it. Gradients by logits, and
// queries that the candidates' gradients take, are rounded to bfloat16. All numbers are finite here.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_PAIRS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_PAIRS_H_

#include "core/cpu/shared/in_batch_rows.h"
#include "core/cpu/simd/bfloat16_pairs.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The block has the scores of one panel at a time, and of all panels the coefficients as pairs.
struct PairBlock : InBatchBlock<float> {
  static constexpr bool kHasAllOptions = false;

  BFloat16Pair* queries;       // [block_rows, stride] pairs of dimensions.
  BFloat16Pair* scaled;        // [block_pairs, dim_stride] pairs of rows, as the candidates' gradients take them.
  BFloat16* panel;             // [block_rows, width] coefficients of one panel, over the candidates' norms.
  BFloat16Pair* coefficients;  // [num_panels, width, block_pairs] pairs of rows.
  float row_scale[kMaxBlockRows];

  PairBlock(const InBatchPlan& plan, int64_t block) : InBatchBlock<float>(plan, block) {
    constexpr int64_t kWidth = kWidthOfPanel<float>;
    const int64_t row = slot * plan.block_rows;
    const int64_t pairs = slot * plan.pairs.block_pairs;
    queries = static_cast<BFloat16Pair*>(plan.pairs.queries) + row * plan.pairs.stride;
    scaled = static_cast<BFloat16Pair*>(plan.pairs.scaled) + pairs * plan.dim_stride;
    panel = static_cast<BFloat16*>(plan.pairs.panel) + row * kWidth;
    coefficients = static_cast<BFloat16Pair*>(plan.pairs.coefficients) + pairs * plan.num_panels * kWidth;
  }

  // Those of candidate j.
  BFloat16Pair* Coefficients(const InBatchPlan& plan, int64_t j) const {
    return coefficients + j * plan.pairs.block_pairs;
  }
};

// Pairs of dimensions that the scores' products take.
FASTNEG_INLINE int64_t DepthOfScores(const InBatchPlan& plan) {
  return ((plan.embedding_dim + 1) / 2 + kPairStep - 1) / kPairStep * kPairStep;
}

// Pairs of rows that a block has for the candidates' gradients.
FASTNEG_INLINE int64_t DepthOfBlock(int64_t rows) { return ((rows + 1) / 2 + kPairStep - 1) / kPairStep * kPairStep; }

FASTNEG_INLINE void LoadInputs(const InBatchPlan& plan, PairBlock* block) {
  LoadInputs<float>(plan, block);
  const int64_t dim = plan.embedding_dim;
  const float per_temperature = static_cast<float>(1.0 / plan.temperature);
  for (int64_t r = 0; r < block->count; ++r) {
    const BFloat16* row = static_cast<const BFloat16*>(plan.inputs) + (block->first + r) * plan.input_stride;
    BFloat16Pair* pairs = block->queries + r * plan.pairs.stride;
    for (int64_t p = dim / 2; p < DepthOfScores(plan); ++p) pairs[p].bits = 0;
    __builtin_memcpy(pairs, row, static_cast<size_t>(dim) * sizeof(BFloat16));
    const float inverse = block->inverse[r];
    block->row_scale[r] = (inverse < 0.0f ? -inverse : inverse) * per_temperature;
  }
}

// 1 / norm of the candidates from `first` on, where the plan normalises.
FASTNEG_INLINE Vec<float> ColumnScales(const InBatchPlan& plan, int64_t first) {
  const Vec<float> inverse = Load(static_cast<const float*>(plan.inverse) + first);
  return inverse < 0.0f ? -inverse : inverse;
}

FASTNEG_NOINLINE inline void ScorePanel(const InBatchPlan& plan, PairBlock* block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<float>;
  constexpr int64_t kTile = kWidthOfTile<float>;
  const int64_t vecs = VecsOfPanel<float>(plan.num_candidates, panel), depth = DepthOfScores(plan);
  const auto* columns = static_cast<const BFloat16Pair*>(plan.panels) + panel * depth * kWidth;
  float* scores = block->Panel(panel);
  for (int64_t v = 0; v < vecs; v += kTileVecs) {
    const Factors<BFloat16Pair> factors{
        block->queries, plan.pairs.stride, 1, columns + v * kLanes<float> * depth, kTile, depth};
    const int64_t vecs_of_tile = vecs - v < kTileVecs ? vecs - v : kTileVecs;
    MultiplyPairs<Write::kSet>(factors, block->count, vecs_of_tile, scores + v * kLanes<float>, kWidth);
  }
  const float* offsets = static_cast<const float*>(plan.offsets) + panel * kWidth;
  for (int64_t r = 0; r < block->count; ++r) {
    const Vec<float> row_scale = Broadcast(block->row_scale[r]);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      float* score = scores + r * kWidth + v * kLanes<float>;
      Vec<float> scale = row_scale;
      if (plan.normalize) scale *= ColumnScales(plan, panel * kWidth + v * kLanes<float>);
      Store(score, Load(score) * scale + Load(offsets + v * kLanes<float>));
    });
  }
  block->Exclude(plan, panel);
}

// One panel's exponentials to coefficients in both layouts.
FASTNEG_INLINE void RoundCoefficients(const InBatchPlan& plan, const PairBlock& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<float>;
  const int64_t vecs = VecsOfPanel<float>(plan.num_candidates, panel), pairs = DepthOfBlock(block.count);
  for (int64_t begin = 0; begin < pairs; begin += kLanes<float>) {
    for (int64_t v = 0; v < vecs; ++v) {
      const int64_t column = v * kLanes<float>;
      Vec<float> scale{};
      if (plan.normalize) scale = ColumnScales(plan, panel * kWidth + column);
      const float* values = block.Panel(panel) + column;
      BFloat16* rows = block.panel + column;
      const auto round = [&](int64_t r) FASTNEG_LAMBDA_INLINE {
        if (r >= block.count) return HalfBits{};
        const Vec<float> value = Load(values + r * kWidth);
        const HalfBits rounded = ToBFloat16(value);
        const HalfBits scaled = plan.normalize ? ToBFloat16(value * scale) : rounded;
        __builtin_memcpy(rows + r * kWidth, &scaled, sizeof(scaled));
        return rounded;
      };
      Vec<float> square[kLanes<float>];
#pragma GCC unroll 16
      for (int64_t l = 0; l < kLanes<float>; ++l) {
        const HalfBits even = round(2 * (begin + l)), odd = round(2 * (begin + l) + 1);
        square[l] = reinterpret_cast<Vec<float>>(Interleaved(even, odd));
      }
      Transpose<float>(square);
      BFloat16Pair* kept = block.Coefficients(plan, panel * kWidth + column) + begin;
#pragma GCC unroll 16
      for (int64_t l = 0; l < kLanes<float>; ++l) {
        StorePairs(kept + l * plan.pairs.block_pairs, reinterpret_cast<PairVec>(square[l]));
      }
    }
  }
}

FASTNEG_NOINLINE inline void AddInputGrads(const InBatchPlan& plan, const PairBlock& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<float>;
  RoundCoefficients(plan, block, panel);
  const int64_t left = plan.num_candidates - panel * kWidth, count = left < kWidth ? left : kWidth;
  const int64_t vecs = (plan.embedding_dim + kLanes<float> - 1) / kLanes<float>;
  const auto* coefficients = reinterpret_cast<const BFloat16Pair*>(block.panel);
  const auto* rows = static_cast<const BFloat16Pair*>(plan.pairs.rows) + panel * (kWidth / 2) * plan.dim_stride;
  const Factors<BFloat16Pair> factors{coefficients, kWidth / 2, 1, rows, plan.dim_stride, (count + 1) / 2};
  if (panel == 0) {
    MultiplyPairs<Write::kSet>(factors, block.count, vecs, block.grads, block.grads_stride);
  } else {
    MultiplyPairs<Write::kAdd>(factors, block.count, vecs, block.grads, block.grads_stride);
  }
}

FASTNEG_INLINE void SetHalf(BFloat16Pair* pair, int64_t half, uint32_t bits) {
  const int shift = half == 0 ? 0 : 16;
  pair->bits = (pair->bits & ~(0xffffu << shift)) | bits << shift;
}

FASTNEG_INLINE void SetCoefficient(const InBatchPlan& plan, const PairBlock& block, int64_t r, int64_t j, float value) {
  SetHalf(block.Coefficients(plan, j) + r / 2, r % 2, ToBFloat16(value));
}

FASTNEG_INLINE void ClearCoefficients(const InBatchPlan& plan, const PairBlock& block, int64_t r) {
  for (int64_t j = 0; j < plan.num_candidates; ++j) SetHalf(block.Coefficients(plan, j) + r / 2, r % 2, 0);
}

FASTNEG_INLINE void FinishInputs(const InBatchPlan& plan, const PairBlock& block) {
  for (int64_t r = 0; r < 2 * DepthOfBlock(block.count); r += 2) {
    const float* input = block.inputs + r * plan.dim_stride;
    for (int64_t d = 0; d < plan.embedding_dim; d += kLanes<float>) {
      const Vec<float> first = r < block.count ? Load(input + d) : Zero<float>();
      const Vec<float> second = r + 1 < block.count ? Load(input + plan.dim_stride + d) : Zero<float>();
      StorePairs(block.scaled + r / 2 * plan.dim_stride + d, Interleaved(ToBFloat16(first), ToBFloat16(second)));
    }
  }
}

inline void ScorePairBlock(void* context, int64_t index) {
  const MatrixRegisters registers;
  ScoreInBatchBlock<PairBlock>(context, index);
}

// As InBatchCandidateGrads.
inline void PairCandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const MatrixRegisters registers;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<float>;
  const PanelOfRound part(plan, index);
  const int64_t left = plan.num_candidates - part.panel * kWidth, count = left < kWidth ? left : kWidth;
  const int64_t vecs = (plan.embedding_dim + kLanes<float> - 1) / kLanes<float>;
  float* grads = static_cast<float*>(plan.grad_rows) + part.panel * kWidth * plan.grad_stride;
  for (int64_t b = part.begin; b < part.end; ++b) {
    const PairBlock block(plan, b);
    const Factors<BFloat16Pair> factors{block.Coefficients(plan, part.panel * kWidth),
                                        plan.pairs.block_pairs,
                                        1,
                                        block.scaled,
                                        plan.dim_stride,
                                        DepthOfBlock(block.count)};
    if (b == 0) {
      MultiplyPairs<Write::kSet>(factors, count, vecs, grads, plan.grad_stride);
    } else {
      MultiplyPairs<Write::kAdd>(factors, count, vecs, grads, plan.grad_stride);
    }
  }
}

// A vector of pairs from a row's dimension `d` on, zeros behind its end; null is a row of zeros.
FASTNEG_INLINE Vec<float> LoadRowPairs(const BFloat16* row, int64_t d, int64_t dim) {
  PairVec pairs{};
  if (row != nullptr && d < dim) {
    const int64_t left = dim - d < 2 * kLanes<float> ? dim - d : 2 * kLanes<float>;
    __builtin_memcpy(&pairs, row + d, static_cast<size_t>(left) * sizeof(BFloat16));
  }
  return reinterpret_cast<Vec<float>>(pairs);
}

// Candidates as rows in float, and as pairs in the two layouts that the products take.
inline void PackPairs(void* context, int64_t panel) {
  PackInBatch<float, /*kColumns=*/false>(context, panel);
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<float>, kTile = kWidthOfTile<float>;
  const int64_t first = panel * kWidth, dim = plan.embedding_dim, num_pairs = DepthOfScores(plan);
  const auto source = [&](int64_t j) FASTNEG_LAMBDA_INLINE {
    const auto* rows = static_cast<const BFloat16*>(plan.candidates);
    return j < plan.num_candidates && IsUsed(plan, j) ? rows + j * plan.candidate_stride : nullptr;
  };
  auto* columns = static_cast<BFloat16Pair*>(plan.panels) + panel * num_pairs * kWidth;
  for (int64_t group = 0; group < kWidth; group += kLanes<float>) {
    BFloat16Pair* tile = columns + group / kTile * num_pairs * kTile + group % kTile;
    for (int64_t p = 0; p < num_pairs; p += kLanes<float>) {
      Vec<float> square[kLanes<float>];
      for (int64_t l = 0; l < kLanes<float>; ++l) square[l] = LoadRowPairs(source(first + group + l), 2 * p, dim);
      Transpose<float>(square);
      for (int64_t l = 0; l < kLanes<float> && p + l < num_pairs; ++l) {
        StorePairs(tile + (p + l) * kTile, reinterpret_cast<PairVec>(square[l]));
      }
    }
  }
  if (plan.pairs.rows == nullptr) return;
  auto* rows = static_cast<BFloat16Pair*>(plan.pairs.rows) + first / 2 * plan.dim_stride;
  for (int64_t s = 0; s < kWidth; s += 2) {
    const BFloat16 *even = source(first + s), *odd = source(first + s + 1);
    ForChunks<float>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const HalfBits low = even == nullptr ? HalfBits{} : LoadHalfBits(even + d, valid);
      const HalfBits high = odd == nullptr ? HalfBits{} : LoadHalfBits(odd + d, valid);
      StorePairs(rows + s / 2 * plan.dim_stride + d, Interleaved(low, high));
    });
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_PAIRS_H_
