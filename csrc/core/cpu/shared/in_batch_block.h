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
  using Compute = T;
  static constexpr bool kHasAllOptions = true;  // Of those that need no second sweep.

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
  Vec<T> zero_if_finite = Zero<T>();
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
        ForChunks<T>(dim, [&](int64_t d, int64_t) FASTNEG_LAMBDA_INLINE {
          const Vec<T> x = Load(copy + d) * scale;
          zero_if_finite += T(0) * x;
          Store(copy + d, x);
        });
      }
    }
  });
  plan.block_is_finite[block->index] = !Any<T>(zero_if_finite != T(0));
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

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_
