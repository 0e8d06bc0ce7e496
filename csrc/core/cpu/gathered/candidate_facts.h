// What may be known of candidates beyond their rows: how likely they are to be drawn, and their ids.
#ifndef FASTNEG_CORE_CPU_GATHERED_CANDIDATE_FACTS_H_
#define FASTNEG_CORE_CPU_GATHERED_CANDIDATE_FACTS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
class CandidateFacts {
 public:
  explicit CandidateFacts(const GatheredPlan& plan)
      : neg_log_prob_(static_cast<const T*>(plan.neg_log_prob)), ids_(plan.candidate_ids) {}

  bool any() const { return neg_log_prob_ != nullptr || ids_ != nullptr; }

  bool has_ids() const { return ids_ != nullptr; }

  // Whether candidate j of row i has the id of its row: an accidental hit. Only with ids.
  bool IsHit(int64_t i, int64_t j) const { return ids_[j] == ids_[i]; }

  // -log q of item j; 0 without correction.
  T NegLogProb(int64_t j) const { return neg_log_prob_ == nullptr ? T(0) : neg_log_prob_[j]; }

  // The same of kLanes items.
  FASTNEG_INLINE Vec<T> GatherNegLogProb(const int64_t* items) const {
    Vec<T> result = Zero<T>();
    if (neg_log_prob_ != nullptr) {
      T lanes[kL];
      for (int l = 0; l < kL; ++l) lanes[l] = neg_log_prob_[items[l]];
      result = Load(lanes);
    }
    return result;
  }

  // Lanes whose candidate has the id of its row: accidental hits.
  FASTNEG_INLINE Mask<T> Hits(const int64_t* rows, const int64_t* items) const {
    Mask<T> mask{};
    if (ids_ != nullptr) {
      typename Simd<T>::Int lanes[kL];
      for (int l = 0; l < kL; ++l) lanes[l] = ids_[items[l]] == ids_[rows[l]] ? -1 : 0;
      __builtin_memcpy(&mask, lanes, sizeof(mask));
    }
    return mask;
  }

 private:
  static constexpr int kL = kLanes<T>;

  const T* neg_log_prob_;
  const int64_t* ids_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_CANDIDATE_FACTS_H_
