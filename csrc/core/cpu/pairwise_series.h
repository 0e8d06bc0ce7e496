// softplus and sigmoid as short power series around points of a grid.
//
// This is what makes the sum over all pairs cost time in proportion to the rows. Let rows lie in boxes of width h on
// the line of logits, and let row j be s_j right of the centre of its box, row i be t_i right of that of its own. Then
// u = u0 + s_j - t_i with u0 the distance of the centres, and with the series f(u0 + d) = sum_n g_n d^n / n!
//
//   sum_j f(u0 + s_j - t_i) = sum_r (-t_i)^r / r!  sum_q g_{q+r} M_q,    M_q = sum_j s_j^q / q!
//
// So a box needs 16 moments of its rows, two boxes one product of a 16 x 16 Hankel matrix, and a row one polynomial.
//
// The coefficients are those of the polynomial of degree 15 that agrees with f in the Chebyshev points of
// [u0 - h, u0 + h]. f's nearest singularity is +-i pi: with h = 1/2 the polynomial's error falls by 12.6 with each
// degree and ends at 1e-17 of f there, below the rounding of the sums. Measured: at most 4e-15 of f for every box
// (tests/core).
#ifndef FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_
#define FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_

#include <cstdint>

namespace fastneg::cpu {

constexpr int kSeriesTerms = 16;
constexpr double kBoxWidth = 0.5;

// Distances of centres, in boxes, for which there is a series. Left of them f counts as 0 (it is below e^-87), right of
// them softplus(u) is u and sigmoid(u) is 1, both to within e^-40.
constexpr int kFirstDistance = -176;
constexpr int kLastDistance = 80;
constexpr int kNumDistances = kLastDistance - kFirstDistance + 1;

// g_0 .. g_15, then 16 zeros, so that every window of 16 can be read.
struct Series {
  double coefficients[2 * kSeriesTerms];
};

struct PairwiseSeries {
  Series softplus[kNumDistances];
  Series sigmoid[kNumDistances];
  double inverse_factorials[kSeriesTerms];
};

// Computed once, by the first caller.
const PairwiseSeries& GetPairwiseSeries();

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_
