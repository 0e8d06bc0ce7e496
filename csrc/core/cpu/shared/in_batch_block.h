// A block of queries of the in-batch loss: prepared rows, logits of their positives, and their scores panel by panel.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_

#include "core/cpu/shared/in_batch_candidates.h"
#include "core/cpu/shared/in_batch_plan.h"
#include "core/cpu/shared/panels.h"
#include "core/cpu/shared/plan.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
struct InBatchBlock {
  int64_t index = 0;
  int64_t first = 0;  // Row of the batch.
  int64_t count = 0;
  int64_t slot = 0;
  T *exponentials, *inputs, *grads;  // In the workspace.

  // By row; 0 behind the last.
  int32_t positive[kMaxBlockRows];
  T inverse[kMaxBlockRows];     // 1 / norm, negative where it was clipped; 1 where not normalised.
  T own[kMaxBlockRows];         // z of the positive.
  T own_logit[kMaxBlockRows];   // With its correction.
  T correction[kMaxBlockRows];  // What every negative's logit has besides its offset.
  T reference[kMaxBlockRows];   // Subtracted from logits before exp.

  explicit InBatchBlock(const InBatchPlan& plan, int64_t block) : index(block) {
    slot = block % plan.blocks_per_round;
    first = block * plan.block_rows;
    count = plan.batch_size - first < plan.block_rows ? plan.batch_size - first : plan.block_rows;
    panel_stride_ = plan.keeps_panels ? plan.block_rows * kWidthOfPanel<T> : 0;
    const int64_t panels = plan.keeps_panels ? plan.num_panels : 1;
    exponentials = static_cast<T*>(plan.exponentials) + slot * panels * plan.block_rows * kWidthOfPanel<T>;
    inputs = static_cast<T*>(plan.block_inputs) + slot * plan.block_rows * plan.dim_stride;
    grads = static_cast<T*>(plan.block_grads) + slot * plan.block_rows * plan.dim_stride;
  }

  T* Panel(int64_t panel) const { return exponentials + panel * panel_stride_; }

  // Candidates that are left out of the next panels, row by row, ascending.
  void ResetExclusions(const InBatchPlan& plan) {
    for (int64_t r = 0; r < count; ++r) {
      next_[r] = positive + r;
      end_[r] = positive + r + 1;
      if (plan.same_ids.group_of == nullptr) continue;
      const int32_t group = plan.same_ids.group_of[positive[r]];
      next_[r] = plan.same_ids.members + plan.same_ids.begin[group];
      end_[r] = plan.same_ids.members + plan.same_ids.begin[group + 1];
    }
  }

  // Sets the scores of what is no negative to -inf. Panels come in order.
  FASTNEG_INLINE void Exclude(const InBatchPlan& plan, int64_t panel) {
    constexpr int64_t kWidth = kWidthOfPanel<T>;
    T* scores = Panel(panel);
    const int64_t begin = panel * kWidth, end = begin + kWidth;
    for (int64_t r = 0; r < count; ++r) {
      for (; next_[r] < end_[r] && *next_[r] < end; ++next_[r]) {
        scores[r * kWidth + *next_[r] - begin] = -T(__builtin_huge_val());
      }
    }
    if (plan.score_mask != nullptr) ApplyScoreMask(plan, panel);
  }

 private:
  FASTNEG_INLINE void ApplyScoreMask(const InBatchPlan& plan, int64_t panel) {
    constexpr int64_t kWidth = kWidthOfPanel<T>;
    const int64_t begin = panel * kWidth;
    const int64_t width = plan.num_candidates - begin < kWidth ? plan.num_candidates - begin : kWidth;
    using Bytes = typename Simd<T>::Bytes;
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* mask = plan.score_mask + (first + r) * plan.num_candidates + begin;
      T* scores = Panel(panel) + r * kWidth;
      for (int64_t s = 0; s < width; s += kLanes<T>) {
        Bytes bytes{};
        if (s + kLanes<T> <= width) {
          __builtin_memcpy(&bytes, mask + s, kLanes<T>);
        } else {
          for (int64_t l = 0; l < width - s; ++l) bytes[l] = mask[s + l];
        }
        const Mask<T> kept = __builtin_convertvector(bytes, Mask<T>) != 0;
        Store(scores + s, kept ? Load(scores + s) : kMinusInfinity<T>);
      }
    }
  }

  int64_t panel_stride_;
  const int32_t* next_[kMaxBlockRows];
  const int32_t* end_[kMaxBlockRows];
};

// Queries, normalised where that is asked for, over the temperature.
template <typename T>
FASTNEG_NOINLINE void LoadQueries(const InBatchPlan& plan, InBatchBlock<T>* block) {
  const int64_t dim = plan.embedding_dim;
  const T per_temperature = static_cast<T>(1.0 / plan.temperature);
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t begin = 0; begin < block->count; begin += kLanes<T>) {
      const int64_t count = block->count - begin < kLanes<T> ? block->count - begin : kLanes<T>;
      Vec<T> squares[kLanes<T>];
      for (int64_t l = 0; l < kLanes<T>; ++l) {
        squares[l] = Zero<T>();
        if (l >= count) continue;
        Storage* row = static_cast<Storage*>(plan.queries) + (block->first + begin + l) * plan.query_stride;
        T* copy = block->inputs + (begin + l) * plan.dim_stride;
        Vec<T> sum = Zero<T>();
        ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
          const Vec<T> x = LoadWidened<T>(row + d, valid);
          sum += x * x;
          Store(copy + d, x);
        });
        squares[l] = sum;
      }
      Vec<T> inverse = Broadcast(T(1));
      if (plan.normalize) inverse = InverseNorms<T>(TransposedSums<T>(squares));
      Store(block->inverse + begin, inverse);
      const Vec<T> scales = (inverse < T(0) ? -inverse : inverse) * per_temperature;
      for (int64_t l = 0; l < count; ++l) {
        T* copy = block->inputs + (begin + l) * plan.dim_stride;
        const T scale = scales[l];
        ForChunks<T>(dim, [&](int64_t d, int64_t) FASTNEG_LAMBDA_INLINE { Store(copy + d, Load(copy + d) * scale); });
      }
    }
  });
}

// The positives, their logits, and what the rows' own facts add to those of the negatives.
template <typename T>
FASTNEG_NOINLINE void LoadPositives(const InBatchPlan& plan, InBatchBlock<T>* block) {
  const T* rows = static_cast<const T*>(plan.rows);
  const T* neg_log_q = static_cast<const T*>(plan.neg_log_q);
  const Vec<T> margin = Broadcast(static_cast<T>(plan.margin / plan.temperature));
  for (int64_t begin = 0; begin < kMaxBlockRows; begin += kLanes<T>) {
    const T *queries[kLanes<T>], *candidates[kLanes<T>];
    T offsets[kLanes<T>], probability[kLanes<T>];
    for (int64_t l = 0; l < kLanes<T>; ++l) {
      const int64_t r = begin + l;
      if (r < block->count) {
        const int64_t i = block->first + r;
        block->positive[r] = static_cast<int32_t>(plan.positives == nullptr ? i : plan.positives[i]);
      } else {
        block->positive[r] = 0;
      }
      queries[l] = block->inputs + (r < block->count ? r : 0) * plan.dim_stride;
      candidates[l] = rows + block->positive[r] * plan.row_stride;
      offsets[l] = neg_log_q == nullptr ? T(0) : neg_log_q[block->positive[r]];
      probability[l] = plan.refined ? static_cast<const T*>(plan.probability)[block->positive[r]] : T(0);
    }
    Vec<T> own = Zero<T>();
    if (begin < block->count) own = PairProducts<T>(queries, candidates, plan.embedding_dim) - margin;
    Store(block->own + begin, own);
    Store(block->own_logit + begin, plan.refined ? own : own + Load(offsets));
    Store(block->reference + begin, Zero<T>());
    if (plan.refined) {
      const Vec<T> others = T(1) - ClippedProbability<T>(Load(probability));
      Store(block->correction + begin, Log<T>(ClippedProbability<T>(others)));
    } else {
      Store(block->correction + begin, Zero<T>());
    }
  }
}

// Scores of one panel over the temperature, with offsets where the plan has them there; -inf for no negatives.
template <typename T>
FASTNEG_NOINLINE void ScoreInBatch(const InBatchPlan& plan, InBatchBlock<T>* block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const T* columns = static_cast<const T*>(plan.panels) + panel * plan.embedding_dim * kWidth;
  const T* start = plan.offsets_in_scores ? static_cast<const T*>(plan.offsets) + panel * kWidth : nullptr;
  MultiplyByPanel<T>(block->inputs, plan.dim_stride, columns, plan.embedding_dim, block->count, vecs, start,
                     block->Panel(panel));
  block->Exclude(plan, panel);
}

// From scores to logits: the re-weighting, in what the temperature has divided.
template <typename T>
struct Reweighting {
  T t, hard_offset;

  explicit Reweighting(const InBatchPlan& plan)
      : t(static_cast<T>(plan.t)), hard_offset(static_cast<T>((plan.t - 1.0) / plan.temperature)) {}

  FASTNEG_INLINE Mask<T> IsHard(Vec<T> own, Vec<T> score) const { return own - score < T(0); }
  FASTNEG_INLINE Vec<T> Apply(Mask<T> hard, Vec<T> score) const { return hard ? t * score + hard_offset : score; }
};

// The query gradients of raw sums over negatives: a row's are scale * sum + positive * its positive, for its prepared
// query; then through temperature and normalisation. Also what the row adds to the gradient by the temperature but for
// the hard negatives' part. The prepared query is left scaled for the candidates' gradients.
template <typename T>
struct RowGrad {
  T scale;     // Of the sums, and of the row for the candidates.
  T positive;  // d loss / d z of the positive, as far as the sums do not have it.
};

template <typename T>
FASTNEG_INLINE T FinishQueryGrad(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t r, RowGrad<T> factors) {
  const int64_t dim = plan.embedding_dim;
  const T per_temperature = static_cast<T>(1.0 / plan.temperature);
  T* input = block.inputs + r * plan.dim_stride;
  T* grad = block.grads + r * plan.dim_stride;
  T* out = static_cast<T*>(plan.grad_queries) + (block.first + r) * dim;
  if (factors.scale == T(0) && factors.positive == T(0)) {
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      StoreValid(out + d, Zero<T>(), valid);
      Store(input + d, Zero<T>());
    });
    return T(0);
  }
  const T* own = static_cast<const T*>(plan.rows) + block.positive[r] * plan.row_stride;
  Vec<T> along = Zero<T>();
  ForChunks<T>(dim, [&](int64_t d, int64_t) FASTNEG_LAMBDA_INLINE {
    const Vec<T> g = factors.scale * Load(grad + d) + factors.positive * Load(own + d);
    along += g * Load(input + d);
    Store(grad + d, g);
  });
  const T product = Sum<T>(along);
  const T inverse = block.inverse[r];
  const T length = inverse < T(0) ? -inverse : inverse;
  const bool projects = plan.normalize && !(inverse < T(0));
  const T back = projects ? product * static_cast<T>(plan.temperature) : T(0);
  ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
    Vec<T> g = per_temperature * Load(grad + d);
    if (projects) g -= back * Load(input + d);
    StoreValid(out + d, length * g, valid);
    Store(input + d, factors.scale * Load(input + d));
  });
  return product;
}

// What the queries get of one panel's candidates, added to block.grads; set by the first panel.
template <typename T>
FASTNEG_NOINLINE void AddQueryGrads(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  const int64_t left = plan.num_candidates - panel * kWidth;
  const T* rows = static_cast<const T*>(plan.rows) + panel * kWidth * plan.row_stride;
  const Factors<T> factors{block.Panel(panel), kWidth, 1, rows, plan.row_stride, left < kWidth ? left : kWidth};
  if (panel == 0) {
    MultiplyMatrix<T, Write::kSet>(factors, block.count, vecs, block.grads, plan.dim_stride);
  } else {
    MultiplyMatrix<T, Write::kAdd>(factors, block.count, vecs, block.grads, plan.dim_stride);
  }
}

// What one panel's candidates get of a round of blocks. No two tasks write the same row.
template <typename T>
void InBatchCandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t round = index / plan.num_panels, panel = index % plan.num_panels;
  const int64_t begin = round * plan.blocks_per_round;
  const int64_t end = begin + plan.blocks_per_round < plan.num_blocks ? begin + plan.blocks_per_round : plan.num_blocks;
  const int64_t left = plan.num_candidates - panel * kWidth;
  const int64_t vecs = (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  T* grads = static_cast<T*>(plan.grad_rows) + panel * kWidth * plan.grad_stride;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t slot = b % plan.blocks_per_round, first = b * plan.block_rows;
    const int64_t rows = plan.batch_size - first < plan.block_rows ? plan.batch_size - first : plan.block_rows;
    const T* exponentials =
        static_cast<const T*>(plan.exponentials) + (slot * plan.num_panels + panel) * plan.block_rows * kWidth;
    const T* inputs = static_cast<const T*>(plan.block_inputs) + slot * plan.block_rows * plan.dim_stride;
    const Factors<T> factors{exponentials, 1, kWidth, inputs, plan.dim_stride, rows};
    const int64_t count = left < kWidth ? left : kWidth;
    if (b == 0) {
      MultiplyMatrix<T, Write::kSet>(factors, count, vecs, grads, plan.grad_stride);
    } else {
      MultiplyMatrix<T, Write::kAdd>(factors, count, vecs, grads, plan.grad_stride);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_
