// Softmax over given scores for rows that fit a vector: several rows share it.
//
// A row takes kWidth lanes, the smallest power of two that holds its negatives; kLanes rows are a block of kWidth
// vectors, whose sums come out of one transposing reduction.
#ifndef FASTNEG_CORE_CPU_SV_SOFTMAX_SHORT_ROWS_H_
#define FASTNEG_CORE_CPU_SV_SOFTMAX_SHORT_ROWS_H_

#include "core/cpu/sv_softmax_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T, SvSoftmaxWants kWants, int kWidth>
class ShortRows {
 public:
  explicit ShortRows(const SvSoftmaxPlan& plan) : plan_(plan), finish_(plan), params_(plan), k_(plan.num_negatives) {
    using Int = typename Simd<T>::Int;
    for (int l = 0; l < kL; ++l) {
      const int row = l / kWidth, column = l % kWidth;
      in_use_[l] = column < k_ ? -1 : 0;
      spread_[l] = static_cast<Int>(column < k_ ? row * k_ + column : 0);
      pack_[l] = static_cast<Int>(l < kRows * k_ ? l / k_ * kWidth + l % k_ : 0);
      owner_[l] = static_cast<Int>(row);
      // Lane row * kWidth + v of the reduction holds the sum of that row of vector v.
      natural_[l] = static_cast<Int>(l % kRows * kWidth + l / kRows);
    }
  }

  __attribute__((noinline)) void RunBlock(int64_t begin, int64_t end, double* sums) {
    BlockSums<T> block;
    for (int64_t first = begin; first < end; first += kL) {
      const int64_t count = end - first < kL ? end - first : kL;
      T* grad = plan_.grad_neg == nullptr ? nullptr : static_cast<T*>(plan_.grad_neg) + first * k_;
      const T* pos = static_cast<const T*>(plan_.pos_score) + first;
      const T* neg = static_cast<const T*>(plan_.neg_scores) + first * k_;
      T* out = grad;
      if (count < kL || IsHalf()) {
        WidenRange(plan_.dtype, plan_.pos_score, first, count, kL, pos_copy_);
        WidenRange(plan_.dtype, plan_.neg_scores, first * k_, count * k_, kL * k_, neg_copy_);
        pos = pos_copy_;
        neg = neg_copy_;
        if (count < kL && grad != nullptr) out = neg_copy_;
      }
      RunGroup(first, count, pos, neg, out, &block);
      if (out == grad) continue;
      for (int64_t e = 0; e < count * k_; ++e) grad[e] = out[e];
    }
    block.Store(plan_.inverse_count, sums);
  }

 private:
  static constexpr int kL = kLanes<T>;
  static constexpr int kRows = kL / kWidth;  // In a vector.
  static constexpr bool kGrads = kWants != SvSoftmaxWants::kLoss;
  static constexpr bool kScalars = kWants == SvSoftmaxWants::kGradsAndScalars;

  FASTNEG_INLINE bool IsHalf() const { return plan_.dtype == DType::kFloat16 || plan_.dtype == DType::kBFloat16; }

  // One lane per row to one per element of vector v.
  FASTNEG_INLINE Vec<T> PerElement(Vec<T> rows, int v) const {
    return kWidth == 1 ? rows : Lanes<T>(rows, rows, owner_ + static_cast<typename Simd<T>::Int>(v * kRows));
  }

  template <int kStep = 1>
  static FASTNEG_INLINE Vec<T> SumsByRow(Vec<T>* v) {
    if constexpr (kStep >= kWidth) {
      return v[0];
    } else {
      for (int l = 0; l < kWidth; l += 2 * kStep) v[l] = MergePairSums<T, kStep>(v[l], v[l + kStep]);
      return SumsByRow<2 * kStep>(v);
    }
  }
  FASTNEG_INLINE Vec<T> RowTotals(Vec<T>* v) const {
    const Vec<T> sums = SumsByRow(v);
    return kWidth == 1 || kWidth == kL ? sums : Lanes<T>(sums, sums, natural_);
  }

  // kLanes rows, of which `count` exist. `grad` may be `neg`.
  FASTNEG_INLINE void RunGroup(int64_t first, int64_t count, const T* pos, const T* neg, T* grad, BlockSums<T>* block) {
    Vec<T> sums[kWidth], waiting[kWidth], scores[kWidth], hard[kWidth];
    RowSums<T> rows;
    rows.positive = Load(pos) - params_.sv.margin;
    rows.shift = Zero<T>();
    for (bool shifted = false;; shifted = true) {
      const Vec<T> highest = Score(rows, neg, shifted, sums, waiting, scores, hard);
      if (shifted || __builtin_expect(!Any<T>(highest > T(kHighestExponent)), 1)) break;
      rows.shift = Shifts(rows, neg);
    }
    rows.negatives = RowTotals(sums);
    if constexpr (kScalars) {
      rows.scores = RowTotals(scores);
      rows.hard = RowTotals(hard);
    }
    const GradFactors<T> factors = finish_.Finish(first, count, rows, block);
    if constexpr (kGrads) {
      if (grad == nullptr) return;
      Mask<T> counts{};
      for (int l = 0; l < kL; ++l) counts[l] = -1;
      if (plan_.weights != nullptr) {
        for (int64_t l = 0; l < count; ++l) counts[l] = finish_.Counts(first + l) ? -1 : 0;
      }
      const bool all_count = !Any<T>(~counts);
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) {
        Vec<T> value = waiting[v] * PerElement(factors.inverse, v) * PerElement(factors.factor, v);
        if (!all_count) value = Bits<T>(PerElement(FromBits<T>(counts), v)) ? value : Zero<T>();
        T* out = grad + v * kRows * k_;
        if (k_ == kWidth) {
          Store(out, value);
        } else {
          StorePartial(out, Lanes<T>(value, value, pack_), kRows * k_);
        }
      }
    }
  }

  FASTNEG_INLINE Contest<T> Compare(const RowSums<T>& rows, const T* neg, int v) const {
    const T* from = neg + v * kRows * k_;
    if (k_ == kWidth) return Compete<T>(PerElement(rows.positive, v), Load(from), params_);
    const Vec<T> packed = LoadPartial(from, kRows * k_);
    Contest<T> contest = Compete<T>(PerElement(rows.positive, v), Lanes<T>(packed, packed, spread_), params_);
    contest.exponent = in_use_ ? contest.exponent : NoExponent<T>();
    contest.lead = in_use_ ? contest.lead : Zero<T>();
    contest.hard &= in_use_;
    return contest;
  }

  // Fills sums and what waits for them; returns the largest exponents.
  FASTNEG_INLINE Vec<T> Score(const RowSums<T>& rows, const T* neg, bool shifted, Vec<T>* sums, Vec<T>* waiting,
                              Vec<T>* scores, Vec<T>* hard) const {
    Vec<T> highest = Zero<T>();
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Contest<T> contest = Compare(rows, neg, v);
      highest = contest.exponent > highest ? contest.exponent : highest;
      Vec<T> exponent = contest.exponent;
      if (__builtin_expect(shifted, 0)) exponent = Shifted<T>(exponent, PerElement(rows.shift, v));
      const Vec<T> e = Exp2<T>(exponent);
      sums[v] = e;
      if constexpr (kGrads) waiting[v] = contest.hard ? e * params_.sv.t : e;
      if constexpr (kScalars) {
        scores[v] = e * contest.lead;
        hard[v] = contest.hard ? e * (contest.negative + T(1)) : Zero<T>();
      }
    }
    return highest;
  }

  // The largest exponent of each row where that is far above the positive's, else 0.
  __attribute__((noinline)) Vec<T> Shifts(const RowSums<T>& rows, const T* neg) const {
    T shift[kL] = {};
#pragma GCC unroll 1
    for (int v = 0; v < kWidth; ++v) {
      T exponents[kL];
      Store(exponents, Compare(rows, neg, v).exponent);
#pragma GCC unroll 1
      for (int l = 0; l < kL; ++l) {
        T& row = shift[v * kRows + l / kWidth];
        row = exponents[l] > row ? exponents[l] : row;
      }
    }
    const Vec<T> highest = Load(shift);
    return highest > T(kHighestExponent) ? highest : Zero<T>();
  }

  const SvSoftmaxPlan& plan_;
  const RowFinish<T, kWants> finish_;
  const ScoredParams<T> params_;
  const int64_t k_;
  // Lanes of a vector of elements: whether there is one, and where it lies in memory; and the way back.
  Mask<T> in_use_, spread_, pack_;
  Mask<T> owner_;    // Row of each element.
  Mask<T> natural_;  // Undoes the order in which SumsByRow leaves the rows.
  T pos_copy_[kL], neg_copy_[kL * kWidth];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SV_SOFTMAX_SHORT_ROWS_H_
