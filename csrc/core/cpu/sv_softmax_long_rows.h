// Softmax over given scores for rows of many negatives: one row after the other, finished several at a time.
//
// The scores are read once and their gradients written once: exponentials wait in a buffer that stays in the
// first-level cache until their row's sum is known.
#ifndef FASTNEG_CORE_CPU_SV_SOFTMAX_LONG_ROWS_H_
#define FASTNEG_CORE_CPU_SV_SOFTMAX_LONG_ROWS_H_

#include "core/cpu/sv_softmax_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T, typename Storage, SvSoftmaxWants kWants>
class LongRows {
 public:
  LongRows(const SvSoftmaxPlan& plan)
      : plan_(plan),
        finish_(plan),
        params_(plan),
        k_(plan.num_negatives),
        scores_(static_cast<const Storage*>(plan.neg_scores)),
        grad_(static_cast<T*>(plan.grad_neg)) {
    group_ = k_ > kBuffer / kL ? kBuffer / (k_ > 0 ? k_ : 1) : kL;
    buffered_ = group_ > 0;
    if (!buffered_) group_ = 1;
  }

  __attribute__((noinline)) void RunBlock(int64_t begin, int64_t end, double* sums) {
    BlockSums<T> block;
    for (int64_t first = begin; first < end; first += group_) {
      RunGroup(first, first + group_ < end ? group_ : end - first, &block);
    }
    block.Store(plan_.inverse_count, sums);
  }

 private:
  static constexpr int kL = kLanes<T>;
  static constexpr int kBuffer = 4096;     // Elements.
  static constexpr int64_t kSegment = 64;  // Vectors that are summed before they are added to the row's sum.
  static constexpr bool kGrads = kWants != SvSoftmaxWants::kLoss;
  static constexpr bool kScalars = kWants == SvSoftmaxWants::kGradsAndScalars;

  // The sums of one row, lane by lane.
  struct LaneSums {
    Vec<T> negatives, scores, hard;
  };

  __attribute__((noinline)) void RunGroup(int64_t first, int64_t count, BlockSums<T>* block) {
    Vec<T> negatives[kL], scores[kL], hard[kL];
    T positive[kL], shift[kL];
#pragma GCC unroll 1
    for (int64_t r = 0; r < kL; ++r) {
      positive[r] = shift[r] = 0;
      negatives[r] = Zero<T>();
      if constexpr (kScalars) scores[r] = hard[r] = Zero<T>();
      if (r >= count || !finish_.IsRead(first + r)) continue;
      positive[r] = Widen(static_cast<const Storage*>(plan_.pos_score)[first + r]) - params_.sv.margin;
      const LaneSums sums = SumRow(first + r, positive[r], Waiting(first, r), &shift[r]);
      negatives[r] = sums.negatives;
      if constexpr (kScalars) {
        scores[r] = sums.scores;
        hard[r] = sums.hard;
      }
    }
    RowSums<T> rows;
    rows.positive = Load(positive);
    rows.shift = Load(shift);
    rows.negatives = TransposedSums<T>(negatives);
    if constexpr (kScalars) {
      rows.scores = TransposedSums<T>(scores);
      rows.hard = TransposedSums<T>(hard);
    }
    const GradFactors<T> factors = finish_.Finish(first, count, rows, block);
    if constexpr (kGrads) {
      if (grad_ == nullptr) return;
      T inverse[kL], factor[kL];
      Store(inverse, factors.inverse);
      Store(factor, factors.factor);
      for (int64_t r = 0; r < count; ++r) {
        T* out = grad_ + (first + r) * k_;
        if (!finish_.Counts(first + r)) {
          ForChunks<T>(k_,
                       [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE { StoreValid(out + k, Zero<T>(), valid); });
          continue;
        }
        const T* from = Waiting(first, r);
        ForChunks<T>(k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE {
          StoreValid(out + k, LoadValid(from + k, valid) * inverse[r] * factor[r], valid);
        });
      }
    }
  }

  // Where row r of a group keeps its exponentials: null where they are not wanted.
  FASTNEG_INLINE T* Waiting(int64_t first, int64_t r) {
    if (!kGrads || (grad_ == nullptr && !buffered_)) return nullptr;
    return buffered_ ? buffer_ + r * k_ : grad_ + (first + r) * k_;
  }

  __attribute__((noinline)) LaneSums SumRow(int64_t i, T positive, T* waiting, T* shift) {
    const Storage* row = scores_ + i * k_;
    T highest = 0;
    LaneSums sums;
    // Exponentials that take their scores' places must be right at once.
    const bool replaces = reinterpret_cast<const void*>(row) == waiting;
    if (replaces) highest = Highest(row, positive);
    if (!(highest > T(kHighestExponent))) {
      Vec<T> largest = Zero<T>();
      sums = Sweep<false>(row, positive, T(0), waiting, &largest);
      if (replaces || __builtin_expect(!Any<T>(largest > T(kHighestExponent)), 1)) return sums;
      highest = MaxLane<T>(largest);
    }
    *shift = highest;
    return Sweep<true>(row, positive, highest, waiting, nullptr);
  }

  __attribute__((noinline)) T Highest(const Storage* row, T positive) const {
    Vec<T> largest = Zero<T>();
    const ScoredParams<T> params = params_;
    ForChunks<T>(k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> exponent = CompeteInUse(LoadWidened<T>(row + k, valid), positive, valid, params).exponent;
      largest = exponent > largest ? exponent : largest;
    });
    return MaxLane<T>(largest);
  }

  static FASTNEG_INLINE Contest<T> CompeteInUse(Vec<T> scores, T positive, int64_t valid,
                                                const ScoredParams<T>& params) {
    Contest<T> contest = Compete<T>(Broadcast(positive), scores, params);
    if (valid < kL) {
      Mask<T> in_use{};
      for (int l = 0; l < kL; ++l) in_use[l] = l < valid ? -1 : 0;
      contest.exponent = in_use ? contest.exponent : NoExponent<T>();
    }
    return contest;
  }

  // `waiting` gets the exponentials, t times those of hard negatives. `largest` (not shifted) the largest exponents.
  template <bool kShifted>
  FASTNEG_INLINE LaneSums Sweep(const Storage* row, T positive, T shift, T* waiting, Vec<T>* largest) const {
    LaneSums sums{};
    Vec<T> highest = Zero<T>();
    const ScoredParams<T> params = params_;  // A copy, which what is written cannot change.
    const auto add = [&](int64_t k, int64_t valid, LaneSums* part) FASTNEG_LAMBDA_INLINE {
      const Contest<T> contest = CompeteInUse(LoadWidened<T>(row + k, valid), positive, valid, params);
      if constexpr (!kShifted) highest = contest.exponent > highest ? contest.exponent : highest;
      const Vec<T> e = Exp2<T>(kShifted ? Shifted<T>(contest.exponent, Broadcast(shift)) : contest.exponent);
      part->negatives += e;
      if constexpr (kScalars) {
        part->scores += e * contest.lead;
        part->hard += contest.hard ? e * (contest.negative + T(1)) : Zero<T>();
      }
      if constexpr (kGrads) StoreValid(waiting + k, contest.hard ? e * params.sv.t : e, valid);
    };
    const int64_t size = k_;
    int64_t k = 0;
    while (k + kL <= size) {
      LaneSums part{};
      const int64_t end = k + kSegment * kL < size ? k + kSegment * kL : size;
      for (; k + kL <= end; k += kL) add(k, kL, &part);
      sums.negatives += part.negatives;
      if constexpr (kScalars) {
        sums.scores += part.scores;
        sums.hard += part.hard;
      }
    }
    if (k < size) add(k, size - k, &sums);
    if constexpr (!kShifted) *largest = highest;
    return sums;
  }

  const SvSoftmaxPlan& plan_;
  const RowFinish<T, kWants> finish_;
  const ScoredParams<T> params_;
  const int64_t k_;
  const Storage* scores_;
  T* grad_;
  int64_t group_;  // Rows that are finished together.
  bool buffered_;  // Else exponentials wait where their gradients will be.
  alignas(64) T buffer_[kGrads ? kBuffer : 1];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SV_SOFTMAX_LONG_ROWS_H_
