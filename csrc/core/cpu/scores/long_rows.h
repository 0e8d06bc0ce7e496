// Softmax over given scores for rows of many negatives: one row after the other, finished several at a time.
//
// The scores are read from memory once and their gradients written once: a group of rows that fits the first-level
// cache is looked through for its largest scores, then exponentiated into a buffer there, and scaled on the way out.
#ifndef FASTNEG_CORE_CPU_SCORES_LONG_ROWS_H_
#define FASTNEG_CORE_CPU_SCORES_LONG_ROWS_H_

#include "core/cpu/scores/rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// What a call wants. Scalars: of smooth, margin and t.
enum class SvSoftmaxWants { kLoss, kGrads, kGradsAndScalars };

template <typename T, typename Storage, SvSoftmaxWants kWants>
class LongRows {
 public:
  explicit LongRows(const SvSoftmaxPlan& plan)
      : finish_(plan),
        params_(plan),
        k_(plan.num_negatives),
        pos_(static_cast<const Storage*>(plan.pos_score)),
        neg_(static_cast<const Storage*>(plan.neg_scores)),
        narrow_(sizeof(Storage) < sizeof(T) && plan.narrow_grads),
        grad_(plan.grad_neg),
        buffered_(k_ <= kRoom),
        group_(k_ <= kBuffer / kL ? kL
               : k_ <= kBuffer    ? kBuffer / k_
                                  : 1) {}

  FASTNEG_NOINLINE void RunBlock(int64_t begin, int64_t end, double scale, double* sums) {
    BlockSums<T> block;
    for (int64_t first = begin; first < end; first += group_) {
      RunGroup(first, first + group_ < end ? group_ : end - first, &block);
    }
    block.Store(scale, sums);
  }

 private:
  static constexpr int kL = kLanes<T>;
  static constexpr int64_t kBuffer = 4096;  // Elements of a group of rows.
  // The same of a single row. Where gradients are narrow, nothing else has room for its exponentials.
  static constexpr int64_t kRoom = sizeof(Storage) < sizeof(T) ? 4 * kBuffer : kBuffer;
  static constexpr int64_t kSegment = 64;  // Vectors that are summed before they are added to the row's sum.
  static constexpr bool kGrads = kWants != SvSoftmaxWants::kLoss;
  static constexpr bool kScalars = kWants == SvSoftmaxWants::kGradsAndScalars;

  // The sums of one row, lane by lane.
  struct LaneSums {
    Vec<T> negatives, leads, hard;
  };

  FASTNEG_NOINLINE void RunGroup(int64_t first, int64_t count, BlockSums<T>* block) {
    Vec<T> negatives[kL], leads[kL], hard[kL];
    T positive[kL], reference[kL];
#pragma GCC unroll 1
    for (int64_t r = 0; r < kL; ++r) {
      positive[r] = reference[r] = 0;
      if (r >= count || !finish_.IsRead(first + r)) continue;
      positive[r] = Widen(pos_[first + r]) - params_.sv.margin;
      reference[r] = Reference(neg_ + (first + r) * k_, positive[r]);
    }
#pragma GCC unroll 1
    for (int64_t r = 0; r < kL; ++r) {
      LaneSums sums{};
      if (r < count && finish_.IsRead(first + r)) {
        sums = Sweep(first + r, positive[r], reference[r], Waiting(first, r));
      }
      negatives[r] = sums.negatives;
      if constexpr (kScalars) {
        leads[r] = sums.leads;
        hard[r] = sums.hard;
      }
    }
    RowSums<T> rows;
    rows.positive = Load(positive);
    rows.reference = Load(reference);
    rows.negatives = TransposedSums<T>(negatives);
    if constexpr (kScalars) {
      rows.leads = TransposedSums<T>(leads);
      rows.hard = TransposedSums<T>(hard);
    }
    const Vec<T> scales = finish_.CallFinish(first, count, rows, block);
    if constexpr (kGrads) {
      T scale[kL];
      Store(scale, scales);
      for (int64_t r = 0; r < count; ++r) {
        if (!narrow_) {
          WriteGrad(static_cast<T*>(grad_), first + r, scale[r], Waiting(first, r));
        } else if (buffered_) {
          WriteGrad(static_cast<Storage*>(grad_), first + r, scale[r], Waiting(first, r));
        } else {
          WriteGradAgain(first + r, scale[r], positive[r], reference[r]);
        }
      }
    }
  }

  // Where row r of a group keeps its exponentials; null where it does not.
  FASTNEG_INLINE T* Waiting(int64_t first, int64_t r) {
    if (!kGrads) return nullptr;
    if (buffered_) return buffer_ + r * k_;
    return narrow_ ? nullptr : static_cast<T*>(grad_) + (first + r) * k_;
  }

  // The score of the row's largest logit, or one that is close enough.
  FASTNEG_INLINE T Reference(const Storage* row, T positive) const {
    if (!params_.largest_decides) return SearchReference(row, positive);
    Vec<T> a = MinusInfinity<T>(), b = a, c = a, d = a;
    int64_t k = 0;
    for (; k + 4 * kL <= k_; k += 4 * kL) {
      a = Greater<T>(LoadWidened<T>(row + k, kL), a);
      b = Greater<T>(LoadWidened<T>(row + k + kL, kL), b);
      c = Greater<T>(LoadWidened<T>(row + k + 2 * kL, kL), c);
      d = Greater<T>(LoadWidened<T>(row + k + 3 * kL, kL), d);
    }
    for (; k < k_; k += kL) {
      const int64_t valid = k_ - k < kL ? k_ - k : kL;
      a = Greater<T>(OnlyValid(LoadWidened<T>(row + k, valid), valid), a);
    }
    const T largest = LargestLane<T>(Greater<T>(Greater<T>(a, b), Greater<T>(c, d)));
    const T score = Reweight<T>(Broadcast(positive), Broadcast(largest), params_).score[0];
    return score > positive ? score : positive;
  }

  // Whatever the parameters are: looks at every re-weighted score.
  FASTNEG_NOINLINE T SearchReference(const Storage* row, T positive) const {
    const T sign = params_.exponent_scale < 0 ? T(-1) : T(1);
    Vec<T> largest = MinusInfinity<T>();
    ForChunks<T>(k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> score = Reweight<T>(Broadcast(positive), LoadWidened<T>(row + k, valid), params_).score;
      largest = Greater<T>(OnlyValid(sign * score, valid), largest);
    });
    const T score = sign * LargestLane<T>(largest);
    return sign * score > sign * positive ? score : positive;
  }

  static FASTNEG_INLINE Vec<T> OnlyValid(Vec<T> v, int64_t valid) {
    if (valid == kL) return v;
    return InUse(valid) ? v : MinusInfinity<T>();
  }

  static FASTNEG_INLINE Mask<T> InUse(int64_t valid) {
    Mask<T> in_use{};
    for (int l = 0; l < kL; ++l) in_use[l] = l < valid ? -1 : 0;
    return in_use;
  }

  // `waiting`, if not null, gets the exponentials, t times those of hard negatives.
  FASTNEG_NOINLINE LaneSums Sweep(int64_t i, T positive, T reference, T* waiting) const {
    LaneSums sums{};
    const ScoredParams<T> params = params_;  // A copy, which what is written cannot change.
    const Storage* const row = neg_ + i * k_;
    // While this row is computed, the row that takes its place in the next group comes in, and the lines that will get
    // its gradient. (Addresses only: nothing is read behind the last row.)
    const uintptr_t next =
        reinterpret_cast<uintptr_t>(row) + static_cast<size_t>(buffered_ ? group_ * k_ : 0) * sizeof(Storage);
    const size_t grad_bytes = narrow_ ? sizeof(Storage) : sizeof(T);
    const uintptr_t out = reinterpret_cast<uintptr_t>(grad_) + static_cast<size_t>(i * k_) * grad_bytes;
    const auto add = [&](int64_t k, int64_t valid, LaneSums* part) FASTNEG_LAMBDA_INLINE {
      __builtin_prefetch(reinterpret_cast<const void*>(next + static_cast<size_t>(k) * sizeof(Storage)));
      if constexpr (kGrads)
        __builtin_prefetch(reinterpret_cast<const void*>(out + static_cast<size_t>(k) * grad_bytes), 1);
      const Vec<T> negative = LoadWidened<T>(row + k, valid);
      const Reweighted<T> reweighted = Reweight<T>(Broadcast(positive), negative, params);
      const Vec<T> lead = reweighted.score - reference;
      Vec<T> e = Exp2<T>(params.exponent_scale * lead);
      if (valid < kL) e = InUse(valid) ? e : Zero<T>();
      part->negatives += e;
      if constexpr (kScalars) {
        part->leads += e * FiniteLead<T>(lead);
        part->hard += e * (reweighted.hard ? negative + T(1) : Zero<T>());
      }
      if constexpr (kGrads) {
        if (waiting != nullptr) StoreValid(waiting + k, reweighted.hard ? e * params.sv.t : e, valid);
      }
    };
    const int64_t size = k_;
    int64_t k = 0;
    while (k + kL <= size) {
      LaneSums part{};
      const int64_t end = k + kSegment * kL < size ? k + kSegment * kL : size;
      for (; k + kL <= end; k += kL) add(k, kL, &part);
      sums.negatives += part.negatives;
      if constexpr (kScalars) {
        sums.leads += part.leads;
        sums.hard += part.hard;
      }
    }
    if (k < size) add(k, size - k, &sums);
    return sums;
  }

  template <typename Grad>
  FASTNEG_INLINE void WriteGrad(Grad* grad, int64_t i, T scale, const T* waiting) {
    Grad* out = grad + i * k_;
    if (finish_.Counts(i)) {
      ForChunks<T>(k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE {
        StoreNarrowed<T>(out + k, LoadValid(waiting + k, valid) * scale, valid);
      });
    } else {
      ForChunks<T>(
          k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE { StoreNarrowed<T>(out + k, Zero<T>(), valid); });
    }
  }

  // Of a row whose exponentials had no room to wait in.
  FASTNEG_NOINLINE void WriteGradAgain(int64_t i, T scale, T positive, T reference) {
    Storage* out = static_cast<Storage*>(grad_) + i * k_;
    const bool counts = finish_.Counts(i);
    const Storage* const row = neg_ + i * k_;
    const ScoredParams<T> params = params_;
    ForChunks<T>(k_, [&](int64_t k, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Reweighted<T> reweighted = Reweight<T>(Broadcast(positive), LoadWidened<T>(row + k, valid), params);
      const Vec<T> e = Exp2<T>(params.exponent_scale * (reweighted.score - reference));
      const Vec<T> value = (reweighted.hard ? e * params.sv.t : e) * scale;
      StoreNarrowed<T>(out + k, counts ? value : Zero<T>(), valid);
    });
  }

  const RowFinish<T> finish_;
  const ScoredParams<T> params_;
  const int64_t k_;
  const Storage* const pos_;
  const Storage* const neg_;
  const bool narrow_;  // Whether gradients are of type Storage.
  void* const grad_;
  const bool buffered_;  // Else exponentials wait where their gradients will be, if these are of type T.
  const int64_t group_;  // Rows that are finished together.
  alignas(64) T buffer_[kGrads ? kRoom : 1];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SCORES_LONG_ROWS_H_
