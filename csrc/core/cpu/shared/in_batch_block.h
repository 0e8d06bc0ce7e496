// A block of queries of the in-batch loss: prepared rows, logits of their positives, and their scores panel by panel.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_BLOCK_H_

#include "core/cpu/shared/in_batch_candidates.h"
#include "core/cpu/shared/in_batch_plan.h"
#include "core/cpu/shared/row_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
struct InBatchBlock;
template <typename T>
FASTNEG_NOINLINE void KeepHardest(const InBatchPlan& plan, const InBatchBlock<T>& block);

template <typename T>
struct InBatchBlock : RowBlock<T> {
  static constexpr bool kHasAllOptions = true;  // Of those that need no second sweep.

  // By row; 0 behind the last.
  int32_t positive[kMaxBlockRows];
  T own[kMaxBlockRows];         // z of the positive.
  T own_logit[kMaxBlockRows];   // With its correction.
  T correction[kMaxBlockRows];  // What every negative's logit has besides its offset.

  using RowBlock<T>::RowBlock;
  using RowBlock<T>::first, RowBlock<T>::count, RowBlock<T>::Panel;

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

  // Whether only some of the negatives stay, which takes the scores of all.
  static bool Selects(const InBatchPlan& plan) { return plan.num_hard_negatives > 0; }
  void KeepSelected(const InBatchPlan& plan) const { KeepHardest(plan, *this); }

  // The largest logit of the negatives, or the positive's where it is in the softmax.
  FASTNEG_INLINE Vec<T> ReferenceOf(const InBatchPlan& plan, int64_t r, Vec<T> maximum) const {
    if (plan.positive_in_softmax) maximum = Max<T>(Load(own_logit + r), maximum);
    return maximum == kMinusInfinity<T> ? Zero<T>() : maximum;  // A row without negatives needs none.
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

  const int32_t* next_[kMaxBlockRows];
  const int32_t* end_[kMaxBlockRows];
};

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
