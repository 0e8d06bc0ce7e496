// First pass of the gathered losses: item rows are widened, L2-normalised and laid out for the passes that follow.
// (User rows are prepared by the second pass, tile by tile, where they are used at once.)
#ifndef FASTNEG_CORE_CPU_GATHERED_PREPARE_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_PREPARE_ROWS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// tf.nn.l2_normalize: x * rsqrt(max(sum x^2, epsilon)).
constexpr double kNormEpsilon = 1e-12;
// Probabilities are clipped below at this before their logarithm is taken.
constexpr double kLowestProbability = 1e-9;

// Rows of a [B, D] matrix on their way to prepared ones.
template <typename T>
struct RowsToPrepare {
  const int64_t* rows;  // [count]
  int64_t count;        // At most kLanes<T>.
  T* out;               // Prepared row i lies at out + i * plan.row_stride.
};

// What is known of prepared rows, in the order of RowsToPrepare::rows.
template <typename T>
struct PreparedRows {
  T inverse[kLanes<T>];  // 1 / norm; negative where epsilon took the place of the sum. 1 where not normalised.
  T norm[kLanes<T>];     // Only where not normalised.
  bool spoilt;           // A row holds NaN, or numbers whose squares overflow.
};

template <typename T, typename Storage>
void PrepareRows(const GatheredPlan& plan, const void* matrix, int64_t matrix_stride, const RowsToPrepare<T>& rows,
                 PreparedRows<T>* prepared) {
  constexpr int64_t kL = kLanes<T>;
  const Storage* source = static_cast<const Storage*>(matrix);
  const int64_t dim = plan.embedding_dim;
  const int64_t whole = dim - dim % kL;
  Vec<T> squares[kL];
  for (int64_t l = 0; l < kL; ++l) {
    squares[l] = Zero<T>();
    if (l >= rows.count) continue;
    const Storage* row = source + rows.rows[l] * matrix_stride;
    Vec<T> sum = Zero<T>();
    for (int64_t d = 0; d < whole; d += kL) {
      const Vec<T> x = LoadWidened<T>(row + d, kL);
      sum += x * x;
    }
    if (whole < dim) {
      const Vec<T> x = LoadWidened<T>(row + whole, dim - whole);
      sum += x * x;
    }
    squares[l] = sum;
  }
  Vec<T> square = TransposedSums<T>(squares);
  prepared->spoilt = Any<T>(square - square != T(0));
  T scales[kL];
  if (plan.normalise) {
    // Not `square >= epsilon`: a NaN has to reach the row, not to be clipped away.
    const auto clipped = square < T(kNormEpsilon);
    square = clipped ? Broadcast(T(kNormEpsilon)) : square;
    const Vec<T> scale = T(1) / SquareRoot<T>(square);
    Store(scales, scale);
    Store(prepared->inverse, clipped ? -scale : scale);
  } else {
    Store(scales, Broadcast(T(1)));
    Store(prepared->inverse, Broadcast(T(1)));
    Store(prepared->norm, SquareRoot<T>(square));
  }
  for (int64_t l = 0; l < rows.count; ++l) {
    const Storage* row = source + rows.rows[l] * matrix_stride;
    T* out = rows.out + rows.rows[l] * plan.row_stride;
    const Vec<T> scale = Broadcast(scales[l]);
    for (int64_t d = 0; d < whole; d += kL) StoreAligned(out + d, scale * LoadWidened<T>(row + d, kL));
    int64_t d = whole;
    if (whole < dim) {
      StoreAligned(out + whole, scale * LoadWidened<T>(row + whole, dim - whole));
      d += kL;
    }
    for (; d < plan.row_stride; d += kL) StoreAligned(out + d, Zero<T>());
  }
}

// From a gradient with respect to a normalised row v to one with respect to the row itself: (g - (g . v) v) / norm. A
// zero gradient stays zero whatever the row holds: it belongs to a row that nobody used.
//
// First Meet every vector of both, then Close, then Apply to every vector.
template <typename T>
class NormalisationGrad {
 public:
  // `inverse` as PreparedRows has it.
  explicit NormalisationGrad(T inverse) : inverse_(inverse) {}

  FASTNEG_INLINE void Meet(Vec<T> grad, Vec<T> row) {
    touched_ |= grad != T(0);
    dot_ += grad * row;
  }

  FASTNEG_INLINE void Close(bool normalise) {
    if (!normalise || !Any<T>(touched_)) return;
    projects_ = !(inverse_ < 0);
    along_ = Sum<T>(dot_);
    length_ = projects_ ? inverse_ : -inverse_;
  }

  FASTNEG_INLINE Vec<T> Apply(Vec<T> grad, Vec<T> row) const {
    return length_ * (projects_ ? grad - along_ * row : grad);
  }

  // All three for a row of kChunks vectors.
  template <int kChunks>
  FASTNEG_INLINE void Run(bool normalise, const T* row, Vec<T>* grad) {
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) Meet(grad[c], LoadAligned(row + c * kLanes<T>));
    Close(normalise);
    if (projects_) {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) grad[c] -= along_ * LoadAligned(row + c * kLanes<T>);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) grad[c] *= length_;
  }

 private:
  const T inverse_;
  bool projects_ = false;
  T length_ = 1, along_ = 0;
  Vec<T> dot_ = Zero<T>();
  Mask<T> touched_{};
};

// `grad` of a row that was normalised, in place.
template <typename T>
FASTNEG_INLINE void ThroughNormalisation(const T* row, T inverse, int64_t dim, T* grad) {
  NormalisationGrad<T> through(inverse);
  ForChunks<T>(dim, [&](int64_t d, int64_t valid)
                        FASTNEG_LAMBDA_INLINE { through.Meet(LoadValid(grad + d, valid), LoadAligned(row + d)); });
  through.Close(true);
  ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
    StoreValid(grad + d, through.Apply(LoadValid(grad + d, valid), LoadAligned(row + d)), valid);
  });
}

// For sums of rows.h that are gradients of normalised rows, when they are complete and still in registers.
template <typename T>
struct NormaliseSum {
  const T* rows;      // Prepared rows; null where there is nothing to do yet.
  const T* inverses;  // As PreparedRows has them.
  int64_t row_stride;

  template <int kChunks>
  FASTNEG_INLINE void Finish(int r, Vec<T>* sum) const {
    if (rows == nullptr) return;
    NormalisationGrad<T>(inverses[r]).template Run<kChunks>(true, rows + r * row_stride, sum);
  }
};

template <typename T>
using PrepareFunction = void (*)(const GatheredPlan&, const void*, int64_t, const RowsToPrepare<T>&, PreparedRows<T>*);

// PrepareRows for the plan's dtype.
template <typename T>
PrepareFunction<T> ChoosePrepare(const GatheredPlan& plan) {
  if constexpr (sizeof(T) == 8) {
    return PrepareRows<double, double>;
  } else {
    if (plan.dtype == DType::kFloat16) return PrepareRows<float, Float16>;
    if (plan.dtype == DType::kBFloat16) return PrepareRows<float, BFloat16>;
    return PrepareRows<float, float>;
  }
}

// A tile of item rows.
template <typename T>
void PrepareItems(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  const PrepareFunction<T> prepare = ChoosePrepare<T>(plan);
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  T* block_norms = static_cast<T*>(plan.block_norms);
  T* item_inverse = static_cast<T*>(plan.item_inverse);
  for (int64_t j = begin; j < end; j += kLanes<T>) {
    int64_t rows[kLanes<T>];
    const int64_t count = end - j < kLanes<T> ? end - j : kLanes<T>;
    for (int64_t l = 0; l < count; ++l) rows[l] = j + l;
    PreparedRows<T> prepared;
    prepare(plan, plan.item_emb, plan.item_row_stride, {rows, count, static_cast<T*>(plan.item)}, &prepared);
    for (int64_t l = 0; l < count; ++l) item_inverse[j + l] = prepared.inverse[l];
    if (plan.block_spoilt != nullptr) {
      uint8_t* spoilt = plan.block_spoilt + j / kSumRows;
      *spoilt = static_cast<uint8_t>((j % kSumRows != 0 && *spoilt != 0) || prepared.spoilt);
    }
    if (!plan.normalise) {
      T* largest = block_norms + j / kSumRows;
      if (j % kSumRows == 0) *largest = 0;
      for (int64_t l = 0; l < count; ++l) *largest = *largest >= prepared.norm[l] ? *largest : prepared.norm[l];
    }
  }
  if (plan.neg_log_prob != nullptr) {
    const T* probability = static_cast<const T*>(plan.sampling_probability);
    T* out = static_cast<T*>(plan.neg_log_prob);
    for (int64_t i = begin; i < end; i += kLanes<T>) {
      const int64_t count = end - i < kLanes<T> ? end - i : kLanes<T>;
      const Vec<T> q = LoadPartial(probability + i, count);
      const Vec<T> lowest = Broadcast(T(kLowestProbability));
      StorePartial(out + i, -Log<T>(q < lowest ? lowest : q), count);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_PREPARE_ROWS_H_
