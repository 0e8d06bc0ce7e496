#include "core/cpu/pairwise/series.h"

#include <cmath>

#include "core/losses/pairwise_logistic.h"

namespace fastneg::cpu {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Interpolation in the Chebyshev points, and the way from Chebyshev polynomials to powers.
struct Interpolation {
  double points[kSeriesTerms];
  double cosines[kSeriesTerms][kSeriesTerms];  // [k][p]: T_k(points[p])
  double powers[kSeriesTerms][kSeriesTerms];   // [k][n]: coefficient of x^n in T_k
  double scales[kSeriesTerms];                 // n! / h^n

  double width;

  explicit Interpolation(double box_width) : width(box_width) {
    for (int k = 0; k < kSeriesTerms; ++k) {
      points[k] = std::cos((k + 0.5) * kPi / kSeriesTerms);
      for (int p = 0; p < kSeriesTerms; ++p) {
        cosines[k][p] = std::cos(k * (p + 0.5) * kPi / kSeriesTerms);
        powers[k][p] = 0;
      }
      scales[k] = k == 0 ? 1.0 : scales[k - 1] * k / width;
    }
    powers[0][0] = 1;
    powers[1][1] = 1;
    for (int k = 2; k < kSeriesTerms; ++k) {
      for (int n = 0; n < kSeriesTerms; ++n) powers[k][n] = (n > 0 ? 2 * powers[k - 1][n - 1] : 0.0) - powers[k - 2][n];
    }
  }

  template <typename F>
  void Fit(F f, double centre, Series* series) const {
    double* g = series->coefficients;
    for (int n = 0; n < 2 * kSeriesTerms; ++n) g[n] = 0;
    double values[kSeriesTerms];
    for (int p = 0; p < kSeriesTerms; ++p) values[p] = f(centre + width * points[p]);
    for (int k = 0; k < kSeriesTerms; ++k) {
      double sum = 0;
      for (int p = 0; p < kSeriesTerms; ++p) sum += cosines[k][p] * values[p];
      const double coefficient = sum * (k == 0 ? 1.0 : 2.0) / kSeriesTerms;
      for (int n = 0; n <= k; ++n) g[n] += coefficient * powers[k][n];
    }
    for (int n = 0; n < kSeriesTerms; ++n) g[n] *= scales[n];
  }
};

double SoftplusAt(double u) { return Softplus(u, std::log1p(std::exp(MinusMagnitude(u)))); }
double SigmoidAt(double u) { return Sigmoid(u, std::exp(MinusMagnitude(u))); }

struct Table : PairwiseSeries {
  explicit Table(double width) {
    box_width = width;
    first_distance = static_cast<int64_t>(kLowestDistance / width);
    last_distance = static_cast<int64_t>(kHighestDistance / width);
    const Interpolation interpolation(width);
    for (int64_t d = 0; d < num_distances(); ++d) {
      const double centre = width * static_cast<double>(d + first_distance);
      interpolation.Fit(SoftplusAt, centre, softplus + d);
      interpolation.Fit(SigmoidAt, centre, sigmoid + d);
    }
    inverse_factorials[0] = 1;
    for (int n = 1; n < kSeriesTerms; ++n) inverse_factorials[n] = inverse_factorials[n - 1] / n;
  }
};

}  // namespace

const PairwiseSeries& GetPairwiseSeries(bool is_double) {
  if (is_double) {
    static const Table narrow(0.5);
    return narrow;
  }
  static const Table wide(1.0);
  return wide;
}

}  // namespace fastneg::cpu
