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
// [u0 - h, u0 + h]. f's nearest singularity is +-i pi, so that the polynomial's error falls with each degree by 12.6
// for h = 1/2, which float64 results are computed with, and by 6.4 for h = 1, which leaves a quarter of the pairs of
// boxes. Measured, relative to f: at most 1.1e-14 for h = 1/2, and 4.4e-13 for h = 1
// (tests/core/pairwise_series_test.cc).
#ifndef FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_
#define FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_

#include <cstdint>

namespace fastneg::cpu {

constexpr int kSeriesTerms = 16;

// There are series for distances of centres from -88 to 40. Left of that f counts as 0 (it is below e^-87), right of it
// softplus(u) is u and sigmoid(u) is 1, both to within e^-40.
constexpr int kLowestDistance = -88;
constexpr int kHighestDistance = 40;

// g_0 .. g_15, then 16 zeros, so that every window of 16 can be read.
struct Series {
  double coefficients[2 * kSeriesTerms];
};

struct PairwiseSeries {
  static constexpr int kMaxDistances = 2 * (kHighestDistance - kLowestDistance) + 1;

  double box_width;                       // h: 1/2 or 1.
  int64_t first_distance, last_distance;  // In boxes.
  Series softplus[kMaxDistances];         // By distance - first_distance.
  Series sigmoid[kMaxDistances];
  double inverse_factorials[kSeriesTerms];

  int64_t num_distances() const { return last_distance - first_distance + 1; }
};

// The series for float64 results or for float32 ones. Computed once, by the first caller.
const PairwiseSeries& GetPairwiseSeries(bool is_double);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_SERIES_H_
