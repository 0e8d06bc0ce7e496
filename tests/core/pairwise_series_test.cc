// The series of softplus and sigmoid against the functions themselves, in long double: every distance of boxes, places
// all over both boxes, by the way that the kernels go from moments to polynomials.
#include "core/cpu/pairwise/series.h"

#include <cmath>
#include <cstdio>

#include "tests/core/check.h"

namespace fastneg::cpu {
namespace {

long double Softplus(long double u) { return u > 0 ? u + std::log1p(std::exp(-u)) : std::log1p(std::exp(u)); }
long double Sigmoid(long double u) { return 1 / (1 + std::exp(-u)); }

// sum_{q, r} g_{q + r} s^q / q! (-t)^r / r!
double Evaluate(const PairwiseSeries& all, const Series& series, double s, double t) {
  double sum = 0, power_t = 1;
  for (int r = 0; r < kSeriesTerms; ++r) {
    double inner = 0, power_s = 1;
    for (int q = 0; q < kSeriesTerms; ++q) {
      inner += series.coefficients[q + r] * power_s * all.inverse_factorials[q];
      power_s *= s;
    }
    sum += inner * power_t * all.inverse_factorials[r];
    power_t *= -t;
  }
  return sum;
}

void TestAccuracy(const PairwiseSeries& all, double bound) {
  double worst = 0;
  FASTNEG_CHECK(static_cast<double>(all.first_distance) * all.box_width == kLowestDistance);
  FASTNEG_CHECK(static_cast<double>(all.last_distance) * all.box_width == kHighestDistance);
  for (int64_t d = 0; d < all.num_distances(); ++d) {
    const double centre = all.box_width * static_cast<double>(d + all.first_distance);
    for (double s = -0.5; s <= 0.5; s += 0.125) {
      for (double t = -0.5; t <= 0.5; t += 0.125) {
        const double place_s = s * all.box_width, place_t = t * all.box_width;
        const long double u = static_cast<long double>(centre) + place_s - place_t;
        const double softplus = Evaluate(all, all.softplus[d], place_s, place_t);
        const double sigmoid = Evaluate(all, all.sigmoid[d], place_s, place_t);
        worst = std::fmax(worst, static_cast<double>(std::fabs(softplus / Softplus(u) - 1)));
        worst = std::fmax(worst, static_cast<double>(std::fabs(sigmoid / Sigmoid(u) - 1)));
      }
    }
  }
  std::printf("width %g: relative error %.2g\n", all.box_width, worst);
  std::fflush(stdout);
  FASTNEG_CHECK(worst <= bound);
}

}  // namespace
}  // namespace fastneg::cpu

int main() {
  using namespace fastneg::cpu;
  TestAccuracy(GetPairwiseSeries(true), 3e-14);
  TestAccuracy(GetPairwiseSeries(false), 1e-12);
}
