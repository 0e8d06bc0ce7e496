// softmax_loss_with_negative_mining and its gradients, in double and one row at a time, straight from the
// formulas in core/api.h. It shares nothing with the code under test.
#ifndef FASTNEG_TESTS_CORE_NAIVE_ROLLED_SOFTMAX_H_
#define FASTNEG_TESTS_CORE_NAIVE_ROLLED_SOFTMAX_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastneg::testing {

struct Problem {
  int64_t batch_size = 0;
  int64_t embedding_dim = 0;
  std::vector<double> user_emb, item_emb;  // [B, D], dense.
  std::vector<bool> counted;               // [B]
  std::vector<double> weights;             // [B]
  std::vector<int64_t> shifts;
  std::vector<double> sampling_probability;  // [B], or empty.
  std::vector<int64_t> candidate_ids;        // [B], or empty.
  double gamma = 1, margin = 0, t = 1;
  bool embed_normed = false;
  bool refined = false;
  bool positive_in_softmax = true;
  double negative_weight = 1;
};

struct Solution {
  double loss = 0;
  std::vector<double> grad_user, grad_item, grad_weights;
  double grad_scalars[3] = {};
};

inline double Length(const double* row, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += row[d] * row[d];
  return std::sqrt(std::max(sum, 1e-12));
}

inline std::vector<double> Normalised(const Problem& problem, const std::vector<double>& rows) {
  std::vector<double> result = rows;
  if (problem.embed_normed) return result;
  for (int64_t i = 0; i < problem.batch_size; ++i) {
    double* row = result.data() + i * problem.embedding_dim;
    const double length = Length(row, problem.embedding_dim);
    for (int64_t d = 0; d < problem.embedding_dim; ++d) row[d] /= length;
  }
  return result;
}

// From the gradient of normalised rows to that of the rows themselves. Where the length is clipped, it is a
// constant.
inline void DifferentiateNormalisation(const Problem& problem, const std::vector<double>& rows,
                                       const std::vector<double>& unit, std::vector<double>* grad) {
  if (problem.embed_normed) return;
  const int64_t dim = problem.embedding_dim;
  for (int64_t i = 0; i < problem.batch_size; ++i) {
    const double length = Length(rows.data() + i * dim, dim);
    double along = 0;
    for (int64_t d = 0; d < dim; ++d) along += (*grad)[i * dim + d] * unit[i * dim + d];
    if (length <= 1e-6) along = 0;
    for (int64_t d = 0; d < dim; ++d) {
      double& value = (*grad)[i * dim + d];
      value = (value - along * unit[i * dim + d]) / length;
    }
  }
}

inline Solution Solve(const Problem& problem) {
  const int64_t batch = problem.batch_size;
  const int64_t dim = problem.embedding_dim;
  const std::vector<double> users = Normalised(problem, problem.user_emb);
  const std::vector<double> items = Normalised(problem, problem.item_emb);
  Solution solution;
  solution.grad_user.assign(static_cast<size_t>(batch * dim), 0);
  solution.grad_item.assign(static_cast<size_t>(batch * dim), 0);
  solution.grad_weights.assign(static_cast<size_t>(batch), 0);
  int64_t num_rows = 0;
  for (int64_t i = 0; i < batch; ++i) num_rows += problem.counted[i] && problem.weights[i] != 0;
  if (num_rows == 0) return solution;

  for (int64_t i = 0; i < batch; ++i) {
    if (!problem.counted[i]) continue;
    struct Candidate {
      int64_t item;
      double cosine, logit, slope, by_t;  // slope: d score / d cosine; by_t: d score / d t.
    };
    std::vector<Candidate> candidates;
    const auto add = [&](int64_t item, double positive) {
      Candidate candidate = {item, 0, 0, 1, 0};
      for (int64_t d = 0; d < dim; ++d) candidate.cosine += users[i * dim + d] * items[item * dim + d];
      double score = candidate.cosine;
      if (item == i) {
        score -= problem.margin;
      } else if (positive - candidate.cosine < 0) {
        score = problem.t * candidate.cosine + problem.t - 1;
        candidate.slope = problem.t;
        candidate.by_t = candidate.cosine + 1;
      }
      candidate.logit = problem.gamma * score;
      if (!problem.sampling_probability.empty()) {
        const auto log_at_least = [](double value) { return std::log(std::max(value, 1e-9)); };
        const double own_probability = std::max(problem.sampling_probability[i], 1e-9);
        if (!problem.refined || item != i) candidate.logit -= log_at_least(problem.sampling_probability[item]);
        if (problem.refined && item != i) candidate.logit += log_at_least(1 - own_probability);
      }
      candidates.push_back(candidate);
      return score;
    };
    std::vector<double> scores = {add(i, 0)};
    for (int64_t shift : problem.shifts) {
      const int64_t item = ((i - shift % batch) % batch + batch) % batch;
      if (!problem.candidate_ids.empty() && problem.candidate_ids[item] == problem.candidate_ids[i]) continue;
      scores.push_back(add(item, scores[0]));
    }
    const size_t first = problem.positive_in_softmax ? 0 : 1;  // Of those that are summed.
    if (first == candidates.size()) continue;
    double largest = candidates[first].logit;
    for (size_t c = first; c < candidates.size(); ++c) largest = std::max(largest, candidates[c].logit);
    double sum = 0;
    for (size_t c = first; c < candidates.size(); ++c) sum += std::exp(candidates[c].logit - largest);
    double factor = 1;
    if (problem.refined) {
      const double mean = sum / static_cast<double>(candidates.size() - 1);
      factor = 1 / (1 + std::exp(candidates[0].logit - largest) / mean);
    }
    const double row_loss = factor * (problem.negative_weight * (largest + std::log(sum)) - candidates[0].logit);
    solution.grad_weights[i] = row_loss / static_cast<double>(num_rows);
    const double weight = problem.weights[i] / static_cast<double>(num_rows);
    if (weight == 0) continue;
    solution.loss += weight * row_loss;
    for (size_t c = 0; c < candidates.size(); ++c) {
      const Candidate& candidate = candidates[c];
      const double share = c < first ? 0 : std::exp(candidate.logit - largest) / sum;
      const double by_logit = weight * factor * (problem.negative_weight * share - (c == 0));
      solution.grad_scalars[0] += by_logit * scores[c];
      if (c == 0) solution.grad_scalars[1] -= by_logit * problem.gamma;
      solution.grad_scalars[2] += by_logit * problem.gamma * candidate.by_t;
      const double by_cosine = by_logit * problem.gamma * candidate.slope;
      for (int64_t d = 0; d < dim; ++d) {
        solution.grad_user[i * dim + d] += by_cosine * items[candidate.item * dim + d];
        solution.grad_item[candidate.item * dim + d] += by_cosine * users[i * dim + d];
      }
    }
  }
  DifferentiateNormalisation(problem, problem.user_emb, users, &solution.grad_user);
  DifferentiateNormalisation(problem, problem.item_emb, items, &solution.grad_item);
  return solution;
}

}  // namespace fastneg::testing

#endif  // FASTNEG_TESTS_CORE_NAIVE_ROLLED_SOFTMAX_H_
